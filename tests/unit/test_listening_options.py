"""The flags of listeners and TLS: what they come to, and what does not fit together, in etcd's words where it has some."""

from typing import Any

import pytest

from raftsched.cli.goflags import parse
from raftsched.config import ServeConfig, load
from raftsched.config.flags import FLAGS
from raftsched.config.listening import URLS_MAX, ClientListener, local_line
from raftsched.errors import ConfigError

PAIR = ("--cert-file=c", "--key-file=k")
PEERS = ("--peer-cert-file=c", "--peer-key-file=k", "--peer-trusted-ca-file=t")
HTTPS = "--listen-client-urls=https://127.0.0.1:2379"
SECURE_PEER = "--etcd-initial-cluster=dapr-scheduler-server-0=https://localhost:2380"


def config(*words: str, environ: dict[str, str] | None = None) -> ServeConfig:
    return load(parse(words, FLAGS), environ or {})


@pytest.mark.parametrize(
    ("urls", "listeners"),
    [
        ("http://127.0.0.1:2379", [ClientListener("127.0.0.1", 2379, "", False, True)]),
        ("https://localhost:1", [ClientListener("localhost", 1, "", True, False)]),
        ("https://[::1]:2379", [ClientListener("::1", 2379, "", True, False)]),
        ("unix:///run/etcd.sock", [ClientListener("", 0, "/run/etcd.sock", False, True)]),
        ("unixs://localhost:1", [ClientListener("", 0, "localhost:1", True, False)]),
        ("unix:/run/etcd.sock", [ClientListener("", 0, "/run/etcd.sock", False, True)]),
        ("http://0.0.0.0:1,https://0.0.0.0:1", [ClientListener("0.0.0.0", 1, "", True, True)]),
        ("unixs://a,unix://a,unix://a", [ClientListener("", 0, "a", True, True)]),
        (
            "http://127.0.0.1:1, https://127.0.0.1:2,http://[::]:1",
            [
                ClientListener("127.0.0.1", 1, "", False, True),
                ClientListener("127.0.0.1", 2, "", True, False),
                ClientListener("::", 1, "", False, True),
            ],
        ),
    ],
)
def test_urls_are_listeners(urls: str, listeners: list[ClientListener]) -> None:
    made = config(f"--listen-client-urls={urls}", *PAIR)
    assert list(made.client_listeners) == listeners
    assert made.advertise_client_urls == tuple(url.strip() for url in urls.split(","))


def test_without_urls_it_is_the_address_and_the_port() -> None:
    made = config()
    assert made.client_listeners == (ClientListener("localhost", 2379, "", False, True),)
    assert (made.advertise_client_urls, made.client_tls, made.client_cert_auth) == (("http://localhost:2379",), None, False)
    for words in (PAIR, ("--auto-tls",)):
        made = config("--etcd-client-listen-address=::1", "--etcd-client-port=7", *words)
        assert made.client_listeners == (ClientListener("::1", 7, "", True, False),), "who has a certificate does not mean plaintext"
        assert made.advertise_client_urls == ("https://[::1]:7",)
    assert config("--etcd-client-listen-address=").advertise_client_urls == ("http://localhost:2379",)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "localhost:2379"),
        (["--etcd-client-listen-address=127.0.0.2", "--etcd-client-port=7"], "127.0.0.2:7"),
        (["--etcd-client-listen-address=::1"], "[::1]:2379"),
        (["--listen-client-urls=http://127.0.0.1:1,unix:///run/etcd.sock"], "127.0.0.1:1, /run/etcd.sock"),
        (["--etcd-client-listen-address=0.0.0.0"], ""),
        (["--etcd-client-listen-address=::"], ""),
        (["--etcd-client-listen-address="], ""),
        (["--etcd-client-listen-address=10.0.0.1"], ""),
        (["--listen-client-urls=http://127.0.0.1:1,http://10.0.0.1:1"], ""),
    ],
)
def test_what_no_other_host_reaches_is_told(words: list[str], told: str) -> None:
    line = local_line(config(*words).client_listeners)
    assert line.startswith(f"The etcd API listens on {told}: other hosts") if told else line == ""
    assert local_line(()) == ""


def test_what_is_advertised_is_its_flag_when_given() -> None:
    assert config("--advertise-client-urls=http://a:1,unix://s").advertise_client_urls == ("http://a:1", "unix://s")


def test_options_of_clients() -> None:
    words = (
        "--trusted-ca-file=t",
        "--client-cert-auth",
        "--client-crl-file=r",
        "--client-cert-allowed-hostname=a,b",
        "--cipher-suites=x,y",
    )
    made = config(HTTPS, *PAIR, *words, "--tls-max-version=TLS1.3", "--auto-tls").client_tls
    assert made is not None
    found = {name: getattr(made, name) for name in made.__dataclass_fields__}
    assert found == {
        "cert_file": "c",
        "key_file": "k",
        "trusted_ca_file": "t",
        "client_cert_auth": True,
        "crl_file": "r",
        "allowed_cns": (),
        "allowed_hostnames": ("a", "b"),
        "client_cert_file": "",
        "client_key_file": "",
        "cipher_suites": ("x", "y"),
        "min_version": "TLS1.2",
        "max_version": "TLS1.3",
        "self_signed_hosts": ("127.0.0.1",),
        "self_signed_years": 0,  # files that are given come first
    }
    automatic = config("--auto-tls", "--self-signed-cert-validity=7", HTTPS).client_tls
    assert automatic is not None
    assert (automatic.self_signed_years, automatic.self_signed_hosts) == (7, ("127.0.0.1",))
    ignored = config("--listen-client-urls=http://127.0.0.1:1", *PAIR, "--client-cert-auth")
    assert ignored.client_tls is not None, "nothing listens with TLS: etcd warns and goes on"


