"""Whole members on one loop, over loopback connections: what happens at the seams between node, cluster and clients."""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raftsched import limits, proposals
from raftsched.errors import EtcdError, FatalError, IncarnationOverError, StatusError
from raftsched.pb.etcd import rpc_pb2
from raftsched.store import codec
from raftsched.store.membership import ADD_NODE, REMOVE_NODE
from raftsched.store.node import Node, NodeOptions, clustering, numbering
from raftsched.store.node.announcing import Announcing
from raftsched.store.node.opening import Member, Opener
from raftsched.store.node.options import SystemClock
from raftsched.store.node.peering import PeerPort
from raftsched.store.snapshot.install import Stored
from raftsched.store.transport.peers import Peers
from raftsched.store.transport.ports import PeerHandler
from raftsched.store.wal.format import ConfState
from raftsched.types import Result

TTL_S = 60


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __getattr__(self, _level: str) -> Callable[..., None]:
        return lambda message, **fields: self.lines.append(f"{message} {fields}")


def free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


class One:
    """A member of the test's cluster; may be started anew on its directory."""

    def __init__(self, directory: Path, name: str, ports: Mapping[str, int], **options: object) -> None:
        self.name, self.log = name, Log()
        self.fatal: list[str] = []
        self.restarts: list[str] = []
        self.clock = SystemClock()
        self._port = ports[name]
        self._version = (3, 7, 1)
        urls = {one: f"http://127.0.0.1:{port}" for one, port in ports.items()}
        self._options = NodeOptions(
            data_dir=str(directory / name),
            name=name,
            instance=name,
            peer_urls=(urls[name],),
            initial_cluster=tuple((one, (url,)) for one, url in urls.items()),
            **({"request_timeout_ms": 3_000, "election_ms_min": 300, "election_ms_max": 500} | options),  # type: ignore[arg-type]
        )
        self.node = self._make()

    def _make(self, opener: Opener | None = None) -> Node:
        return Node(
            self._options,
            log=self.log,
            on_fatal=self.fatal.append,
            on_restart=self.restarts.append,
            network=self._network,
            clock=self.clock,
            opener=opener,
        )

    def _network(self, handler: PeerHandler) -> PeerPort:
        return Peers(listen_host="127.0.0.1", port=self._port, handler=handler, log=self.log, version=self._version)

    def run_as(self, version: tuple[int, int, int]) -> None:
        """The next start is of a program of this version."""
        self._version = version
        self._options = replace(self._options, cluster_version=f"{version[0]}.{version[1]}.0")

    async def start_anew(self, *, opener: Opener | None = None) -> None:
        self.node = self._make(opener)
        await self.node.start()

    @property
    def leads(self) -> bool:
        return self.node.leader_id == self.node.member_id

    async def write(self, kind: int, message: bytes) -> Result:
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        class Sink:
            def on_results(self, _tokens: Sequence[int], results: Sequence[Result]) -> None:
                answer.set_result(results[0])

        self.node.propose_many(kind, [message], [0], Sink())
        return await answer

    async def put(self, key: bytes) -> Result:
        return await self.write(proposals.PUT, rpc_pb2.PutRequest(key=key, value=b"v").SerializeToString())

    async def grant(self, ttl_s: int = TTL_S) -> int:
        lease = self.node.next_lease_id()
        assert not (await self.write(proposals.LEASE_GRANT, codec.varint_field(1, ttl_s) + codec.varint_field(2, lease)))[0]
        return lease


async def until(holds: Callable[[], bool], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.01)


class Three:
    def __init__(self, directory: Path, **options: object) -> None:
        names = ("a", "b", "c")
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.all = [One(directory, name, ports, **options) for name in names]

    async def start(self) -> None:
        await asyncio.gather(*(one.node.start() for one in self.all))

    async def stop(self) -> None:
        await asyncio.gather(*(one.node.stop() for one in self.all))

    @property
    def leader(self) -> One:
        return next(one for one in self.all if one.leads)

    @property
    def followers(self) -> list[One]:
        return [one for one in self.all if not one.leads]


