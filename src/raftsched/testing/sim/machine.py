"""One machine of the cluster: its disk and clock, which outlive processes, and the processes that run on it one after another.

A process is a real `Node` with a real `SchedulerService` on it; only ports are replaced. `crash` is a power cut or a kill, `stop` a
clean end, `start` the next life.
Must not know: what clients do, what is checked beyond what an `Observer` is told.
"""

import asyncio
import random
import shutil
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

from raftsched.errors import FatalError, IncarnationOverError, NoSpaceError
from raftsched.ports import ChangeSink
from raftsched.scheduler.bridge.embedded import EmbeddedKv
from raftsched.scheduler.jobs.names import COUNTERS, JOBS
from raftsched.scheduler.service import SchedulerService
from raftsched.store.backend.directory import DataDirectory
from raftsched.store.birth import Birth, found
from raftsched.store.membership import REMOVE_NODE
from raftsched.store.node import Clock, Node, NodeOptions
from raftsched.store.node.beginning import write_first_entries
from raftsched.store.node.opening import Member, Opener, assemble, is_founder
from raftsched.store.snapshot import install
from raftsched.store.transport.ports import PeerHandler
from raftsched.store.wal import recovery
from raftsched.store.wal.format import Metadata
from raftsched.store.watch.hub import WatchHub
from raftsched.testing.disk import SimulatedDisk
from raftsched.testing.sim.backend import Database, SimBackend
from raftsched.testing.sim.log import DiskFaults, SimLog
from raftsched.testing.sim.loop import Owner, SimLoop, SimTimer
from raftsched.testing.sim.network import SimNetwork, SimPeers
from raftsched.types import Change, Result
from raftsched.zones import zone_table

EPOCH_NS = 1_700_000_000_000_000_000
SEGMENT_BYTES = 16_384
LEAVE_TIMEOUT_S = 5.0


class Observer(Protocol):
    """Who watches all members: the checkers. Called by the member, on its own time."""

    def applied(self, process: "Process", first: int, term: int, kind: int, entries: list[bytes], results: list[Result]) -> None: ...
    def changed(self, process: "Process", changes: Sequence[Change], revision: int) -> None: ...
    def started(self, process: "Process") -> None:
        """It serves."""

    def failed(self, process: "Process", line: str) -> None:
        """It ends with this line and exit code 1."""

    def follows(self, process: "Process", term: int, leader: int) -> None:
        """Whom it takes for the leader; 0 = nobody."""

    def note(self, who: str, what: str) -> None:
        """For the trace."""


def peer_url(name: str) -> str:
    return f"http://{name}:2380"


class MachineClock(Clock):
    """Monotonic time starts anew with each boot; wall time is wrong by `skew_ns`, which may change at any moment. Both run too fast by
    `drift_ppm`, or too slow: one oscillator drives them."""

    def __init__(self, loop: SimLoop, boot_ns: int, drift_ppm: int) -> None:
        self._loop = loop
        self._boot_ns = boot_ns
        self._drift_ppm = drift_ppm
        self.skew_ns = 0
        self.highest_ns = 0
        """The latest wall time that was ever told."""

    def _run_ns(self) -> int:
        return self._loop.now_ns + self._loop.now_ns * self._drift_ppm // 1_000_000

    def mono_ns(self) -> int:
        return self._run_ns() + self._boot_ns

    def peek_ns(self) -> int:
        """Wall time, without telling it to anybody."""
        return EPOCH_NS + self._run_ns() + self.skew_ns

    def wall_ns(self) -> int:
        now_ns = self.peek_ns()
        self.highest_ns = max(self.highest_ns, now_ns)
        return now_ns

    def wall_ms(self) -> int:
        return self.wall_ns() // 1_000_000


class _Lines:
    """A `ports.Log` into the trace."""

    def __init__(self, observer: Observer, who: str) -> None:
        self._observer, self._who = observer, who

    def _line(self, message: str, /, **fields: object) -> None:
        self._observer.note(self._who, " ".join([message, *(f"{name}={value}" for name, value in fields.items())]))

    debug = info = warning = error = _line


