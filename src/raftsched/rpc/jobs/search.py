"""raftsched.v1.Jobs/SearchJobs: every job that a filter wants, one message each, at the reader's pace.

Also what every stream shares that answers one request.

Invariant: a reader that does not read holds one page and one message, however many jobs there are.
Must not know: filters, records.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError, Message

from raftsched.errors import GrpcCode, StatusError
from raftsched.limits import JOB_SEARCHES_MAX
from raftsched.pb.v1 import jobs_pb2
from raftsched.ports import Stream
from raftsched.rpc.jobs.filters import Filter
from raftsched.rpc.jobs.listing import found_jobs, shown_job
from raftsched.scheduler.service import SchedulerService

Admit = Callable[[jobs_pb2.JobFilter, Mapping[str, Any] | None], Filter]  # Any: a certificate, as ssl gives it
Work = Callable[[], Awaitable[None]]


class Searches:
    """The open streams of one method."""

    def __init__(
        self,
        service: SchedulerService,
        admit: Admit,
        kind: "type[Search] | None" = None,
        most: int = JOB_SEARCHES_MAX,
        what: str = "searches",
    ) -> None:
        """`admit(filter, certificate)`: the filter of a caller who may use it; raises `StatusError`. At a time there are `most`."""
        self.service = service
        self.admit = admit
        self._kind = kind or Search
        self._most, self._what = most, what
        self._open: set[Search] = set()
        self._closing = False

    def open(self, stream: Stream, path: str) -> "Search":
        if self._closing:
            raise StatusError(GrpcCode.UNAVAILABLE, "server is closing")
        if len(self._open) >= self._most:
            raise StatusError(GrpcCode.RESOURCE_EXHAUSTED, f"{self._most} {self._what} are under way")
        search = self._kind(self, stream)
        self._open.add(search)
        return search

    def gone(self, search: "Search") -> None:
        self._open.discard(search)

    def close(self) -> None:
        """The server is closing: open streams end, and no other begins."""
        self._closing = True
        for search in list(self._open):
            search.finish(GrpcCode.UNAVAILABLE, "server is closing")


class Search:
    """One stream: a `StreamHandler`."""

    def __init__(self, owner: Searches, stream: Stream) -> None:
        self._owner = owner
        self._stream = stream
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._over = False

    def on_messages(self, messages: Sequence[bytes]) -> None:
        if self._over:
            return
        if self._task is not None or len(messages) > 1:
            self.finish(GrpcCode.INTERNAL, "grpc: received more than one request of a server-streaming call")
            return
        try:
            work = self._work(messages[0])
        except DecodeError:
            self.finish(GrpcCode.INTERNAL, "grpc: error unmarshalling request: malformed message")
        except StatusError as error:
            self.finish(error.code, error.message)
        else:
            self._task = asyncio.get_running_loop().create_task(self._guarded(work))

    def on_half_close(self) -> None:
        if self._task is None and not self._over:
            self.finish(GrpcCode.INTERNAL, "grpc: a server-streaming call without a request")

    def on_writable(self) -> None:
        self._room.set()

    def on_closed(self, code: int) -> None:
        self._end()

    def finish(self, code: GrpcCode, text: str) -> None:
        if not self._over:
            self._end()
            self._stream.finish(int(code), text)

    def _end(self) -> None:
        self._over = True
        self._owner.gone(self)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def _work(self, message: bytes) -> Work:
        """What is done for a request. Raises `DecodeError`, `StatusError`."""
        request = jobs_pb2.SearchJobsRequest.FromString(message)
        return partial(self._find_all, self._owner.admit(request.filter, self._stream.peer_certificate()))

    async def _find_all(self, wanted: Filter) -> None:
        async for _, record in found_jobs(self._owner.service, wanted):
            if record is not None:
                await self._push(await shown_job(self._owner.service, record))

    async def _push(self, message: Message) -> None:
        """Returns when there is room for another one."""
        self._room.clear()
        if not self._stream.push(message.SerializeToString()):
            await self._room.wait()

    async def _guarded(self, work: Work) -> None:
        """Ends the stream as `work` ends."""
        try:
            await self._owner.service.loaded.wait()
            await work()
        except StatusError as error:
            self.finish(error.code, error.message)
        except Exception:
            self.finish(GrpcCode.INTERNAL, "internal error")
            raise  # the loop's complaint
        else:
            self.finish(GrpcCode.OK, "")
