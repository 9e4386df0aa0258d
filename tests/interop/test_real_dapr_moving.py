"""The binary is swapped: what the Dapr Scheduler itself left in its data directory is served by raftsched, and the other way round."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from real_dapr import dapr_scheduler, payload
from snapshots import raftsched

from raftsched.testing.dapr_scheduler import EmbeddedDaprScheduler
from raftsched.testing.process import ServerProcess

sys.path.append(str(Path(__file__).resolve().parents[1] / "process"))
from serving import COUNTERS, FAILED, JOBS, SUCCESS, Clients, Worker, constant, ends, wait_for

pytestmark = pytest.mark.process
REPEATS = 8
MEMBER = "dapr-scheduler-server-0"
PLACE = f"default-{MEMBER}/dapr-0.1"


@pytest.fixture(scope="module")
def program() -> Path:
    return dapr_scheduler()


def answer(name: str) -> int:
    return int(FAILED if name == "failing" else SUCCESS)


def fill(server: ServerProcess) -> dict[bytes, bytes]:
    """Jobs of several kinds, some under way; what is stored of them while nobody takes them."""
    wait_for(lambda: server.stdout_path.read_text().count("Cron is ready"), 60, server.logs)
    clients = Clients(server)
    clients.schedule("counted", schedule="@every 1s", repeats=REPEATS, data=payload(b"counted"))
    clients.schedule("failing", due_time="0s", policy=constant(500, 1000))
    clients.schedule("far é", schedule="@yearly", due_time="10h", ttl="20h", data=payload(b"far"))
    with Worker(server, answer=answer) as worker:
        wait_for(lambda: worker.deliveries.count("counted") >= 3 and worker.deliveries.count("failing") >= 2, 30, server.logs)
    found: dict[bytes, bytes] = {}
    while (now := stored(clients)) != found:  # the last results are on their way
        found = now
        time.sleep(0.5)
    clients.close()
    return found


def stored(clients: Clients) -> dict[bytes, bytes]:
    return {**clients.under(JOBS), **clients.under(COUNTERS)}


def goes_on(server: ServerProcess, before: dict[bytes, bytes]) -> None:
    """All is there, byte by byte; the rest of the counted ticks comes, no more and no fewer."""
    wait_for(lambda: server.stdout_path.read_text().count("Cron is ready"), 60, server.logs)
    clients = Clients(server)
    assert stored(clients) == before
    assert clients.listed() == {"counted", "failing", "far é"}
    counted = clients.counter("counted")
    assert counted is not None
    with Worker(server, answer=answer) as worker:
        wait_for(lambda: clients.stored_job("counted") is None, 40, server.logs)
        assert worker.deliveries.count("counted") == REPEATS - counted.count
        wait_for(lambda: "failing" in worker.deliveries, 20, server.logs)
    clients.close()


@pytest.mark.parametrize("end", [ServerProcess.stop, ServerProcess.kill], ids=["stopped", "killed"])
def test_its_directory(end: Callable[[ServerProcess], object], program: Path, tmp_path: Path) -> None:
    """On the same volume, with the same flags: a start stops and names the command, which does it."""
    with EmbeddedDaprScheduler(program, tmp_path / "theirs") as dapr:
        before = fill(dapr)
        end(dapr)
    data = tmp_path / "theirs" / "data"
    files = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    ours = ServerProcess(tmp_path / "ours", args=[f"--etcd-data-dir={data}"])
    ours.start(wait=False)
    assert ends(ours) == 1
    named = re.search(r"raftsched snapshot restore [^\\\"]+", ours.stdout_path.read_text())
    assert named is not None, ours.logs()
    assert str(data / PLACE) in named.group()
    raftsched("snapshot", "restore", data / PLACE, "--data-dir", data)
    with ours:
        goes_on(ours, before)
    assert {path: path.read_bytes() for path in files} == files


def test_back_into_its_directory(program: Path, tools: ModuleType, tmp_path: Path) -> None:
    """By etcdutl, as docs/moving.md says."""
    etcdutl = tools.etcdutl()
    if etcdutl is None:
        pytest.skip("no etcdutl here: not built by `make tools`")
    dapr = EmbeddedDaprScheduler(program, tmp_path / "theirs")
    peer = next(word for word in dapr.command if word.startswith("--etcd-initial-cluster=")).rpartition("=")[2]
    with ServerProcess(tmp_path / "ours") as ours:
        before = fill(ours)
        raftsched("snapshot", "save", tmp_path / "back.db", "--address", ours.client_address)
    data = tmp_path / "theirs" / "data"
    words = ["--data-dir", data / PLACE, "--name", MEMBER, "--initial-cluster", f"{MEMBER}={peer}", "--initial-advertise-peer-urls", peer]
    subprocess.run([etcdutl, "snapshot", "restore", tmp_path / "back.db", *words], check=True, capture_output=True, timeout=60)
    (data / "dapr-scheduler-existing-cluster").touch()
    with dapr:
        goes_on(dapr, before)
