"""Defragment gives space back to the file system while others are served: sizes of files, and what clients meet meanwhile."""

import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import grpc

from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import rpc_pb2_grpc as stubs
from raftsched.store.node import Node, NodeOptions
from raftsched.testing.lone_node import EtcdDoor

CLIENTS = 4
KEYS, ROUNDS, VALUE_BYTES = 40, 5, 500_000  # 100 MB, of which 20 MB stay


class Log:
    def __getattr__(self, _level: str) -> object:
        return lambda message, **fields: None


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Node]:
    options = NodeOptions(data_dir=str(directory), history_bound=False, request_bytes_max=1_572_864)
    node = Node(options, log=Log(), on_fatal=print)  # type: ignore[arg-type]
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


def database_bytes(directory: Path) -> int:
    """What the databases take on disk, a copy included."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("data.mdb"))


class Client(threading.Thread):
    """Reads without a pause, each answer awaited; now and then a write."""

    def __init__(self, address: str, number: int) -> None:
        super().__init__()
        self._number = number
        self._address = address
        self.over = threading.Event()
        self.answers: list[tuple[float, float]] = []  # (begin, end)
        self.failures: list[str] = []
        self.written = 0

    def run(self) -> None:
        with grpc.insecure_channel(self._address) as channel:
            kv, number = stubs.KVStub(channel), 0
            while not self.over.is_set():
                number += 1
                begun_s = time.monotonic()
                try:
                    found = kv.Range(pb.RangeRequest(key=b"small")).kvs[0].value
                    self.answers.append((begun_s, time.monotonic()))
                    if number % 20 == 0:
                        kv.Put(pb.PutRequest(key=b"new%d/%d" % (self._number, number), value=b"v"))
                        self.written += 1
                except grpc.RpcError as error:
                    self.failures.append(str(error.details()))
                    continue
                if found != b"value":
                    self.failures.append(f"read {found!r}")


def test_space_goes_back_while_clients_are_served(tmp_path: Path) -> None:
    with EtcdDoor(open_node=partial(opened, tmp_path)) as door, grpc.insecure_channel(door.address) as channel:
        kv, maintenance = stubs.KVStub(channel), stubs.MaintenanceStub(channel)
        kv.Put(pb.PutRequest(key=b"small", value=b"value"))
        for round_number in range(ROUNDS):
            for number in range(KEYS):
                last = kv.Put(pb.PutRequest(key=b"k%d" % number, value=bytes([round_number]) * VALUE_BYTES)).header.revision
        kv.Compact(pb.CompactionRequest(revision=last, physical=True))
        before, told_before = database_bytes(tmp_path), maintenance.Status(pb.StatusRequest())
        assert before > ROUNDS * KEYS * VALUE_BYTES
        clients = [Client(door.address, number) for number in range(CLIENTS)]
        for one in clients:
            one.start()
        try:
            while not all(one.answers for one in clients):
                time.sleep(0.001)
            begun_s = time.monotonic()
            maintenance.Defragment(pb.DefragmentRequest())
            ended_s = time.monotonic()
            while not all(one.written for one in clients):
                time.sleep(0.001)
        finally:
            for one in clients:
                one.over.set()
            for one in clients:
                one.join()
        after, told_after = database_bytes(tmp_path), maintenance.Status(pb.StatusRequest())
        assert after < before / 3
        assert told_after.dbSize < told_before.dbSize / 3
        assert abs(told_after.dbSize - after) < 1 << 20, "Status tells what the disk knows"
        assert not [one.failures for one in clients if one.failures]
        meanwhile = [found for one in clients for found in one.answers if begun_s < found[0] and found[1] < ended_s]
        assert len(meanwhile) > CLIENTS, f"nobody was served for {ended_s - begun_s:.2f} s"
        kept = kv.Range(pb.RangeRequest(key=b"k0")).kvs[0]
        assert kept.value == bytes([ROUNDS - 1]) * VALUE_BYTES
        new = kv.Range(pb.RangeRequest(key=b"new", range_end=b"nex", count_only=True)).count
        assert new == sum(one.written for one in clients)
