"""The leadership key (spec §6.2): claims it, keeps its lease, follows the others, and hands jobs over.

The steps of a handover, each at the revision at which it is seen (docs/cluster.md, "Scheduler"):

1. The set of keys changes. At once: fire only what is in the former *and* in the new partition. Nothing else stops.
2. Await the results of what was sent of the lost jobs, at most 200 ms. Then write the own key for the new set.
3. All keys are written for this set: fire the new partition.

Invariant: at most one lease of this scheduler is alive. Whose key is written for a set fires nothing that another has in it. Who
gains jobs of a key that vanished without being given up waits until its owner's fence is over.
Must not know: jobs, the engine, gRPC.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from raftsched.errors import StatusError
from raftsched.limits import (
    ALONE_POLL_MS,
    FENCE_ALONE_MS,
    FENCE_ELECTED_MS,
    LEADERSHIP_LEASE_TTL_S,
    SILENCE_POLL_MS,
    STORE_RETRY_MS_MAX,
    STORE_RETRY_MS_MIN,
)
from raftsched.ports import KvClient, Log
from raftsched.scheduler.jobs._jobs import range_kvs, txn_succeeded
from raftsched.scheduler.jobs.names import LEADERSHIP, prefix_end
from raftsched.scheduler.jobs.requests import (
    create_request,
    follow_request,
    leadership_value,
    range_request,
    remove_request,
    replace_request,
)
from raftsched.scheduler.replicas import GIVEN_UP, Key, Replicas
from raftsched.types import Change

REVOKE_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Partition:
    """What all replicas agree on: this one owns partition_id % total == index."""

    total: int
    index: int
    hosts: tuple[str, ...]
    """Broadcast addresses, sorted."""


class Firing(Protocol):
    """Who fires: the service."""

    def own(self, partition: Partition) -> None:
        """All agree: this partition, and nothing else."""

    def narrow(self, total: int, index: int) -> None:
        """From now on only what is in this partition too."""

    def disown(self) -> None:
        """From now on nothing."""

    async def results(self) -> None:
        """Done when what was sent of jobs not owned any more is answered and stored; after 200 ms in any case."""


class Leadership:
    """See the module's text. `run` and `bury` are tasks; the rest are calls on the loop's thread."""

    def __init__(self, kv: KvClient, *, scheduler_id: str, address: str, uid: int, log: Log, firing: Firing) -> None:
        self._kv = kv
        self._key = LEADERSHIP + scheduler_id.encode()
        self._address = address
        self._uid = uid
        self._log = log
        self._firing = firing
        self._replicas = Replicas(self._key, uid, shared=kv.shared())
        self._told: list[list[Change]] = []  # per reading under way: what was told since it began
        self._lease = 0
        self._stop_renewing: Callable[[], None] | None = None
        self._partition: Partition | None = None
        self._narrowed = False
        self._hold: asyncio.TimerHandle | None = None
        self._known = False
        self._changed = asyncio.Event()
        self._stopping = False

    @property
    def partition(self) -> Partition | None:
        """What is fired, less what a handover under way has taken from it; None = nothing."""
        return self._partition

    async def run(self) -> None:
        """Until cancelled: claims the key whenever it is not ours, and follows the number of replicas."""
        delay_ms = STORE_RETRY_MS_MIN
        while True:
            self._changed.clear()
            try:
                again = await self._step()
                delay_ms = STORE_RETRY_MS_MIN
            except Exception as error:  # a fault of ours, too: nobody else claims the key
                reason = error.message if isinstance(error, StatusError) else repr(error)
                self._log.warning(f"leadership key could not be written, trying again: {reason}")
                await asyncio.sleep(delay_ms / 1000)
                delay_ms = min(delay_ms * 2, STORE_RETRY_MS_MAX)
                continue
            if not again:
                await self._changed.wait()

    async def _step(self) -> bool:
        """Does what is missing; True = look again at once."""
        if self._stopping:
            return False
        own = self._own()
        if own is None:
            return await self._claim()
        if not self._replicas.is_for_this_set(own):
            await self._follow(own)
            return True
        return False

    # -- the end
    def retire(self) -> None:
        """Fires nothing any more, and claims nothing."""
        self._stopping = True
        self._decide()

    async def stop(self) -> None:
        """After `retire` and the last results: gives the key up, so that the others take over at once; takes at most 5 s. `run` and
        `bury` have ended."""
        self.retire()
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
        if not self._lease:
            return
        if self._stop_renewing is not None:
            self._stop_renewing()
        try:
            async with asyncio.timeout(REVOKE_TIMEOUT_S):
                if (own := self._own()) is not None and len(self._replicas.keys) > 1:
                    await self._give_up(self._key, own)
                await self._kv.lease_revoke(self._lease)
        except (TimeoutError, StatusError) as error:
            self._log.warning(f"leadership lease could not be revoked, it ends by itself: {error}")
        finally:
            self._lease, self._stop_renewing = 0, None

    def resume(self) -> None:
        """After `retire`, or `stop`: takes part again, once `run` runs."""
        self._stopping = False
        self._known = False  # `stop` gives a hold up
        self._decide()  # what is held still, if there was no `stop`
        self._changed.set()

    async def _give_up(self, key: bytes, held: Key) -> bool:
        """Writes that the key's owner fires nothing; True = so it is, if nobody wrote it meanwhile."""
        value = leadership_value(GIVEN_UP, held.uid, held.address)
        _, body = await self._kv.txn(replace_request(key, held.value, value, held.lease))
        return txn_succeeded(body)

    # -- what the store says
    def on_changes(self, changes: Sequence[Change]) -> None:
        """Changes under dapr/leadership/."""
        for told in self._told:
            told.extend(changes)
        mixed = self._replicas.mixed
        vanished = self._replicas.note(changes)
        self._look(vanished=vanished or mixed or self._replicas.mixed)

    def _look(self, *, vanished: bool) -> None:
        if vanished:
            self._begin_hold()
        self._decide()
        self._changed.set()

    async def resync(self) -> None:
        """After the history was lost: reads all keys, and looks again at what is to be done."""
        self._known = False
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
        vanished = self._replicas.replace(range_kvs(body))
        vanished |= self._replicas.note([change for change in told if change.main > read])
        if vanished or not self._known:  # a key may have gone unseen
            self._begin_hold()
        self._known = True
        self._decide()

    # -- what follows from it
    def _own(self) -> Key | None:
        return self._replicas.own if self._lease else None

    def _decide(self) -> None:
        own = self._own()
        if self._stopping or own is None or own.total == GIVEN_UP:
            if self._partition is not None:
                self._partition = None
                self._firing.disown()
            return
        total, index = self._replicas.place()
        hosts = self._replicas.agreed()
        if hosts is not None and not self._on_hold():
            self._agree(Partition(total, index, tuple(hosts)))
        elif self._partition is not None and (self._partition.total, self._partition.index) != (total, index):
            self._narrowed = True
            self._firing.narrow(total, index)

    def _agree(self, partition: Partition) -> None:
        if partition != self._partition or self._narrowed:
            self._partition = partition
            self._narrowed = False
            self._firing.own(partition)

    # A key that was not given up may have an owner that has not applied its end: it fires until its fence is over. That counts
    # on the applied index (docs/decisions/0008), so it is over 600 ms after anybody saw the key go.
    def _begin_hold(self) -> None:
        if self._hold is not None:
            self._hold.cancel()
        self._hold = asyncio.get_running_loop().call_later(FENCE_ELECTED_MS / 1000, self._end_hold)

    def _end_hold(self) -> None:
        self._hold = None
        self._decide()

    def _on_hold(self) -> bool:
        return self._hold is not None and self._kv.fence_ms() < FENCE_ALONE_MS

    # -- what is written
    async def _claim(self) -> bool:
        """False: somebody else holds the key; its end wakes us."""
        await self._drop_lease()
        await self._reload()
        if self._key in self._replicas.keys and not await self._clear_own_key():
            return False
        lease = await self._kv.lease_grant(LEADERSHIP_LEASE_TTL_S)
        self._lease = lease
        self._stop_renewing = self._kv.lease_keep_alive(lease, self._on_lease_lost)  # first: the answer below may be lost
        total = len(self._replicas.keys.keys() | {self._key})
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
        for _, value, _, lease, _ in range_kvs(body):
            if lease:
                await self._kv.lease_revoke(lease)
            else:
                await self._kv.txn(remove_request(self._key, value))
        await self._reload()
        return self._key not in self._replicas.keys

    async def _follow(self, own: Key) -> None:
        """Writes the key for the set as it is, once what this replica loses in it has stopped."""
        keys = frozenset(self._replicas.keys)
        await self._firing.results()
        if self._own() != own or keys != self._replicas.keys.keys():
            return  # the set is another by now: looks again
        newest = self._replicas.newest
        value = leadership_value(len(keys), self._uid, self._address)
        _, body = await self._kv.txn(follow_request(self._key, own.value, value, self._lease, newest))
        if not txn_succeeded(body):
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
        self._look(vanished=False)

    # -- for those that cannot any more
    async def bury(self) -> None:
        """Until cancelled: where the store's leader is, gives up the keys of members that cannot fire any more."""
        while True:
            others = any(key != self._key for key in self._replicas.keys)
            await asyncio.sleep((SILENCE_POLL_MS if others else ALONE_POLL_MS) / 1000)
            for key in self._dead():
                try:
                    await self._bury(key)
                except StatusError as error:
                    self._log.warning(f"the key of a silent member could not be given up: {error.message}", key=key.decode())

    def _dead(self) -> list[bytes]:
        if self._stopping:
            return []
        names = {key.removeprefix(LEADERSHIP).decode("utf-8", "replace"): key for key in self._replicas.keys if key != self._key}
        return [names[name] for name in sorted(self._kv.dead(names)) if name in names] if names else []

    async def _bury(self, key: bytes) -> None:
        """First it is only written that the key is given up: an owner that is alive after all sees that, and stops, before its
        fence can be renewed. Only if it is still silent then does the key go; that it had been given up tells the others."""
        held = self._replicas.keys.get(key)
        if held is None:
            return  # it went while another was given up
        if held.total != GIVEN_UP and not await self._give_up(key, held):
            return
        now = self._replicas.keys.get(key)
        if now is None or now.total != GIVEN_UP or now.lease != held.lease or key not in self._dead():
            return
        self._log.warning("member is silent, its jobs go to the others", id=key.removeprefix(LEADERSHIP).decode("utf-8", "replace"))
        if now.lease:
            await self._kv.lease_revoke(now.lease)
        else:
            await self._kv.txn(remove_request(key, now.value))
