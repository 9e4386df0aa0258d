"""The scheduler API under mTLS beside the Dapr Scheduler itself: both have their certificates of one Sentry, and sidecars show theirs.

Same triggers, same ends of streams, same refusals of who is another than the request says; and who is turned away in the handshake.
"""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf import any_pb2
from google.protobuf.message import Message
from real_dapr import dapr_scheduler, payload  # puts the folder of serving on the path
from serving import ends, metrics, wait_for

from raftsched.pb.dapr import scheduler_pb2 as pb
from raftsched.testing.dapr_scheduler import EmbeddedDaprScheduler
from raftsched.testing.process import ServerProcess
from raftsched.testing.sentry import FakeSentry, TrustRoot
from raftsched.testing.sidecar import Sidecar, client_context

pytestmark = pytest.mark.process
ReminderTarget = pb.TargetActorReminder
SUCCESS, FAILED = pb.WatchJobsRequestResultStatus.SUCCESS, pb.WatchJobsRequestResultStatus.FAILED
AUTH_FAILED = 'dapr_scheduler_sidecar_errors_total{reason="auth_failed"}'
OWN = "spiffe://localhost/ns/default/app"
IDENTITIES = {  # not that of a trust domain alone: it ends the process of the real one
    "its own": OWN,
    "another app's": "spiffe://localhost/ns/default/other",
    "of another namespace": "spiffe://localhost/ns/other/app",
    "of another trust domain": "spiffe://elsewhere/ns/default/app",
    "the scheduler's": "spiffe://localhost/ns/default/dapr-scheduler",
    "without a namespace": "spiffe://localhost/default/app",
    "without an app": "spiffe://localhost/ns/default",
    "with more behind it": OWN + "/more",
}


def metadata(app: str = "app", namespace: str = "default", actor: str | None = None) -> pb.JobMetadata:
    target = pb.JobTargetMetadata(job=pb.TargetJob()) if actor is None else pb.JobTargetMetadata(actor=ReminderTarget(id="1", type=actor))
    return pb.JobMetadata(app_id=app, namespace=namespace, target=target)


OWNERS = {
    "its own": metadata(),
    "a reminder of its namespace": metadata(actor="cat"),
    "another app": metadata(app="other"),
    "another namespace": metadata(namespace="other"),
    "no app": metadata(app=""),
    "no namespace": metadata(namespace=""),
    "no target": pb.JobMetadata(app_id="app", namespace="default"),
    "nobody": pb.JobMetadata(),
}
METHODS: dict[str, Callable[[pb.JobMetadata], Message]] = {
    "ScheduleJob": lambda of: pb.ScheduleJobRequest(name="j", job=pb.Job(due_time="1h"), metadata=of, overwrite=True),
    "GetJob": lambda of: pb.GetJobRequest(name="missing", metadata=of),
    "DeleteJob": lambda of: pb.DeleteJobRequest(name="j", metadata=of),
    "ListJobs": lambda of: pb.ListJobsRequest(metadata=of),
    "DeleteByMetadata": lambda of: pb.DeleteByMetadataRequest(metadata=of),
    "DeleteByNamePrefix": lambda of: pb.DeleteByNamePrefixRequest(name_prefix="j", metadata=of),
}


@dataclass(frozen=True, slots=True)
class Both:
    """The real one and ours under one Sentry."""

    sentry: FakeSentry
    servers: tuple[ServerProcess, ServerProcess]

    def sidecars(self, opened: ExitStack, spiffe_id: str = OWN) -> list[Sidecar]:
        """A connection to each, with a certificate of that id."""
        context = client_context(self.sentry.anchors, self.sentry.root.pair([spiffe_id]))
        return [opened.enter_context(Sidecar(one.scheduler_port, context)) for one in self.servers]


def flags(sentry: FakeSentry) -> list[str]:
    return ["--tls-enabled=true", f"--trust-anchors-file={sentry.anchors}", f"--sentry-address={sentry.address}"]


def both_of(sentry: FakeSentry, folder: Path) -> tuple[ServerProcess, ServerProcess]:
    theirs = EmbeddedDaprScheduler(dapr_scheduler(), folder / "theirs", args=flags(sentry))
    return theirs, ServerProcess(folder / "ours", args=flags(sentry))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("mtls")
    with FakeSentry(folder / "sentry") as sentry:
        theirs, ours = both_of(sentry, folder)
        with theirs, ours:
            yield Both(sentry, (theirs, ours))


