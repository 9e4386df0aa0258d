"""Members that compare their data: the three rules, and whole members, one of which had its database damaged while it was down."""

import asyncio
from pathlib import Path

import pytest
from test_node_cluster import One, Three, until

from raftsched import proposals
from raftsched.errors import EtcdError, FatalError, PeerCode, PeerError
from raftsched.pb.etcd import rpc_pb2
from raftsched.store import alarm, codec
from raftsched.store.corruption import EVERYBODY, Hashed, differing, differs_at_start, outvoted
from raftsched.store.transport.ports import HASH_KV

OWN = Hashed(hash=7, compact_revision=3, hash_revision=10, revision=10)
SAME, OTHER = OWN, OWN._replace(hash=8)
KEY, VALUE, DAMAGED = b"precious", b"a value that nobody else has", b"a value that nobody else hat"


def test_at_the_start_equal_compactions_are_compared() -> None:
    assert not differs_at_start(OWN, SAME)
    assert differs_at_start(OWN, OTHER)
    assert not differs_at_start(OWN, OTHER._replace(compact_revision=4))


@pytest.mark.parametrize(
    ("after", "told", "expected"),
    [
        (OWN, {2: SAME, 3: SAME}, set()),
        (OWN, {2: OTHER, 3: SAME}, {2}),
        (OWN, {2: OTHER._replace(compact_revision=2)}, set()),
        (OWN, {2: OTHER._replace(compact_revision=4)}, {2}),  # a compaction that the leader has not applied
        (OWN, {2: SAME._replace(revision=11)}, {2}),  # more than the leader has, although it has applied all
        (OWN._replace(revision=11, hash_revision=11, hash=9), {2: SAME._replace(revision=11)}, set()),
        (OTHER, {2: SAME}, {1}),  # the leader's own data changed
        (OTHER._replace(compact_revision=4), {2: SAME}, set()),
    ],
)
def test_the_periodic_rule(after: Hashed, told: dict[int, Hashed], expected: set[int]) -> None:
    assert differing(1, OWN, after, told) == expected


@pytest.mark.parametrize(
    ("told", "members", "expected"),
    [
        ({}, 1, set()),
        ({2: SAME, 3: SAME}, 3, set()),
        ({2: OTHER, 3: SAME}, 3, {2}),
        ({2: OTHER, 3: OTHER}, 3, {1}),
        ({2: OTHER}, 3, {EVERYBODY}),  # one is silent, and so is the majority
        ({2: OTHER._replace(compact_revision=4)}, 3, set()),
        ({2: OTHER, 3: OTHER._replace(hash=9)}, 3, {EVERYBODY}),
        ({2: OTHER, 3: OTHER, 4: SAME, 5: SAME}, 5, {2, 3}),
    ],
)
def test_the_rule_for_compactions(told: dict[int, Hashed], members: int, expected: set[int]) -> None:
    assert outvoted(1, OWN, told, members) == expected


# -- whole members


def damage(directory: Path, name: str) -> None:
    """Other bytes in place of a value, in all pages that hold it."""
    found = 0
    for path in (directory / name).rglob("data.mdb"):
        data = path.read_bytes()
        found += data.count(VALUE)
        path.write_bytes(data.replace(VALUE, DAMAGED))
    assert found, "the value is not in the database"


def corrupt(one: One) -> list[int]:
    return [member for member, kind in one.node.alarms() if kind == alarm.CORRUPT]


def hashes(one: One) -> int:
    """How often this member has computed one for a comparison."""
    return one.node.histograms()["etcd_mvcc_hash_rev_duration_seconds"][0][-1][1]


async def put(one: One, key: bytes, value: bytes) -> int:
    return (await one.write(proposals.PUT, rpc_pb2.PutRequest(key=key, value=value).SerializeToString()))[0]


async def with_one_damaged(cluster: Three, directory: Path) -> One:
    """The member whose database differs; it runs again, unless its own check is against it."""
    await cluster.start()
    assert not await put(cluster.leader, KEY, VALUE)
    for number in range(5):
        assert not await put(cluster.leader, b"k%d" % number, b"v")
    revision = cluster.leader.node.revision
    await until(lambda: all(one.node.revision == revision for one in cluster.all))
    victim = cluster.followers[0]
    await victim.node.settle()
    await victim.node.stop()
    damage(directory, victim.name)
    await victim.start_anew()
    await until(lambda: any(one.leads for one in cluster.all) and victim.node.revision == revision)
    return victim


