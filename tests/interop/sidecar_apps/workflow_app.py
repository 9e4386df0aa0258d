"""What programs do with workflows in Dapr's Python SDK: timers, activities with retries, external events, termination, purging."""

import threading
import time
from datetime import timedelta

from dapr.ext.workflow import (
    DaprWorkflowClient,
    DaprWorkflowContext,
    RetryPolicy,
    WorkflowActivityContext,
    WorkflowRuntime,
    WorkflowStatus,
    when_all,
    when_any,
)

WAIT_S = 120
MANY = 20
TIMER_S = 2
runtime = WorkflowRuntime()
LIMIT = 3  # of activities `slow` at once: the sidecar's configuration has it
attempts: dict[int, int] = {}
lock = threading.Lock()
running: set[int] = set()
peaks: list[int] = []


@runtime.activity
def twice(_: WorkflowActivityContext, number: int) -> int:
    return number * 2


@runtime.activity
def third_time(_: WorkflowActivityContext, number: int) -> int:
    attempts[number] = attempts.get(number, 0) + 1
    if attempts[number] < 3:
        raise RuntimeError("not yet")
    return attempts[number]


@runtime.activity
def slow(_: WorkflowActivityContext, number: int) -> int:
    with lock:
        running.add(number)
        peaks.append(len(running))
    time.sleep(0.5)
    with lock:
        running.discard(number)
    return number


@runtime.workflow
def fans_out(context: DaprWorkflowContext, count: int):  # type: ignore[no-untyped-def]
    return sum((yield when_all([context.call_activity(slow, input=number) for number in range(count)])))


@runtime.workflow
def sleeps(context: DaprWorkflowContext, number: int):  # type: ignore[no-untyped-def]
    before = context.current_utc_datetime
    yield context.create_timer(timedelta(seconds=TIMER_S))
    slept = (context.current_utc_datetime - before).total_seconds()
    doubled = yield context.call_activity(twice, input=number)
    return [doubled, slept]


@runtime.workflow
def retries(context: DaprWorkflowContext, number: int):  # type: ignore[no-untyped-def]
    policy = RetryPolicy(first_retry_interval=timedelta(seconds=1), max_number_of_attempts=5)
    return (yield context.call_activity(third_time, input=number, retry_policy=policy))


@runtime.workflow
def listens(context: DaprWorkflowContext, seconds: int):  # type: ignore[no-untyped-def]
    event = context.wait_for_external_event("go")
    timer = context.create_timer(timedelta(seconds=seconds))
    first = yield when_any([event, timer])
    return event.get_result() if first is event else "too late"


@runtime.workflow
def has_children(context: DaprWorkflowContext, count: int):  # type: ignore[no-untyped-def]
    results = yield when_all([context.call_child_workflow(sleeps, input=number) for number in range(count)])
    return sum(doubled for doubled, _ in results)


@runtime.workflow
def counts_down(context: DaprWorkflowContext, left: int):  # type: ignore[no-untyped-def]
    yield context.create_timer(timedelta(seconds=1))
    if left > 1:
        context.continue_as_new(left - 1)
        return None
    return "zero"


def ended(client: DaprWorkflowClient, instance: str) -> object:
    state = client.wait_for_workflow_completion(instance, timeout_in_seconds=WAIT_S)
    assert state is not None
    return state


def result(client: DaprWorkflowClient, instance: str) -> str:
    state = ended(client, instance)
    assert state.runtime_status == WorkflowStatus.COMPLETED, state  # type: ignore[attr-defined]
    return str(state.serialized_output)  # type: ignore[attr-defined]


def run(client: DaprWorkflowClient) -> None:
    began = time.monotonic()
    instance = client.schedule_new_workflow(sleeps, input=21)
    doubled, slept = result(client, instance).strip("[]").split(",")
    assert int(doubled) == 42
    assert float(slept) >= TIMER_S, slept
    assert time.monotonic() - began >= TIMER_S
    print("timers", flush=True)
    assert result(client, client.schedule_new_workflow(retries, input=1)) == "3"
    print("retries", flush=True)
    heard = client.schedule_new_workflow(listens, input=3600)
    client.wait_for_workflow_start(heard, timeout_in_seconds=WAIT_S)
    client.raise_workflow_event(heard, "go", data="now")
    assert result(client, heard) == '"now"'
    assert result(client, client.schedule_new_workflow(listens, input=1)) == '"too late"'
    print("events", flush=True)
    stopped = client.schedule_new_workflow(listens, input=3600)
    client.wait_for_workflow_start(stopped, timeout_in_seconds=WAIT_S)
    client.terminate_workflow(stopped)
    assert ended(client, stopped).runtime_status == WorkflowStatus.TERMINATED  # type: ignore[attr-defined]
    print("termination", flush=True)
    assert result(client, client.schedule_new_workflow(fans_out, input=12)) == str(sum(range(12)))
    assert len(peaks) == 12, peaks
    assert max(peaks) <= LIMIT, peaks
    print("limits", flush=True)
    assert result(client, client.schedule_new_workflow(has_children, input=5)) == str(sum(2 * number for number in range(5)))
    print("children", flush=True)
    began = time.monotonic()
    assert result(client, client.schedule_new_workflow(counts_down, input=3)) == '"zero"'
    assert time.monotonic() - began >= 3
    print("continuations", flush=True)
    many = [client.schedule_new_workflow(sleeps, input=number) for number in range(MANY)]
    print("fault", flush=True)  # whoever started this may kill a scheduler now
    for number, one in enumerate(many):
        assert int(result(client, one).strip("[]").split(",")[0]) == number * 2
    print("many", flush=True)
    for one in (instance, heard, stopped, *many):
        client.purge_workflow(one)
        assert client.get_workflow_state(one) is None
    print("purging", flush=True)


if __name__ == "__main__":
    runtime.start()
    try:
        run(DaprWorkflowClient())
    finally:
        runtime.shutdown()