def test_a_lone_member_goes_on_after_a_voter_was_added_that_is_not_there_yet(tmp_path: Path) -> None:
    async def scenario() -> None:
        ports = dict(zip("ax", free_ports(2), strict=True))
        first = One(tmp_path, "a", {"a": ports["a"]})
        await first.node.start()
        try:
            members = await first.node.change_members(ADD_NODE, 0, [f"http://127.0.0.1:{ports['x']}"], is_learner=False)
            assert len(members) == 2
            assert not (await first.put(b"k"))[0], "a majority is still there"
            second = One(tmp_path, "x", ports)
            await second.node.start()
            await until(lambda: len(first.node._kernel.voter_ids) == 2)
            assert not (await second.put(b"l"))[0]
            await second.node.stop()
        finally:
            await first.node.stop()

    asyncio.run(scenario())


def test_after_the_end_of_an_incarnation_everybody_is_answered_and_nothing_is_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        three = Three(tmp_path)
        await three.start()
        try:
            node = three.followers[0].node
            looks: list[int] = []
            node._snapshots.look = looks.append  # type: ignore[method-assign]
            node.end_incarnation("over")
            await asyncio.sleep(0.05)
            async with asyncio.timeout(1):
                with pytest.raises(StatusError, match="server stopped"):
                    await node.read_barrier()
                assert await node.propose_and_wait(proposals.PUT, b"") == EtcdError.STOPPED
                assert await node._clustering.propose_change(b"", node._replica.ids.take()) == EtcdError.STOPPED
            looks.clear()
            await asyncio.sleep(0.7)
            assert not looks, "the directory is not this incarnation's any more"
        finally:
            await three.stop()

    asyncio.run(scenario())


def test_a_start_that_is_overtaken_by_a_snapshot_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        three = Three(tmp_path)
        late, first, publish = three.all[0], three.all[0].node, Announcing.publish

        async def overtaken(announcing: Announcing) -> int:
            if announcing._node is not first:
                return await publish(announcing)
            first.end_incarnation("over")
            return EtcdError.TIMEOUT

        monkeypatch.setattr(Announcing, "publish", overtaken)
        begun = asyncio.gather(*(one.node.start() for one in three.all[1:]))
        try:
            async with asyncio.timeout(20):
                with pytest.raises(IncarnationOverError):
                    await late.node.start()
            await begun
            await late.start_anew()
            assert not (await late.put(b"k"))[0], "its directory and its port are free again"
        finally:
            await three.stop()

    asyncio.run(scenario())


def test_a_removed_members_scheduler_is_called_dead_by_the_leader_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        three = Three(tmp_path, strict_reconfig_check=False)
        await three.start()
        try:
            leader = three.leader.node
            gone = three.followers[0]
            await leader.change_members(REMOVE_NODE, gone.node.member_id, (), is_learner=False)
            await until(lambda: gone.name in leader.dead([gone.name]), 5)
            other = next(one for one in three.followers if one is not gone)
            assert not other.node.dead([gone.name])
        finally:
            await three.stop()

    asyncio.run(scenario())


def test_a_member_that_had_its_name_for_a_moment_only_is_dead_once_it_is_removed(tmp_path: Path) -> None:
    async def scenario() -> None:
        three = Three(tmp_path, strict_reconfig_check=False)
        await three.start()
        try:
            leader = three.leader.node
            leader._next_upkeep_ms = 1 << 60  # nobody looks at the table in between
            urls = [f"http://127.0.0.1:{free_ports(1)[0]}"]
            members = await leader.change_members(ADD_NODE, 0, urls, is_learner=True)
            added = next(one.member_id for one in members if not one.name)
            assert not await leader._clustering.publish(added, "brief", (), leader.term)
            await leader.change_members(REMOVE_NODE, added, (), is_learner=False)
            assert not leader.dead(["brief"]), "its fence may not have passed yet"
            leader._next_upkeep_ms = 0
            await until(lambda: "brief" in leader.dead(["brief"]), 3)
        finally:
            await three.stop()

    asyncio.run(scenario())


def test_leases_are_renewed_and_looked_at_through_every_member(tmp_path: Path) -> None:
    async def scenario() -> None:
        three = Three(tmp_path)
        await three.start()
        try:
            follower = three.followers[0]
            lease = await follower.grant()
            key = bytes(1_000_000)  # more than an answer between members may hold
            for number in range(2):
                request = rpc_pb2.PutRequest(key=b"%d" % number + key, value=b"v", lease=lease).SerializeToString()
                assert not (await follower.write(proposals.PUT, request))[0]
            for one in three.all:
                async with asyncio.timeout(2):
                    assert await one.node.lease_renew(lease) == TTL_S
                    left_s, granted_s, keys = await one.node.lease_time_to_live(lease, keys=True)
                    assert (left_s in (TTL_S - 1, TTL_S), granted_s, [key[:1] for key in keys]) == (True, TTL_S, [b"0", b"1"])
                    assert await one.node.lease_renew(lease + 1) == 0
                    assert await one.node.lease_time_to_live(lease + 1, keys=True) == (-1, 0, ())
        finally:
            await three.stop()

    asyncio.run(scenario())


