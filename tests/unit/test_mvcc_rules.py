"""The rules of etcd-api §1.0, §1.1 and §3.6 one by one, with the samples that a real etcd answered."""

import pytest

from raftsched.errors import EtcdError
from raftsched.pb.etcd import rpc_pb2 as R
from raftsched.store._records import MemoryRecords
from raftsched.store.mvcc._store import MvccStore, crc32c


class Leases:
    def __init__(self) -> None:
        self.keys: dict[int, set[bytes]] = {}

    def exists(self, lease: int) -> bool:
        return lease in self.keys

    def attach(self, lease: int, key: bytes) -> None:
        self.keys[lease].add(key)

    def detach(self, lease: int, key: bytes) -> None:
        self.keys[lease].remove(key)


@pytest.fixture
def leases() -> Leases:
    return Leases()


@pytest.fixture
def store(leases: Leases) -> MvccStore:
    return MvccStore(MemoryRecords(), leases, hash_seed=1)


def put(store: MvccStore, key: str, value: str = "", **options: object) -> tuple[int, int, bytes]:
    return store.put(R.PutRequest(key=key.encode(), value=value.encode(), **options).SerializeToString())


def get(store: MvccStore, key: str, end: str = "", **options: object) -> R.RangeResponse:
    error, _, body = store.range(R.RangeRequest(key=key.encode(), range_end=end.encode(), **options).SerializeToString())
    assert error == 0
    return R.RangeResponse.FromString(body)


def put_op(key: str, value: str = "", **options: object) -> R.RequestOp:
    return R.RequestOp(request_put=R.PutRequest(key=key.encode(), value=value.encode(), **options))


def delete_op(key: str, end: str = "") -> R.RequestOp:
    return R.RequestOp(request_delete_range=R.DeleteRangeRequest(key=key.encode(), range_end=end.encode()))


def range_op(key: str, **options: object) -> R.RequestOp:
    return R.RequestOp(request_range=R.RangeRequest(key=key.encode(), **options))


def txn_op(**parts: object) -> R.RequestOp:
    return R.RequestOp(request_txn=R.TxnRequest(**parts))


def run(store: MvccStore, **parts: object) -> tuple[int, int, R.TxnResponse]:
    data = R.TxnRequest(**parts).SerializeToString()
    assert store.check_txn(data) == 0
    error, revision, body = store.txn(data)
    return error, revision, R.TxnResponse.FromString(body)


def test_golden_range(store: MvccStore) -> None:
    assert put(store, "foo", "bar") == (0, 2, b"")
    assert get(store, "foo") == R.RangeResponse(
        kvs=[{"key": b"foo", "create_revision": 2, "mod_revision": 2, "version": 1, "value": b"bar"}], count=1
    )


def test_golden_sort_quirk(store: MvccStore) -> None:
    for key in ("s3", "s2", "s1"):
        put(store, key)
    quirk = {"sort_target": R.RangeRequest.MOD, "limit": 1}
    assert [kv.key for kv in get(store, "s", "t", **quirk).kvs] == [b"s2"]
    assert [kv.key for kv in get(store, "s", "t", **quirk, sort_order=R.RangeRequest.ASCEND).kvs] == [b"s3"]


def test_fresh_store(store: MvccStore) -> None:
    assert (store.revision, store.compact_revision, store.key_count, store.superseded_count) == (1, -1, 0, 0)
    assert store.range(R.RangeRequest(key=b"k").SerializeToString()) == (0, 1, b"")


def test_what_changes_nothing_takes_no_revision(store: MvccStore) -> None:
    assert store.delete_range(R.DeleteRangeRequest(key=b"k").SerializeToString()) == (0, 1, b"")
    assert run(store) == (0, 1, R.TxnResponse(succeeded=True))
    assert put(store, "k", ignore_value=True) == (EtcdError.KEY_NOT_FOUND, 1, b"")
    assert put(store, "k", lease=9) == (EtcdError.LEASE_NOT_FOUND, 1, b"")
    assert store.delete_keys([b"k"]) == 1
    assert len(store.swap()) == 0


def test_put_without_a_lease_detaches(store: MvccStore, leases: Leases) -> None:
    leases.keys = {7: set()}
    put(store, "k", "v", lease=7)
    put(store, "k", ignore_value=True, lease=7)
    assert leases.keys == {7: {b"k"}}
    assert get(store, "k").kvs[0].value == b"v"
    put(store, "k", "w", ignore_lease=True)
    assert get(store, "k").kvs[0].lease == 7
    put(store, "k")
    assert leases.keys == {7: set()}


