"""How late triggers are, for Prometheus (docs/observability.md): due -> sent -> acknowledged -> committed, in seconds.

Must not know: who counts, who scrapes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from raftsched.rpc.metrics import Family, Histogram, single
from raftsched.scheduler.engine._engine import LATENESS_BOUNDS_MS

TYPES: Final = ((1, "job"), (2, "actor"))
"""Target kinds that can be sent to somebody, and their label values."""
WAITED_FOR: Final = ("nobody", "worker", "gate")
STEPS: Final = {
    "sent_to_acknowledged": "From the (last) sending of a trigger to its answer.",
    "acknowledged_to_committed": "From the answer of a worker to its result's commit.",
    "due_to_committed": "From the time at which a trigger was due to its result's commit.",
}
SENT: Final = "From the time at which a trigger was due to its (first) sending, by what held it back."
CANARY: Final = "How late triggers of no job are that this replica sends through itself, twice a second."
_BOUNDS_S: Final = (*(bound / 1000 for bound in LATENESS_BOUNDS_MS), float("inf"))
Samples = dict[tuple[str, ...], float | Histogram]
Counted = tuple[Sequence[int], int]
"""(counts by bucket, sum in ms)."""


def lateness_families(now: Mapping[str, Any]) -> Iterator[Family]:
    """Of what `SchedulerService.stats` says."""
    both: Samples = {
        (name, reason): seconds(now["due_to_sent"][kind][index]) for kind, name in TYPES for index, reason in enumerate(WAITED_FOR)
    }
    yield Family("raftsched_scheduler_due_to_sent_seconds", "histogram", SENT, ("type", "waited_for"), both)
    for step, text in STEPS.items():
        samples: Samples = {(name,): seconds(now[step][kind]) for kind, name in TYPES}
        yield Family(f"raftsched_scheduler_{step}_seconds", "histogram", text, ("type",), samples)
    yield Family("raftsched_scheduler_canary_lateness_seconds", "histogram", CANARY, (), {(): seconds(now["canary"])})
    text = "For how long the oldest results have been on their way to the store."
    yield single("raftsched_scheduler_oldest_commit_seconds", "gauge", text, now["oldest_commit_ms"] / 1000)


def seconds(counted: Counted) -> Histogram:
    """Counts by LATENESS_BOUNDS_MS as a sample of a histogram in seconds."""
    cumulative, total = [], 0
    for bound, count in zip(_BOUNDS_S, counted[0], strict=True):
        total += count
        cumulative.append((bound, total))
    return cumulative, counted[1] / 1000
