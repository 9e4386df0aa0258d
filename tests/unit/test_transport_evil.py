"""Who dials in and means no good: the connection ends with one line and a count, and nothing else happens."""

import asyncio
import pickle
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import pytest

from raftsched.limits import PEER_HANDSHAKES_MAX, PEER_REQUESTS_IN_FLIGHT_MAX
from raftsched.store.raft._kernel import Message
from raftsched.store.transport import accepting, handshake, inbound, link
from raftsched.store.transport._frames import PART_FIRST, Decoder, WireError, frame, frames
from raftsched.store.transport.handshake import Identity
from raftsched.testing.peers import CLUSTER, LogLines, Member, close_members, start_members, until

HEARTBEAT, VOTE, APPEND = 8, 5, 3
VERSION = (1, 0, 0)


@pytest.fixture
async def two() -> AsyncIterator[list[Member]]:
    """Members 1 and 2, which know a member 3 that does not run: the tests play it."""
    members = await start_members(1, 2)
    one, other = members
    one.peers.update({2: [other.url], 3: ["http://127.0.0.1:1"]})
    yield members
    await Raw.close_all()
    await close_members(members)


def causes(member: Member) -> list[object]:
    """Of the lines about who dialled in."""
    return [cause for cause in member.log.causes() if not str(cause).startswith("dial:")]


def refusals(member: Member) -> dict[str, int]:
    counted = member.peers._around.report.refusals
    return {cause: count for cause, count in counted.items() if not cause.startswith("dial:")}


