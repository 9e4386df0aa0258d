"""The entrance for other people's databases: whatever the bytes are, it is read or refused in one line, in bounded time and memory."""

import random
import struct
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "property"))
import bolt_twin

from raftsched.errors import CorruptError, FatalError
from raftsched.store._records import Generation
from raftsched.store.bolt._bolt import BoltFile, RecordReader

PAGE = 4096


def sample() -> bytes:
    """A file with all that the format has: two levels of branches, overflow, inline buckets, free pages."""
    buckets = {
        b"key": [
            (struct.pack(">Q", main) + b"_" + bytes(8), b"\x0a\x03k%02d" % (main % 100) + b"v" * (main % 300)) for main in range(2, 6_000)
        ],
        b"meta": [(b"consistent_index", bytes(8)), (b"term", bytes(8))],
        b"lease": [(b"%08d" % one, b"x" * 50) for one in range(500)],
        b"members": [(b"a", b"large" * 3_000), (b"b", b"")],
    }
    return bolt_twin.Writer().finish(buckets, inline=frozenset({b"meta"}), free=5)


SAMPLE = sample()
KEY_PAGES = len(SAMPLE) // PAGE


def read_all(data: bytes) -> None:
    """All that any command does with a file; nothing but a one-line refusal may come out."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "db"
        path.write_bytes(data)
        began = time.process_time()
        try:
            bolt = BoltFile(str(path))
            bolt.digest()
            for bucket in bolt.buckets:
                bolt.items(bucket)
            reader = RecordReader(bolt)
            while reader.fill(Generation(), 1 << 20):
                pass
        except (CorruptError, FatalError) as error:
            assert "\n" not in str(error)  # noqa: PT017  # either outcome is right
            assert str(path) in str(error)  # noqa: PT017
        assert time.process_time() - began < 10


def fix_sums(data: bytearray) -> None:
    """So that damage in a meta page is seen by more than its checksum."""
    for offset in (16, PAGE + 16):
        body = bytes(data[offset : offset + 56])
        data[offset + 56 : offset + 64] = struct.pack("<Q", bolt_twin.fnv1a(body))


def test_the_sample_is_whole() -> None:
    read_all(SAMPLE)
    assert len(bolt_twin.read(bolt_twin.Writer().finish({b"key": [(b"%06d" % one, b"v" * 99) for one in range(9_000)]}))[b"key"]) == 9_000


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 9), st.binary(min_size=1, max_size=8)), min_size=1, max_size=12), st.booleans())
def test_bytes_changed_anywhere(changes: list[tuple[int, bytes]], fix: bool) -> None:
    data = bytearray(SAMPLE)
    for offset, change in changes:
        data[offset : offset + len(change)] = change
    if fix:
        fix_sums(data)
    read_all(bytes(data))


@pytest.mark.parametrize("seed", range(120))
def test_headers_and_elements_with_hostile_numbers(seed: int) -> None:
    """Where it hurts most: page numbers, counts, overflows, positions and lengths, at the edges of what fits."""
    chance = random.Random(seed)
    data = bytearray(SAMPLE)
    edges = [0, 1, 2, 3, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 2**64 - 1, 2**63, len(SAMPLE) // PAGE, len(SAMPLE) // PAGE - 1, 4096]
    for _ in range(chance.randint(1, 6)):
        page = chance.randrange(KEY_PAGES)
        field = chance.choice([0, 8, 10, 12, *(16 + 16 * chance.randrange(20) + at for at in (0, 4, 8, 12))])
        size = {8: 2, 10: 2}.get(field, chance.choice([4, 8]))
        value = chance.choice([*edges, chance.randrange(KEY_PAGES)]) & ((1 << 8 * size) - 1)
        at = page * PAGE + field
        data[at : at + size] = value.to_bytes(size, "little")
    fix_sums(data)
    read_all(bytes(data))


@pytest.mark.parametrize("seed", range(40))
def test_files_cut_anywhere_and_noise(seed: int) -> None:
    chance = random.Random(seed)
    read_all(SAMPLE[: chance.randrange(len(SAMPLE))])
    read_all(chance.randbytes(chance.randrange(3 * PAGE)))
    read_all(SAMPLE[: 2 * PAGE] + chance.randbytes(len(SAMPLE) - 2 * PAGE))


def branch(number: int, children: list[int]) -> bytes:
    elements = [(child, b"k%05d" % at, b"") for at, child in enumerate(children)]
    return bolt_twin.Writer.page(number, 1, elements).ljust(PAGE, b"\0")


def with_root(pages: list[bytes]) -> bytes:
    """A file whose root is page 2."""
    writer = bolt_twin.Writer()
    writer.next = 2 + len(pages)
    return b"".join(writer.meta(index, 2, bolt_twin.NO_FREELIST, 2 - index) for index in (0, 1)) + b"".join(pages)


def refusal(data: bytes, tmp_path: Path) -> str:
    path = tmp_path / "db"
    path.write_bytes(data)
    with pytest.raises(CorruptError) as caught:
        BoltFile(str(path)).digest()
    return str(caught.value).removeprefix(f"{path}: ")


def test_trees_that_lead_back_into_themselves_end(tmp_path: Path) -> None:
    """Also those that would be walked an exponential number of times."""
    assert refusal(with_root([branch(2, [2])]), tmp_path) == "page 2: the tree leads back into itself"
    assert "the tree leads back into itself" in refusal(with_root([branch(2, [3, 3]), branch(3, [2, 2])]), tmp_path)
    ladder = [branch(2 + step, [3 + step] * 100) for step in range(40)]
    assert refusal(with_root([*ladder, branch(42, [2])]), tmp_path).endswith("the tree is too deep")
    wide = [branch(2 + step, [3 + step] * 100) for step in range(20)]
    empty = bolt_twin.Writer.page(22, 2, []).ljust(PAGE, b"\0")
    assert refusal(with_root([*wide, empty]), tmp_path).endswith("the tree leads back into itself")


def test_reasons_are_told(tmp_path: Path) -> None:
    assert refusal(b"", tmp_path) == "no valid meta page: this is no bbolt database"
    assert refusal(b"x" * 10_000, tmp_path) == "no valid meta page: this is no bbolt database"
    assert refusal(SAMPLE[:-PAGE], tmp_path) == "the file is shorter than its meta page says: it was cut"
    loose = bolt_twin.Writer.page(2, 2, [(0, b"a", b"b")]).ljust(PAGE, b"\0")
    assert refusal(with_root([loose]), tmp_path) == "page 2: a key that belongs to no bucket"
    unordered = bolt_twin.Writer.page(2, 2, [(1, b"b", bytes(16)), (1, b"a", bytes(16))]).ljust(PAGE, b"\0")
    assert refusal(with_root([unordered]), tmp_path) == "page 2: its keys do not rise"
    cut = bolt_twin.Writer.page(2, 2, [(1, b"b", bytes(20))]).ljust(PAGE, b"\0")
    assert refusal(with_root([cut]), tmp_path) == "page 2: a bucket inside it is cut"


def test_the_meta_page_of_the_later_transaction_counts_and_a_damaged_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "db"
    for txid, newer in ((2, 0), (3, 1)):
        data = bytearray(bolt_twin.Writer().finish({b"meta": [(b"a", b"b")]}, txid=txid))
        path.write_bytes(data)
        assert BoltFile(str(path)).txid == txid
        data[newer * PAGE + 40] ^= 1
        path.write_bytes(data)
        assert BoltFile(str(path)).txid == txid - 1
        data[(1 - newer) * PAGE + 40] ^= 1
        path.write_bytes(data)
        with pytest.raises(CorruptError, match="no valid meta page"):
            BoltFile(str(path))
    data = bytearray(bolt_twin.Writer(16384).finish({b"meta": [(b"a", b"b")]}, txid=3))
    data[17] ^= 1  # the first meta page, which would tell where the second lies
    path.write_bytes(data)
    assert BoltFile(str(path)).items("meta") == [(b"a", b"b")]
