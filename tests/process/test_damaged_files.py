"""Damaged and foreign files at a start: a torn tail is mended, anything else is refused in one line that says where and why.

Invariant of all refusals: exit code 1, one fatal line on stdout, no traceback, and the files stay as they were.
"""

import hashlib
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Clients, ends

from raftsched.pb.etcd import rpc_pb2
from raftsched.testing.process import ServerProcess

pytestmark = [pytest.mark.process, pytest.mark.once]
PAIRS = {b"key/%03d" % number: b"value %d " % number * 20 for number in range(300)}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a server that was killed: 300 keys in many batches."""
    directory = tmp_path_factory.mktemp("damaged") / "server"
    with ServerProcess(directory) as server:
        clients = Clients(server)
        for key, value in PAIRS.items():
            clients.put(key, value)
        clients.maintenance.Hash(rpc_pb2.HashRequest(), timeout=10)  # LMDB holds all of it
        clients.put(b"key/last", b"only in the log, perhaps")
        clients.close()
    return directory


@pytest.fixture
def copy(killed: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server on a copy of those files, not started."""
    shutil.copytree(killed / "data", tmp_path / "server" / "data")
    server = ServerProcess(tmp_path / "server")
    yield server
    if server.process is not None:
        server.kill()


def store(server: ServerProcess) -> Path:
    return server.directory / "data" / "default-dapr-scheduler-server-0" / "raftsched-1"


def log_file(server: ServerProcess) -> Path:
    return sorted((store(server) / "wal").glob("*.wal"))[-1]


def written_bytes(path: Path) -> int:
    """Up to the zeros that were laid out ahead."""
    return len(path.read_bytes().rstrip(b"\0"))


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def digest(server: ServerProcess) -> dict[str, str]:
    """Of all files but the locks."""
    files = (path for path in store(server).rglob("*") if path.is_file() and path.name not in {"LOCK", "lock.mdb", "reserve"})
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if not path.name.endswith(".tmp")}


def refusal(server: ServerProcess) -> str:
    """The one fatal line of a start that must fail."""
    before = digest(server)
    server.start(wait=False)
    assert ends(server) == 1
    out = server.stdout_path.read_text()
    fatal = [line for line in out.splitlines() if "level=fatal" in line]
    assert len(fatal) == 1, out
    assert "Fatal error running scheduler: " in fatal[0]
    assert "Traceback" not in server.logs()
    assert digest(server) == before, "refused, and changed all the same"
    return fatal[0]


def serves_everything(server: ServerProcess) -> None:
    server.start()
    clients = Clients(server)
    assert PAIRS.items() <= clients.under(b"key/").items()
    clients.put(b"key/new", b"x")
    clients.close()
    server.kill()
    server.start()  # what was mended stays mended
    clients = Clients(server)
    assert clients.get(b"key/new") == b"x"
    clients.close()
    assert server.stop() == 0


@pytest.mark.parametrize("garbage", [b"\x01", random.Random(1).randbytes(700), random.Random(2).randbytes(9_000)])
def test_a_torn_tail_is_mended(copy: ServerProcess, garbage: bytes) -> None:
    path = log_file(copy)
    overwrite(path, (written_bytes(path) + 7) // 8 * 8, garbage)
    serves_everything(copy)
    assert "write-ahead log repaired" in copy.stderr_path.read_text()


def test_a_last_batch_that_lost_its_end_is_dropped(copy: ServerProcess) -> None:
    path = log_file(copy)
    end = written_bytes(path)
    overwrite(path, end - 20, bytes(20))
    serves_everything(copy)
    assert "write-ahead log repaired" in copy.stderr_path.read_text()


def test_a_break_in_the_middle_of_the_log_is_refused(copy: ServerProcess) -> None:
    path = log_file(copy)
    middle = written_bytes(path) // 2
    byte = path.read_bytes()[middle]
    overwrite(path, middle, bytes([byte ^ 0x40]))
    line = refusal(copy)
    assert str(path) in line
    assert "offset " in line
    assert "a later batch begins at offset" in line


def test_a_log_that_ends_before_the_database_is_refused(copy: ServerProcess) -> None:
    path = log_file(copy)
    end = written_bytes(path)
    overwrite(path, end * 2 // 3, bytes(end - end * 2 // 3))
    line = refusal_of_mended(copy)
    assert "the log ends at entry" in line


def refusal_of_mended(server: ServerProcess) -> str:
    """As `refusal`, where clearing the log's tail is part of finding out."""
    server.start(wait=False)
    assert ends(server) == 1
    fatal = [line for line in server.stdout_path.read_text().splitlines() if "level=fatal" in line]
    assert len(fatal) == 1
    assert "Traceback" not in server.logs()
    return fatal[0]


def test_a_missing_log_is_refused(copy: ServerProcess) -> None:
    for path in (store(copy) / "wal").iterdir():
        path.unlink()
    line = refusal(copy)
    assert "holds no log" in line
    assert str(store(copy) / "wal") in line


@pytest.mark.parametrize("damage", ["page", "tail", "head", "zeros"])
def test_a_damaged_database_is_refused(copy: ServerProcess, damage: str) -> None:
    path = store(copy) / "db.0" / "data.mdb"
    size = path.stat().st_size
    if damage == "page":
        for page in range(2, size // 4096):  # the heads of all pages but the two that say where to begin
            overwrite(path, page * 4096, b"\xff" * 16)
    elif damage == "tail":
        os.truncate(path, 5 * 4096)
    elif damage == "head":
        overwrite(path, 0, random.Random(3).randbytes(8192))
    else:
        overwrite(path, 0, bytes(size))
    line = refusal(copy)
    assert str(path.parent) in line


def test_a_lost_database_is_built_again_from_the_log(copy: ServerProcess) -> None:
    shutil.rmtree(store(copy) / "db.0")
    serves_everything(copy)


def test_the_version_file_of_another_layout_is_refused(copy: ServerProcess) -> None:
    (store(copy) / "VERSION").write_text("raftsched-2\n")
    line = refusal(copy)
    assert "raftsched-2" in line
    assert "VERSION" in line


@pytest.mark.parametrize(("name", "remedy"), [("IDS", "remove the file"), ("LEFT", "remove the file"), ("JOINING", "empty {}")])
def test_a_damaged_small_file_is_refused_with_what_to_do(copy: ServerProcess, name: str, remedy: str) -> None:
    """With other damage: test_numbering.py, test_leaving.py, test_joining.py."""
    path = store(copy) / name
    path.write_bytes(bytes(40))
    line = refusal(copy)
    assert f"{path} is damaged" in line
    assert "it should hold" in line
    assert remedy.format(path.parent) in line
    path.unlink()
    serves_everything(copy)


def test_a_log_of_another_member_is_refused(copy: ServerProcess, tmp_path: Path) -> None:
    other = ServerProcess(tmp_path / "other")
    with other:
        clients = Clients(other)
        clients.put(b"x", b"y")
        clients.close()
    path = log_file(copy)
    path.write_bytes(log_file(other).read_bytes())
    line = refusal_of_mended(copy)
    assert str(store(copy) / "wal") in line
