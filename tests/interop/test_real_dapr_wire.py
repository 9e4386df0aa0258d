"""The unary calls of the scheduler API beside the Dapr Scheduler itself: both get the same bytes and must answer and store the same.

Codes, texts, the bytes of each response, keys and values in both stores. What differs on purpose: docs/dapr-compatibility.md.
"""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from dapr_pair import Pair, actor, app, pair, schedule_request
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from real_dapr import dapr_scheduler

from raftsched.pb.dapr import common_pb2, stored_pb2
from raftsched.pb.dapr import scheduler_pb2 as pb

pytestmark = pytest.mark.process
METHODS = ("ScheduleJob", "GetJob", "DeleteJob", "ListJobs", "DeleteByMetadata", "DeleteByNamePrefix")
NAMED = METHODS[:3]
UNKNOWN_FIELD = b"\xf8\x3e\x07"  # number 1007
NAMES = [
    *(
        "",
        ".",
        "..",
        "...",
        "/",
        "\\",
        "#",
        "?",
        "a/b",
        "a b",
        "a\tb",
        "a/\r\n",
        "||",
        "a||b",
        "|",
        ":",
        "_",
        "@",
        "A",
        "%",
        "%2f",
        "+",
        "=",
        "&",
    ),
    *(
        "\x00",
        "\x1f",
        "\x7f",
        "\x80",
        "\x85",
        "\x9f",
        "\xa0",
        "\xad/",
        "é",
        "é/",
        "\u200b",
        "\u200b/",
        "\u2028",
        "\ufeff",
        "\ufffd",
        "\ue000",
    ),
    *("\ue000/", "\u0378/", "\U0001f600", "\U0001f600/", "\U000e0001", "\U0010ffff", "\U0010ffff/", '"', '"/', "`/", "'/", "a%/"),
    *("a" * 486, "a" * 487, "a" * 500, "a" * 501, "a" * 502, "é" * 250, "é" * 251, "a" * 2000),
]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(dapr_scheduler(), tmp_path_factory.mktemp("wire")) as made:
        yield made


def request(method: str, **fields: Any) -> Any:
    if method == "ScheduleJob":
        fields.setdefault("job", pb.Job(schedule="@yearly"))
    if method not in NAMED:
        fields.pop("name", None)
    return getattr(pb, f"{method}Request")(**fields)


@pytest.mark.parametrize("method", METHODS)
def test_gates(method: str, sides: Pair) -> None:
    sides.ask(method, request(method, name="x"))
    owners = [
        *(pb.JobMetadata(), pb.JobMetadata(app_id="a"), pb.JobMetadata(namespace="a"), pb.JobMetadata(app_id="a", namespace="b")),
        *(pb.JobMetadata(app_id="a", namespace="b", target=pb.JobTargetMetadata()), app("a||b", "c||d"), app("a/b"), app("A", "n/s")),
        *(app("..", "."), app("\n"), actor("", ""), actor("t", ""), actor("", "i"), actor("a/b", "c"), actor("a", "c#"), actor("..", "..")),
        *(actor("\x7f", "é"), actor("t", "i", concurrency_key="k"), app(concurrency_key="")),
    ]
    for owner in owners:
        sides.ask(method, request(method, name="x", metadata=owner))
    sides.same_store()


@pytest.mark.parametrize("method", METHODS)
def test_bytes_that_are_no_request(method: str, sides: Pair) -> None:
    """Cut off, no UTF-8, groups, numbers and wire types that there are not; a field of another wire type is an unknown one."""
    for body in (b"\xff", b"\x0a", b"", b"\x00\x00", b"\x0b\x0c", b"\x0c", b"\x0f", b"\x0a\x02\xff\xfe", b"\x0a\x80\x80", b"\x80" * 11):
        sides.ask(method, body)
    whole = request(method, name="odd", metadata=app()).SerializeToString()
    for odd in (b"\x08\x05", b"\x10\x05", b"\x18\x05", b"\x22\x01x", UNKNOWN_FIELD, b"\x09" + bytes(8)):
        sides.ask(method, whole + odd)
    sides.same_store()


