"""When waiting for others is long enough to be no illness, and when it is a member's own turn."""

from raftsched.limits import HEALTH_ALONE_MS, HEALTH_BEHIND_MS
from raftsched.store.node.awaiting import Awaiting

START_MS = 1_000_000


def begun() -> Awaiting:
    awaiting = Awaiting()
    assert not awaiting.for_long(START_MS), "it does not even listen"
    awaiting.begin(START_MS)
    return awaiting


def test_who_finds_nobody_waits_for_them() -> None:
    awaiting = begun()
    assert not awaiting.for_long(START_MS + HEALTH_ALONE_MS - 1)
    assert awaiting.for_long(START_MS + HEALTH_ALONE_MS)


def test_who_hears_of_a_leader_has_its_own_to_do_but_not_for_ever() -> None:
    awaiting = begun()
    awaiting.look(alone=True, mono_ms=START_MS + 100)
    awaiting.look(alone=False, mono_ms=START_MS + 200)
    assert not awaiting.for_long(START_MS + HEALTH_BEHIND_MS - 1)
    assert awaiting.for_long(START_MS + HEALTH_BEHIND_MS), "a restart would only make it begin again"


def test_each_loss_of_the_leader_counts_anew() -> None:
    awaiting = begun()
    for round_ms in range(START_MS, START_MS + 20_000, 2_000):
        awaiting.look(alone=True, mono_ms=round_ms)
        awaiting.look(alone=True, mono_ms=round_ms + 1_900)
        assert not awaiting.for_long(round_ms + 1_900)
        awaiting.look(alone=False, mono_ms=round_ms + 1_950)


def test_who_serves_waits_only_while_there_is_no_leader() -> None:
    awaiting = begun()
    awaiting.look(alone=False, mono_ms=START_MS + 10)
    awaiting.served()
    assert not awaiting.for_long(START_MS + 10 * HEALTH_BEHIND_MS)
    awaiting.look(alone=True, mono_ms=START_MS + 20)
    assert awaiting.for_long(START_MS + 20 + HEALTH_ALONE_MS)
    awaiting.look(alone=False, mono_ms=START_MS + 9_000)
    assert not awaiting.for_long(START_MS + 10 * HEALTH_BEHIND_MS)
