"""HashKV and Hash of a whole member while it serves: the same as the store computes at once, whatever happens meanwhile."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from raftsched import proposals
from raftsched.errors import EtcdError, StatusError, status_of
from raftsched.pb.etcd import rpc_pb2
from raftsched.store.node import Node, NodeOptions, flush
from raftsched.testing.door_cluster import Quiet


class Sink:
    def __init__(self) -> None:
        self.future: asyncio.Future = asyncio.get_running_loop().create_future()

    def on_results(self, _tokens, results) -> None:
        self.future.set_result(results[0])


async def write(node: Node, kind: int, message) -> tuple:
    sink = Sink()
    node.propose_many(kind, [message.SerializeToString()], [0], sink)
    return await sink.future


def puts(keys, size: int = 20) -> rpc_pb2.TxnRequest:
    ops = [rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=bytes(size))) for key in keys]
    return rpc_pb2.TxnRequest(success=ops)


@asynccontextmanager
async def member(path: Path, **options) -> AsyncIterator[Node]:
    node = Node(NodeOptions(data_dir=str(path), **options), log=Quiet(), on_fatal=pytest.fail)
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


@pytest.mark.parametrize("seed", range(3))
async def test_hash_kv_is_the_stores_at_every_revision(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    async with member(tmp_path) as node:
        for _ in range(60):
            key = b"key/%02d" % chance.randrange(30)
            kind = chance.random()
            if kind < 0.7:
                await write(node, proposals.PUT, rpc_pb2.PutRequest(key=key, value=b"v" * chance.randrange(50)))
            elif kind < 0.9:
                await write(node, proposals.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=key, range_end=b"key/%02d" % chance.randrange(30)))
            else:
                await write(node, proposals.COMPACTION, rpc_pb2.CompactionRequest(revision=node.revision - chance.randrange(3)))
        for revision in range(node.mvcc.compact_revision, node.revision + 1):
            if revision > 0:
                assert (0, *await node.hash_kv(revision)) == node.mvcc.hash_kv(revision)
        assert (0, *await node.hash_kv(0)) == node.mvcc.hash_kv(0)
        assert node.counters()["etcd_mvcc_put_total"] > 20
        assert node.histograms()["etcd_mvcc_hash_rev_duration_seconds"][0][-1][1] > 1


async def test_a_revision_that_is_not_there_is_refused(tmp_path: Path) -> None:
    async with member(tmp_path) as node:
        for _ in range(5):
            await write(node, proposals.PUT, rpc_pb2.PutRequest(key=b"a"))
        await write(node, proposals.COMPACTION, rpc_pb2.CompactionRequest(revision=4))
        for revision, error in ((3, EtcdError.COMPACTED), (node.revision + 1, EtcdError.FUTURE_REVISION)):
            with pytest.raises(StatusError) as refused:
                await node.hash_kv(revision)
            assert refused.value.message == status_of(error).message


async def test_writes_and_a_compaction_during_the_hash_do_not_change_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of one key: everything below happens while the index is read. The scrub must wait: it would take records away."""
    monkeypatch.setattr(flush, "HASH_STEP_KEYS", 1)
    async with member(tmp_path) as node:
        keys = [b"key/%04d" % number for number in range(10_000)]
        for _ in range(3):
            await write(node, proposals.TXN, puts(keys))
        await write(node, proposals.COMPACTION, rpc_pb2.CompactionRequest(revision=3))
        await node.scrubbed()
        await write(node, proposals.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=keys[10], range_end=keys[20]))
        at = node.revision
        expected = node.mvcc.hash_kv(at)
        hashed = asyncio.ensure_future(node.hash_kv(at))
        while not node._flusher._hashing:
            await asyncio.sleep(0)
        await write(node, proposals.TXN, puts([b"key/%04da" % number for number in range(200)]))
        await write(node, proposals.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=b"key/1", range_end=b"key/2"))
        await write(node, proposals.PUT, rpc_pb2.PutRequest(key=b"last"))  # a tombstone at the compacted revision itself would stay
        await write(node, proposals.COMPACTION, rpc_pb2.CompactionRequest(revision=node.revision))
        assert not hashed.done()
        assert (0, *await hashed) == expected
        await asyncio.wait_for(node.scrubbed(), 10)
        assert node.mvcc.superseded_count == 0
        assert node.counters()["etcd_debugging_mvcc_db_compaction_last"] > 0
        assert (0, *await node.hash_kv(0)) == node.mvcc.hash_kv(0)


async def test_more_hashes_than_can_wait_are_refused(tmp_path: Path) -> None:
    async with member(tmp_path) as node:
        await write(node, proposals.PUT, rpc_pb2.PutRequest(key=b"a"))
        asked = [node.hash_kv(0) for _ in range(flush.LONG_JOBS_MAX + 3)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, StatusError)]
        assert [one.message for one in refused] == [status_of(EtcdError.TOO_MANY_REQUESTS).message] * 3
        assert len({answer for answer in answers if isinstance(answer, tuple)}) == 1
        assert (0, *await node.hash_kv(0)) == node.mvcc.hash_kv(0)


async def test_a_hash_and_defragment_take_turns(tmp_path: Path) -> None:
    async with member(tmp_path) as node:
        await write(node, proposals.TXN, puts([b"%d" % number for number in range(100)]))
        jobs = [node.defragment(), node.hash_kv(0), node.defragment(), node.hash()]
        _, hashed, _, _ = await asyncio.gather(*jobs)
        assert (0, *hashed) == node.mvcc.hash_kv(0)
        counts = {name: sample[0][-1][1] for name, sample in node.histograms().items()}
        assert counts["etcd_disk_backend_defrag_duration_seconds"] == 2
        assert counts["etcd_mvcc_hash_duration_seconds"] == 1
        assert node.counters()["etcd_disk_defrag_inflight"] == 0


async def test_a_hash_that_is_given_up_does_no_harm(tmp_path: Path) -> None:
    async with member(tmp_path) as node:
        await write(node, proposals.TXN, puts([b"%d" % number for number in range(1_000)], 1_000))
        for _ in range(5):
            task = asyncio.ensure_future(node.hash_kv(0))
            while not node._flusher._jobs:
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert (0, *await node.hash_kv(0)) == node.mvcc.hash_kv(0)


async def test_the_loop_has_turns_while_many_records_are_hashed(tmp_path: Path) -> None:
    async with member(tmp_path, request_bytes_max=64 << 20, max_wals=1) as node:
        for first in range(0, 100_000, 20_000):
            await write(
                node, proposals.TXN, puts([b"dapr/jobs/app||ns||app||%08d" % number for number in range(first, first + 20_000)], 100)
            )
        await write(node, proposals.COMPACTION, rpc_pb2.CompactionRequest(revision=node.revision))
        await node.settle()
        turns = 0
        hashed = asyncio.ensure_future(node.hash_kv(0))
        while not hashed.done():
            began = time.perf_counter()
            await asyncio.sleep(0)
            turns += time.perf_counter() - began < 0.02
        assert turns > 30
        assert (0, *hashed.result()) == node.mvcc.hash_kv(0)
