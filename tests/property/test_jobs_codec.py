"""The native wire work against the generated messages, and against bytes that are no message at all."""

import contextlib
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raftsched.pb.dapr import leadership_pb2, scheduler_pb2, stored_pb2
from raftsched.pb.etcd import kv_pb2, rpc_pb2
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import JOBS
from raftsched.scheduler.jobs.requests import (
    create_request,
    delete_job_request,
    delete_prefix_request,
    follow_request,
    leadership_value,
    put_request,
    range_request,
    replace_request,
)
from raftsched.scheduler.schedule import InvalidJobError, parse_instant

text = st.text(st.characters(codec="utf-8"), max_size=20)
maybe_text = st.none() | text
instants = st.tuples(st.integers(-62135596800, 253402300799), st.integers(0, 999_999_999))
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
TYPE_URL = "type.googleapis.com/dapr.proto.scheduler.v1.JobMetadata"


@st.composite
def metadatas(draw: st.DrawFn) -> Any:
    message = scheduler_pb2.JobMetadata(app_id=draw(text), namespace=draw(text), concurrency_key=draw(maybe_text))
    kind = draw(st.integers(0, 2))
    if kind == 1:
        message.target.job.SetInParent()
    elif kind == 2:
        message.target.actor.id, message.target.actor.type = draw(text), draw(text)
        message.target.actor.SetInParent()
    return message


@st.composite
def policies(draw: st.DrawFn) -> Any:
    message = scheduler_pb2.Job().failure_policy
    if draw(st.booleans()):
        message.drop.SetInParent()
    else:
        message.constant.SetInParent()
        if draw(st.booleans()):
            message.constant.interval.seconds = draw(st.integers(-(10**9), 10**9))
        if draw(st.booleans()):
            message.constant.max_retries = draw(u32)
    return message


@given(
    partition=u64, due=st.booleans(), begin=instants, expires=st.none() | instants, schedule=maybe_text, due_time=maybe_text,
    ttl=maybe_text, repeats=st.none() | u32, metadata=metadatas(), failure=policies(),
    payload=st.none() | st.builds(AnyMessage, type_url=text, value=st.binary()),
)  # fmt: skip
@settings(max_examples=300)
def test_stored_job(
    *, partition: int, due: bool, begin: Any, expires: Any, schedule: Any, due_time: Any, ttl: Any, repeats: Any, metadata: Any,
    payload: Any, failure: Any,
) -> None:  # fmt: skip
    job = stored_pb2.Job(partition_id=partition)
    start = job.due_time if due else job.start
    start.SetInParent()
    start.seconds, start.nanos = begin
    if expires:
        job.expiration.seconds, job.expiration.nanos = expires
        job.expiration.SetInParent()
    inner = job.job
    for name, value in (("schedule", schedule), ("due_time", due_time), ("ttl", ttl), ("repeats", repeats)):
        if value is not None:
            setattr(inner, name, value)
    inner.metadata.type_url, inner.metadata.value = TYPE_URL, metadata.SerializeToString()
    if payload is not None:
        inner.payload.CopyFrom(payload)
    inner.failure_policy.ParseFromString(failure.SerializeToString())
    wanted = job.SerializeToString()
    strings = [None if value is None else value.encode() for value in (schedule, due_time, ttl)]
    data = None if payload is None else payload.SerializeToString()
    found = _jobs.encode_stored_job(
        partition, due, *begin, expires, *strings, repeats, metadata.SerializeToString(), data, failure.SerializeToString()
    )
    assert stored_pb2.Job.FromString(found) == job
    assert len(found) == len(wanted) or metadata.SerializeToString() == b""  # the Any's value is written even if it is empty
    decoded = _jobs.decode_stored_job(found)
    assert decoded == (partition, due, begin, expires, *strings, repeats, metadata.SerializeToString(), data, failure.SerializeToString())
    response = scheduler_pb2.GetJobResponse.FromString(_jobs.get_job_response(found)).job
    assert [response.schedule, response.repeats, response.due_time, response.ttl] == [
        inner.schedule,
        inner.repeats,
        inner.due_time,
        inner.ttl,
    ]
    assert response.HasField("schedule") == (schedule is not None)
    assert response.data == (payload or AnyMessage())
    assert response.failure_policy == failure


