"""Which kinds of requests a cluster may write into its log.

Each kind came with a version. Who is older cannot apply it, and would go on with a state of its own; so nobody proposes a kind before the
cluster's version, which is at most the lowest of its members', says that all know it. The version comes through the log, falls only for a
downgrade that the operator asked for, and is ahead of every request that it allows: whoever applies one knows it, or is older than its
cluster and must stop (store/apply.py).
What changes the meaning of an older kind, a field of its message too, needs a kind of its own.
Must not know: how versions are agreed on.
"""

from collections.abc import Mapping
from typing import Final

from raftsched import proposals

FIRST: Final = "3.0.0"
"""Of a cluster whose members' versions are not all known yet, as in etcd."""

SINCE: Final[Mapping[int, str]] = {
    proposals.PUT: FIRST,
    proposals.DELETE_RANGE: FIRST,
    proposals.TXN: FIRST,
    proposals.COMPACTION: FIRST,
    proposals.LEASE_GRANT: FIRST,
    proposals.LEASE_REVOKE: FIRST,
    proposals.ALARM: FIRST,
    proposals.AUTH_ENABLE: FIRST,  # as in etcd: its capability "auth" comes with 3.0
    proposals.AUTH_DISABLE: FIRST,
    proposals.AUTHENTICATE: FIRST,
    proposals.AUTH_USER_ADD: FIRST,
    proposals.AUTH_USER_DELETE: FIRST,
    proposals.AUTH_USER_CHANGE_PASSWORD: FIRST,
    proposals.AUTH_USER_GRANT_ROLE: FIRST,
    proposals.AUTH_USER_REVOKE_ROLE: FIRST,
    proposals.AUTH_ROLE_ADD: FIRST,
    proposals.AUTH_ROLE_DELETE: FIRST,
    proposals.AUTH_ROLE_GRANT_PERMISSION: FIRST,
    proposals.AUTH_ROLE_REVOKE_PERMISSION: FIRST,
    proposals.CLUSTER_VERSION_SET: FIRST,
    proposals.MEMBER_ATTRIBUTES_SET: FIRST,
    proposals.DOWNGRADE_INFO_SET: "3.5.0",  # as in etcd
}
"""The lowest version of a cluster in which a kind may be written. FIRST: every member that ever was knows it."""


def version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


class Gate:
    """What may be proposed; one look-up per batch."""

    def __init__(self, since: Mapping[int, str] = SINCE) -> None:
        self._since = since
        self._version = FIRST
        self._open = self._allowed(FIRST)

    def open(self, version: str) -> frozenset[int]:
        """The kinds that a cluster of this version may write; "" = not decided yet, which is FIRST."""
        if version != self._version:
            self._version, self._open = version, self._allowed(version or FIRST)
        return self._open

    def _allowed(self, version: str) -> frozenset[int]:
        return frozenset(kind for kind, since in self._since.items() if version_key(since) <= version_key(version))
