"""dapr.proto.scheduler.v1.Scheduler (spec §3): the eight methods on one door, and the answer to a ninth of later sidecars.

Invariant: gates run in the contract's order; a plain error has code Unknown; no input ends the process.
Must not know: how jobs fire, how keys are stored beyond their requests.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from raftsched.errors import NO_TEXT, TRANSIENT_TEXTS, EtcdError, GrpcCode, StatusError, status_of
from raftsched.limits import LIST_PAGE_JOBS
from raftsched.ports import Log, Stream, StreamHandler
from raftsched.rpc.counted import counted
from raftsched.rpc.metrics import GrpcStats, MethodStats
from raftsched.rpc.scheduler.access import Access, checked_name, unreadable
from raftsched.rpc.scheduler.placement import NoPlacement
from raftsched.rpc.scheduler.schedule_job import RETRY_S, ScheduleJob
from raftsched.rpc.scheduler.stats import SchedulerStats
from raftsched.rpc.scheduler.watch_hosts import WatchHosts
from raftsched.rpc.scheduler.watch_jobs import WatchJobs
from raftsched.scheduler.jobs._jobs import WireError, get_job_response, list_page, parse_metadata, parse_request, range_kvs
from raftsched.scheduler.jobs.fields import Metadata
from raftsched.scheduler.jobs.names import (
    JOBS,
    TARGET_NONE,
    Owner,
    go_quote,
    id_match_prefix,
    list_prefix,
    name_prefix,
    prefix_end,
)
from raftsched.scheduler.jobs.requests import delete_job_request, delete_prefix_request, range_request
from raftsched.scheduler.service import SchedulerService

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Call, Engine

SERVICE: Final = "dapr.proto.scheduler.v1.Scheduler"
PATH: Final = f"/{SERVICE}/"
LIST_ATTEMPTS: Final = 3  # a listing whose revision is compacted away under it begins anew

_GO_CODES: Final = {
    GrpcCode.INVALID_ARGUMENT: "InvalidArgument",
    GrpcCode.UNAUTHENTICATED: "Unauthenticated",
    GrpcCode.PERMISSION_DENIED: "PermissionDenied",
}
"""Of the refusals of a gate, as Go prints them in an error that wraps one."""

Certificate = Mapping[str, Any] | None  # Any: as ssl gives it


class MismatchError(Exception):
    """A stored job whose metadata do not lead to its key; told as it is, not as a failure of the store."""


class SchedulerApi:
    """Registers the methods and keeps the open streams."""

    def __init__(self, service: SchedulerService, door: "Engine", log: Log, grpc_stats: GrpcStats, *, tls: bool = False) -> None:
        self._service = service
        self._door = door
        self._log = log
        self._grpc_stats = grpc_stats
        self.stats = SchedulerStats(service.stats)
        self.access = Access(self.stats, tls=tls)
        self._streams: set[WatchJobs | WatchHosts] = set()
        self._closing = False
        schedule = ScheduleJob(service, self.access, self.stats, door, grpc_stats.method(PATH + "ScheduleJob"))
        door.add_batch(PATH + "ScheduleJob", schedule)
        self._unary("GetJob", self._get)
        self._unary("DeleteJob", self._delete)
        self._unary("ListJobs", self._list)
        self._unary("DeleteByMetadata", self._delete_by_metadata)
        self._unary("DeleteByNamePrefix", self._delete_by_name_prefix)
        door.add_stream(PATH + "WatchJobs", self._watch_jobs)
        door.add_stream(PATH + "WatchHosts", self._watch_hosts)
        door.add_stream(PATH + "ReportActorTypes", self._report_actor_types)
        door.add_unimplemented(SERVICE)

    def close_streams(self) -> None:
        """Ends every stream with `server is closing`, also those that come later; the first step of a shutdown."""
        self._closing = True
        for stream in list(self._streams):
            stream.close()

    # -- registration
    def _unary(self, name: str, method: Callable[[bytes, Certificate], Awaitable[bytes]]) -> None:
        async def handler(call: "Call", message: bytes) -> bytes:
            return await method(message, call.peer_certificate() if self.access.tls else None)

        self._door.add_unary(PATH + name, counted(self._grpc_stats.method(PATH + name), handler))

    def _watch_jobs(self, stream: Stream, path: str) -> StreamHandler:
        calls = self._grpc_stats.method(path, "bidi_stream")
        calls.started += 1
        handler = WatchJobs(self._service, self.access, self.stats, log=self._log, stream=stream, ended=self._ended(calls))
        return self._admitted(handler)

    def _watch_hosts(self, stream: Stream, path: str) -> StreamHandler:
        calls = self._grpc_stats.method(path, "server_stream")
        calls.started += 1
        handler = WatchHosts(self._service, stream, self._ended(calls))
        return self._admitted(handler)

    def _report_actor_types(self, stream: Stream, path: str) -> StreamHandler:
        calls = self._grpc_stats.method(path, "bidi_stream")
        calls.started += 1
        return NoPlacement(stream, calls.ended)

    def _admitted(self, handler: WatchJobs | WatchHosts) -> StreamHandler:
        self._streams.add(handler)
        if self._closing:
            handler.close()
        return handler

    def _ended(self, calls: MethodStats) -> Callable[[WatchJobs | WatchHosts, int], None]:
        def ended(handler: WatchJobs | WatchHosts, code: int) -> None:
            calls.ended(code)
            self._streams.discard(handler)

        return ended

    # -- methods
    async def _get(self, message: bytes, certificate: Certificate) -> bytes:
        name, metadata = _named(message)
        await self._service.ready.wait()
        composed = checked_name(name_prefix(self.access.owner(metadata, certificate)) + name)
        found = range_kvs((await self._range(range_request(JOBS + composed)))[1])
        if not found:
            raise StatusError(GrpcCode.NOT_FOUND, f"job not found: {name}")
        try:
            return get_job_response(found[0][1])
        except WireError as error:
            raise StatusError(GrpcCode.UNKNOWN, f"failed to decode job: {error}") from None

    async def _delete(self, message: bytes, certificate: Certificate) -> bytes:
        name, metadata = _named(message)
        await self._service.ready.wait()
        owner = self.access.owner(metadata, certificate)
        await self._change(delete_job_request(checked_name(name_prefix(owner) + name)))
        self.stats.deleted[owner.target] += 1
        return b""

    async def _list(self, message: bytes, certificate: Certificate) -> bytes:
        metadata = _metadata(_fields(message)[0])
        await self._service.ready.wait()
        owner = self.access.owner(metadata, certificate)
        prefix = JOBS + list_prefix(owner).encode()
        for attempt in range(LIST_ATTEMPTS):
            try:
                return b"".join(await self._pages(prefix))
            except MismatchError as error:
                raise StatusError(GrpcCode.UNKNOWN, str(error)) from None
            except StatusError as error:
                if error.message == status_of(EtcdError.COMPACTED).message and attempt + 1 < LIST_ATTEMPTS:
                    continue
                raise StatusError(GrpcCode.UNKNOWN, f"failed to query job list: {error.message}") from None
        raise AssertionError("the last attempt returns or raises")

    async def _pages(self, prefix: bytes) -> Sequence[bytes]:
        pieces = []
        start, end, revision = prefix, prefix_end(prefix), 0
        while True:
            found, body = await self._range(range_request(start, end, limit=LIST_PAGE_JOBS, revision=revision))
            revision = revision or found
            page = list_page(body)
            if page.mismatch is not None:
                key, metadata = page.mismatch
                expected = name_prefix(_owner(parse_metadata(metadata)))
                name = key.removeprefix(JOBS).decode("utf-8", "replace")
                raise MismatchError(f"job key {go_quote(name)} does not match expected prefix {go_quote(expected)} from its metadata")
            for key in page.undecodable:
                self._log.warning("a stored job cannot be decoded and is left out of the list", key=key.decode("utf-8", "replace"))
            pieces.append(page.jobs)
            if not page.more or page.last_key is None:
                return pieces
            start = page.last_key + b"\0"
            await asyncio.sleep(0)

    async def _delete_by_metadata(self, message: bytes, certificate: Certificate) -> bytes:
        metadata, id_prefix_match = _fields(message, 2)
        owner = self._wrapped_owner(_metadata(metadata), certificate)
        await self._service.ready.wait()
        return await self._delete_prefix(id_match_prefix(owner) if id_prefix_match else list_prefix(owner))

    async def _delete_by_name_prefix(self, message: bytes, certificate: Certificate) -> bytes:
        prefix, metadata = _named(message)
        owner = self._wrapped_owner(metadata, certificate)
        await self._service.ready.wait()
        return await self._delete_prefix(list_prefix(owner) + prefix)

    async def _delete_prefix(self, prefix: str) -> bytes:
        checked_name(prefix + "a")
        try:
            await self._change(delete_prefix_request(prefix.encode()))
        except StatusError as error:
            raise StatusError(GrpcCode.UNKNOWN, f"failed to delete prefixes {go_quote(prefix)}: {error.message}") from None
        self.stats.bulk_deleted += 1
        return b""

    # -- helpers
    def _wrapped_owner(self, metadata: Metadata | None, certificate: Certificate) -> Owner:
        try:
            return self.access.owner(metadata, certificate)
        except StatusError as error:
            status = "" if error.code == GrpcCode.UNKNOWN else f"rpc error: code = {_GO_CODES[error.code]} desc = "
            raise StatusError(error.code, f"failed to parse metadata: {status}{error.message}") from None

    async def _range(self, request: bytes) -> tuple[int, bytes]:
        return await self._repeating(self._service.kv.range, request)

    async def _change(self, request: bytes) -> tuple[int, bytes]:
        return await self._repeating(self._service.kv.txn, request)  # deletions: doing them twice is doing them once

    async def _repeating(self, call: Callable[[bytes], Awaitable[tuple[int, bytes]]], request: bytes) -> tuple[int, bytes]:
        while True:
            if self._service.closing:
                raise StatusError(GrpcCode.UNKNOWN, "cron is closed")
            try:
                return await call(request)
            except StatusError as error:
                if error.message not in TRANSIENT_TEXTS:
                    raise StatusError(GrpcCode.UNKNOWN, error.message) from None
            await asyncio.sleep(RETRY_S)


def _fields(message: bytes, number: int = 0) -> tuple[bytes | int | None, bytes | int | None]:
    try:
        return parse_request(message, number)
    except WireError as error:
        raise unreadable(error) from None


def _named(message: bytes) -> tuple[str, Metadata | None]:
    """Of a request whose first two fields are a name and the metadata."""
    name, metadata = _fields(message)
    return _text(name), _metadata(metadata)


def _metadata(body: bytes | int | None) -> Metadata | None:
    if not isinstance(body, bytes):
        return None
    try:
        return parse_metadata(body)
    except WireError as error:
        raise unreadable(error) from None


def _text(body: bytes | int | None) -> str:
    if not isinstance(body, bytes):
        return ""
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise unreadable(WireError(NO_TEXT)) from None


def _owner(metadata: Metadata) -> Owner:
    app_id, namespace, target, actor_id, actor_type, _ = metadata
    return Owner(namespace, app_id, target or TARGET_NONE, actor_type, actor_id)
