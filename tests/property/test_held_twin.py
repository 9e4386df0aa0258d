"""The native engine against a slow twin, with pauses, freezes and runs that somebody asks for among everything else that happens.

What test_engine_twin.py does, and the text of docs/jobs-api.md over sets. Where a held job waits (idle, or armed until its entry fires into
nothing) is not compared; what is delivered, when, and what is left in the store are.
"""

from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from test_engine_twin import NAMES, NS, EngineMachine, Run, Twin

from raftsched.pb.etcd import rpc_pb2
from raftsched.pb.v1 import state_pb2
from raftsched.scheduler.engine.states import State
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import COUNTERS, JOBS, NAMESPACES, RUNS, STATES
from raftsched.types import Change

PAUSED = state_pb2.JobExtra(pause=state_pb2.Hold(reason="x")).SerializeToString()
FROZEN = state_pb2.NamespaceExtra(freeze=state_pb2.Hold(reason="x")).SerializeToString()
NAMESPACE = NAMESPACES + b"ns"


@dataclass
class Extra(Run):
    """A run that somebody asked for."""

    tries: int = 0


class HeldTwin(Twin):
    def __init__(self) -> None:
        super().__init__()
        self.paused: set[bytes] = set()
        self.wanted: set[bytes] = set()
        self.frozen = False
        self.now = 0

    def held(self, name: bytes) -> bool:
        return name in self.paused or self.frozen

    def run_wanted(self, name: bytes) -> bool:
        return name in self.wanted and not self.frozen

    def back(self, name: bytes) -> bool:
        """A run of this job may not go out."""
        return self.held(name) and not (isinstance(self.runs[name], Extra) and self.run_wanted(name))

    def on_changes(self, changes: list[Change]) -> None:
        for change in changes:
            name = change.key.removeprefix(STATES).removeprefix(RUNS)
            if change.key.startswith(STATES):
                self._state(name, put=not change.deleted)
            elif change.key.startswith(RUNS):
                self._run(name, put=not change.deleted)
            elif change.key == NAMESPACE:
                self._freeze(frozen=not change.deleted)
            else:
                if change.deleted and change.key.startswith(JOBS):  # both end with the job
                    self.paused.discard(change.key.removeprefix(JOBS))
                    self.wanted.discard(change.key.removeprefix(JOBS))
                super().on_changes([change])

    def _state(self, name: bytes, *, put: bool) -> None:
        if name in self.jobs and put:
            self.paused.add(name)
        elif name in self.paused:
            self.paused.discard(name)
            if name not in self.runs:
                self.settle(name)

    def _run(self, name: bytes, *, put: bool) -> None:
        run = self.runs.get(name)
        if put and name in self.jobs:
            self.wanted.add(name)
            if run is None or run.place == "armed":
                self.settle(name)
        elif name in self.wanted:
            self.wanted.discard(name)
            if run is None or isinstance(run, Extra):
                self.settle(name)

    def _freeze(self, *, frozen: bool) -> None:
        self.frozen = frozen
        for name in self.jobs if not frozen else ():
            if name not in self.runs:
                self.settle(name)

    def settle(self, name: bytes) -> None:
        if name not in self.jobs:
            return
        if self.run_wanted(name) or self.held(name):
            self.runs.pop(name, None)
            self.finishing.discard(name)
            if self.run_wanted(name):
                self.runs[name] = Extra(0, 0, 0, 0, "armed")
            return
        super().settle(name)

    def tick(self, now: int) -> list[bytes]:
        sent = []
        for name, job in self.jobs.items():
            due = self.due(name)
            if due is None or -(-due // NS) * NS > now:
                continue
            run = self.runs.get(name)
            if self.run_wanted(name):
                assert isinstance(run, Extra)
                run.planned = run.planned if run.tries else now
                run.tick = now
            elif self.held(name):
                self.runs.pop(name, None)  # fired into nothing
                continue
            else:
                tick = self.next_tick(job, self.counted(name))
                assert tick is not None
                run = self.runs.setdefault(name, Run(tick, tick, 0, 0, ""))
            run.main, run.counter_main = job.main, self._counter_main(name)
            run.place = "flying" if self.consumers else "staged"
            if self.consumers:
                sent.append(name)
        return sent

    def result(self, name: bytes, status: int) -> None:
        run, job = self.runs[name], self.jobs[name]
        if not isinstance(run, Extra):
            return super().result(name, status)
        run.tries += 1
        if status and job.retry is not None and (job.retry[1] is None or job.retry[1] >= run.tries):
            run.planned += job.retry[0]
            run.place = "armed"
        else:
            run.place = "committing"
        return None

    def connected(self) -> list[bytes]:
        self.consumers += 1
        return self._let_out([name for name, run in self.runs.items() if run.place == "staged"])

    def disconnected(self, names: list[bytes]) -> list[bytes]:
        self.consumers -= 1
        if self.consumers:
            return self._let_out(names)
        for name in names:
            self.runs[name].place = "staged"
        return []

    def _let_out(self, names: list[bytes]) -> list[bytes]:
        sent = []
        for name in names:
            if self.back(name):
                self.settle(name)
            else:
                self.runs[name].place = "flying"
                sent.append(name)
        return sent

    def missed(self, name: bytes, now: int) -> int | None:
        """The last tick of a recurring job that is due, by going through them."""
        job = self.jobs[name]
        tick = self.next_tick(job, self.counted(name))
        if tick is None or job.interval is None or tick > now:
            return None
        while job.interval and tick + job.interval <= now:
            tick += job.interval
        return tick if job.interval else now


class HeldMachine(EngineMachine):
    def __init__(self) -> None:
        super().__init__()
        self.held = self.twin = HeldTwin()

    @rule(name=st.sampled_from(NAMES))
    def pause(self, name: bytes) -> None:
        if name in self.held.jobs:
            self.bench.etcd.put(STATES + name, PAUSED)

    @precondition(lambda self: self.held.paused)
    @rule(data=st.data(), skip=st.booleans())
    def resume(self, data: st.DataObject, skip: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.held.paused)))
        changes: list[rpc_pb2.RequestOp] = []
        if skip:
            changes = self._skip(name)
        deletion = rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=STATES + name))
        self.bench.etcd.apply(6, rpc_pb2.TxnRequest(success=[*changes, deletion]).SerializeToString())

    def _skip(self, name: bytes) -> list[rpc_pb2.RequestOp]:
        """The counter behind what was missed."""
        now = self.bench.now_ms * NS
        found = self.bench.engine.missed(name, *divmod(now, 10**9))
        last = self.held.missed(name, now)
        assert (None if found is None else found[0]) == (None if last is None else divmod(last, 10**9))
        if last is None:
            return []
        job, counter = self.held.jobs[name], self.held.counted(name)
        value = _jobs.encode_counter(job.partition, counter.count if counter else 0, divmod(last, 10**9), 0)
        return [rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=COUNTERS + name, value=value))]

    @rule(frozen=st.booleans())
    def freeze(self, frozen: bool) -> None:
        if frozen:
            self.bench.etcd.put(NAMESPACE, FROZEN)
        else:
            self.bench.etcd.delete(NAMESPACE)

    @rule(name=st.sampled_from(NAMES))
    def run_now(self, name: bytes) -> None:
        if name in self.held.jobs and name not in self.held.wanted:
            self.bench.etcd.put(RUNS + name, b"")

    @precondition(lambda self: self.held.wanted)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        self.bench.etcd.delete(RUNS + data.draw(st.sampled_from(sorted(self.held.wanted))))

    @invariant()
    def same(self) -> None:
        bench, twin = self.bench, self.held
        assert bench.engine.jobs == len(twin.jobs)
        for name in twin.jobs:
            found = bench.engine.describe(name)
            assert found is not None
            tick = twin.next_tick(twin.jobs[name], twin.counted(name))
            assert found["tick"] == (None if tick is None else divmod(tick, 10**9))
            self._same_state(name, found)
            view = bench.engine.look(name)
            assert view is not None
            assert (view[9], view[10], view[12]) == (name in twin.paused, twin.frozen, name in twin.wanted)

    def _same_state(self, name: bytes, found: dict[str, Any]) -> None:
        twin = self.held
        run = twin.runs.get(name)
        if run is not None and run.place != "armed":
            assert found["state"] == {"flying": State.IN_FLIGHT, "staged": State.STAGED, "committing": State.COMMITTING}[run.place]
        elif twin.run_wanted(name):
            assert found["state"] == State.ARMED
        elif twin.held(name):
            assert found["state"] in (State.IDLE, State.ARMED, State.FINISHING)
        elif name in twin.finishing:
            assert found["state"] in (State.FINISHING, State.COMMITTING)
        else:
            due = twin.due(name)
            assert due is not None
            assert (found["state"], found["due_ms"]) == (State.ARMED, -(-due // NS))

    def teardown(self) -> None:
        """Nothing is left of jobs that went, whoever deleted them and whatever died meanwhile."""
        for _ in range(12):  # what goes lets the next go: counter, pause, request, of several jobs
            self.outcomes()
        left = set(self.bench.etcd.keys)
        assert {key.removeprefix(STATES) for key in left if key.startswith(STATES)} == self.held.paused
        assert {key.removeprefix(RUNS) for key in left if key.startswith(RUNS)} == self.held.wanted


TestHeld = HeldMachine.TestCase
TestHeld.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
