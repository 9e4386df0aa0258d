"""Several kernels on one thread, with disks that lose what was not synced and a network that drops, repeats, reorders and cuts.

Members come and go by entries of the log, as in the real thing: a founder's first entries add the founders, a joiner begins with nothing.
Every step is checked against what Raft promises (thesis, figure 3.2), in the plainest way: one dict of what was ever committed, and the
configuration folded anew from the whole log.
"""

import itertools
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from raftsched.store.membership import ADD_LEARNER, ADD_NODE, REMOVE_NODE, UPDATE_NODE, decode_change, encode_change
from raftsched.store.raft._kernel import Kernel, Message

PROPOSE, APPEND, APPEND_RESPONSE, VOTE, VOTE_RESPONSE = 2, 3, 4, 5, 6
LEADER, CATCH_UP, CONF_CHANGE = 3, 2, 1

Entry = tuple[int, int, bytes]  # term, kind, data


def configuration(changes: Iterable[bytes]) -> tuple[frozenset[int], frozenset[int]]:
    """(voters, learners) after these changes."""
    voters: set[int] = set()
    learners: set[int] = set()
    for data in changes:
        change, member_id, _, _ = decode_change(data)
        if change == UPDATE_NODE or (voters == {member_id} and change != ADD_NODE):
            continue
        voters.discard(member_id)
        learners.discard(member_id)
        if change == ADD_NODE:
            voters.add(member_id)
        elif change == ADD_LEARNER:
            learners.add(member_id)
    return frozenset(voters), frozenset(learners)


def changes_of(entries: Iterable[Entry], first: int = 1) -> list[tuple[int, bytes]]:
    """(index, change) of the configuration changes among entries `first` ..."""
    return [(index, data) for index, (_, kind, data) in enumerate(entries, first) if kind == CONF_CHANGE]


def runs_of(entries: list[Entry], first: int) -> list:
    runs = []
    for (term, kind), group in itertools.groupby(entries, key=lambda entry: entry[:2]):
        items = [data for _, _, data in group]
        runs.append((first, term, kind, items))
        first += len(items)
    return runs


@dataclass
class Disk:
    """What a member has synced."""

    term: int = 0
    vote: int = 0
    commit: int = 0
    base: int = 0  # a snapshot stands for everything up to here
    base_term: int = 0
    entries: list[Entry] = field(default_factory=list)  # base + 1 ...
    state: list[Entry] = field(default_factory=list)  # applied, durable

    def term_at(self, index: int) -> int:
        if index == self.base:
            return self.base_term
        position = index - self.base - 1
        return self.entries[position][0] if 0 <= position < len(self.entries) else -1

    def write(self, hard_state, runs) -> None:
        if hard_state is not None:
            self.term, self.vote, self.commit = hard_state
        for first, term, kind, items in runs:
            del self.entries[first - self.base - 1 :]
            self.entries += [(term, kind, item) for item in items]


