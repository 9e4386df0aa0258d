"""Bytes nobody meant, from somebody who dials in: the connection ends or goes on, and another member's notices nothing."""

import asyncio
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, example, given, settings

from raftsched.store.raft._kernel import Message
from raftsched.store.transport import handshake
from raftsched.store.transport._frames import Decoder, Parts, frame, frames
from raftsched.store.transport.connection import Connection
from raftsched.store.transport.handshake import Identity
from raftsched.testing.peers import CLUSTER, Member

NONCE, VERSION = b"n" * handshake.NONCE_BYTES, (1, 0, 0)


class Socket:
    def setsockopt(self, *_: object) -> None: ...


class FakeTransport(asyncio.Transport):
    """A socket whose other side takes everything."""

    def __init__(self) -> None:
        super().__init__({"socket": Socket(), "peername": ("192.0.2.1", 1)})
        self.written, self.closing = bytearray(), False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True


def hello(purpose: int, sender: int = 2) -> bytes:
    return handshake.hello(Identity(CLUSTER, sender, VERSION), NONCE, receiver_id=1, purpose=purpose, detail=7)


def request(kind: int, payload: bytes) -> bytes:
    return frame(handshake.REQUEST, (1).to_bytes(8, "little") + kind.to_bytes(4, "little") + (1000).to_bytes(4, "little") + payload)


def parts(message: Message) -> list[bytes]:
    made, found = Parts(message), []
    while (part := made.next()) is not None:
        found.append(part)
    return found


APPEND = Message(3, 1, 2, 7, index=5, log_term=7, commit=5, runs=[(6, 7, 0, [b"entry", b"", bytes(300)]), (9, 7, 1, [b"change"])])
LONG = Message(3, 1, 2, 7, runs=[(1, 7, 0, [bytes(300_000)])])
CORPUS: list[list[bytes]] = [
    [hello(handshake.CONTROL), frames([APPEND]), frame(handshake.PING, bytes(8)), request(1, b"payload"), frames([Message(8, 1, 2, 7)])],
    [hello(handshake.CONTROL), *parts(LONG), frames([Message(5, 1, 2, 8)]), *parts(LONG)[:1]],
    [hello(handshake.BULK), frame(handshake.DATA, b"chunk"), frame(handshake.DATA, bytes(2000)), frame(handshake.END, b"")],
    [hello(handshake.ASK, 0), request(0, b"who?")],
]

kinds = st.sampled_from([1, 2, 3, 16, 17, 18, 19, 32, 33, 34, 35, 48, 49, 50, 255])
changes = st.lists(
    st.tuples(
        st.sampled_from(["flip", "reframe", "cut", "repeat", "drop", "insert"]), st.integers(0, 1 << 20), st.binary(max_size=12), kinds
    ),
    max_size=6,
)


def mutate(conversation: list[bytes], edits: list[tuple[str, int, bytes, int]]) -> bytes:
    """Some changes keep frames whole with a good checksum, so that what stands behind it is reached."""
    pieces = list(conversation)
    for name, position, extra, kind in edits:
        at = position % len(pieces)
        if name == "flip":
            piece = bytearray(pieces[at])
            for offset, byte in enumerate(extra):
                piece[(position + offset) % len(piece)] ^= byte
            pieces[at] = bytes(piece)
        elif name == "reframe":
            payload = bytearray(pieces[at][9:])
            where = (position >> 3) % (len(payload) + 1)
            payload[where : where + position % 3] = extra
            pieces[at] = frame(pieces[at][4] or kind if position % 2 and len(pieces[at]) > 4 else kind, bytes(payload[: 1 << 20]))
        elif name == "cut":
            pieces[at] = pieces[at][: position % len(pieces[at])] or b"\0"
        elif name == "repeat":
            pieces.insert(at, pieces[at])
        elif name == "insert":
            pieces.insert(at, frame(kind, extra))
        elif len(pieces) > 1:
            del pieces[at]
    return b"".join(pieces)


async def feed(connection: Connection, data: bytes) -> None:
    if not connection.ended:
        connection.take_in(data, len(data))
    for _ in range(4):
        await asyncio.sleep(0)


async def enter(member: Member) -> tuple[Connection, FakeTransport]:
    connection, transport = member.peers._acceptor.make(), FakeTransport()
    connection.connection_made(transport)
    for _ in range(3):
        await asyncio.sleep(0)
    return connection, transport


async def play(data: bytes, cuts: list[int]) -> None:
    faults: list[dict[str, Any]] = []  # Any: asyncio's context
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context))
    member = Member(1, nonce=lambda _count: NONCE)
    member.peers.join(cluster_id=CLUSTER, member_id=1)
    member.peers._acceptor.members = frozenset({2, 3})
    other, answers = await enter(member)
    await feed(other, hello(handshake.CONTROL, 3))
    evil, said = await enter(member)
    at = 0
    for cut in sorted(cut % (len(data) + 1) for cut in cuts):
        await feed(evil, data[at:cut])
        at = cut
    await feed(evil, data[at:])
    assert evil._decoder.buffered <= len(data)
    heard = len(member.handler.messages)
    await feed(other, frames([Message(8, 1, 3, 7)]) + request(1, b"still there?"))
    assert [sender for sender, _ in member.handler.messages[heard:]] == [3]
    assert all(message.sender == sender and message.to == 1 for sender, message in member.handler.messages)
    assert answered(bytes(answers.written)) == (1, b"1:still there?")
    assert len(said.written) < 4 * len(data) + 4096
    evil.connection_lost(None)
    other.connection_lost(None)
    await member.peers.close()
    assert not member.peers._acceptor._inbound
    assert member.peers._acceptor._shaking == 0
    assert not faults
    left = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.wait(left, timeout=1) if left else None
    assert all(task.done() for task in left)


def answered(data: bytes) -> tuple[int, bytes]:
    decoder = Decoder(message_bytes_max=0)
    decoder.feed(data)
    (answer,) = [item[1] for item in decoder.take() if isinstance(item, tuple) and item[0] == handshake.RESPONSE]
    return int.from_bytes(answer[:8], "little"), answer[12:]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(CORPUS), changes, st.lists(st.integers(0, 1 << 20), max_size=4))
@example(CORPUS[0], [], [])
@example(CORPUS[1], [], [3, 1000])
@example(CORPUS[2], [], [])
@example(CORPUS[3], [], [])
def test_mutated_conversations(conversation: list[bytes], edits: list[tuple[str, int, bytes, int]], cuts: list[int]) -> None:
    asyncio.run(play(mutate(conversation, edits), cuts))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_garbage(data: bytes, greeted: bool) -> None:
    asyncio.run(play(hello(handshake.CONTROL) * greeted + data, []))


def test_the_corpus_is_understood() -> None:
    """Else the fuzzing would end at the first frame."""

    async def understood(number: int) -> Member:
        member = Member(1, nonce=lambda _count: NONCE)
        member.peers.join(cluster_id=CLUSTER, member_id=1)
        member.peers._acceptor.members = frozenset({2})
        connection, _ = await enter(member)
        await feed(connection, b"".join(CORPUS[number]))
        connection.connection_lost(None)
        await member.peers.close()
        return member

    handlers = [asyncio.run(understood(number)).handler for number in range(len(CORPUS))]
    assert [message.type for _, message in handlers[0].messages] == [3, 8]
    assert handlers[0].requests == [(2, 1, b"payload")]
    assert [message.type for _, message in handlers[1].messages] == [3, 5]
    assert handlers[3].asks == [b"who?"]
