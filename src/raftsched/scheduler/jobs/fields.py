"""The decoded forms that `_jobs` hands out: plain tuples, named here for the type checker."""

Instant = tuple[int, int]
"""(seconds since the epoch, nanoseconds 0 … 999 999 999)."""

Metadata = tuple[str, str, int, str, str, str | None]
"""(app id, namespace, target 0 none | 1 job | 2 actor, actor id, actor type, concurrency key or None)."""

JobFields = tuple[str | None, int | None, str | None, str | None, bytes | None, bytes | None]
"""(schedule, repeats, due_time, ttl, data Any, failure_policy); None = absent; an empty policy oneof counts as absent."""
