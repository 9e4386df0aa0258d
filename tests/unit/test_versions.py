"""Members of different versions: what the cluster's version is, when it rises, and who is too old."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from test_node_cluster import One, free_ports, until

from raftsched.errors import FatalError
from raftsched.store import asks
from raftsched.store.node.peering import Peering, PeerPort
from raftsched.store.node.versions import check_version, cluster_version, version_key
from raftsched.store.transport.peers import Peers
from raftsched.store.transport.ports import PeerHandler

OLD, NEW = (3, 7, 1), (3, 8, 0)


def test_versions_are_numbers() -> None:
    assert cluster_version((3, 10, 4)) == "3.10.0"
    assert version_key("3.10.0") > version_key("3.9.0")


@pytest.mark.parametrize("cluster", ["", "3.0.0", "3.6.0", "3.7.0"])
def test_who_is_not_older_may_take_part(cluster: str) -> None:
    check_version("3.7.0", cluster)


def test_who_is_older_is_told_so() -> None:
    with pytest.raises(FatalError, match=r"of version 3\.7\.0, its cluster is of version 3\.10\.0 already.*start 3\.10 or later"):
        check_version("3.7.0", "3.10.0")


class Port:
    """As much of a transport as versions need."""

    def __init__(self) -> None:
        self.told: dict[int, tuple[int, int, int]] = {}
        self.gone: set[int] = set()

    def versions(self) -> Mapping[int, tuple[int, int, int]]:
        return self.told

    def is_connected(self, member_id: int) -> bool:
        return member_id not in self.gone


def test_the_lowest_version_is_known_when_everybody_is_there() -> None:
    port = Port()
    peering = Peering(lambda _: port, None, lambda: 0, lambda: None)  # type: ignore[arg-type, return-value]
    assert peering.lowest_version("3.8.0") == "3.8.0", "alone"
    peering._known = {1: (), 2: ()}
    assert peering.lowest_version("3.8.0") is None
    port.told = {1: (3, 8, 2)}
    assert peering.lowest_version("3.8.0") is None, "one has never been met"
    port.told[2] = (3, 7, 9)
    assert peering.lowest_version("3.8.0") == "3.7.0"
    port.told[2] = (3, 10, 0)
    assert peering.lowest_version("3.8.0") == "3.8.0"
    port.gone = {2}
    assert peering.lowest_version("3.8.0") is None, "it may come back older"


def test_a_version_in_an_answer_is_one_or_the_answer_is_none() -> None:
    def passed(version: str) -> asks.Answer | None:
        member = asks.decode_json(b'{"id":1,"peerURLs":["http://a:1"]}')
        return asks.decode_answer(asks.encode_answer(asks.InCluster("a", 1, 2, False, (member,), version)))

    for good in ("", "3.8.0", "3.10"):
        found = passed(good)
        assert isinstance(found, asks.InCluster)
        assert found.cluster_version == good
    for bad in ("x", "3", "3.8.0.1", "\u0663.8.0", "9" * 5000 + ".1"):
        assert passed(bad) is None


# -- whole members


class Aged(One):
    """A member whose version the test sets; the next start has it."""

    version = OLD

    def _network(self, handler: PeerHandler) -> PeerPort:
        return Peers(listen_host="127.0.0.1", port=self._port, handler=handler, log=self.log, version=self.version)

    def set_version(self, version: tuple[int, int, int]) -> None:
        self.version = version
        self._options = replace(self._options, cluster_version=cluster_version(version))
        self.node = self._make()

    @property
    def shown(self) -> str:
        return self.node._member.applier.membership.cluster_version


def told_incarnation(one: Aged) -> int:
    """What its handshakes say."""
    peering = one.node._peering
    assert peering is not None
    assert isinstance(peering.port, Peers)
    return peering.port._around.own.incarnation


def test_a_rolling_upgrade(tmp_path: Path) -> None:
    async def all_show(members: list[Aged], version: str) -> None:
        await until(lambda: all(one.shown == version for one in members))

    async def scenario() -> None:
        ports = dict(zip("abc", free_ports(3), strict=True))
        members = [Aged(tmp_path, name, ports, form_wait_ms=None) for name in ports]
        members[0].set_version(NEW)  # mixed from the beginning
        await asyncio.gather(*(one.node.start() for one in members))
        try:
            await all_show(members, "3.7.0")
            await until(lambda: all(told_incarnation(one) for one in members))
            assert len({told_incarnation(one) for one in members}) == 1
            for upgraded in members[1:]:
                for one in members:
                    assert not (await one.put(one.name.encode()))[0]
                await asyncio.sleep(0.7)  # a look at the versions, at least
                await all_show(members, "3.7.0")
                await upgraded.node.stop()
                await asyncio.sleep(0.7)
                assert members[0].shown == "3.7.0", "nobody knows as what it comes back"
                upgraded.set_version(NEW)
                await upgraded.node.start()
            await all_show(members, "3.8.0")
            assert sum("raising the cluster version" in line and "3.8.0" in line for one in members for line in one.log.lines) >= 1
            for one in members:
                assert not (await one.put(b"after"))[0]
            assert not any(one.fatal for one in members)

            back = members[2]
            await back.node.stop()
            back.set_version(OLD)
            with pytest.raises(FatalError, match=r"of version 3\.7\.0, its cluster is of version 3\.8\.0"):
                await back.node.start()
            assert not (await members[0].put(b"two go on"))[0]
            wiped = Aged(tmp_path / "empty", "c", ports, form_wait_ms=None)
            with pytest.raises(FatalError, match=r"of version 3\.7\.0, its cluster is of version 3\.8\.0"):
                await wiped.node.start()
            assert {one.member_id for one in members[0].node.members()} == {one.node.member_id for one in members}, "it did not join"
            back.set_version(NEW)
            await back.node.start()
            assert not (await back.put(b"back"))[0]
        finally:
            for one in members:
                await one.node.stop()

    asyncio.run(scenario())


def test_a_lone_member_does_not_open_the_data_of_a_newer_cluster(tmp_path: Path) -> None:
    async def scenario() -> None:
        lone = Aged(tmp_path, "a", dict(zip("a", free_ports(1), strict=True)))
        lone.set_version(NEW)
        await lone.node.start()
        await until(lambda: lone.shown == "3.8.0")
        await lone.node.stop()
        lone.set_version(OLD)
        with pytest.raises(FatalError, match=r"start 3\.8 or later"):
            await lone.node.start()

    asyncio.run(scenario())
