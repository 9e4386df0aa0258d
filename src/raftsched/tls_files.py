"""From the options of TLS to what the listeners and the transport ask for; certificates of our own making are made here."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from raftsched.config.tls import TlsOptions
from raftsched.ports import Log
from raftsched.security.guard import ListenerFiles, ListenerGuard
from raftsched.security.names import AllowedNames
from raftsched.security.selfsigned import self_signed_pair
from raftsched.security.suites import check_suites
from raftsched.store.transport.tls import PeerTls


def client_guard(options: TlsOptions, fixtures: Path, log: Log) -> ListenerGuard:
    """Of the listeners with TLS. `fixtures`: where certificates of our own making are kept. ConfigError."""
    check_suites(options.cipher_suites)
    return ListenerGuard(_files(options, fixtures / "client", log), log)


def scheduler_guard(options: TlsOptions, log: Log) -> ListenerGuard:
    """Of the scheduler API, without Sentry. ConfigError."""
    check_suites(options.cipher_suites)
    return ListenerGuard(_files(options, Path(), log), log, side="scheduler")


def peer_files(options: TlsOptions, fixtures: Path, log: Log) -> PeerTls:
    """The same between members. ConfigError."""
    files = _files(options, fixtures / "peer", log)
    own: dict[str, Any] = {
        "client_cert_file": options.client_cert_file,
        "client_key_file": options.client_key_file,
        "verify": not options.self_signed_years,
    }
    return PeerTls(**{one.name: getattr(files, one.name) for one in fields(files)}, **own)


def _files(options: TlsOptions, directory: Path, log: Log) -> ListenerFiles:
    certificate, key = _pair(options, directory, log)
    return ListenerFiles(
        certificate,
        key,
        options.trusted_ca_file,
        options.client_cert_auth,
        options.crl_file,
        AllowedNames(options.allowed_cns, options.allowed_hostnames),
        options.cipher_suites,
        options.min_version,
        options.max_version,
    )


def _pair(options: TlsOptions, directory: Path, log: Log) -> tuple[str, str]:
    if not options.self_signed_years:
        return options.cert_file, options.key_file
    certificate, key, new = self_signed_pair(directory, options.self_signed_hosts, options.self_signed_years)
    if new:
        log.warning("automatically generated certificates", directory=str(directory), years=options.self_signed_years)
    return certificate, key
