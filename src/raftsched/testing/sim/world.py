"""One run: machines, clients, workers and faults from one seed; first safety (anything may fail), then liveness (nothing fails any more,
and everything must come to rest in bounded time).

`Options.draw` is the swarm: each run has its own choice of what can go wrong, and how often. `Nemesis` does it.
"""

import asyncio
import contextlib
import hashlib
import random
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from pathlib import Path
from typing import Any

from raftsched.errors import FatalError
from raftsched.scheduler.jobs.names import LEADERSHIP
from raftsched.testing.sim.checkers import Broken, History, Leases, OneHistory, OneLeader, OneLog, SameState, Takeovers, Watches
from raftsched.testing.sim.clients import Client, Watching
from raftsched.testing.sim.loop import SimLoop, Stuck
from raftsched.testing.sim.machine import Machine, Process, peer_url
from raftsched.testing.sim.nemesis import Nemesis
from raftsched.testing.sim.network import SimNetwork
from raftsched.testing.sim.options import Options, Report
from raftsched.testing.sim.promptness import Promptness
from raftsched.testing.sim.slots import Slots
from raftsched.testing.sim.ticks import Ticks
from raftsched.testing.sim.workers import App, Planner
from raftsched.types import Change, Result

NS = 1_000_000_000
MEMORY = Path("/dev/shm")  # where a sync costs nothing
START_WITHIN_S = 0.1
REST_S = 40.0  # virtual time in which everything must come to rest once nothing fails any more
WATCHES_S = 15.0  # virtual time in which each watch, then, has seen all
SAME_STATE_EVERY = 16  # entries: the states are compared that far apart, where a member's run of entries ends there
SEARCH_BUDGET = 3_000  # of a search that is the second opinion


