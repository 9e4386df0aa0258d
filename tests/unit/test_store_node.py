"""A whole member on a real directory: writes, reads, leases, compaction, restart at any point, full and broken disks."""

import asyncio
import shutil
import time
from pathlib import Path

import pytest

from raftsched import proposals
from raftsched.errors import EtcdError, FatalError, StatusError
from raftsched.pb.etcd import rpc_pb2
from raftsched.store import alarm, membership
from raftsched.store.backend.directory import DirectoryInUseError
from raftsched.store.node import Node, NodeOptions
from raftsched.store.wal import segments
from raftsched.store.wal.disk import RealDisk
from raftsched.store.wal.recovery import recover


class Clock:
    """Time that the test moves; the real one runs on underneath for the loop's own timers."""

    def __init__(self) -> None:
        self.now_ns = 10**12

    def mono_ns(self) -> int:
        return self.now_ns

    def wall_ms(self) -> int:
        return 1_700_000_000_000

    def advance_ms(self, step_ms: int) -> None:
        self.now_ns += step_ms * 1_000_000


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict]] = []

    def __getattr__(self, _level: str):
        return lambda message, **fields: self.lines.append((message, fields))


class Waiter:
    """A sink that can be awaited; remembers when it was called."""

    def __init__(self) -> None:
        self.future = asyncio.get_running_loop().create_future()
        self.got: dict[int, tuple] = {}

    def on_results(self, tokens, results) -> None:
        for token, result in zip(tokens, results, strict=True):
            assert token not in self.got
            self.got[token] = result


class Rig:
    """A node, and etcd's calls on it."""

    def __init__(self, path: Path, clock: Clock | None = None, **options) -> None:
        self.path, self.clock, self.log = path, clock or Clock(), Log()
        self.fatal: list[str] = []
        defaults = {"wal_segment_bytes": 1 << 20, "batch_interval_ms": 20}
        self.node = Node(
            NodeOptions(data_dir=str(path), **(defaults | options)), log=self.log, on_fatal=self.fatal.append, clock=self.clock
        )

    async def __aenter__(self) -> "Rig":
        await self.node.start()
        return self

    async def __aexit__(self, *_exc) -> None:
        await self.node.stop()

    async def write(self, kind: int, *messages) -> list[tuple]:
        waiter = Waiter()
        data = [one if isinstance(one, bytes) else one.SerializeToString() for one in messages]
        self.node.propose_many(kind, data, list(range(len(data))), waiter)
        await until(lambda: len(waiter.got) == len(data))
        return [waiter.got[token] for token in range(len(data))]

    async def put(self, *pairs, lease: int = 0) -> list[tuple]:
        return await self.write(proposals.PUT, *(rpc_pb2.PutRequest(key=key, value=value, lease=lease) for key, value in pairs))

    async def get(self, key: bytes) -> bytes | None:
        waiter = Waiter()
        self.node.read_many([rpc_pb2.RangeRequest(key=key).SerializeToString()], [5], waiter)
        await until(lambda: waiter.got)
        error, _, body = waiter.got[5]
        assert error == 0
        kvs = rpc_pb2.RangeResponse.FromString(body).kvs
        return kvs[0].value if kvs else None

    def state(self) -> tuple:
        """Everything that must survive."""
        node = self.node
        request = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0").SerializeToString()
        return (
            node.mvcc.range(request),
            node.mvcc.hash_kv(0),
            node.mvcc.compact_revision,
            node.members(),
            node.alarms(),
            sorted((lease, node._member.applier.lessor.keys_of(lease)) for lease in node._member.applier.lessor.ids()),
        )


async def until(condition, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.001)


