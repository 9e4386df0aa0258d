"""Who may come in at a TLS listener: names, revocation, and files that change while clients are connected."""

import contextlib
import re
import shutil
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from raftsched.errors import ConfigError
from raftsched.limits import TLS_CAUSES_MAX, TLS_REFUSALS_LOGGED_MS
from raftsched.security.guard import NOT_ALLOWED, REVOKED, ListenerFiles, ListenerGuard
from raftsched.security.names import AllowedNames, common_name, is_for
from raftsched.security.renewing import Renewing
from raftsched.security.revocation import read_revoked
from raftsched.security.suites import OPENSSL_NAMES, TLS_13, check_suites
from raftsched.testing.authority import Authority
from raftsched.testing.door import EchoDoor
from raftsched.testing.peers import LogLines


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    authority.issue("server")
    authority.issue("one", "one.example", "*.wild.example", "10.1.2.3", "fd00::1")
    authority.issue("two", "two.example")
    return authority


@pytest.fixture
def authority(made: Authority, tmp_path: Path) -> Authority:
    """The same one, in a directory of this test's own."""
    copied = tmp_path / "files"
    shutil.copytree(made.folder, copied)
    own = Authority.__new__(Authority)
    own.folder, own.ca = copied, made.ca
    return own


def guard_of(authority: Authority, log: LogLines | None = None, **options: Any) -> ListenerGuard:
    options.setdefault("trusted_ca_file", authority.path("ca.crt"))
    files = ListenerFiles(authority.path("server.crt"), authority.path("server.key"), **options)
    return ListenerGuard(files, log or LogLines())


def comes_in(door: EchoDoor, context: ssl.SSLContext) -> bool:
    """Whether a client is served."""
    with socket.create_connection(("127.0.0.1", door.port), timeout=20) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="localhost") as connection:
                connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                return connection.recv(100).startswith(b"HTTP/1.1 200")
        except (ssl.SSLError, ConnectionError):
            return False


# -- names


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("one.example", True),
        ("ONE.Example", True),
        ("one.example.", True),
        ("a.wild.example", True),
        ("a.b.wild.example", False),
        ("wild.example", False),
        (".wild.example", False),
        ("*.wild.example", True),
        ("two.example", False),
        ("one", False),  # the common name does not count
        ("", False),
        ("10.1.2.3", True),
        ("10.1.2.4", False),
        ("fd00:0::1", True),
        ("[fd00::1]", True),
        ("[one.example]", False),
    ],
)
def test_hosts_are_compared_as_go_does(made: Authority, name: str, good: bool) -> None:
    shown = ssl._ssl._test_decode_cert(made.path("one.crt"))  # type: ignore[attr-defined]
    assert is_for(shown, name) is good
    assert AllowedNames(hosts=("elsewhere", name)).allow(shown) is good
    assert common_name(shown) == "one"


def test_allowed_names() -> None:
    assert AllowedNames().allow(None)
    assert not AllowedNames(common_names=("a",)).allow(None)
    assert not AllowedNames(hosts=("a",)).allow({})
    assert common_name({}) == ""


@pytest.mark.parametrize(("names", "one", "two"), [(("one.example",), True, False), (("x", "two.example"), False, True)])
def test_only_clients_on_the_list_come_in(authority: Authority, names: tuple[str, ...], one: bool, two: bool) -> None:
    guard = guard_of(authority, allowed=AllowedNames(hosts=names))
    with EchoDoor(guard=guard) as door:
        assert comes_in(door, authority.client_context("one")) is one
        assert comes_in(door, authority.client_context("two")) is two
    assert guard.causes == {NOT_ALLOWED: 1}


# -- revocation


@pytest.mark.parametrize("pem", [False, True], ids=["DER", "PEM"])
def test_revoked_clients_do_not_come_in(authority: Authority, pem: bool) -> None:
    guard = guard_of(authority, crl_file=authority.revoke("list", authority.serial("two"), pem=pem))
    with EchoDoor(guard=guard) as door:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert comes_in(door, authority.client_context("one", version=version))
            assert not comes_in(door, authority.client_context("two", version=version))
        authority.revoke("list", authority.serial("one"), pem=pem)
        assert not comes_in(door, authority.client_context("one"))
        assert comes_in(door, authority.client_context("two"))
    assert guard.causes == {REVOKED: 3}


