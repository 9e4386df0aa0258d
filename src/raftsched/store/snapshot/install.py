"""Putting a received snapshot in the place of log and database: one step after the other, each safe to be killed at.

    1. the database is complete and synced in `db.<n>.incoming`, its name too      a kill before 4: kept as what was received (`part.py`)
    2. the file `snap/*.snap`, for tools                                          means nothing to a start
    3. one batch in the log: the mark (index, term, members)                      torn: as if it were not there
    4. the batch is synced: from here on the snapshot counts                      a start goes on with 5
    5. `db.<n>.incoming` gets its name, the directory is synced                   found under either name
    6. the next start takes the highest `db.<n>`, the log behind the mark, and removes what is below

Between 4 and 5 the newest mark is above what the old database has applied; nothing else makes it so, because a mark of the member's own
never is. That is all that `finish` has to look at. The batch of 3 has no hard state: a commit index beyond the entries, whose mark
was torn off, would be corruption.

Invariant: a start finds the old state or the new one, never a mix.
Must not know: who sent the snapshot, Raft's rules; the driver has stopped applying and begins a new incarnation afterwards.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from raftsched.errors import FatalError, NoSpaceError
from raftsched.store.backend._lmdb import Backend, stored_applied_index
from raftsched.store.backend.directory import DataDirectory
from raftsched.store.membership import Membership
from raftsched.store.snapshot import part
from raftsched.store.snapshot.files import RaftSnapshot, save
from raftsched.store.wal.disk import RealDisk, sync_directory
from raftsched.store.wal.format import ConfState, SnapshotMark, encode_mark
from raftsched.store.wal.log import Log
from raftsched.store.wal.recovery import peek_mark

MARK_TIMEOUT_MS = 30_000
DATA_NAME = "data.mdb"


@dataclass(frozen=True, slots=True)
class Stored:
    """What a database says of itself."""

    index: int  # applied
    term: int
    conf_state: ConfState  # the members as applied there

    @property
    def snapshot(self) -> RaftSnapshot:
        return RaftSnapshot(index=self.index, term=self.term, conf_state=self.conf_state)


def stored_in(backend: Backend) -> Stored:
    """Of an open database, as of its last commit. Raises CorruptError."""
    members = Membership(lambda _write: None)
    members.load(backend.bucket_items("members"), (), None)
    found = members.members()
    state = ConfState(
        voters=tuple(one.member_id for one in found if not one.is_learner),
        learners=tuple(one.member_id for one in found if one.is_learner),
    )
    return Stored(index=backend.applied_index, term=backend.term, conf_state=state)


def read_stored(path: str | Path) -> Stored:
    """Of the database in directory `path`, which must not be open in this process. Raises FatalError, CorruptError."""
    backend = Backend(str(path), create=False)
    try:
        return stored_in(backend)
    finally:
        backend.close()


def secure(directory: DataDirectory) -> Stored:
    """Step 1: the received database is read once and synced, its names too. Blocks: for a worker thread. Raises FatalError."""
    path = directory.incoming_path
    stored = read_stored(path)
    try:
        RealDisk(str(path)).sync(DATA_NAME)
        sync_directory(str(path))
        sync_directory(str(directory.path))
    except OSError as error:
        raise FatalError(f"cannot sync the snapshot in {path}: {error.strerror}") from error
    return stored


def mark(log: Log, stored: Stored, *, log_holds_it: bool) -> None:
    """Steps 3 and 4. `log_holds_it`: the log has an entry of that index and term, so it stays as it is. Raises FatalError, NoSpaceError."""
    encoded = encode_mark(SnapshotMark(stored.index, stored.term, stored.conf_state, restarts=not log_holds_it))
    batch = log.append(None, log.last_index + 1, [], [], mark=encoded, restart_index=0 if log_holds_it else stored.index)
    if not log.wait_durable(batch, MARK_TIMEOUT_MS):
        raise NoSpaceError(f"the log in {log.directory} cannot be written: no space on the disk")


def put_in_place(directory: DataDirectory) -> str:
    """Step 5; where the database is now. Raises FatalError."""
    try:
        part.remove(directory.incoming_path)
        return directory.name_incoming()
    except OSError as error:
        raise FatalError(f"cannot name the snapshot in {directory.path}: {error.strerror}") from error


def install(directory: DataDirectory, log: Log, stored: Stored, *, log_holds_it: bool) -> str:
    """Steps 2 to 5, after `secure`; a line for the log. Nothing may be applied, and nothing else appended to the log, any more: the
    caller closes all and opens the member anew, also when this raises. Blocks for four syncs. Raises FatalError, NoSpaceError."""
    save(directory.snap_path, stored.snapshot)
    mark(log, stored, log_holds_it=log_holds_it)
    where = put_in_place(directory)
    return f"snapshot at entry {stored.index} of term {stored.term} is in place in {where}"


def finish(directory: DataDirectory) -> str:
    """At a start, before log and database are opened: finishes an installation, keeps what can be gone on with, discards the rest; a line
    for the log, "" = there was none.

    Raises FatalError, CorruptError.
    """
    path = directory.incoming_path
    if not path.exists():
        return ""
    newest = peek_mark(RealDisk(str(directory.wal_path)))
    database = directory.database_path
    applied = stored_applied_index(database) if os.path.exists(os.path.join(database, DATA_NAME)) else 0
    if newest.index <= applied:
        kept = part.read(path)
        if kept is not None and kept.offer.index > applied:
            return f"{kept.offset_bytes} of {kept.offer.size_bytes} bytes of a snapshot at entry {kept.offer.index} are kept in {path}"
        directory.discard_incoming()
        return f"the unfinished snapshot in {path} was discarded"
    stored = read_stored(path)
    if (stored.index, stored.term) != (newest.index, newest.term):
        raise FatalError(
            f"the log's mark is of entry {newest.index}, the snapshot in {path} of {stored.index}: the two do not belong together"
        )
    where = put_in_place(directory)
    directory.tidy()
    return f"the installation of the snapshot at entry {stored.index} was finished: {where}"


def prepare(directory: DataDirectory, size_bytes: int, *, reserve_bytes: int) -> Path:
    """An empty place for a snapshot of that size; the file in it. Raises NoSpaceError, FatalError."""
    directory.discard_incoming()
    info = os.statvfs(directory.path)
    free = info.f_bavail * info.f_frsize
    if free < size_bytes + reserve_bytes:
        raise NoSpaceError(f"a snapshot needs {size_bytes} bytes in {directory.path}, {free} are free")
    path = directory.incoming_path
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        shutil.rmtree(path, ignore_errors=True)
        raise FatalError(f"cannot make {path}: {error.strerror}") from error
    return path / DATA_NAME
