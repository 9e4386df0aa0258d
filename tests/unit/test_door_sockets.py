"""What only real sockets show: the door reads and writes plaintext ones natively, and asyncio must still see how they end."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from raftsched.rpc.http2._h2 import Engine
from raftsched.testing.door import EchoDoor

BATCH, BURST, SILENT = (f"/test.Echo/{name}" for name in ("Batch", "Burst", "Silent"))
WINDOW = 1 << 30


class Client:
    """An HTTP/2 client on a socket, on the loop of the door."""

    def __init__(self, port: int, receive_bytes: int = 0) -> None:
        self.port = port
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.setblocking(False)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.data: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.at_end = False

    async def __aenter__(self) -> "Client":
        await asyncio.get_running_loop().sock_connect(self.socket, ("127.0.0.1", self.port))
        self.h2.initiate_connection()
        self.h2.update_settings({4: WINDOW})  # INITIAL_WINDOW_SIZE
        self.h2.increment_flow_control_window(WINDOW)
        await self.flush()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.socket.close()

    async def flush(self) -> None:
        with contextlib.suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(self.socket, self.h2.data_to_send())

    async def ask(self, path: str, message: bytes) -> int:
        stream = self.h2.get_next_available_stream_id()
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a")]
        self.h2.send_headers(stream, [*fields, ("content-type", "application/grpc"), ("te", "trailers")])
        self.h2.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=path == BATCH)
        self.data[stream] = b""
        await self.flush()
        return stream

    async def read_until(self, stream: int = 0, seconds: float = 10.0) -> None:
        """Until the end of the stream, or of the connection."""
        async with asyncio.timeout(seconds):
            while not self.at_end and stream not in self.ended:
                data = await asyncio.get_running_loop().sock_recv(self.socket, 65_536)
                self.at_end = not data
                for event in self.h2.receive_data(data):
                    if isinstance(event, h2.events.DataReceived):
                        self.data[event.stream_id] += event.data
                    elif isinstance(event, h2.events.StreamEnded):
                        self.ended.add(event.stream_id)
                await self.flush()

    async def rest(self) -> bytes:
        """All that comes until the end; `h2` understands nothing after a GOAWAY."""
        received = b""
        async with asyncio.timeout(10):
            while data := await asyncio.get_running_loop().sock_recv(self.socket, 65_536):
                received += data
        return received

    def reset(self) -> None:
        """The connection ends with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def data_bytes(received: bytes) -> int:
    """The payload of all DATA frames in whole frames."""
    at = total = 0
    while at < len(received):
        size = int.from_bytes(received[at : at + 3], "big")
        total += size if received[at + 3] == 0 else 0
        at += 9 + size
    assert at == len(received)  # the last frame came whole
    return total


def serve(test: Coroutine[Any, Any, None]) -> None:
    """A run of a test on a fresh loop; a callback that fails there fails the test."""

    async def run() -> None:
        failures: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        async with asyncio.timeout(60):
            await test
        assert not failures

    asyncio.run(run())


async def opened(**options: Any) -> EchoDoor:
    door = EchoDoor(**options)
    door.loop.close()
    await door.open()
    return door


async def opened_on(loop: Any) -> tuple[Engine, asyncio.Server]:
    """An engine that echoes batches."""
    engine = Engine(loop)
    engine.add_batch(BATCH, engine.reply_many)
    return engine, await engine.listen("127.0.0.1", 0)


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


async def until_counters(door: EchoDoor, **wanted: int) -> None:
    async with asyncio.timeout(10):
        while {name: door.engine.counters()[name] for name in wanted} != wanted:
            await asyncio.sleep(0.005)


