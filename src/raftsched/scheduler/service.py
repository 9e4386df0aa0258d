"""The asyncio driver of the scheduler: reads the clocks, turns the wheel, carries batches between engine, streams and store.

Invariant: all decisions are the engine's; this file only says when. A store error pauses triggers and never ends the process.
Must not know: gRPC, the wire form of requests, etcd's insides.

One turn (`_turn`): fire what is due, send what is queued, then, when the tick is on its way, work off the acks, and hand all
results so far to the store as one entry. A turn takes at most a few milliseconds; what is left comes in the next one.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from raftsched._core import TimerWheel
from raftsched.errors import EtcdError, StatusError, status_of
from raftsched.limits import (
    ACKS_POSTPONED_MS_MAX,
    ACKS_WAITING_MAX,
    BATCHED_ACK_BYTES,
    CANARY_MS,
    COMMITS_IN_FLIGHT_MAX,
    HANDOVER_RESULTS_MS,
    RESULTS_PENDING_MAX,
    STORE_RETRY_MS_MAX,
    STORE_RETRY_MS_MIN,
)
from raftsched.ports import KvClient, Log
from raftsched.scheduler._timer import LoopTimer
from raftsched.scheduler.dead_letters import DeadLetterBound
from raftsched.scheduler.delivery._delivery import Delivery, StreamState
from raftsched.scheduler.delivery.gates import Gates, Limit
from raftsched.scheduler.engine._engine import LATENESS_BOUNDS_MS, Commit, Engine
from raftsched.scheduler.engine.clock import TickClock
from raftsched.scheduler.jobs.calendars import CalendarRecords
from raftsched.scheduler.jobs.names import CALENDARS, COUNTERS, HISTORY, JOBS, NAMESPACES, RUNS, STATES
from raftsched.scheduler.leadership import Leadership, Partition
from raftsched.scheduler.replicas import own_uid
from raftsched.scheduler.schedule import Schedules, ZoneSource
from raftsched.scheduler.standstill import Obstacle, Standstill
from raftsched.types import Change

SEND_PER_TURN: Final = 1_024  # about 5 ms of reading, encoding and pushing
SEND_PER_LOOK: Final = 128  # then the fence is looked at again: this process may have slept in the middle of a turn
ACK_MESSAGES_PER_TURN: Final = 1_024
FINISH_PER_TURN: Final = 512
ARM_PER_TURN: Final = 8_000  # about 3 ms, where the wheel has to make room for them
PRE_CASCADE_JOBS: Final = 50_000  # a wheel of more moves them down ahead of time
FROZEN_POLL_NS: Final = 10_000_000  # while the wall clock is behind, after a step back
FENCE_POLL_NS: Final = 20_000_000  # while the fence is over
WALL_LOOK_NS: Final = 1_000_000_000  # a sleep goes by the monotonic clock: that the wall was set forth, or the machine suspended, is seen
HANDOVER_POLL_MS: Final = 5
STOP_COMMIT_MS: Final = 1_000  # how long a shutdown waits for results that are on the way
UNHEALTHY_AFTER_MS: Final = 5_000  # results that cannot be stored; the contract: 503 within 10 s
NOTES_PER_SECOND: Final = 20


class StreamOwner(Protocol):
    """Who opened a stream: told when it is to be cut off."""

    def cut_off(self, reason: str) -> None: ...


class Timer(Protocol):
    """One wake-up of the loop: `_timer.LoopTimer`, or the simulator's."""

    def arm(self, delay_ns: int) -> None:
        """Sets it, in place of what was set."""

    def close(self) -> None: ...


