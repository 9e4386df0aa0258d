"""One WatchJobs stream on a terminal: each trigger is printed, then acknowledged; a broken stream is opened again.

Invariant: a trigger is acknowledged only after its line is out.
"""

import queue
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Final

import grpc

from raftsched.cli import render
from raftsched.pb.dapr import scheduler_pb2, scheduler_pb2_grpc

RECONNECT_S: Final = 1.0
LAST_ACK_TIMEOUT_S: Final = 5.0


class Watcher:
    """Follows the triggers of one app over any number of streams."""

    def __init__(
        self,
        initial: scheduler_pb2.WatchJobsRequestInitial,
        status: scheduler_pb2.WatchJobsRequestResultStatus.ValueType,
        *,
        as_json: bool,
        count: int | None,
    ) -> None:
        self._initial = initial
        self._status = status
        self._as_json = as_json
        self._left = count
        self._worked = False
        self.finished = False

    def follow(self, stub: scheduler_pb2_grpc.SchedulerStub) -> None:
        """Until the stream breaks (then call again) or `finished`. Raises grpc.RpcError if no stream ever worked, or it never will."""
        requests: queue.SimpleQueue[scheduler_pb2.WatchJobsRequest | None] = queue.SimpleQueue()
        requests.put(scheduler_pb2.WatchJobsRequest(initial=self._initial))
        call = stub.WatchJobs(iter(requests.get, None), wait_for_ready=self._worked)
        try:
            self._receive(call, requests)
        except grpc.RpcError as error:
            if self.finished:
                return
            if not self._worked or call.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            print(f"the stream broke, trying again: {render.plain(call.details() or str(error))}", file=sys.stderr, flush=True)
            time.sleep(RECONNECT_S)
        finally:
            requests.put(None)
            call.cancel()  # type: ignore[no-untyped-call]

    def _receive(
        self, call: Iterable[scheduler_pb2.WatchJobsResponse], requests: "queue.SimpleQueue[scheduler_pb2.WatchJobsRequest | None]"
    ) -> None:
        for trigger in call:
            self._worked = True
            if self.finished:
                continue  # one more came before the server saw the end: not printed, not acknowledged, delivered again
            self._show(trigger)
            requests.put(scheduler_pb2.WatchJobsRequest(result=scheduler_pb2.WatchJobsRequestResult(id=trigger.id, status=self._status)))
            if self._left is not None:
                self._left -= 1
                if self._left == 0:
                    self.finished = True
                    requests.put(None)  # half-close: the last acknowledgement arrives before the end

    def _show(self, trigger: scheduler_pb2.WatchJobsResponse) -> None:
        now = datetime.now().astimezone()
        data = render.decode_payload(trigger.data) if trigger.HasField("data") else None
        if self._as_json:
            job = render.job_as_dict(trigger.name, trigger.metadata, scheduler_pb2.Job())
            render.print_json_line({"time": now.isoformat(timespec="milliseconds"), **job, "data": data})
            return
        target = trigger.metadata.target
        name = f"{target.actor.type}/{target.actor.id}/{trigger.name}" if target.HasField("actor") else trigger.name
        shown = "" if data is None else "  " + render.cell_of(data)
        print(f"{now:%H:%M:%S}.{now.microsecond // 1000:03d}  {render.plain(name)}{shown}", flush=True)
