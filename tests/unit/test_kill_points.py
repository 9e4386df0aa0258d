"""Every place where a member may be killed between writing, syncing, sending, applying, committing, snapshot, naming and removal.

Three whole members on one loop, under writes. At a point the victim's directory is copied: that is what kill -9 leaves. What the victim
does from then on reaches nobody; it is closed, and started again on the copy. In the end all three are equal and hold every write that
was acknowledged by a member that lived. (What a power failure leaves is the simulated disk's business: tests/property/test_wal_recovery.py
and the simulator.)
"""

import asyncio
import shutil
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from test_node_cluster import One, Three, until

from raftsched import limits, proposals
from raftsched.errors import IncarnationOverError, PeerCode, PeerError
from raftsched.pb.etcd import rpc_pb2
from raftsched.store import replica
from raftsched.store.apply import Applier
from raftsched.store.backend.directory import DataDirectory
from raftsched.store.host import ReplicationHost
from raftsched.store.node import clustering
from raftsched.store.node.flush import Flusher
from raftsched.store.snapshot import files, install, part
from raftsched.store.snapshot import incoming as incoming_module
from raftsched.store.transport.ports import BulkStream
from raftsched.store.wal.log import Log

pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {
    "wal_segment_bytes": 128 << 10,
    "snapshot_count": 40,
    "max_wals": 1,
    "max_snapshots": 2,
    "batch_interval_ms": 5,
}
BEFORE, AFTER = "before", "after"

# name: (what is called, its name there, when)
RUNNING: dict[str, tuple[Any, str, str]] = {
    "a batch is not given to the log yet": (Log, "append", BEFORE),
    "a batch is queued, and nothing sent": (Log, "append", AFTER),
    "synced, and the member does not know": (Log, "completed", BEFORE),
    "synced and known, nothing follows from it": (Log, "completed", AFTER),
    "before something is sent": (ReplicationHost, "send", BEFORE),
    "something is sent": (ReplicationHost, "send", AFTER),
    "before entries are applied": (Applier, "apply", BEFORE),
    "applied, and nobody answered": (Applier, "apply", AFTER),
    "before LMDB commits": (Flusher, "_commit", BEFORE),
    "LMDB is committing": (Flusher, "_commit", AFTER),
    "LMDB has committed, and nothing followed": (Flusher, "_end", AFTER),
    "before a snapshot's file": (files, "save", BEFORE),
    "the snapshot's file is written and not named": (Path, "rename", BEFORE),
    "named, and the directory not synced": (files, "sync_directory", BEFORE),
    "the snapshot's file is there, and no mark": (files, "save", AFTER),
    "before old snapshots are removed": (files, "prune", BEFORE),
    "old snapshots are removed, no mark": (files, "prune", AFTER),
    "the mark is synced, all segments are there": (Log, "release", BEFORE),
    "the first of the segments is gone": (Log, "drop_segments", AFTER),
    "the segments are given up": (Log, "release", AFTER),
    "a defragmented copy is there and not named": (DataDirectory, "finish_defragment", BEFORE),
    "the defragmented copy is in place": (DataDirectory, "finish_defragment", AFTER),
}
INSTALLING: dict[str, tuple[Any, str, str]] = {
    "an offer came, no place for it": (install, "prepare", BEFORE),
    "a place is made": (install, "prepare", AFTER),
    "before a chunk is written": (incoming_module, "_write", BEFORE),
    "a chunk is written": (incoming_module, "_write", AFTER),
    "what is synced is remembered": (part, "write", AFTER),
    "all is there, not secured": (install, "secure", BEFORE),
    "all is secured": (install, "secure", AFTER),
    "received, and the sender not told": (incoming_module.Incoming, "_finish", AFTER),
    "the sender was told, nothing is installed": (clustering, "install_received", BEFORE),
    "its .snap file is there": (install, "save", AFTER),
    "before the mark": (install, "mark", BEFORE),
    "the mark is synced": (install, "mark", AFTER),
    "the part is forgotten, nothing named": (DataDirectory, "name_incoming", BEFORE),
    "named": (DataDirectory, "name_incoming", AFTER),
    "installed, and no next incarnation": (clustering, "install_received", AFTER),
    "the next incarnation looks at what it finds": (install, "finish", AFTER),
}


def leave(source: Path, to: Path) -> None:
    """What a kill leaves. The log's threads may name or remove a file meanwhile: looked at again, as if killed a moment later."""
    for _ in range(20):
        shutil.rmtree(to, ignore_errors=True)
        try:
            shutil.copytree(source, to)
        except (shutil.Error, FileNotFoundError):
            continue
        return
    raise AssertionError("the directory does not hold still")


