"""The store's hand-written codec against protobuf's: what one writes the other reads; broken bytes are told, never a crash."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mvcc_traffic import Traffic

from raftsched.errors import EtcdError
from raftsched.limits import TXN_DEPTH_MAX
from raftsched.pb.etcd import kv_pb2
from raftsched.pb.etcd import rpc_pb2 as R
from raftsched.store._records import MemoryRecords
from raftsched.store.codec import varint
from raftsched.store.mvcc._store import MvccStore

INT64 = st.one_of(st.integers(-3, 300), st.integers(-(2**63), 2**63 - 1))
KINDS = {
    "put": R.PutRequest,
    "range": R.RangeRequest,
    "delete_range": R.DeleteRangeRequest,
    "txn": R.TxnRequest,
}


class AnyLease:
    def exists(self, lease: int) -> bool:
        return True

    def attach(self, lease: int, key: bytes) -> None: ...

    def detach(self, lease: int, key: bytes) -> None: ...


def new_store() -> MvccStore:
    return MvccStore(MemoryRecords(), AnyLease(), hash_seed=0)


STORE = new_store()


@given(st.binary(min_size=1, max_size=300), st.binary(max_size=300), INT64)
def test_stored_records_are_canonical(key: bytes, value: bytes, lease: int) -> None:
    store = new_store()
    store.put(R.PutRequest(key=key, value=value, lease=lease).SerializeToString())
    store.put(R.PutRequest(key=key, value=value, lease=lease).SerializeToString())
    store.delete_range(R.DeleteRangeRequest(key=key).SerializeToString())
    expected = kv_pb2.KeyValue(key=key, value=value, lease=lease, create_revision=2, mod_revision=3, version=2)
    assert store.record(3, 0) == expected.SerializeToString(deterministic=True)
    assert store.swap().items()[2] == (4, 0, True, kv_pb2.KeyValue(key=key).SerializeToString())


def unknown_field(number: int, wire_type: int, value: bytes) -> bytes:
    body = {0: b"\x05", 1: b"12345678", 2: varint(len(value)) + value, 3: varint(number << 3 | 4), 5: b"1234"}[wire_type]
    return varint(number << 3 | wire_type) + body


@given(
    st.lists(st.tuples(st.integers(14, 2**29 - 1).filter(lambda n: n != 64), st.sampled_from([0, 1, 2, 3, 5]), st.binary(max_size=9))),
    st.binary(min_size=1, max_size=20),
)
def test_unknown_fields_are_skipped(unknown: list[tuple[int, int, bytes]], key: bytes) -> None:
    store = new_store()
    noise = b"".join(unknown_field(*one) for one in unknown)
    data = noise + R.PutRequest(key=b"first").SerializeToString() + noise + R.PutRequest(key=key, value=b"v").SerializeToString()
    assert store.check_put(data) == 0
    assert store.put(data)[0] == 0
    error, _, body = store.range(noise + R.RangeRequest(key=key).SerializeToString())
    assert error == 0
    assert R.RangeResponse.FromString(body).kvs[0].key == key, "of a repeated scalar the last wins"


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.binary(max_size=120))
@example(data=b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")  # a length of 2^64 - 1
@example(data=b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02")  # a varint of 65 bits
@example(data=b"\x0b" * 200)  # groups in groups
@example(data=b"\x0c")  # the end of a group that never began
@example(data=b"\x00")  # field 0
@example(data=b"\x08\x01")  # a varint where bytes belong
@settings(max_examples=300)
def test_any_bytes_are_judged_as_protobuf_does(kind: str, data: bytes) -> None:
    error = getattr(STORE, f"check_{kind}")(data)
    assert error in set(EtcdError)
    try:
        KINDS[kind].FromString(data)
    except DecodeError:
        assert error == EtcdError.MALFORMED
    assert getattr(STORE, kind)(data)[0] in set(EtcdError)
    assert STORE.txn_is_read_only(data) in {0, 1, 2}
    assert STORE.cost(4, data) >= 0
    assert STORE.cost(6, data) >= 0


@pytest.mark.parametrize("seed", range(4))
def test_every_cut_and_every_flipped_byte_is_survived(seed: int) -> None:
    traffic = Traffic(seed)
    store = new_store()
    for _ in range(25):
        for kind, message in {"put": traffic.put(), "range": traffic.range(), "txn": traffic.txn()}.items():
            data = message.SerializeToString()[:400]
            for cut in range(len(data)):
                flipped = bytearray(data)
                flipped[cut] = traffic.random.randrange(256)
                for broken in (data[:cut], bytes(flipped)):
                    error = getattr(store, f"check_{kind}")(broken)
                    assert error in set(EtcdError)
                    try:
                        KINDS[kind].FromString(broken)
                    except DecodeError:
                        assert error == EtcdError.MALFORMED
                    if not error:
                        getattr(store, kind)(broken)


def nested(depth: int) -> bytes:
    txn = b""
    for _ in range(depth - 1):
        op = b"\x22" + varint(len(txn)) + txn
        txn = b"\x12" + varint(len(op)) + op
    return txn


def test_nesting_is_bounded() -> None:
    store = MvccStore(MemoryRecords(), AnyLease(), hash_seed=0, txn_ops_max=10_000)
    assert store.check_txn(nested(TXN_DEPTH_MAX)) == 0
    assert store.txn(nested(TXN_DEPTH_MAX))[0] == 0
    assert store.check_txn(nested(TXN_DEPTH_MAX + 1)) == EtcdError.TOO_MANY_OPS  # a message still, up to where Go's parser gives up
    assert store.check_txn(nested(20_000)) == EtcdError.MALFORMED
    assert store.txn(nested(20_000))[0] == EtcdError.MALFORMED
    assert store.cost(6, nested(20_000)) == 0
