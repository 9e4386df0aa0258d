"""One suite for every `KvClient`: the memory store of the tests, the real store of this process, an etcd over gRPC (a real one:
tests/interop/test_external_bridge.py)."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from raftsched.pb.etcd import rpc_pb2
from raftsched.ports import KvClient
from raftsched.proposals import PUT, TXN
from raftsched.scheduler.bridge.embedded import EmbeddedKv
from raftsched.scheduler.bridge.external.kv import ExternalKv, Target
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import COUNTERS, JOBS
from raftsched.scheduler.jobs.requests import create_request, delete_job_request, put_request, range_request, replace_request
from raftsched.scheduler.service import SchedulerService
from raftsched.store.node import Node, NodeOptions
from raftsched.testing.lone_node import EtcdDoor
from raftsched.testing.memory_etcd import MemoryKv
from raftsched.testing.scheduling import Bench, Worker, result
from raftsched.types import Change, Result


class Quiet:
    def info(self, message: str, /, **fields: object) -> None: ...

    debug = warning = error = info


@pytest.fixture(params=["memory", "embedded", "external"])
async def kv(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KvClient]:
    if request.param == "memory":
        yield MemoryKv()
        return
    if request.param == "external":
        with EtcdDoor() as door:
            external = ExternalKv([Target(door.address, False)], log=Quiet())
            external.start()
            await asyncio.wait_for(external._watch.live.wait(), 10)
            yield external
            await external.close()
        return
    fatal: list[str] = []
    node = Node(NodeOptions(data_dir=str(tmp_path / "node"), wal_segment_bytes=1 << 20), log=Quiet(), on_fatal=fatal.append)
    await node.start()
    yield EmbeddedKv(node)
    await node.stop()
    assert fatal == []


class Sink:
    """Writes down what comes, answers and changes in one list."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def on_changes(self, changes: Sequence[Change], revision: int) -> None:
        self.events += [("change", change) for change in changes if change.key.startswith(b"dapr/")]

    def on_reset(self) -> None:
        raise AssertionError("nothing was lost")

    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None:
        self.events += [("result", (token, *answer)) for token, answer in zip(tokens, results, strict=True)]

    def of(self, kind: str) -> list[Any]:
        return [event for name, event in self.events if name == kind]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def put(kv: KvClient, key: bytes, value: bytes, lease: int = 0) -> None:
    sink = Sink()
    kv.write_many(PUT, [put_request(key, value, lease)], [1], sink)
    await until(lambda: sink.events)
    assert sink.of("result")[0][1] == 0


async def read(kv: KvClient, key: bytes) -> tuple[bytes, int] | None:
    _, body = await kv.range(range_request(key))
    found = _jobs.range_kvs(body)
    return None if not found else (found[0][1], found[0][2])


async def test_range_and_txn(kv: KvClient) -> None:
    assert await read(kv, b"a") is None
    revision, body = await kv.txn(create_request(b"a", b"1"))
    assert _jobs.txn_succeeded(body)
    assert await read(kv, b"a") == (b"1", revision)
    _, body = await kv.txn(create_request(b"a", b"2"))
    assert not _jobs.txn_succeeded(body)
    assert b"1" in body
    _, body = await kv.txn(replace_request(b"a", b"1", b"3", 0))
    assert _jobs.txn_succeeded(body)
    _, body = await kv.txn(replace_request(b"a", b"1", b"4", 0))
    assert not _jobs.txn_succeeded(body)
    assert (await read(kv, b"a") or ())[0] == b"3"


async def test_changes_come_before_the_answer_of_their_writer(kv: KvClient) -> None:
    sink = Sink()
    end = kv.subscribe(sink)
    kv.write_many(PUT, [put_request(JOBS + b"a", b"1"), put_request(JOBS + b"b", b"2")], [7, 8], sink)
    await until(lambda: len(sink.of("result")) == 2)
    kv.write_many(TXN, [delete_job_request(b"a")], [9], sink)
    await until(lambda: len(sink.of("result")) == 3)
    first, second, third = sink.of("change")
    assert [(change.deleted, change.key) for change in (first, second, third)] == [
        (False, JOBS + b"a"),
        (False, JOBS + b"b"),
        (True, JOBS + b"a"),
    ]
    assert (first.main, first.sub) < (second.main, second.sub) < (third.main, third.sub)
    for change, value in ((first, b"1"), (second, b"2")):
        assert _jobs.parse_kv(change.record)[:3] == (change.key, value, change.main)
        if change is second or not kv.shared():  # whose change has come nobody reads any more: an external one lets go of it
            assert kv.read_record(change.main, change.sub) == change.record
    names = [name for name, _ in sink.events]
    assert names.index("change") < names.index("result")
    assert names[-2:] == ["change", "result"]
    assert sorted(token for token, *_ in sink.of("result")) == [7, 8, 9]
    assert kv.read_record(10**6, 0) is None
    end()
    count = len(sink.events)
    await put(kv, JOBS + b"c", b"3")
    assert len(sink.events) == count


