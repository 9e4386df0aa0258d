"""The fence: until when this member may trigger jobs, and which members cannot any more (decision 0008 has the proof).

Two members never trigger the same job, although the clocks of a cluster agree on nothing but the length of a second. A leader
may trigger for 600 ms after it *sent* a heartbeat that a quorum answered: whoever is elected without it is elected later than
that. It lends what is left of this to its members by heartbeat; a follower counts it from the instant at which it sent an
answer that the leader had in hand. Then the loan ends no later than the leader's own, however long the messages took.

A loan also says what was committed when it was given, and counts only once that is applied here: who holds one has seen every
handover that was committed 600 ms ago.

Invariant: a loan out of term T ends less than 600 ms after the first election behind T; of a member that is `dead` all have
ended, on any clock that runs within a hundredth of true.
Must not know: the kernel, clocks (`mono_ms` is an argument), jobs. `term` is always the kernel's own.
"""

from collections import deque
from collections.abc import Collection
from typing import Final, Protocol

from raftsched.limits import FENCE_ALONE_MS, FENCE_ELECTED_MS, FENCE_LOANS_MAX, FENCE_SILENT_MS, FENCE_SLEPT_MS, FENCE_WINDOW_MS

HEARTBEAT: Final = 8
HEARTBEAT_RESPONSE: Final = 9
UNBOUND: Final = -1


class Beat(Protocol):
    """What a message carries for the fence. Of a heartbeat: its number, the member's answer that came last (0 = none), what is
    lent (ms), and in `index`, which the kernel leaves free there, what was committed. Of an answer: its number, the heartbeat
    that came last."""

    type: int
    to: int
    sender: int
    term: int
    index: int
    beat: int
    echo: int
    left_ms: int


class Sent:
    """When this member sent what it numbered lately. Foreign numbers, of an earlier incarnation say, are simply not there."""

    def __init__(self, first_number: int) -> None:
        self.next_number = first_number
        self._sent: deque[tuple[int, int, int]] = deque(maxlen=FENCE_LOANS_MAX)

    def add(self, mono_ms: int, commit: int = UNBOUND) -> int:
        """The number of what is sent now; what is sent in one millisecond may share it."""
        if self._sent and self._sent[-1][1:] == (mono_ms, commit):
            return self._sent[-1][0]
        number = self.next_number
        self.next_number += 1
        self._sent.append((number, mono_ms, commit))
        return number

    def find(self, number: int) -> tuple[int, int] | None:
        """(when it was sent, what was committed then); None = not ours, or too long ago to matter."""
        if not self._sent or not self._sent[0][0] <= number <= self._sent[-1][0]:
            return None
        _, mono_ms, commit = self._sent[number - self._sent[0][0]]
        return mono_ms, commit


class Peer:
    """What a leader knows of another member, in this term."""

    __slots__ = ("answer", "answered_commit", "answered_ms", "heard_ms", "numbered_ms", "since_ms", "voter")

    def __init__(self, since_ms: int) -> None:
        self.since_ms = since_ms  # elected, or the member was added
        self.voter = False
        self.heard_ms: int | None = None
        self.numbered_ms: int | None = None  # heard with a number: from an answer without one no loan can count
        self.answer = 0  # number of its answer that came last; 0 = none
        self.answered_ms: int | None = None  # when the latest heartbeat that it answered was sent
        self.answered_commit = UNBOUND