def weight_of(stream: StreamState, messages: Sequence[bytes]) -> int:
    """About how many answers these are."""
    return sum(len(one) // BATCHED_ACK_BYTES + 1 for one in messages) if stream.batched else len(messages)


class SchedulerService:
    """One scheduler over one `KvClient`. All methods on the loop's thread."""

    def __init__(
        self,
        kv: KvClient,
        *,
        scheduler_id: str,
        address: str,
        zone_source: ZoneSource,
        rng: Callable[[], int],
        log: Log,
        engine_log: Log,
        workers: int = 2048,
        wall_ns: Callable[[], int] = time.time_ns,
        mono_ns: Callable[[], int] = time.monotonic_ns,
        timer: Callable[[asyncio.AbstractEventLoop, Callable[[], None]], Timer] = LoopTimer,
        canary_ms: int = CANARY_MS,
    ) -> None:
        """`address`: the broadcast host:port. `rng`: 64 random bits a call. `zone_source`: tables of IANA zones by name. `timer(loop,
        wake)`: what wakes the turn. `canary_ms`: between two canaries; where it is much longer, `stuck` means nothing."""
        self.kv = kv
        self.random = rng
        self._log = log
        self._engine_log = engine_log
        self._id, self._address = scheduler_id, address
        self._workers = workers
        self._wall_ns, self._mono_ns = wall_ns, mono_ns
        self._clock = TickClock(wall_ns(), mono_ns())
        wheel = TimerWheel(wall_ns() // 1_000_000, hash_seed=rng())
        self.gates = Gates()
        self.delivery = Delivery()
        self.schedules = Schedules(zone_source, wheel.cron)
        self.calendars = CalendarRecords(self.schedules.calendars, self._note)
        self.engine = Engine(
            wheel,
            self.delivery,
            self.gates,
            kv.read_record,
            self.schedules.compile,
            self._note,
            hash_key=(rng(), rng()),
            extended=self.schedules.extended,
            calendars=self.calendars,
            replica=scheduler_id.encode(),
        )
        self.engine.open_canary(self._on_canary)
        self._canary_ms = canary_ms
        self._standstill = Standstill(LATENESS_BOUNDS_MS)
        self.leadership = Leadership(kv, scheduler_id=scheduler_id, address=address, uid=own_uid(rng()), log=engine_log, firing=self)
        self.dead_letters = DeadLetterBound(kv, engine_log)
        self.ready = asyncio.Event()
        self._ready_waiters: list[Callable[[], None]] = []
        self.closing = False
        self.hosts: tuple[str, ...] = ()
        self.host_listeners: set[Callable[[tuple[str, ...]], None]] = set()
        self.event_listeners: set[Callable[[], None]] = set()
        """Called when the engine has heard changes; they only note it."""
        self._acks: deque[tuple[StreamState, Sequence[bytes]]] = deque()
        self._acks_waiting = 0
        self._acks_since_ms = 0
        self._commits_in_flight = 0
        self._refused: deque[Commit] = deque()
        self._retry_delay_ms = STORE_RETRY_MS_MIN
        self._failing_since_ms = 0
        self._failing = ""
        self.loaded = asyncio.Event()  # the engine knows all jobs
        self._turn_set = False
        self._arming = False
        self._notes: dict[int, int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._leading: list[asyncio.Task[None]] = []
        self._given_away = False
        self._reload = asyncio.Event()
        self._unsubscribe: Callable[[], None] | None = None
        self._make_timer = timer
        self._timer: Timer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- lifecycle
    async def start(self) -> None:
        """Subscribes, then loads and claims the leadership key in the background; `ready` is set at the first quorum."""
        self._loop = asyncio.get_running_loop()
        self._timer = self._make_timer(self._loop, self._wake)
        self._unsubscribe = self.kv.subscribe(self)
        self._reload.set()
        self._tasks = [self._loop.create_task(self._load_loop())]
        self._send_canary()
        self._lead()

    def _lead(self) -> None:
        assert self._loop is not None
        self._leading = [self._loop.create_task(run) for run in (self.leadership.run(), self.leadership.bury())]

    # -- `ports.Duties`: the member leaves its cluster
    async def give_away(self) -> None:
        """No trigger any more; results that come at once are committed; the leadership key is given up, its lease revoked."""
        self._given_away = True
        self.leadership.retire()
        self.engine.set_partition(0, 0)
        await self.results()
        await self._finish_commits()
        for task in self._leading:
            task.cancel()
        await asyncio.gather(*self._leading, return_exceptions=True)
        await self.leadership.stop()
        self._engine_log.info("the jobs were handed over to the other members")

    def take_up(self) -> None:
        given_away, self._given_away = self._given_away, False
        if not given_away or self.closing or self._timer is None:
            return
        self._engine_log.info("this member takes part again")
        for task in self._leading:
            task.cancel()
        self.leadership.resume()
        self._lead()

    async def stop(self) -> None:
        """No trigger any more; results that come at once are committed as far as the store answers; the lease is revoked.

        Cancelled, it still lets go of the loop and the store: the next incarnation runs on the same loop.
        """
        self.closing = True
        self.leadership.retire()
        self.engine.set_partition(0, 0)
        try:
            await self.results()
            await self._finish_commits()
            tasks = self._tasks + self._leading
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.leadership.stop()
        finally:
            self._let_go()
        self._engine_log.info("cron instance shutdown")

    def _let_go(self) -> None:
        self.dead_letters.close()
        for task in self._tasks + self._leading:
            task.cancel()
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    async def _finish_commits(self) -> None:
        deadline_ms = self._mono_ms() + STOP_COMMIT_MS
        while (self._acks or self.engine.results_pending) and not self._refused and self._mono_ms() < deadline_ms:
            self._work_off_acks(self._now_ms())
            self._commit()
            await asyncio.sleep(0.001)

    @property
    def healthy(self) -> bool:
        """False while trigger results cannot be stored."""
        return not self._failing_since_ms or self._mono_ms() - self._failing_since_ms < UNHEALTHY_AFTER_MS

    # -- whether it delivers
    def _send_canary(self) -> None:
        self.engine.send_canary(self._now_ms() + self._canary_ms)
        self._standstill.canary_due(self._mono_ms() + self._canary_ms)

    def _on_canary(self, _message: bytes) -> bool:
        self._standstill.canary_back(self._mono_ms())
        self._send_canary()
        return True

    def stuck(self) -> dict[str, str]:
        """What stands still, and why, by one of `standstill.PARTS`; empty = this replica delivers."""
        if self.closing or self._given_away:
            return {"server": "this replica gives its jobs to the others"}
        now_ms, mono_ms = self._now_ms(), self._mono_ms()
        fired_ms = self.engine.oldest_unsent_ms
        unsent_ms = now_ms - fired_ms if fired_ms >= 0 else 0
        return self._standstill.look(mono_ms, obstacle=self._obstacle(), store=self.kv.stuck(mono_ms), unsent_ms=unsent_ms)

    def _obstacle(self) -> Obstacle:
        """What keeps triggers from being sent now, the canary among them."""
        if not self.loaded.is_set():
            return "store", "the jobs are being loaded"
        if self._failing_since_ms:
            return "commit", f"results of triggers are refused: {self._failing}"
        if self.leadership.partition is None:
            return "store", "the leadership key of this replica is not written"
        if self._clock.frozen_ns:
            return "wheel", f"the clock was set back: time stands still for {self._clock.frozen_ns / 1e9:.1f} s"
        if self.engine.results_pending >= RESULTS_PENDING_MAX:
            return "commit", f"{self.engine.results_pending} results wait to be stored"
        if not self._inside_fence():
            return "store", "this replica may not trigger: neither a majority nor the leadership lease has let it go on"
        if self.engine.canary_armed:
            return "wheel", "what is due does not leave the timing wheel"
        return "delivery", "what has left the timing wheel is not sent"

    def now_ns(self) -> int:
        """The scheduler's present instant, ns since the epoch."""
        return self._clock.read(self._wall_ns(), self._mono_ns())

    def _now_ms(self) -> int:
        return self.now_ns() // 1_000_000

    # -- load and ownership
    async def _load_loop(self) -> None:
        delay_ms = STORE_RETRY_MS_MIN
        while True:
            await self._reload.wait()
            self._reload.clear()
            self.loaded.clear()
            self.engine.begin_load()
            try:
                revision = 0
                # a state or a kept run without a job is a stray: jobs first
                for prefix in (JOBS, COUNTERS, NAMESPACES, STATES, RUNS, CALENDARS, HISTORY):
                    revision = max(revision, await self.kv.scan(prefix, self._on_page))
                await self.leadership.resync()
            except Exception as error:  # a fault of ours, too: without the load nothing fires
                reason = error.message if isinstance(error, StatusError) else repr(error)
                self._engine_log.warning(f"jobs could not be loaded, trying again: {reason}")
                await asyncio.sleep(delay_ms / 1000)
                delay_ms = min(delay_ms * 2, STORE_RETRY_MS_MAX)
                self._reload.set()
            if self._reload.is_set():
                continue
            delay_ms = STORE_RETRY_MS_MIN
            self.engine.finish_load(revision)
            self.calendars.tell_missing()
            self.loaded.set()
            self._arming = True
            self._engine_log.info("jobs loaded", count=self.engine.jobs)
            self._wake()

    def _on_page(self, changes: Sequence[Change]) -> None:
        self.engine.on_changes(changes)

    # -- Firing, for the leadership
    def own(self, partition: Partition) -> None:
        hosts = partition.hosts
        self.engine.set_partition(partition.total, partition.index)
        # By the address, not by the place among the keys: Dapr's replicas beside this one count so too, and all shares make the limit.
        self.engine.set_gate_share(hosts.index(self._address) if self._address in hosts else 0, len(hosts))
        if hosts != self.hosts:
            self.hosts = hosts
            for listener in list(self.host_listeners):
                listener(hosts)
        self._first_quorum()  # last: who waited for it looks at the hosts
        self._arming = True
        self._wake()

    def narrow(self, total: int, index: int) -> None:
        self.engine.narrow(total, index)

    def disown(self) -> None:
        self.engine.set_partition(0, 0)

    async def results(self) -> None:
        if self._loop is None:
            return
        deadline_s = self._loop.time() + HANDOVER_RESULTS_MS / 1000
        while self.engine.leaving and self._loop.time() < deadline_s:
            await asyncio.sleep(HANDOVER_POLL_MS / 1000)

    def _first_quorum(self) -> None:
        if not self.ready.is_set():
            self._engine_log.info("Starting queue with workers", id=self._id, count=self._workers)
            self._log.info("Cron is ready")
            self.ready.set()
            waiting, self._ready_waiters = self._ready_waiters, []
            for callback in waiting:
                callback()

    def when_ready(self, callback: Callable[[], None]) -> None:
        """Calls it at the first quorum, at once if that has been."""
        if self.ready.is_set():
            callback()
        else:
            self._ready_waiters.append(callback)

    # -- ChangeSink
    def on_changes(self, changes: Sequence[Change], revision: int) -> None:
        self.engine.heard_ms = self._wall_ns() // 1_000_000
        others = self.engine.on_changes(changes)
        self.engine.mark_told(revision)
        for listener in self.event_listeners:
            listener()
        if others:
            self.leadership.on_changes(others)
        if self.engine.regained:
            self.engine.regained = False
            self._arming = True
        if self.engine.touched:
            self._wake()  # a turn for each batch of other clients' writes would be a tenth of what that costs

    def on_reset(self) -> None:
        self._engine_log.warning("the history of the store was lost, loading all jobs again")
        self._reload.set()

    # -- streams, for rpc
    def open_stream(
        self,
        push: Callable[[bytes], bool],
        owner: StreamOwner,
        prefixes: Sequence[tuple[bytes, int, tuple[str, str] | None]],
        namespace: str,
        limits: Sequence[Limit],
        *,
        batched: bool = False,
    ) -> StreamState:
        stream = self.engine.open_stream(push, owner, prefixes, namespace, limits, batched=batched)
        self._wake()
        return stream

    def close_stream(self, stream: StreamState) -> None:
        # What the client said before it went counts: one that half-closes after its last answer is not delivered to again.
        for one, messages in [entry for entry in self._acks if entry[0] is stream]:
            self.engine.on_acks(one, messages, self._now_ms())
        self._acks = deque(entry for entry in self._acks if entry[0] is not stream)
        self._acks_waiting = sum(weight_of(one, messages) for one, messages in self._acks)
        self.engine.close_stream(stream)
        self._wake()

    def stream_writable(self, stream: StreamState) -> None:
        self.engine.stream_writable(stream)
        self._wake()

    def on_acks(self, stream: StreamState, messages: Sequence[bytes]) -> None:
        """Answers of a stream, in order; worked off when the tick that is being sent is out."""
        if not self._acks:
            self._acks_since_ms = self._mono_ms()
        self._acks.append((stream, messages))
        self._acks_waiting += weight_of(stream, messages)
        while self._acks and self._acks_waiting > ACKS_WAITING_MAX:  # whoever floods is not read meanwhile
            self._work_off_acks(self._now_ms())
        self._wake()

    # -- the turn
    def _wake(self) -> None:
        if not self._turn_set and self._loop is not None and not self._loop.is_closed():
            self._turn_set = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_set = False
        if self._timer is None:
            return
        now_ms = self._now_ms()
        engine = self.engine
        firing = self._may_fire()
        if firing:
            engine.advance(now_ms)
        inside = self._send_some()
        for stream in list(self.delivery.overflowed):
            self.delivery.overflowed.remove(stream)
            stream.owner.cut_off("the stream does not read its triggers")
        sending = inside and (engine.sendable or (firing and engine.more))
        if self._acks and (not sending or self._mono_ms() - self._acks_since_ms > ACKS_POSTPONED_MS_MAX):
            self._work_off_acks(self._now_ms())
        more = engine.finish_some(FINISH_PER_TURN) if firing else False
        if self._arming:
            self._arming = self.loaded.is_set() and engine.arm_some(ARM_PER_TURN)
            more = True
        self._commit()
        if more or sending or self._acks:
            self._wake()
        elif firing and inside:
            self._sleep()
        elif not self._blocked():
            self._timer.arm(min(self._clock.frozen_ns, FROZEN_POLL_NS) or FENCE_POLL_NS)

    def _send_some(self) -> bool:
        """Sends what a turn has room for; False = the fence is over: nothing may be sent, others may have these jobs."""
        budget = SEND_PER_TURN
        while self._inside_fence():
            if budget <= 0 or not self.engine.sendable:
                return True
            if self.engine.flush(SEND_PER_LOOK, self._now_ms()):
                self._standstill.sent(self._mono_ms())
            budget -= SEND_PER_LOOK
        return False

    def _inside_fence(self) -> bool:
        return self.kv.fence_ms() > self._mono_ms()

    def _blocked(self) -> bool:
        """Something that will wake the turn by itself stands in the way of firing."""
        return not self.loaded.is_set() or self.closing or bool(self._failing_since_ms) or self.leadership.partition is None

    def _may_fire(self) -> bool:
        # While time stands still the wheel is ahead of the wall: what is put now could be due there, and not yet here.
        willing = not self._blocked() and not self._clock.frozen_ns and self.engine.results_pending < RESULTS_PENDING_MAX
        return willing and self._inside_fence()

    def _sleep(self) -> None:
        assert self._timer is not None
        due_ms = self.engine.wheel.next_wakeup()
        if due_ms < 0:
            return
        delay_ns = due_ms * 1_000_000 - self.now_ns()
        if delay_ns <= 0:
            self._wake()
            return
        if len(self.engine.wheel) > PRE_CASCADE_JOBS:
            delay_ns = min(delay_ns, self.engine.wheel.cascade_wait() * 1_000_000)
        self._timer.arm(min(delay_ns, WALL_LOOK_NS))

    def _work_off_acks(self, now_ms: int) -> None:
        budget = ACK_MESSAGES_PER_TURN
        while self._acks and budget > 0:
            stream, messages = self._acks.popleft()
            share = 1 if stream.batched else budget
            if len(messages) > share:
                self._acks.appendleft((stream, messages[share:]))
                messages = messages[:share]
            weight = weight_of(stream, messages)
            budget -= weight
            self._acks_waiting -= weight
            if stream.open and (reason := self.engine.on_acks(stream, messages, now_ms)) is not None:
                stream.owner.cut_off(reason)
        self._acks_since_ms = self._mono_ms()

    # -- commits
    def _commit(self) -> None:
        if self._failing_since_ms:
            return
        room = COMMITS_IN_FLIGHT_MAX - self._commits_in_flight
        if room > 0 and self.engine.commit_waiting:
            for commit in self.engine.take_commits(room):
                self._send(commit)

    def _send(self, commit: Commit) -> None:
        self._commits_in_flight += 1
        self._standstill.commit_begun(commit, self._mono_ms())

        def done(error: int, revision: int, outcomes: bytes) -> None:
            self._commits_in_flight -= 1
            if error:
                self._on_refused(commit, error)
                return
            self._standstill.commit_ended(commit)
            self._on_stored()
            if self.engine.on_outcomes(commit, outcomes, self._now_ms()):
                self._engine_log.error("a committed result has no change, loading all jobs again", revision=revision)
                self._reload.set()
            if self.engine.dead_namespaces:
                self._kept_dead_letters()
            self._wake()

        self.kv.txn_packed(commit.request, commit.count, done)

    def _kept_dead_letters(self) -> None:
        if not self.closing:
            self.dead_letters.look(set(self.engine.dead_namespaces))
        self.engine.dead_namespaces.clear()

    def _on_refused(self, commit: Commit, error: int) -> None:
        # The guards make repeating safe: if an unknown outcome was a success, they fail, and the change has been told.
        self._refused.append(commit)
        if error == EtcdError.STOPPED or self.closing:
            return
        if not self._failing_since_ms:
            self._failing_since_ms = self._mono_ms() or 1
            self._failing = status_of(error).message
            self._engine_log.warning(f"trigger results cannot be stored, triggers pause: {self._failing}")
        if len(self._refused) == 1 and self._loop is not None:
            self._loop.call_later(self._retry_delay_ms / 1000, self._retry_refused)
            self._retry_delay_ms = min(self._retry_delay_ms * 2, STORE_RETRY_MS_MAX)

    def _retry_refused(self) -> None:
        if self.closing or not self._refused:
            return
        held = list(self._refused)
        self._refused.clear()
        for commit in held:
            self._send(commit)

    def _on_stored(self) -> None:
        if self._failing_since_ms and not self._refused:
            self._engine_log.info("trigger results are stored again")
            self._failing_since_ms = 0
            self._retry_delay_ms = STORE_RETRY_MS_MIN

    # -- notes
    def _note(self, event: str, key: bytes) -> None:
        """What the engine tells for the log; at most some lines a second, the rest is counted in the engine's totals."""
        second = self._mono_ms() // 1000
        count = self._notes.get(second, 0)
        self._notes = {second: count + 1}
        if count < NOTES_PER_SECOND:
            self._engine_log.warning(event, key=key.decode("utf-8", "replace"))

    def _mono_ms(self) -> int:
        return self._mono_ns() // 1_000_000

    def stats(self) -> dict[str, Any]:  # Any: numbers and lists of numbers, by name
        """Everything that is counted here and below, for metrics and status."""
        return {
            **self.engine.metrics(),
            **self.engine.lateness(),
            "canary": (self._standstill.canary_counts, self._standstill.canary_sum_ms),
            "oldest_commit_ms": self._standstill.oldest_commit_ms(self._mono_ms()),
            **self.delivery.stats(),
            "jobs": self.engine.jobs,
            "undecodable": self.engine.undecodable_total,
            "unknown_acks": self.engine.unknown_acks_total,
            "results_pending": self.engine.results_pending,
            "gates": self.gates.gauges(),
            "throttled": dict(self.gates.throttled),
        }
