"""Texts of many megabytes where a name, a schedule or a time belongs: refused at once, whatever they hold; requests may have 2 GiB."""

import time

import pytest

from raftsched.limits import QUOTED_CHARACTERS_MAX, TIME_TEXT_CHARACTERS_MAX
from raftsched.scheduler.jobs.names import check_name, go_quote
from raftsched.scheduler.schedule import InvalidJobError, Schedules, validate_job
from raftsched.zones import zone_table

SIZE = 8 << 20
PIECES = ["x", "1", "1,", "11 ", "* ", "@every 1h", "1h", "TZ=UTC ", "P1D", "-", "/", "\x85", "日"]


def fields(**given: str) -> dict[str, str | int | None]:
    return {"schedule": None, "due_time": None, "ttl": None, "repeats": None, **given}


@pytest.mark.parametrize("piece", PIECES)
def test_long_texts_cost_nothing(piece: str) -> None:
    """Before there was a bound, eight megabytes of `1,` held the only loop for half a minute, and 256 for a quarter of an hour."""
    schedules = Schedules(zone_table)
    text = piece * (SIZE // len(piece))
    asked = {
        f"schedule is longer than {TIME_TEXT_CHARACTERS_MAX} characters: {len(text)}": fields(schedule=text),
        "due time format not recognized": fields(due_time=text),
        "ttl format not recognized": fields(schedule="@daily", ttl=text),
    }
    began_s = time.process_time()
    for refusal, job in asked.items():
        with pytest.raises(InvalidJobError) as refused:
            validate_job(schedules, now_ns=0, **job)  # type: ignore[arg-type]
        assert str(refused.value) == refusal
    reason = check_name(text)
    assert reason is not None
    assert reason.endswith('…": must be at most 512 characters')
    assert len(reason) < 11 * QUOTED_CHARACTERS_MAX
    assert time.process_time() - began_s < 1


def test_the_longest_that_are_taken() -> None:
    """What cron can say fits many times over, and names that are a little too long are told whole."""
    schedules = Schedules(zone_table)
    full = " ".join(",".join(str(number) for number in range(*bounds)) for bounds in ((60,), (60,), (24,), (1, 32), (1, 13), (7,)))
    assert 5 * len(full) < TIME_TEXT_CHARACTERS_MAX
    assert schedules.parse(full).next_after(0) == 1_000_000_000
    padded = "@every 1s" + "0ns" * ((TIME_TEXT_CHARACTERS_MAX - 9) // 3)
    assert schedules.parse(padded).interval_ns == 1_000_000_000
    assert go_quote("x" * QUOTED_CHARACTERS_MAX) == '"' + "x" * QUOTED_CHARACTERS_MAX + '"'