def test_whom_a_revoked_authority_has_signed_does_not_come_in(authority: Authority, tmp_path: Path) -> None:
    """All that a client shows is looked at, not its own certificate alone."""
    child = Authority(tmp_path / "child", parent=authority)
    child.issue("three")
    guard = guard_of(authority, crl_file=authority.revoke("list", 1))
    context = authority.client_context()
    context.load_cert_chain(child.path("three.crt"), child.path("three.key"))
    with EchoDoor(guard=guard) as door:
        assert comes_in(door, context)
        authority.revoke("list", child.serial("three", 1))
        assert not comes_in(door, context)


def test_a_session_is_not_resumed_where_certificates_are_judged(authority: Authority) -> None:
    """Else a revoked client would come in with what it kept of an earlier connection."""
    with EchoDoor(guard=guard_of(authority)) as door:
        context = authority.client_context("one", version=ssl.TLSVersion.TLSv1_2)
        kept = None
        for _ in range(2):
            with (
                socket.create_connection(("127.0.0.1", door.port)) as plain,
                context.wrap_socket(plain, server_hostname="localhost", session=kept) as connection,
            ):
                assert not connection.session_reused
                kept = connection.session


def test_a_list_that_is_none_is_told(authority: Authority) -> None:
    with pytest.raises(ConfigError, match=r"cannot use the CRL file .*ca\.crt: it is no certificate revocation list"):
        guard_of(authority, crl_file=authority.path("ca.crt"))
    with pytest.raises(ConfigError, match=r"cannot read the CRL file .*none: No such file"):
        guard_of(authority, crl_file=authority.path("none"))
    with pytest.raises(ConfigError, match="means nothing without a trusted CA file"):
        guard_of(authority, trusted_ca_file="", crl_file=authority.revoke("list", 1))
    assert read_revoked("") == frozenset()


# -- files that change


def served(door: EchoDoor, context: ssl.SSLContext) -> int:
    """The serial number that a new client is shown."""
    with socket.create_connection(("127.0.0.1", door.port)) as plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
        return int(str(connection.getpeercert()["serialNumber"]), 16)  # type: ignore[index]


