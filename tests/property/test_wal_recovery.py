"""The log's format and its recovery against a slow twin: power cuts, truncations, flipped bits (T1, T2, T10 of the Raft notes)."""

import random
import re
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftsched.errors import CorruptError, FatalError
from raftsched.pb.raft import raft_pb2, wal_pb2
from raftsched.store.wal._walio import LogReader, RecordEncoder, batch_start_after, crc32c, data_end
from raftsched.store.wal.format import ConfState, Metadata, SnapshotMark, decode_mark, encode_mark, encode_metadata, segment_name
from raftsched.store.wal.recovery import Recovered, create, recover
from raftsched.testing.disk import SECTOR_BYTES, SimulatedDisk
from raftsched.types import HardState

METADATA = Metadata(node_id=0x8E9E05C52164694D, cluster_id=0xCDF818194E3A8C32)


# --------------------------------------------------------------------------------------------------------------------
# The twin: etcd's format, written down slowly
# --------------------------------------------------------------------------------------------------------------------


def twin_crc(data: bytes, value: int = 0) -> int:
    value ^= 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def twin_frame(kind: int, crc: int, data: bytes) -> bytes:
    record = wal_pb2.Record(type=kind, crc=crc)
    if data:
        record.data = data
    body = record.SerializeToString()
    pad = -len(body) % 8
    return struct.pack("<Q", len(body) | (0x80 | pad) << 56 if pad else len(body)) + body + bytes(pad)


class TwinEncoder:
    def __init__(self) -> None:
        self.crc = 0
        self.out = b""

    def record(self, kind: int, data: bytes) -> None:
        if kind != 4:
            self.crc = twin_crc(data, self.crc)
        self.out += twin_frame(kind, self.crc, data)

    def entry(self, kind: int, term: int, index: int, data: bytes) -> None:
        entry = raft_pb2.Entry(Type=kind, Term=term, Index=index)
        if data:
            entry.Data = data
        self.record(2, entry.SerializeToString())


