"""What programs do with jobs in Dapr's Python SDK: the app's side over gRPC, and the client's."""

import sys
import threading
import time
from collections.abc import Callable

from dapr.clients import DaprClient
from dapr.clients.grpc._jobs import ConstantFailurePolicy, DropFailurePolicy, Job
from dapr.ext.grpc import App, JobEvent
from dapr.proto.runtime.v1 import jobs_pb2 as api_v1
from google.protobuf.any_pb2 import Any
from google.protobuf.wrappers_pb2 import StringValue
from grpc import RpcError, StatusCode

WAIT_S = 60.0
SETTLE_S = 3.0
calls: dict[str, list[tuple[float, bytes]]] = {name: [] for name in ("once", "often", "fails", "dropped")}
app = App()


@app.job_event("once")
def once(event: JobEvent) -> None:
    calls["once"].append((time.time(), event.data))


@app.job_event("often")
def often(event: JobEvent) -> None:
    calls["often"].append((time.time(), event.data))


@app.job_event("fails")
def fails(event: JobEvent) -> None:
    calls["fails"].append((time.time(), event.data))
    if len(calls["fails"]) < 3:
        raise RuntimeError("not yet")


@app.job_event("dropped")
def dropped(event: JobEvent) -> None:
    calls["dropped"].append((time.time(), event.data))
    raise RuntimeError("never")


def until(name: str, count: int) -> None:
    end = time.monotonic() + WAIT_S
    while len(calls[name]) < count:
        assert time.monotonic() < end, f"{name}: {calls[name]}"
        time.sleep(0.05)


def code_of(call: Callable[[], object]) -> StatusCode:
    try:
        call()
    except RpcError as error:
        return error.code()
    return StatusCode.OK


def refused(call: Callable[[], object], *codes: StatusCode) -> None:
    code = code_of(call)
    assert code in codes, code


def gone(client: DaprClient, name: str) -> None:
    """A job that is done goes once the sidecar has said that the app took its trigger, which the app cannot see."""
    end = time.monotonic() + WAIT_S
    while code_of(lambda: client.get_job(name)) == StatusCode.OK:
        assert time.monotonic() < end, name
        time.sleep(0.05)


def packed(text: str) -> Any:
    data = Any()
    data.Pack(StringValue(value=text))
    return data


def run(client: DaprClient) -> None:
    began = time.time()
    client.schedule_job(Job(name="once", due_time="2s", data=packed("grün")))
    until("once", 1)
    at, data = calls["once"][0]
    assert at - began >= 2.0
    assert "grün".encode() in data, data
    gone(client, "once")
    print("triggers", flush=True)
    client.schedule_job(Job(name="often", schedule="@every 1s", repeats=3, ttl="1h"))
    told = client.get_job("often")
    assert (told.name, told.schedule, told.repeats, told.ttl) == ("often", "@every 1s", 3, "1h"), told
    until("often", 3)
    print("repeats", flush=True)
    client.schedule_job(Job(name="fails", due_time="0s", failure_policy=ConstantFailurePolicy(max_retries=5, interval_seconds=1)))
    client.schedule_job(Job(name="dropped", due_time="0s", failure_policy=DropFailurePolicy()))
    until("fails", 3)
    until("dropped", 1)
    time.sleep(SETTLE_S)
    assert (len(calls["fails"]), len(calls["dropped"]), len(calls["often"])) == (3, 1, 3)
    print("policies", flush=True)
    client.schedule_job(Job(name="taken", schedule="@yearly"))
    refused(lambda: client.schedule_job(Job(name="taken", schedule="@daily")), StatusCode.ALREADY_EXISTS)
    client.schedule_job(Job(name="taken", schedule="@daily"), overwrite=True)
    assert client.get_job("taken").schedule == "@daily"
    client.delete_job("taken")
    refused(lambda: client.get_job("taken"), StatusCode.NOT_FOUND, StatusCode.INTERNAL)
    print("overwriting", flush=True)
    for name in ("list-a", "list-b", "keep"):
        client.schedule_job(Job(name=name, schedule="@yearly"))
    stub = client._stub  # the SDK has no method for these two
    assert {job.name for job in stub.ListJobs(api_v1.ListJobsRequest()).jobs} == {"list-a", "list-b", "keep"}
    stub.DeleteJobsByPrefix(api_v1.DeleteJobsByPrefixRequest(name_prefix="list-"))
    assert [job.name for job in stub.ListJobs(api_v1.ListJobsRequest()).jobs] == ["keep"]
    client.delete_job("keep")
    print("listing", flush=True)


if __name__ == "__main__":
    threading.Thread(target=app.run, args=(int(sys.argv[1]), "127.0.0.1"), daemon=True).start()
    with DaprClient() as client:
        client.wait(int(WAIT_S))
        run(client)
