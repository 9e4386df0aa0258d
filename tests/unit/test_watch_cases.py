"""Single stories of the watch hub and its wire forms; the random ones are in property/test_watch_hub.py."""

from raftsched.limits import WATCH_STREAM_CHANGES_MAX
from raftsched.pb.etcd.kv_pb2 import Event, KeyValue
from raftsched.pb.etcd.rpc_pb2 import PutRequest, WatchResponse
from raftsched.store.watch import events
from raftsched.store.watch.hub import HISTORY_BYTES_MAX, WatchHub
from raftsched.testing.lone_node import LoneNode
from raftsched.types import Change


def change(main: int, key: bytes = b"k", value: bytes = b"v", *, version: int = 1, sub: int = 0) -> Change:
    record = KeyValue(key=key, create_revision=main - version + 1, mod_revision=main, version=version, value=value)
    return Change(False, key, main, sub, record.SerializeToString())


class Past:
    """A history of single puts; counts what is read at once."""

    def __init__(self, count: int, value: bytes = b"v") -> None:
        self.log = [change(main, value=value) for main in range(2, count + 2)]
        self.revision = count + 1
        self.compact_revision = -1
        self.largest_read = 0

    def previous(self, key: bytes, before_main: int) -> bytes | None:
        return None

    def history(self, from_main: int, revisions_max: int, bytes_max: int = 1 << 62) -> tuple[list[Change], int]:
        found: list[Change] = []
        for one in self.log[max(0, from_main - 2) :][:revisions_max]:
            if sum(len(before.record) for before in found) >= bytes_max:
                break
            found.append(one)
        self.largest_read = max(self.largest_read, len(found))
        return found, found[-1].main + 1 if found else self.revision + 1


class Sink:
    def __init__(self, room: int) -> None:
        self.room = room
        self.revisions: list[int] = []

    def send(self, revision: int, body: bytes) -> bool:
        self.revisions += [event.kv.mod_revision for event in WatchResponse.FromString(body).events]
        self.room -= 1
        return self.room > 0


def test_a_reader_without_room_keeps_its_place_while_it_catches_up() -> None:
    """Room for one answer at a time, one revision per answer: each revision comes once."""
    past = Past(30)
    hub = WatchHub(past, on_work=lambda: None, catch_up_bytes=1)
    sink = Sink(room=2)
    stream = hub.open(sink)
    stream.create(b"k", start_revision=1)
    rounds = 0
    while hub.slow_count:
        while hub.catch_up():
            pass
        sink.room = 1
        stream.on_writable()
        rounds += 1
        assert rounds < 100
    assert sink.revisions == list(range(2, 32))
    assert rounds >= 30


def test_a_synced_reader_without_room_is_caught_up_from_where_it_stopped() -> None:
    past = Past(1)
    hub = WatchHub(past, on_work=lambda: None)
    sink = Sink(room=3)
    stream = hub.open(sink)
    stream.create(b"k")
    for main in range(3, 13):
        past.log.append(change(main))
        past.revision = main
        hub.on_changes([past.log[-1]], main)
    assert sink.revisions == [3, 4], "the third answer was the last that it had room for"
    assert hub.slow_count == 1
    assert not hub.catch_up(), "nothing to do for who has no room"
    sink.room = 100
    stream.on_writable()
    while hub.catch_up():
        pass
    assert sink.revisions == list(range(3, 13))
    assert hub.slow_count == 0


