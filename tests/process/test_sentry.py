"""A whole server whose certificate comes from Sentry: who is served, what is left on disk and in logs, and Sentry's bad days."""

import os
import re
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from clustering import get, put
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from google.protobuf.message import Message
from serving import Clients, ends, metrics, wait_for

from raftsched.errors import GrpcCode, StatusError
from raftsched.pb.dapr import scheduler_pb2 as pb
from raftsched.testing.cluster import Cluster
from raftsched.testing.process import ServerProcess
from raftsched.testing.sentry import FakeSentry, TrustRoot
from raftsched.testing.sidecar import Sidecar, client_context

pytestmark = [pytest.mark.process]
SUCCESS = pb.WatchJobsRequestResultStatus.SUCCESS
MISSING = (int(GrpcCode.INVALID_ARGUMENT), "missing namespace or appID in request")
NOBODY = (int(GrpcCode.UNAUTHENTICATED), "failed to get identity from context")
ANOTHER = (int(GrpcCode.PERMISSION_DENIED), "identity does not match request")
METHODS: dict[str, Callable[[pb.JobMetadata], Message]] = {
    "ScheduleJob": lambda found: pb.ScheduleJobRequest(name="j", job=pb.Job(due_time="1h"), metadata=found, overwrite=True),
    "GetJob": lambda found: pb.GetJobRequest(name="j", metadata=found),
    "DeleteJob": lambda found: pb.DeleteJobRequest(name="j", metadata=found),
    "ListJobs": lambda found: pb.ListJobsRequest(metadata=found),
    "DeleteByMetadata": lambda found: pb.DeleteByMetadataRequest(metadata=found),
    "DeleteByNamePrefix": lambda found: pb.DeleteByNamePrefixRequest(name_prefix="j", metadata=found),
}


def flags(sentry: FakeSentry) -> list[str]:
    return ["--tls-enabled=true", f"--trust-anchors-file={sentry.anchors}", f"--sentry-address={sentry.address}"]


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeSentry]:
    with FakeSentry(tmp_path_factory.mktemp("steady") / "sentry", token="a-very-secret-token") as made:
        made.behaviour.jwt = "a.web.token"
        yield made


@pytest.fixture(scope="module")
def served(steady: FakeSentry) -> Iterator[ServerProcess]:
    """One server for the tests that change nothing about it; it writes no identity."""
    folder = steady.folder.parent
    (folder / "token").write_text("a-very-secret-token\n")
    (folder / "tmp").mkdir()
    server = ServerProcess(folder / "server", args=[*flags(steady), "--log-level=debug"])
    server.environment = {"DAPR_SENTRY_TOKEN_FILE": str(folder / "token"), "TMPDIR": str(folder / "tmp")}
    with server:
        yield server


@pytest.fixture
def sentry(tmp_path: Path) -> Iterator[FakeSentry]:
    with FakeSentry(tmp_path / "sentry") as made:
        yield made


@pytest.fixture
def server(sentry: FakeSentry, tmp_path: Path) -> Iterator[ServerProcess]:
    """Not started yet."""
    made = ServerProcess(tmp_path / "server", args=flags(sentry))
    yield made
    if made.process is not None:
        made.kill()


def sidecar(server: ServerProcess, sentry: FakeSentry, app: str = "app", *, spiffe_id: str = "", root: TrustRoot | None = None) -> Sidecar:
    pair = (root or sentry.root).pair([spiffe_id or sentry.id_of(app)])
    return Sidecar(server.scheduler_port, client_context(sentry.anchors, pair))


def metadata(app: str = "app", namespace: str = "default") -> pb.JobMetadata:
    return pb.JobMetadata(app_id=app, namespace=namespace, target=pb.JobTargetMetadata(job=pb.TargetJob()))


def watch(client: Sidecar, app: str = "app", namespace: str = "default") -> int:
    stream = client.open("WatchJobs")
    client.send(stream, pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id=app, namespace=namespace)))
    return stream


