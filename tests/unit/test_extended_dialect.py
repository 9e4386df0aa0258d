"""The extended dialect: golden cases, what `H` picks for a key, places of refusals, explanations, and an engine that runs such jobs."""

from contextlib import suppress
from datetime import UTC, datetime

import pytest

from raftsched.pb.v1 import state_pb2
from raftsched.scheduler.jobs.names import STATES
from raftsched.scheduler.schedule import EXTENDED, Extended, InvalidJobError, Schedules
from raftsched.scheduler.schedule.dialect import dialect_of, named
from raftsched.scheduler.schedule.errors import PlacedError
from raftsched.scheduler.schedule.explain import Asked, Explanation, explain, local_text
from raftsched.scheduler.schedule.extended import spread_hash
from raftsched.testing.scheduling import START_MS, Bench
from raftsched.zones import zone_table

NS = 1_000_000_000
KEY = b"app||default||billing||invoices"


def at_ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * NS


def fires(text: str, count: int = 3, key: bytes = KEY, start: str = "2026-01-01T00:00:00Z") -> list[str]:
    schedule, at, found = Schedules(zone_table).parse("DIALECT=extended " + text), at_ns(start), []
    assert isinstance(schedule, Extended)
    schedule = schedule.of(key, at)
    for _ in range(count):
        following = schedule.next_after(at)
        if following is None:
            break
        found.append(
            datetime.fromtimestamp(following / NS, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3].removesuffix(".000").removesuffix(":00")
        )
        at = following
    return found


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0 9 L * *", ["2026-01-31 09:00", "2026-02-28 09:00", "2026-03-31 09:00"]),
        ("0 9 L-2 * *", ["2026-01-29 09:00", "2026-02-26 09:00", "2026-03-29 09:00"]),
        ("0 9 LW * *", ["2026-01-30 09:00", "2026-02-27 09:00", "2026-03-31 09:00"]),
        ("0 9 1W * *", ["2026-01-01 09:00", "2026-02-02 09:00", "2026-03-02 09:00"]),  # Sunday the 1st: not in the month before
        ("0 9 15W * *", ["2026-01-15 09:00", "2026-02-16 09:00", "2026-03-16 09:00"]),
        ("0 9 31W * *", ["2026-01-30 09:00", "2026-03-31 09:00", "2026-05-29 09:00"]),
        ("0 9 1BD * *", ["2026-01-01 09:00", "2026-02-02 09:00", "2026-03-02 09:00"]),
        ("0 9 22BD * *", ["2026-01-30 09:00", "2026-03-31 09:00", "2026-04-30 09:00"]),
        ("0 9 lbd * *", ["2026-01-30 09:00", "2026-02-27 09:00", "2026-03-31 09:00"]),
        ("0 9 LBD-1 * *", ["2026-01-29 09:00", "2026-02-26 09:00", "2026-03-30 09:00"]),
        ("0 9 BD 2 *", ["2026-02-02 09:00", "2026-02-03 09:00", "2026-02-04 09:00"]),
        ("0 9 * * MON#2", ["2026-01-12 09:00", "2026-02-09 09:00", "2026-03-09 09:00"]),
        ("0 9 * * 5#5", ["2026-01-30 09:00", "2026-05-29 09:00", "2026-07-31 09:00"]),
        ("0 9 * * fri#L", ["2026-01-30 09:00", "2026-02-27 09:00", "2026-03-27 09:00"]),
        ("0 9 * * L5", ["2026-01-30 09:00", "2026-02-27 09:00", "2026-03-27 09:00"]),
        ("0 9 * * 7", ["2026-01-04 09:00", "2026-01-11 09:00", "2026-01-18 09:00"]),
        ("0 9 * * 6-7", ["2026-01-03 09:00", "2026-01-04 09:00", "2026-01-10 09:00"]),
        ("0 9 13 * L5", ["2026-01-13 09:00", "2026-01-30 09:00", "2026-02-13 09:00"]),  # two restricted day fields are ORed
        ("15 30 9 L * *", ["2026-01-31 09:30:15", "2026-02-28 09:30:15", "2026-03-31 09:30:15"]),
        ("@monthly", ["2026-02-01 00:00", "2026-03-01 00:00", "2026-04-01 00:00"]),
        ("@every 90m", ["2026-01-01 01:30", "2026-01-01 03:00", "2026-01-01 04:30"]),
        ("CRON_TZ=Europe/Berlin 0 9 L * *", ["2026-01-31 08:00", "2026-02-28 08:00", "2026-03-31 07:00"]),
        ("0 0 29 2 MON#5", ["2028-02-29 00:00", "2032-02-29 00:00", "2036-02-29 00:00"]),
        # What follows goes by the key. These may never change: jobs would move with an upgrade.
        ("H H * * *", ["2026-01-01 13:44", "2026-01-02 13:44", "2026-01-03 13:44"]),
        ("H H H * *", ["2026-01-16 13:44", "2026-02-16 13:44", "2026-03-16 13:44"]),
        ("H(0-9) H(2-4) * * H", ["2026-01-01 03:04", "2026-01-08 03:04", "2026-01-15 03:04"]),
        ("H H/6 * * * *", ["2026-01-01 00:02:24", "2026-01-01 00:08:24", "2026-01-01 00:14:24"]),
        ("JITTER=30s 0 9 * * *", ["2026-01-01 09:00:26.991", "2026-01-02 09:00:11.991", "2026-01-03 09:00:23.581"]),
        ("JITTER=5m @every 1h", ["2026-01-01 01:04:13.636", "2026-01-01 02:00:10.355", "2026-01-01 03:03:29.392"]),
    ],
)
def test_golden(text: str, wanted: list[str]) -> None:
    assert fires(text) == wanted


