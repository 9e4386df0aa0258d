"""A whole server in kubernetes mode: identities from Sentry, an API server over HTTP, and what becomes of jobs whose namespace goes."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Clients, ends, wait_for

from raftsched.pb.dapr import scheduler_pb2 as pb
from raftsched.testing.cluster import Cluster
from raftsched.testing.kube_api import FakeKubeApi
from raftsched.testing.process import ServerProcess
from raftsched.testing.sentry import FakeSentry
from raftsched.testing.sidecar import Sidecar, client_context

pytestmark = [pytest.mark.process]


@pytest.fixture
def sentry(tmp_path: Path) -> Iterator[FakeSentry]:
    with FakeSentry(tmp_path / "sentry", token="a-token", namespace="dapr-system") as made:
        yield made


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[FakeKubeApi]:
    with FakeKubeApi(tmp_path / "kube", ("default", "team", "team-2", "dapr-system")) as made:
        yield made


@pytest.fixture
def server(sentry: FakeSentry, kube: FakeKubeApi, tmp_path: Path) -> Iterator[ServerProcess]:
    """Not started yet."""
    (tmp_path / "token").write_text(sentry.token)
    flags = ["--mode=kubernetes", f"--kubeconfig={kube.kubeconfig}", f"--trust-anchors-file={sentry.anchors}"]
    made = ServerProcess(tmp_path / "server", args=[*flags, f"--sentry-address={sentry.address}"], namespace="dapr-system")
    made.environment = {"DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK": "true", "DAPR_SENTRY_TOKEN_FILE": str(tmp_path / "token")}
    yield made
    if made.process is not None:
        made.kill()


def schedule(server: ServerProcess, sentry: FakeSentry, namespace: str) -> None:
    """A job and a reminder."""
    spiffe_id = sentry.id_of("app", namespace)
    actor = pb.JobTargetMetadata(actor=pb.TargetActorReminder(type="t", id="1"))
    with Sidecar(server.scheduler_port, client_context(sentry.anchors, sentry.root.pair([spiffe_id]))) as client:
        for target in (pb.JobTargetMetadata(job=pb.TargetJob()), actor):
            owner = pb.JobMetadata(app_id="app", namespace=namespace, target=target)
            request = pb.ScheduleJobRequest(name="j", job=pb.Job(due_time="1h"), metadata=owner)
            assert client.call("ScheduleJob", request)[:2] == (0, "")


def namespaces(clients: Clients) -> set[str]:
    """Those that have jobs; twice where only one kind of them is left."""
    keys = [key.decode() for key in clients.under(b"dapr/jobs/")]
    return {key.split("||")[1] for key in keys}


def said(server: ServerProcess) -> str:
    return server.stdout_path.read_text()


def test_the_jobs_of_a_deleted_namespace_go(server: ServerProcess, sentry: FakeSentry, kube: FakeKubeApi) -> None:
    server.start()
    assert (server.directory / "data" / "raftsched-1").is_dir(), "the volume is the member's own"
    assert not (server.directory / "data" / "dapr-system-dapr-scheduler-server-0").exists()
    for name in ("default", "team", "team-2"):
        schedule(server, sentry, name)
    clients = Clients(server)
    assert namespaces(clients) == {"default", "team", "team-2"}
    wait_for(lambda: kube.watching, 60, "no watch")
    kube.delete("team")
    wait_for(lambda: namespaces(clients) == {"default", "team-2"}, 60, "the jobs stay")
    assert len(clients.under(b"dapr/jobs/")) == 4
    assert said(server).count("Deleting jobs from deleted namespace team") == 1
    kube.delete("team-2", silently=True)
    kube.behaviour.forgets = True
    kube.cut()
    wait_for(lambda: namespaces(clients) == {"default"}, 60, "what a watch has missed stays")
    clients.close()
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    assert ends(server, 15) == 0


def test_ready_when_the_namespaces_are_known(server: ServerProcess, kube: FakeKubeApi) -> None:
    """Afterwards the API server may go: who is served is not its affair."""
    kube.behaviour.refusal = 403
    server.start(wait=False)
    line = "the service account needs a ClusterRole with the verbs get, list and watch on namespaces"
    wait_for(lambda: line in said(server) and server.listens, 60, "not a word")
    assert server.health() == 503
    kube.behaviour.refusal = 0
    wait_for(lambda: server.health() == 200, 60, "not ready")
    assert said(server).count(line) == 1
    assert "Following 4 namespaces" in said(server)
    kube.close()
    wait_for(lambda: "cannot watch namespaces" in said(server) or "cannot list namespaces" in said(server), 60, "it does not notice")
    assert server.health() == 200
    kube.open(kube.port)


def test_a_namespace_that_goes_while_the_server_is_recreated(server: ServerProcess, sentry: FakeSentry, kube: FakeKubeApi) -> None:
    server.start()
    schedule(server, sentry, "team")
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    assert ends(server, 15) == 0
    with socket.create_server(("localhost", server.client_port)):
        server.start(wait=False)
        wait_for(lambda: "Scheduler server failed, recreating in " in said(server) and kube.watching, 60, "it serves all the same")
        kube.delete("team")
        wait_for(lambda: "Jobs of the deleted namespace team cannot be deleted yet: " in said(server), 60, "nobody tries")
    clients = Clients(server)
    wait_for(lambda: server.health() == 200 and namespaces(clients) == set(), 60, "the jobs stay")
    clients.close()


def test_three_replicas(sentry: FakeSentry, kube: FakeKubeApi, tmp_path: Path) -> None:
    """As the chart starts them: https between members. Each looks at the namespaces, and each may delete."""
    (tmp_path / "token").write_text(sentry.token)
    flags = ["--mode=kubernetes", f"--kubeconfig={kube.kubeconfig}", f"--trust-anchors-file={sentry.anchors}"]
    cluster = Cluster(tmp_path / "cluster", args=[*flags, f"--sentry-address={sentry.address}"], scheme="https")
    for one in cluster.members:
        one.namespace = "dapr-system"
        one.environment = {"DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK": "true", "DAPR_SENTRY_TOKEN_FILE": str(tmp_path / "token")}
    with cluster:
        for name in ("team", "team-2"):
            schedule(cluster.members[0], sentry, name)
        wait_for(lambda: kube.watching == 3, 60, "somebody does not watch")
        kube.delete("team")
        for one in cluster.members:
            clients = Clients(one)
            wait_for(lambda clients=clients: namespaces(clients) == {"team-2"}, 60, "the jobs stay")
            clients.close()
            wait_for(lambda one=one: "Deleting jobs from deleted namespace team" in said(one), 60, "somebody has not noticed")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("pod", "unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be defined"),
        ("file", "cannot read --kubeconfig /nowhere: No such file or directory"),
    ],
)
def test_without_an_api_server_there_is_no_start(server: ServerProcess, change: str, text: str) -> None:
    server.command = [word for word in server.command if not word.startswith("--kubeconfig")]
    server.command += ["--kubeconfig=/nowhere"] if change == "file" else []
    server.start(wait=False)
    assert ends(server, 20) == 1
    last = said(server).splitlines()[-1]
    assert "level=fatal" in last
    assert text in last
    assert not (server.directory / "data").exists()
