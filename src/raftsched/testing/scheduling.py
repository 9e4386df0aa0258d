"""One engine on a virtual clock over a store in memory, with workers that answer when the test says so.

`Bench` is a scheduler without a loop: each input is a method, each output a list. `restart` throws the engine away and loads
a new one from the store, as a killed process would.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

from raftsched._core import TimerWheel
from raftsched.pb.dapr import scheduler_pb2, stored_pb2
from raftsched.pb.v1 import workers_pb2
from raftsched.scheduler.delivery._delivery import Delivery, StreamState
from raftsched.scheduler.delivery.gates import Gates, Limit
from raftsched.scheduler.engine._engine import Commit, Engine
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.calendars import CalendarRecords
from raftsched.scheduler.jobs.names import (
    CALENDARS,
    COUNTERS,
    HISTORY,
    JOBS,
    NAMESPACES,
    RUNS,
    STATES,
    TARGET_ACTOR,
    TARGET_JOB,
    Owner,
    actor_route,
    app_route,
    name_prefix,
)
from raftsched.scheduler.schedule import Schedules
from raftsched.testing.memory_etcd import MemoryEtcd
from raftsched.types import Change
from raftsched.zones import zone_table

START_MS = 1_700_000_000_000
APP = Owner("ns", "app", TARGET_JOB)
SUCCESS, FAILED = 0, 1
WorkerT = TypeVar("WorkerT", bound="Worker")


def actor(actor_type: str = "cat", actor_id: str = "1", app_id: str = "app", namespace: str = "ns") -> Owner:
    return Owner(namespace, app_id, TARGET_ACTOR, actor_type, actor_id)


def metadata(owner: Owner, concurrency_key: str | None = None) -> bytes:
    """JobMetadata of an owner."""
    message = scheduler_pb2.JobMetadata(app_id=owner.app_id, namespace=owner.namespace, concurrency_key=concurrency_key)
    if owner.target == TARGET_JOB:
        message.target.job.SetInParent()
    elif owner.target == TARGET_ACTOR:
        message.target.actor.id = owner.actor_id
        message.target.actor.type = owner.actor_type
    return message.SerializeToString()


def policy(*, drop: bool = False, interval_ms: int | None = None, max_retries: int | None = None) -> bytes:
    """JobFailurePolicy."""
    message = stored_pb2.Job().job.failure_policy
    if drop:
        message.drop.SetInParent()
    else:
        message.constant.SetInParent()
        if interval_ms is not None:
            message.constant.interval.FromMilliseconds(interval_ms)
        if max_retries is not None:
            message.constant.max_retries = max_retries
    return message.SerializeToString()


class Worker:
    """One WatchJobs stream: what it got, and room for `room` more (None = any number)."""

    def __init__(self) -> None:
        self.got: list[Any] = []  # WatchJobsResponse
        self.room: int | None = None
        self.cut: str | None = None
        self.stream: StreamState | None = None

    def push(self, message: bytes) -> bool:
        self.got.append(scheduler_pb2.WatchJobsResponse.FromString(message))
        if self.room is not None:
            self.room -= 1
        return self.room is None or self.room > 0

    def cut_off(self, reason: str) -> None:
        self.cut = reason

    def take(self) -> list[tuple[str, int]]:
        """(name, id) of what came since the last call."""
        taken, self.got = [(response.name, response.id) for response in self.got], []
        return taken


class BatchedWorker(Worker):
    """One WatchTriggers stream: `got` are Triggers, `batches` how many came in each message."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def push(self, message: bytes) -> bool:
        triggers = workers_pb2.WatchTriggersResponse.FromString(message).triggers
        self.got.extend(triggers)
        self.batches.append(len(triggers))
        if self.room is not None:
            self.room -= 1
        return self.room is None or self.room > 0

    def take(self) -> list[tuple[str, int]]:
        taken, self.got = [(trigger.name.name, trigger.id) for trigger in self.got], []
        return taken


