"""When a leader's proposals wait for others, and for how long at most."""

import asyncio

from raftsched.store.node.gathering import GATHER_BYTES, GATHER_MS, Gathering
from raftsched.store.raft._kernel import Kernel, Message

APPEND_RESPONSE, VOTE_RESPONSE, PRE_VOTE_RESPONSE = 4, 6, 18


def settle(kernel: Kernel) -> None:
    while (ready := kernel.ready()) is not None:
        if ready.batch:
            kernel.persisted(ready.batch)
        for first, _, _, items in ready.committed:
            kernel.advance(first + len(items) - 1)


def leader(voters: tuple[int, ...]) -> Kernel:
    """One that has committed all it has."""
    kernel = Kernel(1, voters=voters, seed=7)
    while kernel.state not in (1, 3):
        kernel.tick()
    if kernel.state == 1:
        settle(kernel)
        kernel.step(Message(PRE_VOTE_RESPONSE, 1, 2, kernel.term + 1))
        settle(kernel)
        kernel.step(Message(VOTE_RESPONSE, 1, 2, kernel.term))
        settle(kernel)
        kernel.step(Message(APPEND_RESPONSE, 1, 2, kernel.term, index=kernel.last_index))
    settle(kernel)
    assert kernel.state == 3
    assert kernel.commit == kernel.last_index
    return kernel


class Turns:
    """Counts them; a turn takes what waits."""

    def __init__(self, kernel: Kernel) -> None:
        self.count = 0
        self.gathering = Gathering(kernel, self.turn, asyncio.get_running_loop())

    def turn(self) -> None:
        self.count += 1
        self.gathering.taken()


async def test_what_finds_nothing_on_its_way_is_taken_at_once() -> None:
    turns = Turns(leader((1, 2, 3)))
    turns.gathering.arrived(10)
    assert turns.count == 1


async def test_what_comes_while_entries_are_on_their_way_waits_a_moment() -> None:
    kernel = leader((1, 2, 3))
    kernel.propose([b"first"])
    turns = Turns(kernel)
    turns.gathering.arrived(10)
    turns.gathering.arrived(10)
    assert turns.count == 0
    assert not turns.gathering.stalled, "the timer ends it"
    await asyncio.sleep(20 * GATHER_MS / 1000)
    assert turns.count == 1, "nobody waits for a commit that does not come"


async def test_the_timer_does_nothing_when_a_turn_came_before_it() -> None:
    kernel = leader((1, 2, 3))
    kernel.propose([b"first"])
    turns = Turns(kernel)
    turns.gathering.arrived(0)
    turns.turn()
    await asyncio.sleep(20 * GATHER_MS / 1000)
    assert turns.count == 1


async def test_large_proposals_do_not_wait() -> None:
    kernel = leader((1, 2, 3))
    kernel.propose([b"first"])
    turns = Turns(kernel)
    turns.gathering.arrived(GATHER_BYTES)
    assert turns.count == 0
    turns.gathering.arrived(1)
    assert turns.count == 1
    turns.gathering.close()


async def test_a_lone_voter_waits_for_the_end_of_its_write() -> None:
    kernel = leader((1,))
    kernel.propose([b"first"])
    turns = Turns(kernel)
    turns.gathering.arrived(10)
    assert turns.count == 0
    assert turns.gathering.stalled
    turns.gathering.taken()
    assert not turns.gathering.stalled


async def test_who_does_not_lead_passes_on_at_once() -> None:
    kernel = Kernel(1, voters=(1, 2, 3), seed=7)
    turns = Turns(kernel)
    turns.gathering.arrived(10)
    assert turns.count == 1
