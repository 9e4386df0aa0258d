"""Schedule texts, due times, ttl and the field rules: what is accepted, what it means, and the exact text of every refusal."""

from datetime import UTC, datetime

import pytest

from raftsched.limits import SPEC_CACHE_ENTRIES
from raftsched.scheduler.schedule import CRON, EVERY, InvalidJobError, ResolvedJob, Schedules, parse_instant, validate_job
from raftsched.scheduler.schedule.go import parse_duration, parse_int, quote
from raftsched.zones import tzdata_version, zone_table

NS = 1_000_000_000
NOW = 1_769_861_109_123_456_789  # 2026-01-31T12:05:09.123456789Z
BERLIN = ((-(1 << 60), 1_774_746_000), (3600, 7200))


def small_zones(name: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    return BERLIN if name == "Europe/Berlin" else None


@pytest.fixture
def schedules() -> Schedules:
    return Schedules(small_zones)


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NS


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty spec string"),
        (" ", "expected exactly 6 fields, found 0: []"),
        ("* * * * *", "expected exactly 6 fields, found 5: [* * * * *]"),
        ("1  2\t3 4 5 6 7", "expected exactly 6 fields, found 7: [1 2 3 4 5 6 7]"),
        ("@Daily", "unrecognized descriptor: @Daily"),
        ("@daily ", "unrecognized descriptor: @daily "),
        ("@every", "unrecognized descriptor: @every"),
        ("@every 1x", 'failed to parse duration @every 1x: time: unknown unit "x" in duration "1x"'),
        ("@every 1", 'failed to parse duration @every 1: time: missing unit in duration "1"'),
        ("@every ", 'failed to parse duration @every : time: invalid duration ""'),
        ("@every -1s", "failed to parse duration @every -1s: must not be negative"),
        ("TZ=UTC", "timezone prefix TZ=UTC is not followed by a schedule"),
        ("CRON_TZ=Europe/Berlin", "timezone prefix CRON_TZ=Europe/Berlin is not followed by a schedule"),
        ("TZ=UTC ", "expected exactly 6 fields, found 0: []"),
        ("TZ=Nowhere/Land 0 0 0 * * *", "provided bad location Nowhere/Land: unknown time zone Nowhere/Land"),
        ("TZ=../etc 0 0 0 * * *", "provided bad location ../etc: time: invalid location name"),
        ("TZ=/etc 0 0 0 * * *", "provided bad location /etc: time: invalid location name"),
        ("CRON_TZ=UTC @every 1s", "timezone is not supported for @every schedules: CRON_TZ=UTC @every 1s"),
        ("60 * * * * *", "end of range (60) above maximum (59): 60"),
        ("0 0 0 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("0 0 0 * * 7", "end of range (7) above maximum (6): 7"),
        ("0 0 22-2 * * *", "beginning of range (22) beyond end of range (2): 22-2"),
        ("*/0 * * * * *", "step of range should be a positive number: */0"),
        ("x * * * * *", 'failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax'),
        ("0 0 0 L * *", 'failed to parse int from L: strconv.Atoi: parsing "L": invalid syntax'),
        ("-5 * * * * *", 'failed to parse int from : strconv.Atoi: parsing "": invalid syntax'),
        ("*/-5 * * * * *", "negative number (-5) not allowed: -5"),
        (
            "99999999999999999999 * * * * *",
            'failed to parse int from 99999999999999999999: strconv.Atoi: parsing "99999999999999999999": value out of range',
        ),
        ("1-2-3 * * * * *", "too many hyphens: 1-2-3"),
        ("1/2/3 * * * * *", "too many slashes: 1/2/3"),
        ("0 0 0 30 2 *", "schedule never fires: 0 0 0 30 2 *"),
        ("TZ=UTC 0 0 0 31 feb,apr ?", "schedule never fires: TZ=UTC 0 0 0 31 feb,apr ?"),
        ("0 , * * * *", "schedule never fires: 0 , * * * *"),
        ("0 0 0 , * 1", "empty list: ,"),
    ],
)
def test_refused_with_the_reason(schedules: Schedules, text: str, reason: str) -> None:
    with pytest.raises(InvalidJobError) as refused:
        schedules.parse(text)
    assert str(refused.value) == reason


