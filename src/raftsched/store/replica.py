"""One member without IO: the kernel, the state machine, and who waits for what.

`step(events, mono_ms) -> Output{persist, send, reads, replies}`: what to write, whom to tell, what to answer. The same events at the
same times give the same outputs, so a whole cluster runs in a simulator on one thread.

Invariant: every token of every event is answered exactly once, a write with success only after its own entry was applied here;
what may or may not have happened is answered as a time-out, never as a failure.
Must not know: sockets, disks, the asyncio loop, clocks (`mono_ms` comes with each step).
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from raftsched import limits
from raftsched.errors import EtcdError
from raftsched.store.apply import Applier, IdRun
from raftsched.store.codec import RequestIds, largest, wrap
from raftsched.store.raft._kernel import Kernel, Message, Ready, Run
from raftsched.types import HardState, Result, ResultSink

LEADER = 3
CATCH_UP_ENTRIES = 5_000  # etcd's --snapshot-catchup-entries: kept in memory for followers
CATCH_UP_BYTES = 64 << 20

# -- events


class Propose(NamedTuple):
    """Requests of one kind; one token each."""

    kind: int
    messages: Sequence[bytes]
    tokens: Sequence[int]
    sink: ResultSink


class ProposeChange(NamedTuple):
    """A raftpb.ConfChange of this member's own; nobody waits for it."""

    change: bytes


class Read(NamedTuple):
    """Something to serve once everything that was committed before has been applied: `serve(error)`, 0 = now."""

    serve: Callable[[int], None]


class Tick(NamedTuple):
    """One heartbeat interval has passed."""


class Persisted(NamedTuple):
    """Every batch up to this number is synced."""

    batch: int


class Received(NamedTuple):
    """A message of another member, whose sender was checked."""

    message: Message


class More(NamedTuple):
    """Go on with what the last step left (`Output.more`)."""


Event = Propose | ProposeChange | Read | Tick | Persisted | Received | More


class Persist(NamedTuple):
    """One batch for the log."""

    batch: int
    hard_state: HardState | None
    entries: list[Run]


Reply = tuple[ResultSink, Sequence[int], Sequence[Result]]


class Output:
    """What the driver does, in this order: persist, send, (tell the changes of `applied` entries), replies, reads."""

    __slots__ = ("applied", "catch_ups", "leader_changed", "more", "persist", "reads", "replies", "send")

    def __init__(self) -> None:  # by hand: it is made twice per batch
        self.persist: Persist | None = None
        self.send: Sequence[Message] = ()
        self.applied = 0
        self.replies: list[Reply] = []
        self.reads: list[tuple[Callable[[int], None], int]] = []
        self.catch_ups: Sequence[tuple[int, int]] = ()
        self.more = False
        self.leader_changed = False


class Waiting:
    """Proposals of one event that are not all answered yet."""

    __slots__ = ("answered", "count", "deadline_ms", "done", "first_id", "sink", "tokens")

    def __init__(self, first_id: int, tokens: Sequence[int], sink: ResultSink, deadline_ms: int) -> None:
        self.first_id = first_id
        self.count = len(tokens)
        self.tokens = tokens
        self.sink = sink
        self.deadline_ms = deadline_ms
        self.answered = 0
        self.done: set[int] | None = None  # positions answered, once they were not answered all at a time

    def answer(self, offset: int, results: list[Result]) -> Reply | None:
        """Tokens `offset ...` get these results, but none twice."""
        if len(results) == self.count and not self.answered:
            self.answered = self.count
            return self.sink, self.tokens, results
        if self.done is None:
            self.done = set()
        fresh = [] if self.full else [position for position in range(offset, offset + len(results)) if position not in self.done]
        self.done.update(fresh)
        self.answered += len(fresh)
        tokens = [self.tokens[position] for position in fresh]
        return (self.sink, tokens, [results[position - offset] for position in fresh]) if fresh else None

    def give_up(self, result: Result) -> Reply | None:
        done = self.done or set()
        tokens = [token for position, token in enumerate(self.tokens) if position not in done] if not self.full else []
        self.answered = self.count
        return (self.sink, tokens, [result] * len(tokens)) if tokens else None

    @property
    def full(self) -> bool:
        return self.answered >= self.count


