"""The cron engine against its judges: Dapr's own parser (golden file), brute force over clock changes, croniter, a date loop."""

import random
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftsched.scheduler.schedule import InvalidJobError, Schedule, Schedules
from raftsched.scheduler.schedule.cron import FIELDS, Masks, never_fires, parse_cron
from raftsched.zones import zone_table

NS = 1_000_000_000
GOLDEN = Path(__file__).parent.parent / "data" / "golden_dapr.tsv"
EMPTY_LIST_ON_PURPOSE = {"0 0 0 , * 1"}  # Dapr runs it by the other day field; we refuse it


def next_second(schedule: Schedule, second: int) -> int | None:
    found = schedule.next_after(second * NS)
    return None if found is None else found // NS


def golden_rows() -> list[list[str]]:
    return [line.split("\t") for line in GOLDEN.read_text().splitlines() if not line.startswith("#")]


def test_golden_file_of_dapr() -> None:
    schedules, compared = Schedules(zone_table), 0
    for zone, start, spec, wanted in golden_rows():
        text = spec if zone == "UTC" else f"CRON_TZ={zone} {spec}"
        if wanted in ("error", "never") or spec in EMPTY_LIST_ON_PURPOSE:
            with pytest.raises(InvalidJobError):
                schedules.parse(text)
            continue
        schedule, second, fires = schedules.parse(text), int(start), []
        for _ in wanted.split():
            second = next_second(schedule, second) or -1
            fires.append(str(second))
        assert fires == wanted.split(), (zone, start, spec)
        compared += len(fires)
    assert compared > 3000


def random_field(rng: random.Random, low: int, high: int) -> str:
    kind, first = rng.random(), rng.randint(low, high)
    if kind < 0.35:
        return rng.choice(["*", "?"])
    if kind < 0.5:
        return f"*/{rng.choice([1, 2, 3, 5, 7, 10, 15])}"
    if kind < 0.7:
        return str(first)
    if kind < 0.85:
        return f"{first}-{rng.randint(first, high)}" + rng.choice(["", "/2", "/7"])
    return ",".join(str(rng.randint(low, high)) for _ in range(3))


CHANGES = [
    ("Europe/Berlin", (2026, 3, 29)),
    ("Europe/Berlin", (2026, 10, 25)),
    ("America/New_York", (2026, 11, 1)),
    ("America/Santiago", (2026, 9, 6)),  # midnight does not exist
    ("America/Sao_Paulo", (2018, 11, 4)),  # neither here
    ("Australia/Lord_Howe", (2026, 4, 4)),  # half an hour
    ("Pacific/Apia", (2011, 12, 30)),  # a whole day does not exist
    ("Antarctica/Troll", (2026, 3, 29)),  # two hours
]


@pytest.mark.parametrize(("zone", "change"), CHANGES)
def test_a_fire_is_a_second_whose_local_reading_matches(zone: str, change: tuple[int, int, int]) -> None:
    """The literal rule by brute force: three days around the change, each second of the minutes that can match."""
    rng, info = random.Random(3), ZoneInfo(zone)
    middle = int(datetime(*change, tzinfo=UTC).timestamp())
    low, high = middle - 129_600, middle + 129_600
    readings = [(minute, datetime.fromtimestamp(minute, UTC).astimezone(info)) for minute in range(low, high, 60)]
    schedules, fired = Schedules(zone_table), 0
    for _ in range(60):
        fields = [random_field(rng, bounds.low, bounds.high) for bounds in FIELDS]
        fields[0], fields[4] = rng.choice(["0", "30", "*/20"]), "*"
        masks = parse_cron(" ".join(fields), "")
        wanted = [
            minute + second
            for minute, local in readings
            if day_matches(masks, local) and masks.hours >> local.hour & 1 and masks.minutes >> local.minute & 1
            for second in range(60)
            if masks.seconds >> second & 1
        ]
        schedule, fires, at = schedules.parse(f"TZ={zone} {' '.join(fields)}"), [], low - 1
        while (found := next_second(schedule, at)) is not None and found < high:
            fires.append(found)
            at = found
        assert fires == wanted, fields
        fired += len(fires)
    assert fired > 1000


def day_matches(masks: Masks, day: datetime) -> bool:
    by_day, by_weekday = masks.days >> day.day & 1 == 1, masks.weekdays >> (day.isoweekday() % 7) & 1 == 1
    return (by_day and by_weekday) if masks.day_star or masks.weekday_star else (by_day or by_weekday)


def days_of(masks: Masks, start: datetime, years: int) -> Iterator[datetime]:
    day = start.replace(hour=0, minute=0, second=0)
    for _ in range(366 * years):
        if masks.months >> day.month & 1 and day_matches(masks, day):
            yield day
        day += timedelta(days=1)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), start=st.integers(0, 4_000_000_000))
