"""What a schedule does, said before it is stored: its next fires with the clock changes on their way, and where a text is refused.

Invariant: the fires are those that the engine would fire of a job stored at `now_ns`, each acknowledged; a refusal has the text that
ScheduleJob would give. Must not know: the clock, jobs.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

from raftsched.scheduler.schedule import go
from raftsched.scheduler.schedule.calendars import Days
from raftsched.scheduler.schedule.cron import DESCRIPTORS, FIELDS, check_item
from raftsched.scheduler.schedule.dialect import DIALECT_PREFIX, Extended
from raftsched.scheduler.schedule.errors import InvalidJobError, PlacedError
from raftsched.scheduler.schedule.instants import DAY_S, civil_from_days
from raftsched.scheduler.schedule.misfires import Misfire, count_passed
from raftsched.scheduler.schedule.schedules import EVERY_PREFIX, ZONE_PREFIXES, Schedule, Schedules, ZoneTable
from raftsched.scheduler.schedule.validate import ResolvedJob, validate_job

NS = go.NS_PER_S
OF_NO_JOB = "no job is named: H and jitter go by its key, so its own times are others"
EXCLUDED_DAYS_TOLD = 5
EXCLUDED_TICKS_LOOKED_AT = 2_000  # of one explanation
DATE_FIELDS = (3, 5)  # days, months, weekdays: who says "never" together


@dataclass(frozen=True, slots=True)
class Asked:
    """The strings of a job; None = absent."""

    schedule: str | None = None
    due_time: str | None = None
    ttl: str | None = None
    repeats: int | None = None
    key: bytes | None = None
    """The composed name of the job, by which `H` and jitter go; None: of any."""
    namespace: str = ""
    """Whose calendars are meant."""


@dataclass(frozen=True, slots=True)
class Outage:
    """Nobody runs anything from the instant at which the job is stored until `until_ns`; then `misfire` says what is still run."""

    until_ns: int
    misfire: Misfire


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why nothing would be stored. `position` and `length` in characters of the field that is named."""

    reason: str
    field: str
    position: int
    length: int


