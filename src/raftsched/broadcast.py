"""The address that a scheduler announces to others (spec/scheduler.md §2.4).

Must not know: flags; what is advertised verbatim or depends on the listen address comes in as arguments.
"""

import ipaddress
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from raftsched.errors import ConfigError

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})
# Addresses of documentation networks: nothing is sent, the kernel only chooses the interface that would be used.
PROBES: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
CARRIER_NAT: Final = ipaddress.ip_network("100.64.0.0/10")
DUAL_STACK_LITE: Final = ipaddress.ip_network("192.0.0.0/29")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def broadcast_address(
    *,
    override: str | None,
    listen_address: str,
    port: int,
    environment: Mapping[str, str],
    host_address: Callable[[], str] | None = None,
) -> str:
    """host:port for WatchHosts. `override` counts whenever it is given, even if empty. ConfigError when the host has no address."""
    if override is not None:
        return override
    if listen_address in LOOPBACK_NAMES:
        return f"{listen_address}:{port}"
    host = environment.get("DAPR_HOST_IP") or (host_address or find_host_address)()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def find_host_address() -> str:
    """The local address of a socket that would leave this host, else the best address of an interface."""
    for family, target in PROBES:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 80))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    found = best_address(interface_addresses())
    if found is None:
        raise ConfigError("could not determine host IP address")
    return found


def interface_addresses() -> list[str]:
    """What the host's own name resolves to: without a route this is all that the standard library tells."""
    try:
        return [str(row[4][0]) for row in socket.getaddrinfo(socket.gethostname(), None)]
    except OSError:
        return []


def best_address(addresses: Iterable[str]) -> str | None:
    """Public IPv4, global IPv6, private or carrier-grade IPv4, unique-local IPv6, link-local last; never loopback."""
    ranked = [(rank, text) for text in addresses if (rank := _rank(ipaddress.ip_address(text.partition("%")[0]))) is not None]
    return min(ranked, key=lambda pair: pair[0])[1] if ranked else None


def _rank(address: Address) -> int | None:
    if address.is_loopback or address.is_unspecified or address.is_multicast or address in DUAL_STACK_LITE:
        return None
    if address.is_link_local:
        return 4
    private = address.is_private or address in CARRIER_NAT
    if address.version == 4:
        return 2 if private else 0
    return 3 if private else 1