@pytest.mark.parametrize(
    ("text", "following"),
    [
        ("@hourly", "2026-01-31T13:00:00"),
        ("@daily", "2026-02-01T00:00:00"),
        ("@midnight", "2026-02-01T00:00:00"),
        ("@weekly", "2026-02-01T00:00:00"),
        ("@monthly", "2026-02-01T00:00:00"),
        ("@yearly", "2027-01-01T00:00:00"),
        ("@annually", "2027-01-01T00:00:00"),
        ("TZ= @daily", "2026-02-01T00:00:00"),
        ("CRON_TZ=Europe/Berlin @daily", "2026-01-31T23:00:00"),
        ("TZ=Europe/Berlin\t0 30 2 29 3 ?", "2027-03-29T00:30:00"),  # skipped by the clock change of 2026
        ("0 0 0 29 2 *", "2028-02-29T00:00:00"),
        ("0 0 0 13 * FRI", "2026-02-06T00:00:00"),  # both restricted: either
        ("0 0 0 */2 * 5", "2026-02-01T00:00:00"),  # */2 restricts
        ("0 0 0 */1 * 5", "2026-02-06T00:00:00"),  # */1 does not
        ("0 0 0 *,5 * 5", "2026-02-06T00:00:00"),  # a star anywhere in the list
        ("1,,2 *-5 +13 ? ?/1 *", "2026-01-31T13:00:01"),
        ("5/25 7 12 * Jan-MAR sun-SAT", "2026-01-31T12:07:05"),
        ("10 5 12 * * *", "2026-01-31T12:05:10"),
        ("9 5 12 31 1 *", "2027-01-31T12:05:09"),  # strictly after, from a fraction floored to its second
    ],
)
def test_cron_means(schedules: Schedules, text: str, following: str) -> None:
    schedule = schedules.parse(text)
    assert (schedule.kind, schedule.text) == (CRON, text)
    assert schedule.next_after(NOW) == ns(following)


