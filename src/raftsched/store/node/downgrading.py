"""Maintenance.Downgrade: checks a request against what the cluster is now, and writes the job into the log.

Must not know: what a downgrade changes (`upkeep` at the leader, store/downgrade.py).
"""

from collections.abc import Awaitable, Callable
from typing import Final

from raftsched import proposals
from raftsched.errors import EtcdError, status_of
from raftsched.store.downgrade import check_target, parse_target
from raftsched.store.membership import Membership, encode_downgrade

VALIDATE: Final = 0
ENABLE: Final = 1
CANCEL: Final = 2


class Downgrading:
    """Of one member; it may be any."""

    def __init__(
        self, membership: Membership, barrier: Callable[[], Awaitable[None]], propose: Callable[[int, bytes], Awaitable[int]]
    ) -> None:
        """`propose(kind, message)`: the error of the answer."""
        self._membership = membership
        self._barrier = barrier
        self._propose = propose

    async def ask(self, action: int, version: str) -> str:
        """See `ports.MemberNode.downgrade`."""
        if action == CANCEL:
            return await self._set("")
        if action not in (VALIDATE, ENABLE):
            raise status_of(EtcdError.UNKNOWN_METHOD)
        target = parse_target(version)
        if not target:
            raise status_of(EtcdError.BAD_DOWNGRADE_VERSION)
        await self._barrier()
        if error := check_target(target, self._cluster_version(), self._membership.downgrade_target):
            raise status_of(error)
        return await self._set(target) if action == ENABLE else self._cluster_version()

    def _cluster_version(self) -> str:
        if not self._membership.cluster_version:
            raise status_of(EtcdError.CLUSTER_VERSION_UNAVAILABLE)
        return self._membership.cluster_version

    async def _set(self, target: str) -> str:
        """The job is written; the cluster's version when it was asked for."""
        version = self._cluster_version()
        if error := await self._propose(proposals.DOWNGRADE_INFO_SET, encode_downgrade(target)):
            raise status_of(error)
        return version