class Fence:
    """One member's fence. Told its role after each kernel step, shown each heartbeat and answer: see docs/cluster.md."""

    def __init__(self, member_id: int, *, first_number: int) -> None:
        """`first_number` > 0, different in each incarnation (chance): by it echoes of an earlier one are known."""
        self._id = member_id
        self.stands_back = False
        """This member cannot take part in what follows from a tick, and wants its jobs to go to others: it numbers no answer."""
        self._term = 0
        self._leading = False
        self._counts_itself = False
        self._configuration: tuple[Collection[int], Collection[int]] = ((), ())
        self._peers: dict[int, Peer] = {}
        self._beats = Sent(first_number)  # heartbeats of this leader, and answers of this follower: one row of numbers each
        self._answers = Sent(first_number)
        self._came: tuple[int, int, int] = (0, 0, 0)  # (leader, term, its heartbeat that came last)
        self._until_ms = 0
        self._alone = False
        self._loans: deque[tuple[int, int]] = deque(maxlen=FENCE_LOANS_MAX)  # (commit, until): not applied so far yet
        self._beaten_ms = 0
        self._deaf_until_ms = 0

    # -- roles; told again after each kernel step, cheap when nothing changed
    def lead(self, term: int, voters: Collection[int], learners: Collection[int], mono_ms: int) -> None:
        """This member leads `term`, with this configuration in force."""
        if not self._leading or term != self._term:
            self._leading, self._term = True, term
            self._peers = {}
            self._configuration = ((), ())
            self._beats = Sent(self._beats.next_number)  # heartbeats of an earlier term vouch for nothing in this one
            self._beaten_ms = mono_ms
        if (voters, learners) != self._configuration:
            self._configure(voters, learners, mono_ms)

    def _configure(self, voters: Collection[int], learners: Collection[int], mono_ms: int) -> None:
        self._configuration = (frozenset(voters), frozenset(learners))
        others = {*voters, *learners} - {self._id}
        self._counts_itself = self._id in voters
        self._peers = {one: self._peers.get(one) or Peer(mono_ms) for one in sorted(others)}
        for one, peer in self._peers.items():
            peer.voter = one in voters
        alone = self._counts_itself and not others
        if self._alone and not alone:
            self._until_ms = max(self._until_ms, mono_ms + FENCE_WINDOW_MS)  # up to now nobody else could be elected
        self._alone = alone

    def follow(self, term: int, mono_ms: int) -> None:
        """This member does not lead. What was lent to it before still counts."""
        if self._alone:
            self._until_ms = max(self._until_ms, mono_ms + FENCE_WINDOW_MS)
        self._leading = self._alone = False
        self._term = term
        self._peers = {}

    # -- messages
    def outgoing(self, message: Beat, mono_ms: int, commit: int) -> None:
        """Right before a message is handed to the transport. `commit`: the leader's, or -1 while nothing of its own term is
        committed: what older leaders committed is not all known, and nothing is lent."""
        if message.term != self._term:
            return  # the kernel held it back, and time went on: it vouches for nothing
        if message.type == HEARTBEAT and self._leading:
            self._lend(message, mono_ms, commit)
        elif message.type == HEARTBEAT_RESPONSE and not self._leading and not self.stands_back:
            leader, term, beat = self._came
            if (leader, term) == (message.to, message.term):
                message.beat = self._answers.add(mono_ms)
                message.echo = beat

    def incoming(self, message: Beat, mono_ms: int) -> None:
        """After the kernel took it and the role was told: only then its term says that the sender was heard as what it is."""
        if message.term != self._term:
            return
        if message.type == HEARTBEAT and not self._leading and message.beat:
            self._came = (message.sender, message.term, message.beat)
            self._borrow(message)
        elif message.type == HEARTBEAT_RESPONSE and self._leading:
            self._hear(message, mono_ms)

    def _lend(self, message: Beat, mono_ms: int, commit: int) -> None:
        if mono_ms - self._beaten_ms > FENCE_SLEPT_MS:
            self._deaf_until_ms = mono_ms + FENCE_SLEPT_MS  # this process slept: what the others said is still to be read
        self._beaten_ms = mono_ms
        message.beat = self._beats.add(mono_ms, commit)
        peer = self._peers.get(message.to)
        own = self._quorum(mono_ms, commit)
        if peer is None or own is None or commit < 0:
            return  # it is being removed, or there is nothing to lend
        self._extend(own[0] + FENCE_WINDOW_MS, own[1])
        message.echo = peer.answer
        message.left_ms = max(0, own[0] + FENCE_WINDOW_MS - mono_ms)
        message.index = commit

    def _borrow(self, message: Beat) -> None:
        sent = self._answers.find(message.echo)
        if sent is not None and message.left_ms > 0:
            self._extend(sent[0] + min(message.left_ms, FENCE_WINDOW_MS), message.index)

    def _hear(self, message: Beat, mono_ms: int) -> None:
        peer = self._peers.get(message.sender)
        if peer is None:
            return
        peer.heard_ms = mono_ms
        if not message.beat:
            return  # it stands back: lost, for all that follows from loans
        peer.numbered_ms = mono_ms
        peer.answer = message.beat
        sent = self._beats.find(message.echo)
        if sent is not None and (peer.answered_ms is None or sent[0] >= peer.answered_ms):
            peer.answered_ms, peer.answered_commit = sent
            if (own := self._quorum(mono_ms, UNBOUND)) is not None:
                self._extend(own[0] + FENCE_WINDOW_MS, own[1])

    def _quorum(self, mono_ms: int, commit: int) -> tuple[int, int] | None:
        """When the latest heartbeat was sent that a quorum answered, and what was committed then; None = there is none."""
        voters = [peer for peer in self._peers.values() if peer.voter]
        needed = (len(voters) + self._counts_itself) // 2 + 1 - self._counts_itself
        if needed <= 0:
            return mono_ms, commit  # a lone voter with learners
        answered = sorted(((peer.answered_ms, peer.answered_commit) for peer in voters if peer.answered_ms is not None), reverse=True)
        return answered[needed - 1] if len(answered) >= needed else None

    def _extend(self, until_ms: int, commit: int) -> None:
        """A loan that is bound to nothing was given before this leader knew what is committed: it counts for nothing."""
        if commit >= 0 and until_ms > max(self._until_ms, self._loans[-1][1] if self._loans else 0):
            self._loans.append((commit, until_ms))

    # -- what others ask
    def until_ms(self, applied: int) -> int:
        """Monotonic ms until which this member may trigger; `applied`: the last entry applied here."""
        while self._loans and self._loans[0][0] <= applied:
            self._until_ms = max(self._until_ms, self._loans.popleft()[1])
        return FENCE_ALONE_MS if self._alone else self._until_ms

    def silent_ms(self, member: int, mono_ms: int) -> int:
        """For how long this leader has not heard a member; since its election, if never. Who does not lead knows of no silence: 0."""
        peer = self._peers.get(member)
        if peer is None:
            return 0
        return mono_ms - (peer.since_ms if peer.heard_ms is None else peer.heard_ms)

    def dead(self, mono_ms: int) -> list[int]:
        """Members that cannot trigger any more: without a numbered answer for 900 ms, or for the 700 ms since this leader's election."""
        if not self._leading or mono_ms < self._deaf_until_ms or mono_ms - self._beaten_ms > FENCE_SLEPT_MS:
            return []
        return [one for one, peer in self._peers.items() if _unnumbered_ms(peer, mono_ms) >= _patience_ms(peer)]

    def present(self, mono_ms: int, within_ms: int) -> list[int]:
        """Members that this leader heard within so many ms; empty elsewhere."""
        return [one for one, peer in self._peers.items() if peer.heard_ms is not None and mono_ms - peer.heard_ms <= within_ms]


def _unnumbered_ms(peer: Peer, mono_ms: int) -> int:
    return mono_ms - (peer.since_ms if peer.numbered_ms is None else peer.numbered_ms)


def _patience_ms(peer: Peer) -> int:
    return FENCE_ELECTED_MS if peer.numbered_ms is None else FENCE_SILENT_MS