def watch(client: Sidecar, *messages: pb.WatchJobsRequest, last: bool = False) -> int:
    stream = client.open("WatchJobs")
    for message in messages:
        client.send(stream, message, last=last)
    return stream


def opening(app: str = "app", namespace: str = "default", **more: list[int] | list[str]) -> pb.WatchJobsRequest:
    return pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id=app, namespace=namespace, **more))


def result(id_: int, status: pb.WatchJobsRequestResultStatus = SUCCESS) -> pb.WatchJobsRequest:
    return pb.WatchJobsRequest(result=pb.WatchJobsRequestResult(id=id_, status=status))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spiffe_id", IDENTITIES.values(), ids=IDENTITIES.keys())
def test_whose_calls_are_answered(method: str, spiffe_id: str, both: Both) -> None:
    with ExitStack() as opened:
        clients = both.sidecars(opened, spiffe_id)
        for owner, found in OWNERS.items():
            theirs, ours = (client.call(method, METHODS[method](found))[:2] for client in clients)
            assert theirs == ours, f"{method} for {owner}"


REFUSED = {
    "another app": opening(app="other"),
    "another namespace": opening(namespace="other"),
    "no app": opening(app=""),
    "no namespace": opening(namespace=""),
    "jobs twice": opening(accept_job_types=[0, 0]),
    "jobs twice of another app": opening(app="other", accept_job_types=[0, 0]),
    "a result first": result(1),
}


@pytest.mark.parametrize("message", REFUSED.values(), ids=REFUSED.keys())
def test_whose_streams_are_refused(message: pb.WatchJobsRequest, both: Both) -> None:
    with ExitStack() as opened:
        theirs, ours = (client.end(watch(client, message)) for client in both.sidecars(opened))
        assert theirs == ours
        assert theirs[0] != 0


@pytest.mark.parametrize("spiffe_id", list(IDENTITIES.values())[1:], ids=list(IDENTITIES)[1:])
def test_whose_certificates_open_a_stream(spiffe_id: str, both: Both) -> None:
    """Of a stream that stays open the end by a second opening tells."""
    with ExitStack() as opened:
        theirs, ours = (client.end(watch(client, opening(), opening())) for client in both.sidecars(opened, spiffe_id))
        assert theirs == ours
        assert theirs[0] != 0


def test_refusals_are_counted_alike(both: Both) -> None:
    def counted() -> list[float]:
        return [metrics(one.metrics_port).get(AUTH_FAILED, 0.0) for one in both.servers]

    before = counted()
    with ExitStack() as opened:
        for client in both.sidecars(opened):
            for owner in (metadata(app="other"), metadata(app=""), metadata()):
                client.call("GetJob", pb.GetJobRequest(name="missing", metadata=owner))
            client.end(watch(client, opening(namespace="other")))
    assert [after - old for after, old in zip(counted(), before, strict=True)] == [3.0, 3.0]


def test_triggers(both: Both) -> None:
    """Jobs and reminders come with the same bytes to the sidecar that the certificate names; after the results nothing is stored."""
    seen = []
    with ExitStack() as opened:
        for client in both.sidecars(opened):
            stream = watch(client, opening(actor_types=["cat"]))
            for name, owner, data in (("one", metadata(), payload(b"abc")), ("two", metadata(actor="cat"), any_pb2.Any())):
                request = pb.ScheduleJobRequest(name=name, job=pb.Job(due_time="0s", data=data), metadata=owner, overwrite=True)
                assert client.call("ScheduleJob", request)[:2] == (0, "")
            came = [client.receive(stream, pb.WatchJobsResponse) for _ in range(2)]
            assert [one.id for one in came] == [1, 2]
            for one in came:
                client.send(stream, result(one.id))
            for owner in (metadata(), metadata(actor="cat")):
                assert wait_until_empty(client, owner) == []
            for one in came:
                one.id = 0  # in the order of delivery, which chance decides
            seen.append(sorted(one.SerializeToString(deterministic=True) for one in came))
    assert seen[0] == seen[1]


