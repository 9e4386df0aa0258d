"""Two etcds under the same traffic: every answer, error and watch event is compared field by field.

What may differ is written down here and nowhere else: ids of cluster and member, the Raft term, times to live by a second, the
order of equal items of a sort, the order of lists that etcd takes from a map, how events of several revisions are packed.
"""

import queue
import threading
import time
from typing import Any

import grpc

from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import rpc_pb2_grpc as stubs
from raftsched.testing.traffic import KEYS, Step, Traffic

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
CALL_TIMEOUT_S = 20.0
FILTERS: Any = [[], [], [0], [1], [0, 1], [7]]  # 7 is no filter
TIE_TARGETS = {pb.RangeRequest.VERSION: "version", pb.RangeRequest.CREATE: "create_revision", pb.RangeRequest.MOD: "mod_revision"}

# What etcd 3.5.1 does otherwise than 3.7.1; `Differential` leaves these out when the judge is that old.
DIFFERENCES_3_5 = (
    "keys_only keeps the lease of each key (3.7 serves it from the index)",
    "HashKVResponse has no hash_revision (3.6)",
    "a negative start_revision of a watch is taken as 0",
    "WatchProgressRequest is answered although watchers are not synced (3.5.8)",
    "a tombstone at the compacted revision is dropped (3.5.16), so HashKV at it differs",
    "quota and permission checks of nested transactions",
    "AuthStatus needs credentials when auth is on (3.7)",
)


class WatchClient:
    """One Watch stream of one server; keeps what arrived, by watch id."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._requests: queue.SimpleQueue[pb.WatchRequest | None] = queue.SimpleQueue()
        self._condition = threading.Condition()
        self.controls: list[pb.WatchResponse] = []
        self.events: dict[int, list[Any]] = {}
        self.progress = 0
        self.ended: str | None = None
        self._call = stubs.WatchStub(channel).Watch(iter(self._requests.get, None))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def send(self, request: pb.WatchRequest) -> None:
        self._requests.put(request)

    def wait(self, what: str, done: Any) -> None:
        """Until `done()`; for at most CALL_TIMEOUT_S."""
        with self._condition:
            if not self._condition.wait_for(lambda: done() or self.ended is not None, CALL_TIMEOUT_S) or self.ended is not None:
                raise AssertionError(f"{what}: did not come; stream ended: {self.ended}")

    def catch_up(self, revision: int) -> None:
        """Until the server says that everything up to `revision` was sent; it says nothing while a watcher is behind."""
        deadline = time.monotonic() + CALL_TIMEOUT_S
        self.progress = 0  # an answer from before the newest watch says nothing about it
        while self.progress < revision:
            assert time.monotonic() < deadline, f"no progress up to {revision}: {self.progress}, {self.ended}"
            self.send(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
            with self._condition:
                self._condition.wait_for(lambda: self.progress >= revision, 0.2)

    def close(self) -> None:
        self._call.cancel()  # type: ignore[no-untyped-call]  # grpc-stubs has no types for it
        self._requests.put(None)
        self._thread.join(10)

    def _read(self) -> None:
        try:
            for response in self._call:
                with self._condition:
                    self._take(response)
                    self._condition.notify_all()
        except grpc.RpcError as error:
            with self._condition:
                self.ended = f"{error.code()} {error.details()}"
                self._condition.notify_all()

    def _take(self, response: pb.WatchResponse) -> None:
        if response.created or response.canceled:
            self.controls.append(response)
        elif response.watch_id == -1:
            self.progress = max(self.progress, response.header.revision)
        else:
            assert response.header.revision >= max((event.kv.mod_revision for event in response.events), default=0)
            self.events.setdefault(response.watch_id, []).extend(response.events)
            mains = self.events[response.watch_id]
            if len(mains) > len(response.events) and response.events and not response.fragment:
                before = mains[-len(response.events) - 1].kv.mod_revision
                assert before < response.events[0].kv.mod_revision, "events of one revision came in two answers"


class Side:
    """One server and its clients."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address, options=UNLIMITED)
        self.stubs = {
            "KV": stubs.KVStub(self.channel),
            "Lease": stubs.LeaseStub(self.channel),
            "Maintenance": stubs.MaintenanceStub(self.channel),
            "Cluster": stubs.ClusterStub(self.channel),
            "Auth": stubs.AuthStub(self.channel),
        }
        self.watch = WatchClient(self.channel)

    def start(self, step: Step) -> Any:
        """Sends a request; the result is for `finish`."""
        service, method = step.method.split("/")
        call = getattr(self.stubs[service], method)
        if method == "LeaseKeepAlive":
            return call(iter([step.request]), timeout=CALL_TIMEOUT_S)
        return call.future(step.request, timeout=CALL_TIMEOUT_S)

    @staticmethod
    def finish(step: Step, call: Any) -> Any:
        """The response message, or (code, text)."""
        try:
            return next(call) if step.method == "Lease/LeaseKeepAlive" else call.result()
        except grpc.RpcError as error:
            return error.code(), error.details()

    def raw(self, path: str, message: bytes) -> Any:
        """The response bytes, or (code, text)."""
        call = self.channel.unary_unary(path, request_serializer=None, response_deserializer=None)
        try:
            return call(message, timeout=CALL_TIMEOUT_S)
        except grpc.RpcError as error:
            return error.code(), error.details()

    def close(self) -> None:
        self.watch.close()
        self.channel.close()