def trigger(client: Sidecar, stream: int, name: str) -> None:
    """Schedules one and takes it in on that stream."""
    request = pb.ScheduleJobRequest(name=name, job=pb.Job(due_time="0s"), metadata=metadata())
    assert client.call("ScheduleJob", request)[0] == 0
    came = client.receive(stream, pb.WatchJobsResponse)
    assert came.name == name
    result = pb.WatchJobsRequestResult(id=came.id, status=SUCCESS)
    client.send(stream, pb.WatchJobsRequest(result=result))


def turned_away(connect: Callable[[], Sidecar]) -> None:
    with pytest.raises(OSError), connect() as client:  # noqa: PT011  # reset, closed, or an alert
        client.call("GetJob", pb.GetJobRequest(name="j", metadata=metadata()))


def fatal(server: ServerProcess, timeout_s: float = 40) -> str:
    """The last line of a start that must fail: the only one of its level."""
    server.start(wait=False)
    return how_it_failed(server, timeout_s)


def how_it_failed(server: ServerProcess, timeout_s: float = 40) -> str:
    assert ends(server, timeout_s) == 1
    lines = [line for line in server.stdout_path.read_text().splitlines() if "level=fatal" in line]
    assert len(lines) == 1
    assert server.stdout_path.read_text().splitlines()[-1] == lines[0]
    assert "Traceback" not in server.logs()
    found = re.search(r'msg="((?:[^"\\]|\\.)*)"', lines[0])
    assert found is not None
    return found[1].replace('\\"', '"')


def said(server: ServerProcess) -> str:
    return server.stdout_path.read_text()


# -- who is served


def test_a_sidecar_schedules_and_is_triggered(served: ServerProcess, steady: FakeSentry) -> None:
    with sidecar(served, steady) as client:
        stream = watch(client)
        trigger(client, stream, "one")
        names = client.server_certificate["subjectAltName"]
        assert names[0] == ("URI", "spiffe://localhost/ns/default/dapr-scheduler")
        assert {value for kind, value in names if kind == "DNS"} == {
            f"dapr-scheduler-server-{n}.dapr-scheduler-server.default.svc.localhost" for n in range(3)
        }
        assert client.call("ScheduleJob", METHODS["ScheduleJob"](metadata()))[:2] == (0, "")
        assert client.call("GetJob", METHODS["GetJob"](metadata()), pb.GetJobResponse)[2].job.due_time == "1h"


def told(method: str, refusal: tuple[int, str]) -> tuple[int, str]:
    """As Go prints it where it is wrapped."""
    name = "".join(word.capitalize() for word in GrpcCode(refusal[0]).name.split("_"))
    wrapped = f"failed to parse metadata: rpc error: code = {name} desc = " if method.startswith("DeleteBy") else ""
    return refusal[0], wrapped + refusal[1]


@pytest.mark.parametrize("method", METHODS)
def test_each_call_is_of_the_app_that_the_certificate_names(method: str, served: ServerProcess, steady: FakeSentry) -> None:
    before = metrics(served.metrics_port)['dapr_scheduler_sidecar_errors_total{reason="auth_failed"}']
    with sidecar(served, steady) as client:
        for found, expected in (
            (metadata(app="other"), ANOTHER),
            (metadata(namespace="other"), ANOTHER),
            (metadata(app="dapr-scheduler"), ANOTHER),
            (metadata(app=""), MISSING),
            (metadata(namespace=""), MISSING),
            (pb.JobMetadata(), MISSING),
        ):
            assert client.call(method, METHODS[method](found))[:2] == told(method, expected)
        assert client.call(method, METHODS[method](metadata()))[0] in {0, GrpcCode.NOT_FOUND}
    with sidecar(served, steady, spiffe_id="spiffe://localhost/default/app") as client:
        assert client.call(method, METHODS[method](metadata()))[:2] == told(method, NOBODY)
    with sidecar(served, steady, spiffe_id="spiffe://elsewhere/ns/default/app") as client:
        assert client.call(method, METHODS[method](metadata()))[0] in {0, GrpcCode.NOT_FOUND}, "the trust domain is not compared"
    assert metrics(served.metrics_port)['dapr_scheduler_sidecar_errors_total{reason="auth_failed"}'] == before + 7


