"""`raftsched job watch`: the triggers of one app from all replicas, each printed, then acknowledged.

As a sidecar: WatchHosts of one replica tells where the others are, each has a WatchJobs stream, and what breaks is opened again. One
thread for each stream; the caller's thread waits for what they report, so that Ctrl-C reaches it.
Invariant: a trigger is acknowledged only after its line is out; at the end every stream is half-closed and waited for a moment, so that
the last acknowledgements arrive.
"""

import abc
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Final

import grpc

from raftsched.cli import render
from raftsched.pb.dapr import scheduler_pb2, scheduler_pb2_grpc

RECONNECT_S: Final = 0.5
LAST_ACK_TIMEOUT_S: Final = 5.0
CANCEL_TIMEOUT_S: Final = 1.0
LOOK_UP_S: Final = 0.2
PERMANENT: Final = frozenset(
    {
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.INVALID_ARGUMENT,
    }
)
"""Any other end is one to come back after, as for a sidecar: a scheduler that stops in order says Unknown, "server is closing"."""

Connect = Callable[[str], AbstractContextManager[scheduler_pb2_grpc.SchedulerStub]]


def passes(error: grpc.RpcError) -> bool:
    """Whether the same call may work later."""
    return isinstance(error, grpc.Call) and error.code() not in PERMANENT


class Shown:
    """What was printed: one line after the other, not more than asked for."""

    def __init__(self, *, as_json: bool, count: int | None) -> None:
        self._as_json = as_json
        self._left = count
        self._lock = threading.Lock()

    def show(self, trigger: scheduler_pb2.WatchJobsResponse) -> tuple[bool, bool]:
        """(printed, that was the last one). Raises OSError."""
        with self._lock:
            if self._left == 0:
                return False, False  # too many came: neither printed nor acknowledged, it will be delivered again
            self._print(trigger)
            if self._left is not None:
                self._left -= 1
            return True, self._left == 0

    def _print(self, trigger: scheduler_pb2.WatchJobsResponse) -> None:
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


class Repeated(threading.Thread, abc.ABC):
    """A call to one replica that is made again whenever it breaks, until `stop`."""

    def __init__(self, report: Callable[[object], None]) -> None:
        super().__init__(daemon=True)
        self._report = report
        self._stopping = threading.Event()
        self._call: Any = None

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._once()
        except Exception as error:  # of any kind: a thread has nobody above it, so who waits is told, and raises it
            self._report(error)

    @abc.abstractmethod
    def _once(self) -> None:
        """Makes the call; returns when it broke."""

    def stop(self) -> None:
        self._stopping.set()

    def cancel(self) -> None:
        """What has not ended by itself."""
        if self._call is not None:
            self._call.cancel()


class Follower(Repeated):
    """The WatchJobs stream of one replica."""

    def __init__(
        self,
        host: str,
        connect: Connect,
        first: scheduler_pb2.WatchJobsRequest,
        status: scheduler_pb2.WatchJobsRequestResultStatus.ValueType,
        shown: Shown,
        report: Callable[[object], None],
    ) -> None:
        """`report`: of an error that does not pass, or FINISHED."""
        super().__init__(report)
        self._host, self._connect, self._first, self._status, self._shown = host, connect, first, status, shown
        self._requests: queue.SimpleQueue[scheduler_pb2.WatchJobsRequest | None] = queue.SimpleQueue()
        self._told = False  # that it is not there

    def _once(self) -> None:
        self._requests = queue.SimpleQueue()
        self._requests.put(self._first)
        with self._connect(self._host) as stub:
            self._call = stub.WatchJobs(iter(self._requests.get, None), wait_for_ready=self._told)
            if self._stopping.is_set():  # between the look and here
                self._requests.put(None)
            try:
                self._receive(self._call)
            except grpc.RpcError as error:
                if not self._stopping.is_set():
                    self._lost(error)
            finally:
                self._requests.put(None)
        self._stopping.wait(RECONNECT_S)

    def _receive(self, triggers: Iterable[scheduler_pb2.WatchJobsResponse]) -> None:
        for trigger in triggers:
            self._told = False
            printed, last = self._shown.show(trigger)
            if printed:
                result = scheduler_pb2.WatchJobsRequestResult(id=trigger.id, status=self._status)
                self._requests.put(scheduler_pb2.WatchJobsRequest(result=result))
            if last:
                self._report(FINISHED)

    def _lost(self, error: grpc.RpcError) -> None:
        if not passes(error):
            raise error
        if not self._told:
            details = error.details() if isinstance(error, grpc.Call) else str(error)
            text = f"the stream of {self._host} broke, trying again: {details}"
            print(render.plain(text), file=sys.stderr, flush=True)
        self._told = True

    def stop(self) -> None:
        """Half-closes: the replica ends the stream when it has what was acknowledged. One that is not there is not waited for."""
        super().stop()
        self._requests.put(None)
        if self._told:
            self.cancel()


