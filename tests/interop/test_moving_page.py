"""docs/moving.md, command by command: what its `sh` blocks say is run by a shell as it stands, against real servers and etcd's own tools.

Ports and the two addresses come from the environment, as they may for a reader; the directory is one of the test's own.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Self

import grpc
import pytest

from raftsched.cli.moving import gob
from raftsched.pb.dapr import scheduler_pb2, scheduler_pb2_grpc, stored_pb2
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.cluster import Cluster, member_name
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.job_load import Stream, instant_ns
from raftsched.testing.process import ServerProcess, free_ports

pytestmark = pytest.mark.process
PAGE = Path(__file__).parents[2] / "docs" / "moving.md"
APP = "chaos"  # of `Stream`
JOBS, COUNTERS, MARKS = b"dapr/jobs/", b"dapr/counters/", b"raftsched/imports/"
RECURRING, FAR = 12, 60
BEFORE_S = 4.0


def block(heading: str) -> str:
    """The `sh` blocks under a heading, joined."""
    text = PAGE.read_text()
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found is not None, heading
    blocks = re.findall(r"```sh\n(.*?)```", found[1], re.DOTALL)
    assert blocks, heading
    return "".join(blocks)


class Server(NamedTuple):
    """What was started in the background of a shell, by its ports."""

    scheduler_port: int
    client_port: int
    peer_port: int
    healthz_port: int

    @property
    def client_address(self) -> str:
        return f"127.0.0.1:{self.client_port}"

    @property
    def scheduler_address(self) -> str:
        return f"127.0.0.1:{self.scheduler_port}"


class Machine:
    """A directory with a shell, and the ports of the one server that is started in it."""

    def __init__(self, place: Path, tools: dict[str, Path], name: str = member_name(0)) -> None:
        place.mkdir(parents=True)
        self.place, self.name = place, name
        self.server = Server(*free_ports(4))
        metrics_port = free_ports(1)[0]
        folder = place / "bin"
        folder.mkdir()
        for tool, path in tools.items():
            (folder / tool).symlink_to(path)
        own = folder / "raftsched"
        own.write_text(f'#!/bin/sh\nexec {sys.executable} -m raftsched "$@"\n')
        own.chmod(0o755)
        self.environment = {
            "PATH": f"{folder}:/usr/bin:/bin",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "RAFTSCHED_PORT": str(self.server.scheduler_port),
            "RAFTSCHED_ETCD_CLIENT_PORT": str(self.server.client_port),
            "RAFTSCHED_HEALTHZ_PORT": str(self.server.healthz_port),
            "RAFTSCHED_METRICS_PORT": str(metrics_port),
            "RAFTSCHED_LISTEN_ADDRESS": "127.0.0.1",
            "RAFTSCHED_ETCD_INITIAL_CLUSTER": f"{member_name(0)}=http://127.0.0.1:{self.server.peer_port}",
            "RAFTSCHED_ETCD_ADDRESS": self.server.client_address,
            "ETCDCTL_ENDPOINTS": self.server.client_address,
            "ID": name,
        }
        self._shells: list[subprocess.Popen[bytes]] = []

    def sh(self, text: str) -> Self:
        """Runs it as a reader would; what it leaves in the background is killed with the machine."""
        with (self.place / "log").open("ab") as log:
            shell = subprocess.Popen(
                ["/bin/sh", "-ec", text], cwd=self.place, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self._shells.append(shell)
        assert shell.wait(120) == 0, f"{text}\n{self.log()}"
        return self

    def log(self) -> str:
        return (self.place / "log").read_bytes()[-4_000:].decode(errors="replace")

    def wait_ready(self) -> None:
        end = time.monotonic() + 60
        while True:
            with grpc.insecure_channel(self.server.client_address) as channel:
                try:
                    answer = rpc_pb2_grpc.MaintenanceStub(channel).Status(rpc_pb2.StatusRequest(), timeout=1)
                    if answer.leader and not answer.isLearner:
                        return
                except grpc.RpcError:
                    pass
            assert time.monotonic() < end, f"{self.name} is not ready\n{self.log()}"
            time.sleep(0.05)

    @property
    def runs(self) -> bool:
        """Whether anything of its shells does."""
        return any(_alive(shell.pid) for shell in self._shells)

    def kill(self) -> None:
        for shell in self._shells:
            try:
                os.killpg(shell.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        end = time.monotonic() + 20
        while self.runs:
            assert time.monotonic() < end, f"{self.name} survives\n{self.log()}"
            time.sleep(0.02)
        self._shells.clear()


def _alive(group: int) -> bool:
    """Whether a process of the group runs; what nobody has waited for yet does not."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, found, *_ = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(found) == group and state != "Z":
            return True
    return False


