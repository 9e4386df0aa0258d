"""Layout, lock, marker, foreign data, and the steps of Defragment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raftsched.errors import FatalError, NoSpaceError
from raftsched.store._records import Generation
from raftsched.store.backend._lmdb import Backend
from raftsched.store.backend.directory import MARKER_NAME, DataDirectory, DirectoryInUseError


def tree(path: Path) -> set[str]:
    return {str(one.relative_to(path)) for one in path.rglob("*")}


def test_fresh_directory(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "data"
    directory = DataDirectory(root, instance="default-dapr-scheduler-server-0")
    own = "default-dapr-scheduler-server-0/raftsched-1"
    assert tree(root) == {
        MARKER_NAME, own.split("/", maxsplit=1)[0], own, f"{own}/LOCK", f"{own}/VERSION", f"{own}/wal", f"{own}/snap",
    }  # fmt: skip
    assert directory.database_path == str(root / own / "db.0")
    for path in [root, *root.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    directory.close()
    before = tree(root)
    DataDirectory(root, instance="default-dapr-scheduler-server-0").close()
    assert tree(root) == before


def test_kubernetes_mode_has_no_level_between(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path, instance=None)
    assert directory.path == tmp_path / "raftsched-1"
    directory.close()


def test_marker_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / MARKER_NAME).write_text("theirs")
    DataDirectory(tmp_path, instance="a").close()
    assert (tmp_path / MARKER_NAME).read_text() == "theirs"


@pytest.mark.parametrize("name", ["dapr-0.1", "dapr-0.2"])
def test_never_empty_over_the_data_of_dapr(tmp_path: Path, name: str) -> None:
    theirs = tmp_path / "default-x" / name / "member" / "snap"
    theirs.mkdir(parents=True)
    (theirs / "db").write_bytes(b"bolt")
    before = tree(tmp_path)
    with pytest.raises(FatalError, match=r"holds the data of a Dapr Scheduler.*raftsched snapshot restore"):
        DataDirectory(tmp_path, instance="default-x")
    assert tree(tmp_path) == before  # nothing was touched
    DataDirectory(tmp_path, instance="default-y").close()  # another member's place is free


def test_a_restore_that_has_not_finished_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x" / "raftsched-1.restoring" / "raftsched-1").mkdir(parents=True)
    before = tree(tmp_path)
    with pytest.raises(FatalError, match=r"a restore into .*raftsched-1 has not finished: refusing to start empty"):
        DataDirectory(tmp_path, instance="x")
    assert tree(tmp_path) == before
    (tmp_path / "x" / "raftsched-1").mkdir()
    (tmp_path / "x" / "raftsched-1" / "VERSION").write_text("raftsched-1\n")  # only what is left of it is in the way
    DataDirectory(tmp_path, instance="x").close()


def test_own_data_beside_those_of_dapr_are_fine(tmp_path: Path) -> None:
    DataDirectory(tmp_path, instance="x").close()
    (tmp_path / "x" / "dapr-0.1" / "member").mkdir(parents=True)
    DataDirectory(tmp_path, instance="x").close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path, instance="x")
    with pytest.raises(DirectoryInUseError, match="is in use by another process"):
        DataDirectory(tmp_path, instance="x")
    code = f"from raftsched.store.backend.directory import *\nDataDirectory({str(tmp_path)!r}, instance='x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "DirectoryInUseError" in done.stderr
    directory.close()
    directory.close()
    DataDirectory(tmp_path, instance="x").close()


def test_data_of_another_version_are_refused(tmp_path: Path) -> None:
    DataDirectory(tmp_path, instance="x").close()
    (tmp_path / "x" / "raftsched-1" / "VERSION").write_text("raftsched-9\n")
    with pytest.raises(FatalError, match="says 'raftsched-9'"):
        DataDirectory(tmp_path, instance="x")


def test_data_without_their_version_are_not_an_etcds(tmp_path: Path) -> None:
    """What a copy left out: to be told to take it over as an etcd's would lead astray."""
    directory = DataDirectory(tmp_path, instance=None, name="member")
    directory.close()
    (directory.path / "wal" / "0000000000000000-0000000000000000.wal").write_bytes(b"x")
    (directory.path / "db.0").mkdir()
    (directory.path / "VERSION").unlink()
    with pytest.raises(FatalError, match="no file VERSION: it is not whole"):
        DataDirectory(tmp_path, instance=None, name="member")
    (directory.path / "db.0").rmdir()
    with pytest.raises(FatalError, match="holds the data of an etcd"):
        DataDirectory(tmp_path, instance=None, name="member")


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(FatalError, match=r"data directory .*: (Not a directory|File exists)"):
        DataDirectory(tmp_path, instance="x")


