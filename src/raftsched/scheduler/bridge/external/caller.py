"""Calls to the external etcd: who is asked, in whose name, how long, and what is asked again.

A request is sent again from here only if it was surely not done (never sent; the token was not taken), or if the caller says that
doing it twice is doing it once. Everything else that has no answer is `EtcdError.TIMEOUT`: unknown.
Invariant: messages pass as bytes. Must not know: what they mean.
"""

import asyncio
import time
from typing import Any, Final

import grpc
import grpc.aio

from raftsched.errors import EtcdError, GrpcCode
from raftsched.limits import EXTERNAL_CALL_MS, EXTERNAL_LOGIN_REFUSED_MS
from raftsched.pb.etcd import rpc_pb2
from raftsched.ports import Log
from raftsched.scheduler.bridge.external.endpoints import Endpoints
from raftsched.scheduler.bridge.external.refusals import ELSEWHERE, LOGIN, CallError, call_error

KV_RANGE: Final = "/etcdserverpb.KV/Range"
KV_PUT: Final = "/etcdserverpb.KV/Put"
KV_DELETE: Final = "/etcdserverpb.KV/DeleteRange"
KV_TXN: Final = "/etcdserverpb.KV/Txn"
LEASE_GRANT: Final = "/etcdserverpb.Lease/LeaseGrant"
LEASE_REVOKE: Final = "/etcdserverpb.Lease/LeaseRevoke"
LEASE_KEEP_ALIVE: Final = "/etcdserverpb.Lease/LeaseKeepAlive"
WATCH: Final = "/etcdserverpb.Watch/Watch"
STATUS: Final = "/etcdserverpb.Maintenance/Status"
AUTHENTICATE: Final = "/etcdserverpb.Auth/Authenticate"
NEEDS_LEADER: Final = ("hasleader", "true")  # a member that has none ends the stream, and another is asked
Metadata = tuple[tuple[str, str], ...]


class Caller:
    """One user of one etcd."""

    def __init__(self, endpoints: Endpoints, log: Log, *, user: str = "", password: str = "") -> None:
        self.endpoints = endpoints
        self._log = log
        self._user = user
        self._password = password
        self._token = ""
        self._login: asyncio.Task[None] | None = None
        self._refused_until_s = 0.0
        self._refusal: CallError | None = None
        self.closed = False
        self.logins_total = 0
        self.repeats_total = 0

    # -- calls with one answer
    async def call(self, path: str, request: bytes, *, again: bool = False, timeout_ms: int = EXTERNAL_CALL_MS) -> bytes:
        """The answer. `again`: doing it twice is doing it once, so other members are asked too. Raises `CallError`."""
        attempts = max(2, len(self.endpoints) + 1)
        while True:
            attempts -= 1
            token = await self._known_token()
            try:
                return await self._once(path, request, token, timeout_ms)
            except CallError as error:
                if attempts <= 0 or not await self._worth_repeating(error, token, again=again):
                    raise
            self.repeats_total += 1

    async def _worth_repeating(self, error: CallError, token: str, *, again: bool) -> bool:
        if self._user and error.error in LOGIN:
            await self._log_in_again(token)
            return True
        return not self.closed and (not error.sent or (again and error.error in ELSEWHERE))

    async def _once(self, path: str, request: bytes, token: str, timeout_ms: int) -> bytes:
        if self.closed:
            raise CallError(GrpcCode.UNAVAILABLE, "this process stops", EtcdError.STOPPED, sent=True)
        number, channel = self.endpoints.current()
        call = channel.unary_unary(path)(request, timeout=timeout_ms / 1000, metadata=self._metadata(token))
        try:
            return bytes(await call)
        except grpc.aio.AioRpcError as error:
            raise self._judge(number, call_error(error.code(), error.details() or "")) from None
        except asyncio.CancelledError:
            raise self._cancelled(number) from None

    def _judge(self, number: int, error: CallError) -> CallError:
        if error.error in ELSEWHERE or error.code == GrpcCode.UNAVAILABLE:
            self.endpoints.failed(number, error.message)
        return error

    def _cancelled(self, number: int) -> BaseException:
        """grpc cancels the calls of a channel that is closed: that is not our task's being cancelled."""
        if stopping(asyncio.CancelledError()):
            return asyncio.CancelledError()
        return self._judge(number, CallError(GrpcCode.UNAVAILABLE, "the connection was closed", EtcdError.TIMEOUT, sent=True))

    # -- streams
    async def open_stream(self, path: str, *, timeout_ms: int | None = None) -> "Stream":
        """In the present name, to the present member. Raises `CallError`: there is no name to be had."""
        token = await self._known_token()
        number, channel = self.endpoints.current()
        timeout_s = None if timeout_ms is None else timeout_ms / 1000
        return Stream(self, number, token, channel.stream_stream(path)(timeout=timeout_s, metadata=(NEEDS_LEADER, *self._metadata(token))))

    async def stream_failed(self, number: int, token: str, error: CallError) -> CallError:
        """What an error of a stream means for the calls that follow."""
        if self._user and error.error in LOGIN:
            await self._log_in_again(token)
        return self._judge(number, error)

    # -- the name
    def _metadata(self, token: str) -> Metadata:
        return (("token", token),) if token else ()

    async def _known_token(self) -> str:
        if self._user and not self.logins_total:
            await self._log_in_again(self._token)
        return self._token

    async def _log_in_again(self, refused: str) -> None:
        """A token other than `refused`; one asks for all who need it. Raises `CallError`."""
        if self._token != refused:
            return
        if self._refusal is not None and time.monotonic() < self._refused_until_s:
            raise self._refusal  # a password costs etcd some CPU to compare
        if self._login is None or self._login.done():
            self._login = asyncio.get_running_loop().create_task(self._log_in())
        await asyncio.shield(self._login)

    async def _log_in(self) -> None:
        request = rpc_pb2.AuthenticateRequest(name=self._user, password=self._password).SerializeToString()
        self._refusal = None
        try:
            body = await self._anywhere(request)
        except CallError as error:
            if error.error == EtcdError.AUTH_NOT_ENABLED:  # soft, as etcd's own client takes it
                self._token = ""
                self.logins_total += 1
                return
            if error.error in LOGIN:
                self._refusal, self._refused_until_s = error, time.monotonic() + EXTERNAL_LOGIN_REFUSED_MS / 1000
                self._log.warning("etcd refuses the user", user=self._user, error=error.message)
            raise
        self._token = rpc_pb2.AuthenticateResponse.FromString(body).token
        self.logins_total += 1

    async def _anywhere(self, request: bytes) -> bytes:
        for _ in range(len(self.endpoints)):
            try:
                return await self._once(AUTHENTICATE, request, "", EXTERNAL_CALL_MS)
            except CallError as error:
                if error.error not in ELSEWHERE:
                    raise
                last = error
        raise last

    async def close(self) -> None:
        """Ends what is under way; nothing begins any more."""
        self.closed = True
        if self._login is not None:
            self._login.cancel()
            await asyncio.gather(self._login, return_exceptions=True)
        await self.endpoints.close()


