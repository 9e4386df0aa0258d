"""Dapr's own Sentry as the authority: it signs our request, and what it signs serves a sidecar and three members.

`make clients` builds it, or RAFTSCHED_SENTRY names its executable; without it all this is skipped.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import load_tools
from real_sentry import RealSentry

from raftsched.pb.dapr import scheduler_pb2 as pb
from raftsched.security.sentry import SentryError
from raftsched.testing.cluster import Cluster
from raftsched.testing.process import ServerProcess
from raftsched.testing.sidecar import Sidecar, client_context

PROGRAM = load_tools().dapr_sentry()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Go program `dapr-sentry` here: `make clients` builds it")


@pytest.fixture(scope="module")
def sentry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSentry]:
    assert PROGRAM is not None
    made = RealSentry(PROGRAM, tmp_path_factory.mktemp("real") / "sentry")
    try:
        made.wait()
        yield made
    finally:
        made.stop()


def sidecar(server: ServerProcess, sentry: RealSentry, app_id: str) -> Sidecar:
    shown = sentry.sign(app_id)
    return Sidecar(server.scheduler_port, client_context(sentry.anchors, (shown.chain_pem, shown.key_pem)))


def metadata(app_id: str) -> pb.JobMetadata:
    return pb.JobMetadata(app_id=app_id, namespace="default", target=pb.JobTargetMetadata(job=pb.TargetJob()))


def test_it_signs_our_request(sentry: RealSentry) -> None:
    made = sentry.sign("dapr-scheduler")
    assert str(made.spiffe_id) == "spiffe://localhost/ns/default/dapr-scheduler"
    domain = "dapr-scheduler-server.default.svc"
    assert {f"dapr-scheduler-server-{n}.{domain}.localhost" for n in range(3)} <= set(made.dns_names), made.dns_names
    assert made.not_before < time.time() < made.not_after
    assert sentry.sign("app").dns_names == () or "dapr-scheduler" not in " ".join(sentry.sign("app").dns_names)


def test_what_it_refuses_is_told_in_its_words(sentry: RealSentry) -> None:
    with pytest.raises(SentryError, match=r"error from sentry SignCertificate: rpc error: code = \w+ desc = \S") as caught:
        sentry.sign("")
    assert caught.value.final


def test_a_sidecar_is_served(sentry: RealSentry, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server", args=sentry.flags()) as server, sidecar(server, sentry, "app") as client:
        stream = client.open("WatchJobs")
        client.send(stream, pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id="app", namespace="default")))
        request = pb.ScheduleJobRequest(name="one", job=pb.Job(due_time="0s"), metadata=metadata("app"))
        assert client.call("ScheduleJob", request)[:2] == (0, "")
        assert client.receive(stream, pb.WatchJobsResponse).name == "one"
        assert client.call("GetJob", pb.GetJobRequest(name="one", metadata=metadata("other")))[:2] == (7, "identity does not match request")


def test_members_know_each_other(sentry: RealSentry, tmp_path: Path) -> None:
    with Cluster(tmp_path / "cluster", args=sentry.flags(), scheme="https") as cluster, sidecar(cluster.leader(), sentry, "app") as client:
        request = pb.ScheduleJobRequest(name="one", job=pb.Job(due_time="1h"), metadata=metadata("app"))
        assert client.call("ScheduleJob", request)[:2] == (0, "")
        for one in cluster.members:
            with sidecar(one, sentry, "app") as other:
                assert other.call("GetJob", pb.GetJobRequest(name="one", metadata=metadata("app")))[0] == 0
