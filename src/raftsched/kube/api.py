"""The Kubernetes API as far as namespaces go: a page of them, what changes, whether one is there.

Invariant: whatever goes wrong is a `KubeError` of one line. Files of the token, the certificate and the authorities are read for each
connection: they change while we live. Must not know: when to ask, what follows.
"""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from raftsched.config.kube import KubeAccess
from raftsched.kube import http
from raftsched.kube.http import HttpError
from raftsched.kube.namespaces import PAGE
from raftsched.limits import KUBE_ANSWER_BYTES_MAX, KUBE_EVENT_BYTES_MAX
from raftsched.security.dialing import Resolve, Streams, connect
from raftsched.security.identity import load_pair
from raftsched.security.tls import words

NAMESPACES: Final = "/api/v1/namespaces"
ANSWER_S: Final = 30.0  # for a connection and the whole of an answer; of a watch: for its beginning
SILENCE_S: Final = 30.0  # beyond what a watch was to last: its connection is dead
KEEP_ALIVE: Final = (  # a watch is silent for minutes: a peer that has vanished is noticed after one
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
WORDS_MAX: Final = 300  # of what the API server says, in a log line
DENIED: Final[Mapping[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "the service account's token is not accepted",
    HTTPStatus.FORBIDDEN: "the service account needs a ClusterRole with the verbs get, list and watch on namespaces",
}


class KubeError(Exception):
    """The text is one line. `expired`: 410, the version or page is not known any more. `retry_s`: when to come again, if it was said."""

    def __init__(self, text: str, *, expired: bool = False, retry_s: float = 0.0) -> None:
        super().__init__(text)
        self.expired = expired
        self.retry_s = retry_s


@dataclass(frozen=True, slots=True)
class Page:
    names: list[str]
    version: str
    after: str


@dataclass(frozen=True, slots=True)
class Event:
    kind: str
    """"" = the watch has begun, and nothing else."""
    name: str
    version: str


@dataclass(frozen=True, slots=True)
class KubeApi:
    """One connection for each question."""

    access: KubeAccess
    resolve: Resolve

    async def page(self, after: str) -> Page:
        """KubeError."""
        query = {"limit": str(PAGE)} | ({"continue": after} if after else {})
        found = await self._get(f"{NAMESPACES}?{urlencode(query)}", "list namespaces")
        try:
            names = [item["metadata"]["name"] for item in found["items"] or ()]
            version, rest = found["metadata"]["resourceVersion"], found["metadata"].get("continue") or ""
        except (KeyError, TypeError, AttributeError):
            raise KubeError(f"cannot list namespaces: {self.place} answers with something else") from None
        if not all(isinstance(one, str) for one in (*names, version, rest)) or not (version or rest):
            raise KubeError(f"cannot list namespaces: {self.place} answers with something else")
        return Page(names, version, rest)

    async def exists(self, name: str) -> bool:
        """False: the API server itself says that there is none. KubeError."""
        try:
            await self._get(f"{NAMESPACES}/{quote(name, safe='')}", f"get namespace {name}")
        except NotFoundError:
            return False
        return True

    async def watch(self, version: str, timeout_s: float) -> AsyncIterator[Event]:
        """Ends when the API server ends it, or the connection breaks. KubeError: it did not begin, or was refused in between."""
        query = {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": str(max(round(timeout_s), 1))}
        doing = "watch namespaces"
        with self._telling(doing):
            async with self._asked(f"{NAMESPACES}?{urlencode(query)}", doing) as (streams, head):
                yield Event("", "", "")
                rest = bytearray()
                async with asyncio.timeout(timeout_s + SILENCE_S):
                    async for piece in http.body(streams, head):
                        rest += piece
                        for line in _lines(rest):
                            yield self._event(line, doing)
                        if len(rest) > KUBE_EVENT_BYTES_MAX:
                            raise KubeError(f"cannot {doing}: an event of {self.place} is too large")

    @property
    def place(self) -> str:
        return f"the Kubernetes API at {self.access.host}:{self.access.port}"

    def _event(self, line: bytes, doing: str) -> Event:
        try:
            found = json.loads(line)
            kind, thing = found["type"], found["object"]
            if kind == "ERROR":
                raise self._refusal(doing, int(thing.get("code") or 0), thing, 0.0)
            metadata = thing["metadata"]
            event = Event(kind, metadata.get("name") or "", metadata.get("resourceVersion") or "")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise KubeError(f"cannot {doing}: {self.place} sends something else") from None
        if not all(isinstance(one, str) for one in (event.kind, event.name, event.version)):
            raise KubeError(f"cannot {doing}: {self.place} sends something else")
        return event

    # -- one question

    async def _get(self, target: str, doing: str) -> Any:
        """The JSON of the answer."""
        with self._telling(doing):
            async with asyncio.timeout(ANSWER_S), self._asked(target, doing) as (streams, head):
                data = await _whole(streams, head)
                return json.loads(data)

    @asynccontextmanager
    async def _asked(self, target: str, doing: str) -> AsyncIterator[tuple[Streams, http.Head]]:
        """The answer's head; KubeError if it is none of 200."""
        async with asyncio.timeout(ANSWER_S):
            streams = await self._connect()
        try:
            async with asyncio.timeout(ANSWER_S):
                streams[1].write(http.request(self.access.host, self.access.port, self.access.path + target, _token(self.access)))
                head = await http.read_head(streams)
                if head.status != HTTPStatus.OK:
                    raise self._refusal(doing, head.status, _status(await _whole(streams, head)), _retry_s(head))
            yield streams, head
        finally:
            streams[1].transport.abort()

    async def _connect(self) -> Streams:
        access = self.access
        addresses = await self.resolve(access.host, access.port)
        streams = await connect(addresses, _context(access), access.server_name or access.host)
        for level, option, value in KEEP_ALIVE:
            streams[1].get_extra_info("socket").setsockopt(level, option, value)
        return streams

    def _refusal(self, doing: str, code: int, said: Any, retry_s: float) -> KubeError:
        message, reason = (str(said.get(key) or "") if isinstance(said, dict) else "" for key in ("message", "reason"))
        why = " ".join(message.split())[:WORDS_MAX]
        text = f"cannot {doing}: {self.place} answers {code}{f' ({why})' if why else ''}"
        if code == HTTPStatus.NOT_FOUND and reason == "NotFound":
            return NotFoundError(text)
        hint = DENIED.get(code)
        return KubeError(f"{text}: {hint}" if hint else text, expired=code == HTTPStatus.GONE, retry_s=retry_s)

    def _telling(self, doing: str) -> "_Telling":
        return _Telling(doing, self.place)


class NotFoundError(KubeError):
    """404, by the API server and nobody in between."""


@dataclass(frozen=True, slots=True)
class _Telling:
    """Turns what connections and answers raise into one line."""

    doing: str
    place: str

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError | HttpError | ValueError | RecursionError):
            cause = words(error) if isinstance(error, ssl.SSLError) else _reason(error)
            raise KubeError(f"cannot {self.doing}: {self.place}: {cause}") from None


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not error.errno:
        return "no answer in time"
    named = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    return named + ((error.strerror if isinstance(error, OSError) else "") or str(error) or "closed by the other side")


async def _whole(streams: Streams, head: http.Head) -> bytes:
    """HttpError: too large."""
    data = bytearray()
    async for piece in http.body(streams, head):
        data += piece
        if len(data) > KUBE_ANSWER_BYTES_MAX:
            raise HttpError("the answer is too large")
    return bytes(data)


def _lines(rest: bytearray) -> Iterator[bytes]:
    """Takes the complete ones; empty ones are left out."""
    while (end := rest.find(b"\n")) >= 0:
        line = bytes(rest[:end]).strip()
        del rest[: end + 1]
        if line:
            yield line


def _status(data: bytes) -> Any:
    """Of a refusal: a Status of the API server's, or whatever somebody in between says."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return {"message": data[:WORDS_MAX].decode("latin-1")}


def _retry_s(head: http.Head) -> float:
    text = head.headers.get("retry-after", "")
    return float(text) if text.isdecimal() and len(text) < 6 else 0.0


def _token(access: KubeAccess) -> str:
    return Path(access.token_file).read_text().strip() if access.token_file else access.token


def _context(access: KubeAccess) -> ssl.SSLContext:
    """OSError (ssl.SSLError is one), ValueError."""
    authorities = Path(access.ca_file).read_text() if access.ca_file else access.ca_pem
    context = ssl.create_default_context(cadata=authorities or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not access.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if access.pair_pem:
        load_pair(context, access.pair_pem)
    elif access.cert_file:
        context.load_cert_chain(access.cert_file, access.key_file)
    return context