def test_a_stream_of_jobs_is_of_that_app_too(served: ServerProcess, steady: FakeSentry) -> None:
    with sidecar(served, steady) as client:
        assert client.end(watch(client, app="other")) == ANOTHER
        assert client.end(watch(client, namespace="other")) == ANOTHER
        assert client.end(watch(client, app="")) == MISSING
        trigger(client, watch(client), "afterwards")  # the connection is none the worse
    for shown in ("spiffe://localhost/x", "spiffe://localhost"):  # the second ends the process of a Dapr Scheduler 1.18.3
        with sidecar(served, steady, spiffe_id=shown) as client:
            assert client.end(watch(client)) == NOBODY


def test_hosts_are_told_to_everybody_who_comes_in(served: ServerProcess, steady: FakeSentry) -> None:
    with sidecar(served, steady, spiffe_id="spiffe://elsewhere/whoever") as client:
        stream = client.open("WatchHosts")
        client.send(stream, pb.WatchHostsRequest(), last=True)
        hosts = client.receive(stream, pb.WatchHostsResponse).hosts
        assert [host.address for host in hosts] == [f"127.0.0.1:{served.scheduler_port}"]


def test_who_does_not_come_in(served: ServerProcess, steady: FakeSentry) -> None:
    app = steady.id_of("app")

    def connect(pair: tuple[bytes, bytes] | None) -> Callable[[], Sidecar]:
        return lambda: Sidecar(served.scheduler_port, client_context(steady.anchors, pair))

    turned_away(connect(None))
    turned_away(connect(TrustRoot("other").pair([app])))
    turned_away(connect(steady.root.pair([app], ttl_s=-10, age_s=20)))
    turned_away(connect(steady.root.pair([], dns_names=["app"])))
    turned_away(connect(steady.root.pair([app, steady.id_of("other")])))
    with grpc.insecure_channel(served.scheduler_address) as plain, pytest.raises(grpc.FutureTimeoutError):
        grpc.channel_ready_future(plain).result(1)
    name = "raftsched_scheduler_refused_connections_total"
    wait_for(lambda: f'{name}{{cause="certificate without SPIFFE ID"}}' in metrics(served.metrics_port), 5, "not counted")
    found = {key: value for key, value in metrics(served.metrics_port).items() if key.startswith(name)}
    assert found[f'{name}{{cause="certificate without SPIFFE ID"}}'] == 2
    assert found[f'{name}{{cause="certificate has expired"}}'] == 1
    assert sum(found.values()) >= 6
    assert "rejected connection on scheduler endpoint" in served.stderr_path.read_text()


def test_the_etcd_port_stays_in_clear_text(served: ServerProcess) -> None:
    clients = Clients(served)
    try:
        clients.put(b"k", b"v")
        assert clients.get(b"k") == b"v"
    finally:
        clients.close()


def test_no_secret_is_written_anywhere(served: ServerProcess, steady: FakeSentry) -> None:
    """Behind the others: they have made it say all that it says."""
    assert steady.requests[0].token == "a-very-secret-token"
    logs = served.stdout_path.read_text() + served.stderr_path.read_text()
    folder = steady.folder.parent
    for secret in ("a-very-secret-token", "a.web.token", "PRIVATE KEY"):
        assert secret not in logs
        for directory in (served.directory, folder / "tmp"):
            files = [path for path in directory.rglob("*") if path.is_file()]
            assert not [path for path in files if secret.encode() in path.read_bytes()]
    found = metrics(served.metrics_port)
    assert found['raftsched_identity_requests_total{result="signed"}'] == 1
    assert found["raftsched_identity_expires_timestamp_seconds"] == pytest.approx(time.time() + 86_400, abs=300)


# -- where it is written when it is asked for


def test_files_of_the_identity(server: ServerProcess, sentry: FakeSentry, tmp_path: Path) -> None:
    directory = tmp_path / "not" / "there"
    server.command.append(f"--identity-directory-write={directory}")
    keys = []
    for _ in range(2):  # the second start finds the first one's, and was killed in between
        server.start()
        found = {one.name: one.read_bytes() for one in directory.iterdir() if not one.name.startswith("..")}
        assert found.keys() == {"key.pem", "cert.pem", "ca.pem"}
        assert found["ca.pem"] == sentry.root.pem
        assert {stat.S_IMODE((directory / name).stat().st_mode) for name in found} == {0o600}
        assert isinstance(x509.load_pem_x509_certificate(found["cert.pem"]).public_key(), ed25519.Ed25519PublicKey)
        keys.append(found["key.pem"])
        server.kill()
    assert keys[0] != keys[1]


