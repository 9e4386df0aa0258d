"""The listeners' TLS context: every wrong file or option is one clear line, every good one is enforced."""

import ssl
from pathlib import Path

import pytest
import trustme

from raftsched.errors import ConfigError
from raftsched.security.tls import server_context


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ca, path = trustme.CA(), tmp_path_factory.mktemp("tls")
    for name in ("one", "two"):
        issued = ca.issue_cert("localhost", common_name=name)
        issued.private_key_pem.write_to_path(path / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(path / f"{name}.crt")
    ca.cert_pem.write_to_path(path / "ca.crt")
    (path / "junk").write_text("junk")
    return path


def handshake(folder: Path, server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = server.wrap_bio(to_server, to_client, server_side=True), client.wrap_bio(to_client, to_server, server_hostname="localhost")
    done = [False, False]
    for _ in range(20):
        for number, end in enumerate(ends):
            try:
                end.do_handshake()
                done[number] = True
            except ssl.SSLWantReadError:
                pass
        if all(done):
            return ends
    raise AssertionError("no handshake")


def client_context(folder: Path, *alpn: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    context.set_alpn_protocols(list(alpn))
    return context


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(("h2", "http/1.1"), "h2"), (("http/1.1", "h2"), "h2"), (("h2",), "h2"), (("http/1.1",), "http/1.1"), (("spdy",), None)],
)
def test_http2_is_preferred_where_it_is_offered(folder: Path, offered: tuple[str, ...], chosen: str | None) -> None:
    server, _ = handshake(folder, server_context(f"{folder}/one.crt", f"{folder}/one.key"), client_context(folder, *offered))
    assert server.selected_alpn_protocol() == chosen


def test_versions(folder: Path) -> None:
    only_13 = server_context(f"{folder}/one.crt", f"{folder}/one.key", min_version="TLS1.3")
    old = client_context(folder, "h2")
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        handshake(folder, only_13, old)
    only_12 = server_context(f"{folder}/one.crt", f"{folder}/one.key", max_version="TLS1.2")
    assert handshake(folder, only_12, client_context(folder, "h2"))[0].version() == "TLSv1.2"


def test_client_certificates(folder: Path) -> None:
    with_certificate = client_context(folder, "h2")
    with_certificate.load_cert_chain(folder / "two.crt", folder / "two.key")
    options = {"client_ca": f"{folder}/ca.crt", "client_certificate_required": True}
    required = server_context(f"{folder}/one.crt", f"{folder}/one.key", **options)
    required.maximum_version = ssl.TLSVersion.TLSv1_2  # in 1.3 the client learns of the refusal later
    server, _ = handshake(folder, required, with_certificate)
    assert "two" in str(server.getpeercert())
    with pytest.raises(ssl.SSLError):
        handshake(folder, required, client_context(folder, "h2"))
    optional = server_context(f"{folder}/one.crt", f"{folder}/one.key", client_ca=f"{folder}/ca.crt")
    assert not handshake(folder, optional, client_context(folder, "h2"))[0].getpeercert()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"certificate": "none.crt"}, "cannot read the certificate file .*none.crt: No such file or directory"),
        ({"key": "none.key"}, "cannot read the key file .*none.key"),
        ({"certificate": "junk"}, "cannot use certificate .*junk with key"),
        ({"key": "two.key"}, "cannot use certificate .*one.crt with key .*two.key"),
        ({"client_ca": "none.crt"}, "cannot read the client CA file"),
        ({"client_ca": "junk"}, "cannot use client CA file"),
        ({"min_version": "TLS1.1"}, "unknown TLS version 'TLS1.1': use TLS1.2 or TLS1.3"),
        ({"min_version": "TLS1.3", "max_version": "TLS1.2"}, "below the minimum"),
        ({"client_certificate_required": "yes"}, "without a client CA"),
    ],
)
def test_what_is_wrong_is_named(folder: Path, changes: dict[str, str], text: str) -> None:
    options = {"certificate": "one.crt", "key": "one.key", **changes}
    for name in ("certificate", "key", "client_ca"):
        if name in options:
            options[name] = f"{folder}/{options[name]}"
    with pytest.raises(ConfigError, match=text):
        server_context(**options)  # type: ignore[arg-type]
