"""Kills at named points between the write of the log and the deletion of its segments, each at the very step, not somewhere near it.

`Points.arm` says where; the first member that comes by for the n-th time loses power, or is killed, in the middle of what it does: `Killed`
runs through its code, as nothing of a dead process goes on. The points are where the simulated disk, database and network are called, and
the steps of the snapshot files.
Must not know: what is checked.
"""

from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from functools import partial
from typing import Any, Final

from raftsched.store._records import Generation
from raftsched.store.raft._kernel import Message
from raftsched.store.snapshot import files, install
from raftsched.testing.disk import SimulatedDisk
from raftsched.testing.sim.backend import Commit, Record, Sides, SimBackend
from raftsched.testing.sim.log import SimLog
from raftsched.testing.sim.loop import OWNER
from raftsched.testing.sim.machine import Machine
from raftsched.testing.sim.network import SimPeers
from raftsched.testing.sim.options import Options
from raftsched.testing.sim.world import World

APPEND, APPEND_RESPONSE = 3, 4

LOG: Final = (
    "log: before the write",
    "log: written, not synced",
    "log: synced, the member does not know",
    "log: new segment, its name not synced",
    "log: new segment, empty",
)
SENT: Final = ("sent: entries, the own log not synced", "sent: an acknowledgement")
STORE: Final = (
    "applied, LMDB not asked",
    "LMDB: commit under way",
    "LMDB: committed, the member does not know",
    "LMDB: committed, the member knows",
)
SNAPSHOT: Final = (
    "snapshot file: begun",
    "snapshot file: named, the name not synced",
    "snapshot file: done, no mark",
    "mark: before the write",
    "mark: written, not synced",
    "mark: synced, the member does not know",
    "segment: before it is deleted",
    "segment: deleted, the name not synced",
    "segment: the deletion synced",
)
INSTALL: Final = (
    "installation: received",
    "installation: snapshot file done, no mark",
    "installation: mark synced, not renamed",
    "installation: renamed",
)
ALONE: Final = LOG + STORE + SNAPSHOT
ALL: Final = LOG + SENT + STORE + SNAPSHOT + INSTALL


class Killed(BaseException):
    """A process ended here: no `except Exception` of it sees that."""


class Points:
    """Where the next process ends."""

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        self.passed: Counter[str] = Counter()
        self.on_hit: Callable[[Machine], None] = lambda _machine: None
        self._machines: list[Machine] = []
        self._point = ""
        self._left = 0
        self._power_cut = False

    def add(self, machine: Machine) -> None:
        self._machines.append(machine)

    def arm(self, point: str, *, passes: int, power_cut: bool) -> None:
        """Whoever comes by `point` for the `passes`-th time from now on, all members counted together."""
        self._point, self._left, self._power_cut = point, passes, power_cut

    @property
    def armed(self) -> bool:
        return self._point != ""

    def disarm(self) -> None:
        self._point = ""

    def by(self, point: str) -> None:
        """The process whose code this is comes by. Raises Killed."""
        owner = OWNER.get()
        machine = next((one for one in self._machines if one.process is not None and one.process.owner is owner), None)
        if machine is None:
            return  # what a machine does for a process that is gone
        self.passed[point] += 1
        if point != self._point:
            return
        self._left -= 1
        if self._left <= 0:
            self._point = ""
            self.hits[point] += 1
            machine.crash(power_cut=self._power_cut)
            self.on_hit(machine)
            raise Killed(point)

    def on_sent(self, peers: SimPeers, message: Message) -> None:
        """For `SimNetwork.on_sent`: the message is on its way."""
        machine = next(one for one in self._machines if one.name == peers.machine)
        log: Any = machine.process.member.log if machine.process is not None and machine.process.member is not None else None
        if message.type == APPEND and message.runs and isinstance(log, SimLog) and log._durable < log.batch_last:
            self.by("sent: entries, the own log not synced")
        elif message.type == APPEND_RESPONSE and not message.reject:
            self.by("sent: an acknowledgement")

    def around(self, call: Callable[..., Any], before: str, behind: str) -> Callable[..., Any]:
        """`call` with a point before it, and one behind it; "" = none."""

        def hooked(*args: Any, **named: Any) -> Any:
            if before:
                self.by(before)
            result = call(*args, **named)
            if behind:
                self.by(behind)
            return result

        return hooked

    def hook_files(self, replace: Callable[[object, str, object], None]) -> None:
        """The steps of snapshot files; `replace(module, name, value)` until the run has ended, as pytest's monkeypatch does."""
        for module, name, before, behind in (
            (files, "encode", "snapshot file: begun", ""),
            (files, "sync_directory", "snapshot file: named, the name not synced", ""),
            (files, "save", "", "snapshot file: done, no mark"),
            (install, "save", "installation: received", "installation: snapshot file done, no mark"),
            (install, "put_in_place", "installation: mark synced, not renamed", "installation: renamed"),
        ):
            replace(module, name, self.around(getattr(module, name), before, behind))


