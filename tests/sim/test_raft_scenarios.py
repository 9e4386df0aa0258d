"""S1 to S12 and R1, the schedules that break stock pysyncobj (stock_scenarios.py), on our kernel.

Not here, since they are of other rooms: S4 and S5 (a kill between snapshot and cut of the log, or in the middle of the cut):
tests/sim/test_points.py, tests/process/test_store_crashes.py and tests/property/test_wal_recovery.py; S7 (errors of a command, of a
callback):
tests/unit/test_store_rooms.py::test_bytes_that_are_no_request_are_a_result and the test of changes before answers in test_store_node.py;
S9 (a request that not all versions know): tests/unit/test_kinds.py;
S11 (a full queue): tests/unit/test_host.py::test_a_full_queue_is_answered.
"""

from collections import defaultdict, deque
from collections.abc import Collection

import pytest

from raftsched.store.membership import ADD_NODE, encode_change
from raftsched.store.raft._kernel import Kernel, Message

APPEND, APPEND_RESPONSE, HEARTBEAT = 3, 4, 8
FOLLOWER, LEADER = 0, 3


class Net:
    """Kernels whose disks are instant, and links that keep their order and are emptied by hand."""

    def __init__(self, ids: Collection[int], **options) -> None:
        self.kernels = {one: Kernel(one, voters=ids, seed=one, election_ticks_max=200, **options) for one in ids}
        self.states: dict[int, list[bytes]] = {one: [] for one in ids}
        self.links: dict[tuple[int, int], deque[Message]] = defaultdict(deque)
        self.cut: set[tuple[int, int]] = set()
        self.reads: dict[int, list] = defaultdict(list)
        self.failed: dict[int, list] = defaultdict(list)
        self.catch_ups: list[tuple[int, int]] = []

    def isolate(self, *names: int) -> None:
        ids = list(self.kernels)
        self.cut = {(one, other) for one in ids for other in ids if (one in names) != (other in names)}
        for link in self.cut:
            self.links[link].clear()

    def settle(self, name: int) -> None:
        kernel = self.kernels[name]
        while (ready := kernel.ready()) is not None:
            if ready.batch:
                kernel.persisted(ready.batch)
            for message in ready.messages:
                if (name, message.to) not in self.cut:
                    self.links[name, message.to].append(message)
            for first, _, kind, items in ready.committed:
                self.states[name] += [item for item in items if item and kind == 0]
                kernel.advance(first + len(items) - 1)
            self.reads[name] += ready.read_states
            self.failed[name] += ready.read_failures
            self.catch_ups += ready.catch_ups

    def deliver_one(self, source: int, target: int) -> Message:
        message = self.links[source, target].popleft()
        self.kernels[target].step(message)
        self.settle(target)
        return message

    def deliver(self, among: Collection[int] | None = None) -> int:
        """All that is under way (between `among`), and what follows from it; rounds."""
        rounds = 0
        while True:
            for name in self.kernels:
                self.settle(name)
            full = [link for link, queue in self.links.items() if queue and (among is None or set(link) <= set(among))]
            if not full:
                return rounds
            rounds += 1
            for link in full:
                for _ in range(len(self.links[link])):
                    if link[1] in self.kernels:
                        self.deliver_one(*link)
                    else:
                        self.links[link].popleft()

    def crash(self, *names: int) -> None:
        for name in names:
            del self.kernels[name]
            for link in list(self.links):
                if name in link:
                    self.links[link].clear()

    def elect(self, name: int, among: Collection[int] | None = None) -> Kernel:
        """`name` leads: for it and those around it an election timeout passes."""
        around = set(self.kernels if among is None else among)
        kernel = self.kernels[name]
        for other in around - {name}:
            for _ in range(10):
                self.kernels[other].tick()
        while kernel.state == FOLLOWER:
            kernel.tick()
        self.deliver(around)
        assert kernel.state == LEADER
        return kernel

    def tick(self, name: int) -> None:
        self.kernels[name].tick()
        self.deliver()


def numbered(prefix: str, count: int, size: int = 0) -> list[bytes]:
    return [b"%s%d" % (prefix.encode(), number) + bytes(size) for number in range(count)]


def test_s1_a_deposed_leader_commits_nothing_of_its_own_by_a_message() -> None:
    net = Net([1, 2, 3])
    a = net.elect(1)
    net.isolate(1)
    assert a.propose([b"ghost"]) > 0
    net.settle(1)
    before = a.commit
    b = net.elect(2, [2, 3])
    b.propose(numbered("w", 240))
    net.deliver([2, 3])
    b.compact(b.applied)
    net.cut.clear()
    net.tick(2)
    assert net.catch_ups
    assert (a.commit, a.state) == (before, FOLLOWER)
    assert net.states[1] == []
    # the snapshot is installed: only now commit moves
    assert a.install(b.applied, b.term_at(b.applied), b.voter_ids)
    net.states[1] = list(net.states[2])
    b.probe(1)
    b.propose([b"after"])
    net.deliver()
    net.tick(2)
    assert net.states[1] == net.states[2] == net.states[3]
    assert b"ghost" not in net.states[1]


def test_s2_a_range_that_is_sent_again_cuts_nothing() -> None:
    net = Net([1, 2, 3], message_entries=7)
    a = net.elect(1)
    net.isolate(3)
    a.propose(numbered("x", 20, 10_000))
    net.settle(1)
    appends = list(net.links[1, 2])
    assert len(appends) == 3
    net.deliver([1, 2])
    assert net.states[1] == numbered("x", 20, 10_000), "acknowledged"
    b = net.kernels[2]
    before = b.last_index
    for message in appends:
        b.step(message)
        net.settle(2)
        assert b.last_index == before
    net.crash(1)
    net.cut.clear()
    net.elect(2, [2, 3])
    assert net.states[2] == net.states[3] == numbered("x", 20, 10_000)