def polls() -> dict[str, int]:
    """The epolls of this process, and how many descriptors each watches."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if "eventpoll" in os.readlink(entry):
                found[entry.name] = Path(f"/proc/self/fdinfo/{entry.name}").read_text().count("tfd:")
    return found


# -- bytes out --------------------------------------------------------------------------------------------------------


def test_what_the_socket_does_not_take_follows_in_order() -> None:
    async def test() -> None:
        door = await opened()
        async with Client(door.port, receive_bytes=4_096) as client:
            stream = await client.ask(BURST, b"300 20000")
            await asyncio.sleep(0.1)  # the socket is full, the transport holds the rest
            small = [await client.ask(BATCH, b"%d" % n) for n in range(20)]
            await client.read_until(stream)
            for one in small:
                await client.read_until(one)
            assert client.data[stream] == (b"\0" + (20_000).to_bytes(4, "big") + bytes(20_000)) * 300
            assert [client.data[one][5:] for one in small] == [b"%d" % n for n in range(20)]
            assert door.engine.counters()["buffered_bytes"] == 0
        await until_counters(door, connections=0, streams=0)
        await door.engine.drain(200)

    serve(test())


def test_the_rest_is_sent_before_a_close() -> None:
    async def test() -> None:
        door = await opened()
        async with Client(door.port, receive_bytes=4_096) as client:
            stream = await client.ask(BURST, b"200 20000")
            await asyncio.sleep(0.1)
            drain = asyncio.ensure_future(door.engine.drain(5_000))
            await asyncio.sleep(0.05)
            assert data_bytes(await client.rest()) == 200 * 20_005 - len(client.data[stream])
            await drain

    serve(test())


# -- how connections end ----------------------------------------------------------------------------------------------


def test_a_request_before_half_a_close_is_answered() -> None:
    async def test() -> None:
        door = await opened()
        async with Client(door.port) as client:
            stream = await client.ask(BATCH, b"last words")
            client.socket.shutdown(socket.SHUT_WR)
            await client.read_until(seconds=5)
            assert client.data[stream][5:] == b"last words"
        await until_counters(door, connections=0)
        await door.engine.drain(200)

    serve(test())


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in the middle of writing"])
@pytest.mark.parametrize("rude", [False, True], ids=["FIN", "RST"])
def test_a_lost_peer_leaves_nothing(rude: bool, busy: bool) -> None:
    async def test() -> None:
        door = await opened()
        client = await Client(door.port, receive_bytes=4_096).__aenter__()
        await client.ask(BURST if busy else SILENT, b"300 20000")
        await until_counters(door, streams=1)
        await asyncio.sleep(0.05)
        client.reset() if rude else client.socket.close()
        await until_counters(door, connections=0, streams=0, buffered_bytes=0)
        assert len(door.closed) == 1
        await door.engine.drain(200)

    serve(test())


def test_descriptors_that_come_again_are_read_by_their_owners() -> None:
    async def test() -> None:
        door = await opened()
        for turn in range(30):
            clients = [await Client(door.port).__aenter__() for _ in range(10)]
            streams = [await client.ask(BATCH, b"%d" % turn) for client in clients]
            for client, stream in list(zip(clients, streams, strict=True))[::2]:
                await client.read_until(stream)
                assert client.data[stream][5:] == b"%d" % turn
            for number, client in enumerate(clients):
                client.reset() if number % 3 else client.socket.close()
        await until_counters(door, connections=0, streams=0)
        await door.engine.drain(200)

    serve(test())


def test_more_connections_than_one_look_finds_are_all_heard() -> None:
    async def test() -> None:
        door = await opened()
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Client(door.port)) for _ in range(300)]
            await until_counters(door, connections=300)
            for turn in range(3):
                streams = [await client.ask(BATCH, b"%d" % turn) for client in clients]
                for client, stream in zip(clients, streams, strict=True):
                    await client.read_until(stream)
                    assert client.data[stream][5:] == b"%d" % turn
        await until_counters(door, connections=0)
        await door.engine.drain(200)

    serve(test())


# -- the engine's own descriptor --------------------------------------------------------------------------------------


def test_a_drain_with_open_connections_ends_the_poll_and_the_door_opens_again() -> None:
    async def test() -> None:
        before = polls()
        door, other = await opened(), await opened()
        async with Client(door.port) as client, Client(other.port) as neighbour:
            await client.ask(SILENT, b"")
            await neighbour.ask(SILENT, b"")
            await until_counters(door, streams=1)
            await until_counters(other, streams=1)
            assert len(polls()) == len(before) + 2
            await door.engine.drain(50)
            assert len(polls()) == len(before) + 1
            stream = await neighbour.ask(BATCH, b"still here")
            await neighbour.read_until(stream)
        server = await door.engine.listen("127.0.0.1", 0)
        async with Client(port_of(server)) as client:
            stream = await client.ask(BATCH, b"again")
            await client.read_until(stream)
            assert client.data[stream][5:] == b"again"
        await door.engine.drain(200)
        await other.engine.drain(200)
        assert polls() == before

    serve(test())


def test_an_engine_dropped_without_a_drain_leaves_no_descriptor() -> None:
    async def test() -> None:
        before = len(polls())
        engine, server = await opened_on(asyncio.get_running_loop())
        async with Client(port_of(server)) as client:
            await client.read_until(await client.ask(BATCH, b"x"))
            assert len(polls()) == before + 1
        async with asyncio.timeout(10):
            while engine.counters()["connections"]:
                await asyncio.sleep(0.005)
        server.close()
        assert len(polls()) == before

    serve(test())


class Unwilling:
    """A loop for the engine that cannot watch one more descriptor, or whose clock fails when told so."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, watches: bool = True) -> None:
        self._loop = loop
        self.watches = watches
        self.clock_fails = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def add_reader(self, *arguments: Any) -> None:
        if not self.watches:
            raise OSError(28, "No space left on device")
        self._loop.add_reader(*arguments)

    def time(self) -> float:
        if self.clock_fails:
            self.clock_fails = False
            raise MemoryError
        return self._loop.time()


def test_a_loop_that_cannot_watch_the_poll_reads_the_sockets_itself() -> None:
    async def test() -> None:
        before = len(polls())
        engine, server = await opened_on(Unwilling(asyncio.get_running_loop(), watches=False))
        for _ in range(2):  # the second must not trust in a poll that nobody watches
            async with Client(port_of(server)) as client:
                stream = await client.ask(BATCH, b"heard")
                await client.read_until(stream, seconds=2)
                assert client.data[stream][5:] == b"heard"
                assert len(polls()) == before
        await engine.drain(200)

    serve(test())


def test_a_failure_over_the_bytes_of_one_connection_ends_that_one_alone() -> None:
    failures: list[dict[str, Any]] = []

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        loop = Unwilling(asyncio.get_running_loop())
        engine, server = await opened_on(loop)
        async with Client(port_of(server)) as client, Client(port_of(server)) as neighbour:
            await client.read_until(await client.ask(BATCH, b"x"))
            await neighbour.read_until(await neighbour.ask(BATCH, b"x"))
            await asyncio.sleep(0.05)  # nothing is under way, and the sweep comes after a second
            loop.clock_fails = True
            await client.ask(BATCH, b"y")
            with contextlib.suppress(ConnectionError):
                await client.read_until(seconds=2)
            await neighbour.read_until(await neighbour.ask(BATCH, b"z"))
        await engine.drain(200)

    asyncio.run(test())
    assert [type(failure["exception"]) for failure in failures] == [MemoryError]
