"""The comparison of test_differential.py driven by Hypothesis: few requests, but what differs is shrunk to the shortest story.

The servers stay; each story begins by wiping both, so that revisions go on and are still the same on both sides.
"""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import ModuleType

import hypothesis.strategies as st
import pytest
from amounts import Record
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.testing.auth_traffic import PASSWORDS, USERS, AuthDifferential
from raftsched.testing.differential import Differential
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.lock_traffic import LEASES as LOCK_LEASES
from raftsched.testing.lock_traffic import NAMES, LockDifferential
from raftsched.testing.lone_node import EtcdDoor
from raftsched.testing.traffic import LEASES, Step

EVERYTHING = pb.DeleteRangeRequest(key=b"\0", range_end=b"\0")
CHANCES = st.integers(0, 2**16 - 1).map(Random)
"""What a step draws by itself depends on how far the servers have come, which a story that is played again does not repeat. Hypothesis,
which asks for that of whatever it draws, knows the seed alone: stories are shrunk, not the requests in them."""
HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


class Pair:
    """Both servers, and what a story must know of the ones before it."""

    def __init__(self, judge: RealEtcd, subject: EtcdDoor) -> None:
        self.judge, self.subject = judge, subject
        self.compacted = -1
        self.compared = self.denied = self.waited = self.revision = 0


@pytest.fixture
def pair(tmp_path: Path, tools: ModuleType) -> Iterator[Pair]:
    path = tools.etcd("3.7")
    if path is None:
        pytest.skip("no etcd 3.7 here: not built by `make tools`")
    with EtcdDoor() as subject, RealEtcd(tmp_path / "judge", path, args=["--unsafe-no-fsync", "--bcrypt-cost=4"]) as judge:
        yield Pair(judge, subject)
        assert subject.errors == []


def story_of(pair: Pair) -> type[RuleBasedStateMachine]:
    class Story(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.both = Differential(pair.judge.address, pair.subject.address, 0, judge_version=pair.judge.version, gateway=0.3)

        @initialize()
        def wipe(self) -> None:
            self.both.traffic.compacted = pair.compacted
            self.both.bunch([Step("KV/DeleteRange", EVERYTHING)])
            for lease in LEASES:
                self.both.bunch([Step("Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=lease))])

        @rule(chance=CHANCES)
        def change(self, chance: Random) -> None:
            self.both.traffic.random = chance
            self.both.one(self.both.traffic.change())

        @rule(chance=CHANCES, count=st.integers(1, 4))
        def read(self, chance: Random, count: int) -> None:
            self.both.traffic.random = chance
            self.both.bunch([self.both.traffic.read() for _ in range(count)])

        @rule(chance=CHANCES)
        def watch(self, chance: Random) -> None:
            self.both.traffic.random = chance
            self.both.new_watches()

        @rule()
        def events(self) -> None:
            self.both.checkpoint()

        def teardown(self) -> None:
            pair.compacted = self.both.traffic.compacted
            pair.compared += self.both.steps
            self.both.close()

    return Story


def play(story: type[RuleBasedStateMachine], *, stories: int, steps: int) -> None:
    run_state_machine_as_test(
        story, settings=settings(max_examples=stories, stateful_step_count=steps, deadline=None, suppress_health_check=HEALTH)
    )


def test_stories(pair: Pair, record_property: Record) -> None:
    play(story_of(pair), stories=15, steps=15)
    assert pair.compared > 15 * 7
    record_property("compared", pair.compared)


def users_of(pair: Pair) -> type[RuleBasedStateMachine]:
    class Users(RuleBasedStateMachine):
        """Authentication is on, and mended before each story; who may what changes while keys are asked for."""

        def __init__(self) -> None:
            super().__init__()
            self.both = AuthDifferential(pair.judge.address, pair.subject.address, seed=0)

        @initialize()
        def begin(self) -> None:
            self.both.traffic.revision, self.both.traffic.compacted = pair.revision, pair.compacted
            if not pair.compared:
                self.both.prepare()
            self.both.log_in("root", "one")
            self.both.recover()

        @rule(chance=CHANCES, pick=st.floats(0, 1))
        def ask(self, chance: Random, pick: float) -> None:
            self.both.traffic.random = self.both.draw = chance
            self.both.turn(pick)

        @rule(chance=CHANCES)
        def log_in(self, chance: Random) -> None:
            self.both.log_in(chance.choice(USERS), chance.choice(PASSWORDS[1:]))

        def teardown(self) -> None:
            pair.revision, pair.compacted = self.both.traffic.revision, self.both.traffic.compacted
            pair.compared += self.both.steps
            pair.denied += sum(count for (_, said), count in self.both.outcomes.items() if "permission denied" in said)
            self.both.close()

    return Users


def test_stories_of_users(pair: Pair, record_property: Record) -> None:
    play(users_of(pair), stories=25, steps=15)
    assert pair.compared > 100
    assert pair.denied > 3
    record_property("compared", pair.compared)


def locks_of(pair: Pair) -> type[RuleBasedStateMachine]:
    class Locks(RuleBasedStateMachine):
        """Lines for locks and elections, which end with the story."""

        def __init__(self) -> None:
            super().__init__()
            self.both = LockDifferential(pair.judge.address, pair.subject.address, seed=0)
            self.sound = True

        @initialize()
        def begin(self) -> None:
            self.both.draw = Random(0)
            self.both.wipe()
            self.both.begin()

        @rule(chance=CHANCES)
        def request(self, chance: Random) -> None:
            self.both.draw, self.sound = chance, False
            self.both.request()
            self.sound = True

        @rule(name=st.sampled_from(NAMES), lease=st.sampled_from(LOCK_LEASES))
        def lock(self, name: bytes, lease: int) -> None:
            self.sound = False
            self.both.lock(name, lease)
            self.sound = True

        @rule(chance=CHANCES)
        def give_up(self, chance: Random) -> None:
            self.both.draw, self.sound = chance, False
            self.both.give_up()
            self.sound = True

        def teardown(self) -> None:
            if self.sound:  # whoever still waits would go at some time during the next story
                self.both.draw = Random(0)
                self.both.wipe()
            pair.compared += self.both.steps
            pair.waited += self.both.waited
            self.both.close()

    return Locks


def test_stories_of_locks(pair: Pair, record_property: Record) -> None:
    play(locks_of(pair), stories=25, steps=15)
    assert pair.compared > 100
    assert pair.waited > 3
    record_property("compared", pair.compared)
