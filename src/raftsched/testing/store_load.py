"""Clients of the etcd API that write down what they did and heard: histories for `linearizability.check`.

Each client is a thread with one member at a time, and goes to the next one after an error. An error says nothing about the outcome,
whatever its text: a lost answer to a write is `unknown`, a lost read is no operation. Keys change after some operations, so that no
partition has many lost answers; every value is written once.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import rpc_pb2_grpc as stubs
from raftsched.testing.histories import revisions_out_of_order, with_expiries
from raftsched.testing.linearizability import Model, Operation, Undecided, check
from raftsched.testing.store_models import LeaseModel, RegisterModel, TxnModel
from raftsched.testing.store_operations import Compare, Delete, Get, Grant, Pair, Put, Renew, Result, Revoke, Txn

TIMEOUT_S = 3.0
AFTER_ERROR_S = 0.1
KEY_OPERATIONS = 60  # of one client, then it goes on to other keys
NO_LEASE = "requested lease not found"
SECOND_NS = 10**9


@dataclass(slots=True)
class Recorder:
    """What all clients of one kind did; instants are `time.monotonic_ns`."""

    history: list[Operation] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)
    answered_ns: list[int] = field(default_factory=list)  # when writes were acknowledged

    def note(self, operation: Operation) -> None:
        self.history.append(operation)
        if operation.output is not None and not isinstance(operation.input, Get):
            self.answered_ns.append(operation.returned or 0)


class Client(threading.Thread):
    """One client; `step` makes one operation and is the kind's own."""

    kind = ""

    def __init__(self, number: int, addresses: Sequence[str], recorder: Recorder, pause_s: float) -> None:
        super().__init__(name=f"{self.kind}-{number}", daemon=True)
        self.number = number
        self.draw = random.Random(number)
        self.stopping = threading.Event()
        self._addresses = addresses
        self._turn = number
        self._recorder = recorder
        self._pause_s = pause_s
        self._made = 0
        self._connect()

    def run(self) -> None:
        while not self.stopping.wait(self._pause_s):
            self.step()
            self._made += 1
        self._channel.close()

    def step(self) -> None:
        raise NotImplementedError

    @property
    def epoch(self) -> int:
        return self._made // KEY_OPERATIONS

    def value(self) -> str:
        """Never written before."""
        return f"{self.kind}{self.number}.{self._made}"

    def _connect(self) -> None:
        self._channel = grpc.insecure_channel(self._addresses[self._turn % len(self._addresses)])
        self.kv = stubs.KVStub(self._channel)
        self.lease = stubs.LeaseStub(self._channel)

    def operate(self, input: Any, call: Callable[[], Any], result: Callable[[Any], Result], *, reads: bool = False) -> Result | None:
        """Does one operation and writes it down; None = nobody knows."""
        begin = time.monotonic_ns()
        try:
            output = result(call())
        except grpc.RpcError as error:
            text = f"{error.code().name} {error.details()}"
            if NO_LEASE in text:
                output = Result(succeeded=False)
            else:
                self._lost(text, input, begin, reads=reads)
                return None
        self._recorder.note(Operation(self.number, begin, time.monotonic_ns(), input, output))
        return output

    def _lost(self, text: str, input: Any, begin: int, *, reads: bool) -> None:
        kind = text.partition(":")[0] if "connect" in text else text[:80]
        self._recorder.errors[kind] = self._recorder.errors.get(kind, 0) + 1
        if not reads:
            self._recorder.note(Operation(self.number, begin, None, input))
        self._channel.close()
        self._turn += 1
        self._connect()
        self.stopping.wait(AFTER_ERROR_S)

    def get(self, key: str) -> Result | None:
        return self.operate(Get(key), lambda: self.kv.Range(range_of(key), timeout=TIMEOUT_S), got, reads=True)

    def put(self, key: str, value: str, lease: int = 0) -> Result | None:
        request = pb.PutRequest(key=key.encode(), value=value.encode(), lease=lease)
        return self.operate(Put(key, value, lease), lambda: self.kv.Put(request, timeout=TIMEOUT_S), headed)


