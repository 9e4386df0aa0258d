"""A leader with a real log serves members that are behind: real kernels on both sides, the network and the bulk streams in memory."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from raftsched import limits
from raftsched.errors import PeerCode, PeerError
from raftsched.store import membership
from raftsched.store.backend._lmdb import Backend
from raftsched.store.backend.directory import DataDirectory
from raftsched.store.node import catch_up as names
from raftsched.store.node.catch_up import CatchUp
from raftsched.store.raft._kernel import Kernel, Message
from raftsched.store.snapshot import part
from raftsched.store.snapshot.incoming import Incoming
from raftsched.store.snapshot.outgoing import Outgoing
from raftsched.store.transport.ports import SNAPSHOT
from raftsched.store.wal.format import Metadata
from raftsched.store.wal.log import open_log
from raftsched.testing.bulk import MemoryStream, pair
from raftsched.types import HardState, MemberInfo

LEADER, IN_CATCH_UP = 3, 2
APPEND = 3


class Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, /, **fields: object) -> None:
        self.lines.append(f"{message} {fields}")

    debug = warning = error = info


class Follower:
    """A kernel that stores at once."""

    def __init__(self, member: int, cluster: "Cluster", *, first_index: int = 1, base_term: int = 0) -> None:
        self.cluster = cluster
        self.kernel = Kernel(member, voters=(1, 2, 3), seed=member, first_index=first_index, base_term=base_term, applied=first_index - 1)
        self.entries: dict[int, bytes] = {}
        self.drop: Callable[[Message], bool] = lambda _message: False
        self.seen_bytes = 0

    def step(self, message: Message) -> None:
        if self.drop(message):
            return
        self.kernel.step(message)
        while ready := self.kernel.ready():
            for first, _term, _kind, items in ready.entries:
                self.entries |= dict(enumerate(items, first))
            if ready.batch:
                self.kernel.persisted(ready.batch)
            if ready.committed:
                self.kernel.advance(ready.committed[-1][0] + len(ready.committed[-1][3]) - 1)
            for answer in ready.messages:
                self.cluster.inbox.append(answer)


class Cluster:
    """Member 1 leads with a log on disk; 3 follows at once, 2 comes later."""

    def __init__(self, path: Path, *, segment_bytes: int = 128 << 10, keep_segments: int = 0) -> None:
        self.path = path
        self.directory = DataDirectory(path / "leader", instance=None)
        self.log, _ = open_log(
            str(self.directory.wal_path),
            metadata=Metadata(1, 9),
            segment_bytes=segment_bytes,
            zero_ahead_bytes=32 << 10,
            reserve_bytes=8 << 10,
            keep_segments=keep_segments,
        )
        self.kernel = Kernel(1, voters=(1, 2, 3), seed=1)
        self.followers = {3: Follower(3, self)}
        self.inbox: list[Message] = []
        self.datas: dict[int, bytes] = {}
        self.lines = Lines()
        self.backend = Backend(self.directory.database_path)
        self.under_way_max = 0
        self.streams: list[tuple[MemoryStream, MemoryStream]] = []
        self.receivers: list[asyncio.Task[Any]] = []
        self.receive: Callable[[MemoryStream], Awaitable[Any]] = self.install
        self.receiving: asyncio.Task[Any] | None = None
        self.installed: list[int] = []
        self.fault: Callable[[int, int, bytes], bytes | None] = lambda _stream, _number, data: data
        self.scheduled = False
        self.connections = {2: 7, 3: 8}
        self.asked = 0
        self.service: CatchUp
        self.outgoing: Outgoing

    def start(self, *, stall_ms: int = 2_000) -> None:
        self.outgoing = Outgoing(
            self.directory, make=self.copy, in_use_bytes=lambda: 0, mono_ms=lambda: mono_ns() // 1_000_000, log=self.lines
        )
        self.service = CatchUp(
            self.kernel,
            self.log,
            self.outgoing,
            open_bulk=self.open_bulk,
            connection=lambda member: self.connections[member],
            wake=self.wake,
            mono_ns=mono_ns,
            lines=self.lines,
            bytes_per_s=1 << 40,
            stall_ms=stall_ms,
            retry_ms=1,
        )
        while self.kernel.state != LEADER:
            self.kernel.tick()
            self.turn()

    def wake(self) -> None:
        if not self.scheduled:
            self.scheduled = True
            asyncio.get_running_loop().call_soon(self.turn)

    def turn(self) -> None:
        """Everything that follows, until all is quiet."""
        self.scheduled = False
        while True:
            inbox, self.inbox = self.inbox, []
            for message in inbox:
                self.kernel.step(message)
            ready = self.kernel.ready()
            if ready is None and not self.inbox:
                break
            if ready is not None:
                self.perform(ready)
        self.service.on_turn()

    def perform(self, ready: Any) -> None:
        if ready.batch:
            terms = [term for _, term, _, items in ready.entries for _ in items]
            datas = [item for _, _, _, items in ready.entries for item in items]
            first = ready.entries[0][0] if ready.entries else self.log.last_index + 1
            state = HardState(*ready.hard_state) if ready.hard_state else None
            assert self.log.wait_durable(self.log.append(state, first, terms, datas), 20_000)
            self.log.completed()
            self.kernel.persisted(ready.batch)
            self.datas |= dict(enumerate(datas, first))
        for message in ready.messages:
            if message.to in self.followers:
                self.followers[message.to].step(message)
        if ready.committed:
            self.kernel.advance(ready.committed[-1][0] + len(ready.committed[-1][3]) - 1)
        for member, next_index in ready.catch_ups:
            self.asked += 1
            self.service.ask(member, next_index)

    def write(self, count: int, size_bytes: int = 200) -> None:
        for _ in range(0, count, 10):
            assert self.kernel.propose([os.urandom(size_bytes) for _ in range(10)]) > 0
            self.turn()

    def forget(self, keep: int = 100) -> None:
        """What the replica's trimming does, and a release of segments."""
        self.kernel.compact(self.kernel.applied - keep)

    async def settled(self, member: int = 2, seconds: float = 20) -> None:
        """The member holds everything."""
        async with asyncio.timeout(seconds):
            while self.kernel.matches()[member][0] < self.kernel.last_index:
                await asyncio.sleep(0.002)
                self.kernel.tick()
                self.turn()
        follower = self.followers[member]
        for index in range(follower.kernel.first_index, self.kernel.last_index + 1):
            assert follower.entries[index] == self.datas[index], index

    async def idle(self) -> None:
        """Nobody is served any more: tasks end a moment after what ends them."""
        async with asyncio.timeout(20):
            while self.service.counters()[names.BEHIND]:
                await asyncio.sleep(0.002)
                self.turn()

    # -- the other way

    async def copy(self, path: str) -> None:
        me = membership.encode_json(MemberInfo(1, "", ("http://a:1",), ()))
        if self.backend.applied_index < self.kernel.applied:
            self.backend.commit(None, [], [("members", membership.bucket_key(1), me)], self.kernel.applied, self.kernel.term)
            assert await asyncio.to_thread(self.backend.wait, 20_000)
            self.backend.completed()
        self.backend.start_copy(path)
        assert await asyncio.to_thread(self.backend.wait_bulk, 20_000)
        self.backend.bulk_completed()

    async def open_bulk(self, member: int, purpose: int) -> MemoryStream:
        assert purpose == SNAPSHOT
        if member not in self.followers:
            raise PeerError(PeerCode.UNREACHABLE, "no connection")
        number = len(self.streams)
        one, other = pair(1, member)
        one.fault = lambda at, data: self.fault(number, at, data)
        self.streams.append((one, other))
        self.receivers.append(asyncio.create_task(self._received(other)))
        return one

    async def _received(self, stream: MemoryStream) -> None:
        try:
            await self.receive(stream)
        except PeerError:
            stream.abort()
        else:
            stream.close()

    async def install(self, stream: MemoryStream) -> None:
        while self.receiving and not self.receiving.done():  # it is still writing what the broken stream brought
            await asyncio.wait([self.receiving])
        self.receiving = asyncio.current_task()
        if not hasattr(self, "incoming"):
            self.theirs = DataDirectory(self.path / "follower", instance=None)
            self.incoming = Incoming(self.theirs, is_wanted=lambda _offer: "", mono_ns=mono_ns, log=self.lines)
        stored = await self.incoming.receive(stream)
        self.installed.append(stored.index)
        self.followers[2] = Follower(2, self, first_index=stored.index + 1, base_term=stored.term)

    async def close(self) -> None:
        await self.service.close()
        for task in self.receivers:
            task.cancel()
        self.log.close()
        self.backend.close()
        self.directory.close()
        if hasattr(self, "theirs"):
            self.theirs.close()


