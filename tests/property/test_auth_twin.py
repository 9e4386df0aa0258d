"""Unions of intervals, and what requests need, against their slow twins."""

import itertools

from auth_twin import ALL, covered, needs
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raftsched import proposals
from raftsched.pb.etcd import auth_pb2
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd.raft_internal_pb2 import InternalRaftRequest
from raftsched.store import codec
from raftsched.store.auth._needs import needs as native_needs
from raftsched.store.auth.identity import wire_identity
from raftsched.store.auth.records import Permission, Role, User, decode_role, decode_user, encode_role, encode_user
from raftsched.store.auth.spans import Spans
from raftsched.testing.traffic import Traffic
from raftsched.types import Identity

KEY = st.sampled_from([one for one in ALL if len(one) <= 2])
END = st.one_of(st.just(b""), st.just(b"\0"), KEY)
INTERVALS = st.lists(st.tuples(KEY, END), max_size=6)


def proper(key: bytes, end: bytes) -> bool:
    return end in (b"", b"\0") or end > key


@settings(max_examples=600, deadline=None)
@given(INTERVALS, KEY, END)
@example([(b"a", b"b"), (b"b", b"")], b"a", b"b\0")  # touching ones are one
@example([(b"a", b"b"), (b"b\0", b"c")], b"a", b"c")  # and these leave out one key
@example([(b"\0", b"\0")], b"\0", b"\0")
@example([(b"a", b"\xff")], b"a", b"\0")
def test_a_union_covers_what_each_of_its_keys_says(intervals: list[tuple[bytes, bytes]], key: bytes, end: bytes) -> None:
    held = [one for one in intervals if proper(*one)]
    if not proper(key, end):
        end = b""
    if end == b"\0":
        # the twin sees no key beyond three letters: the union must reach the last of them and be open
        assert not Spans(held).cover(key, end) or covered(held, key, end)
        return
    assert Spans(held).cover(key, end) == covered(held, key, end)


@settings(max_examples=300, deadline=None)
@given(INTERVALS)
def test_spans_are_disjoint_and_do_not_touch(intervals: list[tuple[bytes, bytes]]) -> None:
    spans = Spans(intervals)
    begins, ends = spans._begins, spans._ends
    assert begins == sorted(set(begins))
    for end, following in zip(ends, begins[1:], strict=False):
        assert end is not None
        assert end < following
    assert Spans([*intervals, *intervals])._begins == begins


@settings(max_examples=300, deadline=None)
@given(INTERVALS, KEY)
def test_an_open_range_needs_an_open_end(intervals: list[tuple[bytes, bytes]], key: bytes) -> None:
    held = [one for one in intervals if proper(*one)]
    opened = [begin for begin, end in held if end == b"\0"]
    expected = bool(opened) and (key >= min(opened) or covered(held, key, min(opened)))
    assert Spans(held).cover(key, b"\0") == expected


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10**9))
def test_what_a_request_needs_is_what_its_message_says(seed: int) -> None:
    traffic = Traffic(seed)
    for kind, name, request in (
        (proposals.PUT, "put", traffic.put_request()),
        (proposals.RANGE, "range", traffic.range_request()),
        (proposals.DELETE_RANGE, "delete_range", traffic.delete_request()),
        (proposals.TXN, "txn", traffic.txn_request(depth=3)),
    ):
        assert set(native_needs(kind, request.SerializeToString())) == needs(name, request)


@given(st.binary(max_size=40), st.sampled_from([proposals.PUT, proposals.RANGE, proposals.DELETE_RANGE, proposals.TXN]))
def test_any_bytes_are_needs_or_refused(data: bytes, kind: int) -> None:
    try:
        native_needs(kind, data)
    except ValueError:
        return


def test_a_transaction_nested_too_deep_is_refused() -> None:
    request = pb.TxnRequest()
    inner = request
    for _ in range(48):
        inner = inner.success.add().request_txn
    inner.success.add().request_put.key = b"deep"
    assert any(key == b"deep" for _, key, _ in native_needs(proposals.TXN, request.SerializeToString()))
    data = b""
    for _ in range(200):
        op = codec.bytes_field(4, data)
        data = codec.bytes_field(2, op)
    try:
        native_needs(proposals.TXN, data)
    except ValueError:
        return
    raise AssertionError("200 levels were walked")


NAMES = st.text(min_size=1, max_size=8).filter(lambda name: not any("\ud800" <= letter <= "\udfff" for letter in name))
PERMISSIONS = st.lists(
    st.builds(Permission, st.sampled_from([0, 1, 2, 7]), st.binary(min_size=1, max_size=4), st.binary(max_size=4)), max_size=4
)


@given(NAMES, st.binary(max_size=20), st.lists(NAMES, max_size=3), st.sampled_from([None, b"", b"\x08\x01"]))
def test_a_user_has_the_bytes_of_the_generated_message(name: str, password: bytes, roles: list[str], options: bytes | None) -> None:
    message = auth_pb2.User(name=name.encode(), password=password, roles=roles)
    if options is not None:
        message.options.MergeFromString(options)
        message.options.SetInParent()
    user = User(name, password, tuple(roles), options)
    assert encode_user(user) == message.SerializeToString()
    assert decode_user(name.encode(), message.SerializeToString()) == user
    assert user.no_password == message.options.no_password


@given(NAMES, PERMISSIONS)
def test_a_role_has_the_bytes_of_the_generated_message(name: str, permissions: list[Permission]) -> None:
    held = [auth_pb2.Permission(permType=one.kind, key=one.key, range_end=one.end) for one in permissions]  # type: ignore[arg-type]
    message = auth_pb2.Role(name=name.encode(), keyPermission=held)
    role = Role(name, tuple(permissions))
    assert encode_role(role) == message.SerializeToString()
    assert decode_role(name.encode(), message.SerializeToString()) == role


@given(st.lists(st.tuples(st.sampled_from(["", "ann", "root"]), st.sampled_from([0, 1, 7, 2**64 - 1]), st.integers(0, 3)), max_size=20))
def test_identities_come_back_in_runs(shape: list[tuple[str, int, int]]) -> None:
    message = pb.PutRequest(key=b"k").SerializeToString()
    entries: list[bytes] = []
    owners: list[tuple[bytes, int]] = []
    for name, revision, count in shape:
        entries += codec.wrap(proposals.PUT, [message] * count, len(entries) + 1, wire_identity(Identity(name, revision)))
        owners += [(name.encode(), revision)] * count
    payloads, _, ids, runs = codec.unwrap(entries)
    assert payloads == [message] * len(owners)
    assert [first + offset for first, start, stop in ids for offset in range(stop - start)] == [number + 1 for number in range(len(owners))]
    told = [(name, revision) for name, revision, start, stop in runs for _ in range(start, stop)]
    assert told == (owners if any(one != (b"", 0) for one in owners) else [])
    assert all(one[:2] != other[:2] for one, other in itertools.pairwise(runs))
    for entry, (name_bytes, revision) in zip(entries, owners, strict=True):
        header = InternalRaftRequest.FromString(entry).header
        assert (header.username.encode(), header.auth_revision) == (name_bytes, revision)
