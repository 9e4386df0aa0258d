"""The promises about jobs, by a slow and obvious reading of the stored records (spec §5.3).

Each committed tick was delivered; none early by its owner's clock; none after its owner had applied the delete; no counter set back, none
for a job that is not there; at the end, nothing is due that was not delivered.
Must not know: the engine.
"""

from collections.abc import Sequence
from typing import NamedTuple

from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import COUNTERS, JOBS
from raftsched.testing.sim.checkers import Broken
from raftsched.types import Change

NS = 1_000_000_000


class Job(NamedTuple):
    """A stored job; instants in ns."""

    partition: int
    schedule: str
    begin_ns: int
    due: bool
    expires_ns: int | None
    repeats: int | None


class Counter(NamedTuple):
    """A stored counter."""

    partition: int
    fired: int
    last_ns: int | None
    attempts: int


def _ns(instant: tuple[int, int]) -> int:
    return instant[0] * NS + instant[1]


def read_job(record: bytes) -> Job:
    partition, due, begin, expires, schedule, _, _, repeats, *_ = _jobs.decode_stored_job(_jobs.parse_kv(record)[1])
    return Job(partition, (schedule or b"").decode(), _ns(begin), due, None if expires is None else _ns(expires), repeats)


def read_counter(record: bytes) -> Counter:
    partition, count, last, attempts = _jobs.decode_counter(_jobs.parse_kv(record)[1])
    return Counter(partition, count, None if last is None else _ns(last), attempts)


def following(schedule: str, after_ns: int) -> int:
    """The next tick strictly after an instant, of the schedules that the simulator draws: `@every <n>ms`, `*/<n> * * * * *`."""
    if schedule.startswith("@every "):
        return after_ns + int(schedule.removeprefix("@every ").removesuffix("ms")) * 1_000_000
    step = int(schedule.removeprefix("*/").split()[0])
    second = after_ns // NS + 1
    while second % 60 % step:
        second += 1
    return second * NS


def next_tick(job: Job, counter: Counter | None) -> int | None:
    """None = finished."""
    if counter is not None and counter.partition != job.partition:
        counter = None
    count = counter.fired if counter else 0
    if not job.schedule:
        return job.begin_ns if count == 0 else None
    if job.repeats is not None and count >= job.repeats:
        return None
    if counter and counter.last_ns is not None:
        tick = following(job.schedule, counter.last_ns)
    else:
        tick = job.begin_ns if job.due else following(job.schedule, job.begin_ns)
    return None if job.expires_ns is not None and tick > job.expires_ns else tick


TickKey = tuple[bytes, int, int]
"""Which tick: the job's name, its partition, which is by chance, and the instant."""


class Delivery(NamedTuple):
    """A trigger that left its owner."""

    at_ns: int
    who: str


class Ticks:
    """See the module's text. Told of each revision once, in order, and of each delivery as it happens."""

    def __init__(self) -> None:
        self.jobs: dict[bytes, Job] = {}
        self.counters: dict[bytes, Counter] = {}
        self.removing: set[bytes] = set()  # jobs that a client may have removed or replaced
        self.delivered_at: dict[TickKey, list[Delivery]] = {}
        self.deliveries = 0
        self.committed = 0

    # -- deliveries

    def delivered(self, who: str, name: bytes, job: bytes | None, counter: bytes | None, clock_ns: int, now_ns: int) -> TickKey:
        """A trigger of `name` left the owner, whose store holds these records at the moment, and whose clock says `clock_ns`."""
        self.deliveries += 1
        if job is None:
            raise Broken(f"none after the delete: {who} delivered {name!r}, which its store does not hold")
        found = read_job(job)
        tick = next_tick(found, None if counter is None else read_counter(counter))
        if tick is None:
            raise Broken(f"{who} delivered {name!r}, which is finished: {found}")
        if clock_ns < tick:
            raise Broken(f"none early: {who} delivered {name!r} {(tick - clock_ns) / 1e6:.3f} ms before its tick")
        key = (name, found.partition, tick)
        self.delivered_at.setdefault(key, []).append(Delivery(now_ns, who))
        return key

    def was_delivered(self, tick: TickKey) -> bool:
        return tick in self.delivered_at

    # -- revisions, each once, in order

    def revision(self, changes: Sequence[Change]) -> None:
        removed = {}
        for change in changes:
            if change.key.startswith(JOBS):
                name = change.key.removeprefix(JOBS)
                if change.deleted:
                    removed[name] = self.jobs.pop(name), self.counters.get(name)
                else:
                    self.jobs[name] = read_job(change.record)
        for change in changes:
            if change.key.startswith(COUNTERS):
                self._counter(change, change.key.removeprefix(COUNTERS), change.key.removeprefix(COUNTERS) in removed)
        for name, (job, counter) in removed.items():
            self._removed(name, job, counter)

    def _counter(self, change: Change, name: bytes, removed: bool) -> None:
        before = self.counters.pop(name, None)
        if change.deleted:
            return
        counter = self.counters[name] = read_counter(change.record)
        job = self.jobs.get(name)
        if job is None or job.partition != counter.partition:
            raise Broken(f"guarded results: revision {change.main} counts {counter} for {name!r}, whose job is {job}")
        if before is None or before.partition != counter.partition:
            before = Counter(job.partition, 0, None, 0)
        if counter.fired < before.fired or (before.last_ns or 0) > (counter.last_ns or 0):
            raise Broken(f"no counter set back: {name!r} from {before} to {counter} at revision {change.main}")
        if counter.fired > before.fired:
            tick = next_tick(job, before)
            if counter.fired != before.fired + 1 or counter.last_ns != tick:
                raise Broken(f"no tick left out: {name!r} from {before} to {counter}, its tick was {tick}, revision {change.main}")
            self._was_delivered(name, job, tick)

    def _removed(self, name: bytes, job: Job, counter: Counter | None) -> None:
        """By its owner, because it is finished, or by a client."""
        tick = next_tick(job, counter)
        if name in self.removing or tick is None:
            return
        count = counter.fired if counter and counter.partition == job.partition else 0
        if next_tick(job, Counter(job.partition, count + 1, tick, 0)) is not None:
            raise Broken(f"none lost: {name!r} was removed, but has ticks left: {job}, {counter}")
        self._was_delivered(name, job, tick)

    def _was_delivered(self, name: bytes, job: Job, tick: int | None) -> None:
        self.committed += 1
        if tick is None or not self.was_delivered((name, job.partition, tick)):
            raise Broken(f"each committed tick delivered: the tick {tick} of {name!r} was committed and never delivered")

    # -- the end

    def overdue(self, now_ns: int) -> list[str]:
        """What should have fired by `now_ns` and has no result."""
        found = []
        for name, job in sorted(self.jobs.items()):
            tick = next_tick(job, self.counters.get(name))
            if tick is None or tick < now_ns:
                found.append(f"{name!r}: tick {tick}, {(now_ns - (tick or 0)) / NS:.3f} s late, {job}, {self.counters.get(name)}")
        return found

    def orphans(self) -> list[bytes]:
        """Counters without a job."""
        return sorted(self.counters.keys() - self.jobs.keys())
