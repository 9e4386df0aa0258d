"""The ring of a job's last runs beside a list: whatever happens to job, workers and owner, it holds what was answered last."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from raftsched.pb.v1 import state_pb2
from raftsched.scheduler.jobs.names import HISTORY, JOBS, RUNS, STATES
from raftsched.testing.scheduling import FAILED, SUCCESS, BatchedWorker, Bench, policy

RETRIES = 1
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["tick", "answer", "answer", "answer", "fail", "ask", "keep", "put", "delete", "kill", "gone", "held"]),
        st.integers(0, 5),
    ),
    min_size=5,
    max_size=60,
)


class Story:
    """One job, one worker, and the list."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.worker = BatchedWorker()
        self.out: list[Any] = []
        self.wanted = 0
        self.kept: list[tuple[Any, ...]] = []
        self.put(1)
        self.join()

    @property
    def name(self) -> bytes:
        return b"app||ns||app||a"

    def join(self) -> None:
        self.worker, self.out = self.bench.connect_batched(), []

    def put(self, seconds: int) -> None:
        self.bench.put("a", schedule=f"@every {seconds + 1}s", failure_policy=policy(interval_ms=0, max_retries=RETRIES))
        self.take()
        self.out = []  # what is out counts no more

    def tick(self, seconds: int) -> None:
        self.bench.tick(seconds * 1000)
        self.take()

    def take(self) -> None:
        self.out += self.worker.got
        self.worker.got = []

    def answered(self, status: int) -> None:
        """The oldest trigger that still counts."""
        self.take()
        if not self.out:
            return
        trigger = self.out.pop(0)
        self.bench.ack(self.worker, trigger.id, status=status)
        if self.wanted and (status == SUCCESS or trigger.attempt >= RETRIES):
            at = None if trigger.asked else trigger.scheduled_at.ToNanoseconds()
            self.kept = [*self.kept, (trigger.run_id, at, trigger.attempt + 1, status)][-self.wanted :]

    def keep(self, runs: int) -> None:
        extra = state_pb2.JobExtra(history=state_pb2.History(runs=runs)) if runs else state_pb2.JobExtra(labels={"a": "b"})
        self.bench.etcd.put(STATES + self.name, extra.SerializeToString())
        self.wanted = runs
        if not runs:
            self.kept = []

    def delete(self, *, gone: bool) -> None:
        """`gone`: while nothing ran."""
        if gone:
            self.bench.etcd.sinks = []
        self.bench.etcd.delete(JOBS + self.name)
        if gone:
            self.bench.restart()
            self.join()
        self.bench.commit()
        self.wanted, self.kept = 0, []
        assert self.stored() == []
        self.put(1)

    def step(self, what: str, amount: int) -> None:
        if what == "tick":
            self.tick(amount)
        elif what in ("answer", "fail"):
            self.answered(SUCCESS if what == "answer" else FAILED)
        elif what == "ask":
            if RUNS + self.name not in self.bench.etcd.keys:  # a second one is of no effect: RunJobs does not write it
                self.bench.etcd.put(RUNS + self.name, b"")
            self.tick(0)
        elif what == "keep":
            self.keep(amount)
        elif what == "put":
            self.put(amount)
        elif what in ("delete", "gone"):
            self.delete(gone=what == "gone")
        elif what == "kill":
            self.bench.restart()
            self.join()
        else:
            self.bench.disconnect(self.worker)
            self.join()

    def stored(self) -> list[tuple[Any, ...]]:
        found = []
        for key in sorted(key for key in self.bench.etcd.keys if key.startswith(HISTORY)):
            kv = self.bench.etcd.keys[key]
            record = state_pb2.RunRecord.FromString(kv.value)
            assert int(key[-16:], 16) < kv.mod_revision
            at = record.scheduled_at.ToNanoseconds() if record.HasField("scheduled_at") else None
            instant = f"asked-{record.asked}" if record.asked else f"{record.scheduled_at.seconds}.{record.scheduled_at.nanos:09}"
            run_id = f"{self.name.decode()}/{instant}/{record.partition_id:016x}/{record.attempts - 1}"
            found.append((run_id, at, record.attempts, record.result - 1))
        return found


@settings(max_examples=300)
@given(STEPS)
def test_the_ring_holds_what_was_answered_last(steps: list[tuple[str, int]]) -> None:
    story = Story()
    story.keep(3)
    for what, amount in steps:
        story.step(what, amount)
        story.bench.commit()
        story.bench.commit()
        assert story.stored() == story.kept, what
    story.bench.restart()
    story.bench.commit()
    assert story.stored() == story.kept
