"""etcd's discovery by SRV records without the network: which cluster the records make.

Each record is a member. This one is known by its address, others are called 0, 1, … for now: each member tells its name when it has
started. Errors are ConfigError with etcd's text. Must not know: how records and addresses are asked for.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from raftsched.config.etcd.urls import Url
from raftsched.errors import ConfigError

SERVICES: Final = (("https", "etcd-server-ssl"), ("http", "etcd-server"))
"""Scheme and service, in the order in which etcd asks."""


class Record(NamedTuple):
    """One SRV record; `target` may have a dot at its end."""

    priority: int
    weight: int
    port: int
    target: str


Address = tuple[str, int]
ToAddress = Callable[[str, int], Address]
"""Host and port -> IP address and port; raises OSError: the host has none."""


def service_name(service: str, suffix: str) -> str:
    """`suffix`: --discovery-srv-name."""
    return f"{service}-{suffix}" if suffix else service


def own_places(urls: Iterable[Url], to_address: ToAddress) -> dict[Address, Url]:
    """Where this member says that it is. Raises OSError."""
    return {to_address(*url.host_port): url for url in urls}


def entries(
    scheme: str, service: str, records: Iterable[Record], name: str, own: Mapping[Address, Url], to_address: ToAddress
) -> list[str]:
    """NAME=URL for each record of one service. Raises OSError or ConfigError: there is not one, for the last reason that was met."""
    found: list[str] = []
    failed: Exception | None = None
    number = 0
    for record in sorted(records, key=lambda one: (one.priority, -one.weight, one.target, one.port)):
        try:
            url = own.get(to_address(record.target, record.port))
        except OSError as error:
            failed = error
            continue
        is_own = url is not None and bool(name)
        called = name if is_own else str(number)
        number += not is_own
        place = f"{scheme}://{_joined(record.target.removesuffix('.'), record.port)}"
        if url is not None and url.scheme != scheme:
            failed = ConfigError(f"bootstrap at {place} from DNS for {service} has scheme mismatch with expected peer {url}")
        else:
            found.append(f"{called}={place}")
    if not found and failed is not None:
        raise failed
    return found


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
