"""A small etcd in memory: the semantics that the scheduler relies on, written to be obvious, and a `KvClient` over it.

Keys, revisions, records, guarded (nested) transactions, leases. Every answer comes when the test says so (`MemoryKv.deliver`)
or at once; failures are injected by `MemoryKv.fail_next`. Slow on purpose: generated messages, dicts, sorting.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from raftsched.errors import EtcdError, status_of
from raftsched.limits import FENCE_ALONE_MS
from raftsched.pb.etcd import kv_pb2, rpc_pb2
from raftsched.ports import ChangeSink
from raftsched.types import Change, Result, ResultSink


class MemoryEtcd:
    """State and history of all keys."""

    def __init__(self) -> None:
        self.revision = 1
        self.keys: dict[bytes, Any] = {}  # KeyValue messages
        self.records: dict[tuple[int, int], bytes] = {}
        self.leases: dict[int, set[bytes]] = {}
        self.full = False
        self.sinks: list[ChangeSink] = []
        self._next_lease = 7000
        self._pending: list[Change] = []

    # -- writes; each is one revision
    def put(self, key: bytes, value: bytes, lease: int = 0) -> None:
        self._write(lambda main: self._put(main, key, value, lease))

    def delete(self, key: bytes, end: bytes = b"") -> None:
        self._write(lambda main: self._delete(main, key, end))

    def apply(self, kind: int, request: bytes) -> Result:
        """A PutRequest (4), DeleteRangeRequest (5) or TxnRequest (6), as one entry."""
        if kind == 4:
            put = rpc_pb2.PutRequest.FromString(request)
            if self.full:
                return (EtcdError.NO_SPACE, 0, b"")
            if put.lease and put.lease not in self.leases:
                return (EtcdError.LEASE_NOT_FOUND, 0, b"")
            self.put(put.key, put.value, put.lease)
            return (0, self.revision, b"")
        if kind == 5:
            delete = rpc_pb2.DeleteRangeRequest.FromString(request)
            self.delete(delete.key, delete.range_end)
            return (0, self.revision, b"")
        txn = rpc_pb2.TxnRequest.FromString(request)
        if _written(txn.success) is None:
            return (EtcdError.DUPLICATE_KEY, 0, b"")
        if self.full and _puts(txn):
            return (EtcdError.NO_SPACE, 0, b"")
        response: list[Any] = []
        self._write(lambda main: response.append(self._txn(main, txn)))
        return (0, self.revision, response[0].SerializeToString())

    def range(self, request: bytes) -> Any:
        message = rpc_pb2.RangeRequest.FromString(request)
        return self._range(message)

    def grant(self) -> int:
        self._next_lease += 1
        self.leases[self._next_lease] = set()
        return self._next_lease

    def revoke(self, lease: int) -> None:
        keys = self.leases.pop(lease, set())
        if keys:
            self._write(lambda main: [self._delete(main, key, b"") for key in sorted(keys)])

    def live(self, prefix: bytes) -> list[Change]:
        found = []
        for key in sorted(key for key in self.keys if key.startswith(prefix)):
            kv = self.keys[key]
            sub = next(sub for (main, sub), record in self.records.items() if main == kv.mod_revision and _key(record) == key)
            found.append(Change(False, key, kv.mod_revision, sub, kv.SerializeToString()))
        return found

    # -- inside
    def _write(self, change: Callable[[int], Any]) -> None:
        self._pending = []
        change(self.revision + 1)
        if self._pending:
            self.revision += 1
        for sink in list(self.sinks):
            sink.on_changes(self._pending, self.revision)

    def _put(self, main: int, key: bytes, value: bytes, lease: int) -> None:
        old = self.keys.get(key)
        created, version = (old.create_revision, old.version + 1) if old else (main, 1)
        kv = kv_pb2.KeyValue(key=key, value=value, create_revision=created, mod_revision=main, version=version, lease=lease)
        if old is not None and old.lease:
            self.leases.get(old.lease, set()).discard(key)
        if lease:
            self.leases[lease].add(key)
        self.keys[key] = kv
        record = kv.SerializeToString()
        self.records[main, len(self._pending)] = record
        self._pending.append(Change(False, key, main, len(self._pending), record))

    def _delete(self, main: int, key: bytes, end: bytes) -> int:
        doomed = sorted(found for found in self.keys if _inside(found, key, end))
        for found in doomed:
            lease = self.keys.pop(found).lease
            self.leases.get(lease, set()).discard(found)
            self._pending.append(Change(True, found, main, len(self._pending), kv_pb2.KeyValue(key=found).SerializeToString()))
        return len(doomed)

    def _range(self, message: Any) -> Any:
        found = [self.keys[key] for key in sorted(self.keys) if _inside(key, message.key, message.range_end)]
        shown = found[: message.limit] if message.limit else found
        return rpc_pb2.RangeResponse(kvs=shown, more=len(shown) < len(found), count=len(found))

    def _txn(self, main: int, txn: Any) -> Any:
        succeeded = all(self._holds(compare) for compare in txn.compare)
        response = rpc_pb2.TxnResponse(succeeded=succeeded)
        for op in txn.success if succeeded else txn.failure:
            answer = response.responses.add()
            kind = op.WhichOneof("request")
            if kind == "request_put":
                self._put(main, op.request_put.key, op.request_put.value, op.request_put.lease)
                answer.response_put.SetInParent()
            elif kind == "request_delete_range":
                answer.response_delete_range.deleted = self._delete(main, op.request_delete_range.key, op.request_delete_range.range_end)
            elif kind == "request_range":
                answer.response_range.CopyFrom(self._range(op.request_range))
            else:
                answer.response_txn.CopyFrom(self._txn(main, op.request_txn))
        return response

    def _holds(self, compare: Any) -> bool:
        if not compare.range_end:
            return _matches(compare, self.keys.get(compare.key))
        found = [kv for key, kv in self.keys.items() if _inside(key, compare.key, compare.range_end)]
        return all(_matches(compare, kv) for kv in found) if found else _matches(compare, None)


def _matches(compare: Any, kv: Any) -> bool:
    """A Compare on one key's state; None = it is missing."""
    if compare.target == rpc_pb2.Compare.VALUE:
        assert compare.result == rpc_pb2.Compare.EQUAL
        return bool(kv is not None and kv.value == compare.value)
    held, wanted = {
        rpc_pb2.Compare.CREATE: (kv.create_revision if kv else 0, compare.create_revision),
        rpc_pb2.Compare.MOD: (kv.mod_revision if kv else 0, compare.mod_revision),
        rpc_pb2.Compare.LEASE: (kv.lease if kv else 0, compare.lease),
    }[compare.target]
    return {
        rpc_pb2.Compare.EQUAL: bool(held == wanted),
        rpc_pb2.Compare.LESS: bool(held < wanted),
        rpc_pb2.Compare.GREATER: bool(held > wanted),
    }[compare.result]