def test_a_renewal_survives_the_change_of_the_leader(tmp_path: Path) -> None:
    async def scenario() -> None:
        three = Three(tmp_path)
        await three.start()
        try:
            leader, (first, second) = three.leader, three.followers
            lease = await first.grant()
            renewals = [asyncio.create_task(one.node.lease_renew(lease)) for one in (leader, first) for _ in range(20)]
            await asyncio.sleep(0)
            await leader.node.move_leader(second.node.member_id)
            renewals.append(asyncio.create_task(first.node.lease_renew(lease)))
            await second.node.stop()
            assert await asyncio.gather(*renewals) == [TTL_S] * 41
        finally:
            await three.stop()

    asyncio.run(scenario())


def test_whoever_waits_for_a_lease_is_answered_when_the_member_stops(tmp_path: Path) -> None:
    async def scenario() -> None:
        three = Three(tmp_path)
        await three.start()
        leader, (first, second) = three.leader, three.followers
        lease = await first.grant()
        await asyncio.gather(leader.node.stop(), second.node.stop())
        renewal = asyncio.create_task(first.node.lease_renew(lease))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(2):
            await first.node.stop()
            with pytest.raises(StatusError, match="server stopped"):
                await renewal

    asyncio.run(scenario())


def test_the_last_leader_does_not_wait_for_who_is_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        three = Three(tmp_path, election_ms_min=2_000, election_ms_max=3_000)
        await three.start()
        leader, followers = three.leader, three.followers
        assert leader.node.reaches_majority
        await asyncio.gather(*(one.node.stop() for one in followers))
        await until(lambda: not leader.node.reaches_majority, 2)
        async with asyncio.timeout(1):
            await leader.node.stop()
        assert not leader.node.reaches_majority

    asyncio.run(scenario())


def test_a_start_without_a_majority_can_be_given_up_and_leaves_nothing_open(tmp_path: Path) -> None:
    async def scenario() -> None:
        three = Three(tmp_path)
        await three.start()
        await three.stop()
        first, others = three.all[0], three.all[1:]
        started = asyncio.create_task(first.start_anew())
        await asyncio.sleep(1)
        assert not started.done()
        started.cancel()
        async with asyncio.timeout(1):
            await asyncio.gather(started, return_exceptions=True)
            await first.node.stop()
        await asyncio.gather(first.start_anew(), *(one.start_anew() for one in others))
        assert not (await first.put(b"k"))[0]
        await three.stop()

    asyncio.run(scenario())


def test_one_snapshot_alone_is_installed_and_none_by_who_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[str] = []

    def install(member: Member, _stored: Stored) -> str:
        installed.append(f"{member.member_id:x}")
        return ""

    async def scenario() -> None:
        monkeypatch.setattr(clustering, "install_received", install)
        three = Three(tmp_path)
        await three.start()
        stored = Stored(index=1 << 20, term=9, conf_state=ConfState())
        first, second = three.followers
        first.node._clustering._on_received(stored)
        first.node._clustering._on_received(stored)  # of an older leader's stream, say
        second.node.fail(FatalError("the disk is gone"))
        second.node._clustering._on_received(stored)
        assert (installed, first.restarts) == ([f"{first.node.member_id:x}"], [first.node._ended])
        assert (len(second.fatal), second.restarts) == (1, [])
        await three.stop()

    asyncio.run(scenario())


def test_a_stop_that_is_cancelled_still_gives_back_directory_and_port(tmp_path: Path) -> None:
    async def scenario() -> None:
        three = Three(tmp_path)
        await three.start()
        one = three.followers[0]
        one.node._clustering.hand_over = asyncio.Event().wait  # type: ignore[method-assign, assignment]
        stopping = asyncio.create_task(one.node.stop())
        await asyncio.sleep(0.05)
        await one.node.stop()  # the same stop, not a second one
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        await one.start_anew()
        assert not (await one.put(b"k"))[0]
        await three.stop()

    asyncio.run(scenario())