class _Directory(DataDirectory):
    """The real layout, lock and names, but of the log, which is elsewhere; databases come here only to be sent and installed."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        super().__init__(machine.path, instance=None)
        if self.set_aside:  # the log and the database too, where they are here
            machine.forget()

    @property
    def has_member(self) -> bool:
        return recovery.has_log(self._machine.disk)

    def finish_installation(self) -> str:
        """As `install.finish`, with the log and the database where they are here."""
        machine = self._machine
        line = ""
        if self.incoming_path.exists():
            if recovery.peek_mark(machine.disk).index <= machine.database.applied_index:
                self.discard_incoming()
                line = "an unfinished snapshot was discarded"
            else:
                line = f"an installation was finished: {install.put_in_place(self)}"
        path = self.database_path
        if path != machine.installed and Path(path, install.DATA_NAME).exists():
            machine.installed, machine.database = path, Database.read_from(path)
        return line


class Process:
    """One life of a member."""

    def __init__(self, machine: "Machine", number: int) -> None:
        self.machine = machine
        self.name = f"{machine.name}.{number}"
        self.owner = Owner(self.name)
        self.serving = False
        self.ending = False
        self.gone: asyncio.Future[None] = machine.loop.create_future()
        self.backend: SimBackend | None = None
        self.member: Member | None = None
        self.directory: DataDirectory | None = None
        self._lines = _Lines(machine.observer, self.name)
        self._hub_scheduled = False
        self._hub_ends: Callable[[], None] | None = None
        self.peers: SimPeers | None = None
        self.node = Node(
            machine.options,
            log=self._lines,
            on_fatal=self._on_fatal,
            clock=machine.clock,
            opener=_Opener(self),
            network=None if machine.network is None else self._join_network,
            on_restart=self._on_restart,
        )
        self.service: SchedulerService
        self.hub: WatchHub

    @property
    def alive(self) -> bool:
        return not self.owner.dead

    async def run(self) -> None:
        """Starts everything; ends with the line that a real process would print."""
        try:
            await self.node.start()
            self._attach()
            self.service = self._make_service()
            await self.service.start()
            self.node.set_duties(self.service)
        except (FatalError, NoSpaceError) as error:
            self.machine.fail(self, str(error))
            return
        except IncarnationOverError:
            return  # `_on_restart` was told
        self.serving = True
        self.machine.observer.started(self)

    def _attach(self) -> None:
        assert self.member is not None
        self.hub = WatchHub(self.node.mvcc, on_work=self._schedule_hub, on_demand=self._on_demand)

    def _make_service(self) -> SchedulerService:
        machine = self.machine
        return SchedulerService(
            EmbeddedKv(self.node),
            scheduler_id=machine.name,
            address=f"{machine.name}:50006",
            zone_source=zone_table,
            rng=lambda: machine.chance.getrandbits(64),
            log=self._lines,
            engine_log=self._lines,
            wall_ns=machine.clock.wall_ns,
            mono_ns=machine.clock.mono_ns,
            timer=SimTimer,
        )

    async def end(self) -> None:
        """As the server stops: the scheduler first, the store last."""
        self.serving = False
        self.ending = True
        try:
            async with asyncio.timeout(5):
                await self.service.stop()
        except TimeoutError:
            self._lines.warning("the leadership lease could not be revoked in time")
        await self.node.stop()

    # -- the ports

    def _join_network(self, handler: PeerHandler) -> SimPeers:
        network = self.machine.network
        assert network is not None
        self.peers = SimPeers(network, self.owner, self.machine.name, self.machine.options.peer_urls, handler)
        return self.peers

    def open(self, options: NodeOptions, clock: Clock, directory: DataDirectory, birth: Birth | None) -> Member:
        """As `open_member`, from the simulated disk."""
        machine = self.machine
        assert isinstance(directory, _Directory)
        installed = directory.finish_installation()
        self.backend = backend = machine.backend_type(machine.loop, machine.database, machine.faults, f"{machine.name}/db")
        birth = birth or found(options.name, options.listed, options.cluster_token)
        if not recovery.has_log(machine.disk):
            recovery.create(machine.disk, Metadata(node_id=birth.member_id, cluster_id=birth.cluster_id))
        recovered = recovery.recover(machine.disk, after_index=backend.applied_index)
        log: Any = SimLog(
            machine.loop, machine.disk, recovered, machine.faults, segment_bytes=SEGMENT_BYTES, keep_segments=options.max_wals
        )
        fresh = recovered.last_index == 0
        if fresh and is_founder(recovered.metadata, birth):
            recovered = write_first_entries(log, recovered, birth.entries)
        source: Any = backend
        self.member = assemble(
            options,
            clock,
            directory,
            backend=source,
            log=log,
            recovered=recovered,
            bound_bytes=0,
            fresh=fresh,
            chance=machine.chance.getrandbits,
            installed=installed,
        )
        self._watch_apply(self.member)
        self._watch_leader(self.member)
        return self.member

    def _watch_apply(self, member: Member) -> None:
        apply = member.applier.apply
        tap: list[_Tap] = []

        def watched(first: int, term: int, kind: int, entries: list[bytes]) -> Any:
            if not tap:  # before the first entry: what is replayed at the start is shown too
                tap.append(_Tap(self))
                self.node.add_change_sink(tap[0])
            ids, results = apply(first, term, kind, entries)
            self.machine.observer.applied(self, first, term, kind, entries, results)
            return ids, results

        applier: Any = member.applier
        applier.apply = watched  # the one place through which all entries go

    def _watch_leader(self, member: Member) -> None:
        step, kernel, observer = member.replica.step, member.replica.kernel, self.machine.observer

        def watched(events: Any, mono_ms: int) -> Any:
            output = step(events, mono_ms)
            observer.follows(self, kernel.term, kernel.leader)
            return output

        replica: Any = member.replica
        replica.step = watched

    def _on_restart(self, line: str) -> None:
        self._lines.info("begins anew", reason=line)
        self.machine.loop.call_soon(self.machine.renew, self)

    def _on_fatal(self, line: str) -> None:
        self.machine.loop.call_soon(self.machine.fail, self, line)

    # -- watches, as rpc/etcd/watch.py drives them

    def _schedule_hub(self) -> None:
        if not self._hub_scheduled:
            self._hub_scheduled = True
            self.machine.loop.call_soon(self._hub_round)

    def _hub_round(self) -> None:
        self._hub_scheduled = False
        if self.hub.catch_up():
            self._schedule_hub()

    def _on_demand(self, wanted: bool) -> None:
        if wanted:
            self._hub_ends = self.node.add_change_sink(self.hub)
        elif self._hub_ends is not None:
            self._hub_ends()
            self._hub_ends = None

    def records(self, name: bytes) -> tuple[bytes | None, bytes | None]:
        """Job and counter as this member's store has them."""
        found = [self.node.mvcc.live(prefix + name, prefix + name + b"\0", None, 1) for prefix in (JOBS, COUNTERS)]
        job, counter = (one[0].record if one else None for one in found)
        return job, counter


