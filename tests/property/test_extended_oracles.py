"""The extended dialect against its judges: a slow reading of dates, brute force over clock changes, croniter where it agrees."""

import random
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from extended_model import day_matches, matches
from hypothesis import given, settings
from hypothesis import strategies as st

from raftsched.scheduler.schedule import Extended, InvalidJobError, Schedules
from raftsched.scheduler.schedule.calendars import parse_days
from raftsched.scheduler.schedule.dialect import EXTENDED_PREFIX
from raftsched.zones import zone_table

NS = 1_000_000_000
SCHEDULES = Schedules(zone_table)
CHANGES = [
    ("Europe/Berlin", (2026, 3, 29)),
    ("Europe/Berlin", (2026, 10, 25)),
    ("America/Santiago", (2026, 9, 6)),
    ("Australia/Lord_Howe", (2026, 4, 4)),
    ("Pacific/Apia", (2011, 12, 30)),
    ("UTC", (2028, 2, 29)),
]
DAY_ITEMS = st.one_of(
    st.sampled_from(["*", "?", "L", "LW", "BD", "LBD", "H", "H(29-31)", "H/9", "*/2", "*/1"]),
    st.integers(1, 31).flatmap(lambda day: st.sampled_from([f"{day}", f"{day}W", f"{day}/5", f"{day}-31", f"L-{min(day, 30)}"])),
    st.integers(1, 22).flatmap(lambda day: st.sampled_from([f"{day}BD", f"LBD-{day}"])),
)
WEEKDAY_ITEMS = st.one_of(
    st.sampled_from(["*", "?", "H", "H(1-5)", "mon-fri", "5-7", "7", "sun", "*/2", "wed/2"]),
    st.tuples(st.sampled_from([*"01234567", "mon", "SAT"]), st.sampled_from("12345L")).map("#".join),
    st.sampled_from([*"01234567", "fri"]).map("L".__add__),
)
LISTS = [st.lists(items, min_size=1, max_size=3).map(",".join) for items in (DAY_ITEMS, WEEKDAY_ITEMS)]
KEYS = st.binary(max_size=12)


def extended(text: str, key: bytes = b"") -> Extended:
    found = SCHEDULES.parse(EXTENDED_PREFIX + text)
    assert isinstance(found, Extended)
    return found.of(key, 0)


