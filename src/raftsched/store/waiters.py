"""Who waits for which request: proposals by their ids, answered when their own entry was applied here.

Invariant: each token is answered once; an answer is matched by id, never by position in the log; for whom there is no room does not wait.
Must not know: Raft, clocks (times come as arguments).
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence

from raftsched import limits
from raftsched.store.apply import IdRun
from raftsched.store.codec import largest
from raftsched.types import Result, ResultSink

SEQUENCE_MASK = (1 << 48) - 1  # of a request id: what rises within a member (codec.RequestIds)

Reply = tuple[ResultSink, Sequence[int], Sequence[Result]]


class Waiting:
    """Proposals of one event that are not all answered yet."""

    __slots__ = (
        "again",
        "answered",
        "asked_ms",
        "count",
        "deadline_ms",
        "done",
        "first_id",
        "messages",
        "sink",
        "size_bytes",
        "term",
        "tokens",
    )

    def __init__(
        self,
        first_id: int,
        tokens: Sequence[int],
        sink: ResultSink,
        *,
        term: int,
        asked_ms: int,
        deadline_ms: int,
        messages: tuple[int, Sequence[bytes], bytes] | None = None,
        size_bytes: int = 0,
    ) -> None:
        """`term`: in which they were appended, or sent to a leader that takes them in this term alone. `messages`: kind,
        requests and identity of what was sent to the leader, which may have to be sent again. `size_bytes`: of the requests."""
        self.first_id = first_id
        self.count = len(tokens)
        self.tokens = tokens
        self.sink = sink
        self.term = term
        self.asked_ms = asked_ms
        self.deadline_ms = deadline_ms
        self.messages = messages
        self.size_bytes = size_bytes
        self.answered = 0
        self.again = False  # it was sent on more than one connection: what is known of one copy says nothing of the others
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
        self._requests = 0  # in `_waiting`, those that are answered included
        self._size_bytes = 0  # of these

    def __len__(self) -> int:
        return len(self._waiting)

    def since_ms(self) -> int:
        """When the one that has waited longest asked; 0 = nobody waits."""
        return next((waiting.asked_ms for waiting in self._waiting if not waiting.full), 0)

    def has_room(self, count: int, size_bytes: int) -> bool:
        """Whether that many more requests, of so many bytes, may wait. A batch that waits alone may be of any size."""
        fits = self._requests + count <= limits.PROPOSALS_WAITING_MAX and self._size_bytes + size_bytes <= limits.PROPOSALS_BYTES_MAX
        return fits or not self._waiting

    def add(self, waiting: Waiting) -> None:
        """Whoever adds has asked for room."""
        self._waiting.append(waiting)
        self._requests += waiting.count
        self._size_bytes += waiting.size_bytes

    def _pop(self) -> Waiting:
        waiting = self._waiting.popleft()
        self._requests -= waiting.count
        self._size_bytes -= waiting.size_bytes
        return waiting

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

    def _nobodys(self, request_id: int, count: int) -> int:
        """For how many of the ids from this one on nobody waits here. On a follower that is most of what is applied, so it is found by the
        run and not by the id."""
        position = bisect_right(self._waiting, request_id, key=lambda one: one.first_id)
        return min(count, self._waiting[position].first_id - request_id) if position < len(self._waiting) else count

    def resolve(self, ids: list[IdRun], results: list[Result], replies: list[Reply]) -> None:
        """Results of applied entries, by runs of neighbouring ids, to whoever waits for them."""
        for first_id, start, stop in ids:
            at, request_id = start, first_id
            while at < stop:
                waiting = self._find(request_id)
                if waiting is None:
                    count = self._nobodys(request_id, stop - at)
                else:
                    offset = request_id - waiting.first_id
                    count = min(waiting.count - offset, stop - at)
                    whole = at == 0 and count == len(results)
                    reply = waiting.answer(offset, results if whole else results[at : at + count])
                    if reply is not None:
                        replies.append(reply)
                    while self._waiting and self._waiting[0].full:
                        self._pop()
                at += count
                request_id += count

    def expire(self, mono_ms: int, result: Callable[[int], Result], replies: list[Reply]) -> None:
        """Those whose time is over; `result(asked_ms)`: the outcome is unknown."""
        while self._waiting and (self._waiting[0].full or self._waiting[0].deadline_ms <= mono_ms):
            waiting = self._pop()
            reply = waiting.give_up(result(waiting.asked_ms))
            if reply is not None:
                replies.append(reply)

    def lose(self, term: int, result: Result, replies: list[Reply]) -> list[Waiting]:
        """An entry of `term` is applied: what an older term left behind is in the log before it, or nowhere and never will be. Returns what
        was sent to a leader, unanswered: the caller asks again for it."""
        again = []
        while self._waiting and (self._waiting[0].full or self._waiting[0].term < term):
            waiting = self._pop()
            if waiting.messages is not None and not waiting.answered:
                again.append(waiting)
            elif (reply := waiting.give_up(result)) is not None:
                replies.append(reply)
        return again

    def repeat(self, term: int, bytes_max: int) -> list[Waiting]:
        """What was sent to the leader of `term` and has no answer, in the order of the ids: the caller sends it again. No more than
        `bytes_max`, but one; the rest waits for its time, as newer ones overtake it."""
        found: list[Waiting] = []
        for waiting in self._waiting:
            if waiting.messages is None or waiting.answered or waiting.term != term:
                continue
            bytes_max -= largest(waiting.messages[1])[1]
            if bytes_max < 0 and found:
                break
            waiting.again = True
            found.append(waiting)
        return found

    def was_repeated(self, suffix: int) -> bool:
        waiting = self._sent(suffix)
        return waiting is not None and waiting.again

    def refuse(self, suffix: int, result: Result, replies: list[Reply]) -> None:
        """The leader did not take what was sent to it under this sequence (the first id without the member's part)."""
        waiting = self._sent(suffix)
        reply = waiting.give_up(result) if waiting is not None else None
        if reply is not None:
            replies.append(reply)

    def withdraw(self, suffix: int) -> Waiting | None:
        """The same, but whoever waits is not answered: the caller asks again for it. None: nobody waits any more."""
        waiting = self._sent(suffix)
        if waiting is None or waiting.answered:
            return None
        waiting.answered = waiting.count
        return waiting

    def _sent(self, suffix: int) -> Waiting | None:
        return next((waiting for waiting in self._waiting if waiting.first_id & SEQUENCE_MASK == suffix), None)
