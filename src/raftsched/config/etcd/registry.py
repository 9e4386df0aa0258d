"""etcd's v3 discovery without the network: the keys of its registry, and the cluster that their values make.

Under /_etcd/registry/<token>/ stand `_config/size`, put there by whoever made the token, and `members/<id>` with `name=url,…`, put there
by each member. The first `size` members, by the revision that created their keys, are the cluster. Errors are DiscoveryError with
etcd's text. Must not know: who reads the keys, and when.
"""

import posixpath
import re
from typing import Final

from raftsched.config.etcd.bootstrap import Cluster
from raftsched.config.etcd.urls import Url, format_cluster, has_twice, parse_cluster
from raftsched.errors import ConfigError
from raftsched.limits import MEMBERS_MAX
from raftsched.units import INT64_MAX

ROOT: Final = "/_etcd/registry"
NO_SIZE: Final = "discovery: size key not found"
BAD_SIZE: Final = "discovery: size key is bad"
FULL: Final = "discovery: cluster is full"
BAD_URL: Final = "discovery: invalid peer URL"
_DIGITS_MAX: Final = 100
_NUMBER: Final = re.compile(rb"[+-]?[0-9]+")


class DiscoveryError(ConfigError):
    """Ends the start, whatever is tried again."""


def size_key(token: str) -> str:
    return posixpath.normpath(f"{ROOT}/{token}/_config/size")


def members_prefix(token: str) -> str:
    """Without a slash at its end, as etcd asks for it."""
    return posixpath.normpath(f"{ROOT}/{token}/members")


def member_key(token: str, member_id: int) -> str:
    return f"{members_prefix(token)}/{member_id:x}"


def parse_size(value: bytes | None) -> int:
    """Of the size key; None = it is not there. Raises DiscoveryError."""
    if value is None:
        raise DiscoveryError(NO_SIZE)
    if not _NUMBER.fullmatch(value) or len(value) > _DIGITS_MAX or not 0 < int(value) <= INT64_MAX:
        raise DiscoveryError(BAD_SIZE)
    return int(value)


class Found:
    """The members that were read so far, oldest first."""

    def __init__(self, token: str) -> None:
        self._prefix = members_prefix(token)
        self._members: dict[str, tuple[int, str]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def add(self, key: str, value: str, created: int) -> str:
        """Takes a pair of the registry in; "", or why it is passed over."""
        if not key.startswith(self._prefix):
            return "invalid peer registry key"
        if "=" not in value:
            return "invalid peer info returned from discovery service"
        if key in self._members:
            return "found duplicate peer from discovery service"
        self._members[key] = (created, value)
        return ""

    def check_room(self, own_key: str, size: int) -> None:
        """Raises DiscoveryError: `size` others were here before."""
        if len(self) >= size and own_key not in self._oldest(size):
            raise DiscoveryError(FULL)

    def text(self, size: int) -> str:
        """The cluster as --initial-cluster has it."""
        return ",".join(self._members[key][1] for key in self._oldest(size))

    def _oldest(self, size: int) -> list[str]:
        return sorted(self._members, key=lambda key: self._members[key][0])[:size]


def check_text(text: str) -> None:
    """Raises DiscoveryError."""
    try:
        parse_cluster(text)
    except ValueError:
        raise DiscoveryError(BAD_URL) from None


def founders_of(text: str, name: str, own: tuple[Url, ...]) -> Cluster:
    """The cluster that was found, this member (`own` are its peer URLs) in it. Raises ConfigError."""
    cluster = parse_cluster(text)
    if has_twice(cluster):
        raise ConfigError(f"discovery cluster {format_cluster(cluster)} has duplicate url")
    if len(cluster) > MEMBERS_MAX:
        raise ConfigError(f"discovery cluster has {len(cluster)} members, at most {MEMBERS_MAX} are possible")
    if sorted(map(str, cluster.get(name, ()))) != sorted(map(str, own)):  # etcd takes two for one member, which then are nobody
        shown = format_cluster(cluster)
        raise ConfigError(f'discovery cluster {shown} has another member of the name "{name}": each needs a --name of its own')
    sockets = [str(url) for urls in cluster.values() for url in urls if url.is_socket]
    if sockets:
        raise ConfigError(f"discovery cluster: {sockets[0]}: members do not meet on unix sockets")
    return cluster