@dataclass(frozen=True, slots=True)
class Fire:
    """One run."""

    at_ns: int
    offset_s: int
    """East of UTC, at that instant."""
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Either `refusal`, or the fires. `ends`: there is none after them; `zone`: its name, "" = UTC; `missed`: how many of the fires come at
    once, after an outage; `passed_over`: ticks that are not run for it (of a calendar `EXPLAINED_PASSED_MAX` at most)."""

    refusal: Refusal | None = None
    fires: tuple[Fire, ...] = ()
    ends: bool = False
    zone: str = ""
    missed: int = 0
    passed_over: int = 0
    missing_calendars: tuple[str, ...] = ()
    """While these are not there, nothing is run."""


def explain(schedules: Schedules, asked: Asked, *, now_ns: int, count: int, outage: Outage | None = None) -> Explanation:
    """The first `count` fires of a job stored at `now_ns`. Without an outage everything is run in time."""
    try:
        job = validate_job(schedules, schedule=asked.schedule, due_time=asked.due_time, ttl=asked.ttl, repeats=asked.repeats, now_ns=now_ns)
    except InvalidJobError as error:
        return Explanation(Refusal(str(error), *_place(schedules, asked, now_ns)))
    if isinstance(job.schedule, Extended):
        begin_ns = now_ns if job.due_ns is None else job.due_ns
        job = replace(job, schedule=schedules.own(job.schedule, asked.key or b"", begin_ns, asked.namespace))
    zone, table = schedules.zone_of(asked.schedule or "")
    gone = tuple(schedules.missing_calendars(asked.schedule, asked.namespace)) if asked.schedule else ()
    calendars, looks = _named_days(schedules, job.schedule, asked.namespace), iter(range(EXCLUDED_TICKS_LOOKED_AT))
    fires: list[Fire] = []
    before_ns, ends = now_ns, True
    back = outage or Outage(now_ns, Misfire())
    ticks = Ticks(job, asked.repeats, back)
    for at_ns in ticks:
        if len(fires) == count:
            ends = False
            break
        planned_ns = job.schedule.planned(at_ns) if isinstance(job.schedule, Extended) and (fires or job.due_ns is None) else at_ns
        remarks = tuple(_remarks(job.schedule, table, before_ns // NS, planned_ns // NS)) if table and job.schedule else ()
        if isinstance(job.schedule, Extended) and calendars:
            remarks += tuple(_excluded(job.schedule, calendars, table, before_ns, planned_ns, looks))
        if planned_ns != at_ns:
            planned = local_text(planned_ns, offset_at(table, planned_ns // NS))
            remarks += (f"moved by {(at_ns - planned_ns) / NS:.3f}s from {planned} by its jitter",)
        if not fires and asked.key is None and isinstance(job.schedule, Extended) and job.schedule.keyed:
            remarks += (OF_NO_JOB,)
        fires.append(Fire(at_ns, offset_at(table, at_ns // NS), remarks))
        before_ns = planned_ns
    missed = sum(fire.at_ns <= back.until_ns for fire in fires) if outage else 0
    return Explanation(None, tuple(fires), ends and not gone, zone, missed, ticks.passed_over, gone)


@dataclass(slots=True)
class Ticks:
    """The next-trigger rule over a job whose runs are all acknowledged. With `@every 0s` one instant comes for ever."""

    job: ResolvedJob
    repeats: int | None
    back: Outage
    passed_over: int = 0

    def __iter__(self) -> Iterator[int]:
        job = self.job
        tick = job.due_ns if job.due_ns is not None else job.schedule.next_after(job.start_ns) if job.schedule else None
        done = 0
        while tick is not None and (tick := self._wanted(tick)) is not None:
            yield tick
            done += 1
            if job.schedule is None or (self.repeats is not None and done >= self.repeats):
                return
            tick = job.schedule.next_after(tick)

    def _wanted(self, tick: int) -> int | None:
        job, back = self.job, self.back
        wanted = back.misfire.wanted(job.schedule, tick, back.until_ns)
        end = back.until_ns if wanted is None else wanted
        if job.expiration_ns is not None and (wanted is None or wanted > job.expiration_ns):
            end, wanted = min(end, job.expiration_ns + 1), None
        if end != tick:
            self.passed_over += count_passed(job.schedule, tick, end)
        return wanted


def _named_days(schedules: Schedules, schedule: Schedule | Extended | None, namespace: str) -> dict[str, Days]:
    """The calendars of a schedule, as far as they are there."""
    names = schedule.calendars if isinstance(schedule, Extended) else ()
    return {name: days for name in names if (days := schedules.calendars.get(namespace, name)) is not None}


def _excluded(
    schedule: Extended, calendars: dict[str, Days], table: ZoneTable | None, before_ns: int, at_ns: int, looks: Iterator[int]
) -> Iterator[str]:
    """The days between two fires that would have one but for a calendar; the first few. `looks`: as many ticks are looked at."""
    free, told = replace(schedule, exclusion=-1, jitter_ms=0), set[str]()
    tick = free.next_after(before_ns)
    for _ in looks:
        if tick is None or tick >= at_ns:
            return
        date = wall(tick // NS + offset_at(table, tick // NS))[:10]
        why = [name for name, days in calendars.items() if days.covers(*map(int, date.split("-")))]
        if why and date not in told:
            if len(told) == EXCLUDED_DAYS_TOLD:
                yield "and more days are excluded"
                return
            told.add(date)
            yield f"{date} is excluded by {', '.join(why)}"
        tick = free.next_after(tick)


def offset_at(table: ZoneTable | None, second: int) -> int:
    """Seconds east of UTC."""
    return 0 if table is None else table[1][max(bisect_right(table[0], second) - 1, 0)]


def _remarks(schedule: Schedule | Extended, table: ZoneTable, before_s: int, at_s: int) -> Iterator[str]:
    """What clock changes do between two fires, and to the second one."""
    at, offsets = table
    for index in range(max(bisect_right(at, before_s), 1), bisect_right(at, at_s)):
        change, old, new = at[index], offsets[index - 1], offsets[index]
        missing = schedule.local_between(change + old, change + new) if new > old else None
        if missing is not None:
            yield (
                f"{wall(missing)} is skipped: there is no such time, clocks go forward from {wall(change + old)[11:]} to "
                f"{wall(change + new)[11:]}"
            )
    index = bisect_right(at, at_s)
    for near, which in ((index, "first"), (index - 1, "second")):
        if not 0 < near < len(at) or offsets[near] >= offsets[near - 1]:
            continue
        change, old, new = at[near], offsets[near - 1], offsets[near]
        if change + new <= at_s + (old if which == "first" else new) < change + old:
            yield f"the {which} of two: clocks go back from {wall(change + old)[11:]} to {wall(change + new)[11:]}, both are run"


def wall(local_s: int) -> str:
    """Seconds of a wall clock as text."""
    day, second = divmod(local_s, DAY_S)
    year, month, day_of_month = civil_from_days(day)
    return f"{year:04}-{month:02}-{day_of_month:02}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"


def local_text(at_ns: int, offset_s: int) -> str:
    """RFC 3339 with the offset of the zone; fractions as long as they need to be."""
    second, ns = divmod(at_ns, NS)
    fraction = f".{ns:09}".rstrip("0") if ns else ""
    minutes = abs(offset_s) // 60
    zone = f"{'-' if offset_s < 0 else '+'}{minutes // 60:02}:{minutes % 60:02}" if offset_s else "Z"
    return wall(second + offset_s) + fraction + zone


# -- where a text is refused


def _place(schedules: Schedules, asked: Asked, now_ns: int) -> tuple[str, int, int]:
    """(field, position, length) of what `validate_job` refuses, in its order."""
    if asked.schedule is None and asked.due_time is None:
        return "schedule", 0, 0
    if asked.repeats is not None and (asked.repeats < 1 or (asked.schedule is None and asked.repeats > 1)):
        return "repeats", 0, 0
    if asked.schedule is None and asked.ttl is not None:
        return "ttl", 0, len(asked.ttl)
    if asked.schedule is not None:
        try:
            schedules.parse(asked.schedule)
        except InvalidJobError:
            return ("schedule", *place_in(schedules, asked.schedule))
    if asked.due_time is not None:
        try:
            validate_job(schedules, schedule=None, due_time=asked.due_time, ttl=None, repeats=None, now_ns=now_ns)
        except InvalidJobError:
            return "due_time", 0, len(asked.due_time)
    return "ttl", 0, len(asked.ttl or "")


def place_in(schedules: Schedules, text: str) -> tuple[int, int]:
    """(position, length) of what is wrong in a schedule that `Schedules.parse` refuses."""
    if text.startswith(DIALECT_PREFIX):
        return _place_in_extended(schedules, text)
    start = 0
    if text.startswith(ZONE_PREFIXES):
        end = go.first_space(text)
        if end < 0:
            return 0, len(text)
        name_at = text.index("=") + 1
        try:
            schedules.zone_of(text)
        except InvalidJobError:
            return name_at, end - name_at
        start = len(text) - len(text[end:].lstrip(go.SPACE))
    body = go.trim_space(text[start:]) if start else text
    if start and body.startswith(EVERY_PREFIX):
        return 0, go.first_space(text)
    if body.startswith(EVERY_PREFIX):
        missing = body == EVERY_PREFIX  # no duration to point at
        return (start, len(body)) if missing else (start + len(EVERY_PREFIX), len(body) - len(EVERY_PREFIX))
    if body.startswith("@") and body not in DESCRIPTORS:
        return start, len(body)
    return _place_in_fields(body, start)


def _place_in_extended(schedules: Schedules, text: str) -> tuple[int, int]:
    try:
        schedules.parse(text)
    except PlacedError as error:
        return error.position, error.length
    except InvalidJobError:  # too long
        pass
    return 0, len(text)


def _place_in_fields(body: str, start: int) -> tuple[int, int]:
    fields, at = [], 0
    for field in go.split_fields(body):
        at = body.index(field, at)
        fields.append((start + at, field))
        at += len(field)
    if len(fields) != len(FIELDS):
        extra = fields[len(FIELDS) :]
        first = extra[0][0] if extra else start
        last_at, last = extra[-1] if extra else (start, body)
        return first, last_at + len(last) - first
    for (where, field), bounds in zip(fields, FIELDS, strict=True):
        within = 0
        for item in field.split(","):
            if item and not check_item(item, bounds):
                return where + within, len(item)
            within += len(item) + 1
    for where, field in fields:
        if not field.strip(","):
            return where, len(field)
    (first, _), (last_at, last) = fields[DATE_FIELDS[0]], fields[DATE_FIELDS[1]]
    return first, last_at + len(last) - first
