"""Schedules of the extended dialect: `DIALECT=extended`, further words, then fields, a descriptor or `@every` (docs/schedules.md).

Invariant: an `Extended` fires, whatever the key of its job; ticks are on whole milliseconds.
Must not know: the clock, jobs, where zone tables come from.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from raftsched._core import ExtendedTable
from raftsched.limits import CALENDARS_OF_SCHEDULE_MAX
from raftsched.scheduler.schedule import go
from raftsched.scheduler.schedule.cron import DESCRIPTORS
from raftsched.scheduler.schedule.errors import InvalidJobError, PlacedError
from raftsched.scheduler.schedule.extended import Rules, parse_rules, spread_hash

EXTENDED: Final = 4  # the engine's number
DIALECT_PREFIX: Final = "DIALECT="
DIALECT_NAME: Final = "extended"
EXTENDED_PREFIX: Final = f"{DIALECT_PREFIX}{DIALECT_NAME} "
EVERY_PREFIX: Final = "@every "
CALENDAR_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
JITTER_MS_MAX: Final = 86_400_000
NS_PER_MS: Final = 1_000_000
NEVER_FROM_MS: Final = 946_684_800_000  # 2000: within 41 years of it comes what ever comes
YEAR_1_MS, YEAR_10000_MS = -62_135_596_800_000, 253_402_300_800_000
ALWAYS: Final = (2**60 - 1, 2**60 - 1, 2**24 - 1, 2**32 - 2, 2**13 - 2, 127, 1, 1)  # the masks of @every


@dataclass(frozen=True, slots=True)
class Words:
    """What stands before the fields, each with its place."""

    body: str
    body_at: int
    zone: str = ""
    zone_at: int = 0
    jitter_ms: int = 0
    calendars: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Extended:
    """A parsed schedule, of the job that `of` names; without one, of the empty key."""

    text: str
    table: ExtendedTable = field(repr=False, compare=False)
    rules: Rules | None
    """None: @every."""
    interval_ms: int = 0
    zone: int = -1
    jitter_ms: int = 0
    calendars: tuple[str, ...] = ()
    """Names of those that exclude days."""
    key: bytes = b""
    begin_ms: int = 0
    """From where @every counts."""
    exclusion: int = -1
    """What the calendars exclude, as a number of `table`; without it, nothing."""

    @property
    def kind(self) -> int:
        return EXTENDED

    @property
    def interval_ns(self) -> int:
        return self.interval_ms * NS_PER_MS

    @property
    def keyed(self) -> bool:
        """Whether another key has other times."""
        return bool(self.jitter_ms or (self.rules is not None and any(one.spreads for one in self.rules.fields)))

    def of(self, key: bytes, begin_ns: int, exclusion: int = -1) -> "Extended":
        """`key`: the job's composed name; `exclusion`: `Calendars.exclusion` of its namespace."""
        return replace(self, key=key, exclusion=exclusion, begin_ms=_clamped(-(-begin_ns // NS_PER_MS)))

    def spec(self) -> tuple[object, ...]:
        """As `ExtendedTable.add` takes it."""
        masks = ALWAYS if self.rules is None else self.rules.masks(self.key)
        days = (0,) * 5 if self.rules is None else tuple(self.rules.days)
        seed = spread_hash(self.key, "jitter") if self.jitter_ms else 0
        return (masks, self.zone, *days, self.interval_ms, self.jitter_ms, seed, self.exclusion)

    def next_after(self, instant_ns: int) -> int | None:
        """The first tick strictly after an instant; None = there is none."""
        found = self.table.next_of(self.spec(), self.begin_ms, _clamped(instant_ns // NS_PER_MS))
        return None if found is None else found * NS_PER_MS

    def last_between(self, after_ns: int, until_ns: int) -> int | None:
        """The last tick after one instant and not after the other; None = there is none."""
        found = self.table.last_of(self.spec(), self.begin_ms, _clamped(after_ns // NS_PER_MS), _clamped(until_ns // NS_PER_MS))
        return None if found is None else found * NS_PER_MS

    def planned(self, tick_ns: int) -> int:
        """Where a tick would be without jitter."""
        if not self.jitter_ms:
            return tick_ns
        tick_ms = tick_ns // NS_PER_MS
        steady = replace(self, jitter_ms=0).spec()
        found = self.table.last_of(steady, self.begin_ms, tick_ms - self.jitter_ms, tick_ms)
        return tick_ns if found is None else found * NS_PER_MS

    def local_between(self, start_s: int, end_s: int) -> int | None:
        """The first reading of the wall clock, start_s <= s < end_s, that the fields want, whether there is such a time or not."""
        if self.rules is None:
            return None
        found = self.table.next_of(replace(self, jitter_ms=0, zone=-1).spec(), 0, start_s * 1000 - 1)
        return None if found is None or found >= end_s * 1000 else found // 1000


def _clamped(instant_ms: int) -> int:
    return min(max(instant_ms, YEAR_1_MS), YEAR_10000_MS)


def named(schedule: str, dialect: str) -> str:
    """A schedule with its dialect in front; `dialect` empty = as the schedule says. Raises `InvalidJobError`."""
    if dialect not in ("", DIALECT_NAME):
        raise InvalidJobError(f"there is no such dialect: {dialect}; known: {DIALECT_NAME}")
    return schedule if not dialect or schedule.startswith(DIALECT_PREFIX) else EXTENDED_PREFIX + schedule


def dialect_of(schedule: str) -> str:
    """Empty = Dapr's."""
    return DIALECT_NAME if schedule.startswith(DIALECT_PREFIX) else ""  # no other is taken


def parse_extended(text: str, table: ExtendedTable, zone_of: Callable[[str], int]) -> Extended:
    """Raises `PlacedError`. `zone_of`: the number of a zone, or `InvalidJobError`."""
    words = split_words(text)
    try:
        zone = zone_of(words.zone)
    except InvalidJobError as error:
        raise PlacedError(str(error), words.zone_at, len(words.zone)) from None
    if words.body.startswith(EVERY_PREFIX):
        every = _interval_ms(words)
        return Extended(text, table, None, every, zone, words.jitter_ms, words.calendars)
    if words.body.startswith("@") and words.body not in DESCRIPTORS:
        raise PlacedError(f"unrecognized descriptor: {words.body}", words.body_at, len(words.body))
    rules = parse_rules(DESCRIPTORS.get(words.body, words.body), words.body_at)
    parsed = Extended(text, table, rules, 0, zone, words.jitter_ms, words.calendars)
    choices = list(rules.choices())
    for masks in choices:
        if table.next_of((masks, -1, *rules.days, 0, 0, 0, -1), 0, NEVER_FROM_MS) is None:
            whose = " for some keys" if len(choices) > 1 else ""
            raise PlacedError(f"schedule never fires{whose}: {text}", words.body_at, len(words.body))
    return parsed


def split_words(text: str) -> Words:
    """The words before the fields, in any order, each once. Raises `PlacedError`."""
    at, found = 0, Words("", 0)
    seen: set[str] = set()
    while True:
        rest = text[at:]
        at += len(rest) - len(rest.lstrip(go.SPACE))
        end = go.first_space(text[at:])
        word = text[at:] if end < 0 else text[at : at + end]
        name, equals, value = word.partition("=")
        if not equals:
            body = go.trim_space(text[at:])
            if not body:
                raise PlacedError("there is no schedule behind the words before it", 0, len(text))
            return replace(found, body=body, body_at=at)
        known = "TZ" if name == "CRON_TZ" else name
        if known in seen:
            raise PlacedError(f"{known} is given twice", at, len(word))
        seen.add(known)
        found = _word(found, known, value, at, len(word))
        at += len(word)


def _word(found: Words, name: str, value: str, at: int, length: int) -> Words:
    if name == "DIALECT":
        if value != DIALECT_NAME:
            raise PlacedError(f"there is no such dialect: {value}; known: {DIALECT_NAME}", at, length)
        return found
    if name == "TZ":
        return replace(found, zone=value, zone_at=at + length - len(value))
    if name == "JITTER":
        return replace(found, jitter_ms=_jitter_ms(value, at, length))
    if name == "EXCLUDE":
        return replace(found, calendars=_calendars(value, at, length))
    raise PlacedError(f"unknown word before the schedule: {name}=; known: TZ, CRON_TZ, JITTER, EXCLUDE", at, length)


def _calendars(value: str, at: int, length: int) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(value.split(",")))
    if len(names) > CALENDARS_OF_SCHEDULE_MAX:
        raise PlacedError(f"a schedule names at most {CALENDARS_OF_SCHEDULE_MAX} calendars", at, length)
    for name in names:
        if CALENDAR_NAME.fullmatch(name) is None:
            raise PlacedError(f"this is no name of a calendar: {name}", at, length)
    return names


def _jitter_ms(value: str, at: int, length: int) -> int:
    try:
        jitter_ns = go.parse_duration(value)
    except ValueError as error:
        raise PlacedError(f"failed to parse duration JITTER={value}: {error}", at, length) from None
    if not NS_PER_MS <= jitter_ns <= JITTER_MS_MAX * NS_PER_MS:
        raise PlacedError(f"jitter is 1ms to 24h: {value}", at, length)
    return jitter_ns // NS_PER_MS


def _interval_ms(words: Words) -> int:
    try:
        interval_ns = go.parse_duration(words.body[len(EVERY_PREFIX) :])
    except ValueError as error:
        raise PlacedError(f"failed to parse duration {words.body}: {error}", words.body_at, len(words.body)) from None
    if interval_ns < NS_PER_MS or interval_ns % NS_PER_MS:
        raise PlacedError(
            f"@every of the extended dialect is in whole milliseconds, at least 1ms: {words.body}", words.body_at, len(words.body)
        )
    return interval_ns // NS_PER_MS