def test_rounds_are_bounded_in_revisions_and_in_bytes() -> None:
    past = Past(5_000)
    hub = WatchHub(past, on_work=lambda: None)
    sink = Sink(room=1_000_000)
    hub.open(sink).create(b"k", start_revision=1)
    while hub.catch_up():
        pass
    assert sink.revisions == list(range(2, 5_002))
    assert past.largest_read == WATCH_STREAM_CHANGES_MAX
    big = Past(64, value=bytes(HISTORY_BYTES_MAX // 8))
    hub = WatchHub(big, on_work=lambda: None)
    sink = Sink(room=1_000_000)
    hub.open(sink).create(b"k", start_revision=1)
    while hub.catch_up():
        pass
    assert sink.revisions == list(range(2, 66))
    assert big.largest_read == 8


def test_an_event_is_what_protobuf_would_write() -> None:
    put = change(300, key=b"key", value=b"x" * 200, version=3)
    before = KeyValue(key=b"key", mod_revision=5).SerializeToString()
    for previous in (None, before):
        expected = Event(kv=KeyValue.FromString(put.record))
        if previous is not None:
            expected.prev_kv.ParseFromString(previous)
        assert events.encode_event(put, previous) == WatchResponse(events=[expected]).SerializeToString()
    deleted = Change(True, b"key", 1 << 40, 0, KeyValue(key=b"key").SerializeToString())
    expected = Event(type=Event.DELETE, kv=KeyValue(key=b"key", mod_revision=1 << 40))
    assert events.encode_event(deleted) == WatchResponse(events=[expected]).SerializeToString()


def test_control_answers_are_what_protobuf_would_write() -> None:
    for watch_id in (0, 1, 127, 128, 1 << 40, -1, -9):
        assert events.created(watch_id) == WatchResponse(watch_id=watch_id, created=True).SerializeToString()
        assert events.canceled(watch_id) == WatchResponse(watch_id=watch_id, canceled=True).SerializeToString()
        assert events.canceled(watch_id, 300) == WatchResponse(watch_id=watch_id, canceled=True, compact_revision=300).SerializeToString()
    reason = "x" * 200
    refused = WatchResponse(watch_id=-1, created=True, canceled=True, cancel_reason=reason)
    assert events.refused(reason) == refused.SerializeToString()


def test_a_put_that_made_its_key_is_told_from_one_that_did_not() -> None:
    for key in (b"k", b"k" * 127, b"k" * 128, b"k" * 20_000):
        for main in (2, 127, 128, 1 << 40):
            assert events.is_create(change(main, key=key))
            assert not events.is_create(change(main, key=key, version=2))
    assert not events.is_create(Change(True, b"k", 5, 0, b"\x0a\x01k"))


def test_fragments_stay_below_the_bound_and_only_the_last_is_unmarked() -> None:
    pieces = [
        events.encode_event(change(5, key=b"k%d" % number, value=bytes(size))) for number, size in enumerate((10, 500, 90, 2_000, 5, 5))
    ]
    bodies = events.split_events(b"\x10\x07", pieces, 48, 1_000)
    answers = [WatchResponse.FromString(body) for body in bodies]
    assert [answer.fragment for answer in answers] == [True] * (len(answers) - 1) + [False]
    assert [event.kv.key for answer in answers for event in answer.events] == [b"k%d" % number for number in range(6)]
    assert all(len(body) + 48 < 1_000 or len(answer.events) == 1 for body, answer in zip(bodies, answers, strict=True))
    assert all(answer.watch_id == 7 for answer in answers)
    assert events.split_events(b"", pieces[:1], 48, 10) == pieces[:1], "a single event is never split"


def test_the_store_ends_a_slice_of_history_behind_whole_revisions() -> None:
    """Against the real store: by revisions, and by bytes behind the revision that reaches them."""
    store = LoneNode().mvcc
    for number in range(6):
        store.put(PutRequest(key=b"k%d" % number, value=bytes(1_000)).SerializeToString())
    assert [one.main for one in store.history(2, 100)[0]] == [2, 3, 4, 5, 6, 7]
    assert [one.main for one in store.history(3, 2)[0]] == [3, 4]
    changes, following = store.history(3, 100, 1_500)
    assert [one.main for one in changes] == [3, 4]
    assert following == 5
    assert len(store.history(2, 100, 1)[0]) == 1, "one revision at least"
    assert store.history(8, 100, 1) == ([], 8)
