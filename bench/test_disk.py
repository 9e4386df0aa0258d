"""The log and the backend alone: loop-thread time per entry, synced batches a second, recovery, commit and scan.

Run: `pytest bench/test_disk.py --benchmark-enable`. The time of a round is divided by what `extra_info` says it did; figures depend on
the disk, so compare only what one run measured.
"""

import ctypes
import itertools
import os
import select
import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from raftsched.store._records import Generation
from raftsched.store.backend._lmdb import Backend
from raftsched.store.wal.format import Metadata
from raftsched.store.wal.log import open_log
from raftsched.types import HardState

ENTRY_BYTES = 300


@pytest.mark.parametrize("entries", [1, 10, 100, 1000])
def test_append_in_the_loop_thread(benchmark: BenchmarkFixture, tmp_path: Path, entries: int) -> None:
    """`append` alone, while the writer is busy: no wake-up is paid for."""
    log, _ = open_log(str(tmp_path), metadata=Metadata(node_id=1, cluster_id=1))
    datas = [os.urandom(ENTRY_BYTES) for _ in range(entries)]
    terms, state = [1] * entries, HardState(1, 1, 0)
    calls = 2000 // entries + 1

    def setup() -> None:
        log.append(state, log.last_index + 1, [1], [b"x"])  # makes the writer busy

    def appends() -> None:
        for _ in range(calls):
            log.append(state, log.last_index + 1, terms, datas)

    benchmark.extra_info["entries_per_round"] = calls * entries
    benchmark.pedantic(appends, setup=setup, rounds=100)
    log.close()


@pytest.mark.parametrize("entries", [1, 100])
def test_synced_batches(benchmark: BenchmarkFixture, tmp_path: Path, entries: int) -> None:
    """Append, sync, hear of it by the eventfd; one batch at a time."""
    log, _ = open_log(str(tmp_path), metadata=Metadata(node_id=1, cluster_id=1))
    datas = [os.urandom(ENTRY_BYTES) for _ in range(entries)]
    terms, state = [1] * entries, HardState(1, 1, 0)
    benchmark.extra_info["syncs_per_round"] = 100

    def batches() -> None:
        for _ in range(100):
            batch = log.append(state, log.last_index + 1, terms, datas)
            while log.completed() < batch:
                select.select([log.fd], [], [])

    benchmark.pedantic(batches, rounds=10, warmup_rounds=1)
    log.close()


def test_recover(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """200 000 entries, of which the store has all but 10 000."""
    log, _ = open_log(str(tmp_path), metadata=Metadata(node_id=1, cluster_id=1))
    for _ in range(200):
        log.append(None, log.last_index + 1, [1] * 1000, [b"x" * ENTRY_BYTES] * 1000)
    log.wait_durable(log.batch_last, 60_000)
    log.close()
    benchmark.extra_info["entries_per_round"] = 200_000

    def opened() -> None:
        again, recovered = open_log(str(tmp_path), after_index=190_000)
        assert len(recovered.datas) == 10_000
        again.close()

    benchmark.pedantic(opened, rounds=3)


def test_commit(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """10 000 records in one synced transaction, and what the loop thread pays for handing them over."""
    backend = Backend(str(tmp_path / "db.0"))
    counter = itertools.count(2)
    handing: list[float] = []

    def setup() -> tuple[tuple[Generation], dict[str, object]]:
        generation = Generation()
        for _ in range(10_000):
            generation.add(next(counter), 0, False, b"x" * ENTRY_BYTES)
        generation.freeze()
        return (generation,), {}

    def commit(generation: Generation) -> None:
        start = time.perf_counter()
        backend.commit(generation, [], [], backend.applied_index + 1, 1)
        handing.append(time.perf_counter() - start)
        backend.wait(60_000)
        backend.completed()
        backend.renew()

    benchmark.extra_info["records_per_round"] = 10_000
    benchmark.pedantic(commit, setup=setup, rounds=10)
    benchmark.extra_info["handing_over_us"] = round(min(handing) * 1e6, 1)
    backend.close()


class ScanJob(ctypes.Structure):
    _fields_ = (("callback", ctypes.c_void_p), ("context", ctypes.c_void_p))


def test_scan_two_million_records(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """A start's first step: all records in order, without the GIL, warm. The hash besides reads every byte."""
    backend = Backend(str(tmp_path / "db.0"))
    main = 1
    for number in range(20):
        generation = Generation()
        for _ in range(100_000):
            main += 1
            generation.add(main, 0, False, b"x" * ENTRY_BYTES)
        generation.freeze()
        backend.commit(generation, [], [], number + 1, 1)
        backend.wait(60_000)
        backend.completed()
        backend.renew()
    # a C function that answers 0 and touches nothing: `labs` of the context
    job = ScanJob(ctypes.cast(ctypes.CDLL(None).labs, ctypes.c_void_p).value, 0)
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    capsule = new(ctypes.addressof(job), b"raftsched.scan_job", None)

    def scan() -> None:
        backend.start_scan(0, main, capsule)
        backend.wait_bulk(60_000)
        assert backend.bulk_completed()[0][1:] == (0, "")

    benchmark.extra_info["records_per_round"] = 2_000_000
    benchmark.pedantic(scan, rounds=3, warmup_rounds=1)
    start = time.perf_counter()
    backend.start_hash()
    backend.wait_bulk(60_000)
    benchmark.extra_info["hash_s"] = round(time.perf_counter() - start, 3)
    backend.close()