async def test_a_packed_transaction_decides_per_branch_in_one_revision(kv: KvClient) -> None:
    sink = Sink()
    kv.subscribe(sink)
    bench = Bench(branches_max=100)
    name = [bench.put(letter, schedule="@every 1s", partition=1) for letter in "abc"]
    worker = bench.connect()
    revisions = []
    for composed in name:
        await put(kv, JOBS + composed, b"x")
        revisions.append((await read(kv, JOBS + composed) or (b"", 0))[1])
    # The bench's own store gave revisions 2, 3, 4: take over the real ones where they differ.
    bench.etcd.revision = 10**6
    sink.events.clear()
    for composed, revision in zip(name, revisions, strict=True):
        kvs = bench.etcd.keys[JOBS + composed]
        record = kvs.__class__(key=kvs.key, value=kvs.value, mod_revision=revision).SerializeToString()
        bench.engine.on_changes([Change(True, JOBS + composed, 10**6, 0, b"")])
        bench.etcd.records[revision, 0] = record
        bench.engine.on_changes([Change(False, JOBS + composed, revision, 0, record)])
    bench.tick(1000)
    assert len(worker.take()) == 3
    await put(kv, JOBS + name[1], b"changed meanwhile")
    sink.events.clear()
    assert bench.answer(worker, 1, 2, 3) is None
    [commit] = bench.engine.take_commits()
    answers: list[tuple[int, int, bytes]] = []

    def done(error: int, revision: int, outcomes: bytes) -> None:
        answers.append((error, revision, outcomes))
        sink.events.append(("done", None))

    kv.txn_packed(commit.request, commit.count, done)
    await until(lambda: answers)
    [(error, revision, outcomes)] = answers
    assert (error, outcomes) == (0, b"\1\0\1")
    assert [(change.key, change.main) for change in sink.of("change")] == [(COUNTERS + name[0], revision), (COUNTERS + name[2], revision)]
    assert sink.events[-1][0] == "done"
    answers.clear()
    kv.txn_packed(commit.request, commit.count, done)  # sent again: the guards hold nothing any more
    await until(lambda: answers)
    assert answers[0][2] == b"\0\0\0"


async def test_scan_gives_every_live_key_once_in_order(kv: KvClient) -> None:
    for index in range(30):
        await put(kv, JOBS + b"%02d" % (29 - index), b"v")
    await put(kv, b"dapr/jobs", b"no")
    await put(kv, COUNTERS + b"x", b"no")
    await kv.txn(delete_job_request(b"07"))
    found: list[Change] = []
    await kv.scan(JOBS, found.extend)
    assert [change.key for change in found] == [JOBS + b"%02d" % index for index in range(30) if index != 7]
    for change in found:
        assert kv.read_record(change.main, change.sub) == change.record
        assert _jobs.parse_kv(change.record)[1] == b"v"


async def test_leases(kv: KvClient) -> None:
    lease, other = await kv.lease_grant(20), await kv.lease_grant(20)
    assert lease != other
    await put(kv, b"a", b"1", lease)
    await put(kv, b"b", b"1", other)
    await kv.lease_revoke(lease)
    assert await read(kv, b"a") is None
    assert await read(kv, b"b") is not None
    await kv.lease_revoke(lease)  # not there: no error
    stop = kv.lease_keep_alive(other, lambda: None)
    await asyncio.sleep(0)
    stop()
    assert kv.fence_ms() > time.monotonic_ns() // 1_000_000
    assert kv.owns_directory() is not kv.shared()


async def test_a_scheduler_runs_on_it(kv: KvClient) -> None:
    numbers = iter(range(1, 1000))
    service = SchedulerService(
        kv, scheduler_id="s", address="a:1", zone_source=lambda name: None, rng=lambda: next(numbers), log=Quiet(), engine_log=Quiet()
    )
    await service.start()
    await asyncio.wait_for(service.ready.wait(), 10)
    worker = Worker()
    worker.stream = service.open_stream(worker.push, worker, [(b"app||ns||app||", 1, None)], "ns", ())
    bench = Bench(now_ms=service.now_ns() // 1_000_000)
    name = bench.put("a", schedule="@every 20ms", repeats=3)
    await put(kv, JOBS + name, bench.etcd.keys[JOBS + name].value)
    for tick in (1, 2, 3):
        await until(lambda tick=tick: len(worker.got) == tick)  # type: ignore[misc]
        service.on_acks(worker.stream, [result(tick)])
    await until(lambda: service.engine.jobs == 0)
    assert await read(kv, JOBS + name) is None
    assert await read(kv, COUNTERS + name) is None
    await service.stop()
    _, body = await kv.range(range_request(b"dapr/", b"dapr0"))
    assert _jobs.range_kvs(body) == []
    assert rpc_pb2.RangeResponse.FromString(body).count == 0
