"""The flags about Sentry, identities and the scheduler API's certificate files: what they become, what does not fit together."""

from typing import Any

import pytest

from raftsched.cli.goflags import parse
from raftsched.config import ServeConfig, load
from raftsched.config.flags import FLAGS
from raftsched.config.sentry import SentryOptions
from raftsched.errors import ConfigError

MTLS = ("--tls-enabled", "--trust-anchors-file=/ca.crt")
LIST = "--etcd-initial-cluster=dapr-scheduler-server-0=https://a:1,dapr-scheduler-server-1=https://b:1"
OWN_FILES = ("--scheduler-cert-file=/c", "--scheduler-key-file=/k")


def config(*words: str, **environ: str) -> ServeConfig:
    return load(parse(words, FLAGS, {}), environ)


def refusal(*words: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config(*words, **environ)
    assert caught.value.exit_code == 1
    return str(caught.value)


def test_without_the_flag_there_is_no_mtls() -> None:
    made = config("--trust-anchors-file=/ca.crt", "--sentry-address=here:1")
    assert made.sentry is None
    assert made.scheduler_tls is None
    assert made.peers_by_identity is False


def test_defaults() -> None:
    expected = SentryOptions(
        "dapr-sentry.default.svc", 443, "localhost", "default", "dapr-scheduler", "/ca.crt", None, kubernetes=False, directory=None
    )
    assert config(*MTLS).sentry == expected


def test_everything_that_can_be_said() -> None:
    made = config(
        *MTLS,
        "--trust-domain=cluster.example",
        "--sentry-address=[::1]:5000",
        "--identity-directory-write=/id",
        NAMESPACE="dapr-system",
        DAPR_SENTRY_TOKEN_FILE="/token",
        SENTRY_LOCAL_IDENTITY="local",
    ).sentry
    assert made == SentryOptions(
        "::1", 5000, "cluster.example", "dapr-system", "local", "/ca.crt", "/token", kubernetes=False, directory="/id"
    )
    made = config(*MTLS, NAMESPACE="dapr-system").sentry
    assert made is not None
    assert (made.host, made.namespace) == ("dapr-sentry.dapr-system.svc", "dapr-system")


@pytest.mark.parametrize(
    ("words", "environ", "text"),
    [
        (["--tls-enabled"], {}, "trust anchors are required"),
        (["--tls-enabled", "--trust-anchors-file="], {}, "trust anchors are required"),
        ([*MTLS], {"DAPR_SENTRY_TOKEN_FILE": ""}, "environment variable DAPR_SENTRY_TOKEN_FILE is set to an empty string"),
        ([*MTLS, "--trust-domain="], {}, "invalid value for --trust-domain: : must be of a-z, 0-9, '.', '-' and '_'"),
        ([*MTLS, "--trust-domain=A/b"], {}, "invalid value for --trust-domain: A/b: must be of a-z, 0-9, '.', '-' and '_'"),
        *(
            ([*MTLS, f"--sentry-address={text}"], {}, f"invalid value for --sentry-address: {text}: must be <host>:<port>")
            for text in ("sentry", "sentry:", ":443", "sentry:0", "sentry:65536", "sentry:x", "::1:443", "[]:1")
        ),
        (
            [*MTLS, *OWN_FILES],
            {},
            "cannot use --scheduler-cert-file with --tls-enabled: Sentry's certificates are used",
        ),
        ([OWN_FILES[0]], {}, "--scheduler-cert-file and --scheduler-key-file need each other"),
        ([OWN_FILES[1]], {}, "--scheduler-cert-file and --scheduler-key-file need each other"),
        ([*OWN_FILES, "--scheduler-crl-file=/r"], {}, "--scheduler-crl-file needs --scheduler-trusted-ca-file"),
        ([*OWN_FILES, "--scheduler-client-cert-auth"], {}, "--scheduler-client-cert-auth needs --scheduler-trusted-ca-file"),
        (
            ["--scheduler-trusted-ca-file=/t"],
            {},
            "--scheduler-trusted-ca-file needs --scheduler-cert-file and --scheduler-key-file",
        ),
        ([*MTLS, f"{LIST},c=http://c:1"], {}, "TLS between members needs https in every peer URL: http://c:1"),
        (
            [*MTLS, LIST, "--peer-crl-file=/r"],
            {},
            "--peer-crl-file needs --peer-cert-file: with --tls-enabled members know each other by what Sentry signs",
        ),
        (
            [*MTLS, LIST, "--peer-cert-allowed-hostname=h"],
            {},
            "--peer-cert-allowed-hostname needs --peer-cert-file: with --tls-enabled members know each other by what Sentry signs",
        ),
        ([LIST], {}, "a peer URL with https (https://a:1) needs mTLS: --peer-cert-file, --peer-key-file, --peer-trusted-ca-file"),
    ],
)
def test_what_does_not_fit_together_is_one_line(words: list[str], environ: dict[str, Any], text: str) -> None:
    assert refusal(*words, **environ) == text


def test_members_use_what_sentry_signs_unless_they_have_files() -> None:
    made = config(*MTLS, LIST)
    assert (made.peers_by_identity, made.peer_tls) == (True, None)
    files = ("--peer-cert-file=/c", "--peer-key-file=/k", "--peer-trusted-ca-file=/t")
    made = config(*MTLS, LIST, *files)
    assert made.peers_by_identity is False
    assert made.peer_tls is not None
    made = config(*MTLS, "--etcd-initial-cluster=dapr-scheduler-server-0=http://a:1")
    assert (made.peers_by_identity, made.peer_tls) == (False, None)


def test_certificate_files_of_the_scheduler_api() -> None:
    made = config(
        *OWN_FILES, "--scheduler-trusted-ca-file=/t", "--scheduler-crl-file=/r", "--scheduler-client-cert-auth", "--tls-min-version=TLS1.3"
    )
    assert made.scheduler_tls is not None
    found = made.scheduler_tls
    assert (found.cert_file, found.key_file, found.trusted_ca_file, found.crl_file) == ("/c", "/k", "/t", "/r")
    assert found.min_version == "TLS1.3"
    assert made.scheduler_client_cert_auth is True
    assert made.sentry is None


def test_the_etcd_api_stays_in_clear_text() -> None:
    assert config(*MTLS).client_tls is None
    assert all(not one.secure for one in config(*MTLS).client_listeners)