class Raw:
    """A dialer that says what it likes."""

    opened: ClassVar[list["Raw"]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.decoder = Decoder(message_bytes_max=1 << 20)
        self.opened.append(self)

    @classmethod
    async def close_all(cls) -> None:
        for raw in cls.opened:
            raw.writer.transport.abort()
        await asyncio.gather(*(raw.writer.wait_closed() for raw in cls.opened), return_exceptions=True)
        cls.opened.clear()

    @classmethod
    async def to(cls, member: Member) -> "Raw":
        return cls(*await asyncio.open_connection("127.0.0.1", member.peers.port))

    async def item(self) -> Any:  # Any: whatever frame comes
        while not (found := self.decoder.take(1)):
            data = await asyncio.wait_for(self.reader.read(1 << 16), 5)
            if not data:
                raise ConnectionResetError
            self.decoder.feed(data)
        return found[0]

    async def hello(
        self, *, cluster: int = CLUSTER, sender: int = 3, receiver: int = 1, purpose: int = 1, nonce: bytes = b"", incarnation: int = 0
    ) -> None:
        real = handshake.read_challenge(await self.item())
        own = Identity(cluster, sender, VERSION, incarnation)
        self.writer.write(handshake.hello(own, nonce or real, receiver_id=receiver, purpose=purpose))

    async def enter(self, **options: Any) -> "Raw":  # Any: as `hello` takes them
        await self.hello(**options)
        assert isinstance(handshake.read_answer(await self.item()), Identity)
        return self

    async def closed(self, timeout_s: float = 5.0) -> bytes:
        """What comes until the other side closes."""
        try:
            return await asyncio.wait_for(self.reader.read(), timeout_s)
        except ConnectionError:
            return b""


def quiet(member: Member) -> tuple[int, int, int]:
    return len(member.handler.messages), len(member.handler.requests), len(member.handler.asks)


async def healthy(one: Member, other: Member) -> None:
    """The link from `other` to `one` works."""
    before = len(one.handler.messages)
    assert other.peers.send(one.id, Message(HEARTBEAT, one.id, other.id, 1))
    await until(lambda: len(one.handler.messages) == before + 1)


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return pytest.fail, ("unpickled",)


def tls_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def correct(nonce: bytes = bytes(16)) -> bytes:
    return handshake.hello(Identity(CLUSTER, 3, VERSION), nonce, receiver_id=1, purpose=1)


GARBAGE = {
    "pickle": (pickle.dumps(Bomb()), "an oversize frame"),
    "http": (b"GET /members HTTP/1.1\r\nHost: a\r\n\r\n", "an oversize frame"),
    "tls": (tls_hello(), "an oversize frame"),
    "oversize": (b"\xff\xff\xff\xff" + bytes(60), "an oversize frame"),
    "larger than a handshake": (frame(handshake.HELLO, bytes(257)), "an oversize frame"),
    "wrong checksum": (correct()[:-1] + b"\xff", "a frame's checksum is wrong"),
    "short hello": (frame(handshake.HELLO, correct()[9:-1]), "a frame is too short"),
    "no magic": (frame(handshake.HELLO, b"R" + correct()[10:]), "no raftsched peer"),
    "a message first": (frames([Message(VOTE, 1, 2, 99)]), "a frame out of order"),
    "a request first": (frame(handshake.REQUEST, bytes(16)), "a frame out of order"),
    "parts first": (frame(PART_FIRST, (1 << 30).to_bytes(8, "little") + b"x"), "an oversize message"),
    "replayed": (correct(), "replayed handshake"),
    "zero": (bytes(100), "a frame's checksum is wrong"),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage_instead_of_a_handshake(two: list[Member], name: str) -> None:
    one, other = two
    data, cause = GARBAGE[name]
    before = quiet(one)
    for _ in range(5):
        raw = await Raw.to(one)
        raw.writer.write(data)
        assert len(await raw.closed()) <= 33  # the challenge
    assert causes(one) == [cause]
    assert {fields["remote"] for _, _, fields in one.log.lines if fields.get("cause") == cause} == {"127.0.0.1"}
    assert refusals(one) == {cause: 5}
    assert quiet(one) == before
    await healthy(one, other)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"cluster": CLUSTER + 1}, "wrong cluster id"),
        ({"cluster": 0}, "wrong cluster id"),
        ({"incarnation": 8}, "wrong incarnation of the cluster"),
        ({"incarnation": 8, "purpose": handshake.BULK}, "wrong incarnation of the cluster"),
        ({"receiver": 3}, "wrong receiver id"),
        ({"sender": 9}, "unknown member"),
        ({"sender": 1}, "unknown member"),  # itself
        ({"sender": 0}, "unknown member"),
        ({"purpose": 9}, "unknown purpose"),
        ({"purpose": handshake.BULK, "sender": 9}, "unknown member"),
        ({"nonce": b"n" * 16}, "replayed handshake"),
    ],
)
async def test_a_handshake_of_somebody_else(two: list[Member], changes: dict[str, Any], cause: str) -> None:
    one, other = two
    before = quiet(one)
    one.peers.set_incarnation(7)
    for _ in range(3):
        raw = await Raw.to(one)
        await raw.hello(**changes)
        raw.writer.write(frames([Message(VOTE, 1, 3, 99)]))
        assert await raw.closed() == b""
    assert causes(one) == [cause]
    assert refusals(one) == {cause: 3}
    assert quiet(one) == before
    await healthy(one, other)


