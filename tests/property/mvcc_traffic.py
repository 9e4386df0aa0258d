"""Random requests from a seed, dense enough that rare rules meet: few keys, revisions near the present, nested transactions."""

import random

from raftsched.pb.etcd import rpc_pb2 as R

NAMES = [b"a", b"b", b"ba", b"b\0", b"job/ns||one", b"job/ns||two", b"job/ns||three", b"\xff\xff", b"long/" + b"k" * 500]
VALUES = [b"", b"v", b"w" * 200, b"x" * 130, b"vv"]


class Traffic:
    """`leases` are ids that may exist."""

    def __init__(self, seed: int, leases: tuple[int, ...] = (7, 8, -5)) -> None:
        self.random = random.Random(seed)
        self.leases = leases
        self.revision = 1  # where the store stands: the caller moves it

    def key(self) -> bytes:
        return self.random.choice(NAMES)

    def end(self, share: float = 0.4) -> bytes:
        if self.random.random() > share:
            return b""
        return self.random.choice([*NAMES, b"\0", b"c", b"job/ns||\xff"])

    def lease(self) -> int:
        return self.random.choice(self.leases) if self.random.random() < 0.25 else 0

    def near(self, share: float = 1.0) -> int:
        """A revision around the present; mostly one that can be read."""
        if self.random.random() > share:
            return 0
        return self.revision - self.random.choice([-1, 0, 0, 1, 1, 2, 3, 4, 6, 9, 15, self.revision + 3])

    def flag(self, share: float = 0.3) -> bool:
        return self.random.random() < share

    def put(self) -> R.PutRequest:
        request = R.PutRequest(key=self.key(), prev_kv=self.flag())
        kind = self.random.random()
        if kind < 0.15:
            request.ignore_value = True
        else:
            request.value = self.random.choice(VALUES)
        if 0.1 < kind < 0.25:
            request.ignore_lease = True
        else:
            request.lease = self.lease()
        return request

    def delete(self) -> R.DeleteRangeRequest:
        return R.DeleteRangeRequest(key=self.key(), range_end=self.end(0.08), prev_kv=self.flag())

    def range(self, ties: bool = True) -> R.RangeRequest:
        """With `ties` False: no sorting whose ties etcd leaves open."""
        request = R.RangeRequest(key=self.random.choice([*NAMES, b"\0"]), range_end=self.end(0.7), revision=self.near(0.4))
        request.limit = self.random.choice([0, 0, 0, 1, 2, 3, -1])
        request.keys_only, request.count_only = self.flag(), self.flag(0.1)
        if self.flag(0.5):
            request.sort_order = self.random.choice([0, 1, 2])
            request.sort_target = self.random.choice([0, 1, 2, 3, 4] if ties else [0, 2, 3])
        if self.flag(0.4):
            setattr(request, self.random.choice(["min_mod_revision", "max_mod_revision"]), self.near())
            setattr(request, self.random.choice(["min_create_revision", "max_create_revision"]), self.near(0.5))
        return request

    def compare(self) -> R.Compare:
        compare = R.Compare(key=self.key(), range_end=self.end(0.2), result=self.random.choice([0, 1, 2, 3]))
        compare.target = self.random.choice([0, 1, 2, 3, 4])
        field = self.random.choice(["version", "create_revision", "mod_revision", "value", "lease"])
        if not self.flag(0.1):
            field = ["version", "create_revision", "mod_revision", "value", "lease"][compare.target]
        if field == "value":
            compare.value = self.random.choice(VALUES)
        elif field == "lease":
            compare.lease = self.lease()
        elif field == "version":
            compare.version = self.random.choice([0, 1, 2])
        else:
            setattr(compare, field, self.near(0.8))
        return compare

    def op(self, depth: int, ties: bool) -> R.RequestOp:
        kind = self.random.random()
        if kind < 0.3 and depth < 3:
            return R.RequestOp(request_txn=self.txn(depth + 1, ties))
        if kind < 0.62:
            return R.RequestOp(request_put=self.put())
        if kind < 0.75:
            return R.RequestOp(request_delete_range=self.delete())
        if kind < 0.76:
            return R.RequestOp()
        request = self.range(ties)
        if self.flag(0.8):
            request.revision = 0
        return R.RequestOp(request_range=request)

    def txn(self, depth: int = 0, ties: bool = True) -> R.TxnRequest:
        count = self.random.choice
        return R.TxnRequest(
            compare=[self.compare() for _ in range(count([0, 0, 1, 2]))],
            success=[self.op(depth, ties) for _ in range(count([0, 1, 2, 2, 3]))],
            failure=[self.op(depth, ties) for _ in range(count([0, 1, 2]))],
        )
