"""The Dapr Scheduler itself and raftsched side by side, asked the same in the same bytes: whatever differs is told.

What may differ: partition ids, which are random, and instants that count from the receipt, by the time between the two receipts.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import timestamp_pb2

from raftsched.pb.dapr import scheduler_pb2 as pb
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.dapr_scheduler import EmbeddedDaprScheduler
from raftsched.testing.process import ServerProcess

SERVICE = "/dapr.proto.scheduler.v1.Scheduler/"
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
TIMEOUT_S = 30.0
GO_PROTO = "proto:\xa0"  # Go's library takes this space or a plain one, by the program
PARTITION = 1
INSTANTS = {2, 3, 4}
NEAR_NS = 5 * 10**9  # the requests of one comparison reach the two within this time, on a busy machine too


@dataclass(frozen=True)
class Answer:
    """Of one call: code, text, and the bytes of the response message."""

    code: str
    text: str
    body: bytes = b""


def how(error: grpc.RpcError) -> tuple[str, str]:
    """Code and text with which a call ended."""
    text: str = error.details() or ""  # type: ignore[attr-defined]
    return error.code().name, text.replace(GO_PROTO, "proto: ")  # type: ignore[attr-defined]


def app(app_id: str = "app", namespace: str = "ns", **fields: Any) -> pb.JobMetadata:
    """Whose a job is."""
    return pb.JobMetadata(app_id=app_id, namespace=namespace, target=pb.JobTargetMetadata(job=pb.TargetJob()), **fields)


def actor(actor_type: str = "cat", actor_id: str = "1", **fields: Any) -> pb.JobMetadata:
    """Whose a reminder is."""
    target = pb.TargetActorReminder(id=actor_id, type=actor_type)
    return pb.JobMetadata(app_id="app", namespace="ns", target=pb.JobTargetMetadata(actor=target), **fields)


def schedule_request(name: str, owner: pb.JobMetadata | None = None, *, overwrite: bool = False, **job: Any) -> pb.ScheduleJobRequest:
    """`job`: the fields of Job."""
    return pb.ScheduleJobRequest(name=name, job=pb.Job(**job), metadata=owner or app(), overwrite=overwrite)


class Side:
    """One of the two, reached in bytes."""

    def __init__(self, name: str, server: ServerProcess) -> None:
        self.name = name
        self.server = server
        self.channel = grpc.insecure_channel(server.scheduler_address, options=OPTIONS)
        self._etcd = grpc.insecure_channel(server.client_address, options=OPTIONS)
        self.kv = rpc_pb2_grpc.KVStub(self._etcd)

    def call(self, method: str, request: bytes, **options: Any) -> Answer:
        call = self.channel.unary_unary(SERVICE + method, request_serializer=None, response_deserializer=None)
        try:
            return Answer("OK", "", call(request, timeout=TIMEOUT_S, **options))
        except grpc.RpcError as error:
            return Answer(*how(error))

    def stored(self, prefix: bytes = b"dapr/") -> dict[bytes, bytes]:
        end = prefix[:-1] + bytes([prefix[-1] + 1])
        pairs = self.kv.Range(rpc_pb2.RangeRequest(key=prefix, range_end=end), timeout=TIMEOUT_S).kvs
        return {pair.key: pair.value for pair in pairs}

    def put(self, key: bytes, value: bytes) -> None:
        """As an outside tool does."""
        self.kv.Put(rpc_pb2.PutRequest(key=key, value=value), timeout=TIMEOUT_S)

    def close(self) -> None:
        self.channel.close()
        self._etcd.close()


class Pair:
    """Both, with what is compared so far."""

    def __init__(self, theirs: Side, ours: Side) -> None:
        self.theirs = theirs
        self.ours = ours
        self.compared = 0

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.theirs, self.ours

    def ask(self, method: str, request: Any, **options: Any) -> Answer:
        """The answer of both, which must be one; `request`: a message or its bytes."""
        answers = self.answers(method, request, **options)
        assert answers[0] == answers[1], f"{method} {request!r}\ntheirs: {answers[0]}\nours:   {answers[1]}"
        return answers[0]

    def answers(self, method: str, request: Any, **options: Any) -> tuple[Answer, Answer]:
        self.compared += 1
        body = request if isinstance(request, bytes) else request.SerializeToString()
        return self.theirs.call(method, body, **options), self.ours.call(method, body, **options)

    def same_store(self, prefix: bytes = b"dapr/jobs/") -> dict[bytes, bytes]:
        """What both have stored below `prefix`, jobs or counters, which must be one."""
        theirs, ours = (side.stored(prefix) for side in self.sides)
        assert theirs.keys() == ours.keys(), (sorted(theirs.keys() - ours.keys()), sorted(ours.keys() - theirs.keys()))
        for key, value in theirs.items():
            self.compared += 1
            assert (difference := different(value, ours[key])) is None, f"{key!r}: {difference}"
        return ours


def fields(message: bytes) -> list[tuple[int, bytes | int]]:
    """Numbers and values of a message whose fields are varints and what has a length, in their order on the wire."""
    found: list[tuple[int, bytes | int]] = []
    at = 0
    while at < len(message):
        tag, at = read_varint(message, at)
        number, at = read_varint(message, at)
        assert tag & 7 in {0, 2}, f"wire type of {tag}"
        if tag & 7:
            found.append((tag >> 3, message[at : at + number]))
            at += number
        else:
            found.append((tag >> 3, number))
    return found


def read_varint(message: bytes, at: int) -> tuple[int, int]:
    """It and where it ends."""
    value = shift = 0
    while True:
        value |= (message[at] & 0x7F) << shift
        shift += 7
        at += 1
        if message[at - 1] < 0x80:
            return value, at


def instant_ns(stamp: bytes) -> int:
    told = timestamp_pb2.Timestamp.FromString(stamp)
    return told.seconds * 10**9 + told.nanos


def different(theirs: bytes, ours: bytes) -> str | None:
    """What is not one in two stored jobs or counters: fields, their order, their bytes; instants may be NEAR_NS apart, but the distance
    between those of one record may not."""
    one, other = fields(theirs), fields(ours)
    if [number for number, _ in one] != [number for number, _ in other]:
        return f"fields {[number for number, _ in one]} and {[number for number, _ in other]}"
    shifts = []
    for (number, left), (_, right) in zip(one, other, strict=True):
        if number == PARTITION or left == right:
            continue
        if number not in INSTANTS or isinstance(left, int) or isinstance(right, int):
            return f"field {number}: {left!r} and {right!r}"
        shifts.append(instant_ns(right) - instant_ns(left))
    if any(abs(shift) > NEAR_NS for shift in shifts) or len(set(shifts)) > 1:
        return f"instants are {shifts} ns apart"
    return None


@contextmanager
def pair(program: Path, folder: Path, *, args: Sequence[str] = ()) -> Iterator[Pair]:
    """Both over their own stores."""
    with EmbeddedDaprScheduler(program, folder / "theirs", args=args) as dapr, ServerProcess(folder / "ours", args=args) as ours:
        sides = Side("theirs", dapr), Side("ours", ours)
        try:
            yield Pair(*sides)
        finally:
            for side in sides:
                side.close()
