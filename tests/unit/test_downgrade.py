"""Maintenance.Downgrade: what may be asked for, what three members do about it. Beside a real etcd: tests/interop/test_maintenance.py."""

import asyncio
from pathlib import Path

import pytest
from test_node_cluster import Three, until

from raftsched.errors import EtcdError, StatusError, status_of
from raftsched.store import codec, membership
from raftsched.store.apply import SideWrites
from raftsched.store.downgrade import check_target, parse_target
from raftsched.store.membership import Membership
from raftsched.store.node.downgrading import CANCEL, ENABLE, VALIDATE, Downgrading


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("3.6.0", "3.6.0"),
        ("3.6", "3.6.0"),
        ("3.6.9-rc.1+build_5", "3.6.0"),
        ("03.06.1", "3.6.0"),
        *((bad, "") for bad in ("", "3", "x", "v3.6.0", "3.6.x", "3.6.0.0", "-3.6", " 3.6", "3.6\n", "3.6.0-\xe9", "3.6-rc", "3.٦.0")),
        ("9223372036854775807.0", "9223372036854775807.0.0"),
        ("9223372036854775808.0", ""),
        ("3." + "9" * 5000, ""),
    ],
)
def test_targets_are_semantic_versions(text: str, target: str) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize(
    ("target", "enabled", "error"),
    [
        ("3.6.0", "", EtcdError.OK),
        ("3.6.0", "3.6.0", EtcdError.DOWNGRADE_IN_PROGRESS),
        ("3.5.0", "3.6.0", EtcdError.INVALID_DOWNGRADE_TARGET),
        ("3.7.0", "", EtcdError.INVALID_DOWNGRADE_TARGET),
        ("3.8.0", "", EtcdError.INVALID_DOWNGRADE_TARGET),
        ("2.6.0", "", EtcdError.INVALID_DOWNGRADE_TARGET),
    ],
)
def test_one_minor_version_down_and_one_at_a_time(target: str, enabled: str, error: EtcdError) -> None:
    assert check_target(target, "3.7.0", enabled) == error


def test_the_job_is_kept_as_etcd_keeps_it() -> None:
    side = SideWrites()
    table = Membership(side.write)
    table.apply_downgrade(membership.encode_downgrade("3.6.0"))
    assert table.downgrade_target == "3.6.0"
    [(bucket, key, value)] = side.take()
    assert (bucket, key, value) == ("cluster", b"downgrade", b'{"target-version":"3.6.0","enabled":true}')
    loaded = Membership(side.write)
    loaded.load((), (), b"3.6.0", None, value)
    assert loaded.downgrade_target == "3.6.0"
    table.apply_downgrade(membership.encode_downgrade(""))
    assert side.take() == [("cluster", b"downgrade", b'{"target-version":"","enabled":false}')]
    assert not table.downgrade_target
    with pytest.raises(codec.WireError):
        table.apply_downgrade(codec.varint_field(2, 5))


def test_a_cluster_goes_down_and_up_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Three(tmp_path)
        await cluster.start()
        try:
            follower, leader = cluster.followers[0], cluster.leader
            await until(lambda: all(one.node.cluster_version == "3.7.0" for one in cluster.all))
            assert await follower.node.downgrade(VALIDATE, "3.6") == "3.7.0"
            assert not leader.node.status().downgrade_target, "to validate changes nothing"
            assert await follower.node.downgrade(ENABLE, "3.6.1") == "3.7.0"
            await until(lambda: all(one.node.cluster_version == "3.6.0" for one in cluster.all))
            assert all(one.node.status().downgrade_target == "3.6.0" for one in cluster.all)
            assert not (await follower.put(b"k"))[0], "it serves as before"
            with pytest.raises(StatusError, match=status_of(EtcdError.DOWNGRADE_IN_PROGRESS).message):
                await leader.node.downgrade(ENABLE, "3.5")
            await follower.node.stop()
            await follower.start_anew()
            assert (follower.node.cluster_version, follower.node.status().downgrade_target) == ("3.6.0", "3.6.0")
            assert await follower.node.downgrade(CANCEL, "") == "3.6.0"
            await until(lambda: all(one.node.cluster_version == "3.7.0" for one in cluster.all))
            assert not any(one.node.status().downgrade_target for one in cluster.all)
        finally:
            await cluster.stop()

    asyncio.run(scenario())


def test_a_downgrade_ends_when_all_run_the_target(tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = Three(tmp_path)
        await cluster.start()
        try:
            await until(lambda: all(one.node.cluster_version == "3.7.0" for one in cluster.all))
            await cluster.leader.node.downgrade(ENABLE, "3.6.0")
            await until(lambda: all(one.node.cluster_version == "3.6.0" for one in cluster.all))
            for one in cluster.all:  # each is replaced by an older one, as far as the others can see
                await one.node.stop()
                one.run_as((3, 6, 9))
                await one.start_anew()
            await until(lambda: not any(one.node.status().downgrade_target for one in cluster.all))
            assert all(one.node.cluster_version == "3.6.0" for one in cluster.all)
        finally:
            await cluster.stop()

    asyncio.run(scenario())


def test_an_undecided_cluster_cannot_be_downgraded() -> None:
    async def scenario() -> None:
        async def barrier() -> None: ...
        async def propose(_kind: int, _message: bytes) -> int:
            raise AssertionError("nothing is to be proposed")

        downgrading = Downgrading(Membership(lambda _: None), barrier, propose)
        with pytest.raises(StatusError, match=status_of(EtcdError.CLUSTER_VERSION_UNAVAILABLE).message):
            await downgrading.ask(ENABLE, "3.6.0")
        with pytest.raises(StatusError, match=status_of(EtcdError.UNKNOWN_METHOD).message):
            await downgrading.ask(7, "3.6.0")

    asyncio.run(scenario())
