"""The clock rule: monotonic, never ahead of the wall, follows steps forward, stands still through steps back."""

from hypothesis import given
from hypothesis import strategies as st

from raftsched.scheduler.engine.clock import REANCHOR_NS, TickClock

S = 1_000_000_000
T = 1_700_000_000 * S


def test_it_follows_the_monotonic_clock() -> None:
    clock = TickClock(T, 5)
    assert clock.read(T + S, 5 + S) == T + S


def test_a_step_forward_is_followed_at_once() -> None:
    clock = TickClock(T, 0)
    assert clock.read(T + 3600 * S, S) == T + 3600 * S
    assert clock.steps_total == 1


def test_a_step_back_freezes_until_the_wall_catches_up() -> None:
    clock = TickClock(T, 0)
    assert clock.read(T - 10 * S, S) == T
    assert clock.frozen_ns == 10 * S
    assert clock.read(T - S, 10 * S) == T
    assert clock.read(T + S, 12 * S) == T + S
    assert clock.frozen_ns == 0


def test_a_small_difference_is_slewed_and_never_ahead_of_the_wall() -> None:
    clock = TickClock(T, 0)
    assert clock.read(T + S + REANCHOR_NS // 2, S) == T + S + REANCHOR_NS // 2
    assert clock.read(T + 2 * S - REANCHOR_NS // 2, 2 * S) == T + 2 * S - REANCHOR_NS // 2
    assert clock.steps_total == 0


@given(st.lists(st.tuples(st.integers(-(10**11), 10**11), st.integers(0, 10**10)), max_size=50))
def test_never_backward_and_never_ahead(steps: list[tuple[int, int]]) -> None:
    wall, mono, last, highest = T, 0, T, T
    clock = TickClock(wall, mono)
    for jump, passed in steps:
        wall, mono = wall + passed + jump, mono + passed
        highest = max(highest, wall)
        now = clock.read(wall, mono)
        assert last <= now <= highest
        assert now <= max(last, wall)
        last = now
