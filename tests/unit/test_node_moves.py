"""Whole members on one loop that come back at other peer URLs than their cluster knows."""

import asyncio
from dataclasses import replace
from pathlib import Path

from test_node_cluster import One, Three, free_ports, until


def at_new_ports(three: Three, moved: list[One], told: list[One]) -> None:
    """`moved` will listen elsewhere; the lists of `told` say so."""
    ports = dict(zip([one.name for one in moved], free_ports(len(moved)), strict=True))
    urls = {name: (f"http://127.0.0.1:{port}",) for name, port in ports.items()}
    for one in told:
        listed = tuple((name, urls.get(name, old)) for name, old in one._options.initial_cluster)
        one._options = replace(one._options, initial_cluster=listed, peer_urls=dict(listed)[one.name])
        one._port = ports.get(one.name, one._port)


def known_urls(one: One) -> dict[str, tuple[str, ...]]:
    return {member.name: member.peer_urls for member in one.node.members()}


def test_a_member_that_moved_is_heard_again_and_the_others_need_no_new_list(tmp_path: Path) -> None:
    async def scenario() -> None:
        three = Three(tmp_path)
        await three.start()
        try:
            one = three.followers[0]
            await one.node.stop()
            at_new_ports(three, [one], [one])
            async with asyncio.timeout(15):
                await one.start_anew()
            assert not (await one.put(b"k"))[0]
            await until(lambda: all(known_urls(other)[one.name] == one._options.peer_urls for other in three.all))
        finally:
            await three.stop()

    asyncio.run(scenario())


def test_a_majority_that_moved_at_once_is_met_where_its_lists_say(tmp_path: Path) -> None:
    async def scenario() -> None:
        three = Three(tmp_path)
        await three.start()
        try:
            moved = three.followers
            stayed = three.leader
            await asyncio.gather(*(one.node.stop() for one in moved))
            at_new_ports(three, moved, moved)
            async with asyncio.timeout(20):
                await asyncio.gather(*(one.start_anew() for one in moved))
            for one in moved:
                await until(lambda one=one: known_urls(stayed)[one.name] == one._options.peer_urls)  # type: ignore[misc]
            async with asyncio.timeout(5):
                assert not (await stayed.put(b"k"))[0]
        finally:
            await three.stop()

    asyncio.run(scenario())


def test_all_moved_at_once_with_new_lists(tmp_path: Path) -> None:
    async def scenario() -> None:
        three = Three(tmp_path)
        await three.start()
        await three.stop()
        at_new_ports(three, three.all, three.all)
        try:
            async with asyncio.timeout(20):
                await asyncio.gather(*(one.start_anew() for one in three.all))
            for one in three.all:
                await until(lambda one=one: known_urls(one) == dict(one._options.initial_cluster))  # type: ignore[misc]
            assert not (await three.all[0].put(b"k"))[0]
        finally:
            await three.stop()

    asyncio.run(scenario())


def test_who_was_down_while_the_later_leader_moved_reaches_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        three = Three(tmp_path)
        await three.start()
        try:
            moved, late = three.followers
            await late.node.stop()
            assert not (await three.leader.put(b"k"))[0]
            await moved.node.stop()
            at_new_ports(three, [moved], [moved])
            async with asyncio.timeout(15):
                await moved.start_anew()
            await three.leader.node.move_leader(moved.node.member_id)
            async with asyncio.timeout(15):
                await late.start_anew()
            assert moved.leads
            await until(lambda: known_urls(late)[moved.name] == moved._options.peer_urls)
            assert not (await late.put(b"k"))[0]
        finally:
            await three.stop()

    asyncio.run(scenario())
