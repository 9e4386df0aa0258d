"""Dead letters: runs that were given up, listed, run again, deleted (docs/jobs-api.md).

A letter whose job is there is run by a request for a run (`running.py`), and goes with its success; one whose job is gone becomes that job
again, as a one-shot that is due, in the same entry. Invariant: what is held is one page of keys and about a MiB of letters.
Must not know: gRPC's side of a call, how the engine keeps letters.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from raftsched.errors import GrpcCode, StatusError
from raftsched.limits import JOB_CHANGE_BRANCHES_MAX, JOB_SCAN_MAX, JOB_SCAN_PAGE_BYTES
from raftsched.pb.v1 import jobs_pb2, state_pb2
from raftsched.ports import KvClient
from raftsched.rpc.jobs.changing import commit, read_job
from raftsched.rpc.jobs.filters import Filter, Range, page_token, token_key
from raftsched.rpc.jobs.listing import Slices, walk
from raftsched.scheduler.jobs._jobs import DEFAULT_POLICY, WireError, encode_stored_job, parse_metadata, range_kvs
from raftsched.scheduler.jobs.dead_letters import dead_key, split_dead_key
from raftsched.scheduler.jobs.fields import Metadata
from raftsched.scheduler.jobs.names import DEAD, JOBS, RUNS, STATES, Owner, name_prefix, prefix_end
from raftsched.scheduler.jobs.requests import Branch, range_request
from raftsched.scheduler.schedule.instants import INSTANT_NS_MAX, INSTANT_NS_MIN
from raftsched.scheduler.service import SchedulerService

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Letter:
    """One as it was read."""

    key: bytes
    revision: int
    stored: state_pb2.StoredDeadLetter
    metadata: Metadata
    name: str
    """The short one of the job."""

    @property
    def composed(self) -> bytes:
        return split_dead_key(self.key)[0]

    @property
    def run(self) -> bytes:
        return split_dead_key(self.key)[1]


def letter_at(key: bytes, value: bytes, revision: int) -> Letter | None:
    """None: it cannot be read, or says that it is another job's."""
    try:
        key.decode()
        stored = state_pb2.StoredDeadLetter.FromString(value)
        metadata = parse_metadata(stored.metadata)
    except (DecodeError, WireError, UnicodeDecodeError):
        return None
    app_id, namespace, target, actor_id, actor_type, _ = metadata
    prefix = name_prefix(Owner(namespace, app_id, target, actor_type, actor_id)).encode() if target else b"?"
    composed, _ = split_dead_key(key)
    if not composed.startswith(prefix):
        return None
    return Letter(key, revision, stored, metadata, composed[len(prefix) :].decode("utf-8", "replace"))


# -- which


@dataclass(frozen=True, slots=True)
class Wanted:
    """Those of a job, all or some runs of it, or those of a filter."""

    ranges: Sequence[Range]
    wants: Callable[[Letter], bool]

    async def letters(self, kv: KvClient, after: bytes = b"") -> AsyncIterator[tuple[bytes, Letter | None]]:
        """Every key behind `after` that may be wanted, and the letter if it is."""
        slices = Slices()
        async for key, value, revision, _ in walk(kv, self.ranges, after):
            if slices.over:
                await slices.rest()
            letter = letter_at(key, value, revision)
            yield key, letter if letter is not None and self.wants(letter) else None


def of_job(composed: bytes, runs: Sequence[str]) -> Wanted:
    """`runs` empty: all of them."""
    chosen = {run.encode() for run in runs}
    ranges = [Range(dead_key(composed, b""), prefix_end(dead_key(composed, b"")))]
    return Wanted(ranges, lambda letter: letter.composed == composed and (not chosen or letter.run in chosen))


def of_filter(wanted: Filter) -> Wanted:
    """Raises `StatusError`."""
    if wanted.labels:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, "dead letters have no labels: they outlive their job")
    ranges = [Range(DEAD + one.start[len(JOBS) :], DEAD + one.end[len(JOBS) :]) for one in wanted.ranges()]
    return Wanted(ranges, lambda letter: wanted.wants(letter.metadata, letter.name))


# -- list


async def list_letters(
    service: SchedulerService, wanted: Wanted, size: int, request: jobs_pb2.ListDeadLettersRequest
) -> jobs_pb2.ListDeadLettersResponse:
    """A page of up to `size`. Raises `StatusError`."""
    answer = jobs_pb2.ListDeadLettersResponse()
    looked_at, held_bytes, last = 0, 0, b""
    async for key, letter in wanted.letters(service.kv, token_key(request.page_token, DEAD)):
        if len(answer.dead_letters) == size or looked_at == JOB_SCAN_MAX or held_bytes > JOB_SCAN_PAGE_BYTES:
            answer.next_page_token = page_token(last)
            break
        looked_at, last = looked_at + 1, key
        if letter is not None:
            shown = answer.dead_letters.add()
            _show(letter, shown, with_data=request.with_data)
            held_bytes += len(shown.data.value)
    return answer


