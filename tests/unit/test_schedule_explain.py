"""Explaining a schedule: fires as the next-trigger rule has them, remarks at clock changes, and the place of what is refused."""

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raftsched.scheduler.schedule import InvalidJobError, Schedules, validate_job
from raftsched.scheduler.schedule.explain import Asked, Explanation, explain, local_text, offset_at, place_in, wall
from raftsched.testing.scheduling import Bench
from raftsched.zones import zone_table

NS = 1_000_000_000
ROME = "CRON_TZ=Europe/Rome "


def at_ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * NS


def explained(schedule: str | None = None, *, now: str = "2026-01-01T00:00:00Z", count: int = 3, **more: object) -> Explanation:
    return explain(Schedules(zone_table), Asked(schedule, **more), now_ns=at_ns(now), count=count)  # type: ignore[arg-type]


def shown(found: Explanation) -> list[tuple[str, tuple[str, ...]]]:
    assert found.refusal is None
    return [(local_text(fire.at_ns, fire.offset_s), fire.remarks) for fire in found.fires]


def test_a_missing_hour_is_told() -> None:
    assert shown(explained(ROME + "0 30 2 * * *", now="2026-03-28T00:00:00Z")) == [
        ("2026-03-28T02:30:00+01:00", ()),
        (
            "2026-03-30T02:30:00+02:00",
            ("2026-03-29T02:30:00 is skipped: there is no such time, clocks go forward from 02:00:00 to 03:00:00",),
        ),
        ("2026-03-31T02:30:00+02:00", ()),
    ]


def test_a_clock_change_that_hits_nothing_is_not_told() -> None:
    assert [remarks for _, remarks in shown(explained(ROME + "0 30 4 * * *", now="2026-03-28T00:00:00Z"))] == [(), (), ()]


def test_an_hour_that_comes_twice_is_told() -> None:
    assert shown(explained(ROME + "0 30 2 * * *", now="2026-10-24T12:00:00Z")) == [
        ("2026-10-25T02:30:00+02:00", ("the first of two: clocks go back from 03:00:00 to 02:00:00, both are run",)),
        ("2026-10-25T02:30:00+01:00", ("the second of two: clocks go back from 03:00:00 to 02:00:00, both are run",)),
        ("2026-10-26T02:30:00+01:00", ()),
    ]


def test_half_an_hour_may_be_missing() -> None:
    found = shown(explained("CRON_TZ=Australia/Lord_Howe 0 15 2 * * *", now="2026-10-02T16:00:00Z", count=1))
    assert found[0][1] == ("2026-10-04T02:15:00 is skipped: there is no such time, clocks go forward from 02:00:00 to 02:30:00",)


@pytest.mark.parametrize(
    ("schedule", "more", "fires", "ends"),
    [
        (None, {"due_time": "10s"}, ["2026-01-01T00:00:10Z"], True),
        ("@every 1.5s", {}, ["2026-01-01T00:00:01.5Z", "2026-01-01T00:00:03Z", "2026-01-01T00:00:04.5Z"], False),
        ("@every 1s", {"repeats": 2}, ["2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z"], True),
        ("@every 1s", {"ttl": "2s"}, ["2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z"], True),
        ("@every 1s", {"ttl": "0.5s"}, [], True),
        ("@daily", {"due_time": "2026-01-01T05:00:00Z"}, ["2026-01-01T05:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"], False),
        ("0 0 0 29 2 *", {}, ["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z", "2036-02-29T00:00:00Z"], False),
    ],
)
def test_fires(schedule: str | None, more: dict[str, object], fires: list[str], ends: bool) -> None:
    found = explained(schedule, **more)
    assert [text for text, _ in shown(found)] == fires
    assert found.ends == ends


