"""How the scheduler API is guarded: by identities that Sentry signs, by certificate files, or not at all.

Invariant: at most one of the two, and what identities need is there. Texts are the contract's where it has one (spec/scheduler.md §2.1,
§2.2, §2.7). Must not know: whether a file is there, who answers at an address.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from raftsched.config.tls import TlsOptions, limits_of
from raftsched.errors import ConfigError

APP_ID: Final = "dapr-scheduler"
PEER_DOMAIN: Final = "dapr-scheduler-server"  # of the DNS names that Sentry adds to that app id
TOKEN_FILES: Final = ("/var/run/secrets/dapr.io/sentrytoken/token", "/var/run/secrets/kubernetes.io/serviceaccount/token")
PORT_MAX: Final = 65_535
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}")
_FILES: Final = ("scheduler-cert-file", "scheduler-key-file", "scheduler-trusted-ca-file", "scheduler-crl-file")


@dataclass(frozen=True, slots=True)
class SentryOptions:
    """What is asked of Sentry, and where."""

    host: str
    port: int
    trust_domain: str
    namespace: str
    """Of the control plane: ours and Sentry's."""
    app_id: str
    anchors_file: str
    token_file: str | None
    """DAPR_SENTRY_TOKEN_FILE; None = not set."""
    kubernetes: bool
    directory: str | None
    """Where identity files are written; None = nowhere."""


def sentry_options(options: Mapping[str, Any], environ: Mapping[str, str]) -> SentryOptions | None:
    """None without --tls-enabled, which kubernetes mode implies. Raises ConfigError."""
    kubernetes = options["mode"] == "kubernetes"
    if not options["tls_enabled"] and not kubernetes:
        return None
    for name in _FILES:
        if options[name.replace("-", "_")]:
            raise ConfigError(f"cannot use --{name} with --tls-enabled: Sentry's certificates are used")
    if not options["trust_anchors_file"]:
        raise ConfigError("trust anchors are required")
    if not _TRUST_DOMAIN.fullmatch(options["trust_domain"]):
        raise ConfigError(f"invalid value for --trust-domain: {options['trust_domain']}: must be of a-z, 0-9, '.', '-' and '_'")
    token_file = environ.get("DAPR_SENTRY_TOKEN_FILE")
    if token_file is not None and not token_file:
        raise ConfigError("environment variable DAPR_SENTRY_TOKEN_FILE is set to an empty string")
    namespace = environ.get("NAMESPACE", "default")
    host, port = _address(options["sentry_address"] or f"dapr-sentry.{namespace}.svc:443")
    return SentryOptions(
        host,
        port,
        options["trust_domain"],
        namespace,
        environ.get("SENTRY_LOCAL_IDENTITY") or APP_ID,
        options["trust_anchors_file"],
        token_file,
        kubernetes,
        options["identity_directory_write"] or None,
    )


def _address(text: str) -> tuple[str, int]:
    host, separator, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not separator or not bare or (":" in bare and bare == host) or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) <= PORT_MAX:
        raise ConfigError(f"invalid value for --sentry-address: {text}: must be <host>:<port>")
    return bare, int(port)


def scheduler_tls(options: Mapping[str, Any]) -> TlsOptions | None:
    """Of certificate files; None without any. Raises ConfigError."""
    certificate, key, authority, crl = (options[name.replace("-", "_")] for name in _FILES)
    if bool(certificate) != bool(key):
        raise ConfigError("--scheduler-cert-file and --scheduler-key-file need each other")
    for name, value in (("--scheduler-crl-file", crl), ("--scheduler-client-cert-auth", options["scheduler_client_cert_auth"])):
        if value and not authority:
            raise ConfigError(f"{name} needs --scheduler-trusted-ca-file")
    if authority and not certificate:
        raise ConfigError("--scheduler-trusted-ca-file needs --scheduler-cert-file and --scheduler-key-file")
    if not certificate:
        return None
    return TlsOptions(cert_file=certificate, key_file=key, trusted_ca_file=authority, crl_file=crl, **limits_of(options))
