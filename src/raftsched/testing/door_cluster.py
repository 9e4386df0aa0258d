"""A store of several members on one loop in a thread, each a real node with log and disk behind a real door: the etcd API of a cluster
without the scheduler's keys, for comparisons with a real etcd."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from raftsched import limits
from raftsched.store.node import Node, NodeOptions
from raftsched.store.transport.peers import Peers
from raftsched.store.transport.ports import PeerHandler
from raftsched.testing.lone_node import EtcdDoor
from raftsched.testing.process import free_ports

READY_TIMEOUT_S = 60.0


class Quiet:
    """A log that keeps what went wrong."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def debug(self, message: str, /, **fields: object) -> None: ...
    def info(self, message: str, /, **fields: object) -> None: ...

    def warning(self, message: str, /, **fields: object) -> None:
        self.lines.append(f"{message} {fields}")

    error = warning


class DoorCluster:
    """`count` members with fresh directories; a context manager. `options` go to every node."""

    def __init__(self, directory: Path, count: int = 3, **options: Any) -> None:
        ports = free_ports(count)
        urls = {f"m{number}": f"http://127.0.0.1:{port}" for number, port in enumerate(ports)}
        self.log = Quiet()
        self.fatal: list[str] = []
        self.doors = [
            EtcdDoor(open_node=self._opener(self._options(directory, name, urls, options), port))
            for name, port in zip(urls, ports, strict=True)
        ]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    async def _main(self) -> None:
        await asyncio.gather(*(door.main() for door in self.doors))

    @staticmethod
    def _options(directory: Path, name: str, urls: dict[str, str], options: dict[str, Any]) -> NodeOptions:
        etcds: dict[str, Any] = {"txn_ops_max": limits.TXN_OPS_MAX, "request_bytes_max": limits.REQUEST_BYTES_MAX, "history_bound": False}
        return NodeOptions(
            data_dir=str(directory / name),
            name=name,
            peer_urls=(urls[name],),
            initial_cluster=tuple((one, (url,)) for one, url in urls.items()),
            **(etcds | options),
        )

    def _opener(self, options: NodeOptions, port: int) -> Callable[[], AbstractAsyncContextManager[Node]]:
        def network(handler: PeerHandler) -> Peers:
            return Peers(listen_host="127.0.0.1", port=port, handler=handler, log=self.log, version=(3, 7, 1))

        @asynccontextmanager
        async def opened() -> AsyncIterator[Node]:
            node = Node(options, log=self.log, on_fatal=self.fatal.append, network=network if len(options.listed) > 1 else None)
            await node.start()
            try:
                yield node
            finally:
                await node.stop()

        return opened

    @property
    def addresses(self) -> list[str]:
        return [door.address for door in self.doors]

    def follower(self) -> EtcdDoor:
        """The door of a member that knows who leads and does not itself; waited for."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            for door in self.doors:
                if door.node.leader_id not in (0, door.node.member_id):
                    return door
            time.sleep(0.02)
        raise TimeoutError(f"nobody follows within {READY_TIMEOUT_S} s: {self.log.lines[-20:]}")

    def __enter__(self) -> Self:
        self._thread.start()
        for door in self.doors:
            door.wait_ready(READY_TIMEOUT_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for door in self.doors:
            door.end()
        self._thread.join(READY_TIMEOUT_S)
        if error is None:
            assert not self.fatal, self.fatal


@contextmanager
def one_door(kind: str, directory: Path, **options: Any) -> Iterator[EtcdDoor]:
    """`one`: a member alone; `follower`: one of three that does not lead, what `DoorCluster` takes is theirs. No door may have failed."""
    if kind == "one":
        with DoorCluster(directory, 1, **options) as cluster:
            yield cluster.doors[0]
    else:
        with DoorCluster(directory, 3, **options) as cluster:
            yield cluster.follower()
    assert [one.errors for one in cluster.doors] == [[] for _ in cluster.doors]
