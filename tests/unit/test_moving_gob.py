"""The file of `dapr scheduler export`: what Go's encoder wrote is read, what we write has Go's form, what is damaged is refused."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftsched.cli.moving import gob
from raftsched.errors import CorruptError

# Written by Go: {Jobs: {"dapr/jobs/a": "xyz"}, Counters: {}}; the same with nil for Counters; nil for both.
GO = gob.DESCRIPTIONS + bytes.fromhex("17ff8001010b646170722f6a6f62732f610378797a010000")
GO_JOB_ONLY = gob.DESCRIPTIONS + bytes.fromhex("15ff8001010b646170722f6a6f62732f610378797a00")
GO_EMPTY = gob.DESCRIPTIONS + bytes.fromhex("03ff8000")
PAIRS = st.dictionaries(st.binary(min_size=1, max_size=300), st.binary(max_size=600), max_size=8)


def read(path: Path, data: bytes) -> list[tuple[bytes, bytes]]:
    path.write_bytes(data)
    return [(key, value) for key, value, _ in gob.read(str(path))]


def write(path: Path, jobs: dict[bytes, bytes], counters: dict[bytes, bytes]) -> bytes:
    with path.open("w+b") as file:
        writer = gob.Writer(file)
        for field, pairs in ((1, jobs), (2, counters)):
            writer.begin(field, len(pairs))
            for key, value in pairs.items():
                writer.add(key, value)
        assert writer.end() == file.tell()
    return path.read_bytes()


def test_what_go_wrote_is_read(tmp_path: Path) -> None:
    assert read(tmp_path / "a", GO) == [(b"dapr/jobs/a", b"xyz")]
    assert read(tmp_path / "a", GO_JOB_ONLY) == [(b"dapr/jobs/a", b"xyz")]
    assert read(tmp_path / "a", GO_EMPTY) == []


def test_what_we_write_is_what_go_writes_but_for_the_length_of_a_length(tmp_path: Path) -> None:
    ours = write(tmp_path / "a", {b"dapr/jobs/a": b"xyz"}, {})
    head = len(gob.DESCRIPTIONS)
    assert ours[:head] == GO_JOB_ONLY[:head]
    assert ours[head] == 0xF8
    assert int.from_bytes(ours[head + 1 : head + 9], "big") == GO_JOB_ONLY[head]
    assert ours[head + 9 :] == GO_JOB_ONLY[head + 1 :]


@settings(deadline=None)  # it writes files
@given(jobs=PAIRS, counters=PAIRS)
def test_everything_comes_back(tmp_path_factory: pytest.TempPathFactory, jobs: dict[bytes, bytes], counters: dict[bytes, bytes]) -> None:
    path = tmp_path_factory.mktemp("gob") / "file"
    assert read(path, write(path, jobs, counters)) == [*jobs.items(), *counters.items()]


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    for length in range(len(GO)):
        with pytest.raises(CorruptError, match="no file of `dapr scheduler export`, or it was cut"):
            read(tmp_path / "a", GO[:length])


def test_any_other_byte_ends_in_an_error_or_in_pairs(tmp_path: Path) -> None:
    refused = 0
    for at in range(len(GO)):
        for value in (0, 0x7F, 0xF8, 0xFF):
            try:
                read(tmp_path / "a", GO[:at] + bytes([value]) + GO[at + 1 :])
            except CorruptError:
                refused += 1
    assert refused > len(GO) // 2


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (GO + GO[len(gob.DESCRIPTIONS) :], "more than one value"),
        (b"\xf8" + b"\xff" * 8, "a message of"),
        (b"PK\x03\x04 an archive", "too many fields"),
        (b"\x7f", "the file ends in the midst"),
        (GO.replace(b"\x04Jobs", b"\x04Cake").replace(b"Counters", b"Cupboard"), "neither Jobs nor Counters"),
        (GO.replace(bytes.fromhex("010c010a"), bytes.fromhex("010c0104")), "is no map from texts to bytes"),
    ],
)
def test_what_is_something_else_is_refused_by_name(data: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match=why):
        read(tmp_path / "a", data)
