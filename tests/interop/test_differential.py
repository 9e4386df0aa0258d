"""The etcd API against a real etcd: the same random traffic, every answer, error and watch event compared (testing/differential).

RAFTSCHED_DIFFERENTIAL_SEEDS and RAFTSCHED_DIFFERENTIAL_STEPS make it longer; RAFTSCHED_DIFFERENTIAL_TARGET=host:port compares a running,
empty server.
"""

import os
from pathlib import Path

import grpc
import pytest

from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.testing.differential import Differential, Side, normal
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.lone_node import EtcdDoor
from raftsched.testing.traffic import Step

SEEDS = int(os.environ.get("RAFTSCHED_DIFFERENTIAL_SEEDS", "4"))
STEPS = int(os.environ.get("RAFTSCHED_DIFFERENTIAL_STEPS", "1500"))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_same_traffic_same_answers(seed: int, real_etcd: RealEtcd, door: EtcdDoor) -> None:
    target = os.environ.get("RAFTSCHED_DIFFERENTIAL_TARGET")
    compared = Differential(real_etcd.address, target or door.address, seed, judge_version=real_etcd.version)
    try:
        compared.run(STEPS)
    finally:
        compared.close()
    assert compared.steps > STEPS * 0.9
    assert compared.traffic.revision > STEPS * 0.2, "too few writes went through to say anything"


def both(judge: str, subject: str, path: str, message: bytes) -> tuple[object, object]:
    sides = (Side(judge), Side(subject))
    try:
        one, other = (side.raw(path, message) for side in sides)
    finally:
        for side in sides:
            side.close()
    return one, other


@pytest.mark.parametrize("method", ["Range", "Put", "DeleteRange", "Txn", "Compact"])
@pytest.mark.parametrize("message", [b"\xff", b"\x0a\x05ab", b"\x0a", b"\x0b", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"])
def test_malformed_requests_get_the_same_code(method: str, message: bytes, idle_etcd: RealEtcd, door: EtcdDoor) -> None:
    judge, subject = both(idle_etcd.address, door.address, f"/etcdserverpb.KV/{method}", message)
    assert isinstance(judge, tuple)
    assert isinstance(subject, tuple)
    assert subject[0] == judge[0]


@pytest.mark.parametrize("path", ["/etcdserverpb.KV/Nope", "/nope.Service/Method", "/etcdserverpb.Maintenance/Nope"])
def test_unknown_methods_get_the_same_text(path: str, idle_etcd: RealEtcd, door: EtcdDoor) -> None:
    judge, subject = both(idle_etcd.address, door.address, path, b"")
    assert subject == judge


@pytest.mark.parametrize(
    "step",
    [
        Step("Auth/Authenticate", pb.AuthenticateRequest(name="root", password="secret")),
        Step("Auth/AuthStatus", pb.AuthStatusRequest()),
        Step("Maintenance/Alarm", pb.AlarmRequest()),
        Step("Maintenance/Alarm", pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE)),
        Step("Maintenance/Alarm", pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=5, alarm=pb.NOSPACE)),
        Step("Maintenance/Alarm", pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=5, alarm=pb.NOSPACE)),
        Step("Maintenance/Alarm", pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=6, alarm=pb.CORRUPT)),
        Step("Maintenance/Defragment", pb.DefragmentRequest()),
        Step("Lease/LeaseGrant", pb.LeaseGrantRequest(ID=5, TTL=-7)),
        Step("Lease/LeaseKeepAlive", pb.LeaseKeepAliveRequest(ID=12345)),
        Step("Lease/LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=12345, keys=True)),
        Step("KV/Put", pb.PutRequest(key=b"k", value=bytes(1_572_800))),
        Step("KV/Put", pb.PutRequest(key=b"k", value=bytes(1_572_900))),
        Step("KV/Put", pb.PutRequest(key=b"k", value=bytes(1_572_664))),
        Step("KV/Put", pb.PutRequest(key=b"k", value=bytes(2_097_153))),
        Step("KV/Txn", pb.TxnRequest()),
        Step("KV/Range", pb.RangeRequest(key=b"k", range_end=b"a")),
    ],
    ids=lambda step: str(step.method),
)
def test_rare_requests_get_the_same_answer(step: Step, real_etcd: RealEtcd, door: EtcdDoor) -> None:
    if real_etcd.version < (3, 6):
        pytest.skip("some of these differ in etcd 3.5: see DIFFERENCES_3_5")
    sides = (Side(real_etcd.address), Side(door.address))
    try:
        judge, subject = (normal(step, side.finish(step, side.start(step))) for side in sides)
    finally:
        for side in sides:
            side.close()
    assert subject == judge


def test_range_stream_is_the_range(door: EtcdDoor, real_etcd: RealEtcd, tmp_path: Path) -> None:
    """Chunks joined give the whole; the last one tells revision, count and more as etcd's does."""
    if real_etcd.version < (3, 7):
        pytest.skip("RangeStream came with etcd 3.7")
    answers = []
    for address in (real_etcd.address, door.address):
        side = Side(address)
        try:
            for number in range(300):
                side.finish(put := Step("KV/Put", pb.PutRequest(key=b"k%03d" % number, value=b"v" * number)), side.start(put))
            answers.append([stream(side, request) for request in STREAMED])
        finally:
            side.close()
    assert answers[1] == answers[0]


STREAMED = [
    pb.RangeRequest(key=b"k", range_end=b"l"),
    pb.RangeRequest(key=b"k", range_end=b"l", limit=37, revision=250),
    pb.RangeRequest(key=b"k", range_end=b"\0", keys_only=True, limit=5),
    pb.RangeRequest(key=b"k", range_end=b"l", count_only=True),
    pb.RangeRequest(key=b"k001"),
    pb.RangeRequest(key=b"nothing"),
    pb.RangeRequest(key=b"k", range_end=b"l", sort_order=pb.RangeRequest.DESCEND),
    pb.RangeRequest(key=b"k", range_end=b"l", min_mod_revision=3),
    pb.RangeRequest(key=b"k", range_end=b"l", revision=10_000),
    pb.RangeRequest(key=b""),
]


def stream(side: Side, request: pb.RangeRequest) -> object:
    joined = pb.RangeResponse()
    call = side.channel.unary_stream(
        "/etcdserverpb.KV/RangeStream",
        request_serializer=pb.RangeRequest.SerializeToString,
        response_deserializer=pb.RangeStreamResponse.FromString,
    )
    try:
        for part in call(request, timeout=20):
            joined.MergeFrom(part.range_response)
    except grpc.RpcError as error:
        return error.code(), error.details()
    joined.header.cluster_id = joined.header.member_id = joined.header.raft_term = 0
    return str(joined)