def days_fired(schedule: Extended, first: date, last: date) -> list[date]:
    at, found = int(datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp()) * NS - 1, []
    while (following := schedule.next_after(at)) is not None:
        day = datetime.fromtimestamp(following // NS, UTC).date()
        if day > last:
            break
        found.append(day)
        at = following
    return found


@settings(max_examples=60, deadline=None)
@given(LISTS[0], LISTS[1], KEYS, st.integers(1990, 2110))
def test_days_are_those_of_the_slow_reading(days: str, weekdays: str, key: bytes, year: int) -> None:
    try:
        schedule = extended(f"0 9 {days} * {weekdays}", key)
    except InvalidJobError as error:
        if "never fires" in str(error):
            return
        raise
    first = date(year, 1, 1)
    wanted = [first + timedelta(index) for index in range(800)]
    wanted = [day for day in wanted if day_matches(days, weekdays, day, key, lambda _: False)]
    assert days_fired(schedule, first, first + timedelta(799)) == wanted


def random_time_field(rng: random.Random, high: int) -> str:
    first = rng.randint(0, high)
    return rng.choice(
        [
            "*",
            "*",
            f"*/{rng.randint(1, 20)}",
            f"{first}",
            f"{first}-{rng.randint(first, high)}",
            "H",
            f"H/{rng.randint(1, 30)}",
            f"{first}/7",
        ]
    )


@pytest.mark.parametrize(("zone", "change"), CHANGES)
def test_a_fire_is_a_minute_whose_local_reading_matches(zone: str, change: tuple[int, int, int]) -> None:
    """Three days around a clock change, each minute. A time that does not exist is not run, one that comes twice is run twice."""
    rng, info = random.Random(repr(change)), ZoneInfo(zone)
    middle = int(datetime(*change, tzinfo=UTC).timestamp())
    readings = [(minute, datetime.fromtimestamp(minute, UTC).astimezone(info)) for minute in range(middle - 129_600, middle + 129_600, 60)]
    for _ in range(25):
        key = rng.randbytes(8)
        days, weekdays = rng.choice(["*", "*", "BD", "L", "H/2", "15W"]), rng.choice(["*", "*", "mon-fri", "L5", "6#1"])
        text = f"{random_time_field(rng, 59)} {random_time_field(rng, 23)} {days} * {weekdays}"
        wanted = [minute for minute, reading in readings if matches(text, reading, key)]
        schedule, at, found = extended(f"TZ={zone} {text}", key), (middle - 129_601) * NS, []
        while (following := schedule.next_after(at)) is not None and following < (middle + 129_600) * NS:
            found.append(following // NS)
            at = following
        assert found == wanted, text


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["0", "*/7", "5,50", "10-20/3"]),
    st.sampled_from(["9", "*/6", "0-3"]),
    st.sampled_from(["*", "L", "1,L", "15", "*/9", "10-20"]),
    st.sampled_from(["*", "2", "jan,jul", "*/5"]),
    st.sampled_from(["*", "fri#1", "1#5", "L5", "mon-fri", "7", "L0,sat#2"]),
    st.integers(0, 2**32 - 1),
)
def test_croniter_agrees(minutes: str, hours: str, days: str, months: str, weekdays: str, start: int) -> None:
    """Where it has the same form. It has no two lists of days with a step that it takes for a star, so either is one here."""
    text = f"{minutes} {hours} {days} {months} {weekdays}" if "*" in (days, weekdays) else f"{minutes} {hours} {days} {months} *"
    schedule, other, at = extended(text), croniter(text, datetime.fromtimestamp(start, UTC)), start * NS
    for _ in range(8):
        following = schedule.next_after(at)
        assert following == int(other.get_next(float)) * NS, text
        at = following


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(
        [
            "* * * * *",
            "*/5 * * * *",
            "* * * * * *",
            "0 9 * * *",
            "H 9,10 1BD * *",
            "TZ=Europe/Berlin 30 1-3 * * *",
            "@every 90s",
            "@every 1500ms",
        ]
    ),
    st.integers(1, 86_400_000),
    KEYS,
    st.integers(1_700_000_000_000, 1_900_000_000_000),
)
def test_jitter_keeps_order_and_number(text: str, jitter_ms: int, key: bytes, start_ms: int) -> None:
    """The n-th fire is the n-th tick, moved by less than the jitter and not beyond the next one: none is early, twice or lost."""
    steady, moved = extended(text, key), extended(f"JITTER={jitter_ms}ms {text}", key)
    tick = steady.next_after(start_ms * 1_000_000)
    assert tick is not None
    at = moved.next_after(tick - 1)
    for _ in range(20):
        assert tick is not None
        assert at is not None
        following = steady.next_after(tick)
        if at < tick or moved.planned(at) != tick:  # one before the first may come behind its beginning
            at = moved.next_after(at)
            assert at is not None
        assert tick <= at < tick + jitter_ms * 1_000_000
        assert following is None or at < following
        assert moved.planned(at) == tick
        assert moved.next_after(at - 1_000_000) == at
        tick, at = following, moved.next_after(at)


RULES = st.lists(
    st.one_of(
        st.sampled_from(["SAT", "sun", "wed", "12-24..01-06", "01-01", "02-29", "05-01..05-31"]),
        st.dates(date(2026, 1, 1), date(2028, 2, 1)).map(str),
        st.tuples(st.dates(date(2026, 1, 1), date(2028, 2, 1)), st.integers(0, 40)).map(
            lambda one: f"{one[0]}..{one[0] + timedelta(one[1])}"
        ),
    ),
    max_size=6,
)


