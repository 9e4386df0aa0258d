"""The network between members on one machine: a proxy before each member's peer port, where every direction can be cut or slowed.

Peers dial the advertised address, the proxy dials the address that the member listens on. Who dials is read from /proc: the process
that holds the other end of the connection. A cut direction stalls, as packets that get lost and are sent again: what is under way
arrives when the cut is healed. Root is not needed; a dead member refuses, as without the proxy.
"""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 16
CHUNKS_MAX = 64  # in one direction of one connection, between its two ends
OWNER_TRIES = 20
OWNER_PAUSE_S = 0.005

Pids = Callable[[], dict[int, int]]  # process id -> number of the member


class Direction:
    """What goes from one member to another, over all connections, whoever opened them."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.delay_s = 0.0


class Links:
    """All proxies on one loop in a thread of its own. The methods without `_` are for other threads.

    Bare sockets, each known from its first moment: streams lose one whose task is cancelled before its first step.
    """

    def __init__(self, pids: Pids) -> None:
        self._pids = pids
        self._directions: dict[tuple[int, int], Direction] = {}
        self._servers: list[socket.socket] = []
        self._sockets: set[socket.socket] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._thread.start()

    def add(self, member: int, advertised_port: int, listening_port: int) -> None:
        """Stands before one member from now on."""
        self._call(self._serve(member, advertised_port, listening_port))

    def cut(self, source: int, target: int) -> None:
        """Nothing arrives from `source` at `target` until it is healed."""
        self._loop.call_soon_threadsafe(self._shut, source, target)

    def slow(self, source: int, target: int, delay_s: float) -> None:
        """Everything from `source` to `target` takes this much longer."""
        self._loop.call_soon_threadsafe(lambda: setattr(self._direction(source, target), "delay_s", delay_s))

    def separate(self, one: int, others: list[int]) -> None:
        """Cuts both directions between a member and others."""
        for other in others:
            self.cut(one, other)
            self.cut(other, one)

    def heal(self) -> None:
        """No cut and no delay any more."""

        def all_open() -> None:
            for direction in self._directions.values():
                direction.delay_s = 0.0
                direction.open.set()

        self._loop.call_soon_threadsafe(all_open)

    def close(self) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _end(self) -> None:
        for server in self._servers:
            self._loop.remove_reader(server)
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for one in self._sockets:
            one.close()

    def _shut(self, source: int, target: int) -> None:
        self._direction(source, target).open.clear()

    def _direction(self, source: int, target: int) -> Direction:
        return self._directions.setdefault((source, target), Direction())

    async def _serve(self, member: int, advertised_port: int, listening_port: int) -> None:
        server = socket.create_server(("127.0.0.1", advertised_port), backlog=128)
        server.setblocking(False)
        self._servers.append(server)
        self._loop.add_reader(server, self._accept, server, member, listening_port)

    def _accept(self, server: socket.socket, member: int, listening_port: int) -> None:
        try:
            near = server.accept()[0]
        except OSError:
            return  # it went away before it was taken
        self._known(near)
        task = self._loop.create_task(self._connect(member, listening_port, near))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _known(self, one: socket.socket) -> None:
        one.setblocking(False)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sockets.add(one)

    async def _connect(self, member: int, port: int, near: socket.socket) -> None:
        far = socket.socket()
        self._known(far)
        try:
            dialler = await self._owner(near.getpeername()[1])
            if dialler is not None:
                there = self._direction(dialler, member)
                await there.open.wait()
                await self._loop.sock_connect(far, ("127.0.0.1", port))
                await self._both(near, far, there, self._direction(member, dialler))
        except OSError:
            pass  # either end went away
        finally:
            for one in (near, far):
                self._sockets.discard(one)
                one.close()

    async def _both(self, near: socket.socket, far: socket.socket, there: Direction, back: Direction) -> None:
        """Both ways of one connection, until the first of them ends."""
        ways = [asyncio.ensure_future(pump(near, far, there)), asyncio.ensure_future(pump(far, near, back))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _owner(self, port: int) -> int | None:
        """The member whose process has a socket on this local port; it is looked for again, as /proc may be behind a moment."""
        for _ in range(OWNER_TRIES):
            inode = socket_inode(port)
            for pid, member in self._pids().items():
                if inode and holds(pid, inode):
                    return member
            await asyncio.sleep(OWNER_PAUSE_S)
        return None


async def pump(reader: socket.socket, writer: socket.socket, direction: Direction) -> None:
    """One way of one connection, until its sender ends; the end is held back by a cut as everything else."""
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_MAX)
    loop = asyncio.get_running_loop()

    async def take() -> None:
        chunk = b"-"
        while chunk:
            try:
                chunk = await loop.sock_recv(reader, CHUNK_BYTES)
            except OSError:
                chunk = b""
            await queue.put((loop.time(), chunk))

    taking = asyncio.ensure_future(take())
    try:
        while True:
            came, chunk = await queue.get()
            await asyncio.sleep(max(came + direction.delay_s - loop.time(), 0))
            await direction.open.wait()
            if not chunk:
                return
            await loop.sock_sendall(writer, chunk)
    finally:
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)


def socket_inode(port: int) -> str | None:
    """The inode of the loopback TCP socket whose own end is this port."""
    wanted = f"0100007F:{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == wanted and fields[3] != "0A" and fields[9] != "0":
            return fields[9]
    return None


def holds(pid: int, inode: str) -> bool:
    """Whether a process has this socket open."""
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                if os.readlink(f"{folder}/{name}") == f"socket:[{inode}]":
                    return True
    return False
