"""All watchers of this member: who gets which change, in which order, and what happens to those who read slowly.

A watcher is *synced*: it has everything up to the hub's revision and gets changes as they are applied; or *unsynced*: it is
caught up from history, round by round, in whole revisions. The hub never queues for anybody: when a sink has no room, its
watchers become unsynced at the next change that concerns them and cost nothing until `WatchStream.on_writable`.

Invariant, per watcher: answers carry every change of its range with main >= start that passes its filters, in order, each
once, all of a revision in one answer (or in consecutive fragments), until a cancel. `next` of an unsynced watcher is the first
revision that it has not been sent; history is read from there, so memory does not depend on how far behind it is.
Must not know: gRPC, clocks, headers (the sink puts them in front).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from raftsched.limits import GRPC_OVERHEAD_BYTES, REQUEST_BYTES_MAX, WATCH_CATCH_UP_WATCHERS, WATCH_STREAM_CHANGES_MAX
from raftsched.store.watch import events
from raftsched.store.watch.ranges import KeyMatcher
from raftsched.store.watch.stream import Watcher, WatchSink, WatchStream
from raftsched.types import Change

CATCH_UP_MESSAGE_BYTES: Final = 1 << 20  # an answer to a watcher that catches up is closed behind the revision that reaches this
HISTORY_BYTES_MAX: Final = 4 << 20  # of records per round, and the revision that reaches it
HEADER_BYTES: Final = 48  # four fields of at most 11 bytes, tag and length of the header


class History(Protocol):
    """What the hub asks of the store (store/mvcc/_store.pyi)."""

    @property
    def revision(self) -> int: ...
    @property
    def compact_revision(self) -> int: ...
    def previous(self, key: bytes, before_main: int) -> bytes | None: ...
    def history(self, from_main: int, revisions_max: int, bytes_max: int = ...) -> tuple[list[Change], int]: ...


class _Event:
    """A change and its wire forms, made at first use and shared by all watchers."""

    __slots__ = ("_plain", "_store", "_with_previous", "change")

    def __init__(self, change: Change, store: History) -> None:
        self.change = change
        self._store = store
        self._plain: bytes | None = None
        self._with_previous: bytes | None = None

    def encoded(self, prev_kv: bool) -> bytes:
        if not prev_kv:
            if self._plain is None:
                self._plain = events.encode_event(self.change)
            return self._plain
        if self._with_previous is None:
            change = self.change
            # a key that its own transaction had deleted first was made anew: no prev_kv, although there was one
            previous = None if events.is_create(change) else self._store.previous(change.key, change.main)
            self._with_previous = events.encode_event(change, previous)
        return self._with_previous


class WatchHub:
    """See the module. `on_work` is called when `catch_up` has something to do again; `on_demand(True)` before the first watcher
    and `on_demand(False)` behind the last one: only between the two must `on_changes` be called."""

    def __init__(
        self,
        store: History,
        *,
        on_work: Callable[[], None],
        on_demand: Callable[[bool], None] = lambda wanted: None,
        message_bytes_max: int = REQUEST_BYTES_MAX + GRPC_OVERHEAD_BYTES,
        catch_up_bytes: int = CATCH_UP_MESSAGE_BYTES,
    ) -> None:
        self._store = store
        self._catch_up_bytes = catch_up_bytes
        self._on_work = on_work
        self._on_demand = on_demand
        self._message_bytes_max = message_bytes_max
        self._matcher: KeyMatcher[Watcher] = KeyMatcher()
        self._ready: dict[Watcher, None] = {}  # unsynced with room, in order of service
        self._dispatched = 0  # every change up to here went to the synced watchers
        self._streams: set[WatchStream] = set()
        self.watcher_count = 0
        self.slow_count = 0  # unsynced, with room or without
        self.compacted_count = 0  # canceled by a compaction and not yet by the client
        self.events_total = 0

    @property
    def revision(self) -> int:
        """What an answer's header says: all changes up to it were sent to every synced watcher."""
        return self._dispatched if self.watcher_count else self._store.revision

    @property
    def stream_count(self) -> int:
        return len(self._streams)

    def open(self, sink: WatchSink) -> WatchStream:
        stream = WatchStream(self, sink)
        self._streams.add(stream)
        return stream

    def on_changes(self, changes: Sequence[Change], revision: int) -> None:
        """The changes of one apply batch, ascending, whole revisions only; all up to `revision` are now known."""
        index, count = 0, len(changes)
        while index < count:
            first = index
            main = changes[index].main
            index += 1
            while index < count and changes[index].main == main:
                index += 1
            if index == first + 1:
                self._dispatch_one(changes[first])
            else:
                self._dispatch_revision(main, changes[first:index])
        self._dispatched = max(self._dispatched, revision)

    def on_reset(self) -> None:
        """History was replaced (snapshot): everybody is caught up from the store again, or told that it is compacted."""
        for stream in self._streams:
            for watcher in stream.watchers.values():
                if watcher.synced:
                    self._unsync(watcher, max(watcher.next, self._dispatched + 1))
        self._dispatched = self._store.revision
        self._work()

    def catch_up(self) -> bool:
        """One bounded round for unsynced watchers; True when another one has work."""
        self._cancel_compacted()
        if not self._ready:
            return False
        leader = next(iter(self._ready))
        if leader.next > self._store.revision:
            self._sync(leader)
            return bool(self._ready)
        changes, following = self._store.history(leader.next, WATCH_STREAM_CHANGES_MAX, HISTORY_BYTES_MAX)
        chosen = self._choose(leader.next, following)
        for watcher, batch in self._collect(changes, chosen).items():
            self._send_history(watcher, batch, following)
        return bool(self._ready)

    # -- for WatchStream

    def begin(self) -> None:
        if not self.watcher_count:
            self._on_demand(True)
            self._dispatched = self._store.revision

    def add(self, watcher: Watcher) -> None:
        self._matcher.add(watcher.key, watcher.end, watcher)
        self.watcher_count += 1
        if 0 < watcher.start <= self._dispatched:
            self._unsync(watcher, watcher.start)
            self._work()
        else:
            watcher.next = max(watcher.start, self._dispatched + 1)

    def remove(self, watcher: Watcher) -> None:
        """The client's cancel, or the end of its stream."""
        stream = watcher.stream
        del stream.watchers[watcher.watch_id]
        stream.reporting.pop(watcher.watch_id, None)
        if watcher.compacted:
            self.compacted_count -= 1
        else:
            self._detach(watcher)

    def resume(self, watchers: Iterable[Watcher]) -> None:
        self._ready.update(dict.fromkeys(watchers))
        self._work()

    def forget(self, stream: WatchStream) -> None:
        self._streams.discard(stream)

    # -- live

    def _dispatch_one(self, change: Change) -> None:
        event: _Event | None = None
        bodies: dict[tuple[int, bool], bytes] = {}
        main, deleted = change.main, change.deleted
        for watcher in self._matcher.match(change.key):
            if not watcher.synced or main < watcher.next or not (watcher.wants_deletes if deleted else watcher.wants_puts):
                continue
            stream = watcher.stream
            if not stream.writable:
                self._unsync(watcher, main)
                continue
            body = bodies.get((watcher.watch_id, watcher.prev_kv))
            if body is None:
                event = event or _Event(change, self._store)
                body = events.watch_id_field(watcher.watch_id) + event.encoded(watcher.prev_kv)
                bodies[watcher.watch_id, watcher.prev_kv] = body
            watcher.idle = False
            self.events_total += 1
            if not stream.sink.send(main, body):
                stream.writable = False

    def _dispatch_revision(self, main: int, changes: Sequence[Change]) -> None:
        """Several changes of one revision: one answer per watcher."""
        batches: dict[Watcher, list[_Event]] = {}
        for change in changes:
            event = _Event(change, self._store)
            for watcher in self._matcher.match(change.key):
                if watcher.synced and main >= watcher.next and (watcher.wants_deletes if change.deleted else watcher.wants_puts):
                    batches.setdefault(watcher, []).append(event)
        for watcher, batch in batches.items():
            if watcher.stream.writable:
                self._send_events(watcher, main, batch)
            else:
                self._unsync(watcher, main)

    def _send_events(self, watcher: Watcher, revision: int, batch: Sequence[_Event]) -> None:
        """One answer, or its fragments; a stream that says no in between still takes the rest of this answer."""
        encoded = [event.encoded(watcher.prev_kv) for event in batch]
        head = events.watch_id_field(watcher.watch_id)
        watcher.idle = False
        self.events_total += len(encoded)
        if not watcher.fragment:
            watcher.stream.send(revision, head + b"".join(encoded))
            return
        for body in events.split_events(head, encoded, HEADER_BYTES, self._message_bytes_max):
            watcher.stream.send(revision, body)

    # -- catching up

    def _cancel_compacted(self) -> None:
        compacted = self._store.compact_revision
        for watcher in [one for one in self._ready if one.next < compacted]:
            self._detach(watcher)
            watcher.compacted = True
            self.compacted_count += 1
            watcher.stream.send(0, events.canceled(watcher.watch_id, compacted))

    def _choose(self, start: int, following: int) -> list[Watcher]:
        """Up to WATCH_CATCH_UP_WATCHERS whose next revision lies in the slice just read; they go to the end of the line."""
        chosen: list[Watcher] = []
        for watcher in self._ready:
            if start <= watcher.next < following:
                chosen.append(watcher)
                if len(chosen) >= WATCH_CATCH_UP_WATCHERS:
                    break
        for watcher in chosen:
            del self._ready[watcher]
        self._ready.update(dict.fromkeys(chosen))
        return chosen

    def _collect(self, changes: Sequence[Change], chosen: Sequence[Watcher]) -> dict[Watcher, list[_Event]]:
        batches: dict[Watcher, list[_Event]] = {watcher: [] for watcher in chosen}
        for change in changes:
            event: _Event | None = None
            for watcher in self._matcher.match(change.key):
                batch = batches.get(watcher)
                if batch is None or change.main < watcher.next or not (watcher.wants_deletes if change.deleted else watcher.wants_puts):
                    continue
                event = event or _Event(change, self._store)
                batch.append(event)
        return batches

    def _send_history(self, watcher: Watcher, batch: Sequence[_Event], following: int) -> None:
        """Sends `batch` cut behind whole revisions; a stream without room keeps its place."""
        stream, revision = watcher.stream, self._dispatched
        first = size = 0
        for index, event in enumerate(batch):
            if not stream.writable:
                break
            size += len(event.encoded(watcher.prev_kv))
            last = index + 1 == len(batch)
            if last or (size >= self._catch_up_bytes and batch[index + 1].change.main != event.change.main):
                self._send_events(watcher, max(revision, event.change.main), batch[first : index + 1])
                first, size = index + 1, 0
        if first < len(batch):  # no room for the rest
            watcher.next = batch[first].change.main
        else:
            watcher.next = following
        if not stream.writable and watcher.next <= self._store.revision:
            del self._ready[watcher]
            stream.stalled[watcher] = None
        elif watcher.next > self._store.revision:
            self._sync(watcher)

    def _sync(self, watcher: Watcher) -> None:
        del self._ready[watcher]
        watcher.synced = True
        self.slow_count -= 1

    def _unsync(self, watcher: Watcher, following: int) -> None:
        watcher.synced = False
        watcher.next = following
        self.slow_count += 1
        if watcher.stream.writable:
            self._ready[watcher] = None
        else:
            watcher.stream.stalled[watcher] = None

    def _detach(self, watcher: Watcher) -> None:
        """No change reaches it any more."""
        self._matcher.remove(watcher.key, watcher.end, watcher)
        if not watcher.synced:
            self.slow_count -= 1
            self._ready.pop(watcher, None)
            watcher.stream.stalled.pop(watcher, None)
        self.watcher_count -= 1
        if not self.watcher_count:
            self._on_demand(False)

    def _work(self) -> None:
        if self._ready:
            self._on_work()