async def test_a_protocol_of_another_time(two: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = two
    raw = await Raw.to(one)
    nonce = handshake.read_challenge(await raw.item())
    payload = handshake._HELLO.pack(handshake.MAGIC, nonce, 7, 9, CLUSTER, 3, 1, 9, 9, 9, 1, 0, 0)
    raw.writer.write(frame(handshake.HELLO, payload + b"fields of a later version"))
    assert await raw.closed() == b""
    assert causes(one) == ["protocol version"]


async def test_a_slow_handshake_is_cut_off(two: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "_TIMEOUT_S", 0.2)
    one, other = two
    raw = await Raw.to(one)
    for byte in correct()[:20]:
        raw.writer.write(bytes([byte]))
        await asyncio.sleep(0.02)
    await raw.closed(1)
    assert causes(one) == ["timeout"]
    await healthy(one, other)


async def test_a_flood_of_connections_is_bounded(two: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accepting, "_TIMEOUT_S", 1.0)
    one, other = two
    flood = [await Raw.to(one) for _ in range(PEER_HANDSHAKES_MAX + 40)]
    await until(lambda: one.peers._around.report.refusals.get("too many handshakes") == 40)
    assert one.peers._acceptor._shaking == PEER_HANDSHAKES_MAX
    await healthy(one, other)
    await asyncio.gather(*(raw.closed() for raw in flood))
    assert one.peers._acceptor._shaking == 0
    assert causes(one) == ["too many handshakes", "timeout"]
    third = await Raw.to(one)
    await third.enter()


async def test_a_forged_sender_is_dropped_and_counted(two: list[Member]) -> None:
    one, _ = two
    raw = await (await Raw.to(one)).enter()
    forged = [
        Message(VOTE, 1, 2, 99),
        Message(APPEND, 1, 2, 99, runs=[(1, 99, 0, [b"evil"])]),
        Message(APPEND + 1, 1, 1, 99, index=1 << 40),
        Message(VOTE, 2, 3, 99),  # meant for somebody else
    ]
    raw.writer.write(frames([*forged, Message(HEARTBEAT, 1, 3, 5)]))
    await until(lambda: one.handler.messages)
    assert [(sender, message.type) for sender, message in one.handler.messages] == [(3, HEARTBEAT)]
    assert one.peers.counters()["raftsched_peer_forged_messages_total"] == 4
    assert one.peers.counters()["etcd_network_peer_received_failures_total"] == 4


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"\xff" * 100, "an oversize frame"),
        (frame(200, b"?"), "a frame out of order"),
        (frame(handshake.DATA, b"?"), "a frame out of order"),
        (frame(handshake.WELCOME, b"?"), "a frame out of order"),
        (frame(handshake.RESPONSE, bytes(12)), "a frame out of order"),
        (frame(handshake.REQUEST, b"?"), "a request of a wrong size"),
        (frame(handshake.PING, bytes(65)), "a frame out of order"),
        (frame(1, b"\xff\xff"), "a tag is malformed"),
        (frame(PART_FIRST, (1 << 50).to_bytes(8, "little") + b"x"), "an oversize message"),
    ],
    ids=["length", "kind", "data", "welcome", "response", "request", "ping", "message", "parts"],
)
async def test_garbage_of_a_member_ends_its_connection(two: list[Member], data: bytes, cause: str) -> None:
    one, _ = two
    raw = await (await Raw.to(one)).enter()
    raw.writer.write(data + frames([Message(HEARTBEAT, 1, 3, 5)]))
    await raw.closed()
    assert cause in causes(one)
    assert not one.handler.messages
    assert one.peers._around.report.peer(3).receive_failures == 1


async def test_two_connections_of_one_peer(two: list[Member]) -> None:
    """T5: the younger is heard, whatever the older one still delivers."""
    one, _ = two
    first = await (await Raw.to(one)).enter()
    old = one.peers._acceptor._inbound[3].connection
    first.writer.write(frames([Message(HEARTBEAT, 1, 3, 5, beat=1)]))
    await until(lambda: len(one.handler.messages) == 1)
    second = await (await Raw.to(one)).enter()
    for beat in range(2, 20, 2):
        first.writer.write(frames([Message(HEARTBEAT, 1, 3, 5, beat=beat)]))
        second.writer.write(frames([Message(HEARTBEAT, 1, 3, 5, beat=beat + 1)]))
        late = frames([Message(HEARTBEAT, 1, 3, 5, beat=beat)])
        old.take_in(late, len(late))  # read before it was replaced
        await asyncio.sleep(0.002)
    await until(lambda: len(one.handler.messages) == 10)
    assert [message.beat for _, message in one.handler.messages] == list(range(1, 20, 2))
    await first.closed()
    assert one.peers._around.report.peer(3).generation == 2
    assert set(one.peers._acceptor._inbound) == {2, 3}


