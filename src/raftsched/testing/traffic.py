"""Random etcd traffic from a seed: requests only, no connection, no clock. The same seed gives the same requests.

Keys come from a small set so that requests meet; about one request in twelve is wrong on purpose. `Traffic.revision` and
`Traffic.compacted` are kept by the caller from the answers, so that historic reads and compactions hit the interesting places.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raftsched.pb.etcd import rpc_pb2 as pb

KEYS = [b"a", b"a/1", b"a/2", b"a/2/x", b"b", b"b\x00", b"b\xff", b"c", b"\x00", b"\xff", b"\xff\xff", b"long/" * 30]
ENDS = [b"", b"", b"\x00", b"a0", b"b", b"b\x00\x01", b"c", b"\xff\xff\xff", b"a"]
LEASES = [11, 12, 13, -5, 2**62, 999]  # 999 is never granted


@dataclass(frozen=True)
class Step:
    """One request of one method."""

    method: str  # Service/Method
    request: Any  # a generated message


def operations(request: pb.TxnRequest) -> Iterator[pb.RequestOp]:
    """Every operation of every branch, nested ones too."""
    for op in (*request.success, *request.failure):
        yield op
        if op.HasField("request_txn"):
            yield from operations(op.request_txn)


class Traffic:
    """Draws steps."""

    def __init__(self, seed: int, *, txn_ops_max: int = 128) -> None:
        self.random = random.Random(seed)
        self.revision = 1
        self.compacted = -1
        self._txn_ops_max = txn_ops_max
        self._values = 0

    def step(self) -> Step:
        pick = self.random.random()
        for share, make in (
            (0.30, self.put),
            (0.22, self.range),
            (0.10, self.delete),
            (0.22, self.txn),
            (0.02, self.compact),
            (0.10, self.lease),
        ):
            pick -= share
            if pick < 0:
                return make()
        return self.hash()

    def change(self) -> Step:
        """A request that changes the store unless it is refused."""
        pick = self.random.random()
        if pick < 0.02:
            return self.compact()
        if pick < 0.12:
            return self.lease()
        return self.put() if pick < 0.50 else self.txn() if pick < 0.85 else self.delete()

    def key(self) -> bytes:
        return b"" if self.random.random() < 0.02 else self.random.choice(KEYS)

    def value(self) -> bytes:
        self._values += 1
        return self.random.choice([b"", b"v", b"%d" % self._values, bytes(self.random.randbytes(self.random.randrange(300)))])

    def revision_to_read(self) -> int:
        """Mostly the present, else history, the compaction's edge, or the future."""
        low, now = max(self.compacted, 1), self.revision
        return self.random.choice([0, 0, 0, 0, 0, self.random.randint(low, now), low, low - 1, now, now + 1, -1, -5])

    # -- requests

    def put_request(self) -> pb.PutRequest:
        request = pb.PutRequest(key=self.key(), value=self.value(), prev_kv=self.random.random() < 0.3)
        if self.random.random() < 0.3:
            request.lease = self.random.choice(LEASES)
        if self.random.random() < 0.12:
            request.ignore_value = True
            if self.random.random() < 0.8:
                request.value = b""
        if self.random.random() < 0.12:
            request.ignore_lease = True
            if self.random.random() < 0.8:
                request.lease = 0
        return request

    def range_request(self, *, plain: bool = False) -> pb.RangeRequest:
        """`plain`: no order in which equal items could come in any order."""
        chance = self.random.random
        request = pb.RangeRequest(key=self.key(), range_end=self.random.choice(ENDS), revision=self.revision_to_read())
        if chance() < 0.4:
            request.limit = self.random.choice([1, 2, 3, 10, -1])
        if chance() < 0.5:
            orders: Any = [0, 1, 2] if plain else [0, 1, 2, 3, -1]  # the last two are none
            request.sort_order = self.random.choice(orders)
            if not plain:
                targets: Any = [0, 1, 2, 3, 4, 4, 5]
                request.sort_target = self.random.choice(targets)
        request.serializable = chance() < 0.2
        request.keys_only = chance() < 0.2
        request.count_only = chance() < 0.15
        for name in ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"):
            if chance() < 0.1:
                setattr(request, name, self.random.randint(max(1, self.revision - 30), self.revision))
        return request

    def delete_request(self) -> pb.DeleteRangeRequest:
        end = b"" if self.random.random() < 0.6 else self.random.choice(ENDS)
        return pb.DeleteRangeRequest(key=self.key(), range_end=end, prev_kv=self.random.random() < 0.5)

    def compare(self) -> pb.Compare:
        target: Any = self.random.randrange(5)
        result: Any = self.random.randrange(4)
        compare = pb.Compare(result=result, target=target, key=self.key())
        if self.random.random() < 0.3:
            compare.range_end = self.random.choice(ENDS)
        number = self.random.choice([0, 1, 2, self.revision, self.random.randint(1, self.revision)])
        if target == pb.Compare.VALUE:
            compare.value = self.random.choice([b"", b"v", b"1"])
        elif target == pb.Compare.LEASE:
            compare.lease = self.random.choice([0, *LEASES])
        else:
            setattr(compare, {0: "version", 1: "create_revision", 2: "mod_revision"}[target], number)
        if self.random.random() < 0.03:
            compare.ClearField("target_union")
        return compare

    def txn_request(self, depth: int = 2) -> pb.TxnRequest:
        request = pb.TxnRequest(compare=[self.compare() for _ in range(self.random.choice([0, 1, 1, 2]))])
        for branch in (request.success, request.failure):
            branch.extend(self.operation(depth) for _ in range(self.random.choice([0, 1, 1, 2, 3])))
        return request

    def operation(self, depth: int) -> pb.RequestOp:
        pick = self.random.random()
        if pick < 0.02:
            return pb.RequestOp()
        if pick < 0.35:
            return pb.RequestOp(request_range=self.range_request(plain=True))
        if pick < 0.70:
            return pb.RequestOp(request_put=self.put_request())
        if pick < 0.85 or not depth:
            return pb.RequestOp(request_delete_range=self.delete_request())
        return pb.RequestOp(request_txn=self.txn_request(depth - 1))

    # -- steps

    def put(self) -> Step:
        return Step("KV/Put", self.put_request())

    def range(self) -> Step:
        return Step("KV/Range", self.range_request())

    def delete(self) -> Step:
        return Step("KV/DeleteRange", self.delete_request())

    def txn(self) -> Step:
        request = self.txn_request()
        if any(op.HasField("request_delete_range") for op in operations(request)):
            # etcd 3.7.1 dies of a put with ignore_value whose key an earlier operation of the txn has deleted
            for op in operations(request):
                if op.HasField("request_put"):
                    op.request_put.ignore_value = op.request_put.ignore_lease = False
        if self.random.random() < 0.01:
            request.success.extend(pb.RequestOp(request_put=pb.PutRequest(key=b"n%d" % n)) for n in range(self._txn_ops_max + 1))
        return Step("KV/Txn", request)

    def compact(self) -> Step:
        revision = self.random.choice(
            [self.revision, *(self.revision - back for back in (5, 20, 50, 100)), self.compacted, self.revision + 1, -1]
        )
        return Step("KV/Compact", pb.CompactionRequest(revision=revision, physical=self.random.random() < 0.5))

    def lease(self) -> Step:
        lease = self.random.choice(LEASES)
        pick = self.random.random()
        if pick < 0.45 and lease != 999:
            return Step(
                "Lease/LeaseGrant",
                pb.LeaseGrantRequest(ID=lease, TTL=self.random.choice([600, 1000, 100_000, 9_000_000_001, 9_000_000_000])),
            )
        if pick < 0.65:
            return Step("Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=lease))
        if pick < 0.85:
            return Step("Lease/LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=lease, keys=self.random.random() < 0.7))
        if pick < 0.93:
            return Step("Lease/LeaseLeases", pb.LeaseLeasesRequest())
        return Step("Lease/LeaseKeepAlive", pb.LeaseKeepAliveRequest(ID=lease))

    def read(self) -> Step:
        """What leaves the store as it is, so that several may be under way together."""
        pick = self.random.random()
        if pick < 0.60:
            return self.range()
        if pick < 0.75:
            return self.reading_txn()
        if pick < 0.83:
            return Step("KV/RangeStream", self.range_request(plain=True))
        if pick < 0.95:
            lease = self.random.choice(LEASES)
            wanted = pb.LeaseTimeToLiveRequest(ID=lease, keys=self.random.random() < 0.7)
            return self.random.choice(
                [
                    Step("Lease/LeaseTimeToLive", wanted),
                    Step("Lease/LeaseLeases", pb.LeaseLeasesRequest()),
                    Step("Lease/LeaseKeepAlive", pb.LeaseKeepAliveRequest(ID=lease)),
                ]
            )
        return self.hash()

    def reading_txn(self) -> Step:
        """A transaction whose every branch only reads."""
        request = self.txn_request()
        for op in operations(request):
            if op.HasField("request_put") or op.HasField("request_delete_range"):
                op.request_range.CopyFrom(self.range_request(plain=True))
        return Step("KV/Txn", request)

    def hash(self) -> Step:
        revision = self.random.choice([0, self.revision, self.revision + 1, max(1, self.compacted + 1)])
        return Step("Maintenance/HashKV", pb.HashKVRequest(revision=revision))
