"""One client's watch stream and its watchers: ids, refusals, control answers, progress (etcd-api §1.2).

Invariant: ids are unique in a stream; `created` precedes every change of its watcher; a bookmark is sent only when everything up to its
revision was sent before. Must not know: how changes are found and sent (hub), gRPC, clocks.
"""

from typing import TYPE_CHECKING, Final, Protocol

from raftsched.errors import ETCD_STATUS, EtcdError
from raftsched.limits import WATCHERS_MAX
from raftsched.store.watch import events
from raftsched.store.watch.ranges import OPEN_END

if TYPE_CHECKING:
    from raftsched.store.watch.hub import WatchHub

DUPLICATE_ID: Final = "mvcc: duplicate watch ID provided on the WatchStream"
EMPTY_RANGE: Final = "mvcc: watcher range is empty"
COMPACTED: Final = ETCD_STATUS[EtcdError.COMPACTED][1]
TOO_MANY: Final = ETCD_STATUS[EtcdError.TOO_MANY_REQUESTS][1]
PROGRESS_ID: Final = -1  # the answer to a WatchProgressRequest speaks for all watchers of the stream


class WatchSink(Protocol):
    """One client stream."""

    def send(self, revision: int, body: bytes) -> bool:
        """One answer with `revision` in its header (0 = left out); it is taken in any case. False = no room for more:
        the hub sends no changes until `WatchStream.on_writable`."""


class Watcher:
    """One watch of one stream; see the invariant of the hub for `next` and `synced`."""

    __slots__ = (
        "compacted",
        "end",
        "fragment",
        "idle",
        "key",
        "next",
        "prev_kv",
        "start",
        "stream",
        "synced",
        "wants_deletes",
        "wants_puts",
        "watch_id",
    )

    def __init__(self, stream: "WatchStream", watch_id: int, key: bytes, end: bytes | None, start: int) -> None:
        self.stream = stream
        self.watch_id = watch_id
        self.key = key
        self.end = end
        self.start = start
        self.next = start
        self.synced = True
        self.compacted = False  # told that its history is gone: keeps only its id, until the client cancels it (as in etcd)
        self.idle = True  # no change was sent since the last progress tick
        self.wants_puts = True
        self.wants_deletes = True
        self.prev_kv = False
        self.fragment = False


class WatchStream:
    """The watchers of one client stream; made by `WatchHub.open`."""

    def __init__(self, hub: "WatchHub", sink: WatchSink) -> None:
        self._hub = hub
        self.sink = sink
        self.writable = True
        self.watchers: dict[int, Watcher] = {}
        self.reporting: dict[int, Watcher] = {}  # those that asked for progress_notify
        self.stalled: dict[Watcher, None] = {}  # unsynced and waiting for room
        self._next_id = 0
        self._closed = False

    def create(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        start_revision: int = 0,
        watch_id: int = 0,
        no_put: bool = False,
        no_delete: bool = False,
        prev_kv: bool = False,
        fragment: bool = False,
        progress_notify: bool = False,
    ) -> int | None:
        """A WatchCreateRequest; sends `created` or the refusal. The id, None when refused (etcd-api §1.2)."""
        hub = self._hub
        key = key or b"\0"
        end = None if not range_end else OPEN_END if range_end == b"\0" else range_end
        reason = self._refusal(key, end, start_revision, watch_id)
        if reason:
            self.send(hub.revision, events.refused(reason))
            return None
        hub.begin()
        watcher = Watcher(self, watch_id or self._pick_id(), key, end, start_revision)
        watcher.wants_puts, watcher.wants_deletes = not no_put, not no_delete
        watcher.prev_kv, watcher.fragment = prev_kv, fragment
        self.watchers[watcher.watch_id] = watcher
        if progress_notify:
            self.reporting[watcher.watch_id] = watcher
        self.send(hub.revision, events.created(watcher.watch_id))
        hub.add(watcher)
        return watcher.watch_id

    def refuse(self, reason: str) -> None:
        """A WatchCreateRequest that is not to be served."""
        self.send(self._hub.revision, events.refused(reason))

    def cancel(self, watch_id: int) -> None:
        """A WatchCancelRequest; unknown ids are ignored."""
        watcher = self.watchers.get(watch_id)
        if watcher is not None:
            self._hub.remove(watcher)
            self.send(self._hub.revision, events.canceled(watch_id))

    def request_progress(self) -> None:
        """A WatchProgressRequest: answered only when every watcher of the stream is synced and has started, else skipped."""
        revision = self._hub.revision
        if self.watchers and all(one.synced and one.start <= revision for one in self.watchers.values()):
            self.send(revision, events.watch_id_field(PROGRESS_ID))

    def tick_progress(self) -> None:
        """The progress interval of the stream is over: tells each quiet, synced watcher with progress_notify where it stands."""
        revision = self._hub.revision
        for watcher in list(self.reporting.values()):
            if watcher.idle and watcher.synced and watcher.start <= revision and self.writable:
                self.send(revision, events.watch_id_field(watcher.watch_id))
            watcher.idle = True

    def on_writable(self) -> None:
        """The sink has room again."""
        self.writable = True
        if self.stalled:
            self._hub.resume(self.stalled)
            self.stalled = {}

    def close(self) -> None:
        """The client is gone: all its watchers end."""
        if not self._closed:
            self._closed = True
            for watcher in list(self.watchers.values()):
                self._hub.remove(watcher)
            self._hub.forget(self)

    def send(self, revision: int, body: bytes) -> None:
        if not self.sink.send(revision, body):
            self.writable = False

    def _refusal(self, key: bytes, end: bytes | None, start_revision: int, watch_id: int) -> str:
        if start_revision < 0:
            return COMPACTED
        if end and key >= end:
            return EMPTY_RANGE
        if watch_id and watch_id in self.watchers:
            return DUPLICATE_ID
        return TOO_MANY if self._hub.watcher_count + self._hub.compacted_count >= WATCHERS_MAX else ""

    def _pick_id(self) -> int:
        while self._next_id in self.watchers:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1
