"""Schedulers over an etcd that is not theirs (`--etcd-embed=false`), in virtual time, from one seed: the bridge, the leadership, the
engine and the delivery are real; `etcd.SimEtcd` is what they talk to.

First anything may fail, then nothing does, and all must come to rest. Workers and those who make jobs are those of `World`.
"""

import asyncio
import contextlib
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from types import SimpleNamespace
from typing import Any
from unittest import mock

from raftsched.scheduler.bridge.external import caller, condition, endpoints, leases, watching
from raftsched.scheduler.jobs.names import LEADERSHIP
from raftsched.testing.sim.checkers import Broken
from raftsched.testing.sim.etcd import SimEtcd
from raftsched.testing.sim.external_faults import Faults
from raftsched.testing.sim.external_options import NAMES, ExternalOptions, ExternalReport
from raftsched.testing.sim.loop import SimLoop, Stuck
from raftsched.testing.sim.replicas import Process, Replica
from raftsched.testing.sim.slots import Slots
from raftsched.testing.sim.ticks import Ticks
from raftsched.testing.sim.workers import App, Planner
from raftsched.types import Change

NS = 1_000_000_000


class ExternalWorld:
    """See the module's text."""

    def __init__(self, seed: str, options: ExternalOptions, *, keep_trace: bool = False) -> None:
        self.seed, self.options = seed, options
        self.loop = SimLoop(seed)
        self.loop.on_complaint = lambda line: self.break_off(Broken(f"an exception that nobody caught: {line}"))
        self.chance = random.Random(f"{seed}/world")
        self.etcd = SimEtcd(self.loop, seed)
        self.etcd.store.sinks.insert(0, self)
        self.ticks, self.slots = Ticks(), Slots(options.gates)
        self.replicas = {name: Replica(self, name) for name in NAMES}
        self.wanted = set(NAMES[: options.replicas])
        self.happened: Counter[str] = Counter()
        self.quiet = False
        self.quieted: asyncio.Future[None] = self.loop.create_future()
        self.broken: asyncio.Future[None] = self.loop.create_future()
        self.by_hand_until_s = 0.0
        self._error = ""
        self._over = False
        self._digest = hashlib.sha256()
        self._trace: list[str] | None = [] if keep_trace else None
        self._tasks: list[asyncio.Task[Any]] = []

    # -- the run
    def run(self) -> ExternalReport:
        report = ExternalReport(self.seed, self.options)
        with virtual_time(self.loop, self.seed):
            try:
                self.loop.run_until_complete(self._main())
            except (Broken, Stuck) as error:
                self._error = self._error or f"{type(error).__name__}: {error}"
            finally:
                self._end()
        report.error, report.digest, report.trace = self._error, self._digest.hexdigest(), self._trace or []
        report.virtual_s, report.entries, report.happened = self.loop.time(), self.etcd.store.revision, self.happened
        report.deliveries, report.committed_ticks = self.ticks.deliveries, self.ticks.committed
        report.happened["slots full"] = sum(self.slots.full.values())
        return report

    def _end(self) -> None:
        self._over = True
        for replica in self.replicas.values():
            replica.kill()
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(Stuck):
            self.loop.run_until_complete(asyncio.wait(self._tasks))
        self.loop.discard()

    async def _main(self) -> None:
        self.spawn(self.etcd.run())
        for name in sorted(self.wanted):
            self.loop.call_later(self.chance.random() * 0.5, self.replicas[name].start, context=Context())
        for number in range(self.options.planners):
            self.spawn(Planner(self, number).run())  # type: ignore[arg-type]  # it has what a World has for them
        for number in range(self.options.apps):
            app = App(self, number)  # type: ignore[arg-type]  # as above
            for replica in self.replicas.values():
                self.spawn(app.run(replica))
        for part in (Faults(self).run, self._rest):
            task = self.loop.create_task(part())
            await asyncio.wait([task, self.broken], return_when=asyncio.FIRST_COMPLETED)
            if self.broken.done():
                task.cancel()
                raise Broken(self._error)
            task.result()

    async def _rest(self) -> None:
        """Everything heals, and all must come right by itself."""
        self.quiet = True
        self.quieted.set_result(None)
        self.note("world", "heals")
        Faults(self).heal()
        end_s = self.loop.time() + self.options.rest_s
        while (why := self._unrest()) and self.loop.time() < end_s:
            await asyncio.sleep(0.2)
            for name in sorted(self.wanted):
                self.replicas[name].start()
        if why:
            raise Broken(f"no rest after {self.options.rest_s:.0f} s without faults: {why}")

    def _unrest(self) -> str:
        """What is not as it must be in the end."""
        for name in sorted(self.wanted):
            process = self.replicas[name].process
            if process is None or not process.serving or not process.service.ready.is_set():
                return f"{name} does not serve"
            if not process.kv.healthy or not process.service.healthy:
                return f"{name} says that it is not well: {process.kv.condition.trouble}"
            partition = process.service.leadership.partition
            if partition is None or partition.total != len(self.wanted):
                return f"{name} fires {partition} of {len(self.wanted)}"
        keys = {key.removeprefix(LEADERSHIP).decode() for key in self.etcd.store.keys if key.startswith(LEADERSHIP)}
        if keys != self.wanted or sum(bool(held) for held in self.etcd.store.leases.values()) != len(keys):
            return f"leadership keys of {sorted(keys)}, wanted are {sorted(self.wanted)}, leases {self.etcd.store.leases}"
        if orphans := self.ticks.orphans():
            return f"counters without a job: {orphans}"
        clocks = [replica.process.service.now_ns() for replica in self.replicas.values() if replica.process and replica.process.serving]
        if overdue := self.ticks.overdue(min(clocks) - 3 * NS):
            return f"none lost: {len(overdue)} jobs are overdue: {overdue[0]}"
        return ""

    # -- what people ask of the world
    def some_process(self, chance: random.Random) -> Process | None:
        serving = [one.process for one in self.replicas.values() if one.process is not None and one.process.serving]
        return chance.choice(serving) if serving else None

    def delivered(self, process: Process, name: bytes, job: bytes | None, counter: bytes | None) -> None:
        self.note(process.name, f"fires {name.decode()}")
        self._checked(self.ticks.delivered, process.name, name, job, counter, process.replica.highest_ns, self.loop.now_ns)
        self._checked(self._owned_alone, process, name)

    def _owned_alone(self, process: Process, name: bytes) -> None:
        """Nobody else may fire it, and who does may."""
        if not process.fires:
            raise Broken(f"fenced: {process.name} fires {name!r}, and its fence is over")
        if self.loop.time() < self.by_hand_until_s:
            return
        own = process.service.engine.describe(name) or {}
        for replica in self.replicas.values():
            other = replica.process
            if other is None or other is process or not other.fires or other.service.leadership.partition is None:
                continue
            known = other.service.engine.describe(name)
            if known and known["owned"] and known["main"] == own["main"]:  # of one and the same put: each has a partition of its own
                raise Broken(f"one owner: {process.name} fires {name!r}, and {other.name} may as well")

    def took(self, process: Process, stream: object, trigger: Any) -> None:
        partition = process.service.leadership.partition
        place = None if partition is None else (partition.index, partition.total)
        told = trigger.metadata
        self._checked(
            self.slots.delivered, process.name, stream, trigger.id, told.target.actor.type, told.concurrency_key, place, self.loop.now_ns
        )

    # -- what is stored
    def on_changes(self, changes: Sequence[Change], revision: int) -> None:
        self._checked(self.ticks.revision, changes)

    def on_reset(self) -> None: ...

    # -- the end of all
    def spawn(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self._tasks.append(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        if not task.cancelled() and task.exception() is not None:
            self.break_off(task.exception())

    def note(self, who: str, what: str) -> None:
        if self._over:
            return
        self.happened["history lost"] += what.startswith("the history of etcd was lost")
        line = f"{self.loop.now_ns / 1e9:.6f} {who}: {what}"
        self._digest.update(line.encode())
        if self._trace is not None:
            self._trace.append(line)

    def break_off(self, error: BaseException | None) -> None:
        if not self._error:
            self._error = f"{type(error).__name__}: {error}"
            self.note("world", self._error)
        if not self.broken.done():
            self.broken.set_result(None)

    def _checked(self, check: Callable[..., object], *arguments: Any) -> None:
        try:
            check(*arguments)
        except Exception as error:
            self.break_off(error)


@contextlib.contextmanager
def virtual_time(loop: SimLoop, seed: str) -> Iterator[None]:
    """The bridge's clock and chance are the run's."""
    clock = SimpleNamespace(monotonic=loop.time, monotonic_ns=lambda: loop.now_ns)
    chance = random.Random(f"{seed}/bridge")
    with contextlib.ExitStack() as stack:
        for module in (caller, condition, endpoints, leases, watching):
            stack.enter_context(mock.patch.object(module, "time", clock))
        stack.enter_context(mock.patch.object(endpoints, "random", chance))
        stack.enter_context(mock.patch.object(leases, "secrets", SimpleNamespace(randbits=chance.getrandbits)))
        yield


def simulate_external(seed: str, *, options: ExternalOptions | None = None, keep_trace: bool = False) -> ExternalReport:
    """One run."""
    return ExternalWorld(seed, options or ExternalOptions.draw(seed), keep_trace=keep_trace).run()
