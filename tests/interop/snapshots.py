"""What the snapshot tests do on both sides: fill an etcd API with history, and tell all that can be seen of it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.store._records import Generation
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.process import ServerProcess

EVERYTHING = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0")
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]

__all__ = ["Api", "Generation", "fill", "raftsched", "serve_on", "start_etcd", "state"]


class Api:
    """Stubs on one address; a context manager."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=UNLIMITED)
        self.kv = rpc_pb2_grpc.KVStub(self._channel)
        self.lease = rpc_pb2_grpc.LeaseStub(self._channel)
        self.maintenance = rpc_pb2_grpc.MaintenanceStub(self._channel)
        self.cluster = rpc_pb2_grpc.ClusterStub(self._channel)

    def __enter__(self) -> "Api":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def put(self, key: bytes, value: bytes, lease: int = 0) -> int:
        return int(self.kv.Put(rpc_pb2.PutRequest(key=key, value=value, lease=lease), timeout=20).header.revision)


def fill(address: str, *, compact: bool = True) -> None:
    """Puts, deletes, transactions of several changes, large values, leases, a compaction, changes after it."""
    with Api(address) as api:
        for number in range(400):
            api.put(b"key-%d" % (number % 90), b"value %d " % number * (1 + number % 40))
        api.put(b"large", bytes(range(256)) * 4_000)
        api.put(b"\xff\x00not text\xfe", b"")
        api.kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=b"key-1", range_end=b"key-2"), timeout=20)
        operations = [rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"txn-%d" % one, value=b"x" * one)) for one in range(30)]
        operations.append(rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=b"key-3", range_end=b"key-4")))
        revision = api.kv.Txn(rpc_pb2.TxnRequest(success=operations), timeout=20).header.revision
        for ttl_s in (600, 7_200):
            lease = api.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=ttl_s, ID=1_000_000 + ttl_s), timeout=20).ID
            api.put(b"leased-%d" % ttl_s, b"1", lease)
        if compact:
            api.kv.Compact(rpc_pb2.CompactionRequest(revision=revision, physical=True), timeout=60)
        for number in range(100):
            api.put(b"after-%d" % (number % 20), b"%d" % number)
        api.kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=b"after-1"), timeout=20)


def state(address: str, *, old: int = 0) -> dict[str, Any]:
    """All that clients can see; `old`: so many revisions back, too."""
    with Api(address) as api:
        now = api.kv.Range(EVERYTHING, timeout=60)
        revision = now.header.revision
        earlier = api.kv.Range(rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0", revision=revision - old), timeout=60) if old else now
        hashed = api.maintenance.HashKV(rpc_pb2.HashKVRequest(), timeout=60)
        leases = {}
        for one in api.lease.LeaseLeases(rpc_pb2.LeaseLeasesRequest(), timeout=20).leases:
            told = api.lease.LeaseTimeToLive(rpc_pb2.LeaseTimeToLiveRequest(ID=one.ID, keys=True), timeout=20)
            leases[one.ID] = (told.grantedTTL, list(told.keys))
        alarms = api.maintenance.Alarm(rpc_pb2.AlarmRequest(), timeout=20).alarms
        return {
            "revision": revision,
            "keys": [one.SerializeToString() for one in now.kvs],
            "earlier": [one.SerializeToString() for one in earlier.kvs],
            "hash": hashed.hash,
            "compact_revision": hashed.compact_revision,
            "leases": leases,
            "alarms": sorted((one.memberID, one.alarm) for one in alarms),
        }


def raftsched(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    command = [sys.executable, "-m", "raftsched", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if check:
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    return done


def serve_on(directory: Path, source: Path, *options: object) -> tuple[ServerProcess, dict[str, Any]]:
    """A server (not started) over what `raftsched snapshot restore` makes of `source`; what that told."""
    server = ServerProcess(directory, args=["--etcd-compaction-retention=24h"])
    told = raftsched("snapshot", "restore", source, "--data-dir", directory / "data", "--json", *options)
    return server, json.loads(told.stdout)


def start_etcd(directory: Path, path: Path, etcdutl: Callable[..., Any], snapshot: Path, *options: str) -> RealEtcd:
    """A real etcd (not started) over what etcdutl makes of a snapshot."""
    directory.mkdir(parents=True, exist_ok=True)
    etcdutl("snapshot", "restore", str(snapshot), "--data-dir", str(directory / "etcd"), *options)
    return RealEtcd(directory, path)