def test_the_hash_is_of_the_key_and_the_field() -> None:
    assert [spread_hash(KEY, name) for name in ("minutes", "hours", "jitter")] == [
        18143064862288796984,
        9907335172061454205,
        5088584462923559993,
    ]
    assert len({tuple(fires("H H * * *", 1, key=b"app||default||billing||%d" % number)) for number in range(100)}) > 90


@pytest.mark.parametrize(
    ("text", "reason", "marked"),
    [
        ("DIALECT=quartz 0 9 * * *", "there is no such dialect: quartz; known: extended", "DIALECT=quartz"),
        ("DIALECT=extended", "there is no schedule behind the words before it", "DIALECT=extended"),
        ("DIALECT=extended TZ=Mars/X 0 9 * * *", "provided bad location Mars/X: unknown time zone Mars/X", "Mars/X"),
        ("DIALECT=extended TZ=UTC CRON_TZ=UTC 0 9 * * *", "TZ is given twice", "CRON_TZ=UTC"),
        (
            "DIALECT=extended COLOUR=red 0 9 * * *",
            "unknown word before the schedule: COLOUR=; known: TZ, CRON_TZ, JITTER, EXCLUDE",
            "COLOUR=red",
        ),
        ("DIALECT=extended JITTER=25h 0 9 * * *", "jitter is 1ms to 24h: 25h", "JITTER=25h"),
        ("DIALECT=extended JITTER=x 0 9 * * *", 'failed to parse duration JITTER=x: time: invalid duration "x"', "JITTER=x"),
        ("DIALECT=extended 0 9 * *", "expected 5 or 6 fields, found 4: [0 9 * *]", "0 9 * *"),
        ("DIALECT=extended 0 9 1,32W * *", "expected a number of 1 to 31: 32W", "32W"),
        ("DIALECT=extended 0 9 24BD * *", "expected a number of 1 to 23: 24BD", "24BD"),
        ("DIALECT=extended 0 9 * * FRY#1", "no such weekday: FRY#1", "FRY#1"),
        ("DIALECT=extended 0 9 * * 5#6", 'failed to parse int from 5#6: strconv.Atoi: parsing "5#6": invalid syntax', "5#6"),
        (
            "DIALECT=extended R 9 * * *",
            "R is refused: a time drawn by chance is another one on each replica; H spreads by the job's key",
            "R",
        ),
        ("DIALECT=extended H(50-70) 9 * * *", "H wants a range within 0-59: H(50-70)", "H(50-70)"),
        ("DIALECT=extended H/0 9 * * *", "step of range should be a positive number: H/0", "H/0"),
        ("DIALECT=extended L 9 * * *", 'failed to parse int from L: strconv.Atoi: parsing "L": invalid syntax', "L"),
        ("DIALECT=extended 0 9 30 2 *", "schedule never fires: DIALECT=extended 0 9 30 2 *", "0 9 30 2 *"),
        ("DIALECT=extended 0 9 31 H *", "schedule never fires for some keys: DIALECT=extended 0 9 31 H *", "0 9 31 H *"),
        ("DIALECT=extended 0 9 , * *", "empty list: ,", ","),
        ("DIALECT=extended @sometimes", "unrecognized descriptor: @sometimes", "@sometimes"),
        ("DIALECT=extended @every 1us", "@every of the extended dialect is in whole milliseconds, at least 1ms: @every 1us", "@every 1us"),
    ],
)
def test_refusals_say_where(text: str, reason: str, marked: str) -> None:
    found = explain(Schedules(zone_table), Asked(text), now_ns=0, count=1).refusal
    assert found is not None
    assert (found.reason, found.field, text[found.position : found.position + found.length]) == (reason, "schedule", marked)
    with pytest.raises(PlacedError):
        Schedules(zone_table).parse(text)