class Member:
    """A kernel, its disk, and what it has not synced yet."""

    def __init__(self, cluster: "Cluster", member_id: int) -> None:
        self.cluster = cluster
        self.id = member_id
        self.disk = Disk()
        if member_id in cluster.founders:
            self.disk.term, self.disk.commit = 1, len(cluster.founders)
            self.disk.entries = [(1, CONF_CHANGE, encode_change(ADD_NODE, one)) for one in cluster.founders]
        self.kernel: Kernel | None = None
        self.restart()

    def restart(self) -> None:
        disk, cluster = self.disk, self.cluster
        voters, learners = configuration(data for _, data in changes_of(disk.state))
        self.kernel = Kernel(
            self.id,
            voters=voters,
            learners=learners,
            seed=cluster.random.getrandbits(64),
            term=disk.term,
            vote=disk.vote,
            commit=min(disk.commit, disk.base + len(disk.entries)),
            applied=len(disk.state),
            first_index=disk.base + 1,
            base_term=disk.base_term,
            entries=runs_of(disk.entries, disk.base + 1),
            quiet_heartbeat_ticks=2,
            message_entries=cluster.message_entries,
            window_messages=4,
            message_bytes=cluster.message_bytes,
            apply_entries_max=3,
        )
        self.state = list(disk.state)
        self.changes = changes_of(disk.state[: disk.base]) + changes_of(disk.entries, disk.base + 1)
        self.in_force = configuration(data for _, data in self.changes)
        self.unsynced: list = []
        self.commit = self.kernel.commit
        self.reads: dict[int, int] = {}
        self.forwarded = (0, 0)  # (term, sequence) of the last proposal that left

    def crash(self) -> None:
        """Of the unsynced batches a prefix reaches the disk; the applied state may lag behind what was applied."""
        for _, hard_state, runs in self.unsynced[: self.cluster.random.randint(0, len(self.unsynced))]:
            self.disk.write(hard_state, runs)
        self.lag()
        self.kernel = None

    def lag(self) -> None:
        durable = self.cluster.random.randint(len(self.disk.state), max(len(self.state), len(self.disk.state)))
        self.disk.state = self.state[:durable]

    def drain(self) -> None:
        """Takes what the kernel has to say; the writes stay unsynced until `sync`."""
        self.cluster.check(self)
        while self.kernel is not None and (ready := self.kernel.ready()) is not None:
            if ready.batch:
                self.unsynced.append((ready.batch, ready.hard_state, ready.entries))
                self.follow_log(ready.entries)
            for message in ready.messages:
                self.cluster.check_claim(self, message)
                self.cluster.post(message)
            for first, term, kind, items in ready.committed:
                assert first == len(self.state) + 1
                self.state += [(term, kind, item) for item in items]
                self.cluster.check_applied(first, term, kind, items)
                assert self.disk.term_at(first + len(items) - 1) == term, "applied, but not durable here"
                self.kernel.advance(len(self.state))
            for context, index in ready.read_states:
                assert index >= self.reads.pop(context, 0), "a linearizable read would miss a committed write"
            for context in ready.read_failures:
                self.reads.pop(context, None)
            for sequence, reason in ready.refusals:
                self.cluster.check_refused(sequence, reason)
            for member, first in ready.catch_ups:
                self.bring_up(member, first)
            self.cluster.check(self)
        if self.kernel is not None:
            self.cluster.check_configuration(self)

    def follow_log(self, runs: list) -> None:
        """What the log says of the members, written entry by entry."""
        before = len(self.changes)
        for first, _, kind, items in runs:
            kept = [one for one in self.changes if one[0] < first]
            fresh = list(enumerate(items, first)) if kind == CONF_CHANGE else []
            if fresh or len(kept) != len(self.changes):
                self.changes = kept + fresh
                before = -1
        if before == -1:
            self.in_force = configuration(data for _, data in self.changes)

    def bring_up(self, member: int, first: int) -> None:
        """A member needs entries that memory does not hold: from the log on disk, or by a snapshot."""
        index = self.kernel.applied
        if first > index or self.cluster.random.random() < 0.4:
            self.cluster.send_snapshot(self, member)
            return
        while first <= index:
            last = min(first + self.cluster.random.randint(0, 20), index)
            prev_term = self.state[first - 2][0] if first > 1 else 0
            if not self.kernel.supply(member, runs_of(self.state[first - 1 : last], first), prev_term=prev_term):
                return
            first = last + 1

    def try_again(self) -> None:
        """What a driver does about a member whose catching up stands still."""
        for member, (match, _, state, _) in self.kernel.matches().items():
            if state == CATCH_UP:
                if self.cluster.random.random() < 0.5:
                    self.kernel.probe(member)
                else:
                    self.bring_up(member, match + 1)

    def sync(self, count: int | None = None) -> None:
        done = self.unsynced[:count]
        del self.unsynced[: len(done)]
        for _, hard_state, runs in done:
            self.disk.write(hard_state, runs)
        if done:
            self.kernel.persisted(done[-1][0])
        self.cluster.check(self)

    def install(self, state: list, index: int, term: int) -> None:
        """A snapshot has arrived: all in one durable step, as an installation is."""
        kept = self.kernel.term_at(index) == term
        changes = changes_of(state)
        if not self.kernel.install(index, term, *configuration(data for _, data in changes)):
            return
        self.changes = self.changes if kept else changes
        self.in_force = configuration(data for _, data in self.changes)
        self.sync_quietly()
        disk = self.disk
        disk.entries = disk.entries[index - disk.base :] if kept and disk.term_at(index) == term else []
        disk.base, disk.base_term = index, term
        disk.state = list(state)
        self.state = list(state)
        self.cluster.check(self)

    def sync_quietly(self) -> None:
        batches, self.unsynced = self.unsynced, []
        for _, hard_state, runs in batches:
            self.disk.write(hard_state, runs)
        if batches:
            self.kernel.persisted(batches[-1][0])


