"""The store in this process against a real etcd 3.7: the same random requests, the same bodies, errors, revisions and hashes.

No server of ours takes part, so what differs here is the store's. RAFTSCHED_MVCC_SEEDS makes it longer.
"""

import importlib.util
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import grpc
import pytest

from raftsched.errors import ETCD_STATUS, EtcdError
from raftsched.pb.etcd import rpc_pb2 as R
from raftsched.store._records import MemoryRecords
from raftsched.store.mvcc._store import MvccStore
from raftsched.testing.etcd import RealEtcd

SEEDS = int(os.environ.get("RAFTSCHED_MVCC_SEEDS", "3"))
STEPS = 700
TRAFFIC = Path(__file__).parents[1] / "property" / "mvcc_traffic.py"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Judge:
    """Raw calls to the real etcd."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)

    def call(self, method: str, request, response_type):
        """(0, header revision, response without header) or (code, text)."""
        call = self.channel.unary_unary(
            f"/etcdserverpb.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response_type.FromString,
        )
        try:
            response = call(request, timeout=10)
        except grpc.RpcError as error:
            return error.code().value[0], error.details()
        revision = response.header.revision
        response.ClearField("header")
        return 0, revision, response


class Subject:
    """Our store, driven as the apply drives it."""

    def __init__(self) -> None:
        self.leases: dict[int, set[bytes]] = {}
        self.source = MemoryRecords()
        self.store = MvccStore(self.source, self, hash_seed=1)

    def exists(self, lease: int) -> bool:
        return lease in self.leases

    def attach(self, lease: int, key: bytes) -> None:
        self.leases[lease].add(key)

    def detach(self, lease: int, key: bytes) -> None:
        self.leases[lease].remove(key)

    def call(self, check, run, request, response_type):
        data = request.SerializeToString()
        error = check(data) if check else 0
        if error:
            return refusal(error)
        error, revision, body = run(data)
        return refusal(error) if error else (0, revision, response_type.FromString(body))

    def commit(self) -> None:
        generation = self.store.swap()
        self.source.store(generation)
        self.store.release()


def refusal(error: int) -> tuple[int, str]:
    code, text = ETCD_STATUS[EtcdError(error)]
    return code.value, text


class Pair:
    def __init__(self, address: str, seed: int) -> None:
        self.judge = Judge(address)
        self.subject = Subject()
        self.traffic = load(TRAFFIC).Traffic(seed, leases=(1007, 1008, 1009))
        self.hashes = 0
        self.compactions = 0

    def step(self) -> None:
        kind = self.traffic.random.random()
        self.traffic.revision = self.subject.store.revision
        store = self.subject.store
        if kind < 0.25:
            self.same("KV/Put", self.traffic.put(), R.PutResponse, store.check_put, store.put)
        elif kind < 0.32:
            self.same("KV/DeleteRange", self.traffic.delete(), R.DeleteRangeResponse, store.check_delete_range, store.delete_range)
        elif kind < 0.62:
            self.same("KV/Txn", self.traffic.txn(ties=False), R.TxnResponse, store.check_txn, store.txn)
        elif kind < 0.80:
            self.same("KV/Range", self.traffic.range(ties=False), R.RangeResponse, store.check_range, store.range)
        elif kind < 0.86:
            self.compact(self.traffic.near())
        elif kind < 0.92:
            self.hash(self.traffic.near(0.8))
        elif kind < 0.96:
            self.lease(self.traffic.random.choice(self.traffic.leases))
        else:
            self.subject.commit()

    def same(self, method: str, request, response_type, check, run) -> None:
        expected = self.judge.call(method, request, response_type)
        found = self.subject.call(check, run, request, response_type)
        assert found == expected, f"{method}: {request}"

    def compact(self, revision: int) -> None:
        request = R.CompactionRequest(revision=revision, physical=True)
        expected = self.judge.call("KV/Compact", request, R.CompactionResponse)
        error, _, _ = self.subject.store.compact(revision)
        assert expected[:2] == (refusal(error) if error else (0, expected[1]))
        self.compactions += not error
        finished = False
        gone = []
        while not finished:
            dropped, finished = self.subject.store.scrub(10)
            gone += dropped
        self.subject.commit()
        for place in gone:
            self.subject.source.remove(*place)

    def hash(self, revision: int) -> None:
        expected = self.judge.call("Maintenance/HashKV", R.HashKVRequest(revision=revision), R.HashKVResponse)
        error, crc, compacted, at = self.subject.store.hash_kv(revision)
        if expected[0] == 0 and expected[2].compact_revision != self.subject.store.compact_revision:
            return  # etcd keeps the hashes of its last compactions and answers from there, also for what is compacted since
        self.hashes += 1
        if error:
            assert expected == refusal(error)
        else:
            assert expected[0] == 0
            assert (expected[2].hash, expected[2].compact_revision, expected[2].hash_revision) == (crc, compacted, at)

    def lease(self, lease: int) -> None:
        if lease in self.subject.leases:
            assert self.judge.call("Lease/LeaseRevoke", R.LeaseRevokeRequest(ID=lease), R.LeaseRevokeResponse)[0] == 0
            self.subject.store.delete_keys(sorted(self.subject.leases[lease]))
            del self.subject.leases[lease]
        else:
            assert self.judge.call("Lease/LeaseGrant", R.LeaseGrantRequest(ID=lease, TTL=9000), R.LeaseGrantResponse)[0] == 0
            self.subject.leases[lease] = set()


@pytest.fixture
def pair(request: pytest.FixtureRequest, real_etcd: RealEtcd) -> Iterator[Pair]:
    if real_etcd.version < (3, 7):
        pytest.skip("no etcd 3.7 here: keys_only, HashKV and compaction differ before it")
    made = Pair(real_etcd.address, request.param)
    yield made
    made.judge.channel.close()


@pytest.mark.parametrize("pair", range(SEEDS), indirect=True)
def test_same_requests_same_answers(pair: Pair) -> None:
    for _ in range(STEPS):
        pair.step()
    pair.hash(0)
    assert pair.subject.store.revision > STEPS / 5
    assert pair.hashes > 10


@pytest.mark.parametrize("pair", [0], indirect=True)
def test_clashing_writes_are_judged_alike(pair: Pair) -> None:
    """Transactions made of writes alone, so that etcd's interval rule decides most of them."""
    traffic = pair.traffic
    chance = traffic.random
    kinds = [0, 0]

    def op(depth: int) -> R.RequestOp:
        kind = chance.random()
        if kind < 0.35 and depth < 3:
            return R.RequestOp(request_txn=txn(depth + 1))
        if kind < 0.7:
            return R.RequestOp(request_put=R.PutRequest(key=traffic.key(), value=b"v"))
        return R.RequestOp(request_delete_range=R.DeleteRangeRequest(key=traffic.key(), range_end=traffic.end(0.6)))

    def txn(depth: int = 0) -> R.TxnRequest:
        return R.TxnRequest(success=[op(depth) for _ in range(3)], failure=[op(depth) for _ in range(chance.choice([0, 1, 2]))])

    store = pair.subject.store
    for _ in range(600):
        request = txn()
        kinds[store.check_txn(request.SerializeToString()) == 0] += 1
        pair.same("KV/Txn", request, R.TxnResponse, store.check_txn, store.txn)
    pair.hash(0)
    assert min(kinds) > 50


