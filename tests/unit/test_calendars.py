"""Calendars: their rules, what they do to schedules and business days, an engine that hears of changes, and what it waits for."""

from datetime import UTC, date, datetime, timedelta

import pytest

from raftsched.limits import EXCLUSIONS_SWEPT_AT
from raftsched.pb.v1 import state_pb2
from raftsched.scheduler.jobs.names import CALENDARS
from raftsched.scheduler.schedule import Extended, InvalidJobError, Schedules
from raftsched.scheduler.schedule.calendars import Days, parse_days
from raftsched.scheduler.schedule.explain import Asked, explain
from raftsched.testing.scheduling import Bench
from raftsched.zones import zone_table

NS = 1_000_000_000
NEW_YEAR_NS = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * NS


def covered(rules: list[str], first: date, count: int) -> list[str]:
    days = parse_days(rules)
    found = [first + timedelta(index) for index in range(count)]
    return [day.isoformat() for day in found if days.covers(day.year, day.month, day.day)]


def test_rules() -> None:
    rules = ["2026-01-03", "01-06", "2026-01-09..2026-01-11", "01-10..01-12", "sat", "2026-01-12"]
    wanted = ["03", "06", "09", "10", "11", "12", "17", "24", "31"]
    assert covered(rules, date(2026, 1, 1), 31) == [f"2026-01-{day}" for day in wanted]
    assert covered(["12-30..01-02"], date(2026, 12, 28), 8) == ["2026-12-30", "2026-12-31", "2027-01-01", "2027-01-02"]
    assert covered(["02-29"], date(2028, 2, 28), 3) == ["2028-02-29"]
    assert parse_days(["2026-01-05", "2026-01-03..2026-01-04", "2026-01-01..2026-01-09"]).ranges == ((20454, 20462),)
    assert parse_days([]) == Days()


@pytest.mark.parametrize(
    "rule",
    [
        "",
        "2026-02-29",
        "13-01",
        "02-30",
        "2026-12-25..12-26",
        "2026-12-26..2026-12-25",
        "0000-01-01",
        "xmas",
        "2026-12-25.",
        "1..2",
        "\u0661\u0662-01",
    ],
)
def test_rules_that_are_refused(rule: str) -> None:
    with pytest.raises(InvalidJobError):
        parse_days([rule])


def fires(schedules: Schedules, text: str, count: int, namespace: str = "ns", start_ns: int = NEW_YEAR_NS) -> list[str]:
    schedule, at, found = schedules.parse("DIALECT=extended " + text), start_ns, []
    assert isinstance(schedule, Extended)
    schedule = schedules.own(schedule, b"key", start_ns, namespace)
    while len(found) < count and (following := schedule.next_after(at)) is not None:
        found.append(datetime.fromtimestamp(following // NS, UTC).strftime("%m-%d %H"))
        at = following
    return found


def test_excluded_days() -> None:
    schedules = Schedules(zone_table)
    schedules.calendars.change("ns", "de", parse_days(["01-01", "2026-01-06", "sun"]))
    schedules.calendars.change("ns", "house", parse_days(["2026-01-02..2026-01-05"]))
    assert fires(schedules, "EXCLUDE=de 0 9 * * *", 4) == ["01-02 09", "01-03 09", "01-05 09", "01-07 09"]
    assert fires(schedules, "EXCLUDE=de,house 0 9 * * *", 4) == ["01-07 09", "01-08 09", "01-09 09", "01-10 09"]
    assert fires(schedules, "EXCLUDE=de,house 0 9 1BD,3BD * *", 3) == ["01-07 09", "01-09 09", "02-02 09"]
    assert fires(schedules, "EXCLUDE=de 0 9 BD * *", 4) == ["01-02 09", "01-05 09", "01-07 09", "01-08 09"]
    assert fires(schedules, "EXCLUDE=de @every 12h", 4) == ["01-02 00", "01-02 12", "01-03 00", "01-03 12"]
    assert fires(schedules, "EXCLUDE=de,house @every 7h", 3) == ["01-07 03", "01-07 10", "01-07 17"]
    assert fires(schedules, "TZ=Asia/Tokyo EXCLUDE=house 0 1 * * *", 2) == ["01-05 16", "01-06 16"]
    assert fires(schedules, "TZ=Asia/Tokyo EXCLUDE=house @every 6h", 2) == ["01-01 06", "01-01 12"]
    schedules.calendars.change("ns", "all", parse_days(["01-01..12-31"]))
    assert fires(schedules, "EXCLUDE=all 0 9 * * *", 1) == []
    assert fires(schedules, "EXCLUDE=all @every 1ms", 1) == []


def test_a_calendar_that_is_not_there_holds_everything() -> None:
    schedules = Schedules(zone_table)
    schedules.calendars.change("ns", "there", parse_days([]))
    assert fires(schedules, "EXCLUDE=there,gone 0 9 * * *", 1) == []
    assert fires(schedules, "EXCLUDE=there 0 9 * * *", 1, namespace="other") == []
    assert schedules.missing_calendars("DIALECT=extended EXCLUDE=there,gone 0 9 * * *", "ns") == ["gone"]
    schedules.calendars.change("ns", "gone", parse_days([]))
    assert fires(schedules, "EXCLUDE=there,gone 0 9 * * *", 1) == ["01-01 09"]


def test_combinations_that_nobody_uses_are_given_back() -> None:
    schedules = Schedules(zone_table)
    kept = schedules.compile("DIALECT=extended EXCLUDE=kept @daily", b"a", "ns")[1]
    for number in range(3 * EXCLUSIONS_SWEPT_AT):
        schedules.calendars.exclusion("ns", (f"c{number}",))
    assert schedules.extended.new_exclusion() <= EXCLUSIONS_SWEPT_AT + 1
    assert schedules.calendars.users("ns", "kept") == 1
    schedules.extended.release(kept)
    assert schedules.calendars.users("ns", "kept") == 0


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("EXCLUDE=", "this is no name of a calendar: "),
        ("EXCLUDE=a,b/c", "this is no name of a calendar: b/c"),
        ("EXCLUDE=a,b,c,d,e,f,g,h,i", "a schedule names at most 8 calendars"),
    ],
)
def test_words_that_are_refused(word: str, reason: str) -> None:
    refusal = explain(Schedules(zone_table), Asked(f"DIALECT=extended {word} @daily"), now_ns=0, count=1).refusal
    assert refusal is not None
    assert (refusal.reason, refusal.position, refusal.length) == (reason, 17, len(word))


