"""Several kernels on one thread, with disks that lose what was not synced and a network that drops, repeats, reorders and cuts.

Every step is checked against what Raft promises (thesis, figure 3.2), in the plainest way: one dict of what was ever committed.
"""

import random
from dataclasses import dataclass, field

from raftsched.store.raft._kernel import Kernel, Message

APPEND, APPEND_RESPONSE, VOTE, VOTE_RESPONSE = 3, 4, 5, 6
LEADER = 3


@dataclass
class Disk:
    """What a member has synced."""

    term: int = 0
    vote: int = 0
    commit: int = 0
    base: int = 0  # a snapshot stands for everything up to here
    base_term: int = 0
    entries: list[tuple[int, bytes]] = field(default_factory=list)  # (term, data) of base + 1 ...
    state: list[tuple[int, bytes]] = field(default_factory=list)  # applied, durable

    def term_at(self, index: int) -> int:
        if index == self.base:
            return self.base_term
        position = index - self.base - 1
        return self.entries[position][0] if 0 <= position < len(self.entries) else -1

    def write(self, hard_state, runs) -> None:
        if hard_state is not None:
            self.term, self.vote, self.commit = hard_state
        for first, term, _kind, items in runs:
            del self.entries[first - self.base - 1 :]
            self.entries += [(term, item) for item in items]


