"""Walks the stored jobs that a filter wants, in the order of their keys, whatever their number.

Who asks for labels walks the records beside the jobs, in which they are, in the same order: what has none costs nothing.
Pages are read one after the other, each at the revision of its moment: a job that is there all the time is met exactly once, one that
comes or goes meanwhile once or not at all. No history is needed, so no walk is too slow. Invariant: what is held is one page; the loop is
let go each LOOP_SLICE_MS.
Must not know: gRPC, who asks.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from google.protobuf.message import DecodeError

from raftsched.limits import JOB_SCAN_PAGE_BYTES, JOB_SCAN_PAGE_JOBS, LOOP_SLICE_MS
from raftsched.pb.v1 import jobs_pb2, state_pb2
from raftsched.ports import KvClient
from raftsched.rpc.jobs.filters import Filter, Range
from raftsched.rpc.jobs.rows import Record, job_of, put_failures
from raftsched.scheduler.jobs._jobs import WireError, range_kvs
from raftsched.scheduler.jobs.names import JOBS, STATES
from raftsched.scheduler.jobs.requests import range_request
from raftsched.scheduler.schedule import InvalidJobError
from raftsched.scheduler.service import SchedulerService

FIRST_PAGE_JOBS = 32  # nothing is known of their size yet

Found = tuple[bytes, Record | None]
"""Key, and the record if it is one and is wanted."""
Row = tuple[bytes, bytes, int, int]
"""Key, value, revision, and the one that created it."""


async def found_jobs(service: SchedulerService, wanted: Filter, after: bytes = b"") -> AsyncIterator[Found]:
    """Every key behind `after` that may be wanted."""
    slices = Slices()
    walk = _labelled if wanted.labels else _records
    async for key, value, revision, created in walk(service.kv, wanted, after):
        if slices.over:
            await slices.rest()
        try:
            record = Record(key, value, revision, created)
        except WireError:
            yield key, None  # told when it was loaded, and by Dapr's list
            continue
        yield key, record if wanted.wants(record.metadata, record.name) else None


async def shown_job(service: SchedulerService, record: Record) -> jobs_pb2.Job:
    """As this replica knows it now."""
    view = service.engine.look(record.composed)
    job = job_of(record, view, service.now_ns())
    put_failures(job, record.composed, service.engine)
    put_missing(service, job)
    if view is not None and view[11]:
        put_configured(job, await read_extra(service.kv, record))
    return job


def put_missing(service: SchedulerService, job: jobs_pb2.Job) -> None:
    """A job that waits for a calendar says so."""
    if job.state != jobs_pb2.JOB_STATE_NEVER or not job.dialect:
        return
    try:
        missing = service.schedules.missing_calendars(job.schedule, job.name.namespace)
    except InvalidJobError:
        return
    if missing:
        job.state, job.late = jobs_pb2.JOB_STATE_LATE, jobs_pb2.LATE_REASON_CALENDAR_MISSING


def put_configured(job: jobs_pb2.Job, extra: state_pb2.JobExtra) -> None:
    """What ConfigureJobs has stored."""
    job.labels.update(extra.labels)
    if extra.HasField("misfire"):
        job.misfire.CopyFrom(extra.misfire)
    if extra.HasField("retry"):
        job.retry.CopyFrom(extra.retry)
    job.dead_letters = extra.dead_letters
    if extra.HasField("history"):
        job.history.CopyFrom(extra.history)


async def read_extra(kv: KvClient, record: Record) -> state_pb2.JobExtra:
    """What is stored beside the job that is there now."""
    found = range_kvs((await kv.range(range_request(STATES + record.composed)))[1])
    return extra_of(found[0][1], found[0][2], record.created) if found else state_pb2.JobExtra()


def extra_of(value: bytes, revision: int, created: int) -> state_pb2.JobExtra:
    """Of a record beside a job that was created at `created`; one of a job before it says nothing, nor does one that cannot be read."""
    try:
        return state_pb2.JobExtra.FromString(value if revision >= created else b"")
    except DecodeError:
        return state_pb2.JobExtra()


class Slices:
    """How long the loop has been held."""

    def __init__(self) -> None:
        self._end_s = time.perf_counter() + LOOP_SLICE_MS / 1000

    @property
    def over(self) -> bool:
        return time.perf_counter() > self._end_s

    async def rest(self) -> None:
        """Others have their turn."""
        await asyncio.sleep(0)
        self._end_s = time.perf_counter() + LOOP_SLICE_MS / 1000


async def _labelled(kv: KvClient, wanted: Filter, after: bytes) -> AsyncIterator[Row]:
    """The jobs of the records under raftsched/jobs/. Whose labels are others comes without its value."""
    ranges = [Range(beside(one.start), beside(one.end)) for one in wanted.ranges()]
    async for key, value, revision, created in walk(kv, ranges, beside(after) if after else b""):
        job_key = JOBS + key[len(STATES) :]
        if not wanted.labels.items() <= extra_of(value, revision, created).labels.items():
            yield job_key, b"", revision, created
            continue
        for _, stored, changed, _, born in range_kvs((await kv.range(range_request(job_key)))[1]):
            yield job_key, stored if born <= revision else b"", changed, born


def beside(key: bytes) -> bytes:
    """Where the record beside the job at `key` is, or would be."""
    return STATES + key[len(JOBS) :]


def _records(kv: KvClient, wanted: Filter, after: bytes) -> AsyncIterator[Row]:
    return walk(kv, wanted.ranges(), after)


async def walk(kv: KvClient, ranges: Sequence[Range], after: bytes) -> AsyncIterator[Row]:
    """All keys of the ranges behind `after`, page by page."""
    limit = FIRST_PAGE_JOBS
    for one in ranges:
        start = max(one.start, after + b"\0") if after else one.start
        while start < one.end:
            _, body = await kv.range(range_request(start, one.end, limit=limit))
            page = range_kvs(body)
            for key, value, revision, _, created in page:
                yield key, value, revision, created
            if len(page) < limit:
                break
            start = page[-1][0] + b"\0"
            limit = max(1, min(JOB_SCAN_PAGE_JOBS, 2 * limit, limit * JOB_SCAN_PAGE_BYTES // len(body)))
