"""Random locks and elections on two servers: who waits behind whom follows from the keys, and every answer must come when it is due.

A call waits while its prefix has a key that is older than its own. `LockDifferential` knows that from the keys alone, so that it can tell
on each side whether a call must have ended; what it was told is compared. Observers, leases that servers make up and compactions are
left to the stories of tests/interop/test_lock_differential.py.
"""

import random
import time
from collections import Counter
from typing import Any, Final, NamedTuple

from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import v3election_pb2 as election_pb
from raftsched.pb.etcd import v3lock_pb2 as lock_pb
from raftsched.testing.differential import normal
from raftsched.testing.traffic import Step
from raftsched.testing.wire_client import Call
from raftsched.testing.wire_side import CALL_TIMEOUT_S, Side

NAMES: Final = [b"n", b"n", b"n", b"m", b"n/1", b"", b"\xff"]
LEASES: Final = [1, 2, 3, 4, 255, -5]
GONE: Final = 77
WAITING_MAX: Final = 6
KEYS: Final = b"\0"
EVERYTHING: Final = Step("KV/Range", pb.RangeRequest(key=KEYS, range_end=KEYS, sort_target=pb.RangeRequest.KEY))


def key_of(name: bytes, lease: int) -> bytes:
    return name + b"/%x" % lease  # as Go writes it: -5 is "-5"


def blocked(keys: Any, step: Step, revision: int) -> bool:
    """Whether there is an older key than the one of `revision` in its line."""
    prefix = step.request.name + b"/"
    return any(kv.key.startswith(prefix) and kv.create_revision < revision for kv in keys)


class Waiting(NamedTuple):
    """A call under way on both sides; `revision`: of its key, the same on both."""

    step: Step
    calls: tuple[Call, ...]
    revision: int