def twin_read(data: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """((type, data) of all records, offset of the end), with asserts where the real one answers."""
    offset = crc = 0
    found = []
    while offset < len(data) and (word := struct.unpack_from("<Q", data, offset)[0]):
        size, pad = word & (1 << 56) - 1, word >> 56 & 7
        record = wal_pb2.Record.FromString(data[offset + 8 : offset + 8 + size])
        crc = record.crc if record.type == 4 and not found else crc
        crc = crc if record.type == 4 else twin_crc(record.data, crc)
        assert crc == record.crc
        found.append((record.type, record.data))
        offset += 8 + size + pad
    return found, offset


entries = st.lists(st.tuples(st.integers(1, 2**63), st.sampled_from([0, 0, 0, 1, 2]), st.binary(min_size=1, max_size=300)), max_size=6)
states = st.none() | st.builds(HardState, st.integers(0, 2**63), st.integers(0, 2**64 - 1), st.integers(0, 2**63))


@given(st.binary(max_size=100), st.integers(0, 2**32 - 1))
def test_crc_is_castagnoli(data: bytes, start: int) -> None:
    assert crc32c(data, start) == twin_crc(data, start)


def test_crc_of_the_standard_check_text() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720, B.4


@given(entries, states, st.integers(1, 2**62), st.integers(0, 2**20).map(lambda n: n * 8))
def test_encoder_writes_what_etcd_would(batch: list[tuple[int, int, bytes]], state: HardState | None, first: int, offset: int) -> None:
    mark = encode_mark(SnapshotMark(index=5, term=3, conf_state=ConfState(voters=(1, 2**64 - 1), learners=(7,))))
    encoder, twin = RecordEncoder(), TwinEncoder()
    written = encoder.group(
        3, offset, first, [e[0] for e in batch], [e[2] for e in batch], types=[e[1] for e in batch], hard_state=state, mark=mark
    )
    twin.record(4, struct.pack("<QQ", 3, offset))
    for number, (term, kind, data) in enumerate(batch):
        twin.entry(kind, term, first + number, data)
    if state is not None:
        twin.record(3, raft_pb2.HardState(term=state.term, vote=state.vote, commit=state.commit).SerializeToString())
    twin.record(
        5,
        wal_pb2.Snapshot(
            index=5, term=3, conf_state=raft_pb2.ConfState(voters=[1, 2**64 - 1], learners=[7], auto_leave=False)
        ).SerializeToString(),
    )
    assert written == twin.out
    assert encoder.crc == twin.crc
    assert decode_mark(mark).conf_state == ConfState(voters=(1, 2**64 - 1), learners=(7,))


def test_large_entries_are_framed_like_small_ones() -> None:
    """Entries from 256 KiB on take another road: bytes around that border must be the same."""
    for length in range((1 << 18) - 9, (1 << 18) + 9):
        data = bytes([length & 255]) * length
        written = RecordEncoder().group(0, 0, 1, [1, 1], [data, b"x"])
        records, end = twin_read_fast(written)
        assert end == len(written)
        assert raft_pb2.Entry.FromString(records[1][1]).Data == data


def twin_read_fast(data: bytes) -> tuple[list[tuple[int, bytes]], int]:
    offset, found = 0, []
    while offset < len(data):
        word = struct.unpack_from("<Q", data, offset)[0]
        size, pad = word & (1 << 56) - 1, word >> 56 & 7
        record = wal_pb2.Record.FromString(data[offset + 8 : offset + 8 + size])
        found.append((record.type, record.data))
        offset += 8 + size + pad
    return found, offset


# --------------------------------------------------------------------------------------------------------------------
# A writer on a simulated disk, as careful as the real one: one group at a time, synced before the next
# --------------------------------------------------------------------------------------------------------------------


class SimulatedLog:
    def __init__(self, disk: SimulatedDisk, recovered: Recovered) -> None:
        self.disk = disk
        self.encoder = RecordEncoder(recovered.crc)
        self.sequence, self.name = recovered.segments[-1].sequence, recovered.segments[-1].name
        self.offset = recovered.end_offset
        self.last_index = recovered.last_index
        self.state = recovered.hard_state

    def append(self, first: int, terms: list[int], datas: list[bytes], state: HardState | None, *, sync: bool) -> None:
        group = self.encoder.group(self.sequence, self.offset, first, terms, datas, hard_state=state)
        self.disk.write(self.name, self.offset, group)
        if sync:
            self.disk.sync(self.name)
        self.offset += len(group)
        self.last_index = first + len(datas) - 1 if datas else self.last_index
        self.state = state or self.state

    def rotate(self) -> None:
        self.sequence, self.offset = self.sequence + 1, 0
        self.name = segment_name(self.sequence, self.last_index + 1)
        head = self.encoder.group(self.sequence, 0, self.last_index + 1, metadata=encode_metadata(METADATA), head_state=self.state)
        self.disk.create(self.name, head)
        self.offset = len(head)


def fresh() -> SimulatedDisk:
    disk = SimulatedDisk()
    create(disk, METADATA)
    return disk


@settings(max_examples=300, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 6), st.sampled_from([0, 1, 511, 512, 4096]))
def test_power_cut_keeps_what_was_synced(rng: random.Random, rounds: int, zeroed: int) -> None:
    """Any subset of the unsynced sectors reaches the disk, round after round: what was synced is there, what follows is a prefix of
    what was written, and the start is never refused."""
    disk = fresh()
    history: list[tuple[int, bytes]] = []  # synced (term, data), by index
    term = 1
    for _ in range(rounds):
        recovered = recover(disk, after_index=0)
        got = list(zip(recovered.terms, recovered.datas, strict=True))
        assert got[: len(history)] == history
        log, history = SimulatedLog(disk, recovered), got
        for number in range(rng.randint(1, 4)):
            last = number == 3 or rng.random() < 0.3
            if rng.random() < 0.3:
                log.rotate()
            disk.write(log.name, log.offset, bytes(zeroed))  # zeros ahead, synced or not
            commit = min(log.state.commit if log.state else 0, len(history))
            first = rng.randint(commit + 1, len(history) + 1)  # may replace what is not committed
            term += rng.randint(0, 1)
            datas = [rng.randbytes(rng.choice([0, 1, 30, 500, 2000])) for _ in range(rng.randint(1, 5))]
            state = HardState(term, 1, rng.randint(commit, first - 1)) if rng.random() < 0.7 else None
            log.append(first, [term] * len(datas), datas, state, sync=not last)
            written = history[: first - 1] + [(term, data) for data in datas]
            if last:
                break
            history = written
        chance = rng.random()
        disk = disk.crash(lambda chance=chance: rng.random() < chance)
        recovered = recover(disk, after_index=0)
        got = list(zip(recovered.terms, recovered.datas, strict=True))
        assert got == history or (got == written[: len(got)] and len(got) >= min(first, len(history) + 1) - 1)
        if recovered.hard_state is not None:
            assert recovered.hard_state.commit <= len(got)
            assert not got or recovered.hard_state.term >= got[-1][0]
        history = got
        assert recover(disk, after_index=0).repaired == ""  # the repair is complete and was synced
        assert disk.synced == {name: bytes(data) for name, data in disk.files.items()}