class PointedDisk(SimulatedDisk):
    """The log's directory."""

    def __init__(self, disk: SimulatedDisk, machine: "PointedMachine") -> None:
        super().__init__(disk.path)
        self.files, self.synced, self.names, self.fail = disk.files, disk.synced, disk.names, disk.fail
        self._machine = machine
        self._by = machine.points.by
        self._creates = False

    def _what(self) -> str:
        process = self._machine.process
        log: Any = process.member.log if process is not None and process.member is not None else None
        return "mark" if isinstance(log, SimLog) and log._writing is not None and log._writing.mark else "log"

    def create(self, name: str, data: bytes) -> None:
        self._creates = True
        try:
            super().create(name, data)
        finally:
            self._creates = False
        self._by("log: new segment, empty")

    def write(self, name: str, offset: int, data: bytes) -> None:
        if self._creates:
            super().write(name, offset, data)
            return
        what = self._what()
        self._by(f"{what}: before the write")
        super().write(name, offset, data)
        self._by(f"{what}: written, not synced")

    def sync(self, name: str) -> None:
        super().sync(name)
        if not self._creates:
            self._by(f"{self._what()}: synced, the member does not know")

    def sync_directory(self) -> None:
        if self._creates:
            self._by("log: new segment, its name not synced")
            super().sync_directory()
        else:
            super().sync_directory()
            self._by("segment: the deletion synced")

    def remove(self, name: str) -> None:
        self._by("segment: before it is deleted")
        super().remove(name)
        self._by("segment: deleted, the name not synced")


class PointedBackend(SimBackend):
    """The database."""

    def __init__(self, points: Points, *args: Any) -> None:
        super().__init__(*args)
        self._by = points.by

    def commit(self, generation: Generation | None, deletes: Sequence[Record], side: Sides, applied_index: int, term: int) -> None:
        self._by("applied, LMDB not asked")
        super().commit(generation, deletes, side, applied_index, term)
        self._by("LMDB: commit under way")

    def _store(self, commit: Commit) -> None:
        super()._store(commit)
        self._by("LMDB: committed, the member does not know")

    def completed(self) -> int:
        index = super().completed()
        self._by("LMDB: committed, the member knows")
        return index


class PointedMachine(Machine):
    """A machine whose processes come by points. `observer` is a `PointedWorld`."""

    def __init__(self, loop: Any, observer: Any, name: str, **named: Any) -> None:
        self.points: Points = observer.points
        super().__init__(loop, observer, name, **named)
        self.backend_type = partial(PointedBackend, self.points)  # type: ignore[assignment]
        self.points.add(self)

    @property
    def disk(self) -> SimulatedDisk:
        return self._disk

    @disk.setter
    def disk(self, disk: SimulatedDisk) -> None:
        self._disk = PointedDisk(disk, self)


class PointedWorld(World):
    """A run whose story is told by the caller: `tell(world)`."""

    machine_type = PointedMachine

    def __init__(self, seed: str, options: Options, tell: Callable[["PointedWorld"], Coroutine[Any, Any, None]]) -> None:
        self.points = Points()
        super().__init__(seed, options, keep_trace=True)
        self._tell = tell
        self.network.on_sent = self.points.on_sent
        self.points.on_hit = self._hit

    def happen(self) -> Coroutine[Any, Any, None]:
        return self._tell(self)

    def _hit(self, machine: Machine) -> None:
        """It is back some time later; not as the process that has just ended."""
        delay_s = self.chance.choice([0.0, 0.05, 0.5]) * self.chance.random()
        self.loop.call_later(delay_s, machine.start, context=Context())

    def _complained(self, line: str) -> None:
        if "Killed(" not in line:
            super()._complained(line)
