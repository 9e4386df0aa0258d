"""What follows from a member's options."""

import pytest

from raftsched.store.node.options import NodeOptions


@pytest.mark.parametrize(
    ("heartbeat_ms", "election_ms", "ticks"),
    [
        (50, 500, 2),  # serve's
        (60, 500, 2),
        (50, 350, 1),  # three heartbeats in a timeout would be too few
        (70, 1_000, 1),  # lent time would run out where two are lost
        (100, 1_000, 1),  # etcd's
    ],
)
def test_a_quiet_leader_is_rare_only_where_some_heartbeats_may_be_lost(heartbeat_ms: int, election_ms: int, ticks: int) -> None:
    options = NodeOptions(data_dir="x", heartbeat_ms=heartbeat_ms, election_ms_min=election_ms, election_ms_max=2 * election_ms)
    assert options.quiet_heartbeat_ticks == ticks