@pytest.mark.parametrize(
    ("text", "interval_ns"),
    [("1s", NS), ("1.5s", 3 * NS // 2), ("100ms", 10**8), ("1h30m", 5400 * NS), ("0", 0), ("0s", 0), ("-0s", 0), ("+1us", 1000),
     ("1µs", 1000), ("1μs", 1000), ("1ns", 1), ("0.1ns", 0), (".5m", 30 * NS), ("1.h", 3600 * NS), ("9223372036854775807ns", 2**63 - 1)],
)  # fmt: skip
def test_every_keeps_nanoseconds(schedules: Schedules, text: str, interval_ns: int) -> None:
    schedule = schedules.parse(f"@every {text}")
    assert (schedule.kind, schedule.interval_ns) == (EVERY, interval_ns)
    assert schedule.next_after(NOW) == NOW + interval_ns
    assert schedules.compile(f"@every {text}") == (EVERY, interval_ns)


def test_every_ends_with_the_year_9999(schedules: Schedules) -> None:
    assert schedules.parse("@every 1s").next_after(253_402_300_799 * NS + 5) is None


def test_compile_counts_users_of_a_shared_spec(schedules: Schedules) -> None:
    kind, number = schedules.compile("0 0 9 * * *")
    assert (kind, schedules.compile("0 0 9 ? * ?")) == (CRON, (CRON, number))
    assert schedules.compile("TZ=Europe/Berlin 0 0 9 * * *") != (CRON, number)
    schedules.table.release(number)
    assert schedules.table.next(number, 0) == 9 * 3600
    schedules.table.release(number)
    assert schedules.table.next(number, 0) == -1
    with pytest.raises(ValueError, match="no such spec"):
        schedules.table.release(number)


def test_many_specs_are_found_again(schedules: Schedules) -> None:
    texts = [f"{s} {m} {h} * * *" for s in range(0, 60, 4) for m in range(0, 60, 6) for h in range(0, 24, 3)]
    numbers = {text: schedules.compile(text)[1] for text in texts}
    assert len(set(numbers.values())) == len(texts) == len(schedules.table)
    for text in texts[::2]:
        schedules.table.release(numbers[text])
    assert all(schedules.compile(text)[1] == numbers[text] for text in texts[1::2])
    assert len(schedules.table) == len(texts) // 2
    again = {text: schedules.compile(text)[1] for text in texts[::2]}
    assert set(again.values()) == {numbers[text] for text in texts[::2]}  # freed numbers are used first
    assert all(schedules.table.next(number, 0) == Schedules(small_zones).parse(text).next_after(0) // NS for text, number in again.items())


def test_the_cache_is_bounded(schedules: Schedules) -> None:
    first = schedules.parse("@every 1ns")
    assert schedules.parse("@every 1ns") is first
    for i in range(SPEC_CACHE_ENTRIES):
        schedules.parse(f"@every {i + 10}ns")
    assert schedules.parse("@every 1ns") is not first
    assert len(schedules._cache) == SPEC_CACHE_ENTRIES
    long = "@every 1s" + "0ns" * 1000
    assert schedules.parse(long) is not schedules.parse(long)


def test_zones_are_asked_once_and_again_on_demand() -> None:
    asked: list[str] = []

    def source(name: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        asked.append(name)
        return ((0,), (3600 * len(asked),))

    schedules = Schedules(source)
    one, two = schedules.parse("TZ=A 0 0 12 * * *"), schedules.parse("TZ=A 0 0 13 * * *")
    assert (asked, one.zone, two.zone) == (["A"], 0, 0)
    assert one.next_after(0) == 11 * 3600 * NS
    assert schedules.reload_zones() == ["A"]
    assert one.next_after(0) == 10 * 3600 * NS


def test_the_real_zones() -> None:
    berlin = zone_table("Europe/Berlin")
    assert berlin is not None
    at, offset = berlin
    assert (1_774_746_000, 7200) in zip(at, offset, strict=True)
    assert list(at) == sorted(set(at))
    assert datetime.fromtimestamp(at[-1], UTC).year == 2099
    for wrong in ("Nowhere", "Europe", "../UTC", "a" * 5000, "", "tzdata.zi", "x\0"):
        assert zone_table(wrong) is None
    assert tzdata_version()


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-02-01T00:00:00Z", ns("2026-02-01T00:00:00")),
        ("2026-02-01T00:00:00.000000001Z", ns("2026-02-01T00:00:00") + 1),
        ("2026-02-01T00:00:00,1234567899+01:30", ns("2026-01-31T22:30:00") + 123_456_789),
        ("2026-02-01T7:00:00-05:00", ns("2026-02-01T12:00:00")),
        ("0001-01-01T00:00:00Z", -62_135_596_800 * NS),
        ("9999-12-31T23:59:59.999999999Z", 253_402_300_800 * NS - 1),
        ("1m30s", NOW + 90 * NS),
        ("-1h", NOW - 3600 * NS),
        ("0", NOW),
        ("PT1M", NOW + 60 * NS),
        ("P1DT2H3M4S", NOW + (86_400 + 7384) * NS),
        ("P2W", NOW + 14 * 86_400 * NS),
        ("P1M", NOW + 31 * 86_400 * NS),  # 31 January and a month: 31 February = 3 March
        ("P1Y1M", ns("2027-03-03T12:05:09") + 123_456_789),
        ("P-1D", NOW - 86_400 * NS),
        ("PT", NOW),
        ("R0/PT5S", NOW + 5 * NS),
        ("R-1/PT5S", NOW + 5 * NS),
        ("PX", NOW),  # what follows the last unit is not looked at
        ("PT5", NOW),
        ("P1D and more", NOW + 86_400 * NS),
        ("0000-01-01T00:00:00Z", -62_167_219_200 * NS),
        ("P9999Y", ns("2026-01-31T12:05:09") + 123_456_789 + (146_097 * 25 - 365) * 86_400 * NS),
    ],
)
def test_due_times(text: str, instant: int) -> None:
    assert parse_instant(text, NOW) == instant


@pytest.mark.parametrize(
    "text",
    ["", "x", "P", "P1H", "PT1D", "PT1Y", "P1.5D", "PT0.5S", "1", "R/PT1S", "R5", "Rx/PT1S", "R3PT1S", "1d", "2026-02-01",
     "2026-02-30T00:00:00Z", "2026-02-01T24:00:00Z", "2026-02-01T00:00:60Z", "2026-02-01t00:00:00Z", "2026-02-01T00:00:00",
     "2026-02-01T00:00:00+25:00", "2026-02-01T00:00:00Z\n", "٢026-02-01T00:00:00Z", "P1,5D", "PT1TS",
     "P9223372036854775808D", "P9223372036854775807D"],
)  # fmt: skip
def test_due_times_refused(text: str) -> None:
    with pytest.raises(InvalidJobError) as refused:
        parse_instant(text, NOW)
    assert str(refused.value) == ("repeats not supported for due time" if text == "R5" else "due time format not recognized")


Fields = dict[str, str | int | None]


def resolve(**fields: str | int | None) -> ResolvedJob:
    whole: Fields = {"schedule": None, "due_time": None, "ttl": None, "repeats": None, **fields}
    return validate_job(Schedules(small_zones), now_ns=NOW, **whole)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "job must have either a due time or a schedule"),
        ({"repeats": 0, "ttl": "x"}, "job must have either a due time or a schedule"),
        ({"due_time": "x", "repeats": 2}, "job must have a schedule to repeat"),
        ({"due_time": "x", "repeats": 0}, "defined repeats must be greater than 0"),
        ({"schedule": "x", "repeats": 0}, "defined repeats must be greater than 0"),
        ({"due_time": "x", "ttl": "1s"}, "job must have a schedule to have a ttl"),
        ({"due_time": "x", "schedule": "", "ttl": "x"}, "empty spec string"),
        ({"due_time": "x", "schedule": "@daily", "ttl": "x"}, "due time format not recognized"),
        ({"due_time": "", "schedule": None}, "due time format not recognized"),
        ({"due_time": "R2/PT1S"}, "repeats not supported for due time"),
        ({"schedule": "@daily", "ttl": "x"}, "ttl format not recognized"),
        ({"schedule": "@daily", "ttl": "R2/PT1S"}, "ttl format not recognized"),
        ({"schedule": "@daily", "due_time": "1s", "ttl": "-1ns"}, "ttl must be greater than due time"),
    ],
)
def test_field_rules_in_order(fields: Fields, text: str) -> None:
    with pytest.raises(InvalidJobError) as refused:
        resolve(**fields)
    assert str(refused.value) == text


