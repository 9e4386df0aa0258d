"""One member on the asyncio loop: the pump between host, log, backend and those who ask.

One turn of the pump: the host steps the replica with all that is queued; its output is performed in this order: persist (the log's thread),
send, changes to their sinks, replies, reads. Completions of the log come back through an eventfd and start the next turn.

Invariant: everything here runs on the loop thread; a turn applies at most one slice; nobody is answered before the change sinks know.
Must not know: gRPC, jobs.
"""

import asyncio
import hashlib
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from raftsched import limits
from raftsched.errors import EtcdError, FatalError, GrpcCode, IncarnationOverError, NoSpaceError, StatusError, status_of
from raftsched.ports import ChangeSink, StoreStatus
from raftsched.ports import Log as LogPort
from raftsched.store import alarm, codec, membership
from raftsched.store.backend.directory import DataDirectory
from raftsched.store.birth import Birth
from raftsched.store.codec import Headers, largest, text_field, varint_field
from raftsched.store.host import ReplicationHost, host_configuration
from raftsched.store.mvcc._store import MvccStore
from raftsched.store.node.beginning import was_forced
from raftsched.store.node.clustering import Clustering
from raftsched.store.node.compaction import AutoCompactor, history_full
from raftsched.store.node.entering import Entering
from raftsched.store.node.flush import Flusher
from raftsched.store.node.leases import Leases
from raftsched.store.node.metrics import APPLY_BOUNDS, ETCD_DISK_BOUNDS, Histogram
from raftsched.store.node.opening import Member, Opener
from raftsched.store.node.options import Clock, NodeOptions, SystemClock
from raftsched.store.node.peering import Network, Peering
from raftsched.store.node.sinks import AnswerTo, CompactionEnd, Nobody, Revocations, Waiter
from raftsched.store.node.snapshots import Snapshots
from raftsched.store.node.versions import FIRST, version_key
from raftsched.store.quota import Quota
from raftsched.store.raft._kernel import KernelError, Message
from raftsched.store.replica import LEADER, Event, More, Output, Persist, Persisted, Propose, Read, Tick
from raftsched.types import MemberInfo, Result, ResultSink

PRIVILEGED = frozenset({codec.DELETE_RANGE, codec.COMPACTION, codec.LEASE_REVOKE, codec.ALARM})  # may use the reserve of a full disk
HOUSEKEEPING_MS = 500
READS_PER_CHECK = 64
SLOW_APPLY_S = 0.1  # etcd's warning
START_TIMEOUT_S = 60.0
WAIT_TOLD_S = 10.0
ANNOUNCE_RETRY_S = 1.0
STOP_TIMEOUT_MS = 10_000


