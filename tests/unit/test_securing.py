"""What guards a server, by its flags: nothing, files, or identities."""

from pathlib import Path

import pytest

from raftsched.cli.goflags import parse
from raftsched.config import load
from raftsched.config.flags import FLAGS
from raftsched.errors import ConfigError
from raftsched.log import LineWriter, Logs
from raftsched.securing import Security
from raftsched.security.guard import ListenerGuard
from raftsched.security.identity_guards import ApiGuard, MemberGuard
from raftsched.testing.authority import Authority
from raftsched.testing.sentry import TrustRoot

LIST = "--etcd-initial-cluster=dapr-scheduler-server-0={0}://a:1,dapr-scheduler-server-1={0}://b:1"


class Kept(LineWriter):
    def __init__(self) -> None:
        super().__init__(-1)
        self.lines: list[str] = []

    def msg(self, line: str) -> None:
        self.lines.append(line)

    debug = info = warning = error = critical = fatal = msg


@pytest.fixture
def anchors(tmp_path: Path) -> Path:
    (tmp_path / "ca.crt").write_bytes(TrustRoot().pem)
    return tmp_path / "ca.crt"


def made(*words: str) -> tuple[Security, list[str]]:
    kept = Kept()
    return Security(load(parse(words, FLAGS, {}), {}), Logs(10, False, kept, kept, "here")), kept.lines


async def test_nothing() -> None:
    found, lines = made()
    assert (found.guard, found.peers, found.checks_callers, lines) == (None, None, False, [])
    await found.start()
    await found.close()
    assert list(found.families()) == []


def test_files(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("server")
    words = [f"--scheduler-cert-file={authority.path('server.crt')}", f"--scheduler-key-file={authority.path('server.key')}"]
    found, _ = made(*words)
    assert isinstance(found.guard, ListenerGuard)
    assert (found.peers, found.checks_callers) == (None, False)
    found, _ = made(*words, f"--scheduler-trusted-ca-file={authority.path('ca.crt')}", "--scheduler-client-cert-auth")
    assert found.checks_callers is True
    found.guard.refused("a", "certificate revoked")  # type: ignore[union-attr]
    (family,) = found.families()
    assert (family.name, family.samples) == ("raftsched_scheduler_refused_connections_total", {("certificate revoked",): 1.0})
    with pytest.raises(ConfigError, match="cannot read the key file /nowhere"):
        made(words[0], "--scheduler-key-file=/nowhere")


def test_identities(anchors: Path) -> None:
    words = ["--tls-enabled", f"--trust-anchors-file={anchors}"]
    found, lines = made(*words, LIST.format("https"))
    assert isinstance(found.guard, ApiGuard)
    assert isinstance(found.peers, MemberGuard)
    assert (found.checks_callers, lines) == (True, [])
    assert {family.name for family in found.families()} >= {
        "raftsched_identity_expires_timestamp_seconds",
        "raftsched_identity_requests_total",
    }
    found, lines = made(*words, LIST.format("http"))
    assert found.peers is None
    assert len(lines) == 1
    assert "Members speak with each other in clear text" in lines[0]
    assert made(*words)[1] == [], "a lone member has nobody to speak with"