class Differential:
    """Runs traffic against `judge` (a real etcd) and `subject`."""

    def __init__(self, judge: str, subject: str, seed: int, *, judge_version: tuple[int, ...], txn_ops_max: int = 128) -> None:
        self.traffic = Traffic(seed, txn_ops_max=txn_ops_max)
        self.sides = (Side(judge), Side(subject))
        self._old_judge = judge_version < (3, 6)
        self._watches: dict[int, pb.WatchCreateRequest] = {}
        self.steps = 0

    def close(self) -> None:
        for side in self.sides:
            side.close()

    def run(self, steps: int, *, checkpoint_every: int = 60) -> None:
        for number in range(steps):
            if number % checkpoint_every == 0:
                self.checkpoint()
                self.new_watches()
            self.one(self.traffic.step())
        self.checkpoint()

    def one(self, step: Step) -> None:
        """One step on both sides."""
        if self._left_out(step):
            return
        if step.method == "KV/Compact":
            self.checkpoint()  # a watcher still behind is canceled or not by chance of timing
        calls = [side.start(step) for side in self.sides]
        answers = [Side.finish(step, call) for call in calls]
        expected, got = (normal(step, answer) for answer in answers)
        assert got == expected, f"step {self.steps}, {step.method}\n{step.request}\n--- etcd\n{expected}\n--- raftsched\n{got}"
        self.steps += 1
        self._note(step, answers[0])

    def checkpoint(self) -> None:
        """Both sides have sent all events; they are the same. A watch that has not started yet would hold back progress."""
        while any(create.start_revision > self.traffic.revision for create in self._watches.values()):
            self.one(Step("KV/Put", pb.PutRequest(key=b"a", value=b"onwards")))
        for side in self.sides:
            if self._watches:
                side.watch.catch_up(self.traffic.revision)
        judge, subject = (side.watch for side in self.sides)
        for watch_id, create in self._watches.items():
            expected, got = (list(map(str, watch.events.get(watch_id, []))) for watch in (judge, subject))
            assert got == expected, f"watch {watch_id}: {create}\n" + first_difference(expected, got)

    def new_watches(self) -> None:
        """Ends some watches and begins others; the answers to the requests are compared."""
        draw = self.traffic.random
        for watch_id in [one for one in self._watches if draw.random() < 0.3]:
            self.watch_request(pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=watch_id)))
            del self._watches[watch_id]
            for side in self.sides:
                side.watch.events.pop(watch_id, None)
        for _ in range(3):
            low, now = max(self.traffic.compacted, 1), self.traffic.revision
            starts = [0, 0, now, now + 1, draw.randint(low, now), low, *([] if self._old_judge else [-1])]
            self.create_watch(
                pb.WatchCreateRequest(
                    key=b"" if draw.random() < 0.1 else draw.choice(KEYS),
                    range_end=draw.choice([b"", b"\x00", b"b", b"c", b"\xff", b"a"]),
                    start_revision=draw.choice(starts),
                    prev_kv=draw.random() < 0.5,
                    filters=draw.choice(FILTERS),
                    fragment=draw.random() < 0.3,
                    watch_id=draw.choice([0, 0, 0, 5, 17, -9]),
                )
            )

    def create_watch(self, create: pb.WatchCreateRequest) -> None:
        control = self.watch_request(pb.WatchRequest(create_request=create))
        if not control.canceled:
            self._watches[control.watch_id] = create

    def watch_request(self, request: pb.WatchRequest) -> pb.WatchResponse:
        """A create or a cancel that is answered: the answers are compared; etcd's is returned."""
        answers: list[Any] = []
        for side in self.sides:
            count = len(side.watch.controls)
            side.watch.send(request)
            side.watch.wait(str(request), lambda side=side, count=count: len(side.watch.controls) > count)
            answers.append(normal(None, side.watch.controls[count]))
        assert answers[1] == answers[0], f"{request}\n--- etcd\n{answers[0]}\n--- raftsched\n{answers[1]}"
        return self.sides[0].watch.controls[-1]

    def _note(self, step: Step, answer: Any) -> None:
        if isinstance(answer, tuple):
            return
        self.traffic.revision = max(self.traffic.revision, answer.header.revision)
        if step.method == "KV/Compact":
            self.traffic.compacted = step.request.revision

    def _left_out(self, step: Step) -> bool:
        """HashKV at the compacted revision may come from a cache; see DIFFERENCES_3_5 for the rest."""
        if step.method == "Maintenance/HashKV":
            return self._old_judge or step.request.revision == self.traffic.compacted
        return self._old_judge and "keys_only" in str(step.request)