class Node:
    """A `ports.StoreNode`. Build it, `await start()`, serve, `await stop()`."""

    def __init__(
        self,
        options: NodeOptions,
        *,
        log: LogPort,
        on_fatal: Callable[[str], None],
        clock: Clock | None = None,
        opener: Opener | None = None,
        network: Network | None = None,
        on_restart: Callable[[str], None] | None = None,
    ) -> None:
        """`on_fatal(line)`: waiting cannot mend it, the process must end with that line and exit code 1; called once. `opener`: how a
        member is made from its data directory; the simulator has its own. `network`: makes the transport, None = a lone member.
        `on_restart(line)`: this incarnation is over, a new one is to be started on the same directory; called once."""
        self._opener = opener or Opener()
        self._network = network
        self._peering: Peering | None = None
        self._entering: Entering | None = None
        self._on_restart = on_restart or on_fatal
        self._options = options
        self._log = log
        self._on_fatal = on_fatal
        self._clock = clock or SystemClock()
        self._member: Member
        self._headers: Headers
        self._running = False
        self._stopping = False
        self._failed = ""
        self._ready: asyncio.Event
        self._ended = ""  # why this incarnation is over, although nothing has failed
        self._ready_asked = False
        self._version_asked = False
        self._pump_scheduled = False
        self._in_pump = False
        self._turn_started_ns = 0
        self._batches: deque[tuple[int, int, int]] = deque()  # (log's batch, kernel's batch, appended at ns)
        self._queued_bytes = 0  # accepted, not yet with the log
        self._sinks: list[ChangeSink] = []
        self._no_space_asked_ms = -(10**9)
        self._compaction_asked = 0
        self._next_housekeeping_ms = 0
        self._timer: asyncio.TimerHandle | None = None
        self._fsync_seconds = Histogram(ETCD_DISK_BOUNDS)
        self._apply_seconds = Histogram(APPLY_BOUNDS)
        self._slow_apply_total = 0
        self._callback_failures_total = 0

    # -- life

    async def start(self) -> None:
        """Opens or begins the data directory, replays, is elected; done when reads and writes are served. Raises FatalError, NoSpaceError,
        IncarnationOverError (a snapshot was installed meanwhile: start a new one) and what `DataDirectory` raises."""
        self._loop = asyncio.get_running_loop()
        try:
            member = await self._open()
        except (Exception, asyncio.CancelledError):  # not GeneratorExit: then the loop is gone, and nothing can be awaited
            await self._close_peering()
            raise
        if member.repaired:
            self._log.warning("write-ahead log repaired", detail=member.repaired)
        if member.installed:
            self._log.info(member.installed)
        self._running = True
        try:
            await self._enter(member)
            self._loop.add_reader(member.log.fd, self._on_log_event)
            self._on_timer()
            await self._until_ready(member)
            if not self._failed and not self._ended:
                await self._announce()
        except (Exception, asyncio.CancelledError):
            await self.stop()
            raise
        if self._failed or self._ended:
            await self.stop()
            raise FatalError(self._failed) if self._failed else IncarnationOverError(self._ended)

    async def _until_ready(self, member: Member) -> None:
        """Until reads and writes are served. A member of several waits for its quorum without limit, and says so. Raises NoSpaceError."""
        began_ms = self.mono_ms()
        while not self._ready.is_set():
            try:
                await asyncio.wait_for(self._ready.wait(), WAIT_TOLD_S)
            except TimeoutError:
                if member.log.no_space:
                    raise NoSpaceError(f"the log in {member.log.directory} cannot be written: no space on the disk") from None
                if self._alone:
                    if self.mono_ms() - began_ms >= START_TIMEOUT_S * 1000:
                        self._failed = f"{self._options.data_dir}: no leader after {START_TIMEOUT_S:.0f} s"
                        return
                else:
                    self._log.warning("waiting for a quorum of the cluster", leader=f"{self._kernel.leader:x}", term=self._kernel.term)

    @property
    def _alone(self) -> bool:
        return self._kernel.voter_ids == {self._member.member_id}

    def _look_ready(self) -> None:
        if self._replica.readable:
            self._ready.set()
        elif self._kernel.leader and not self._ready_asked:
            self._ready_asked = True
            self._host.submit(Read(self._on_barrier))

    def _on_barrier(self, error: int) -> None:
        self._ready_asked = False
        if not error:
            self._ready.set()

    async def _open(self) -> Member:
        directory = self._opener.claim(self._options)
        try:
            birth = await self._find_birth(directory)
        except BaseException:
            directory.close()
            raise
        self._member = member = self._opener.open(self._options, self._clock, directory, birth)
        try:
            self._build(member)
        except BaseException:
            member.close()
            raise
        return member

    async def _find_birth(self, directory: DataDirectory) -> Birth | None:
        if directory.set_aside:
            self._log.warning(directory.set_aside)
        if self._options.force_new_cluster and not directory.has_member:
            raise FatalError(f"{directory.path}: --force-new-cluster needs the data of a cluster, and there are none")
        if self._network is None:
            return None
        self._peering = Peering(self._network, self._log, self.mono_ms, self._on_removed)
        self._entering = Entering(self._peering, self._options, self._log, self.mono_ms)
        await self._peering.port.start()
        if self._options.force_new_cluster and not was_forced(directory.path):
            await self._entering.check_force()
        return None if directory.has_member else await self._entering.find_birth(directory)

    async def _enter(self, member: Member) -> None:
        """From here on this member speaks to the others as itself. Raises FatalError."""
        if self._peering is None or self._entering is None:
            return
        self._entering.opened(member, self._clustering)
        if member.applier.membership.was_removed(member.member_id):
            self._on_removed()
            raise FatalError(self._failed) if self._failed else IncarnationOverError(self._ended)
        await self._entering.check()
        self._peering.join(member, self._received)
        self._members_changed()
        self._entering.go_on(self.fail)

    async def _close_peering(self) -> None:
        if self._entering is not None:
            await self._entering.close()
        if self._peering is not None:
            await self._peering.close()

    def _build(self, member: Member) -> None:
        options = self._options
        self._replica, self._kernel, self._store = member.replica, member.replica.kernel, member.store
        self._quota = Quota(member.bound_bytes)
        self._headers = Headers(member.cluster_id, member.member_id)
        self._ready = asyncio.Event()
        self._compactor = AutoCompactor(options.compaction_mode, options.compaction_retention, self.mono_ms())
        self._flusher = Flusher(
            member.backend,
            member.store,
            member.applier,
            member.directory,
            self._clock,
            interval_ms=options.batch_interval_ms,
            limit=options.batch_limit,
            on_fatal=self.fail,
            on_durable=self._on_durable,
        )
        self._snapshots = Snapshots(member, options, self._log, self.fail)
        self._host = ReplicationHost(
            self._replica,
            self._perform,
            self.mono_ms,
            member_id=member.member_id,
            conf=host_configuration(options.heartbeat_ms, options.election_ms_min, options.election_ms_max),
            port=None if self._peering is None else self._peering.port,
        )
        self._clustering = Clustering(self, member, options, self._flusher, self._peering, self._log)
        self._leases = Leases(
            member.applier.lessor,
            barrier=self.read_barrier,
            mono_ms=self.mono_ms,
            leader=lambda: self._kernel.leader,
            own_id=member.member_id,
            ask=None if self._peering is None else self._peering.ask,
            timeout_ms=options.request_timeout_ms,
        )
        if self._peering is not None:
            self._leases.serve(self._peering.requests)
            self._replica.reaches = self._peering.port.is_connected

    async def stop(self) -> None:
        """Proposes nothing more, answers what is under way, brings LMDB up to date, closes. Idempotent."""
        if not self._running or self._stopping:
            return
        self._stopping = True
        try:
            if not self._failed and not self._ended:
                await self._clustering.hand_over()
        finally:  # also when it is cancelled: the directory and the port are wanted again
            self._running = False
            if self._timer is not None:
                self._timer.cancel()
            try:
                await self._close_peering()
            finally:
                await self._stop_store()

    async def _stop_store(self) -> None:
        self._loop.remove_reader(self._member.log.fd)
        try:
            if not self._failed and not self._ended:
                self._drain()
        except FatalError as error:
            self.fail(error)
        self._answer_all()
        try:
            await self._clustering.close()
            self._flusher.close(commit=not self._failed and not self._ended)
            await self._snapshots.close()
        except FatalError as error:
            self.fail(error)
        finally:
            self._close()

    def _close(self) -> None:
        try:
            self._member.close()
        except FatalError as error:
            self.fail(error)

    def _drain(self) -> None:
        """What was proposed is written, synced, applied and answered, as far as the disk lets."""
        stop_ms = self.mono_ms() + STOP_TIMEOUT_MS
        while not self._failed and self.mono_ms() < stop_ms:
            self._turn()
            if self._batches:
                if not self._member.log.wait_durable(self._batches[-1][0], max(stop_ms - self.mono_ms(), 0)):
                    return
                self._completed()
            elif self._host.idle():
                return

    def fail(self, error: Exception) -> None:
        if self._failed:
            return
        if isinstance(error, FatalError | KernelError):
            self._failed = str(error)
        else:
            self._failed = f"the store met what it does not expect: {error!r}"
            self._log.error("unexpected failure", stack="".join(traceback.format_exception(error)))
        self._ready.set()
        self._loop.call_soon(self._answer_all)  # not now: this may be the middle of a turn
        self._on_fatal(self._failed)

    def _answer_all(self) -> None:
        """No turn comes any more: whoever waits is told so."""
        self._deliver(self._replica.stop(self._host.drain()))
        self._leases.stop()

    # -- the pump

    def mono_ms(self) -> int:
        return self._clock.mono_ns() // 1_000_000

    def mono_ns(self) -> int:
        return self._clock.mono_ns()

    def wall_ms(self) -> int:
        return self._clock.wall_ms()

    def take_event(self, event: Event, *, at_once: bool = False) -> None:
        """Queues an event of the node's own; `at_once`: the step is taken within the call, unless this is the middle of one."""
        self._host.submit(event)
        if at_once and not self._in_pump:
            self._pump()
        else:
            self._schedule()

    def wake(self) -> None:
        """The kernel was told something: a turn takes its output."""
        self._host.submit(More())
        self._schedule()

    def end_incarnation(self, line: str) -> bool:
        """Nothing is applied or written any more: the directory changes under this node, and a new incarnation is asked for. False: it was
        over before, or has failed."""
        if self._ended or self._failed:
            return False
        self._ended = line
        self._ready.set()  # `start` may still wait
        self._snapshots.end()
        self._loop.call_soon(self._answer_all)
        self._on_restart(line)
        return True

    def _schedule(self) -> None:
        if not self._pump_scheduled and not self._in_pump and (self._running or self._ended or self._failed):
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        if self._failed or self._ended:
            self._answer_all()  # what came after it
        elif self._running:
            self._turn()

    def _turn(self) -> None:
        self._in_pump = True
        self._turn_started_ns = self._clock.mono_ns()
        try:
            self._host.doTick(0.0)
        except Exception as error:  # any: half a step may be done, and going on would do the rest to a state that no log describes
            self.fail(error)
        finally:
            self._in_pump = False
        if not self._host.idle():
            self._schedule()

    def _perform(self, output: Output) -> None:
        self._queued_bytes = 0  # all that was queued is in this output, or refused
        try:
            if output.persist is not None:
                self._persist(output.persist)
                if self._peering is not None and self._peering.note(output.persist):
                    self._members_changed()
            for message in output.send:
                self._host.send(message)
            if output.applied:
                self._applied(output)
        finally:
            self._deliver(output)  # also when the log has failed: these are of earlier entries
        if output.leader_changed:
            self._leader_changed()
        elif self._headers.term != self._kernel.term:
            self._headers.term = self._kernel.term  # of an election that nobody has won yet
        if output.members_changed:
            self._members_changed()
        self._clustering.after_turn(output.catch_ups)
        if output.more:
            self._host.submit(More())
        elif not self._ready.is_set():
            self._look_ready()

    def _persist(self, persist: Persist) -> None:
        log = self._member.log
        runs = persist.entries
        if len(runs) == 1:
            first, term, kind, entries = runs[0]
            count = len(entries)
            batch = log.append(persist.hard_state, first, [term] * count, entries, types=[kind] * count if kind else None)
        else:
            terms: list[int] = []
            kinds: list[int] = []
            entries = []
            for _, term, kind, items in runs:
                terms += [term] * len(items)
                kinds += [kind] * len(items)
                entries += items
            first = runs[0][0] if runs else log.last_index + 1
            batch = log.append(persist.hard_state, first, terms, entries, types=kinds if any(kinds) else None)
        self._batches.append((batch, persist.batch, self._clock.mono_ns()))

    def _on_log_event(self) -> None:
        try:
            self._completed()
        except FatalError as error:
            self.fail(error)
            return
        self._pump()

    def _completed(self) -> None:
        """Tells the replica what the log has synced."""
        done = self._member.log.completed()
        if self._ended:
            return
        self._snapshots.on_synced(done)
        kernel_batch = 0
        now_ns = self._clock.mono_ns()
        while self._batches and self._batches[0][0] <= done:
            _, kernel_batch, appended_ns = self._batches.popleft()
            self._fsync_seconds.observe((now_ns - appended_ns) / 1e9)
        if kernel_batch:
            self._host.submit(Persisted(kernel_batch))

    def _applied(self, output: Output) -> None:
        seconds = (self._clock.mono_ns() - self._turn_started_ns) / 1e9
        self._apply_seconds.observe(seconds)
        if seconds > SLOW_APPLY_S:
            self._slow_apply_total += 1
            self._log.warning("applying took long", seconds=seconds, entries=output.applied)
        if self._sinks:
            changes = self._store.take_changes()
            if changes:
                revision = self._store.revision
                for sink in tuple(self._sinks):
                    self._guard(sink.on_changes, changes, revision)
        self._flusher.on_applied(output.applied)
        self._leases.on_applied()

    def _deliver(self, output: Output) -> None:
        for sink, tokens, results in output.replies:
            self._guard(sink.on_results, tokens, results)
        for serve, error in output.reads:
            self._guard(serve, error)

    def _guard(self, call: Callable[..., None], *arguments: object) -> None:
        """A callback's failure is its own: what was applied stays applied, the others are called."""
        try:
            call(*arguments)
        except FatalError as error:
            self.fail(error)
        except Exception as error:
            self._callback_failures_total += 1
            self._log.error("a callback of the store failed", error=repr(error))

    # -- time

    def _on_timer(self) -> None:
        if not self._running or self._failed or self._ended:
            return
        self._timer = self._loop.call_later(self._options.heartbeat_ms / 1000, self._on_timer)
        self.tick()

    def tick(self) -> None:
        """One heartbeat interval has passed; the timer calls it, and tests that move their clock."""
        now_ms = self.mono_ms()
        self._host.submit(Tick())
        if now_ms >= self._next_housekeeping_ms:
            self._next_housekeeping_ms = now_ms + HOUSEKEEPING_MS
            self._housekeeping(now_ms)
        self._pump()

    def _housekeeping(self, now_ms: int) -> None:
        self._flusher.tick()
        self._snapshots.look(now_ms)
        self._clustering.tick(now_ms)
        if not self._ready.is_set():
            return
        self._check_space(now_ms)
        if self._kernel.state == LEADER:
            self._expire_leases(now_ms)
            self._compact(now_ms)
            self._raise_version()

    def _leader_changed(self) -> None:
        self._headers.term = self._kernel.term
        self._log.info("raft: leader changed", leader=f"{self._kernel.leader:x}", term=self._kernel.term)

    def _members_changed(self) -> None:
        """The membership was applied anew: connections, and who is heard, follow."""
        if self._peering is None:
            return
        self._peering.refresh()
        self._host.set_members(self._peering.others())

    def _received(self, sender: int, message: Message) -> None:
        """A peer's message: the next turn takes it, before what clients asked."""
        self._host.received(sender, message)
        self._schedule()

    def _on_removed(self) -> None:
        self._clustering.removed()

    def _raise_version(self) -> None:
        """The cluster's version is the lowest of its members'; it rises when all run a newer one."""
        members = self._member.applier.membership
        if self._peering is None or not members.cluster_version or self._version_asked:
            return
        lowest = self._peering.lowest_version(self._options.cluster_version)
        if lowest is not None and version_key(lowest) > version_key(members.cluster_version):
            self._version_asked = True
            self._log.info("raising the cluster version", old=members.cluster_version, new=lowest)
            self.propose_own(codec.CLUSTER_VERSION_SET, text_field(1, lowest), AnswerTo(self._on_version))

    def _on_version(self, _error: int) -> None:
        self._version_asked = False

    async def _announce(self) -> None:
        """Tells the cluster about this member until it knows: MemberList is right before anyone asks."""
        while self._running and not self._failed and not self._ended:
            problem = await self._publish()
            if not problem:
                return
            self._log.warning("the cluster could not be told about this member", error=EtcdError(problem).name)
            if self._alone:
                return
            await asyncio.sleep(ANNOUNCE_RETRY_S)

    async def _publish(self) -> int:
        """What has changed about this member; the first error."""
        options, members = self._options, self._member.applier.membership
        me = members.member(self.member_id)
        told: list[Awaitable[int]] = []
        if me is not None and me.peer_urls != options.peer_urls:
            told.append(self._move(options.peer_urls))
        if me is None or (me.name, me.client_urls) != (options.name, options.client_urls):
            attributes = membership.encode_attributes(self.member_id, options.name, options.client_urls)
            told.append(self._propose_and_wait(codec.MEMBER_ATTRIBUTES_SET, attributes))
        if not members.cluster_version:
            lowest = options.cluster_version if self._peering is None else self._peering.lowest_version(options.cluster_version)
            version = membership.encode_version(lowest or FIRST, self._draw_incarnation())
            told.append(self._propose_and_wait(codec.CLUSTER_VERSION_SET, version))
        errors = [await one for one in told]
        return next(filter(None, errors), 0)

    def _draw_incarnation(self) -> int:
        """What tells this cluster from another that is begun with the same list: of all that members propose, the first applied stays."""
        seed = f"{self.member_id}/{self.wall_ms()}/{self.mono_ns()}".encode()
        return int.from_bytes(hashlib.sha256(seed).digest()[:7], "big") + 1

    async def _move(self, peer_urls: Sequence[str]) -> int:
        """This member is reached elsewhere now; the error."""
        try:
            await self._clustering.change_members(membership.UPDATE_NODE, self.member_id, peer_urls, is_learner=False)
        except StatusError as error:
            self._log.warning("the cluster was not told the new peer URLs", error=error.message)
            return int(EtcdError.TIMEOUT)
        return 0

    def _propose_and_wait(self, kind: int, message: bytes) -> "asyncio.Future[int]":
        """The error of the answer."""
        future: asyncio.Future[int] = self._loop.create_future()
        self.propose_own(kind, message, Waiter(future))
        return future

    def propose_own(self, kind: int, message: bytes, sink: ResultSink | None = None) -> None:
        """A proposal of the node's own."""
        self._host.propose(Propose(kind, [message], [0], sink or Nobody()), lambda: None)
        self._schedule()

    def _expire_leases(self, now_ms: int) -> None:
        lessor = self._member.applier.lessor
        over = lessor.expired(now_ms) if lessor.primary else []
        if over:
            messages = [varint_field(1, lease) for lease in over]
            # the next leader gives every lease its full time again: what is over here is not over there
            self._propose_many(codec.LEASE_REVOKE, messages, over, Revocations(lessor.retry), term=self._kernel.term)

    def _compact(self, now_ms: int) -> None:
        """The documented retention, and the bound on history beyond it."""
        store = self._store
        target = self._compactor.due(now_ms, store.revision)
        if target and target <= store.compact_revision:
            self._compactor.done(now_ms, target)
            target = 0
        target = target or self._history_target()
        if target > max(store.compact_revision, 0) and not self._compaction_asked:
            self._compaction_asked = target
            self.propose_many(codec.COMPACTION, [varint_field(1, target)], [target], CompactionEnd(self._compaction_done))

    def _history_target(self) -> int:
        """Where to compact to because history takes too much; 0 = it does not."""
        store, bound = self._store, self._member.bound_bytes
        if not self._options.history_bound or self._flusher.scrubbing or self._compaction_asked:
            return 0
        if not history_full(store.superseded_count, store.key_count, self._flusher.used_bytes, bound):
            return 0
        target = store.oldest_revision_keeping(limits.SUPERSEDED_RECORDS_KEPT)
        if target <= store.compact_revision:
            return 0
        self._log.info("history is full, compacting", revision=target, superseded=store.superseded_count)
        return target

    def _compaction_done(self, revision: int, error: int) -> None:
        self._compaction_asked = 0
        if error in (EtcdError.OK, EtcdError.COMPACTED):
            self._compactor.done(self.mono_ms(), revision)
        else:
            self._log.warning("automatic compaction failed", revision=revision, error=EtcdError(error).name)

    # -- room

    def _check_space(self, now_ms: int) -> None:
        if self._quota.over(1, self._flusher.used_bytes):  # applied by way of the log, past the door
            self._flusher.measure()  # the alarm stays until it is cleared by hand: never on an estimate
            if self._quota.over(1, self._flusher.used_bytes):
                self._raise_no_space(now_ms)

    def _raise_no_space(self, now_ms: int) -> None:
        """Proposes the alarm; it stays until it is cleared by hand."""
        if (self.member_id, alarm.NOSPACE) in self._member.applier.alarms.raised() or now_ms - self._no_space_asked_ms < HOUSEKEEPING_MS:
            return
        self._no_space_asked_ms = now_ms
        self._log.warning("the space quota is used up, raising the alarm", used=self._flusher.used_bytes, quota=self._quota.limit_bytes)
        self.propose_own(codec.ALARM, alarm.encode_request(alarm.ACTIVATE, self.member_id, alarm.NOSPACE))

    def _refusal(self, kind: int, messages: Sequence[bytes], total_bytes: int) -> EtcdError:
        """Whether a batch must be refused at the door; one comparison each, far from the bounds."""
        if not self._running or self._failed or self._ended:
            return EtcdError.STOPPED
        if kind not in PRIVILEGED:
            if self._flusher.stalled:
                return EtcdError.NO_SPACE  # until LMDB takes again what it could not; retried each second
            if self._store.pending_bytes > limits.PENDING_RECORDS_BYTES_MAX:
                return EtcdError.TOO_MANY_REQUESTS
            if self._over_quota(kind, messages, total_bytes):
                self._raise_no_space(self.mono_ms())
                return EtcdError.NO_SPACE
        waiting = self._queued_bytes + self._member.log.queued_bytes
        if not self._member.log.has_room(waiting + total_bytes, privileged=kind in PRIVILEGED):
            return EtcdError.NO_SPACE
        return EtcdError.OK

    def _over_quota(self, kind: int, messages: Sequence[bytes], total_bytes: int) -> bool:
        if not self._quota.refused(kind, messages, total_bytes, self._flusher.used_bytes, self._store.cost):
            return False
        self._flusher.measure()  # what is used is estimated upwards between measurements
        return self._quota.refused(kind, messages, total_bytes, self._flusher.used_bytes, self._store.cost)

    # -- StoreNode: identity

    @property
    def member_id(self) -> int:
        return self._member.member_id

    @property
    def cluster_id(self) -> int:
        return self._member.cluster_id

    @property
    def term(self) -> int:
        return self._kernel.term

    @property
    def leader_id(self) -> int:
        return self._kernel.leader

    @property
    def revision(self) -> int:
        return self._store.revision

    @property
    def mvcc(self) -> MvccStore:
        return self._store

    @property
    def host(self) -> ReplicationHost:
        """For its status alone."""
        return self._host

    def header(self, revision: int) -> bytes:
        return self._headers.encode(revision)

    def members(self) -> Sequence[MemberInfo]:
        return self._member.applier.membership.members()

    @property
    def cluster_version(self) -> str:
        return self._member.applier.membership.cluster_version

    # -- StoreNode: writes and reads

    def propose_many(self, kind: int, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink) -> None:
        """See `ports.StoreNode`."""
        self._propose_many(kind, messages, tokens, sink, term=0)

    def _propose_many(self, kind: int, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink, *, term: int) -> None:
        """`term`: see `replica.Propose`."""
        _, total_bytes = largest(messages)
        error = self._refusal(kind, messages, total_bytes)
        if error == EtcdError.NO_SPACE and len(messages) > 1:
            for message, token in zip(messages, tokens, strict=True):  # some may still fit
                self._propose_many(kind, [message], [token], sink, term=term)
            return
        if error:
            self._refuse(tokens, sink, error)
            return
        self._queued_bytes += total_bytes
        self._host.propose(Propose(kind, messages, tokens, sink, term), lambda: self._refuse(tokens, sink, EtcdError.TOO_MANY_REQUESTS))
        if not self._batches or len(self._kernel.voter_ids) > 1:
            self._schedule()
        # else a lone voter's disk is busy: what comes meanwhile goes with the turn that the end of the write begins, in one batch

    def _refuse(self, tokens: Sequence[int], sink: ResultSink, error: EtcdError) -> None:
        self._replica.proposals_failed_total += len(tokens)
        self._guard(sink.on_results, tokens, [(error, self._store.revision, b"")] * len(tokens))

    def read_many(self, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink) -> None:
        """See `ports.StoreNode`; a lone leader that has applied everything answers at once."""

        def serve(error: int) -> None:
            if error:
                sink.on_results(tokens, [(error, self._store.revision, b"")] * len(tokens))
            else:
                self._serve(messages, tokens, sink, 0)

        if self._running and self._replica.readable:
            self._guard(serve, 0)
        else:
            self._read(serve)

    def _serve(self, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink, start: int) -> None:
        """Ranges in slices of the loop."""
        if len(messages) <= READS_PER_CHECK:
            sink.on_results(tokens, self._ranges(messages))
            return
        stop_ns = self._clock.mono_ns() + limits.LOOP_SLICE_MS * 1_000_000
        while start < len(messages):
            end = start + READS_PER_CHECK
            sink.on_results(tokens[start:end], self._ranges(messages[start:end]))
            start = end
            if start < len(messages) and self._clock.mono_ns() >= stop_ns:
                self._loop.call_soon(self._guard, self._serve, messages, tokens, sink, start)
                return

    def _ranges(self, messages: Sequence[bytes]) -> Sequence[Result]:
        """A store that cannot be read ends the node, but not without an answer."""
        if self._running:
            try:
                return self._store.range_many(messages)
            except FatalError as error:
                self.fail(error)
        return [(EtcdError.STOPPED, self._store.revision, b"")] * len(messages)

    def _read(self, serve: Callable[[int], None]) -> None:
        if not self._running or self._failed or self._ended:
            self._guard(serve, EtcdError.STOPPED)
            return
        self._host.submit(Read(serve))
        self._schedule()

    def read_local(self, message: bytes) -> Result:
        return self._ranges([message])[0]

    def read_barrier(self) -> Awaitable[None]:
        """See `ports.StoreNode`."""
        future: asyncio.Future[None] = self._loop.create_future()

        def serve(error: int) -> None:
            if future.done():
                return
            if error:
                future.set_exception(status_of(error))
            else:
                future.set_result(None)

        if self._running and self._replica.readable:
            serve(0)
        else:
            self._read(serve)
        return future

    def add_change_sink(self, sink: ChangeSink) -> Callable[[], None]:
        """See `ports.StoreNode`."""
        self._sinks.append(sink)
        self._store.watching = True

        def end() -> None:
            if sink in self._sinks:
                self._sinks.remove(sink)
                self._store.watching = bool(self._sinks)

        return end

    # -- MemberNode

    async def change_members(self, change: int, member_id: int, peer_urls: Sequence[str], *, is_learner: bool) -> Sequence[MemberInfo]:
        """See `ports.MemberNode`."""
        return await self._clustering.change_members(change, member_id, peer_urls, is_learner=is_learner)

    async def leave(self) -> Sequence[MemberInfo]:
        """See `ports.MemberNode`."""
        return await self._clustering.leave()

    @property
    def reaches_majority(self) -> bool:
        """Whether this member and those that it is connected to are a majority: else nothing is committed, and who stops need not wait."""
        return self._running and not self._failed and not self._ended and self._clustering.reaches_majority

    async def promote(self, member_id: int) -> Sequence[MemberInfo]:
        return await self._clustering.promote(member_id)

    async def move_leader(self, member_id: int) -> None:
        await self._clustering.move_leader(member_id)

    def fence_ms(self) -> int:
        """See `ports.StoreNode`."""
        return self._replica.fence.until_ms(self._kernel.applied)

    def peers(self) -> Sequence[int]:
        """See `ports.StoreNode`."""
        return self._replica.fence.present(self.mono_ms(), self._options.election_ms_min)

    def dead(self, names: Collection[str]) -> Collection[str]:
        """See `ports.StoreNode`."""
        return self._clustering.dead(names)

    # -- StoreNode: leases

    def next_lease_id(self) -> int:
        lease = self._replica.ids.lease_id()
        while self._member.applier.lessor.exists(lease):  # the clock was set back between two lives
            lease = self._replica.ids.lease_id()
        return lease

    async def lease_renew(self, lease: int) -> int:
        """See `ports.StoreNode`."""
        return await self._leases.renew(lease)

    async def lease_time_to_live(self, lease: int, *, keys: bool) -> tuple[int, int, Sequence[bytes]]:
        """See `ports.StoreNode`."""
        return await self._leases.time_to_live(lease, keys=keys)

    async def lease_ids(self) -> Sequence[int]:
        await self.read_barrier()
        return self._member.applier.lessor.ids()

    # -- StoreNode: maintenance

    def alarms(self) -> Sequence[tuple[int, int]]:
        return self._member.applier.alarms.raised()

    def status(self) -> StoreStatus:
        backend = self._member.backend
        return StoreStatus(
            db_size=backend.size_bytes,
            db_size_in_use=backend.in_use_bytes,
            quota=self._quota.limit_bytes,
            raft_index=self._kernel.commit,
            applied_index=self._kernel.applied,
            is_learner=self.member_id in self._kernel.learner_ids,
        )

    async def scrubbed(self) -> None:
        await self._flusher.scrubbed()

    async def defragment(self) -> None:
        try:
            await self._flusher.defragment()
        except FatalError as error:
            self.fail(error)
            raise StatusError(GrpcCode.INTERNAL, str(error)) from error

    async def hash(self) -> int:
        return await self._flusher.hash()

    async def hash_kv(self, revision: int) -> tuple[int, int, int]:
        """See `ports.StoreNode`."""
        return await self._flusher.hash_kv(revision)

    async def settle(self) -> None:
        """Done when all that is applied now is in LMDB (before a snapshot is taken)."""
        await self._flusher.settle()

    def _on_durable(self) -> None:
        if self._running and not self._ended:
            self._snapshots.look(self.mono_ms())

    # -- metrics

    def counters(self) -> Mapping[str, float]:
        """See `ports.StoreNode`."""
        replica, lessor, kernel = self._replica, self._member.applier.lessor, self._kernel
        return {
            "etcd_server_has_leader": float(kernel.leader != 0),
            "etcd_server_is_leader": float(kernel.state == LEADER),
            "etcd_server_is_learner": float(self.member_id in kernel.learner_ids),
            "etcd_server_leader_changes_seen_total": replica.leader_changes_total,
            "etcd_server_proposals_committed_total": kernel.commit,
            "etcd_server_proposals_applied_total": kernel.applied,
            "etcd_server_proposals_pending": replica.pending,
            "etcd_server_proposals_failed_total": replica.proposals_failed_total,
            "etcd_server_slow_apply_total": self._slow_apply_total,
            "etcd_server_quota_backend_bytes": self._quota.limit_bytes,
            "etcd_mvcc_db_total_size_in_bytes": self._member.backend.size_bytes,
            "etcd_mvcc_db_total_size_in_use_in_bytes": self._member.backend.in_use_bytes,
            "etcd_server_read_indexes_failed_total": replica.reading.failed_total,
            "etcd_server_slow_read_indexes_total": replica.reading.timed_out_total,
            "etcd_mvcc_put_total": self._store.put_total,
            "etcd_mvcc_delete_total": self._store.delete_total,
            "etcd_mvcc_range_total": self._store.range_total,
            "etcd_mvcc_txn_total": self._store.txn_total,
            "etcd_debugging_mvcc_total_put_size_in_bytes": self._store.put_bytes_total,
            "etcd_debugging_mvcc_keys_total": self._store.key_count,
            "etcd_debugging_mvcc_db_compaction_last": self._flusher.compacted_at_s,
            "etcd_disk_defrag_inflight": float(self._flusher.defragmenting),
            "etcd_disk_wal_write_bytes_total": self._member.log.written_bytes,
            "etcd_debugging_mvcc_db_compaction_keys_total": self._flusher.scrubbed_keys_total,
            "etcd_debugging_lease_granted_total": lessor.granted_total,
            "etcd_debugging_lease_revoked_total": lessor.revoked_total,
            "etcd_debugging_lease_renewed_total": lessor.renewed_total,
            "etcd_debugging_server_lease_expired_total": lessor.expired_total,
            "raftsched_store_callback_failures_total": self._callback_failures_total,
            "raftsched_wal_sync_total": self._member.log.sync_count,
            "raftsched_wal_room_bytes": self._member.log.room_bytes,
            **self._clustering.counters(),
        }

    def histograms(self) -> Mapping[str, tuple[Sequence[tuple[float, int]], float]]:
        """See `ports.StoreNode`. The log's is from handing a batch over until the loop knows that it is synced."""
        return {
            "etcd_disk_wal_fsync_duration_seconds": self._fsync_seconds.sample(),
            "etcd_disk_backend_commit_duration_seconds": self._flusher.commit_seconds.sample(),
            "etcd_disk_backend_defrag_duration_seconds": self._flusher.defragment_seconds.sample(),
            "etcd_mvcc_hash_duration_seconds": self._flusher.hash_seconds.sample(),
            "etcd_mvcc_hash_rev_duration_seconds": self._flusher.hash_kv_seconds.sample(),
            "raftsched_apply_batch_duration_seconds": self._apply_seconds.sample(),
        }
