"""Where one door is open: addresses and unix sockets, with TLS, without, or both at one address.

Invariant: a unix socket's name is taken over only from a server that is gone, never from a file of another kind, and is removed with the
server that made it. Must not know: what is served.
"""

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator, Sequence

from raftsched.config.listening import ClientListener
from raftsched.ports import Log
from raftsched.rpc.http2._h2 import Engine
from raftsched.rpc.metrics import Family
from raftsched.security.guard import ListenerGuard

ALIVE_S = 1.0  # a server that is asked whether it lives


class Listeners:
    """All listeners of one door; `guard` is of those with TLS."""

    def __init__(
        self, door: Engine, listeners: Sequence[ClientListener], guard: ListenerGuard | None, log: Log, *, reuse_port: bool = False
    ) -> None:
        """`reuse_port`: others may listen at the same addresses."""
        self._reuse_port = reuse_port
        self._door = door
        self._listeners = listeners
        self._guard = guard
        self._log = log
        self._sockets: list[tuple[str, tuple[int, int]]] = []

    async def open(self, flag: str) -> None:
        """One after another. OSError with a text that names the address and `flag`."""
        for one in self._listeners:
            guard = self._guard if one.secure else None
            try:
                await self._open_one(one, guard)
            except OSError as error:
                raise cannot_listen(error, one.path or address_text(one.host, one.port), flag) from error
            if one.plaintext and self._guard is not None:
                place = one.path or address_text(one.host, one.port)
                self._log.warning("clients are served without TLS too, although there is a certificate", address=place)

    async def _open_one(self, one: ClientListener, guard: ListenerGuard | None) -> None:
        if one.path:
            bound = await self._bind(one.path)
            await self._door.listen_unix(bound, guard=guard, plaintext_too=one.plaintext, grpc=one.grpc, http=one.http)
            return
        await self._door.listen(
            one.host, one.port, guard=guard, plaintext_too=one.plaintext, grpc=one.grpc, http=one.http, reuse_port=self._reuse_port
        )

    def close(self) -> None:
        """Removes the names of the unix sockets; the door closes the listeners themselves."""
        for path, made in self._sockets:
            with contextlib.suppress(OSError):
                if _identity(path) == made:
                    os.unlink(path)
        self._sockets.clear()

    def families(self) -> Iterator[Family]:
        """What was refused before anything was served."""
        causes = {} if self._guard is None else self._guard.causes
        unusable = 0 if self._guard is None else self._guard.unusable_total
        text = "Connections of clients closed in or right after the TLS handshake, by cause."
        yield Family("raftsched_client_refused_connections_total", "counter", text, ("cause",), {(one,): n for one, n in causes.items()})
        text = "Times that changed certificate files could not be used."
        yield Family("raftsched_client_unusable_certificates_total", "counter", text, (), {(): unusable})

    async def _bind(self, path: str) -> socket.socket:
        """With the permissions that the umask leaves, as etcd's: who may connect is who may write."""
        await _make_way(path)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bound.setblocking(False)
            bound.bind(path)
            self._sockets.append((path, _identity(path)))
        except BaseException:
            bound.close()
            raise
        return bound


def _identity(path: str) -> tuple[int, int]:
    """Inodes are used again at once: the time tells two sockets apart."""
    found = os.lstat(path)
    return found.st_ino, found.st_mtime_ns


async def _make_way(path: str) -> None:
    """Removes a socket that nobody answers at. OSError: somebody does, or it is no socket."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, "there is a file that is no socket")
    except FileNotFoundError:
        return
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.setblocking(False)
        async with asyncio.timeout(ALIVE_S):
            await asyncio.get_running_loop().sock_connect(probe, path)
    except (ConnectionRefusedError, FileNotFoundError):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    except TimeoutError:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)) from None
    else:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    finally:
        probe.close()


def address_text(host: str, port: int) -> str:
    return f"{f'[{host}]' if ':' in host else host}:{port}"


def cannot_listen(error: OSError, place: str, flag: str) -> OSError:
    """asyncio's own text names neither."""
    code = error.errno
    known = code is not None and code > 0 and code != errno.EEXIST
    reason = os.strerror(code) if known and code else error.strerror or str(error)
    return OSError(f"cannot listen on {place} ({flag}): {reason}")
