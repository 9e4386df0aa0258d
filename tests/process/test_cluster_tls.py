"""Three members that speak mTLS with each other, by certificate files; who has a wrong certificate gets one log line and a counter."""

import datetime
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from clustering import get, put
from serving import metrics, wait_for

from raftsched.testing.cluster import Cluster, Member

pytestmark = [pytest.mark.process]
REFUSED = "raftsched_peer_refused_connections_total"
ATTEMPTS = 3


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.crt; and of each name a certificate with its key: `good`, `expired`, and `foreign`, which another authority has issued."""
    folder, ours = tmp_path_factory.mktemp("peers"), trustme.CA()
    long_ago = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    for name, authority, not_after in (("good", ours, None), ("expired", ours, long_ago), ("foreign", trustme.CA(), None)):
        issued = authority.issue_cert("127.0.0.1", not_after=not_after)
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.crt")
    ours.cert_pem.write_to_path(folder / "ca.crt")
    return folder


def peer_flags(files: Path, name: str) -> list[str]:
    shown = [f"--peer-cert-file={files / name}.crt", f"--peer-key-file={files / name}.key"]
    return [*shown, f"--peer-trusted-ca-file={files / 'ca.crt'}", "--peer-client-cert-auth"]


@pytest.fixture
def cluster(files: Path, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, args=peer_flags(files, "good"), scheme="https") as made:
        yield made


def warnings(member: Member, cause: str) -> list[dict[str, Any]]:
    """The lines of the engine's log that name this cause."""
    lines = (json.loads(line) for line in member.stderr_path.read_text().splitlines() if line.startswith("{"))
    return [line for line in lines if line.get("cause") == cause]


def refused(member: Member) -> dict[str, float]:
    """By cause."""
    found = metrics(member.client_port)
    return {name.partition('cause="')[2].rstrip('"}'): value for name, value in found.items() if name.startswith(REFUSED + "{")}


def test_members_serve_and_fail_over_and_are_replaced(cluster: Cluster) -> None:
    put(cluster.leader(), b"k", b"one")
    assert [get(one, b"k") for one in cluster.members] == [b"one"] * 3
    old = cluster.leader()
    old.kill()
    other = cluster.leader()
    put(other, b"k", b"two")
    old.wipe()
    old.start(wait=False)  # asks, joins and is brought up to date through TLS
    old.wait_ready(60)
    wait_for(lambda: get(old, b"k", serializable=True) == b"two", 30, cluster.logs)
    cluster.wait_equal()
    for member in cluster.members:
        assert not [cause for cause in refused(member) if "TLS" in cause and not cause.startswith("dial")], refused(member)


def stranger(files: Path, name: str | None, port: int) -> None:
    """Connects as a peer and says something; must be closed without an answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(files / "ca.crt")
    if name is not None:
        context.load_cert_chain(files / f"{name}.crt", files / f"{name}.key")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        answer = b""
        try:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
                secured.sendall(b"\x00" * 64)
                answer = secured.recv(100)
        except OSError:
            pass  # the alert, or the connection was reset before it could be read
        assert answer == b""


def plain_stranger(files: Path, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        try:
            answer = plain.recv(100)
        except OSError:
            answer = b""
        assert not answer.startswith(b"HTTP"), answer


@pytest.mark.parametrize(
    ("connect", "cause"),
    [
        (lambda files, port: stranger(files, "foreign", port), "TLS: unable to get local issuer certificate"),
        (lambda files, port: stranger(files, "expired", port), "TLS: certificate has expired"),
        (lambda files, port: stranger(files, None, port), "TLS: PEER_DID_NOT_RETURN_A_CERTIFICATE"),
        (plain_stranger, "TLS: HTTP_REQUEST"),
    ],
    ids=["another authority's", "expired", "none", "no TLS"],
)
def test_a_stranger_gets_a_line_and_a_counter(cluster: Cluster, files: Path, connect: Callable[[Path, int], None], cause: str) -> None:
    leader = cluster.leader()
    put(leader, b"k", b"before")
    term = leader.status().raftTerm
    for _ in range(ATTEMPTS):
        connect(files, cluster.advertised[leader.number])
    wait_for(lambda: refused(leader).get(cause) == ATTEMPTS, 10, lambda: f"{refused(leader)}")
    [line] = warnings(leader, cause)
    assert (line["level"], line["peer"]) == ("warn", "127.0.0.1"), line
    assert put(leader, b"k", b"after") > 0
    assert (cluster.leader() is leader, leader.status().raftTerm) == (True, term), "it has disturbed them"


@pytest.mark.parametrize(("name", "cause"), [("foreign", "unable to get local issuer certificate"), ("expired", "certificate has expired")])
def test_a_member_with_a_wrong_certificate_is_kept_out_until_it_has_a_right_one(
    cluster: Cluster, files: Path, name: str, cause: str
) -> None:
    wrong = cluster.followers()[0]
    others = [one for one in cluster.members if one is not wrong]
    wrong.stop()
    right = wrong.command
    wrong.command = [word for word in right if not word.startswith("--peer-cert") and not word.startswith("--peer-key")]
    wrong.command += peer_flags(files, name)[:2]
    wrong.start(wait=False)
    for one in others:
        wait_for(lambda one=one: refused(one).get(f"TLS: {cause}", 0) > 1, 20, cluster.logs)
        assert len(warnings(one, f"TLS: {cause}")) == 1
    put(others[0], b"k", b"without it")
    wrong.kill()
    wrong.command = right
    wrong.start()
    wait_for(lambda: get(wrong, b"k", serializable=True) == b"without it", 20, cluster.logs)
