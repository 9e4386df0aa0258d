"""Stories in which a kernel with one certain fault must go wrong: whole members are led into the schedule that the fault needs, which
chance finds too seldom among them. A sound kernel comes out of each unharmed.

Played by scripts/mutate_kernel.py --sim and test_kernel_stories.py.
"""

import asyncio
import contextlib
from dataclasses import replace
from functools import partial
from typing import Any

from stories import Story, play, serving, until

from raftsched import proposals
from raftsched.errors import StatusError
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.store.membership import REMOVE_NODE
from raftsched.store.node import opening
from raftsched.store.raft._kernel import Message
from raftsched.testing.sim.clients import propose
from raftsched.testing.sim.machine import Machine, Process
from raftsched.testing.sim.network import SimPeers
from raftsched.testing.sim.options import Options, Report
from raftsched.testing.sim.world import World

APPEND, APPEND_RESPONSE, VOTE_RESPONSE = 3, 4, 6
NOBODY = Options(faults=(), clients=0, planners=0, watches=0, apps=0, promptness=False)


def kernel(machine: Machine) -> Any:
    assert machine.process is not None
    assert machine.process.member is not None
    return machine.process.member.replica.kernel


def leader(world: World) -> Machine | None:
    """Of the highest term."""
    leading = [one for one in world.machines if one.serving and kernel(one).state == 3]
    return max(leading, key=lambda one: kernel(one).term, default=None)


async def formed(world: World) -> tuple[Machine, list[Machine]]:
    """The leader, and the others."""
    await until(lambda: serving(world, *range(len(world.machines))), 10.0)
    await asyncio.sleep(1.0)
    first = leader(world)
    assert first is not None
    return first, [one for one in world.machines if one is not first]


def apart(world: World, *groups: list[Machine]) -> None:
    """Only who stands in one group hears each other; who stands in none hears nobody."""
    names = [{one.name for one in group} for group in groups]
    everybody = [one.name for one in world.machines]
    world.network.cut = {
        (one, two) for one in everybody for two in everybody if one != two and not any({one, two} <= group for group in names)
    }


def put(world: World, machine: Machine, key: str) -> None:
    request = pb.PutRequest(key=key.encode(), value=b"v").SerializeToString()
    if machine.process is not None and machine.process.serving:
        world.spawn(propose(machine.process, proposals.PUT, request))


async def lost_vote(world: World) -> None:
    """Two who do not hear each other ask a third one for its vote, which loses power right behind its answer to the first."""
    voter, (one, two) = await formed(world)
    apart(world, [voter, one], [voter, two])
    voter.crash(power_cut=True)
    await asyncio.sleep(1.0)
    granted: asyncio.Future[int] = world.loop.create_future()

    def on_sent(peers: SimPeers, message: Message) -> None:
        if peers.machine == voter.name and message.type == VOTE_RESPONSE and not message.reject and not granted.done():
            granted.set_result(message.to)

    world.network.on_sent = on_sent
    voter.start()
    async with asyncio.timeout(10.0):
        winner = await granted
    voter.crash(power_cut=True)
    await asyncio.sleep(0.01)
    loser = two if one.process is not None and one.process.node.member_id == winner else one
    apart(world, [voter, loser])
    voter.start()
    await asyncio.sleep(3.0)


async def figure_8(world: World) -> None:
    """Thesis figure 3.7: an entry of an old term reaches a majority, and who has it not leads next. Each entry travels alone."""
    first, (second, third, fourth, fifth) = await formed(world)
    apart(world, [first, second], [third, fourth, fifth])
    index = kernel(first).last_index + 1
    put(world, first, "old")
    await asyncio.sleep(0.1)
    first.crash(power_cut=True)
    rival = await _cut_off_when_it_leads(world, [third, fourth, fifth])
    third, fourth = [one for one in (third, fourth, fifth) if one is not rival]
    rival.crash(power_cut=True)
    first.start()
    world.network.censor = partial(_own_term_to, third, index)
    apart(world, [first, second, third])
    await asyncio.sleep(2.5)
    first.crash(power_cut=True)
    second.crash(power_cut=True)
    world.network.censor = None
    apart(world, [third, fourth, rival])
    rival.start()
    await asyncio.sleep(3.0)


async def _cut_off_when_it_leads(world: World, group: list[Machine]) -> Machine:
    """Nobody hears the first word of the next leader among these."""
    leads: asyncio.Future[Machine] = world.loop.create_future()

    def on_sent(peers: SimPeers, message: Message) -> None:
        for one in group:
            if peers.machine == one.name and message.type == APPEND and kernel(one).state == 3 and not leads.done():
                apart(world)
                leads.set_result(one)

    world.network.on_sent = on_sent
    async with asyncio.timeout(10.0):
        found = await leads
    world.network.on_sent = None
    await asyncio.sleep(0.1)  # its own entry comes on its disk
    return found