class _Opener(Opener):
    """The port by which a node comes to its member."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def claim(self, options: NodeOptions) -> DataDirectory:
        self._process.directory = _Directory(self._process.machine)
        return self._process.directory

    def open(self, options: NodeOptions, clock: Clock, directory: DataDirectory, birth: Birth | None) -> Member:
        return self._process.open(options, clock, directory, birth)


class _Tap(ChangeSink):
    """Shows the checkers what the store tells its subscribers."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def on_changes(self, changes: Sequence[Change], revision: int) -> None:
        self._process.machine.observer.changed(self._process, changes, revision)

    def on_reset(self) -> None: ...


class Machine:
    """See the module's text."""

    backend_type: type[SimBackend] = SimBackend

    def __init__(
        self,
        loop: SimLoop,
        observer: Observer,
        name: str,
        *,
        seed: str,
        path: Path,
        options: dict[str, Any],
        network: SimNetwork | None = None,
        drift_ppm: int = 0,
    ) -> None:
        """`network` None: a member that is alone. `drift_ppm`: how much too fast its clocks run."""
        self.loop = loop
        self.network = network
        self.observer = observer
        self.name = name
        self.path = path / name
        self.chance = random.Random(f"{seed}/{name}")
        self.faults = DiskFaults(self.chance)
        self.disk = SimulatedDisk(f"{name}/wal")
        self.database = Database()
        self.installed = ""  # where the last snapshot was installed that `database` is of
        self.drift_ppm = drift_ppm
        self.clock = self._boot()
        self.skew_ns = 0
        self.options = NodeOptions(data_dir=name, name=name, peer_urls=(peer_url(name),), **options)
        self.process: Process | None = None
        self.removable = False  # somebody has asked to remove it: it may find that it was
        self.retired = False  # scaled away: it does not start again
        self.torn = 0  # power cuts that lost a part of what was written
        self.lives = 0

    def _boot(self) -> MachineClock:
        return MachineClock(self.loop, self.chance.randrange(1 << 50), self.drift_ppm)

    @property
    def up(self) -> bool:
        return self.process is not None

    @property
    def serving(self) -> bool:
        return self.process is not None and self.process.serving

    def set_skew(self, skew_ns: int) -> None:
        self.skew_ns = self.clock.skew_ns = skew_ns

    def start(self) -> None:
        """Begins a new life; no effect while one goes on."""
        if self.process is not None or self.retired:
            return
        self.lives += 1
        self.observer.note(self.name, "starts")
        process = self.process = Process(self, self.lives)
        process.owner.run(lambda: self.loop.create_task(process.run()))

    def crash(self, *, power_cut: bool) -> None:
        """`power_cut`: what was not synced is lost, sector by sector by chance; else it stays in the page cache."""
        process, self.process = self.process, None
        if process is None:
            return
        self.observer.note(self.name, "loses power" if power_cut else "is killed")
        self._end(process)
        if process.backend is not None:
            process.backend.crash(self.chance)
        share = self.chance.choice([0.0, 0.2, 0.5, 0.9, 1.0])
        if power_cut or self.faults.failed:
            after = self.disk.crash(lambda: self.chance.random() < share)
            self.torn += after.files != self.disk.files
            self.disk = after
            self.clock = self._boot()
            self.clock.skew_ns = self.skew_ns
        self.faults.failed = self.faults.fail_sync = False

    def wipe(self) -> None:
        """The process is gone, and the disk is a new one."""
        self.crash(power_cut=True)
        self.observer.note(self.name, "loses its disk")
        self.forget()
        shutil.rmtree(self.path, ignore_errors=True)

    def forget(self) -> None:
        """The log and the database are empty ones."""
        self.removable = False
        self.disk, self.database, self.installed = SimulatedDisk(f"{self.name}/wal"), Database(), ""

    async def leave(self, asked: Process) -> None:
        """`asked`, any member, takes it out of the cluster; it goes with its disk. Perhaps not now, perhaps nobody knows."""
        process = self.process
        if process is None or process.member is None:
            return
        self.observer.note(self.name, f"is to leave, says {asked.name}")
        self.removable, member_id = True, process.node.member_id
        if await self._asked(asked, lambda: asked.node.change_members(REMOVE_NODE, member_id, (), is_learner=False)):
            self.wipe()

    async def depart(self) -> bool:
        """`raftsched member leave`, as a pod's preStop calls it: it takes itself out, and keeps its disk. False: perhaps not."""
        process = self.process
        if process is None or not process.serving:
            return False
        self.observer.note(self.name, "leaves")
        self.removable = True
        return await self._asked(process, process.node.leave)

    async def _asked(self, process: Process, work: Callable[[], Coroutine[Any, Any, object]]) -> bool:
        """Whether `work` of this process is known to have been done."""
        task = process.owner.run(lambda: self.loop.create_task(work()))
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # a refusal is no complaint
        await asyncio.wait([task, process.gone], timeout=LEAVE_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        return task.done() and not task.cancelled() and task.exception() is None

    @property
    def voting(self) -> bool:
        return self.process is not None and self.process.serving and not self.process.node.status().is_learner

    def _end(self, process: Process) -> None:
        process.owner.kill()
        process.serving = False
        if process.directory is not None:
            process.directory.close()  # the lock goes with the process
        if self.network is not None and process.peers is not None:
            self.network.ended(process.peers)
        if not process.gone.done():
            process.gone.set_result(None)

    async def stop(self) -> None:
        """A clean end. A crash may come in between."""
        process = self.process
        if process is None or not process.serving:
            return
        self.observer.note(self.name, "stops")
        task = process.owner.run(lambda: self.loop.create_task(process.end()))
        await asyncio.wait([task, process.gone], return_when=asyncio.FIRST_COMPLETED)
        if self.process is process:
            self.process = None
            self._end(process)
            if task.done() and task.exception() is not None:
                self.observer.failed(process, f"stop failed: {task.exception()!r}")
            if process.backend is not None:
                process.backend.crash(self.chance)

    def renew(self, process: Process) -> None:
        """The process begins a new incarnation of itself."""
        if self.process is process:
            self.crash(power_cut=False)
            self.start()

    def fail(self, process: Process, line: str) -> None:
        """The process ends itself."""
        if self.process is process and not process.ending:
            self.observer.failed(process, line)
            self.crash(power_cut=False)