def test_explained() -> None:
    schedules = Schedules(zone_table)
    schedules.calendars.change("ns", "de", parse_days(["2026-01-02", "2026-02-01..2026-03-31"]))
    schedules.calendars.change("ns", "house", parse_days(["2026-01-02..2026-01-03"]))
    text = "DIALECT=extended EXCLUDE=de,house 0 9 1-3 * *"
    found = explain(schedules, Asked(text, key=b"", namespace="ns"), now_ns=NEW_YEAR_NS, count=2)
    assert [fire.remarks for fire in found.fires] == [
        (),
        ("2026-01-02 is excluded by de, house", "2026-01-03 is excluded by house", *many()),
    ]
    missing = explain(schedules, Asked(text, key=b"", namespace="other"), now_ns=NEW_YEAR_NS, count=2)
    assert (missing.fires, missing.ends, missing.missing_calendars) == ((), False, ("de", "house"))


def many() -> tuple[str, ...]:
    return ("2026-02-01 is excluded by de", "2026-02-02 is excluded by de", "2026-02-03 is excluded by de", "and more days are excluded")


# -- an engine


def put(bench: Bench, name: str, *rules: str) -> None:
    bench.etcd.put(CALENDARS + f"ns/{name}".encode(), state_pb2.CalendarRecord(exclude=rules).SerializeToString())


def day_after(bench: Bench, days: int) -> str:
    return (datetime.fromtimestamp(bench.now_ms // 1000, UTC) + timedelta(days)).strftime("%Y-%m-%d")


def next_day(bench: Bench, composed: bytes) -> str | None:
    shown = bench.engine.describe(composed)
    assert shown is not None
    return None if shown["tick"] is None else datetime.fromtimestamp(shown["tick"][0], UTC).strftime("%Y-%m-%d")


def test_an_engine_plans_anew_when_a_calendar_changes() -> None:
    bench = Bench()
    composed = bench.put("a", schedule="DIALECT=extended EXCLUDE=de 0 9 * * *")
    plain = bench.put("b", schedule="DIALECT=extended 0 9 * * *")
    assert next_day(bench, composed) is None
    assert next_day(bench, plain) == day_after(bench, 1)  # it is evening
    put(bench, "de", day_after(bench, 1))
    assert next_day(bench, composed) == day_after(bench, 2)
    due = bench.engine.describe(composed)
    assert due is not None
    assert due["due_ms"] == due["tick"][0] * 1000, "the wheel knows it, too"
    put(bench, "de", day_after(bench, 1), day_after(bench, 2))
    assert next_day(bench, composed) == day_after(bench, 3)
    bench.restart()
    assert next_day(bench, composed) == day_after(bench, 3)
    put(bench, "de")
    assert next_day(bench, composed) == day_after(bench, 1)
    bench.etcd.delete(CALENDARS + b"ns/de")
    assert next_day(bench, composed) is None
    assert bench.notes == [("calendar is missing: jobs that go by it do not fire", b"ns/de")]
    bench.engine.check_invariants()


def test_what_was_held_for_a_calendar_runs_when_it_comes() -> None:
    """Nothing is lost: the ticks of the time without it are missed ones."""
    bench = Bench()
    composed = bench.put("a", schedule="DIALECT=extended EXCLUDE=de 0 9 * * *")
    worker = bench.connect()
    bench.tick(3 * 86_400_000)
    assert worker.take() == []
    put(bench, "de", day_after(bench, -1))
    for count in (1, 2):
        bench.tick(1)
        ((_, id_),) = worker.take()
        bench.ack(worker, id_)
        counter = bench.counter(composed)
        assert counter is not None
        assert counter[1] == count
    bench.tick(1)
    assert worker.take() == []


def test_a_record_that_cannot_be_read_is_none() -> None:
    bench = Bench()
    composed = bench.put("a", schedule="DIALECT=extended EXCLUDE=de 0 9 * * *")
    put(bench, "de", "not a date")
    assert next_day(bench, composed) is None
    bench.etcd.put(CALENDARS + b"ns/de", b"\xff\xff")
    assert next_day(bench, composed) is None
    assert [event for event, _ in bench.notes] == ["undecodable calendar", "calendar is missing: jobs that go by it do not fire"] * 2
    put(bench, "de")
    assert next_day(bench, composed) == day_after(bench, 1)


def test_jobs_of_other_dialects_are_not_touched() -> None:
    bench = Bench()
    composed = bench.put("a", schedule="0 0 9 * * *")
    before = bench.engine.describe(composed)
    put(bench, "de", day_after(bench, 1))
    assert bench.engine.describe(composed) == before
    assert not bench.engine.regained
