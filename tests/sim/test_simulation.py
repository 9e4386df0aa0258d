"""Whole members in virtual time: every recorded seed, fresh ones for a while, and the same trace whatever the hash seed.

RAFTSCHED_SIM_SECONDS says how long fresh seeds are tried (40); a seed that fails goes into seeds.txt, with what it found.
"""

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raftsched.testing.sim.__main__ import complaint, seed_of
from raftsched.testing.sim.options import Report
from raftsched.testing.sim.world import simulate

SEEDS = [line.split("#")[0].strip() for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()]
RECORDED = [seed for seed in SEEDS if seed]
FRESH_SECONDS = float(os.environ.get("RAFTSCHED_SIM_SECONDS", "40"))


@pytest.mark.parametrize("seed", RECORDED)
def test_recorded_seed(seed: str) -> None:
    report = simulate(seed)
    assert not report.error, complaint(report)


def test_fresh_seeds() -> None:
    first = secrets.randbits(40)
    began_s = time.monotonic()
    reports: list[Report] = []
    while time.monotonic() - began_s < FRESH_SECONDS:
        reports.append(simulate(seed_of(first + len(reports))))
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
