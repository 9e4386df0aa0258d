"""What a run is made of, drawn from its seed, and how it ended."""

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from raftsched.scheduler.delivery.gates import Limit

FAULTS = ("kill", "power", "stop", "slow", "full", "sync", "skew", "jump")
SIZES = (1, 1, 3, 3, 5)
CLUSTER_FAULTS = ("cut", "one-way", "weather", "heal", "wipe", "leave", "depart", "oust", "behind")
GATES: tuple[tuple[Limit, ...], ...] = (
    (),
    (),
    (Limit("cat", None, 1),),
    (Limit("cat", None, 4), Limit("cat", "red", 1)),
    (Limit("cat", "red", 2),),
)
DRIFTS_PPM = (0, 1_000, 10_000)
"""How far the rates of clocks may be off: 1 % is a hundred times what an oscillator does, and a tenth of what the fence bears."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is made of."""

    members: int = 1
    faults: tuple[str, ...] = FAULTS
    fault_every_s: float = 3.0
    duration_s: float = 12.0
    clients: int = 3
    keys: int = 3
    think_s: float = 0.05
    leases: bool = True
    lost_answers: float = 0.05
    watches: int = 2
    planners: int = 1
    plan_s: float = 0.3
    jobs_max: int = 30
    apps: int = 2
    work_s: float = 0.02
    failing: float = 0.2
    restless: bool = True  # apps keep answers back, read slowly, go and come
    gates: tuple[Limit, ...] = ()  # declared by each app that takes actors
    late_apps_s: float = 0.0  # an app comes to a machine up to so late at first: what is due waits for it
    twice: float = 0.0  # how often an answer is given twice, and one to what was never asked
    fenced: bool = True
    absent: tuple[int, ...] = ()  # machines that are not started at first
    networked: bool = False  # a lone member too can be reached by others
    drift_ppm: int = 0  # of each machine's clocks, at most, in either direction
    promptness: bool = True
    node: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def draw(cls, seed: str) -> "Options":
        """Of a seed that begins with `hard-`: several members, for longer, with leaders killed and cut off."""
        drawn = cls._drawn(seed)
        if not seed.startswith("hard-"):
            return drawn
        chance = random.Random(seed)
        faults = tuple(dict.fromkeys((*drawn.faults, "cut", "kill", "one-way")))
        members, every_s = chance.choice([3, 3, 5]), chance.choice([0.7, 1.5, 4.0])
        return replace(drawn, members=members, duration_s=20.0, planners=2, faults=faults, fault_every_s=every_s)

    @classmethod
    def _drawn(cls, seed: str) -> "Options":
        chance = random.Random(f"{seed}/options")
        workers = random.Random(f"{seed}/workers")
        members = chance.choice(SIZES)
        faults = [fault for fault in (FAULTS if members == 1 else FAULTS + CLUSTER_FAULTS) if chance.random() < 0.45]
        return cls(
            members=members,
            faults=tuple(faults),
            fault_every_s=chance.choice([0.7, 2.0, 4.0]),
            duration_s=chance.choice([6.0, 12.0]),
            clients=chance.choice([1, 3, 6]),
            keys=chance.choice([1, 3, 8]),
            think_s=chance.choice([0.01, 0.05, 0.2]),
            leases=chance.random() < 0.6,
            lost_answers=chance.choice([0.0, 0.1]),
            watches=chance.choice([0, 1, 3]),
            planners=chance.choice([0, 1, 2]),
            plan_s=chance.choice([0.1, 0.5]),
            apps=chance.choice([1, 2, 3]),
            work_s=chance.choice([0.002, 0.02, 0.2]),
            failing=chance.choice([0.0, 0.3]),
            gates=workers.choice(GATES),
            late_apps_s=workers.choice([0.0, 0.0, 4.0]),
            twice=workers.choice([0.0, 0.1]),
            drift_ppm=random.Random(f"{seed}/drift").choice(DRIFTS_PPM),
            node={
                "batch_interval_ms": chance.choice([5, 100, 1_000]),
                "batch_limit": chance.choice([10, 10_000]),
                "snapshot_count": chance.choice([50, 10_000]),
                "max_wals": chance.choice([1, 2, 10]),
                "request_timeout_ms": chance.choice([1_500, 7_000]),
                "compaction_mode": "revision",
                "compaction_retention": 0,
            },
        )


@dataclass(slots=True)
class Report:
    """How a run ended. `digest` is of the whole trace: equal digests, equal runs."""

    seed: str
    options: Options
    error: str = ""
    digest: str = ""
    virtual_s: float = 0.0
    entries: int = 0
    operations: int = 0
    deliveries: int = 0
    committed_ticks: int = 0
    lives: int = 0
    watched: int = 0
    takeovers: int = 0
    expired: int = 0
    undecided: int = 0
    turns: int = 0
    happened: Counter[str] = field(default_factory=Counter)  # what went wrong, how often
    held_up: int = 0  # ticks that waited while it was fair to ask that they do not
    latest_ms: float = 0.0  # the longest of these waits
    trace: list[str] = field(default_factory=list)
