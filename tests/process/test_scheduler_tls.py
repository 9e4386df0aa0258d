"""The scheduler API with certificate files, without Sentry: who comes in, for whom he may speak, files that change."""

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from serving import job_metadata, metrics, refused, wait_for

from raftsched.pb.dapr import scheduler_pb2 as pb
from raftsched.pb.dapr import scheduler_pb2_grpc
from raftsched.testing.authority import Authority
from raftsched.testing.process import ServerProcess
from raftsched.testing.sentry import TrustRoot
from raftsched.testing.sidecar import Sidecar, client_context

pytestmark = [pytest.mark.process]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "authority")
    made.issue("server")
    made.issue("client")
    return made


@pytest.fixture
def server(authority: Authority, tmp_path: Path) -> Iterator[ServerProcess]:
    files = [f"--scheduler-cert-file={authority.path('server.crt')}", f"--scheduler-key-file={authority.path('server.key')}"]
    made = ServerProcess(tmp_path / "server", args=files)
    yield made
    if made.process is not None:
        made.kill()


def channel(server: ServerProcess, *files: Path | str) -> grpc.Channel:
    """`files`: authority, key, certificate."""
    credentials = grpc.ssl_channel_credentials(*(Path(file).read_bytes() for file in files))
    return grpc.secure_channel(server.scheduler_address, credentials)


def schedule(opened: grpc.Channel, app: str = "app") -> None:
    job = pb.Job(due_time="1h")
    request = pb.ScheduleJobRequest(name="j", job=job, metadata=job_metadata(app), overwrite=True)
    scheduler_pb2_grpc.SchedulerStub(opened).ScheduleJob(request, timeout=10)


def test_a_certificate_alone_and_a_new_one_later(server: ServerProcess, authority: Authority) -> None:
    server.start()
    first = ssl.get_server_certificate(("127.0.0.1", server.scheduler_port))
    with channel(server, authority.path("ca.crt")) as opened:
        schedule(opened)
        schedule(opened, app="any")  # nobody asks who that is
        authority.issue("server")
        wait_for(lambda: ssl.get_server_certificate(("127.0.0.1", server.scheduler_port)) != first, 5, "the old one is shown")
        schedule(opened)
    with grpc.insecure_channel(server.scheduler_address) as plain, pytest.raises(grpc.FutureTimeoutError):
        grpc.channel_ready_future(plain).result(1)


def test_the_command_line_speaks_tls(server: ServerProcess, authority: Authority) -> None:
    server.command.append(f"--scheduler-trusted-ca-file={authority.path('ca.crt')}")
    server.start()
    files = {"RAFTSCHED_CERT": authority.path("client.crt"), "RAFTSCHED_KEY": authority.path("client.key")}
    environment = {**os.environ, **files, "RAFTSCHED_CACERT": authority.path("ca.crt"), "RAFTSCHED_ADDRESS": server.scheduler_address}

    def job(*words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "raftsched", "job", *words]
        return subprocess.run(command, env={**environment, **changes}, capture_output=True, text=True, timeout=60, check=False)

    assert job("schedule", "j", "--due-time", "0s").returncode == 0
    watched = job("watch", "--count", "1", "-o", "json", "--single", RAFTSCHED_ADDRESS=f"https://{server.scheduler_address}")
    assert (watched.returncode, '"j"' in watched.stdout) == (0, True), watched
    assert job("list", RAFTSCHED_ADDRESS=f"https://{server.scheduler_address}").returncode == 0
    assert job("schedule", "k", "--due-time", "0s").returncode == 0
    assert job("describe", "k", "--json").returncode == 0, "raftsched.v1 too"
    received = job("receive", "--count=1")
    assert (received.returncode, '"k"' in received.stdout) == (0, True), received
    wrong = job("list", RAFTSCHED_KEY="/nowhere", RAFTSCHED_CERT="/nowhere")
    assert wrong.returncode == 2
    assert "cannot read /nowhere: No such file or directory" in wrong.stderr
    assert job("list", RAFTSCHED_KEY="").returncode == 2


def test_an_authority_demands_certificates(server: ServerProcess, authority: Authority) -> None:
    server.command.append(f"--scheduler-trusted-ca-file={authority.path('ca.crt')}")
    server.command.append(f"--scheduler-crl-file={authority.revoke('list')}")
    server.start()
    trusted, files = authority.path("ca.crt"), (authority.path("client.key"), authority.path("client.crt"))
    with channel(server, trusted, *files) as opened:
        schedule(opened)
    with channel(server, trusted) as opened:
        assert refused(lambda: schedule(opened))[0] is grpc.StatusCode.UNAVAILABLE
    authority.revoke("list", authority.serial("client"))
    with channel(server, trusted, *files) as opened:
        assert refused(lambda: schedule(opened))[0] is grpc.StatusCode.UNAVAILABLE
    found = metrics(server.metrics_port)
    assert found['raftsched_scheduler_refused_connections_total{cause="certificate revoked"}'] >= 1


def test_the_spiffe_id_says_for_whom(server: ServerProcess, authority: Authority, tmp_path: Path) -> None:
    """Ids may come from anywhere: SPIRE, an own authority; no Sentry is needed."""
    root, anchors = TrustRoot(), tmp_path / "root.crt"
    anchors.write_bytes(root.pem + Path(authority.path("ca.crt")).read_bytes())
    server.command += [f"--scheduler-trusted-ca-file={anchors}", "--scheduler-client-cert-auth"]
    server.start()
    request = pb.GetJobRequest(name="j", metadata=job_metadata("app"))
    for spiffe_id, expected in (
        ("spiffe://any/ns/default/app", (5, "job not found: j")),
        ("spiffe://any/ns/default/other", (7, "identity does not match request")),
        ("spiffe://any/whatever", (16, "failed to get identity from context")),
    ):
        with Sidecar(server.scheduler_port, client_context(anchors, root.pair([spiffe_id]))) as client:
            assert client.call("GetJob", request)[:2] == expected
    with channel(server, anchors, authority.path("client.key"), authority.path("client.crt")) as opened:  # without any id
        assert refused(lambda: schedule(opened)) == (grpc.StatusCode.UNAUTHENTICATED, "failed to get identity from context")
