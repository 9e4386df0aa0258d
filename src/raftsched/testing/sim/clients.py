"""Clients of the etcd API: each does one thing after another at some member and writes down what it asked and what it was told.

An answer that does not come (the member died, the answer was lost, a time-out) leaves an outcome that nobody knows.
Must not know: what is right; `checkers` says that.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from raftsched import proposals
from raftsched.errors import EtcdError, StatusError
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.testing.linearizability import Operation
from raftsched.testing.store_operations import Compare, Delete, Get, Grant, Pair, Put, Renew, Result, Revoke, Txn
from raftsched.types import Result as Answer

if TYPE_CHECKING:
    from raftsched.testing.sim.machine import Process
    from raftsched.testing.sim.world import World

REFUSED = frozenset({EtcdError.NO_LEADER, EtcdError.TOO_MANY_REQUESTS, EtcdError.NO_SPACE, EtcdError.NOT_LEADER})  # it was not proposed
PATIENCE_S = 12.0
R = TypeVar("R")


class _Sink:
    """A `ResultSink` for one call."""

    def __init__(self, future: "asyncio.Future[Answer]") -> None:
        self._future = future

    def on_results(self, tokens: Sequence[int], results: Sequence[Answer]) -> None:
        if not self._future.done():
            self._future.set_result(results[0])


async def propose(process: "Process", kind: int, message: bytes) -> Answer | None:
    """None: the answer was lost."""
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    process.owner.run(process.node.propose_many, kind, [message], [0], _Sink(future))
    return await answer_of(process, future)


async def read(process: "Process", message: bytes) -> Answer | None:
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    process.owner.run(process.node.read_many, [message], [0], _Sink(future))
    return await answer_of(process, future)


async def answer_of(process: "Process", future: "asyncio.Future[R]") -> R | None:
    both: list[asyncio.Future[Any]] = [future, process.gone]
    await asyncio.wait(both, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    return future.result() if future.done() else None


class Client:
    """One of them."""

    def __init__(self, world: "World", number: int, keys: list[str]) -> None:
        self._world = world
        self._number = number
        self._keys = keys
        self._chance = random.Random(f"{world.seed}/client{number}")
        self._values = 0
        self._leases: list[int] = []
        self._seen: dict[str, Pair | None] = {}
        self.answered = 0

    async def run(self) -> None:
        while not self._world.quiet:
            await asyncio.sleep(self._chance.expovariate(1 / self._world.options.think_s))
            process = self._world.some_process(self._chance)
            if process is not None:
                await self._one(process)

    async def _one(self, process: "Process") -> None:
        kinds = [self._put] * 4 + [self._get] * 5 + [self._txn] * 4 + [self._delete] * 2
        if self._world.options.leases:
            kinds += [self._grant, self._put_leased, self._put_leased, self._renew, self._renew, self._revoke]
        await self._chance.choice(kinds)(process)

    def _key(self) -> str:
        return self._chance.choice(self._keys)

    def _value(self) -> str:
        self._values += 1
        return f"{self._number}.{self._values}" + "x" * self._chance.choice([0, 0, 0, 10, 700])

    # -- calls

    async def _call(self, process: "Process", asked: Any, kind: int, request: Any, read_answer: Any) -> Answer | None:
        """Proposes, and adds what came of it to the history."""
        await self._travel()
        called = self._world.loop.now_ns
        answer = await propose(process, kind, request.SerializeToString())
        await self._travel()
        lost = answer is not None and self._chance.random() < self._world.options.lost_answers
        if answer is None or lost or (answer[0] and answer[0] not in (*REFUSED, EtcdError.LEASE_NOT_FOUND)):
            self._note(asked, called, None, None)
            return None
        if answer[0] in REFUSED:
            return None
        self.answered += 1
        self._note(asked, called, self._world.loop.now_ns, read_answer(answer))
        return answer if not answer[0] else None

    def _note(self, asked: Any, called: int, returned: int | None, output: Any) -> None:
        self._world.history.add(Operation(self._number, called, returned, asked, output))
        self._world.note(f"client{self._number}", f"{asked} -> {output}")

    async def _travel(self) -> None:
        await asyncio.sleep(self._chance.choice([0.0, 0.0002, 0.003]) * self._chance.random())

    async def _put(self, process: "Process", lease: int = 0) -> None:
        key, value = self._key(), self._value()
        request = pb.PutRequest(key=key.encode(), value=value.encode(), lease=lease)

        def told(answer: Answer) -> Result:
            return Result((), answer[1], succeeded=not answer[0])

        await self._call(process, Put(key, value, lease), proposals.PUT, request, told)

    async def _delete(self, process: "Process") -> None:
        key = self._key()

        def told(answer: Answer) -> Result:
            return Result((pb.DeleteRangeResponse.FromString(answer[2]).deleted,), answer[1])

        await self._call(process, Delete(key), proposals.DELETE_RANGE, pb.DeleteRangeRequest(key=key.encode()), told)

    async def _get(self, process: "Process") -> None:
        key = self._key()
        await self._travel()
        called = self._world.loop.now_ns
        answer = await read(process, pb.RangeRequest(key=key.encode()).SerializeToString())
        await self._travel()
        if answer is None or answer[0]:
            return
        pair = self._seen[key] = _pair(pb.RangeResponse.FromString(answer[2]))
        self.answered += 1
        self._note(Get(key), called, self._world.loop.now_ns, Result((pair,), answer[1]))

    async def _txn(self, process: "Process") -> None:
        """Compare and swap by what was last seen, or by value; else read."""
        key = self._key()
        seen = self._seen.get(key)
        compare, wanted = Compare(key, "mod", seen.mod_revision if seen else 0), pb.Compare(key=key.encode(), target=pb.Compare.MOD)
        if seen and self._chance.random() < 0.3:
            compare, wanted = Compare(key, "value", seen.value), pb.Compare(key=key.encode(), target=pb.Compare.VALUE)
            wanted.value = seen.value.encode()
        else:
            wanted.mod_revision = seen.mod_revision if seen else 0
        put = Put(key, self._value())
        request = pb.TxnRequest(compare=[wanted])
        request.success.add().request_put.CopyFrom(pb.PutRequest(key=key.encode(), value=put.value.encode()))
        request.failure.add().request_range.CopyFrom(pb.RangeRequest(key=key.encode()))

        def told(answer: Answer) -> Result:
            response = pb.TxnResponse.FromString(answer[2])
            if response.succeeded:
                self._seen[key] = Pair(put.value, answer[1])
                return Result((True,), answer[1])
            self._seen[key] = _pair(response.responses[0].response_range)
            return Result((self._seen[key],), answer[1], succeeded=False)

        await self._call(process, Txn((compare,), (put,), (Get(key),)), proposals.TXN, request, told)

    # -- leases

    async def _grant(self, process: "Process") -> None:
        lease, ttl_s = process.node.next_lease_id(), self._chance.choice([2, 2, 3, 5])
        called = self._world.loop.now_ns
        told = Result
        answer = await self._call(
            process, Grant(lease, ttl_s), proposals.LEASE_GRANT, pb.LeaseGrantRequest(TTL=ttl_s, ID=lease), lambda got: told((), got[1])
        )
        if answer is not None:
            self._world.leases.lives(lease, called, ttl_s)
        self._leases = [*self._leases[-4:], lease]

    async def _put_leased(self, process: "Process") -> None:
        if self._leases:
            await self._put(process, self._chance.choice(self._leases))

    async def _renew(self, process: "Process") -> None:
        if not self._leases:
            return
        lease = self._chance.choice(self._leases)
        loop = self._world.loop
        called = loop.now_ns
        task = process.owner.run(lambda: loop.create_task(process.node.lease_renew(lease)))
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # also when nobody waits any more
        try:
            ttl_s = await answer_of(process, task)
        except StatusError:
            return
        if ttl_s:
            self._world.leases.lives(lease, called, ttl_s)
            self._note(Renew(lease), called, loop.now_ns, Result())

    async def _revoke(self, process: "Process") -> None:
        if not self._leases:
            return
        lease = self._leases.pop()
        self._world.leases.revoking(lease)
        await self._call(
            process,
            Revoke(lease),
            proposals.LEASE_REVOKE,
            pb.LeaseRevokeRequest(ID=lease),
            lambda got: Result((), got[1], succeeded=not got[0]),
        )


def _pair(response: Any) -> Pair | None:
    if not response.kvs:
        return None
    return Pair(response.kvs[0].value.decode(), response.kvs[0].mod_revision)


class Watching:
    """A client that follows a range over crashes: it comes back, to any member, with the revision after the last it saw."""

    def __init__(self, world: "World", number: int, key: bytes, end: bytes) -> None:
        self._world = world
        self.name = f"watch{number}"
        self._chance = random.Random(f"{world.seed}/{self.name}")
        self.key, self.end = key, end
        self.start = 0  # fixed by the first `created`
        self.got: list[tuple[int, bytes, bool]] = []
        self.seen = 0  # everything up to this revision has come
        self._reopen: asyncio.Event

    async def run(self) -> None:
        while True:
            process = self._world.some_process(self._chance)
            if process is None:
                await asyncio.sleep(0.05)
                continue
            await self._follow(process)
            await asyncio.sleep(self._chance.random() * 0.3)

    async def _follow(self, process: "Process") -> None:
        sink = _WatchSink(self, process)
        stream = sink.stream = process.owner.run(process.hub.open, sink)
        process.owner.run(lambda: stream.create(self.key, self.end, start_revision=self.seen + 1 if self.seen else 0))
        while process.alive and process.serving:
            pause_s = self._chance.expovariate(1.0)
            await asyncio.wait([process.gone], timeout=pause_s)
            if not process.alive or (not self._world.quiet and self._chance.random() < 0.1):
                break
            process.owner.run(sink.drain)
            if self._chance.random() < 0.3 or self._world.quiet:
                process.owner.run(stream.request_progress)
        sink.ended = True
        if process.alive:
            process.owner.run(stream.close)

    def take(self, body: bytes, revision: int) -> None:
        response = pb.WatchResponse.FromString(body)
        if response.created and not self.start:
            self.start, self.seen = revision + 1, revision
        for event in response.events:
            main = event.kv.mod_revision
            self.got.append((main, event.kv.key, event.type == event.DELETE))
            self.seen = main
        if not response.events and not response.created and not response.canceled:
            self.seen = max(self.seen, revision)


class _WatchSink:
    """One stream of it; now and then it has no room."""

    def __init__(self, watching: Watching, process: "Process") -> None:
        self._watching = watching
        self._chance = random.Random(f"{process.name}/{watching.name}/{len(watching.got)}")
        self.stream: Any = None
        self.ended = False
        self.full = False

    def send(self, revision: int, body: bytes) -> bool:
        if not self.ended:
            self._watching.take(body, revision)
        self.full = self._chance.random() < 0.02
        return not self.full

    def drain(self) -> None:
        if self.full:
            self.full = False
            self.stream.on_writable()