@given(partition=u64, count=u32, last=st.none() | instants, attempts=u32)
def test_counter(partition: int, count: int, last: Any, attempts: int) -> None:
    counter = stored_pb2.Counter(job_partition_id=partition, count=count, attempts=attempts)
    if last is not None:
        counter.last_trigger.seconds, counter.last_trigger.nanos = last
        counter.last_trigger.SetInParent()
    found = _jobs.encode_counter(partition, count, last, attempts)
    assert found == counter.SerializeToString()
    assert _jobs.decode_counter(found) == (partition, count, last, attempts)


@given(
    name=text, metadata=metadatas(), overwrite=st.booleans(), schedule=maybe_text, repeats=st.none() | u32, failure=st.none() | policies()
)
def test_schedule_request(*, name: str, metadata: Any, overwrite: bool, schedule: Any, repeats: Any, failure: Any) -> None:
    request = scheduler_pb2.ScheduleJobRequest(name=name, metadata=metadata, overwrite=overwrite)
    request.job.SetInParent()
    if schedule is not None:
        request.job.schedule = schedule
    if repeats is not None:
        request.job.repeats = repeats
    if failure is not None:
        request.job.failure_policy.CopyFrom(failure)
    raw = metadata.SerializeToString()
    target = {None: 0, "job": 1, "actor": 2}[metadata.target.WhichOneof("type")]
    owner = (
        metadata.app_id, metadata.namespace, target, metadata.target.actor.id, metadata.target.actor.type,
        metadata.concurrency_key if metadata.HasField("concurrency_key") else None,
    )  # fmt: skip
    policy = None if failure is None else failure.SerializeToString()
    assert _jobs.parse_schedule_request(request.SerializeToString()) == (
        name, (schedule, repeats, None, None, None, policy), raw, owner, overwrite,
    )  # fmt: skip
    assert _jobs.parse_metadata(raw) == owner


def test_unknown_fields_are_tolerated_and_groups_passed_over() -> None:
    group = b"\x9b\x06\x08\x01\x9c\x06"  # field 99: a group with one number inside
    request = scheduler_pb2.ScheduleJobRequest(name="a").SerializeToString() + group + b"\xfa\x01\x03abc"
    assert _jobs.parse_schedule_request(request) == ("a", None, b"", None, False)


def test_an_empty_oneof_of_a_failure_policy_counts_as_unset() -> None:
    request = scheduler_pb2.ScheduleJobRequest(name="a")
    request.job.failure_policy.SetInParent()
    assert _jobs.parse_schedule_request(request.SerializeToString())[1] == (None,) * 6


@pytest.mark.parametrize("body", [b"\x0a\x02\xff\xfe", b"\x0a\x05a", b"\x12\x03\x2a\x01\xff", b"\x0b\x0c\x0c", b"\x00"])
def test_malformed_schedule_requests(body: bytes) -> None:
    with pytest.raises(_jobs.WireError):
        _jobs.parse_schedule_request(body)


def test_a_field_of_another_wire_type_is_unknown() -> None:
    assert _jobs.parse_schedule_request(b"\x08\x01\x12\x02\x08\x05\x20\x01") == ("", (None,) * 6, b"", None, True)


digits = st.integers(0, 99).map("{:02}".format)


