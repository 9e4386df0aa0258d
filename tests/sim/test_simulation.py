"""Whole members in virtual time: every recorded seed, fresh ones for a while, and the same trace whatever the hash seed.

RAFTSCHED_SIM_SECONDS says how long fresh seeds are tried (30); a seed that fails goes into seeds.txt, with what it found.
"""

import asyncio
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from raftsched.scheduler.delivery.gates import Limit
from raftsched.testing.sim.__main__ import complaint, play, seed_of
from raftsched.testing.sim.external_options import ExternalReport
from raftsched.testing.sim.loop import SimLoop
from raftsched.testing.sim.options import CLUSTER_FAULTS, FAULTS, Options, Report
from raftsched.testing.sim.world import simulate

SEEDS = [line.split("#")[0].strip() for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()]
RECORDED = [seed for seed in SEEDS if seed]
FRESH_SECONDS = float(os.environ.get("RAFTSCHED_SIM_SECONDS", "30"))


@pytest.mark.parametrize("seed", RECORDED)
def test_recorded_seed(seed: str) -> None:
    report = play(seed)
    assert not report.error, complaint(report)


def test_fresh_seeds() -> None:
    first = secrets.randbits(40)
    began_s = time.monotonic()
    reports: list[Report | ExternalReport] = []
    while time.monotonic() - began_s < FRESH_SECONDS:
        reports.append(play(seed_of(first + len(reports))))
        assert not reports[-1].error, complaint(reports[-1])
    taken_s = time.monotonic() - began_s
    print(f"{len(reports)} seeds from {first}, {len(reports) / taken_s:.2f} seeds/s")


def test_runs_get_work_done() -> None:
    """A checker that is told nothing finds nothing."""
    reports = [simulate(f"work-{number}") for number in range(6)]
    assert [report.error for report in reports] == [""] * len(reports)
    assert sum(report.operations for report in reports) > 500
    assert sum(report.committed_ticks for report in reports) > 50
    assert sum(report.watched for report in reports) > 100
    assert sum(report.lives for report in reports) > 2 * len(reports)
    assert sum(report.undecided for report in reports) <= 1


def test_gates_fill_and_workers_come_late() -> None:
    """What is drawn for some of the seeds: limits that bind, jobs that wait for a worker, answers that are given twice."""
    options = Options(
        members=3,
        faults=("stop", "kill"),
        fault_every_s=4.0,
        duration_s=8.0,
        clients=1,
        watches=0,
        planners=2,
        plan_s=0.1,
        work_s=0.2,
        gates=(Limit("cat", None, 4), Limit("cat", "red", 1)),
        late_apps_s=4.0,
        twice=0.2,
    )
    report = simulate("gates-0", options=options)
    assert not report.error, complaint(report)
    assert report.happened["slots full"] > 10
    assert {len(Options.draw(str(number)).gates) for number in range(40)} == {0, 1, 2}


NAMED = {*FAULTS, *CLUSTER_FAULTS}
FOLLOWING = {"torn", "dropped", "twice", "late", "cut off", "forwarded again", "left", "cut behind"}
"""What comes of them: a power cut that lost a part of what was written, messages, proposals that were sent again for one that was lost, a
member that left by its own wish, a power cut right behind a message."""


def test_each_kind_of_fault_is_drawn() -> None:
    drawn = [Options.draw(f"{hard}{number}") for hard in ("", "hard-") for number in range(200)]
    assert {fault for options in drawn for fault in options.faults} == NAMED
    assert {options.drift_ppm for options in drawn} == {0, 1_000, 10_000}
    assert {options.members for options in drawn} == {1, 3, 5}


def test_each_kind_of_fault_happens() -> None:
    happened: Counter[str] = Counter()
    changes = ("wipe", "leave", "depart", "oust")
    rest = tuple(sorted(NAMED - set(changes)))
    for number in range(10):
        faults, every_s = ((rest, 0.2), (changes, 1.5))[number % 2]
        options = Options(
            members=3, faults=faults, fault_every_s=every_s, duration_s=12.0, clients=1, planners=0, watches=0, drift_ppm=1_000
        )
        report = simulate(f"happens-{number}", options=options)
        assert not report.error, complaint(report)
        happened += report.happened
        if not (NAMED | FOLLOWING) - happened.keys():
            return
    assert not (NAMED | FOLLOWING) - happened.keys()


SHORT = "Options(duration_s=3.0, fault_every_s=0.7)"


def digest_under(hash_seed: str, seed: str) -> str:
    code = f"from raftsched.testing.sim.world import Options, simulate; print(simulate({seed!r}, options={SHORT}).digest)"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120).stdout


def test_same_trace_under_any_hash_seed() -> None:
    for seed in ("hash-1", "hash-2"):
        digests = {digest_under(hash_seed, seed) for hash_seed in ("0", "4711")}
        assert len(digests) == 1
        assert digests != {digest_under("0", seed + "0")}


def test_what_is_thrown_away_at_the_end_makes_no_real_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would close it: whichever test runs while it is collected would fail."""
    made, ended = [], []
    monkeypatch.setattr(type(asyncio.get_event_loop_policy()), "get_event_loop", lambda _self: made.append("a real loop"))
    loop = SimLoop("end")

    async def unfinished() -> None:
        try:
            await loop.create_future()
        finally:
            ended.append(asyncio.gather())

    async def begin() -> None:
        loop.create_task(unfinished())
        await asyncio.sleep(0)

    loop.run_until_complete(begin())
    loop.discard()
    assert (len(ended), made) == (1, [])
