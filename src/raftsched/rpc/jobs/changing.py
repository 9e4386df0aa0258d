"""Changes of many jobs, entry by entry: each job under the revisions that were seen, again where somebody else was faster.

Must not know: what is changed, who asks.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from raftsched.errors import TRANSIENT, GrpcCode, StatusError, status_of
from raftsched.limits import JOB_CHANGE_ATTEMPTS_MAX, JOB_CHANGE_BRANCHES_MAX, STORE_RETRY_MS_MAX, STORE_RETRY_MS_MIN
from raftsched.pb.v1 import jobs_pb2, state_pb2
from raftsched.rpc.jobs.filters import Filter
from raftsched.rpc.jobs.listing import Slices, extra_of, found_jobs
from raftsched.rpc.jobs.rows import Record
from raftsched.scheduler.jobs._jobs import WireError, range_kvs
from raftsched.scheduler.jobs.names import JOBS, STATES
from raftsched.scheduler.jobs.requests import Branch, packed_request, range_request
from raftsched.scheduler.service import SchedulerService

AGAIN_S = 0.02  # for what this replica has not heard yet


@dataclass(frozen=True, slots=True)
class Seen:
    """A job as it was read, and what is stored beside it."""

    record: Record
    extra: state_pb2.JobExtra
    extra_revision: int
    """0 = there is none."""


Plan = Callable[[Seen], Branch | None]
"""The change of one job; None: it is as wanted."""


@dataclass(slots=True)
class Changer:
    """One call that changes jobs."""

    service: SchedulerService
    plan: Plan
    summary: jobs_pb2.ChangeSummary = field(default_factory=jobs_pb2.ChangeSummary)

    async def change_all(self, wanted: Filter) -> jobs_pb2.ChangeSummary:
        """Those that a filter wants."""
        batch: list[Record] = []
        async for record in _wanted(self.service, wanted):
            batch.append(record)
            if len(batch) == JOB_CHANGE_BRANCHES_MAX:
                await self._change(batch)
                batch = []
        await self._change(batch)
        return self.summary

    async def change_one(self, composed: bytes, missing: StatusError) -> jobs_pb2.ChangeSummary:
        """Raises `missing` if there is no such job."""
        record = await read_job(self.service, composed)
        if record is None:
            raise missing
        await self._change([record])
        return self.summary

    async def _change(self, records: Sequence[Record]) -> None:
        for attempt in range(JOB_CHANGE_ATTEMPTS_MAX):
            if not records:
                return
            if attempt:
                await asyncio.sleep(AGAIN_S * attempt)
            branches, changed = await self._plan(records)
            done = await commit(self.service, branches) if branches else b""
            self.summary.changed += sum(done)
            again = [record for record, ok in zip(changed, done, strict=True) if not ok]
            found = [await read_job(self.service, record.composed) for record in again]
            self.summary.unchanged += found.count(None)  # gone
            records = [record for record in found if record is not None]
        self.summary.unchanged += len(records)

    async def _plan(self, records: Sequence[Record]) -> tuple[list[Branch], list[Record]]:
        branches, changed = [], []
        slices = Slices()
        for seen in await self._look(records):
            if slices.over:
                await slices.rest()
            branch = self.plan(seen)
            if branch is None:
                self.summary.unchanged += 1
            else:
                branches.append(branch)
                changed.append(seen.record)
        return branches, changed

    async def _look(self, records: Sequence[Record]) -> list[Seen]:
        """With their extras, which lie in the same order."""
        names = [record.composed for record in records]
        _, body = await self.service.kv.range(range_request(STATES + min(names), STATES + max(names) + b"\0"))
        extras = {key[len(STATES) :]: (value, revision) for key, value, revision, _, _ in range_kvs(body)}
        seen = []
        for record in records:
            value, revision = extras.get(record.composed, (b"", 0))
            seen.append(Seen(record, extra_of(value, revision, record.created), revision))
        return seen


async def _wanted(service: SchedulerService, wanted: Filter) -> AsyncIterator[Record]:
    async for _, record in found_jobs(service, wanted):
        if record is not None:
            yield record


async def read_job(service: SchedulerService, composed: bytes) -> Record | None:
    """None: there is none, or nothing that could be read."""
    found = range_kvs((await service.kv.range(range_request(JOBS + composed)))[1])
    try:
        return Record(found[0][0], found[0][1], found[0][2], found[0][4]) if found else None
    except WireError:
        return None


async def commit(service: SchedulerService, branches: Sequence[Branch]) -> bytes:
    """One byte per branch: 1 = done. What the store cannot take at the moment is sent again, for the guards make that safe: a branch that
    was done without our knowing is told as not done."""
    request, delay_ms = packed_request(branches), STORE_RETRY_MS_MIN
    while True:
        error, outcomes = await _sent(service, request, len(branches))
        if not error:
            return outcomes
        if error not in TRANSIENT or service.closing:
            raise status_of(error)
        await asyncio.sleep(delay_ms / 1000)
        delay_ms = min(delay_ms * 2, STORE_RETRY_MS_MAX)


def _sent(service: SchedulerService, request: bytes, count: int) -> Awaitable[tuple[int, bytes]]:
    future: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

    def done(error: int, revision: int, outcomes: bytes) -> None:
        if not future.done():
            future.set_result((error, outcomes))

    service.kv.txn_packed(request, count, done)
    return future


def checked_text(text: str, bytes_max: int, what: str) -> str:
    """Raises `StatusError`."""
    if len(text.encode()) > bytes_max:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"{what} has at most {bytes_max} bytes")
    return text
