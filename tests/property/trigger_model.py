"""The time rules of the contract (spec §5), slow and obvious: what fires next, what a result does, what must stand in the store.

Cron is found by looking at one instant after the other on the wall of its zone. Instants and durations are whole ns.
Must not know: the product.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from functools import lru_cache

NS = 1_000_000_000
QUARTER_S = 900  # offsets of zones are multiples of it, at the times that are played
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MONTHS = ("", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DESCRIBED = {
    "@hourly": "0 0 * * * *",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@weekly": "0 0 0 * * 0",
    "@monthly": "0 0 0 1 * *",
}
BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


@dataclass(frozen=True)
class Every:
    """`@every <duration>`: anchored, whatever the clock does."""

    interval_ns: int

    def following(self, after_ns: int) -> int:
        return after_ns + self.interval_ns


def numbers(text: str, low: int, high: int, names: tuple[str, ...] = ()) -> set[int]:
    """What a field of a cron line lets through."""
    for number, name in enumerate(names):
        text = text.replace(name, str(number)) if name else text
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        begin = low if span in "*?" else int(first)
        end = high if span in "*?" or (step and not last) else int(last or first)
        found |= set(range(begin, end + 1, int(step or 1)))
    return found


@dataclass(frozen=True)
class Cron:
    """Six fields, on the wall of a zone."""

    text: str
    zone: tzinfo = UTC

    def following(self, after_ns: int) -> int:
        return _following(self.text, self.zone, after_ns // NS) * NS


@lru_cache(maxsize=100_000)
def _following(text: str, zone: tzinfo, after_s: int) -> int:
    texts = DESCRIBED.get(text, text).split()
    names = ((), (), (), (), MONTHS, DAYS)
    seconds, minutes, hours, days, months, weekdays = (
        numbers(one, *bound, some) for one, bound, some in zip(texts, BOUNDS, names, strict=True)
    )
    either = all(one not in ("*", "?", "*/1") for one in (texts[3], texts[5]))
    second = after_s + 1
    while True:
        wall = datetime.fromtimestamp(second, zone)
        by_day, by_weekday = wall.day in days, wall.isoweekday() % 7 in weekdays
        day = by_day or by_weekday if either else by_day and by_weekday
        if (wall.month not in months or not day) and wall.hour < 22:
            second += (22 - wall.hour) * 3_600  # not behind midnight, by how much the clock may be set on that day
        elif wall.month not in months or not day or wall.hour not in hours:
            second += QUARTER_S - second % QUARTER_S
        elif wall.minute not in minutes:
            second += 60 - second % 60
        elif wall.second not in seconds:
            second += 1
        else:
            return second


@dataclass(frozen=True)
class Retry:
    """Failure policy constant. `most` None = for ever."""

    interval_ns: int = NS
    most: int | None = 3


@dataclass(frozen=True)
class Spec:
    """A job as its owner means it. `due` and `ttl`: from their base to the instant."""

    schedule: Every | Cron | None = None
    due: Callable[[int], int] | None = None
    ttl: Callable[[int], int] | None = None
    repeats: int | None = None
    retry: Retry | None = Retry()
    """None = drop."""
    payload: bytes = b""


@dataclass(frozen=True)
class Counter:
    """What is stored beside a job."""

    count: int = 0
    last_ns: int | None = None
    attempts: int = 0


@dataclass
class Life:
    """One put of one job, from then until it is finished, replaced or deleted."""

    spec: Spec
    begin_ns: int
    expires_ns: int | None
    counter: Counter = field(default_factory=Counter)
    planned_ns: int | None = None
    """Of a retry; None = the tick's own time."""
    place: str = "waiting"  # waiting, out, committing
    since_ns: int = 0
    """Since when it is there, on a clock that nobody sets."""
    next: Counter | None = None
    """While committing: what the result makes of the counter."""
    was_due: bool = False
    """It was delivered before: by then its time had come."""

    def tick(self, counter: Counter | None = None) -> int | None:
        """The next one; None = finished (§5.3)."""
        now = counter or self.counter
        schedule = self.spec.schedule
        if schedule is None:
            return self.begin_ns if now.count == 0 else None
        if self.spec.repeats is not None and now.count >= self.spec.repeats:
            return None
        if now.last_ns is not None:
            tick = schedule.following(now.last_ns)
        else:
            tick = self.begin_ns if self.spec.due else schedule.following(self.begin_ns)
        return None if self.expires_ns is not None and tick > self.expires_ns else tick

    @property
    def due_ns(self) -> int | None:
        """When it may go off, not before; None = never any more."""
        return self.tick() if self.planned_ns is None else self.planned_ns

    def result(self, *, failed: bool) -> None:
        """A worker has answered (§5.4)."""
        tick, retry, attempts = self.tick(), self.spec.retry, self.counter.attempts + 1
        assert tick is not None
        self.place = "committing"
        if failed and retry is not None and (retry.most is None or retry.most >= attempts):
            self.next = replace(self.counter, attempts=attempts)
            self.planned_ns = (self.due_ns or 0) + retry.interval_ns
        else:
            self.next = Counter(self.counter.count + 1, tick)
            self.planned_ns = None

    @property
    def ends(self) -> bool:
        """Once its result is stored, job and counter are gone."""
        return self.next is not None and self.tick(self.next) is None

    def committed(self, now_ns: int) -> None:
        assert self.next is not None
        self.counter, self.next = self.next, None
        self.place, self.since_ns, self.was_due = "waiting", now_ns, False

    def back(self, now_ns: int) -> None:
        """Its worker is gone: nothing is counted."""
        self.place, self.since_ns = "waiting", now_ns

    def restarted(self, now_ns: int) -> None:
        """Nobody knows any more when its retry was planned, nor of a result that was not stored: the tick again."""
        self.planned_ns = self.next = None
        self.was_due = False
        self.back(now_ns)


def life_of(spec: Spec, receipt_ns: int) -> Life | None:
    """None = refused: it would be over before it is due (§5.2)."""
    due_ns = None if spec.due is None else spec.due(receipt_ns)
    base_ns = receipt_ns if due_ns is None else due_ns
    expires_ns = None if spec.ttl is None else spec.ttl(base_ns)
    if due_ns is not None and expires_ns is not None and due_ns > expires_ns:
        return None
    return Life(spec, base_ns, expires_ns)
