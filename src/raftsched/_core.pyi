"""The contract of the native timing wheel and cron engine (docs/timing-wheel.md).

Times are int64 milliseconds since the Unix epoch, 0 … `HORIZON_MS` (the end of the year 9999); outside: OverflowError.
`Buffer` arguments are one-dimensional contiguous arrays of the element type that is named.
"""

from collections.abc import Sequence
from typing import Final, final

from typing_extensions import Buffer

HORIZON_MS: Final[int]
MISSED_ALL: Final[int]
"""Flag of a job that re-arms itself: every missed tick fires, as in Dapr (the default, 0)."""
MISSED_COALESCE: Final[int]
"""Missed ticks fire once, under the time of the first; the next is the first one after `now`."""
MISSED_SKIP: Final[int]
"""Of the ticks that are due only the newest fires, under its own time."""
FREE_WHEN_DONE: Final[int]
"""The slot (and the key) is freed when the job has no next tick; its handle stays readable until the slot is used again."""

@final
class CronTable:
    """Bitmask cron: equal specs share a number; next fire natively (docs/timing-wheel.md §8)."""

    def __init__(self) -> None: ...
    def __len__(self) -> int:
        """Distinct specs in use."""

    def add(self, masks: Sequence[int], zone: int = -1) -> int:
        """The number of a spec, counted once more: equal masks and zone give the same number. -1 = UTC.

        masks = (seconds, minutes, hours, days, months, weekdays, day_star, weekday_star).
        ValueError: a mask is empty or has bits outside its field, or the zone is not set. MemoryError: 2**24 specs.
        """

    def release(self, spec: int) -> None:
        """Counts one user less; at zero the number is free for another spec."""

    def set_zone(self, zone: int, at: Buffer, offset: Buffer) -> None:
        """`at` (int64, seconds, rising): offset[i] (int32, seconds east) holds from at[i]; offset[0] also before. 0 <= zone < 1024."""

    def next(self, spec: int, after_s: int) -> int:
        """The first fire strictly after `after_s` (seconds since the epoch); -1 = none within the horizon."""

    def next_of(self, masks: Sequence[int], zone: int, after_s: int) -> int:
        """The same for masks that have no number here. ValueError as `add`."""

    def last(self, spec: int, after_s: int, until_s: int) -> int:
        """The last fire with after_s < fire <= until_s; -1 = none."""

@final
class ExtendedTable:
    """Schedules of the extended dialect (docs/schedules.md), by numbers of their own. Instants in ms since the epoch, any sign.

    spec = (masks as `CronTable.add` has them, zone, nth, from_end, nearest, business, business_from_end, interval_ms, jitter_ms, seed,
    exclusion); what the bits mean says `_core/extended.pxi`. ValueError for what is out of range, MemoryError when it is full.
    """

    def __init__(self, cron: CronTable) -> None:
        """`cron`: whose zones are meant."""

    def __len__(self) -> int:
        """Schedules that were added and not released."""

    def add(self, spec: tuple[object, ...]) -> int: ...
    def release(self, number: int) -> None: ...
    def next_of(self, spec: tuple[object, ...], begin_ms: int, after_ms: int) -> int | None:
        """The first fire after an instant; None: there is none within 41 years (@every: 11 years of excluded days), or a calendar is not
        there."""

    def last_of(self, spec: tuple[object, ...], begin_ms: int, after_ms: int, until_ms: int) -> int | None:
        """The last fire with after_ms < fire <= until_ms."""

    def new_exclusion(self) -> int:
        """A number for days of which nothing fires; until `set_exclusion` nothing at all fires of a schedule that has it. At most 65536."""

    def users(self, exclusion: int) -> int:
        """Schedules that have it."""

    def drop_exclusion(self, exclusion: int) -> None:
        """ValueError while it is used."""

    def set_exclusion(self, exclusion: int, known: bool, weekdays: int, yearly: Sequence[int], first: Buffer, last: Buffer) -> None:
        """`yearly[month]`: a mask of days; `first`, `last` (int32): day numbers of ranges that rise and lie apart, at most 100000."""