def test_utc_against_a_loop_over_days(seed: int, start: int) -> None:
    rng = random.Random(seed)
    text = " ".join(random_field(rng, bounds.low, bounds.high) for bounds in FIELDS)
    try:
        masks = parse_cron(text, text)
    except InvalidJobError:
        return
    begin = datetime.fromtimestamp(start, UTC)
    first = next(
        second
        for day in days_of(masks, begin, 13)
        for hour in range(24)
        if masks.hours >> hour & 1
        for minute in range(60)
        if masks.minutes >> minute & 1
        for offset in range(60)
        if masks.seconds >> offset & 1 and (second := int(day.timestamp()) + hour * 3600 + minute * 60 + offset) > start
    )
    assert next_second(Schedules(zone_table).parse(text), start) == first


def agreeing_field(rng: random.Random, low: int, high: int) -> str:
    first = rng.randint(low, high - 1)
    last = rng.randint(first + 1, high)  # never a-a: croniter reads it as the whole field
    step = rng.choice([2, 3, 5, 7, 10, 15])
    return rng.choice(["*", "*", f"*/{step}", f"{first}", f"{first},{last}", f"{first}-{last}", f"{first}-{last}/{step}"])


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_croniter_on_the_agreeing_subset(seed: int) -> None:
    """UTC, six fields, plain lists, ranges and steps, at most one day field restricted."""
    croniter = pytest.importorskip("croniter").croniter
    rng = random.Random(seed)
    fields = [agreeing_field(rng, low, high) for low, high in [(0, 59), (0, 59), (0, 23), (1, 28), (1, 12), (0, 6)]]
    fields[rng.choice([3, 5])] = "*"
    start = 1_700_000_000 + rng.randrange(86_400 * 365 * 10)
    judge = croniter(" ".join(fields), datetime.fromtimestamp(start, UTC), second_at_beginning=True)
    schedule, second = Schedules(zone_table).parse(" ".join(fields)), start
    for _ in range(6):
        second = next_second(schedule, second) or -1
        assert second == int(judge.get_next(float)), (fields, start)


@settings(max_examples=300, deadline=None)
@given(
    days=st.integers(0, 2**32 - 2).map(lambda mask: mask & ~1),
    months=st.integers(0, 2**13 - 2).map(lambda mask: mask & ~1),
    weekdays=st.integers(0, 127),
    stars=st.sampled_from([(False, False), (True, False), (False, True), (True, True)]),
)
def test_never_is_exact(days: int, months: int, weekdays: int, stars: tuple[bool, bool]) -> None:
    """Against every day of 40 years that cross 2100."""
    days = 2**32 - 2 if stars[0] else days  # a starred field is full
    weekdays = 127 if stars[1] else weekdays
    masks = Masks(1, 1, 1, days, months, weekdays, *stars)
    fires = next(days_of(masks, datetime(2080, 1, 1, tzinfo=UTC), 40), None) is not None
    assert never_fires(masks) == (not fires)


def test_looks_ahead_over_the_missing_leap_day_of_2100() -> None:
    schedule = Schedules(zone_table).parse("0 0 0 29 2 ?")
    leap_2096 = int(datetime(2096, 2, 29, tzinfo=UTC).timestamp())
    assert next_second(schedule, leap_2096) == int(datetime(2104, 2, 29, tzinfo=UTC).timestamp())


def test_the_ends_of_time() -> None:
    schedule = Schedules(zone_table).parse("* * * * * *")
    last = 253_402_300_799
    assert next_second(schedule, last - 1) == last
    assert next_second(schedule, last) is None
    assert next_second(schedule, 10**12) is None
    assert next_second(schedule, -62_135_596_801) == -62_135_596_799
    assert next_second(schedule, -10_000) == -9_999
    daily = Schedules(zone_table).parse("@daily")
    assert next_second(daily, -86_401) == -86_400
    assert next_second(daily, -86_400) == 0
    assert daily.next_after(-1) == 0
    assert daily.next_after(0) == 86_400 * NS
    assert daily.next_after(86_400 * NS - 1) == 86_400 * NS


@pytest.mark.slow
def test_zone_tables_agree_with_zoneinfo() -> None:
    """Every zone of this host's tzdata, every fifth day from 1970 to 2038, and both sides of each change since 1900."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    for name in sorted(zoneinfo.available_timezones() - {"localtime"}):
        table, info = zone_table(name), ZoneInfo(name)
        assert table is not None, name
        at, offset = table

        def reading(second: int, info: ZoneInfo = info) -> int:
            found = (epoch + timedelta(seconds=second)).astimezone(info).utcoffset()
            return 0 if found is None else int(found.total_seconds())

        for index, second in enumerate(at):
            if second > -2_208_988_800:
                assert (reading(second - 1), reading(second)) == (offset[index - 1], offset[index]), (name, second)
        index = 0
        for second in range(0, 68 * 365 * 86_400, 5 * 86_400):
            while index + 1 < len(at) and at[index + 1] <= second:
                index += 1
            assert reading(second) == offset[index], (name, second)
