"""Writes of other clients to the same store: they cost the scheduler no turn, and never hide a change of its own."""

from collections.abc import Iterator

import pytest

from raftsched.scheduler.service import SchedulerService
from raftsched.testing.door_cluster import Quiet
from raftsched.testing.memory_etcd import MemoryKv
from raftsched.types import Change


@pytest.fixture
def wakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    calls: list[int] = []
    monkeypatch.setattr(SchedulerService, "_wake", lambda _self: calls.append(1))
    return calls


def service() -> SchedulerService:
    return SchedulerService(
        MemoryKv(),
        scheduler_id="s-0",
        address="127.0.0.1:50006",
        zone_source=lambda _name: None,
        rng=lambda: 7,
        log=Quiet(),
        engine_log=Quiet(),
    )


def changes(*keys: bytes) -> list[Change]:
    return [Change(True, key, 5, sub, b"") for sub, key in enumerate(keys)]


def test_a_turn_comes_for_changes_of_our_own_keys_alone(wakes: list[int]) -> None:
    one = service()
    one.on_changes(changes(b"a", b"dapr", b"z"), 5)
    assert not wakes
    one.on_changes(changes(b"a", b"dapr/jobs/app||ns||app||gone"), 6)
    one.on_changes(changes(b"dapr/counters/app||ns||app||gone"), 7)
    assert len(wakes) == 2


def test_the_size_of_a_batch_hides_nothing_and_costs_no_turn(wakes: list[int]) -> None:
    one, foreign = service(), [b"%d" % number for number in range(5_000)]
    one.on_changes(changes(*foreign), 5)
    assert not wakes
    one.on_changes(changes(*foreign, b"dapr/jobs/app||ns||app||gone"), 6)
    assert len(wakes) == 1
