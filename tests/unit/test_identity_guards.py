"""Who comes in by an identity: members with each other on real sockets, and the texts of a wrong name."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives import serialization

from raftsched.errors import FatalError
from raftsched.security.identity import Identity, client_context, make_identity, make_request, server_context
from raftsched.security.identity_guards import (
    NO_ID,
    NO_MEMBER,
    OTHER_ID,
    ApiGuard,
    MemberGuard,
    is_member,
    member_suffix,
)
from raftsched.security.provider import IdentityProvider
from raftsched.security.spiffe import parse_id
from raftsched.testing.door import EchoDoor
from raftsched.testing.peers import LogLines, Member, close_members, until
from raftsched.testing.sentry import TrustRoot
from raftsched.testing.sidecar import Sidecar
from raftsched.testing.sidecar import client_context as sidecar_context

SUFFIX = ".dapr-scheduler-server.default.svc.localhost"
OWN = "spiffe://localhost/ns/default/dapr-scheduler"
NAMES = tuple(f"dapr-scheduler-server-{n}{SUFFIX}" for n in range(3))


def identity(root: TrustRoot, spiffe_id: str = OWN, dns_names: tuple[str, ...] = NAMES) -> Identity:
    asked, expected = make_request(), parse_id(spiffe_id)
    assert expected is not None
    key = serialization.load_pem_private_key(asked.key_pem, None).public_key()
    return make_identity(asked, root.svid(key, [spiffe_id], dns_names=dns_names), root.pem.decode(), expected)


def provider(identity: Identity, root: TrustRoot) -> IdentityProvider:
    """What a guard asks of one."""
    anchors = root.pem.decode()
    made = SimpleNamespace(
        identity=identity, server=lambda: server_context(identity, anchors), client=lambda: client_context(anchors, identity)
    )
    return cast(IdentityProvider, made)


@pytest.fixture(scope="module")
def root() -> TrustRoot:
    return TrustRoot()


@pytest.fixture
async def made() -> AsyncIterator[list[Member]]:
    members: list[Member] = []
    yield members
    await close_members(members)
    await asyncio.sleep(0.1)  # connections that were cut in their handshake end a turn of the loop later


async def pair(first: MemberGuard, second: MemberGuard) -> list[Member]:
    members = [await Member(number, tls=guard).start() for number, guard in ((1, first), (2, second))]
    for one, other in (members, members[::-1]):
        one.peers.update({other.id: [f"https://127.0.0.1:{other.peers.port}"]})
    return members


def member_guard(root: TrustRoot, **changes: Any) -> MemberGuard:
    return MemberGuard(provider(identity(root, **changes), root), SUFFIX)


async def test_members_know_each_other_by_their_names_wherever_they_are(root: TrustRoot, made: list[Member]) -> None:
    made += await pair(member_guard(root), member_guard(root))
    await until(lambda: all(one.peers.is_connected(3 - one.id) for one in made), 30)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"spiffe_id": "spiffe://localhost/ns/default/app"}, OTHER_ID),
        ({"spiffe_id": "spiffe://localhost/ns/other/dapr-scheduler"}, OTHER_ID),
        ({"spiffe_id": "spiffe://other/ns/default/dapr-scheduler"}, OTHER_ID),
        ({"dns_names": ()}, NO_MEMBER),
        ({"dns_names": ("127.0.0.1", "localhost", f"dapr-scheduler-server-0{SUFFIX}.evil")}, NO_MEMBER),
    ],
)
async def test_who_is_no_member(changes: dict[str, Any], cause: str, root: TrustRoot, made: list[Member]) -> None:
    """He is neither heard nor dialled, though the same authority vouches for him."""
    stranger = member_guard(root, **changes)
    stranger.objection = lambda shown: ""  # type: ignore[method-assign]  # he would take anybody
    made += await pair(member_guard(root), stranger)
    log = made[0].log
    await until(lambda: {cause, f"dial: {cause}"} <= set(log.causes()), 30)
    assert not made[0].peers.is_connected(2)
    assert not made[1].peers.is_connected(1)


async def test_a_member_of_another_authority_is_no_member(root: TrustRoot, made: list[Member]) -> None:
    made += await pair(member_guard(root), member_guard(TrustRoot("other")))
    await until(lambda: any("unable to get local issuer certificate" in str(cause) for cause in made[0].log.causes()), 30)
    assert not made[0].peers.is_connected(2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"dapr-scheduler-server-0{SUFFIX}", True),
        (f"dapr-scheduler-server-17{SUFFIX}", True),
        (f"dapr-scheduler-server-{SUFFIX}", False),
        (f"dapr-scheduler-server-a{SUFFIX}", False),
        (f"dapr-scheduler-server-0{SUFFIX}.", False),
        (f"x.dapr-scheduler-server-0{SUFFIX}", False),
        ("dapr-scheduler-server-0.dapr-scheduler-server.other.svc.localhost", False),
        ("dapr-scheduler-server-0", False),
        ("", False),
        (f"dapr-scheduler-server-²{SUFFIX}", False),
    ],
)
def test_names_of_members(name: str, expected: bool) -> None:
    assert is_member(name, SUFFIX) is expected


def test_ones_own_certificate_must_have_ones_name(root: TrustRoot) -> None:
    assert member_suffix("default", "localhost") == SUFFIX
    own = identity(root)
    MemberGuard(provider(own, root), SUFFIX).check_own_name("dapr-scheduler-server-2")
    with pytest.raises(FatalError) as caught:
        MemberGuard(provider(own, root), SUFFIX).check_own_name("scheduler-0")
    assert str(caught.value) == (
        f"peer certificate does not contain the expected DNS name scheduler-0{SUFFIX} got [{NAMES[0]} {NAMES[1]} {NAMES[2]}]"
    )
    with pytest.raises(FatalError, match="got \\[\\]"):
        MemberGuard(provider(replace(own, dns_names=()), root), SUFFIX).check_own_name("dapr-scheduler-server-0")


# -- the scheduler API's door


@pytest.fixture
def door(root: TrustRoot) -> Iterator[tuple[EchoDoor, ApiGuard]]:
    guard = ApiGuard(provider(identity(root), root), LogLines())
    with EchoDoor(guard=guard, tls_handshake_timeout_ms=1000) as opened:
        yield opened, guard


def test_any_id_of_the_anchors_comes_in(door: tuple[EchoDoor, ApiGuard], root: TrustRoot, tmp_path: Path) -> None:
    anchors = tmp_path / "ca.crt"
    anchors.write_bytes(root.pem)
    for name in ("spiffe://localhost/ns/default/app", "spiffe://elsewhere/ns/x/y", "spiffe://td/path"):
        with Sidecar(door[0].port, sidecar_context(anchors, root.pair([name]))) as client:
            found = [value for kind, value in client.server_certificate["subjectAltName"] if kind == "URI"]
            assert found == [OWN]
            assert client.server_certificate["subjectAltName"] != ()
    assert door[1].causes == {}


def turned_away(door: EchoDoor, context: ssl.SSLContext) -> None:
    """With TLS 1.3 a client hears of it when it reads."""
    with pytest.raises(OSError), Sidecar(door.port, context) as client:  # noqa: PT011  # reset, closed or an alert
        client.end(client.open("Nothing"))


def test_who_does_not_come_in(door: tuple[EchoDoor, ApiGuard], root: TrustRoot, tmp_path: Path) -> None:
    opened, guard = door
    anchors = tmp_path / "ca.crt"
    anchors.write_bytes(root.pem)
    app = "spiffe://localhost/ns/default/app"
    turned_away(opened, sidecar_context(anchors, None))
    turned_away(opened, sidecar_context(anchors, TrustRoot("other").pair([app])))
    turned_away(opened, sidecar_context(anchors, root.pair([app], ttl_s=-10, age_s=20)))
    turned_away(opened, sidecar_context(anchors, root.pair([], dns_names=["app"])))
    turned_away(opened, sidecar_context(anchors, root.pair([app, app + "2"])))
    assert guard.causes["certificate has expired"] == 1
    assert guard.causes[NO_ID] == 2
    assert sum(guard.causes.values()) == 5


def test_a_plaintext_client_does_not_come_in(door: tuple[EchoDoor, ApiGuard]) -> None:
    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", door[0].port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        data = await reader.read(1000)
        writer.close()
        return data

    assert b"SETTINGS" not in asyncio.run(ask())
    assert sum(door[1].causes.values()) == 1
