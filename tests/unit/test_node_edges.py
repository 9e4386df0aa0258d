"""The edges of a member's life: who still waits when it ends, what a surprise inside does, and what must not grow."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from test_store_node import Clock, Rig, Waiter, until

from raftsched import proposals
from raftsched.errors import EtcdError, FatalError, StatusError
from raftsched.pb.etcd import rpc_pb2
from raftsched.store.backend import directory as data_directory
from raftsched.store.lease import Lessor
from raftsched.store.replica import Read
from raftsched.store.wal.disk import RealDisk

PUT = rpc_pb2.PutRequest(key=b"a", value=b"1").SerializeToString()
RANGE = rpc_pb2.RangeRequest(key=b"a").SerializeToString()


def test_leases_that_come_and_go_leave_nothing_behind() -> None:
    """Revoked long before their end, and granted again under the same id."""
    lessor = Lessor(lambda _write: None)
    lessor.promote(0, 0)
    for number in range(50_000):
        lease = 1 + number % 10_000
        lessor.grant(lease, 1_000_000)
        if number % 10_000:
            lessor.revoke(lease)
        else:
            lessor.grant(lease, 5)  # refused: it is there
    assert len(lessor) == 1
    assert len(lessor._heap) < 5_000
    assert lessor.expired(10**12) == [1]
    assert lessor.expired(10**12) == []
    assert lessor.expired_total == 1


async def test_a_failed_node_answers_what_it_still_takes_and_what_is_queued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path)
    await rig.node.start()
    log = rig.node._member.log

    class BrokenLog:
        def __getattr__(self, name: str):
            return getattr(log, name)

        def append(self, *_arguments, **_named) -> int:
            raise FatalError("cannot write wal/0.wal: Input/output error")

    monkeypatch.setattr(rig.node._member, "log", BrokenLog())
    waiter, served = Waiter(), []
    rig.node.propose_many(proposals.PUT, [PUT], [1], waiter)
    await until(lambda: rig.fatal)
    rig.node._host.submit(Read(served.append))
    await rig.node.stop()
    assert waiter.got[1][0] == EtcdError.STOPPED
    assert served == [EtcdError.STOPPED]


async def test_stop_answers_what_no_turn_has_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes nothing more and the drain gives up: who was queued behind is answered, too."""
    rig = Rig(tmp_path)
    await rig.node.start()
    monkeypatch.setattr(rig.node, "_drain", lambda: None)
    waiter = Waiter()
    rig.node.propose_many(proposals.PUT, [PUT], [1], waiter)
    rig.node.propose_many(proposals.PUT, [PUT, PUT], [2, 3], waiter)
    await rig.node.stop()
    assert {token: result[0] for token, result in waiter.got.items()} == dict.fromkeys((1, 2, 3), EtcdError.STOPPED)