class Member:
    """A kernel, its disk, and what it has not synced yet."""

    def __init__(self, cluster: "Cluster", member_id: int) -> None:
        self.cluster = cluster
        self.id = member_id
        self.disk = Disk()
        self.kernel: Kernel | None = None
        self.restart()

    def restart(self) -> None:
        disk, cluster = self.disk, self.cluster
        runs = [(disk.base + 1 + position, term, 0, [data]) for position, (term, data) in enumerate(disk.entries)]
        self.kernel = Kernel(
            self.id,
            voters=cluster.ids,
            seed=cluster.random.getrandbits(64),
            term=disk.term,
            vote=disk.vote,
            commit=min(disk.commit, disk.base + len(disk.entries)),
            applied=len(disk.state),
            first_index=disk.base + 1,
            base_term=disk.base_term,
            entries=runs,
            message_entries=cluster.message_entries,
            window_messages=4,
            message_bytes=cluster.message_bytes,
            apply_entries_max=3,
        )
        self.state = list(disk.state)
        self.unsynced: list = []
        self.commit = self.kernel.commit
        self.reads: dict[int, int] = {}

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
        while self.kernel is not None and (ready := self.kernel.ready()) is not None:
            if ready.batch:
                self.unsynced.append((ready.batch, ready.hard_state, ready.entries))
            for message in ready.messages:
                self.cluster.check_claim(self, message)
                self.cluster.post(message)
            for first, term, _kind, items in ready.committed:
                assert first == len(self.state) + 1
                self.state += [(term, item) for item in items]
                self.cluster.check_applied(self, first, term, items)
                assert self.disk.term_at(first + len(items) - 1) == term, "applied, but not durable here"
                self.kernel.advance(len(self.state))
            for context, index in ready.read_states:
                assert index >= self.reads.pop(context, 0), "a linearizable read would miss a committed write"
            for context in ready.read_failures:
                self.reads.pop(context, None)
            for member, _next in ready.catch_ups:
                self.cluster.send_snapshot(self, member)
            self.cluster.check(self)

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
        if not self.kernel.install(index, term, self.cluster.ids):
            return
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
    """See the module's text. `post` may be replaced to break a promise on purpose."""

    def __init__(self, seed: int, size: int) -> None:
        self.random = random.Random(seed)
        self.ids = list(range(1, size + 1))
        self.message_entries = self.random.choice([1, 2, 64])
        self.message_bytes = self.random.choice([1, 50, 1 << 20])
        self.network: list = []
        self.cut: set[tuple[int, int]] = set()
        self.committed: dict[int, tuple[int, bytes]] = {}
        self.leaders: dict[int, int] = {}
        self.proposed = 0
        self.context = 0
        self.truncations = 0
        self.members = {one: Member(self, one) for one in self.ids}

    # -- network

    def post(self, message: Message) -> None:
        self.network.append(message)

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

    def drop(self, position: int) -> None:
        message = self.network.pop(position)
        if isinstance(message, tuple) and (leader := self.members[message[0]]).kernel is not None:
            leader.kernel.caught_up(message[1], 0)  # the driver sees that its stream broke

    def deliver_snapshot(self, sender: int, to: int, term: int, index: int, index_term: int, state: list) -> None:
        target, leader = self.members[to], self.members[sender]
        if target.kernel is not None and (sender, to) not in self.cut and term >= target.kernel.term:
            target.drain()
            target.install(state, index, index_term)
        if leader.kernel is not None:
            leader.kernel.caught_up(to, index if target.kernel is not None and target.kernel.commit >= index else 0)

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

    def check(self, member: Member) -> None:
        kernel = member.kernel
        if kernel is None:
            return
        assert kernel.commit >= member.commit, "commit went back"
        if kernel.state == LEADER and self.leaders.setdefault(kernel.term, member.id) != member.id:
            raise AssertionError(f"two leaders in term {kernel.term}")
        for index in range(member.commit + 1, kernel.commit + 1):
            term = kernel.term_at(index)
            if term == -1:
                continue  # came by a snapshot
            known = self.committed.setdefault(index, (term, b""))
            assert known[0] == term, f"entry {index} committed in terms {known[0]} and {term}"
            if kernel.state == LEADER:
                holders = sum(one.disk.term_at(index) == term or one.disk.base >= index for one in self.members.values())
                assert holders > len(self.ids) // 2, f"entry {index} committed without a durable majority"
        member.commit = kernel.commit
        assert kernel.applied <= kernel.commit <= kernel.last_index
        assert kernel.applied <= kernel.stable

    def check_applied(self, member: Member, first: int, term: int, items: list[bytes]) -> None:
        for index, item in enumerate(items, first):
            known = self.committed.get(index)
            assert known is not None
            assert known[0] == term, "applied what was not committed"
            if known[1] == b"":
                self.committed[index] = (term, item)
            else:
                assert known[1] == item, f"entry {index} differs between members"

    # -- what happens

    def step(self) -> None:
        choice = self.random.random()
        member = self.random.choice(list(self.members.values()))
        if choice < 0.45 and self.network:
            self.deliver(self.random.randrange(min(len(self.network), 8)), keep=self.random.random() < 0.1)
        elif choice < 0.47 and self.network:
            self.drop(self.random.randrange(len(self.network)))
        elif member.kernel is None:
            if choice > 0.9:
                member.restart()
        elif choice < 0.62:
            member.kernel.tick()
        elif choice < 0.80:
            member.sync(self.random.randint(1, 3))
        elif choice < 0.88:
            self.propose(member)
        elif choice < 0.92:
            self.read(member)
        elif choice < 0.94:
            self.recut()
        elif choice < 0.945:
            member.crash()
        elif choice < 0.95:
            member.kernel.transfer(self.random.choice(self.ids))
        elif choice < 0.96:
            self.compact(member)
        member.drain()

    def propose(self, member: Member) -> None:
        items = []
        for _ in range(self.random.randint(1, 4)):
            self.proposed += 1
            items.append(b"%d" % self.proposed + bytes(self.random.choice([0, 0, 49, 120])))
        member.kernel.propose(items)

    def read(self, member: Member) -> None:
        self.context += 1
        member.reads[self.context] = max(self.committed, default=0)
        if not member.kernel.read_index(self.context):
            del member.reads[self.context]

    def recut(self) -> None:
        self.cut.clear()
        if self.random.random() < 0.6:
            side = {one for one in self.ids if self.random.random() < 0.5}
            self.cut = {(one, other) for one in self.ids for other in self.ids if (one in side) != (other in side)}
            if self.random.random() < 0.3:
                self.cut = {pair for pair in self.cut if self.random.random() < 0.5}  # one-way cuts too

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
        """All members up, a whole network: they must agree soon. Ticks that it took."""
        self.cut.clear()
        for member in self.members.values():
            if member.kernel is None:
                member.restart()
        for tick in range(ticks):
            for member in self.members.values():
                member.kernel.tick()
            for _ in range(20):
                for member in self.members.values():
                    member.drain()
                    member.sync()
                    member.drain()
                if not self.network:
                    break
                for _ in range(len(self.network)):
                    self.deliver(0)
            leaders = [one for one in self.members.values() if one.kernel.state == LEADER]
            if len(leaders) == 1 and len({len(one.state) for one in self.members.values()}) == 1 and leaders[0].kernel.committed_in_term:
                last = {one.kernel.last_index for one in self.members.values()}
                if len(last) == 1 and leaders[0].kernel.commit in last:
                    return tick
        raise AssertionError("no agreement")
