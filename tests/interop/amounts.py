"""How many requests each comparison of random traffic has to compare: shares of RAFTSCHED_DIFFERENTIAL_OPERATIONS, 100,000 by default.

RAFTSCHED_DIFFERENTIAL_PROCESS=1 (`make differential`): what `make test` asks of the API over a member without log and disk, which is quick,
goes to a `raftsched etcd` process instead.
RAFTSCHED_DIFFERENTIAL_SEED is where the seeds begin: another number, other traffic.
"""

import math
import os
from collections.abc import Callable

OPERATIONS = int(os.environ.get("RAFTSCHED_DIFFERENTIAL_OPERATIONS", "100000"))
SEED = int(os.environ.get("RAFTSCHED_DIFFERENTIAL_SEED", "0"))
OF_PROCESS = 0.82 if os.environ.get("RAFTSCHED_DIFFERENTIAL_PROCESS") == "1" else 0.1
SHARES = {"keys": 0.92 - OF_PROCESS, "process": OF_PROCESS, "users": 0.08, "locks": 0.04, "follower": 0.05, "follower locks": 0.01}
RUN_MAX = 8_000
"""Requests to one pair of servers: then the next seed begins with new ones."""

Record = Callable[[str, object], None]


def runs(kind: str) -> list[tuple[int, int]]:
    """(seed, requests) of each run of this kind of traffic."""
    total = math.ceil(OPERATIONS * SHARES[kind])
    count = math.ceil(total / RUN_MAX)
    return [(SEED + number, math.ceil(total / count)) for number in range(count)]