def crash_copy(source: Path, target: Path) -> Path:
    """What a killed process leaves: the files as they are now; what gets its name only when it is complete may vanish meanwhile."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.tmp"))
    return target


async def test_the_ids_of_changes_in_the_log_are_not_given_again(tmp_path: Path) -> None:
    async with Rig(tmp_path / "a", batch_interval_ms=60_000) as rig:
        ids = rig.node._replica.ids
        ids.skip_past(ids.take() + 1_000_000)  # as if the clock had been ahead then
        await rig.node.change_members(membership.UPDATE_NODE, rig.node.member_id, ("http://localhost:2390",), is_learner=False)
        later = ids.take()
        copy = crash_copy(tmp_path / "a", tmp_path / "b")
    async with Rig(copy, peer_urls=("http://localhost:2390",)) as rig:
        assert rig.node.members()[0].peer_urls == ("http://localhost:2390",)
        assert rig.node._replica.ids.take() >= later


async def test_put_read_restart(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        answers = await rig.put((b"a", b"1"), (b"b", b"2"))
        assert [(error, revision) for error, revision, _ in answers] == [(0, 2), (0, 3)]
        assert await rig.get(b"a") == b"1"
        await rig.node.read_barrier()
        header = rpc_pb2.PutResponse.FromString(rig.node.header(3)).header
        assert (header.revision, header.raft_term, header.member_id) == (3, rig.node.term, rig.node.member_id)
        (member,) = rig.node.members()
        before, term = rig.state(), rig.node.term
    async with Rig(tmp_path) as rig:
        assert rig.state()[:2] == before[:2]
        assert rig.node.term > term
        assert rig.node.members()[0].name == "default"
        assert rig.node.members()[0].client_urls == ("http://localhost:2379",)
        assert member.member_id == rig.node.member_id == rig.node.leader_id
        assert rig.node.host.isReady()


async def test_restart_without_stop_at_many_points(tmp_path: Path) -> None:
    """A copy of the files at any moment holds everything that was answered, and replays to the same state."""
    async with Rig(tmp_path / "live", batch_interval_ms=5, snapshot_count=50) as rig:
        await rig.write(proposals.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(ID=9, TTL=1000))
        for point in range(12):
            for number in range(20):
                await rig.put((b"k%02d" % (number % 7), b"%d-%d" % (point, number)), lease=9 if number % 3 else 0)
            await rig.write(proposals.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=b"k%02d" % (point % 7)))
            if point % 4 == 3:
                await rig.write(proposals.COMPACTION, rpc_pb2.CompactionRequest(revision=rig.node.revision - 5))
                await rig.node.scrubbed()
            before = rig.state()
            copy = crash_copy(tmp_path / "live", tmp_path / f"copy{point}")
            async with Rig(copy) as again:
                assert again.state() == before
                assert again.node.term > rig.node.term
                await again.put((b"new", b"1"))
                changed = again.state()
            async with Rig(copy) as third:
                assert third.state() == changed


async def test_lmdb_may_lag_by_everything(tmp_path: Path) -> None:
    async with Rig(tmp_path / "live", batch_interval_ms=3_600_000) as rig:
        await rig.write(proposals.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(ID=9, TTL=1000))
        for number in range(50):
            await rig.put((b"k%d" % (number % 5), bytes(100)), lease=9)
        await rig.write(proposals.ALARM, alarm.encode_request(alarm.ACTIVATE, 1, alarm.NOSPACE))
        await rig.write(proposals.COMPACTION, rpc_pb2.CompactionRequest(revision=20))
        before = rig.state()
        assert rig.node._member.backend.applied_index == 0
        copy = crash_copy(tmp_path / "live", tmp_path / "copy")
    async with Rig(copy) as again:
        assert again.state() == before


async def test_an_unfinished_scrub_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with Rig(tmp_path / "live") as rig:
        for number in range(100):
            await rig.put((b"k", b"%d" % number))
        await rig.node.settle()
        rig.node._flusher._schedule_scrub = lambda: None  # the process dies before the scrub
        await rig.write(proposals.COMPACTION, rpc_pb2.CompactionRequest(revision=90))
        await rig.node.settle()
        assert rig.node._member.backend.record_count() == 100
        copy = crash_copy(tmp_path / "live", tmp_path / "copy")
    async with Rig(copy) as again:
        await again.node.scrubbed()
        again.node._member.backend.renew()
        assert again.node._member.backend.record_count() == 12
        assert again.node.mvcc.compact_revision == 90
        assert await again.get(b"k") == b"99"
    async with Rig(copy) as third:
        assert not third.node._flusher.scrubbing


async def test_changes_come_before_the_answer_and_in_order(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        order: list = []

        class Changes:
            def on_changes(self, changes, revision: int) -> None:
                order.extend(change.main for change in changes)
                assert revision >= changes[-1].main

            def on_reset(self) -> None:
                raise AssertionError

        class Answers:
            def on_results(self, tokens, results) -> None:
                order.extend(("answer", revision) for _, revision, _ in results)

        class Broken:
            def on_changes(self, changes, revision: int) -> None:
                raise RuntimeError("mine")

        end = rig.node.add_change_sink(Changes())
        broken = rig.node.add_change_sink(Broken())
        puts = [rpc_pb2.PutRequest(key=b"%d" % number).SerializeToString() for number in range(3)]
        rig.node.propose_many(proposals.PUT, puts, [1, 2, 3], Answers())
        await until(lambda: len(order) == 6)
        assert order == [2, 3, 4, ("answer", 2), ("answer", 3), ("answer", 4)]
        assert rig.node.counters()["raftsched_store_callback_failures_total"] == 1
        end()
        broken()
        await rig.put((b"x", b""))
        assert len(order) == 6
        assert not rig.node.mvcc.watching


async def test_a_lease_ends_by_the_clock_and_takes_its_keys(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        node, clock = rig.node, rig.clock
        ((error, _, body),) = await rig.write(proposals.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(ID=node.next_lease_id(), TTL=10))
        assert error == 0
        lease = rpc_pb2.LeaseGrantResponse.FromString(body).ID
        await rig.put((b"a", b""), (b"b", b""), lease=lease)
        clock.advance_ms(9_000)
        assert await node.lease_time_to_live(lease, keys=True) == (1, 10, [b"a", b"b"])
        assert await node.lease_renew(lease) == 10
        assert await node.lease_ids() == [lease]
        clock.advance_ms(9_999)
        node.tick()
        assert await rig.get(b"a") == b""
        clock.advance_ms(2)
        renewed = asyncio.ensure_future(node.lease_renew(lease))  # over, not revoked yet: waits for that
        await asyncio.sleep(0)
        clock.advance_ms(500)
        node.tick()
        assert await renewed == 0
        assert await rig.get(b"a") is None
        assert await node.lease_time_to_live(lease, keys=False) == (-1, 0, ())
        assert await node.lease_renew(12345) == 0
        assert node.counters()["etcd_debugging_server_lease_expired_total"] == 1


async def test_leases_survive_and_start_anew(tmp_path: Path) -> None:
    clock = Clock()
    async with Rig(tmp_path, clock) as rig:
        await rig.write(proposals.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(ID=-7, TTL=100))
        await rig.put((b"a", b""), lease=-7)
        clock.advance_ms(90_000)
    clock.advance_ms(50_000)
    async with Rig(tmp_path, clock) as rig:
        left_s, granted_s, keys = await rig.node.lease_time_to_live(-7, keys=True)
        assert (left_s, granted_s, keys) == (100, 100, [b"a"])


async def test_compaction_and_its_errors(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        for number in range(20):
            await rig.put((b"k", b"%d" % number))
        ((error, _, _),) = await rig.write(proposals.COMPACTION, rpc_pb2.CompactionRequest(revision=15))
        assert error == 0
        await rig.node.scrubbed()
        rig.node._member.backend.renew()
        assert rig.node._member.backend.record_count() == 21 - 15 + 1
        assert (await rig.write(proposals.COMPACTION, rpc_pb2.CompactionRequest(revision=15)))[0][0] == EtcdError.COMPACTED
        assert (await rig.write(proposals.COMPACTION, rpc_pb2.CompactionRequest(revision=99)))[0][0] == EtcdError.FUTURE_REVISION


async def test_a_compaction_works_in_slices_of_so_many_records(tmp_path: Path) -> None:
    """50 records go: ten slices of five, one every 20 ms; without the options one slice does it all."""
    for options, slices, seconds in (({"compaction_records": 5, "compaction_pause_ms": 20}, 10, 0.2), ({}, 1, 0.0)):
        async with Rig(tmp_path / str(slices), **options) as rig:
            await rig.put(*((b"k%d" % (number % 50), b"") for number in range(100)))
            began = time.monotonic()
            await rig.write(proposals.COMPACTION, rpc_pb2.CompactionRequest(revision=rig.node.revision))
            await rig.node.scrubbed()
            assert time.monotonic() - began >= seconds
            pauses = rig.node.histograms()["etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds"]
            assert slices <= pauses[0][-1][1] <= slices + 1
            rig.node._member.backend.renew()
            assert rig.node._member.backend.record_count() == 50


@pytest.mark.parametrize("kept", [None, 300, 100_000])
async def test_so_many_entries_stay_in_the_log(tmp_path: Path, kept: int | None) -> None:
    """Whatever the number of files allows."""
    async with Rig(tmp_path, wal_segment_bytes=128 << 10, snapshot_count=40, max_wals=1, catch_up_entries=kept) as rig:
        for _ in range(60):
            await rig.put(*((b"k", bytes(2_000)) for _ in range(10)))
        await rig.node.settle()
        rig.clock.advance_ms(20_000)
        await rig.put((b"k", b"last"))
        log, snapshots = rig.node._member.log, rig.node._snapshots
        await until(lambda: snapshots._mark_index > 500 and not snapshots._mark_batch and not log.drops_pending)
        first = segments.arrange(log.disk.sizes())[0].first_index
        assert rig.node.histograms()["etcd_snap_fsync_duration_seconds"][0][-1][1] >= 1
        unneeded = snapshots._mark_index - (kept or 0)
        assert (first > 1) == (unneeded > 1)
        assert first <= max(unneeded, 0) + 1, "and it is the files that say how many more stay"


async def test_retention_by_revision_compacts_by_itself(tmp_path: Path) -> None:
    async with Rig(tmp_path, compaction_mode="revision", compaction_retention=10) as rig:
        for number in range(30):
            await rig.put((b"k", b"%d" % number))
        rig.clock.advance_ms(300_000)
        rig.node.tick()
        await until(lambda: rig.node.mvcc.compact_revision == 31 - 10)


async def test_history_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftsched.limits.SUPERSEDED_RECORDS_MAX", 200)
    monkeypatch.setattr("raftsched.limits.SUPERSEDED_RECORDS_KEPT", 50)
    async with Rig(tmp_path) as rig:
        for number in range(300):
            await rig.put((b"k%d" % (number % 3), b""))
        rig.clock.advance_ms(500)
        rig.node.tick()
        await until(lambda: rig.node.mvcc.compact_revision > 0)
        await rig.node.scrubbed()
        assert rig.node.mvcc.superseded_count <= 50
        assert any("history" in message for message, _ in rig.log.lines)


async def test_the_quota_raises_an_alarm_that_must_be_cleared(tmp_path: Path) -> None:
    async with Rig(tmp_path, quota_bytes=400_000) as rig:
        error = 0
        for number in range(40):
            ((error, _, _),) = await rig.put((b"k%d" % number, bytes(20_000)))
            if error:
                break
        assert error == EtcdError.NO_SPACE
        assert rig.node.alarms() == [(rig.node.member_id, alarm.NOSPACE)], "it stands before anybody is refused"
        assert (await rig.put((b"x", b"")))[0][0] == EtcdError.NO_SPACE
        assert (await rig.write(proposals.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=b"\0", range_end=b"\0")))[0][0] == 0
        await rig.write(proposals.COMPACTION, rpc_pb2.CompactionRequest(revision=rig.node.revision))
        await rig.node.scrubbed()
        await rig.node.defragment()
        await rig.write(proposals.ALARM, alarm.encode_request(alarm.DEACTIVATE, rig.node.member_id, alarm.NOSPACE))
        assert (await rig.put((b"x", b"")))[0][0] == 0
        assert rig.node.status().quota == 400_000


async def test_a_log_without_room_refuses_writes_and_keeps_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put((b"a", b"1"))
        log = rig.node._member.log
        room = {"ordinary": False}

        class FullLog:
            def __getattr__(self, name: str):
                return getattr(log, name)

            def has_room(self, size_bytes: int = 0, *, privileged: bool = False) -> bool:
                return privileged or room["ordinary"]

        monkeypatch.setattr(rig.node._member, "log", FullLog())
        answers = await rig.put((b"b", b"2"), (b"c", b"3"))
        assert [error for error, _, _ in answers] == [EtcdError.NO_SPACE] * 2
        assert await rig.get(b"a") == b"1"
        assert (await rig.write(proposals.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=b"a")))[0][0] == 0
        assert rig.node.alarms() == [], "the disk's state is local"
        room["ordinary"] = True
        assert (await rig.put((b"b", b"2")))[0][0] == 0


async def test_a_full_map_of_lmdb_refuses_writes_keeps_reading_and_loses_nothing(tmp_path: Path) -> None:
    async with Rig(tmp_path, map_bytes=1 << 20, quota_bytes=-1) as rig:
        written = 0
        while not (await rig.put((b"k%d" % written, bytes(20_000))))[0][0]:
            written += 1
            await rig.node._flusher.settle() if written < 20 else await asyncio.sleep(0.005)
        assert written > 20
        assert (await rig.put((b"x", b"")))[0][0] == EtcdError.NO_SPACE
        assert await rig.get(b"k%d" % (written - 1)) == bytes(20_000)
        assert (await rig.write(proposals.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=b"k0")))[0][0] == 0
        before = rig.state()
    async with Rig(tmp_path) as rig:  # a larger map: everything that was answered is there
        assert rig.state() == before
        await rig.node.settle()
        assert (await rig.put((b"x", b"")))[0][0] == 0


async def test_a_quota_beyond_the_map_is_met_before_the_map_is_full(tmp_path: Path) -> None:
    async with Rig(tmp_path, map_bytes=2 << 20) as rig:
        while not (await rig.put((b"k", bytes(20_000))))[0][0]:
            pass
        await until(rig.node.alarms)
        await rig.write(proposals.COMPACTION, rpc_pb2.CompactionRequest(revision=rig.node.revision))
        await rig.node.scrubbed()
        rig.node._member.backend.measure_now()
        assert rig.node._flusher.stalled == ""
        await rig.write(proposals.ALARM, alarm.encode_request(alarm.DEACTIVATE, rig.node.member_id, alarm.NOSPACE))
        assert (await rig.put((b"k", bytes(20_000))))[0][0] == 0


async def test_defragment_and_hash_while_writes_go_on(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        for number in range(200):
            await rig.put((b"k%d" % (number % 10), bytes(2_000)))
        await rig.write(proposals.COMPACTION, rpc_pb2.CompactionRequest(revision=rig.node.revision))
        await rig.node.scrubbed()
        rig.node._member.backend.measure_now()
        size = rig.node.status().db_size
        job = asyncio.ensure_future(rig.node.defragment())
        for number in range(20):
            await rig.put((b"new%d" % number, b"v"))
        await job
        assert rig.node.status().db_size < size
        assert await rig.node.hash() == await rig.node.hash()
        before = rig.state()
    async with Rig(tmp_path) as rig:
        assert rig.state() == before
        assert await rig.get(b"new19") == b"v"


async def test_snapshots_let_segments_go(tmp_path: Path) -> None:
    async with Rig(tmp_path, snapshot_count=100, max_wals=1, max_snapshots=2, wal_segment_bytes=256 << 10) as rig:
        directory = rig.node._member.directory
        for round_number in range(6):
            for _ in range(12):
                await rig.put(*((b"k%d" % number, bytes(500)) for number in range(20)))
            rig.clock.advance_ms(10_000)
            await rig.node.settle()
            await until(lambda seen=round_number: len(list(directory.snap_path.glob("*.snap"))) >= min(seen + 1, 2))
        await until(lambda: len(list(directory.wal_path.glob("*.wal"))) <= 4)
        await until(lambda: len(list(directory.snap_path.glob("*.snap"))) == 2)
        index = rig.node.status().applied_index
    recovered = recover(RealDisk(str(directory.wal_path)), after_index=index)
    assert 0 < recovered.mark.index <= index
    async with Rig(tmp_path) as rig:
        assert await rig.get(b"k1") == bytes(500)


async def test_large_and_many_at_once(tmp_path: Path) -> None:
    async with Rig(tmp_path, request_bytes_max=1_572_864) as rig:
        answers = await rig.put((b"ok", bytes(1_572_664)), (b"no", bytes(1_572_864)))
        assert [error for error, _, _ in answers] == [0, EtcdError.REQUEST_TOO_LARGE]
        answers = await rig.put(*((b"k%04d" % number, b"v") for number in range(4_000)))
        assert [revision for _, revision, _ in answers] == list(range(answers[0][1], answers[0][1] + 4_000))
        waiter = Waiter()
        ranges = [rpc_pb2.RangeRequest(key=b"k%04d" % number).SerializeToString() for number in range(4_000)]
        rig.node.read_many(ranges, list(range(4_000)), waiter)
        await until(lambda: len(waiter.got) == 4_000)
        assert all(error == 0 for error, _, _ in waiter.got.values())


async def test_stop_answers_what_is_under_way_and_refuses_the_rest(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.node.start()
    waiter = Waiter()
    rig.node.propose_many(proposals.PUT, [rpc_pb2.PutRequest(key=b"a").SerializeToString()], [1], waiter)
    await rig.node.stop()
    assert waiter.got[1][0] == 0
    rig.node.propose_many(proposals.PUT, [b""], [2], waiter)
    rig.node.read_many([b""], [3], waiter)
    assert waiter.got[2][0] == waiter.got[3][0] == EtcdError.STOPPED
    with pytest.raises(StatusError, match="server stopped"):
        await rig.node.read_barrier()
    await rig.node.stop()
    async with Rig(tmp_path) as again:
        assert again.node._member.replica.applier.applied_index == again.node.status().raft_index
        assert await again.get(b"a") == b""
    assert rig.fatal == []


async def test_a_failed_log_ends_the_node_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path)
    await rig.node.start()
    log = rig.node._member.log

    class BrokenLog:
        def __getattr__(self, name: str):
            return getattr(log, name)

        def completed(self) -> int:
            raise FatalError("cannot sync wal/0.wal: Input/output error")

    monkeypatch.setattr(rig.node._member, "log", BrokenLog())
    waiter = Waiter()
    rig.node.propose_many(proposals.PUT, [rpc_pb2.PutRequest(key=b"a").SerializeToString()], [1], waiter)
    await until(lambda: rig.fatal)
    await asyncio.sleep(0.05)
    assert rig.fatal == ["cannot sync wal/0.wal: Input/output error"]
    await rig.node.stop()
    assert waiter.got[1][0] == EtcdError.STOPPED, "its outcome is unknown"


async def test_two_processes_do_not_share_a_directory(tmp_path: Path) -> None:
    async with Rig(tmp_path):
        with pytest.raises(DirectoryInUseError):
            await Rig(tmp_path).node.start()


async def test_a_lost_log_or_a_foreign_one_is_refused(tmp_path: Path) -> None:
    async with Rig(tmp_path / "one") as rig:
        await rig.put((b"a", b"1"))
        wal_path = rig.node._member.directory.wal_path
    kept = tmp_path / "kept"
    shutil.move(wal_path, kept)
    with pytest.raises(FatalError, match="holds no log"):
        await Rig(tmp_path / "one").node.start()
    async with Rig(tmp_path / "two", peer_urls=("http://other:2380",)):
        pass
    other = next((tmp_path / "two").rglob("wal"))
    shutil.rmtree(wal_path, ignore_errors=True)
    shutil.copytree(other, wal_path)
    with pytest.raises(FatalError):
        await Rig(tmp_path / "one").node.start()


async def test_a_member_keeps_its_id_when_its_address_changes(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        member_id, cluster_id = rig.node.member_id, rig.node.cluster_id
    async with Rig(tmp_path, peer_urls=("http://moved:2380",), client_urls=("http://moved:2379",), name="n2") as rig:
        (member,) = rig.node.members()
        assert (member.name, member.member_id, member.peer_urls, rig.node.cluster_id) == (
            "n2",
            member_id,
            ("http://moved:2380",),
            cluster_id,
        )


async def test_what_it_counts_is_there(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        await rig.put((b"a", b"1"))
        await rig.node.settle()
        counters = rig.node.counters()
        assert counters["etcd_server_has_leader"] == 1
        assert counters["etcd_server_proposals_committed_total"] == counters["etcd_server_proposals_applied_total"]
        for buckets, total in rig.node.histograms().values():
            assert buckets[-1][0] == float("inf")
            assert total >= 0
        assert rig.node.histograms()["etcd_disk_wal_fsync_duration_seconds"][0][-1][1] > 0
