"""Forwarded proposals that never left, or were lost with a connection: whole members, and the follower's transport in the test's hand."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from test_node_cluster import One, Three

from raftsched.errors import EtcdError
from raftsched.store.raft._kernel import Message
from raftsched.store.replica import PROPOSE

Story = Callable[[Three, One], Awaitable[None]]


def play(directory: Path, story: Story) -> None:
    async def scenario() -> None:
        three = Three(directory)
        await three.start()
        try:
            await asyncio.wait_for(story(three, three.followers[0]), 20)
        finally:
            await three.stop()

    asyncio.run(scenario())


def test_a_full_queue_is_an_answer_at_once_and_not_a_time_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(three: Three, follower: One) -> None:
        port = follower.node._peering.port  # type: ignore[union-attr]
        send = port.send
        monkeypatch.setattr(port, "send", lambda member, message: message.type != PROPOSE and send(member, message))
        begun = time.monotonic()
        assert (await follower.put(b"k"))[0] == EtcdError.TOO_MANY_REQUESTS
        assert time.monotonic() - begun < 1, "the request's time is 3 s"
        monkeypatch.setattr(port, "send", send)
        assert (await follower.put(b"k"))[:2] == (0, 2)

    play(tmp_path, story)


def test_what_a_broken_connection_held_back_is_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(three: Three, follower: One) -> None:
        peering = follower.node._peering
        assert peering is not None
        send, held = peering.port.send, list[Message]()

        def hold(member: int, message: Message) -> bool:
            if message.type == PROPOSE and not held:
                held.append(message)
                return True
            return send(member, message)

        monkeypatch.setattr(peering.port, "send", hold)
        answer = asyncio.ensure_future(follower.put(b"k"))
        while not held:
            await asyncio.sleep(0.01)
        begun = time.monotonic()
        peering.on_unsent(three.leader.node.member_id, held[0])
        assert (await answer)[:2] == (0, 2)
        assert time.monotonic() - begun < 1

    play(tmp_path, story)


def test_what_was_lost_with_a_connection_is_sent_again_on_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader stays; before, the client had a time-out after three seconds."""

    async def story(three: Three, follower: One) -> None:
        peering = follower.node._peering
        assert peering is not None
        port, lost = peering.port, list[Message]()
        send, leader = port.send, three.leader.node.member_id

        def lose(member: int, message: Message) -> bool:
            if message.type == PROPOSE and len(lost) < 3:
                lost.append(message)
                return True
            return send(member, message)

        monkeypatch.setattr(port, "send", lose)
        answers = [asyncio.ensure_future(follower.put(b"k%d" % number)) for number in range(3)]
        while len(lost) < 3:
            await asyncio.sleep(0.01)
        begun, number = time.monotonic(), port.connection(leader)
        port._links[leader]._connection.end("for the test")  # type: ignore[attr-defined]
        assert [(await answer)[0] for answer in answers] == [0, 0, 0]
        assert time.monotonic() - begun < 1.5
        assert port.connection(leader) > number
        assert (await follower.put(b"last"))[:2] == (0, 5), "each once"

    play(tmp_path, story)