def test_dapr_refuses_the_prefix() -> None:
    """Nothing that is extended is a schedule of Dapr's: its parser would take the prefix for a field."""
    for text in ("DIALECT=extended 0 9 * * *", "dialect=extended 0 0 9 * * *", "TZ=UTC DIALECT=extended 0 9 * * *"):
        parsed: object = None
        with suppress(InvalidJobError):
            parsed = Schedules(zone_table).parse(text)
        assert isinstance(parsed, Extended) == text.startswith("DIALECT=")


def test_a_dialect_that_is_named_beside_the_schedule() -> None:
    assert named("H 9 * * *", "extended") == "DIALECT=extended H 9 * * *"
    assert named("DIALECT=extended H 9 * * *", "extended") == "DIALECT=extended H 9 * * *"
    assert named("@daily", "") == "@daily"
    assert [dialect_of(text) for text in ("DIALECT=extended @daily", "DIALECT=extended\t@daily", "@daily")] == ["extended", "extended", ""]
    with pytest.raises(InvalidJobError, match="there is no such dialect: quartz; known: extended"):
        named("@daily", "quartz")


def explained(schedule: str, *, now: str, count: int = 3, **more: object) -> Explanation:
    return explain(Schedules(zone_table), Asked("DIALECT=extended " + schedule, **more), now_ns=at_ns(now), count=count)  # type: ignore[arg-type]


def test_clock_changes_are_told_with_jitter_too() -> None:
    found = explained("TZ=Europe/Rome JITTER=20m 30 2 * * *", now="2026-03-28T00:00:00Z", key=KEY)
    assert found.zone == "Europe/Rome"
    shown = [(local_text(fire.at_ns, fire.offset_s)[:16], fire.remarks) for fire in found.fires]
    assert [at[:13] for at, _ in shown] == ["2026-03-28T02", "2026-03-30T02", "2026-03-31T02"]
    assert shown[1][1][0] == "2026-03-29T02:30:00 is skipped: there is no such time, clocks go forward from 02:00:00 to 03:00:00"
    assert shown[1][1][1].startswith("moved by ")
    assert shown[1][1][1].endswith("s from 2026-03-30T02:30:00+02:00 by its jitter")


def test_without_a_job_its_times_are_not_known() -> None:
    said = "no job is named: H and jitter go by its key, so its own times are others"
    assert [fire.remarks for fire in explained("H 9 * * *", now="2026-01-01T00:00:00Z", count=2).fires] == [(said,), ()]
    assert explained("H 9 * * *", now="2026-01-01T00:00:00Z", key=KEY).fires[0].remarks == ()
    assert explained("0 9 * * *", now="2026-01-01T00:00:00Z").fires[0].remarks == ()