def excludes(rules: list[str], day: date) -> bool:
    """By comparing texts."""
    for rule in rules:
        first, _, last = rule.partition("..")
        text = day.isoformat()[len("2026-") * (len(first) == 5) :]
        last = last or first
        if first.lower() == day.strftime("%a").lower() or (len(first) > 3 and first <= last and first <= text <= last):
            return True
        if len(first) == 5 and first > last and (text >= first or text <= last):
            return True
    return False


@settings(max_examples=100, deadline=None)
@given(LISTS[0], LISTS[1], RULES)
def test_excluded_days_are_left_out(days: str, weekdays: str, rules: list[str]) -> None:
    SCHEDULES.calendars.change("ns", "de", parse_days(rules))
    try:
        schedule = SCHEDULES.parse(f"{EXTENDED_PREFIX}EXCLUDE=de 0 9 {days} * {weekdays}")
    except InvalidJobError as error:
        if "never fires" in str(error):
            return
        raise
    assert isinstance(schedule, Extended)
    schedule = SCHEDULES.own(schedule, b"k", 0, "ns")
    all_days = [date(2026, 1, 1) + timedelta(index) for index in range(800)]
    wanted = [day for day in all_days if day_matches(days, weekdays, day, b"k", lambda one: excludes(rules, one))]
    assert days_fired(schedule, all_days[0], all_days[-1]) == wanted


@pytest.mark.parametrize("zone", [zone for zone, _ in CHANGES])
def test_every_on_days_that_are_not_excluded(zone: str) -> None:
    """Of all instants of the interval those whose local day is free, also where a day has 23 hours, or is not there."""
    changed = dict(CHANGES)[zone]
    day = date(*changed)
    rng, info = random.Random(zone), ZoneInfo(zone)
    begin = int(datetime(*changed, tzinfo=UTC).timestamp()) - 4 * 86_400
    for _ in range(20):
        rules = sorted({str(day + timedelta(rng.randint(-3, 3))) for _ in range(rng.randint(1, 4))})
        SCHEDULES.calendars.change("ns", "days", parse_days(rules))
        period = rng.choice([600, 1_740, 3_600, 5_000, 50_000])
        parsed = SCHEDULES.parse(f"{EXTENDED_PREFIX}EXCLUDE=days TZ={zone} @every {period}s")
        assert isinstance(parsed, Extended)
        schedule = SCHEDULES.own(parsed, b"", begin * NS, "ns")
        instants = range(begin + period, begin + 8 * 86_400, period)
        wanted = [at for at in instants if datetime.fromtimestamp(at, UTC).astimezone(info).date().isoformat() not in rules]
        at, found = begin * NS, []
        while (following := schedule.next_after(at)) is not None and following < (begin + 8 * 86_400) * NS:
            found.append(following // NS)
            at = following
        assert found == wanted, (rules, period)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["0 * * * *", "0 9,21 * * *", "0 9 BD,1 * *", "*/10 22-23 * * *", "@every 5h"]),
    st.integers(1, 86_400_000),
    KEYS,
    st.lists(RULES, min_size=1, max_size=12),
)
def test_no_tick_comes_twice_whatever_calendars_do(text: str, jitter_ms: int, key: bytes, changes: list[list[str]]) -> None:
    parsed = SCHEDULES.parse(f"{EXTENDED_PREFIX}EXCLUDE=moving JITTER={jitter_ms}ms {text}")
    assert isinstance(parsed, Extended)
    at, before = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * NS, -1
    begin = at
    for rules in changes:
        SCHEDULES.calendars.change("ns", "moving", parse_days(rules))
        schedule = SCHEDULES.own(parsed, key, begin, "ns")
        for _ in range(2):
            following = schedule.next_after(at)
            assert following is not None
            planned = schedule.planned(following)
            assert before < planned <= following < planned + jitter_ms * 1_000_000
            at, before = following, planned