class Stream:
    """A stream in both directions. Every method raises `CallError` when it is over."""

    def __init__(self, caller: Caller, number: int, token: str, call: Any) -> None:  # Any: grpc.aio.StreamStreamCall
        self._caller = caller
        self._number = number
        self._token = token
        self._call = call

    @property
    def address(self) -> str:
        """Of the member."""
        return self._caller.endpoints.address_of(self._number)

    async def write(self, request: bytes, timeout_ms: int) -> None:
        """Not being able to for so long ends the stream: a connection that does not come about, or takes nothing."""
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await self._call.write(request)
        except TimeoutError:
            raise await self._ended(f"nothing could be sent for {timeout_ms} ms") from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError) as error:
            raise await self._over(error) from None

    async def read(self, timeout_ms: int) -> bytes:
        """The next message; silence for so long ends the stream."""
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                message = await self._call.read()
        except TimeoutError:
            raise await self._ended(f"silent for {timeout_ms} ms") from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError) as error:
            raise await self._over(error) from None
        if not isinstance(message, bytes):  # the end
            raise await self._over(None)
        return message

    async def refused(self, error: CallError) -> CallError:
        """The server said within the stream what is usually said by its end."""
        return await self._caller.stream_failed(self._number, self._token, error)

    def cancel(self) -> None:
        self._call.cancel()

    async def _ended(self, reason: str) -> CallError:
        self._call.cancel()
        error = CallError(GrpcCode.UNAVAILABLE, reason, EtcdError.TIMEOUT, sent=True)
        return await self._caller.stream_failed(self._number, self._token, error)

    async def _over(self, error: BaseException | None) -> BaseException:
        if error is not None and stopping(error):
            self._call.cancel()
            return error
        if isinstance(error, grpc.aio.AioRpcError):
            found = call_error(error.code(), error.details() or "")
        elif isinstance(error, asyncio.CancelledError):
            found = CallError(GrpcCode.UNAVAILABLE, "the connection was closed", EtcdError.TIMEOUT, sent=True)
        else:
            found = call_error(await self._call.code(), await self._call.details() or "the stream was ended")
        return await self._caller.stream_failed(self._number, self._token, found)


def stopping(error: BaseException) -> bool:
    """This task is to end. A CancelledError alone does not say so: grpc raises it, too, for a call or connection that it has closed."""
    task = asyncio.current_task()
    return not isinstance(error, Exception | asyncio.CancelledError) or (
        isinstance(error, asyncio.CancelledError) and task is not None and bool(task.cancelling())
    )
