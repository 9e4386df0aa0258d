"""Two and three members on loopback: messages, requests, questions from outside, bulk streams, reconnecting, being removed."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from raftsched.errors import PeerCode, PeerError
from raftsched.limits import PEER_BULK_STREAMS_MAX, PEER_REQUEST_BYTES_MAX
from raftsched.store.raft._kernel import Message
from raftsched.store.transport import bulk
from raftsched.store.transport.ports import BulkStream
from raftsched.store.transport.resolving import SystemResolver
from raftsched.testing.peers import CLUSTER, Member, close_members, meet, start_members, until

HEARTBEAT, APPEND = 8, 3


@pytest.fixture
async def two() -> AsyncIterator[list[Member]]:
    members = await start_members(1, 2)
    yield members
    await close_members(members)


def heartbeat(sender: int, to: int, beat: int = 0) -> Message:
    return Message(HEARTBEAT, to, sender, 5, commit=7, beat=beat)


def append(sender: int, to: int, index: int, *items: bytes) -> Message:
    return Message(APPEND, to, sender, 5, index=index, log_term=5, runs=[(index + 1, 5, 0, list(items))] if items else [])


async def test_messages_arrive_in_order_both_ways(two: list[Member]) -> None:
    one, other = two
    for number in range(100):
        assert one.peers.send(2, heartbeat(1, 2, number))
        assert other.peers.send(1, append(2, 1, number, b"entry"))
    await until(lambda: len(one.handler.messages) == len(other.handler.messages) == 100)
    assert [(sender, message.beat) for sender, message in other.handler.messages] == [(1, number) for number in range(100)]
    assert [message.index for _, message in one.handler.messages] == list(range(100))
    assert one.handler.messages[0][1].runs == [(1, 5, 0, [b"entry"])]
    assert one.peers.versions() == {2: (1, 2, 3)}


async def test_what_is_sent_in_one_turn_is_one_write(two: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = two
    connection = one.peers._links[2]._connection
    assert connection is not None
    writes: list[int] = []
    write = connection.write
    monkeypatch.setattr(connection, "write", lambda data: (writes.append(len(data)), write(data)))
    for number in range(50):
        one.peers.send(2, append(1, 2, number, b"entry"))
        one.peers.send(2, heartbeat(1, 2))
    await until(lambda: len(other.handler.messages) == 100)
    assert len(writes) == 1
    assert [message.type for _, message in other.handler.messages] == [HEARTBEAT] * 50 + [APPEND] * 50


async def test_a_large_entry_goes_in_parts(two: list[Member]) -> None:
    one, other = two
    entry = bytes(range(256)) * (40 << 12)  # 40 MiB
    assert one.peers.send(2, append(1, 2, 1, entry, b"next"))
    assert one.peers.send(2, append(1, 2, 3, b"behind"))
    await until(lambda: len(other.handler.messages) == 2)
    assert other.handler.messages[0][1].runs == [(2, 5, 0, [entry, b"next"])]
    assert other.handler.messages[1][1].index == 3


async def test_requests_are_answered_refused_and_timed_out(two: list[Member]) -> None:
    one, other = two
    assert await one.peers.request(2, 1, b"payload", 1000) == b"1:payload"
    assert other.handler.requests == [(1, 1, b"payload")]
    with pytest.raises(PeerError, match="not leader") as refused:
        await one.peers.request(2, 0xBAD, b"", 1000)
    assert refused.value.code == 30
    with pytest.raises(PeerError) as unknown:
        await one.peers.request(3, 1, b"", 1000)
    assert unknown.value.code == PeerCode.UNREACHABLE
    with pytest.raises(PeerError) as large:
        await one.peers.request(2, 1, bytes(PEER_REQUEST_BYTES_MAX + 1), 1000)
    assert large.value.code == PeerCode.TOO_LARGE
    cancelled = asyncio.Event()

    async def slow(_sender: int, _kind: int, _payload: bytes) -> bytes:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return b""

    other.handler.answering = slow
    with pytest.raises(PeerError) as late:
        await one.peers.request(2, 1, b"", 30)
    assert late.value.code == PeerCode.TIMEOUT
    await asyncio.wait_for(cancelled.wait(), 2)


async def test_a_handlers_fault_is_an_answer_and_a_line(two: list[Member]) -> None:
    one, other = two

    async def broken(_sender: int, _kind: int, _payload: bytes) -> bytes:
        raise KeyError("secret")

    other.handler.answering = broken
    with pytest.raises(PeerError) as failed:
        await one.peers.request(2, 1, b"", 1000)
    assert failed.value.code == PeerCode.INTERNAL
    assert "secret" not in failed.value.text
    assert [line[0] for line in other.log.lines].count("error") == 1


async def test_requests_in_flight_fail_when_the_connection_breaks(two: list[Member]) -> None:
    one, other = two

    async def slow(_sender: int, _kind: int, _payload: bytes) -> bytes:
        await asyncio.sleep(60)
        return b""

    other.handler.answering = slow
    asking = asyncio.create_task(one.peers.request(2, 1, b"", 30_000))
    await until(lambda: other.handler.requests)
    await other.peers.close()
    with pytest.raises(PeerError) as lost:
        await asking
    assert lost.value.code == PeerCode.LOST


async def test_ask_needs_no_cluster() -> None:
    member, stranger = Member(1), Member(9)
    await member.peers.start()
    try:
        assert await stranger.peers.ask(member.url, b"who?", 1000) == b"heard who?"
        with pytest.raises(PeerError, match="not now") as refused:
            await stranger.peers.ask(member.url, b"no", 1000)
        assert refused.value.code == PeerCode.BUSY
        member.peers.join(cluster_id=CLUSTER, member_id=1)
        assert await stranger.peers.ask(member.url, b"again?", 1000) == b"heard again?"
        for url in ("http://127.0.0.1:1", "ftp://127.0.0.1:80", "https://127.0.0.1:2380"):
            with pytest.raises(PeerError) as failed:
                await stranger.peers.ask(url, b"", 1000)
            assert failed.value.code == PeerCode.UNREACHABLE
        assert stranger.log.causes()[0] == "dial: Connection refused"  # without address and port: the field `url` has them
    finally:
        await close_members([member, stranger])


async def test_before_join_only_questions_are_served() -> None:
    waiting, other = Member(1), await Member(2).start()
    await waiting.peers.start()
    other.peers.update({1: [waiting.url]})
    try:
        await until(lambda: "not in a cluster yet" in waiting.log.causes())
        assert not other.peers.is_connected(1)
        waiting.peers.join(cluster_id=CLUSTER, member_id=1)
        meet([waiting, other])
        await until(lambda: other.peers.is_connected(1))
    finally:
        await close_members([waiting, other])


async def test_a_bulk_stream_carries_both_ways_and_ends_in_order(two: list[Member]) -> None:
    one, other = two
    stream = await one.peers.open_bulk(2, 77)
    chunks = [bytes([number]) * (1 << 20) for number in range(20)]

    async def send() -> None:
        for chunk in chunks:
            await stream.send(chunk)

    sending = asyncio.create_task(send())
    assert [await stream.receive() for _ in chunks] == chunks
    await sending
    stream.close()
    with pytest.raises(PeerError):
        await stream.send(b"behind the end")
    await until(lambda: not one.peers._streams and not other.peers._acceptor._streams)


async def test_what_was_sent_before_close_arrives_although_the_answer_is_not_read(two: list[Member]) -> None:
    one, other = two
    heard: list[bytes] = []

    async def slow_reader(_sender: int, stream: BulkStream) -> None:
        assert (stream.purpose, stream.member_id) == (7, 1)
        while data := await stream.receive():
            heard.append(data)
            await stream.send(b"ack")
            await asyncio.sleep(0.005)

    other.handler.bulk = slow_reader
    stream = await one.peers.open_bulk(2, 7)
    for number in range(30):
        await stream.send(bytes([number]) * 50_000)
    stream.close()
    await until(lambda: len(heard) == 30)
    await until(lambda: not one.peers._streams)


async def test_a_bulk_stream_that_breaks_is_no_end(two: list[Member]) -> None:
    one, other = two
    results: list[object] = []

    async def read(_sender: int, stream: BulkStream) -> None:
        try:
            while True:
                results.append(await stream.receive())
        except PeerError as error:
            results.append(error.code)
            raise

    other.handler.bulk = read
    stream = await one.peers.open_bulk(2, 1)
    await stream.send(b"first")
    await until(lambda: results == [b"first"])
    stream.abort()
    await until(lambda: results == [b"first", PeerCode.LOST])

    async def fail(_sender: int, _stream: BulkStream) -> None:
        raise ValueError("no room")

    other.handler.bulk = fail
    stream = await one.peers.open_bulk(2, 1)
    with pytest.raises(PeerError) as lost:
        await stream.receive()
    assert lost.value.code == PeerCode.LOST
    assert other.log.lines[-1][:2] == ("error", "a bulk stream failed")


async def test_a_sender_waits_for_a_reader(two: list[Member]) -> None:
    one, other = two
    go = asyncio.Event()
    heard = 0

    async def read_later(_sender: int, stream: BulkStream) -> None:
        nonlocal heard
        await go.wait()
        while data := await stream.receive():
            heard += len(data)

    other.handler.bulk = read_later
    stream = await one.peers.open_bulk(2, 1)
    sent = 0

    async def send() -> None:
        nonlocal sent
        for _ in range(64):
            await stream.send(bytes(1 << 20))
            sent += 1
        stream.close()

    sending = asyncio.create_task(send())
    await asyncio.sleep(0.3)
    assert 0 < sent < 32  # what buffers of the sockets and two chunks hold
    go.set()
    await sending
    await until(lambda: heard == 64 << 20)


async def test_who_does_not_read_to_the_end_is_not_waited_for_long(two: list[Member], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "PEER_LINGER_MS", 50)
    one, other = two
    result: list[int] = []

    async def sleeper(_sender: int, stream: BulkStream) -> None:
        await asyncio.sleep(0.5)
        try:
            while await stream.receive():
                pass
        except PeerError as error:
            result.append(error.code)
            raise

    other.handler.bulk = sleeper
    stream = await one.peers.open_bulk(2, 1)
    for _ in range(2):
        await stream.send(bytes(1 << 20))

    async def fill() -> None:
        while True:
            await stream.send(bytes(1 << 20))

    with pytest.raises(TimeoutError):  # nothing fits any more
        await asyncio.wait_for(fill(), 0.1)
    stream.close()
    await until(lambda: not one.peers._streams, 1)
    await until(lambda: result == [PeerCode.LOST])  # cut short, so no end


async def test_several_may_wait_on_one_stream(two: list[Member]) -> None:
    one, other = two
    go = asyncio.Event()

    async def give(_sender: int, stream: BulkStream) -> None:
        await go.wait()
        for number in range(3):
            await stream.send(bytes([number]))
        await stream.receive()

    other.handler.bulk = give
    stream = await one.peers.open_bulk(2, 1)
    waiting = [asyncio.create_task(stream.receive()) for _ in range(3)]
    gone = asyncio.create_task(stream.receive())
    await asyncio.sleep(0.02)
    gone.cancel()
    go.set()
    assert sorted(await asyncio.wait_for(asyncio.gather(*waiting), 2)) == [b"\0", b"\1", b"\2"]
    late = asyncio.create_task(stream.receive())
    await asyncio.sleep(0.02)
    stream.close()
    assert await asyncio.wait_for(late, 2) == b""


async def test_bulk_streams_are_bounded(two: list[Member]) -> None:
    one, other = two
    streams = [await one.peers.open_bulk(2, 1) for _ in range(PEER_BULK_STREAMS_MAX)]
    with pytest.raises(PeerError) as full:
        await one.peers.open_bulk(2, 1)
    assert full.value.code == PeerCode.BUSY
    third = await Member(3).start()
    for member in two:
        member.peers.update({one: [url] for one, url in ((1, one.url), (2, other.url), (3, third.url)) if one != member.id})
    third.peers.update({2: [other.url]})
    with pytest.raises(PeerError) as busy:
        await third.peers.open_bulk(2, 1)
    assert busy.value.code == PeerCode.BUSY
    streams[0].abort()
    await until(lambda: len(other.peers._acceptor._streams) < PEER_BULK_STREAMS_MAX)
    await (await third.peers.open_bulk(2, 1)).send(b"now")
    await third.peers.close()


async def test_a_member_that_comes_back_is_reached_again(two: list[Member]) -> None:
    one, other = two
    port, first = other.peers.port, one.peers.connection(2)
    assert first
    await other.peers.close()
    await until(lambda: not one.peers.is_connected(2))
    assert one.peers.connection(2) == 0
    assert not one.peers.send(2, heartbeat(1, 2))
    assert one.peers.counters()["etcd_network_peer_sent_failures_total"] == 1
    again = await Member(2, port=port).start()
    again.peers.update({1: [one.url]})
    try:
        await until(lambda: one.peers.is_connected(2) and again.peers.is_connected(1))
        assert one.peers.connection(2) > first
        one.peers.send(2, heartbeat(1, 2, 9))
        await until(lambda: [message.beat for _, message in again.handler.messages] == [9])
    finally:
        await again.peers.close()


async def test_names_are_resolved_again_for_each_connection() -> None:
    first, second = await Member(2).start(), await Member(2).start()
    where = first.peers.port
    asked: list[str] = []

    async def resolve(host: str, _port: int) -> list[tuple[str, int]]:
        asked.append(host)
        return [("127.0.0.1", 1), ("127.0.0.1", where)]  # nobody listens at the first

    dialer = await Member(1, resolve=resolve).start()
    first.peers.update({1: [dialer.url]})
    second.peers.update({1: [dialer.url]})
    dialer.peers.update({2: ["http://member-2.example:2380"]})
    try:
        await until(lambda: dialer.peers.is_connected(2))
        assert asked == ["member-2.example"]
        where = second.peers.port
        await first.peers.close()
        await until(lambda: dialer.peers.send(2, heartbeat(1, 2)) and second.handler.messages)
        assert asked.count("member-2.example") >= 2
    finally:
        await close_members([dialer, second])


async def test_update_drops_and_redials(two: list[Member]) -> None:
    one, other = two
    one.peers.update({})
    await until(lambda: not other.peers.is_connected(1))
    assert not one.peers.send(2, heartbeat(1, 2))
    assert one.peers.versions() == {}
    await until(lambda: "unknown member" in one.log.causes())
    one.peers.update({2: [other.url]})
    await until(lambda: one.peers.is_connected(2) and other.peers.is_connected(1))


async def test_a_removed_member_is_told_once(two: list[Member]) -> None:
    one, other = two
    one.handler.removed.add(2)
    one.peers.update({})
    await until(lambda: other.handler.told_removed)
    await asyncio.sleep(0.3)
    assert other.handler.told_removed == 1
    assert one.log.causes().count("removed member") == 1


async def test_counters_and_families(two: list[Member]) -> None:
    one, other = two
    one.peers.send(2, append(1, 2, 0, bytes(1000)))
    await until(lambda: other.handler.messages)
    await one.peers.request(2, 1, b"", 1000)
    assert 1000 < one.peers.counters()["etcd_network_peer_sent_bytes_total"] < 2000
    assert other.peers.counters()["raftsched_peer_received_messages_total"] == 1
    assert one.peers.counters()["etcd_network_active_peers"] == one.peers.counters()["etcd_network_known_peers"] == 1
    assert one.peers.counters()["etcd_network_disconnected_peers_total"] == 0
    await until(lambda: any(f.name == "etcd_network_peer_round_trip_time_seconds" and trips(f) for f in one.peers.families()))
    families = {family.name: family for family in one.peers.families()}
    assert families["etcd_network_peer_sent_bytes_total"].labels == ("To",)
    assert set(families["etcd_network_peer_sent_bytes_total"].samples) == {("2",)}
    assert families["etcd_network_peer_received_failures_total"][1:4:2] == ("counter", ("From",))
    for name, kind in (("known_peers", "gauge"), ("active_peers", "gauge"), ("disconnected_peers_total", "counter")):
        found = families[f"etcd_network_{name}"]
        assert (found.kind, found.labels) == (kind, ("Local", "Remote"))
        assert set(found.samples) == {("1", "2")} | ({("1", "1")} if name == "known_peers" else set())  # etcd's count has the member itself
    await other.peers.close()
    await until(lambda: one.peers.counters()["etcd_network_disconnected_peers_total"] == 1)
    assert one.peers.counters()["etcd_network_active_peers"] == 0
    assert one.peers.counters()["etcd_network_known_peers"] == 1


def trips(family: object) -> int:
    from raftsched.rpc.metrics import Family, _metric

    shown = _metric(Family(*family))  # type: ignore[misc]  # what the server does with it
    return int(next(sample.value for sample in shown.samples if sample.name.endswith("_count")))


async def test_a_lookup_that_hangs_is_shared_and_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    go, asked = threading.Event(), 0

    def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        nonlocal asked
        asked += 1
        go.wait(5)
        if host == "nowhere":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(2, 1, 6, "", ("192.0.2.1", port)), (2, 1, 6, "", ("192.0.2.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolve = SystemResolver()
    assert await resolve("::1", 80) == [("::1", 80)]
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(resolve("slow", 80), 0.02)
    assert asked == 1
    go.set()
    assert await resolve("slow", 80) == [("192.0.2.1", 80)]
    with pytest.raises(OSError, match="no such name"):
        await resolve("nowhere", 80)
    assert not resolve._running


async def test_a_handler_that_fails_does_not_end_the_link(two: list[Member]) -> None:
    one, other = two

    def fail() -> None:
        raise KeyError("handler")

    other.handler.on_removed = fail  # type: ignore[method-assign]
    one.handler.removed.add(2)
    one.peers.update({})
    await until(lambda: ("error", "a link failed") in [line[:2] for line in other.log.lines])
    one.handler.removed.clear()
    meet(two)
    await until(lambda: other.peers.is_connected(1))


async def test_three_members_and_one_that_restarts_under_load() -> None:
    """Each hears each, in order per sender, before and after; nobody hears what was meant for another."""
    members = await start_members(1, 2, 3)
    stop = False

    async def talk(one: Member) -> None:
        beat = 0
        while not stop:
            for other in range(1, 4):
                if other != one.id:
                    one.peers.send(other, heartbeat(one.id, other, beat := beat + 1))
                    one.peers.send(other, append(one.id, other, beat, bytes(beat % 5000)))
            await asyncio.sleep(0.001)

    def heard(one: Member) -> bool:
        """Enough of each kind, of each other."""
        seen = Counter((sender, message.type) for sender, message in one.handler.messages)
        return all(seen[sender, kind] > 20 for sender in {1, 2, 3} - {one.id} for kind in (HEARTBEAT, APPEND))

    talking = [asyncio.create_task(talk(one)) for one in members]
    await until(lambda: all(map(heard, members)))
    port = members[2].peers.port
    talking.pop().cancel()
    await members[2].peers.close()
    before = members.pop().handler
    await asyncio.sleep(0.2)
    members.append(await Member(3, port=port).start())
    meet(members)
    talking.append(asyncio.create_task(talk(members[2])))
    await until(lambda: heard(members[2]) and members[0].peers.is_connected(3))
    stop = True
    await asyncio.gather(*talking)
    for member, handler in ((1, members[0].handler), (2, members[1].handler), (3, members[2].handler), (3, before)):
        assert {sender for sender, _ in handler.messages} == {1, 2, 3} - {member}
        assert {message.to for _, message in handler.messages} == {member}
        for sender in {1, 2} - {member}:
            for kind in (HEARTBEAT, APPEND):
                numbers = [m.beat + m.index for one, m in handler.messages if (one, m.type) == (sender, kind)]
                assert numbers == sorted(set(numbers))
                assert len(numbers) > 20
    assert members[0].peers.counters()["etcd_network_peer_sent_failures_total"] > 0
    assert members[0].peers.counters()["raftsched_peer_forged_messages_total"] == 0
    await close_members(members)


@pytest.mark.parametrize("same", [True, False])
async def test_who_learns_its_incarnation_late_hears_no_other_one_any_more(same: bool) -> None:
    late, other = members = [await Member(one).start() for one in (1, 2)]
    other.peers.set_incarnation(9)
    try:
        meet(members)
        await until(lambda: late.peers.is_connected(2) and other.peers.is_connected(1))
        late.peers.set_incarnation(9 if same else 7)
        if same:
            await asyncio.sleep(0.1)
            assert late.peers.is_connected(2)
            assert other.peers.is_connected(1)
            assert not late.log.causes()
        else:
            await until(lambda: not late.peers.is_connected(2) and not other.peers.is_connected(1))
            await until(lambda: {"wrong incarnation of the cluster", "dial: wrong incarnation of the cluster"} & set(other.log.causes()))
            assert late.peers.counters()["raftsched_peer_refused_connections_total"] > 0
            assert not late.peers.send(2, Message(HEARTBEAT, 2, 1, 1))
            assert not late.handler.told_removed
    finally:
        await close_members(members)


@pytest.mark.parametrize("same", [True, False])
async def test_who_were_both_without_an_incarnation_tell_each_other(same: bool) -> None:
    members = await start_members(1, 2)
    one, other = members
    streams: list[BulkStream] = []

    async def keep(_sender: int, stream: BulkStream) -> None:
        streams.append(stream)
        await stream.receive()

    other.handler.bulk = keep
    try:
        await one.peers.open_bulk(2, 1)
        await until(lambda: bool(streams))
        one.peers.set_incarnation(9)
        await asyncio.sleep(0.1)
        assert one.peers.is_connected(2), "the other one does not know its own yet"
        other.peers.set_incarnation(9 if same else 7)
        if same:
            await asyncio.sleep(0.1)
            assert one.peers.is_connected(2)
            assert other.peers.is_connected(1)
            assert not one.log.causes() + other.log.causes()
        else:
            await until(lambda: not one.peers.is_connected(2) and not other.peers.is_connected(1))
            await until(lambda: {"wrong incarnation of the cluster", "dial: wrong incarnation of the cluster"} & set(other.log.causes()))
            with pytest.raises(PeerError):
                await streams[0].send(b"x")
            await asyncio.sleep(0.3)
            assert not one.peers.is_connected(2), "nor again"
    finally:
        await close_members(members)


async def test_an_incarnation_that_is_learned_while_dialling_is_told_too() -> None:
    one, other = members = [await Member(number).start() for number in (1, 2)]
    begun = one.peers._around.nonce

    def learn(count: int) -> bytes:
        other.peers.set_incarnation(7)  # the dialer has said nothing yet, but looked
        return begun(count)

    one.peers._around.nonce = learn
    one.peers.set_incarnation(9)
    try:
        meet(members)
        await until(lambda: "wrong incarnation of the cluster" in one.log.causes())
        await asyncio.sleep(0.2)
        assert not other.peers.is_connected(1)
        assert not one.peers.is_connected(2)
    finally:
        await close_members(members)
