"""The storage settings of Dapr's persistence how-to (spec §2.1, §11), each by what it does to a real server.

Others are shown elsewhere: docs/dapr-compatibility.md names the test of each.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from serving import Clients, metrics, refused, wait_for

from raftsched.pb.etcd import rpc_pb2
from raftsched.testing.process import ServerProcess

pytestmark = pytest.mark.process
COMMITS = "etcd_disk_backend_commit_duration_seconds_count"
LONG = "--etcd-backend-batch-interval=1h"


@contextmanager
def serving(place: Path, *flags: str) -> Iterator[tuple[ServerProcess, Clients]]:
    with ServerProcess(place, args=flags) as server:
        clients = Clients(server)
        yield server, clients
        clients.close()


def commits_of(place: Path, *flags: str, puts: int, seconds: float = 0.0) -> float:
    """How often the backend commits while so much is put, one after the other, and so long after."""
    with serving(place, *flags) as (server, clients):
        before = metrics(server.client_port)[COMMITS]
        for number in range(puts):
            clients.put(b"k", b"%d" % number)
            time.sleep(seconds / puts)
        return metrics(server.client_port)[COMMITS] - before


def test_batch_interval(tmp_path: Path) -> None:
    """`--etcd-backend-batch-interval`: with a long one nothing is committed yet, with a short one again and again."""
    limit = "--etcd-backend-batch-limit=1000000"
    assert commits_of(tmp_path / "long", LONG, limit, puts=20, seconds=1.5) <= 1
    assert commits_of(tmp_path / "short", "--etcd-backend-batch-interval=20ms", limit, puts=20, seconds=1.5) >= 8


def test_batch_limit(tmp_path: Path) -> None:
    """`--etcd-backend-batch-limit`: so many operations are a commit, however long the interval is."""
    assert commits_of(tmp_path / "many", LONG, "--etcd-backend-batch-limit=1000000", puts=100) <= 1
    assert commits_of(tmp_path / "few", LONG, "--etcd-backend-batch-limit=10", puts=100) >= 5


def test_periodic_compaction(tmp_path: Path) -> None:
    """`--etcd-compaction-mode=periodic --etcd-compaction-retention`: what is older can no longer be asked for; with 1h it can."""

    def ask(clients: Clients, revision: int) -> object:
        return clients.kv.Range(rpc_pb2.RangeRequest(key=b"k", revision=revision), timeout=10)

    for retention, compacted in (("1s", True), ("1h", False)):
        flags = ("--etcd-compaction-mode=periodic", f"--etcd-compaction-retention={retention}")
        with serving(tmp_path / retention, *flags) as (_, clients):
            first = clients.put(b"k", b"0")
            end = time.monotonic() + (30 if compacted else 4)
            gone = False
            while time.monotonic() < end and not gone:
                clients.put(b"k", b"1")
                time.sleep(0.1)
                try:
                    ask(clients, first)
                except grpc.RpcError:
                    gone = True
            assert gone is compacted
            if gone:
                told = refused(lambda: ask(clients, first))  # noqa: B023  # called in this round
                assert told == (grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")


def marks(server: ServerProcess) -> list[Path]:
    """The Raft snapshots, oldest first."""
    return sorted(server.directory.rglob("*.snap"))


def test_snapshot_count_and_max_snapshots(tmp_path: Path) -> None:
    """`--etcd-snapshot-count`: a Raft snapshot for each so many entries; `--etcd-max-snapshots`: so many of them are kept, 0 = all."""
    kept = {}
    for count, most in ((10, 2), (10, 0), (100_000, 2)):
        place = tmp_path / f"{count}-{most}"
        flags = (f"--etcd-snapshot-count={count}", f"--etcd-max-snapshots={most}", "--etcd-backend-batch-interval=5ms")
        with serving(place, *flags) as (server, clients):
            end = time.monotonic() + 4
            while time.monotonic() < end or (count == 10 and len(marks(server)) < (most or 4) and time.monotonic() < end + 30):
                clients.put(b"k", b"1")
            kept[count, most] = len(marks(server))
    assert kept[10, 2] == 2
    assert kept[10, 0] >= 4
    assert kept[100_000, 2] == 0


def test_bootstrap_defragmentation(tmp_path: Path) -> None:
    """`--etcd-experimental-bootstrap-defrag-threshold-megabytes`: a start reclaims so much, 0 = never."""
    flag = "--etcd-experimental-bootstrap-defrag-threshold-megabytes="

    def file_bytes() -> int:
        return sum(path.stat().st_blocks * 512 for path in (tmp_path / "server").rglob("data.mdb"))

    server = ServerProcess(tmp_path / "server")
    base = list(server.command)
    sizes = []
    for threshold, reclaims in ((0, False), (1_000, False), (4, True)):
        server.command = [*base, f"{flag}{threshold}"]
        with server:
            clients = Clients(server)
            assert ("reclaimed space at boot" in server.stderr_path.read_text()[server.stderr_offset :]) is reclaims
            sizes.append(file_bytes())
            if threshold == 0:
                for number in range(20):
                    revision = clients.put(b"big", bytes([number]) * 1_000_000)
                clients.kv.Compact(rpc_pb2.CompactionRequest(revision=revision, physical=True), timeout=20)
                wait_for(lambda: free_bytes(clients) > 8 << 20, 20, "nothing is free")  # noqa: B023  # called in this round
            clients.close()
            server.stop()
            server.process = None
    assert sizes[1] > 10 << 20
    assert sizes[2] < sizes[1] / 2


def free_bytes(clients: Clients) -> int:
    status = clients.maintenance.Status(rpc_pb2.StatusRequest(), timeout=10)
    return int(status.dbSize - status.dbSizeInUse)
