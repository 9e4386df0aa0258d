"""A crowd that asks for a lot and reads nothing, over gRPC, JSON and Watch: memory stays bounded, and who reads is served."""

import base64
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import h2.config
import h2.connection
import pytest
from serving import Clients, metrics, wait_for

from raftsched import limits
from raftsched.pb.etcd import rpc_pb2
from raftsched.testing.process import ServerProcess

pytestmark = pytest.mark.process
VALUE = 1_000_000
ANSWER_BYTES_MAX = 14 << 20
GROWTH_BYTES_MAX = limits.UNREAD_BYTES_MAX + (320 << 20)  # what one turn of the loop makes, what buffers that grow and the allocator keep
CLOSED = "raftsched_door_unread_closed_total"


def metric(server: ServerProcess, name: str) -> float:
    return metrics(server.client_port).get(name, 0.0)


@contextmanager
def bounded(server: ServerProcess, clients: Clients) -> Iterator[ExitStack]:
    """Around what a crowd does: its sockets go on the stack."""
    clients.put(b"large", bytes(VALUE))
    before = server.memory_bytes()
    with ExitStack() as sockets:
        yield sockets
        wait_for(lambda: metric(server, CLOSED) > 0, 20, "nobody was closed")
        assert server.memory_bytes() - before < GROWTH_BYTES_MAX
        clients.put(b"small", b"1")
        assert clients.get(b"small") == b"1"
        assert clients.get(b"large") == bytes(VALUE)
        assert metric(server, "raftsched_door_unread_bytes") <= limits.UNREAD_BYTES_MAX + ANSWER_BYTES_MAX
    assert "too many answers are waiting to be read" in server.logs(1 << 20)
    wait_for(lambda: metric(server, "raftsched_door_unread_bytes") < VALUE, 10, "something is left of who has gone")
    assert "Traceback" not in server.logs(1 << 20)
    assert server.stop() == 0


def connected(server: ServerProcess, sockets: ExitStack) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.client_port))
    return sockets.enter_context(connection)


def calls(path: str, message: bytes, count: int, *, end: bool = True) -> bytes:
    """A connection's first bytes, and that many requests."""
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    peer.initiate_connection()
    head = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"), ("content-type", "application/grpc")]
    for _ in range(count):
        stream = peer.get_next_available_stream_id()
        peer.send_headers(stream, [*head, ("te", "trailers")])
        peer.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=end)
    return peer.data_to_send()


@pytest.mark.parametrize("serializable", [False, True])
def test_ranges(server: ServerProcess, clients: Clients, *, serializable: bool) -> None:
    message = rpc_pb2.RangeRequest(key=b"large", serializable=serializable).SerializeToString()
    crowd = calls("/etcdserverpb.KV/Range", message, 100)
    with bounded(server, clients) as sockets:
        for _ in range(15):
            connected(server, sockets).sendall(crowd)


def test_ranges_over_json(server: ServerProcess, clients: Clients) -> None:
    for number in range(9):  # answers of 13 MB, for the kernel takes some of each; one at a time
        clients.put(b"large%d" % number, bytes(VALUE))
    body = json.dumps({"key": base64.b64encode(b"large").decode(), "range_end": base64.b64encode(b"largf").decode()}).encode()
    request = b"POST /v3/kv/range HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with bounded(server, clients) as sockets:
        for _ in range(80):
            connected(server, sockets).sendall(request)


def test_watches(server: ServerProcess, clients: Clients) -> None:
    create = rpc_pb2.WatchRequest(create_request=rpc_pb2.WatchCreateRequest(key=b"watched")).SerializeToString()
    crowd = calls("/etcdserverpb.Watch/Watch", create, 60, end=False)
    with bounded(server, clients) as sockets:
        for _ in range(12):
            connected(server, sockets).sendall(crowd)
        wait_for(lambda: metric(server, "etcd_debugging_mvcc_watcher_total") == 720, 20, "the watches are not there")
        for _ in range(3):
            clients.put(b"watched", bytes(VALUE))