class World:
    """Everything of one run; also the `Observer` of all its machines."""

    machine_type: type[Machine] = Machine

    def __init__(self, seed: str, options: Options, *, keep_trace: bool = False) -> None:
        self.seed = seed
        self.options = options
        self.loop = SimLoop(seed)
        self.loop.on_complaint = self._complained
        self.chance = random.Random(f"{seed}/world")
        self.network = SimNetwork(self.loop, seed)
        self.log, self.one_history, self.same_state = OneLog(), OneHistory(), SameState()
        self.one_leader = OneLeader()
        second_ns = NS * 1_000_000 // (1_000_000 + options.drift_ppm)
        self.history, self.leases, self.ticks = History(second_ns), Leases(second_ns), Ticks()
        self.promptness = Promptness(self)
        self.slots = Slots(options.gates)
        self.watches, self.takeovers = Watches(self.one_history), Takeovers()
        self._leadership_revisions: list[int] = []
        self.machines: list[Machine] = []
        self.happened: Counter[str] = Counter()
        self._retired: list[Machine] = []
        self._apps: list[App] = []
        self.watching: list[Watching] = []
        self.quiet = False  # liveness: nothing fails any more, clients stop
        self.quieted: asyncio.Future[None] = self.loop.create_future()
        self.broken: asyncio.Future[None] = self.loop.create_future()
        self._error = ""
        self._place = "\0"
        self._digest = hashlib.sha256()
        self._trace: list[str] | None = [] if keep_trace else None
        self._tasks: list[asyncio.Task[Any]] = []

    # -- the run

    def run(self) -> Report:
        report = Report(self.seed, self.options)
        with tempfile.TemporaryDirectory(prefix="raftsched-sim-", dir=MEMORY if MEMORY.is_dir() else None) as path:
            self._place = path  # by chance: it must not be in the trace
            try:
                self.loop.run_until_complete(self._main(Path(path)))
            except (Broken, Stuck) as error:
                self._error = self._error or f"{type(error).__name__}: {error}"
            finally:
                self._end()
        self._fill(report)
        return report

    def _fill(self, report: Report) -> None:
        report.error = self._error
        report.digest = self._digest.hexdigest()
        report.virtual_s = self.loop.time()
        report.entries = self.log.last_index
        report.operations = len(self.history.operations)
        report.deliveries, report.committed_ticks = self.ticks.deliveries, self.ticks.committed
        report.lives = sum(machine.lives for machine in self.machines)
        report.watched = sum(len(one.got) for one in self.watching)
        report.expired, report.undecided = self.leases.expired, self.history.undecided
        report.turns, report.takeovers = self.loop.turns, self.takeovers.count
        report.trace = self._trace or []
        report.happened = self.happened + self.network.happened
        report.happened["slots full"] = sum(self.slots.full.values())
        report.happened["torn"] = sum(machine.torn for machine in self.machines)
        report.held_up, report.latest_ms = self.promptness.asked, self.promptness.latest_ns / 1e6

    def _end(self) -> None:
        for machine in [*self.machines, *self._retired]:
            if machine.process is not None:
                machine.process.owner.kill()
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(Stuck):
            if self._tasks:
                self.loop.run_until_complete(asyncio.wait(self._tasks))
        self.loop.discard()

    async def _main(self, path: Path) -> None:
        self._path = path
        names = [f"m{number}" for number in range(self.options.members)]
        for name in names:
            self._make(name, names)
        for number, machine in enumerate(self.machines):
            if number not in self.options.absent:  # not in step: members whose ticks fall together campaign together
                self.loop.call_later(self.chance.random() * START_WITHIN_S, machine.start)
        self._people()
        if self.options.promptness and not self.options.late_apps_s:  # who has no worker waits
            self.spawn(self.promptness.run())
        await self._unless_broken(self.happen())
        await self._unless_broken(self._rest())
        self._verdict()

    def _make(self, name: str, listed: Sequence[str]) -> Machine:
        node = {**self.options.node, "initial_cluster": tuple((one, (peer_url(one),)) for one in listed)}
        network = self.network if len(listed) > 1 or self.options.networked else None
        most_ppm = self.options.drift_ppm
        drift_ppm = random.Random(f"{self.seed}/{name}/drift").randint(-most_ppm, most_ppm)
        machine = self.machine_type(
            self.loop, self, name, seed=self.seed, path=self._path, options=node, network=network, drift_ppm=drift_ppm
        )
        self.machines.append(machine)
        return machine

    def add_machine(self, name: str, listed: Sequence[str]) -> Machine:
        """One more, not started; the apps connect to it too. `listed`: the initial cluster that it is told."""
        machine = self._make(name, listed)
        for app in self._apps:
            self.spawn(app.run(machine))
        return machine

    def retire(self, machine: Machine) -> None:
        """It is scaled away: nobody expects it to serve any more, and it does not start again by itself."""
        machine.retired = True
        self.machines.remove(machine)
        self._retired.append(machine)

    def bring_back(self, machine: Machine) -> None:
        """It starts again, on the disk that it has."""
        machine.retired = False
        self._retired.remove(machine)
        self.machines.append(machine)
        machine.start()

    def _people(self) -> None:
        options = self.options
        keys = [f"k{number}" for number in range(options.keys)]
        for number in range(options.clients):
            self.spawn(Client(self, number, keys).run())
        for number in range(options.watches):
            key, end = self.chance.choice([(b"k", b"l"), (b"k0", b"k1"), (b"dapr/", b"dapr0"), (b"a", b"z")])
            self.watching.append(Watching(self, number, key, end))
            self.spawn(self.watching[-1].run())
        for number in range(options.planners):
            self.spawn(Planner(self, number).run())
        for number in range(options.apps):
            app = App(self, number)
            self._apps.append(app)
            for machine in self.machines:
                self.spawn(app.run(machine))

    def spawn(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        if not task.cancelled() and task.exception() is not None:
            self.break_off(task.exception())

    def happen(self) -> Coroutine[Any, Any, None]:
        """What goes wrong before all is well; a story of a test's own in place of chance."""
        return Nemesis(self).run()

    async def _unless_broken(self, work: Any) -> None:
        task = self.loop.create_task(work)
        await asyncio.wait([task, self.broken], return_when=asyncio.FIRST_COMPLETED)
        if self.broken.done():
            task.cancel()
            raise Broken(self._error)
        task.result()

    # -- liveness

    async def _rest(self) -> None:
        """Everything heals, and all must come right by itself."""
        self.quiet = True
        self.quieted.set_result(None)
        self.note("world", "heals")
        self.network.heal()
        for machine in self.machines:
            machine.faults.full = machine.faults.fail_sync = False
            machine.faults.slowness = 0
            machine.start()
        deadline_s = self.loop.time() + REST_S
        while (why := self._unrest()) and self.loop.time() < deadline_s:
            await asyncio.sleep(0.2)
            for machine in self.machines:
                machine.start()  # one that could not start while its disk was ill
        if why:
            raise Broken(f"no rest after {REST_S:.0f} s without faults: {why}")
        await self._watched()

    async def _watched(self) -> None:
        """Each watch sees all that there is now, by its events or by a notice of progress."""
        revision, deadline_s = max(self.one_history.revisions, default=0), self.loop.time() + WATCHES_S
        while behind := [one for one in self.watching if not one.start or one.seen < revision]:
            if self.loop.time() > deadline_s:
                raise Broken(f"watch completeness: {behind[0].name} has seen {behind[0].seen} of {revision} after {WATCHES_S:.0f} s")
            await asyncio.sleep(0.2)

    def _unrest(self) -> str:
        """What is not as it must be in the end; empty when all is."""
        for machine in self.machines:
            process = machine.process
            if process is None or not process.serving:
                return f"{machine.name} does not serve"
            if not machine.voting:
                return f"{machine.name} has no vote"
            if process.node.status().applied_index != self.log.last_index:
                return f"{machine.name} has applied {process.node.status().applied_index} of {self.log.last_index}"
            if not process.service.ready.is_set():
                return f"the scheduler of {machine.name} is not ready"
        now_ns = min(machine.process.service.now_ns() for machine in self.machines if machine.process) - 3 * NS
        if overdue := self.ticks.overdue(now_ns):
            return f"none lost: {len(overdue)} jobs are overdue: {overdue[0]}"
        return ""

    # -- the verdict

    def _verdict(self) -> None:
        for machine in self.machines:
            self._look(machine.process)
        for one in self.watching:
            self.watches.check(one.name, one.key, one.end, one.start, one.got, until=one.seen)
        if orphans := self.ticks.orphans():
            raise Broken(f"counters without a job: {orphans}")
        self.history.finish(self.one_history, budget=SEARCH_BUDGET)

    def _look(self, process: Process | None) -> None:
        if process is None or process.member is None:
            return
        self.same_state.look(process.name, process.member.applier)

    # -- what people ask of the world

    def some_process(self, chance: random.Random) -> Process | None:
        serving = [machine.process for machine in self.machines if machine.process is not None and machine.process.serving]
        return chance.choice(serving) if serving else None

    def delivered(self, process: Process, name: bytes, job: bytes | None, counter: bytes | None) -> None:
        self.note(process.name, f"fires {name.decode()}")
        self._checked(self._delivered, process, name, job, counter)
        if self.options.fenced:
            known = bisect_right(self._leadership_revisions, process.node.revision)
            self._checked(self.takeovers.delivered, process.name, name, self._leadership_revisions[known - 1] if known else 0)

    def took(self, process: Process, stream: object, trigger: Any) -> None:
        """A stream has a trigger (WatchJobsResponse)."""
        told = trigger.metadata
        partition = process.service.leadership.partition
        place = None if partition is None else (partition.index, partition.total)
        kind, now_ns = told.target.actor.type, self.loop.now_ns
        self._checked(self.slots.delivered, process.name, stream, trigger.id, kind, told.concurrency_key, place, now_ns)

    def _delivered(self, process: Process, name: bytes, job: bytes | None, counter: bytes | None) -> None:
        clock_ns = process.machine.clock.highest_ns
        self.promptness.delivered(self.ticks.delivered(process.name, name, job, counter, clock_ns, self.loop.now_ns))

    # -- Observer

    def applied(self, process: Process, first: int, term: int, kind: int, entries: list[bytes], results: list[Result]) -> None:
        self.note(process.name, f"applies {first}+{len(entries)} term {term}")
        self._checked(self.log.applied, process.name, first, term, kind, entries)
        self._checked(self.leases.applied, process.name, self.loop.now_ns, kind, entries)
        if (first + len(entries) - 1) % SAME_STATE_EVERY == 0:
            self._checked(self._look, process)

    def changed(self, process: Process, changes: Sequence[Change], revision: int) -> None:
        for change in changes:
            if change.key.startswith(LEADERSHIP) and change.main > (self._leadership_revisions or [0])[-1]:
                self._leadership_revisions.append(change.main)  # deletions too: a key that is gone is news as well
        fresh: list[list[Change]] = []
        self._checked(lambda: fresh.extend(self.one_history.changed(process.name, changes)))
        for batch in fresh:
            self._checked(self.ticks.revision, batch)

    def follows(self, process: Process, term: int, leader: int) -> None:
        self._checked(self.one_leader.told, process.name, term, leader)

    def started(self, process: Process) -> None:
        self.note(process.name, "serves")
        self._checked(self._look, process)

    def failed(self, process: Process, line: str) -> None:
        """Allowed only for what a disk did, and for who was removed."""
        machine = process.machine
        self.note(process.name, f"ends: {line}")
        if machine.removable and "was removed from the cluster" in line:
            self.loop.call_soon(machine.wipe, context=Context())
        elif machine.removable and "has left the cluster" in line:
            self.happened["left"] += 1
        elif not (machine.faults.failed or machine.faults.full):
            self.break_off(FatalError(f"{process.name} ended without a reason: {line}"))
        self.loop.call_later(0.5, machine.start, context=Context())  # not as the process that is about to end

    def note(self, who: str, what: str) -> None:
        line = f"{self.loop.now_ns / 1e9:.6f} {who}: {what.replace(self._place, '')}"
        self._digest.update(line.encode())
        if self._trace is not None:
            self._trace.append(line)

    def _complained(self, line: str) -> None:
        if line.startswith("Future exception was never retrieved: StatusError("):
            return  # an answer of a process that ended to one of its own tasks, which ended with it
        self.break_off(Broken(f"an exception that nobody caught: {line}"))

    def break_off(self, error: BaseException | None) -> None:
        if not self._error:
            self._error = f"{type(error).__name__}: {error}"
            self.note("world", self._error)
        if not self.broken.done():
            self.broken.set_result(None)

    def _checked(self, check: Callable[..., None], *arguments: Any) -> None:
        """A checker's verdict ends the run; it must not run into the member that it is about."""
        try:
            check(*arguments)
        except Exception as error:
            self.break_off(error)


def simulate(seed: str, *, options: Options | None = None, keep_trace: bool = False, world: type[World] = World) -> Report:
    """One run."""
    return world(seed, options or Options.draw(seed), keep_trace=keep_trace).run()
