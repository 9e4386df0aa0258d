"""Whether this process can deliver, for probes and for Prometheus (docs/observability.md, "Readiness"): what stands still, by its part.

Must not know: how that is found out.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from raftsched.rpc.metrics import Family, Histogram

PATH: Final = "/readyz"
JSON: Final = [("content-type", "application/json")]
Stuck = Callable[[], Mapping[str, str]]
"""Why, by part; empty = it delivers."""


def answer(found: Mapping[str, str]) -> tuple[int, bytes]:
    """Status and body of `GET /readyz`."""
    return (503 if found else 200), json.dumps({"ready": not found, "stuck": dict(found)}).encode() + b"\n"


def families(found: Mapping[str, str], parts: Iterable[str]) -> Iterator[Family]:
    """The same as a gauge: 1 for each of `parts` that stands still."""
    samples: dict[tuple[str, ...], float | Histogram] = {(part,): int(part in found) for part in parts}
    yield Family("raftsched_scheduler_stuck", "gauge", "1 = delivery stands still, and this is the part that does.", ("part",), samples)
