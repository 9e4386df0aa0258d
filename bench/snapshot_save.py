"""How fast a snapshot leaves a member, and what others' puts see meanwhile: raftsched beside the newest real etcd that is here.

    python bench/snapshot_save.py [--mib 1024] [--value-bytes 1024]

One process puts 128-byte values, one after the other, each timed: first alone (10 s), then while `Maintenance.Snapshot` is read by a client
in another process, which writes nothing. Told: MB/s from the call to its end, the time to the first blob, and p50, p99 and max of the puts.
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import grpc

from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.process import ServerProcess

READER = """
import sys, time, grpc
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
began, first, size = time.monotonic(), 0.0, 0
with grpc.insecure_channel(sys.argv[1]) as channel:
    for answer in rpc_pb2_grpc.MaintenanceStub(channel).Snapshot(rpc_pb2.SnapshotRequest()):
        first = first or time.monotonic() - began
        size += len(answer.blob)
print(first, time.monotonic() - began, size)
"""
BATCH = 100


def fill(address: str, total_bytes: int, value_bytes: int) -> None:
    with grpc.insecure_channel(address) as channel:
        kv = rpc_pb2_grpc.KVStub(channel)
        for start in range(0, total_bytes // value_bytes, BATCH):
            puts = [
                rpc_pb2.PutRequest(key=b"key/%012d" % one, value=b"%012d" % one * (value_bytes // 12))
                for one in range(start, start + BATCH)
            ]
            kv.Txn(rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=put) for put in puts]), timeout=60)


def puts(address: str, goes_on: Callable[[], bool]) -> list[float]:
    """Milliseconds of each."""
    found = []
    with grpc.insecure_channel(address) as channel:
        kv = rpc_pb2_grpc.KVStub(channel)
        while goes_on():
            began = time.monotonic()
            kv.Put(rpc_pb2.PutRequest(key=b"meanwhile", value=bytes(128)), timeout=60)
            found.append((time.monotonic() - began) * 1000)
    return found


def told(what: str, milliseconds: list[float]) -> str:
    ordered = sorted(milliseconds)
    p99 = ordered[len(ordered) * 99 // 100]
    return f"{what}: {len(ordered)} puts, p50 {statistics.median(ordered):.2f} ms, p99 {p99:.2f} ms, max {ordered[-1]:.1f} ms"


def measure(name: str, address: str, total_bytes: int, value_bytes: int) -> None:
    fill(address, total_bytes, value_bytes)
    time.sleep(2)  # the filling is on the disk
    until = time.monotonic() + 10
    print(f"{name} {told('alone', puts(address, lambda: time.monotonic() < until))}", flush=True)
    reader = subprocess.Popen([sys.executable, "-c", READER, address], stdout=subprocess.PIPE, text=True)
    meanwhile = puts(address, lambda: reader.poll() is None)
    assert reader.stdout is not None
    first_s, whole_s, size = map(float, reader.stdout.read().split())
    rate = size / whole_s / 1e6
    print(f"{name} snapshot: {size / 1e6:.0f} MB in {whole_s:.2f} s = {rate:.0f} MB/s, first blob after {first_s:.2f} s", flush=True)
    print(f"{name} {told('meanwhile', meanwhile)}", flush=True)


def newest_etcd() -> Path | None:
    spec = importlib.util.spec_from_file_location("tools", Path(__file__).parents[1] / "scripts" / "tools.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tools"] = module
    spec.loader.exec_module(module)
    found = module.etcd()
    return None if found is None else Path(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--value-bytes", type=int, default=1024)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with ServerProcess(Path(folder) / "ours") as server:
            measure("raftsched", server.client_address, given.mib << 20, given.value_bytes)
        path = newest_etcd()
        if path is None:
            print("no etcd here: nothing to compare with")
            return
        with RealEtcd(Path(folder) / "theirs", path, args=[f"--quota-backend-bytes={8 << 30}"]) as etcd:
            measure("etcd", etcd.address, given.mib << 20, given.value_bytes)


if __name__ == "__main__":
    main()
