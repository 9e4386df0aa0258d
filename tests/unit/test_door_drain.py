"""A stop while requests are under way: what is whole is served, what is not whole yet is answered at once and not waited for."""

import asyncio
import socket
import time

import h2.config
import h2.connection
import hpack
import pytest

from raftsched.testing.door import EchoDoor
from raftsched.testing.door_peer import frame

STOP_MS = 5_000
SOON_S = 2.5
"""The second step of the end comes after a second at the latest."""
HALF = frame(b"hold")[:-2]


def drained_s(door: EchoDoor) -> float:
    began = time.monotonic()
    door.run(door.engine.drain(STOP_MS))
    return time.monotonic() - began


class Client:
    """Says what is told with `h2`, and reads frames by itself: `h2` takes nothing behind a GOAWAY."""

    def __init__(self, door: EchoDoor) -> None:
        self.socket = socket.create_connection(("127.0.0.1", door.port), 10)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.h2.initiate_connection()
        self._hpack = hpack.Decoder()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def request(self, path: str, body: bytes, *, kind: str = "application/grpc", end: bool = False) -> int:
        stream = self.h2.get_next_available_stream_id()
        head = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"), ("content-type", kind), ("te", "trailers")]
        self.h2.send_headers(stream, head)
        self.h2.send_data(stream, body, end_stream=end)
        self.socket.sendall(self.h2.data_to_send())
        return stream

    def answers(self) -> dict[int, dict[str, str]]:
        """All headers and trailers of each stream up to the end of the connection; `reset`: the code of its RST_STREAM."""
        data = b"".join(iter(lambda: self.socket.recv(1 << 16), b""))
        found: dict[int, dict[str, str]] = {}
        while data:
            length, kind, stream = int.from_bytes(data[:3]), data[3], int.from_bytes(data[5:9])
            payload, data = data[9 : 9 + length], data[9 + length :]
            if kind == 1:
                found.setdefault(stream, {}).update((str(name), str(value)) for name, value in self._hpack.decode(payload))
            elif kind == 3:
                found.setdefault(stream, {})["reset"] = str(int.from_bytes(payload))
        return found


def arrived(door: EchoDoor, streams: int) -> None:
    while door.counters()["streams"] < streams:
        time.sleep(0.01)


@pytest.mark.parametrize("body", [b"", HALF[:3], HALF])
def test_a_call_whose_message_never_ends_is_not_waited_for(body: bytes) -> None:
    with EchoDoor() as door, Client(door) as client:
        stream = client.request("/test.Echo/Batch", body)
        arrived(door, 1)
        assert drained_s(door) < SOON_S
        answer = client.answers()[stream]
        assert (answer["grpc-status"], answer["grpc-message"], answer["reset"]) == ("14", "server is shutting down", "0")


def test_a_post_whose_body_never_ends_is_not_waited_for() -> None:
    with EchoDoor() as door, Client(door) as client:
        stream = client.request("/a", b"half", kind="text/plain")
        arrived(door, 1)
        assert drained_s(door) < SOON_S
        answer = client.answers()[stream]
        assert (answer[":status"], answer["reset"]) == ("503", "0")
    assert not door.errors


@pytest.mark.parametrize("head", [b"Content-Length: 9\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", b"X: "])
def test_a_post_over_http1_whose_body_never_ends_is_not_waited_for(head: bytes) -> None:
    with EchoDoor() as door, socket.create_connection(("127.0.0.1", door.port), 5) as client:
        client.sendall(b"POST /a HTTP/1.1\r\nHost: a\r\n" + head)
        time.sleep(0.2)  # no counter tells that it is there
        assert drained_s(door) < SOON_S
        answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 503") == (head != b"X: ")


def test_an_answer_in_the_middle_of_a_body_does_not_hold_a_stop_up() -> None:
    """Over HTTP/2 the rest of such a body is read and thrown away."""
    with EchoDoor(http_body_bytes_max=10) as door, Client(door) as client:
        stream = client.request("/a", bytes(11), kind="text/plain")
        arrived(door, 1)
        assert drained_s(door) < SOON_S
        answer = client.answers()[stream]
        assert (answer[":status"], answer["reset"]) == ("413", "0")


def test_what_is_whole_is_served() -> None:
    with EchoDoor() as door, Client(door) as client:
        whole = client.request("/test.Echo/Batch", frame(b"hold"), end=True)
        half = client.request("/test.Echo/Batch", HALF)
        post = client.request("/hold", b"whole", kind="text/plain", end=True)
        arrived(door, 3)
        drain = asyncio.run_coroutine_threadsafe(door.engine.drain(STOP_MS), door.loop)
        time.sleep(1.2)  # both steps of the end pass meanwhile
        assert not drain.done()
        door.loop.call_soon_threadsafe(lambda: door.engine.reply(door.held[0][0], b"held"))
        door.loop.call_soon_threadsafe(lambda: door.requests[0].respond(200, [], b"held"))
        drain.result(10)
        answers = client.answers()
        assert answers[whole]["grpc-status"] == "0"
        assert answers[half]["grpc-status"] == "14"
        assert answers[post][":status"] == "200"
