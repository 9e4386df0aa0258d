"""Maintenance beside a real etcd 3.7.1: Downgrade and Status, alarms and quota, step by step the same answers."""

import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import rpc_pb2_grpc as stubs
from raftsched.store.node import Node, NodeOptions
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.lone_node import EtcdDoor

SETTLED_S = 15  # etcd looks at versions every five seconds
ENABLE, CANCEL = pb.DowngradeRequest.ENABLE, pb.DowngradeRequest.CANCEL
ACTIVATE, DEACTIVATE = pb.AlarmRequest.ACTIVATE, pb.AlarmRequest.DEACTIVATE


class Log:
    def __getattr__(self, _level: str) -> Callable[..., None]:
        return lambda message, **fields: None


@asynccontextmanager
async def opened(directory: Path, **options: Any) -> AsyncIterator[Node]:
    made = NodeOptions(data_dir=str(directory), history_bound=False, txn_ops_max=128, **options)
    node = Node(made, log=Log(), on_fatal=print)
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


class Side:
    """One of the two servers; every answer as a tuple that can be compared."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.insecure_channel(address)
        self.kv, self.lease, self.maintenance, self.cluster = (
            getattr(stubs, f"{name}Stub")(self._channel) for name in ("KV", "Lease", "Maintenance", "Cluster")
        )

    def answer(self, call: Callable[[], Any]) -> tuple[Any, ...]:
        try:
            found = call()
        except grpc.RpcError as error:
            return error.code().value[0], error.details()
        header = found.header
        return "OK", header.revision, bool(header.raft_term), bool(header.member_id)

    def downgrade(self, action: int, version: str = "") -> tuple[Any, ...]:
        try:
            found = self.maintenance.Downgrade(pb.DowngradeRequest(action=action, version=version))  # type: ignore[arg-type]
        except grpc.RpcError as error:
            return error.code().value[0], error.details()
        return "OK", found.version, found.header.revision, bool(found.header.raft_term)

    def status(self) -> dict[str, Any]:
        """Every field that does not depend on the machine; of the others whether it is there."""
        found = self.maintenance.Status(pb.StatusRequest())
        info = found.downgradeInfo
        return {
            "fields": sorted(field.name for field, _ in found.ListFields()),
            "version": found.version,
            "storage": found.storageVersion,
            "quota": found.dbSizeQuota,
            "downgrade": (found.HasField("downgradeInfo"), info.enabled, info.targetVersion),
            "errors": sorted(" ".join(one.split()) for one in found.errors),  # etcd has no order
            "leads": found.leader == found.header.member_id,
            "in use": 0 < found.dbSizeInUse <= found.dbSize,
            "applied": 0 < found.raftAppliedIndex <= found.raftIndex,
            "term": found.raftTerm == found.header.raft_term,
        }

    def fetch(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def close(self) -> None:
        self._channel.close()


class Both:
    """Both servers, asked the same."""

    def __init__(self, judge: str, subject: str) -> None:
        self.judge, self.subject = Side(judge), Side(subject)

    def same(self, ask: Callable[[Side], Any]) -> Any:
        """What both say."""
        judge, subject = ask(self.judge), ask(self.subject)
        assert subject == judge
        return judge

    def until(self, ask: Callable[[Side], Any], expected: Any) -> None:
        """Both say so sooner or later."""
        deadline = time.monotonic() + SETTLED_S
        for side in (self.subject, self.judge):
            while (found := ask(side)) != expected:
                assert time.monotonic() < deadline, (side.address, found)
                time.sleep(0.1)

    def close(self) -> None:
        self.judge.close()
        self.subject.close()


@pytest.fixture
def both(tmp_path: Path, real_etcd: RealEtcd) -> Iterator[Both]:
    with EtcdDoor(open_node=partial(opened, tmp_path / "subject")) as door:
        made = Both(real_etcd.address, door.address)
        yield made
        made.close()


def versions(side: Side) -> tuple[str, str]:
    return side.fetch("/version")[1], side.status()["storage"]


TARGETS = (
    "3.6.0",
    "3.6",
    "3.6.5",
    "3",
    "",
    "x",
    "3.7.0",
    "3.8.0",
    "3.5.0",
    "2.6.0",
    "v3.6.0",
    "3.6.0-a+b",
    "03.6.0",
    "3.6.x",
    "-3.6",
    " 3.6",
)


def test_downgrades_have_etcds_answers_and_effects(both: Both) -> None:
    for target in TARGETS:
        both.same(lambda side, target=target: side.downgrade(pb.DowngradeRequest.VALIDATE, target))
    assert both.same(lambda side: side.downgrade(7, "3.6.0")) == (2, "etcdserver: unknown method")
    assert both.same(lambda side: side.downgrade(CANCEL))[0] == "OK", "although there is none"
    for target in ("", "3.5.0"):
        both.same(lambda side, target=target: side.downgrade(ENABLE, target))
    before = both.same(Side.status)
    assert before["downgrade"] == (True, False, "")
    assert both.same(lambda side: side.downgrade(ENABLE, "3.6.0")) == ("OK", "3.7", 1, True)
    assert both.same(lambda side: side.status()["downgrade"]) == (True, True, "3.6.0")
    both.until(versions, ('{"etcdserver":"3.7.1","etcdcluster":"3.6.0","storage":"3.6.0"}', "3.6.0"))
    for action, target in ((0, "3.6.0"), (0, "3.5.0"), (0, "3.7.0"), (1, "3.6.0"), (1, "3.5.0"), (1, "x")):
        both.same(lambda side, action=action, target=target: side.downgrade(action, target))
    both.same(Side.status)
    assert both.same(lambda side: side.downgrade(CANCEL, "whatever")) == ("OK", "3.6", 1, True)
    assert both.same(lambda side: side.status()["downgrade"]) == (True, False, "")
    both.until(versions, ('{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}', "3.7.0"))
    assert both.same(Side.status) == before


def test_status_has_every_field(both: Both) -> None:
    for number in range(3):
        both.same(lambda side, number=number: side.answer(lambda: side.kv.Put(pb.PutRequest(key=b"%d" % number, value=b"v"))))
    found = both.same(Side.status)
    assert set(found["fields"]) == {
        "header",
        "version",
        "dbSize",
        "leader",
        "raftIndex",
        "raftTerm",
        "raftAppliedIndex",
        "dbSizeInUse",
        "storageVersion",
        "dbSizeQuota",
        "downgradeInfo",
    }
    assert found["quota"] == 2 << 30
    for kind in (pb.NOSPACE, pb.CORRUPT):
        both.same(
            lambda side, kind=kind: side.answer(lambda: side.maintenance.Alarm(pb.AlarmRequest(action=ACTIVATE, memberID=5, alarm=kind)))
        )
    assert both.same(lambda side: side.status()["errors"]) == ["memberID:5 alarm:CORRUPT", "memberID:5 alarm:NOSPACE"]


# -- the quota

PUT = pb.RequestOp(request_put=pb.PutRequest(key=b"p", value=b"v"))
READ = pb.RequestOp(request_range=pb.RangeRequest(key=b"p"))
DELETE = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=b"p"))
ASKED: dict[str, Callable[[Side], Any]] = {
    "put": lambda side: side.kv.Put(pb.PutRequest(key=b"p")),
    "grant": lambda side: side.lease.LeaseGrant(pb.LeaseGrantRequest(ID=77, TTL=600)),
    "revoke nobody's": lambda side: side.lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=78)),
    "get": lambda side: side.kv.Range(pb.RangeRequest(key=b"p")),
    "delete": lambda side: side.kv.DeleteRange(pb.DeleteRangeRequest(key=b"p")),
    "txn that puts": lambda side: side.kv.Txn(pb.TxnRequest(success=[PUT])),
    "txn whose other branch puts": lambda side: side.kv.Txn(pb.TxnRequest(success=[DELETE], failure=[PUT])),
    "txn in a txn that puts": lambda side: side.kv.Txn(pb.TxnRequest(success=[pb.RequestOp(request_txn=pb.TxnRequest(failure=[PUT]))])),
    "txn that reads and deletes": lambda side: side.kv.Txn(pb.TxnRequest(success=[READ, DELETE])),
    "txn of nothing": lambda side: side.kv.Txn(pb.TxnRequest()),
}
NO_SPACE = (8, "etcdserver: mvcc: database space exceeded")
GROWS = {"put", "grant", "txn that puts", "txn whose other branch puts", "txn in a txn that puts"}


def raised(side: Side) -> list[tuple[bool, int]]:
    """(whether it is of the member that answers, kind)."""
    answer = side.maintenance.Alarm(pb.AlarmRequest())
    return [(one.memberID == answer.header.member_id, one.alarm) for one in answer.alarms]


def disarm(side: Side) -> list[int]:
    own = side.maintenance.Status(pb.StatusRequest()).header.member_id
    answer = side.maintenance.Alarm(pb.AlarmRequest(action=DEACTIVATE, memberID=own, alarm=pb.NOSPACE))
    return [one.alarm for one in answer.alarms]


@contextmanager
def quota_of(size_bytes: int, folder: Path, program: Path) -> Iterator[Both]:
    with (
        RealEtcd(folder / "judge", program, args=[f"--quota-backend-bytes={size_bytes}"]) as etcd,
        EtcdDoor(open_node=partial(opened, folder / "subject", quota_bytes=size_bytes)) as door,
    ):
        made = Both(etcd.address, door.address)
        try:
            yield made
        finally:
            made.close()


def test_a_quota_without_room_refuses_what_grows(tmp_path: Path, etcd_program: Path) -> None:
    with quota_of(1, tmp_path, etcd_program) as both:
        assert both.same(Side.status)["quota"] == 1
        assert both.same(raised) == [], "nobody has asked for space yet"
        for title, ask in ASKED.items():
            assert (both.same(lambda side, ask=ask: side.answer(lambda: ask(side))) == NO_SPACE) == (title in GROWS), title
            assert both.same(raised) == [(True, pb.NOSPACE)], title
        assert both.same(lambda side: side.fetch("/health")) == (503, '{"health":"false","reason":"ALARM NOSPACE"}\n')
        assert both.same(disarm) == [pb.NOSPACE]
        both.same(lambda side: side.answer(lambda: ASKED["delete"](side)))
        assert both.same(raised) == [], "what frees space raises nothing"
        assert both.same(lambda side: side.answer(lambda: ASKED["grant"](side))) == NO_SPACE
        assert both.same(raised) == [(True, pb.NOSPACE)]


CORRUPT = (15, "etcdserver: corrupt cluster")
REFUSED_WHEN_CORRUPT = {
    "put",
    "grant",
    "revoke nobody's",
    "delete",
    "txn that puts",
    "txn whose other branch puts",
    "txn in a txn that puts",
    "txn that reads and deletes",
    "compact",
    "revoke",
}


def test_corrupt_data_refuse_what_changes_in_the_same_words(both: Both) -> None:
    asked = {
        **ASKED,
        "compact": lambda side: side.kv.Compact(pb.CompactionRequest(revision=1)),
        "txn that reads": lambda side: side.kv.Txn(pb.TxnRequest(success=[READ])),
        "serializable get": lambda side: side.kv.Range(pb.RangeRequest(key=b"p", serializable=True)),
        "revoke": lambda side: side.lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=5)),
        "leases": lambda side: side.lease.LeaseLeases(pb.LeaseLeasesRequest()),
        "members": lambda side: side.cluster.MemberList(pb.MemberListRequest()),
        "hash": lambda side: side.maintenance.HashKV(pb.HashKVRequest()),
        "defragment": lambda side: side.maintenance.Defragment(pb.DefragmentRequest()),
    }
    both.same(lambda side: side.answer(lambda: side.kv.Put(pb.PutRequest(key=b"p", value=b"v"))))
    both.same(lambda side: side.answer(lambda: side.lease.LeaseGrant(pb.LeaseGrantRequest(ID=5, TTL=600))))
    raising = pb.AlarmRequest(action=ACTIVATE, memberID=5, alarm=pb.CORRUPT)
    both.same(lambda side: side.answer(lambda: side.maintenance.Alarm(raising)))
    refused = set()
    for title, ask in asked.items():
        answer = both.same(lambda side, ask=ask: side.answer(lambda: ask(side))[:2])
        refused |= {title} if answer == CORRUPT else set()
    assert refused == REFUSED_WHEN_CORRUPT
    for path in ("/health", "/readyz", "/livez"):
        both.same(lambda side, path=path: (side.fetch(path)[0], sorted(side.fetch(path)[1].splitlines())))  # etcd has no order
    lowering = pb.AlarmRequest(action=DEACTIVATE, memberID=5, alarm=pb.CORRUPT)
    both.same(lambda side: side.answer(lambda: side.maintenance.Alarm(lowering)))
    for ask in asked.values():
        both.same(lambda side, ask=ask: side.answer(lambda: ask(side))[:2])


def test_no_quota_is_told_as_etcd_tells_it(tmp_path: Path, etcd_program: Path) -> None:
    with quota_of(-1, tmp_path, etcd_program) as both:
        assert both.same(Side.status)["quota"] == -1
        line = "\netcd_server_quota_backend_bytes -1\n"
        assert both.same(lambda side: line in side.fetch("/metrics")[1])


def test_a_full_store_serves_again_after_compaction_and_defragmentation(tmp_path: Path, etcd_program: Path) -> None:
    with quota_of(20_000_000, tmp_path, etcd_program) as both:
        for side in (both.judge, both.subject):
            count = 0
            while (answer := side.answer(lambda side=side, count=count: side.kv.Put(big(count))))[0] == "OK":
                count += 1
            assert answer == NO_SPACE
            assert 10 <= count <= 19 or side is both.judge, "of 1 MB each; etcd looks at its file, which grows with the next commit"
            side.kv.DeleteRange(pb.DeleteRangeRequest(key=b"big1"))
        assert both.same(raised) == [(True, pb.NOSPACE)]
        for title, ask in ASKED.items():
            refused = both.same(lambda side, ask=ask: side.answer(lambda: ask(side))[:2] == NO_SPACE)
            assert refused == (title in GROWS), title
        for side in (both.judge, both.subject):
            revision = side.kv.Range(pb.RangeRequest(key=b"x")).header.revision
            side.kv.Compact(pb.CompactionRequest(revision=revision, physical=True))
            side.maintenance.Defragment(pb.DefragmentRequest())
            assert side.maintenance.Status(pb.StatusRequest()).dbSize < 12_000_000
        assert both.same(lambda side: side.answer(lambda: side.kv.Put(big(1)))) == NO_SPACE, "until somebody says so"
        assert both.same(disarm) == [pb.NOSPACE]
        assert both.same(lambda side: side.answer(lambda: side.kv.Put(big(1)))[0]) == "OK"
        assert both.same(raised) == []


def big(number: int) -> pb.PutRequest:
    return pb.PutRequest(key=b"big%d" % (number % 10), value=bytes(1_000_000))
