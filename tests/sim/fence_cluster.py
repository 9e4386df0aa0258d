"""Fences of several members on one thread: clocks that agree on nothing, a network that does anything, elections at any time.

The elections are more reckless than the kernel's: a member campaigns whenever chance says so, whoever leads, and votes for whoever
asks first in a newer term. What the fence promises rests on no timing of an election, so it must hold here.

Entries are counted, not written: one is *chosen* the moment a majority has acknowledged it in its leader's term; leader and
members learn of that later, by messages. To take a member's jobs away, its leader has an entry chosen that says so, sees it
applied, asks the fence again, and only then takes them: `taken` holds (member, entry, instant).
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from raftsched.limits import FENCE_ALONE_MS
from raftsched.store.fence import HEARTBEAT, HEARTBEAT_RESPONSE, Fence

MS = 1_000  # virtual time is in microseconds


@dataclass(slots=True)
class Beat:
    """A message as far as the fence looks at it; `payload` is this simulation's own."""

    type: int
    to: int
    sender: int
    term: int
    index: int = 0
    beat: int = 0
    echo: int = 0
    left_ms: int = 0
    payload: tuple[str, int] = ("", 0)


@dataclass
class Member:
    """What survives a restart is `term`, `voted` and the clock."""

    id: int
    offset_us: int
    drift: float
    fence: Fence
    term: int = 0
    voted: int = 0
    leading: bool = False
    votes: set[int] = field(default_factory=set)
    applied: int = 0
    commit: int = -1  # known by a leader; -1 = nothing of its own term
    proposed: int = 0  # entries of its own term
    acks: dict[int, int] = field(default_factory=dict)  # member -> own entries that it has
    chosen: int = 0  # of those proposed
    chosen_at: list[int] = field(default_factory=list)  # own entry -> its index
    accusing: dict[int, int] = field(default_factory=dict)  # member -> own entry that says so
    asleep_until_us: int = 0

    def mono_ms(self, now_us: int) -> int:
        return int((self.offset_us + now_us * (1 + self.drift)) // MS)

    def may_fire(self, now_us: int) -> bool:
        return self.fence.until_ms(self.applied) > self.mono_ms(now_us)


class FenceCluster:
    """See the module's text."""

    def __init__(self, seed: int, *, make_fence: Callable[..., Fence] = Fence, calm: int = 0) -> None:
        """`calm`: so many voters, a good network, and nothing happens to them."""
        self.random = random.Random(seed)
        self.make_fence = make_fence
        self.now_us = 0
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.count = 0
        self.cut: set[tuple[int, int]] = set()
        size = calm or self.random.choice([2, 3, 3, 5])
        self.voters = frozenset(range(1, size + 1))
        self.learners = frozenset(range(size + 1, size + 1 + self.random.choice([0, 0, 1])))
        self.members = {one: self._member(one) for one in sorted(self.voters | self.learners)}
        self.storm = 0.0 if calm else self.random.choice([0.0, 0.002, 0.02])  # chance to campaign, per tick
        self.slow = 0.0 if calm else self.random.choice([0.0, 0.02, 0.2])  # share of messages that take up to two seconds
        self.loss = 0.0 if calm else self.random.choice([0.0, 0.01, 0.1])
        self.indexes = 0  # entries chosen so far
        self.taken: list[tuple[int, int, int]] = []
        self.fired = 0
        self.elections = 0
        for one in self.members:
            self.at(self.random.randrange(50 * MS), partial(self.tick, one))
        if not calm:
            self.at(100 * MS, self.trouble)
        self.at(1 * MS, self.look)

    def _member(self, one: int) -> Member:
        fence = self.make_fence(one, first_number=self.random.getrandbits(50) + 1)
        drift = self.random.choice([-1e-4, 0.0, 1e-4, 1e-3, -1e-3])
        return Member(one, self.random.randrange(10**9) * MS, drift, fence)

    # -- time
    def at(self, delay_us: int, run: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (self.now_us + delay_us, self.count, run))

    def run(self, seconds: float) -> None:
        end_us = self.now_us + int(seconds * 1_000_000)
        while self.events and self.events[0][0] <= end_us:
            self.now_us, _, event = heapq.heappop(self.events)
            event()
            self.check()
        self.now_us = end_us

    def awake(self, member: Member, run: Callable[[], None]) -> bool:
        """False: it sleeps; what happens to it happens when it wakes."""
        if member.asleep_until_us > self.now_us:
            self.at(member.asleep_until_us - self.now_us, run)
            return False
        return True

    # -- network
    def send(self, message: Beat) -> None:
        if (message.sender, message.to) in self.cut or self.random.random() < self.loss:
            return
        for _ in range(1 + (self.random.random() < 0.02)):
            slow = self.random.random() < self.slow
            self.at(self.random.randrange(200, 2_000 * MS if slow else 3 * MS), partial(self.receive, message))

    def receive(self, message: Beat) -> None:
        member = self.members[message.to]
        if not self.awake(member, partial(self.receive, message)):
            return
        kind, value = message.payload
        if message.term > member.term:
            self.follow(member, message.term)
        if message.term < member.term:
            return
        if kind == "vote?" and member.id in self.voters and member.voted in (0, message.sender) and not member.leading:
            member.voted = message.sender
            self.send(Beat(6, message.sender, member.id, member.term, payload=("vote", 0)))
        elif kind == "vote" and not member.leading:
            self.count_vote(member, message.sender)
        elif kind == "append":
            self.acknowledge(message, value)
        elif kind == "ack":
            self.acknowledged(member, message.sender, value)
        elif kind == "commit":
            member.applied = max(member.applied, value)
        elif message.type == HEARTBEAT and not member.leading:
            member.fence.incoming(message, member.mono_ms(self.now_us))
            answer = Beat(HEARTBEAT_RESPONSE, message.sender, member.id, member.term)
            member.fence.outgoing(answer, member.mono_ms(self.now_us), -1)
            self.send(answer)
        elif message.type == HEARTBEAT_RESPONSE:
            member.fence.incoming(message, member.mono_ms(self.now_us))

    # -- elections
    def follow(self, member: Member, term: int) -> None:
        member.term, member.voted, member.leading, member.votes = term, 0, False, set()
        member.fence.follow(term, member.mono_ms(self.now_us))

    def campaign(self, member: Member) -> None:
        self.follow(member, member.term + 1)
        member.voted = member.id
        self.count_vote(member, member.id)
        for other in self.voters - {member.id}:
            self.send(Beat(5, other, member.id, member.term, payload=("vote?", 0)))

    def count_vote(self, member: Member, voter: int) -> None:
        member.votes.add(voter)
        if len(member.votes) <= len(self.voters) // 2:
            return
        self.elections += 1
        member.leading, member.commit = True, -1
        member.proposed = member.chosen = 0
        member.acks, member.chosen_at, member.accusing = {}, [], {}
        member.fence.lead(member.term, self.voters, self.learners, member.mono_ms(self.now_us))
        self.propose(member)  # the no-op

    # -- entries
    def propose(self, member: Member) -> int:
        member.proposed += 1
        self.append(member)
        if len(self.voters) == 1:
            self.choose(member, member.proposed)
        return member.proposed

    def append(self, member: Member) -> None:
        for other in self.voters - {member.id}:
            self.send(Beat(3, other, member.id, member.term, payload=("append", member.proposed)))

    def acknowledge(self, message: Beat, own: int) -> None:
        leader = self.members[message.sender]
        if leader.term == message.term and leader.leading:  # the instant that counts is that of the acknowledgement
            leader.acks[message.to] = max(own, leader.acks.get(message.to, 0))
            held = sorted([leader.proposed, *(leader.acks.get(other, 0) for other in self.voters - {leader.id})], reverse=True)
            self.choose(leader, held[len(self.voters) // 2])
        self.send(Beat(4, message.sender, message.to, message.term, payload=("ack", own)))

    def choose(self, leader: Member, own: int) -> None:
        while len(leader.chosen_at) < own:
            self.indexes += 1
            leader.chosen_at.append(self.indexes)

    def acknowledged(self, leader: Member, _sender: int, own: int) -> None:
        """The leader learns what is chosen up to there, if it is; and applies it, now or later."""
        if not leader.leading or own > len(leader.chosen_at) or leader.chosen >= own:
            return
        leader.chosen = own
        leader.commit = leader.chosen_at[own - 1]
        if self.random.random() < 0.7:
            leader.applied = max(leader.applied, leader.commit)
        for other in self.members:
            if other != leader.id:
                self.send(Beat(3, other, leader.id, leader.term, payload=("commit", leader.commit)))

    # -- what members do
    def tick(self, one: int) -> None:
        member = self.members[one]
        if not self.awake(member, partial(self.tick, one)):
            return
        self.at(50 * MS + self.random.randrange(2 * MS), partial(self.tick, one))
        if member.leading:
            self.beat(member)
        elif member.id in self.voters and self.random.random() < max(self.storm, 0.05 if not self.leader() else 0):
            self.campaign(member)

    def leader(self) -> Member | None:
        """One that the network still reaches."""
        top = max(self.members.values(), key=lambda one: (one.leading, one.term))
        heard = sum((top.id, other) not in self.cut and (other, top.id) not in self.cut for other in self.voters)
        return top if top.leading and heard > len(self.voters) // 2 and top.asleep_until_us <= self.now_us else None

    def beat(self, member: Member) -> None:
        member.applied = max(member.applied, member.commit)
        for other in self.members:
            if other != member.id:
                heartbeat = Beat(HEARTBEAT, other, member.id, member.term)
                member.fence.outgoing(heartbeat, member.mono_ms(self.now_us), member.commit)
                self.send(heartbeat)
                if member.commit > 0:
                    self.send(Beat(3, other, member.id, member.term, payload=("commit", member.commit)))
        self.append(member)
        if self.random.random() < 0.3:
            self.propose(member)
        self.accuse(member)

    def accuse(self, leader: Member) -> None:
        dead = set(leader.fence.dead(leader.mono_ms(self.now_us)))
        leader.accusing = {one: own for one, own in leader.accusing.items() if one in dead}
        for one in dead:
            own = leader.accusing.get(one)
            if own is None:
                leader.accusing[one] = self.propose(leader)
            elif leader.chosen >= own and leader.applied >= leader.chosen_at[own - 1]:
                self.taken.append((one, leader.chosen_at[own - 1], self.now_us))
                del leader.accusing[one]

    def trouble(self) -> None:
        self.at(self.random.randrange(50, 1_500) * MS, self.trouble)
        member = self.random.choice(list(self.members.values()))
        choice = self.random.random()
        if choice < 0.3:
            member.asleep_until_us = self.now_us + self.random.randrange(2_500 * MS)
        elif choice < 0.4:
            member.fence = self.make_fence(member.id, first_number=self.random.getrandbits(50) + 1)  # killed, and back at once
            member.leading, member.votes = False, set()
            member.fence.follow(member.term, member.mono_ms(self.now_us))
        elif choice < 0.7:
            pairs = [(one, other) for one in self.members for other in self.members if one != other]
            self.cut = {pair for pair in pairs if self.random.random() < 0.4}
        else:
            self.cut = set()

    def look(self) -> None:
        self.at(5 * MS, self.look)
        self.fired += sum(one.may_fire(self.now_us) for one in self.members.values())

    # -- what is promised
    def check(self) -> None:
        """Who lost its jobs fires only after it has applied that. (Sleeping, it fires nothing; woken, it looks at its fence.)"""
        self.taken = [one for one in self.taken if self.members[one[0]].applied < one[1]]
        for one, _, _ in self.taken:
            member = self.members[one]
            assert member.fence.until_ms(member.applied) != FENCE_ALONE_MS
            assert not member.may_fire(self.now_us), f"member {one} fires on after its jobs were given away"
