"""The field rules of a job, in Dapr's order, with its texts (spec/scheduler.md §5.2), and the instants they resolve to.

Must not know: names, metadata, payloads, the store.
"""

from dataclasses import dataclass

from raftsched.limits import TIME_TEXT_CHARACTERS_MAX
from raftsched.scheduler.schedule.dialect import Extended
from raftsched.scheduler.schedule.errors import InvalidJobError
from raftsched.scheduler.schedule.instants import NOT_RECOGNIZED, parse_instant
from raftsched.scheduler.schedule.schedules import Schedule, Schedules


@dataclass(frozen=True, slots=True)
class ResolvedJob:
    """What the strings of a job mean, seen from its receipt. Instants in ns since the epoch, UTC."""

    schedule: Schedule | Extended | None
    start_ns: int
    """The receipt."""
    due_ns: int | None
    """None: the job has no due time, its beginning is `start_ns`."""
    expiration_ns: int | None


def validate_job(
    schedules: Schedules,
    *,
    schedule: str | None,
    due_time: str | None,
    ttl: str | None,
    repeats: int | None,
    now_ns: int,
) -> ResolvedJob:
    """None = the field is absent, which differs from an empty one. Raises `InvalidJobError`."""
    if due_time is None and schedule is None:
        raise InvalidJobError("job must have either a due time or a schedule")
    if schedule is None and repeats is not None and repeats > 1:
        raise InvalidJobError("job must have a schedule to repeat")
    if repeats is not None and repeats < 1:
        raise InvalidJobError("defined repeats must be greater than 0")
    if schedule is None and ttl is not None:
        raise InvalidJobError("job must have a schedule to have a ttl")
    parsed = None if schedule is None else schedules.parse(schedule)
    due_ns = None if due_time is None else _instant(due_time, now_ns)
    return ResolvedJob(parsed, now_ns, due_ns, None if ttl is None else _expiration_ns(ttl, due_ns, now_ns))


def _instant(text: str, base_ns: int) -> int:
    if len(text) > TIME_TEXT_CHARACTERS_MAX:  # each character costs time, and a request may have two billion
        raise InvalidJobError(NOT_RECOGNIZED)
    return parse_instant(text, base_ns)


def _expiration_ns(ttl: str, due_ns: int | None, now_ns: int) -> int:
    try:
        expiration_ns = _instant(ttl, now_ns if due_ns is None else due_ns)
    except InvalidJobError:
        raise InvalidJobError("ttl format not recognized") from None
    if due_ns is not None and due_ns > expiration_ns:
        raise InvalidJobError("ttl must be greater than due time")
    return expiration_ns
