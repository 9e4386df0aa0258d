"""An `ExternalKv` before a scripted etcd: for the tests of what it does there."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import grpc
import pytest

from raftsched.pb.etcd import rpc_pb2
from raftsched.scheduler.bridge.external.kv import ExternalKv, Target
from raftsched.scheduler.jobs.names import COUNTERS, JOBS
from raftsched.scheduler.jobs.requests import field
from raftsched.testing.fake_etcd import FakeEtcd
from raftsched.types import Change, Result

UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "connection reset by peer")


class Lines:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, /, **fields: object) -> None:
        self.lines.append(message)

    debug = warning = error = info


class Sink:
    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.results: dict[int, Result] = {}
        self.resets = 0

    def on_changes(self, changes: Sequence[Change], revision: int) -> None:
        self.changes += changes

    def on_reset(self) -> None:
        self.resets += 1

    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None:
        for token, result in zip(tokens, results, strict=True):
            assert token not in self.results, "answered twice"
            self.results[token] = result

    @property
    def keys(self) -> list[bytes]:
        return [change.key for change in self.changes]


@pytest.fixture
async def fake() -> AsyncIterator[FakeEtcd]:
    async with FakeEtcd() as opened:
        yield opened


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
async def kv(fake: FakeEtcd, lines: Lines) -> AsyncIterator[ExternalKv]:
    made = ExternalKv([Target(fake.address, False)], log=lines)
    made.start()
    yield made
    await made.close()


async def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


async def live(kv: ExternalKv) -> Sink:
    """A sink that hears everything from now on."""
    sink = Sink()
    kv.subscribe(sink)
    await asyncio.wait_for(kv._watch.live.wait(), 20)
    return sink


def packed(*names: bytes, main: int = 0) -> tuple[bytes, int]:
    """Counters put if the job has this revision."""
    request = b""
    for name in names:
        compare = rpc_pb2.Compare(result=rpc_pb2.Compare.EQUAL, target=rpc_pb2.Compare.MOD, key=JOBS + name, mod_revision=main)
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=COUNTERS + name, value=b"1"))
        txn = rpc_pb2.TxnRequest(compare=[compare], success=[put])
        request += field(2, rpc_pb2.RequestOp(request_txn=txn).SerializeToString())
    return request, len(names)


async def commit(kv: ExternalKv, request: bytes, count: int) -> tuple[int, int, bytes]:
    answer: asyncio.Future[tuple[int, int, bytes]] = asyncio.get_running_loop().create_future()
    kv.txn_packed(request, count, lambda *found: answer.set_result(found))
    return await asyncio.wait_for(answer, 20)


@pytest.fixture
async def second(fake: FakeEtcd) -> AsyncIterator[FakeEtcd]:
    """Another member of the same etcd."""
    async with FakeEtcd(fake.etcd) as opened:
        opened.history = fake.history
        yield opened
