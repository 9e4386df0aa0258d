"""The obvious twin of store/mvcc: a dict of histories, protobuf messages, no index. Slow, and easy to believe.

It answers every request as (error, revision, message without header) and keeps every record it ever wrote, less what a
compaction may drop.
"""

from dataclasses import dataclass, field

from raftsched.errors import EtcdError
from raftsched.pb.etcd import kv_pb2, rpc_pb2

Answer = tuple[int, int, bytes]
Place = tuple[int, int, bool]
NO_END = b"\0"
R = rpc_pb2


def in_range(key: bytes, start: bytes, end: bytes) -> bool:
    if not end:
        return key == start
    return key >= start and (end == NO_END or key < end)


def crc32c(data: bytes, crc: int = 0) -> int:
    """Bit by bit, as the definition has it."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@dataclass
class Twin:
    ops_max: int = 128
    revision: int = 1
    compacted: int = -1
    histories: dict[bytes, list[tuple[int, int, kv_pb2.KeyValue | None]]] = field(default_factory=dict)
    records: dict[Place, bytes] = field(default_factory=dict)
    leases: dict[int, set[bytes]] = field(default_factory=dict)
    changes: list[tuple[bool, bytes, int, int, bytes]] = field(default_factory=list)
    sub: int = 0

    # -- state

    def at(self, key: bytes, revision: int) -> kv_pb2.KeyValue | None:
        found = [kv for main, _, kv in self.histories.get(key, []) if main <= revision]
        return found[-1] if found else None

    def live(self, start: bytes, end: bytes, revision: int) -> list[kv_pb2.KeyValue]:
        keys = sorted(key for key in self.histories if in_range(key, start, end))
        return [kv for key in keys if (kv := self.at(key, revision)) is not None]

    @property
    def present(self) -> int:
        """What a read inside the running transaction sees as current."""
        return self.revision + (1 if self.sub else 0)

    # -- writes

    def write(self, key: bytes, kv: kv_pb2.KeyValue | None) -> None:
        main = self.revision + 1
        before = self.at(key, main)
        if before is not None and before.lease:
            self.leases.get(before.lease, set()).discard(key)
        if kv is not None and kv.lease:
            self.leases.setdefault(kv.lease, set()).add(key)
        stored = (kv or kv_pb2.KeyValue(key=key)).SerializeToString(deterministic=True)
        self.histories.setdefault(key, []).append((main, self.sub, kv))
        self.records[main, self.sub, kv is None] = stored
        self.changes.append((kv is None, key, main, self.sub, stored))
        self.sub += 1

    def finish(self) -> None:
        if self.sub:
            self.revision += 1
            self.sub = 0

    def do_put(self, request: R.PutRequest) -> R.PutResponse:
        before = self.at(request.key, self.present)
        value, lease = request.value, request.lease
        if request.ignore_value:
            value = before.value if before else b""
        if request.ignore_lease:
            lease = before.lease if before else 0
        main = self.revision + 1
        kv = kv_pb2.KeyValue(key=request.key, value=value, lease=lease, mod_revision=main)
        kv.create_revision = before.create_revision if before else main
        kv.version = before.version + 1 if before else 1
        self.write(request.key, kv)
        return R.PutResponse(prev_kv=before if request.prev_kv else None)

    def do_delete(self, request: R.DeleteRangeRequest) -> R.DeleteRangeResponse:
        victims = self.live(request.key, request.range_end, self.present)
        for kv in victims:
            self.write(kv.key, None)
        return R.DeleteRangeResponse(deleted=len(victims), prev_kvs=victims if request.prev_kv else None)

    # -- ranges

    def do_range(self, q: R.RangeRequest) -> tuple[int, R.RangeResponse]:
        if q.revision > self.present:
            return EtcdError.FUTURE_REVISION, R.RangeResponse()
        revision = q.revision if q.revision > 0 else self.present
        if revision < self.compacted:
            return EtcdError.COMPACTED, R.RangeResponse()
        kvs = self.live(q.key, q.range_end, revision)
        response = R.RangeResponse(count=len(kvs))
        if q.count_only:
            return 0, response
        filtered = q.min_mod_revision or q.max_mod_revision or q.min_create_revision or q.max_create_revision
        if q.limit > 0 and q.sort_order == 0 and not filtered:
            kvs = kvs[: q.limit + 1]
        kvs = [
            kv
            for kv in kvs
            if (not q.max_mod_revision or kv.mod_revision <= q.max_mod_revision)
            and (not q.min_mod_revision or kv.mod_revision >= q.min_mod_revision)
            and (not q.max_create_revision or kv.create_revision <= q.max_create_revision)
            and (not q.min_create_revision or kv.create_revision >= q.min_create_revision)
        ]
        if q.sort_order or q.sort_target:
            name = ("key", "version", "create_revision", "mod_revision", "value")[q.sort_target]
            kvs.sort(key=lambda kv: getattr(kv, name), reverse=q.sort_order == R.RangeRequest.DESCEND)
        if 0 < q.limit < len(kvs):
            kvs, response.more = kvs[: q.limit], True
        for kv in kvs:
            shown = response.kvs.add()
            shown.CopyFrom(kv)
            if q.keys_only:
                shown.ClearField("value")
                if q.sort_target != R.RangeRequest.VALUE:
                    shown.ClearField("lease")
        return 0, response

    # -- transactions

    def compare_holds(self, c: R.Compare) -> bool:
        kvs = self.live(c.key, c.range_end, self.revision)
        if not kvs:
            return c.target != R.Compare.VALUE and self.compare_one(c, kv_pb2.KeyValue())
        return all(self.compare_one(c, kv) for kv in kvs)

    @staticmethod
    def compare_one(c: R.Compare, kv: kv_pb2.KeyValue) -> bool:
        name = ("version", "create_revision", "mod_revision", "value", "lease")[c.target]
        left, right = getattr(kv, name), getattr(c, name)
        return {0: left == right, 1: left > right, 2: left < right, 3: left != right}[c.result]

    def choose(self, txn: R.TxnRequest) -> list[tuple[R.TxnRequest, bool]]:
        """(transaction, its outcome) in preorder of the chosen path."""
        holds = all(self.compare_holds(c) for c in txn.compare)
        path = [(txn, holds)]
        for op in txn.success if holds else txn.failure:
            if op.HasField("request_txn"):
                path += self.choose(op.request_txn)
        return path

    def check_path(self, path: list[tuple[R.TxnRequest, bool]]) -> int:
        ops = self.path_ops(iter(path))
        for op in ops:
            put = op.request_put
            if put.lease and put.lease not in self.leases:
                return EtcdError.LEASE_NOT_FOUND
            if (put.ignore_value or put.ignore_lease) and self.at(put.key, self.revision) is None:
                return EtcdError.KEY_NOT_FOUND
            revision = op.request_range.revision
            if revision > self.revision:
                return EtcdError.FUTURE_REVISION
            if revision and revision < self.compacted:
                return EtcdError.COMPACTED
        return 0

    def path_ops(self, path) -> list[R.RequestOp]:
        txn, holds = next(path)
        ops = []
        for op in txn.success if holds else txn.failure:
            ops += self.path_ops(path) if op.HasField("request_txn") else [op]
        return ops

    def run(self, path) -> R.TxnResponse:
        txn, holds = next(path)
        response = R.TxnResponse(succeeded=holds)
        for op in txn.success if holds else txn.failure:
            answer = response.responses.add()
            kind = op.WhichOneof("request")
            if kind == "request_range":
                inner = answer.response_range
                inner.header.revision = self.present
                error, found = self.do_range(op.request_range)
                assert not error
                inner.MergeFrom(found)
            elif kind == "request_put":
                answer.response_put.MergeFrom(self.do_put(op.request_put))
                answer.response_put.header.revision = self.present
            elif kind == "request_delete_range":
                answer.response_delete_range.MergeFrom(self.do_delete(op.request_delete_range))
                answer.response_delete_range.header.revision = self.present
            else:
                answer.response_txn.MergeFrom(self.run(path))
                answer.response_txn.header.SetInParent()
        return response

    # -- validation of transactions

    def check_txn(self, txn: R.TxnRequest, budget: int | None = None) -> int:
        error = self.check_ops(txn, self.ops_max if budget is None else budget)
        if error:
            return error
        if self.clash(txn.success) is None or self.clash(txn.failure) is None:
            return EtcdError.DUPLICATE_KEY
        return 0

    def check_ops(self, txn: R.TxnRequest, budget: int) -> int:
        widest = max(len(txn.compare), len(txn.success), len(txn.failure))
        if widest > budget:
            return EtcdError.TOO_MANY_OPS
        if any(not c.key for c in txn.compare):
            return EtcdError.KEY_NOT_PROVIDED
        for op in [*txn.success, *txn.failure]:
            kind = op.WhichOneof("request")
            if kind is None:
                return EtcdError.KEY_NOT_FOUND
            if kind == "request_txn":
                error = self.check_ops(op.request_txn, budget - widest)
            else:
                error = {"request_put": check_put, "request_range": check_range, "request_delete_range": check_delete}[kind](
                    getattr(op, kind)
                )
            if error:
                return error
        return 0

    def clash(self, ops) -> tuple[set[bytes], list[tuple[bytes, bytes]]] | None:
        """etcd's checkIntervals, line by line; None = two writes that may not be together."""
        deletes = [
            (op.request_delete_range.key, op.request_delete_range.range_end)
            for op in ops
            if op.WhichOneof("request") == "request_delete_range"
        ]
        puts: set[bytes] = set()

        def deleted(key: bytes) -> bool:
            return any(key == start if not end else start <= key < end for start, end in deletes)

        for op in ops:
            if op.WhichOneof("request") != "request_txn":
                continue
            then, otherwise = self.clash(op.request_txn.success), self.clash(op.request_txn.failure)
            if then is None or otherwise is None:
                return None
            for key in then[0]:
                if key in puts or deleted(key):
                    return None
                puts.add(key)
            for key in otherwise[0]:
                if (key in puts and key not in then[0]) or deleted(key):
                    return None
                puts.add(key)
            deletes += then[1] + otherwise[1]
        for op in ops:
            if op.WhichOneof("request") == "request_put":
                key = op.request_put.key
                if key in puts or deleted(key):
                    return None
                puts.add(key)
        return puts, deletes

    # -- the store's face

    def answer(self, error: int, response) -> Answer:
        return (error, self.revision, b"" if error else response.SerializeToString(deterministic=True))

    def put(self, request: R.PutRequest) -> Answer:
        error = 0
        if request.lease and request.lease not in self.leases:
            error = EtcdError.LEASE_NOT_FOUND
        elif (request.ignore_value or request.ignore_lease) and self.at(request.key, self.revision) is None:
            error = EtcdError.KEY_NOT_FOUND
        response = None if error else self.do_put(request)
        self.finish()
        return self.answer(error, response)

    def delete_range(self, request: R.DeleteRangeRequest) -> Answer:
        response = self.do_delete(request)
        self.finish()
        return self.answer(0, response)

    def range(self, request: R.RangeRequest) -> Answer:
        return self.answer(*self.do_range(request))

    def txn(self, request: R.TxnRequest) -> Answer:
        path = self.choose(request)
        error = self.check_path(path)
        response = None if error else self.run(iter(path))
        self.finish()
        return self.answer(error, response)

    def delete_keys(self, keys: list[bytes]) -> int:
        for key in keys:
            if self.at(key, self.present) is not None:
                self.write(key, None)
        self.finish()
        return self.revision

    def compact(self, revision: int) -> Answer:
        if revision <= self.compacted:
            return (EtcdError.COMPACTED, self.revision, b"")
        if revision > self.revision:
            return (EtcdError.FUTURE_REVISION, self.revision, b"")
        self.compacted = revision
        return (0, self.revision, b"")

    def scrub(self) -> set[Place]:
        """Drops what the last compaction made unreachable; the places."""
        gone: set[Place] = set()
        for key, history in list(self.histories.items()):
            until = [one for one in history if one[0] <= self.compacted]
            keep = until[-1:] if until and (until[-1][2] is not None or until[-1][0] == self.compacted) else []
            dropped = [one for one in until if one not in keep]
            gone |= {(main, sub, kv is None) for main, sub, kv in dropped}
            self.histories[key] = [one for one in history if one not in dropped]
            if not self.histories[key]:
                del self.histories[key]
        for place in gone:
            del self.records[place]
        return gone

    def superseded(self) -> int:
        return sum(len(history) - (history[-1][2] is not None) for history in self.histories.values())

    def alive(self, revision: int) -> set[tuple[int, int]]:
        newest = ([one for one in history if one[0] <= revision][-1:] for history in self.histories.values())
        return {one[:2] for found in newest for one in found if one[2] is not None}

    def hash_kv(self, revision: int) -> tuple[int, int, int, int]:
        if 0 < revision < self.compacted:
            return (EtcdError.COMPACTED, 0, 0, 0)
        if revision > self.revision:
            return (EtcdError.FUTURE_REVISION, 0, 0, 0)
        revision = revision or self.revision
        # Where no key is alive etcd takes all that its compaction left: what was alive at the compaction.
        keep = self.alive(revision) or self.alive(self.compacted)
        crc = crc32c(b"key")
        for (main, sub, tombstone), value in sorted(self.records.items()):
            if main > revision:
                continue
            if main <= self.compacted and (main, sub) not in keep:
                continue
            if main == self.compacted and tombstone:
                continue
            crc = crc32c(main.to_bytes(8, "big") + b"_" + sub.to_bytes(8, "big") + b"t" * tombstone + value, crc)
        return (0, crc, self.compacted, revision)


def check_put(request: R.PutRequest) -> int:
    if not request.key:
        return EtcdError.KEY_NOT_PROVIDED
    if request.ignore_value and request.value:
        return EtcdError.VALUE_PROVIDED
    return EtcdError.LEASE_PROVIDED if request.ignore_lease and request.lease else 0


def check_range(request: R.RangeRequest) -> int:
    if not request.key:
        return EtcdError.KEY_NOT_PROVIDED
    return 0 if request.sort_order in {0, 1, 2} and request.sort_target in range(5) else EtcdError.INVALID_SORT_OPTION


def check_delete(request: R.DeleteRangeRequest) -> int:
    return 0 if request.key else EtcdError.KEY_NOT_PROVIDED