def test_keys_only_drops_the_lease_unless_sorted_by_value(store: MvccStore, leases: Leases) -> None:
    leases.keys = {7: set()}
    put(store, "k", "v", lease=7)
    assert get(store, "k", keys_only=True).kvs[0].lease == 0
    assert get(store, "k", keys_only=True, sort_target=R.RangeRequest.VALUE).kvs[0].lease == 7


def test_inner_headers(store: MvccStore) -> None:
    error, revision, response = run(store, success=[range_op("k"), put_op("k", "v"), range_op("k"), txn_op(success=[delete_op("q")])])
    assert (error, revision) == (0, 2)
    before, write, after, nested = response.responses
    assert before.response_range == R.RangeResponse(header={"revision": 1})
    assert write.response_put == R.PutResponse(header={"revision": 2})
    assert after.response_range.header.revision == 2
    assert after.response_range.count == 1
    assert nested.response_txn.HasField("header")
    assert nested.response_txn.header == R.ResponseHeader()
    assert nested.response_txn.responses[0].response_delete_range == R.DeleteRangeResponse(header={"revision": 2})


def test_nested_compares_see_the_state_before(store: MvccStore) -> None:
    exists = R.Compare(key=b"k", target=R.Compare.VERSION, result=R.Compare.GREATER, version=0)
    _, _, response = run(store, success=[put_op("k"), txn_op(compare=[exists], success=[put_op("yes")], failure=[put_op("no")])])
    assert not response.responses[1].response_txn.succeeded
    assert [kv.key for kv in get(store, "\0", "\0").kvs] == [b"k", b"no"]


def test_a_refused_transaction_changes_nothing(store: MvccStore) -> None:
    put(store, "k")
    put(store, "k")
    store.compact(3)
    for op, error in [
        (put_op("new", lease=99), EtcdError.LEASE_NOT_FOUND),
        (put_op("new", ignore_value=True), EtcdError.KEY_NOT_FOUND),
        (range_op("k", revision=2), EtcdError.COMPACTED),
        (range_op("k", revision=-1), EtcdError.COMPACTED),
        (range_op("k", revision=4), EtcdError.FUTURE_REVISION),
    ]:
        assert run(store, success=[put_op("first"), op])[:2] == (error, 3)
        assert run(store, success=[put_op("first"), txn_op(success=[op])])[:2] == (error, 3)
    assert get(store, "first").count == 0


@pytest.mark.parametrize(
    ("ops", "error"),
    [
        ([put_op("a"), put_op("a")], EtcdError.DUPLICATE_KEY),
        ([put_op("b"), delete_op("a", "c")], EtcdError.DUPLICATE_KEY),
        ([delete_op("a", "c"), delete_op("b", "d")], 0),
        ([range_op("a"), put_op("a")], 0),
        ([txn_op(success=[put_op("a")], failure=[put_op("a")])], 0),
        ([txn_op(success=[put_op("a")]), put_op("a")], EtcdError.DUPLICATE_KEY),
        ([txn_op(success=[put_op("a")]), txn_op(failure=[put_op("a")])], EtcdError.DUPLICATE_KEY),
        ([delete_op("a"), txn_op(failure=[put_op("a")])], EtcdError.DUPLICATE_KEY),
        ([txn_op(failure=[delete_op("a")]), txn_op(success=[put_op("a")])], EtcdError.DUPLICATE_KEY),
        ([txn_op(success=[put_op("a")]), txn_op(success=[delete_op("a")])], 0),
        ([put_op("b"), delete_op("a", "\0")], 0),
        ([R.RequestOp()], EtcdError.KEY_NOT_FOUND),
        ([put_op("")], EtcdError.KEY_NOT_PROVIDED),
        ([put_op("a", "v", ignore_value=True)], EtcdError.VALUE_PROVIDED),
        ([put_op("a", ignore_lease=True, lease=1)], EtcdError.LEASE_PROVIDED),
        ([range_op("a", sort_order=3)], EtcdError.INVALID_SORT_OPTION),
        ([range_op("a", sort_target=-1)], EtcdError.INVALID_SORT_OPTION),
        ([range_op("a")] * 129, EtcdError.TOO_MANY_OPS),
        ([range_op("a")] * 127 + [txn_op()], 0),
        ([range_op("a")] * 126 + [txn_op(success=[range_op("a")])], 0),
        ([range_op("a")] * 127 + [txn_op(success=[range_op("a")])], EtcdError.TOO_MANY_OPS),
    ],
)
def test_check_txn(store: MvccStore, ops: list[R.RequestOp], error: int) -> None:
    assert store.check_txn(R.TxnRequest(success=ops).SerializeToString()) == error
    assert store.check_txn(R.TxnRequest(failure=ops).SerializeToString()) == error


