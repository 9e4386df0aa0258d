"""One member on the asyncio loop: the pump between host, log, backend and those who ask.

One turn of the pump: the host steps the replica with all that is queued; its output is performed in this order: persist (the log's thread),
send, changes to their sinks, replies, reads. Completions of the log come back through an eventfd and start the next turn.

Invariant: everything here runs on the loop thread; a turn applies at most one slice; nobody is answered before the change sinks know.
Must not know: gRPC, jobs.
"""

import asyncio
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from raftsched import limits
from raftsched.errors import EtcdError, FatalError, IncarnationOverError, status_of
from raftsched.ports import Log as LogPort
from raftsched.ports import Permit
from raftsched.store.auth.identity import wire_identity
from raftsched.store.backend.directory import DataDirectory
from raftsched.store.birth import Birth
from raftsched.store.codec import Headers, largest
from raftsched.store.host import ReplicationHost, host_configuration
from raftsched.store.node import upkeep
from raftsched.store.node.announcing import Announcing
from raftsched.store.node.authentication import Authentication
from raftsched.store.node.awaiting import Awaiting
from raftsched.store.node.callbacks import Callbacks, ChangeSinks
from raftsched.store.node.clustering import Clustering
from raftsched.store.node.corruption import CorruptionChecks
from raftsched.store.node.entering import Entering
from raftsched.store.node.face import Face
from raftsched.store.node.figures import Figures
from raftsched.store.node.flush import Flusher
from raftsched.store.node.leases import Leases
from raftsched.store.node.opening import Member, Opener
from raftsched.store.node.options import Clock, NodeOptions, SystemClock
from raftsched.store.node.peering import Network, Peering
from raftsched.store.node.ranges import Ranges
from raftsched.store.node.readiness import Readiness
from raftsched.store.node.room import Room
from raftsched.store.node.sinks import Nobody, Waiter
from raftsched.store.node.snapshots import Snapshots
from raftsched.store.node.upkeep import Upkeep
from raftsched.store.quota import Quota
from raftsched.store.raft._kernel import KernelError, Message
from raftsched.store.replica import LEADER, PRIVILEGED, PROPOSE, Event, More, Output, Persist, Propose, Read, Tick, Unsent
from raftsched.store.snapshot.exporting import Exports
from raftsched.types import INTERNAL, NOBODY, Identity, Result, ResultSink

INTERNAL_FIELDS = wire_identity(INTERNAL)
STOP_TIMEOUT_MS = 10_000
ALONE_INTERVALS = 4  # of heartbeats, between two ticks of a lone leader: nobody hears of them


