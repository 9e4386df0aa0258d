"""The identity while a process lives: renewals, anchors that change, files. A fake Sentry on a real socket."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raftsched.config.sentry import SentryOptions
from raftsched.errors import ConfigError, FatalError, GrpcCode, StatusError
from raftsched.security import provider as subject
from raftsched.security import renewal, sentry
from raftsched.security.identity import Identity, IdentityError, _prove
from raftsched.security.provider import IdentityProvider
from raftsched.store.transport.resolving import SystemResolver
from raftsched.testing.sentry import FakeSentry, TrustRoot

FETCH = "Fetching initial identity certificate"


class Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, /, **fields: object) -> None:
        self.lines.append(message)

    debug = warning = error = info

    def said(self, part: str) -> bool:
        return any(part in line for line in self.lines)


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeSentry]:
    with FakeSentry(tmp_path / "sentry") as made:
        yield made


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "ANCHORS_LOOK_S", 0.05)
    monkeypatch.setattr(renewal, "RETRY_S_MIN", 0.1)
    monkeypatch.setattr(renewal, "RETRY_S", 0.2)
    monkeypatch.setattr(sentry, "pause_s", lambda attempt, took_s, chance: 0.02 if attempt < 3 else None)


@pytest.fixture
async def make(fake: FakeSentry) -> AsyncIterator[Callable[..., tuple[IdentityProvider, Lines]]]:
    made: list[IdentityProvider] = []

    def build(**changes: Any) -> tuple[IdentityProvider, Lines]:
        given = {"token_file": None, "kubernetes": False, "directory": None, "anchors_file": str(fake.anchors)} | changes
        options = SentryOptions("127.0.0.1", fake.port, "localhost", "default", "dapr-scheduler", **given)
        lines = Lines()
        made.append(IdentityProvider(options, resolve=SystemResolver(), chance=lambda: 0.5, log=lines))
        return made[-1], lines

    yield build
    for one in made:
        await one.close()


async def until(done: Callable[[], bool], timeout_s: float = 15) -> None:
    async with asyncio.timeout(timeout_s):
        while not done():
            await asyncio.sleep(0.02)


def verifies(identity: Identity, root: TrustRoot) -> bool:
    """Whether who knows that root alone would believe it."""
    try:
        _prove(identity, root.pem.decode())
    except IdentityError:
        return False
    return True


async def test_the_first_identity_and_no_second(make: Any, fake: FakeSentry, tmp_path: Path) -> None:
    provider, lines = make()
    await provider.start()
    await provider.start()
    assert lines.lines[0] == FETCH
    assert lines.said("Security is initialized successfully: spiffe://localhost/ns/default/dapr-scheduler until 2")
    await asyncio.sleep(0.3)
    assert len(fake.requests) == 1, "half a day is left until the next"
    assert provider.server() is provider.server()
    assert provider.server().verify_mode is ssl.CERT_REQUIRED
    assert [one.name for one in tmp_path.iterdir()] == ["sentry"], "nothing is written unless it is asked for"


async def test_a_start_without_sentry_fails_with_one_line(make: Any, fake: FakeSentry) -> None:
    provider, _ = make()
    fake.behaviour.refusal = StatusError(GrpcCode.PERMISSION_DENIED, "no")
    with pytest.raises(FatalError) as caught:
        await provider.start()
    assert str(caught.value) == (
        "failed to retrieve the initial identity: error from sentry SignCertificate: rpc error: code = PermissionDenied desc = no"
    )


async def test_it_is_renewed_and_contexts_follow(make: Any, fake: FakeSentry) -> None:
    fake.behaviour.ttl_s, fake.behaviour.age_s = 3, 0
    provider, lines = make()
    await provider.start()
    first, context = provider.identity, provider.server()
    await until(lambda: provider.identity is not first)
    assert first.not_before <= time.time() <= first.not_after, "before it expired"
    assert provider.identity.key_pem != first.key_pem
    assert provider.server() is not context
    assert lines.said("Renewing workload cert; current cert expires on: 2")
    assert provider.signed_total >= 2


async def test_a_renewal_that_fails_is_tried_again_and_the_old_one_serves(make: Any, fake: FakeSentry) -> None:
    fake.behaviour.ttl_s, fake.behaviour.age_s = 3, 0
    provider, lines = make()
    await provider.start()
    first = provider.identity
    fake.behaviour.refusal = StatusError(GrpcCode.INTERNAL, "failed to sign certificate")
    await until(lambda: provider.failed_total >= 2)
    assert provider.identity is first
    provider.server()
    assert lines.said("trying again in 0 seconds: error from sentry SignCertificate: rpc error: code = Internal desc = failed to sign")
    fake.behaviour.refusal = None
    await until(lambda: provider.identity is not first)


async def test_one_that_has_expired_is_renewed_when_sentry_is_back(make: Any, fake: FakeSentry) -> None:
    fake.behaviour.ttl_s, fake.behaviour.age_s = 1, 0
    provider, lines = make()
    await provider.start()
    first = provider.identity
    fake.behaviour.refusal = StatusError(GrpcCode.UNAVAILABLE, "down")
    await until(lambda: lines.said("which has expired, trying again"))
    fake.behaviour.refusal, fake.behaviour.ttl_s = None, 60
    await until(lambda: provider.identity is not first)


async def test_new_anchors_are_read_and_ask_for_a_new_identity(make: Any, fake: FakeSentry) -> None:
    provider, lines = make()
    await provider.start()
    first, context, old, new = provider.identity, provider.server(), fake.root, TrustRoot("new")
    fake.set_anchors(old, new)
    assert provider.server() is not context, "the next connection is judged by the new file"
    fake.root = new
    await until(lambda: provider.identity is not first)
    assert lines.said("The trust anchors have changed")
    assert verifies(first, old)
    assert not verifies(first, new)
    assert verifies(provider.identity, new)


async def test_anchors_that_are_broken_leave_the_last_good_ones(make: Any, fake: FakeSentry) -> None:
    provider, lines = make()
    await provider.start()
    context = provider.server()
    fake.anchors.write_text("garbage")
    await until(lambda: lines.said("The changed trust anchors cannot be used, the last good ones stay: cannot use the trust anchors file"))
    assert provider.server() is context
    fake.anchors.unlink()
    await until(lambda: provider.unusable_total == 2)
    await asyncio.sleep(0.2)
    assert provider.unusable_total == 2, "told once for each change"
    assert len(fake.requests) == 1
    fake.set_anchors(fake.root)
    await asyncio.sleep(0.2)
    assert len(fake.requests) == 1, "the same as before"


async def test_anchors_that_are_not_there_stop_the_start(make: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the trust anchors file .*none: No such file or directory"):
        make(anchors_file=str(tmp_path / "none"))
    (tmp_path / "none").write_text("-----BEGIN CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match=r"cannot use the trust anchors file .*none: "):
        make(anchors_file=str(tmp_path / "none"))


async def test_files_are_written_where_they_are_asked_for(make: Any, fake: FakeSentry, tmp_path: Path) -> None:
    fake.behaviour.jwt, fake.behaviour.ttl_s, fake.behaviour.age_s = "j.w.t", 3, 0
    directory = tmp_path / "not" / "there"
    provider, _ = make(directory=str(directory))
    await provider.start()
    first = provider.identity

    def files() -> tuple[bytes, bytes, bytes]:
        return tuple((directory / name).read_bytes() for name in ("key.pem", "cert.pem", "ca.pem"))  # type: ignore[return-value]

    assert files() == (first.key_pem, first.chain_pem, fake.root.pem)
    assert (directory / "jwt_svid.token").read_text() == "j.w.t"
    await until(lambda: provider.identity is not first)
    await until(lambda: files()[0] == provider.identity.key_pem)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(directory / "cert.pem", directory / "key.pem")
    fake.set_anchors(fake.root, TrustRoot("new"))
    await until(lambda: files()[2] == fake.anchors.read_bytes())


async def test_files_that_cannot_be_written_stop_the_start(make: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    provider, lines = make(directory=str(tmp_path / "file"))
    with pytest.raises(FatalError, match="cannot write the identity to --identity-directory-write"):
        await provider.start()
    assert lines.said("The identity cannot be written to")
