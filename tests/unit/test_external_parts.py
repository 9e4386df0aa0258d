"""The parts of the external bridge that do no IO: records, packing, what a refusal means."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftsched.errors import ETCD_STATUS, EtcdError, GrpcCode
from raftsched.pb.etcd import rpc_pb2
from raftsched.proposals import DELETE_RANGE, PUT, TXN
from raftsched.scheduler.bridge.external import records
from raftsched.scheduler.bridge.external.pace import Pace
from raftsched.scheduler.bridge.external.packing import branches, changed, joined, parted, pieces, split_header
from raftsched.scheduler.bridge.external.records import Records
from raftsched.scheduler.bridge.external.refusals import call_error
from raftsched.scheduler.jobs.requests import create_request, field, put_request

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 9), st.integers(0, 60)),
        st.tuples(st.just("remove"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("load"), st.integers(0, 9), st.just(0)),
    ),
    max_size=200,
)


@given(STEPS)
def test_records_are_a_dictionary(steps: list[tuple[str, int, int]]) -> None:
    """A twin: what was put last under a key is read at its revision and slot, whatever was moved meanwhile."""
    before, records.CHUNK_BYTES = records.CHUNK_BYTES, 100  # type: ignore[misc]
    try:
        held, twin, main = Records(), {}, 1
        for kind, number, size in steps:
            key = b"%d" % number
            if kind == "put":
                main += 1
                record = key + b"r" * size
                twin[key] = (main, held.put(key, main, record), record)
            elif kind == "remove":
                held.remove(key)
                twin.pop(key, None)
            else:
                held.begin_sweep()
                for other in [other for other in twin if other > key]:
                    held.put(other, twin[other][0], twin[other][2])
                held.end_sweep()
                twin = {other: known for other, known in twin.items() if other > key}
            assert len(held) == len(twin)
            assert len({slot for _, slot, _ in twin.values()}) == len(twin)
            for revision, slot, record in twin.values():
                assert held.read(revision, slot) == record
                assert held.read(revision + 1, slot) is None
        assert held.read(1, 10**6) is None
    finally:
        records.CHUNK_BYTES = before  # type: ignore[misc]


def test_what_lives_in_a_chunk_that_dies_is_moved_as_it_is() -> None:
    held = Records()
    kept = {number: held.put(b"%d" % number, number + 1, b"%d" % number * 50_000) for number in range(100)}
    for number in range(100):
        if number % 10:
            held.remove(b"%d" % number)
    assert held.bytes_held < 3 << 20
    for number in range(0, 100, 10):
        assert held.read(number + 1, kept[number]) == b"%d" % number * 50_000


def test_records_give_back_what_is_dead() -> None:
    held = Records()
    for turn in range(50):
        for number in range(100):
            held.put(b"%d" % number, turn * 100 + number + 1, b"x" * 10_000)
    assert held.bytes_held < 5 * 100 * 10_000
    for number in range(100):
        held.remove(b"%d" % number)
    assert held.bytes_held < 2 << 20
    assert len(held) == 0


def packed(*names: bytes) -> bytes:
    return joined([(TXN, create_request(name, b"1")) for name in names])


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=30), st.integers(1, 10), st.integers(1, 2000))
def test_pieces_are_the_branches_in_their_order(names: list[bytes], operations: int, size: int) -> None:
    request = packed(*names)
    assert b"".join(branches(request)) == request
    found = pieces(request, operations, size)
    assert b"".join(piece for piece, _ in found) == request
    assert sum(count for _, count in found) == len(names)
    for piece, count in found:
        assert count == len(rpc_pb2.TxnRequest.FromString(piece).success) <= operations
        assert len(piece) <= size or count == 1


def test_what_is_no_packed_transaction_is_refused() -> None:
    with pytest.raises(ValueError, match="not a packed transaction"):
        list(branches(create_request(b"a", b"1")))


def test_a_pack_says_what_its_parts_say() -> None:
    delete = field(1, b"c")
    message = rpc_pb2.TxnRequest.FromString(
        joined([(PUT, put_request(b"a", b"1", 5)), (TXN, create_request(b"b", b"2")), (DELETE_RANGE, delete)])
    )
    assert not message.compare
    assert not message.failure
    put, txn, gone = message.success
    assert (put.request_put.key, put.request_put.lease) == (b"a", 5)
    assert txn.request_txn.SerializeToString() == rpc_pb2.TxnRequest.FromString(create_request(b"b", b"2")).SerializeToString()
    assert gone.request_delete_range.key == b"c"


def answer(*responses: rpc_pb2.ResponseOp) -> bytes:
    header = rpc_pb2.ResponseHeader(revision=9, member_id=2**63)
    return rpc_pb2.TxnResponse(header=header, succeeded=True, responses=responses).SerializeToString()


def test_an_answer_is_parted() -> None:
    txn = rpc_pb2.TxnResponse(header=rpc_pb2.ResponseHeader(revision=9), succeeded=True)
    body = answer(rpc_pb2.ResponseOp(response_put=rpc_pb2.PutResponse()), rpc_pb2.ResponseOp(response_txn=txn))
    txn.ClearField("header")
    assert parted([(PUT, b""), (TXN, b"")], body) == [(0, 9, b""), (0, 9, txn.SerializeToString())]
    with pytest.raises(ValueError, match="not the answer"):
        parted([(PUT, b"")], body)
    assert split_header(body) == (9, body[len(body) - len(split_header(body)[1]) :])
    assert split_header(b"") == (0, b"")
    assert split_header(b"\x10\x01") == (0, b"\x10\x01")


def test_whether_something_changed() -> None:
    none = rpc_pb2.ResponseOp(response_delete_range=rpc_pb2.DeleteRangeResponse(deleted=0))
    one = rpc_pb2.ResponseOp(response_delete_range=rpc_pb2.DeleteRangeResponse(deleted=1))
    read = rpc_pb2.ResponseOp(response_range=rpc_pb2.RangeResponse())
    inside = rpc_pb2.ResponseOp(response_txn=rpc_pb2.TxnResponse(responses=[none, one]))
    assert [changed(answer(*ops)) for ops in ((), (none, read), (read, one), (none, inside))] == [False, False, True, True]


@pytest.mark.parametrize("error", [error for error, (code, _) in ETCD_STATUS.items() if code != GrpcCode.OK])
def test_etcds_words_are_known(error: EtcdError) -> None:
    code, text = ETCD_STATUS[error]
    found = call_error(next(one for one in grpc.StatusCode if one.value[0] == code), text)
    assert found.error == error
    assert found.for_callers().message == text
    assert found.sent


@pytest.mark.parametrize(
    ("code", "text", "error", "sent"),
    [
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: x", EtcdError.TIMEOUT, False),
        (grpc.StatusCode.UNAVAILABLE, "Socket closed", EtcdError.TIMEOUT, True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", EtcdError.TIMEOUT, True),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max (3 vs. 2)", EtcdError.REQUEST_TOO_LARGE, True),
        (grpc.StatusCode.PERMISSION_DENIED, "no", EtcdError.PERMISSION_DENIED, True),
    ],
)
def test_what_grpc_itself_says(code: grpc.StatusCode, text: str, error: EtcdError, sent: bool) -> None:
    found = call_error(code, text)
    assert (found.error, found.sent) == (error, sent)
    assert found.for_callers().message == ETCD_STATUS[error][1]


def test_the_pace_of_a_watch() -> None:
    """1 s of standing or 5 s of lag end a stream; the next one is given twice as long, up to eight times; 30 s without that, and it is as
    at first."""
    pace = Pace()
    pace.opened(0)
    assert not pace.seen(5, 5, 100)
    assert pace.too_slow(5, 100_000) == ""  # nothing is missing, however long
    assert pace.seen(6, 5, 100_000)
    assert pace.too_slow(5, 101_000) == ""
    assert pace.too_slow(5, 101_001) == pace.lag == "it lags: etcd is at revision 6, and 5 was told"
    pace.ended(30_000)
    limits_ms = []
    now_ms = 200_000
    for _ in range(4):
        pace.opened(now_ms)
        pace.seen(7, 5, now_ms)
        begin_ms = now_ms
        while not pace.too_slow(5, now_ms):
            now_ms += 1
        limits_ms.append(now_ms - begin_ms)
        pace.ended(now_ms)
    assert limits_ms == [2_001, 4_001, 8_001, 8_001]
    assert pace.lags_total == 5
    assert pace.seen(9, 8, now_ms) is True
    assert pace.lag
    assert pace.seen(9, 9, now_ms) is False
    assert pace.lag == ""
    pace.ended(now_ms + 30_001)
    pace.opened(now_ms)
    pace.seen(20, 9, now_ms)
    for step in range(10):  # it moves, and stays far behind
        pace.moved(now_ms + 500 * step)
        assert pace.too_slow(10, now_ms + 500 * step) == ""
    pace.moved(now_ms + 5_001)
    assert pace.too_slow(10, now_ms + 5_001)
    pace.forget()
    assert not pace.behind(0)


def test_what_is_told_in_time_is_no_lag() -> None:
    pace = Pace()
    pace.opened(0)
    for second in range(200):
        assert pace.seen(second + 2, second + 1, second * 1000)
        assert pace.too_slow(second + 1, second * 1000 + 900) == ""
        pace.moved(second * 1000 + 950)
        assert pace.too_slow(second + 2, second * 1000 + 999) == ""
    assert pace.lags_total == 0
