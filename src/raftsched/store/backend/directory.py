"""Where a member keeps its data: layout, lock, version, and whose files are already there.

    <data-dir>/dapr-scheduler-existing-cluster      Dapr's marker: without it a Dapr Scheduler would wipe the directory
    <data-dir>/<NAMESPACE>-<id>/raftsched-1/        (kubernetes mode: <data-dir>/raftsched-1/)
        LOCK  VERSION  wal/  snap/  db.<n>/  db.<n>.tmp/ (of Defragment)  db.<n>.incoming/ (a snapshot that is being received)
        (raftsched-1.restoring/ beside it: of a restore that has not finished)
        LEFT  SETTING-ASIDE  left-<time>/ (of a member that left its cluster, `departure.py`)  JOINING  FORCED  IDS
    <data-dir>/member/                              the same, of `raftsched etcd`; its wal/ may lie elsewhere (--wal-dir)

Invariant: nothing that is not ours is ever written to or removed; a fresh start never happens over a Dapr Scheduler's data
(spec D13). Of several `db.<n>` the highest is in use: it got its name complete and with no commit between (Defragment), or complete and
after the log's mark (installation of a snapshot, `snapshot/install.py`).
Must not know: what the files hold.
"""

import contextlib
import fcntl
import os
import re
import shutil
from pathlib import Path

from raftsched.errors import FatalError, NoSpaceError
from raftsched.store.backend import departure
from raftsched.store.backend._lmdb import Backend, stored_applied_index
from raftsched.store.backend.files import sync_directory as _sync
from raftsched.store.backend.files import write_durably
from raftsched.store.backend.removal import REMOVED_PATTERN

LAYOUT = 1
OWN_NAME = f"raftsched-{LAYOUT}"
ETCD_NAME = "member"  # of `raftsched etcd`: where an etcd has its own wal/ and snap/
MARKER_NAME = "dapr-scheduler-existing-cluster"
FOREIGN_PATTERN = "dapr-*"  # dapr-0.1 in Dapr 1.14 to 1.19
OUTGOING_PATTERN = "outgoing.*.db*"  # copies for members that are behind; never used over a start
EXPORT_PATTERN = "export.*.tmp"  # of Maintenance.Snapshot, killed before the file lost its name
RESTORING_SUFFIX = ".restoring"  # of `raftsched snapshot restore`, which gives it the name without
INCOMING_PATTERN = "db.*.incoming"
DATABASE_NAME = re.compile(r"db\.(\d+)")


class DirectoryInUseError(Exception):
    """Another process holds the directory's lock. Not fatal: the caller may try again."""