@pytest.fixture
def tools_of_etcd(tools: ModuleType) -> dict[str, Path]:
    found = {"etcdctl": tools.etcdctl("3.7"), "etcdutl": tools.etcdutl("3.7")}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} 3.7 here: not built by `make tools`")
    return found


@pytest.fixture
def machines(tmp_path: Path, tools_of_etcd: dict[str, Path]) -> Iterator[list[Machine]]:
    """Three, nothing runs on them."""
    made = [Machine(tmp_path / f"machine-{number}", tools_of_etcd, member_name(number)) for number in range(3)]
    yield made
    for machine in made:
        machine.kill()


@pytest.fixture
def machine(machines: list[Machine]) -> Machine:
    return machines[0]


# -- jobs


def pairs(address: str, prefix: bytes, revision: int = 0) -> dict[bytes, bytes]:
    with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        request = rpc_pb2.RangeRequest(key=prefix, range_end=prefix[:-1] + bytes([prefix[-1] + 1]), revision=revision)
        return {one.key: one.value for one in rpc_pb2_grpc.KVStub(channel).Range(request, timeout=20).kvs}


def stored(address: str, revision: int = 0) -> dict[bytes, bytes]:
    return {**pairs(address, JOBS, revision), **pairs(address, COUNTERS, revision)}


def schedule(address: str) -> None:
    """Some that recur each second, and some that are far away."""
    target = scheduler_pb2.JobTargetMetadata(job=scheduler_pb2.TargetJob())
    metadata = scheduler_pb2.JobMetadata(app_id=APP, namespace="default", target=target)
    with grpc.insecure_channel(address) as channel:
        stub = scheduler_pb2_grpc.SchedulerStub(channel)
        jobs = {f"tick-{number}": scheduler_pb2.Job(schedule="@every 1s") for number in range(RECURRING)}
        jobs |= {f"far-{number}": scheduler_pb2.Job(due_time="10h") for number in range(FAR)}
        for name, job in jobs.items():
            stub.ScheduleJob(scheduler_pb2.ScheduleJobRequest(name=name, job=job, metadata=metadata), timeout=20)


class Firing:
    """While it is open there is a consumer at each of the servers."""

    def __init__(self, *addresses: str) -> None:
        self.deliveries: list[tuple[int, str]] = []
        self._streams = [Stream(address, self.deliveries) for address in addresses]

    def __enter__(self) -> Self:
        for stream in self._streams:
            stream.start()
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._streams:
            stream.stop()


def counts(found: dict[bytes, bytes]) -> dict[bytes, stored_pb2.Counter]:
    return {key: stored_pb2.Counter.FromString(value) for key, value in found.items() if key.startswith(COUNTERS)}


