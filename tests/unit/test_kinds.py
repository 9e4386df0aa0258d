"""Scenario S9: what a cluster's version does not allow is in no log; what is committed and not known ends a member."""

import asyncio
from pathlib import Path

import pytest
from test_node_cluster import One as Member
from test_node_cluster import free_ports, until
from test_replica_cluster import PROPOSE, Group, One, put

from raftsched import proposals
from raftsched.errors import ETCD_STATUS, EtcdError, FatalError, GrpcCode
from raftsched.pb.etcd.raft_internal_pb2 import InternalRaftRequest
from raftsched.store import codec, membership
from raftsched.store.apply import Applier
from raftsched.store.kinds import FIRST, SINCE, Gate
from raftsched.store.replica import BEYOND, Propose, Transfer
from raftsched.types import Result

NEWER = 2_000  # a kind that comes with 3.8


def test_the_table_has_what_apply_knows_and_nothing_else() -> None:
    group = Group()
    known = group.members[1].replica.applier._handlers.keys() - {0}
    assert known == SINCE.keys()
    names = {field.number: name for name, field in InternalRaftRequest.DESCRIPTOR.fields_by_name.items()}
    assert known <= names.keys()


@pytest.mark.parametrize(
    ("version", "allowed"), [("", False), (FIRST, False), ("3.7.0", False), ("3.8.0", True), ("3.10.0", True), ("4.0.0", True)]
)
def test_a_kind_is_open_from_its_version_on(version: str, allowed: bool) -> None:
    opened = Gate({**SINCE, NEWER: "3.8.0"}).open(version)
    assert (NEWER in opened) == allowed
    assert opened >= {kind for kind, since in SINCE.items() if since == FIRST}
    assert (proposals.DOWNGRADE_INFO_SET in opened) == (version not in ("", FIRST))
    assert 0 not in opened
    assert codec.UNREADABLE not in opened


def test_the_answer_is_etcds() -> None:
    assert ETCD_STATUS[EtcdError.NOT_CAPABLE] == (GrpcCode.FAILED_PRECONDITION, "etcdserver: not capable")


class Mixed(Group):
    """Three members; all of them know the newer kind, but for the `old` ones. Cluster version 3.7."""

    def __init__(self, *old: int) -> None:
        super().__init__()
        self.applied: list[tuple[int, bytes]] = []
        for one in self.members.values():
            if one.id not in old:
                self.renew(one)
        self.leader = self.elect()
        self.rise("3.7.0")

    def renew(self, one: One) -> None:
        one.replica.gate = Gate({**SINCE, NEWER: "3.8.0"})

        def apply(payload: bytes) -> Result:
            self.applied.append((one.id, payload))
            return EtcdError.OK, one.replica.applier.store.revision, b""

        one.replica.applier._handlers[NEWER] = apply

    def rise(self, version: str) -> None:
        self.leader.step(Propose(proposals.CLUSTER_VERSION_SET, [membership.encode_version(version, 5)], [0], self.leader))
        self.tick(2)
        for one in self.members.values():
            one.got.clear()
            assert one.replica.applier.membership.cluster_version == version

    def last(self) -> set[int]:
        return {one.kernel.last_index for one in self.members.values()}


@pytest.mark.parametrize("follows", [False, True])
def test_what_the_cluster_cannot_do_is_refused_and_in_no_log_until_it_can(follows: bool) -> None:
    group = Mixed()
    asked = group.others(group.leader)[0] if follows else group.leader
    before = group.last()
    asked.step(Propose(NEWER, [b"x", b"y"], [1, 2], asked))
    assert asked.answers() == [(1, EtcdError.NOT_CAPABLE), (2, EtcdError.NOT_CAPABLE)], "at once, and for certain"
    assert not [message for message in group.in_flight if message.type == PROPOSE], "it did not leave"
    group.tick(3)
    assert group.last() == before
    assert group.applied == []
    asked.put(3, b"k")
    group.tick(2)
    assert asked.answers()[2:] == [(3, 0)], "what is allowed goes on"
    group.rise("3.8.0")
    asked.step(Propose(NEWER, [b"x"], [4], asked))
    group.tick(2)
    assert asked.answers() == [(4, 0)]
    assert sorted(group.applied) == [(1, b"x"), (2, b"x"), (3, b"x")]


