"""When Sentry is asked: halves, pauses, clocks that jump. A virtual clock; no IO."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftsched.security.renewal import ATTEMPT_S, ATTEMPTS, LOOK_S_MAX, RETRY_S, RETRY_S_MIN, Renewal, pause_s

DAY = 86_400.0


def never() -> float:
    return 0.0


def always() -> float:
    return 0.999


def test_the_next_one_is_asked_for_at_half_of_the_validity() -> None:
    renewal = Renewal(never)
    renewal.on_signed(1000.0, 1000.0, 1000.0 + DAY)
    assert renewal.due == 1000.0 + DAY / 2
    early = Renewal(always)
    early.on_signed(1000.0, 1000.0, 1000.0 + DAY)
    assert 1000.0 + DAY * 0.49 <= early.due < 1000.0 + DAY / 2


def test_a_validity_that_began_before_counts_from_its_beginning() -> None:
    renewal = Renewal(never)
    renewal.on_signed(1000.0, 100.0, 100.0 + DAY)
    assert renewal.due == 100.0 + DAY / 2


def test_what_is_dated_back_beyond_its_half_lasts_a_quarter_of_what_is_left() -> None:
    renewal = Renewal(never)
    renewal.on_signed(1000.0, 100.0, 1060.0)
    assert renewal.due == 1015.0


def test_an_expired_one_is_not_asked_for_in_a_circle() -> None:
    renewal = Renewal(never)
    renewal.on_signed(1000.0, 10.0, 20.0)
    assert renewal.wait_s(1000.0) == RETRY_S_MIN


def test_it_looks_once_a_minute_whatever_the_clock_does() -> None:
    renewal = Renewal(never)
    renewal.on_signed(0.0, 0.0, DAY)
    assert renewal.wait_s(0.0) == LOOK_S_MAX
    assert renewal.wait_s(DAY / 2 - 5) == 5
    assert renewal.wait_s(DAY) == 0, "a clock that was set forward"
    assert renewal.wait_s(-DAY) == LOOK_S_MAX, "and back"


def test_a_failure_is_tried_again_after_ten_seconds() -> None:
    renewal = Renewal(never)
    renewal.on_signed(0.0, 0.0, DAY)
    assert renewal.on_failed(DAY / 2) == RETRY_S
    assert renewal.wait_s(DAY / 2) == RETRY_S
    assert Renewal(always).on_failed(0.0) < RETRY_S * 1.1


def test_it_is_tried_sooner_when_little_is_left_and_not_for_ever() -> None:
    renewal = Renewal(never)
    renewal.on_signed(0.0, 0.0, 100.0)
    assert renewal.on_failed(80.0) == 5
    assert renewal.on_failed(99.0) == RETRY_S_MIN
    assert renewal.on_failed(101.0) == RETRY_S, "expired: nothing can be saved any more"


def test_new_anchors_bring_the_renewal_forward_and_never_back() -> None:
    renewal = Renewal(never)
    renewal.on_signed(0.0, 0.0, DAY)
    renewal.on_anchors_changed(10.0)
    assert renewal.wait_s(10.0) == 1
    renewal.due = 10.0
    renewal.on_anchors_changed(10.0)
    assert renewal.wait_s(10.0) == 0


def test_pauses_between_attempts() -> None:
    assert [pause_s(attempt, 0.0, never) for attempt in range(1, ATTEMPTS + 1)] == [0.5, 1.0, 2.0, 3.0, None]
    assert pause_s(1, 0.2, never) == pytest.approx(0.3)
    assert pause_s(4, ATTEMPT_S, never) == 0, "an attempt that took all of its time is followed at once: at most 15 s in all"


@given(
    st.floats(0, 1e10),
    st.floats(0, 2 * DAY),
    st.floats(1, 400 * DAY),
    st.integers(0, 2**32),
)
def test_the_next_instant_lies_ahead_and_before_the_end(now: float, age: float, left: float, seed: int) -> None:
    renewal = Renewal(random.Random(seed).random)
    renewal.on_signed(now, now - age, now + left)
    slack = 1e-3 + now * 1e-9  # of floating point
    assert renewal.due >= now + min(left / 4.1, RETRY_S_MIN) - slack
    assert renewal.due <= now + max(left / 2, RETRY_S_MIN) + slack
    assert 0 <= renewal.wait_s(now) <= LOOK_S_MAX