def test_a_new_pair_is_shown_to_new_clients_while_old_ones_go_on(authority: Authority) -> None:
    guard = guard_of(authority, trusted_ca_file="")
    context = authority.client_context()
    with (
        EchoDoor(guard=guard) as door,
        socket.create_connection(("127.0.0.1", door.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as old,
    ):
        first = authority.serial("server")
        assert served(door, context) == first
        authority.issue("server")
        assert served(door, context) == authority.serial("server") != first
        old.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert old.recv(100).startswith(b"HTTP/1.1 200")


def test_a_new_authority_counts_for_new_clients(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    other.issue("other")
    ours, foreign = authority.client_context("one"), authority.client_context()
    foreign.load_cert_chain(other.path("other.crt"), other.path("other.key"))
    with EchoDoor(guard=guard_of(authority)) as door:
        assert (comes_in(door, ours), comes_in(door, foreign)) == (True, False)
        shutil.copy(other.path("ca.crt"), authority.path("ca.crt"))
        assert (comes_in(door, ours), comes_in(door, foreign)) == (False, True)


@pytest.mark.parametrize("broken", ["half", "another key", "gone", "crl"])
def test_a_broken_change_leaves_the_last_good_files(authority: Authority, broken: str) -> None:
    log = LogLines()
    guard = guard_of(authority, log, crl_file=authority.revoke("list", authority.serial("two")))
    one, two = authority.client_context("one"), authority.client_context("two")
    before = authority.serial("server")
    with EchoDoor(guard=guard) as door:
        assert served(door, one) == before
        if broken == "half":
            Path(authority.path("server.crt")).write_text("-----BEGIN CERTIFICATE-----\nhalf")
        elif broken == "another key":
            shutil.copy(authority.path("one.key"), authority.path("server.key"))
        elif broken == "gone":
            Path(authority.path("server.key")).unlink()
        else:
            Path(authority.path("list.crl")).write_bytes(b"0")
        for _ in range(3):
            assert served(door, one) == before
            assert not comes_in(door, two), "who was revoked stays revoked"
        assert [level for level, message, _ in log.lines if "cannot be used" in message] == ["error"], "once, not per connection"
        assert guard.unusable_total == 1
        authority.issue("server")
        authority.revoke("list", authority.serial("one"))
        assert comes_in(door, two)
        assert not comes_in(door, one)
        assert guard.unusable_total == 1


def test_what_changes_while_it_is_read_is_seen_by_the_next(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def read() -> str:
        found = file.read_text()
        if found == "old":
            file.write_text("newer")
        return found

    renewing = Renewing([str(file)], read, pytest.fail)
    assert renewing.get() == "newer"


def test_nothing_of_a_key_is_logged(authority: Authority) -> None:
    log = LogLines()
    guard = guard_of(authority, log)
    secret = Path(authority.path("server.key")).read_text().splitlines()[2]
    Path(authority.path("server.crt")).write_text(Path(authority.path("server.key")).read_text())
    guard.context()
    assert guard.unusable_total == 1
    assert secret not in repr(log.lines)


# -- what is told


def test_refusals_are_counted_and_told_now_and_then(authority: Authority) -> None:
    log, now = LogLines(), [0]
    files = ListenerFiles(authority.path("server.crt"), authority.path("server.key"))
    guard = ListenerGuard(files, log, clock_ms=lambda: now[0])
    for number in range(5):
        guard.refused(f"10.0.0.{number}:1", "timeout")
    now[0] += TLS_REFUSALS_LOGGED_MS
    guard.refused("", "timeout")
    assert log.lines == [
        ("warning", "rejected connection on client endpoint", {"remote-addr": "10.0.0.0:1", "error": "timeout"}),
        ("warning", "rejected connection on client endpoint", {"remote-addr": "@", "error": "timeout", "suppressed": 4}),
    ]
    for number in range(1_000):
        guard.refused("a", str(number))
    assert guard.causes["timeout"] == 6
    assert len(guard.causes) == TLS_CAUSES_MAX + 1
    assert sum(guard.causes.values()) == 1_006


# -- suites


def handshake_suite(door: EchoDoor, context: ssl.SSLContext) -> str:
    with socket.create_connection(("127.0.0.1", door.port)) as plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
        return str(connection.cipher()[0])  # type: ignore[index]


def test_suites_are_limited_and_in_the_order_given(authority: Authority) -> None:
    suites = ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")
    rsa = tuple(one.replace("ECDSA", "RSA") for one in suites)
    with EchoDoor(guard=guard_of(authority, trusted_ca_file="", cipher_suites=suites + rsa)) as door:
        context = authority.client_context(version=ssl.TLSVersion.TLSv1_2)
        assert handshake_suite(door, context).endswith("CHACHA20-POLY1305")
        context.set_ciphers("ECDHE+AES256")
        with pytest.raises(ssl.SSLError):
            handshake_suite(door, context)
        assert handshake_suite(door, authority.client_context()).startswith("TLS_"), "those of 1.3 are as they were"


def test_versions_are_limited(authority: Authority) -> None:
    limits: dict[str, Any] = {"trusted_ca_file": "", "min_version": "TLS1.3"}
    old, new = (authority.client_context(version=one) for one in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3))
    with EchoDoor(guard=guard_of(authority, **limits)) as door:
        assert (comes_in(door, old), comes_in(door, new)) == (False, True)
    with EchoDoor(guard=guard_of(authority, trusted_ca_file="", max_version="TLS1.2")) as door:
        assert (comes_in(door, old), comes_in(door, new)) == (True, False)
    with EchoDoor(guard=guard_of(authority, trusted_ca_file="", cipher_suites=("TLS_AES_128_GCM_SHA256",))) as door:
        assert (comes_in(door, old), comes_in(door, new)) == (False, True), "no suite is left for 1.2"


def test_every_suite_of_go_is_known() -> None:
    """Each can be had but the weakest, which builds of OpenSSL leave out."""
    for name in OPENSSL_NAMES:
        with contextlib.nullcontext() if not re.search("RC4|3DES", name) else contextlib.suppress(ConfigError):
            check_suites([name])
    check_suites(sorted(TLS_13))
    with pytest.raises(ConfigError, match=r'^unexpected TLS cipher suite "TLS_NULL"$'):
        check_suites(["TLS_NULL"])
