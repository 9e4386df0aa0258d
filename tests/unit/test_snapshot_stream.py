"""A snapshot on its way: the protocol alone, then both ends over a stream in memory, with every fault that a stream can have."""

import asyncio
import hashlib
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from raftsched import limits
from raftsched.errors import NoSpaceError, PeerError
from raftsched.store import membership
from raftsched.store._records import Generation
from raftsched.store.backend._lmdb import Backend
from raftsched.store.backend.directory import DataDirectory
from raftsched.store.snapshot import install, outgoing, part
from raftsched.store.snapshot.incoming import Incoming
from raftsched.store.snapshot.install import Stored
from raftsched.store.snapshot.outgoing import Copy, Outgoing, send
from raftsched.store.snapshot.progress import within
from raftsched.store.snapshot.stream import Offer, Pace, Partial, Receiving, RefusedError, Sending, StreamError, refusal
from raftsched.store.wal.format import ConfState
from raftsched.testing.bulk import MemoryStream, pair
from raftsched.types import MemberInfo

CHUNK = limits.SNAPSHOT_CHUNK_BYTES
SIZE = 20 * (1 << 20)


class Lines:
    """Log lines as text."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, /, **fields: object) -> None:
        self.lines.append(f"{message} {fields}")

    debug = warning = error = info


class Time:
    def __init__(self) -> None:
        self.now_ns = 10**12

    def ns(self) -> int:
        self.now_ns += 1_000_000
        return self.now_ns

    def ms(self) -> int:
        return self.ns() // 1_000_000


# -- the protocol


def offer_of(data: bytes) -> Offer:
    return Offer(7, 3, len(data), hashlib.sha256(data).digest())


def exchange(data: bytes, *, partial: Partial | None = None, stop_after: int = 1 << 30) -> Partial:
    """Both sides without anything between; ends after so many chunks."""
    sending, receiving = Sending(offer_of(data)), Receiving()
    assert sending.next_chunk() is None
    offer = receiving.on_offer(sending.offer.encode())
    assert offer == sending.offer
    partial = partial or Partial(offer)
    sending.on_message(receiving.begin(partial))
    waiting: list[bytes] = []
    chunks = 0
    while not partial.complete and chunks < stop_after:
        place = sending.next_chunk()
        if place is not None:
            waiting.append(sending.chunk(data[place[0] : sum(place)]))
            continue
        assert waiting, "both wait for each other"
        while waiting and chunks < stop_after:
            partial.took(receiving.on_chunk(waiting.pop(0)))
            chunks += 1
            if answer := receiving.written():
                sending.on_message(answer)
    if partial.complete:
        assert partial.intact
        sending.on_message(receiving.done())
        assert sending.done
    return partial


@pytest.mark.parametrize("size", [1, 100, CHUNK - 1, CHUNK, CHUNK + 1, SIZE, SIZE + 17])
def test_the_two_sides_agree(size: int) -> None:
    data = os.urandom(size)
    partial = exchange(data)
    assert partial.offset_bytes == size
    for stop in (0, 1, 5):
        part = exchange(data, stop_after=stop)
        assert part.offset_bytes == min(stop * CHUNK, size)
        assert exchange(data, partial=part).intact


def test_what_is_under_way_is_bounded() -> None:
    sending = Sending(Offer(1, 1, 1 << 40, b"x" * 32))
    sending.on_message(Receiving().begin(Partial(sending.offer)))
    sent = 0
    while place := sending.next_chunk():
        sending.chunk(bytes(place[1]))
        sent += place[1]
    assert limits.SNAPSHOT_WINDOW_BYTES - CHUNK < sent <= limits.SNAPSHOT_WINDOW_BYTES


def test_damaged_cut_repeated_and_foreign_chunks_are_refused() -> None:
    data = os.urandom(3 * CHUNK)
    sending, receiving = Sending(offer_of(data)), Receiving()
    partial = Partial(sending.offer)
    sending.on_message(receiving.begin(partial))
    first, second = (sending.chunk(data[place[0] : sum(place)]) for place in (sending.next_chunk() or (0, 0), (CHUNK, CHUNK)))
    flipped = bytearray(first)
    flipped[len(first) // 2] ^= 1
    for wrong in (bytes(flipped), first[:-1], second, b"", b"\x03", refusal("no"), first[:21]):
        with pytest.raises(StreamError):
            receiving.on_chunk(wrong)
    partial.took(receiving.on_chunk(first))
    with pytest.raises(StreamError, match=f"chunk 0 at offset 0, but 1 at {CHUNK} is next"):
        receiving.on_chunk(first)
    partial.took(receiving.on_chunk(second))
    assert not partial.intact
    with pytest.raises(StreamError, match="has"):
        receiving.on_chunk(sending.chunk(data[2 * CHUNK :] + b"more than was offered"))


def test_what_the_receiver_must_not_say() -> None:
    sending = Sending(Offer(1, 1, 100, b"x" * 32))
    for wrong in (b"\x05", b"\x04" + bytes(8), b"\x02" + (101).to_bytes(8, "little"), b"\x02", b"", b"\x09" + bytes(8)):
        with pytest.raises(StreamError):
            sending.on_message(wrong)
    with pytest.raises(RefusedError, match="full"):
        sending.on_message(refusal("full"))
    sending.on_message(b"\x02" + bytes(8))
    with pytest.raises(StreamError, match="does not belong here"):
        sending.on_message(b"\x04" + (1).to_bytes(8, "little"))
    for wrong_offer in (b"", bytes(60), Offer(1, 1, 5, b"x" * 32).encode()[:-1], b"\x01\x02" + Offer(1, 1, 5, b"x" * 32).encode()[2:]):
        with pytest.raises(StreamError):
            Receiving().on_offer(wrong_offer)


def test_the_rate_holds_but_for_one_burst() -> None:
    pace, now_ns, sent = Pace(100 << 20, burst_bytes=8 << 20), 10**12, 0
    for _ in range(1000):
        now_ns += pace.wait_ns(1 << 20, now_ns)
        sent += 1 << 20
    seconds = (now_ns - 10**12) / 1e9
    assert 100 << 20 <= sent / seconds <= (100 << 20) * 1.02
    assert pace.wait_ns(1, now_ns + 10**10) == 0  # a pause gives one burst, not ten seconds of it
    assert pace.wait_ns(8 << 20, now_ns + 10**10) == 0
    assert pace.wait_ns(1, now_ns + 10**10) > 0


# -- both ends


def database(path: Path, *, index: int = 500, values: int = 40) -> Backend:
    backend = Backend(str(path))
    me = membership.encode_json(MemberInfo(5, "", ("http://a:1",), ()))
    learner = membership.encode_json(MemberInfo(6, "", ("http://b:1",), (), is_learner=True))
    generation = Generation()
    for revision in range(2, values + 2):
        generation.add(revision, 0, False, os.urandom(100_000))
    generation.freeze()
    members = [("members", membership.bucket_key(5), me), ("members", membership.bucket_key(6), learner)]
    backend.commit(generation, [], members, index, 4)
    assert backend.wait(20_000)
    backend.completed()
    backend.renew()
    return backend


class Ends:
    """A member that sends and one that receives."""

    def __init__(self, path: Path) -> None:
        self.time = Time()
        self.log = Lines()
        self.theirs = DataDirectory(path / "theirs", instance=None)
        self.ours = DataDirectory(path / "ours", instance=None)
        self.backend = database(Path(self.theirs.database_path))
        self.made = 0
        self.reason = self.finished = ""
        self.outgoing = Outgoing(
            self.theirs, make=self.make, in_use_bytes=lambda: self.backend.in_use_bytes, mono_ms=self.time.ms, log=self.log
        )
        self.incoming = Incoming(self.ours, is_wanted=lambda _offer: self.reason, mono_ns=self.time.ns, log=self.log)

    async def make(self, path: str) -> None:
        self.made += 1
        self.backend.start_copy(path)
        await asyncio.to_thread(self.backend.wait_bulk, 20_000)
        self.backend.bulk_completed()

    async def transfer(self, copy: Copy, streams: tuple[MemoryStream, MemoryStream] | None = None) -> list[Any]:
        """[what sending came to, what receiving came to]."""
        one, other = streams or pair(1, 2)
        sending = send(one, copy, pace=Pace(1 << 40), mono_ns=self.time.ns, log=self.log, stall_ms=2_000)

        async def closing(work: Coroutine[Any, Any, Any], end: MemoryStream) -> Any:
            try:
                return await work
            finally:
                end.close()

        both = (closing(sending, one), closing(self.incoming.receive(other, stall_ms=2_000), other))
        return list(await asyncio.gather(*both, return_exceptions=True))

    def close(self) -> None:
        self.backend.close()
        self.theirs.close()
        self.ours.close()


@pytest.fixture
def ends(tmp_path: Path) -> Any:
    both: list[Ends] = []

    def build() -> Ends:
        both.append(Ends(tmp_path))
        return both[0]

    yield build
    for one in both:
        one.close()


def test_a_database_arrives(ends: Any) -> None:
    async def run() -> None:
        both = ends()
        copy = await both.outgoing.acquire(1)
        assert copy.path.name == "outgoing.500.db"
        assert copy.stored == Stored(500, 4, ConfState(voters=(5,), learners=(6,)))
        sent, stored = await both.transfer(copy)
        assert (sent, stored) == (None, copy.stored)
        assert (both.ours.incoming_path / "data.mdb").read_bytes() == (copy.path / "data.mdb").read_bytes()
        assert list(os.listdir(copy.path)) == ["data.mdb"]
        assert any("receiving a snapshot: done" in line for line in both.log.lines)
        sent, refused = await both.transfer(copy)  # the installation owns the place now
        assert isinstance(sent, RefusedError)
        assert isinstance(refused, RefusedError)
        assert "being installed" in str(sent)

    asyncio.run(run())


@pytest.mark.parametrize("what", ["sending a snapshot", "receiving a snapshot"])
def test_both_ends_tell_of_their_progress(ends: Any, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Each few seconds; the clock here goes on by a millisecond each time it is read."""
    monkeypatch.setattr(limits, "SNAPSHOT_PROGRESS_MS", 2)

    async def run() -> None:
        both = ends()
        copy = await both.outgoing.acquire(1)
        await both.transfer(copy)
        begin, *between, end = [line for line in both.log.lines if line.startswith(what)]
        assert f"'index': 500, 'bytes': {copy.offer.size_bytes}" in begin
        assert "done" in end
        told = [int(line.partition("'percent': ")[2].partition(",")[0]) for line in between]
        assert told
        assert told == sorted(set(told))
        assert 0 < told[0] <= told[-1] <= 100

    asyncio.run(run())


