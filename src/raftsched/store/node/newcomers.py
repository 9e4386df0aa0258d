"""Who joined while this member was away: it may be led by one that its own log has not told it of.

Nobody unknown is let in, and the leader of a cluster may be unknown to who was cut off for long: it would hear of no leader, and never be
told why, until one that it knows leads again. So who hears of no leader asks those that it knows for the members, and lets these in
before its log tells it of them, as one that joins does. What they say afterwards is judged by Raft alone.
Must not know: how asks travel, the kernel.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

from raftsched.store import asks
from raftsched.store.asks import InCluster, Look
from raftsched.store.node.joining import AskPeer
from raftsched.store.node.reception import look
from raftsched.types import MemberInfo

ROUND_S: Final = 0.5
QUIET_ROUNDS: Final = 2  # an election is over by then
AGAIN_ROUNDS: Final = 4


class Others(Protocol):
    """What is used of `Peering`."""

    def others(self) -> Collection[int]:
        """Who is known."""

    def meet(self, members: Sequence[MemberInfo]) -> None:
        """These are members, as others say."""


async def keep_looking(others: Others, own_id: int, leader: Callable[[], int], state: Callable[[], InCluster], ask: AskPeer) -> None:
    """For as long as it is let: while there is no leader, everybody known is asked who belongs to the cluster."""
    quiet = 0
    while True:
        await asyncio.sleep(ROUND_S)
        quiet = 0 if leader() else quiet + 1
        if quiet >= QUIET_ROUNDS and (quiet - QUIET_ROUNDS) % AGAIN_ROUNDS == 0:
            await look_around(others, own_id, state(), ask)


async def look_around(others: Others, own_id: int, own: InCluster, ask: AskPeer) -> None:
    """Once."""
    payload = asks.encode_ask(Look(own.name, own.cluster_id, own.incarnation))
    answers = await asyncio.gather(*(look(one, payload, ask) for one in own.members if one.member_id != own_id))
    known = {own_id, *others.others()}
    found = {
        one.member_id: one
        for answer in answers
        if answer is not None and answer.cluster_id == own.cluster_id and answer.incarnation in (own.incarnation, 0)
        for one in answer.members
        if one.member_id not in known
    }
    if found:
        others.meet(list(found.values()))
