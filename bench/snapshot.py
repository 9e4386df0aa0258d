"""A member that is behind, step by step: copying, sending over loopback TCP, receiving, installing; and entries from segments.

Run: `python -m bench.snapshot [--mib 1024] [--rate MiB/s]`; a line per step. Both ends share one process, its two cores and its disk,
so the figures are lower bounds of what two machines do. Without `--rate` the sender's limit of `limits.py` holds.
"""

import argparse
import asyncio
import os
import shutil
import tempfile
import time
from pathlib import Path

from raftsched import limits
from raftsched.store import membership
from raftsched.store._records import Generation
from raftsched.store.backend._lmdb import Backend
from raftsched.store.node.opening import open_member
from raftsched.store.node.options import NodeOptions, SystemClock
from raftsched.store.node.receiving import Receiving, install_received
from raftsched.store.snapshot.install import Stored
from raftsched.store.snapshot.outgoing import Outgoing, send
from raftsched.store.snapshot.stream import Pace
from raftsched.store.transport.ports import SNAPSHOT
from raftsched.store.wal.disk import RealDisk
from raftsched.store.wal.format import Metadata
from raftsched.store.wal.log import open_log
from raftsched.store.wal.reader import SegmentCursor
from raftsched.testing.peers import close_members, start_members
from raftsched.types import MemberInfo

INDEX, TERM, VALUE_BYTES = 1_000_000, 3, 1_000


class Quiet:
    def info(self, message: str, /, **fields: object) -> None:
        pass

    debug = warning = error = info


class Steps:
    """Prints what took how long."""

    def __init__(self, size_mib: float) -> None:
        self.size_mib = size_mib
        self._began = time.monotonic()

    def done(self, what: str) -> None:
        now = time.monotonic()
        seconds, self._began = now - self._began, now
        print(f"{what:46} {seconds:7.2f} s  {self.size_mib / seconds:7.0f} MiB/s", flush=True)


def fill(backend: Backend, mib: int, options: NodeOptions) -> None:
    """So many MiB of records of 1,000 bytes, in commits of 64 MiB."""
    member_id = membership.make_member_id(options.peer_urls, options.cluster_token)
    told = membership.encode_json(MemberInfo(member_id, "", options.peer_urls, ()))
    side = [("members", membership.bucket_key(member_id), told)]
    revision = 2
    record = record_of(os.urandom(VALUE_BYTES))
    for part in range(0, mib, 64):
        generation = Generation()
        for _ in range(min(64, mib - part) * (1 << 20) // len(record)):
            generation.add(revision, 0, False, record)
            revision += 1
        generation.freeze()
        backend.commit(generation, [], side, INDEX, TERM)
        assert backend.wait(120_000)
        backend.completed()
        backend.renew()


def record_of(value: bytes) -> bytes:
    """A KeyValue of key "k", created at 2, version 1."""
    length = bytes([len(value) & 0x7F | 0x80, len(value) >> 7])
    return b"\x0a\x01k\x10\x02\x18\x02\x20\x01\x2a" + length + value


async def transfer(path: Path, mib: int, rate_mib_s: int) -> None:
    options = NodeOptions(data_dir=str(path / "ours"))
    ours = open_member(options, SystemClock())
    theirs = open_member(NodeOptions(data_dir=str(path / "theirs")), SystemClock())
    steps = Steps(mib)
    fill(theirs.backend, mib, options)
    steps.done("filling (not part of it)")

    async def make(target: str) -> None:
        theirs.backend.start_copy(target)
        assert await asyncio.to_thread(theirs.backend.wait_bulk, 600_000)
        theirs.backend.bulk_completed()

    in_use = theirs.backend.in_use_bytes
    outgoing = Outgoing(
        theirs.directory, make=make, in_use_bytes=lambda: in_use, mono_ms=lambda: time.monotonic_ns() // 1_000_000, log=Quiet()
    )
    copy = await outgoing.acquire(1)
    steps.size_mib = copy.offer.size_bytes / (1 << 20)
    steps.done(f"compacting copy, synced, hashed ({steps.size_mib:.0f} MiB)")
    got: list[Stored] = []
    receiving = Receiving(ours, got.append, time.monotonic_ns, Quiet())
    one, other = await start_members(1, 2)
    other.handler.bulk = receiving.on_bulk
    steps.done("connecting (not part of it)")
    stream = await one.peers.open_bulk(2, SNAPSHOT)
    lags = asyncio.create_task(loop_lags())
    await send(stream, copy, pace=Pace(rate_mib_s << 20), mono_ns=time.monotonic_ns, log=Quiet())
    steps.done("sending, receiving, hashing, syncing")
    lags.cancel()
    found = sorted(await lags)
    print(
        f"{'the loop was late meanwhile (both ends in it)':46} p50 {found[len(found) // 2]:.1f} ms, "
        f"p99 {found[len(found) * 99 // 100]:.1f} ms, max {found[-1]:.1f} ms"
    )
    stream.close()
    while not got:
        await asyncio.sleep(0.001)
    install_received(ours, got[0])
    steps.done("installing: mark, sync, rename")
    ours.close()
    again = open_member(options, SystemClock())
    steps.done("opening anew (index of the keys)")
    assert again.applier.applied_index == INDEX
    again.close()
    theirs.close()
    await close_members([one, other])


async def loop_lags() -> list[float]:
    """How late a 1 ms timer of this loop is, in ms; until it is cancelled."""
    late: list[float] = []
    try:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.001)
            late.append((time.monotonic() - began) * 1000 - 1)
    except asyncio.CancelledError:
        return late


def segments(path: Path, mib: int) -> None:
    """Reading a log's entries by chunks, as a catch-up does."""
    path.mkdir()
    log, _ = open_log(str(path), metadata=Metadata(1, 1))
    data, count = os.urandom(1_000), mib * 1_000
    for first in range(1, count, 1_000):
        log.append(None, first, [1] * 1_000, [data] * 1_000)
        while log.queued_bytes > 32 << 20:
            log.wait_durable(log.batch_last, 60_000)
            log.completed()
    log.wait_durable(log.batch_last, 60_000)
    steps = Steps(mib)
    cursor = SegmentCursor(RealDisk(str(path)), 1)
    chunks = 0
    while cursor.read(to_index=log.last_index, entries_max=limits.CATCH_UP_CHUNK_ENTRIES, bytes_max=limits.CATCH_UP_CHUNK_BYTES):
        chunks += 1
        if chunks == 1:
            steps.done(f"looking over {mib} MiB of segments")
    steps.done(f"reading {log.last_index} entries in {chunks} chunks")
    log.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rate", type=int, default=limits.SNAPSHOT_BYTES_PER_S >> 20, help="MiB/s")
    parser.add_argument("--directory", default=None, help="where to write; default: the system's")
    given = parser.parse_args()
    path = Path(tempfile.mkdtemp(dir=given.directory))
    try:
        asyncio.run(transfer(path, given.mib, given.rate))
        segments(path / "wal", min(given.mib, 512))
    finally:
        shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main()