def place_of(arguments: tuple[Any, ...]) -> str:
    """Words that name the member whose call it is."""
    first = arguments[0] if arguments else ""
    for name in ("directory", "_directory", "path"):
        first = getattr(first, name, first) if not isinstance(first, str | Path) else first
    if isinstance(first, ReplicationHost):
        return f"/{first._replica.kernel.id:x}/"
    if isinstance(first, Applier | Flusher):
        return f"/{id(first)}/"
    return str(first) + "/"


def cut_off(victim: One) -> None:
    """What it says from here on reaches nobody: no message, no answer, and its bulk streams break."""
    peering = victim.node._peering
    assert peering is not None
    port: Any = peering.port

    async def nobody(*_arguments: object) -> bytes:
        raise PeerError(PeerCode.UNREACHABLE, "killed")

    async def broken(_sender: int, stream: BulkStream) -> None:
        stream.abort()

    peering._deliver = peering.answer_ask = None
    port.send = lambda _member, _message: True
    port.request = nobody
    peering.bulk = dict.fromkeys(peering.bulk, broken)
    for stream in [*port._streams, *port._acceptor._streams]:
        stream.abort()


class Kill:
    """Waits at one point for the victim, once it is armed."""

    def __init__(self, three: Three, directory: Path, point: tuple[Any, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.three, self.directory = three, directory
        self.owner, self.attribute, self.when = point
        self.victim: One | None = None
        self.passes = 0  # how often the point is let pass
        self.done = asyncio.Event()
        self.ghosts: set[One] = set()
        self.starting: dict[One, asyncio.Task[None]] = {}
        self.loop = asyncio.get_running_loop()
        self.original = getattr(self.owner, self.attribute)
        monkeypatch.setattr(self.owner, self.attribute, self.wrapped())

    def wrapped(self) -> Callable[..., Any]:
        if asyncio.iscoroutinefunction(self.original):

            async def later(*arguments: Any, **named: Any) -> Any:
                if self.when == BEFORE:
                    self.at(arguments)
                result = await self.original(*arguments, **named)
                if self.when == AFTER:
                    self.at(arguments)
                return result

            return later

        def now(*arguments: Any, **named: Any) -> Any:
            mine = self.is_victims(arguments)
            if self.when == BEFORE and mine:
                self.at(arguments)
            if self.attribute == "drop_segments" and mine and len(arguments[1]) > 1:
                result = self.original(arguments[0], arguments[1][:1])
                gone = Path(arguments[0].directory) / arguments[1][0]
                while gone.exists():
                    pass
                self.at(arguments)
                return result + self.original(arguments[0], arguments[1][1:])
            result = self.original(*arguments, **named)
            if self.when == AFTER and mine and self.attribute != "drop_segments":
                self.at(arguments)
            return result

        return now

    def is_victims(self, arguments: tuple[Any, ...]) -> bool:
        victim = self.victim
        if victim is None or self.done.is_set():
            return False
        node, place = victim.node, place_of(arguments)
        if self.attribute == "rename" and not str(arguments[0]).endswith(".snap.tmp"):
            return False
        own = {f"/{self.directory.name}/{victim.name}/"}
        if hasattr(node, "_host"):
            own |= {f"/{node.member_id:x}/", f"/{id(node._flusher)}/", f"/{id(node._member.applier)}/"}
        return any(one in place for one in own)

    def at(self, arguments: tuple[Any, ...]) -> None:
        if not self.is_victims(arguments):
            return
        if self.passes:
            self.passes -= 1
            return
        if threading.current_thread() is threading.main_thread():
            self.kill()
        else:  # the loop must not commit while the directory is copied
            killed = threading.Event()
            self.loop.call_soon_threadsafe(lambda: (self.kill(), killed.set()))
            killed.wait(20)

    def kill(self) -> None:
        victim = self.victim
        if victim is None or self.done.is_set():
            return
        self.done.set()
        self.ghosts.add(victim)
        leave(self.directory / victim.name, self.directory / f"{victim.name}.left")
        cut_off(victim)

    def start(self, one: One) -> asyncio.Task[None]:
        """Begins the member anew, and again if a snapshot overtakes its start."""
        task = self.starting[one] = asyncio.create_task(self._start(one))
        return task

    async def _start(self, one: One) -> None:
        while one not in self.ghosts:
            one.restarts.clear()
            try:
                await one.start_anew()
            except IncarnationOverError:
                await one.node.stop()
            else:
                del self.starting[one]
                return

    async def revive(self) -> None:
        victim = self.victim
        assert victim is not None
        if victim in self.starting:
            self.starting[victim].cancel()
            await asyncio.gather(self.starting.pop(victim), return_exceptions=True)
        victim.node._failed = victim.node._failed or "killed"
        await victim.node.stop()
        own = self.directory / victim.name
        shutil.rmtree(own)
        (self.directory / f"{victim.name}.left").rename(own)
        self.ghosts.discard(victim)
        await self.start(victim)


class Writes:
    """Puts through all members; what was acknowledged by one that lived."""

    def __init__(self, three: Three) -> None:
        self.three = three
        self.kill: Kill | None = None
        self.acknowledged: set[bytes] = set()
        self.number = 0
        self.waiting: set[asyncio.Task[None]] = set()
        self.down: set[One] = set()
        self.task = asyncio.get_running_loop().create_task(self.run())

    async def run(self) -> None:
        while True:
            for one in self.three.all:
                if one not in self.down and len(self.waiting) < 40 and one.node.is_up:
                    self.number += 1
                    task = asyncio.create_task(self.put(one, b"k%05d" % self.number))
                    self.waiting.add(task)
                    task.add_done_callback(self.waiting.discard)
            await asyncio.sleep(0.004)

    async def put(self, one: One, key: bytes) -> None:
        message = rpc_pb2.PutRequest(key=key, value=bytes(2_000)).SerializeToString()
        error = (await one.write(proposals.PUT, message))[0]
        if not error and (self.kill is None or one not in self.kill.ghosts):
            self.acknowledged.add(key)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, *self.waiting, return_exceptions=True)


async def restarts(three: Three, kill: Kill) -> None:
    """What the server does: a member that asks for a new incarnation gets it."""
    while True:
        for one in three.all:
            if one.restarts and one not in kill.ghosts and one not in kill.starting:
                await one.node.stop()
                kill.start(one)
        await asyncio.sleep(0.01)


async def check(three: Three, writes: Writes) -> None:
    assert not [one.fatal for one in three.all if one.fatal]
    await until(lambda: any(one.leads for one in three.all))
    assert (await three.leader.put(b"last"))[0] == 0
    await until(lambda: len({one.node._member.applier.applied_index for one in three.all}) == 1)
    assert len({await one.node.hash_kv(0) for one in three.all}) == 1
    held = {one.key for one in three.all[0].node._member.applier.store.live(b"", b"\xff", None, 1 << 20)}
    assert writes.acknowledged <= held, sorted(writes.acknowledged - held)[:5]
    assert len(writes.acknowledged) > 100


Prepare = Callable[[Three, Kill, Writes], Awaitable[None]]


def play(directory: Path, point: tuple[Any, str, str], monkeypatch: pytest.MonkeyPatch, prepare: Prepare) -> None:
    # once in a while, where several segments are to go at a time
    monkeypatch.setattr(limits, "SNAPSHOT_INTERVAL_MIN_MS", 600 if point[1] == "drop_segments" else 30)

    async def scenario() -> None:
        three = Three(directory, **OPTIONS)
        kill = Kill(three, directory, point, monkeypatch)
        await three.start()
        writes = Writes(three)
        writes.kill = kill
        serving = asyncio.create_task(restarts(three, kill))
        try:
            await prepare(three, kill, writes)
            await asyncio.wait_for(kill.done.wait(), 20)
            await asyncio.sleep(0.3)  # the others go on
            await kill.revive()
            writes.down.clear()
            await asyncio.sleep(0.3)
            await writes.stop()
            await check(three, writes)
        finally:
            serving.cancel()
            await writes.stop()
            await three.stop()

    asyncio.run(asyncio.wait_for(scenario(), 90))


@pytest.mark.parametrize("role", ["leader", "follower"])
@pytest.mark.parametrize("name", RUNNING)
def test_killed_while_it_runs(tmp_path: Path, name: str, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def prepare(three: Three, kill: Kill, _writes: Writes) -> None:
        await asyncio.sleep(0.2)
        kill.passes = 0 if kill.owner in (files, Path, DataDirectory) else 2
        kill.victim = three.leader if role == "leader" else three.followers[0]
        if kill.owner is DataDirectory:
            await kill.victim.node.defragment()

    play(tmp_path, RUNNING[name], monkeypatch, prepare)


@pytest.mark.parametrize("name", INSTALLING)
def test_killed_while_a_snapshot_comes_in(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The victim was down until the others had let its segments go."""
    monkeypatch.setattr(replica, "CATCH_UP_ENTRIES", 20)  # else memory would do
    monkeypatch.setattr(limits, "SNAPSHOT_CHUNK_BYTES", 64 << 10)
    monkeypatch.setattr(limits, "SNAPSHOT_SYNC_BYTES", 128 << 10)

    async def prepare(three: Three, kill: Kill, writes: Writes) -> None:
        victim = three.followers[0]
        writes.down.add(victim)
        await victim.node.stop()
        last = victim.node._member.log.last_index
        await until(lambda: all(oldest_index(one) > last + 1 for one in three.all if one is not victim))
        kill.victim = victim
        kill.passes = 1 if kill.attribute == "finish" else 0  # the first look is the start's, before anything came
        kill.start(victim)

    play(tmp_path, INSTALLING[name], monkeypatch, prepare)


def oldest_index(one: One) -> int:
    """Where the log begins."""
    names = sorted(path.name for path in Path(one.node._member.log.directory).glob("*.wal"))
    return int(names[0].removesuffix(".wal").split("-")[1], 16)