def fill(server: ServerProcess, *others: ServerProcess) -> None:
    schedule(server.scheduler_address)
    with Firing(*(one.scheduler_address for one in (server, *others))):
        end = time.monotonic() + 60
        while len(counts(stored(server.client_address))) < RECURRING:
            assert time.monotonic() < end, "no ticks"
            time.sleep(0.1)
        time.sleep(1.5)
    time.sleep(0.3)  # the last results are committed


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server whose jobs have fired; nobody consumes any more, so nothing of it moves."""
    with ServerProcess(tmp_path / "filled", args=["--etcd-compaction-retention=24h"]) as server:
        fill(server)
        yield server


# -- the page


def test_from_dapr_on_the_same_volume(machine: Machine, filled: ServerProcess, tools: ModuleType, tmp_path: Path) -> None:
    """The jobs lie in the directory of an etcd that was killed, as a Dapr Scheduler keeps one."""
    path = tools.etcd("3.7")
    if path is None:
        pytest.skip("no etcd 3.7 here: not built by `make tools`")
    before = stored(filled.client_address)
    with RealEtcd(tmp_path / "dapr", Path(path)) as etcd, grpc.insecure_channel(etcd.address) as channel:
        for key, value in before.items():
            rpc_pb2_grpc.KVStub(channel).Put(rpc_pb2.PutRequest(key=key, value=value), timeout=20)
    place = machine.place / "data" / "default-dapr-scheduler-server-0"
    place.mkdir(parents=True)
    (tmp_path / "dapr" / "etcd").rename(place / "dapr-0.1")
    machine.sh(block("From Dapr, on the same volume")).wait_ready()
    assert stored(machine.server.client_address) == before
    go_on_at(before, machine)


def go_on_at(before: dict[bytes, bytes], *machines: Machine) -> None:
    """As `go_on`; consumers ask the scheduler's ports, this test the etcd's."""
    with Firing(*(one.server.scheduler_address for one in machines)) as firing:
        check(before, machines[0].server.client_address)
    assert {f"tick-{number}" for number in range(RECURRING)} <= {name for _, name in firing.deliveries}


def check(before: dict[bytes, bytes], address: str, steps_min: int = 4) -> None:
    end, earlier = time.monotonic() + 60, counts(before)
    assert len(earlier) == RECURRING
    while True:
        now = stored(address)
        later = counts(now)
        steps = {key: later[key].count - counter.count for key, counter in earlier.items() if key in later}
        if len(steps) == len(earlier) and min(steps.values()) >= steps_min:
            break
        assert time.monotonic() < end, steps
        time.sleep(0.1)
    for key, counter in earlier.items():
        assert instant_ns(later[key].last_trigger) - instant_ns(counter.last_trigger) == steps[key] * 10**9, key
    kept = {key: value for key, value in before.items() if key.startswith(JOBS)}
    assert {key: value for key, value in now.items() if key.startswith(JOBS)} == kept


def test_from_dapr_into_a_running_raftsched(machine: Machine, filled: ServerProcess) -> None:
    before = stored(filled.client_address)
    machine.sh("raftsched serve --etcd-data-dir data &").wait_ready()
    machine.environment["DAPR_ETCD"] = filled.client_address
    text = block("From Dapr, into a running raftsched")
    save, dry, *rest = text.splitlines()
    machine.sh(f"{save}\n{dry}")
    assert stored(machine.server.client_address) == {}
    machine.sh("\n".join(rest))
    assert stored(machine.server.client_address) == before
    assert len(pairs(machine.server.client_address, MARKS)) == 2
    go_on_at(before, machine)


def test_back_to_dapr(machine: Machine, filled: ServerProcess, tools: ModuleType, tmp_path: Path) -> None:
    path = tools.etcd("3.7")
    if path is None:
        pytest.skip("no etcd 3.7 here: not built by `make tools`")
    before = stored(filled.client_address)
    machine.environment |= {"RAFTSCHED_ETCD_ADDRESS": filled.client_address, "ETCDCTL_ENDPOINTS": filled.client_address}
    machine.sh(block("Back to Dapr"))
    assert {key: value for key, value, _ in gob.read(str(machine.place / "jobs.export"))} == before
    assert len((machine.place / "jobs.jsonl").read_text().splitlines()) == RECURRING + FAR
    assert (machine.place / "dapr" / "dapr-scheduler-existing-cluster").exists()
    etcd = RealEtcd(tmp_path / "dapr", Path(path))
    (machine.place / "dapr" / "default-dapr-scheduler-server-0" / "dapr-0.1").rename(tmp_path / "dapr" / "etcd")
    with etcd:
        assert stored(etcd.address) == before


def test_backup_of_a_running_cluster_and_restore_of_one_member(machines: list[Machine], tmp_path: Path) -> None:
    """Saved while jobs fire. What is restored is what there was at the snapshot's revision, and goes on."""
    machine = machines[0]
    before = saved_while_firing(machine, tmp_path)
    machine.sh(block("Restore, one member")).wait_ready()
    assert stored(machine.server.client_address) == before
    go_on_at(before, machine)


