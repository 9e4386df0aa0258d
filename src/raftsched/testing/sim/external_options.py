"""What a run over an external etcd is made of, drawn from its seed, and how it ended."""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from raftsched.scheduler.delivery.gates import Limit
from raftsched.testing.sim.options import GATES

NAMES: Final = ("r0", "r1", "r2", "r3")
REPLICA_FAULTS: Final = ("kill", "stop", "scale up", "scale down", "hang up", "cut", "skew")
ETCD_FAULTS: Final = (
    "leader",
    "member",
    "apart",
    "quorum",
    "compact",
    "no space",
    "lag",
    "slow",
    "watches",
    "renewals",
    "lease",
    "key",
    "heal",
)


@dataclass(frozen=True, slots=True)
class ExternalOptions:
    """What a run is made of; the names are those of `options.Options`."""

    replicas: int = 2
    faults: tuple[str, ...] = REPLICA_FAULTS + ETCD_FAULTS
    fault_every_s: float = 2.0
    duration_s: float = 40.0
    planners: int = 2
    plan_s: float = 0.3
    jobs_max: int = 30
    apps: int = 2
    work_s: float = 0.02
    failing: float = 0.2
    restless: bool = True
    gates: tuple[Limit, ...] = ()
    late_apps_s: float = 0.0
    twice: float = 0.0
    rest_s: float = 60.0
    """Virtual time in which everything must come to rest once nothing fails any more: three leases, as of a replica that died last."""

    @classmethod
    def draw(cls, seed: str) -> "ExternalOptions":
        chance = random.Random(f"{seed}/options")
        return cls(
            replicas=chance.choice([1, 2, 3]),
            faults=tuple(fault for fault in REPLICA_FAULTS + ETCD_FAULTS if chance.random() < 0.4),
            fault_every_s=chance.choice([1.0, 3.0, 8.0]),
            duration_s=chance.choice([20.0, 60.0]),
            planners=chance.choice([1, 2]),
            apps=chance.choice([1, 2, 3]),
            work_s=chance.choice([0.002, 0.02, 0.3]),
            failing=chance.choice([0.0, 0.3]),
            gates=chance.choice(GATES),
            late_apps_s=chance.choice([0.0, 0.0, 6.0]),
            twice=chance.choice([0.0, 0.1]),
        )


@dataclass(slots=True)
class ExternalReport:
    """How a run ended."""

    seed: str
    options: ExternalOptions
    error: str = ""
    digest: str = ""
    virtual_s: float = 0.0
    entries: int = 0
    """Revisions."""
    deliveries: int = 0
    committed_ticks: int = 0
    held_up: int = 0  # nothing is promised here
    latest_ms: float = 0.0
    happened: Counter[str] = field(default_factory=Counter)
    trace: list[str] = field(default_factory=list)