def test_an_interrupted_stream_goes_on_where_it_stopped(ends: Any) -> None:
    async def run() -> None:
        both = ends()
        copy = await both.outgoing.acquire(1)
        total = 0
        for stop in (0, 2, 2, 1):
            one, other = pair(1, 2)
            one.fault = lambda number, data, stop=stop: None if number == stop else data
            for result in await both.transfer(copy, (one, other)):
                assert isinstance(result, PeerError | StreamError)
            total += one.sent_bytes
        one, other = pair(1, 2)
        assert (await both.transfer(copy, (one, other)))[1] == copy.stored
        assert total + one.sent_bytes < copy.offer.size_bytes * 1.6
        assert any("goes on where it stopped" in line for line in both.log.lines)

    asyncio.run(run())


class Life:
    """What is sent to a receiver whose process ends, with kill -9, and begins anew."""

    def __init__(self, both: Ends) -> None:
        self.both = both
        self.begun: list[int] = []  # the offsets at which streams began

    async def stream(self, copy: Copy, *, chunks: int = 1 << 30) -> list[Any]:
        one, other = pair(1, 2)
        one.fault = lambda number, data: None if number > chunks else data
        sent_before = self.both.incoming.received_bytes_total
        results = await self.both.transfer(copy, (one, other))
        partial = self.both.incoming._partial
        reached = copy.offer.size_bytes if results[1] == copy.stored else partial.offset_bytes if partial is not None else 0
        self.begun.append(reached - (self.both.incoming.received_bytes_total - sent_before))
        return results

    def restart(self) -> None:
        both = self.both
        both.ours.tidy()
        both.finished = install.finish(both.ours)
        both.incoming = Incoming(both.ours, is_wanted=lambda _offer: both.reason, mono_ns=both.time.ns, log=both.log)


