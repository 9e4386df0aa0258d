"""One member without IO: the kernel, the state machine, and who waits for what.

`step(events, mono_ms) -> Output{persist, send, reads, replies}`: what to write, whom to tell, what to answer. The same events at the
same times give the same outputs, so a whole cluster runs in a simulator on one thread.

Invariant: every token of every event is answered exactly once, a write with success only after its own entry was applied here;
what may or may not have happened is answered as a time-out, never as a failure.
Must not know: sockets, disks, the asyncio loop, clocks (`mono_ms` comes with each step).
"""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Final, NamedTuple

from raftsched import limits, proposals
from raftsched.errors import EtcdError
from raftsched.store import codec
from raftsched.store.apply import Applier
from raftsched.store.codec import RequestIds, largest, wrap
from raftsched.store.fence import Fence
from raftsched.store.kinds import Gate
from raftsched.store.raft._kernel import Kernel, Message, Ready, Run
from raftsched.store.reading import Reading
from raftsched.store.waiters import SEQUENCE_MASK, Reply, Waiters, Waiting
from raftsched.types import HardState, Result, ResultSink

LEADER = 3
PROPOSE: Final = 2
BEATS: Final = frozenset({8, 9})  # heartbeats and their answers
CATCH_UP_ENTRIES = 5_000  # etcd's --snapshot-catchup-entries: kept in memory for followers
CATCH_UP_BYTES = 64 << 20

# The kernel's negative answers to a proposal, and what they mean to a client.
NOBODY, MOVING, FULL = -1, -2, -3
BEYOND = -7  # and the replica's own: the cluster's version does not allow it
NO_ROOM = -8  # the disks are full
PROPOSE_ERRORS: Final[dict[int, EtcdError]] = {
    NOBODY: EtcdError.NO_LEADER,
    MOVING: EtcdError.TOO_MANY_REQUESTS,  # over in a moment
    FULL: EtcdError.TOO_MANY_REQUESTS,
    BEYOND: EtcdError.NOT_CAPABLE,
    NO_ROOM: EtcdError.NO_SPACE,
}
PRIVILEGED: Final = frozenset({proposals.DELETE_RANGE, proposals.COMPACTION, proposals.LEASE_REVOKE, proposals.ALARM})
"""May use the reserve of a full disk: they free space, or say that there is none."""

# -- events


class Propose(NamedTuple):
    """Requests of one kind; one token each. `term`: what follows from being the leader of that term, and is of nobody else; 0 = whoever
    leads takes them. `identity`: whose they are, as `codec.wrap` takes it."""

    kind: int
    messages: Sequence[bytes]
    tokens: Sequence[int]
    sink: ResultSink
    term: int = 0
    identity: bytes = b""

    def cut(self, start: int, stop: int) -> "Propose":
        """Some of the requests, with their tokens."""
        return self._replace(messages=self.messages[start:stop], tokens=self.tokens[start:stop])


class ProposeChange(NamedTuple):
    """A raftpb.ConfChange with the id `change_id`, at the leader alone; one token 0, answered as a proposal's. What the kernel refuses is
    answered in the same step, with the kernel's own negative number."""

    change: bytes
    change_id: int
    sink: ResultSink


class Read(NamedTuple):
    """Something to serve once everything that was committed before has been applied: `serve(error)`, 0 = now."""

    serve: Callable[[int], None]


class Transfer(NamedTuple):
    """Move leadership to this voter; without effect unless this member leads."""

    member: int


class Tick(NamedTuple):
    """One heartbeat interval has passed."""


class Persisted(NamedTuple):
    """Every batch up to this number is synced."""

    batch: int


class Received(NamedTuple):
    """A message of another member, whose sender was checked."""

    message: Message


class Unsent(NamedTuple):
    """A copy of what was forwarded so surely never left: the queue to the leader was `full`, or the connection broke before."""

    sequence: int
    full: bool


class More(NamedTuple):
    """Go on with what the last step left (`Output.more`)."""


Event = Propose | ProposeChange | Read | Transfer | Tick | Persisted | Received | Unsent | More


class Persist(NamedTuple):
    """One batch for the log."""

    batch: int
    hard_state: HardState | None
    entries: list[Run]


