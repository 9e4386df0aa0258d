"""Connections that are given up in the midst of being made, by either side, leave nothing."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from raftsched.security import dialing as streams
from raftsched.security.dialing import Streams
from raftsched.store.transport import dialing as members
from raftsched.store.transport.connection import Connection
from raftsched.testing.authority import Authority
from raftsched.testing.peers import Member, start_members, until

Dial = Callable[[int, ssl.SSLContext], Awaitable[Connection | Streams]]
WAYS: list[Dial] = [
    lambda port, context: streams.connect([("127.0.0.1", port)], context, "localhost"),
    lambda port, context: members._connect([("127.0.0.1", port)], context, "localhost"),
]


def sockets(port: int) -> int:
    """Of this process, that go to the port."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # of the listing itself, or of who is not connected
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as one:
                    found += one.family == socket.AF_INET and one.getpeername()[1] == port
    return found


@pytest.fixture
def context(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """(the server's, a client's)."""
    authority = Authority(tmp_path)
    authority.issue("server")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(authority.path("server.crt"), authority.path("server.key"))
    return server, authority.client_context()


@pytest.mark.parametrize("dial", WAYS, ids=["streams", "members"])
async def test_whoever_is_cancelled_leaves_no_socket(dial: Dial, context: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """After each number of turns of the loop until the connection stands; the server hears nothing after the handshake."""
    served: list[asyncio.StreamWriter] = []

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()
        served.append(writer)

    server, turns = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context[0]), 0
    port = server.sockets[0].getsockname()[1]
    while not await stands(dial, port, context[1], turns):
        await until(lambda: sockets(port) == 0, 1)
        turns += 1
    assert turns > 4
    for writer in served:
        writer.transport.abort()
    server.close()
    await server.wait_closed()


async def stands(dial: Dial, port: int, context: ssl.SSLContext, turns: int) -> bool:
    """Whether the connection is made after so many turns; else it is cancelled."""
    task = asyncio.ensure_future(dial(port, context))
    for _ in range(turns):
        await asyncio.sleep(0)
    if not task.done():
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return False
    made = task.result()
    assert sockets(port) == 1
    if isinstance(made, Connection):
        made.end("over")
    else:
        made[1].transport.abort()
    return True


async def test_who_is_told_of_late_is_not_served() -> None:
    """A connection that was accepted before a member closed, and made after."""
    first, second = await start_members(1, 2)
    late = first.peers._acceptor.make()
    await first.peers.close()
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: late, "127.0.0.1", second.peers.port)
    assert transport.is_closing()
    await second.peers.close()


@pytest.mark.parametrize("turns", range(4))
async def test_who_is_accepted_while_a_member_closes_is_closed(turns: int) -> None:
    loop, told = asyncio.get_running_loop(), list[dict[str, object]]()
    loop.set_debug(True)
    loop.set_exception_handler(lambda _loop, context: told.append(context))
    member = await Member(1).start()
    with socket.create_connection(("127.0.0.1", member.peers.port)) as client:
        for _ in range(turns):
            await asyncio.sleep(0)
        await member.peers.close()
        await asyncio.sleep(0.05)
        client.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert len(client.recv(100)) < 100
    assert told == []