class Node(Face):
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
        self._running = False
        self._stopping = False
        self._failed = ""
        self._readiness: Readiness
        self._ended = ""  # why this incarnation is over, although nothing has failed
        self._pump_scheduled = False
        self._in_pump = False
        self._turn_started_ns = 0
        self._batches: deque[tuple[int, int]] = deque()  # (log's batch, kernel's batch)
        self._queued_bytes = 0  # accepted, not yet with the log
        self._queued_count = 0
        self._next_upkeep_ms = 0
        self._timer: asyncio.TimerHandle | None = None
        self._figures = Figures(self._clock.mono_ns)
        self._callbacks = Callbacks(self.fail, self._figures, log)
        self._guard = self._callbacks.guard
        self._awaiting = Awaiting()

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
        self._awaiting.look(alone=False, mono_ms=self.mono_ms())  # to read its own data was its own turn
        try:
            await self._enter(member)
            await self._corruption.check_start()
            self._loop.add_reader(member.log.fd, self._on_log_event)
            for _ in range(self._options.ticks_ahead if self._network is not None and len(self._kernel.voter_ids) > 1 else 0):
                self._host.submit(Tick())
            self._on_timer()
            late = await self._readiness.wait()
            self._failed = self._failed or late
            if self.is_up:
                await Announcing(self, member, self._options, self._peering, self._log).announce()
        except (Exception, asyncio.CancelledError):
            await self.stop()
            raise
        if self._failed or self._ended:
            await self.stop()
            raise FatalError(self._failed) if self._failed else IncarnationOverError(self._ended)
        self._awaiting.served()

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
        self._entering = Entering(self._peering, self._options, self._log, self.mono_ms, self._awaiting)
        return await self._entering.begin(directory)

    async def _enter(self, member: Member) -> None:
        """From here on this member speaks to the others as itself. Raises FatalError."""
        if self._peering is None or self._entering is None:
            return
        self._entering.opened(member, self._clustering)
        if member.applier.membership.was_removed(member.member_id):
            self._on_removed()
            raise FatalError(self._failed) if self._failed else IncarnationOverError(self._ended)
        await self._entering.check()
        await self._clustering.begin()
        self._peering.join(member, self._received)
        self._peering.met = self._members_changed
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
        self._figures.watch(member)
        self._ranges = Ranges(
            member.store,
            self._figures,
            self._clock,
            guard=self._guard,
            is_running=lambda: self._running,
            is_guarded=lambda: self._auth.store.enabled,
            fail=self.fail,
        )
        self._quota = Quota(member.bound_bytes)
        self._change_sinks = ChangeSinks(member.store, self._callbacks)
        self._headers = Headers(member.cluster_id, member.member_id)
        self._readiness = Readiness(member, self._barrier, self.mono_ms, self._log)
        self._flusher = Flusher(
            member.backend,
            member.store,
            member.applier,
            member.directory,
            self._clock,
            interval_ms=options.batch_interval_ms,
            limit=options.batch_limit,
            scrub_records=options.compaction_records,
            scrub_wait_ms=options.compaction_pause_ms,
            on_fatal=self.fail,
            on_durable=self._on_durable,
        )
        self._exports = Exports(
            member.directory,
            write=self._flusher.export,
            in_use_bytes=lambda: member.backend.in_use_bytes,
            mono_ns=self.mono_ns,
            observe=self._figures.snapshot_seconds.observe,
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
        self._room = Room(member, self._flusher, self._clustering, self._peering, self._log)
        self._upkeep = Upkeep(self, member, options, flusher=self._flusher, quota=self._quota, peering=self._peering, log=self._log)
        self._corruption = CorruptionChecks(self, member, options, self._peering, self._log)
        self._leases = Leases(
            member.applier.lessor,
            barrier=self.read_barrier,
            certain=lambda: self._running and self._replica.readable,
            header=lambda: self._headers.encode(self._store.revision),
            mono_ms=self.mono_ms,
            leader=lambda: self._kernel.leader,
            own_id=member.member_id,
            ask=None if self._peering is None else self._peering.ask,
            timeout_ms=options.request_timeout_ms,
        )
        self._auth = Authentication(
            member.applier,
            propose=self.propose_many,
            barrier=self.read_barrier,
            mono_ms=self.mono_ms,
            bcrypt_cost=options.bcrypt_cost,
            timeout_ms=options.request_timeout_ms,
        )
        if self._peering is not None:
            self._leases.serve(self._peering.requests)
            self._replica.connection = self._peering.port.connection
            self._peering.unsent = lambda message: self.take_event(Unsent(message.context, full=False))

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
            await self._corruption.close()
            await self._room.close()
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
        self._readiness.end()
        self._loop.call_soon(self._answer_all)  # not now: this may be the middle of a turn
        self._on_fatal(self._failed)

    def _answer_all(self) -> None:
        """No turn comes any more: whoever waits is told so."""
        self._callbacks.deliver(self._replica.stop(self._host.drain()))
        self._leases.stop()
        self._auth.close()

    # -- the pump

    @property
    def awaits_others(self) -> bool:
        """Whether it has long been waiting for what only other members can give, and has nothing else to do about it."""
        alone = self._running and self._replica.is_alone
        return not (alone or self._failed or self._ended or self._stopping) and self._awaiting.for_long(self.mono_ms())

    @property
    def is_up(self) -> bool:
        return self._running and not self._failed and not self._ended

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
        self._readiness.end()  # `start` may still wait
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
        self._queued_bytes = self._queued_count = 0  # all that was queued is in this output, or refused
        try:
            if output.persist is not None:
                self._persist(output.persist)
                if self._peering is not None and self._peering.note(output.persist):
                    self._members_changed()
            for message in output.send:
                if not self._host.send(message) and message.type == PROPOSE:
                    self._host.submit(Unsent(message.context, full=self._replica.connection(message.to) != 0))
            if output.applied:
                self._applied(output)
        finally:
            self._callbacks.deliver(output)  # also when the log has failed: these are of earlier entries
        if output.leader_changed:
            self._leader_changed()
        elif self._headers.term != self._kernel.term:
            self._headers.term = self._kernel.term  # of an election that nobody has won yet
        if output.members_changed:
            self._members_changed()
        self._clustering.after_turn(output.catch_ups)
        if output.more:
            self._host.submit(More())
        elif not self._readiness.over:
            self._readiness.look()

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
        self._batches.append((batch, persist.batch))

    def _on_log_event(self) -> None:
        try:
            self._completed()
        except FatalError as error:
            self.fail(error)
            return
        if self._kernel.has_ready or not self._host.idle():
            self._pump()

    def _completed(self) -> None:
        """Tells the replica what the log has synced."""
        done = self._member.log.completed()
        if self._ended:
            return
        self._snapshots.on_synced(done)
        kernel_batch = 0
        while self._batches and self._batches[0][0] <= done:
            _, kernel_batch = self._batches.popleft()
        if kernel_batch:
            self._kernel.persisted(kernel_batch)

    def _applied(self, output: Output) -> None:
        seconds = (self._clock.mono_ns() - self._turn_started_ns) / 1e9
        self._figures.apply_seconds.observe(seconds)
        if seconds * 1000 > self._options.slow_apply_ms:
            self._figures.slow_apply_total += 1
            self._log.warning("applying took long", seconds=seconds, entries=output.applied)
        self._change_sinks.tell()
        self._flusher.on_applied(output.applied)
        self._leases.on_applied()
        self._auth.on_applied()

    # -- time

    def _on_timer(self) -> None:
        if not self.is_up:
            return
        kernel = self._kernel
        nobody_waits = kernel.state == LEADER and kernel.voter_ids == {kernel.id} and not kernel.learner_ids
        intervals = ALONE_INTERVALS if nobody_waits else 1
        self._timer = self._loop.call_later(self._options.heartbeat_ms * intervals / 1000, self._on_timer)
        self.tick()

    def tick(self) -> None:
        """One heartbeat interval has passed; the timer calls it, and tests that move their clock."""
        now_ms = self.mono_ms()
        self._awaiting.look(alone=not self._kernel.leader, mono_ms=now_ms)
        self._host.submit(Tick())
        self._figures.note_heartbeats(self._kernel, now_ms, self._options.heartbeat_ms)
        self._room.tick(now_ms)
        if now_ms >= self._next_upkeep_ms:
            self._next_upkeep_ms = now_ms + upkeep.INTERVAL_MS
            self._flusher.tick()
            self._snapshots.look(now_ms)
            self._clustering.tick(now_ms)
            self._auth.tick()
            if self._readiness.over:
                self._upkeep.tick(now_ms)
                self._corruption.tick(now_ms)
        self._pump()

    def _leader_changed(self) -> None:
        self._headers.term = self._kernel.term
        self._log.info("raft: leader changed", leader=f"{self._kernel.leader:x}", term=self._kernel.term)

    def _members_changed(self) -> None:
        """The membership was applied anew: connections, and who is heard, follow."""
        if self._peering is None:
            return
        self._peering.refresh()
        self._host.set_members(self._peering.others())
        self._clustering.look_who_is_gone()

    def _received(self, sender: int, message: Message) -> None:
        """A peer's message: the next turn takes it, before what clients asked. An ack or an answer to a heartbeat is taken now, and has a
        turn if something follows."""
        if self._running and not self._in_pump and not self._ended and not self._failed and self._host.absorbed(sender, message):
            if self._kernel.has_ready:
                self._schedule()
            return
        self._host.received(sender, message)
        self._schedule()

    def _on_removed(self) -> None:
        self._clustering.removed()

    def propose_and_wait(self, kind: int, message: bytes) -> "asyncio.Future[int]":
        """The error of the answer."""
        future: asyncio.Future[int] = self._loop.create_future()
        self.propose_own(kind, message, Waiter(future))
        return future

    def propose_own(self, kind: int, message: bytes, sink: ResultSink | None = None) -> None:
        """A proposal of the node's own."""
        sink = sink or Nobody()
        event = Propose(kind, [message], [0], sink, identity=INTERNAL_FIELDS)
        self._host.propose(event, lambda: self._refuse([0], sink, EtcdError.TOO_MANY_REQUESTS))
        self._schedule()

    def _refusal(self, kind: int, messages: Sequence[bytes], total_bytes: int) -> EtcdError:
        """Whether a batch must be refused at the door; one comparison each, far from the bounds."""
        if not self._running or self._failed or self._ended:
            return EtcdError.STOPPED
        leads = self._kernel.state == LEADER
        if kind not in PRIVILEGED:
            if self._room.stuck or (leads and self._flusher.stalled):
                return EtcdError.NO_SPACE  # until the disk takes again what it could not; tried again all the time
            if self._store.pending_bytes > limits.PENDING_RECORDS_BYTES_MAX or self._crowded(len(messages), total_bytes):
                return EtcdError.TOO_MANY_REQUESTS
            if self._over_quota(kind, messages, total_bytes):
                self._upkeep.raise_no_space(self.mono_ms())
                return EtcdError.NO_SPACE
        if not leads:
            return EtcdError.OK  # whether there is room for it is the leader's to say
        waiting = self._queued_bytes + self._member.log.queued_bytes
        if not self._member.log.has_room(waiting + total_bytes, privileged=kind in PRIVILEGED):
            return EtcdError.NO_SPACE
        return EtcdError.OK

    def _crowded(self, count: int, size_bytes: int) -> bool:
        """Whether that many more would wait behind too many: those that the replica counts, and those that it has not yet seen."""
        return not self._replica.waiters.has_room(self._queued_count + count, self._queued_bytes + size_bytes)

    def _over_quota(self, kind: int, messages: Sequence[bytes], total_bytes: int) -> bool:
        if not self._quota.refused(kind, messages, total_bytes, self._flusher.used_bytes, self._store.cost):
            return False
        self._flusher.measure()  # what is used is estimated upwards between measurements
        return self._quota.refused(kind, messages, total_bytes, self._flusher.used_bytes, self._store.cost)

    # -- StoreNode: writes and reads

    def propose_many(
        self,
        kind: int,
        messages: Sequence[bytes],
        tokens: Sequence[int],
        sink: ResultSink,
        *,
        identity: Identity = NOBODY,
        term: int = 0,
    ) -> None:
        """See `ports.StoreNode`. `term`: see `replica.Propose`."""
        _, total_bytes = largest(messages)
        error = self._refusal(kind, messages, total_bytes)
        if error == EtcdError.NO_SPACE and len(messages) > 1:
            for message, token in zip(messages, tokens, strict=True):  # some may still fit
                self.propose_many(kind, [message], [token], sink, identity=identity, term=term)
            return
        if error == EtcdError.NO_SPACE:
            self._upkeep.after_alarm(lambda: self._refuse(tokens, sink, error))
            return
        if error:
            self._refuse(tokens, sink, error)
            return
        self._queued_bytes += total_bytes
        self._queued_count += len(messages)
        fields = b"" if identity is NOBODY else wire_identity(identity)
        event = Propose(kind, messages, tokens, sink, term, fields)
        self._host.propose(event, lambda: self._refuse(tokens, sink, EtcdError.TOO_MANY_REQUESTS))
        if not self._batches or len(self._kernel.voter_ids) > 1:
            self._schedule()
        # else a lone voter's disk is busy: what comes meanwhile goes with the turn that the end of the write begins, in one batch

    def _refuse(self, tokens: Sequence[int], sink: ResultSink, error: EtcdError) -> None:
        self._replica.proposals_failed_total += len(tokens)
        self._guard(sink.on_results, tokens, [(error, self._store.revision, b"")] * len(tokens))

    def read_many(self, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink, *, permit: Permit | None = None) -> None:
        """See `ports.StoreNode`; a lone leader that has applied everything answers at once."""

        def serve(error: int) -> None:
            if error:
                sink.on_results(tokens, [(error, self._store.revision, b"")] * len(tokens))
            else:
                self._serve(messages, tokens, sink, permit)

        if self._running and self._replica.readable:
            self._guard(serve, 0)
        else:
            self._read(serve)

    def _serve(self, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink, permit: Permit | None) -> None:
        self._ranges.serve(messages, tokens, sink, permit)

    def _read(self, serve: Callable[[int], None]) -> None:
        if self.is_up:
            self._barrier(serve)
        else:
            self._guard(serve, EtcdError.STOPPED)

    def _barrier(self, serve: Callable[[int], None]) -> None:
        self._host.submit(Read(serve))
        self._schedule()

    def read_local(self, message: bytes) -> Result:
        return self._ranges.at_once(message)

    def read_local_many(self, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink) -> None:
        """See `ports.StoreNode`."""
        self._guard(self._ranges.serve, messages, tokens, sink, None)

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

    def _on_durable(self) -> None:
        if self._running and not self._ended:
            self._snapshots.look(self.mono_ms())
