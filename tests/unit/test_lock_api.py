"""etcd's lock and election services behind the real door: what needs no second server to judge (etcd-api §1.7). Answers and errors word by
word are compared with a real etcd in tests/interop/test_lock_differential.py."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import grpc
import pytest

from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import rpc_pb2_grpc as stubs
from raftsched.pb.etcd import v3election_pb2 as election_pb
from raftsched.pb.etcd import v3election_pb2_grpc as election_stubs
from raftsched.pb.etcd import v3lock_pb2 as lock_pb
from raftsched.pb.etcd import v3lock_pb2_grpc as lock_stubs
from raftsched.rpc.etcd import waiting
from raftsched.store.watch import stream as watch_stream
from raftsched.testing.lone_node import EtcdDoor

HASLEADER = (("hasleader", "true"),)
UNARY: dict[str, Callable[["Clients"], Any]] = {
    "Lock": lambda one: one.lock.Lock(lock_pb.LockRequest(name=b"n", lease=1), timeout=5, metadata=HASLEADER),
    "Unlock": lambda one: one.lock.Unlock(lock_pb.UnlockRequest(key=b"n/1"), timeout=5, metadata=HASLEADER),
    "Campaign": lambda one: one.election.Campaign(election_pb.CampaignRequest(name=b"e", lease=1), timeout=5, metadata=HASLEADER),
    "Proclaim": lambda one: one.election.Proclaim(election_pb.ProclaimRequest(leader=LEADER), timeout=5, metadata=HASLEADER),
    "Leader": lambda one: one.election.Leader(election_pb.LeaderRequest(name=b"e"), timeout=5, metadata=HASLEADER),
    "Resign": lambda one: one.election.Resign(election_pb.ResignRequest(leader=LEADER), timeout=5, metadata=HASLEADER),
    "Observe": lambda one: next(one.election.Observe(election_pb.LeaderRequest(name=b"e"), timeout=5, metadata=HASLEADER)),
}
LEADER = election_pb.LeaderKey(name=b"e", key=b"e/1", rev=2, lease=1)


class Clients:
    """Stubs over one channel."""

    def __init__(self, door: EtcdDoor) -> None:
        self.door = door
        self.channel = grpc.insecure_channel(door.address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.kv = stubs.KVStub(self.channel)
        self.lease = stubs.LeaseStub(self.channel)
        self.lock = lock_stubs.LockStub(self.channel)
        self.election = election_stubs.ElectionStub(self.channel)

    def grant(self, *leases: int) -> None:
        for lease in leases:
            self.lease.LeaseGrant(pb.LeaseGrantRequest(ID=lease, TTL=100))

    def put(self, key: bytes, value: bytes = b"") -> int:
        return int(self.kv.Put(pb.PutRequest(key=key, value=value)).header.revision)

    def keys(self) -> list[bytes]:
        return [one.key for one in self.kv.Range(pb.RangeRequest(key=b"\0", range_end=b"\0")).kvs]

    def locking(self, lease: int, name: bytes = b"n") -> Any:
        """A Lock that is in line."""
        call = self.lock.Lock.future(lock_pb.LockRequest(name=name, lease=lease), timeout=20)
        until(lambda: b"%s/%x" % (name, lease) in self.keys())
        return call

    def campaigning(self, lease: int, name: bytes = b"n") -> Any:
        call = self.election.Campaign.future(election_pb.CampaignRequest(name=name, lease=lease), timeout=20)
        until(lambda: b"%s/%x" % (name, lease) in self.keys())
        return call

    def watching(self) -> tuple[int, int]:
        """Watches and streams of the member's hub."""
        hub = self.door.services.watch.hub
        return hub.watcher_count, hub.stream_count

    def wait_watching(self, count: int) -> None:
        until(lambda: self.watching() == (count, count))


def until(condition: Callable[[], Any]) -> None:
    stop = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < stop, "waited in vain"
        time.sleep(0.005)


