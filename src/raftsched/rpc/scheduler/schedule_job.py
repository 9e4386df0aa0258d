"""ScheduleJob: the hot call of the API. A batch of requests comes in, two batches of writes go out.

Invariant: each handle is answered once, after its write was applied or refused; what the store could not say is asked again
until the caller gives up. Must not know: the engine; it learns of the job from the store's changes.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from raftsched.errors import TRANSIENT, EtcdError, GrpcCode, StatusError, status_of
from raftsched.proposals import PUT, TXN
from raftsched.rpc.metrics import MethodStats
from raftsched.rpc.scheduler.access import Access, checked_name, unreadable
from raftsched.rpc.scheduler.stats import SchedulerStats
from raftsched.scheduler.jobs._jobs import (
    DEFAULT_POLICY,
    WireError,
    create_job_request,
    encode_stored_job,
    parse_schedule_request,
    put_job_request,
    txn_succeeded,
    utc_instant,
)
from raftsched.scheduler.jobs.fields import Instant, JobFields
from raftsched.scheduler.jobs.names import Owner, name_prefix
from raftsched.scheduler.schedule import InvalidJobError, validate_job
from raftsched.scheduler.service import SchedulerService
from raftsched.types import Result

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Engine

NS: Final = 1_000_000_000
RETRY_S: Final = 0.3  # as often as Dapr asks again
Owners = dict[tuple[bytes, int], tuple[Owner, str, object]]
"""By metadata and certificate, which is one object per connection and is kept here so that its number stays its own: owner, prefix."""
NO_JOB: Final[JobFields] = (None, None, None, None, None, None)


class _Write:
    """One call under way."""

    __slots__ = ("composed", "kind", "repeated", "request", "target", "value")

    def __init__(self, kind: int, request: bytes, target: int, composed: str, value: bytes) -> None:
        self.kind = kind
        self.request = request
        self.target = target
        self.composed = composed
        self.value = value
        self.repeated = False  # sent before with an unknown outcome


class ScheduleJob:
    """The handler of /Scheduler/ScheduleJob; also the `ResultSink` of its writes."""

    def __init__(self, service: SchedulerService, access: Access, stats: SchedulerStats, door: "Engine", calls: MethodStats) -> None:
        self._service = service
        self._access = access
        self._stats = stats
        self._door = door
        self._calls = calls
        self._writes: dict[int, _Write] = {}

    def __call__(self, handles: list[int], messages: list[bytes]) -> None:
        calls = self._calls
        calls.started += len(handles)
        calls.received += len(handles)
        if self._service.ready.is_set():
            self._take(handles, messages)
        else:
            self._service.when_ready(lambda: self._take(handles, messages))

    def _take(self, handles: Sequence[int], messages: Sequence[bytes]) -> None:
        if self._service.closing:
            for handle in handles:
                self._fail(handle, GrpcCode.UNKNOWN, "cron is closed")
            return
        puts: tuple[list[int], list[bytes]] = ([], [])
        creates: tuple[list[int], list[bytes]] = ([], [])
        now_ns = self._service.now_ns()
        owners: Owners = {}
        for handle, message in zip(handles, messages, strict=True):
            try:
                write = self._prepare(handle, message, now_ns, owners)
            except StatusError as error:
                self._fail(handle, error.code, error.message)
                continue
            self._writes[handle] = write
            batch = puts if write.kind == PUT else creates
            batch[0].append(handle)
            batch[1].append(write.request)
        for kind, batch in ((PUT, puts), (TXN, creates)):
            if batch[0]:
                self._service.kv.write_many(kind, batch[1], batch[0], self)

    def _prepare(self, handle: int, message: bytes, now_ns: int, owners: Owners) -> _Write:
        """`owners`: those of this batch that have passed their gates. Mostly a batch is of one app."""
        try:
            name, job, metadata_bytes, metadata, overwrite = parse_schedule_request(message)
        except WireError as error:
            raise unreadable(error) from None
        certificate = self._door.peer_certificate(handle) if self._access.tls else None
        known = owners.get((metadata_bytes, id(certificate)))
        if known is None:
            owner = self._access.owner(metadata, certificate)
            known = owners[metadata_bytes, id(certificate)] = owner, name_prefix(owner), certificate
        owner, prefix, _ = known
        composed = prefix + name
        try:
            key = checked_name(composed)
            value = self._stored(job or NO_JOB, metadata_bytes, now_ns)
        except StatusError:
            self._stats.created_failed[owner.target] += 1
            raise
        if overwrite:
            return _Write(PUT, put_job_request(key, value), owner.target, composed, value)
        return _Write(TXN, create_job_request(key, value), owner.target, composed, value)

    def _stored(self, job: JobFields, metadata: bytes, now_ns: int) -> bytes:
        schedule, repeats, due_time, ttl, _, _ = job
        instant = utc_instant(due_time) if due_time and schedule is None and ttl is None and repeats is None else None
        if instant is not None:  # the common one-shot: no rule of §5.2 is left to look at
            return self._encode(job, metadata, True, instant, None)
        try:
            resolved = validate_job(self._service.schedules, schedule=schedule, due_time=due_time, ttl=ttl, repeats=repeats, now_ns=now_ns)
        except InvalidJobError as error:
            raise StatusError(GrpcCode.UNKNOWN, f"job failed validation: {error}") from None
        due = resolved.due_ns is not None
        begin = divmod(resolved.start_ns if resolved.due_ns is None else resolved.due_ns, NS)
        expiration = None if resolved.expiration_ns is None else divmod(resolved.expiration_ns, NS)
        return self._encode(job, metadata, due, begin, expiration)

    def _encode(self, job: JobFields, metadata: bytes, due: bool, begin: Instant, expiration: Instant | None) -> bytes:
        schedule, repeats, due_time, ttl, data, policy = job
        return encode_stored_job(
            self._service.random(),
            due,
            *begin,
            expiration,
            None if schedule is None else schedule.encode(),
            None if due_time is None else due_time.encode(),
            None if ttl is None else ttl.encode(),
            repeats,
            metadata,
            data,
            policy or DEFAULT_POLICY,
        )

    # -- ResultSink
    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None:
        done = 0
        for handle, (error, _, body) in zip(tokens, results, strict=True):
            write = self._writes.pop(handle)
            if error:
                self._on_error(handle, write, error)
            elif write.kind == TXN and not txn_succeeded(body) and not (write.repeated and write.value in body):
                self._stats.created_failed[write.target] += 1
                self._fail(handle, GrpcCode.ALREADY_EXISTS, f"job already exists: '{write.composed}'")
            else:
                self._stats.created[write.target] += 1
                self._door.reply(handle, b"")
                done += 1
        if done:
            self._calls.sent += done
            self._calls.ended(0, done)
            self._door.write_now()

    def _on_error(self, handle: int, write: _Write, error: int) -> None:
        if error in TRANSIENT and self._door.alive(handle) and not self._service.closing:
            write.repeated = True
            asyncio.get_running_loop().call_later(RETRY_S, self._repeat, handle, write)
            return
        self._stats.created_failed[write.target] += 1
        closed = error == EtcdError.STOPPED
        self._fail(handle, GrpcCode.UNKNOWN, "cron is closed" if closed else status_of(error).message)

    def _repeat(self, handle: int, write: _Write) -> None:
        if self._door.alive(handle):
            self._writes[handle] = write
            self._service.kv.write_many(write.kind, [write.request], [handle], self)
        else:
            self._stats.created_failed[write.target] += 1
            self._calls.ended(int(GrpcCode.CANCELLED))

    def _fail(self, handle: int, code: GrpcCode, text: str) -> None:
        self._calls.ended(int(code))
        self._door.fail(handle, int(code), text)