def _show(letter: Letter, shown: jobs_pb2.DeadLetter, *, with_data: bool) -> None:
    app_id, namespace, _, actor_id, actor_type, _ = letter.metadata
    stored = letter.stored
    shown.name.CopyFrom(jobs_pb2.JobName(namespace=namespace, app_id=app_id, name=letter.name, actor_type=actor_type, actor_id=actor_id))
    shown.run, shown.run_id = letter.run.decode("utf-8", "replace"), stored.run_id
    shown.attempts, shown.error, shown.data_omitted = stored.attempts, stored.error, stored.payload_omitted
    if _is_instant(stored.given_up_at):
        shown.given_up_at.CopyFrom(stored.given_up_at)
    if stored.HasField("scheduled_at") and _is_instant(stored.scheduled_at):
        shown.scheduled_at.CopyFrom(stored.scheduled_at)
    if with_data and stored.payload:
        try:
            data = Any.FromString(stored.payload)
        except DecodeError:
            return  # what others have stored
        shown.data.type_url, shown.data.value = data.type_url, data.value


def _is_instant(stamp: Timestamp) -> bool:
    """What others have stored may be none, and JSON knows no other."""
    return INSTANT_NS_MIN <= stamp.seconds * NS_PER_S <= INSTANT_NS_MAX and 0 <= stamp.nanos < NS_PER_S


# -- change


Plan = Callable[[Letter], "Branch | None"]


class LetterChanger:
    """One call that changes letters, some at a time. A letter that somebody else changes meanwhile counts as unchanged."""

    def __init__(self, service: SchedulerService) -> None:
        self._service = service
        self._branches: list[Branch] = []
        self._bytes = 0
        self.names: set[bytes] = set()  # of jobs in the transaction that is being filled: etcd refuses one that puts a key twice
        self.summary = jobs_pb2.ChangeSummary()

    async def add(self, branch: Branch | None) -> None:
        """None: it stays as it is."""
        if branch is None:
            self.summary.unchanged += 1
            return
        self._branches.append(branch)
        self._bytes += sum(len(value or b"") for _, value in branch.changes)
        if len(self._branches) == JOB_CHANGE_BRANCHES_MAX or self._bytes > JOB_SCAN_PAGE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        branches, self._branches, self._bytes, self.names = self._branches, [], 0, set()
        if branches:
            done = await commit(self._service, branches)
            self.summary.changed += sum(done)
            self.summary.unchanged += len(done) - sum(done)


async def delete_letters(service: SchedulerService, wanted: Wanted) -> jobs_pb2.ChangeSummary:
    """Raises `StatusError`."""
    changer = LetterChanger(service)
    async for _, letter in wanted.letters(service.kv):
        if letter is not None:
            await changer.add(Branch([(letter.key, letter.revision)], [(letter.key, None)]))
    await changer.flush()
    return changer.summary


async def redrive_letters(service: SchedulerService, wanted: Wanted, hold: state_pb2.Hold) -> jobs_pb2.ChangeSummary:
    """The oldest of each job, as one run of a job is out at a time; the others are left. Raises `StatusError`."""
    changer, before = LetterChanger(service), b""
    async for _, letter in wanted.letters(service.kv):
        if letter is None:
            continue
        chosen = letter.composed == before or letter.composed in changer.names
        branch = None if chosen else await _redrive(service, letter, hold)
        if branch is not None:
            before = letter.composed
            changer.names.add(before)
        await changer.add(branch)
    await changer.flush()
    return changer.summary


async def _redrive(service: SchedulerService, letter: Letter, hold: state_pb2.Hold) -> Branch | None:
    """None: not now, for its job runs already as somebody asked; or not as it was, for its job is another one now."""
    found = range_kvs((await service.kv.range(range_request(JOBS + letter.composed)))[1])
    if not found:
        return None if letter.stored.payload_omitted else _as_job(service, letter, hold)
    record = await read_job(service, letter.composed)
    if record is None or range_kvs((await service.kv.range(range_request(RUNS + letter.composed)))[1]):
        return None
    stored = letter.stored
    same = record.revision == stored.job_revision if stored.payload_omitted else (record.fields[9] or b"") == stored.payload
    if not same:
        return None
    request = state_pb2.RunRequest(reason=hold.reason, by=hold.by, at=hold.at, dead_letter=letter.run.decode())
    seen = [(letter.key, letter.revision), (JOBS + letter.composed, record.revision), (RUNS + letter.composed, 0)]
    return Branch(seen, [(RUNS + letter.composed, request.SerializeToString())])


def _as_job(service: SchedulerService, letter: Letter, hold: state_pb2.Hold) -> Branch:
    """The job that is gone, as a one-shot that is due now, and wants dead letters again."""
    now_ns, stored = service.now_ns(), letter.stored
    due = Timestamp()
    due.FromNanoseconds(now_ns)
    value = encode_stored_job(
        service.random(),
        True,
        *divmod(now_ns, NS_PER_S),
        None,
        None,
        due.ToJsonString().encode(),
        None,
        None,
        stored.metadata,
        stored.payload or None,
        stored.failure_policy or DEFAULT_POLICY,
    )
    extra = state_pb2.JobExtra(dead_letters=True)
    extra.last_change.CopyFrom(state_pb2.Change(what="redrive", reason=hold.reason, by=hold.by, at=hold.at))
    job, beside = JOBS + letter.composed, STATES + letter.composed
    changes = [(job, value), (beside, extra.SerializeToString()), (letter.key, None)]
    return Branch([(letter.key, letter.revision), (job, 0)], changes)