def _own_term_to(machine: Machine, index: int, _peers: SimPeers, message: Message) -> bool:
    """Entries of the leader's own term are lost on the way to `machine`, once it has entry `index`."""
    if message.type != APPEND or machine.process is None or machine.process.node.member_id != message.to or not message.runs:
        return False
    return bool(kernel(machine).last_index >= index and message.runs[-1][1] == message.term)


async def two_removals(world: World) -> None:
    """A leader with one follower is asked to remove two of the three that do not hear it, which go on without it."""
    first, others = await formed(world)
    apart(world, [first, others[0]], others[1:])
    assert first.process is not None
    for machine in others[1:3]:
        machine.removable = True
        world.spawn(_remove(first.process, machine))
    await asyncio.sleep(3.0)


async def _remove(asked: Process, machine: Machine) -> None:
    assert machine.process is not None
    with contextlib.suppress(StatusError):
        await asked.node.change_members(REMOVE_NODE, machine.process.node.member_id, (), is_learner=False)


async def old_ack(world: World) -> None:
    """A follower acknowledges what the next leader takes from it again; the word comes when its first leader leads once more."""
    first, (follower, second, *rest) = await formed(world)
    acks: list[Message] = []

    def on_sent(peers: SimPeers, message: Message) -> None:
        if peers.machine == follower.name and message.type == APPEND_RESPONSE and not message.reject:
            acks.append(message)

    apart(world, [first, follower], [second, *rest])
    world.network.on_sent = on_sent
    for number in range(60):
        put(world, first, f"lost{number}")
    await asyncio.sleep(0.1)
    world.network.on_sent = None
    ack = max(acks, key=lambda one: one.index)
    await asyncio.sleep(2.0)  # the others elect one of themselves
    apart(world, world.machines)
    await asyncio.sleep(1.0)
    leading = leader(world)
    assert leading is not None
    assert leading is not first
    assert leading.process is not None
    await leading.process.node.move_leader(ack.to)
    apart(world, [first, second], [follower, *rest])
    for number in range(100):
        put(world, first, f"alone{number}")
    await asyncio.sleep(0.05)
    assert first.process is not None
    assert first.process.peers is not None
    first.process.owner.run(first.process.peers.handler.on_message, ack.sender, ack)
    await asyncio.sleep(3.0)


async def deposed_reader(world: World) -> None:
    """The leader is cut off, again and again, while clients write and read everywhere."""
    await formed(world)
    for _ in range(6):
        first = leader(world)
        if first is not None:
            apart(world, [one for one in world.machines if one is not first])
        await asyncio.sleep(1.5)
        apart(world, world.machines)
        await asyncio.sleep(1.0)


async def unsynced_leader(world: World) -> None:
    """The leader's disk is slow, one follower is away; the leader loses power behind the other's acknowledgement, and leads without it."""
    first, (second, third) = await formed(world)
    for number in range(5):
        apart(world, [first, second])
        first.faults.slowness = 2
        put(world, first, f"k{number}")
        await asyncio.sleep(0.015)
        first.crash(power_cut=True)
        first.faults.slowness = 0
        apart(world, [first, third])
        first.start()
        await asyncio.sleep(2.0)
        apart(world, world.machines)
        await asyncio.sleep(1.0)
        first = leader(world) or first
        second, third = [one for one in world.machines if one is not first]


STORIES: dict[str, tuple[Story, Options]] = {
    "lost vote": (lost_vote, replace(NOBODY, members=3)),
    "figure 8": (figure_8, replace(NOBODY, members=5)),
    "deposed reader": (deposed_reader, replace(NOBODY, members=3, clients=8, keys=1, think_s=0.005, leases=False)),
    "unsynced leader": (unsynced_leader, replace(NOBODY, members=3)),
    "old ack": (old_ack, replace(NOBODY, members=5)),
    "two removals": (two_removals, replace(NOBODY, members=5, node={"strict_reconfig_check": False})),
}


def tell(name: str, seed: str) -> Report:
    """Plays one, with kernels that send each entry by itself."""
    story, options = STORIES[name]
    whole = opening.Kernel
    opening.Kernel = partial(whole, message_entries=1)  # type: ignore[assignment, misc]
    try:
        return play(story, options, seed)
    finally:
        opening.Kernel = whole  # type: ignore[misc]