def acks(*ids: int, failed: bool = False, error: str = "") -> bytes:
    """WatchTriggersRequest with answers."""
    answers = [workers_pb2.Ack(id=id_, failed=failed, error=error) for id_ in ids]
    return workers_pb2.WatchTriggersRequest(acks=workers_pb2.Acks(acks=answers)).SerializeToString()


def result(id_: int, status: int = SUCCESS) -> bytes:
    """WatchJobsRequest with a result."""
    request = scheduler_pb2.WatchJobsRequest()
    request.result.id = id_
    request.result.status = scheduler_pb2.WatchJobsRequestResultStatus.ValueType(status)
    return request.SerializeToString()


class Bench:
    """See the module's text."""

    def __init__(
        self,
        etcd: MemoryEtcd | None = None,
        now_ms: int = START_MS,
        total: int = 1,
        index: int = 0,
        *,
        branches_max: int = 3,
        backlog_max: int = 1000,
        event_log_bytes: int = 1 << 16,
    ) -> None:
        self.etcd = etcd or MemoryEtcd()
        self.now_ms = now_ms
        self.branches_max = branches_max
        self.backlog_max = backlog_max
        self.event_log_bytes = event_log_bytes
        self.held: list[tuple[Commit, int, bytes]] = []
        self.next_partition = 1
        self._start(total, index)

    def _start(self, total: int, index: int) -> None:
        self.notes: list[tuple[str, bytes]] = []
        self.workers: list[Worker] = []
        self.gates = Gates()
        self.delivery = Delivery(backlog_max=self.backlog_max)
        wheel = TimerWheel(self.now_ms, max_jobs=1 << 16, huge_pages=False)
        self.schedules = Schedules(zone_table, wheel.cron)
        self.engine = Engine(
            wheel,
            self.delivery,
            self.gates,
            lambda main, sub: self.etcd.records.get((main, sub)),
            self.schedules.compile,
            lambda event, key: self.notes.append((event, key)),
            hash_key=(3, 4),
            branches_max=self.branches_max,
            extended=self.schedules.extended,
            calendars=CalendarRecords(self.schedules.calendars, lambda event, key: self.notes.append((event, key))),
            event_log_bytes=self.event_log_bytes,
            replica=b"bench",
        )
        self.etcd.sinks = [self]
        self.engine.set_partition(total, index)
        self.engine.begin_load()
        for prefix in (JOBS, COUNTERS, NAMESPACES, STATES, RUNS, CALENDARS, HISTORY):
            self.engine.on_changes(self.etcd.live(prefix))
        self.engine.finish_load(self.etcd.revision)
        while self.engine.arm_some(7):
            pass

    def restart(self, total: int = 1, index: int = 0) -> None:
        """kill -9 and a new process: streams, runs and unanswered commits are gone."""
        self.held = []
        self._start(total, index)

    def on_changes(self, changes: Sequence[Change], revision: int) -> None:
        self.engine.heard_ms = self.now_ms
        self.engine.on_changes(changes)
        self.engine.mark_told(revision)
        if self.engine.regained:
            self.engine.regained = False
            while self.engine.arm_some(7):
                pass

    def on_reset(self) -> None:
        raise AssertionError("the memory store never loses history")

    # -- inputs
    def put(
        self,
        name: str,
        *,
        schedule: str | None = None,
        due_ms: int | None = None,
        start_ms: int | None = None,
        expires_ms: int | None = None,
        repeats: int | None = None,
        owner: Owner = APP,
        failure_policy: bytes | None = None,
        key: str | None = None,
        data: bytes | None = None,
        partition: int | None = None,
    ) -> bytes:
        """Stores a job as ScheduleJob would; its composed name."""
        begin = due_ms if due_ms is not None else start_ms if start_ms is not None else self.now_ms
        if partition is None:
            partition, self.next_partition = self.next_partition, self.next_partition + 1
        value = _jobs.encode_stored_job(
            partition,
            due_ms is not None,
            begin // 1000,
            begin % 1000 * 1_000_000,
            None if expires_ms is None else (expires_ms // 1000, expires_ms % 1000 * 1_000_000),
            None if schedule is None else schedule.encode(),
            None,
            None,
            repeats,
            metadata(owner, key),
            data,
            failure_policy or _jobs.DEFAULT_POLICY,
        )
        composed = (name_prefix(owner) + name).encode()
        self.etcd.put(JOBS + composed, value)
        return composed

    def connect(self, *owners: Owner, limits: Sequence[Limit] = ()) -> Worker:
        """A stream that takes the jobs of these owners' apps and types."""
        return self._join(Worker(), owners, limits)

    def connect_batched(self, *owners: Owner, limits: Sequence[Limit] = ()) -> BatchedWorker:
        """The same by raftsched.v1.Workers."""
        return self._join(BatchedWorker(), owners, limits)

    def _join(self, worker: WorkerT, owners: Sequence[Owner], limits: Sequence[Limit]) -> WorkerT:
        prefixes: list[tuple[bytes, int, tuple[str, str] | None]] = []
        for owner in owners or (APP,):
            if owner.target == TARGET_JOB:
                prefixes.append((app_route(owner.namespace, owner.app_id).encode(), TARGET_JOB, None))
            else:
                target = (owner.namespace, owner.actor_type)
                prefixes.append((actor_route(*target).encode(), TARGET_ACTOR, target))
        namespace = (owners or (APP,))[0].namespace
        self.workers.append(worker)
        batched = isinstance(worker, BatchedWorker)
        worker.stream = self.engine.open_stream(worker.push, worker, prefixes, namespace, limits, batched=batched)
        self.flush()
        return worker

    def disconnect(self, worker: Worker) -> None:
        assert worker.stream is not None
        self.engine.close_stream(worker.stream)
        self.flush()

    def tick(self, ms: int = 0) -> None:
        """Time passes, what is due is sent."""
        self.now_ms += ms
        self.engine.advance(self.now_ms)
        while self.engine.more:
            self.engine.advance(self.now_ms)
        self.flush()

    def flush(self) -> None:
        while self.engine.flush(64, self.now_ms):
            pass
        self.engine.check_invariants()

    def answer(self, worker: Worker, *ids: int, status: int = SUCCESS, error: str = "") -> str | None:
        """Acks; nothing is stored yet. `error`: of a batched worker alone."""
        assert worker.stream is not None
        batched = isinstance(worker, BatchedWorker)
        messages = [acks(*ids, failed=status == FAILED, error=error)] if batched else [result(id_, status) for id_ in ids]
        reason = self.engine.on_acks(worker.stream, messages, self.now_ms)
        self.engine.check_invariants()
        return reason

    def store(self) -> None:
        """Results reach the store; the outcomes are kept back for `outcomes`."""
        while self.engine.finish_some(3):
            pass
        for commit in self.engine.take_commits():
            error, revision, body = self.etcd.apply(6, commit.request)
            assert error == 0
            self.held.append((commit, revision, _jobs.txn_outcomes(body, commit.count)))
            self.engine.check_invariants()

    def outcomes(self) -> None:
        held, self.held = self.held, []
        for commit, _, outcome in held:
            assert self.engine.on_outcomes(commit, outcome, self.now_ms) == 0
            self.engine.check_invariants()

    def commit(self) -> None:
        """`store`, and the answers come."""
        self.store()
        self.outcomes()

    def ack(self, worker: Worker, *ids: int, status: int = SUCCESS, error: str = "") -> None:
        """Answers and stores."""
        assert self.answer(worker, *ids, status=status, error=error) is None
        self.commit()

    # -- reading
    def delivery_streams(self) -> list[StreamState]:
        """All open streams."""
        return [worker.stream for worker in self.workers if worker.stream is not None and worker.stream.open]

    def job_keys(self) -> list[bytes]:
        return sorted(key for key in self.etcd.keys if key.startswith(JOBS))

    def counter(self, composed: bytes) -> tuple[int, int, tuple[int, int] | None, int] | None:
        """(partition, count, last trigger, attempts) as stored."""
        kv = self.etcd.keys.get(COUNTERS + composed)
        return None if kv is None else _jobs.decode_counter(kv.value)