def test_bytes_that_are_no_job(sides: Pair) -> None:
    metadata = app().SerializeToString()
    jobs = [
        b"\x0a\x02\xff\xfe",
        b"\x0a\x07@yearly\x10\x01\x12\x01x",
        b"\x2a\x01\xff",
        b"\x2a\x04\x0a\x02\xff\xfe",
        b"\x32\x01\x12",
        b"\x32\x02\x12\x05",
    ]
    jobs += [b"\x0a\x07@yearly" + tail for tail in (b"\x2a\x03\x12\x01\xff", b"\x08\x01", b"\x32\x02\x08\x01")]
    jobs.append(b"\x0a\x07@yearly" + UNKNOWN_FIELD)
    for number, job in enumerate(jobs):
        head = b"\x0a\x03no" + str(number % 10).encode()
        sides.ask("ScheduleJob", head + b"\x12" + bytes([len(job)]) + job + b"\x1a" + bytes([len(metadata)]) + metadata)
    sides.same_store()


def test_names(sides: Pair) -> None:
    """Each in every call that takes one, of a job and of a reminder; the second ScheduleJob finds those of the first."""
    for name in NAMES:
        for owner in (app(), actor()):
            for method in NAMED:
                sides.ask(method, request(method, name=name, metadata=owner))
            sides.ask("DeleteByNamePrefix", pb.DeleteByNamePrefixRequest(name_prefix=name, metadata=owner))
    for overwrite in (True, False):
        for name in NAMES:
            sides.ask("ScheduleJob", schedule_request(name, overwrite=overwrite, schedule="@yearly"))
    assert len(sides.same_store()) > 20
    sides.ask("ListJobs", pb.ListJobsRequest(metadata=app()))
    for name in NAMES:
        sides.ask("GetJob", pb.GetJobRequest(name=name, metadata=app()))


def constant(**fields: Any) -> common_pb2.JobFailurePolicy:
    return common_pb2.JobFailurePolicy(constant=common_pb2.JobFailurePolicyConstant(**fields))


WITHIN = [
    *({"repeats": 1}, {"repeats": 0}, {"repeats": 2**32 - 1}, {"ttl": ""}, {"due_time": ""}, {"ttl": "x"}, {"due_time": "x"}),
    *({"due_time": "2h", "ttl": "-1h"}, {"due_time": "2h", "ttl": "1h"}, {"due_time": "2h", "ttl": "2020-01-01T00:00:00Z"}),
    {"due_time": "2099-01-01T00:00:00Z", "ttl": "2098-01-01T00:00:00Z"},
    {"due_time": "2099-01-01T00:00:00Z", "ttl": "2099-01-01T00:00:00Z"},
    *({"data": AnyMessage()}, {"data": AnyMessage(type_url="a")}, {"data": AnyMessage(value=b"x")}),
    {"data": AnyMessage(type_url="type.googleapis.com/google.protobuf.BytesValue", value=b"\x0a\x03abc")},
    *({"failure_policy": common_pb2.JobFailurePolicy()}, {"failure_policy": constant()}, {"failure_policy": constant(max_retries=0)}),
    {"failure_policy": common_pb2.JobFailurePolicy(drop=common_pb2.JobFailurePolicyDrop())},
    *({"failure_policy": constant(max_retries=5)}, {"failure_policy": constant(interval=Duration())}),
    *(
        {"failure_policy": constant(interval=Duration(seconds=seconds, nanos=nanos))}
        for seconds, nanos in ((-1, 0), (1, -1), (2, 2**31 - 1))
    ),
    {"failure_policy": constant(interval=Duration(seconds=2**62, nanos=-(2**31)), max_retries=2**32 - 1)},
]
"""Fields of a job beside its schedule."""
ALONE = [
    *(
        {},
        {"schedule": ""},
        {"due_time": ""},
        {"schedule": "", "due_time": ""},
        {"ttl": "1h"},
        {"repeats": 1},
        {"repeats": 2},
        {"repeats": 0},
    ),
    *(
        {"due_time": "1h", "repeats": 0},
        {"due_time": "1h", "repeats": 1},
        {"due_time": "1h", "repeats": 2},
        {"due_time": "1h", "ttl": "2h"},
    ),
    *({"due_time": "1h", "ttl": ""}, {"due_time": "P9999Y"}, {"schedule": "x", "due_time": "x", "ttl": "x"}),
]
"""Whole jobs."""


