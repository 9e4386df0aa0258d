"""How TLS is spoken with clients and between members: etcd's flags, with etcd's texts.

Invariant: a certificate is demanded, or judged by its name, only where there is an authority to verify it.
Must not know: whether a file is there, what OpenSSL can do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from raftsched.errors import ConfigError

VERSIONS: Final = ("", "TLS1.2", "TLS1.3")
CLIENT_FLAGS: Final = ("--client-cert-auth", "--client-crl-file", "--client-cert-allowed-hostname")
PEER_FLAGS: Final = ("--peer-client-cert-auth", "--peer-crl-file", "--peer-cert-allowed-hostname", "--peer-cert-allowed-cn")


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """The options of one side, clients or members. "" = no such file."""

    cert_file: str = ""
    key_file: str = ""
    trusted_ca_file: str = ""
    client_cert_auth: bool = False
    crl_file: str = ""
    allowed_cns: tuple[str, ...] = ()
    allowed_hostnames: tuple[str, ...] = ()
    client_cert_file: str = ""
    """Members: shown to who is dialled."""
    client_key_file: str = ""
    cipher_suites: tuple[str, ...] = ()
    min_version: str = ""
    max_version: str = ""
    self_signed_hosts: tuple[str, ...] = ()
    self_signed_years: int = 0
    """0 = the files are given; else they are made, for those hosts, in the data directory."""


def client_tls(options: Mapping[str, Any], hosts: tuple[str, ...], secure_url: str) -> TlsOptions | None:
    """None without any certificate. `hosts` are where clients are served, `secure_url` is one with TLS, "" = none is. Raises
    ConfigError."""
    made = TlsOptions(
        cert_file=options["cert_file"],
        key_file=options["key_file"],
        trusted_ca_file=options["trusted_ca_file"],
        client_cert_auth=options["client_cert_auth"],
        crl_file=options["client_crl_file"],
        allowed_hostnames=options["client_cert_allowed_hostname"],
        self_signed_hosts=hosts,
        self_signed_years=_years(options, "auto_tls", "cert_file", "key_file"),
        **limits_of(options),
    )
    _check_pair(made.cert_file, made.key_file)
    if not made.cert_file and not made.self_signed_years:
        if secure_url:
            raise ConfigError(f"TLS key/cert (--cert-file, --key-file) must be provided for client url {secure_url} with HTTPS scheme")
        return None
    if secure_url:
        _need_authority(made, "--trusted-ca-file", CLIENT_FLAGS)
    return made


def _need_authority(made: TlsOptions, authority: str, flags: Sequence[str]) -> None:
    """Raises ConfigError: etcd takes the system's authorities for --client-cert-auth alone, so that whoever has bought a certificate
    anywhere may come in, and does without what else is demanded."""
    for flag, value in zip(flags, (made.client_cert_auth, made.crl_file, made.allowed_hostnames, made.allowed_cns), strict=False):
        if value and not made.trusted_ca_file:
            raise ConfigError(f"{flag} needs {authority}")


def limits_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """--cipher-suites and --tls-*-version, which hold on both sides. Raises ConfigError."""
    low, high, suites = options["tls_min_version"], options["tls_max_version"], options["cipher_suites"]
    for version in (low, high):
        if version not in VERSIONS:
            raise ConfigError(f'unexpected TLS version "{version}" (must be one of: TLS1.2, TLS1.3)')
    if high and low > high:
        raise ConfigError(f"min version ({low}) is greater than max version ({high})")
    if low == "TLS1.3" and suites:
        raise ConfigError("cipher suites cannot be configured when only TLS1.3 is enabled")
    return {"cipher_suites": suites, "min_version": low, "max_version": high}


def _years(options: Mapping[str, Any], flag: str, certificate: str, key: str) -> int:
    """Certificates that are given come before those that could be made. Raises ConfigError."""
    if not options[flag] or options[certificate] or options[key]:
        return 0
    if not options["self_signed_cert_validity"]:
        raise ConfigError("selfSignedCertValidity is invalid,it should be greater than 0")
    return int(options["self_signed_cert_validity"])


def _check_pair(certificate: str, key: str) -> None:
    if bool(certificate) != bool(key):
        raise ConfigError(f"KeyFile and CertFile must both be present[key: {key}, cert: {certificate}]")


def peer_options(options: Mapping[str, Any], host: str) -> TlsOptions:
    """Of members; `host` is where this one listens. Raises ConfigError."""
    made = TlsOptions(
        cert_file=options["peer_cert_file"],
        key_file=options["peer_key_file"],
        trusted_ca_file=options["peer_trusted_ca_file"],
        client_cert_auth=options["peer_client_cert_auth"],
        crl_file=options["peer_crl_file"],
        allowed_cns=options["peer_cert_allowed_cn"],
        allowed_hostnames=options["peer_cert_allowed_hostname"],
        client_cert_file=options["peer_client_cert_file"],
        client_key_file=options["peer_client_key_file"],
        self_signed_hosts=(host,) if host else (),
        self_signed_years=_years(options, "peer_auto_tls", "peer_cert_file", "peer_key_file"),
        **limits_of(options),
    )
    if bool(made.client_cert_file) != bool(made.client_key_file):
        shown = f"key: {made.client_key_file}, cert: {made.client_cert_file}]"
        raise ConfigError(f"ClientKeyFile and ClientCertFile must both be present or both absent: {shown}")
    if made.allowed_cns and made.allowed_hostnames:
        names, hosts = ('["' + '" "'.join(one) + '"]' for one in (made.allowed_cns, made.allowed_hostnames))
        raise ConfigError(f"AllowedCNs and AllowedHostnames are mutually exclusive (cns={names}, hostnames={hosts})")
    _need_authority(made, "--peer-trusted-ca-file", PEER_FLAGS)
    return made
