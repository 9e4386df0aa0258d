"""Two servers under one load in turns, and how one stands to the other: rates, the slowest hundredth, CPU of the server for each call."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from bench.load.reference import ReferenceEtcd
from raftsched.testing.process import ServerProcess

ROUNDS = 3
KEYS = 10_000
WATCHERS = 100
Answer = tuple[str, str, str, bool | None]
"""A row of the report: what, target, measured, met."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two servers, as a load sees it."""

    server: ReferenceEtcd | ServerProcess
    address: str
    tls: bool = False

    @property
    def pid(self) -> int:
        if isinstance(self.server, ReferenceEtcd):
            return self.server.pid
        assert self.server.process is not None
        return self.server.process.pid


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run gave: calls (or events) a second, the slowest hundredth, CPU of the server for each."""

    per_s: float
    p99_ms: float
    cpu_us: float


Drive = Callable[[Side], Cost]


@dataclass(frozen=True, slots=True)
class Ratio:
    """How ours stands to theirs, by rate and by CPU for each; more is better."""

    rate: float
    cost: float
    told: str


def weighed(theirs: Side, ours: Side, drive: Drive) -> Ratio:
    """In turns; of the medians."""
    runs: list[tuple[Cost, Cost]] = [(drive(theirs), drive(ours)) for _ in range(ROUNDS)]
    their_rate, our_rate = (median(run[side].per_s for run in runs) for side in (0, 1))
    their_cpu, our_cpu = (median(run[side].cpu_us for run in runs) for side in (0, 1))
    p99 = [median(run[side].p99_ms for run in runs) for side in (0, 1)]
    rate, cost = our_rate / their_rate, their_cpu / our_cpu
    told = f"{rate:.2f} x ({our_rate:,.0f}/s against {their_rate:,.0f}/s; p99 {p99[1]:.2f} against {p99[0]:.2f} ms); "
    return Ratio(rate, cost, told + f"CPU of the server {our_cpu:.1f} against {their_cpu:.1f} us each: {cost:.2f} x")


@dataclass(frozen=True, slots=True)
class Load:
    """One row: what is asked of the ratio of rates, or, `by_cost`, of that of CPU."""

    what: str
    target: float
    drive: Drive
    by_cost: bool = False

    def of(self, ratio: Ratio) -> float:
        return ratio.cost if self.by_cost else ratio.rate

    def compared(self, theirs: Side, ours: Side, over: str = "") -> Answer:
        found = weighed(theirs, ours, self.drive)
        wanted = f"1/{self.target:.0f} of etcd's CPU per event" if self.by_cost else f">= {self.target} x etcd"
        return over + self.what, wanted, found.told, self.of(found) >= self.target

    def beside_plain(self, plain: tuple[Side, Side], secure: tuple[Side, Side]) -> Answer:
        """Over TLS as over plaintext: both measured here, on the same two servers, one after the other."""
        target = self.of(weighed(*plain, self.drive))
        found = weighed(*secure, self.drive)
        of_what = "of CPU per event" if self.by_cost else "of rates"
        return f"TLS: {self.what}", f">= its plain ratio {of_what}, just now {target:.2f} x", found.told, self.of(found) >= target