async def test_a_surprise_while_applying_ends_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a batch may be applied: going on would apply the rest to a state that no log describes."""
    rig = Rig(tmp_path)
    await rig.node.start()
    monkeypatch.setitem(rig.node._member.applier._handlers, proposals.PUT, lambda payload: payload.nothing)
    waiter = Waiter()
    rig.node.propose_many(proposals.PUT, [PUT], [1], waiter)
    await until(lambda: rig.fatal)
    await rig.node.stop()
    assert waiter.got[1][0] == EtcdError.STOPPED
    async with Rig(tmp_path) as again:  # the entry is in the log, and good
        assert await again.get(b"a") == b"1"


async def test_a_store_that_cannot_be_read_ends_the_node_and_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path)
    await rig.node.start()

    class Unreadable:
        def __init__(self, store) -> None:
            self._inner = store

        def __getattr__(self, name: str):
            return getattr(self._inner, name)

        def range_some(self, _messages, **_bounds):
            raise FatalError("cannot read the database db.0: Input/output error")

    rig.node._ranges._store = Unreadable(rig.node._store)
    waiter = Waiter()
    rig.node.read_many([RANGE], [1], waiter)
    assert rig.fatal == ["cannot read the database db.0: Input/output error"]
    assert waiter.got[1][0] == EtcdError.STOPPED
    await rig.node.stop()


async def test_reads_in_slices_end_with_the_node(tmp_path: Path) -> None:
    clock = Clock()
    rig = Rig(tmp_path, clock)
    await rig.node.start()
    await rig.put((b"a", b"1"))
    waiter = Waiter()
    clock.mono_ns = lambda: clock.__dict__.__setitem__("now_ns", clock.now_ns + 10**7) or clock.now_ns  # each look costs 10 ms
    rig.node.read_many([RANGE] * 1_000, list(range(1_000)), waiter)
    assert 0 < len(waiter.got) < 1_000
    await rig.node.stop()
    await until(lambda: len(waiter.got) == 1_000)
    assert {result[0] for result in waiter.got.values()} == {EtcdError.OK, EtcdError.STOPPED}
    assert rig.fatal == []


async def test_refused_requests_take_no_room_in_the_log(tmp_path: Path) -> None:
    async with Rig(tmp_path, request_bytes_max=1_000) as rig:
        for _ in range(5):
            assert (await rig.put((b"a", bytes(100_000))))[0][0] == EtcdError.REQUEST_TOO_LARGE
        assert rig.node._queued_bytes == 0


async def test_a_failed_log_gives_the_directory_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path)
    await rig.node.start()
    await rig.put((b"a", b"1"))
    log = rig.node._member.log

    class BrokenLog:
        def __getattr__(self, name: str):
            return getattr(log, name)

        def close(self) -> None:
            log.close()
            raise FatalError("cannot write wal/0.wal: Input/output error")

    monkeypatch.setattr(rig.node._member, "log", BrokenLog())
    await rig.node.stop()
    assert rig.fatal == ["cannot write wal/0.wal: Input/output error"]
    async with Rig(tmp_path) as again:
        assert await again.get(b"a") == b"1"


async def test_lease_ids_are_new_although_the_clock_was_set_back(tmp_path: Path) -> None:
    clock = Clock()
    async with Rig(tmp_path, clock) as rig:
        leases = [rig.node.next_lease_id() for _ in range(2_000)]
        for error, _, _ in await rig.write(proposals.LEASE_GRANT, *(rpc_pb2.LeaseGrantRequest(ID=one, TTL=1_000) for one in leases)):
            assert error == 0
        await rig.node.settle()
    async with Rig(tmp_path, clock) as again:  # the same wall time as at the first start
        assert not {again.node.next_lease_id() for _ in range(2_000)} & set(leases)


async def test_a_defragment_that_cannot_name_its_copy_ends_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the copy may have its name, a start would take it: nothing may be committed to the old one any more."""
    rig = Rig(tmp_path)
    await rig.node.start()
    await rig.put((b"a", b"1"))

    def fail(_path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(data_directory, "_sync", fail)
    rig.node.propose_many(proposals.PUT, [PUT], [1], Waiter())
    with pytest.raises(StatusError, match="Input/output error"):
        await rig.node.defragment()
    assert rig.fatal
    monkeypatch.undo()
    await rig.node.stop()
    async with Rig(tmp_path) as again:
        assert await again.get(b"a") == b"1"


async def test_a_replaced_database_that_does_not_go_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.rmtree

    def fail(path, ignore_errors: bool = False) -> None:
        if os.path.basename(path) == "db.0" and not ignore_errors:
            raise OSError(5, "Input/output error")
        if os.path.basename(path) != "db.0":
            real(path, ignore_errors=ignore_errors)

    async with Rig(tmp_path) as rig:
        await rig.put((b"a", b"1"))
        monkeypatch.setattr(shutil, "rmtree", fail)
        await rig.node.defragment()
        monkeypatch.undo()
        assert await rig.get(b"a") == b"1"
    async with Rig(tmp_path) as again:
        assert await again.get(b"a") == b"1"
        assert not (Path(again.node._member.directory.path) / "db.0").exists()


async def test_stop_ends_a_defragment_that_waits(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    await rig.node.start()
    await rig.put((b"a", b"1"))
    job = rig.node._flusher._jobs
    job[-1] = asyncio.get_running_loop().create_future()  # a hash that does not end
    waiting = asyncio.create_task(rig.node.defragment())
    await asyncio.sleep(0.05)
    hanging = job[-1]
    await rig.node.stop()
    with pytest.raises(StatusError, match="server stopped"):
        async with asyncio.timeout(2):
            await waiting
    with pytest.raises(StatusError, match="server stopped"):
        await hanging


async def test_start_fails_when_the_log_does_while_it_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path)
    propose = rig.node.propose_and_wait

    def break_first(kind: int, message: bytes):
        future = propose(kind, message)
        rig.node.fail(FatalError("cannot sync wal/0.wal: Input/output error"))
        return future

    monkeypatch.setattr(rig.node, "propose_and_wait", break_first)
    with pytest.raises(FatalError, match="cannot sync"):
        async with asyncio.timeout(5):
            await rig.node.start()


async def test_the_log_is_let_go_by_its_size_too(tmp_path: Path) -> None:
    """A quarter of the space bound is the log's; large values reach that long before the count of entries asks for a snapshot."""
    async with Rig(tmp_path, quota_bytes=60 << 20, max_wals=0) as rig:
        wal = RealDisk(str(rig.node._member.directory.wal_path))
        for number in range(30):
            await rig.put((b"k", bytes([number]) * (1 << 20)))
        assert rig.node._member.log.written_bytes > 30 << 20
        await rig.node.settle()
        rig.clock.advance_ms(10_000)
        await until(lambda: sum(size for name, size in wal.sizes() if name.endswith(".wal")) <= 16 << 20)
    async with Rig(tmp_path) as again:
        assert await again.get(b"k") == bytes([29]) * (1 << 20)


async def test_short_lives_add_up_to_a_snapshot(tmp_path: Path) -> None:
    snapshots = tmp_path / "raftsched-1" / "snap"
    for life in range(3):
        async with Rig(tmp_path, snapshot_count=120) as rig:
            for number in range(50):
                await rig.put((b"k%d" % number, b"%d" % life))
            rig.clock.advance_ms(10_000)
            await rig.node.settle()
            if life < 2:
                assert not list(snapshots.iterdir())
            else:
                await until(lambda: list(snapshots.glob("*.snap")))
