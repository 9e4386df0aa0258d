"""Two etcds under the same traffic: every answer, error and watch event is compared field by field.

What may differ is written down here and nowhere else: ids of cluster and member, the Raft term, times to live by a second, the
order of equal items of a sort, the order of lists that etcd takes from a map, how events of several revisions are packed.

What changes the store goes alone, since nobody could say in which order an etcd takes requests that are under way together; what only
reads follows in bunches.
"""

from collections import Counter
from typing import Any

from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.testing.gateway_side import GatewaySide, has_path, json_of
from raftsched.testing.traffic import KEYS, Step, Traffic
from raftsched.testing.wire_side import Side

FILTERS: Any = [[], [], [0], [1], [0, 1], [7]]  # 7 is no filter
TIE_TARGETS = {pb.RangeRequest.VERSION: "version", pb.RangeRequest.CREATE: "create_revision", pb.RangeRequest.MOD: "mod_revision"}
CHECKPOINT_EVERY = 40  # bunches
READS_MAX = 4  # in one bunch

# What etcd 3.5.1 does otherwise than 3.7.1; `Differential` leaves these out when the judge is that old.
DIFFERENCES_3_5 = (
    "keys_only keeps the lease of each key (3.7 serves it from the index)",
    "HashKVResponse has no hash_revision (3.6)",
    "a negative start_revision of a watch is taken as 0",
    "WatchProgressRequest is answered although watchers are not synced (3.5.8)",
    "a tombstone at the compacted revision is dropped (3.5.16), so HashKV at it differs",
    "quota and permission checks of nested transactions",
    "AuthStatus needs credentials when auth is on (3.7)",
    "RangeStream (3.7), and the gateway's forms of refusals (3.6)",
)


class Differential:
    """Runs traffic against `judge` (a real etcd) and `subject`. `gateway`: the share of requests that take the way of JSON.

    `steps` counts requests that were answered and compared, on gRPC and JSON; `outcomes` by method and what was said.
    """

    def __init__(
        self, judge: str, subject: str, seed: int, *, judge_version: tuple[int, ...], txn_ops_max: int = 128, gateway: float = 0.0
    ) -> None:
        self.traffic = Traffic(seed, txn_ops_max=txn_ops_max)
        self.sides = (Side(judge), Side(subject))
        self._gateways = (GatewaySide(judge), GatewaySide(subject)) if gateway else ()
        self._gateway = gateway
        self._old_judge = judge_version < (3, 6)
        self._watches: dict[int, pb.WatchCreateRequest] = {}
        self.steps = self.events = 0
        self.outcomes: Counter[tuple[str, str]] = Counter()

    def close(self) -> None:
        for side in (*self.sides, *self._gateways):
            side.close()

    def run(self, steps: int) -> None:
        """At least so many requests."""
        bunches, draw = 0, self.traffic.random
        while self.steps < steps:
            if bunches % CHECKPOINT_EVERY == 0:
                self.checkpoint()
                self.new_watches()
            bunches += 1
            self.one(self.traffic.change())
            self.bunch([self.traffic.read() for _ in range(draw.randint(0, READS_MAX))])
            if draw.random() < self._gateway:
                self.one(self.traffic.read())
        self.checkpoint()

    def one(self, step: Step) -> None:
        """One step on both sides."""
        if step.method == "KV/Compact":
            self.checkpoint()  # a watcher still behind is canceled or not by chance of timing
        if self._gateways and has_path(step) and self.traffic.random.random() < self._gateway:
            self._through_json(step)
        else:
            self.bunch([step])

    def bunch(self, steps: list[Step]) -> None:
        """Several steps that are under way together."""
        asked = [step for step in steps if not self._left_out(step)]
        both = [[side.start(step) for step in asked] for side in self.sides]
        for side in self.sides:
            side.client.flush()
        for step, *calls in zip(asked, *both, strict=True):
            self._compare(step, [Side.finish(step, call) for call in calls])

    def _through_json(self, step: Step) -> None:
        if self._left_out(step):
            return
        body = json_of(step.request, self.traffic.random)
        for side in self._gateways:
            side.start(step, body)
        answers = [side.finish(step) for side in self._gateways]
        self._compare(step, [answer for answer, _ in answers], "JSON ")
        expected, got = (form for _, form in answers)
        assert got == expected, f"{step.method} {body!r}\n--- etcd\n{expected}\n--- raftsched\n{got}"

    def _compare(self, step: Step, answers: list[Any], way: str = "") -> None:
        expected, got = (normal(step, answer) for answer in answers)
        assert got == expected, f"step {self.steps}, {way}{step.method}\n{step.request}\n--- etcd\n{expected}\n--- raftsched\n{got}"
        self.steps += 1
        self.outcomes[way + step.method, answers[0][1] if isinstance(answers[0], tuple) else "OK"] += 1
        self._note(step, answers[0])

    def checkpoint(self) -> None:
        """Both sides have sent all events; they are the same. A watch that has not started yet would hold back progress."""
        while any(create.start_revision > self.traffic.revision for create in self._watches.values()):
            self.bunch([Step("KV/Put", pb.PutRequest(key=b"a", value=b"onwards"))])
        for side in self.sides:
            if self._watches:
                side.watch.catch_up(self.traffic.revision)
        for watch_id, create in self._watches.items():
            expected, got = (side.watch.take_events(watch_id) for side in self.sides)
            assert got == expected, f"watch {watch_id}: {create}\n" + first_difference(expected, got)
            self.events += len(expected)

    def new_watches(self) -> None:
        """Ends some watches and begins others; the answers to the requests are compared."""
        draw = self.traffic.random
        for watch_id in [one for one in self._watches if draw.random() < 0.3]:
            self.watch_request(pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=watch_id)))
            del self._watches[watch_id]
            for side in self.sides:
                side.watch.forget(watch_id)
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
            answers.append(normal(None, side.watch.control(count, str(request))))
        assert answers[1] == answers[0], f"{request}\n--- etcd\n{answers[0]}\n--- raftsched\n{answers[1]}"
        self.steps += 1
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
        return self._old_judge and (step.method == "KV/RangeStream" or "keys_only" in str(step.request))


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
    return answer


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
