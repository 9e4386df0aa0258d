"""Whose certificate is good enough: lists of names, compared as Go compares them (crypto/x509, VerifyHostname).

Must not know: where a certificate comes from; it is verified already.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

Certificate = Mapping[str, Any]
"""As `ssl.SSLSocket.getpeercert` gives it."""


@dataclass(frozen=True, slots=True)
class AllowedNames:
    """One of the common names or, of the alternative names, one of the hosts; nothing listed = everybody."""

    common_names: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    """Names and IP addresses."""

    def __bool__(self) -> bool:
        return bool(self.common_names or self.hosts)

    def allow(self, certificate: Certificate | None) -> bool:
        """Whether the holder may come in."""
        if not self:
            return True
        if not certificate:
            return False
        if self.common_names and common_name(certificate) not in self.common_names:
            return False
        return not self.hosts or any(is_for(certificate, host) for host in self.hosts)


def common_name(certificate: Certificate) -> str:
    """Of the subject, the last one; "" if it has none."""
    names = [value for group in certificate.get("subject", ()) for key, value in group if key == "commonName"]
    return str(names[-1]) if names else ""


def is_for(certificate: Certificate, host: str) -> bool:
    """Whether `host`, a name or an IP address, is one of the alternative names. A `*` stands for one whole first label."""
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]") if host.startswith("[") else host)
    except ValueError:
        return any(_matches(pattern, host) for pattern in _alternatives(certificate, "DNS"))
    return any(ip_address(one.strip()) == address for one in _alternatives(certificate, "IP Address"))


def _alternatives(certificate: Certificate, kind: str) -> Iterator[str]:
    return (value for found, value in certificate.get("subjectAltName", ()) if found == kind)


def _matches(pattern: str, host: str) -> bool:
    wanted, shown = host.removesuffix(".").lower().split("."), pattern.lower().split(".")
    if not wanted[0] or wanted[1:] != shown[1:]:
        return False
    return shown[0] in {"*", wanted[0]}