def test_options_of_members() -> None:
    words = ("--peer-client-cert-auth", "--peer-crl-file=r", "--peer-cert-allowed-cn=a,b", "--tls-min-version=TLS1.3")
    made = config(SECURE_PEER, *PEERS, *words, "--peer-client-cert-file=cc", "--peer-client-key-file=ck").peer_tls
    assert made is not None
    wanted: dict[str, Any] = {"cert_file": "c", "key_file": "k", "trusted_ca_file": "t", "client_cert_auth": True, "crl_file": "r"}
    wanted |= {"allowed_cns": ("a", "b"), "client_cert_file": "cc", "client_key_file": "ck", "min_version": "TLS1.3"}
    assert {name: getattr(made, name) for name in wanted} == wanted
    automatic = config(SECURE_PEER, "--peer-auto-tls").peer_tls
    assert automatic is not None
    assert (automatic.self_signed_years, automatic.self_signed_hosts) == (1, ("localhost",))
    named = config(SECURE_PEER, *PEERS, "--peer-cert-allowed-hostname=h").peer_tls
    assert named is not None
    assert named.allowed_hostnames == ("h",)


def test_environment_and_file_have_them_too() -> None:
    made = config(environ={"RAFTSCHED_LISTEN_CLIENT_URLS": "https://127.0.0.1:1", "RAFTSCHED_AUTO_TLS": "true"})
    assert made.client_listeners[0].secure


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["URLS=127.0.0.1:1"], "WRONGURL scheme must be http, https, unix, or unixs: 127.0.0.1:1"),
        (["URLS=ftp://127.0.0.1:1"], "WRONGURL scheme must be http, https, unix, or unixs: ftp"),
        (["URLS=http://127.0.0.1"], 'WRONGURL address does not have the form "host:port"'),
        (["URLS=http://127.0.0.1:x"], "WRONGPort could not be cast"),
        (["URLS=http://127.0.0.1:70000"], "WRONGPort out of range"),
        (["URLS=http://u@127.0.0.1:1"], 'WRONGURL address does not have the form "host:port"'),
        (["URLS=http://127.0.0.1:1/"], "WRONGURL must not contain a path: "),
        (["URLS=http://a.example:1"], "WRONGexpected IP in URL for binding (http://a.example:1)"),
        (["URLS=http://:1"], "WRONGexpected IP in URL for binding (http://:1)"),
        (["URLS=unix://"], "WRONGURL names no socket: unix://"),
        (["URLS=" + "http://127.0.0.1:1," * URLS_MAX + "http://127.0.0.1:1"], "WRONGmore than 64"),
        (["--advertise-client-urls=http://:1"], "invalid value for --advertise-client-urls: unexpected empty host (http://:1)"),
        ([HTTPS], "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:2379 with HTTPS scheme"),
        (["URLS=unixs://a"], "TLS key/cert (--cert-file, --key-file) must be provided for client url unixs://a with HTTPS scheme"),
        (["--cert-file=c"], "KeyFile and CertFile must both be present[key: , cert: c]"),
        (["--key-file=k", "--auto-tls"], "KeyFile and CertFile must both be present[key: k, cert: ]"),
        ([*PAIR, "--client-cert-auth"], "--client-cert-auth needs --trusted-ca-file"),
        ([*PAIR, "--client-crl-file=x"], "--client-crl-file needs --trusted-ca-file"),
        ([*PAIR, "--client-cert-allowed-hostname=x"], "--client-cert-allowed-hostname needs --trusted-ca-file"),
        (["--auto-tls", "--self-signed-cert-validity=0"], "selfSignedCertValidity is invalid,it should be greater than 0"),
        (["--tls-min-version=TLS1.1"], 'unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3)'),
        (["--tls-max-version=1.3"], 'unexpected TLS version "1.3" (must be one of: TLS1.2, TLS1.3)'),
        (["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"], "min version (TLS1.3) is greater than max version (TLS1.2)"),
        (["--tls-min-version=TLS1.3", "--cipher-suites=x"], "cipher suites cannot be configured when only TLS1.3 is enabled"),
        (
            [SECURE_PEER, *PEERS, "--peer-cert-allowed-cn=a,b", "--peer-cert-allowed-hostname=h"],
            'AllowedCNs and AllowedHostnames are mutually exclusive (cns=["a" "b"], hostnames=["h"])',
        ),
        (
            [SECURE_PEER, *PEERS, "--peer-client-cert-file=x"],
            "ClientKeyFile and ClientCertFile must both be present or both absent: key: , cert: x]",
        ),
        ([SECURE_PEER, "--peer-auto-tls", "--peer-cert-allowed-cn=a"], "--peer-cert-allowed-cn needs --peer-trusted-ca-file"),
        ([SECURE_PEER, "--peer-auto-tls", "--peer-crl-file=a"], "--peer-crl-file needs --peer-trusted-ca-file"),
        (["--peer-auto-tls"], "TLS between members needs https in every peer URL: http://localhost:2380"),
        ([SECURE_PEER, "--peer-auto-tls", "--self-signed-cert-validity=0"], "selfSignedCertValidity is invalid"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_one_line(words: list[str], text: str) -> None:
    text = text.replace("WRONG", "invalid value for --listen-client-urls: ")
    with pytest.raises(ConfigError) as caught:
        config(*(word.replace("URLS=", "--listen-client-urls=") for word in words))
    assert caught.value.exit_code == 1
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)
