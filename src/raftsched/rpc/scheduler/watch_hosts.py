"""WatchHosts (spec §7): the broadcast addresses of all replicas, now and after every change.

Invariant: two messages in a row are never equal; a sidecar rebuilds all its streams at each. Must not know: leases, keys.
"""

from collections.abc import Callable, Sequence

from raftsched.errors import GrpcCode
from raftsched.pb.dapr.scheduler_pb2 import Host, WatchHostsResponse
from raftsched.ports import Stream
from raftsched.scheduler.service import SchedulerService


class WatchHosts:
    """The handler of one stream."""

    def __init__(self, service: SchedulerService, stream: Stream, ended: Callable[["WatchHosts", int], None]) -> None:
        """`ended(self, code)` is called once, when the stream is gone."""
        self._service = service
        self._stream = stream
        self._ended = ended
        self._sent: tuple[str, ...] | None = None
        self._writable = True
        self._done = False
        self._asked = False

    def on_messages(self, messages: Sequence[bytes]) -> None:
        """The request holds nothing."""
        if messages and not self._asked and not self._done:
            self._asked = True
            self._service.when_ready(self._begin)

    def on_half_close(self) -> None:
        """As expected after the one request."""

    def on_writable(self) -> None:
        self._writable = True
        self._send(self._service.hosts)

    def on_closed(self, code: int) -> None:
        self._done = True
        self._service.host_listeners.discard(self._send)
        self._ended(self, code)

    def close(self) -> None:
        """The server is closing."""
        if not self._done:
            self._done = True
            self._stream.finish(int(GrpcCode.UNKNOWN), "server is closing")

    def _begin(self) -> None:
        if not self._done:
            self._service.host_listeners.add(self._send)
            self._send(self._service.hosts)

    def _send(self, hosts: tuple[str, ...]) -> None:
        # While the client does not read, only the newest set is kept: it is looked up again in on_writable.
        if self._done or not self._asked or not self._writable or hosts == self._sent:
            return
        self._sent = hosts
        response = WatchHostsResponse(hosts=[Host(address=address) for address in hosts])
        self._writable = self._stream.push(response.SerializeToString())