def test_every_subset_of_the_sectors_of_a_small_batch_at_every_alignment() -> None:
    """The batch's first record may itself be cut by a sector border, its stamp torn off."""
    for filler in range(0, SECTOR_BYTES, 8):
        disk = fresh()
        log = SimulatedLog(disk, recover(disk, after_index=0))
        log.append(1, [1], [bytes(filler + 1)], HardState(1, 1, 0), sync=True)
        log.append(2, [1, 1], [b"\1" * 400, b"\2" * 300], HardState(1, 1, 1), sync=False)
        for subset in range(16):
            bits = iter([bool(subset >> n & 1) for n in range(4)])
            after = disk.crash(lambda bits=bits: next(bits))
            datas = recover(after, after_index=0).datas
            assert datas in ([bytes(filler + 1), b"\1" * 400, b"\2" * 300][:count] for count in (1, 2, 3))


def small_log() -> tuple[SimulatedDisk, list[list[tuple[int, bytes]]]]:
    """Two segments, five batches; and the entries after each batch."""
    disk = fresh()
    log = SimulatedLog(disk, recover(disk, after_index=0))
    log.append(1, [1, 1], [b"one", b""], HardState(1, 1, 0), sync=True)
    log.append(3, [1], [b"three" * 20], HardState(1, 1, 2), sync=True)
    log.rotate()
    log.append(3, [2], [b"THREE"], HardState(2, 1, 2), sync=True)
    log.append(4, [2, 2], [b"four", b"five" * 9], None, sync=True)
    log.append(6, [2], [b"six"], HardState(2, 1, 5), sync=True)
    disk.write(log.name, log.offset, bytes(64))
    disk.sync(log.name)
    one: list[tuple[int, bytes]] = [(1, b"one"), (1, b"")]
    states = [[], one, [*one, (1, b"three" * 20)]]
    two = [*one, (2, b"THREE")]
    states += [two, [*two, (2, b"four")], [*two, (2, b"four"), (2, b"five" * 9)]]
    states += [[*states[-1], (2, b"six")]]
    return disk, states


def mutated(name: str, data: bytes) -> SimulatedDisk:
    disk, _ = small_log()
    disk.files[name] = bytearray(data)
    return disk


def check_prefix_or_refusal(disk: SimulatedDisk, allowed: list[list[tuple[int, bytes]]], refusals: set[str]) -> bool:
    try:
        recovered = recover(disk, after_index=0)
    except CorruptError as error:
        if not re.search(r"/simulated(/\S+, offset \d+)?: ", str(error)):
            raise
        refusals.add(re.sub(r"[0-9a-f]{16}|\d+", "#", str(error)))
        return False
    assert list(zip(recovered.terms, recovered.datas, strict=True)) in allowed
    return True


def test_every_truncation_starts_with_a_prefix_or_refuses() -> None:
    disk, states = small_log()
    names = sorted(disk.files)
    started = 0
    refusals: set[str] = set()
    for number, name in enumerate(names):
        whole = bytes(disk.files[name])
        for length in range(len(whole)):
            ok = check_prefix_or_refusal(mutated(name, whole[:length]), states[2:] if number else [], refusals)
            assert not (ok and number == 0), f"a cut at {length} of an older segment went unnoticed"
            started += ok
    assert started > 100
    assert len(refusals) >= 2


def test_every_flipped_bit_starts_with_a_prefix_or_refuses() -> None:
    disk, states = small_log()
    refusals: set[str] = set()
    started = refused = 0
    for number, name in enumerate(sorted(disk.files)):
        whole = bytes(disk.files[name])
        for bit in range(len(whole) * 8):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            ok = check_prefix_or_refusal(mutated(name, bytes(flipped)), states[2:] if number else [], refusals)
            started, refused = started + ok, refused + (not ok)
    assert started > 500
    assert refused > 5000


def test_break_before_a_later_batch_is_corruption_and_says_where() -> None:
    disk, _ = small_log()
    name = sorted(disk.files)[-1]
    data = disk.files[name]
    second = batch_start_after(data, 8, 1)
    data[second + 60] ^= 1
    with pytest.raises(CorruptError, match=rf"/simulated/{name}, offset {second + 40}: .*a later batch begins at offset \d+"):
        recover(disk, after_index=0)


def test_log_bytes_inside_a_value_are_no_batch_start() -> None:
    """Somebody stores a log file as a value; the batch that holds it is torn: that is no corruption."""
    disk = fresh()
    log = SimulatedLog(disk, recover(disk, after_index=0))
    log.append(1, [1], [b"first"], HardState(1, 1, 0), sync=True)
    copy = bytes(disk.files[log.name])
    for shift in range(8):  # at every alignment
        torn = SimulatedDisk()
        torn.files = {name: bytearray(data) for name, data in disk.files.items()}
        group = bytearray(RecordEncoder(log.encoder.crc).group(0, log.offset, 2, [1, 1], [bytes(1000), bytes(shift) + copy * 3]))
        group[200] ^= 1
        torn.write(log.name, log.offset, bytes(group))
        recovered = recover(torn, after_index=0)
        assert recovered.datas == [b"first"]
        assert "unfinished batch cleared" in recovered.repaired