def nested(levels: int, innermost: bytes) -> bytes:
    """By hand: Google's own Python makes no message deeper than 100."""
    request = innermost
    for _ in range(levels):
        for field in (0x22, 0x12):  # RequestOp.request_txn in TxnRequest.success
            length, rest = bytearray(), len(request)
            while rest > 127:
                length.append(rest & 127 | 128)
                rest >>= 7
            request = bytes((field, *length, rest)) + request
    return request


@pytest.mark.parametrize(
    ("levels", "innermost", "before", "error"),
    [
        (127, b"", b"", 0),
        (128, b"", b"", EtcdError.TOO_MANY_OPS),
        (4_998, b"", b"", EtcdError.TOO_MANY_OPS),
        (4_999, b"", b"", EtcdError.MALFORMED),
        (150_000, b"", b"", EtcdError.MALFORMED),
        (128, b"\xff", b"", EtcdError.MALFORMED),
        (128, b"", b"\xff", EtcdError.MALFORMED),
        (4_998, b"\x12\x03\x0a\x01\xff", b"", EtcdError.MALFORMED),
        (200, b"", b"\x12\x02\x0a\x00", EtcdError.KEY_NOT_PROVIDED),
        (200, b"", b"\x0a\x00", EtcdError.KEY_NOT_PROVIDED),
        (200, b"", b"\x1a\x02\x0a\x00", EtcdError.TOO_MANY_OPS),
    ],
)
def test_transactions_that_nest_too_deep(store: MvccStore, levels: int, innermost: bytes, before: bytes, error: int) -> None:
    """Too many operations, unless they are no message at all, or something is found wrong on the way down."""
    assert store.check_txn(before + nested(levels, innermost)) == error


def test_ten_thousand_branches_are_checked_and_done(store: MvccStore) -> None:
    wide = MvccStore(MemoryRecords(), Leases(), hash_seed=1, txn_ops_max=20_000)
    ops = [txn_op(success=[put_op(f"job-{n}"), delete_op(f"counter-{n}"), delete_op(f"x-{n}", f"x-{n}~")]) for n in range(10_000)]
    assert run(wide, success=ops)[:2] == (0, 2)
    assert wide.key_count == 10_000
    ops.append(txn_op(success=[put_op("counter-77")]))
    assert wide.check_txn(R.TxnRequest(success=ops).SerializeToString()) == EtcdError.DUPLICATE_KEY
    ops[-1] = txn_op(success=[put_op("x-5432!")])
    assert wide.check_txn(R.TxnRequest(success=ops).SerializeToString()) == EtcdError.DUPLICATE_KEY


@pytest.mark.parametrize(
    ("success", "failure", "answer"),
    [
        ([], [], 2),
        ([range_op("a", serializable=True)], [], 2),
        ([range_op("a", serializable=True)], [range_op("a")], 1),
        ([put_op("a")], [], 0),
        ([], [delete_op("a")], 0),
        ([txn_op()], [], 0),
    ],
)
def test_read_only(store: MvccStore, success: list[R.RequestOp], failure: list[R.RequestOp], answer: int) -> None:
    assert store.txn_is_read_only(R.TxnRequest(success=success, failure=failure).SerializeToString()) == answer


def test_cost(store: MvccStore) -> None:
    assert store.cost(4, R.PutRequest(key=b"key", value=b"value").SerializeToString()) == 256 + 8
    assert store.cost(5, R.DeleteRangeRequest(key=b"key").SerializeToString()) == 0
    assert store.cost(8, b"") == 64
    txn = R.TxnRequest(success=[put_op("k"), delete_op("q")], failure=[txn_op(success=[put_op("k"), put_op("l")]), put_op("m")])
    assert store.cost(6, txn.SerializeToString()) == 3 * 257


