"""Locks and elections, step by step in any order: a store that answers at once, callers that are delayed, cancelled and die.

What must hold: a name has at most one holder; the line is served by create revision; who goes leaves no key behind; nobody waits when
nobody is before it. Keys are touched by their owners alone: etcd promises nothing else (tests/interop/test_lock_differential.py).
"""

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from raftsched import proposals
from raftsched.errors import GrpcCode, StatusError, status_of
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd.v3election_pb2 import CampaignResponse, LeaderKey
from raftsched.pb.etcd.v3lock_pb2 import LockResponse
from raftsched.rpc.etcd import recipes
from raftsched.rpc.etcd.recipes import DONE, Answer, Delete, Deletion, GoneError, Grant, Read, Recipe, Step, Txn, Undo
from raftsched.testing.lone_node import LoneNode
from raftsched.types import Result

NAMES = [b"n", b"m"]


class Taken:
    """A ResultSink for one answer."""

    result: Result = (0, 0, b"")

    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None:
        self.result = results[0]


class Store:
    """Does steps at once, except those that wait."""

    def __init__(self) -> None:
        self.node = LoneNode()

    def write(self, kind: int, message: bytes) -> Answer:
        taken = Taken()
        self.node.propose_many(kind, [message], [0], taken)
        return self._answer(taken.result)

    def read(self, request: pb.RangeRequest) -> Answer:
        return self._answer(self.node.read_local(request.SerializeToString()))

    def _answer(self, result: Result) -> Answer:
        error, revision, body = result
        if error:
            raise status_of(error)
        return Answer(b"", revision, body)

    def keys(self, name: bytes) -> dict[bytes, int]:
        """Key -> create revision."""
        found = self.read(pb.RangeRequest(key=name + b"/", range_end=name + b"0"))
        return {one.key: one.create_revision for one in pb.RangeResponse.FromString(found.body).kvs}

    def deleted(self, key: bytes, after: int) -> bool:
        changes, _ = self.node.mvcc.history(after + 1, 10_000)
        return any(one.deleted and one.key == key for one in changes)

    def perform(self, step: Step) -> Answer | None:
        """None: it has to wait."""
        if isinstance(step, Undo):
            step = step.step
        if isinstance(step, Txn):
            return self.write(proposals.TXN, step.request.SerializeToString())
        if isinstance(step, Delete):
            return self.write(proposals.DELETE_RANGE, pb.DeleteRangeRequest(key=step.key).SerializeToString())
        if isinstance(step, Read):
            return self.read(step.request)
        if isinstance(step, Grant):
            request = pb.LeaseGrantRequest(TTL=step.ttl_s, ID=self.node.next_lease_id())
            return self.write(proposals.LEASE_GRANT, request.SerializeToString())
        assert isinstance(step, Deletion)
        return DONE if self.deleted(step.key, step.after) else None


class Caller:
    """One Lock or Campaign under way."""

    def __init__(self, store: Store, name: bytes, lease: int, *, leads: bool) -> None:
        self.store, self.name, self.lease, self.leads = store, name, lease, leads
        self.key = b"%s/%x" % (name, lease)
        self.recipe: Recipe = recipes.campaign(name, lease, b"%d" % lease) if leads else recipes.lock(name, lease)
        self.step: Step | None = next(self.recipe)
        self.created = 0
        self.response = b""
        self.error: StatusError | None = None

    @property
    def over(self) -> bool:
        return self.step is None

    def go_on(self) -> None:
        """One step, unless it has to wait."""
        assert self.step is not None
        try:
            answer = self.store.perform(self.step)
        except StatusError as error:
            self.throw(error)
            return
        if answer is None:
            return
        if isinstance(self.step, Txn) and not self.created:
            self.created = answer.revision
        self._advance(lambda: self.recipe.send(answer))

    def throw(self, error: StatusError) -> None:
        self._advance(lambda: self.recipe.throw(error))

    def _advance(self, move: object) -> None:
        assert callable(move)
        try:
            self.step = move()
        except StopIteration as end:
            self.step, self.response = None, end.value
        except StatusError as error:
            self.step, self.error = None, error

    def give_up(self) -> None:
        """The client is gone: what is left to do is done at once."""
        self.throw(GoneError(GrpcCode.CANCELLED, "gone"))
        while not self.over:
            self.go_on()


