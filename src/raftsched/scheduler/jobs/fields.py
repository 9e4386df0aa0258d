"""The decoded forms that `_jobs` and the engine hand out: plain tuples, named here for the type checker."""

Instant = tuple[int, int]
"""(seconds since the epoch, nanoseconds 0 … 999 999 999)."""

Metadata = tuple[str, str, int, str, str, str | None]
"""(app id, namespace, target 0 none | 1 job | 2 actor | 3 empty, actor id, actor type, concurrency key or None)."""

JobFields = tuple[str | None, int | None, str | None, str | None, bytes | None, bytes | None]
"""(schedule, repeats, due_time, ttl, data Any, failure_policy); None = absent; an empty policy oneof counts as absent."""

JobView = tuple[int, int, int, bool, tuple[int, int] | None, bool, tuple[int, int] | None, int, int, bool, bool, bool, bool]
"""(mod revision, states.State, where its open run is: 0 or one of the four above, owned, next tick or None, finished, last tick or None,
count, attempts, paused, of a frozen namespace, there is a key for it under raftsched/jobs/, a run is asked for); instants as
(seconds, nanoseconds)."""

LastError = tuple[int, Instant | None, int, int, int, bytes]
"""(when in ms, scheduled instant or None, mod revision of the request for the run or 0, partition id, failed attempts before, what the
worker said) of the last failed attempt of a job."""

EventView = tuple[int, int, int, bytes, tuple[int, int], tuple[int, int], int, int, bytes]
"""(kind, see `_engine/events.pxi`, revision, when it was heard in ms, composed name, or a namespace, where the job's record is: (main, sub)
or (0, 0), an instant of the schedule, count, attempts, RunRecord)."""
