"""The door alone: CPU of its loop thread per request and per message, echo handlers included, clients in other processes.

`python -m pytest bench/test_door.py -s` prints the table and writes `.benchmarks/door.json`. The rows of grpcio's own server in
the same run are there for the ratio; absolute figures mean something on a quiet machine only.
"""

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import h2.connection
import h2.settings
import pytest

from bench.load import h2load
from raftsched.testing.door import EchoDoor
from raftsched.testing.door_peer import frame

OUTPUT = Path(os.environ.get("DOOR_JSON", ".benchmarks/door.json"))
REQUESTS = int(os.environ.get("DOOR_REQUESTS", "100000"))
MESSAGE = b"\x0a\x08kkkkkkkk\x12\x80\x02" + b"v" * 256  # a put of 8 B key and 256 B value
HOT_US, PUSH_US = 2.0, 1.0
RESULTS: dict[str, dict[str, float | str]] = {}

needs_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")


@pytest.fixture(scope="module")
def door() -> Iterator[EchoDoor]:
    with EchoDoor(message_bytes_max=1 << 30) as opened:
        yield opened


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    yield
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(RESULTS, indent=1) + "\n")
    for name, row in RESULTS.items():
        print(f"\n{name:44} {row['us']:8.2f} µs CPU  {row['rate']:>12,.0f}/s  {row['note']}", end="")
    print()


def thread_cpu(door: EchoDoor) -> float:
    async def ask() -> float:
        return time.thread_time()

    return door.run(ask())


def measured(name: str, cpu: Callable[[], float], work: Callable[[], int], note: str = "") -> float:
    """µs of CPU per operation, from a run that `work` does and counts."""
    started, before = time.perf_counter(), cpu()
    count = work()
    us = (cpu() - before) / count * 1e6
    RESULTS[name] = {"us": us, "rate": count / (time.perf_counter() - started), "note": note}
    return us


@needs_h2load
@pytest.mark.parametrize(("connections", "streams"), [(10, 10), (1, 100), (100, 1), (100, 10)])
def test_hot_unary(door: EchoDoor, connections: int, streams: int) -> None:
    def work() -> int:
        h2load.drive(f"127.0.0.1:{door.port}", "/test.Echo/Fast", MESSAGE, requests=REQUESTS, connections=connections, streams=streams)
        return REQUESTS

    work()
    name = f"hot unary {connections} x {streams}"
    note = f"target <= {HOT_US} µs" if (connections, streams) == (10, 10) else ""
    measured(name, lambda: thread_cpu(door), work, note)
    batches = door.batches
    assert sum(batches) == 2 * REQUESTS
    RESULTS[name]["batch"] = sum(batches) / len(batches)
    batches.clear()


@needs_h2load
def test_grpcio_server_for_the_ratio() -> None:
    server = grpc.server(ThreadPoolExecutor(4))
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Fast": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    requests = REQUESTS // 20

    def work() -> int:
        h2load.drive(f"127.0.0.1:{port}", "/test.Echo/Fast", MESSAGE, requests=requests, connections=10, streams=10)
        return requests

    measured("grpcio server, raw bytes, 10 x 10", time.process_time, work)
    server.stop(0).wait()


def raw_client(port: int) -> tuple[socket.socket, h2.connection.H2Connection]:
    """A connection with all windows open wide."""
    client = socket.create_connection(("127.0.0.1", port))
    peer = h2.connection.H2Connection()
    initial = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1}
    peer.local_settings = h2.settings.Settings(client=True, initial_values=initial)
    peer.initiate_connection()
    peer.increment_flow_control_window(2**31 - 1 - 65_535)
    return client, peer


def headers(path: str) -> list[tuple[str, str]]:
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a")]
    return [*fields, ("content-type", "application/grpc"), ("te", "trailers")]


@pytest.mark.parametrize("size", [20, 128])
def test_pushed_messages(door: EchoDoor, size: int) -> None:
    """One stream, one Python `push` per message, a client that only reads."""
    count = 500_000

    def work() -> int:
        client, peer = raw_client(door.port)
        peer.send_headers(1, headers("/test.Echo/Burst"))
        peer.send_data(1, frame(b"%d %d" % (count, size)), end_stream=True)
        client.sendall(peer.data_to_send())
        left = count * (size + 5)
        while left > 0:
            left -= len(client.recv(1 << 20))
        client.close()
        return count

    measured(f"stream push, {size} B", lambda: thread_cpu(door), work, f"target <= {PUSH_US} µs (1 M/s)")


def test_incoming_messages(door: EchoDoor) -> None:
    """Twelve streams full of small messages, as fast as the door takes them."""
    each = 9_000
    client, peer = raw_client(door.port)
    client.sendall(peer.data_to_send())
    deadline = time.monotonic() + 10
    while peer.remote_settings.initial_window_size < each * 105 and time.monotonic() < deadline:
        peer.receive_data(client.recv(65_536))
    body = frame(*[b"a" * 100] * each)
    for stream in range(1, 24, 2):
        peer.send_headers(stream, headers("/test.Echo/Silent"))
        for at in range(0, len(body), peer.max_outbound_frame_size):
            peer.send_data(stream, body[at : at + peer.max_outbound_frame_size])
    data = peer.data_to_send()
    door.lists.clear()

    def work() -> int:
        client.sendall(data)
        while sum(door.lists) < 12 * each:
            time.sleep(0.001)
        return 12 * each

    measured("stream messages in, 100 B", lambda: thread_cpu(door), work)
    RESULTS["stream messages in, 100 B"]["list"] = sum(door.lists) / len(door.lists)
    client.close()