def test_restore_of_three_members(machines: list[Machine], tmp_path: Path) -> None:
    before = saved_while_firing(machines[0], tmp_path)
    listed(machines)
    for machine in machines:
        if machine is not machines[0]:
            (machine.place / "backup.db").write_bytes((machines[0].place / "backup.db").read_bytes())
        machine.sh(block("Restore, three members"))
    for machine in machines:
        machine.wait_ready()
        assert stored(machine.server.client_address) == before
    go_on_at(before, *machines)


def saved_while_firing(machine: Machine, tmp_path: Path) -> dict[bytes, bytes]:
    """Jobs and counters at the revision of the page's backup, taken of a follower of three; the cluster is killed afterwards."""
    with Cluster(tmp_path / "cluster", 3, args=["--etcd-compaction-retention=24h"]) as cluster:
        schedule(cluster.members[0].scheduler_address)
        member = cluster.followers()[0]
        with Firing(*(one.scheduler_address for one in cluster.members)):
            time.sleep(BEFORE_S)
            machine.environment["ETCDCTL_ENDPOINTS"] = member.client_address
            machine.sh(block("Backup"))
            revision = int(re.findall(r"\| *[0-9a-f]+ *\| *(\d+) *\|", machine.log())[-1]) if "|" in machine.log() else 0
            revision = revision or int(machine.log().splitlines()[-1].split(",")[1])
            time.sleep(2.0)
        before = stored(member.client_address, revision)
        assert before != stored(member.client_address), "nothing has fired since"
    assert len(counts(before)) == RECURRING
    machine.environment["ETCDCTL_ENDPOINTS"] = machine.server.client_address
    return before


def listed(machines: list[Machine]) -> None:
    """All of them are told of each other."""
    text = ",".join(f"{one.name}=http://127.0.0.1:{one.server.peer_port}" for one in machines)
    for machine in machines:
        machine.environment["CLUSTER"] = text


def test_from_one_member_to_three_and_back(machines: list[Machine]) -> None:
    """While jobs fire all the time: no tick is left out, nothing is lost, whoever holds the data."""
    first, *others = machines
    listed(machines)
    first.sh("raftsched serve --etcd-data-dir data &").wait_ready()
    schedule(first.server.scheduler_address)
    with Firing(*(one.server.scheduler_address for one in machines)):
        address = first.server.client_address
        check_steady(address)
        before = stored(address)
        for machine in others:
            machine.sh(block("From one member to three")).wait_ready()
            check(before, address)
        for machine in machines:
            assert {key for key in stored(machine.server.client_address) if key.startswith(JOBS)} == {
                key for key in before if key.startswith(JOBS)
            }
        for machine in reversed(others):
            before = stored(address)
            machine.sh(block("From three members to one"))
            end = time.monotonic() + 30
            while machine.runs:
                assert time.monotonic() < end, f"{machine.name} has not ended\n{machine.log()}"
                time.sleep(0.05)
            check(before, address)


def check_steady(address: str) -> None:
    end = time.monotonic() + 60
    while len(counts(stored(address))) < RECURRING:
        assert time.monotonic() < end, "no ticks"
        time.sleep(0.1)


def test_every_block_of_the_page_is_run() -> None:
    text = PAGE.read_text()
    here = Path(__file__).read_text()
    named = re.findall(r'block\("([^"]+)"\)', here)
    with_blocks = [part.splitlines()[0].removeprefix("## ") for part in re.split(r"^(?=## )", text, flags=re.MULTILINE) if "```sh" in part]
    assert sorted(set(named)) == sorted(with_blocks)