def test_the_leader_raises_the_alarm_for_the_member_that_differs(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Three(tmp_path, corrupt_check_ms=300)
        try:
            victim = await with_one_damaged(cluster, tmp_path)
            await until(lambda: all(map(corrupt, cluster.all)))
            assert [corrupt(one) for one in cluster.all] == [[victim.node.member_id]] * 3
            for one in cluster.all:
                assert await put(one, b"x", b"y") == EtcdError.CORRUPT
                assert (await one.write(proposals.LEASE_GRANT, codec.varint_field(1, 60) + codec.varint_field(2, 77)))[
                    0
                ] == EtcdError.CORRUPT
                await one.node.read_barrier()
                read = rpc_pb2.RangeRequest(key=b"k1").SerializeToString()
                assert rpc_pb2.RangeResponse.FromString(one.node.read_local(read)[2]).kvs[0].value == b"v"
            disarm = alarm.encode_request(alarm.DEACTIVATE, victim.node.member_id, alarm.CORRUPT)
            assert not (await cluster.leader.write(proposals.ALARM, disarm))[0]
            await until(lambda: all(map(corrupt, cluster.all)))  # the data are no better than before
        finally:
            await cluster.stop()

    asyncio.run(scenario())


def test_a_compaction_shows_who_differs(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Three(tmp_path, compact_hash_check=True, compact_hash_check_ms=200)
        try:
            victim = await with_one_damaged(cluster, tmp_path)
            await asyncio.sleep(0.6)
            assert not any(map(corrupt, cluster.all)), "nothing was compacted yet"
            revision = cluster.leader.node.revision
            assert not (await cluster.leader.write(proposals.COMPACTION, codec.varint_field(1, revision)))[0]
            await until(lambda: all(map(corrupt, cluster.all)))
            assert corrupt(victim) == [victim.node.member_id]
        finally:
            await cluster.stop()

    asyncio.run(scenario())


def test_a_member_that_differs_does_not_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Three(tmp_path, initial_corrupt_check=True)
        try:
            with pytest.raises(FatalError, match=r"differ from those of .*found data inconsistency with peers"):
                await with_one_damaged(cluster, tmp_path)
            survivor = next(one for one in cluster.all if one.node.is_up and one.node.leader_id)
            await until(lambda: any(one.leads for one in cluster.all if one.node.is_up))
            assert not await put(survivor, b"x", b"y"), "the others go on"
        finally:
            await asyncio.gather(*(one.node.stop() for one in cluster.all))

    asyncio.run(scenario())


def test_equal_members_raise_nothing_and_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        options = {"initial_corrupt_check": True, "corrupt_check_ms": 100, "compact_hash_check": True, "compact_hash_check_ms": 100}
        cluster = Three(tmp_path, **options)
        try:
            await cluster.start()
            done, writers = False, list(cluster.all)

            async def write() -> None:
                number = 0
                while not done:
                    number += 1
                    assert not await put(writers[number % len(writers)], b"k%d" % (number % 50), b"v%d" % number)
                    if number % 40 == 0:
                        compacted = codec.varint_field(1, cluster.leader.node.revision - 5)
                        assert not (await cluster.leader.write(proposals.COMPACTION, compacted))[0]

            writing = asyncio.create_task(write())
            before = hashes(cluster.leader)
            await until(lambda: hashes(cluster.leader) > before + 8)
            one = cluster.followers[0]
            writers.remove(one)
            await asyncio.sleep(0.2)  # what it was asked is answered
            await one.node.stop()
            await one.start_anew()
            await until(lambda: "initial corruption check passed" in str(one.log.lines))
            await asyncio.sleep(0.5)
            done = True
            await writing
            assert not any(map(corrupt, cluster.all))
        finally:
            await cluster.stop()

    asyncio.run(scenario())


def test_a_member_that_cannot_answer_is_passed_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Three(tmp_path, corrupt_check_ms=200)
        await cluster.start()
        try:
            leader, mute = cluster.leader, cluster.followers[0]

            async def refuse(_sender: int, _payload: bytes) -> bytes:
                raise PeerError(PeerCode.BUSY, "not now")

            assert mute.node._peering is not None
            mute.node._peering.requests[HASH_KV] = refuse
            await until(lambda: "a member could not be compared" in str(leader.log.lines))
            await mute.node.stop()
            before = hashes(leader)
            await until(lambda: hashes(leader) > before + 2)
            assert not corrupt(leader)
        finally:
            await cluster.stop()

    asyncio.run(scenario())
