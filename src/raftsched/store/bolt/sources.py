"""What a member can be restored from: a snapshot file, or the directory of a member that has stopped.

    FILE                                   of `etcdctl snapshot save`: a bbolt file and its SHA-256; or a bare copy of a database
    DIR/member/snap/db, DIR/member/wal     of etcd and of a Dapr Scheduler (`dapr-0.1`); also `member` itself

Invariant: nothing of a source is ever changed; of a directory nothing is read while another process has it open.
Must not know: what is made of it.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raftsched.errors import ConfigError, CorruptError, FatalError
from raftsched.store.bolt._bolt import BoltFile

SUM_BYTES: Final = 32
SECTOR_BYTES: Final = 512
HASH_STEP_BYTES: Final = 4 << 20

OnBytes = Callable[[int, int], None]
"""`on_bytes(done, total)`, now and then."""


@dataclass(frozen=True, slots=True)
class Source:
    """A database, and the log that goes on behind it if it is a directory's."""

    database: Path
    wal: Path | None = None


def find(path: Path) -> Source:
    """Raises ConfigError if there is none at `path`."""
    if path.is_file():
        return Source(path)
    if not path.is_dir():
        raise ConfigError(f"{path}: no such file or directory")
    for base in (path / "member", path, *sorted(path.glob("dapr-*/member"))):
        database, wal = base / "snap" / "db", base / "wal"
        if database.is_file():
            return Source(database, wal if any(wal.glob("*.wal")) else None)
    raise ConfigError(f"{path}: neither a snapshot file nor the data directory of an etcd or a Dapr Scheduler (no member/snap/db in it)")


def open_database(source: Source) -> BoltFile:
    """Raises FatalError if another process has it open (etcd locks it), or it cannot be read; CorruptError."""
    if source.wal is not None:
        _check_unlocked(source.database)
    return BoltFile(str(source.database))


def _check_unlocked(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise FatalError(f"cannot read {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FatalError(f"{path} is in use: stop the server first, or take a snapshot of it with `raftsched snapshot save`") from error
    except OSError:
        pass  # a file system without locks: it was the user's word that the server has stopped
    finally:
        os.close(descriptor)


def has_sum(bolt: BoltFile) -> bool:
    """Whether a SHA-256 is appended, as far as the length tells (etcd's rule)."""
    return bolt.file_bytes % SECTOR_BYTES == SUM_BYTES


def check_sum(bolt: BoltFile, *, required: bool, on_bytes: OnBytes) -> bytes:
    """SHA-256 of the database; reads all of it.

    Raises CorruptError if it is not the one that is appended, and, if that is `required`, FatalError when none is.
    """
    appended = has_sum(bolt)
    if required and not appended:
        raise FatalError(
            f"{bolt.path}: no SHA-256 at its end, so nothing tells whether it is whole: it is no file of `snapshot save`. "
            "A copy of a stopped server's database is taken with --skip-hash-check"
        )
    total = bolt.file_bytes - SUM_BYTES if appended else bolt.file_bytes
    digest = hashlib.sha256()
    try:
        with open(bolt.path, "rb", buffering=0) as file:
            done = 0
            while done < total and (block := file.read(min(HASH_STEP_BYTES, total - done))):
                digest.update(block)
                done += len(block)
                on_bytes(done, total)
            stored = file.read(SUM_BYTES)
    except OSError as error:
        raise FatalError(f"cannot read {bolt.path}: {error.strerror}") from error
    if required and stored != digest.digest():
        raise CorruptError(f"{bolt.path}: expected sha256 {stored.hex()}, got {digest.hexdigest()}: the file is not what was saved")
    return digest.digest()
