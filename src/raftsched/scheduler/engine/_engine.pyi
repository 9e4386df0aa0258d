"""The engine, native; see `_engine.pyx`."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from raftsched._core import ExtendedTable, TimerWheel
from raftsched.scheduler.delivery._delivery import Delivery, StreamState
from raftsched.scheduler.delivery.gates import Gates, Limit
from raftsched.scheduler.jobs.fields import EventView, JobView, LastError
from raftsched.types import Change

ONCE: Final[int]
EVERY: Final[int]
CRON: Final[int]
NEVER: Final[int]
EXTENDED: Final[int]

LATENESS_BOUNDS_MS: Final[tuple[int, ...]]
"""Upper bounds of the buckets of `Engine.lateness`; one more holds the rest."""

AT_STREAM: Final[int]
AT_WORKER: Final[int]
AT_GATE: Final[int]
AT_ROUTE: Final[int]

class CalendarKeeper(Protocol):
    """Who reads calendars."""

    def clear(self) -> None:
        """Before a load."""

    def record_changed(self, key: bytes, value: bytes | None) -> bool:
        """`<namespace>/<name>` and its record, None = deleted. Whether jobs have to be computed anew."""

class Commit:
    """Results that go to the store as one transaction: `request` is the TxnRequest, `count` its branches."""

    request: bytes
    count: int

class Engine:
    """All jobs of one scheduler. Not re-entrant: one thread, one call after another."""

    wheel: TimerWheel
    delivery: Delivery
    jobs: int
    results_pending: int
    """Results not yet answered by `on_outcomes`."""
    undecodable_total: int
    unknown_acks_total: int
    fired_total: int
    def __init__(
        self,
        wheel: TimerWheel,
        delivery: Delivery,
        gates: Gates,
        read_record: Callable[[int, int], bytes | None],
        compile_schedule: Callable[..., tuple[int, int]],
        note: Callable[[str, bytes], None],
        *,
        hash_key: tuple[int, int] = ...,
        branches_max: int = ...,
        extended: ExtendedTable | None = None,
        calendars: CalendarKeeper | None = None,
        event_log_bytes: int = ...,
        replica: bytes = ...,
    ) -> None:
        """`read_record(main, sub)`: the stored KeyValue, at once. `compile_schedule(text)`: (EVERY, ns) or (CRON, number in
        `wheel.cron`, counted once more), ValueError if it cannot fire; of a text that begins with DIALECT= also with composed name and
        namespace, for (EXTENDED, number in `extended`). `calendars`: who reads the records under raftsched/calendars/. `note(event, key)`:
        something for the log. `event_log_bytes`: a power of two. `replica`: who this is, in what is kept of a run."""
    # -- what the store says
    def on_changes(self, changes: Sequence[Change]) -> list[Change]:
        """Whole revisions in order; returns the changes under dapr/leadership/. `touched`: one of them was the scheduler's own."""

    touched: bool
    dead_namespaces: set[bytes]
    """Of the dead letters that were kept since whoever clears it."""
    regained: bool
    """Jobs may fire again that could not: `arm_some` until it is done. Reset by who sees it."""
    def begin_load(self) -> None: ...
    def finish_load(self, revision: int = 0) -> None:
        """`revision`: that of the store, as far as it was read."""

    def set_partition(self, total: int, index: int) -> None: ...
    def narrow(self, total: int, index: int) -> None:
        """Owns only what is in this partition too, until the next `set_partition`; total 0 = nothing."""

    @property
    def leaving(self) -> int:
        """Triggers of jobs not owned any more that were sent, or whose result is on its way to the store."""
    def arm_some(self, limit: int) -> bool: ...
    # -- time
    def advance(self, now_ms: int) -> int:
        """Fires up to TRIGGERS_PER_ADVANCE due jobs; their number. While `more`, call again with the same time."""

    @property
    def more(self) -> bool: ...
    # -- the canary: a trigger of no job, which goes the way of all others and is never stored or sent to a worker
    def open_canary(self, push: Callable[[bytes], bool]) -> None:
        """Where canaries come out: `push(b"")`, within `flush`. Once, before the first one."""

    def send_canary(self, due_ms: int) -> None:
        """One that is due then, in the place of one that has not fired yet. MemoryError: the wheel is full."""

    @property
    def canary_armed(self) -> bool:
        """It has not left the wheel."""

    @property
    def oldest_unsent_ms(self) -> int:
        """When the oldest trigger fired that is in line on a stream with room; -1 = there is none. Looks at every stream."""

    # -- streams
    def open_stream(
        self,
        push: Callable[[bytes], bool],
        owner: Any,
        prefixes: Sequence[tuple[bytes, int, tuple[str, str] | None]],
        namespace: str = "",
        limits: Sequence[Limit] = (),
        *,
        batched: bool = False,
    ) -> StreamState: ...
    def close_stream(self, stream: StreamState) -> None: ...
    def stream_writable(self, stream: StreamState) -> None: ...
    def set_gate_share(self, index: int, total: int) -> None: ...
    def flush(self, budget: int, now_ms: int = 0) -> int:
        """Sends up to `budget` queued triggers; the number sent. `now_ms`: the present moment, if it is later than what is known of it."""

    @property
    def sendable(self) -> bool: ...
    def on_acks(self, stream: StreamState, messages: Sequence[bytes], now_ms: int) -> str | None: ...
    # -- commits
    @property
    def finish_pending(self) -> int: ...
    def finish_some(self, limit: int) -> bool: ...
    @property
    def commit_waiting(self) -> bool: ...
    def take_commits(self, limit: int = ...) -> list[Commit]: ...
    def on_outcomes(self, commit: Commit, outcomes: bytes, now_ms: int = 0) -> int:
        """One byte per branch; returns how many were done without their change having come: 0 unless a change was missed. `now_ms` as in
        `flush`."""
    # -- events: what the store tells of jobs
    heard_ms: int
    """When the changes are heard that are told next."""
    def mark_told(self, revision: int) -> None:
        """Every change up to `revision` has been told."""

    def event_span(self) -> tuple[int, int, int, int, int]:
        """(position of the oldest event that is kept, position behind the newest, highest revision of an event that is not kept, revision
        up to which everything was told, how many found no room at all)."""

    def read_events(self, position: int, after: int = 0, limit: int = ...) -> tuple[list[EventView], int, int, bool]:
        """(up to `limit` events of revisions above `after`, where to go on, the revision up to which everything is told by now, 0 = not
        known here, whether something between `position` and the first one has gone)."""

    # -- reading
    def state_of(self, name: bytes) -> int | None: ...
    def look(self, name: bytes) -> JobView | None:
        """What is known of a job by composed name, whoever owns it; None: it is not known here."""

    def next_attempt_ms(self, name: bytes) -> int | None:
        """When the run of a job that failed is tried again; None: it has none that waits, or another replica fires it."""

    def last_error(self, name: bytes) -> LastError | None:
        """Of a job that this replica fires; None: it knows of none."""

    def missed(self, name: bytes, until_s: int, until_ns: int) -> tuple[tuple[int, int], int, int, int, int] | None:
        """Of a recurring job of which ticks are due by then and not done: (the last of them, mod revisions of job and counter, 0 = none,
        partition id, count). None: there is nothing to be made up for."""

    def describe(self, name: bytes) -> dict[str, Any] | None: ...
    def metrics(self) -> dict[str, list[Any]]: ...
    def lateness(self) -> dict[str, list[Any]]:
        """Counts by bucket and sums in ms, of triggers: step -> by target kind (0 unknown, 1 job, 2 actor) -> (counts, sum). `due_to_sent`,
        of the first sending of an attempt, has three of these for each kind: the trigger waited for nobody, a worker, a gate."""

    def check_invariants(self) -> None: ...