COUNTED = {
    "etcd_mvcc_put_total": "put_total",
    "etcd_mvcc_delete_total": "delete_total",
    "etcd_mvcc_range_total": "range_total",
    "etcd_mvcc_txn_total": "txn_total",
    "etcd_debugging_mvcc_total_put_size_in_bytes": "put_bytes_total",
}


def counts(address: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        lines = (line.split() for line in answer.read().decode().splitlines() if not line.startswith("#"))
        return {words[0]: float(words[1]) for words in lines if words[0] in COUNTED}


@pytest.mark.parametrize("pair", [5], indirect=True)
def test_operations_are_counted_alike(pair: Pair, real_etcd: RealEtcd) -> None:
    """Put, delete, range, txn and the bytes of puts, after each request: refused ones and lease revocations too."""
    begin = before = counts(real_etcd.address)
    store = pair.subject.store
    for _ in range(STEPS):
        pair.step()
        now = counts(real_etcd.address)
        now["etcd_mvcc_range_total"] -= pair.compactions  # etcd learns the revision for its answer by reading a key
        for name, attribute in COUNTED.items():
            assert getattr(store, attribute) == now[name] - begin[name], f"{name}, by {now[name] - before[name]}"
        before = now
    assert min(before[name] - begin[name] for name in COUNTED) > STEPS / 20