@pytest.mark.parametrize("owner", [app("fields"), actor("fields")], ids=["job", "reminder"])
def test_fields_of_a_job(owner: pb.JobMetadata, sides: Pair) -> None:
    """Each combination's answer, what GetJob and ListJobs say of it afterwards, and the record."""
    for fields in [*({"schedule": "@yearly", **more} for more in WITHIN), *ALONE]:
        made = pb.ScheduleJobRequest(name="f", job=pb.Job(**fields), metadata=owner, overwrite=True)
        sides.ask("ScheduleJob", made)
        sides.ask("GetJob", pb.GetJobRequest(name="f", metadata=owner))
        sides.ask("ListJobs", pb.ListJobsRequest(metadata=owner))
        sides.same_store()


def test_unknown_fields_stay(sides: Pair) -> None:
    """Those of the metadata and of the payload; the others are forgotten by both."""
    metadata, job = app().SerializeToString() + UNKNOWN_FIELD, pb.Job(schedule="@yearly").SerializeToString()
    payload = b"\x2a\x06\x0a\x01x" + UNKNOWN_FIELD
    inside = job + payload + UNKNOWN_FIELD
    body = b"\x0a\x03unk\x12" + bytes([len(inside)]) + inside + b"\x1a" + bytes([len(metadata)]) + metadata + UNKNOWN_FIELD
    assert sides.ask("ScheduleJob", body).code == "OK"
    stored = sides.same_store()[b"dapr/jobs/app||ns||app||unk"]
    assert stored.count(UNKNOWN_FIELD) == 2
    assert UNKNOWN_FIELD in sides.ask("GetJob", pb.GetJobRequest(name="unk", metadata=app())).body
    assert sides.ask("ListJobs", pb.ListJobsRequest(metadata=app())).body.count(UNKNOWN_FIELD) == 2


def test_lists_and_deletions(sides: Pair) -> None:
    """Apps, actor types and ids that are each other's beginnings."""
    owners = [
        app("one"),
        app("one2"),
        app("on"),
        actor("cat", "1"),
        actor("cat", "10"),
        actor("cat", ""),
        actor("catfish", "1"),
        actor("ca", "t"),
    ]
    deletions: list[tuple[str, Any]] = [("DeleteByMetadata", pb.DeleteByMetadataRequest(metadata=owner)) for owner in owners]
    for match in (False, True):
        deletions += [("DeleteByMetadata", pb.DeleteByMetadataRequest(metadata=owner, id_prefix_match=match)) for owner in owners]
    for prefix in ("", "a", "1", "a||", "é"):
        deletions += [("DeleteByNamePrefix", pb.DeleteByNamePrefixRequest(name_prefix=prefix, metadata=owner)) for owner in owners]
    deletions += [("DeleteJob", pb.DeleteJobRequest(name="a", metadata=owner)) for owner in owners]
    for method, deletion in deletions:
        for owner in owners:
            for name in ("a", "ab", "b", "é"):
                body = pb.ScheduleJobRequest(name=name, job=pb.Job(due_time="9h"), metadata=owner, overwrite=True).SerializeToString()
                for side in sides.sides:
                    assert side.call("ScheduleJob", body).code == "OK"
        sides.ask(method, deletion)
        sides.same_store()
        for owner in owners:
            sides.ask("ListJobs", pb.ListJobsRequest(metadata=owner))


def test_records_that_others_wrote(sides: Pair) -> None:
    """Put into both stores as they are; what can be read of them is answered alike, a policy that is not there included."""
    metadata = app("foreign")
    for number, fields in enumerate(
        ({"schedule": "@yearly"}, {"due_time": "2099-01-01T00:00:00Z"}, {"schedule": "@yearly", "ttl": "1h", "repeats": 7})
    ):
        record = stored_pb2.Job(partition_id=number)
        record.due_time.FromJsonString("2099-01-01T00:00:00Z")
        for key, value in fields.items():
            setattr(record.job, key, value)
        record.job.metadata.Pack(metadata)
        for side in sides.sides:
            side.put(b"dapr/jobs/app||ns||foreign||%d" % number, record.SerializeToString())
        sides.ask("GetJob", pb.GetJobRequest(name=str(number), metadata=metadata))
    sides.ask("ListJobs", pb.ListJobsRequest(metadata=metadata))


def test_what_grpc_itself_refuses(sides: Pair) -> None:
    sides.ask("NoSuchMethod", b"")
    sides.ask("GetJob", pb.GetJobRequest(name="x" * 3000, metadata=app()), compression=grpc.Compression.Gzip)
    sides.ask("ListJobs", pb.ListJobsRequest(metadata=app("nobody")), metadata=(("x-unknown", "1"), ("y-bin", b"\x00\xff")))