async def test_messages_on_a_bulk_stream_reach_nobody(two: list[Member]) -> None:
    one, _ = two
    raw = await (await Raw.to(one)).enter(purpose=handshake.BULK)
    raw.writer.write(frames([Message(VOTE, 1, 2, 99)]))
    await raw.closed()
    assert not one.handler.messages
    assert "a bulk stream broke: a frame out of order" in causes(one)


async def test_a_question_that_is_none(two: list[Member]) -> None:
    one, _ = two
    for data in (frame(handshake.DATA, b"x"), frame(handshake.REQUEST, b"x"), b"\xff" * 20):
        raw = await (await Raw.to(one)).enter(purpose=handshake.ASK, cluster=0, sender=0, receiver=0)
        raw.writer.write(data)
        assert await raw.closed() == b""
    assert not one.handler.asks
    assert {"ask: a frame out of order", "ask: a request of a wrong size", "ask: an oversize frame"} <= set(causes(one))


async def test_requests_are_bounded_and_nobody_waits_for_who_is_gone(two: list[Member]) -> None:
    one, _ = two

    async def forever(_sender: int, _kind: int, _payload: bytes) -> bytes:
        await asyncio.sleep(3600)
        return b""

    one.handler.answering = forever
    raw = await (await Raw.to(one)).enter()
    ask = b"".join(frame(handshake.REQUEST, number.to_bytes(8, "little") + bytes(4) + b"\xff" * 4) for number in range(1000))
    raw.writer.write(ask)
    refused = [await raw.item() for _ in range(1000 - PEER_REQUESTS_IN_FLIGHT_MAX)]
    assert {item[1][8:12] for item in refused} == {(-4).to_bytes(4, "little", signed=True)}
    assert len(one.handler.requests) == PEER_REQUESTS_IN_FLIGHT_MAX
    served = one.peers._acceptor._inbound[3]._answered
    raw.writer.close()
    await until(lambda: not served._tasks)


async def test_who_asks_and_never_reads_is_cut_off(two: list[Member]) -> None:
    one, other = two
    raw = await (await Raw.to(one)).enter()
    connection = one.peers._acceptor._inbound[3].connection
    pings = frame(handshake.PING, bytes(64)) * 2000
    async with asyncio.timeout(20):
        while not connection.ended:
            raw.writer.write(pings)
            await asyncio.sleep(0)
    assert connection.ended == "the peer does not read its answers"
    await healthy(one, other)


async def test_a_silent_member_is_let_go(two: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound, "PEER_IDLE_TIMEOUT_MS", 100)
    monkeypatch.setattr(inbound, "PEER_PING_MS", 20)
    one, _ = two
    raw = await (await Raw.to(one)).enter()
    await raw.closed(2)
    assert "the peer is silent" in causes(one)


# -- the other way round: whom we dial


class Listener:
    """An acceptor that says what it likes."""

    def __init__(self, *, answer: Callable[[handshake.Hello], bytes] | None = None, greeting: bytes = b"", reads: bool = True) -> None:
        self.answer, self.greeting, self.reads = answer, greeting, reads
        self.heard: list[object] = []
        self.tasks: list[asyncio.Task[Any]] = []  # Any: asyncio's own
        self.server: asyncio.Server | None = None

    async def start(self) -> str:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = Raw(reader, writer)
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        try:
            writer.write(self.greeting or handshake.challenge(b"n" * 16))
            said = handshake.read_hello(await raw.item())
            if self.answer is not None:
                writer.write(self.answer(said))
            while self.reads:
                self.heard.append(await raw.item())
            await asyncio.sleep(60)
        except (OSError, TimeoutError, WireError, asyncio.CancelledError):
            pass

    async def close(self) -> None:
        assert self.server is not None
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await Raw.close_all()


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"greeting": b"HTTP/1.1 400 Bad Request\r\n\r\n"}, "dial: an oversize frame"),
        ({"greeting": b"\0" * 40}, "dial: a frame's checksum is wrong"),
        ({"answer": lambda _: handshake.welcome(Identity(CLUSTER, 3, VERSION))}, "dial: somebody else answers"),
        ({"answer": lambda _: handshake.welcome(Identity(CLUSTER + 1, 2, VERSION))}, "dial: somebody else answers"),
        ({"answer": lambda _: handshake.welcome(Identity(CLUSTER, 2, VERSION, 8))}, "dial: wrong incarnation of the cluster"),
        ({"answer": lambda _: handshake.refused(Identity(CLUSTER + 1, 2, VERSION), handshake.REMOVED, 1)}, "dial: refused"),
        ({"answer": lambda _: handshake.refused(Identity(CLUSTER, 2, VERSION), handshake.REMOVED, 7)}, "dial: refused"),
        ({"answer": lambda _: frames([Message(VOTE, 1, 2, 99)])}, "dial: a frame out of order"),
    ],
)
async def test_an_evil_acceptor_is_not_believed(options: dict[str, Any], cause: str) -> None:
    listener, member = Listener(**options), await Member(1).start()
    member.peers.set_incarnation(7)
    member.peers.update({2: [await listener.start()]})
    try:
        await until(lambda: member.peers.counters()["raftsched_peer_refused_connections_total"] >= 3)
        assert member.log.causes() == [cause]  # one line for all of them
        assert not member.peers.is_connected(2)
        assert not member.handler.told_removed
        assert not member.handler.messages
    finally:
        await member.peers.close()
        await listener.close()