def test_a_due_time_is_not_moved() -> None:
    found = explained("JITTER=10m @every 1h", now="2026-01-01T00:00:00Z", due_time="2026-01-01T12:00:00Z", key=KEY)
    assert found.fires[0] == type(found.fires[0])(at_ns("2026-01-01T12:00:00Z"), 0, ())
    assert all(fire.remarks[-1].startswith("moved by") for fire in found.fires[1:])
    assert [(fire.at_ns - at_ns("2026-01-01T12:00:00Z")) // (3600 * NS) for fire in found.fires] == [0, 1, 2]


# -- an engine


@pytest.mark.parametrize(
    "text", ["*/5 * * * * *", "JITTER=3s */5 * * * * *", "JITTER=700ms @every 2500ms", "H/20 * * * * *", "JITTER=1m H 0 * LBD * *"]
)
def test_an_engine_fires_what_is_explained(text: str) -> None:
    bench = Bench()
    composed = bench.put("a", schedule="DIALECT=extended " + text)
    worker = bench.connect()
    schedule = bench.schedules.parse("DIALECT=extended " + text)
    assert isinstance(schedule, Extended)
    schedule = schedule.of(composed, START_MS * 1_000_000)
    at = START_MS * 1_000_000
    for index in range(6):
        following = schedule.next_after(at)
        assert following is not None
        assert following % 1_000_000 == 0
        bench.tick(following // 1_000_000 - 1 - bench.now_ms)
        assert worker.take() == [], "early"
        bench.tick(1)
        (sent,) = worker.take()
        bench.ack(worker, sent[1])
        counter = bench.counter(composed)
        assert counter is not None
        assert (counter[1], counter[2]) == (index + 1, divmod(following, NS))
        if index == 2:
            bench.restart()
            worker = bench.connect()
        at = following
    bench.engine.check_invariants()


def test_numbers_are_given_back() -> None:
    bench = Bench()
    for _ in range(3):
        composed = bench.put("a", schedule="DIALECT=extended H 9 * * *")
        assert len(bench.schedules.extended) == 1
    bench.put("a", schedule="@daily")
    assert len(bench.schedules.extended) == 0
    bench.put("a", schedule="DIALECT=extended H 9 * * *")
    bench.etcd.delete(b"dapr/jobs/" + composed)
    assert len(bench.schedules.extended) == 0
    assert bench.schedules.compile("DIALECT=extended H 9 * * *", b"x") == (EXTENDED, 0)


@pytest.mark.parametrize("text", ["*/7 * * * * *", "JITTER=5s */7 * * * * *", "JITTER=2s @every 3500ms"])
@pytest.mark.parametrize(("window_s", "most"), [(None, 1), (None, 3), (20, 0), (20, 2), (0, 1)])
def test_missed_ticks_are_passed_over(text: str, window_s: int | None, most: int) -> None:
    """As of other schedules: of the due ones those within the window, of these the latest."""
    bench = Bench()
    composed = bench.put("a", schedule="DIALECT=extended " + text)
    extra = state_pb2.JobExtra(misfire=state_pb2.Misfire(max=most))
    if window_s is not None:
        extra.misfire.window.FromSeconds(window_s)
    bench.etcd.put(STATES + composed, extra.SerializeToString())
    bench.tick(100_000)
    parsed = bench.schedules.parse("DIALECT=extended " + text)
    assert isinstance(parsed, Extended)
    schedule, at, due = parsed.of(composed, START_MS * 1_000_000), START_MS * 1_000_000, []
    while (following := schedule.next_after(at)) is not None and following <= bench.now_ms * 1_000_000:
        due.append(following)
        at = following
    wanted = [tick for tick in due if window_s is None or bench.now_ms * 1_000_000 - tick <= window_s * NS]
    wanted = wanted[-most:] if most else wanted
    skipped = bench.engine.missed(composed, *divmod(bench.now_ms * 1_000_000, NS))
    assert skipped is not None
    assert skipped[0] == divmod(due[-1], NS)
    worker, ran = bench.connect(), []
    while taken := worker.take():
        bench.ack(worker, taken[0][1])
        counter = bench.counter(composed)
        assert counter is not None
        ran.append(counter[2])
        bench.tick()
    assert ran == [divmod(tick, NS) for tick in wanted]
    assert bench.engine.metrics()["passed"][1] == len(due) - len(wanted) or not wanted


def test_a_list_of_a_thousand_times_h_is_looked_at_once_for_each_value() -> None:
    many = ",".join(["H"] * 1_000)
    parsed = Schedules(zone_table).parse(f"DIALECT=extended 0 9 {many},H(1-28),H(1-9)/3 {many} *")
    assert isinstance(parsed, Extended)
    assert parsed.rules is not None
    assert [len(one.spreads) for one in parsed.rules.fields] == [0, 0, 0, 2, 1, 0]
    assert len(list(parsed.rules.choices())) == 28 * 12
