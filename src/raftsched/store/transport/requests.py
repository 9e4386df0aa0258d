"""Questions and answers on a control connection: numbered on one side, answered by a task each on the other.

Invariant: every question ends exactly once: answered, timed out, or its connection lost; both sides are bounded.
"""

import asyncio
from collections.abc import Callable
from struct import Struct
from typing import Final

from raftsched.errors import PeerCode, PeerError
from raftsched.limits import PEER_REQUEST_BYTES_MAX, PEER_REQUESTS_IN_FLIGHT_MAX
from raftsched.store.transport._frames import WireError, frame
from raftsched.store.transport.handshake import REQUEST, RESPONSE
from raftsched.store.transport.ports import PeerHandler
from raftsched.store.transport.report import Report

_REQUEST: Final = Struct("<QII")  # number, kind, timeout_ms
_RESPONSE: Final = Struct("<Qi")  # number, code: 0, or a PeerError's
_TEXT_BYTES_MAX: Final = 4096


def request_frame(number: int, kind: int, timeout_ms: int, payload: bytes) -> bytes:
    """PeerError if it is too large."""
    if len(payload) > PEER_REQUEST_BYTES_MAX:
        raise PeerError(PeerCode.TOO_LARGE, "the request is too large")
    return frame(REQUEST, _REQUEST.pack(number, kind, min(timeout_ms, 2**32 - 1)) + payload)


def read_request(data: bytes) -> tuple[int, int, int, bytes]:
    """(number, kind, timeout_ms, payload). WireError."""
    if not _REQUEST.size <= len(data) <= _REQUEST.size + PEER_REQUEST_BYTES_MAX:
        raise WireError("a request of a wrong size")
    number, kind, timeout_ms = _REQUEST.unpack_from(data)
    return number, kind, timeout_ms, data[_REQUEST.size :]


def read_response(data: bytes) -> tuple[int, int, bytes]:
    """(number, code, answer or text). WireError."""
    if not _RESPONSE.size <= len(data) <= _RESPONSE.size + PEER_REQUEST_BYTES_MAX:
        raise WireError("an answer of a wrong size")
    number, code = _RESPONSE.unpack_from(data)
    return number, code, data[_RESPONSE.size :]


def error_frame(number: int, code: int, text: str) -> bytes:
    return frame(RESPONSE, _RESPONSE.pack(number, code) + text.encode(errors="replace")[:_TEXT_BYTES_MAX])


async def answer_frame(number: int, sender: int, timeout_ms: int, report: Report, answering: Callable[[], object]) -> bytes:
    """The RESPONSE to one question, whatever its handler does."""
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            payload = await answering()  # type: ignore[misc]  # a coroutine of bytes, made only here so that none is left unawaited
    except PeerError as error:
        return error_frame(number, error.code, error.text)
    except TimeoutError:
        return error_frame(number, PeerCode.TIMEOUT, "the peer did not answer in time")
    except Exception as error:
        report.error("a peer's request failed", peer=f"{sender:x}", error=f"{type(error).__name__}: {error}")
        return error_frame(number, PeerCode.INTERNAL, "the peer failed to answer")
    if len(payload) > PEER_REQUEST_BYTES_MAX:
        return error_frame(number, PeerCode.TOO_LARGE, "the answer is too large")
    return frame(RESPONSE, _RESPONSE.pack(number, 0) + payload)


def result_of(code: int, body: bytes) -> bytes:
    """The answer, or the PeerError that it is."""
    if code:
        raise PeerError(code, body.decode(errors="replace"))
    return body


class Asked:
    """The asking side: who waits for which number."""

    def __init__(self) -> None:
        self._waiting: dict[int, asyncio.Future[tuple[int, bytes]]] = {}
        self._number = 0

    async def ask(self, send: Callable[[bytes], bool], kind: int, payload: bytes, timeout_ms: int) -> bytes:
        if len(self._waiting) >= PEER_REQUESTS_IN_FLIGHT_MAX:
            raise PeerError(PeerCode.BUSY, "too many requests are unanswered")
        self._number += 1
        number, future = self._number, asyncio.get_running_loop().create_future()
        if not send(request_frame(number, kind, timeout_ms, payload)):
            raise PeerError(PeerCode.BUSY, "the connection has no room")
        self._waiting[number] = future
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                code, body = await future
        except TimeoutError:
            raise PeerError(PeerCode.TIMEOUT, "the peer did not answer in time") from None
        finally:
            del self._waiting[number]
        return result_of(code, body)

    def answered(self, data: bytes) -> None:
        """A RESPONSE; one that nobody waits for any more is ignored."""
        number, code, body = read_response(data)
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_result((code, body))

    def lost(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(PeerError(PeerCode.LOST, "the connection to the peer broke"))


class Answered:
    """The answering side: one task per question."""

    def __init__(
        self, handler: PeerHandler, sender: int, report: Report, send: Callable[[bytes], bool], on_full: Callable[[], None]
    ) -> None:
        self._handler, self._sender, self._report = handler, sender, report
        self._send, self._on_full = send, on_full
        self._tasks: set[asyncio.Task[None]] = set()

    def asked(self, data: bytes) -> None:
        """A REQUEST. WireError."""
        number, kind, timeout_ms, payload = read_request(data)
        if len(self._tasks) >= PEER_REQUESTS_IN_FLIGHT_MAX:
            self._reply(error_frame(number, PeerCode.BUSY, "the peer has too many requests"))
            return
        task = asyncio.get_running_loop().create_task(self._answer(number, kind, timeout_ms, payload))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, number: int, kind: int, timeout_ms: int, payload: bytes) -> None:
        def answering() -> object:
            return self._handler.on_request(self._sender, kind, payload)

        self._reply(await answer_frame(number, self._sender, timeout_ms, self._report, answering))

    def _reply(self, data: bytes) -> None:
        if not self._send(data):
            self._on_full()

    def lost(self) -> None:
        for task in list(self._tasks):
            task.cancel()