class RegisterClient(Client):
    """Puts, reads and deletes of keys that it shares with the other clients."""

    kind = "register"

    def step(self) -> None:
        key = f"register/{self.epoch}/{self.draw.randrange(5)}"
        pick = self.draw.random()
        if pick < 0.45:
            self.get(key)
        elif pick < 0.93:
            self.put(key, self.value())
        else:
            request = pb.DeleteRangeRequest(key=key.encode())
            self.operate(
                Delete(key), lambda: self.kv.DeleteRange(request, timeout=TIMEOUT_S), lambda it: Result((it.deleted,), it.header.revision)
            )


class TxnClient(Client):
    """Compare-and-put by value or by revision, and puts of two keys at once, on what it read before."""

    kind = "txn"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._known: dict[str, Pair] = {}

    def step(self) -> None:
        pair = self.draw.randrange(3)
        keys = [f"txn/{self.epoch}/{pair}/{side}" for side in "ab"]
        key = self.draw.choice(keys)
        pick = self.draw.random()
        if pick < 0.3:
            read = self.get(key)
            if read is not None and read.parts[0] is not None:
                self._known[key] = read.parts[0]
        elif pick < 0.4:
            self.put(key, self.value())
        else:
            self._txn(key, keys, by_value=pick < 0.8)

    def _txn(self, key: str, keys: list[str], *, by_value: bool) -> None:
        known = self._known.get(key)
        if by_value:
            compare = Compare(key, "value", known.value) if known else Compare(key, "mod", 0)
        else:
            compare = Compare(key, "mod", known.mod_revision if known else 0)
        txn = Txn((compare,), tuple(Put(one, self.value()) for one in keys), tuple(Get(one) for one in keys))
        answer = self.operate(txn, lambda: self.kv.Txn(txn_request(txn), timeout=TIMEOUT_S), transacted)
        if answer is not None and not answer.succeeded:
            self._known.update({one: part for one, part in zip(keys, answer.parts, strict=True) if part is not None})


class LeaseClient(Client):
    """Grants a lease, attaches a key, and renews, revokes or abandons it; reads the key as long as it is of interest."""

    kind = "lease"
    TTL_S = 2

    def step(self) -> None:
        lease = (self.number + 1) << 32 | self._made + 1
        key = f"lease/{self.number}/{self._made}"
        grant = pb.LeaseGrantRequest(ID=lease, TTL=self.TTL_S)
        self.operate(Grant(lease, self.TTL_S), lambda: self.lease.LeaseGrant(grant, timeout=TIMEOUT_S), headed)
        self.put(key, self.value(), lease)
        fate = self.draw.choice(["renew", "revoke", "abandon"])
        end = time.monotonic() + self.draw.uniform(0.5, 3.5)
        while time.monotonic() < end and not self.stopping.wait(0.2):
            self.get(key)
            if fate == "renew":
                self._renew(lease)
        if fate == "revoke":
            revoke = pb.LeaseRevokeRequest(ID=lease)
            self.operate(Revoke(lease), lambda: self.lease.LeaseRevoke(revoke, timeout=TIMEOUT_S), headed)
        self.get(key)

    def _renew(self, lease: int) -> None:
        request = pb.LeaseKeepAliveRequest(ID=lease)
        self.operate(
            Renew(lease),
            lambda: next(iter(self.lease.LeaseKeepAlive(iter([request]), timeout=TIMEOUT_S))),
            lambda answer: Result(succeeded=answer.TTL > 0),
            reads=True,
        )


CLIENTS: dict[type[Client], tuple[int, float, Model]] = {
    RegisterClient: (5, 0.01, RegisterModel()),
    TxnClient: (4, 0.02, TxnModel()),
    LeaseClient: (3, 0.05, LeaseModel()),
}