def test_compaction(store: MvccStore) -> None:
    for value in "abc":
        put(store, "k", value)
    store.delete_range(R.DeleteRangeRequest(key=b"k").SerializeToString())  # revision 5
    assert store.compact(6) == (EtcdError.FUTURE_REVISION, 5, b"")
    assert store.compact(5) == (0, 5, b"")
    assert store.compact(5) == (EtcdError.COMPACTED, 5, b"")
    assert store.scrub(100) == ([(2, 0, False), (3, 0, False), (4, 0, False)], True)
    assert store.superseded_count == 1, "a tombstone at the compacted revision itself stays"
    put(store, "other")
    store.compact(6)
    assert store.scrub(100) == ([(5, 0, True)], True)
    assert store.superseded_count == 0


def test_changes_come_only_while_watching(store: MvccStore) -> None:
    put(store, "k")
    assert store.take_changes() == []
    store.watching = True
    put(store, "k", "v")
    store.delete_range(R.DeleteRangeRequest(key=b"k").SerializeToString())
    store.swap()
    store.release()
    changes = store.take_changes()
    assert [(c.deleted, c.key, c.main, c.sub) for c in changes] == [(False, b"k", 3, 0), (True, b"k", 4, 0)]
    assert type(changes[0]).__name__ == "Change"
    assert changes[1].record == b"\n\x01k"
    assert store.take_changes() == []


def test_swap_and_load_have_their_order(store: MvccStore) -> None:
    put(store, "k")
    with pytest.raises(RuntimeError, match="before use"):
        store.load()
    store.swap()
    with pytest.raises(RuntimeError, match="not released"):
        store.swap()
    store.release()
    with pytest.raises(RuntimeError, match="no generation"):
        store.release()


def test_load_takes_hints_and_refuses_rubbish() -> None:
    source = MemoryRecords()
    store = MvccStore(source, Leases(), hash_seed=1)
    store.load(revision_hint=17, compact_revision=9)
    assert (store.revision, store.compact_revision) == (17, 9)
    source.put(3, 0, False, b"\xff")
    with pytest.raises(Exception, match=r"record \(3, 0\) is no KeyValue"):
        MvccStore(source, Leases(), hash_seed=1).load()


def test_a_lost_record_is_corruption_not_an_answer(store: MvccStore) -> None:
    put(store, "k", "v")
    store.swap()
    store.release()  # without storing it: the source knows nothing
    with pytest.raises(Exception, match=r"record \(2, 0\) is in the index and nowhere else"):
        get(store, "k")


@pytest.mark.parametrize("by_table", [False, True])
def test_crc32c(by_table: bool) -> None:
    assert crc32c(b"123456789", by_table=by_table) == 0xE3069283  # the check value of RFC 3720
    assert crc32c(bytes(32), by_table=by_table) == 0x8A9136AA
    data = bytes(range(256)) * 3
    for cut in (0, 1, 7, 8, 9, 500):
        assert crc32c(data[cut:], crc32c(data[:cut], by_table=by_table), by_table=not by_table) == crc32c(data)


def test_the_hash_does_not_depend_on_how_far_a_scrub_has_come(store: MvccStore) -> None:
    """Also where no key is alive: there etcd, which has scrubbed, hashes all records that its compaction left."""
    for number in range(20):
        put(store, f"k{number % 5}", str(number))
    store.delete_range(R.DeleteRangeRequest(key=b"k0").SerializeToString())
    store.compact(store.revision - 3)
    store.delete_range(R.DeleteRangeRequest(key=b"\0", range_end=b"\0").SerializeToString())
    before = [store.hash_kv(revision) for revision in range(store.compact_revision, store.revision + 1)]
    source = MemoryRecords()
    source.store(store.swap())
    dropped, finished = store.scrub(1_000)
    assert finished
    assert dropped
    for place in dropped:
        source.remove(*place)
    scrubbed = MvccStore(source, Leases(), hash_seed=2)
    scrubbed.load(revision_hint=store.revision, compact_revision=store.compact_revision)
    assert [scrubbed.hash_kv(revision) for revision in range(store.compact_revision, store.revision + 1)] == before


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (R.RangeRequest(key=b"k", serializable=True).SerializeToString(), True),
        (R.RangeRequest(key=b"\x38\x01").SerializeToString(), False),
        (R.RangeRequest(key=b"k").SerializeToString(), False),
        (R.RangeRequest(key=b"k", serializable=True).SerializeToString() + b"\x38\x00", False),  # the last one counts
        (R.RangeRequest(key=b"k").SerializeToString() + b"\x38\x81\x80\x00", True),  # a long way to say 1
        (b"\x38\x01\xff", False),
        (b"", False),
    ],
)
def test_who_reads_locally(store: MvccStore, message: bytes, expected: bool) -> None:
    assert store.range_is_serializable(message) is expected
