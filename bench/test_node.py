"""A member without a door: loop-thread time per put by batch size, rates, reads, start to ready.

Run: `pytest bench/test_node.py --benchmark-enable -s`. `extra_info` holds what counts: `loop_us` is the CPU time of the loop thread
per put, key index and records included; `store_us` is that part alone, measured in the same run on a store without a log.
"""

import asyncio
import shutil
import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from raftsched import proposals
from raftsched.pb.etcd.rpc_pb2 import PutRequest, RangeRequest
from raftsched.store._records import MemoryRecords
from raftsched.store.lease import Lessor
from raftsched.store.mvcc._store import MvccStore
from raftsched.store.node import Node, NodeOptions

VALUE_BYTES = 256


class Quiet:
    def __getattr__(self, _level: str):
        return lambda _message, **_fields: None


class Repeat:
    """Sends a batch again as soon as it is answered."""

    def __init__(self, node: Node, messages: list[bytes], batches: int) -> None:
        self.node, self.messages, self.left = node, messages, batches
        self.done = asyncio.get_running_loop().create_future()

    def on_results(self, tokens, results) -> None:
        assert not any(error for error, _, _ in results)
        self.left -= 1
        if self.left > 0:
            self.node.propose_many(proposals.PUT, self.messages, tokens, self)
        elif not self.done.done():
            self.done.set_result(None)


def puts(count: int) -> list[bytes]:
    return [PutRequest(key=b"key%05d" % number, value=bytes(VALUE_BYTES)).SerializeToString() for number in range(count)]


def store_alone_us(messages: list[bytes], rounds: int) -> float:
    store = MvccStore(MemoryRecords(), Lessor(lambda _: None), hash_seed=1)
    started = time.thread_time()
    for _ in range(rounds):
        list(map(store.put, messages))
    return (time.thread_time() - started) / rounds / len(messages) * 1e6


@pytest.mark.parametrize("size", [1, 10, 100])
def test_put(benchmark: BenchmarkFixture, tmp_path: Path, size: int) -> None:
    rounds = 60_000 // (size + 20)
    messages = puts(size)

    async def drive() -> tuple[float, float]:
        node = Node(NodeOptions(data_dir=str(tmp_path), max_wals=1), log=Quiet(), on_fatal=pytest.fail)
        await node.start()
        repeat = Repeat(node, messages, rounds)
        cpu, wall = time.thread_time(), time.perf_counter()
        node.propose_many(proposals.PUT, messages, list(range(size)), repeat)
        await repeat.done
        spent = time.thread_time() - cpu, time.perf_counter() - wall
        await node.stop()
        return spent

    def once() -> None:
        shutil.rmtree(tmp_path, ignore_errors=True)
        cpu, wall = asyncio.run(drive())
        count = rounds * size
        benchmark.extra_info |= {
            "loop_us": round(cpu / count * 1e6, 2),
            "store_us": round(store_alone_us(messages, rounds), 2),
            "puts_per_s": round(count / wall),
        }

    benchmark.pedantic(once, rounds=1)
    print(f"\nbatches of {size}: {benchmark.extra_info}")


@pytest.mark.parametrize("size", [1, 100])
def test_linearizable_range(benchmark: BenchmarkFixture, tmp_path: Path, size: int) -> None:
    """One key each, answered by a lone leader at once."""

    class Ignore:
        def on_results(self, tokens, results) -> None:
            assert not results[0][0]

    async def drive() -> None:
        node = Node(NodeOptions(data_dir=str(tmp_path)), log=Quiet(), on_fatal=pytest.fail)
        await node.start()
        repeat = Repeat(node, puts(100), 1)
        node.propose_many(proposals.PUT, puts(100), list(range(100)), repeat)
        await repeat.done
        ranges = [RangeRequest(key=b"key%05d" % number).SerializeToString() for number in range(size)]
        tokens, sink = list(range(size)), Ignore()
        calls = 20_000 // size
        benchmark.extra_info["ranges_per_round"] = calls * size
        benchmark.pedantic(lambda: [node.read_many(ranges, tokens, sink) for _ in range(calls)], rounds=10)
        await node.stop()

    asyncio.run(drive())


def test_start_to_ready(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """An empty directory; the process and its imports not counted."""

    async def drive(number: int) -> None:
        node = Node(NodeOptions(data_dir=str(tmp_path / str(number))), log=Quiet(), on_fatal=pytest.fail)
        await node.start()
        await node.stop()

    numbers = iter(range(10**6))
    benchmark.pedantic(lambda: asyncio.run(drive(next(numbers))), rounds=5)
