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


@settings(max_examples=120, deadline=None)
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


@settings(max_examples=200, deadline=None)
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


@settings(max_examples=200, deadline=None)
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