async def test_an_acceptor_cannot_send_messages() -> None:
    """Messages come on the connection that the sender dialled, and on no other."""
    welcome = handshake.welcome(Identity(CLUSTER, 2, VERSION))
    listener = Listener(answer=lambda _: welcome + frames([Message(VOTE, 1, 2, 99)]))
    member = await Member(1).start()
    member.peers.update({2: [await listener.start()]})
    try:
        await until(lambda: "a frame out of order" in member.log.causes())
        assert not member.handler.messages
    finally:
        await member.peers.close()
        await listener.close()


async def test_a_peer_that_does_not_read_costs_a_bounded_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "PEER_IDLE_TIMEOUT_MS", 60_000)
    monkeypatch.setattr(link, "PEER_PING_MS", 200)
    listener = Listener(answer=lambda _: handshake.welcome(Identity(CLUSTER, 2, VERSION)), reads=False)
    member = await Member(1).start()
    member.peers.update({2: [await listener.start()]})
    try:
        await until(lambda: member.peers.is_connected(2))
        outlet = member.peers._links[2]._outlet
        assert outlet is not None
        entry = bytes(1 << 20)
        for index in range(200):
            assert member.peers.send(2, Message(APPEND, 2, 1, 5, index=index, runs=[(index + 1, 5, 0, [entry])]))
            for _ in range(500):
                member.peers.send(2, Message(HEARTBEAT, 2, 1, 5))
            assert outlet.queue.size_bytes <= (64 << 20) + (1 << 20)
            await asyncio.sleep(0)
        assert member.peers.counters()["raftsched_peer_dropped_messages_total"] > 100
        newest = outlet.queue._bulk.items[-1][0]
        assert isinstance(newest, Message)
        assert newest.index == 199  # the oldest went
        monkeypatch.setattr(link, "PEER_IDLE_TIMEOUT_MS", 300)
        await until(lambda: "the peer is silent" in member.log.causes())
    finally:
        await member.peers.close()
        await listener.close()


async def test_lines_are_bounded_in_time_and_number() -> None:
    from raftsched.store.transport.report import Report

    log, now = LogLines(), 0
    report = Report(log, clock_ms=lambda: now)
    for _ in range(100):
        report.refuse("closed", "garbage", "10.0.0.1")
    assert len(log.lines) == 1
    now = 10_000
    report.refuse("closed", "garbage", "10.0.0.1")
    assert log.lines[1][2]["suppressed"] == 99
    for number in range(5000):
        report.refuse("closed", f"cause {number}", f"10.0.{number}")
    assert len(log.lines) <= 2 + 1024
    assert len(report._logged) <= 1024
    assert len(report.refusals) <= 1025
    assert sum(report.refusals.values()) == 5101