class Output:
    """What the driver does, in this order: persist, send, (tell the changes of `applied` entries), replies, reads."""

    __slots__ = ("applied", "catch_ups", "leader_changed", "members_changed", "more", "persist", "reads", "replies", "send")

    def __init__(self) -> None:  # by hand: it is made twice per batch
        self.persist: Persist | None = None
        self.send: Sequence[Message] = ()
        self.applied = 0
        self.replies: list[Reply] = []
        self.reads: list[tuple[Callable[[int], None], int]] = []
        self.catch_ups: Sequence[tuple[int, int]] = ()
        self.more = False
        self.leader_changed = False
        self.members_changed = False


class Replica:
    """See the module's text."""

    def __init__(
        self,
        kernel: Kernel,
        applier: Applier,
        ids: RequestIds,
        *,
        request_bytes_max: int = limits.REQUEST_BYTES_MAX,
        request_timeout_ms: int = limits.REQUEST_TIMEOUT_MS,
        lease_extend_ms: int = 1_000,
    ) -> None:
        self.kernel = kernel
        self.applier = applier
        self.ids = ids
        self.fence = Fence(kernel.id, first_number=ids.lease_id())
        self.gate = Gate()
        self.waiters = Waiters()
        self.connection: Callable[[int], int] = lambda _member: 1
        """The number of the connection to that member, never that of an earlier one; 0 = none: what cannot be sent waits, instead of being
        lost."""
        self.reading = Reading(kernel, ids, request_timeout_ms)
        self._request_bytes_max = request_bytes_max
        self._request_timeout_ms = request_timeout_ms
        self._lease_extend_ms = lease_extend_ms
        self._leaderless: deque[tuple[int, Propose]] = deque()  # (deadline, proposals) that wait for a leader
        self._leaderless_count = 0
        self._leaderless_bytes = 0
        self._leader = 0
        self._leader_term = 0
        self._forwarded_on = 0  # the connection
        self._moving = (0, 0)  # a leader and its term that takes nothing now, since it hands over; asked again at the next tick
        self._led_term = 0
        self._elected_ms = -(1 << 40)
        self._held: deque[tuple[int, int]] = deque()  # applied runs that memory may still hold: (last index, bytes)
        self._held_bytes = 0
        self.no_room = False
        """As the leader: takes nothing more of others but what is privileged (`node/room.py`)."""
        self.proposals_failed_total = 0
        self.leader_changes_total = 0
        self.entries_proposed_total = 0
        self._handlers: dict[type, Callable[..., None]] = {
            Propose: self._propose,
            ProposeChange: self._propose_change,
            Read: lambda event, output, mono_ms: self.reading.ask(event.serve, mono_ms, output.reads),
            Transfer: self._transfer,
            Tick: self._tick,
            Received: self._received,
            Unsent: self._unsent,
            More: lambda _event, _output, _mono_ms: None,
        }

    def step(self, events: Sequence[Event], mono_ms: int) -> Output:
        """Takes the events in order; everything that follows from them, but at most one slice of applying (`Output.more`)."""
        output, kernel = Output(), self.kernel
        for event in events:
            if type(event) is Persisted:
                kernel.persisted(event.batch)
            else:
                self._handlers[type(event)](event, output, mono_ms)
        if kernel.state != LEADER and len(self.waiters):
            self._forward_again()
        if self._leaderless and self._has_leader():
            self._leader_found(output, mono_ms)
        if self.reading.asked and self._has_leader():
            self.reading.request(mono_ms)
        ready = kernel.ready()
        if ready is not None:
            self._take(ready, output, mono_ms)
        if self.reading.waiting:
            self.reading.serve(kernel.applied, output.reads)
        if kernel.leader != self._leader or kernel.term != self._led_term:
            self._watch_leader(output, mono_ms)
        applied = kernel.applied
        output.more = output.more or (applied < kernel.commit and applied < kernel.stable)
        return output

    def absorb(self, message: Message, mono_ms: int) -> bool:
        """Takes a peer's message between two steps if it changes books alone: an ack, or an answer to a heartbeat. Whether a step has to
        follow, `kernel.has_ready` says. False: it was not taken."""
        if not self.kernel.absorb(message):
            return False
        if message.type in BEATS:
            self._tell_role(mono_ms)
            self.fence.incoming(message, mono_ms)
        return True

    def _take(self, ready: Ready, output: Output, mono_ms: int) -> None:
        if ready.batch:
            hard_state = HardState(*ready.hard_state) if ready.hard_state else None
            output.persist = Persist(ready.batch, hard_state, ready.entries)
        output.send = ready.messages
        if ready.messages:
            self._stamp(ready.messages, mono_ms)
        output.catch_ups = ready.catch_ups
        for sequence, error in ready.refusals:
            self._not_taken(sequence, error, output)
        if ready.committed:
            self._apply(ready.committed, output, mono_ms)
        for context, index in ready.read_states:
            self.reading.known(context, index)
        for context in ready.read_failures:
            self.reading.lost(context, output.reads)

    @property
    def readable(self) -> bool:
        """A linearizable read may be served at once: a lone voter that has committed in its term and applied all of it."""
        kernel = self.kernel
        return kernel.applied == kernel.commit and len(kernel.voter_ids) == 1 and kernel.committed_in_term

    @property
    def is_alone(self) -> bool:
        """It is the only voter; there may be learners."""
        return self.kernel.voter_ids == {self.kernel.id}

    @property
    def pending(self) -> int:
        """Proposals that wait for their answer, in batches."""
        return len(self.waiters) + len(self._leaderless)

    def waiting_since_ms(self) -> int:
        """When the oldest proposal without an answer came; 0 = there is none."""
        leaderless = self._leaderless[0][0] - self._request_timeout_ms if self._leaderless else 0
        return min(filter(None, (self.waiters.since_ms(), leaderless)), default=0)

    def _refused(self, error: EtcdError) -> Result:
        return (error, self.applier.store.revision, b"")

    # -- writes

    def _propose(self, event: Propose, output: Output, mono_ms: int) -> None:
        kernel = self.kernel
        if self._is_stale(event):
            self._refuse(event, EtcdError.NOT_LEADER, output)
        elif event.kind not in self._open_kinds():
            self._refuse(event, EtcdError.NOT_CAPABLE, output)
        elif self._leaderless or not self._has_leader():  # behind those that wait: ids and deadlines stay in order
            self._wait_for_leader(event, output, mono_ms + self._request_timeout_ms)
        elif kernel.commit - kernel.applied > limits.PROPOSALS_PENDING_MAX:
            self._refuse(event, EtcdError.TOO_MANY_REQUESTS, output)
        else:
            self._pass_on(event, output, mono_ms, mono_ms + self._request_timeout_ms)

    def _open_kinds(self) -> frozenset[int]:
        """What may be proposed. What waits for a leader need not be asked again: the cluster's version falls only when an operator
        downgrades it, and whoever is a member at that moment still knows what was allowed before."""
        return self.gate.open(self.applier.membership.cluster_version)

    def _has_leader(self) -> bool:
        """One that takes proposals of this member."""
        kernel = self.kernel
        if kernel.state == LEADER:
            return not kernel.transferee
        return kernel.leader != 0 and (kernel.leader, kernel.term) != self._moving and self.connection(kernel.leader) != 0

    def _pass_on(self, event: Propose, output: Output, mono_ms: int, deadline_ms: int) -> None:
        """To the log, or to the leader, with ids of this member: whoever appends it, it is answered at its own apply here."""
        if self.kernel.state != LEADER:
            self._forward_again()
            for part in self._parts(event):
                self._pass_part(part, output, mono_ms, deadline_ms)
        else:
            self._pass_part(event, output, mono_ms, deadline_ms)

    def _pass_part(self, event: Propose, output: Output, mono_ms: int, deadline_ms: int) -> None:
        kernel = self.kernel
        leads = kernel.state == LEADER
        size_bytes = largest(event.messages)[1]
        if not self.waiters.has_room(len(event.messages), size_bytes):
            self._refuse(event, EtcdError.TOO_MANY_REQUESTS, output)
            return
        first_id = self.ids.take(len(event.messages))
        entries = wrap(event.kind, event.messages, first_id, event.identity)
        longest, _ = largest(entries)
        if longest > self._request_bytes_max:
            self._propose_fitting(event, entries, output, mono_ms, deadline_ms)
            return
        first = kernel.propose(entries) if leads else -int(not kernel.forward(entries, first_id & SEQUENCE_MASK))
        if first < 0:
            self._refuse(event, PROPOSE_ERRORS[first], output)
            return
        self.entries_proposed_total += len(entries)
        times = {"asked_ms": deadline_ms - self._request_timeout_ms, "deadline_ms": deadline_ms}
        sent = None if leads else (event.kind, event.messages, event.identity)
        self.waiters.add(Waiting(first_id, event.tokens, event.sink, term=kernel.term, messages=sent, size_bytes=size_bytes, **times))

    @staticmethod
    def _parts(event: Propose) -> list[Propose]:
        """What goes to the leader in one message each: one request at least."""
        count = len(event.messages)
        if count == 1 or (count <= limits.FORWARD_ENTRIES_MAX and largest(event.messages)[1] <= limits.FORWARD_BYTES_MAX):
            return [event]
        edges, size_bytes = [0], 0
        for at, message in enumerate(event.messages):
            size_bytes += len(message)
            if at > edges[-1] and (size_bytes > limits.FORWARD_BYTES_MAX or at - edges[-1] >= limits.FORWARD_ENTRIES_MAX):
                edges.append(at)
                size_bytes = len(message)
        return [event.cut(start, stop) for start, stop in pairwise([*edges, count])]

    def _forward_again(self) -> None:
        """The connection to the leader is another one: what was under way on the one before may be lost, so all without an answer goes
        again, under its ids and before anything newer, since the leader takes rising sequences alone and drops what it has seen. In this
        term alone: another leader has seen nothing, and may have it in its log."""
        connection = self.connection(self.kernel.leader)
        if not connection or connection == self._forwarded_on:
            return
        self._forwarded_on = connection
        for one in self.waiters.repeat(self.kernel.term, limits.FORWARD_AGAIN_BYTES_MAX):
            if one.messages is not None:
                kind, messages, identity = one.messages
                self.kernel.forward(wrap(kind, messages, one.first_id, identity), one.first_id & SEQUENCE_MASK)

    def _unsent(self, event: Unsent, output: Output, _mono_ms: int) -> None:
        if not self.waiters.was_repeated(event.sequence):  # else an earlier copy may have been taken: neither refused nor asked for anew
            self._not_taken(event.sequence, FULL if event.full else NOBODY, output)

    def _not_taken(self, sequence: int, why: int, output: Output) -> None:
        """Surely not proposed. Who hands over, or whose connection broke, is waited for; who is overloaded, or says never, is not asked
        again."""
        if why in (FULL, BEYOND, NO_ROOM):
            self.waiters.refuse(sequence, self._refused(PROPOSE_ERRORS[why]), output.replies)
            return
        if why == MOVING:
            self._moving = (self.kernel.leader, self.kernel.term)
        waiting = self.waiters.withdraw(sequence)
        if waiting is not None:
            self._ask_again([waiting], output)

    def _ask_again(self, sent: Sequence[Waiting], output: Output) -> None:
        """What was forwarded and surely is in no log waits for a leader, within its time."""
        for one in sent:
            if one.messages is not None:
                kind, messages, identity = one.messages
                self._wait_for_leader(Propose(kind, messages, one.tokens, one.sink, identity=identity), output, one.deadline_ms)
        self._leaderless = deque(sorted(self._leaderless, key=itemgetter(0)))  # who came first asks first

    def _refuse(self, event: Propose, error: EtcdError, output: Output) -> None:
        self.proposals_failed_total += len(event.tokens)
        output.replies.append((event.sink, event.tokens, [self._refused(error)] * len(event.tokens)))

    def _wait_for_leader(self, event: Propose, output: Output, deadline_ms: int) -> None:
        """A failover takes less than a second: who asks meanwhile need not ask again. It has no id yet, so its failure is certain."""
        _, size_bytes = largest(event.messages)
        count = self._leaderless_count + len(event.tokens)
        if self._leaderless and (count > limits.PROPOSALS_PENDING_MAX or self._leaderless_bytes + size_bytes > limits.LEADERLESS_BYTES_MAX):
            self._refuse(event, EtcdError.TOO_MANY_REQUESTS, output)
            return
        self._leaderless_count = count
        self._leaderless_bytes += size_bytes
        self._leaderless.append((deadline_ms, event))

    def _leader_found(self, output: Output, mono_ms: int) -> None:
        leaderless, self._leaderless = self._leaderless, deque()
        self._leaderless_count = self._leaderless_bytes = 0
        for deadline_ms, event in leaderless:
            if self._is_stale(event):
                self._refuse(event, EtcdError.NOT_LEADER, output)
            else:
                self._pass_on(event, output, mono_ms, deadline_ms)

    def _is_stale(self, event: Propose) -> bool:
        kernel = self.kernel
        return bool(event.term) and (kernel.state != LEADER or kernel.term != event.term or kernel.transferee != 0)

    def _propose_change(self, event: ProposeChange, output: Output, mono_ms: int) -> None:
        first = self.kernel.propose_change(event.change)
        if first < 0:
            output.replies.append((event.sink, [0], [(first, self.applier.store.revision, b"")]))
            return
        deadline_ms = mono_ms + self._request_timeout_ms
        self.waiters.add(Waiting(event.change_id, [0], event.sink, term=self.kernel.term, asked_ms=mono_ms, deadline_ms=deadline_ms))

    def _propose_fitting(self, event: Propose, entries: list[bytes], output: Output, mono_ms: int, deadline_ms: int) -> None:
        """Some are too large: refuses those, proposes the others."""
        fits = [len(entry) <= self._request_bytes_max for entry in entries]
        large = [token for token, fit in zip(event.tokens, fits, strict=True) if not fit]
        output.replies.append((event.sink, large, [self._refused(EtcdError.REQUEST_TOO_LARGE)] * len(large)))
        small = [(message, token) for message, token, fit in zip(event.messages, event.tokens, fits, strict=True) if fit]
        if small:
            rest = event._replace(messages=[message for message, _ in small], tokens=[token for _, token in small])
            self._pass_on(rest, output, mono_ms, deadline_ms)

    def _apply(self, runs: list[Run], output: Output, mono_ms: int) -> None:
        self.applier.set_time(mono_ms)
        for first, term, kind, entries in runs:
            if term != self.applier.applied_term:
                lost = self.waiters.lose(term, self._refused(EtcdError.LEADER_CHANGED), output.replies)
                if lost:
                    self._ask_again(lost, output)
            ids, results = self.applier.apply(first, term, kind, entries)
            output.applied += len(entries)
            size_bytes = largest(entries)[1]
            self._held.append((first + len(entries) - 1, size_bytes))
            self._held_bytes += size_bytes
            if kind:
                output.members_changed = True
                self._tell_role(mono_ms)
            self.waiters.resolve(ids, results, output.replies)
        applied = self.applier.applied_index
        self.kernel.advance(applied)
        self._trim(applied)

    def _trim(self, applied: int) -> None:
        """Bounds the applied entries in memory, whoever proposed them; followers that need older ones get them from the log on disk."""
        kernel, held = self.kernel, self._held
        if applied - kernel.first_index < 2 * CATCH_UP_ENTRIES and self._held_bytes <= CATCH_UP_BYTES:
            return
        alone = len(kernel.voter_ids) == 1 and not kernel.learner_ids
        keep_entries, keep_bytes = (0, 0) if alone else (CATCH_UP_ENTRIES, CATCH_UP_BYTES // 2)
        index = 0
        while held and (applied - held[0][0] >= keep_entries or self._held_bytes > keep_bytes):
            index, size_bytes = held.popleft()
            self._held_bytes -= size_bytes
        if index >= kernel.first_index:
            kernel.compact(index)

    # -- time, members and leadership

    def _received(self, event: Received, _output: Output, mono_ms: int) -> None:
        message = event.message
        if message.type == PROPOSE and (why := self._objection(message)):
            self.kernel.refuse(message, why)
            return
        self.kernel.step(message)
        if message.type in BEATS:
            self._tell_role(mono_ms)
            self.fence.incoming(message, mono_ms)

    def _objection(self, message: Message) -> int:
        """Why what a member forwards is not taken; 0 = nothing is against it."""
        for _, _, _, entries in message.runs:
            kinds = codec.kinds_of(entries)
            if not kinds <= self._open_kinds():
                return BEYOND  # its member has not asked its own gate
            if self.no_room and not kinds <= PRIVILEGED:
                return NO_ROOM
        return 0

    def _transfer(self, event: Transfer, _output: Output, _mono_ms: int) -> None:
        self.kernel.transfer(event.member)

    def _stamp(self, messages: Sequence[Message], mono_ms: int) -> None:
        """What heartbeats and their answers carry for the fence."""
        beats = [message for message in messages if message.type in BEATS]
        if beats:
            self._tell_role(mono_ms)
            commit = self.kernel.commit if self.kernel.committed_in_term else -1
            for message in beats:
                self.fence.outgoing(message, mono_ms, commit)

    def _tell_role(self, mono_ms: int) -> None:
        kernel = self.kernel
        if kernel.state == LEADER:
            self.fence.lead(kernel.term, kernel.voter_ids, kernel.learner_ids, mono_ms)
        else:
            self.fence.follow(kernel.term, mono_ms)

    def _tick(self, _event: Tick, output: Output, mono_ms: int) -> None:
        self.kernel.tick()
        self._moving = (0, 0)
        self.waiters.expire(mono_ms, self._timed_out, output.replies)
        while self._leaderless and self._leaderless[0][0] <= mono_ms:
            deadline_ms, event = self._leaderless.popleft()
            self._leaderless_count -= len(event.tokens)
            self._leaderless_bytes -= largest(event.messages)[1]
            error = self._timed_out(deadline_ms - self._request_timeout_ms)
            output.replies.append((event.sink, event.tokens, [error] * len(event.tokens)))
        self.reading.tick(mono_ms, output.reads)

    def _timed_out(self, asked_ms: int) -> Result:
        """As etcd tells apart what a request waited for (server.go, parseProposeCtxErr)."""
        lost_ms = self._elected_ms - 2 * self._lease_extend_ms
        failed_over = lost_ms < asked_ms < self._elected_ms
        return self._refused(EtcdError.TIMEOUT_LEADER_FAILURE if failed_over else EtcdError.TIMEOUT)

    def _watch_leader(self, output: Output, mono_ms: int) -> None:
        kernel = self.kernel
        if kernel.leader != self._leader or (kernel.leader and kernel.term != self._leader_term):
            self._leader, self._leader_term = kernel.leader, kernel.term
            self._tell_role(mono_ms)
            output.leader_changed = True
            if kernel.leader:
                self.leader_changes_total += 1
                self._elected_ms = mono_ms
        lessor = self.applier.lessor
        if lessor.primary and (kernel.state != LEADER or self._led_term != kernel.term):
            lessor.demote()  # also if it leads again: another may have renewed leases in between
        if kernel.state == LEADER and self._led_term != kernel.term and kernel.committed_in_term and kernel.applied == kernel.commit:
            # Only now all leases that older leaders granted or revoked are known.
            self._led_term = kernel.term
            lessor.promote(mono_ms, self._lease_extend_ms)

    def stop(self, events: Sequence[Event] = ()) -> Output:
        """Answers everyone who still waits, those in `events` that no step has taken too: the outcome of what was proposed is unknown."""
        output = Output()
        stopped = self._refused(EtcdError.STOPPED)
        self.waiters.expire(1 << 62, lambda _asked_ms: stopped, output.replies)
        held = [event for _, event in self._leaderless]
        self._leaderless.clear()
        for event in (*held, *events):
            if isinstance(event, Propose):
                output.replies.append((event.sink, event.tokens, [stopped] * len(event.tokens)))
            elif isinstance(event, ProposeChange):
                output.replies.append((event.sink, [0], [stopped]))
            elif isinstance(event, Read):
                output.reads.append((event.serve, int(EtcdError.STOPPED)))
        self.reading.stop(output.reads)
        return output