@given(
    year=st.integers(0, 9999), parts=st.tuples(digits, digits, digits, digits, digits),
    fraction=st.none() | st.text("0123456789", max_size=11), end=st.sampled_from(["Z", "Z", "Z", "z", "", "+00:00"]),
)  # fmt: skip
@example(year=2024, parts=("02", "29", "23", "59", "59"), fraction="999999999", end="Z")
@example(year=2023, parts=("02", "29", "00", "00", "00"), fraction=None, end="Z")
@settings(max_examples=500)
def test_utc_instants_are_those_of_the_schedule_room_or_left_to_it(year: int, parts: Any, fraction: Any, end: str) -> None:
    month, day, hour, minute, second = parts
    text = f"{year:04}-{month}-{day}T{hour}:{minute}:{second}{'' if fraction is None else '.' + fraction}{end}"
    found = _jobs.utc_instant(text)
    try:
        wanted = parse_instant(text, 0)
    except InvalidJobError:
        assert found is None
        return
    assert found in (None, divmod(wanted, 10**9))
    if year and end == "Z" and (fraction is None or 1 <= len(fraction) <= 9):
        assert found is not None


@given(st.text(max_size=30) | st.text("0123456789-:TZ.", min_size=18, max_size=31))
def test_other_texts_are_no_utc_instants(text: str) -> None:
    if (found := _jobs.utc_instant(text)) is not None:
        assert divmod(parse_instant(text, 0), 10**9) == found


PARSERS = [
    _jobs.parse_schedule_request, _jobs.parse_metadata, _jobs.parse_request, _jobs.decode_stored_job, _jobs.decode_counter,
    _jobs.get_job_response, _jobs.list_page, _jobs.range_kvs, _jobs.parse_kv, _jobs.txn_succeeded, _jobs.parse_leadership,
    lambda body: _jobs.txn_outcomes(body, 2),
]  # fmt: skip


@given(st.binary(max_size=60), st.sampled_from(PARSERS))
@settings(max_examples=2000)
def test_any_bytes_end_in_an_answer_or_the_declared_error(body: bytes, parse: Any) -> None:
    with contextlib.suppress(_jobs.WireError):
        parse(body)