def test_a_leader_refuses_what_a_member_forwards_without_asking_its_own_gate() -> None:
    group = Mixed()
    follower = group.others(group.leader)[0]
    follower.replica.gate = Gate({**SINCE, NEWER: FIRST})
    before = group.last()
    follower.step(Propose(NEWER, [b"x"], [1], follower))
    (forwarded,) = [message for message in group.in_flight if message.type == PROPOSE]
    group.run()
    group.tick(3)
    assert follower.answers() == [(1, EtcdError.NOT_CAPABLE)]
    assert group.last() == before
    group.rise("3.8.0")
    before = group.last()
    group.in_flight.append(forwarded)  # a repetition: it was refused, and stays so
    group.run()
    group.tick(2)
    assert group.last() == before
    follower.put(2, b"k")
    group.tick(2)
    assert follower.answers() == [(2, 0)], "later ones are taken"


@pytest.mark.parametrize("entry", [b"\xff\xff\xff", b"", codec.wrap(proposals.PUT, [put(b"k")], 5)[0] + codec.varint_field(999, 1)])
def test_a_leader_takes_nothing_that_is_no_request(entry: bytes) -> None:
    group = Mixed()
    follower = group.others(group.leader)[0]
    before = group.last()
    assert follower.kernel.forward([entry], 1)
    follower.step()
    group.run()
    assert group.last() == before


def test_a_refusal_of_one_who_does_not_lead_or_of_something_else_is_none() -> None:
    group = Mixed()
    follower, other = group.others(group.leader)
    follower.kernel.forward(codec.wrap(proposals.PUT, [put(b"k")], 5), 1)
    follower.step()
    (forwarded,) = [message for message in group.in_flight if message.type == PROPOSE]
    other.kernel.refuse(forwarded, BEYOND)
    assert not other.kernel.has_ready, "it was not asked"
    group.leader.step(Transfer(other.id))
    group.in_flight.remove(forwarded)
    group.run()
    assert other.leads
    group.leader.kernel.refuse(forwarded, BEYOND)
    assert not group.leader.kernel.has_ready, "of an older term, and it does not lead"


def test_who_is_older_stops_before_what_the_others_have_applied() -> None:
    group = Mixed(3)
    old = group.members[3]
    if group.leader is old:  # the rule of the gate alone would hold it then
        group.leader.step(Propose(proposals.PUT, [put(b"k")], [0], old))
        group.lost = lambda message: 3 in (message.to, message.sender)
        group.leader = group.elect(but=3)
        group.lost = lambda _message: False
        group.tick(3)
    group.leader.replica.gate = Gate({**SINCE, NEWER: FIRST})  # a leader without the rule
    applied = old.replica.applier.applied_index
    group.leader.step(Propose(NEWER, [b"x"], [1], group.leader))
    with pytest.raises(FatalError, match=r"holds a request of kind 2000, which this member does not know.*its cluster of 3\.7\.0"):
        group.tick(3)
    assert old.replica.applier.applied_index == applied


# -- a whole member


def test_a_member_that_is_too_old_ends_with_one_line_in_each_life_and_goes_on_when_it_is_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        lone = Member(tmp_path, "a", dict(zip("a", free_ports(1), strict=True)))
        await lone.node.start()
        try:
            assert not (await lone.put(b"before"))[0]
            assert (await lone.write(NEWER, b"x"))[0] == EtcdError.NOT_CAPABLE
            lone.node._member.replica.gate = Gate({**SINCE, NEWER: FIRST})
            assert (await lone.write(NEWER, b"x"))[0] == EtcdError.STOPPED, "nobody knows"
            await until(lambda: bool(lone.fatal))
        finally:
            await lone.node.stop()
        (line,) = lone.fatal
        assert "of kind 2000, which this member does not know. It is of version 3.7.0, its cluster of 3.7.0." in line
        with pytest.raises(FatalError, match="of kind 2000, which this member does not know"):
            await lone.start_anew()
        lone.fatal.clear()

        rebuild = Applier.rebuild

        def rebuild_newer(self: Applier) -> None:
            rebuild(self)
            self._handlers[NEWER] = self._nothing

        monkeypatch.setattr(Applier, "rebuild", rebuild_newer)
        await lone.start_anew()
        try:
            assert not (await lone.put(b"after"))[0]
            assert [one.key for one in lone.node.mvcc.live(b"", b"\xff", None, 10)] == [b"after", b"before"]
        finally:
            await lone.node.stop()
        assert not lone.fatal

    asyncio.run(scenario())
