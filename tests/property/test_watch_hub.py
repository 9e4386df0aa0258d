"""The watch hub against the promises of etcd-api §6: ordered, unique, reliable, atomic, resumable, bookmarkable.

The twin is the plain list of all changes ever made: what a watcher has received must be a prefix of what that list says it
should, at every moment, whoever reads slowly, cancels or falls behind a compaction; and in the end it must be all of it.
"""

from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raftsched.pb.etcd.kv_pb2 import Event, KeyValue
from raftsched.pb.etcd.rpc_pb2 import ResponseHeader, WatchResponse
from raftsched.store.watch.hub import WatchHub
from raftsched.store.watch.ranges import OPEN_END, KeyMatcher, prefix_end
from raftsched.store.watch.stream import COMPACTED, DUPLICATE_ID, EMPTY_RANGE, WatchStream
from raftsched.types import Change

KEYS = [b"a", b"a1", b"b", b"b\xff", b"\xff"]
ENDS = [b"", b"\0", b"a2", b"b", b"c", b"\xff", b"\xff\xff", prefix_end(b"a"), prefix_end(b"b")]
BIG = 400  # bytes of the larger values: with MESSAGE_BYTES_MAX they make fragments
MESSAGE_BYTES_MAX = 1_000
CATCH_UP_BYTES = 60  # two small revisions


class PlainStore:
    """Every change in one list; `previous` and `history` by looking through it."""

    def __init__(self) -> None:
        self.revision = 1
        self.compact_revision = -1
        self.log: list[Change] = []

    def write(self, operations: list[tuple[bytes, bytes | None]]) -> list[Change]:
        """One request: (key, value), value None deletes. Takes a revision if anything changes."""
        changes: list[Change] = []
        main = self.revision + 1
        for key, value in operations:
            old = self._state(key, main, [*self.log, *changes])
            if value is None:
                if old is not None:
                    changes.append(Change(True, key, main, len(changes), KeyValue(key=key).SerializeToString()))
                continue
            was = KeyValue.FromString(old) if old is not None else None
            kv = KeyValue(key=key, value=value, mod_revision=main, create_revision=was.create_revision if was else main)
            kv.version = was.version + 1 if was else 1
            changes.append(Change(False, key, main, len(changes), kv.SerializeToString()))
        if changes:
            self.revision = main
            self.log += changes
        return changes

    def previous(self, key: bytes, before_main: int) -> bytes | None:
        if before_main - 1 < self.compact_revision:
            return None
        return self._state(key, before_main - 1, self.log)

    def history(self, from_main: int, revisions_max: int, bytes_max: int = 1 << 62) -> tuple[list[Change], int]:
        assert from_main >= self.compact_revision, "history below the compaction was asked for"
        found = [change for change in self.log if change.main >= from_main]
        mains = sorted({change.main for change in found})[:revisions_max]
        if mains and mains[-1] < self.revision:
            return [change for change in found if change.main <= mains[-1]], mains[-1] + 1
        return found, self.revision + 1

    @staticmethod
    def _state(key: bytes, main: int, log: list[Change]) -> bytes | None:
        last = [change for change in log if change.key == key and change.main <= main]
        return last[-1].record if last and not last[-1].deleted else None


class SlowSink:
    """Records what it is sent; has room for `room` messages, then says no until it is emptied."""

    def __init__(self) -> None:
        self.room = 1 << 30
        self.messages: list[WatchResponse] = []
        self._refused_at: int | None = None

    def send(self, revision: int, body: bytes) -> bool:
        header = ResponseHeader(cluster_id=1, revision=revision)
        message = WatchResponse(header=header)
        message.MergeFromString(body)
        if self._refused_at is not None and message.events:
            rest = self.messages[self._refused_at]
            assert rest.fragment, "changes were sent to a stream without room"
            assert rest.watch_id == message.watch_id
            self._refused_at = len(self.messages)
        self.messages.append(message)
        self.room -= 1
        if self.room <= 0 and self._refused_at is None:
            self._refused_at = len(self.messages) - 1
        return self.room > 0

    def empty(self, room: int) -> None:
        self.room = room
        self._refused_at = None