class Waiters:
    """Who waits for which request id. Ids rise, so those who wait are in order of their ids and of their deadlines."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, waiting: Waiting) -> None:
        self._waiting.append(waiting)

    def _find(self, request_id: int) -> Waiting | None:
        if not self._waiting:
            return None
        found = self._waiting[0]  # nearly always: entries come in the order in which they were proposed
        if not 0 <= request_id - found.first_id < found.count:
            position = bisect_right(self._waiting, request_id, key=lambda one: one.first_id) - 1
            if position < 0:
                return None
            found = self._waiting[position]
        return found if request_id - found.first_id < found.count else None

    def resolve(self, ids: list[IdRun], results: list[Result], replies: list[Reply]) -> None:
        """Results of applied entries, by runs of neighbouring ids, to whoever waits for them."""
        for first_id, start, stop in ids:
            at, request_id = start, first_id
            while at < stop:
                waiting = self._find(request_id)
                count = 1
                if waiting is not None:
                    offset = request_id - waiting.first_id
                    count = min(waiting.count - offset, stop - at)
                    whole = at == 0 and count == len(results)
                    reply = waiting.answer(offset, results if whole else results[at : at + count])
                    if reply is not None:
                        replies.append(reply)
                    while self._waiting and self._waiting[0].full:
                        self._waiting.popleft()
                at += count
                request_id += count

    def expire(self, mono_ms: int, result: Result, replies: list[Reply]) -> None:
        while self._waiting and (self._waiting[0].full or self._waiting[0].deadline_ms <= mono_ms):
            reply = self._waiting.popleft().give_up(result)
            if reply is not None:
                replies.append(reply)


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
        self.waiters = Waiters()
        self._request_bytes_max = request_bytes_max
        self._request_timeout_ms = request_timeout_ms
        self._lease_extend_ms = lease_extend_ms
        self._reads_asked: list[Read] = []  # of this step
        self._reads_waiting: deque[tuple[int, int, list[Read]]] = deque()  # (index, deadline, reads): applied >= index is awaited
        self._reads_open: dict[int, tuple[int, list[Read]]] = {}  # context -> (deadline, reads): an index is awaited
        self._leader = 0
        self._led_term = 0
        self._held_bytes = 0
        self.proposals_failed_total = 0
        self.leader_changes_total = 0
        self.reads_failed_total = 0  # read indexes: no leader, or it changed
        self.reads_timed_out_total = 0
        self.entries_proposed_total = 0
        self._handlers: dict[type, Callable[..., None]] = {
            Propose: self._propose,
            ProposeChange: self._propose_change,
            Read: self._read,
            Tick: self._tick,
            Received: lambda event, _output, _mono_ms: self.kernel.step(event.message),
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
        if self._reads_asked:
            self._ask_index(output, mono_ms)
        ready = kernel.ready()
        if ready is not None:
            self._take(ready, output, mono_ms)
        if self._reads_waiting:
            self._serve_reads(output)
        if kernel.leader != self._leader or kernel.term != self._led_term:
            self._watch_leader(output, mono_ms)
        applied = kernel.applied
        output.more = applied < kernel.commit and applied < kernel.stable
        return output

    def _take(self, ready: Ready, output: Output, mono_ms: int) -> None:
        if ready.batch:
            hard_state = HardState(*ready.hard_state) if ready.hard_state else None
            output.persist = Persist(ready.batch, hard_state, ready.entries)
        output.send = ready.messages
        output.catch_ups = ready.catch_ups
        if ready.committed:
            self._apply(ready.committed, output, mono_ms)
        for context, index in ready.read_states:
            self._index_known(context, index, output)
        for context in ready.read_failures:
            self._index_lost(context, output)

    @property
    def readable(self) -> bool:
        """A linearizable read may be served at once: a lone voter that has committed in its term and applied all of it."""
        kernel = self.kernel
        return kernel.applied == kernel.commit and len(kernel.voter_ids) == 1 and kernel.committed_in_term

    @property
    def pending(self) -> int:
        """Proposals that wait for their answer, in batches."""
        return len(self.waiters)

    # -- writes

    def _propose(self, event: Propose, output: Output, mono_ms: int) -> None:
        error = self._propose_error()
        messages, tokens = event.messages, event.tokens
        entries: list[bytes] = []
        if not error:
            first_id = self.ids.take(len(messages))
            entries = wrap(event.kind, messages, first_id)
            longest, total = largest(entries)
            if longest > self._request_bytes_max:
                self._propose_fitting(event, entries, output, mono_ms)
                return
            first = self.kernel.propose(entries)
            if first > 0:
                self._held_bytes += total
                self.entries_proposed_total += len(entries)
                self.waiters.add(Waiting(first_id, tokens, event.sink, mono_ms + self._request_timeout_ms))
                return
            error = EtcdError.TOO_MANY_REQUESTS if first == -3 else EtcdError.NO_LEADER
        self.proposals_failed_total += len(tokens)
        output.replies.append((event.sink, tokens, [(error, self.applier.store.revision, b"")] * len(tokens)))

    def _propose_change(self, event: ProposeChange, _output: Output, _mono_ms: int) -> None:
        self.kernel.propose_change(event.change)

    def _propose_error(self) -> EtcdError:
        kernel = self.kernel
        if kernel.state != LEADER:
            return EtcdError.NO_LEADER
        if kernel.commit - kernel.applied > limits.PROPOSALS_PENDING_MAX:
            return EtcdError.TOO_MANY_REQUESTS
        return EtcdError.OK

    def _propose_fitting(self, event: Propose, entries: list[bytes], output: Output, mono_ms: int) -> None:
        """Some are too large: refuses those, proposes the others."""
        fits = [len(entry) <= self._request_bytes_max for entry in entries]
        large = [token for token, fit in zip(event.tokens, fits, strict=True) if not fit]
        output.replies.append((event.sink, large, [(EtcdError.REQUEST_TOO_LARGE, self.applier.store.revision, b"")] * len(large)))
        small = [(message, token) for message, token, fit in zip(event.messages, event.tokens, fits, strict=True) if fit]
        if small:
            rest = Propose(event.kind, [message for message, _ in small], [token for _, token in small], event.sink)
            self._propose(rest, output, mono_ms)

    def _apply(self, runs: list[Run], output: Output, mono_ms: int) -> None:
        self.applier.lessor.set_time(mono_ms)
        for first, term, kind, entries in runs:
            ids, results = self.applier.apply(first, term, kind, entries)
            output.applied += len(entries)
            self.waiters.resolve(ids, results, output.replies)
        applied = self.applier.applied_index
        self.kernel.advance(applied)
        self._trim(applied)

    def _trim(self, applied: int) -> None:
        """Bounds the log in memory; followers that need older entries get them from the log on disk."""
        kernel = self.kernel
        alone = len(kernel.voter_ids) == 1 and not kernel.learner_ids
        if applied - kernel.first_index >= 2 * CATCH_UP_ENTRIES or self._held_bytes > CATCH_UP_BYTES:
            keep = 0 if alone else CATCH_UP_ENTRIES if self._held_bytes <= CATCH_UP_BYTES else CATCH_UP_ENTRIES // 10
            if applied - keep >= kernel.first_index:
                kernel.compact(applied - keep)
            self._held_bytes = 0

    # -- reads

    def _read(self, event: Read, _output: Output, _mono_ms: int) -> None:
        self._reads_asked.append(event)

    def _ask_index(self, output: Output, mono_ms: int) -> None:
        """One read index for all reads of this step."""
        reads, self._reads_asked = self._reads_asked, []
        context = self.ids.lease_id()  # unique over restarts: an answer that comes late must not match
        if not self.kernel.read_index(context):
            self.reads_failed_total += 1
            self._refuse_reads(reads, EtcdError.NO_LEADER, output)
            return
        self._reads_open[context] = (mono_ms + self._request_timeout_ms, reads)

    def _index_known(self, context: object, index: int, _output: Output) -> None:
        found = self._reads_open.pop(context, None) if isinstance(context, int) else None
        if found is not None:
            self._reads_waiting.append((index, found[0], found[1]))

    def _index_lost(self, context: object, output: Output) -> None:
        found = self._reads_open.pop(context, None) if isinstance(context, int) else None
        if found is not None:
            self.reads_failed_total += 1
            self._refuse_reads(found[1], EtcdError.LEADER_CHANGED, output)

    def _serve_reads(self, output: Output) -> None:
        applied = self.kernel.applied
        while self._reads_waiting and self._reads_waiting[0][0] <= applied:
            output.reads.extend((read.serve, 0) for read in self._reads_waiting.popleft()[2])

    def _refuse_reads(self, reads: list[Read], error: EtcdError, output: Output) -> None:
        output.reads.extend((read.serve, int(error)) for read in reads)

    # -- time and leadership

    def _tick(self, _event: Tick, output: Output, mono_ms: int) -> None:
        self.kernel.tick()
        self.waiters.expire(mono_ms, (EtcdError.TIMEOUT, self.applier.store.revision, b""), output.replies)
        for context in [one for one, (deadline, _) in self._reads_open.items() if deadline <= mono_ms]:
            self.reads_timed_out_total += 1
            self._refuse_reads(self._reads_open.pop(context)[1], EtcdError.TIMEOUT, output)
        while self._reads_waiting and self._reads_waiting[0][1] <= mono_ms:
            self._refuse_reads(self._reads_waiting.popleft()[2], EtcdError.TIMEOUT, output)

    def _watch_leader(self, output: Output, mono_ms: int) -> None:
        kernel = self.kernel
        if kernel.leader != self._leader:
            self._leader = kernel.leader
            self.leader_changes_total += kernel.leader != 0
            output.leader_changed = True
        lessor = self.applier.lessor
        if kernel.state != LEADER:
            if lessor.primary:
                lessor.demote()
        elif self._led_term != kernel.term and kernel.committed_in_term and kernel.applied == kernel.commit:
            # Only now all leases that older leaders granted or revoked are known.
            self._led_term = kernel.term
            lessor.promote(mono_ms, self._lease_extend_ms)

    def stop(self, events: Sequence[Event] = ()) -> Output:
        """Answers everyone who still waits, those in `events` that no step has taken too: the outcome of what was proposed is unknown."""
        output = Output()
        stopped: Result = (EtcdError.STOPPED, self.applier.store.revision, b"")
        self.waiters.expire(1 << 62, stopped, output.replies)
        for event in events:
            if isinstance(event, Propose):
                output.replies.append((event.sink, event.tokens, [stopped] * len(event.tokens)))
            elif isinstance(event, Read):
                self._refuse_reads([event], EtcdError.STOPPED, output)
        for _, reads in self._reads_open.values():
            self._refuse_reads(reads, EtcdError.STOPPED, output)
        for _, _, reads in self._reads_waiting:
            self._refuse_reads(reads, EtcdError.STOPPED, output)
        self._reads_open.clear()
        self._reads_waiting.clear()
        return output