class Line(RuleBasedStateMachine):
    """Callers in any order; the store's keys are the judge."""

    callers = Bundle("callers")

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.open: list[Caller] = []
        self.holders: list[Caller] = []
        self.leases = 0

    @rule(target=callers, name=st.sampled_from(NAMES), leads=st.booleans())
    def call(self, name: bytes, leads: bool) -> Caller:
        self.leases += 1
        self.store.write(proposals.LEASE_GRANT, pb.LeaseGrantRequest(TTL=60, ID=self.leases).SerializeToString())
        caller = Caller(self.store, name, self.leases, leads=leads)
        self.open.append(caller)
        return caller

    @rule(caller=callers, steps=st.integers(1, 4))
    def go_on(self, caller: Caller, steps: int) -> None:
        for _ in range(steps):
            if caller.over:
                return
            caller.go_on()
            self._settle(caller)

    @rule(caller=consumes(callers))
    def cancel(self, caller: Caller) -> None:
        """Before its Txn it leaves nothing; behind it, as in etcd, its key goes; a holder stays one."""
        if caller.over:
            return
        before = caller.created
        caller.give_up()
        self.open.remove(caller)
        assert isinstance(caller.error, GoneError)
        assert before or not caller.created, "nothing new is begun"
        assert caller.key not in self.store.keys(caller.name)

    @rule(caller=callers)
    def revoke(self, caller: Caller) -> None:
        if self.store.node.lessor.exists(caller.lease):
            self.store.write(proposals.LEASE_REVOKE, pb.LeaseRevokeRequest(ID=caller.lease).SerializeToString())
            self.holders = [one for one in self.holders if one is not caller]

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        step = (
            recipes.resign(LeaderKey(key=holder.key, rev=holder.created, lease=holder.lease))
            if holder.leads
            else recipes.unlock(holder.key)
        )
        ending = next(step)
        with pytest.raises(StopIteration):
            step.send(self.store.perform(ending))  # type: ignore[arg-type]
        self.holders.remove(holder)
        assert holder.key not in self.store.keys(holder.name)

    def _settle(self, caller: Caller) -> None:
        if not caller.over:
            return
        self.open.remove(caller)
        alive = caller.key in self.store.keys(caller.name)
        if caller.response:
            kind = CampaignResponse if caller.leads else LockResponse
            answer = kind.FromString(caller.response)
            assert (answer.leader.key if caller.leads else answer.key) == caller.key
            assert alive or caller.leads, "a lock that is given has its key"
            if alive:
                self.holders.append(caller)
        else:
            assert not alive, "who is refused has no place in line"
            assert caller.error is not None

    @invariant()
    def one_holder_and_it_is_the_oldest(self) -> None:
        for name in NAMES:
            holders = [one for one in self.holders if one.name == name]
            keys = self.store.keys(name)
            assert len(holders) <= 1
            for one in holders:
                assert keys[one.key] == one.created == min(keys.values())

    def teardown(self) -> None:
        """Nobody goes and nobody comes: the line is served to its end."""
        for _ in range(len(self.open) * 3 + 3):
            for caller in list(self.open):
                while not caller.over:
                    before = caller.step
                    caller.go_on()
                    self._settle(caller)
                    if caller.step is before:
                        break
            for holder in self.holders:
                self.store.write(proposals.DELETE_RANGE, pb.DeleteRangeRequest(key=holder.key).SerializeToString())
            self.holders.clear()
        assert not self.open, "somebody waits for nobody"


TestLine = Line.TestCase
TestLine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