def _make(path: Path) -> None:
    """The directory and its parents, each 0700 and durable."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)
        _sync(one.parent)


def _remove(path: Path) -> None:
    """A thread of the process that held the directory before may still be at it (`remove_later`): somebody else's success is ours.
    Raises OSError for whatever else is in the way."""
    while path.exists():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)


class DataDirectory:
    """One member's directory, locked for this process until `close`."""

    def __init__(self, data_dir: str | Path, *, instance: str | None, name: str = OWN_NAME, wal_dir: str = "") -> None:
        """`instance`: `<NAMESPACE>-<id>`; None in kubernetes mode, where the volume is the member's own. `name`: of the member's
        directory in it, OWN_NAME or ETCD_NAME. `wal_dir`: where its log lies instead.

        Raises FatalError (foreign or newer data, no permission), DirectoryInUseError, NoSpaceError.
        """
        root = Path(data_dir)
        base = root if instance is None else root / instance
        self.path = base / name
        self.wal_path = Path(wal_dir) if wal_dir else self.path / "wal"
        self.snap_path = self.path / "snap"
        self.set_aside = ""
        """For a log line: what became of the data of a member that has left."""
        self._lock = -1
        try:
            self._prepare(root, base)
        except OSError as error:
            self.close()
            full = error.errno in {28, 122}  # ENOSPC, EDQUOT
            raise (NoSpaceError if full else FatalError)(f"data directory {error.filename or self.path}: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def _prepare(self, root: Path, base: Path) -> None:
        version = self.path / "VERSION"
        if not version.exists():
            refuse_unfinished(root if self.path.name == ETCD_NAME else self.path)  # what a restore makes as a whole
            refuse_foreign(base)
            refuse_etcd(self.path, self.wal_path)
        _make(self.path)
        self._take_lock()
        self._check_version(version)
        self.set_aside = departure.finish_setting_aside(self.path)
        _make(self.wal_path)
        _make(self.snap_path)
        if self.path.name == OWN_NAME and not (root / MARKER_NAME).exists():
            write_durably(root / MARKER_NAME, "")
        if not version.exists():
            write_durably(version, f"{OWN_NAME}\n")
        self.tidy()

    def _take_lock(self) -> None:
        self._lock = os.open(self.path / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DirectoryInUseError(f"data directory {self.path} is in use by another process") from error

    def _check_version(self, version: Path) -> None:
        if version.exists() and (text := version.read_text(encoding="ascii", errors="replace").strip()) != OWN_NAME:
            raise FatalError(f"{version} says {text!r}: data of another version, this one reads {OWN_NAME!r}")

    def tidy(self) -> None:
        """Finishes or discards what a killed Defragment left: unfinished copies, and databases that a newer one replaced."""
        numbers = self._databases()
        for entry in list(self.path.iterdir()):
            match = DATABASE_NAME.fullmatch(entry.name.removesuffix(".tmp"))
            if match and (entry.name.endswith(".tmp") or int(match[1]) < numbers[-1]):
                _remove(entry)
        for entry in (*self.snap_path.glob(OUTGOING_PATTERN), *self.path.glob(REMOVED_PATTERN), *self.snap_path.glob(REMOVED_PATTERN)):
            _remove(entry)
        for entry in self.snap_path.glob(EXPORT_PATTERN):
            entry.unlink(missing_ok=True)

    def _databases(self) -> list[int]:
        found = (DATABASE_NAME.fullmatch(entry.name) for entry in self.path.iterdir())
        return sorted(int(match[1]) for match in found if match)

    @property
    def has_member(self) -> bool:
        """Whether a member's data lie here: a log was begun, or a database."""
        return any(self.wal_path.glob("*.wal")) or bool(self._databases())

    @property
    def database_path(self) -> str:
        """The database in use (`db.0` in a fresh directory, not made yet)."""
        return str(self.path / f"db.{max(self._databases(), default=0)}")

    @property
    def copy_path(self) -> str:
        """Where Defragment writes its copy."""
        return str(self.path / f"db.{max(self._databases(), default=0) + 1}.tmp")

    @property
    def incoming_path(self) -> Path:
        """Where a snapshot is received: the one that is there, or a new name."""
        return next(iter(sorted(self.path.glob(INCOMING_PATTERN))), self.path / f"db.{max(self._databases(), default=0) + 1}.incoming")

    def discard_incoming(self) -> None:
        """Whatever was received so far. Idempotent."""
        for path in self.path.glob(INCOMING_PATTERN):
            shutil.rmtree(path)

    def outgoing_path(self, index: int) -> Path:
        """Where a copy for members that are behind is kept."""
        return self.snap_path / f"outgoing.{index}.db"

    def name_incoming(self) -> str:
        """Gives the received database the name by which the next start takes it; durable on return. The one before goes at that start."""
        new = self.path / f"db.{max(self._databases(), default=-1) + 1}"
        os.rename(self.incoming_path, new)
        _sync(self.path)
        return str(new)

    def start_defragment(self, backend: Backend) -> int:
        """Begins the compacting copy on the bulk thread; its job number. No commit may start until `finish_defragment`.

        Raises NoSpaceError if less is free than the database has in use.
        """
        backend.measure_now()
        info = os.statvfs(self.path)
        free = info.f_bavail * info.f_frsize
        if free < backend.in_use_bytes:
            raise NoSpaceError(f"defragment needs {backend.in_use_bytes} bytes in {self.path}, {free} are free")
        shutil.rmtree(self.copy_path, ignore_errors=True)
        return backend.start_copy(self.copy_path)

    def finish_defragment(self, backend: Backend) -> str:
        """Puts the finished copy in the database's place; the path of the old one, which the caller removes. All pointers into the backend
        become invalid.

        Raises ValueError, with the copy thrown away and the old database in place, if there was a commit since the copy began, and
        NoSpaceError likewise if the name does not fit. FatalError: the next start may take the copy, so nothing may be committed any more.
        """
        copy, old = self.copy_path, backend.path
        if backend.committing or stored_applied_index(copy) != backend.applied_index:
            shutil.rmtree(copy, ignore_errors=True)
            raise ValueError("a commit came in between")
        new = copy.removesuffix(".tmp")
        try:
            os.rename(copy, new)
        except OSError as error:
            shutil.rmtree(copy, ignore_errors=True)
            raise NoSpaceError(f"cannot name the copy {new}: {error.strerror}") from error
        try:
            _sync(self.path)
        except OSError as error:
            raise FatalError(f"cannot sync {self.path}: {error.strerror}") from error
        backend.swap(new)
        return old

    def discard_copy(self) -> None:
        """After a copy that failed."""
        shutil.rmtree(self.copy_path, ignore_errors=True)

    def close(self) -> None:
        """Gives the lock back. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def refuse_unfinished(path: Path) -> None:
    """FatalError if a restore into `path` was begun, where a start would begin empty. `path` is what the restore names in the end: the
    member's directory, `raftsched-1`; with --layout etcd the whole data directory, not the `member` in it."""
    unfinished = path.with_name(path.name + RESTORING_SUFFIX)
    if unfinished.exists():
        raise FatalError(
            f"a restore into {path} has not finished: refusing to start empty. Wait for it, run `raftsched snapshot restore` again, "
            f"or remove {unfinished}"
        )


def refuse_foreign(base: Path) -> None:
    """FatalError if a Dapr Scheduler's store lies in `base`, where ours would begin empty."""
    for foreign in sorted(base.glob(FOREIGN_PATTERN)):
        if foreign.is_dir() and any(foreign.iterdir()):
            raise FatalError(
                f"{foreign} holds the data of a Dapr Scheduler and {base / OWN_NAME} none: refusing to start empty over it. "
                f"Nothing was changed. With all Dapr Schedulers stopped, `raftsched snapshot restore {foreign} --data-dir <data-dir> "
                "--name <id> --initial-cluster <list>` takes it over (all members from the same source); or use another --etcd-data-dir"
            )


def refuse_etcd(path: Path, wal_path: Path) -> None:
    """FatalError if data lie where ours would begin empty: ours, without the file that says so, or an etcd's."""
    if path.is_dir() and any(DATABASE_NAME.fullmatch(entry.name) for entry in path.iterdir()):
        raise FatalError(f"{path} holds data but no file VERSION: it is not whole. Copy all of it again, or start with an empty directory")
    if (path / "snap" / "db").exists() or any(wal_path.glob("*.wal")):
        raise FatalError(
            f"{path} holds the data of an etcd: refusing to start over it. Nothing was changed. With that etcd stopped, move its data "
            f"directory away, and `raftsched snapshot restore <moved directory> --layout etcd --data-dir {path.parent} --name <name> "
            "--initial-cluster <list>` takes it over (all members from the same source)"
        )