@pytest.mark.parametrize(
    ("more", "reason", "marked"),
    [
        ({"schedule": "0 0 25 * * *"}, "end of range (25) above maximum (23): 25", ("schedule", "25")),
        ({"schedule": "0 0 1,2,x * * *"}, "failed to parse int from x", ("schedule", "x")),
        ({"schedule": "0 0 0 30 2 *"}, "schedule never fires", ("schedule", "30 2 *")),
        ({"schedule": "0 0 0 * *"}, "expected exactly 6 fields", ("schedule", "0 0 0 * *")),
        ({"schedule": "0 0 0 * * * 9 9"}, "expected exactly 6 fields", ("schedule", "9 9")),
        ({"schedule": "CRON_TZ=Mars/Base 0 0 0 * * *"}, "provided bad location", ("schedule", "Mars/Base")),
        ({"schedule": "TZ=Europe/Rome @every 1s"}, "timezone is not supported", ("schedule", "TZ=Europe/Rome")),
        ({"schedule": "TZ=Europe/Rome  0 0 61 * * *"}, "end of range", ("schedule", "61")),
        ({"schedule": "TZ=UTC"}, "timezone prefix", ("schedule", "TZ=UTC")),
        ({"schedule": "@hourl"}, "unrecognized descriptor", ("schedule", "@hourl")),
        ({"schedule": "@every 1x"}, "failed to parse duration", ("schedule", "1x")),
        ({"schedule": "0 0 , * * *"}, "schedule never fires", ("schedule", ",")),
        ({"schedule": ""}, "empty spec string", ("schedule", "")),
        ({}, "job must have either", ("schedule", "")),
        ({"due_time": "soon"}, "due time format", ("due_time", "soon")),
        ({"due_time": "1s", "ttl": "1s"}, "job must have a schedule to have a ttl", ("ttl", "1s")),
        ({"schedule": "@daily", "ttl": "later"}, "ttl format", ("ttl", "later")),
        ({"schedule": "@daily", "due_time": "2027-01-01T00:00:00Z", "ttl": "2026-06-01T00:00:00Z"}, "ttl must be", ("ttl", None)),
        ({"schedule": "@daily", "repeats": 0}, "defined repeats", ("repeats", None)),
        ({"due_time": "1s", "repeats": 2}, "job must have a schedule to repeat", ("repeats", None)),
    ],
)
def test_refusals_say_where(more: dict[str, object], reason: str, marked: tuple[str, str | None]) -> None:
    refusal = explained(**more).refusal  # type: ignore[arg-type]
    assert refusal is not None
    assert reason in refusal.reason
    assert refusal.field == marked[0]
    if marked[1] is not None:
        given = str(more.get(refusal.field) or "")
        assert given[refusal.position : refusal.position + refusal.length] == marked[1]


@example("@every ")
@given(st.text("0 @*/,-?59TZ=UCevry1smon\t\u00a0x", max_size=30))
def test_every_refusal_has_a_place_inside_the_text(text: str) -> None:
    schedules, reason = Schedules(zone_table), None
    try:
        schedules.parse(text)
    except InvalidJobError as error:
        reason = str(error)
    found = explained(text).refusal
    assert (None if found is None else found.reason) == reason
    if reason is not None:
        position, length = place_in(schedules, text)
        assert 0 <= position <= position + length <= len(text)
        assert length or not text.strip(), f"{reason}: {text!r}"


@settings(deadline=None)  # a zone is read when it is first needed
@given(st.integers(0, 2_000_000_000), st.sampled_from(["Europe/Rome", "America/New_York", "Asia/Kathmandu"]))
def test_local_text_is_the_wall_clock(second: int, zone: str) -> None:
    offset = offset_at(zone_table(zone), second)
    there = datetime.fromtimestamp(second, ZoneInfo(zone))
    assert there.utcoffset() == timedelta(seconds=offset)
    if offset % 60 == 0:
        assert local_text(second * NS, offset) == there.isoformat().replace("+00:00", "Z")
    assert wall(second + offset) == there.replace(tzinfo=None).isoformat()


@pytest.mark.parametrize("schedule", ["@every 7s", "*/10 * * * * *", ROME + "0 30 2 * * *"])
def test_the_engine_fires_what_was_explained(schedule: str) -> None:
    bench = Bench(now_ms=at_ns("2026-10-24T12:00:00Z") // 1_000_000)
    worker = bench.connect()
    now_ns = bench.now_ms * 1_000_000
    validate_job(bench.schedules, schedule=schedule, due_time=None, ttl=None, repeats=None, now_ns=now_ns)
    composed = bench.put("job", schedule=schedule)
    found = explain(bench.schedules, Asked(schedule), now_ns=now_ns, count=5)
    for fire in found.fires:
        bench.now_ms = fire.at_ns // 1_000_000 - 1
        bench.tick()
        assert worker.take() == []
        bench.tick(1)
        [(_, id_)] = worker.take()
        bench.ack(worker, id_)
        counter = bench.counter(composed)
        assert counter is not None
        assert counter[2] == divmod(fire.at_ns, NS)


def test_negative_offsets_are_shown() -> None:
    assert local_text(0, -5 * 3600) == datetime.fromtimestamp(0, timezone(timedelta(hours=-5))).isoformat()
