"""The trigger path without door and log: loop-thread time per trigger, phase by phase, and memory per recurring job.

Run: `pytest bench/test_engine.py --benchmark-enable -s`. `extra_info` holds what counts: microseconds of thread CPU time per
one-shot for firing, reading and encoding, acks, apply, changes and outcomes; bytes of RssAnon per job for engine and wheel.
"""

import gc
import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from raftsched._core import TimerWheel
from raftsched.pb.etcd.kv_pb2 import KeyValue
from raftsched.scheduler.delivery._delivery import Delivery
from raftsched.scheduler.delivery.gates import Gates
from raftsched.scheduler.engine._engine import Engine
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import COUNTERS, JOBS
from raftsched.scheduler.schedule import Schedules
from raftsched.store._records import MemoryRecords
from raftsched.store.lease import Lessor
from raftsched.store.mvcc._store import MvccStore
from raftsched.testing.scheduling import APP, metadata, result
from raftsched.types import Change
from raftsched.zones import zone_table

NOW_MS = 1_700_000_000_000
ROUTE = b"app||ns||app||"
METADATA = metadata(APP)


def engine_over(read_record, now_ms: int = NOW_MS) -> Engine:
    wheel = TimerWheel(now_ms)
    engine = Engine(
        wheel, Delivery(), Gates(), read_record, Schedules(zone_table, wheel.cron).compile, print, hash_key=(1, 2), branches_max=1024
    )
    engine.set_partition(1, 0)
    return engine


class Stopwatch:
    """Thread CPU time by phase."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self._last = time.thread_time()

    def lap(self, phase: str) -> None:
        now = time.thread_time()
        self.phases[phase] = self.phases.get(phase, 0.0) + now - self._last
        self._last = time.thread_time()


@pytest.mark.parametrize("count", [100_000])
def test_burst_of_one_shots(benchmark: BenchmarkFixture, count: int) -> None:
    store = MvccStore(MemoryRecords(), Lessor(lambda _: None), hash_seed=1)
    store.watching = True
    engine = engine_over(store.record)
    value = _jobs.encode_stored_job(1, True, NOW_MS // 1000 + 5, 0, None, None, b"2026-11-22T23:00:00Z", None, None, METADATA, None, None)
    for number in range(count):
        store.txn(_jobs.create_job_request(ROUTE + b"job-%d" % number, value))
        if number % 1000 == 999:
            engine.on_changes(store.take_changes())
    got: list[bytes] = []

    def push(message: bytes) -> bool:
        got.append(message)
        return True

    stream = engine.open_stream(push, None, [(ROUTE, 1, None)])
    acks = [result(number + 1) for number in range(count)]
    watch = Stopwatch()

    def burst() -> None:
        watch.__init__()  # type: ignore[misc]
        engine.advance(NOW_MS + 5000)
        while engine.more:
            engine.advance(NOW_MS + 5000)
        watch.lap("wheel and engine")
        assert engine.flush(count) == count
        watch.lap("read, encode, push")
        for start in range(0, count, 1000):
            assert engine.on_acks(stream, acks[start : start + 1000], NOW_MS + 5001) is None
        commits = engine.take_commits()
        watch.lap("acks and branches")
        for commit in commits:
            error, _, body = store.txn(commit.request)
            watch.lap("apply")
            engine.on_changes(store.take_changes())
            watch.lap("changes")
            assert engine.on_outcomes(commit, _jobs.txn_outcomes(body, commit.count)) == error == 0
            watch.lap("outcomes")

    benchmark.pedantic(burst, rounds=1)
    assert engine.jobs == 0
    assert len(got) == count
    micros = {phase: round(seconds / count * 1e6, 2) for phase, seconds in watch.phases.items()}
    benchmark.extra_info.update(micros, total_us=round(sum(micros.values()), 2))
    print(benchmark.extra_info)


def rss_anon_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


def page(root: bytes, value: bytes, first: int, size: int, base: int) -> list[Change]:
    changes = []
    for number in range(first, first + size):
        key = root + ROUTE + b"job-%d" % number
        changes.append(Change(False, key, base + number, 0, KeyValue(key=key, value=value, mod_revision=base + number).SerializeToString()))
    return changes


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_million_recurring_jobs(benchmark: BenchmarkFixture) -> None:
    count = 1_000_000
    engine = engine_over(lambda main, sub: None)
    job = _jobs.encode_stored_job(7, False, NOW_MS // 1000, 5, None, b"@every 60s", None, None, None, METADATA, None, _jobs.DEFAULT_POLICY)
    counter = _jobs.encode_counter(7, 1, (NOW_MS // 1000, 0), 0)
    gc.collect()
    before, spent = rss_anon_bytes(), 0.0
    engine.begin_load()
    for root, value, base in ((JOBS, job, 2), (COUNTERS, counter, 2 + count)):
        for first in range(0, count, 1000):
            changes = page(root, value, first, 1000, base)
            begin = time.thread_time()
            engine.on_changes(changes)
            spent += time.thread_time() - begin
    engine.finish_load()

    def arm() -> None:
        while engine.arm_some(20_000):
            pass

    benchmark.pedantic(arm, rounds=1)
    assert engine.jobs == len(engine.wheel) == count
    gc.collect()
    benchmark.extra_info.update(bytes_per_job=(rss_anon_bytes() - before) // count, load_us_per_key=round(spent / count / 2 * 1e6, 2))
    print(benchmark.extra_info)