def normal(step: Step | None, answer: Any) -> Any:
    """What of an answer must be equal."""
    if isinstance(answer, tuple):
        return answer
    answer.header.cluster_id = answer.header.member_id = answer.header.raft_term = 0
    method = step.method if step else ""
    if method == "Lease/LeaseTimeToLive":
        return answer.header.revision, answer.ID, answer.TTL > 0, answer.TTL == -1, answer.grantedTTL, sorted(answer.keys)
    if method == "Lease/LeaseLeases":
        return answer.header.revision, sorted(one.ID for one in answer.leases)
    if step and method == "KV/Range" and (step.request.sort_target or 0) in (*TIE_TARGETS, pb.RangeRequest.VALUE):
        return range_with_ties(step.request, answer)
    return str(answer)


def range_with_ties(request: pb.RangeRequest, answer: pb.RangeResponse) -> Any:
    """The keys by which it is sorted, in order; and, when nothing was cut off, which items there are."""
    name = TIE_TARGETS.get(request.sort_target, "value")
    order = [getattr(kv, name) for kv in answer.kvs]
    items = sorted(map(str, answer.kvs)) if not answer.more else []
    return answer.header.revision, answer.count, answer.more, len(answer.kvs), order, items


def first_difference(expected: list[str], got: list[str]) -> str:
    for index in range(max(len(expected), len(got))):
        one, other = expected[index : index + 1], got[index : index + 1]
        if one != other:
            return f"event {index} of {len(expected)}, {len(got)}\n--- etcd\n{one}\n--- raftsched\n{other}"
    return ""
