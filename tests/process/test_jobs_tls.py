"""raftsched.v1 under mTLS with certificates of Sentry: an app sees and changes its own jobs alone, by gRPC and over HTTP."""

import http.client
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from serving import Clients, composed, wait_for

from raftsched.errors import GrpcCode
from raftsched.pb.dapr import scheduler_pb2 as pb
from raftsched.pb.v1 import jobs_pb2, state_pb2, workers_pb2
from raftsched.testing.process import ServerProcess
from raftsched.testing.sentry import FakeSentry
from raftsched.testing.sidecar import Sidecar, client_context

pytestmark = pytest.mark.process
JOBS_PATH = "/raftsched.v1.Jobs/"
MISSING = (GrpcCode.INVALID_ARGUMENT, 400, "missing namespace or appID in request")
NOBODY = (GrpcCode.UNAUTHENTICATED, 401, "failed to get identity from context")
ANOTHER = (GrpcCode.PERMISSION_DENIED, 403, "identity does not match request")
OPERATORS = (GrpcCode.PERMISSION_DENIED, 403, "an app may not change what concerns other apps")
Refusal = tuple[GrpcCode, int, str]


@dataclass
class Place:
    server: ServerProcess
    sentry: FakeSentry

    def context(self, spiffe_id: str, protocol: str = "h2") -> ssl.SSLContext:
        made = client_context(self.sentry.anchors, self.sentry.root.pair([spiffe_id]))
        made.set_alpn_protocols([protocol])
        return made

    def caller(self, app: str) -> str:
        return self.sentry.id_of(app)

    def grpc(self, spiffe_id: str, method: str, request: Message, answer: type[Message] | None = None) -> tuple[int, str, Any]:
        with Sidecar(self.server.scheduler_port, self.context(spiffe_id)) as client:
            return client.call(method, request, answer)

    def found(self, spiffe_id: str, request: jobs_pb2.SearchJobsRequest) -> list[jobs_pb2.Job]:
        """All that a stream tells; it must end well."""
        with Sidecar(self.server.scheduler_port, self.context(spiffe_id)) as client:
            stream = client.open(JOBS_PATH + "SearchJobs")
            client.send(stream, request, last=True)
            assert client.end(stream) == (0, "")
            jobs = []
            while client._bodies[stream]:
                jobs.append(client.receive(stream, jobs_pb2.Job))
            return jobs

    def rest(self, spiffe_id: str, path: str, body: object) -> tuple[int, bytes]:
        context = self.context(spiffe_id, "http/1.1")
        connection = http.client.HTTPSConnection("127.0.0.1", self.server.scheduler_port, timeout=20, context=context)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Jobs of two apps of one namespace, and of one of their names in another."""
    folder = tmp_path_factory.mktemp("tls")
    with FakeSentry(folder / "sentry") as sentry:
        flags = ["--tls-enabled=true", f"--trust-anchors-file={sentry.anchors}", f"--sentry-address={sentry.address}"]
        with ServerProcess(folder / "server", args=flags) as server:
            made = Place(server, sentry)
            for app, namespace in (("mine", "default"), ("theirs", "default"), ("mine", "elsewhere")):
                metadata = pb.JobMetadata(app_id=app, namespace=namespace, target=pb.JobTargetMetadata(job=pb.TargetJob()))
                request = pb.ScheduleJobRequest(name="job", job=pb.Job(schedule="@every 24h"), metadata=metadata)
                assert made.grpc(sentry.id_of(app, namespace), "ScheduleJob", request)[0] == 0
            yield made


def selector(app: str, namespace: str = "default") -> jobs_pb2.JobSelector:
    return jobs_pb2.JobSelector(name=jobs_pb2.JobName(namespace=namespace, app_id=app, name="job"))


def filtered(app: str = "", namespace: str = "") -> jobs_pb2.JobSelector:
    return jobs_pb2.JobSelector(filter=jobs_pb2.JobFilter(namespace=namespace, app_id=app))


Selecting = Callable[[jobs_pb2.JobSelector], Message]
CHANGES: dict[str, tuple[str, Selecting]] = {
    "PauseJobs": ("/v1/jobs/pause", lambda jobs: jobs_pb2.PauseJobsRequest(jobs=jobs)),
    "ResumeJobs": ("/v1/jobs/resume", lambda jobs: jobs_pb2.ResumeJobsRequest(jobs=jobs)),
    "RunJobs": ("/v1/jobs/run", lambda jobs: jobs_pb2.RunJobsRequest(jobs=jobs)),
    "ConfigureJobs": ("/v1/jobs/configure", lambda jobs: jobs_pb2.ConfigureJobsRequest(jobs=jobs, set_labels={"a": "b"})),
    "RescheduleJobs": ("/v1/jobs/reschedule", lambda jobs: jobs_pb2.RescheduleJobsRequest(jobs=jobs, schedule="@every 48h")),
}
READS: dict[str, tuple[str, Selecting]] = {
    "GetJob": ("/v1/jobs/get", lambda jobs: jobs_pb2.GetJobRequest(name=jobs.name)),
    "ListJobs": ("/v1/jobs/list", lambda jobs: jobs_pb2.ListJobsRequest(filter=jobs.filter)),
    "SearchJobs": ("/v1/jobs/search", lambda jobs: jobs_pb2.SearchJobsRequest(filter=jobs.filter)),
    "ListRuns": ("/v1/jobs/runs", lambda jobs: jobs_pb2.ListRunsRequest(name=jobs.name)),
    "WatchEvents": ("/v1/jobs/events", lambda jobs: jobs_pb2.WatchEventsRequest(filter=jobs.filter)),
}
NAMESPACES = {
    "FreezeNamespace": "/v1/namespaces/freeze",
    "UnfreezeNamespace": "/v1/namespaces/unfreeze",
    "ListFreezes": "/v1/namespaces/frozen",
}
METHODS = {**READS, **CHANGES}


def body_of(request: Message) -> Any:
    return json_format.MessageToDict(request, preserving_proto_field_name=True)


def refused(place: Place, spiffe_id: str, method: str, request: Message, expected: Refusal) -> None:
    code, status, text = expected
    assert place.grpc(spiffe_id, JOBS_PATH + method, request)[:2] == (int(code), text)
    path = METHODS[method][0] if method in METHODS else NAMESPACES[method]
    found, body = place.rest(spiffe_id, path, body_of(request))
    told = json.loads(body)
    message = told["message"] if "message" in told else told["error"]["message"]  # the second is a stream's
    assert (found, message) == (status, text)


@pytest.mark.parametrize("method", METHODS)
def test_nobody_is_served_but_the_app_of_the_certificate(place: Place, method: str) -> None:
    before = {key: value for key, value in _stored(place).items() if not key.startswith(b"dapr/leadership/")}
    make = METHODS[method][1]
    mine = place.caller("mine")
    named, found = method in ("GetJob", "ListRuns"), method in ("ListJobs", "SearchJobs", "WatchEvents")
    kinds = [filtered] if found else [selector] if named else [selector, filtered]
    for kind in kinds:
        refused(place, mine, method, make(kind("theirs", "default")), ANOTHER)
        refused(place, mine, method, make(kind("mine", "elsewhere")), ANOTHER)
        refused(place, mine, method, make(kind("", "default")), MISSING)
        refused(place, mine, method, make(kind("mine", "")), MISSING)
        refused(place, "spiffe://localhost/whatever", method, make(kind("mine", "default")), NOBODY)
    assert {key: value for key, value in _stored(place).items() if not key.startswith(b"dapr/leadership/")} == before


def _stored(place: Place) -> dict[bytes, bytes]:
    clients = Clients(place.server)
    try:
        return {**clients.under(b"dapr/"), **clients.under(b"raftsched/")}
    finally:
        clients.close()


def test_an_app_finds_its_own_jobs(place: Place) -> None:
    mine = place.caller("mine")
    name = {"namespace": "default", "app_id": "mine", "name": "job"}
    code, _, shown = place.grpc(mine, JOBS_PATH + "GetJob", jobs_pb2.GetJobRequest(name=selector("mine").name), jobs_pb2.Job)
    assert (code, shown.name.app_id, shown.owned) == (0, "mine", True)
    status, body = place.rest(mine, "/v1/jobs/get", {"name": name})
    assert (status, json.loads(body)["name"]) == (200, name)
    asked = {"filter": {"namespace": "default", "app_id": "mine"}}
    status, body = place.rest(mine, "/v1/jobs/list", asked)
    assert (status, [one["name"] for one in json.loads(body)["jobs"]]) == (200, [name])
    status, body = place.rest(mine, "/v1/jobs/search", asked)
    assert (status, [json.loads(line)["result"]["name"] for line in body.splitlines()]) == (200, [name])
    found = place.found(mine, jobs_pb2.SearchJobsRequest(filter=filtered("mine", "default").filter))
    assert [(one.name.namespace, one.name.app_id) for one in found] == [("default", "mine")]
    status, body = place.rest(mine, "/v1/schedules/explain", {"schedule": "@daily", "count": 1})
    assert (status, len(json.loads(body)["fires"])) == (200, 1), "this is of nobody's jobs"


def test_an_app_hears_of_its_own_jobs_alone(place: Place) -> None:
    clients = Clients(place.server)
    clients.put(b"raftsched/namespaces/default", b"\n\0")
    clients.delete_under(b"raftsched/namespaces/default")
    clients.close()
    asked = {"filter": {"namespace": "default", "app_id": "mine"}, "oldest": True, "once": True}
    status, body = place.rest(place.caller("mine"), "/v1/jobs/events", asked)
    told = [event for line in body.splitlines() for event in json.loads(line)["result"].get("events", [])]
    assert (status, told[0]["type"]) == (200, "EVENT_TYPE_CREATED")
    assert {(event["name"].get("namespace"), event["name"].get("app_id")) for event in told} == {("default", "mine")}


def test_an_app_changes_its_own_jobs_in_its_own_name(place: Place) -> None:
    mine = place.caller("mine")
    request = jobs_pb2.PauseJobsRequest(jobs=filtered("mine", "default"), reason="why", by="somebody else")
    code, _, summary = place.grpc(mine, JOBS_PATH + "PauseJobs", request, jobs_pb2.ChangeSummary)
    assert (code, summary.changed, summary.unchanged) == (0, 1, 0)
    stored = _stored(place)
    assert [key for key in stored if key.startswith(b"raftsched/")] == [b"raftsched/jobs/" + composed("job", "mine")]
    pause = state_pb2.JobExtra.FromString(stored[b"raftsched/jobs/" + composed("job", "mine")]).pause
    assert (pause.by, pause.reason) == ("default/mine", "why")
    job = body_of(selector("mine"))
    status, body = place.rest(mine, "/v1/jobs/resume", {"jobs": job})
    assert (status, json.loads(body)) == (200, {"changed": "1"})
    assert place.rest(mine, "/v1/jobs/run", {"jobs": job, "by": "somebody else"})[0] == 200
    run = state_pb2.RunRequest.FromString(_stored(place)[b"raftsched/runs/" + composed("job", "mine")])
    assert run.by == "default/mine"
    assert place.rest(mine, "/v1/jobs/reschedule", {"jobs": job, "schedule": "@every 12h"})[0] == 200
    shown = json.loads(place.rest(mine, "/v1/jobs/get", {"name": job["name"]})[1])
    assert (shown["schedule"], shown["last_change"]["by"]) == ("@every 12h", "default/mine")


def test_a_worker_gets_the_runs_of_its_own_app(place: Place) -> None:
    @contextmanager
    def asking(caller: str, app: str) -> Iterator[tuple[Sidecar, int]]:
        with Sidecar(place.server.scheduler_port, place.context(caller)) as client:
            stream = client.open("/raftsched.v1.Workers/WatchTriggers")
            client.send(stream, workers_pb2.WatchTriggersRequest(initial=workers_pb2.Initial(namespace="default", app_id=app)))
            yield client, stream

    for caller, app, (code, _, text) in (
        (place.caller("mine"), "theirs", ANOTHER),
        (place.caller("mine"), "", MISSING),
        ("spiffe://localhost/whatever", "mine", NOBODY),
    ):
        with asking(caller, app) as (client, stream):
            assert client.end(stream) == (int(code), text)
    with asking(place.caller("theirs"), "theirs") as (client, stream):
        assert place.rest(place.caller("theirs"), "/v1/jobs/run", {"jobs": body_of(selector("theirs"))})[0] == 200
        [trigger] = client.receive(stream, workers_pb2.WatchTriggersResponse).triggers
        assert (trigger.name.app_id, trigger.asked) == ("theirs", True)
        acks = workers_pb2.Acks(acks=[workers_pb2.Ack(id=trigger.id)])
        client.send(stream, workers_pb2.WatchTriggersRequest(acks=acks))
        wait_for(lambda: b"raftsched/runs/" + composed("job", "theirs") not in _stored(place), 10, place.server.logs)


def test_no_app_freezes_a_namespace_and_an_operator_does_at_the_etcd_port(place: Place) -> None:
    mine = place.caller("mine")
    refused(place, mine, "FreezeNamespace", jobs_pb2.FreezeNamespaceRequest(namespace="default"), OPERATORS)
    refused(place, mine, "UnfreezeNamespace", jobs_pb2.UnfreezeNamespaceRequest(namespace="default"), OPERATORS)
    refused(place, mine, "ListFreezes", jobs_pb2.ListFreezesRequest(), OPERATORS)
    clients = Clients(place.server)

    def state() -> str:
        name = body_of(selector("theirs"))
        return str(json.loads(place.rest(place.caller("theirs"), "/v1/jobs/get", name)[1])["state"])

    clients.put(b"raftsched/namespaces/default", b"\n\0")  # as docs/jobs-api.md has it
    wait_for(lambda: state() == "JOB_STATE_FROZEN", 10, place.server.logs)
    clients.delete_under(b"raftsched/namespaces/default")
    wait_for(lambda: state() == "JOB_STATE_SCHEDULED", 10, place.server.logs)
    clients.close()
