"""Compares this member's data with the others': before it serves, and at the leader now and then.

Invariant: an alarm goes through the log; a check that cannot be made changes nothing, and says so.
Must not know: what a hash is of (`flush`), what two of them mean (store/corruption.py).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from raftsched import limits, proposals
from raftsched.errors import FatalError, PeerError, StatusError
from raftsched.ports import Log as LogPort
from raftsched.store import alarm, codec
from raftsched.store.codec import WireError, varint_field
from raftsched.store.corruption import EVERYBODY, Hashed, differing, differs_at_start, outvoted
from raftsched.store.node.opening import Member
from raftsched.store.node.options import NodeOptions
from raftsched.store.node.peering import Peering
from raftsched.store.replica import LEADER
from raftsched.store.transport.ports import HASH_KV

Check = Callable[[], Awaitable[None]]
LOOK_S: Final = 0.02  # how often it is looked whether a peer is connected


class NodePort(Protocol):
    """What is used of the driver."""

    def mono_ms(self) -> int: ...
    async def hash_kv(self, revision: int) -> tuple[int, int, int]: ...
    def read_barrier(self) -> Awaitable[None]: ...
    def fail(self, error: Exception) -> None: ...
    def propose_own(self, kind: int, message: bytes) -> None: ...


class CorruptionChecks:
    """See the module's text."""

    def __init__(self, node: NodePort, member: Member, options: NodeOptions, peering: Peering | None, log: LogPort) -> None:
        self._node, self._member, self._options, self._peering, self._log = node, member, options, peering, log
        now_ms = node.mono_ms()
        self._due_ms: dict[Check, int] = {
            self._compare: now_ms + options.corrupt_check_ms,
            self._compare_compaction: now_ms + options.compact_hash_check_ms,
        }
        self._compared_compaction = -1
        self._task: asyncio.Task[None] | None = None
        if peering is not None:
            peering.requests[HASH_KV] = self._answer

    # -- hashes, here and there

    async def _own(self, revision: int) -> Hashed:
        """Raises StatusError."""
        return Hashed(*await self._node.hash_kv(revision), self._member.store.revision)

    async def _answer(self, _sender: int, payload: bytes) -> bytes:
        found = await self._own(codec.numbers(payload).get(1, 0))
        return b"".join(varint_field(number, value) for number, value in enumerate(found, 1))

    async def _ask(self, member: int, revision: int) -> Hashed | None:
        """None: it cannot say."""
        assert self._peering is not None
        try:
            answer = await self._peering.ask(member, HASH_KV, varint_field(1, revision), limits.CORRUPT_CHECK_ASK_MS)
            found = codec.numbers(answer)
        except (PeerError, WireError) as error:
            self._log.warning("a member could not be compared", member=f"{member:x}", revision=revision, reason=str(error))
            return None
        return Hashed(*(found.get(number, 0) for number in range(1, 5)))

    async def _ask_all(self, revision: int) -> Mapping[int, Hashed]:
        """What those say that can."""
        others = sorted(self._peering.others()) if self._peering is not None else []
        told = await asyncio.gather(*(self._ask(one, revision) for one in others))
        return {one: found for one, found in zip(others, told, strict=True) if found is not None}

    # -- at the start

    async def check_start(self) -> None:
        """Raises FatalError if the data here differ from what a member says that has the same revision. Whoever does not answer is passed
        over, as in etcd."""
        if not self._options.initial_corrupt_check or self._peering is None or self._member.fresh:
            return
        await self._wait_connected(self._peering)
        try:
            own = await self._own(0)
        except StatusError as error:
            raise FatalError(f"the data could not be checked for corruption: {error.message}") from error
        told = await self._ask_all(own.hash_revision)
        wrong = [f"{member:x}" for member, found in told.items() if differs_at_start(own, found)]
        if wrong:
            raise FatalError(
                f"the data of this member differ from those of {', '.join(wrong)} at revision {own.hash_revision}: "
                "it does not start (found data inconsistency with peers). Remove it from the cluster, and let it join anew without data"
            )
        self._log.info("initial corruption check passed", revision=own.hash_revision, compared=len(told))

    async def _wait_connected(self, peering: Peering) -> None:
        stop_ms = self._node.mono_ms() + limits.CORRUPT_CHECK_CONNECT_MS
        while not all(map(peering.port.is_connected, peering.others())) and self._node.mono_ms() < stop_ms:
            await asyncio.sleep(LOOK_S)

    # -- at the leader

    def tick(self, now_ms: int) -> None:
        """Now and then. One check at a time; the next one is due an interval after the end of the last."""
        if self._task is not None or self._member.replica.kernel.state != LEADER:
            return
        options = self._options
        wanted: dict[Check, int] = {
            self._compare: options.corrupt_check_ms,
            self._compare_compaction: options.compact_hash_check_ms if options.compact_hash_check else 0,
        }
        for check, interval_ms in wanted.items():
            if interval_ms and now_ms >= self._due_ms[check]:
                self._task = asyncio.get_running_loop().create_task(self._run(check, interval_ms))
                return

    async def _run(self, check: Check, interval_ms: int) -> None:
        try:
            await check()
        except StatusError as error:
            self._log.warning("the members' data could not be compared", reason=error.message)
        except FatalError as error:  # the own database cannot be read
            self._node.fail(error)
        finally:
            self._due_ms[check] = self._node.mono_ms() + interval_ms
            self._task = None

    async def _compare(self) -> None:
        before = await self._own(0)
        told = await self._ask_all(before.hash_revision)
        await self._node.read_barrier()
        after = await self._own(0)
        self._raise_alarms(differing(self._member.member_id, before, after, told), before)

    async def _compare_compaction(self) -> None:
        """Each compaction once, once all have said something about it; the history before it counts, nothing behind it."""
        revision = self._member.store.compact_revision
        if revision <= 0 or revision == self._compared_compaction:
            return
        own = await self._own(revision)
        if own.compact_revision != revision:
            return  # compacted again meanwhile
        told = await self._ask_all(revision)
        members = len(self._peering.others()) + 1 if self._peering is not None else 1
        wrong = outvoted(self._member.member_id, own, told, members)
        self._raise_alarms(wrong, own)
        if wrong or sum(one.compact_revision == revision for one in told.values()) == members - 1:
            self._compared_compaction = revision

    def _raise_alarms(self, members: set[int], own: Hashed) -> None:
        raised = self._member.applier.alarms.raised()
        for member in sorted(members):
            if (member, alarm.CORRUPT) in raised:
                continue
            who = "nobody knows whose" if member == EVERYBODY else f"{member:x}"
            self._log.error("data differ between members, raising the alarm CORRUPT", member=who, revision=own.hash_revision, hash=own.hash)
            self._node.propose_own(proposals.ALARM, alarm.encode_request(alarm.ACTIVATE, member, alarm.CORRUPT))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