def wait_until_empty(client: Sidecar, owner: pb.JobMetadata) -> list[str]:
    def left() -> list[str]:
        answer = client.call("ListJobs", pb.ListJobsRequest(metadata=owner), pb.ListJobsResponse)[2]
        return [one.name for one in answer.jobs if one.name != "j"]

    wait_for(lambda: not left(), 20, "jobs are left")
    return left()


def test_a_failed_result_brings_the_trigger_again(both: Both) -> None:
    seen = []
    with ExitStack() as opened:
        for client in both.sidecars(opened):
            stream = watch(client, opening())
            request = pb.ScheduleJobRequest(name="fails", job=pb.Job(due_time="0s"), metadata=metadata(), overwrite=True)
            assert client.call("ScheduleJob", request)[0] == 0
            ids = []
            for status in (FAILED, SUCCESS):
                came = client.receive(stream, pb.WatchJobsResponse)
                ids.append((came.name, came.id))
                client.send(stream, result(came.id, status))
            seen.append(ids)
            wait_until_empty(client, metadata())
    assert seen[0] == seen[1] == [("fails", 1), ("fails", 2)]


@pytest.mark.parametrize("messages", [[], [opening()]], ids=["before the opening", "after it"])
def test_how_a_stream_ends_that_is_half_closed(messages: list[pb.WatchJobsRequest], both: Both) -> None:
    seen = []
    with ExitStack() as opened:
        for client in both.sidecars(opened):
            stream = watch(client, *messages)
            client.half_close(stream)
            seen.append(client.end(stream))
    assert seen[0] == seen[1]


def test_hosts_are_told_to_whoever_comes_in(both: Both) -> None:
    with ExitStack() as opened:
        for client, server in zip(both.sidecars(opened, "spiffe://elsewhere/whoever"), both.servers, strict=True):
            stream = client.open("WatchHosts")
            client.send(stream, pb.WatchHostsRequest(), last=True)
            told = client.receive(stream, pb.WatchHostsResponse)
            assert [host.address for host in told.hosts] == [server.scheduler_address]


def comes_in(server: ServerProcess, sentry: FakeSentry, pair: tuple[bytes, bytes] | None) -> bool:
    try:
        with Sidecar(server.scheduler_port, client_context(sentry.anchors, pair)) as client:
            return client.call("GetJob", pb.GetJobRequest(name="missing", metadata=metadata()))[0] >= 0
    except OSError:
        return False


def test_who_is_turned_away_in_the_handshake(both: Both) -> None:
    root = both.sentry.root
    shown = {
        "a good one": root.pair([OWN]),
        "none": None,
        "of another authority": TrustRoot("other").pair([OWN]),
        "of the past": root.pair([OWN], ttl_s=-10, age_s=20),
        "without an id": root.pair([], dns_names=["app"]),
        "with two ids": root.pair([OWN, "spiffe://localhost/ns/default/other"]),
        "with another kind of id": root.pair(["https://localhost/ns/default/app"]),
    }
    for what, pair in shown.items():
        theirs, ours = (comes_in(one, both.sentry, pair) for one in both.servers)
        assert theirs == ours == (what == "a good one"), what


def fatal(server: ServerProcess) -> str:
    assert ends(server, 20) == 1
    found = re.search(r'level=fatal msg="((?:[^"\\]|\\.)*)"', server.stdout_path.read_text())
    assert found is not None, server.logs()
    return found[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_first_identity(number: signal.Signals, tmp_path: Path) -> None:
    """The start has failed: one line, and 1."""
    with FakeSentry(tmp_path / "sentry") as sentry:
        sentry.behaviour.delay_s = 60
        for asked, one in enumerate(both_of(sentry, tmp_path)):
            one.start(wait=False)
            try:
                wait_for(lambda asked=asked: len(sentry.requests) > asked, 20, one.logs)  # type: ignore[misc]
                assert one.process is not None
                one.process.send_signal(number)
                line = fatal(one)
            finally:
                one.__exit__(None, None, None)
            assert line.startswith("Fatal error running scheduler: failed to retrieve the initial identity: ")
            assert line.endswith("context canceled")
            assert "shut down gracefully" not in one.stdout_path.read_text()