@pytest.fixture
def clients() -> Iterator[Clients]:
    with EtcdDoor(leader_lost_ms=200) as door:
        opened = Clients(door)
        yield opened
        until(lambda: not door.services.recipes.running)
        assert opened.watching() == (0, 0), "a watch was left behind"
        opened.channel.close()


def status(call: Callable[[], Any]) -> tuple[int, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().value[0], caught.value.details()


@pytest.mark.parametrize("method", UNARY)
def test_without_a_leader(method: str, clients: Clients) -> None:
    """`hasleader` is refused at once; otherwise etcd's handlers get a client's error, whose code does not reach the wire."""
    clients.door.run(lambda: setattr(clients.door.node, "leader_id", 0))
    assert status(lambda: UNARY[method](clients)) == (14, "etcdserver: no leader")


def test_errors_of_the_store_come_with_the_code_unknown(clients: Clients) -> None:
    clients.door.run(lambda: setattr(clients.door.node, "leader_id", 0))
    assert status(lambda: clients.lock.Lock(lock_pb.LockRequest(name=b"n", lease=1))) == (2, "etcdserver: no leader")
    assert list(clients.election.Observe(election_pb.LeaderRequest(name=b"e"))) == [], "ends with OK, as in etcd"


@pytest.mark.parametrize("method", UNARY)
def test_a_learner_does_not_serve_it(method: str, clients: Clients) -> None:
    clients.door.run(lambda: setattr(clients.door.node, "is_learner", True))
    assert status(lambda: UNARY[method](clients)) == (9, "etcdserver: rpc not supported for learner")


@pytest.mark.parametrize("method", UNARY)
def test_every_method_counts(method: str, clients: Clients) -> None:
    clients.grant(1)
    clients.put(b"e/1")
    UNARY[method](clients)
    service = "v3lockpb.Lock" if method in {"Lock", "Unlock"} else "v3electionpb.Election"
    kind = "server_stream" if method == "Observe" else "unary"
    label = f'grpc_method="{method}",grpc_service="{service}",grpc_type="{kind}"'
    text = clients.door.run(clients.door.metrics.render).decode()
    assert f"grpc_server_started_total{{{label}}} 1" in text


def test_an_observer_without_a_leader_for_long_is_told_so(clients: Clients) -> None:
    clients.put(b"e/1")
    call = clients.election.Observe(election_pb.LeaderRequest(name=b"e"), metadata=HASLEADER, timeout=10)
    next(call)
    clients.door.run(lambda: setattr(clients.door.node, "leader_id", 0))
    assert status(lambda: next(call)) == (14, "etcdserver: no leader")


def test_a_stop_ends_what_waits_at_once_and_gives_its_places_up(clients: Clients) -> None:
    clients.grant(1, 2, 3)
    clients.lock.Lock(lock_pb.LockRequest(name=b"n", lease=1))
    calls = [clients.locking(2), clients.campaigning(3)]
    clients.wait_watching(2)
    began = time.monotonic()
    clients.door.run(clients.door.services.end_waiting)
    for call in calls:
        assert status(call.result) == (14, "etcdserver: server stopped")
    assert time.monotonic() - began < 2
    assert clients.keys() == [b"n/1"]
    assert status(lambda: clients.lock.Lock(lock_pb.LockRequest(name=b"m", lease=1))) == (14, "etcdserver: server stopped")
    assert status(lambda: next(clients.election.Observe(election_pb.LeaderRequest(name=b"e")))) == (14, "etcdserver: server stopped")
    assert clients.keys() == [b"n/1"], "what is refused has done nothing"


def test_a_stop_ends_observers(clients: Clients) -> None:
    clients.put(b"e/1")
    calls = [clients.election.Observe(election_pb.LeaderRequest(name=name), timeout=10) for name in (b"e", b"nobody")]
    next(calls[0])
    clients.wait_watching(2)
    clients.door.run(clients.door.services.end_waiting)
    for call in calls:
        assert status(lambda call=call: next(call)) == (14, "etcdserver: server stopped")


def test_who_was_cut_off_leaves_the_line(clients: Clients) -> None:
    """A client that is killed closes its connection: as if it had cancelled."""
    clients.grant(1, 2, 3)
    clients.lock.Lock(lock_pb.LockRequest(name=b"n", lease=1))
    killed = Clients(clients.door)
    killed.locking(2)
    last = clients.locking(3)
    killed.channel.close()
    until(lambda: clients.keys() == [b"n/1", b"n/3"])
    clients.lock.Unlock(lock_pb.UnlockRequest(key=b"n/1"))
    assert last.result().key == b"n/3"


def test_calls_under_way_are_bounded(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RECIPES_RUNNING_MAX", 2)
    clients.grant(1, 2, 3)
    clients.lock.Lock(lock_pb.LockRequest(name=b"n", lease=1))
    call, observing = clients.locking(2), clients.election.Observe(election_pb.LeaderRequest(name=b"n"), timeout=10)
    next(observing)
    full = (2, "etcdserver: too many requests")
    assert status(lambda: clients.lock.Lock(lock_pb.LockRequest(name=b"other", lease=3))) == full
    assert status(lambda: next(clients.election.Observe(election_pb.LeaderRequest(name=b"n")))) == full
    assert clients.keys() == [b"n/1", b"n/2"]
    observing.cancel()
    until(lambda: clients.door.services.recipes.running == 1)
    clients.lock.Unlock(lock_pb.UnlockRequest(key=b"n/1"))
    assert call.result().key == b"n/2"


def test_no_watch_can_be_had(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_stream, "WATCHERS_MAX", 0)
    clients.grant(1, 2)
    clients.lock.Lock(lock_pb.LockRequest(name=b"n", lease=1))
    full = (2, "etcdserver: too many requests")
    assert status(lambda: clients.lock.Lock(lock_pb.LockRequest(name=b"n", lease=2))) == full
    assert status(lambda: list(clients.election.Observe(election_pb.LeaderRequest(name=b"n")))) == full
    assert clients.keys() == [b"n/1"]


def test_history_that_is_gone(clients: Clients) -> None:
    """A snapshot came that knows nothing of the deletion that is awaited: as in etcd a lock gives its place up, a candidate leaves it."""
    clients.grant(1, 2, 3)
    clients.lock.Lock(lock_pb.LockRequest(name=b"n", lease=1))
    locking, campaigning = clients.locking(2), clients.campaigning(3)
    observing = clients.election.Observe(election_pb.LeaderRequest(name=b"n"), timeout=10)
    next(observing)
    clients.wait_watching(3)
    hub, node = clients.door.services.watch.hub, clients.door.node

    def lose() -> None:
        hub.on_reset()  # everybody is behind
        for _ in range(3):
            node.propose_many(4, [pb.PutRequest(key=b"x").SerializeToString()], [0], Ignored())
        node.propose_many(7, [pb.CompactionRequest(revision=node.mvcc.revision).SerializeToString()], [0], Ignored())

    clients.door.run(lose)
    compacted = (2, "etcdserver: mvcc: required revision has been compacted")
    assert status(locking.result) == compacted
    assert status(campaigning.result) == compacted
    assert list(observing) == [], "ends with OK"
    until(lambda: clients.keys() == [b"n/1", b"n/3", b"x"])


class Ignored:
    """A ResultSink."""

    def on_results(self, tokens: Any, results: Any) -> None: ...


def test_an_observer_that_does_not_read_costs_no_memory_and_misses_nothing(clients: Clients) -> None:
    """The hub keeps a place in history for it, not messages."""
    slow = threading.Event()
    seen: list[bytes] = []
    call = clients.election.Observe(election_pb.LeaderRequest(name=b"e"), timeout=60)

    def read() -> None:
        with suppress(grpc.RpcError):  # it is cancelled at the end
            for answer in call:
                seen.append(answer.kv.value)
                slow.wait(60)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    clients.put(b"e/1", b"first")
    until(lambda: seen)
    values = [b"%04d" % number + bytes(40_000) for number in range(200)]
    for value in values:
        clients.put(b"e/1", value)
    assert clients.door.services.watch.hub.slow_count == 1, "it is behind"
    assert clients.door.run(lambda: clients.door.engine.counters()["buffered_bytes"]) < 1 << 20
    slow.set()
    until(lambda: len(seen) == 201)
    assert seen == [b"first", *values]
    call.cancel()
    reader.join(10)


def test_an_observer_that_does_not_read_while_leaders_change(clients: Clients) -> None:
    """Leaders that were so while it did not read may be left out; the present one is told."""
    call = clients.election.Observe(election_pb.LeaderRequest(name=b"e"), timeout=60)
    clients.put(b"e/0", b"first")
    assert next(call).kv.value == b"first"
    for number in range(1, 150):
        clients.put(b"e/%d" % number, b"%04d" % number + bytes(40_000))
        clients.kv.DeleteRange(pb.DeleteRangeRequest(key=b"e/%d" % (number - 1)))
        clients.kv.Range(pb.RangeRequest(key=b"e"))  # a turn of the loop, in which the observer looks
    assert clients.door.run(lambda: clients.door.engine.counters()["buffered_bytes"]) < 1 << 20
    clients.put(b"e/149", b"last")
    seen = [b"first"]
    while seen[-1] != b"last":
        seen.append(next(call).kv.value[:4])
    assert seen[1:-1] == sorted(seen[1:-1])
    call.cancel()


def test_an_observer_that_sends_nothing_or_too_much(clients: Clients) -> None:
    stream = clients.channel.stream_stream("/v3electionpb.Election/Observe")
    assert status(lambda: next(stream(iter(()))))[0] == 13
    request = election_pb.LeaderRequest(name=b"e").SerializeToString()
    assert status(lambda: next(stream(iter([request, request]))))[0] == 13


def test_what_happens_between_the_look_and_the_watch_is_seen(clients: Clients) -> None:
    """The one before goes as soon as it was seen: a watch from now on would wait for ever."""
    clients.grant(1, 2)
    clients.lock.Lock(lock_pb.LockRequest(name=b"n", lease=1))
    node = clients.door.node
    real = node.read_many

    def then_delete(messages: Any, tokens: Any, sink: Any, **options: Any) -> None:
        real(messages, tokens, sink, **options)
        if pb.RangeRequest.FromString(messages[0]).sort_target == pb.RangeRequest.CREATE:
            node.propose_many(5, [pb.DeleteRangeRequest(key=b"n/1").SerializeToString()], [0], Ignored())

    node.read_many = then_delete
    assert clients.lock.Lock(lock_pb.LockRequest(name=b"n", lease=2), timeout=5).key == b"n/2"


def test_waiters_are_woken_one_by_one(clients: Clients) -> None:
    """Each watches the one before it: a release costs one reading, however long the line is."""
    count = 50
    clients.grant(*range(1, count + 1))
    clients.lock.Lock(lock_pb.LockRequest(name=b"n", lease=1))
    calls = [clients.locking(lease) for lease in range(2, count + 1)]
    clients.wait_watching(count - 1)
    reads = clients.door.run(lambda: count_reads(clients.door))
    for lease, call in zip(range(1, count), calls, strict=True):
        clients.lock.Unlock(lock_pb.UnlockRequest(key=b"n/%x" % lease))
        assert call.result().key == b"n/%x" % (lease + 1)
    assert len(reads) == 2 * (count - 1), "who is before me, and is my key there"


def count_reads(door: EtcdDoor) -> list[int]:
    """Linearizable readings from now on."""
    seen: list[int] = []
    real = door.node.read_many

    def counted(messages: Any, tokens: Any, sink: Any, **options: Any) -> None:
        seen.extend(tokens)
        real(messages, tokens, sink, **options)

    door.node.read_many = counted
    return seen
