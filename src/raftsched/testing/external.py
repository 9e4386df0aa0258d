"""`raftsched serve` over an etcd that is not ours, as child processes; and a wire between the two that can be cut."""

import asyncio
import signal
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from raftsched.testing.process import ServerProcess

CHUNK_BYTES = 1 << 16


class ExternalScheduler(ServerProcess):
    """One replica; `client_address` is the etcd's first endpoint."""

    def __init__(
        self, directory: Path, endpoints: Sequence[str], *, name: str = "dapr-scheduler-server-0", args: Sequence[str] = ()
    ) -> None:
        super().__init__(directory)
        self.name = name
        self._etcd = endpoints[0].rpartition("/")[2]
        kept = ("--port=", "--healthz-port=", "--metrics-port=", "--listen-address=", "--healthz-listen-address=")
        begin = self.command.index("serve") + 1
        self.command = [
            *self.command[:begin],
            *(word for word in self.command[begin:] if word.startswith(kept)),
            f"--id={name}",
            "--etcd-embed=false",
            f"--etcd-client-endpoints={','.join(endpoints)}",
            f"--etcd-client-port={self.client_port}",  # which must stay unused
            f"--etcd-data-dir={directory / 'data'}",
            *args,
        ]

    @property
    def client_address(self) -> str:
        return self._etcd

    def pause(self) -> None:
        """It does nothing until `resume`, and its connections stay."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    @property
    def listens(self) -> bool:
        """Whether the scheduler API can be reached."""
        try:
            socket.create_connection(("127.0.0.1", self.scheduler_port), timeout=2).close()
        except OSError:
            return False
        return True


class Wire:
    """A TCP proxy on a port of its own, which can be cut: connections end, and new ones are refused."""

    def __init__(self, target_port: int) -> None:
        self._target = target_port
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self._thread.start()
        self.port = 0
        self.mend()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def mend(self) -> None:
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)

    def cut(self) -> None:
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(10)

    def close(self) -> None:
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(far)
            await asyncio.gather(_pump(reader, far), _pump(far_reader, writer))
        except OSError:
            pass  # either end went away
        finally:
            for one in (writer, far):
                if one is not None:
                    self._writers.discard(one)
                    one.close()
            self._tasks.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    writer.transport.abort()
