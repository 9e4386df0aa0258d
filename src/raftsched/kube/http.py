"""One HTTP/1.1 GET over a TLS connection of its own: a status, then the body as it comes.

Invariant: what is kept of an answer is bounded. Must not know: what is asked for.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

from raftsched.security.dialing import Streams

READ_BYTES: Final = 64 << 10
SIZE: Final = re.compile("[0-9A-Fa-f]{1,15}")
HEADERS_MAX: Final = 100  # lines, each at most what a stream reader buffers: 64 KiB


class HttpError(Exception):
    """The answer is not what HTTP allows, or larger than we do."""


@dataclass(frozen=True, slots=True)
class Head:
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""


def request(host: str, port: int, target: str, token: str) -> bytes:
    """ValueError: a line break in what must have none."""
    where = f"[{host}]" if ":" in host else host
    lines = [f"GET {target} HTTP/1.1", f"Host: {where}:{port}", "Accept: application/json", "User-Agent: raftsched", "Connection: close"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    if any(not line.isascii() or not line.isprintable() for line in lines):
        raise ValueError("the token or the path has characters that no header takes")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


async def read_head(streams: Streams) -> Head:
    """HttpError, OSError. Interim answers are passed over."""
    while True:
        head = await _read_head(streams[0])
        if not 100 <= head.status < 200:
            return head


async def _read_head(reader: asyncio.StreamReader) -> Head:
    words = (await _line(reader)).split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or len(words[1]) != 3 or not words[1].isdecimal():
        raise HttpError("the server does not speak HTTP/1.1")
    headers: dict[str, str] = {}
    for _ in range(HEADERS_MAX):
        line = await _line(reader)
        if not line:
            return Head(int(words[1]), headers)
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    raise HttpError("the answer has too many headers")


async def body(streams: Streams, head: Head) -> AsyncIterator[bytes]:
    """In pieces as they come. HttpError: it is cut off."""
    reader, length = streams[0], head.headers.get("content-length", "")
    if head.headers.get("transfer-encoding", "").lower() == "chunked":
        while size := await _chunk_size(reader):
            async for piece in _exactly(reader, size):
                yield piece
            await _line(reader)
    elif length.isdecimal():
        async for piece in _exactly(reader, int(length)):
            yield piece
    else:
        while piece := await reader.read(READ_BYTES):
            yield piece


async def _chunk_size(reader: asyncio.StreamReader) -> int:
    text = (await _line(reader)).partition(";")[0].strip()
    if not SIZE.fullmatch(text):
        raise HttpError("the answer is malformed")
    return int(text, 16)


async def _exactly(reader: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    while size > 0:
        piece = await reader.read(min(size, READ_BYTES))
        if not piece:
            raise HttpError("the connection was closed in the midst of the answer")
        size -= len(piece)
        yield piece


async def _line(reader: asyncio.StreamReader) -> str:
    try:
        return (await reader.readuntil(b"\n")).rstrip(b"\r\n").decode("latin-1")
    except asyncio.IncompleteReadError:
        raise HttpError("the connection was closed before the answer was complete") from None
    except asyncio.LimitOverrunError:
        raise HttpError("the answer has too long a line") from None