class Cluster:
    """See the module's text. `post` may be replaced to break a promise on purpose. `joiners`: how many may join the founders."""

    def __init__(self, seed: int, size: int, joiners: int = 0) -> None:
        self.random = random.Random(seed)
        self.founders = list(range(1, size + 1))
        self.ids = list(range(1, size + joiners + 1))
        self.joiners = joiners
        self.message_entries = self.random.choice([1, 2, 64])
        self.message_bytes = self.random.choice([1, 50, 1 << 20])
        self.network: list = []
        self.cut: set[tuple[int, int]] = set()
        self.eager = self.delay = 0.0
        self.late: list[Message] = []  # on their way for very long: elections pass meanwhile
        self.acks: deque[Message] = deque(maxlen=400)  # of which each may come once more, whenever
        self.committed = {one: (1, encode_change(ADD_NODE, one)) for one in self.founders}
        self.last_committed = size
        self.leaders: dict[int, int] = {}
        self.proposed = 0
        self.sequence = 0
        self.forwarded: dict[int, list[bytes]] = {}
        self.refused: set[bytes] = set()
        self.places: dict[bytes, int] = {}  # of each item: one index
        self.changed = 0
        self.context = 0
        self.truncations = 0
        self.draw_weights()
        self.members = {one: Member(self, one) for one in self.ids}

    # -- network

    def post(self, message: Message) -> None:
        (self.late if self.random.random() < self.delay else self.network).append(message)
        if message.type == APPEND_RESPONSE and not message.reject:
            self.acks.append(message)

    def send_snapshot(self, leader: Member, to: int) -> None:
        index = leader.kernel.applied
        self.network.append((leader.id, to, leader.kernel.term, index, leader.kernel.term_at(index), list(leader.state[:index])))

    def deliver(self, position: int, *, keep: bool = False) -> None:
        message = self.network[position] if keep else self.network.pop(position)
        if isinstance(message, tuple):
            self.deliver_snapshot(*message)
            return
        target = self.members[message.to]
        if target.kernel is None or (message.sender, message.to) in self.cut:
            return
        target.kernel.step(message)
        self.check(target)
        if self.random.random() < self.eager:
            target.drain()
            target.sync()
            target.drain()

    def drop(self, position: int) -> None:
        message = self.network.pop(position)
        if isinstance(message, tuple) and (leader := self.members[message[0]]).kernel is not None:
            leader.kernel.probe(message[1])  # the driver sees that its stream broke

    def deliver_snapshot(self, sender: int, to: int, term: int, index: int, index_term: int, state: list) -> None:
        target, leader = self.members[to], self.members[sender]
        if target.kernel is not None and (sender, to) not in self.cut and term >= target.kernel.term:
            target.drain()
            target.install(state, index, index_term)
        if leader.kernel is not None:
            leader.kernel.probe(to)

    # -- what is promised

    def check_claim(self, member: Member, message: Message) -> None:
        """No message leaves before what it claims is on disk."""
        disk = member.disk
        if message.type == VOTE_RESPONSE and not message.reject:
            assert (disk.term, disk.vote) == (message.term, message.to), "a vote left before it was on disk"
        if message.type == VOTE:
            assert (disk.term, disk.vote) == (message.term, member.id)
        if message.type == APPEND_RESPONSE and not message.reject and message.index:
            assert disk.base + len(disk.entries) >= message.index, "an ack left before the entries were on disk"
            assert disk.term >= message.term
        if message.type == PROPOSE:
            assert member.forwarded < (message.term, message.context), "a forwarded proposal left behind a later one, which hides it"
            member.forwarded = (message.term, message.context)

    def check(self, member: Member) -> None:
        kernel = member.kernel
        if kernel is None:
            return
        assert kernel.commit >= member.commit, "commit went back"
        # A lone voter leads before its own vote is written. Until then it says and commits nothing: if it dies, it never led.
        if kernel.state == LEADER and member.disk.term == kernel.term:
            if kernel.term not in self.leaders:
                self.check_complete(kernel)
            if self.leaders.setdefault(kernel.term, member.id) != member.id:
                raise AssertionError(f"two leaders in term {kernel.term}")
        for index in range(member.commit + 1, kernel.commit + 1):
            term = kernel.term_at(index)
            if term == -1:
                continue  # came by a snapshot
            assert kernel.state == LEADER or index in self.committed, f"entry {index} is committed for a follower and for no leader"
            known = self.committed.setdefault(index, (term, b""))
            self.last_committed = max(self.last_committed, index)
            assert known[0] == term, f"entry {index} committed in terms {known[0]} and {term}"
            if kernel.state == LEADER:
                voters = [self.members[one].disk for one in kernel.voter_ids]
                holders = sum(one.term_at(index) == term or one.base >= index for one in voters)
                assert holders > len(voters) // 2, f"entry {index} committed without a durable majority"
        if kernel.state == LEADER and kernel.commit > member.commit:
            assert kernel.term_at(kernel.commit) == kernel.term, "an entry of an older term was committed by counting (thesis §3.6.2)"
        member.commit = kernel.commit
        assert kernel.applied <= kernel.commit <= kernel.last_index
        assert kernel.applied <= kernel.stable

    def check_complete(self, kernel: Kernel) -> None:
        """Leader completeness (thesis §3.6.3): whoever is elected holds what was ever committed."""
        for index, (term, _) in self.committed.items():
            if index >= kernel.first_index:
                assert kernel.term_at(index) == term, f"the leader of term {kernel.term} lacks entry {index}"

    def check_configuration(self, member: Member) -> None:
        kernel = member.kernel
        assert (kernel.voter_ids, kernel.learner_ids) == member.in_force, "the configuration is not what the log says"
        if kernel.state == LEADER and kernel.term == max(self.leaders, default=0):
            open_changes = sum(index > self.last_committed for index, _ in member.changes)
            assert open_changes <= 1, "majorities need not meet: two changes of the configuration are uncommitted"
            self.check_matches(kernel)

    def check_matches(self, kernel: Kernel) -> None:
        """What the leader believes its members to hold is on their disks, unless they have gone on to a later term."""
        for member_id, (match, _, _, _) in kernel.matches().items():
            member = self.members[member_id]
            if match and member.disk.term <= kernel.term and (member.kernel is None or member.kernel.term <= kernel.term):
                term = kernel.term_at(match)
                holds = term == -1 or member.disk.base >= match or member.disk.term_at(match) == term
                assert holds, f"member {member_id} does not hold entry {match} of the leader"

    def check_refused(self, sequence: int, reason: int) -> None:
        assert reason in (-1, -2, -3)
        for item in self.forwarded[sequence]:
            assert item not in self.places, "a refused proposal was committed"
            self.refused.add(item)

    def check_applied(self, first: int, term: int, kind: int, items: list[bytes]) -> None:
        for index, item in enumerate(items, first):
            if item and kind != CONF_CHANGE:
                assert self.places.setdefault(item, index) == index, "a proposal was appended twice"
                assert item not in self.refused, "a refused proposal was committed"
            known = self.committed.get(index)
            assert known is not None
            assert known[0] == term, "applied what was not committed"
            if known[1] == b"":
                self.committed[index] = (term, item)
            else:
                assert known[1] == item, f"entry {index} differs between members"

    # -- what happens

    def draw_weights(self) -> None:
        """How often what happens, in this schedule: some are calm and get work done, some are storms."""
        storm = self.random.choice([0.05, 0.3, 1, 2])
        self.delay = self.random.choice([0, 0.02, 0.1])
        self.eager = self.random.choice([0, 0.5, 0.9])  # how often a message is dealt with, and synced, at once
        weights = {
            self.deliver_some: 45,
            self.drop_some: 2 * storm,
            self.deliver_late: 1,
            self.repeat_ack: 3,
            self.tick: self.random.choice([5, 15]),
            self.sync: 18,
            self.propose: self.random.choice([0.5, 2, 8]),  # the highest is more than the network carries
            self.read: self.random.choice([1, 4]),
            self.recut: 2 * storm,
            self.coup: self.random.choice([0, 0.3, 1]),
            self.crash: 0.5 * storm,
            self.transfer: 0.5 * storm,
            self.compact: 1,
            self.try_again: 1,
            self.change: 3 if self.joiners else 0,
        }
        self.of_one_member = (
            self.tick,
            self.sync,
            self.propose,
            self.read,
            self.crash,
            self.transfer,
            self.compact,
            self.try_again,
            self.change,
        )
        self.actions = list(weights)
        self.weights = list(itertools.accumulate(weights.values()))

    def step(self) -> None:
        (action,) = self.random.choices(self.actions, cum_weights=self.weights)
        member = self.random.choice(list(self.members.values()))
        if member.kernel is not None or action not in self.of_one_member:
            action(member)
        elif self.random.random() < 0.2:
            member.restart()
        member.drain()

    def deliver_some(self, member: Member) -> None:
        if self.network:
            self.deliver(self.random.randrange(min(len(self.network), 8)), keep=self.random.random() < 0.1)
        elif member.kernel is not None:
            member.kernel.tick()  # nothing is under way: time passes

    def deliver_late(self, _member: Member) -> None:
        if self.late:
            self.network.insert(0, self.late.pop(self.random.randrange(len(self.late))))
            self.deliver(0)

    def repeat_ack(self, _member: Member) -> None:
        """An ack of an older term comes once more to a leader of now."""
        leaders = {one.id: one.kernel.term for one in self.members.values() if one.kernel is not None and one.kernel.state == LEADER}
        old = [ack for ack in self.acks if ack.term < leaders.get(ack.to, 0)]
        if old:
            self.network.insert(0, self.random.choice(old))
            self.deliver(0)

    def drop_some(self, _member: Member) -> None:
        if self.network:
            self.drop(self.random.randrange(len(self.network)))

    def tick(self, member: Member) -> None:
        member.kernel.tick()

    def sync(self, member: Member) -> None:
        member.sync(self.random.randint(1, 3))

    def crash(self, member: Member) -> None:
        member.crash()

    def transfer(self, member: Member) -> None:
        member.kernel.transfer(self.random.choice(self.ids))

    def try_again(self, member: Member) -> None:
        member.try_again()

    def change(self, member: Member) -> None:
        """Somebody joins, is promoted, goes (the leader too), moves, or what makes no sense is tried; by a leader, if there is one."""
        leaders = [one for one in self.members.values() if one.kernel is not None and one.kernel.state == LEADER]
        leader = self.random.choice(leaders or [member])
        for _ in range(self.random.randint(1, 3)):
            self.change_once(leader.kernel)
        leader.drain()

    def change_once(self, kernel: Kernel) -> None:
        voters, learners = kernel.voter_ids, kernel.learner_ids
        other = self.random.choice(self.ids)
        choice = self.random.random()
        if choice < 0.1:
            change = UPDATE_NODE
        elif other in learners:
            change = ADD_NODE if choice < 0.8 else REMOVE_NODE
        elif other in voters:
            change = REMOVE_NODE if choice < 0.9 else ADD_LEARNER
        else:
            change = ADD_LEARNER if choice < 0.6 else ADD_NODE
        self.changed += kernel.propose_change(encode_change(change, other, change_id=self.random.getrandbits(8))) > 0

    def propose(self, member: Member) -> None:
        items = []
        for _ in range(self.random.randint(1, 4)):
            self.proposed += 1
            items.append(b"%d" % self.proposed + bytes(self.random.choice([0, 0, 49, 120])))
        if member.kernel.propose(items) < 0:
            self.sequence += 1
            self.forwarded[self.sequence] = items
            member.kernel.forward(items, self.sequence)

    def read(self, member: Member) -> None:
        self.context += 1
        member.reads[self.context] = max(self.committed, default=0)
        if not member.kernel.read_index(self.context):
            del member.reads[self.context]

    def recut(self, _member: Member) -> None:
        self.cut.clear()
        if self.random.random() < 0.6:
            side = {one for one in self.ids if self.random.random() < 0.5}
            self.cut = {(one, other) for one in self.ids for other in self.ids if (one in side) != (other in side)}
            if self.random.random() < 0.3:
                self.cut = {pair for pair in self.cut if self.random.random() < 0.5}  # one-way cuts too

    def coup(self, _member: Member) -> None:
        """Whoever leads is cut off, with some others perhaps, and for the rest an election timeout passes."""
        leaders = {one.id for one in self.members.values() if one.kernel is not None and one.kernel.state == LEADER}
        side = leaders | {one for one in self.ids if self.random.random() < 0.2}
        self.cut = {(one, other) for one in self.ids for other in self.ids if (one in side) != (other in side)}
        for member in self.members.values():
            for _ in range(self.random.randint(10, 24) if member.id not in side and member.kernel is not None else 0):
                member.kernel.tick()
            member.drain()

    def compact(self, member: Member) -> None:
        """Log in memory and on disk are cut below what is durable in the state machine."""
        member.lag()
        index = len(member.disk.state)
        disk = member.disk
        if disk.base < index <= member.kernel.applied and disk.term_at(index) != -1:
            member.kernel.compact(index)
            if not member.unsynced:
                base_term = disk.term_at(index)
                disk.entries = disk.entries[index - disk.base :]
                disk.base, disk.base_term = index, base_term

    def heal(self, ticks: int = 400) -> int:
        """All members up, a whole network: those of the configuration must agree soon. Ticks that it took."""
        self.cut.clear()
        self.delay = 0.0
        self.network += self.late
        self.late = []
        for member in self.members.values():
            if member.kernel is None:
                member.restart()
        for tick in range(ticks):
            for member in self.members.values():
                member.kernel.tick()
                member.try_again()
            for _ in range(20):
                for member in self.members.values():
                    member.drain()
                    member.sync()
                    member.drain()
                if not self.network:
                    break
                for _ in range(len(self.network)):
                    self.deliver(0)
            leaders = [one.kernel for one in self.members.values() if one.kernel.state == LEADER]
            if len(leaders) == 1 and leaders[0].committed_in_term and leaders[0].id in leaders[0].voter_ids:
                members = self.in_force(leaders[0])
                last = {one.kernel.last_index for one in members}
                if len({len(one.state) for one in members}) == len(last) == 1 and leaders[0].commit in last:
                    return tick
        raise AssertionError("no agreement")

    def in_force(self, kernel: Kernel) -> list[Member]:
        return [self.members[one] for one in sorted(kernel.voter_ids | kernel.learner_ids)]

    def agreed(self) -> list[Entry]:
        """After `heal`: the state of all members, which is the same."""
        (leader,) = [one.kernel for one in self.members.values() if one.kernel.state == LEADER]
        states = [one.state for one in self.in_force(leader)]
        assert all(state == states[0] for state in states)
        return states[0]
