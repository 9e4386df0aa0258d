"""A database file that is shorter than its count of pages: whole if nothing that can be reached is missing, else refused.

LMDB does not write a page that one transaction takes from the end of the file and frees again. A commit that stores records and scrubs
others does just that.
"""

import os
import random
import shutil
from pathlib import Path

import pytest

from raftsched.errors import CorruptError
from raftsched.store._records import Generation
from raftsched.store.backend._lmdb import Backend

PAGE_BYTES = 4096


def commit(backend: Backend, index: int, records: list[tuple[int, bytes]], deletes: list[int] | None = None) -> None:
    generation = Generation()
    for main, value in records:
        generation.add(main, 0, False, value)
    generation.freeze()
    backend.commit(generation, [(main, 0, False) for main in deletes or []], [], index, 1)
    assert backend.wait(20_000)
    assert backend.completed() == index
    backend.renew()


def pages_of(path: Path) -> int:
    return os.path.getsize(path / "data.mdb") // PAGE_BYTES


def test_commits_that_scrub_their_own_records_leave_files_that_open(tmp_path: Path) -> None:
    short = 0
    for seed in range(30):
        path = tmp_path / f"db.{seed}"
        chance = random.Random(seed)
        live: dict[int, bytes] = {}
        following = 1
        for index in range(1, 6):
            count, size = chance.choice((0, 1, 10)), chance.choice((50, 1_900, 65_536))
            new = {main: bytes([main % 256]) * size for main in range(following, following + count)}
            following += count
            live |= new
            share = chance.choice((0.0, 0.5, 1.0))
            gone = [main for main in live if chance.random() < share]
            backend = Backend(str(path))
            commit(backend, index, list(new.items()), deletes=gone)
            for main in gone:
                del live[main]
            backend.measure_now()
            short += os.path.getsize(path / "data.mdb") < backend.size_bytes
            backend.close()
            backend = Backend(str(path))
            assert (backend.applied_index, backend.record_count()) == (index, len(live))
            assert all(backend.read(main, 0) == value for main, value in live.items())
            backend.close()
    assert short > 5, "no file was shorter than its count of pages: nothing was shown"


@pytest.mark.parametrize("records", [[(main, b"small") for main in range(1, 4_000)], [(main, bytes(20_000)) for main in range(1, 60)]])
def test_a_file_that_lost_its_tail_is_refused(tmp_path: Path, records: list[tuple[int, bytes]]) -> None:
    path = tmp_path / "db.0"
    backend = Backend(str(path))
    commit(backend, 1, records)
    backend.close()
    whole = pages_of(path)
    for pages in {3, 4, *range(5, whole, max(whole // 12, 1)), whole - 1}:
        cut = tmp_path / f"cut.{pages}"
        shutil.copytree(path, cut)
        os.truncate(cut / "data.mdb", pages * PAGE_BYTES)
        with pytest.raises(CorruptError, match=f"cut.{pages}"):
            Backend(str(cut))
        shutil.rmtree(cut)


def test_a_tail_cut_inside_a_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "db.0"
    backend = Backend(str(path))
    commit(backend, 1, [(main, b"small") for main in range(1, 4_000)])
    backend.close()
    os.truncate(path / "data.mdb", os.path.getsize(path / "data.mdb") - 1)
    with pytest.raises(CorruptError):
        Backend(str(path))
