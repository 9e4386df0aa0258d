"""What all etcd services share: the checks before a handler (etcd-api §1.0), answers and their headers, and counting.

Hot methods are batches: `admit` sorts out who may not pass, the store answers through an `AnswerSink`. Cold methods are
coroutines wrapped by `cold`. Either way a failure becomes the one (code, text) of errors.ETCD_STATUS.
Must not know: what a method does.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from google.protobuf.message import DecodeError, Message

from raftsched.errors import ETCD_STATUS, NO_MESSAGE, NO_TEXT, EtcdError, GrpcCode, StatusError, status_of
from raftsched.ports import StoreNode, Stream
from raftsched.proposals import RANGE
from raftsched.rpc.counted import counted
from raftsched.rpc.durations import NOT_DONE, TYPES, RequestDurations
from raftsched.rpc.etcd.access import Access
from raftsched.rpc.etcd.guard import Guarded, LeaderGuard
from raftsched.rpc.metrics import GrpcStats, MethodStats
from raftsched.types import NOBODY, Identity, Result

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Call, Engine

Parsed = TypeVar("Parsed", bound=Message)
Metadata = Callable[[str], str | None]

STATUS: Final[dict[int, tuple[int, str]]] = {int(error): (int(code), text) for error, (code, text) in ETCD_STATUS.items()}

FIELD_0_MAX: Final = 7
"""The largest tag of a field 0, which no message has."""
BROKEN: Final = b"\xff"


def parse(kind: type[Parsed], message: bytes, refusal: tuple[int, str] = STATUS[EtcdError.MALFORMED]) -> Parsed:
    """The message, or `refusal` as a StatusError."""
    try:
        # Google's Python skips field 0 in messages that have no fields
        return kind.FromString(message if not message or message[0] > FIELD_0_MAX else BROKEN)
    except DecodeError as error:
        text = refusal[1].replace(NO_MESSAGE, NO_TEXT) if "UTF-8" in str(error) else refusal[1]
        raise StatusError(GrpcCode(refusal[0]), text) from None


def valid_version(version: str) -> bool:
    """Whether a `client-api-version` was UTF-8; the door hands over undecodable headers as latin-1 or with surrogates."""
    try:
        version.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return False
    except UnicodeEncodeError:  # not latin-1: the door has decoded it already, or failed to
        return not any("\ud800" <= letter <= "\udfff" for letter in version)
    return True


def never(_: object) -> bool:
    """For what a learner does not serve, whatever is asked: nearly everything."""
    return False


class Door:
    """What every service is given. `leader_lost_ms`: streams with `hasleader` end when there was no leader for so long."""

    def __init__(
        self, engine: "Engine", node: StoreNode, stats: GrpcStats, *, leader_lost_ms: int = 3_000, access: Access | None = None
    ) -> None:
        """`access`: by default without JWTs and certificates."""
        self.engine = engine
        self.access = access or Access(engine, node)
        self.node = node
        self.stats = stats
        self.requests = RequestDurations()
        self.guard = LeaderGuard(lambda: node.leader_id, leader_lost_ms)
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of the loop that is kept alive until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- hot methods

    def admit(
        self,
        handles: list[int],
        messages: list[bytes],
        check: Callable[[bytes], int],
        stats: MethodStats,
        of_learner: Callable[[bytes], bool] = never,
    ) -> bool:
        """Whether all requests that are left may go on. If not, those that may not are failed and taken out of both lists; so are those
        that a learner does not serve: all for which `of_learner` is false, of which it is asked for well-formed ones alone.
        """
        began = stats.begin()
        stats.started += len(handles)
        stats.received += len(handles)
        errors = list(map(check, messages))
        if self.node.is_learner and not self._admit_to_learner(handles, messages, errors, of_learner, stats):
            return False
        count = len(handles)
        versions = self.engine.metadata_many(handles, b"client-api-version")
        if versions is None:
            self.stats.count_client("unary", None, count)
        else:
            self._count_versions(versions, errors)
        if not self.node.leader_id:
            for index, handle in enumerate(handles):
                if errors[index] != EtcdError.INVALID_CLIENT_API_VERSION and self.engine.metadata(handle, "hasleader") == "true":
                    errors[index] = EtcdError.NO_LEADER
        if not any(errors):
            return True
        for index in [index for index, error in enumerate(errors) if error][::-1]:
            self.fail(handles.pop(index), errors[index], stats, began)
            del messages[index]
        return False

    def _admit_to_learner(
        self, handles: list[int], messages: list[bytes], errors: list[int], of_learner: Callable[[bytes], bool], stats: MethodStats
    ) -> bool:
        """Whether any request is left: the others are failed and taken out of the three lists."""
        began = stats.begin()
        malformed = EtcdError.MALFORMED
        served = [error == malformed or of_learner(message) for message, error in zip(messages, errors, strict=True)]
        for index in [index for index, serves in enumerate(served) if not serves][::-1]:
            self.fail(handles.pop(index), EtcdError.NOT_SUPPORTED_FOR_LEARNER, stats, began)
            del messages[index], errors[index]
        return bool(handles)

    def _count_versions(self, versions: list[str | None], errors: list[int]) -> None:
        known: dict[str | None, int] = {}
        for index, version in enumerate(versions):
            known[version] = known.get(version, 0) + 1
            if version is not None and not version.isascii() and not valid_version(version):
                errors[index] = EtcdError.INVALID_CLIENT_API_VERSION
        for version, times in known.items():
            self.stats.count_client("unary", version, times)

    def fail(self, handle: int, error: int, stats: MethodStats, began: float = 0.0) -> None:
        code, text = STATUS[error]
        stats.ended(code, 1, began)
        self.engine.fail(handle, code, text)

    # -- cold methods

    def cold(self, path: str, handler: Callable[["Call", bytes], Awaitable[bytes]], of_learner: Callable[[Metadata], bool] = never) -> None:
        """Registers a coroutine method: checks, counts, answers. `of_learner`: whether a learner serves a call with this metadata."""
        guard = self.access.guard(path)

        async def checked(call: "Call", message: bytes) -> bytes:
            self._check(call.metadata, of_learner)
            if guard is not None and self.access.enabled:
                await guard(call)
            return await handler(call, message)

        self.engine.add_unary(path, counted(self.stats.method(path), checked))

    def _check(self, metadata: Metadata, of_learner: Callable[[Metadata], bool]) -> None:
        if self.node.is_learner and not of_learner(metadata):
            raise status_of(EtcdError.NOT_SUPPORTED_FOR_LEARNER)
        version = metadata("client-api-version")
        if version is not None and not version.isascii() and not valid_version(version):
            raise status_of(EtcdError.INVALID_CLIENT_API_VERSION)
        self.stats.count_client("unary", version)
        if not self.node.leader_id and metadata("hasleader") == "true":
            raise status_of(EtcdError.NO_LEADER)

    # -- streams

    def admit_stream(self, stream: Stream, call: Guarded, *, of_learner: bool = False) -> None:
        """Finishes `call` at once if `stream` is refused; later, if it asked for a leader and that is lost. When it is over: `release`.
        `of_learner`: a learner serves it, as it does Maintenance/Snapshot alone."""
        refused = self._refusal(stream, of_learner=of_learner)
        if refused:
            call.finish(int(refused.code), refused.message)
        elif stream.metadata("hasleader") == "true":
            self.guard.add(call)

    def release(self, call: Guarded) -> None:
        self.guard.discard(call)

    def _refusal(self, stream: Stream, *, of_learner: bool) -> StatusError | None:
        if self.node.is_learner and not of_learner:
            return status_of(EtcdError.NOT_SUPPORTED_FOR_LEARNER)
        version = stream.metadata("client-api-version")
        if version is not None and not version.isascii() and not valid_version(version):
            return status_of(EtcdError.INVALID_CLIENT_API_VERSION)
        self.stats.count_client("stream", version)
        if not self.node.leader_id and stream.metadata("hasleader") == "true":
            return status_of(EtcdError.NO_LEADER)
        return self.access.refusal(stream.method, stream) if self.access.enabled else None

    # -- answers

    async def propose(self, kind: int, message: bytes, who: Identity = NOBODY) -> Result:
        """One proposal; its result, or StatusError."""
        waiter = _Waiter(self.requests, TYPES[kind], NOT_DONE)
        self.node.propose_many(kind, [message], [0], waiter, identity=who)
        return await waiter.result()

    async def read(self, message: bytes, who: Identity = NOBODY) -> Result:
        """One linearizable RangeRequest, already validated; its result, or StatusError. Permitted at the moment of the read."""
        waiter = _Waiter(self.requests, TYPES[RANGE])

        def permit(tokens: Sequence[int], messages: Sequence[bytes]) -> tuple[Sequence[int], Sequence[bytes]]:
            error = self.access.checks.read(who, RANGE, message)
            if error:
                waiter.on_results(tokens, [(error, 0, b"")])
            return ([], []) if error else (tokens, messages)

        self.node.read_many([message], [0], waiter, permit=permit)
        return await waiter.result()

    def answer(self, body: bytes, revision: int = -1) -> bytes:
        """A response with its header; by default with the current revision."""
        return self.node.header(self.node.mvcc.revision if revision < 0 else revision) + body


class _Waiter:
    """A ResultSink for one awaited proposal or read."""

    def __init__(self, requests: RequestDurations, kind: str, failures: frozenset[EtcdError] | None = None) -> None:
        """`kind`: how it is counted; `failures`: by which errors as a failure, None = by all."""
        self._future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._requests, self._kind, self._failures = requests, kind, failures
        self._began = time.perf_counter()

    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None:
        if not self._future.done():
            self._future.set_result(results[0])

    async def result(self) -> Result:
        """Raises StatusError."""
        error, revision, body = await self._future
        failed = error and (self._failures is None or error in self._failures)
        self._requests.observe(self._kind, self._began, success=not failed)
        if error:
            raise status_of(error)
        return error, revision, body


class AnswerSink:
    """A ResultSink whose tokens are call handles: answers them, counts them, as requests of the type `kind`."""

    def __init__(self, door: Door, stats: MethodStats, kind: str, failures: frozenset[EtcdError] | None = None, began: float = 0.0) -> None:
        """`failures`: with which errors a request counts as failed, None = with all; `began`: of the batch (time.perf_counter)."""
        self._door = door
        self._stats = stats
        self._kind = kind
        self._failures = failures
        self._began = began

    def of_batch(self) -> "AnswerSink":
        """The sink for a batch that begins now."""
        return AnswerSink(self._door, self._stats, self._kind, self._failures, time.perf_counter())

    def refuse(self, handle: int, error: int) -> None:
        """One call that nothing was done of."""
        self._door.fail(handle, error, self._stats, self._began)

    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None:
        door, stats = self._door, self._stats
        failed = door.engine.answer_many(tokens, results, door.node.header)
        for position in failed:
            door.fail(tokens[position], results[position][0], stats, self._began)
        done = len(tokens) - len(failed)
        stats.sent += done
        if done:
            stats.ended(0, done, self._began)
        refused = self._count_failures([results[position][0] for position in failed]) if failed else 0
        if refused < len(tokens):
            door.requests.observe(self._kind, self._began, count=len(tokens) - refused)

    def _count_failures(self, errors: Sequence[int]) -> int:
        count = len(errors) if self._failures is None else sum(error in self._failures for error in errors)
        if count:
            self._door.requests.observe(self._kind, self._began, success=False, count=count)
        return count