def test_missing_segment_and_foreign_segment_are_refused() -> None:
    disk, _ = small_log()
    first, second = sorted(disk.files)
    third = segment_name(3, 7)
    disk.files[third] = bytearray(disk.files[second])
    with pytest.raises(CorruptError, match="is missing"):
        recover(disk, after_index=0)
    del disk.files[third]
    moved = segment_name(1, 9)
    disk.files[moved] = disk.files.pop(second)
    with pytest.raises(CorruptError, match="its name says index 9, the log before it ends at 3"):
        recover(disk, after_index=0)
    disk.files = {segment_name(1, 4): disk.files[moved]}
    with pytest.raises(CorruptError, match="begins at entry 4, the store ends at 0"):
        recover(disk, after_index=0)
    del first


def test_store_ahead_of_the_log_is_refused() -> None:
    disk, _ = small_log()
    with pytest.raises(FatalError, match="ends at entry 6, the store has applied 7"):
        recover(disk, after_index=7)
    with pytest.raises(FatalError, match="no write-ahead log"):
        recover(SimulatedDisk(), after_index=0)


def test_only_entries_behind_the_applied_index_are_kept() -> None:
    disk, states = small_log()
    for after in range(7):
        recovered = recover(disk, after_index=after)
        assert recovered.first_index == after + 1
        assert list(zip(recovered.terms, recovered.datas, strict=True)) == states[-1][after:]
        assert recovered.base_term == (states[-1][after - 1][0] if after else 0)
        assert (recovered.last_index, recovered.hard_state) == (6, HardState(2, 1, 5))
        assert recovered.metadata == METADATA


def test_failed_sync_of_a_repair_is_fatal() -> None:
    disk = fresh()
    log = SimulatedLog(disk, recover(disk, after_index=0))
    log.append(1, [1], [b"x" * 100], HardState(1, 1, 0), sync=False)
    disk.files[log.name][-60] ^= 1
    for call in ("write", "sync"):
        disk.fail = call
        with pytest.raises(FatalError, match=f"cannot {call} /simulated/{log.name}"):
            recover(disk, after_index=0)


@pytest.mark.parametrize(
    ("terms", "datas", "state", "reason"),
    [
        ([1], [b"x"], None, "entry 9 follows 0"),
        ([], [], HardState(1, 1, 5), "ends at entry 0, but 5 was committed"),
    ],
)
def test_records_that_verify_and_cannot_be(terms: list[int], datas: list[bytes], state: HardState | None, reason: str) -> None:
    disk = fresh()
    log = SimulatedLog(disk, recover(disk, after_index=0))
    log.append(9, terms, datas, state, sync=True)
    with pytest.raises(CorruptError, match=reason):
        recover(disk, after_index=0)


def test_replacing_a_committed_entry_or_a_falling_term_is_refused() -> None:
    disk = fresh()
    log = SimulatedLog(disk, recover(disk, after_index=0))
    log.append(1, [3, 3], [b"a", b"b"], HardState(3, 1, 0), sync=True)
    log.append(3, [3], [b"c"], HardState(3, 1, 2), sync=True)
    before = bytes(disk.files[log.name])
    log.append(2, [4], [b"B"], HardState(4, 1, 2), sync=True)
    with pytest.raises(CorruptError, match="entry 2 replaces a committed one"):
        recover(disk, after_index=0)
    disk.files[log.name] = bytearray(before)
    log = SimulatedLog(disk, recover(disk, after_index=0))
    log.append(4, [2], [b"d"], None, sync=True)
    with pytest.raises(CorruptError, match="entry 4 has term 2 after 3"):
        recover(disk, after_index=0)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 3))
def test_reader_survives_any_bytes(data: bytes, keep: int) -> None:
    """Garbage, and a valid head followed by garbage: an answer, never a crash."""
    head = RecordEncoder().group(0, 0, 1, [1] * keep, [b"e"] * keep, metadata=encode_metadata(METADATA), hard_state=HardState(1, 1, 0))
    for blob in (data, head + data):
        reader = LogReader(0)
        end, broken, illegal = reader.read(blob, 0, 1)
        assert 0 <= end <= len(blob)
        assert broken or illegal or not blob[end:].strip(b"\0")
        assert batch_start_after(blob, end, 0) in {-1, *range(end, len(blob), 8), *range(0, len(blob), 8)}
        assert data_end(blob, 0) == len(blob.rstrip(b"\0"))


def test_sectors_are_the_unit_of_loss() -> None:
    disk = SimulatedDisk()
    disk.create("f", bytes(2 * SECTOR_BYTES))
    disk.write("f", 0, b"\1" * 2 * SECTOR_BYTES)
    choices = iter([False, True])
    assert disk.crash(lambda: next(choices)).files["f"] == bytes(SECTOR_BYTES) + b"\1" * SECTOR_BYTES