# -- Sentry's bad days


def test_without_sentry_the_start_fails(server: ServerProcess, sentry: FakeSentry) -> None:
    sentry.close()
    began = time.monotonic()
    text = fatal(server)
    assert text == (
        "Fatal error running scheduler: failed to retrieve the initial identity: "
        f"error establishing connection to sentry: {sentry.address}: Connection refused"
    )
    assert time.monotonic() - began > 5, "five attempts, with pauses"
    assert not (server.directory / "data").exists(), "nothing was begun"


def test_a_refused_request_ends_the_start_at_once(server: ServerProcess, sentry: FakeSentry) -> None:
    sentry.behaviour.refusal = StatusError(GrpcCode.PERMISSION_DENIED, "not you")
    assert fatal(server) == (
        "Fatal error running scheduler: failed to retrieve the initial identity: "
        "error from sentry SignCertificate: rpc error: code = PermissionDenied desc = not you"
    )
    assert len(sentry.requests) == 1


def test_anchors_that_are_not_sentrys_end_the_start(server: ServerProcess, sentry: FakeSentry) -> None:
    sentry.set_anchors(TrustRoot("other"))
    assert fatal(server).endswith("unable to get local issuer certificate")
    assert sentry.requests == []


def test_a_sentry_that_comes_late_is_waited_for(server: ServerProcess, sentry: FakeSentry) -> None:
    sentry.close()
    server.start(wait=False)
    wait_for(lambda: "Sentry has not signed yet, attempt 1 of 5" in said(server), 20, server.logs)
    assert server.health() == 503
    sentry.open()
    server.wait_ready()
    with sidecar(server, sentry) as client:
        trigger(client, watch(client), "one")
    assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_before_the_first_identity_is_a_start_that_failed(server: ServerProcess, sentry: FakeSentry, number: signal.Signals) -> None:
    sentry.behaviour.delay_s = 30
    server.start(wait=False)
    wait_for(lambda: sentry.requests, 20, server.logs)
    began = time.monotonic()
    assert server.process is not None
    server.process.send_signal(number)
    assert how_it_failed(server) == "Fatal error running scheduler: failed to retrieve the initial identity: context canceled"
    assert time.monotonic() - began < 5
    assert "Scheduler service shut down gracefully" not in said(server)


def test_renewal_and_a_new_authority_under_an_open_stream(server: ServerProcess, sentry: FakeSentry) -> None:
    """Short certificates; Sentry goes and comes; the authority changes; a stream of the first minute lives through all of it."""
    sentry.behaviour.ttl_s, sentry.behaviour.age_s = 20, 1
    server.start()
    with sidecar(server, sentry) as client:
        stream = watch(client)
        trigger(client, stream, "before")
        sentry.close()

        def wait(condition: Callable[[], object]) -> None:
            wait_for(lambda: (client.pump(), condition())[1], 30, server.logs)

        wait(lambda: "Error renewing identity certificate, which is good until" in said(server))
        trigger(client, stream, "without sentry")
        assert server.health() == 200

        old, new = sentry.root, TrustRoot("new")
        sentry.root, sentry.behaviour.ttl_s = new, 3600
        sentry.open()
        sentry.set_anchors(old, new)
        wait(lambda: "The trust anchors have changed" in said(server))
        wait(lambda: _shows(server, sentry, new))
        with sidecar(server, sentry, root=old) as late:
            trigger(late, watch(late), "both authorities")

        sentry.set_anchors(new)
        wait(lambda: not _comes_in(server, sentry, old))
        assert _comes_in(server, sentry, new)
        trigger(client, stream, "new authority")  # its certificate is of the old one, and has long expired for a new connection
    assert server.stop() == 0
    assert "Traceback" not in server.logs()


def _shows(server: ServerProcess, sentry: FakeSentry, root: TrustRoot) -> bool:
    """Whether the server can be verified by that authority alone."""
    path = sentry.folder / "alone.crt"
    path.write_bytes(root.pem)
    return _connects(server, path, sentry, root)