@dataclass
class Expected:
    """What the twin knows of one watcher."""

    key: bytes
    range_end: bytes
    start: int
    no_put: bool
    no_delete: bool
    prev_kv: bool
    fragment: bool
    progress_notify: bool
    canceled: bool = False  # by a compaction
    received: list[Event] = field(default_factory=list)

    def wants(self, change: Change) -> bool:
        if change.main < self.start or (self.no_delete if change.deleted else self.no_put):
            return False
        if not self.range_end:
            return change.key == self.key
        return change.key >= self.key and (self.range_end == b"\0" or change.key < self.range_end)


class Client:
    """One stream and its watchers, by id."""

    def __init__(self, hub: WatchHub) -> None:
        self.sink = SlowSink()
        self.stream: WatchStream = hub.open(self.sink)
        self.watchers: dict[int, Expected] = {}
        self.read = 0
        self.open = True


class HubMachine(RuleBasedStateMachine):
    """Random writers, watchers, slow readers and compactions."""

    @initialize()
    def begin(self) -> None:
        self.store = PlainStore()
        self.subscribed = False
        self.work = False
        self.hub = WatchHub(
            self.store,
            on_work=self._on_work,
            on_demand=self._on_demand,
            message_bytes_max=MESSAGE_BYTES_MAX,
            catch_up_bytes=CATCH_UP_BYTES,
        )
        self.clients: list[Client] = [Client(self.hub), Client(self.hub)]

    def _on_work(self) -> None:
        self.work = True

    def _on_demand(self, wanted: bool) -> None:
        assert wanted != self.subscribed
        self.subscribed = wanted

    # -- writers

    @rule(
        batch=st.lists(
            st.lists(
                st.tuples(st.sampled_from(KEYS), st.sampled_from([b"v", b"w", b"x" * BIG, None])),
                min_size=1,
                max_size=5,
                unique_by=lambda one: one[0],
            ),
            min_size=1,
            max_size=4,
        )
    )
    def write(self, batch: list[list[tuple[bytes, bytes | None]]]) -> None:
        """Several requests of one apply batch; the hub hears of all at once."""
        changes = [change for operations in batch for change in self.store.write(operations)]
        if self.subscribed and changes:
            self.hub.on_changes(changes, self.store.revision)

    @precondition(lambda self: self.store.revision > max(1, self.store.compact_revision))
    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        self.store.compact_revision = data.draw(st.integers(max(1, self.store.compact_revision + 1), self.store.revision))

    # -- watchers

    @rule(
        data=st.data(),
        client=st.integers(0, 1),
        key=st.sampled_from([b"", b"a", *KEYS]),
        range_end=st.sampled_from([b"\0", *ENDS]),
        watch_id=st.sampled_from([0, 0, 0, 1, 2, 7, -5]),
        flags=st.lists(st.booleans(), min_size=5, max_size=5),
    )
    def watch(self, data: st.DataObject, client: int, key: bytes, range_end: bytes, watch_id: int, flags: list[bool]) -> None:
        one = self.clients[client]
        if not one.open:
            return
        now = self.store.revision
        start = data.draw(st.one_of(st.just(0), st.integers(1, now), st.integers(now + 1, now + 3), st.just(-1)))
        no_put, no_delete, prev_kv, fragment, notify = flags
        effective = start if start > 0 else self.hub.revision + 1
        made = one.stream.create(
            key,
            range_end,
            start_revision=start,
            watch_id=watch_id,
            no_put=no_put and not no_delete,
            no_delete=no_delete,
            prev_kv=prev_kv,
            fragment=fragment,
            progress_notify=notify,
        )
        answer = one.sink.messages[-1]
        assert answer.created
        assert answer.header.revision == self.store.revision
        reason = self._refusal(one, key or b"\0", range_end, start, watch_id)
        assert answer.cancel_reason == reason
        assert answer.canceled == bool(reason)
        assert (made is None) == bool(reason)
        assert answer.watch_id == (-1 if reason else made)
        if made is not None:
            one.watchers[made] = Expected(
                key or b"\0", range_end, effective, no_put and not no_delete, no_delete, prev_kv, fragment, notify
            )

    @staticmethod
    def _refusal(client: Client, key: bytes, range_end: bytes, start: int, watch_id: int) -> str:
        if start < 0:
            return COMPACTED
        if range_end not in (b"", b"\0") and key >= range_end:
            return EMPTY_RANGE
        return DUPLICATE_ID if watch_id and watch_id in client.watchers else ""

    @rule(client=st.integers(0, 1), watch_id=st.integers(-5, 8))
    def cancel(self, client: int, watch_id: int) -> None:
        one = self.clients[client]
        if not one.open:
            return
        self._read(one)
        known = watch_id in one.watchers
        before = len(one.sink.messages)
        one.stream.cancel(watch_id)
        assert len(one.sink.messages) == before + known
        self._read(one)
        if known:
            assert watch_id not in one.watchers

    @rule(client=st.integers(0, 1))
    def progress(self, client: int) -> None:
        """The bookmark: everything up to the header's revision was sent before it."""
        one = self.clients[client]
        before = len(one.sink.messages)
        if one.open:
            one.stream.request_progress()
        for answer in one.sink.messages[before:]:
            assert answer.watch_id == -1
            assert not answer.events
            self._read(one)
            for watcher in one.watchers.values():
                assert watcher.start <= answer.header.revision + 1
                assert len(watcher.received) == len([c for c in self.store.log if c.main <= answer.header.revision and watcher.wants(c)])

    @rule(client=st.integers(0, 1))
    def tick(self, client: int) -> None:
        one = self.clients[client]
        before = len(one.sink.messages)
        if one.open:
            one.stream.tick_progress()
        for answer in one.sink.messages[before:]:
            assert one.watchers[answer.watch_id].progress_notify
            self._read(one)
            watcher = one.watchers[answer.watch_id]
            assert len(watcher.received) == len([c for c in self.store.log if c.main <= answer.header.revision and watcher.wants(c)])

    # -- readers

    @rule(client=st.integers(0, 1), room=st.integers(1, 3))
    def slow_down(self, client: int, room: int) -> None:
        one = self.clients[client]
        if one.stream.writable:
            one.sink.room = room

    @rule(client=st.integers(0, 1), room=st.sampled_from([1, 2, 10, 1 << 30]))
    def read_on(self, client: int, room: int) -> None:
        one = self.clients[client]
        if one.open and not one.stream.writable:
            one.sink.empty(room)
            one.stream.on_writable()

    @rule()
    def catch_up(self) -> None:
        self.work = False
        if self.hub.catch_up():
            self.work = True

    @rule(client=st.integers(0, 1))
    def reconnect(self, client: int) -> None:
        self.clients[client].stream.close()
        self.clients[client] = Client(self.hub)

    # -- the twin's judgement

    @invariant()
    def received_is_a_prefix(self) -> None:
        for one in getattr(self, "clients", []):
            self._read(one)

    @invariant()
    def counts_are_true(self) -> None:
        if not hasattr(self, "hub"):
            return
        held = [watcher for client in self.clients for watcher in client.stream.watchers.values()]
        watchers = [watcher for watcher in held if not watcher.compacted]
        assert self.hub.compacted_count == len(held) - len(watchers)
        assert self.hub.watcher_count == len(watchers)
        assert self.hub.slow_count == sum(not watcher.synced for watcher in watchers)
        assert self.subscribed == bool(watchers)

    def _read(self, one: Client) -> None:
        """Takes over what arrived since the last time."""
        for message in one.sink.messages[one.read :]:
            one.read += 1
            if message.created or message.watch_id == -1:
                continue
            watcher = one.watchers[message.watch_id]
            if message.canceled:
                self._canceled(one, message)
                continue
            self._events(watcher, message)

    def _canceled(self, one: Client, message: WatchResponse) -> None:
        if not message.compact_revision:
            del one.watchers[message.watch_id]
            return
        watcher = one.watchers[message.watch_id]
        assert not watcher.canceled
        watcher.canceled = True
        assert not message.header.revision
        assert not message.cancel_reason
        missing = [change for change in self.store.log if watcher.wants(change)][len(watcher.received) :]
        lost = missing[0].main if missing else watcher.start
        assert min(lost, watcher.start) < message.compact_revision

    def _events(self, watcher: Expected, message: WatchResponse) -> None:
        assert not message.fragment or watcher.fragment
        wanted = [change for change in self.store.log if watcher.wants(change)]
        for event in message.events:
            change = wanted[len(watcher.received)]
            kv = KeyValue.FromString(change.record)
            if change.deleted:
                kv.mod_revision = change.main
            assert event.type == (Event.DELETE if change.deleted else Event.PUT)
            assert event.kv == kv
            self._previous(watcher, event, change)
            watcher.received.append(event)
        if message.events:
            self._atomic(watcher, message, wanted)

    def _previous(self, watcher: Expected, event: Event, change: Change) -> None:
        before = PlainStore._state(change.key, change.main - 1, self.store.log)
        if event.HasField("prev_kv"):
            assert watcher.prev_kv
            assert event.prev_kv.SerializeToString() == before
        elif watcher.prev_kv and before is not None:
            assert change.main - 1 < self.store.compact_revision

    def _atomic(self, watcher: Expected, message: WatchResponse, wanted: list[Change]) -> None:
        """An answer ends behind a whole revision, unless it says that more fragments follow."""
        last = message.events[-1].kv.mod_revision
        complete = len(watcher.received) == len(wanted) or wanted[len(watcher.received)].main > last
        if not message.fragment:
            assert complete
        assert message.header.revision >= last
        size = len(message.SerializeToString())
        if watcher.fragment and len(message.events) > 1:
            assert size < MESSAGE_BYTES_MAX + 100

    def teardown(self) -> None:
        """Everybody reads: whoever is not canceled has everything."""
        if not hasattr(self, "hub"):
            return
        for one in self.clients:
            one.sink.empty(1 << 30)
            if one.open:
                one.stream.on_writable()
        rounds = 0
        while self.hub.catch_up():
            rounds += 1
            assert rounds < 1_000
        for one in self.clients:
            self._read(one)
            for watcher in one.watchers.values():
                if not watcher.canceled:
                    assert len(watcher.received) == len([change for change in self.store.log if watcher.wants(change)])
            one.stream.close()
        assert self.hub.watcher_count == self.hub.slow_count == self.hub.stream_count == 0
        assert not self.subscribed


HubMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
TestHub = HubMachine.TestCase


RANGES = st.tuples(st.binary(min_size=1, max_size=3), st.one_of(st.none(), st.just(OPEN_END), st.binary(min_size=1, max_size=3)))


@given(
    st.lists(st.one_of(RANGES, st.binary(min_size=1, max_size=3).map(lambda key: (key, prefix_end(key)))), max_size=120),
    st.lists(st.binary(min_size=1, max_size=4), min_size=1, max_size=20),
    st.sets(st.integers(0, 119)),
)
def test_matcher_finds_what_a_scan_finds(ranges: list[tuple[bytes, bytes | None]], keys: list[bytes], gone: set[int]) -> None:
    matcher: KeyMatcher[int] = KeyMatcher()
    for index, (start, end) in enumerate(ranges):
        matcher.add(start, end, index)
    for index in gone:
        if index < len(ranges):
            matcher.remove(*ranges[index], index)
    for key in keys:
        plain = [
            index
            for index, (start, end) in enumerate(ranges)
            if index not in gone and (key == start if end is None else start <= key and (not end or key < end))
        ]
        assert sorted(matcher.match(key)) == plain


@pytest.mark.parametrize(("prefix", "end"), [(b"a", b"b"), (b"a\xff", b"b"), (b"\xff\xff", OPEN_END), (b"a\xfe", b"a\xff")])
def test_prefix_end(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end