class Hosts(Repeated):
    """The WatchHosts stream: of the address that was given, later of whichever replica answers. Reports each set, as a list."""

    def __init__(self, address: str, connect: Connect, report: Callable[[object], None]) -> None:
        """Also reports an error that does not pass, and any before the first set."""
        super().__init__(report)
        self._address, self._connect = address, connect
        self._known: list[str] = []
        self._turn = 0

    def _once(self) -> None:
        candidates = list(dict.fromkeys([self._address, *self._known]))
        host = candidates[self._turn % len(candidates)]
        with self._connect(host) as stub:
            self._call = stub.WatchHosts(scheduler_pb2.WatchHostsRequest())
            try:
                for message in self._call:
                    told = sorted({one.address for one in message.hosts})
                    if told:
                        self._known = [host] if len(told) == 1 else told  # the only one is who told it, under whatever address
                        self._report(self._known)
            except grpc.RpcError as error:
                if self._stopping.is_set():
                    return
                if not self._known or not passes(error):
                    raise
        self._turn += 1
        self._stopping.wait(RECONNECT_S)


class _Finished:
    """Reported with the last trigger that was asked for."""


FINISHED: Final = _Finished()


class Watcher:
    """Follows the triggers of one app on all replicas, or on that of one address."""

    def __init__(
        self,
        initial: scheduler_pb2.WatchJobsRequestInitial,
        status: scheduler_pb2.WatchJobsRequestResultStatus.ValueType,
        *,
        as_json: bool,
        count: int | None,
    ) -> None:
        self._first = scheduler_pb2.WatchJobsRequest(initial=initial)
        self._status = status
        self._shown = Shown(as_json=as_json, count=count)
        self._reports: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._followers: dict[str, Follower] = {}
        self._leaving: list[Follower] = []

    def follow(self, address: str, connect: Connect, *, single: bool) -> None:
        """Until enough was shown. `single`: the replica there alone. Raises grpc.RpcError: nobody is there at the beginning, or it will
        never work; OSError: nobody reads."""
        hosts = None if single else Hosts(address, connect, self._reports.put)
        try:
            if hosts is None:
                self._reach(address, connect)
                self._set_hosts([address], connect)
            else:
                hosts.start()
            while (report := self._next_report()) is not FINISHED:
                if isinstance(report, Exception):
                    raise report
                assert isinstance(report, list)
                self._set_hosts(report, connect)
        finally:
            if hosts is not None:
                hosts.stop()
                hosts.cancel()
            self._end()
            if hosts is not None and hosts.ident is not None:
                hosts.join(CANCEL_TIMEOUT_S)

    def _next_report(self) -> object:
        """Looks up now and then: a signal that another thread has taken interrupts no wait of this one."""
        while True:
            try:
                return self._reports.get(timeout=LOOK_UP_S)
            except queue.Empty:
                continue

    def _reach(self, address: str, connect: Connect) -> None:
        """Raises grpc.RpcError if nobody is there."""
        with connect(address) as stub:
            call: Any = stub.WatchHosts(scheduler_pb2.WatchHostsRequest())
            next(iter(call))
            call.cancel()

    def _set_hosts(self, hosts: list[str], connect: Connect) -> None:
        for host in self._followers.keys() - set(hosts):
            self._let_go(self._followers.pop(host))
        for host in hosts:
            if host not in self._followers:
                self._followers[host] = Follower(host, connect, self._first, self._status, self._shown, self._reports.put)
                self._followers[host].start()

    def _let_go(self, follower: Follower) -> None:
        """Its replica went: what is under way may end in order, for a while."""
        follower.stop()
        self._leaving = [*(one for one in self._leaving if one.is_alive()), follower]
        limit = threading.Timer(LAST_ACK_TIMEOUT_S, follower.cancel)
        limit.daemon = True
        limit.start()

    def _end(self) -> None:
        followers = [*self._followers.values(), *self._leaving]
        for follower in followers:
            follower.stop()
        deadline = time.monotonic() + LAST_ACK_TIMEOUT_S
        for follower in followers:
            follower.join(max(deadline - time.monotonic(), 0))
        for follower in followers:
            follower.cancel()
        for follower in followers:
            follower.join(CANCEL_TIMEOUT_S)  # none is to meet the end of the interpreter in the middle of a call
