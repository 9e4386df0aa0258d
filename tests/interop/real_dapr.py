"""What the tests of the Dapr Scheduler itself share: its program, the etcds under it, and what it tells."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from conftest import load_tools
from google.protobuf import any_pb2, wrappers_pb2

from raftsched.pb.dapr import leadership_pb2, scheduler_pb2, scheduler_pb2_grpc
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.etcd_command import OURS, READY, Member
from raftsched.testing.external import ExternalScheduler

sys.path.append(str(Path(__file__).resolve().parents[1] / "process"))
from serving import Clients, metrics, wait_for

LEADERSHIP = b"dapr/leadership/"
GOES_ON_S = 60.0  # a replica that died with its lease waits for its end, which is 20 s


def dapr_scheduler() -> Path:
    """Its executable; without it the test is skipped."""
    path = load_tools().dapr_scheduler()
    if path is None:
        pytest.skip("no Go program `dapr-scheduler` here: `make clients` builds it")
    return Path(path)


@contextmanager
def etcd(folder: Path, count: int, *, real: Path | None = None) -> Iterator[list[Member]]:
    """Running members of ours, or of the `real` etcd."""
    members = [Member(folder / "etcd", f"m{number}", program=OURS if real is None else [real]) for number in range(count)]
    try:
        for one in members:
            one.cluster = ",".join(f"{other.name}={other.peer}" for other in members)
            one.start(wait=False)
        for one in members:
            one.wait_for(READY)
        yield members
    finally:
        for one in members:
            one.close()


def addresses(members: list[Member]) -> list[str]:
    return [f"127.0.0.1:{one.client_port}" for one in members]


def leader(members: list[Member]) -> Member:
    for one, address in zip(members, addresses(members), strict=True):
        with grpc.insecure_channel(address) as channel:
            answer = rpc_pb2_grpc.MaintenanceStub(channel).Status(rpc_pb2.StatusRequest(), timeout=10)
        if answer.leader == answer.header.member_id:
            return one
    raise AssertionError("nobody leads")


def ready(one: ExternalScheduler) -> None:
    """It has its leadership key and knows the others."""
    wait_for(lambda: one.stdout_path.read_text().count("Cron is ready"), GOES_ON_S, one.logs)


def hosts(one: ExternalScheduler) -> set[str]:
    """The first message of WatchHosts."""
    with grpc.insecure_channel(one.scheduler_address) as channel:
        stream = scheduler_pb2_grpc.SchedulerStub(channel).WatchHosts(scheduler_pb2.WatchHostsRequest(), timeout=10)
        found = {host.address for host in next(iter(stream)).hosts}
        stream.cancel()
        return found


def totals(clients: Clients) -> list[int]:
    """What the leadership keys say."""
    return [leadership_pb2.Leadership.FromString(value).total for value in clients.under(LEADERSHIP).values()]


def triggered(one: ExternalScheduler) -> float:
    return sum(value for name, value in metrics(one.metrics_port).items() if name.startswith("dapr_scheduler_jobs_triggered_total"))


def payload(data: bytes) -> any_pb2.Any:
    made = any_pb2.Any()
    made.Pack(wrappers_pb2.BytesValue(value=data))
    return made
