"""Raft's own snapshots: which members were in force at which index and term. The data itself is in LMDB.

Files `%016x-%016x.snap` (term, index) in etcd's format (snappb.Snapshot around raftpb.Snapshot), so that its tools find them.

Invariant: a file under its final name was synced before it got it; the newest valid one is never removed.
Must not know: Raft's rules; when to take a snapshot (at most one in 10 s) is the node's to decide.
"""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from raftsched.errors import FatalError
from raftsched.store.wal._walio import crc32c
from raftsched.store.wal.disk import private, sync_directory
from raftsched.store.wal.format import (
    ConfState,
    WireError,
    bytes_field,
    decode_conf_state,
    encode_conf_state,
    fields,
    number,
    number_field,
    octets,
)

SNAPSHOT_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.snap")


@dataclass(frozen=True, slots=True)
class RaftSnapshot:
    """Everything up to `index` is applied; `conf_state` is what was in force there."""

    index: int
    term: int
    conf_state: ConfState

    @property
    def name(self) -> str:
        return f"{self.term:016x}-{self.index:016x}.snap"


def encode(snapshot: RaftSnapshot) -> bytes:
    metadata = bytes_field(1, encode_conf_state(snapshot.conf_state)) + number_field(2, snapshot.index) + number_field(3, snapshot.term)
    inner = bytes_field(2, metadata)
    return number_field(1, crc32c(inner)) + bytes_field(2, inner)


def decode(data: bytes) -> RaftSnapshot:
    """Raises WireError for bytes that are no snapshot or do not verify."""
    outer = dict(fields(data))
    inner = octets(outer.get(2, b""))
    if not inner or number(outer.get(1, 0)) != crc32c(inner):
        raise WireError("checksum mismatch")
    metadata = dict(fields(octets(dict(fields(inner)).get(2, b""))))
    if not {1, 2, 3} <= set(metadata):
        raise WireError("a snapshot without index, term or members")
    return RaftSnapshot(index=number(metadata[2]), term=number(metadata[3]), conf_state=decode_conf_state(octets(metadata[1])))


def save(directory: str | Path, snapshot: RaftSnapshot) -> float:
    """Writes, syncs and names the file; the seconds that the file's sync took. Blocks for two syncs: may run on a worker thread. Raises
    FatalError (ENOSPC included)."""
    path = Path(directory) / snapshot.name
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb", opener=private) as file:
            file.write(encode(snapshot))
            file.flush()
            begun_s = time.monotonic()
            os.fsync(file.fileno())
            took_s = time.monotonic() - begun_s
        temporary.rename(path)
        sync_directory(str(directory))
    except OSError as error:
        raise FatalError(f"cannot save the snapshot {path}: {error.strerror}") from error
    return took_s


def newest_first(directory: str | Path) -> list[Path]:
    """The snapshot files, by term and index, newest first."""
    found = []
    for path in Path(directory).iterdir():
        if match := SNAPSHOT_NAME.fullmatch(path.name):
            found.append((int(match[1], 16), int(match[2], 16), path))
    return [path for _term, _index, path in sorted(found, reverse=True)]


def load_newest(directory: str | Path) -> tuple[RaftSnapshot | None, list[str]]:
    """The newest snapshot that verifies, and a line for each newer file that does not (to be logged; the mark in the
    log holds the members too)."""
    problems = []
    for path in newest_first(directory):
        try:
            snapshot = decode(path.read_bytes())
        except (WireError, OSError) as error:
            problems.append(f"{path}: {error}")
            continue
        if snapshot.name == path.name:
            return snapshot, problems
        problems.append(f"{path}: holds {snapshot.name}")
    return None, problems


def prune(directory: str | Path, *, keep: int) -> list[str]:
    """Removes all but the newest `keep` files (--etcd-max-snapshots, 0 = all stay) and unfinished ones; the names removed."""
    surplus = newest_first(directory)[keep:] if keep else []
    unfinished = list(Path(directory).glob("*.snap.tmp"))
    for path in surplus + unfinished:
        path.unlink(missing_ok=True)
    return [path.name for path in surplus]
