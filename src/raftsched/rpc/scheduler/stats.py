"""What the scheduler API counts (spec §10.1, D4, D11): plain integers here, names and labels when somebody scrapes.

Must not know: who scrapes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from raftsched.rpc.metrics import Family, Histogram, single
from raftsched.rpc.scheduler.lateness import lateness_families

TYPES: Final = ("unknown", "job", "actor")
"""Label values by target kind."""
Samples = dict[tuple[str, ...], float | Histogram]
LATENCY_BOUNDS_MS: Final = (100.0, 500.0, 1000.0, 5000.0, 10000.0)


class SchedulerStats:
    """Counters of the handlers; the engine's own come through `read`."""

    def __init__(self, read: Callable[[], Mapping[str, Any]]) -> None:  # Any: SchedulerService.stats
        self._read = read
        self.created = [0, 0, 0]
        self.created_failed = [0, 0, 0]
        self.deleted = [0, 0, 0]
        self.bulk_deleted = 0
        self.sidecar_errors = {"send_failed": 0, "recv_failed": 0, "auth_failed": 0}

    def sidecar_error(self, reason: str) -> None:
        self.sidecar_errors[reason] += 1

    def families(self) -> Iterator[Family]:
        """Everything under dapr_scheduler_*, and what Dapr does not count under raftsched_scheduler_*; a `metrics.Source`."""
        now = self._read()
        yield from _own(now)
        yield from lateness_families(now)
        yield Family("dapr_scheduler_sidecars_connected", "gauge", "Live WatchJobs streams", (), {(): now["streams"]})
        yield from (
            _by_type("jobs_created_total", "Successful ScheduleJob calls", self.created),
            _by_type("jobs_created_failed_total", "Failed ScheduleJob calls", self.created_failed),
            _by_type("jobs_triggered_total", "Triggers that ended in SUCCESS", now["triggered"]),
            _by_type("jobs_failed_total", "Deliveries that ended in FAILED", now["failed"]),
            _by_type("jobs_undelivered_total", "Triggers that nobody could take", now["undelivered"]),
            _by_type("jobs_deleted_total", "Successful DeleteJob calls", self.deleted),
        )
        yield Family(
            "dapr_scheduler_jobs_bulk_deleted_total",
            "counter",
            "DeleteByMetadata and DeleteByNamePrefix calls",
            (),
            {(): self.bulk_deleted},
        )
        latency: Samples = {(name,): _histogram(now["latency"][kind], now["latency_sum_ms"][kind]) for kind, name in enumerate(TYPES)}
        yield Family("dapr_scheduler_trigger_latency", "histogram", "From trigger to result, in ms", ("type",), latency)
        key = ("concurrency_key",)
        gates: Mapping[str, tuple[int, int]] = now["gates"]
        taken: Samples = {(gate,): used for gate, (used, _) in gates.items()}
        waiting: Samples = {(gate,): wait for gate, (_, wait) in gates.items()}
        throttled: Samples = {(gate,): count for gate, count in now["throttled"].items()}
        errors: Samples = {(reason,): count for reason, count in self.sidecar_errors.items()}
        yield Family("dapr_scheduler_concurrency_inflight", "gauge", "Slots taken", key, taken)
        yield Family("dapr_scheduler_concurrency_pending", "gauge", "Triggers waiting", key, waiting)
        yield Family("dapr_scheduler_concurrency_throttled_total", "counter", "Triggers that a gate refused at first", key, throttled)
        yield Family("dapr_scheduler_sidecar_errors_total", "counter", "Errors on the way to sidecars", ("reason",), errors)


def _own(now: Mapping[str, Any]) -> Iterator[Family]:
    yield single("raftsched_scheduler_jobs", "gauge", "Jobs in the store, of all replicas.", now["jobs"])
    yield single("raftsched_scheduler_jobs_parked", "gauge", "Due jobs of this replica that wait for a stream.", now["staged"])
    yield single("raftsched_scheduler_triggers_queued", "gauge", "Triggers that wait for a stream to be read.", now["queued"])
    yield single(
        "raftsched_scheduler_undecodable_records_total",
        "counter",
        "Stored jobs that could not be read and were left alone.",
        now["undecodable"],
    )
    yield single(
        "raftsched_scheduler_unknown_results_total", "counter", "Results with an id that is not in flight, dropped.", now["unknown_acks"]
    )


def _by_type(name: str, text: str, counts: Sequence[int]) -> Family:
    return Family(f"dapr_scheduler_{name}", "counter", text, ("type",), {(kind,): counts[index] for index, kind in enumerate(TYPES)})


def _histogram(buckets: Sequence[int], total: int) -> Histogram:
    cumulative, count = [], 0
    for bound, found in zip((*LATENCY_BOUNDS_MS, float("inf")), buckets, strict=True):
        count += found
        cumulative.append((bound, count))
    return (cumulative, total)
