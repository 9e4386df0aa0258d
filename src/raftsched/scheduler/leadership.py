"""The leadership key (spec §6.2): who the replicas are, and which jobs are whose.

Invariant: at most one lease of this scheduler is alive, and its key carries the number of replicas that it sees. A partition
holds only while every key carries the number of keys.
Must not know: jobs, the engine, gRPC.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from raftsched.errors import StatusError
from raftsched.limits import LEADERSHIP_LEASE_TTL_S, STORE_RETRY_MS_MAX, STORE_RETRY_MS_MIN
from raftsched.ports import KvClient, Log
from raftsched.scheduler.jobs._jobs import WireError, parse_kv, parse_leadership, range_kvs, txn_succeeded
from raftsched.scheduler.jobs.names import LEADERSHIP, prefix_end
from raftsched.scheduler.jobs.requests import create_request, leadership_value, range_request, remove_request, replace_request
from raftsched.types import Change

REVOKE_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Partition:
    """What all replicas agree on: this one owns partition_id % total == index."""

    total: int
    index: int
    hosts: tuple[str, ...]
    """Broadcast addresses, sorted."""


class Leadership:
    """Claims the key, keeps its lease, watches the others. `on_partition(None)`: no agreement, or no key of our own."""

    def __init__(
        self, kv: KvClient, *, scheduler_id: str, address: str, uid: int, log: Log, on_partition: Callable[[Partition | None], None]
    ) -> None:
        self._kv = kv
        self._key = LEADERSHIP + scheduler_id.encode()
        self._address = address
        self._uid = uid
        self._log = log
        self._on_partition = on_partition
        self._keys: dict[bytes, tuple[int, bytes]] = {}  # key -> (revision, value)
        self._told: list[list[Change]] = []  # per reading under way: what was told since it began
        self._lease = 0
        self._stop_renewing: Callable[[], None] | None = None
        self._partition: Partition | None = None
        self._changed = asyncio.Event()
        self._stopping = False

    @property
    def partition(self) -> Partition | None:
        return self._partition

    async def run(self) -> None:
        """Until cancelled: claims the key whenever it is not ours, and follows the number of replicas."""
        delay_ms = STORE_RETRY_MS_MIN
        while True:
            self._changed.clear()
            try:
                again = await self._step()
                delay_ms = STORE_RETRY_MS_MIN
            except StatusError as error:
                self._log.warning(f"leadership key could not be written, trying again: {error.message}")
                await asyncio.sleep(delay_ms / 1000)
                delay_ms = min(delay_ms * 2, STORE_RETRY_MS_MAX)
                continue
            if not again:
                await self._changed.wait()

    async def _step(self) -> bool:
        """Does what is missing; True = look again at once."""
        if not self._holds_key():
            return await self._claim()
        if not self._agrees():
            await self._follow()
            return True
        return False

    async def stop(self) -> None:
        """Revokes the lease, so that the others take over at once; gives up after 5 s."""
        self._stopping = True
        self._decide()
        if not self._lease:
            return
        if self._stop_renewing is not None:
            self._stop_renewing()
        try:
            await asyncio.wait_for(self._kv.lease_revoke(self._lease), REVOKE_TIMEOUT_S)
        except (TimeoutError, StatusError) as error:
            self._log.warning(f"leadership lease could not be revoked, it ends by itself: {error}")

    # -- what the store says
    def on_changes(self, changes: Sequence[Change]) -> None:
        """Changes under dapr/leadership/."""
        for told in self._told:
            told.extend(changes)
        self._note(changes)
        self._decide()
        self._changed.set()

    def _note(self, changes: Sequence[Change]) -> None:
        for change in changes:
            known = self._keys.get(change.key)
            if known is not None and known[0] >= change.main:
                continue
            if change.deleted:
                self._keys.pop(change.key, None)
            else:
                self._keys[change.key] = (change.main, parse_kv(change.record)[1])

    async def resync(self) -> None:
        """After the history was lost: reads all keys, and looks again at what is to be done."""
        await self._reload()
        self._changed.set()

    async def _reload(self) -> None:
        """Reads all keys anew. The answer may be older than what is told while it is on its way: that is put on top."""
        told: list[Change] = []
        self._told.append(told)
        try:
            read, body = await self._kv.range(range_request(LEADERSHIP, prefix_end(LEADERSHIP)))
        finally:
            self._told = [other for other in self._told if other is not told]
        self._keys = {key: (revision, value) for key, value, revision, _ in range_kvs(body)}
        self._note([change for change in told if change.main > read])
        self._decide()

    def _decide(self) -> None:
        partition = None if self._stopping or not self._holds_key() else self._agreed()
        if partition != self._partition:
            self._partition = partition
            self._on_partition(partition)

    def _agreed(self) -> Partition | None:
        total = len(self._keys)
        hosts = []
        for _, value in self._keys.values():
            try:
                carried, _, address = parse_leadership(value)
            except WireError:
                return None
            if carried != total:
                return None
            hosts.append(address)
        return Partition(total, sorted(self._keys).index(self._key), tuple(sorted(hosts)))

    def _holds_key(self) -> bool:
        if not self._lease or self._key not in self._keys:
            return False
        try:
            return parse_leadership(self._keys[self._key][1])[1] == self._uid
        except WireError:
            return False

    def _agrees(self) -> bool:
        return parse_leadership(self._keys[self._key][1])[0] == len(self._keys)

    # -- what is written
    async def _claim(self) -> bool:
        """False: somebody else holds the key; its end wakes us."""
        await self._drop_lease()
        await self._reload()
        if self._key in self._keys and not await self._clear_own_key():
            return False
        lease = await self._kv.lease_grant(LEADERSHIP_LEASE_TTL_S)
        self._lease = lease
        self._stop_renewing = self._kv.lease_keep_alive(lease, self._on_lease_lost)  # first: the answer below may be lost
        total = len(self._keys.keys() | {self._key})
        _, body = await self._kv.txn(create_request(self._key, leadership_value(total, self._uid, self._address), lease))
        if not txn_succeeded(body):
            return True
        await self._reload()
        return True

    async def _clear_own_key(self) -> bool:
        """Somebody else wrote it: an older incarnation, or a hand. It goes if it is provably ours; else its end is awaited
        (up to 20 s)."""
        if not self._kv.owns_directory():
            return False
        _, body = await self._kv.range(range_request(self._key))
        for _, value, _, lease in range_kvs(body):
            if lease:
                await self._kv.lease_revoke(lease)
            else:
                await self._kv.txn(remove_request(self._key, value))
        await self._reload()
        return self._key not in self._keys

    async def _follow(self) -> None:
        old = self._keys[self._key][1]
        await self._kv.txn(replace_request(self._key, old, leadership_value(len(self._keys), self._uid, self._address), self._lease))
        await self._reload()

    async def _drop_lease(self) -> None:
        lease, self._lease = self._lease, 0
        if self._stop_renewing is not None:
            self._stop_renewing()
            self._stop_renewing = None
        if lease:
            await self._kv.lease_revoke(lease)

    def _on_lease_lost(self) -> None:
        self._log.warning("leadership lease lost, claiming the key again")
        self._lease = 0
        self._stop_renewing = None
        self._decide()
        self._changed.set()
