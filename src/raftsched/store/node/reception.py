"""What a member says when it is asked, and what a member with data asks: are the others of its cluster?

    Reception        answers whoever asks, empty or not; passes JOIN on to the leader
    check_cluster()  before a member with data serves; keep_checking() until all have answered
    check_list()     the same of listed members that its cluster does not know; keep_checking_list() while those are most of the list
    check_force()    before one goes on alone

Must not know: how asks travel, the kernel.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol

from raftsched.errors import FatalError, PeerError
from raftsched.ports import Log
from raftsched.store import asks
from raftsched.store.asks import Answer, InCluster, JoinAsk, Later, Listed, Look, Refused
from raftsched.store.forming import Forming, Refuse, Wait, check_listed, check_peers, cluster_name, has_majority
from raftsched.store.node.joining import JOIN_TIMEOUT_MS, LOOK_INTERVAL_MS, LOOK_TIMEOUT_MS, AskPeer, Said
from raftsched.store.transport.ports import JOIN
from raftsched.types import MemberInfo

CHECK_INTERVAL_MS: Final = 5_000
LIST_INTERVAL_MS_MAX: Final = 60_000
LEADER_TIMEOUT_MS: Final = JOIN_TIMEOUT_MS - 1_000  # less than the asker waits


class Host(Protocol):
    """What answering needs of the node."""

    @property
    def member_id(self) -> int: ...
    @property
    def leader_id(self) -> int: ...
    def state(self) -> InCluster | None:
        """None: this member is empty."""

    def take_in(self, ask: JoinAsk) -> Awaitable[Answer]:
        """`MembershipChanges.take_in`."""

    def request(self, member_id: int, kind: int, payload: bytes, timeout_ms: int) -> Awaitable[bytes]:
        """`Peers.request`. Raises PeerError."""


class Reception:
    """Answers asks; `forming` is that of this member while it is empty."""

    def __init__(self, host: Host, forming: Forming | None, *, log: Log, mono_ms: Callable[[], int]) -> None:
        self._host = host
        self.forming = forming
        self.strange = asyncio.Event()
        """Set when a member of another cluster asks."""
        self._say = Said(log, mono_ms)

    async def answer(self, payload: bytes) -> bytes:
        """`PeerHandler.on_ask`: garbage is told so, and nothing else happens."""
        return asks.encode_answer(await self._answer(payload))

    async def on_join(self, payload: bytes) -> bytes:
        """JOIN as another member passed it on."""
        ask = asks.decode_ask(payload)
        if not isinstance(ask, JoinAsk):
            return asks.encode_answer(Refused("that is no ask"))
        return asks.encode_answer(await self._host.take_in(ask))

    async def _answer(self, payload: bytes) -> Answer:
        ask, state = asks.decode_ask(payload), self._host.state()
        if ask is None:
            return Refused("that is no ask")
        if state is None:
            return self.forming.answer if isinstance(ask, Look) and self.forming is not None else Later("this member has no cluster yet")
        if isinstance(ask, JoinAsk):
            return await self._take_in(ask, payload, state)
        if _is_strange(ask, state):
            theirs, ours = cluster_name((ask.cluster_id, ask.incarnation)), cluster_name((state.cluster_id, state.incarnation))
            self.strange.set()
            self._say(f"a member of another cluster asked: {ask.name!r} is in {theirs}, this one in {ours}")
        return state

    async def _take_in(self, ask: JoinAsk, payload: bytes, state: InCluster) -> Answer:
        leader = self._host.leader_id
        if not leader:
            voters = sum(not one.is_learner for one in state.members)
            return Later(f"it has no leader; if a majority of its {voters} voters is lost for good, --force-new-cluster brings one back")
        if leader == self._host.member_id:
            return await self._host.take_in(ask)
        try:
            answer = asks.decode_answer(await self._host.request(leader, JOIN, payload, LEADER_TIMEOUT_MS))
        except PeerError as error:
            urls = next((one.peer_urls for one in state.members if one.member_id == leader), ())
            return Later(f"its leader did not answer: {error.text}", urls)
        return answer or Later("its leader answered with something else")


def _is_strange(ask: Look, state: InCluster) -> bool:
    if ask.cluster_id not in (0, state.cluster_id):
        return True
    return ask.incarnation != state.incarnation and 0 not in (ask.incarnation, state.incarnation)


# -- a member with data


async def check_cluster(own_id: int, state: Callable[[], InCluster], ask: AskPeer, *, log: Log, mono_ms: Callable[[], int]) -> set[int]:
    """Asks all stored members, again while their answers contradict each other; the ids of those that have not answered.

    Raises FatalError if this member is of another cluster than the majority. To be done before any message of Raft is taken or sent.
    """
    say = Said(log, mono_ms)
    while True:
        own = state()
        payload = asks.encode_ask(Look(own.name, own.cluster_id, own.incarnation))
        others = [one for one in own.members if one.member_id != own_id]
        answers = await asyncio.gather(*(look(one, payload, ask) for one in others))
        verdict = check_peers(own, [answer for answer in answers if answer is not None])
        if isinstance(verdict, Refuse):
            raise FatalError(verdict.line)
        if verdict.line:
            say(verdict.line)
        if not isinstance(verdict, Wait):
            return {one.member_id for one, answer in zip(others, answers, strict=True) if answer is None}
        await asyncio.sleep(LOOK_INTERVAL_MS / 1000)


async def check_list(own: InCluster, listed: Sequence[Listed], ask: AskPeer, log: Log) -> None:
    """Before it serves: asks the listed members that the cluster of this one does not know. Raises FatalError if they are a cluster
    without it."""
    verdict = check_listed(own, listed, await _ask_strangers(own, listed, ask))
    if isinstance(verdict, Refuse):
        raise FatalError(verdict.line)
    if verdict.line:
        log.warning(verdict.line)


async def keep_checking_list(
    state: Callable[[], InCluster],
    listed: Sequence[Listed],
    ask: AskPeer,
    strange: asyncio.Event,
    *,
    log: Log,
    mono_ms: Callable[[], int],
) -> None:
    """While the cluster of this member, which serves, is not a majority of the list: asks the listed members that it does not know, more
    and more rarely, and soon again when one of another cluster has asked here. Raises FatalError if they are a cluster without it.
    """
    say, delay_ms = Said(log, mono_ms), LOOK_INTERVAL_MS
    while _strangers(state(), listed) and not has_majority(state(), listed):
        delay_ms = LOOK_INTERVAL_MS if await _is_met(strange, delay_ms) else min(2 * delay_ms, LIST_INTERVAL_MS_MAX)
        strange.clear()
        answers = await _ask_strangers(state(), listed, ask)
        verdict = check_listed(state(), listed, answers, serving=True)
        if isinstance(verdict, Refuse):
            raise FatalError(verdict.line)
        if verdict.line:
            say(verdict.line)


async def _is_met(strange: asyncio.Event, delay_ms: int) -> bool:
    """Waits; whether somebody of another cluster asked meanwhile."""
    try:
        async with asyncio.timeout(delay_ms / 1000):
            await strange.wait()
            await asyncio.sleep(LOOK_INTERVAL_MS / 1000)  # however often they ask
    except TimeoutError:
        return strange.is_set()
    return True


def _strangers(own: InCluster, listed: Sequence[Listed]) -> list[MemberInfo]:
    """Listed members that its cluster does not know."""
    known = {one.name for one in own.members} | {own.name}
    return [MemberInfo(0, one.name, one.peer_urls, ()) for one in listed if one.name not in known]


async def _ask_strangers(own: InCluster, listed: Sequence[Listed], ask: AskPeer) -> list[InCluster]:
    """What those of them that have data answer."""
    payload = asks.encode_ask(Look(own.name, own.cluster_id, own.incarnation))
    answers = await asyncio.gather(*(look(one, payload, ask) for one in _strangers(own, listed)))
    return [answer for answer in answers if answer is not None]


async def check_force(own_name: str, others: Iterable[MemberInfo], ask: AskPeer) -> None:
    """Before `--force-new-cluster` is done. Raises FatalError if a majority of the cluster is there: then nothing is lost, and going on
    alone would make a second cluster of it."""
    payload = asks.encode_ask(Look(own_name))
    answers = [answer for answer in await asyncio.gather(*(look(one, payload, ask) for one in others)) if answer is not None]
    there = {own_name, *(answer.name for answer in answers)}
    for answer in answers:
        voters = [one.name for one in answer.members if not one.is_learner]
        if sum(one in there for one in voters) > len(voters) // 2:
            names = ", ".join(sorted(there - {own_name}))
            raise FatalError(
                f"--force-new-cluster: of the cluster's members {names} answered, with "
                "this member a majority: refusing to begin another one. Nothing was changed; start without the flag"
            )


async def keep_checking(own_id: int, state: Callable[[], InCluster], ask: AskPeer, *, log: Log, mono_ms: Callable[[], int]) -> None:
    """For the rest of the members: until each has answered once. Raises FatalError as `check_cluster` does."""
    while await check_cluster(own_id, state, ask, log=log, mono_ms=mono_ms):
        await asyncio.sleep(CHECK_INTERVAL_MS / 1000)


async def look(member: MemberInfo, payload: bytes, ask: AskPeer) -> InCluster | None:
    """What that member answers, at the first of its URLs where one with a cluster does; None: nowhere."""
    for url in member.peer_urls:
        try:
            answer = asks.decode_answer(await ask(url, payload, LOOK_TIMEOUT_MS))
        except PeerError:
            continue
        if isinstance(answer, InCluster):
            return answer
    return None
