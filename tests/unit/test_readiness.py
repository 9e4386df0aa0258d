"""When a member that starts may serve: no loss of messages and no change of the leader leaves it waiting once there is a quorum."""

import asyncio
import random
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from test_replica_cluster import Group, One

from raftsched.store.node import readiness
from raftsched.store.node.readiness import Readiness
from raftsched.store.raft._kernel import Message
from raftsched.store.replica import Persisted, Read, Transfer

TICK_MS = 50
ELECTION_TICKS = 40  # longest election, a split vote included
RETRY_TICKS = 12  # a question without an answer is asked again after 500 ms
READ_INDEX, READ_INDEX_RESPONSE, HEARTBEAT_RESPONSE = 15, 16, 9


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, message: str, /, **fields: object) -> None:
        self.lines.append(f"{message} {fields}")


class Starting:
    """A member of the group that looks after each tick, as the driver does after each turn."""

    def __init__(self, one: One) -> None:
        self.one = one
        self.asked = 0
        self.log = Log()
        member = SimpleNamespace(replica=one.replica, log=SimpleNamespace(no_space=False))
        self.readiness = Readiness(member, self._barrier, lambda: one.group.now_ms, self.log)  # type: ignore[arg-type]

    def _barrier(self, done: Callable[[int], None]) -> None:
        self.asked += 1
        self.one.step(Read(done))

    def look(self) -> None:
        if not self.readiness.over:
            self.readiness.look()


def run(group: Group, starting: list[Starting], ticks: int) -> None:
    for _ in range(ticks):
        group.tick()
        for one in starting:
            one.look()
        group.run()


def test_a_member_is_ready_once_it_has_applied_what_was_committed_before() -> None:
    group = Group()
    starting = [Starting(one) for one in group.members.values()]
    run(group, starting, 1)
    assert not any(one.readiness.over for one in starting), "there is no leader"
    group.elect()
    run(group, starting, 2)
    assert all(one.readiness.over for one in starting)
    assert [one.asked for one in starting] == [1, 1, 1]


@pytest.mark.parametrize("kind", [READ_INDEX, READ_INDEX_RESPONSE, HEARTBEAT_RESPONSE])
def test_a_barrier_that_is_lost_on_its_way_is_asked_again(kind: int) -> None:
    group = Group()
    leader = group.elect()
    follower = Starting(group.others(leader)[0])
    group.lost = lambda message: message.type == kind
    run(group, [follower], 4)
    assert not follower.readiness.over
    group.lost = lambda _message: False
    run(group, [follower], RETRY_TICKS)
    assert follower.readiness.over
    assert follower.asked == 1, "the question travels again, not another one"


def test_a_barrier_that_falls_between_two_leaders_is_asked_of_the_second() -> None:
    group = Group()
    first = group.elect()
    follower = Starting(group.others(first)[0])
    group.lost = lambda message: message.type in (READ_INDEX, READ_INDEX_RESPONSE)
    run(group, [follower], 2)
    group.lost = lambda message: first.id in (message.to, message.sender)
    second = group.elect(but=first.id)
    assert second is not first
    run(group, [follower], RETRY_TICKS + 2)
    assert follower.readiness.over


def test_a_barrier_that_times_out_is_followed_by_another() -> None:
    group = Group()
    leader = group.elect()
    follower = Starting(group.others(leader)[0])
    group.lost = lambda message: message.type == READ_INDEX
    run(group, [follower], 8_000 // TICK_MS)
    assert follower.asked > 1
    group.lost = lambda _message: False
    run(group, [follower], RETRY_TICKS)
    assert follower.readiness.over


def some_loss(chance: random.Random, group: Group) -> Callable[[Message], bool]:
    ids = list(group.members)
    kind, victim, rate = chance.choice(["none", "all", "deaf", "mute", "some"]), chance.choice(ids), chance.random()
    if kind == "all":
        return lambda message: victim in (message.to, message.sender)
    if kind == "deaf":
        return lambda message: message.to == victim
    if kind == "mute":
        return lambda message: message.sender == victim
    return lambda _message: kind == "some" and chance.random() < rate


@pytest.mark.parametrize("seed", range(60))
def test_whatever_was_lost_all_are_ready_soon_after_nothing_is(seed: int) -> None:
    """Members that cannot reach their leader, losses of every kind, leaders that change while the question is open."""
    chance, group = random.Random(seed), Group()
    waits = {one.id: Starting(one) for one in group.members.values()}
    unreached: set[tuple[int, int]] = set()
    for one in group.members.values():
        one.replica.connection = lambda other, own=one.id: (own, other) not in unreached
    for number in range(30):
        group.lost = some_loss(chance, group)
        unreached = {(chance.randint(1, 3), chance.randint(1, 3)) for _ in range(chance.randint(0, 2))}
        run(group, list(waits.values()), chance.randint(1, 25))
        one = group.members[chance.randint(1, 3)]
        one.put(number, b"k%d" % number)
        one.hangs = chance.random() < 0.1
        if chance.random() < 0.3:
            one.step(Transfer(chance.randint(1, 3)))
        if chance.random() < 0.5:
            waits[one.id] = Starting(one)  # as after a restart
    group.lost, unreached = lambda _message: False, set()
    for one in group.members.values():
        one.hangs = False
        batches = [output.persist.batch for output in one.outputs if output.persist is not None]
        one.step(Persisted(max(batches)))
    run(group, list(waits.values()), ELECTION_TICKS + RETRY_TICKS)
    assert all(one.readiness.over for one in waits.values())


async def test_who_waits_long_says_what_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "WAIT_TOLD_S", 0.01)
    group = Group()
    starting = Starting(group.members[1])
    waiting = asyncio.create_task(starting.readiness.wait())
    await asyncio.sleep(0.05)
    assert starting.log.lines[0].startswith("waiting for a quorum of the cluster")
    leader = group.elect()
    starting = Starting(group.others(leader)[0])
    starting.one.replica.connection = lambda _member: False
    again = asyncio.create_task(starting.readiness.wait())
    await asyncio.sleep(0.05)
    assert "waiting to know what the cluster has committed" in starting.log.lines[0]
    assert f"'leader': '{leader.id:x}'" in starting.log.lines[0]
    assert "'reached': False" in starting.log.lines[0]
    starting.readiness.end()
    assert await again == ""
    waiting.cancel()