@given(st.data())
@settings(max_examples=500)
def test_damaged_messages_end_in_an_answer_or_the_declared_error(data: st.DataObject) -> None:
    request = scheduler_pb2.ScheduleJobRequest(name="abc", metadata=data.draw(metadatas()), overwrite=True)
    request.job.schedule = "@every 1s"
    request.job.failure_policy.CopyFrom(data.draw(policies()))
    body = bytearray(request.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(_jobs.WireError):
        _jobs.parse_schedule_request(bytes(body[: data.draw(st.integers(0, len(body)))]))


def test_list_page() -> None:
    owner = scheduler_pb2.JobMetadata(app_id="app", namespace="ns")
    owner.target.job.SetInParent()
    value = _jobs.encode_stored_job(1, True, 5, 0, None, b"@daily", None, None, 3, owner.SerializeToString(), None, None)
    kvs = [
        kv_pb2.KeyValue(key=JOBS + b"app||ns||app||a", value=value),
        kv_pb2.KeyValue(key=JOBS + b"app||ns||app||b", value=b"\xff"),
        kv_pb2.KeyValue(key=JOBS + b"app||ns||app||", value=value),
    ]
    page = _jobs.list_page(rpc_pb2.RangeResponse(kvs=kvs, more=True).SerializeToString())
    found = scheduler_pb2.ListJobsResponse.FromString(page.jobs).jobs
    assert [(job.name, job.job.schedule, job.job.repeats, job.metadata) for job in found] == [
        ("a", "@daily", 3, owner),
        ("", "@daily", 3, owner),
    ]
    assert not found[0].job.HasField("failure_policy")  # as stored
    assert (page.count, page.more, page.last_key, page.mismatch) == (3, True, JOBS + b"app||ns||app||", None)
    assert page.undecodable == [JOBS + b"app||ns||app||b"]
    kvs[0].key = JOBS + b"app||ns||other||a"
    page = _jobs.list_page(rpc_pb2.RangeResponse(kvs=kvs).SerializeToString())
    assert page.mismatch == (kvs[0].key, owner.SerializeToString())


def test_requests() -> None:
    put = rpc_pb2.PutRequest.FromString(_jobs.put_job_request(b"a", b"v"))
    assert put == rpc_pb2.PutRequest(key=JOBS + b"a", value=b"v")
    native = rpc_pb2.TxnRequest.FromString(_jobs.create_job_request(b"a" * 200, b"v" * 300))
    assert native == rpc_pb2.TxnRequest.FromString(create_request(JOBS + b"a" * 200, b"v" * 300))
    [compare] = native.compare
    assert (compare.target, compare.result, compare.create_revision) == (rpc_pb2.Compare.CREATE, rpc_pb2.Compare.EQUAL, 0)
    assert native.success[0].request_put.value == b"v" * 300
    assert native.failure[0].request_range.key == JOBS + b"a" * 200
    assert rpc_pb2.PutRequest.FromString(put_request(b"k", b"v", 7)) == rpc_pb2.PutRequest(key=b"k", value=b"v", lease=7)
    assert rpc_pb2.RangeRequest.FromString(range_request(b"a", b"b", limit=300, revision=9)) == rpc_pb2.RangeRequest(
        key=b"a", range_end=b"b", limit=300, revision=9
    )
    txn = rpc_pb2.TxnRequest.FromString(replace_request(b"k", b"old", b"new", 5))
    assert (txn.compare[0].target, txn.compare[0].value) == (rpc_pb2.Compare.VALUE, b"old")
    assert (txn.compare[1].target, txn.compare[1].result, txn.compare[1].lease) == (rpc_pb2.Compare.LEASE, rpc_pb2.Compare.EQUAL, 5)
    assert txn.success[0].request_put == rpc_pb2.PutRequest(key=b"k", value=b"new", lease=5)
    txn = rpc_pb2.TxnRequest.FromString(follow_request(b"dapr/leadership/a", b"old", b"new", 5, 40))
    assert (txn.compare[0].key, txn.compare[0].target, txn.compare[0].value) == (b"dapr/leadership/a", rpc_pb2.Compare.VALUE, b"old")
    assert (txn.compare[1].key, txn.compare[1].range_end) == (b"dapr/leadership/", b"dapr/leadership0")
    assert (txn.compare[1].target, txn.compare[1].result) == (rpc_pb2.Compare.CREATE, rpc_pb2.Compare.LESS)
    assert txn.compare[1].create_revision == 41
    assert txn.success[0].request_put == rpc_pb2.PutRequest(key=b"dapr/leadership/a", value=b"new", lease=5)
    deletes = [op.request_delete_range for op in rpc_pb2.TxnRequest.FromString(delete_job_request(b"n")).success]
    assert [(op.key, op.range_end) for op in deletes] == [(b"dapr/jobs/n", b""), (b"dapr/counters/n", b"")]
    deletes = [op.request_delete_range for op in rpc_pb2.TxnRequest.FromString(delete_prefix_request(b"n|")).success]
    assert [(op.key, op.range_end) for op in deletes] == [(b"dapr/jobs/n|", b"dapr/jobs/n}"), (b"dapr/counters/n|", b"dapr/counters/n}")]


def test_leadership() -> None:
    value = leadership_value(3, 2**64 - 1, "127.0.0.1:50006")
    message = leadership_pb2.Leadership.FromString(value)
    host = scheduler_pb2.Host()
    assert message.replica_data.Unpack(host)
    assert (message.total, message.uid, host.address) == (3, 2**64 - 1, "127.0.0.1:50006")
    assert _jobs.parse_leadership(value) == (3, 2**64 - 1, "127.0.0.1:50006")


def test_outcomes() -> None:
    response = rpc_pb2.TxnResponse(succeeded=True)
    for succeeded in (True, False, True):
        answer = response.responses.add()
        answer.response_txn.succeeded = succeeded
        answer.response_txn.SetInParent()
    body = response.SerializeToString()
    assert _jobs.txn_outcomes(body, 3) == b"\1\0\1"
    for count in (0, 2, 4):
        with pytest.raises(_jobs.WireError):
            _jobs.txn_outcomes(body, count)
