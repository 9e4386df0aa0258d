"""Identity files: replaced together, readable by us alone, whatever was there before."""

import stat
from pathlib import Path

import pytest

from raftsched.security.identity_files import ANCHORS, CERTIFICATE, KEY, TOKEN, write_identity

FIRST = {KEY: b"key 1", CERTIFICATE: b"cert 1", ANCHORS: b"ca 1"}
SECOND = {KEY: b"key 2", CERTIFICATE: b"cert 2", ANCHORS: b"ca 2", TOKEN: b"token 2"}


def contents(directory: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in directory.iterdir() if not one.name.startswith("..")}


def test_a_directory_that_is_not_there_is_made(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    write_identity(directory, FIRST)
    assert contents(directory) == FIRST
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in FIRST:
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600


def test_a_new_set_replaces_the_old_one_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    write_identity(tmp_path, SECOND)
    write_identity(tmp_path, FIRST)
    assert contents(tmp_path) == FIRST, "a token that did not come again is gone"
    write_identity(tmp_path, SECOND)
    assert contents(tmp_path) == SECOND
    assert len([one for one in tmp_path.iterdir() if one.name.startswith("..")]) == 2, "..data and what it points to"


def test_all_names_change_in_one_step(tmp_path: Path) -> None:
    write_identity(tmp_path, FIRST)
    before = (tmp_path / "..data").resolve()
    opened = [(tmp_path / name).open("rb") for name in FIRST]  # closed below
    write_identity(tmp_path, {**FIRST, KEY: b"key 3"})
    assert (tmp_path / "..data").resolve() != before
    assert {(tmp_path / name).resolve().parent for name in FIRST} == {(tmp_path / "..data").resolve()}
    for file in opened:  # who reads on reads what he opened
        assert file.read().endswith(b"1")
        file.close()


def test_plain_files_and_other_peoples_files(tmp_path: Path) -> None:
    (tmp_path / KEY).write_bytes(b"old")
    (tmp_path / "other").write_bytes(b"other")
    write_identity(tmp_path, FIRST)
    assert contents(tmp_path) == FIRST | {"other": b"other"}


def test_what_cannot_be_written_leaves_the_last_good_set(tmp_path: Path) -> None:
    write_identity(tmp_path, FIRST)
    with pytest.raises(OSError, match="File name too long"):
        write_identity(tmp_path, {**SECOND, "x" * 300: b""})
    assert contents(tmp_path) == FIRST
    assert len([one for one in tmp_path.iterdir() if one.name.startswith("..")]) == 2
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        write_identity(tmp_path / "file", FIRST)