# --------------------------------------------------------------------------------------------------------------------
# Defragment
# --------------------------------------------------------------------------------------------------------------------


def commit(backend: Backend, main: int, deletes: list[tuple[int, int, bool]] | None = None) -> None:
    made = Generation()
    made.add(main, 0, False, b"%d" % main * 500)
    made.freeze()
    backend.commit(made, deletes or [], [], main, 1)
    assert backend.wait(20_000)
    backend.completed()
    backend.renew()


def test_defragment(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path, instance=None)
    backend = Backend(directory.database_path)
    for main in range(2, 60):
        commit(backend, main)
    commit(backend, 60, [(main, 0, False) for main in range(2, 60)])
    commit(backend, 61)
    backend.measure_now()
    before = backend.size_bytes
    for number in (1, 2):
        job = directory.start_defragment(backend)
        backend.wait_bulk(20_000)
        assert backend.bulk_completed() == [(job, 0, "")]
        old = directory.finish_defragment(backend)
        assert Path(old).exists()  # the caller's to remove
        shutil.rmtree(old)
        assert backend.path == str(directory.path / f"db.{number}") == directory.database_path
        assert [name for name in os.listdir(directory.path) if name.startswith("db.")] == [f"db.{number}"]
    assert backend.size_bytes < before / 2
    assert backend.read(61, 0) == b"61" * 500
    backend.close()
    directory.close()
    directory = DataDirectory(tmp_path, instance=None)
    backend = Backend(directory.database_path)
    assert backend.applied_index == 61
    backend.close()
    directory.close()


def test_defragment_with_a_commit_in_between_is_called_off(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path, instance=None)
    backend = Backend(directory.database_path)
    commit(backend, 2)
    directory.start_defragment(backend)
    backend.wait_bulk(20_000)
    commit(backend, 3)
    with pytest.raises(ValueError, match="a commit came in between"):
        directory.finish_defragment(backend)
    assert [name for name in os.listdir(directory.path) if name.startswith("db.")] == ["db.0"]
    assert backend.read(3, 0) == b"3" * 500
    backend.close()
    directory.close()


def test_what_a_killed_defragment_leaves_is_tidied(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path, instance=None)
    backend = Backend(directory.database_path)
    commit(backend, 2)
    for name in ("db.1", "db.2.tmp"):  # killed after the rename, before db.0 went; and another copy that was not finished
        backend.start_copy(str(directory.path / name))
    backend.wait_bulk(20_000)
    backend.close()
    directory.close()
    directory = DataDirectory(tmp_path, instance=None)
    assert [name for name in os.listdir(directory.path) if name.startswith("db.")] == ["db.1"]
    backend = Backend(directory.database_path)
    assert backend.applied_index == 2
    backend.close()
    directory.close()


def test_defragment_needs_room_for_what_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = DataDirectory(tmp_path, instance=None)
    backend = Backend(directory.database_path)
    full = os.statvfs_result((4096, 4096, 1000, 0, 0, 10, 10, 10, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: full)
    with pytest.raises(NoSpaceError, match=r"defragment needs \d+ bytes"):
        directory.start_defragment(backend)
    backend.close()
    directory.close()
