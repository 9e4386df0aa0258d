"""The native entry codec against the generated messages: the slow, obvious twin."""

import itertools

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given
from hypothesis import strategies as st

from raftsched.pb.etcd.raft_internal_pb2 import InternalRaftRequest
from raftsched.pb.etcd.rpc_pb2 import PutRequest, ResponseHeader
from raftsched.store._entries import UNREADABLE, Headers, kinds_of, largest, unwrap, wrap
from raftsched.store.codec import RequestIds, bytes_field, fields, numbers, signed, varint, varint_field

UINT64 = st.integers(0, 2**64 - 1)


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=300)), min_size=1, max_size=20), st.integers(1, 2**64 - 100))
def test_wrap_is_what_the_generated_message_reads(pairs, first_id) -> None:
    puts = [PutRequest(key=key, value=value).SerializeToString() for key, value in pairs]
    entries = wrap(4, puts, first_id)
    for number, entry in enumerate(entries):
        request = InternalRaftRequest.FromString(entry)
        assert request.header.ID - number == first_id
        assert request.put == PutRequest.FromString(puts[number])
    assert unwrap(entries) == (puts, [(4, 0, len(puts))], [(first_id, 0, len(puts))], [])


@given(st.lists(st.tuples(st.sampled_from([0, 4, 5, 8, 1300, 1 << 20]), st.integers(0, 6)), max_size=30))
def test_unwrap_groups_neighbours(shape) -> None:
    entries = [wrap(kind, [b"x" * number], number)[0] if kind else b"" for kind, number in shape]
    payloads, kinds, ids, _ = unwrap(entries)
    assert [kind for kind, start, stop in kinds for _ in range(start, stop)] == [kind for kind, _ in shape]
    assert [first + offset for first, start, stop in ids for offset in range(stop - start)] == [n if kind else 0 for kind, n in shape]
    assert payloads == [b"x" * number if kind else b"" for kind, number in shape]
    assert all(one[0] != other[0] for one, other in itertools.pairwise(kinds))
    assert kinds_of(entries) == {kind for kind, _, _ in kinds}


@given(st.binary(max_size=60))
def test_unwrap_takes_any_bytes(data: bytes) -> None:
    payloads, kinds, _, _ = unwrap([data])
    (kind, start, stop) = kinds[0]
    assert (start, stop) == (0, 1)
    assert len(payloads[0]) <= len(data)
    assert kind > 0 or payloads == [b""]
    assert (kind == 0) == (not data), "nothing but an empty entry is nothing"
    assert kinds_of([data]) == {kind}


def _read(data: bytes) -> InternalRaftRequest | None:
    try:
        return InternalRaftRequest.FromString(data)
    except DecodeError:
        return None


@given(st.integers(0, 2**20), st.binary(max_size=8), st.binary(max_size=12))
def test_nothing_that_a_later_version_may_mean_is_passed_over(number: int, message: bytes, behind: bytes) -> None:
    """Whatever stands behind a request: if it says one thing more than id and request, it is unreadable, not the request alone."""
    put = PutRequest(key=b"k").SerializeToString()
    (entry,) = wrap(4, [put], 9)
    for data in (entry + behind, entry + bytes_field(number or 1, message), entry + varint_field(number or 1, 1)):
        (payload,), ((kind, _, _),), _, _ = unwrap([data])
        if kind == UNREADABLE:
            continue
        assert (kind, payload) == (4, put)
        assert _read(data) is not None
        told = _read(data)
        assert told is not None
        assert not UnknownFieldSet(told)
        assert [field.name for field, _ in told.ListFields() if field.name not in ("header", "ID")] == ["put"]


@given(UINT64, UINT64, UINT64, st.integers(0, 2**63 - 1))
def test_headers_are_the_generated_ones(cluster_id, member_id, term, revision) -> None:
    headers = Headers(cluster_id, member_id)
    headers.term = term
    told = ResponseHeader(cluster_id=cluster_id, member_id=member_id, revision=revision, raft_term=term).SerializeToString()
    assert headers.encode(revision) == b"\x0a" + bytes([len(told)]) + told


def test_largest() -> None:
    assert largest([b"a", b"bbb", b"cc"]) == (3, 6)
    assert largest([]) == (0, 0)


@given(st.integers(-(2**63), 2**63 - 1))
def test_varints_keep_the_sign(value: int) -> None:
    assert signed(dict(fields(b"\x08" + varint(value)))[1]) == value
    assert numbers(varint_field(7, value)).get(7, 0) == value
    assert dict(fields(bytes_field(3, b"abc"))) == {3: b"abc"}


def test_request_ids_rise_by_one_and_go_on_above_those_of_an_earlier_life() -> None:
    ids = RequestIds(0xABCD1234, 1_700_000_000_000)
    first = ids.take(1000)
    assert first >> 48 == 0x1234
    assert ids.take() == first + 1000
    later = RequestIds(0xABCD1234, 1_700_000_000_000)
    later.skip_past(first + 5000)
    assert later.take() == first + 5001
    later.skip_past(0x77 << 48 | 1 << 47)  # another member's
    assert later.take() == first + 5002
    assert 0 < RequestIds(0xFFFF, 1).lease_id() < 2**63


def test_ids_of_the_next_process_are_above_the_ceiling_of_the_last() -> None:
    ids = RequestIds(0xABCD1234, 1_700_000_000_000)
    ceiling = ids.ahead(1_000)
    assert ids.left(ceiling) == 1_000
    last = ids.take(900) + 899
    assert ids.left(ceiling) == 100
    later = RequestIds(0xABCD1234, 1_600_000_000_000)
    later.skip_past(ceiling)
    assert later.take() > ceiling > last
    assert later.left(ceiling) < 0
    other = RequestIds(0x1111, 1_600_000_000_000)
    other.skip_past(ceiling)
    assert other.take() == RequestIds(0x1111, 1_600_000_000_000).take(), "another member's says nothing"
