"""Empty members on the loop: forming together, joining through any member, the checks of a member with data, and hand-written logs."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from raftsched.errors import EtcdError, FatalError, PeerCode, PeerError, status_of
from raftsched.store import asks, membership
from raftsched.store.asks import Granted, InCluster, JoinAsk, Later, Listed, Look, Refused
from raftsched.store.forming import Form, Forming
from raftsched.store.membership import Membership
from raftsched.store.node import NodeOptions, beginning, joining, reception
from raftsched.store.node.joining import Marker, Settling, promote_self
from raftsched.store.node.reception import Reception, check_cluster, keep_checking, keep_checking_list
from raftsched.store.transport.ports import JOIN
from raftsched.store.wal.format import Metadata
from raftsched.store.wal.log import open_log
from raftsched.testing.peers import Member, until
from raftsched.types import HardState, MemberInfo

LISTED = tuple(Listed(name, (f"http://{name}:1",)) for name in "abc")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (joining, reception):
        monkeypatch.setattr(room, "LOOK_INTERVAL_MS", 5)
    monkeypatch.setattr(joining, "JOIN_PAUSE_MS", 5)
    monkeypatch.setattr(joining, "PROMOTE_INTERVAL_MS", 1)
    monkeypatch.setattr(reception, "CHECK_INTERVAL_MS", 5)


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def __getattr__(self, _level: str):
        return lambda message, **fields: self.lines.append(f"{message} {fields}")


class Site:
    """Members that ask each other directly."""

    def __init__(self) -> None:
        self.members: dict[str, Peer] = {}
        self.log = Log()
        self.now_ms = 0

    def mono_ms(self) -> int:
        self.now_ms += 1
        return self.now_ms

    async def ask(self, url: str, payload: bytes, timeout_ms: int) -> bytes:
        await asyncio.sleep(0)
        peer = self.members.get(url)
        if peer is None:
            raise PeerError(PeerCode.UNREACHABLE, "nobody")
        return await peer.reception.answer(payload)


class Peer:
    """One member: empty until `has` is set."""

    def __init__(self, site: Site, listed: Listed, *, form_wait_ms: int | None = 300, member_id: int = 0, list_=LISTED) -> None:
        self.site, self.listed, self.member_id, self.leader_id = site, listed, member_id, 0
        self.has: InCluster | None = None
        self.joined: list[JoinAsk] = []
        self.answers: Granted | Later | Refused = Later("not yet")
        self.passed_on: list[tuple[int, int]] = []
        self.forming = Forming(listed, list_, form_wait_ms=form_wait_ms, cluster_token="t") if listed in list_ else None
        self.settling = Settling(self.forming, own=listed, listed=list_, ask=site.ask, log=site.log, mono_ms=site.mono_ms)
        self.reception = Reception(self, self.forming, log=site.log, mono_ms=site.mono_ms)
        site.members[listed.peer_urls[0]] = self

    def state(self) -> InCluster | None:
        return self.has

    async def take_in(self, ask: JoinAsk):
        self.joined.append(ask)
        return self.answers

    async def request(self, member_id: int, kind: int, payload: bytes, timeout_ms: int) -> bytes:
        self.passed_on.append((member_id, kind))
        for peer in self.site.members.values():
            if peer.member_id == member_id:
                return await peer.reception.on_join(payload)
        raise PeerError(PeerCode.UNREACHABLE, "gone")


def in_cluster(name: str, *, cluster_id: int = 7, incarnation: int = 5, ids=(1, 2, 3)) -> InCluster:
    members = tuple(MemberInfo(number, f"m{number}", (f"http://m{number}:1",), ()) for number in ids)
    return InCluster(name, cluster_id, incarnation, False, members)


def run(work):
    return asyncio.run(asyncio.wait_for(work, 20))


def test_three_empty_members_form_one_cluster() -> None:
    site = Site()
    peers = [Peer(site, one) for one in LISTED]

    async def all_settle():
        return await asyncio.gather(*(one.settling.settle() for one in peers))

    decisions = run(all_settle())
    assert all(isinstance(one, Form) for one in decisions)
    assert len({tuple(one.entries) for one in decisions}) == 1


def test_two_of_three_form_after_the_wait_and_the_missing_one_is_named() -> None:
    site = Site()
    peers = [Peer(site, one) for one in LISTED[:2]]

    async def both():
        return await asyncio.gather(*(one.settling.settle() for one in peers))

    assert all(isinstance(one, Form) for one in run(both()))
    assert site.now_ms >= 300
    assert any("c (http://c:1) not reached" in line for line in site.log.lines)


def test_an_empty_member_joins_through_a_follower_that_asks_its_leader() -> None:
    site = Site()
    newcomer, follower = Peer(site, LISTED[0]), Peer(site, LISTED[1], member_id=1)
    leader = Peer(site, Listed("elsewhere", ("http://elsewhere:1",)), member_id=2)
    follower.has = leader.has = in_cluster("b")
    follower.leader_id = leader.leader_id = 2
    leader.answers = Granted(9, 7, leader.has.members, True)
    assert run(newcomer.settling.settle()) == leader.answers
    assert leader.joined == [JoinAsk("a", ("http://a:1",))]
    assert follower.passed_on == [(2, JOIN)]


def test_joining_is_asked_again_until_it_is_granted_and_says_why_it_waits() -> None:
    site = Site()
    newcomer, leader = Peer(site, LISTED[0]), Peer(site, LISTED[1], member_id=1)
    leader.has = in_cluster("b")

    async def later():
        task = asyncio.ensure_future(newcomer.settling.settle())
        await asyncio.sleep(0.05)
        assert not task.done()
        leader.leader_id = 1
        await asyncio.sleep(0.05)
        leader.answers = Granted(9, 7, leader.has.members, True)
        return await task

    assert run(later()).member_id == 9
    text = "\n".join(site.log.lines)
    assert "it has no leader; if a majority of its 3 voters is lost for good, --force-new-cluster" in text
    assert "waiting to be taken in by cluster 7: not yet" in text
    assert text.count("not yet") == 1  # said once in ten seconds


def test_another_member_that_is_named_is_asked_too() -> None:
    site = Site()
    newcomer, follower = Peer(site, LISTED[0]), Peer(site, LISTED[1], member_id=1)
    leader = Peer(site, Listed("far", ("http://m2:1",)), member_id=99)
    follower.has = leader.has = in_cluster("b")
    follower.leader_id = 2  # not connected to it: says where it is
    leader.leader_id = 99
    leader.answers = Granted(9, 7, leader.has.members, True)
    assert run(newcomer.settling.settle()) == leader.answers


@pytest.mark.parametrize("words", ["given member URLs are invalid", "never"])
def test_a_refused_join_ends_with_its_line(words: str) -> None:
    site = Site()
    newcomer, leader = Peer(site, LISTED[0]), Peer(site, LISTED[1], member_id=1)
    leader.has, leader.leader_id, leader.answers = in_cluster("b"), 1, Refused(words)
    with pytest.raises(FatalError, match=f"cluster 7 does not take this member in: {words}"):
        run(newcomer.settling.settle())


def test_contradicting_lists_end_with_a_line_and_no_task_stays() -> None:
    site = Site()
    first = Peer(site, LISTED[0])
    Peer(site, LISTED[1], list_=(LISTED[0], LISTED[1], Listed("c", ("http://other:1",))))

    async def refused() -> set:
        before = asyncio.all_tasks()
        with pytest.raises(FatalError, match="the lists contradict each other"):
            await first.settling.settle()
        return asyncio.all_tasks() - before

    assert run(refused()) == set()


def test_answers_of_empty_and_full_members() -> None:
    site = Site()
    peer = Peer(site, LISTED[0], member_id=1)

    def answer(data: bytes):
        return asks.decode_answer(run(peer.reception.answer(data)))

    assert answer(asks.encode_ask(Look("b"))) == peer.forming.answer
    assert isinstance(answer(asks.encode_ask(JoinAsk("b", ("http://b:1",)))), Later)
    assert answer(b"\xff\xff") == Refused("that is no ask")
    peer.has = in_cluster("a")
    assert answer(asks.encode_ask(Look("b", 7, 5))) == peer.has
    assert not site.log.lines
    for strange in (Look("b", 8, 5), Look("x", 7, 6)):
        assert answer(asks.encode_ask(strange)) == peer.has
    assert len(site.log.lines) == 2
    assert "'x' is in cluster 7 begun as 6, this one in cluster 7 begun as 5" in site.log.lines[1]
    assert asks.decode_answer(run(peer.reception.on_join(b"\xff"))) == Refused("that is no ask")
    peer.leader_id = 77  # gone
    assert isinstance(answer(asks.encode_ask(JoinAsk("b", ("http://b:1",)))), Later)


# -- over sockets


class Wired(Peer):
    """A member whose asks and requests go through `Peers`."""

    def __init__(self, site: Site, member: Member, listed: Listed, list_: tuple[Listed, ...], number: int) -> None:
        super().__init__(site, listed, list_=list_, member_id=number)
        self.transport = member
        member.handler.on_ask = self.reception.answer
        member.handler.answering = lambda _sender, kind, payload: self.reception.on_join(payload)
        self.settling = Settling(self.forming, own=listed, listed=list_, ask=member.peers.ask, log=site.log, mono_ms=site.mono_ms)

    async def request(self, member_id: int, kind: int, payload: bytes, timeout_ms: int) -> bytes:
        return await self.transport.peers.request(member_id, kind, payload, timeout_ms)


def test_forming_and_joining_over_real_connections() -> None:
    async def all_of_it():
        site, transports = Site(), [Member(number) for number in (1, 2, 3)]
        for one in transports:
            await one.peers.start()
        listed = tuple(Listed(f"m{one.id}", (one.url,)) for one in transports)
        wired = [Wired(site, one, mine, listed, one.id) for one, mine in zip(transports, listed, strict=True)]
        formed = await asyncio.gather(*(one.settling.settle() for one in wired))
        assert all(isinstance(one, Form) for one in formed)
        assert len({one.cluster_id for one in formed}) == 1
        for one in transports[:2]:  # m3 lost its disk; m1 leads
            one.peers.join(cluster_id=7, member_id=one.id)
            one.peers.update({1: [transports[0].url], 2: [transports[1].url]})
        wired[0].has = wired[1].has = in_cluster("m1")
        wired[0].leader_id = wired[1].leader_id = 1
        wired[0].answers = Granted(9, 7, wired[0].has.members, True)
        await until(lambda: transports[1].peers.is_connected(1))
        follower_alone = Settling(
            Forming(listed[2], listed[1:], form_wait_ms=None, cluster_token="t"),
            own=listed[2],
            listed=listed[1:],
            ask=transports[2].peers.ask,
            log=site.log,
            mono_ms=site.mono_ms,
        )
        granted = await follower_alone.settle()
        for one in transports:
            await one.peers.close()
        return granted, wired[0].joined

    granted, joined = run(all_of_it())
    assert granted.member_id == 9
    assert [one.name for one in joined] == ["m3"]


# -- a member with data


def with_data(site: Site, number: int, **more) -> None:
    Peer(site, Listed(f"m{number}", (f"http://m{number}:1",)), member_id=number).has = in_cluster(f"m{number}", **more)


def check(site: Site, own: InCluster) -> set[int]:
    return run(check_cluster(1, lambda: own, site.ask, log=site.log, mono_ms=site.mono_ms))


def test_who_has_not_answered_is_named_and_asked_until_it_has() -> None:
    site = Site()
    with_data(site, 2)
    assert check(site, in_cluster("m1")) == {3}

    async def until_all():
        task = asyncio.ensure_future(keep_checking(1, lambda: in_cluster("m1"), site.ask, log=site.log, mono_ms=site.mono_ms))
        await asyncio.sleep(0.05)
        assert not task.done()
        with_data(site, 3)
        await task

    run(until_all())


def test_a_slow_old_member_refuses_and_says_which() -> None:
    site = Site()
    with_data(site, 2, incarnation=6)
    with_data(site, 3, incarnation=6)
    with pytest.raises(FatalError, match="m2, m3: cluster 7 begun as 6"):
        check(site, in_cluster("m1"))


def test_without_a_majority_it_waits_and_says_so() -> None:
    site = Site()
    with_data(site, 2, incarnation=6)

    async def waits():
        task = asyncio.ensure_future(check_cluster(1, lambda: in_cluster("m1"), site.ask, log=site.log, mono_ms=site.mono_ms))
        await asyncio.sleep(0.05)
        assert not task.done()
        with_data(site, 3)
        return await task

    assert run(waits()) == set()
    assert any("waiting for a majority" in line for line in site.log.lines)


MINE = InCluster("m1", 9, 3, False, (MemberInfo(1, "m1", ("http://m1:1",), ()),))
THREE = tuple(Listed(f"m{number}", (f"http://m{number}:1",)) for number in (1, 2, 3))


class Alone:
    """A member that serves what nobody else on its list knows."""

    def __init__(self, site: Site) -> None:
        self.state, self.site, self.asked_at = MINE, site, []  # type: ignore[var-annotated]
        self.reception = Peer(site, THREE[0], member_id=1, list_=THREE).reception

    async def ask(self, url: str, payload: bytes, timeout_ms: int) -> bytes:
        self.asked_at.append(asyncio.get_running_loop().time())
        return await self.site.ask(url, payload, timeout_ms)

    def checking(self) -> asyncio.Future[None]:
        strange = self.reception.strange
        work = keep_checking_list(lambda: self.state, THREE, self.ask, strange, log=self.site.log, mono_ms=self.site.mono_ms)
        return asyncio.ensure_future(work)


def test_a_foreign_directory_that_was_started_before_all_others_is_found_out_when_they_are_there() -> None:
    async def story() -> None:
        site = Site()
        task = Alone(site).checking()
        await asyncio.sleep(0.05)
        with_data(site, 2)
        await asyncio.sleep(0.1)
        assert not task.done(), "one of three could be the one with the wrong directory"
        assert any("m2, which is listed, is in cluster 7" in line for line in site.log.lines)
        with_data(site, 3)
        with pytest.raises(FatalError, match=r"with m1, m2, m3: not serving any more\. What was written here stays here"):
            await task

    run(story())


def test_who_is_of_the_other_cluster_need_only_ask_to_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "LIST_INTERVAL_MS_MAX", 60_000)

    async def story() -> None:
        site = Site()
        alone = Alone(site)
        task = alone.checking()
        await until(lambda: len(alone.asked_at) == 16)
        gaps = [later - sooner for sooner, later in zip(alone.asked_at[::2], alone.asked_at[2::2], strict=False)]
        assert gaps[-1] > 0.6, "5, 10, 20 … 640 ms: less and less often"
        assert gaps[0] < gaps[-1] / 4
        with_data(site, 2)
        with_data(site, 3)
        site.members["http://m1:1"].has = MINE
        began = asyncio.get_running_loop().time()
        for number in (2, 3):
            check = asyncio.ensure_future(check_cluster(number, lambda: in_cluster("m2"), site.ask, log=site.log, mono_ms=site.mono_ms))
            await check
        with pytest.raises(FatalError):
            await task
        assert asyncio.get_running_loop().time() - began < 0.6, "not after 1,280 ms"

    run(story())


@pytest.mark.parametrize("names", ["m1 m2", "m1 m2 m3"])
def test_once_its_cluster_is_most_of_the_list_nobody_is_asked_any_more(names: str) -> None:
    async def story() -> None:
        site = Site()
        alone = Alone(site)
        task = alone.checking()
        await asyncio.sleep(0.05)
        assert not task.done()
        members = tuple(MemberInfo(number, name, (f"http://{name}:1",), ()) for number, name in enumerate(names.split(), 1))
        alone.state = InCluster("m1", 9, 3, False, members)
        await task

    run(story())


def test_who_knows_all_of_its_list_asks_nobody() -> None:
    async def story() -> None:
        site = Site()
        alone = Alone(site)
        alone.state = in_cluster("m1")
        await alone.checking()
        assert not alone.asked_at

    run(story())


# -- a joiner


def test_the_marker_outlives_a_restart_and_goes_with_the_promotion(tmp_path: Path) -> None:
    members = in_cluster("x").members
    marker, log = Marker(tmp_path), Log()
    assert marker.read() is None
    marker.write(members)
    assert Marker(tmp_path).read() == members
    asked: list[int] = []

    async def promote() -> None:
        asked.append(1)
        if len(asked) < 3:
            raise status_of(EtcdError.LEARNER_NOT_READY)

    learner = MemberInfo(9, "", URLS, (), is_learner=True)
    looks: list[int] = []

    def me() -> MemberInfo | None:
        looks.append(1)
        if len(looks) == 1:
            return None  # its log has not told it yet
        return replace(learner, is_learner=len(asked) < 3)

    run(promote_self(marker, me, promote, log=log, mono_ms=lambda: 0))
    assert (len(looks), len(asked)) == (5, 3)
    assert marker.read() is None
    assert list(tmp_path.iterdir()) == []
    marker.remove()
    assert sum("not a voter yet" in line for line in log.lines) == 1


def test_who_was_added_as_a_learner_waits_for_its_promotion(tmp_path: Path) -> None:
    marker, looks = Marker(tmp_path), list[int]()
    marker.write(in_cluster("x").members)
    learner = MemberInfo(9, "", URLS, (), is_learner=True, stays_learner=True)

    async def promote() -> None:
        raise AssertionError("nobody has asked for it")

    def me() -> MemberInfo:
        looks.append(1)
        return learner if len(looks) < 3 else replace(learner, is_learner=False, stays_learner=False)

    run(promote_self(marker, me, promote, log=Log(), mono_ms=lambda: 0))
    assert marker.read() is None


def test_how_a_learner_came_is_kept_until_it_votes() -> None:
    for stays in (False, True):
        table = Membership(lambda _: None)
        told = MemberInfo(9, "", URLS, (), is_learner=True, stays_learner=stays)
        table.apply_change(membership.encode_change(membership.ADD_LEARNER, 9, membership.encode_json(told)))
        table.apply_attributes(membership.encode_attributes(9, "nine", ()))
        moved = membership.encode_json(replace(told, peer_urls=("http://b:1",)))
        table.apply_change(membership.encode_change(membership.UPDATE_NODE, 9, moved))
        known = table.member(9)
        assert known == MemberInfo(9, "nine", ("http://b:1",), (), is_learner=True, stays_learner=stays)
        assert membership.decode_json(membership.encode_json(known)) == known
        table.apply_change(membership.encode_change(membership.ADD_NODE, 9, membership.encode_promotion(known)))
        assert table.member(9) == MemberInfo(9, "nine", ("http://b:1",), ())


@pytest.mark.parametrize("content", [b"", b"{\xff", b"{}", bytes(9), b'{"id":7}\n\n{"id":8}', b"[[" * 9_000])
def test_a_broken_marker_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / joining.MARKER_NAME).write_bytes(content)
    with pytest.raises(FatalError, match=r"JOINING is damaged, .*(no member: |it is empty).*; .*begin anew: empty .* and start it again"):
        Marker(tmp_path).read()
    with pytest.raises(FatalError, match="cannot write"):
        Marker(tmp_path / "nowhere").write(())


# -- logs written by hand

URLS = ("http://a:1",)


def opened(path: Path, after_index: int = 0):
    return open_log(str(path), metadata=Metadata(node_id=1, cluster_id=7), after_index=after_index, segment_bytes=1 << 20)


def founders(count: int) -> list[bytes]:
    return [
        membership.encode_change(membership.ADD_NODE, number, membership.encode_json(MemberInfo(number, "", (f"http://m{number}:1",), ())))
        for number in range(1, count + 1)
    ]


def applied(entries, count: int) -> Membership:
    table = Membership(lambda _: None)
    for entry in entries[:count]:
        table.apply_change(entry)
    return table


def normal(log, first: int, count: int, state: HardState) -> None:
    assert log.wait_durable(log.append(state, first, [state.term] * count, [b"x"] * count), 5_000)


def test_the_first_entries_are_the_founders_and_committed(tmp_path: Path) -> None:
    log, recovered = opened(tmp_path)
    written = beginning.write_first_entries(log, recovered, founders(3))
    log.close()
    log, again = opened(tmp_path)
    log.close()
    for one in (written, again):
        assert (one.hard_state, one.terms, one.datas, one.last_index) == (HardState(1, 0, 3), [1, 1, 1], founders(3), 3)
        assert one.types == {0: 1, 1: 1, 2: 1}


@pytest.mark.parametrize("applied_index", [0, 2, 3, 5])
def test_the_survivor_is_alone_after_force_new_cluster(tmp_path: Path, applied_index: int) -> None:
    entries = founders(3)
    log, recovered = opened(tmp_path)
    beginning.write_first_entries(log, recovered, entries)
    normal(log, 4, 4, HardState(5, 2, 5))  # 4 ... 7, of which 5 are committed
    log.close()
    log, recovered = opened(tmp_path, applied_index)
    table = applied(entries, applied_index)
    forced, gone = beginning.force_new_cluster(log, recovered, table, applied_index=applied_index, me=("me", URLS))
    log.close()
    assert gone == [2, 3]
    log, again = opened(tmp_path, applied_index)
    log.close()
    for one in (forced, again):
        assert one.hard_state == HardState(5, 2, 9)
        assert one.last_index == 9
        assert [membership.decode_change(data)[:2] for data in one.datas[-2:]] == [(membership.REMOVE_NODE, 2), (membership.REMOVE_NODE, 3)]
        assert one.types == {position: 1 for position in range(9 - applied_index) if position + applied_index not in (3, 4, 5, 6)}
    for position, data in enumerate(forced.datas):
        if position in forced.types:
            table.apply_change(data)
    assert [one.member_id for one in table.members()] == [1]
    log, recovered = opened(tmp_path, applied_index)
    table = applied(entries, applied_index)
    _, again_gone = beginning.force_new_cluster(log, recovered, table, applied_index=applied_index, me=("me", URLS))
    assert again_gone == []  # it is alone already
    log.close()


def test_an_own_removal_that_was_not_committed_does_not_count(tmp_path: Path) -> None:
    log, recovered = opened(tmp_path)
    beginning.write_first_entries(log, recovered, founders(3))
    normal(log, 4, 1, HardState(5, 2, 4))
    removal = membership.encode_change(membership.REMOVE_NODE, 1)
    log.wait_durable(log.append(HardState(5, 2, 4), 5, [5, 5], [b"last", removal], types=[0, 1]), 5_000)
    log.close()
    log, recovered = opened(tmp_path)
    forced, gone = beginning.force_new_cluster(log, recovered, applied([], 0), applied_index=0, me=("me", URLS))
    log.close()
    assert gone == [2, 3]
    assert forced.datas[4] == b"last"
    assert (forced.last_index, forced.hard_state) == (7, HardState(5, 2, 7))


def test_a_flag_that_stays_where_it_was_given_forces_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = founders(3)
    log, recovered = opened(tmp_path)
    beginning.write_first_entries(log, recovered, entries)
    log.close()

    def start(*, flag: bool) -> tuple[int, str]:
        """(last index, line)"""
        log, recovered = opened(tmp_path)
        options = NodeOptions(data_dir=str(tmp_path), peer_urls=URLS, force_new_cluster=flag)
        try:
            found, line = beginning.force_once(tmp_path, options, log, recovered, applied([], 0), applied_index=0)
        finally:
            log.close()
        return found.last_index, line

    assert start(flag=False) == (3, "")
    with monkeypatch.context() as patch:
        patch.setattr(beginning, "write_durably", kill)
        with pytest.raises(KeyboardInterrupt):
            start(flag=True)  # what others lose is durable, the mark is not
    last, line = start(flag=True)
    assert (last, "goes on alone" in line) == (5, True)
    log, recovered = opened(tmp_path)  # another joins
    joined = membership.encode_change(membership.ADD_NODE, 9, membership.encode_json(MemberInfo(9, "", ("http://m9:1",), ())))
    log.wait_durable(log.append(HardState(1, 0, 6), 6, [1], [joined], types=[1]), 5_000)
    log.close()
    last, line = start(flag=True)
    assert (last, "is ignored" in line) == (6, True)
    assert start(flag=False) == (6, "")
    assert not beginning.was_forced(tmp_path)
    last, line = start(flag=True)  # lost once more
    assert (last, "removed 9;" in line) == (7, True)


def kill(*_arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("size", "there", "refused"), [(3, 1, True), (3, 2, True), (3, 0, False), (5, 1, False), (5, 2, True), (2, 1, True), (2, 0, False)]
)
def test_nobody_goes_on_alone_while_a_majority_is_there(size: int, there: int, refused: bool) -> None:
    site = Site()
    listed = tuple(Listed(f"m{number}", (f"http://m{number}:1",)) for number in range(1, size + 1))
    for one in listed[1 : 1 + there]:
        Peer(site, one, list_=listed).has = in_cluster(one.name, ids=range(1, size + 1))
    for one in listed[1 + there :]:
        Peer(site, one, list_=listed)  # empty, and counts for nothing
    others = [MemberInfo(0, one.name, one.peer_urls, ()) for one in listed[1:]]
    if refused:
        with pytest.raises(FatalError, match=r"m2.* answered, with this member a majority: refusing"):
            run(reception.check_force("m1", others, site.ask))
    else:
        run(reception.check_force("m1", others, site.ask))


def test_a_learner_or_a_stranger_to_its_own_data_becomes_the_voter(tmp_path: Path) -> None:
    entries = founders(3)[1:]
    learner = MemberInfo(1, "", URLS, (), True)
    entries.append(membership.encode_change(membership.ADD_LEARNER, 1, membership.encode_json(learner)))
    for count, kind in ((3, "learner"), (2, "stranger")):
        path = tmp_path / kind
        path.mkdir()
        log, recovered = opened(path)
        beginning.write_first_entries(log, recovered, entries[:count])
        log.close()
        log, recovered = opened(path)
        forced, _ = beginning.force_new_cluster(log, recovered, applied([], 0), applied_index=0, me=("me", URLS))
        log.close()
        table = applied(forced.datas, len(forced.datas))
        assert table.members() == [MemberInfo(1, "me" if kind == "stranger" else "", URLS, ())]


def test_force_new_cluster_needs_data_and_an_id_that_was_not_removed(tmp_path: Path) -> None:
    log, recovered = opened(tmp_path)
    with pytest.raises(FatalError, match="there are none"):
        beginning.force_new_cluster(log, recovered, applied([], 0), applied_index=0, me=("me", URLS))
    entries = [*founders(2), membership.encode_change(membership.REMOVE_NODE, 1)]
    beginning.write_first_entries(log, recovered, entries)
    log.close()
    log, recovered = opened(tmp_path, 3)
    with pytest.raises(FatalError, match="was removed from its cluster"):
        beginning.force_new_cluster(log, recovered, applied(entries, 3), applied_index=3, me=("me", URLS))
    log.close()