@final
class TimerWheel:
    """Hierarchical wheel, 1 ms ticks, chunked buckets, two rotations per level. Time is always an argument.

    A job is named by a `handle` = generation << 32 | slot, never 0. Keys are optional: jobs armed by `arm*` have none and
    cost no key-table entry. `period_ms` > 0 re-arms natively, `spec` >= 0 by `cron`; both is a ValueError.
    One owner thread, checked when `debug`; while `reserve`, `load` or `export` run without the GIL any other call raises RuntimeError.
    """

    cron: CronTable
    @property
    def now(self) -> int: ...
    @property
    def more(self) -> bool:
        """The last advance met a full buffer: call again with the same now."""

    @property
    def slots(self) -> int:
        """Slots ever used: the end of `export`."""

    def __init__(
        self, now_ms: int, *, max_jobs: int = 1 << 27, hash_seed: int = 0, huge_pages: bool = True, debug: bool | None = None
    ) -> None:
        """`max_jobs` is address space, not memory: 1 … 2**28 - 2. `debug=None`: as the module was built."""

    def __len__(self) -> int:
        """Armed jobs."""

    def reserve(self, n: int, prefault: bool = True) -> None:
        """Before the first job: key table for n jobs and, with `prefault`, their memory touched."""
    # keyless: what the engine uses; `tag` is the engine's slot
    def arm(self, tag: int, due_ms: int, period_ms: int = 0, spec: int = -1, flags: int = 0) -> int:
        """The handle. MemoryError: full."""

    def arm_packed(self, tags: Buffer, due: Buffer, handles: Buffer) -> None:
        """Many one-shots: uint32 tags, int64 due in, uint64 handles out. All or nothing."""

    def rearm(self, handle: int, due_ms: int) -> bool:
        """A new due; False = stale handle."""

    def rearm_packed(self, handles: Buffer, due: Buffer) -> int:
        """uint64 handles, int64 due; stale handles are passed over. Returns how many were armed."""

    def pause(self, handle: int) -> bool:
        """No due any more, but the handle lives; False = stale."""

    def disarm(self, handle: int) -> bool:
        """Takes the job (keyed or not) out and frees its slot; False = stale."""

    def disarm_packed(self, handles: Buffer) -> int: ...
    def due_of(self, handle: int) -> int:
        """The scheduled time; -1 = not armed, -2 = stale."""
    # keyed
    def schedule(self, key: bytes, due_ms: int, period_ms: int = 0, *, spec: int = -1, tag: int = 0, flags: int = 0) -> int: ...
    def reschedule(self, key: bytes, due_ms: int) -> bool: ...
    def cancel(self, key: bytes) -> bool: ...
    def get(self, key: bytes) -> tuple[int, int, int, int, int] | None:
        """(due, period, spec, tag, flags); due -1 = not armed, spec -1 = none."""

    def schedule_many(self, keys: list[bytes], due: Buffer, period: Buffer) -> int: ...
    def schedule_packed(self, blob: Buffer, offsets: Buffer, due: Buffer, period: Buffer, spec: Buffer | None = None) -> int:
        """Key i = blob[offsets[i]:offsets[i + 1]] (uint32 offsets); int64 due and period; int32 spec, -1 = none. All or nothing."""

    def cancel_packed(self, blob: Buffer, offsets: Buffer) -> int: ...
    # time
    def advance(self, now_ms: int, handles: Buffer, due: Buffer, tags: Buffer | None = None) -> int:
        """Fills uint64 handles, int64 due (and uint32 tags), capacity >= 128, with what is due; returns the count."""

    def next_wakeup(self) -> int:
        """A lower bound of the next expiry in ms, never too late; -1 when empty."""

    def cascade_wait(self) -> int:
        """Ms, 64 or more, after which `advance` wants to be called again to move jobs down ahead of their time; 2**63 - 1 when none lie in
        a slot that comes next. Who comes later pays for it when the slot begins."""
    # reading
    def tags_of(self, handles: Buffer, count: int, tags: Buffer) -> None:
        """uint32 tags out; 2**32 - 1 for a handle whose slot was used again."""

    def keys_of(self, handles: Buffer, count: int) -> list[bytes | None]:
        """None: no key, or the slot was used again."""

    def pack(self, handles: Buffer, due: Buffer, count: int) -> bytes:
        """count x (i64 due, u16 key length, key), little-endian. ValueError: a stale handle, or a key over 65 535 bytes."""

    def stats(self) -> dict[str, int]: ...
    def add_cron(self, masks: Sequence[int], zone: int = -1) -> int:
        """`cron.add`."""

    def set_zone(self, zone: int, at: Buffer, offset: Buffer) -> None:
        """`cron.set_zone`."""
    # snapshot: records in slot order; cron specs keep their numbers, handles do not survive
    def export(self, first_slot: int, max_slots: int) -> bytes:
        """The jobs of slots [first_slot, first_slot + max_slots); go on until `slots`."""

    def load(self, blob: Buffer, handles: Buffer | None = None) -> int:
        """Adds the jobs of one export; new handles (uint64) in its order. ValueError or MemoryError: nothing was added."""

    def check_invariants(self) -> None:
        """Debug: walks everything; AssertionError names what is broken."""