class LockDifferential:
    """Runs it against `judge` (a real etcd) and `subject`. `steps` counts answers that were compared."""

    def __init__(self, judge: str, subject: str, *, seed: int) -> None:
        self.draw = random.Random(seed)
        self.sides = (Side(judge, watching=False), Side(subject, watching=False))
        self._waiting: list[Waiting] = []
        self._held: list[bytes] = []  # keys, as of the last look
        self._leaders: list[election_pb.LeaderKey] = []
        self.steps = self.waited = 0
        self.outcomes: Counter[tuple[str, str]] = Counter()

    def close(self) -> None:
        for side in self.sides:
            side.close()

    def run(self, steps: int) -> None:
        """At least so many answers."""
        self.begin()
        while self.steps < steps:
            if self._waiting and (self.draw.random() < 0.07 or len(self._waiting) > WAITING_MAX):
                self.give_up()
            else:
                self.request()
        self._state()

    def begin(self) -> None:
        """Leases that locks may stand on."""
        for lease in LEASES:
            self.ask(Step("Lease/LeaseGrant", pb.LeaseGrantRequest(ID=lease, TTL=1_000)))

    def request(self) -> None:
        """One more, and the answers that follow from it."""
        self.ask(self._step())
        self._settle()

    def lock(self, name: bytes, lease: int) -> None:
        """This one, and the answers that follow from it."""
        self.ask(Step("Lock/Lock", lock_pb.LockRequest(name=name, lease=lease)))
        self._settle()

    def give_up(self) -> None:
        """One of the clients that wait goes, if there is any."""
        if self._waiting:
            self._give_up(self.draw.choice(self._waiting))
            self._settle()

    def wipe(self) -> None:
        """Nobody waits any more; no keys and no leases are left."""
        while self._waiting:
            self.give_up()
        for lease in LEASES:
            self.ask(Step("Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=lease)))
        self.ask(Step("KV/DeleteRange", pb.DeleteRangeRequest(key=b"\0", range_end=b"\0")))
        self._state()

    # -- requests

    def _step(self) -> Step:
        makers = {self._lock: 22, self._campaign: 16, self._unlock: 20, self._proclaim: 8, self._resign: 10, self._leader: 8}
        makers |= {self._lease: 8, self._intrude: 8}
        (make,) = self.draw.choices(list(makers), list(makers.values()))
        return make()

    def _lock(self) -> Step:
        return Step("Lock/Lock", lock_pb.LockRequest(name=self.draw.choice(NAMES), lease=self._any_lease()))

    def _campaign(self) -> Step:
        value = self.draw.choice([b"", b"v", b"w"])
        return Step("Election/Campaign", election_pb.CampaignRequest(name=self.draw.choice(NAMES), lease=self._any_lease(), value=value))

    def _unlock(self) -> Step:
        return Step("Lock/Unlock", lock_pb.UnlockRequest(key=self._any_key()))

    def _proclaim(self) -> Step:
        return Step("Election/Proclaim", election_pb.ProclaimRequest(leader=self._any_leader(), value=self.draw.choice([b"", b"p"])))

    def _resign(self) -> Step:
        return Step("Election/Resign", election_pb.ResignRequest(leader=self._any_leader()))

    def _leader(self) -> Step:
        return Step("Election/Leader", election_pb.LeaderRequest(name=self.draw.choice(NAMES)))

    def _lease(self) -> Step:
        lease = self.draw.choice(LEASES)
        if self.draw.random() < 0.6:
            return Step("Lease/LeaseGrant", pb.LeaseGrantRequest(ID=lease, TTL=1_000))
        return Step("Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=lease))

    def _intrude(self) -> Step:
        """Somebody writes among the keys of others."""
        key = self._any_key()
        if self.draw.random() < 0.5:
            return Step("KV/Put", pb.PutRequest(key=key or b"n/x", value=b"i", lease=0))
        end = key + b"\xff" if self.draw.random() < 0.3 else b""
        return Step("KV/DeleteRange", pb.DeleteRangeRequest(key=key or b"n/x", range_end=end))

    def _any_lease(self) -> int:
        return GONE if self.draw.random() < 0.03 else self.draw.choice(LEASES)

    def _any_key(self) -> bytes:
        if self._held and self.draw.random() < 0.6:
            return self.draw.choice(self._held)
        return b"" if self.draw.random() < 0.03 else key_of(self.draw.choice(NAMES), self._any_lease())

    def _any_leader(self) -> election_pb.LeaderKey | None:
        if not self._leaders or self.draw.random() < 0.04:
            return None
        leader = election_pb.LeaderKey()
        leader.CopyFrom(self.draw.choice(self._leaders[-8:]))
        if self.draw.random() < 0.15:
            leader.rev += self.draw.choice([-1, 1])
        if self.draw.random() < 0.1:
            leader.lease = self._any_lease()
        return leader

    # -- answers

    def ask(self, step: Step) -> None:
        """On both sides; one that has to wait is kept."""
        calls = tuple(side.start(step) for side in self.sides)
        for side in self.sides:
            side.client.flush()
        if step.method in ("Lock/Lock", "Election/Campaign"):
            revision, other = (self._placed(side, step, call) for side, call in zip(self.sides, calls, strict=True))
            assert other == revision, f"{step}: {revision}, {other}, {[(call.status, call.text) for call in calls]}"
            if revision:
                self.waited += 1
                self._waiting.append(Waiting(step, calls, revision))
                return
        self._end(step, calls)

    def _placed(self, side: Side, step: Step, call: Call) -> int:
        """The revision of the key that a call waits with; 0 = it has ended."""
        key, stop = key_of(step.request.name, step.request.lease), time.monotonic() + CALL_TIMEOUT_S
        while not call.done:
            assert time.monotonic() < stop, f"{step}: neither waits nor ends"
            keys = self._keys(side)
            # a candidate whose key is there already first writes its own value, and goes if it may not
            written = step.request.value if step.method == "Election/Campaign" else None
            mine = next((kv.create_revision for kv in keys if kv.key == key and written in (None, kv.value)), 0)
            if mine and blocked(keys, step, mine):
                return mine
            side.client.read(0.001)
        return 0

    def _keys(self, side: Side) -> Any:
        return side.finish(EVERYTHING, side.start(EVERYTHING)).kvs

    def _settle(self) -> None:
        """Ends what must have ended, until all that is left has to wait on both sides."""
        due = self._waiting
        while self._waiting and due:
            both = [self._keys(side) for side in self.sides]
            self._held = [kv.key for kv in both[0]]
            expected, got = ([blocked(keys, one.step, one.revision) for one in self._waiting] for keys in both)
            assert got == expected, "one waits on one side alone"
            due = [one for one, waits in zip(self._waiting, expected, strict=True) if not waits]
            self._waiting = [one for one, waits in zip(self._waiting, expected, strict=True) if waits]
            for one in due:
                self._end(one.step, one.calls)
        for one in self._waiting:
            assert not any(call.done for call in one.calls), f"{one.step}: ended too early: {[call.text for call in one.calls]}"

    def _give_up(self, one: Waiting) -> None:
        """The client goes; its place in line goes, too. Lock's key goes even if it is another's by now, Campaign's does not."""
        key, of_lock = key_of(one.step.request.name, one.step.request.lease), one.step.method == "Lock/Lock"
        self._waiting.remove(one)
        for side, call in zip(self.sides, one.calls, strict=True):
            side.client.cancel(call)
            stop = time.monotonic() + CALL_TIMEOUT_S
            while any(kv.key == key and (kv.create_revision == one.revision or of_lock) for kv in self._keys(side)):
                assert time.monotonic() < stop, f"{one.step}: its key stays"
                side.client.read(0.001)
        self._state()

    def _end(self, step: Step, calls: tuple[Call, ...]) -> None:
        expected, got = (normal(step, Side.finish(step, call)) for call in calls)
        assert got == expected, f"step {self.steps}, {step.method}\n{step.request}\n--- etcd\n{expected}\n--- raftsched\n{got}"
        self.steps += 1
        self.outcomes[step.method, expected[1] if isinstance(expected, tuple) else "OK"] += 1
        if step.method == "Election/Campaign" and not isinstance(expected, tuple):
            self._leaders.append(expected.leader)

    def _state(self) -> None:
        self._end(EVERYTHING, tuple(side.start(EVERYTHING) for side in self.sides))