def test_resolved_instants() -> None:
    one_shot = resolve(due_time="1s", repeats=1)
    assert (one_shot.schedule, one_shot.start_ns, one_shot.due_ns, one_shot.expiration_ns) == (None, NOW, NOW + NS, None)
    recurring = resolve(schedule="@every 1s", ttl="3s", repeats=5)
    assert (recurring.due_ns, recurring.expiration_ns) == (None, NOW + 3 * NS)
    both = resolve(schedule="@every 1s", due_time="10s", ttl="3s")
    assert (both.due_ns, both.expiration_ns) == (NOW + 10 * NS, NOW + 13 * NS)
    assert resolve(schedule="@every 1s", due_time="10s", ttl="0").expiration_ns == NOW + 10 * NS  # equal is allowed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        (".s", 'time: invalid duration ".s"'),
        ("3", 'time: missing unit in duration "3"'),
        ("1s2", 'time: missing unit in duration "1s2"'),
        ('1"', r'time: unknown unit "\"" in duration "1\""'),
        ("1é", r'time: unknown unit "\xc3\xa9" in duration "1\xc3\xa9"'),
        ("1s 2s", 'time: unknown unit "s " in duration "1s 2s"'),
        ("9223372036854775808ns", 'time: invalid duration "9223372036854775808ns"'),
        ("3000000h", 'time: invalid duration "3000000h"'),
        ("99999999999999999999s", 'time: invalid duration "99999999999999999999s"'),
    ],
)
def test_duration_errors_are_those_of_go(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the text is compared below
        parse_duration(text)
    assert str(refused.value) == reason


def test_integers_and_quotes_are_those_of_go() -> None:
    assert parse_duration("-9223372036854775808ns") == -(2**63)
    assert parse_duration("0" * 5000 + "7ns") == parse_int("0" * 5000 + "7") == 7
    assert [parse_int(text) for text in ("0", "+5", "-7", "007", "9223372036854775807")] == [0, 5, -7, 7, 2**63 - 1]
    for text in ("1_0", "٣", "1 ", "--1", "9223372036854775808", "99999999999999999999x"):
        with pytest.raises(ValueError, match="out of range" if text.startswith("9") else "invalid syntax"):
            parse_int(text)
    assert quote('a"\\\n\x01\x7f\u00e9\u200b\U0001f600\ue000') == '"a\\"\\\\\\n\\x01\\x7fé\\u200b😀\\ue000"'
