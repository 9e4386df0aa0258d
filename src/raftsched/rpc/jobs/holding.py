"""Pause, resume, freeze, unfreeze (decision 0012): what is stored for them, and what becomes of the ticks that were missed.

Must not know: gRPC's side of a call, how the engine holds jobs back.
"""

from raftsched.errors import GrpcCode, StatusError
from raftsched.limits import HOLD_BY_BYTES_MAX, HOLD_REASON_BYTES_MAX, JOB_NAME_BYTES_MAX
from raftsched.pb.v1 import jobs_pb2, state_pb2
from raftsched.rpc.jobs.changing import Changer, Seen, checked_text, commit
from raftsched.rpc.jobs.filters import Filter
from raftsched.rpc.jobs.listing import put_configured, read_extra
from raftsched.rpc.jobs.rows import Record
from raftsched.scheduler.jobs._jobs import encode_counter, range_kvs
from raftsched.scheduler.jobs.names import COUNTERS, JOBS, NAMESPACES, STATES, prefix_end
from raftsched.scheduler.jobs.requests import Branch, range_request
from raftsched.scheduler.service import SchedulerService

NS_PER_S = 1_000_000_000


def hold_of(reason: str, by: str, now_ns: int) -> state_pb2.Hold:
    """Raises `StatusError`."""
    hold = state_pb2.Hold(reason=checked_text(reason, HOLD_REASON_BYTES_MAX, "reason"), by=checked_text(by, HOLD_BY_BYTES_MAX, "by"))
    hold.at.seconds, hold.at.nanos = divmod(now_ns, NS_PER_S)
    return hold


def change_of(what: str, reason: str, by: str, now_ns: int) -> state_pb2.Change:
    """Raises `StatusError`."""
    hold = hold_of(reason, by, now_ns)
    return state_pb2.Change(what=what, reason=hold.reason, by=hold.by, at=hold.at)


def pausing(service: SchedulerService, hold: state_pb2.Hold) -> Changer:
    """Who is paused already keeps reason and time of its pause."""

    def plan(seen: Seen) -> Branch | None:
        if seen.extra.HasField("pause"):
            return None
        extra = state_pb2.JobExtra()
        extra.CopyFrom(seen.extra)
        extra.pause.CopyFrom(hold)
        return Branch(_revisions(seen), [(STATES + seen.record.composed, extra.SerializeToString())])

    return Changer(service, plan)


def resuming(service: SchedulerService, missed: "jobs_pb2.MissedTicks.ValueType") -> Changer:
    """What is missed is what is due now. Raises `StatusError`."""
    check_missed(missed)
    now_s, now_ns = divmod(service.now_ns(), NS_PER_S)

    def plan(seen: Seen) -> Branch | None:
        if not seen.extra.HasField("pause"):
            return None
        extra = state_pb2.JobExtra()
        extra.CopyFrom(seen.extra)
        extra.ClearField("pause")
        rest = extra.SerializeToString()
        change = (STATES + seen.record.composed, rest or None)
        if skips(missed, seen) and (skip := skipping(service, seen, now_s, now_ns)) is not None:
            return Branch([*_revisions(seen), *skip.seen], [*skip.changes, change])
        return Branch(_revisions(seen), [change])

    return Changer(service, plan)


def skips(missed: "jobs_pb2.MissedTicks.ValueType", seen: Seen) -> bool:
    """Whether the ticks of this job are skipped. What a misfire policy says needs no writing: the engine looks at it before each run."""
    by_policy = missed == jobs_pb2.MISSED_TICKS_POLICY and not seen.extra.misfire.ByteSize()
    return by_policy or missed == jobs_pb2.MISSED_TICKS_SKIP


def check_missed(missed: int) -> None:
    """Raises `StatusError`."""
    if missed not in jobs_pb2.MissedTicks.values():
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"missed is none of the ways to treat missed ticks: {missed}")


