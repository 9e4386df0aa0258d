"""Names to addresses, by the system's resolver, which may hang: one thread per name at a time, and no end of the process waits for it."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence

from raftsched.hosts import is_address

Addresses = Sequence[tuple[str, int]]
Resolve = Callable[[str, int], Awaitable[Addresses]]


class SystemResolver:
    """What the system says now. A lookup that takes longer than its caller waits is shared with the next caller."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, int], asyncio.Future[Addresses | OSError]] = {}

    async def __call__(self, host: str, port: int) -> Addresses:
        """OSError: the name has no address."""
        if is_address(host):
            return [(host, port)]
        running = self._running.get((host, port))
        if running is None:
            running = self._running[host, port] = self._start(host, port)
        found = await asyncio.shield(running)
        if isinstance(found, OSError):
            raise OSError(found.errno, found.strerror)
        return found

    def _start(self, host: str, port: int) -> asyncio.Future[Addresses | OSError]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Addresses | OSError] = loop.create_future()

        def finish(found: Addresses | OSError) -> None:
            self._running.pop((host, port), None)
            if not future.done():
                future.set_result(found)

        def look() -> None:
            found = _look_up(host, port)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(finish, found)

        threading.Thread(target=look, name=f"resolve {host}", daemon=True).start()
        return future


def _look_up(host: str, port: int) -> Addresses | OSError:
    try:
        rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        return error
    except UnicodeError:
        return OSError(socket.EAI_NONAME, "no such name")
    return list(dict.fromkeys((str(row[4][0]), int(row[4][1])) for row in rows))
