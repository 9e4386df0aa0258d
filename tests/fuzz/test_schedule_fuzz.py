"""Any text ends in a schedule that fires, an instant in range, or the declared error; in bounded time."""

import random
from collections.abc import Callable
from typing import TypeVar

from hypothesis import example, given, settings
from hypothesis import strategies as st

from raftsched.scheduler.schedule import CRON, InvalidJobError, Schedules, parse_instant
from raftsched.scheduler.schedule.instants import FIRST_NS, LAST_NS
from raftsched.zones import zone_table

T = TypeVar("T")
SCHEDULES = Schedules(zone_table)
PIECES = st.sampled_from(
    [*"0123456789*?,-/+ \t@=.:;", "TZ=", "CRON_TZ=", "UTC", "Europe/Berlin", "Local", "@every ", "@daily", "jan", "SUN", "ns", "ms", "s",
     "h", "µs", "P", "T", "R", "Z", "L", "W", "#", "60", "31", "99999999999999999999", "\x85", "\u2003", "é", "\0", '"', "2026-02-29T"]
)  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(PIECES, max_size=24).map("".join),
    st.lists(st.lists(PIECES, min_size=1, max_size=4).map("".join), min_size=6, max_size=6).map(" ".join),
)
NOW = 1_769_861_109_123_456_789


def outcome(parse: Callable[..., T], *arguments: object) -> T | str:
    """The value, or the text of the declared error; any other exception goes up."""
    try:
        return parse(*arguments)
    except InvalidJobError as error:
        return str(error)


@settings(max_examples=500, deadline=None)
@given(TEXTS)
@example("*/9223372036854775807 * * * * *")
@example("TZ=Europe/Berlin 0 30 2 29 2 ?")
@example("0" * 5000 + "5 * * * * *")
@example("\ud800 \ud800 * * * *")
@example("TZ=\ud800 * * * * * *")
def test_any_schedule_text(text: str) -> None:
    schedule = outcome(SCHEDULES.parse, text)
    if isinstance(schedule, str):
        assert schedule
        return
    following = schedule.next_after(NOW)
    assert following is not None
    assert following > NOW or (schedule.kind != CRON and schedule.interval_ns == 0)
    if schedule.kind == CRON:
        assert following - NOW < 9 * 366 * 86_400 * 1_000_000_000  # nothing waits longer than from 2096 to 2104


@settings(max_examples=500, deadline=None)
@given(TEXTS, st.integers(FIRST_NS, LAST_NS))
def test_any_due_time(text: str, base_ns: int) -> None:
    instant = outcome(parse_instant, text, base_ns)
    if isinstance(instant, str):
        assert instant in ("due time format not recognized", "repeats not supported for due time")
        return
    assert FIRST_NS <= instant <= LAST_NS


def test_long_texts_take_linear_time() -> None:
    rng = random.Random(1)
    for text in (
        "1" * 200_000,
        "*," * 100_000,
        "@every " + "1h" * 100_000,
        "P" + "1D" * 100_000,
        "x" * 200_000,
        "* " * 100_000,
        "TZ=UTC x" + " " * 200_000 + "x",
    ):
        for parse in (SCHEDULES.parse, lambda text: parse_instant(text, NOW)):
            outcome(parse, text + rng.choice(["", " "]))
