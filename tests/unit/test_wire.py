"""Headers and InternalRaftRequests, held against protobuf's own encoder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftsched.pb.etcd import raft_internal_pb2, rpc_pb2
from raftsched.store import _wire

UINT64 = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))


@given(UINT64, UINT64, st.integers(0, 2**63 - 1), UINT64)
def test_header_is_protobufs(cluster_id: int, member_id: int, revision: int, term: int) -> None:
    expected = rpc_pb2.PutResponse(
        header=rpc_pb2.ResponseHeader(cluster_id=cluster_id, member_id=member_id, revision=revision, raft_term=term)
    )
    assert _wire.header(cluster_id, member_id, revision, term) == expected.SerializeToString()


@given(UINT64, st.binary(max_size=300), st.binary(max_size=300))
def test_internal_put_is_protobufs(request_id: int, key: bytes, value: bytes) -> None:
    put = rpc_pb2.PutRequest(key=key, value=value)
    expected = raft_internal_pb2.InternalRaftRequest(put=put)
    expected.header.SetInParent()
    expected.header.ID = request_id
    data = _wire.internal_request(4, request_id, put.SerializeToString())
    assert data == expected.SerializeToString(deterministic=True)
    assert _wire.parse_internal(data) == (4, request_id, put.SerializeToString())


@given(st.integers(2, 2**29 - 1).filter(lambda kind: kind != 100), UINT64, st.binary(max_size=40))
def test_internal_round_trip(kind: int, request_id: int, payload: bytes) -> None:
    assert _wire.parse_internal(_wire.internal_request(kind, request_id, payload)) == (kind, request_id, payload)


@pytest.mark.parametrize("kind", [0, 1, 100, 2**29])
def test_internal_request_refuses_fields_that_hold_none(kind: int) -> None:
    with pytest.raises(ValueError, match="no request in field"):
        _wire.internal_request(kind, 1, b"")


@given(st.binary(max_size=60))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    try:
        kind, request_id, payload = _wire.parse_internal(data)
    except ValueError:
        return
    assert kind > 1
    assert 0 <= request_id < 2**64
    assert payload in data


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 7, 8, 9, 10])  # cut by 6 it is whole again: a put without a header
def test_a_cut_request_is_refused(cut: int) -> None:
    whole = _wire.internal_request(4, 300, b"\n\x01k")
    assert len(whole) == 11
    assert _wire.parse_internal(whole[:-6]) == (4, 0, b"\n\x01k")
    with pytest.raises(ValueError, match="not an InternalRaftRequest"):
        _wire.parse_internal(whole[:-cut])


INT64 = st.one_of(st.integers(-300, 300), st.integers(-(2**63), 2**63 - 1))


@given(INT64)
def test_the_one_number_of_a_request(lease: int) -> None:
    message = rpc_pb2.LeaseKeepAliveRequest(ID=lease).SerializeToString()
    assert _wire.sole_number(message) == (lease or None), "an empty message has no field: for the generated parser"


@given(st.binary(max_size=20))
def test_any_bytes_are_one_number_or_none(data: bytes) -> None:
    found = _wire.sole_number(data)
    assert found is None or found == rpc_pb2.LeaseKeepAliveRequest.FromString(data).ID


@given(UINT64, INT64, INT64)
def test_two_numbers_behind_a_header_are_protobufs(revision: int, lease: int, ttl_s: int) -> None:
    head = _wire.header(2**64 - 1, 2**64 - 1, revision % 2**63, 2**64 - 1)
    expected = rpc_pb2.LeaseKeepAliveResponse.FromString(head)
    expected.ID, expected.TTL = lease, ttl_s
    assert _wire.two_numbers(head, lease, ttl_s) == expected.SerializeToString()


def test_a_head_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="none of ours"):
        _wire.two_numbers(bytes(200), 1, 1)
