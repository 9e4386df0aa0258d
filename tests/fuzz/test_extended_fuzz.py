"""Any text of the extended dialect ends in a schedule that fires, or in the declared error with its place; in bounded time."""

import time

from hypothesis import example, given, settings
from hypothesis import strategies as st

from raftsched.scheduler.schedule import Extended, Schedules
from raftsched.scheduler.schedule.errors import PlacedError
from raftsched.zones import zone_table

SCHEDULES = Schedules(zone_table)
PIECES = st.sampled_from(
    [*"0123456789*?,-/+ #LWHR()@=\t", "BD", "LBD", "LW", "H(", "H/", "mon", "TZ=", "CRON_TZ=", "JITTER=", "EXCLUDE=", "DIALECT=",
     "Europe/Berlin", "JAN", "@every ", "@daily", "ms", "s", "24h", "31", "99999999999999999999", "\x85", "\u2003", "\u0661", "é", "\0"]
)  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(PIECES, max_size=24).map("".join),
    st.lists(st.lists(PIECES, min_size=1, max_size=4).map("".join), min_size=5, max_size=6).map(" ".join),
)
NOW = 1_769_861_109_123_456_789


def outcome(text: str) -> object:
    """The schedule, or the declared error; any other goes up."""
    try:
        return SCHEDULES.parse(text)
    except PlacedError as error:
        return error


@settings(max_examples=600, deadline=None)
@given(TEXTS, st.binary(max_size=8))
@example("0 9 H(29-31) H(2-3) *", b"")
@example("H(29-31),H(30-31) 0 H(29-31),H(30-31) H,H H,H", b"")
@example("0 0 29 2 MON#5", b"")
@example("JITTER=24h * * * * * *", b"")
@example("JITTER=24h @every 1ms", b"")
@example("TZ=Pacific/Apia JITTER=24h 0 0 30 12 *", b"")
@example("0 0 L-30 * *", b"")
@example(f"0 0 {','.join(['H'] * 600)} {','.join(['H(1-12)', 'H/3', 'H'] * 200)} *", b"")
@example("0" * 4000 + " 0 * * *", b"")
def test_any_text(text: str, key: bytes) -> None:
    begin = time.process_time()
    schedule = outcome("DIALECT=extended " + text)
    if isinstance(schedule, PlacedError):
        assert str(schedule)
        assert 0 <= schedule.position <= schedule.position + schedule.length <= len("DIALECT=extended " + text)
        return
    assert isinstance(schedule, Extended)
    at = NOW
    for _ in range(3):
        following = schedule.of(key, NOW).next_after(at)
        assert following is not None
        assert at < following < at + 42 * 366 * 86_400 * 10**9
        at = following
    assert time.process_time() - begin < 5, "it searches too long"
