"""Answers as HTTP/1.1 allows them, and as it does not; what is sent."""

import asyncio
import random

import pytest

from raftsched.kube import http
from raftsched.kube.http import HttpError, body, read_head, request
from raftsched.security.dialing import Streams

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


async def read(data: bytes) -> tuple[int, bytes]:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    streams: Streams = (reader, None)  # type: ignore[assignment]  # nothing is written
    head = await read_head(streams)
    return head.status, b"".join([piece async for piece in body(streams, head)])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (OK + b"Content-Length: 2\r\n\r\nabc", (200, b"ab")),
        (OK + b"content-length:0\r\n\r\n", (200, b"")),
        (b"HTTP/1.0 404 Not Found\n\nto the end", (404, b"to the end")),
        (b"HTTP/1.1 204\r\n\r\n", (204, b"")),
        (CHUNKED + b"2\r\nab\r\nA;name=value\r\n0123456789\r\n0\r\n\r\n", (200, b"ab0123456789")),
        (b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\nx", (200, b"x")),
        (OK + b"Content-Length: 5\r\nTransfer-Encoding: CHUNKED\r\n\r\n1\r\nx\r\n0\r\n\r\n", (200, b"x")),
    ],
)
async def test_answers(data: bytes, expected: tuple[int, bytes]) -> None:
    assert await read(data) == expected


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "closed before the answer was complete"),
        (b"HTTP/1.1 200 OK\r\nA: b", "closed before the answer was complete"),
        (b"SSH-2.0-x\r\n", "does not speak HTTP"),
        (b"HTTP/1.1\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "does not speak HTTP"),
        (OK + b"a: b\r\n" * 101 + b"\r\n", "too many headers"),
        (OK + b"a" * 70_000, "too long a line"),
        (OK + b"Content-Length: 5\r\n\r\nabc", "closed in the midst"),
        (CHUNKED + b"5\r\nabc", "closed in the midst"),
        (CHUNKED + b"2\r\nab\r\n", "closed before the answer was complete"),
        *((CHUNKED + size + b"\r\nab\r\n", "malformed") for size in (b"", b"-2", b"0x2", b"1_0", b"+2", b"g", b"f" * 16)),
    ],
)
async def test_what_is_no_answer(data: bytes, words: str) -> None:
    with pytest.raises(HttpError, match=words):
        await read(data)


async def test_damaged_answers_raise_nothing_else() -> None:
    chance, failures = random.Random(6), 0
    whole = CHUNKED + b"2\r\nab\r\nA;name=value\r\n0123456789\r\n0\r\n\r\n"
    for _ in range(2_000):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            await asyncio.wait_for(read(bytes(data[: chance.randrange(len(data) + 1)])), 5)
        except HttpError:
            failures += 1
    assert 1_000 < failures < 2_000


def test_what_is_sent() -> None:
    sent = request("fd00::1", 443, "/api?limit=1", "t")
    assert sent.startswith(b"GET /api?limit=1 HTTP/1.1\r\nHost: [fd00::1]:443\r\n")
    assert sent.endswith(b"Connection: close\r\nAuthorization: Bearer t\r\n\r\n")
    assert b"Authorization" not in request("a", 1, "/", "")
    for token in ("a\r\nb: c", "a\nb", "\x00", "é"):
        with pytest.raises(ValueError, match="no header takes"):
            http.request("a", 1, "/", token)