class Ahead(SystemClock):
    """A wall clock that is wrong by an hour."""

    def wall_ms(self) -> int:
        return super().wall_ms() + 3_600_000


def test_a_member_whose_clock_was_set_back_while_it_was_down_is_heard(tmp_path: Path) -> None:
    """The leader takes what a member forwards by ids that rise; after a clean stop the log holds nothing that was not applied."""

    async def scenario() -> None:
        three = Three(tmp_path)
        await three.start()
        try:
            one = three.followers[0]
            for clock in (Ahead(), SystemClock(), SystemClock()):
                await one.node.stop()
                one.clock = clock
                await one.start_anew()
                assert three.leader is not one, "what it writes is forwarded"
                assert not (await one.put(b"k"))[0]
        finally:
            await three.stop()

    asyncio.run(scenario())


def test_a_disk_that_takes_no_reserve_of_ids_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _text: str) -> None:
        raise OSError(28, "No space left on device")

    async def scenario() -> None:
        three = Three(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(numbering, "write_durably", full)
            await three.start()
        try:
            one = three.followers[0]
            assert not (await one.put(b"k"))[0]
            assert sum("request ids cannot be reserved" in line for line in one.log.lines) == 1
            one.node._clustering._numbering._next_try_ms = 0
            await until(lambda: numbering.read_ceiling(one.node._member.directory.path) > 0)
        finally:
            await three.stop()

    asyncio.run(scenario())


def test_who_reads_its_own_data_for_long_does_not_wait_for_others(tmp_path: Path) -> None:
    """Or a rolling update would go on at the moment in which a large member has read its data, and does not vote yet."""

    class Slow(SystemClock, Opener):
        took_ns = 0

        def mono_ns(self) -> int:
            return super().mono_ns() + self.took_ns

        def open(self, *arguments: Any) -> Member:
            self.took_ns = 10_000_000_000
            return super().open(*arguments)

    async def scenario() -> None:
        three = Three(tmp_path)
        await three.start()
        assert not any(one.node.awaits_others for one in three.all)
        await three.stop()
        one, slow = three.all[0], Slow()
        one.clock = slow
        starting = asyncio.create_task(one.start_anew(opener=slow))
        try:
            await until(lambda: one.node._running)
            assert not one.node.awaits_others
            await until(lambda: one.node._kernel.state != 0)  # it campaigns, and nobody answers
            assert not one.node.awaits_others
            slow.took_ns += limits.HEALTH_ALONE_MS * 1_000_000
            assert one.node.awaits_others
            other = asyncio.create_task(three.all[1].start_anew())
            await starting
            await other
            await until(lambda: not one.node.awaits_others, 2)
        finally:
            await three.stop()

    asyncio.run(scenario())


def test_a_leader_whose_heartbeats_are_late_counts_them(tmp_path: Path) -> None:
    """As etcd: for each member one that leaves later than two intervals after the one before."""

    async def scenario() -> None:
        three = Three(tmp_path, election_ms_min=2_000, election_ms_max=3_000, heartbeat_ms=50)
        await three.start()
        try:
            leader = three.leader.node
            name = "etcd_server_heartbeat_send_failures_total"
            await asyncio.sleep(0.2)  # it leads, and beats
            before = leader.counters()[name]
            time.sleep(0.3)
            await asyncio.sleep(0.2)
            assert leader.counters()[name] - before in (2, 4), "two members, and on a busy machine the next one may be late as well"
            assert [one.node.counters()[name] for one in three.followers] == [0, 0]
        finally:
            await three.stop()

    asyncio.run(scenario())


def test_promotions_are_counted_where_the_leader_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        ports = dict(zip("ax", free_ports(2), strict=True))
        first, second = One(tmp_path, "a", {"a": ports["a"]}), One(tmp_path, "x", ports)
        await first.node.start()
        try:
            await second.node.start()
            await until(lambda: len(first.node._kernel.voter_ids) == 2)
            with pytest.raises(StatusError, match="can only promote a learner member"):
                await second.node.promote(first.node.member_id)
            name = "etcd_server_learner_promote_successes"
            await until(lambda: first.node.counters()[name] == 1)  # it is applied behind the moment at which it is in force
            assert second.node.counters()[name] == 0
            assert first.node.promotion_failures()["membership: can only promote a learner member"] == 1
            assert not second.node.promotion_failures()
            await second.node.stop()
        finally:
            await first.node.stop()

    asyncio.run(scenario())