def _inside(key: bytes, start: bytes, end: bytes) -> bool:
    if not end:
        return key == start
    return key >= start and (end == b"\0" or key < end)


def _key(record: bytes) -> bytes:
    return kv_pb2.KeyValue.FromString(record).key


def _puts(txn: Any) -> bool:
    ops = [*txn.success, *txn.failure]
    return any(op.HasField("request_put") or (op.HasField("request_txn") and _puts(op.request_txn)) for op in ops)


def _written(ops: Sequence[Any]) -> tuple[set[bytes], set[bytes]] | None:
    """(keys that are put, keys that are deleted) by a list of operations; None: what etcd calls a duplicate key. Ranges, and what is done
    when compares fail, are not looked at."""
    puts: set[bytes] = set()
    deletes = {op.request_delete_range.key for op in ops if op.HasField("request_delete_range")}
    for op in ops:
        inner: tuple[set[bytes], set[bytes]] | None = (set(), set())
        if op.HasField("request_txn"):
            inner = _written(op.request_txn.success)
        elif op.HasField("request_put"):
            inner = ({op.request_put.key}, set())
        if inner is None or inner[0] & (puts | deletes):
            return None
        puts, deletes = puts | inner[0], deletes | inner[1]
    return puts, deletes


class MemoryKv:
    """A `KvClient` over a `MemoryEtcd`. `held=True`: writes wait for `deliver`; else they are done within the call."""

    def __init__(self, etcd: MemoryEtcd | None = None, *, held: bool = False) -> None:
        self.etcd = etcd or MemoryEtcd()
        self.held = held
        self.fail_next: list[int] = []
        """Errors for the next writes: a refusal, except TIMEOUT, which is done and answered as unknown."""
        self.entries = 0
        self.fence = FENCE_ALONE_MS
        self.mixed = False
        self.silent: set[str] = set()
        """Schedulers that the store's leader calls dead, if this is it."""
        self._waiting: list[Callable[[], None]] = []
        self._lost: dict[int, Callable[[], None]] = {}

    # -- writes
    def write_many(self, kind: int, messages: Sequence[bytes], tokens: Sequence[int], sink: ResultSink) -> None:
        for message, token in zip(messages, tokens, strict=True):
            self._do(partial(self._answer, kind, message, token, sink))

    def _answer(self, kind: int, message: bytes, token: int, sink: ResultSink) -> None:
        sink.on_results([token], [self._write(kind, message)])

    def txn_packed(self, request: bytes, count: int, done: Callable[[int, int, bytes], None]) -> None:
        def run() -> None:
            error, revision, body = self._write(6, request)
            if error:
                done(error, 0, b"")
                return
            answers = rpc_pb2.TxnResponse.FromString(body).responses
            assert len(answers) == count
            done(0, revision, bytes(answer.response_txn.succeeded for answer in answers))

        self._do(run)

    def deliver(self, count: int | None = None) -> int:
        """Does `count` waiting writes (all); how many."""
        now, self._waiting = self._waiting[:count], self._waiting[count:] if count is not None else []
        for run in now:
            run()
        return len(now)

    def lose(self, count: int | None = None) -> None:
        """Waiting writes that never reach the log, as in a crash; nobody is answered."""
        self._waiting = self._waiting[count:] if count is not None else []

    def _do(self, run: Callable[[], None]) -> None:
        if self.held:
            self._waiting.append(run)
        else:
            run()

    def _write(self, kind: int, message: bytes) -> Result:
        self.entries += 1
        error = self.fail_next.pop(0) if self.fail_next else 0
        if error and error != EtcdError.TIMEOUT:
            return (error, 0, b"")
        result = self.etcd.apply(kind, message)
        return (error, 0, b"") if error else result

    # -- reads
    async def range(self, request: bytes) -> tuple[int, bytes]:
        return (self.etcd.revision, self.etcd.range(request).SerializeToString())

    async def txn(self, request: bytes) -> tuple[int, bytes]:
        error, revision, body = self._write(6, request)
        if error:
            raise status_of(error)
        return (revision, body)

    async def scan(self, prefix: bytes, on_page: Callable[[Sequence[Change]], None]) -> int:
        on_page(self.etcd.live(prefix))
        return self.etcd.revision

    def read_record(self, main: int, sub: int) -> bytes | None:
        return self.etcd.records.get((main, sub))

    def subscribe(self, sink: ChangeSink) -> Callable[[], None]:
        self.etcd.sinks.append(sink)
        return lambda: self.etcd.sinks.remove(sink)

    # -- leases and the rest
    async def lease_grant(self, ttl_s: int) -> int:
        return self.etcd.grant()

    def lease_keep_alive(self, lease: int, lost: Callable[[], None]) -> Callable[[], None]:
        self._lost[lease] = lost

        def end() -> None:
            self._lost.pop(lease, None)

        return end

    async def lease_revoke(self, lease: int) -> None:
        self.etcd.revoke(lease)

    def expire(self, lease: int) -> None:
        """The lease runs out, or somebody revokes it."""
        self.etcd.revoke(lease)
        if (lost := self._lost.pop(lease, None)) is not None:
            lost()

    def owns_directory(self) -> bool:
        return True

    def shared(self) -> bool:
        return self.mixed

    def peers(self) -> Sequence[int]:
        return ()

    def fence_ms(self) -> int:
        return self.fence

    def stuck(self, mono_ms: int) -> str:
        return ""

    def dead(self, names: Collection[str]) -> Collection[str]:
        return [name for name in names if name in self.silent]
