"""`/readyz` of a running replica (docs/observability.md): red within 5 s when delivery stands still, for whatever reason, and green again
by itself. `/healthz` keeps to Dapr's contract meanwhile."""

import json
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from clustering import make_cluster, needs_raftsched
from externals import one_etcd
from serving import Clients, Worker, fetch, metrics, wait_for

from raftsched.pb.etcd import rpc_pb2
from raftsched.testing.external import ExternalScheduler
from raftsched.testing.process import ServerProcess
from raftsched.testing.slow_disk import SlowDisk, why_not

pytestmark = [pytest.mark.process, needs_raftsched]
RED_S = 15.0  # 5 s are promised; this machine may be busy with other tests
GREEN_S = 60.0


def readyz(server: ServerProcess) -> dict[str, str]:
    """What stands still, by its part; status and body agree."""
    status, body = fetch(server.healthz_port, "/readyz")
    told = json.loads(body)
    assert (status, told["ready"]) in {(200, True), (503, False)}
    assert told["ready"] == (not told["stuck"])
    return dict(told["stuck"])


def red(server: ServerProcess, part: str, why: str = "") -> None:
    """Within the time that is promised, and for this reason."""

    def told() -> bool:
        found = readyz(server)
        return part in found and why in found[part]

    wait_for(told, RED_S, lambda: f"{readyz(server)}\n{server.logs()}")


def green(server: ServerProcess) -> None:
    wait_for(lambda: readyz(server) == {}, GREEN_S, lambda: f"{readyz(server)}\n{server.logs()}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "server") as one:
        yield one


@contextmanager
def ticking(server: ServerProcess) -> Iterator[Worker]:
    """A job each second, and who answers."""
    clients = Clients(server)
    with Worker(server) as worker:
        clients.schedule("ticks", schedule="@every 1s")
        wait_for(lambda: worker.acknowledged, 30, server.logs)
        yield worker
    clients.close()


def goes_on(worker: Worker) -> None:
    count = len(worker.acknowledged)
    wait_for(lambda: len(worker.acknowledged) > count + 1, 30, "no triggers any more")


def test_an_idle_replica_shows_that_it_is_ready(server: ServerProcess) -> None:
    green(server)
    canaries = "raftsched_scheduler_canary_lateness_seconds_count"
    wait_for(lambda: metrics(server.metrics_port)[canaries] >= 5, 30, "no canaries")
    green(server)
    found = metrics(server.metrics_port)
    parts = {name: value for name, value in found.items() if name.startswith("raftsched_scheduler_stuck{")}
    assert len(parts) == 6
    assert set(parts.values()) == {0}
    assert found["raftsched_scheduler_jobs"] == found["dapr_scheduler_sidecars_connected"] == 0
    assert fetch(server.healthz_port, "/readyz/")[0] == 404


def test_a_clock_that_is_set_back(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "server")
    server.directory.mkdir(parents=True)
    ahead = server.directory / "ahead"
    ahead.write_bytes(bytes(8))
    server.command = [server.command[0], str(Path(__file__).with_name("skewed_member.py")), str(ahead), *server.command[3:]]
    with server:
        green(server)
        with ahead.open("r+b") as file:
            file.write(struct.pack("<q", -3_600 * 10**9))
        red(server, "wheel", "the clock was set back: time stands still for 3")
        assert server.health() == 200, "Dapr's contract knows no such thing"
        with ahead.open("r+b") as file:
            file.write(bytes(8))
        green(server)


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_disk_that_takes_nothing(server: ServerProcess) -> None:
    with ticking(server) as worker:
        green(server)
        assert server.process is not None
        with SlowDisk(server.directory, server.process.pid, writes_per_s=1, bytes_per_s=64):  # a page takes a minute
            red(server, "commit")
        green(server)
        goes_on(worker)


def test_results_that_are_refused(server: ServerProcess) -> None:
    """A full store, as its alarm tells."""
    clients = Clients(server)
    with ticking(server) as worker:
        green(server)
        alarm = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.ACTIVATE, memberID=1, alarm=rpc_pb2.NOSPACE)
        clients.maintenance.Alarm(alarm)
        red(server, "commit", "results of triggers are refused: etcdserver: mvcc: database space exceeded")
        alarm.action = rpc_pb2.AlarmRequest.DEACTIVATE
        clients.maintenance.Alarm(alarm)
        green(server)
        goes_on(worker)
    clients.close()


def test_no_majority(tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path)
    try:
        cluster.start()
        last, *others = cluster.members
        for one in cluster.members:
            green(one)
        for one in others:
            one.kill()
        red(last, "store")
        others[0].start(wait=False)
        green(last)
        green(others[0])
    finally:
        cluster.close()


def test_an_external_etcd_that_stands_still(tmp_path: Path) -> None:
    with one_etcd(tmp_path) as etcd, ExternalScheduler(tmp_path / "replica", [etcd.address]) as server:
        green(server)
        etcd.pause()
        red(server, "store", "the external etcd: ")
        etcd.resume()
        green(server)


def test_a_loop_that_does_not_turn(tmp_path: Path) -> None:
    """The interpreter itself stands still: a native thread says so."""
    server = ServerProcess(tmp_path / "server")
    server.command = [server.command[0], str(Path(__file__).with_name("stalling_member.py")), *server.command[3:]]
    with server:
        green(server)
        assert server.process is not None
        server.process.send_signal(signal.SIGUSR1)
        red(server, "loop", "the event loop has not turned for ")
        green(server)
        assert server.health() == 200


def test_a_process_that_was_suspended(tmp_path: Path) -> None:
    """Nobody answers: that is red for whoever asks with a time limit."""
    cluster = make_cluster(tmp_path, 1)
    try:
        cluster.start()
        [server] = cluster.members
        green(server)
        server.pause()
        assert server.health() == 0
        time.sleep(4)
        server.resume()
        green(server)
    finally:
        cluster.close()


def test_a_member_that_waits_for_others_is_healthy_and_not_ready(tmp_path: Path) -> None:
    cluster = make_cluster(tmp_path)
    first = cluster.members[0]
    try:
        first.start(wait=False)
        wait_for(lambda: first.health() == 200, 30, first.logs)
        assert list(readyz(first)) == ["server"]
    finally:
        cluster.close()