def mono_ns() -> int:
    return int(asyncio.get_running_loop().time() * 1e9)


def streams(cluster: Any) -> tuple[int, int, int]:
    """Of all members: streams that succeeded, that failed, that are under way."""
    figures = cluster.service.streams
    return sum(figures.successes.values()), sum(figures.failures.values()), sum(figures.in_flight.values())


def play(path: Path, story: Callable[[Cluster], Awaitable[None]], *, stall_ms: int = 2_000, **options: int) -> Cluster:
    async def run() -> Cluster:
        cluster = Cluster(path, **options)
        cluster.start(stall_ms=stall_ms)
        try:
            await story(cluster)
            assert not [task for task in cluster.receivers if task.done() and not task.cancelled() and task.exception()]
        finally:
            await cluster.close()
        assert cluster.log._holds == {}
        return cluster

    return asyncio.run(run())


def test_an_empty_member_is_served_from_the_segments(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        cluster.write(3000)
        cluster.forget()
        cluster.followers[2] = Follower(2, cluster)
        await cluster.settled()
        assert cluster.kernel.matches()[2][2] != IN_CATCH_UP
        await cluster.idle()
        assert 2900 <= cluster.service.counters()[names.ENTRIES] <= 3001
        assert cluster.streams == []
        cluster.write(10)
        await cluster.settled()

    cluster = play(tmp_path, story)
    assert any("has caught up" in line for line in cluster.lines.lines)


def test_it_converges_while_writes_go_on(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        cluster.write(2000)
        cluster.forget()
        cluster.followers[2] = Follower(2, cluster)
        for _ in range(60):
            cluster.write(20)
            cluster.forget()
            cluster.kernel.tick()
            cluster.turn()
            await asyncio.sleep(0.002)
        await cluster.settled()

    play(tmp_path, story)


def test_what_is_under_way_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CATCH_UP_CHUNK_BYTES", 20_000)
    monkeypatch.setattr(limits, "CATCH_UP_WINDOW_BYTES", 60_000)
    supplied: list[int] = []

    async def story(cluster: Cluster) -> None:
        cluster.write(2000)
        cluster.forget()
        follower = cluster.followers[2] = Follower(2, cluster)
        for _ in range(20):  # it asks, and then is silent
            cluster.kernel.tick()
            cluster.turn()
        follower.drop = lambda message: bool(message.runs) and not supplied.append(sum(len(run[3]) for run in message.runs) * 200)
        await asyncio.sleep(0.3)
        assert 60_000 <= sum(supplied) < 81_000
        follower.drop = lambda _message: False
        await cluster.settled()

    play(tmp_path, story, stall_ms=400)


def test_what_is_lost_is_supplied_again(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        cluster.write(3000)
        cluster.forget()
        follower = cluster.followers[2] = Follower(2, cluster)
        lost = iter([False, True, False, True, True] + [False] * 100_000)
        follower.drop = lambda message: message.type == APPEND and bool(message.runs) and next(lost)
        await cluster.settled()

    play(tmp_path, story, stall_ms=60)


@pytest.mark.parametrize("seen", [False, True])
def test_who_is_back_at_once_waits_for_nothing(tmp_path: Path, seen: bool) -> None:
    """Killed with all that it needs under way, and there again before it is missed: nothing of it was acknowledged, and nothing will be.
    `seen`: a turn of the leader's finds no connection meanwhile."""

    async def story(cluster: Cluster) -> None:
        cluster.write(3000)
        cluster.forget()
        follower = cluster.followers[2] = Follower(2, cluster)
        lost: list[Message] = []
        follower.drop = lambda message: bool(message.runs) and not lost.append(message)
        while cluster.service.counters()[names.ENTRIES] < 2900:
            cluster.kernel.tick()
            cluster.turn()
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.05)
        cluster.turn()
        follower.drop = lambda _message: False
        if seen:
            cluster.connections[2] = 0
            supplied = cluster.service.counters()[names.ENTRIES]
            for _ in range(20):
                cluster.turn()
                await asyncio.sleep(0.002)
            assert cluster.service.counters()[names.ENTRIES] == supplied, "there is nothing to send it on"
        assert lost
        cluster.connections[2] = 9
        await cluster.settled(seconds=10)

    play(tmp_path, story, stall_ms=60_000)


def test_nobody_is_supplied_without_a_connection(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        cluster.write(1000)
        cluster.forget()
        cluster.connections[2] = 0
        cluster.followers[2] = Follower(2, cluster)
        for _ in range(30):
            cluster.kernel.tick()
            cluster.turn()
            await asyncio.sleep(0.002)
        assert cluster.asked
        assert not cluster.service.counters()[names.ENTRIES]
        assert cluster.log._holds == {}
        cluster.connections[2] = 1
        await cluster.settled()

    play(tmp_path, story)


def test_for_a_silent_member_nothing_is_sent_and_nothing_kept(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        cluster.write(1000)
        cluster.forget()
        follower = cluster.followers[2] = Follower(2, cluster)
        while not cluster.asked:
            cluster.kernel.tick()
            cluster.turn()
        sent: list[Message] = []
        follower.drop = lambda message: not sent.append(message)
        while not any("is silent" in line for line in cluster.lines.lines):
            cluster.kernel.tick()
            cluster.turn()
            await asyncio.sleep(0.005)
        sent.clear()
        for _ in range(40):
            cluster.kernel.tick()
            cluster.turn()
            await asyncio.sleep(0.005)
        assert cluster.log._holds == {}
        assert sent
        assert not any(message.runs for message in sent)
        follower.drop = lambda _message: False
        await cluster.settled()

    play(tmp_path, story, stall_ms=30)


def test_who_is_heard_and_acknowledges_nothing_is_given_up(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        cluster.write(1000)
        cluster.forget()
        follower = cluster.followers[2] = Follower(2, cluster)
        follower.drop = lambda message: bool(message.runs)
        for _ in range(100):
            cluster.kernel.tick()
            cluster.turn()
            await asyncio.sleep(0.002)
        assert any("nothing was acknowledged for 60 ms" in line for line in cluster.lines.lines)
        follower.drop = lambda _message: False
        await cluster.settled()

    play(tmp_path, story, stall_ms=30)


def test_it_ends_with_leadership(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        cluster.write(1000)
        cluster.forget()
        follower = cluster.followers[2] = Follower(2, cluster)
        while not cluster.asked:
            cluster.kernel.tick()
            cluster.turn()
        follower.drop = lambda _message: True
        await asyncio.sleep(0.05)
        assert cluster.log._holds
        cluster.kernel.step(Message(8, 1, 3, cluster.kernel.term + 1))
        cluster.turn()
        assert cluster.kernel.state != LEADER
        await cluster.idle()
        assert cluster.log._holds == {}

    play(tmp_path, story)


def release(cluster: Cluster) -> None:
    """Lets all old segments go."""
    cluster.log.keep_segments = 1
    cluster.log.release(applied_index=cluster.kernel.applied, mark_index=cluster.kernel.applied)
    while cluster.log.drops_pending:
        pass


def test_one_older_than_the_oldest_gets_a_snapshot_and_the_rest(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        cluster.write(3000)
        release(cluster)
        cluster.forget()
        cluster.followers[2] = Follower(2, cluster)
        applied = cluster.kernel.applied
        await cluster.settled()
        await cluster.idle()
        assert cluster.installed == [applied]
        assert cluster.followers[2].kernel.first_index == applied + 1
        counters = cluster.service.counters()
        assert (*streams(cluster), counters[names.COPIES]) == (1, 0, 0, 1)
        assert counters[names.SENT] > 0
        told = cluster.service.streams.labelled()
        assert told.pop("etcd_network_snapshot_send_total_duration_seconds")[1][("2",)][0][-1][1] == 1
        prefix = "etcd_network_snapshot_send_"
        assert told == {
            f"{prefix}{name}": (("To",), {("2",): one}) for name, one in (("success", 1), ("failures", 0), ("inflights_total", 0))
        }

    play(tmp_path, story)


@pytest.mark.parametrize(("behind", "sent"), [(1_500, 0), (2_500, 1)])
def test_one_further_behind_than_it_may_be_gets_a_snapshot_although_the_log_holds_all(tmp_path: Path, behind: int, sent: int) -> None:
    async def story(cluster: Cluster) -> None:
        cluster.service._entries_max = 2_000
        cluster.write(behind)
        cluster.forget()
        cluster.followers[2] = Follower(2, cluster)
        await cluster.settled()
        await cluster.idle()
        assert len(cluster.installed) == sent
        assert (cluster.service.counters()[names.ENTRIES] == 0) == bool(sent)

    play(tmp_path, story)


def test_after_the_snapshot_the_segments_lead_on(tmp_path: Path) -> None:
    """Writes during the transfer push memory past the copy; the segments behind it are held meanwhile."""

    async def story(cluster: Cluster) -> None:
        cluster.write(3000)
        release(cluster)
        cluster.forget()
        cluster.followers[2] = Follower(2, cluster)

        async def slowly(stream: MemoryStream) -> None:
            cluster.write(2000)
            cluster.forget(keep=5)
            release(cluster)
            await cluster.install(stream)

        cluster.receive = slowly
        await cluster.settled()
        assert len(cluster.installed) == 1
        assert cluster.service.counters()[names.ENTRIES] > 1000

    play(tmp_path, story)


def test_while_a_member_begins_anew_behind_its_snapshot_the_segments_stay(tmp_path: Path) -> None:
    """Else it would need another snapshot, under writes again and again."""

    async def story(cluster: Cluster) -> None:
        async def away(stream: MemoryStream) -> None:
            await cluster.install(stream)
            back = cluster.followers.pop(2)
            cluster.service.tick(mono_ns() // 1_000_000)
            await asyncio.sleep(0.02)
            cluster.write(2000)
            cluster.forget(keep=5)
            release(cluster)
            cluster.followers[2] = back

        cluster.write(3000)
        release(cluster)
        cluster.forget()
        cluster.followers[2] = Follower(2, cluster)
        cluster.receive = away
        await cluster.settled()
        await cluster.idle()
        assert len(cluster.installed) == 1
        assert cluster.log._holds, "until the next look"
        cluster.service.tick(mono_ns() // 1_000_000)
        assert not cluster.log._holds

    play(tmp_path, story)


def test_for_one_that_does_not_come_back_the_segments_go(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        async def gone(stream: MemoryStream) -> None:
            await cluster.install(stream)
            del cluster.followers[2]

        cluster.write(3000)
        release(cluster)
        cluster.forget()
        cluster.followers[2] = Follower(2, cluster)
        cluster.receive = gone
        while not cluster.installed or streams(cluster)[0] == 0:
            await asyncio.sleep(0.002)
            cluster.kernel.tick()
            cluster.turn()
        now_ms = mono_ns() // 1_000_000
        await asyncio.sleep(0.01)
        cluster.service.tick(now_ms)
        assert cluster.log._holds
        cluster.service.tick(now_ms + limits.SNAPSHOT_COPY_IDLE_MS + 1_000)
        assert not cluster.log._holds

    play(tmp_path, story)


def test_an_interrupted_snapshot_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_CHUNK_BYTES", 4096)

    async def story(cluster: Cluster) -> None:
        cluster.write(3000)
        release(cluster)
        cluster.forget()
        cluster.followers[2] = Follower(2, cluster)
        cluster.fault = lambda stream, number, data: None if stream < 2 and number == 3 else data
        await cluster.settled()
        await cluster.idle()
        counters = cluster.service.counters()
        assert (*streams(cluster), counters[names.COPIES]) == (1, 2, 0, 1)
        assert any("goes on where it stopped" in line for line in cluster.lines.lines)

    play(tmp_path, story)


def test_a_snapshot_goes_on_after_a_restart_of_its_receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed twice on the way, each time for longer than the leader tries: it comes back to the same copy, and to what was synced."""
    monkeypatch.setattr(limits, "SNAPSHOT_CHUNK_BYTES", 512)
    monkeypatch.setattr(limits, "SNAPSHOT_SYNC_BYTES", 1024)
    monkeypatch.setattr(names, "ATTEMPTS", 2)

    async def story(cluster: Cluster) -> None:
        offsets: list[int] = []

        async def install_after_kills(stream: MemoryStream) -> None:
            if len(cluster.streams) in (3, 5):  # two attempts were in vain
                kept = part.read(cluster.theirs.incoming_path)
                assert kept is not None
                offsets.append(kept.offset_bytes)
                cluster.incoming = Incoming(cluster.theirs, is_wanted=lambda _offer: "", mono_ns=mono_ns, log=cluster.lines)
            await cluster.install(stream)

        cluster.receive = install_after_kills
        cluster.write(3000)
        release(cluster)
        cluster.forget()
        cluster.followers[2] = Follower(2, cluster)
        cluster.fault = lambda stream, number, data: None if stream < 4 and number == 6 else data
        await cluster.settled()
        await cluster.idle()
        counters = cluster.service.counters()
        assert (*streams(cluster), counters[names.COPIES]) == (1, 4, 0, 1)
        assert 0 < offsets[0] < offsets[1], offsets
        assert len([line for line in cluster.lines.lines if "goes on where it stopped" in line]) >= 3
        assert len(cluster.installed) == 1

    play(tmp_path, story)


def test_who_was_killed_between_the_whole_snapshot_and_its_mark_gets_it_again(tmp_path: Path) -> None:
    """It has said that all is there, and comes back with its old log: the leader believes its refusals, not its word. Nobody writes."""

    async def story(cluster: Cluster) -> None:
        async def killed(stream: MemoryStream) -> None:
            await cluster.install(stream)
            if len(cluster.installed) == 1:
                cluster.followers[2] = Follower(2, cluster)
                cluster.incoming = Incoming(cluster.theirs, is_wanted=lambda _offer: "", mono_ns=mono_ns, log=cluster.lines)

        cluster.write(3000)
        release(cluster)
        cluster.forget()
        cluster.followers[2] = Follower(2, cluster)
        cluster.receive = killed
        await cluster.settled()
        await cluster.idle()
        assert cluster.installed == [cluster.kernel.applied] * 2
        assert cluster.service.counters()[names.COPIES] == 1
        assert any("goes on where it stopped" in line for line in cluster.lines.lines), "nothing is sent twice"

    play(tmp_path, story)


def test_who_refuses_is_probed_again(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        cluster.write(3000)
        release(cluster)
        cluster.forget()
        cluster.followers[2] = Follower(2, cluster)
        accept, cluster.receive = cluster.receive, refuse
        while not any("could not be served" in line for line in cluster.lines.lines):
            await asyncio.sleep(0.002)
            cluster.kernel.tick()
            cluster.turn()
        assert streams(cluster)[1] >= 1
        cluster.receive = accept
        await cluster.settled()

    async def refuse(stream: MemoryStream) -> None:
        await stream.receive()
        await stream.send(b"\x06no room here")

    cluster = play(tmp_path, story)
    assert any("no room here" in line for line in cluster.lines.lines)


def test_streams_at_a_time_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_STREAMS_MAX", 1)

    async def story(cluster: Cluster) -> None:
        cluster.write(3000)
        release(cluster)
        cluster.forget()
        cluster.followers[2] = Follower(2, cluster)
        going = asyncio.Event()

        async def hangs(stream: MemoryStream) -> None:
            await going.wait()
            await cluster.install(stream)

        cluster.receive = hangs
        while not cluster.streams:
            await asyncio.sleep(0.002)
            cluster.kernel.tick()
            cluster.turn()
        assert cluster.service._streams.locked()
        going.set()
        await cluster.settled()
        await cluster.idle()
        assert not cluster.service._streams.locked()

    play(tmp_path, story)
