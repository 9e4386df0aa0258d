"""The periodic defragmentation of `raftsched serve` (spec §11): every ten minutes, if half of the file is free; after an error in 5 s."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raftsched import proposals
from raftsched.errors import GrpcCode, StatusError
from raftsched.pb.etcd import rpc_pb2
from raftsched.store.node import Node, NodeOptions
from raftsched.store.node.reclaiming import INTERVAL_S, RETRY_S, keep_small


@dataclass
class Status:
    db_size: int
    db_size_in_use: int


class Lines:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, object]]] = []

    def __getattr__(self, level: str) -> object:
        return lambda message, **fields: self.lines.append((level, message, fields))


class OverError(Exception):
    """The clock of the test has run out."""


class Store:
    """Sizes as scripted; each defragmentation takes the next of `errors`."""

    def __init__(self, *sizes: tuple[int, int], errors: tuple[str, ...] = ()) -> None:
        self.sizes, self.errors = list(sizes), list(errors)
        self.asked = 0

    def status(self) -> Status:
        return Status(*self.sizes[0])

    async def defragment(self) -> None:
        self.asked += 1
        if self.errors and (text := self.errors.pop(0)):
            raise StatusError(GrpcCode.UNKNOWN, text)
        self.sizes[0] = (self.sizes[0][1], self.sizes[0][1])


async def run(store: Store, rounds: int) -> tuple[list[float], list[tuple[str, str, dict[str, object]]]]:
    waited: list[float] = []
    log = Lines()

    async def sleep(seconds: float) -> None:
        if len(waited) == rounds:
            raise OverError
        waited.append(seconds)
        if len(store.sizes) > 1:
            store.sizes.pop(0)

    with pytest.raises(OverError):
        await keep_small(store, log, sleep=sleep)  # type: ignore[arg-type]
    return waited, log.lines


async def test_half_of_the_file_is_free() -> None:
    assert (INTERVAL_S, RETRY_S) == (600.0, 5.0)
    store = Store((0, 0), (199, 100), (200, 100), (120, 100))
    waited, lines = await run(store, 3)
    assert waited == [600.0] * 3
    assert store.asked == 1
    assert lines == [("info", "reclaimed space", {"freed_bytes": 100})]


async def test_an_error_is_told_once_and_tried_again() -> None:
    store = Store((300, 100), errors=("no space left on device", "no space left on device", "other", ""))
    waited, lines = await run(store, 5)
    assert waited == [600.0, 5.0, 5.0, 5.0, 600.0]
    assert [(level, fields.get("error")) for level, _, fields in lines] == [
        ("warning", "no space left on device"),
        ("warning", "other"),
        ("info", None),
    ]


async def test_a_real_store_shrinks(tmp_path: Path) -> None:
    node = Node(NodeOptions(data_dir=str(tmp_path), history_bound=False), log=Lines(), on_fatal=print)  # type: ignore[arg-type]
    await node.start()
    try:
        for _ in range(20):
            await ask(node, "put", rpc_pb2.PutRequest(key=b"big", value=bytes(1_000_000)))
        await ask(node, "compact", rpc_pb2.CompactionRequest(revision=21, physical=True))
        async with asyncio.timeout(30):  # what is compacted goes from the file piece by piece
            while (before := node.status()).db_size < 2 * before.db_size_in_use:
                await node.settle()
                await asyncio.sleep(0.02)
        task = asyncio.create_task(keep_small(node, Lines(), interval_s=0.01))  # type: ignore[arg-type]
        async with asyncio.timeout(30):
            while node.status().db_size > before.db_size // 4:
                await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    finally:
        await node.stop()


async def ask(node: Node, what: str, request: Any) -> None:

    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    class Sink:
        def on_results(self, tokens: object, results: Any) -> None:
            done.set_result(results[0][0])

    kind = {"put": proposals.PUT, "compact": proposals.COMPACTION}[what]
    node.propose_many(kind, [request.SerializeToString()], [1], Sink())
    assert await done == 0
