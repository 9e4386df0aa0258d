"""Schedulers over an external etcd in virtual time: replicas, etcd's members and the wires between fail, workers misbehave, gates bind.

Fresh seeds are among those of test_simulation.py; `python -m raftsched.testing.sim --seed external-<number>` plays one again.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from raftsched.pb.etcd import rpc_pb2
from raftsched.scheduler.bridge.external.kv import ExternalKv
from raftsched.scheduler.bridge.external.watching import Watch
from raftsched.scheduler.bridge.external.writing import Writer
from raftsched.scheduler.delivery import gates
from raftsched.scheduler.delivery.gates import Limit
from raftsched.scheduler.engine.clock import TickClock
from raftsched.scheduler.service import SchedulerService
from raftsched.testing.sim.__main__ import complaint
from raftsched.testing.sim.external import simulate_external
from raftsched.testing.sim.external_options import ETCD_FAULTS, REPLICA_FAULTS, ExternalOptions, ExternalReport

Patch = pytest.MonkeyPatch
ALL = {*REPLICA_FAULTS, *ETCD_FAULTS}


def test_each_kind_of_fault_happens_and_nothing_is_lost() -> None:
    """Of all kinds in each run, in short intervals; the checkers of docs/simulation.md look."""
    happened: Counter[str] = Counter()
    reports: list[ExternalReport] = []
    for number in range(4):
        options = ExternalOptions(replicas=3, fault_every_s=1.0, gates=(Limit("cat", None, 4),), late_apps_s=5.0, twice=0.1)
        reports.append(simulate_external(f"all-{number}", options=options))
        assert not reports[-1].error, complaint(reports[-1])
        happened += reports[-1].happened
        if not ALL - happened.keys() and number:
            break
    assert ALL - happened.keys() == set()
    assert happened["slots full"] > 20
    assert sum(report.committed_ticks for report in reports) > 200


def test_seeds_draw_all_there_is() -> None:
    drawn = [ExternalOptions.draw(str(number)) for number in range(100)]
    assert {fault for options in drawn for fault in options.faults} == ALL
    assert {options.replicas for options in drawn} == {1, 2, 3}
    assert {len(options.gates) for options in drawn} == {0, 1, 2}


def test_same_trace_under_any_hash_seed() -> None:
    code = "from raftsched.testing.sim.external import *; print(simulate_external('one', options=ExternalOptions(duration_s=5)).digest)"
    digests = set()
    for hash_seed in ("0", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120)
        digests.add(done.stdout)
    assert len(digests) == 1
    assert digests != {simulate_external("other", options=ExternalOptions(duration_s=5)).digest + "\n"}


# -- faults that are put in on purpose


def results_without_a_guard(patch: Patch) -> None:
    """A result is stored although its job was replaced or removed meanwhile."""
    packed = Writer._packed

    async def unguarded(self: Writer, request: bytes, count: int, done: Callable[[int, int, bytes], None]) -> None:
        message = rpc_pb2.TxnRequest.FromString(request)
        for operation in message.success:
            del operation.request_txn.compare[:]
        await packed(self, message.SerializeToString(), count, done)

    patch.setattr(Writer, "_packed", unguarded)


def the_lease_is_no_fence(patch: Patch) -> None:
    """Who is cut off goes on triggering for ever."""
    patch.setattr(ExternalKv, "fence_ms", lambda self: 1 << 62)


def fires_early(patch: Patch) -> None:
    """The clock that the wheel is given is ahead of the wall."""
    read = TickClock.read
    patch.setattr(TickClock, "read", lambda self, wall_ns, mono_ns: read(self, wall_ns, mono_ns) + 3_000_000)


def a_watch_leaves_one_out(patch: Patch) -> None:
    """A watch that broke off goes on one revision too late."""
    create = Watch._create

    async def late(self: Watch, stream: Any) -> None:
        self.known += bool(self.known)
        await create(self, stream)

    patch.setattr(Watch, "_create", late)


def nobody_hears_of_a_lost_history(patch: Patch) -> None:
    """What was compacted away is not loaded again."""

    def reset(self: Watch, reason: str) -> None:
        self.known = 0
        self.pace.forget()

    patch.setattr(Watch, "_reset", reset)


def refused_results_are_forgotten(patch: Patch) -> None:
    """What could not be stored is not offered again."""
    patch.setattr(SchedulerService, "_on_refused", lambda self, commit, error: None)


def shares_are_whole(patch: Patch) -> None:
    """Each replica lets through what all of them may."""
    patch.setattr(gates, "share_of", lambda limit, index, total: limit)


CALM = ExternalOptions(
    replicas=3, faults=("scale up", "scale down"), fault_every_s=5.0, duration_s=20.0, plan_s=0.1, work_s=0.1, rest_s=30.0
)
CUTS = replace(CALM, faults=("cut", "renewals", "quorum", "heal"), fault_every_s=4.0, duration_s=60.0)
WATCHES = replace(CALM, faults=("watches", "hang up"), fault_every_s=0.7, plan_s=0.05, duration_s=10.0)
COMPACTED = replace(CALM, faults=("cut", "compact", "heal"), fault_every_s=0.7, plan_s=0.05)
KEYS = replace(CALM, faults=("lease", "kill", "stop"), fault_every_s=4.0)
GATED = replace(CALM, gates=(Limit("cat", None, 4),), work_s=0.4, planners=3)
SEEDS = 16
PLANTED: list[tuple[Callable[[Patch], None], ExternalOptions, int, str]] = [
    (results_without_a_guard, CALM, 0, "guarded results"),
    (the_lease_is_no_fence, CUTS, 1, "one owner"),
    (fires_early, CALM, 0, "none early"),
    (a_watch_leaves_one_out, WATCHES, 0, "no rest"),
    (nobody_hears_of_a_lost_history, COMPACTED, 0, "no rest"),
    (refused_results_are_forgotten, CUTS, 0, "no rest"),
    (shares_are_whole, GATED, 0, "gates"),
]


@pytest.mark.parametrize(("plant", "options", "first", "promise"), PLANTED, ids=[plant.__name__ for plant, *_ in PLANTED])
def test_a_planted_fault_is_seen(
    plant: Callable[[Patch], None], options: ExternalOptions, first: int, promise: str, monkeypatch: Patch
) -> None:
    plant(monkeypatch)
    for seed in range(first, first + SEEDS):
        report = simulate_external(f"planted-{seed}", options=replace(options, rest_s=20.0))
        if report.error:
            assert promise in report.error
            print(f"seed {seed}: {report.error[:200]}")
            return
    pytest.fail(f"not seen in {SEEDS} seeds: {plant.__doc__}")


SOUND = {"calm": CALM, "cuts": CUTS, "watches": WATCHES, "compacted": COMPACTED, "keys": KEYS, "gated": GATED}


@pytest.mark.parametrize("options", SOUND.values(), ids=SOUND)
def test_nothing_is_seen_without_one(options: ExternalOptions) -> None:
    report = simulate_external("planted-0", options=options)
    assert not report.error, complaint(report)
    assert report.happened["history lost"] or options is not COMPACTED