def test_s3_two_majorities_always_meet() -> None:
    net = Net([1, 2, 3])
    a = net.elect(1)
    net.isolate(1)
    assert a.propose_change(encode_change(ADD_NODE, 4)) > 0
    assert a.propose_change(encode_change(ADD_NODE, 5)) == -4
    for joiner in (4, 5):
        net.kernels[joiner] = Kernel(joiner, voters=[], seed=joiner)
        net.states[joiner] = []
        net.cut |= {(joiner, other) for other in (2, 3)} | {(other, joiner) for other in (2, 3)}
    a.propose([b"written-on-1"])
    for _ in range(5):
        a.tick()
        net.deliver([1, 4, 5])
    assert net.states[1] == [], "1 and 4 are two of four"
    b = net.elect(2, [2, 3])
    b.propose([b"written-on-2"])
    net.deliver([2, 3])
    assert net.states[2] == [b"written-on-2"]
    net.cut.clear()
    for _ in range(3):
        net.tick(2)
    assert net.states[1] == net.states[2] == net.states[3] == [b"written-on-2"]
    assert a.voter_ids == {1, 2, 3}, "rolled back"


@pytest.mark.parametrize("tail", [100, 500])
@pytest.mark.parametrize("busy", [False, True])
def test_s6_a_deposed_leader_agrees_within_few_rounds(tail: int, busy: bool) -> None:
    net = Net([1, 2, 3])
    a = net.elect(1)
    net.isolate(1)
    a.propose(numbered("old", tail))
    net.settle(1)
    b = net.elect(2, [2, 3])
    b.propose(numbered("new", tail))
    net.deliver([2, 3])
    net.cut.clear()
    b.tick()
    rounds = 0
    while net.kernels[1].term_at(b.last_index) != b.term:
        rounds += 1
        if busy:
            b.propose([b"more"])
        for name in net.kernels:
            net.settle(name)
        for link in list(net.links):
            for _ in range(len(net.links[link])):
                net.deliver_one(*link)
        assert rounds < 12, "rounds, not entries"
    net.tick(2)
    net.tick(2)  # of a probe that came twice the second is not looked at: the heartbeat tells its commit
    assert net.states[1] == net.states[2]


def test_s8_an_ack_of_an_older_term_counts_for_nothing() -> None:
    net = Net([1, 2, 3, 4, 5])
    a = net.elect(1)
    net.isolate(1, 2)
    a.propose(numbered("old", 8))
    net.settle(1)
    while net.links[1, 2]:
        net.deliver_one(1, 2)
    held = [one for one in net.links[2, 1] if one.type == APPEND_RESPONSE and not one.reject]
    assert held
    net.links[2, 1].clear()
    c = net.elect(3, [3, 4, 5])
    net.cut = {(1, 2), (2, 1)}
    for _ in range(5):
        net.tick(3)  # overwrites the tails of 1 and 2
    assert a.last_index == c.last_index == net.kernels[2].last_index
    net.crash(3)
    a = net.elect(1, [1, 4, 5])
    net.cut = {(one, other) for one in (1, 4) for other in (2, 5)} | {(other, one) for one in (1, 4) for other in (2, 5)}
    a.propose(numbered("n", 3))
    net.deliver([1, 4])
    before = a.commit
    for ack in held:
        assert ack.index > before
        a.step(ack)
        net.deliver([1, 4])
    assert a.commit == before
    assert not set(numbered("n", 3)) & set(net.states[1])


def test_s10_a_restart_goes_by_the_configuration_of_its_log() -> None:
    change = [(2, 1, 1, [encode_change(ADD_NODE, 4)])]
    log = [(1, 1, 0, [b""]), *change]
    net = Net([1, 2, 3])
    for name in (2, 3):  # killed before they knew that it is committed
        net.kernels[name] = Kernel(name, voters=[1, 2, 3], seed=name, term=1, commit=1, applied=1, entries=log)
    net.isolate(1)
    b = net.kernels[2]
    for _ in range(100):
        for name in (2, 3):
            net.kernels[name].tick()
        net.deliver([2, 3])
    assert b.voter_ids == {1, 2, 3, 4}
    assert LEADER not in (b.state, net.kernels[3].state), "two of four elect nobody"


@pytest.mark.parametrize("size", [*range(1900, 2101, 25), 999, 1000, 1001])
def test_s12_an_entry_of_any_size_arrives_whole(size: int) -> None:
    net = Net([1, 2, 3], message_bytes=1000)
    a = net.elect(1)
    a.propose([bytes(size), b"next", bytes(size)])
    net.deliver()
    net.tick(1)
    assert net.states[1] == net.states[2] == net.states[3] == [bytes(size), b"next", bytes(size)]


def test_r1_a_deposed_leader_serves_nothing_and_goes_within_an_election_timeout() -> None:
    net = Net([1, 2, 3])
    a = net.elect(1)
    a.propose([b"old"])
    net.deliver()
    net.isolate(1)
    b = net.elect(2, [2, 3])
    b.propose([b"new"])
    net.deliver([2, 3])
    assert a.read_index("r")
    net.settle(1)
    ticks = 0
    while a.state == LEADER:
        a.tick()
        net.settle(1)
        ticks += 1
        assert ticks <= 10
    assert net.reads[1] == []
    assert net.failed[1] == ["r"]
    assert b.read_index("s")
    net.deliver([2, 3])
    ((context, index),) = net.reads[2]
    assert context == "s"
    assert index == b.commit
    assert b"new" in net.states[2]
