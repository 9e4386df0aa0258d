"""The scheduler's rows: durable creation, bursts, steady ticks, lateness.

The load comes from bench/schedload, a Go program whose figures for a real Dapr Scheduler stand in docs/performance.md.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.load import schedload
from bench.load.process import thread_cpu_ns
from bench.load.schedload import Load
from raftsched.testing.process import ServerProcess

BEFORE_DUE_S = 0.1
SUSTAINED_S = 15
BURST_CREATION_PER_S = 4_000  # slower than any creation seen: the burst must find an idle loop
Answer = tuple[str, str, str, bool | None]


@dataclass(frozen=True, slots=True)
class Goals:
    """How far the targets of a plain run are stretched: rates by `rate`, lateness by `late`; `title` begins each row."""

    rate: float = 1.0
    late: float = 1.0
    title: str = ""


PLAIN = Goals()


def creation(load: Load, count: int, goals: Goals = PLAIN, *, at_least: int = 15_000, dapr: str = "4 000-4 900") -> Iterator[Answer]:
    figures = load.run("schedule", "-n", str(count), "-c", "64")
    target = at_least * goals.rate
    what = f"{goals.title}ScheduleJob durable, 64 callers"
    yield what, f">= {target:,.0f}/s (Dapr: {dapr}/s)", f"{figures['qps']:,.0f}/s", figures["qps"] >= target


class LoopMeter:
    """Samples the CPU time of the server's loop thread beside a load, to find what a part of it cost."""

    INTERVAL_S = 0.02

    def __init__(self, server: ServerProcess) -> None:
        assert server.process is not None
        self._pid = server.process.pid
        self._samples: list[tuple[float, int]] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def _sample(self) -> None:
        while not self._stopping.wait(self.INTERVAL_S):
            self._samples.append((time.monotonic(), thread_cpu_ns(self._pid)))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()

    def spent_since_ns(self, moment: float) -> int:
        """CPU time from `moment` (monotonic) to the last sample."""
        return self._samples[-1][1] - self._spent_by_ns(moment)

    def spent_between_ns(self, begin: float, end: float) -> int:
        """CPU time between two moments (monotonic), to within a sample."""
        return self._spent_by_ns(end) - self._spent_by_ns(begin)

    def _spent_by_ns(self, moment: float) -> int:
        return max(cpu for at, cpu in self._samples if at <= moment)


def burst(server: ServerProcess, load: Load, count: int, goals: Goals = PLAIN) -> Iterator[Answer]:
    lead_s = max(count // BURST_CREATION_PER_S, 3)
    with LoopMeter(server) as meter:
        due = time.monotonic() + lead_s  # schedload counts its lead from its own start, a few ms later
        figures = load.run("burst", "-n", str(count), "-lead", f"{lead_s}s")
    rate, drained, least, longest = figures["rate"], figures["drained_s"], 100_000 * goals.rate, 2.5 / goals.rate
    what = f"{goals.title}burst of 100 000"
    yield f"{what}: delivered", f">= {least:,.0f}/s (Dapr, 10 000: 62 000/s)", f"{rate:,.0f}/s", rate >= least
    told = f"{drained:.2f} s = {count / drained:,.0f}/s"
    yield f"{what}: acknowledged and committed", f"<= {longest:.3g} s (>= {100_000 / longest:,.0f}/s)", told, drained <= longest
    each_us = meter.spent_since_ns(due - BEFORE_DUE_S) / count / 1000
    allowed = 18 / goals.rate
    yield f"{what}: CPU in the loop thread per trigger", f"<= {allowed:.3g} us", f"{each_us:.1f} us", each_us <= allowed


def sustained(load: Load, jobs: int, of: int, goals: Goals = PLAIN, *, dapr: str = "") -> Iterator[Answer]:
    """`jobs`: how many run; `of`: how many the target speaks of."""
    figures = load.run("sustained", "-n", str(jobs), "-d", f"{SUSTAINED_S}s")
    p50, p99 = 2 * goals.late, 20 * goals.late
    told = f"missed {figures['missed']:.0f}, p50 {figures['late_p50_ms']:.2f} ms, p99 {figures['late_p99_ms']:.2f} ms"
    met = figures["missed"] == 0 and figures["late_p50_ms"] < p50 and figures["late_p99_ms"] < p99
    yield f"{goals.title}{of:,} jobs @every 1s", f"none missed, p50 < {p50:g} ms, p99 < {p99:g} ms{dapr}", told, met


def batches(server: ServerProcess, load: Load, jobs: int) -> Iterator[Answer]:
    """A worker of raftsched.v1, many triggers and answers in a message. Each tick of a job is sent when the one before is committed, so
    that a rate which is held is one of acknowledged and committed runs."""
    lead_s = max(jobs // BURST_CREATION_PER_S, 3)
    with LoopMeter(server) as meter:
        due = time.monotonic() + lead_s
        figures = load.run("sustained", "-batched", "-n", str(jobs), "-d", f"{SUSTAINED_S}s", "-lead", f"{lead_s}s")
    what = "50,000 jobs @every 1s, one worker of batches"
    told = f"missed {figures['missed']:.0f}, p50 {figures['late_p50_ms']:.2f} ms, p99 {figures['late_p99_ms']:.2f} ms"
    met = figures["missed"] == 0 and figures["late_p50_ms"] < 2 and figures["late_p99_ms"] < 20
    yield what, "none missed, p50 < 2 ms, p99 < 20 ms", told, met
    each_us = meter.spent_between_ns(due, due + SUSTAINED_S) / (jobs * SUSTAINED_S) / 1000
    yield f"{what}: CPU in the loop thread per trigger (for information)", "", f"{each_us:.1f} us", None


def lateness(load: Load, goals: Goals = PLAIN) -> Iterator[Answer]:
    figures = load.run("lateness", "-n", "100")
    p50, p99 = 1 * goals.late, 3 * goals.late
    told = f"p50 {figures['late_p50_ms']:.2f} ms, p99 {figures['late_p99_ms']:.2f} ms, early {figures['early']:.0f}"
    met = figures["late_p50_ms"] < p50 and figures["late_p99_ms"] < p99 and figures["early"] == 0
    target = f"p50 < {p50:g} ms, p99 < {p99:g} ms, none early (Dapr: 1.1, 5.2)"
    yield f"{goals.title}100 one-shots over 10 s: lateness", target, told, met


def one_server(server: ServerProcess, load: Load, scale: int, goals: Goals = PLAIN) -> Iterator[Answer]:
    """All rows of one replica."""
    yield from lateness(load, goals)
    yield from creation(load, 60_000 // scale, goals)
    yield from burst(server, load, 100_000 // scale, goals)
    yield from sustained(load, 30_000 // scale, 30_000, goals)


def three_servers(load: Load, scale: int, goals: Goals) -> Iterator[Answer]:
    """What three replicas are asked for; the target's sizes of three."""
    yield from creation(load, 40_000 // scale, goals, at_least=9_000, dapr="2 800-3 100")
    yield from sustained(load, 20_000 // scale, 20_000, goals, dapr=" (Dapr holds 4 000)")


def rows(folder: Path, quick: bool) -> Iterable[Answer]:
    if not schedload.available():
        yield "scheduler under load", "", "missing: go (bench/schedload)", None
        return
    with ServerProcess(folder / "jobs") as server:
        scale = 10 if quick else 1
        yield from one_server(server, Load([server.scheduler_address]), scale)
        yield from batches(server, Load([server.scheduler_address]), 50_000 // scale)
