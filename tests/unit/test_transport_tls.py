"""mTLS between members: whose certificate opens the door, and what a wrong one leaves behind."""

import asyncio
import contextlib
import datetime
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from raftsched.errors import ConfigError, PeerCode, PeerError
from raftsched.security.guard import NOT_ALLOWED, REVOKED
from raftsched.security.names import AllowedNames
from raftsched.store.raft._kernel import Message
from raftsched.store.transport import accepting
from raftsched.store.transport.tls import PeerTls
from raftsched.testing.authority import Authority
from raftsched.testing.peers import Member, close_members, until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ours, foreign, path = trustme.CA(), trustme.CA(), tmp_path_factory.mktemp("peers")
    long_ago = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    for name, ca, expires in (("one", ours, None), ("two", ours, None), ("old", ours, long_ago), ("foreign", foreign, None)):
        issued = ca.issue_cert("localhost", "127.0.0.1", common_name=f"{name}.example", not_after=expires)
        issued.private_key_pem.write_to_path(path / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(path / f"{name}.crt")
    ours.cert_pem.write_to_path(path / "ca.crt")
    foreign.cert_pem.write_to_path(path / "foreign-ca.crt")
    return path


def tls(folder: Path, name: str, ca: str = "ca", **options: object) -> PeerTls:
    return PeerTls(f"{folder}/{name}.crt", f"{folder}/{name}.key", f"{folder}/{ca}.crt", **options)  # type: ignore[arg-type]


async def pair(first: PeerTls | None, second: PeerTls | None, scheme: str = "https") -> list[Member]:
    members = [await Member(1, tls=first).start(), await Member(2, tls=second).start()]
    for one, other in (members, members[::-1]):
        one.peers.update({other.id: [f"{scheme}://localhost:{other.peers.port}"]})
    return members


@pytest.fixture
async def made() -> AsyncIterator[list[Member]]:
    members: list[Member] = []
    yield members
    await close_members(members)


def connected(members: list[Member]) -> bool:
    return all(one.peers.is_connected(3 - one.id) for one in members)


async def test_members_with_certificates_of_one_authority(folder: Path, made: list[Member]) -> None:
    made += await pair(tls(folder, "one"), tls(folder, "two"))
    one, other = made
    await until(lambda: connected(made))
    entry = bytes(range(256)) * (20 << 12)  # 20 MiB, in parts
    one.peers.send(2, Message(3, 2, 1, 5, index=1, runs=[(2, 5, 0, [entry])]))
    await until(lambda: other.handler.messages)
    assert other.handler.messages[0][1].runs[0][3] == [entry]
    assert await one.peers.request(2, 1, b"x", 1000) == b"1:x"
    assert await one.peers.ask(f"https://localhost:{other.peers.port}", b"who?", 1000) == b"heard who?"
    stream = await one.peers.open_bulk(2, 1)
    chunks = [bytes([number]) * (1 << 20) for number in range(8)]

    async def send() -> None:
        for chunk in chunks:
            await stream.send(chunk)

    sending = asyncio.create_task(send())
    assert [await stream.receive() for _ in chunks] == chunks
    await sending
    stream.close()
    await until(lambda: not one.peers._streams and not other.peers._acceptor._streams)


@pytest.mark.parametrize(
    ("name", "ca", "seen_by_one", "seen_by_two"),
    [
        ("old", "ca", "TLS: certificate has expired", "dial: TLS: "),
        ("foreign", "ca", "TLS: unable to get local issuer certificate", "dial: TLS: "),
        ("two", "foreign-ca", "", "dial: TLS: self-signed certificate in certificate chain"),
    ],
)
async def test_a_wrong_certificate(folder: Path, made: list[Member], name: str, ca: str, seen_by_one: str, seen_by_two: str) -> None:
    """One line per cause on both sides, however often it is tried, and nothing reaches the node."""
    made += await pair(tls(folder, "one"), tls(folder, name, ca))
    one, other = made
    counted = one.peers._around.report.refusals
    await until(lambda: sum(counted.values()) >= 4)
    assert not any(member.peers.is_connected(3 - member.id) for member in made)
    causes = one.log.causes()
    assert len(causes) == len(set(causes))
    if seen_by_one:
        assert seen_by_one in causes
        assert f"dial: {seen_by_one}" in causes  # as a server it is no better
    if not seen_by_one:
        assert seen_by_two in other.log.causes()
    assert not one.handler.messages
    assert not other.handler.messages


async def test_no_certificate_at_all(folder: Path, made: list[Member]) -> None:
    made.append(await Member(1, tls=tls(folder, "one")).start())
    (one,) = made
    one.peers.update({2: ["https://localhost:1"]})
    context = ssl.create_default_context(cafile=f"{folder}/ca.crt")
    reader, writer = await asyncio.open_connection("localhost", one.peers.port, ssl=context, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLError, ConnectionError):  # in TLS 1.3 the refusal comes with the first read
        assert await reader.read(100) == b""
    writer.transport.abort()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    await until(lambda: "TLS: PEER_DID_NOT_RETURN_A_CERTIFICATE" in one.log.causes())


async def test_plaintext_and_tls_do_not_meet(folder: Path, made: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "_TIMEOUT_S", 0.2)  # each waits for the other to begin
    made += await pair(tls(folder, "one"), None, "http")
    one, other = made
    await until(lambda: "timeout" in one.log.causes() and "dial: closed by the other side" in other.log.causes())
    assert not other.peers.is_connected(1)


async def test_a_slow_tls_handshake_is_cut_off(folder: Path, made: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "_TIMEOUT_S", 0.2)
    made.append(await Member(1, tls=tls(folder, "one")).start())
    reader, writer = await asyncio.open_connection("127.0.0.1", made[0].peers.port)
    writer.write(b"\x16\x03\x01")
    assert await asyncio.wait_for(reader.read(), 2) == b""
    assert made[0].log.causes() == ["timeout"]
    writer.close()
    await writer.wait_closed()


async def test_the_server_must_have_the_name_that_was_dialled(folder: Path, made: list[Member]) -> None:
    async def resolve(_host: str, _port: int) -> list[tuple[str, int]]:
        return [("127.0.0.1", made[0].peers.port)]

    made.append(await Member(1, tls=tls(folder, "one")).start())
    made.append(await Member(2, tls=tls(folder, "two"), resolve=resolve).start())
    made[1].peers.update({1: ["https://member-1.example:2380"]})
    await until(made[1].log.causes)
    assert str(made[1].log.causes()[0]).startswith("dial: TLS: Hostname mismatch")


@pytest.mark.parametrize(
    ("names", "allowed"),
    [
        (AllowedNames(common_names=("two.example", "three.example")), True),
        (AllowedNames(common_names=("one.example",)), False),
        (AllowedNames(hosts=("elsewhere", "localhost")), True),
        (AllowedNames(hosts=("127.0.0.1",)), True),
        (AllowedNames(hosts=("elsewhere",)), False),
    ],
)
async def test_allowed_names(folder: Path, made: list[Member], names: AllowedNames, allowed: bool) -> None:
    """In both directions: who dials in, and who is dialled."""
    made += await pair(tls(folder, "one", allowed=names), tls(folder, "two"))
    one, other = made
    refused = {NOT_ALLOWED, f"dial: {NOT_ALLOWED}"}
    await until(lambda: connected(made) if allowed else refused <= set(one.log.causes()))
    assert other.peers.is_connected(1) is one.peers.is_connected(2) is allowed


async def test_a_revoked_member_is_neither_heard_nor_dialled(folder: Path, made: list[Member], tmp_path: Path) -> None:
    """A list that comes later counts from the next connection on."""
    authority = Authority(tmp_path)
    for name in ("one", "two"):
        authority.issue(name)
    first = tls(tmp_path, "one", crl_file=authority.revoke("list", 1))
    made += await pair(first, tls(tmp_path, "two"))
    one, other = made
    await until(lambda: connected(made))
    authority.revoke("list", authority.serial("two"))
    for member in made:
        member.peers.update({})
    for member, peer in (made, made[::-1]):
        member.peers.update({peer.id: [f"https://localhost:{peer.peers.port}"]})
    await until(lambda: {REVOKED, f"dial: {REVOKED}"} <= set(one.log.causes()))
    assert not one.peers.is_connected(2)
    assert not other.peers.is_connected(1)


async def test_members_that_believe_everybody(folder: Path, made: list[Member]) -> None:
    """--peer-auto-tls: each has made its certificate itself."""
    files = [PeerTls(f"{folder}/{name}.crt", f"{folder}/{name}.key", verify=False) for name in ("foreign", "two")]
    made += await pair(*files)
    await until(lambda: connected(made))


async def test_another_certificate_is_shown_to_who_is_dialled(folder: Path, made: list[Member]) -> None:
    other = tls(folder, "two", client_cert_file=f"{folder}/old.crt", client_key_file=f"{folder}/old.key")
    made += await pair(tls(folder, "one"), other)
    await until(lambda: "TLS: certificate has expired" in made[0].log.causes())
    await until(lambda: made[0].peers.is_connected(2))  # who dials the listener's is content
    assert not made[1].peers.is_connected(1)


async def test_https_without_files_is_said(made: list[Member]) -> None:
    made.append(await Member(1).start())
    with pytest.raises(PeerError, match="an https URL needs certificate files") as failed:
        await made[0].peers.ask("https://localhost:2380", b"", 1000)
    assert failed.value.code == PeerCode.UNREACHABLE


async def test_renewed_files_are_used_without_a_restart(folder: Path, made: list[Member], tmp_path: Path) -> None:
    for suffix in ("crt", "key"):
        shutil.copy(folder / f"old.{suffix}", tmp_path / f"two.{suffix}")
    shutil.copy(folder / "ca.crt", tmp_path)
    made += await pair(tls(folder, "one"), tls(tmp_path, "two"))
    await until(lambda: "TLS: certificate has expired" in made[0].log.causes())
    for suffix in ("key", "crt"):
        shutil.copy(folder / f"two.{suffix}", tmp_path / f"two.{suffix}")
    await until(lambda: connected(made))


async def test_a_broken_renewal_is_said_once_and_changes_nothing(folder: Path, made: list[Member], tmp_path: Path) -> None:
    for name in ("two.crt", "two.key", "ca.crt"):
        shutil.copy(folder / name, tmp_path / name)
    made += await pair(tls(folder, "one"), tls(tmp_path, "two"))
    await until(lambda: connected(made))
    two = made[1]

    async def again() -> None:
        """Both members dial, and both are dialled."""
        for one, other in (made, made[::-1]):
            one.peers.update({})
            await until(lambda one=one, other=other: not one.peers.is_connected(other.id))
        for one, other in (made, made[::-1]):
            one.peers.update({other.id: [f"https://localhost:{other.peers.port}"]})
        await until(lambda: connected(made))

    def told() -> list[object]:
        return [fields["reason"] for level, message, fields in two.log.lines if level == "error" and "certificate files" in message]

    (tmp_path / "two.crt").write_text("half a certi")
    await again()
    await again()
    assert len(told()) == 1, "once, although every connection looks"
    assert "two.crt" in str(told()[0])
    shutil.copy(folder / "foreign.crt", tmp_path / "two.crt")  # which is not the key's
    await again()
    assert len(told()) == 2
    (tmp_path / "two.crt").unlink()
    await again()
    await again()
    assert len(told()) == 3
    assert two.peers.counters()["raftsched_peer_unusable_certificates_total"] == 3
    shutil.copy(folder / "two.crt", tmp_path / "two.crt")
    await again()
    assert len(told()) == 3


def test_a_wrong_file_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the certificate file .*none\.crt"):
        Member(1, tls=PeerTls(f"{folder}/none.crt", f"{folder}/one.key", f"{folder}/ca.crt"))
    with pytest.raises(ConfigError, match="without a client CA"):
        Member(1, tls=PeerTls(f"{folder}/one.crt", f"{folder}/one.key", client_cert_auth=True))
    with pytest.raises(ConfigError, match=r"cannot use client CA file .*one\.key"):
        Member(1, tls=PeerTls(f"{folder}/one.crt", f"{folder}/one.key", f"{folder}/one.key"))
