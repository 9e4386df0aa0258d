"""The native store against its twin: every answer, every record, every change, over random lives of a store."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from mvcc_twin import Twin, check_delete, check_put, check_range

from raftsched.pb.etcd import kv_pb2, rpc_pb2
from raftsched.store._records import Generation, MemoryRecords
from raftsched.store.mvcc._store import MvccStore

R = rpc_pb2
NAMES = [b"a", b"b", b"ba", b"b\0", b"dapr/jobs/app||ns||one", b"dapr/jobs/app||ns||two", b"\xff\xff", b"long/" + b"k" * 500]
KEYS = st.sampled_from(NAMES)
ENDS = st.one_of(st.just(b""), st.just(b"\0"), KEYS, st.just(b"dapr/jobs/app||ns||\xff"))
VALUES = st.sampled_from([b"", b"v", b"w" * 200, b"x" * 130])
LEASES = st.sampled_from([0, 0, 0, 7, 8, -5])
SMALL = st.integers(-3, 14)
BOOLS = st.booleans()

PUTS = st.builds(
    R.PutRequest, key=KEYS, value=VALUES, lease=LEASES, prev_kv=BOOLS, ignore_value=st.just(False), ignore_lease=st.just(False)
) | st.builds(R.PutRequest, key=KEYS, prev_kv=BOOLS, ignore_value=BOOLS, ignore_lease=BOOLS)
RANGES = st.builds(
    R.RangeRequest,
    key=KEYS | st.just(b"\0"),
    range_end=ENDS,
    limit=st.sampled_from([0, 0, 1, 2, 3, -1]),
    revision=st.just(0) | SMALL,
    sort_order=st.integers(0, 2),
    sort_target=st.integers(0, 4),
    keys_only=BOOLS,
    count_only=st.sampled_from([False, False, True]),
    min_mod_revision=st.just(0) | SMALL,
    max_mod_revision=st.just(0) | SMALL,
    min_create_revision=st.just(0) | SMALL,
    max_create_revision=st.just(0) | SMALL,
) | st.builds(R.RangeRequest, key=KEYS, range_end=ENDS, revision=st.just(0) | SMALL, limit=st.integers(0, 3))
DELETES = st.builds(R.DeleteRangeRequest, key=KEYS, range_end=ENDS, prev_kv=BOOLS)
COMPARES = st.one_of(
    st.builds(R.Compare, result=st.integers(0, 3), target=st.just(0), key=KEYS, range_end=ENDS, version=st.integers(0, 2)),
    st.builds(R.Compare, result=st.integers(0, 3), target=st.just(1), key=KEYS, range_end=ENDS, create_revision=SMALL),
    st.builds(R.Compare, result=st.integers(0, 3), target=st.just(2), key=KEYS, range_end=ENDS, mod_revision=SMALL),
    st.builds(R.Compare, result=st.integers(0, 3), target=st.just(3), key=KEYS, range_end=ENDS, value=VALUES),
    st.builds(R.Compare, result=st.integers(0, 3), target=st.just(4), key=KEYS, range_end=ENDS, lease=LEASES),
    st.builds(R.Compare, result=st.integers(0, 3), target=st.integers(0, 4), key=KEYS, version=st.just(1)),
)
SIMPLE = st.one_of(
    st.builds(R.RequestOp, request_put=PUTS),
    st.builds(R.RequestOp, request_delete_range=DELETES),
    st.builds(R.RequestOp, request_range=RANGES),
)


def txns(ops: st.SearchStrategy[R.RequestOp]) -> st.SearchStrategy[R.TxnRequest]:
    return st.builds(
        R.TxnRequest,
        compare=st.lists(COMPARES, max_size=2),
        success=st.lists(ops, max_size=4),
        failure=st.lists(ops, max_size=3),
    )


OPS = st.recursive(SIMPLE, lambda inner: st.builds(R.RequestOp, request_txn=txns(inner)) | inner, max_leaves=5)
TXNS = txns(OPS)


class Leases:
    """A LeaseBook as the lessor is one."""

    def __init__(self) -> None:
        self.held: dict[int, set[bytes]] = {}

    def exists(self, lease: int) -> bool:
        return lease in self.held

    def attach(self, lease: int, key: bytes) -> None:
        self.held[lease].add(key)

    def detach(self, lease: int, key: bytes) -> None:
        self.held[lease].remove(key)


class StoreMachine(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 2**64 - 1))
    def open(self, seed: int) -> None:
        self.twin = Twin(ops_max=6)
        self.leases = Leases()
        self.source = MemoryRecords()
        self.store = MvccStore(self.source, self.leases, hash_seed=seed, txn_ops_max=6)
        self.store.watching = True
        self.taken: Generation | None = None
        self.doomed: list[tuple[int, int, bool]] = []
        self.named: list[tuple[int, int, bool]] = []
        self.seed = seed

    @rule(lease=st.sampled_from([7, 8, -5]))
    def grant(self, lease: int) -> None:
        self.leases.held.setdefault(lease, set())
        self.twin.leases.setdefault(lease, set())

    @rule(lease=st.sampled_from([7, 8, -5]))
    def revoke(self, lease: int) -> None:
        keys = sorted(self.twin.leases.get(lease, ()))
        assert self.store.delete_keys(keys) == self.twin.delete_keys(keys)
        self.leases.held.pop(lease, None)
        self.twin.leases.pop(lease, None)

    @rule(request=PUTS)
    def put(self, request: R.PutRequest) -> None:
        data = request.SerializeToString()
        error = check_put(request)
        assert self.store.check_put(data) == error
        if not error:
            assert self.store.put(data) == self.twin.put(request)

    @rule(request=DELETES)
    def delete(self, request: R.DeleteRangeRequest) -> None:
        data = request.SerializeToString()
        assert self.store.check_delete_range(data) == check_delete(request)
        assert self.store.delete_range(data) == self.twin.delete_range(request)

    @rule(request=RANGES)
    def range(self, request: R.RangeRequest) -> None:
        data = request.SerializeToString()
        assert self.store.check_range(data) == check_range(request)
        assert self.store.range(data) == self.twin.range(request)

    @rule(request=TXNS)
    def txn(self, request: R.TxnRequest) -> None:
        data = request.SerializeToString()
        error = self.twin.check_txn(request)
        assert self.store.check_txn(data) == error
        if not error:
            assert self.store.txn(data) == self.twin.txn(request)

    @rule(back=st.integers(-1, 6))
    def compact(self, back: int) -> None:
        revision = self.twin.revision - back
        assert self.store.compact(revision) == self.twin.compact(revision)

    @rule(slice_keys=st.integers(1, 3), slice_records=st.integers(1, 4))
    def scrub(self, slice_keys: int, slice_records: int) -> None:
        gone: list[tuple[int, int, bool]] = []
        finished = False
        while not finished:
            dropped, finished = self.store.scrub(slice_keys, records_max=slice_records)
            assert len(dropped) <= slice_records + 1
            gone += dropped
        assert len(gone) == len(set(gone))
        assert set(gone) | set(self.named) == self.twin.scrub()
        self.doom(gone)
        self.named.clear()

    @rule(slice_records=st.integers(1, 4))
    def scrub_a_little(self, slice_records: int) -> None:
        """Anything may come before the rest, also another compaction."""
        dropped, _ = self.store.scrub(1, records_max=slice_records)
        self.named += dropped
        self.doom(dropped)

    def doom(self, gone: list[tuple[int, int, bool]]) -> None:
        self.doomed += [one for one in gone if one not in self.doomed]

    @rule()
    @precondition(lambda self: self.taken is None)
    def swap(self) -> None:
        self.taken = self.store.swap()

    @rule()
    @precondition(lambda self: self.taken is not None)
    def release(self) -> None:
        """What a backend's commit does: the records, then the deletions known by then, then the new read view."""
        assert self.taken is not None
        self.source.store(self.taken)
        stored = {place[:3] for place in self.source.items()}
        for place in [one for one in self.doomed if one in stored]:
            self.source.remove(*place)
            self.doomed.remove(place)
        self.store.release()
        self.taken = None

    @rule()
    def reload(self) -> None:
        """A restart after everything was committed."""
        if self.taken is not None:
            self.release()
        self.swap()
        self.release()
        kept = {place: value for place, value in self.twin.records.items() if place not in self.named}
        assert self.source.items() == [(*place, value) for place, value in sorted(kept.items())]
        self.store = MvccStore(self.source, self.leases, hash_seed=self.seed + 1 & 2**64 - 1, txn_ops_max=6)
        self.twin.changes.clear()
        attached = self.store.load(revision_hint=self.twin.revision, compact_revision=self.twin.compacted)
        assert sorted(attached) == sorted((lease, key) for lease, keys in self.twin.leases.items() for key in keys)
        self.store.watching = True

    @rule(revision=SMALL)
    def hash(self, revision: int) -> None:
        assert self.store.hash_kv(revision) == self.twin.hash_kv(revision)

    @rule(start=st.integers(0, 20), limit=st.integers(1, 4))
    def history(self, start: int, limit: int) -> None:
        start = max(start, self.twin.compacted + 1)  # what is older may or may not be there still
        changes, following = self.store.history(start, limit)
        places = sorted(place for place in self.twin.records if place[0] >= start)
        mains = sorted({place[0] for place in places})
        expected = [place for place in places if place[0] in mains[:limit]]
        assert [(c.main, c.sub, c.deleted, c.record) for c in changes] == [(*place, self.twin.records[place]) for place in expected]
        assert all(c.key == kv_pb2.KeyValue.FromString(c.record).key for c in changes)
        assert following == (mains[limit] if len(mains) > limit else self.twin.revision + 1)

    @rule(key=KEYS, before=SMALL)
    def previous(self, key: bytes, before: int) -> None:
        kv = None if before - 1 < self.twin.compacted or before < 2 else self.twin.at(key, before - 1)
        assert self.store.previous(key, before) == (None if kv is None else kv.SerializeToString())

    @rule(start=KEYS, end=st.sampled_from([b"\0", b"c", b"e"]), after=st.none() | KEYS, limit=st.integers(1, 4))
    def live(self, start: bytes, end: bytes, after: bytes | None, limit: int) -> None:
        kvs = [kv for kv in self.twin.live(start, end, self.twin.revision) if after is None or kv.key > after][:limit]
        found = self.store.live(start, end, after, limit)
        assert [(c.deleted, c.key, c.main, c.record) for c in found] == [
            (False, kv.key, kv.mod_revision, kv.SerializeToString()) for kv in kvs
        ]
        assert all(self.store.record(c.main, c.sub) == c.record for c in found)

    @rule(kept=st.integers(0, 10))
    def bound(self, kept: int) -> None:
        revision = self.store.oldest_revision_keeping(kept)
        assert self.twin.compacted <= revision <= self.twin.revision
        if self.twin.superseded() <= kept:
            assert revision == self.twin.compacted

    @invariant()
    def same(self) -> None:
        assert self.store.revision == self.twin.revision
        assert self.store.compact_revision == self.twin.compacted
        assert self.store.key_count == len(self.twin.live(b"\0", b"\0", self.twin.revision))
        if not self.named:  # the twin scrubs all at once
            assert self.store.superseded_count == self.twin.superseded()
        assert {lease: keys for lease, keys in self.leases.held.items() if keys} == {
            lease: keys for lease, keys in self.twin.leases.items() if keys
        }
        assert [tuple(change) for change in self.store.take_changes()] == self.twin.changes
        self.twin.changes.clear()


StoreMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
test_store_is_its_twin = StoreMachine.TestCase
