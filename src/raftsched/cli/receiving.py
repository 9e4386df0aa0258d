"""`raftsched job receive`: a worker at the console, by raftsched.v1.Workers."""

from queue import SimpleQueue
from typing import Annotated

import typer
from google.protobuf import any_pb2, json_format

from raftsched.cli import render
from raftsched.cli.job import channel_to
from raftsched.cli.options import ADDRESS, APP_ID, NAMESPACE, Address, AppId, Namespace
from raftsched.pb.v1 import workers_pb2, workers_pb2_grpc

Requests = SimpleQueue[workers_pb2.WatchTriggersRequest | None]


def receive(
    *,
    count: Annotated[int | None, typer.Option("--count", min=1, help="End after so many triggers.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Answer that the runs failed.")] = False,
    error: Annotated[str, typer.Option("--error", help="Why they failed; with --failed.")] = "",
    actor_types: Annotated[list[str] | None, typer.Option("--actor-type", help="Reminders of this type, too. May be repeated.")] = None,
    reminders_only: Annotated[bool, typer.Option("--reminders-only", help="Not the jobs of the app.")] = False,
    namespace: Namespace = NAMESPACE,
    app_id: AppId = APP_ID,
    address: Address = ADDRESS,
) -> None:
    """Be a worker of an app: print each trigger as a line of JSON, with the id of its run, and answer it. Ends by Ctrl-C."""
    initial = workers_pb2.Initial(namespace=namespace, app_id=app_id, actor_types=actor_types or [], reminders_only=reminders_only)
    requests: Requests = SimpleQueue()
    requests.put(workers_pb2.WatchTriggersRequest(initial=initial))
    with channel_to(address) as channel:
        stream = workers_pb2_grpc.WorkersStub(channel).WatchTriggers(iter(requests.get, None))
        try:
            for message in stream:
                count = _answer(message, requests, count, failed=failed, error=error)
                if count == 0:
                    break
            list(stream)  # until the server has read the answers, which it says by ending the stream
        finally:
            requests.put(None)


def _answer(message: workers_pb2.WatchTriggersResponse, requests: Requests, left: int | None, *, failed: bool, error: str) -> int | None:
    """How many are left. What is too many stays unanswered: it goes to another worker."""
    wanted = message.triggers if left is None else message.triggers[:left]
    for trigger in wanted:
        render.print_json_line(_shown(trigger))
    acks = [workers_pb2.Ack(id=trigger.id, failed=failed, error=error if failed else "") for trigger in wanted]
    requests.put(workers_pb2.WatchTriggersRequest(acks=workers_pb2.Acks(acks=acks)))
    left = None if left is None else left - len(wanted)
    if left == 0:
        requests.put(None)
    return left


def _shown(trigger: workers_pb2.Trigger) -> dict[str, object]:
    shown: dict[str, object] = json_format.MessageToDict(trigger, preserving_proto_field_name=True)
    shown.pop("id")
    if trigger.HasField("data"):
        shown["data"] = render.decode_payload(any_pb2.Any(type_url=trigger.data.type_url, value=trigger.data.value))
    return shown | {"attempt": trigger.attempt}