def _comes_in(server: ServerProcess, sentry: FakeSentry, root: TrustRoot) -> bool:
    return _connects(server, sentry.anchors, sentry, root)


def _connects(server: ServerProcess, anchors: Path, sentry: FakeSentry, root: TrustRoot) -> bool:
    try:
        with Sidecar(server.scheduler_port, client_context(anchors, root.pair([sentry.id_of("app")]))) as client:
            return int(client.call("ListJobs", pb.ListJobsRequest(metadata=metadata()))[0]) == 0
    except OSError:
        return False


def test_a_name_that_sentry_does_not_give_is_told(server: ServerProcess, sentry: FakeSentry) -> None:
    server.command = [word for word in server.command if not word.startswith(("--id=", "--etcd-initial-cluster="))]
    server.command += ["--id=mine-0", "--etcd-initial-cluster=mine-0=https://127.0.0.1:1"]
    suffix = ".dapr-scheduler-server.default.svc.localhost"
    names = " ".join(f"dapr-scheduler-server-{n}{suffix}" for n in range(3))
    assert fatal(server) == (
        f"Fatal error running scheduler: peer certificate does not contain the expected DNS name mine-0{suffix} got [{names}]"
    )


def test_an_odd_id_is_fine_without_tls_between_members(server: ServerProcess, sentry: FakeSentry) -> None:
    server.command = [word for word in server.command if not word.startswith(("--id=", "--etcd-initial-cluster="))]
    server.command += ["--id=any string-0", "--etcd-initial-cluster=any string-0=http://127.0.0.1:1", "--peer-listen-address=127.0.0.1:0"]
    server.start()
    with sidecar(server, sentry) as client:
        trigger(client, watch(client), "one")


def test_the_process_holds_no_descriptor_of_a_key(served: ServerProcess) -> None:
    assert served.process is not None
    folder = Path(f"/proc/{served.process.pid}/fd")
    assert not [one for one in folder.iterdir() if "memfd:identity" in os.readlink(one)]


# -- several members


@pytest.fixture
def cluster(sentry: FakeSentry, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster", args=flags(sentry), scheme="https") as made:
        yield made


def hosts(server: ServerProcess, sentry: FakeSentry) -> set[str]:
    with sidecar(server, sentry) as client:
        stream = client.open("WatchHosts")
        client.send(stream, pb.WatchHostsRequest(), last=True)
        return {host.address for host in client.receive(stream, pb.WatchHostsResponse).hosts}


def test_three_members_know_each_other_by_their_identities(cluster: Cluster, sentry: FakeSentry) -> None:
    """They form, fail over, take a wiped one back in, all by names that are not in any address; an app's certificate is no member's."""
    put(cluster.leader(), b"k", b"one")
    everybody = {one.scheduler_address for one in cluster.members}
    wait_for(lambda: all(hosts(one, sentry) == everybody for one in cluster.members), 20, cluster.logs)
    old = cluster.leader()
    old.kill()
    put(cluster.leader(), b"k", b"two")
    old.wipe()
    old.start(wait=False)
    old.wait_ready(60)
    wait_for(lambda: get(old, b"k", serializable=True) == b"two", 30, cluster.logs)
    one = cluster.leader()
    own, addresses = one.command, [word for word in one.command if word.startswith("--etcd-initial-cluster=")]
    assert own
    port = int(addresses[0].split(f"{one.name}=https://127.0.0.1:")[1].split(",")[0])
    for pair, cause in (
        (sentry.root.pair([sentry.id_of("app")]), "certificate of another SPIFFE ID"),
        (sentry.root.pair([sentry.id_of("dapr-scheduler")]), "certificate without a scheduler's DNS name"),
    ):
        with pytest.raises(OSError), Sidecar(port, client_context(sentry.anchors, pair)) as stranger:  # noqa: PT011  # however it ends
            stranger.end(stranger.open("Nothing"))
        label = f'raftsched_peer_refused_connections_total{{cause="{cause}"}}'
        wait_for(lambda label=label: metrics(one.client_port).get(label) == 1, 5, one.logs)