def test_a_receiver_that_was_restarted_goes_on_behind_what_was_synced(ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_CHUNK_BYTES", 100_000)
    monkeypatch.setattr(limits, "SNAPSHOT_SYNC_BYTES", 300_000)

    async def run() -> None:
        both = ends()
        life = Life(both)
        copy = await both.outgoing.acquire(1)
        await life.stream(copy, chunks=12)
        for chunks in (0, 4, 9, 8, 5):  # connections are cut, too
            synced = part.read(both.ours.incoming_path)
            life.restart()
            assert f"at entry {copy.index} are kept" in both.finished
            await life.stream(copy, chunks=chunks)
            assert synced is not None
            assert life.begun[-1] == synced.offset_bytes > 0
            await life.stream(copy, chunks=4)
        life.restart()
        assert (await life.stream(copy))[1] == copy.stored
        data = (both.ours.incoming_path / "data.mdb").read_bytes()
        assert data == (copy.path / "data.mdb").read_bytes()
        assert life.begun[-1] > copy.offer.size_bytes / 4, life.begun
        life.restart()  # complete, and killed before the log has its mark: nothing is sent again
        assert (await life.stream(copy))[1] == copy.stored
        assert life.begun[-1] == copy.offer.size_bytes
        assert both.incoming.received_bytes_total == 0

    asyncio.run(run())


def spoil_data(path: Path) -> None:
    with open(path / "data.mdb", "r+b") as file:
        file.seek(123_456)
        file.write(b"spoiled")


def cut_data(path: Path) -> None:
    os.truncate(path / "data.mdb", 200_000)


def spoil_part(path: Path) -> None:
    data = bytearray((path / part.PART_NAME).read_bytes())
    data[-10] ^= 1
    (path / part.PART_NAME).write_bytes(data)


def empty_part(path: Path) -> None:
    (path / part.PART_NAME).write_bytes(b"")


def lose_data(path: Path) -> None:
    (path / "data.mdb").unlink()


def lose_part(path: Path) -> None:
    (path / part.PART_NAME).unlink()


@pytest.mark.parametrize("harm", [spoil_data, cut_data, spoil_part, empty_part, lose_data, lose_part])
def test_what_is_not_what_was_written_is_received_again(ends: Any, harm: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_CHUNK_BYTES", 100_000)
    monkeypatch.setattr(limits, "SNAPSHOT_SYNC_BYTES", 300_000)

    async def run() -> None:
        both = ends()
        life = Life(both)
        copy = await both.outgoing.acquire(1)
        await life.stream(copy, chunks=9)
        harm(both.ours.incoming_path)
        life.restart()
        assert (await life.stream(copy))[1] == copy.stored
        assert life.begun == [0, 0]
        assert (both.ours.incoming_path / "data.mdb").read_bytes() == (copy.path / "data.mdb").read_bytes()

    asyncio.run(run())


def test_a_part_of_another_snapshot_or_of_an_old_one_is_not_gone_on_with(ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_CHUNK_BYTES", 100_000)
    monkeypatch.setattr(limits, "SNAPSHOT_SYNC_BYTES", 300_000)

    async def run() -> None:
        both = ends()
        life = Life(both)
        copy = await both.outgoing.acquire(1)
        await life.stream(copy, chunks=9)
        life.restart()
        both.backend.commit(None, [], [("meta", b"x", b"y")], 501, 4)
        assert both.backend.wait(20_000)
        both.backend.completed()
        newer = await both.outgoing.acquire(600)
        assert (await life.stream(newer))[1].index == 501
        assert life.begun == [0, 0]
        life.restart()
        both.time.now_ns += limits.SNAPSHOT_PARTIAL_IDLE_MS * 1_000_000
        both.incoming.tick(both.time.ms())
        assert not both.ours.incoming_path.exists(), "nobody went on with it"

    asyncio.run(run())


def batched(path: Path, values: list[bytes], batch: int) -> Backend:
    """These values, committed so many at a time: members flush when their disks let them."""
    backend = Backend(str(path))
    me = membership.encode_json(MemberInfo(5, "", ("http://a:1",), ()))
    for start in range(0, len(values), batch):
        generation = Generation()
        for revision, value in enumerate(values[start : start + batch], start + 2):
            generation.add(revision, 0, False, value)
        generation.freeze()
        index = min(start + batch, len(values)) + 500
        backend.commit(generation, [], [("members", membership.bucket_key(5), me)], index, 4)
        assert backend.wait(20_000)
        backend.completed()
        backend.renew()
    return backend


def hash_of(backend: Backend) -> tuple[int, int, str]:
    backend.start_hash()
    assert backend.wait_bulk(20_000)
    [found] = backend.bulk_completed()
    return found


def test_another_leaders_copy_of_the_same_entry_has_other_bytes_and_begins_at_zero(ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two members hold one state in trees of their own: half of the one and half of the other would be no database. What one member copies
    twice is the same, also in a later life, if nothing was applied between; then a stream goes on."""
    monkeypatch.setattr(limits, "SNAPSHOT_CHUNK_BYTES", 100_000)
    monkeypatch.setattr(limits, "SNAPSHOT_SYNC_BYTES", 300_000)

    async def run() -> None:
        both = ends()
        values = [os.urandom(100 + number * 37 % 3_000) for number in range(1_000)]
        both.backend.close()
        both.backend = batched(Path(both.theirs.path, "db.1"), values, 70)
        other = batched(Path(both.theirs.path, "db.2"), values, 90)
        assert hash_of(both.backend) == hash_of(other)
        life = Life(both)
        first = await both.outgoing.acquire(1)
        await life.stream(first, chunks=9)

        both.outgoing.release(first)  # a new life of the sender
        both.outgoing.close()
        both.backend.close()
        both.backend = Backend(str(both.theirs.path / "db.1"), create=False)
        again = await both.outgoing.acquire(1)
        assert (again.offer, again is first) == (first.offer, False)
        await life.stream(again, chunks=5)
        both.outgoing.release(again)
        both.outgoing.close()

        both.backend.close()
        both.backend = other  # another member leads
        theirs = await both.outgoing.acquire(1)
        assert (theirs.index, theirs.stored.term, theirs.offer.size_bytes) == (first.index, first.stored.term, first.offer.size_bytes)
        assert theirs.offer.digest != first.offer.digest
        assert (await life.stream(theirs))[1] == theirs.stored
        assert (both.ours.incoming_path / "data.mdb").read_bytes() == (theirs.path / "data.mdb").read_bytes()
        assert life.begun[1] >= limits.SNAPSHOT_SYNC_BYTES
        assert life.begun == [0, life.begun[1], 0]

    asyncio.run(run())


def test_a_copy_stays_as_long_as_a_part_of_it_may(ends: Any) -> None:
    async def run() -> None:
        both = ends()
        copy = await both.outgoing.acquire(1)
        both.outgoing.release(copy, wanted=True)
        both.outgoing.tick(both.time.ms() + limits.SNAPSHOT_COPY_IDLE_MS)
        assert copy.path.exists()
        both.outgoing.tick(both.time.ms() + limits.SNAPSHOT_PARTIAL_IDLE_MS)
        assert not copy.path.exists()

    asyncio.run(run())


def test_damage_on_the_way_ends_the_stream_and_nothing_else(ends: Any) -> None:
    async def run() -> None:
        both = ends()
        copy = await both.outgoing.acquire(1)

        def flip(number: int, data: bytes) -> bytes:
            return data[:50] + bytes([data[50] ^ 4]) + data[51:] if number == 2 else data

        def repeat(number: int, data: bytes) -> bytes:
            kept.append(data)
            return kept[1] if number == 2 else data

        kept: list[bytes] = []
        for fault in (flip, repeat, lambda number, data: data[:-1] if number == 2 else data):
            one, other = pair(1, 2)
            one.fault = fault
            _, result = await both.transfer(copy, (one, other))
            assert isinstance(result, StreamError)
        assert (await both.transfer(copy))[1] == copy.stored

    asyncio.run(run())


def test_what_is_not_what_was_offered_never_counts(ends: Any) -> None:
    async def run() -> None:
        both = ends()
        copy = await both.outgoing.acquire(1)
        data = (copy.path / "data.mdb").read_bytes()
        (copy.path / "data.mdb").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))  # the checksums of the chunks are right
        sent, refused = await both.transfer(copy)
        assert isinstance(sent, RefusedError)
        assert "its hash differs" in str(refused)
        assert not both.ours.incoming_path.exists()
        (copy.path / "data.mdb").write_bytes(data)
        wrong = Copy(copy.path, copy.stored, Offer(501, 4, copy.offer.size_bytes, copy.offer.digest))
        assert "is of entry 500, 501 was offered" in str((await both.transfer(wrong))[0])
        junk = os.urandom(100_000)
        (copy.path / "data.mdb").write_bytes(junk)
        sent, refused = await both.transfer(Copy(copy.path, copy.stored, Offer(500, 4, len(junk), hashlib.sha256(junk).digest())))
        assert "cannot open the database" in str(sent) or "cannot read the database" in str(sent)
        assert not both.ours.incoming_path.exists()
        (copy.path / "data.mdb").write_bytes(data)
        assert (await both.transfer(copy))[1] == copy.stored

    asyncio.run(run())


def test_who_does_not_want_it_or_has_no_room_says_so(ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        both = ends()
        copy = await both.outgoing.acquire(1)
        both.reason = "entry 600 is committed here"
        assert "entry 600 is committed here" in str((await both.transfer(copy))[0])
        both.reason = ""
        with monkeypatch.context() as patch:
            patch.setattr(limits, "SNAPSHOT_SPACE_RESERVE_BYTES", 1 << 60)
            sent, _ = await both.transfer(copy)
            assert isinstance(sent, RefusedError)
            assert "a snapshot needs" in str(sent)
            both.backend.measure_now()
            with pytest.raises(NoSpaceError, match="a copy for a member that is behind needs"):
                await both.outgoing.acquire(10_000)
        with monkeypatch.context() as patch:
            full = OSError(28, "No space left on device")
            patch.setattr("raftsched.store.snapshot.incoming.os.pwrite", lambda *_: (_ for _ in ()).throw(full))
            assert "No space left" in str((await both.transfer(copy))[0])
        assert not both.ours.incoming_path.exists()

    asyncio.run(run())


def test_silence_ends_a_stream(ends: Any) -> None:
    async def run() -> None:
        both = ends()
        copy = await both.outgoing.acquire(1)
        one, _other = pair(1, 2)
        with pytest.raises(StreamError, match="no progress for 50 ms"):
            await send(one, copy, pace=Pace(1 << 40), mono_ns=both.time.ns, log=both.log, stall_ms=50)
        with pytest.raises(StreamError, match="no progress for 50 ms"):
            await both.incoming.receive(pair(1, 2)[1], stall_ms=50)
        receiving = asyncio.create_task(both.incoming.receive(pair(1, 2)[1]))
        await asyncio.sleep(0)
        sent, _refused = await both.transfer(copy)
        assert "another snapshot is being received" in str(sent)
        receiving.cancel()
        await asyncio.wait([receiving])
        assert (await both.transfer(copy))[1] == copy.stored

    asyncio.run(run())


def test_one_copy_serves_several_and_goes_when_idle(ends: Any) -> None:
    async def run() -> None:
        both = ends()
        first, second = await asyncio.gather(both.outgoing.acquire(1), both.outgoing.acquire(501))
        assert first is second
        assert both.made == 1
        both.outgoing.release(first)
        both.backend.commit(None, [], [], 700, 5)
        both.backend.wait(10_000)
        both.backend.completed()
        newer = await both.outgoing.acquire(502)  # the log begins behind the first copy
        assert (newer.index, both.made) == (700, 2)
        both.outgoing.tick(both.time.ms())
        assert first.path.exists()  # somebody reads it
        both.outgoing.release(second)
        both.outgoing.tick(both.time.ms())
        assert not first.path.exists()
        both.outgoing.release(newer)
        both.outgoing.tick(both.time.ms())
        assert newer.path.exists()
        both.time.now_ns += limits.SNAPSHOT_COPY_IDLE_MS * 1_000_000
        both.outgoing.tick(both.time.ms())
        assert not newer.path.exists()
        again = await both.outgoing.acquire(1)
        both.outgoing.release(again)
        both.outgoing.close()
        assert os.listdir(both.theirs.snap_path) == []

    asyncio.run(run())


def test_copies_and_parts_that_are_left_go(ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        both = ends()
        copy = await both.outgoing.acquire(1)
        one, other = pair(1, 2)
        one.fault = lambda number, data: None if number == 3 else data
        await both.transfer(copy, (one, other))
        assert both.ours.incoming_path.exists()
        both.incoming.tick(both.time.ms())
        assert both.ours.incoming_path.exists()
        both.time.now_ns += limits.SNAPSHOT_PARTIAL_IDLE_MS * 1_000_000
        both.incoming.tick(both.time.ms())
        assert not both.ours.incoming_path.exists()
        (both.theirs.snap_path / "outgoing.new.db").mkdir()
        both.theirs.tidy()  # what every start does
        assert os.listdir(both.theirs.snap_path) == []

        async def fails(_path: str) -> None:
            raise RuntimeError

        broken = Outgoing(both.theirs, make=fails, in_use_bytes=lambda: 0, mono_ms=both.time.ms, log=both.log)
        with pytest.raises(RuntimeError):
            await broken.acquire(1)
        monkeypatch.setattr(outgoing, "read_stored", lambda _path: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(Exception, match="Input/output error"):
            await both.outgoing.acquire(10_000)
        assert os.listdir(both.theirs.snap_path) == []

    asyncio.run(run())


async def test_a_cancellation_together_with_the_result_is_no_result() -> None:
    """Whoever stops a stream waits for its task to end: one that goes on would write behind it."""
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(within(1_000, future))
    await asyncio.sleep(0)
    future.set_result(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