def skipping(service: SchedulerService, seen: Seen, until_s: int, until_ns: int) -> Branch | None:
    """The job's counter after the last tick that is due by then, uncounted; None: nothing was missed."""
    composed = seen.record.composed
    found = service.engine.missed(composed, until_s, until_ns)
    if found is None:
        return None
    last, revision, counter_revision, partition_id, count = found
    key = COUNTERS + composed
    return Branch([(JOBS + composed, revision), (key, counter_revision)], [(key, encode_counter(partition_id, count, last, 0))])


async def put_extra(service: SchedulerService, record: Record, job: jobs_pb2.Job) -> None:
    """Why a job is held, if it is, what was last done to it, and what is configured."""
    view = service.engine.look(record.composed)
    if view is None:
        return
    if view[11]:
        extra = await read_extra(service.kv, record)
        if extra.HasField("pause"):
            job.hold.CopyFrom(extra.pause)
        if extra.HasField("last_change"):
            job.last_change.CopyFrom(extra.last_change)
        put_configured(job, extra)
    if job.state == jobs_pb2.JOB_STATE_FROZEN:
        found = range_kvs((await service.kv.range(range_request(NAMESPACES + record.metadata[1].encode())))[1])
        if found:
            job.hold.CopyFrom(state_pb2.NamespaceExtra.FromString(found[0][1]).freeze)


def _revisions(seen: Seen) -> list[tuple[bytes, int]]:
    composed = seen.record.composed
    return [(JOBS + composed, seen.record.revision), (STATES + composed, seen.extra_revision)]


# -- namespaces


def namespace_key(namespace: str) -> bytes:
    """Raises `StatusError`."""
    if not namespace or len(namespace.encode()) > JOB_NAME_BYTES_MAX:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"namespace is missing, or has more than {JOB_NAME_BYTES_MAX} bytes")
    return NAMESPACES + namespace.encode()


async def freeze(service: SchedulerService, namespace: str, hold: state_pb2.Hold) -> None:
    """A namespace that is frozen already keeps reason and time. Raises `StatusError`."""
    key = namespace_key(namespace)
    await commit(service, [Branch([(key, 0)], [(key, state_pb2.NamespaceExtra(freeze=hold).SerializeToString())])])


async def unfreeze(service: SchedulerService, namespace: str, missed: "jobs_pb2.MissedTicks.ValueType") -> jobs_pb2.ChangeSummary:
    """Ticks that become due meanwhile are run. Raises `StatusError`, NOT_FOUND if it is not frozen."""
    check_missed(missed)
    key = namespace_key(namespace)
    if not range_kvs((await service.kv.range(range_request(key)))[1]):
        raise StatusError(GrpcCode.NOT_FOUND, f"namespace is not frozen: {namespace}")
    summary = jobs_pb2.ChangeSummary()
    if missed != jobs_pb2.MISSED_TICKS_RUN:
        now_s, now_ns = divmod(service.now_ns(), NS_PER_S)

        def plan(seen: Seen) -> Branch | None:
            held = seen.extra.HasField("pause") or not skips(missed, seen)
            return None if held else skipping(service, seen, now_s, now_ns)

        changer = Changer(service, plan)
        summary = await changer.change_all(Filter(jobs_pb2.JobFilter(namespace=namespace)))
    await commit(service, [Branch([], [(key, None)])])
    return summary


async def freezes(service: SchedulerService) -> jobs_pb2.ListFreezesResponse:
    """All of them; there are as many as an operator has frozen by hand."""
    answer = jobs_pb2.ListFreezesResponse()
    _, body = await service.kv.range(range_request(NAMESPACES, prefix_end(NAMESPACES)))
    for key, value, _, _, _ in range_kvs(body):
        extra = state_pb2.NamespaceExtra.FromString(value)
        if extra.HasField("freeze"):
            answer.freezes.add(namespace=key[len(NAMESPACES) :].decode("utf-8", "replace"), hold=extra.freeze)
    return answer