class StoreLoad:
    """All kinds of clients at once; `stop`, then `violations`. `addresses` may change: clients look when they go to another member."""

    def __init__(self, addresses: Sequence[str], *, slower: float = 1.0) -> None:
        self.recorders = {kind: Recorder() for kind in CLIENTS}
        self.clients = [
            kind(number, addresses, self.recorders[kind], pause_s * slower)
            for kind, (count, pause_s, _) in CLIENTS.items()
            for number in range(count)
        ]
        for client in self.clients:
            client.start()

    def stop(self) -> None:
        for client in self.clients:
            client.stopping.set()
        for client in self.clients:
            client.join()

    def violations(self) -> list[str]:
        """What is wrong with the histories, one text each."""
        found = []
        for kind, recorder in self.recorders.items():
            history = with_expiries(recorder.history, second=SECOND_NS)
            try:
                wrong = check(history, CLIENTS[kind][2])
                found += [str(wrong)] if wrong is not None else []
            except Undecided as undecided:
                found.append(f"not decided: {undecided}")
        everything = [one for recorder in self.recorders.values() for one in recorder.history]
        if (pair := revisions_out_of_order(everything)) is not None:
            found.append(f"revisions contradict the order of the answers:\n    {pair[0]}\n    {pair[1]}")
        return found

    @property
    def writes(self) -> int:
        """Acknowledged so far."""
        return sum(len(recorder.answered_ns) for recorder in self.recorders.values())

    @staticmethod
    def now_ns() -> int:
        """This instant on the histories' clock."""
        return time.monotonic_ns()

    def longest_gap_ms(self, since_ns: int) -> float:
        """The longest time since then in which no client had a write acknowledged, until the last one was."""
        moments = sorted(one for recorder in self.recorders.values() for one in list(recorder.answered_ns) if one >= since_ns)
        return max((after - before for before, after in zip([since_ns, *moments], moments, strict=False)), default=0) / 1e6

    def figures(self) -> dict[str, Any]:
        """Counts by kind, and how many answers were lost."""
        histories = {kind.kind: recorder.history for kind, recorder in self.recorders.items()}
        counts: dict[str, Any] = {kind: len(history) for kind, history in histories.items()}
        counts["unknown"] = sum(one.output is None for history in histories.values() for one in history)
        counts["errors"] = {}
        for recorder in self.recorders.values():
            for text, count in recorder.errors.items():
                counts["errors"][text] = counts["errors"].get(text, 0) + count
        return counts


# -- from our values to etcd's messages and back


def range_of(key: str) -> pb.RangeRequest:
    return pb.RangeRequest(key=key.encode())


def txn_request(txn: Txn) -> pb.TxnRequest:
    request = pb.TxnRequest()
    for one in txn.compares:
        if one.what == "value":
            value = str(one.wanted).encode()
            request.compare.add(target=pb.Compare.VALUE, result=pb.Compare.EQUAL, key=one.key.encode(), value=value)
        else:
            mod = int(one.wanted or 0)
            request.compare.add(target=pb.Compare.MOD, result=pb.Compare.EQUAL, key=one.key.encode(), mod_revision=mod)
    for operations, into in ((txn.success, request.success), (txn.failure, request.failure)):
        for operation in operations:
            if isinstance(operation, Put):
                into.add(request_put=pb.PutRequest(key=operation.key.encode(), value=operation.value.encode()))
            else:
                into.add(request_range=range_of(operation.key))
    return request


def pair_of(answer: Any) -> Pair | None:
    return Pair(answer.kvs[0].value.decode(), answer.kvs[0].mod_revision) if answer.kvs else None


def got(answer: Any) -> Result:
    return Result((pair_of(answer),), answer.header.revision)


def headed(answer: Any) -> Result:
    return Result(revision=answer.header.revision)


def transacted(answer: Any) -> Result:
    parts = tuple(pair_of(one.response_range) if one.HasField("response_range") else True for one in answer.responses)
    return Result(parts, answer.header.revision, answer.succeeded)
