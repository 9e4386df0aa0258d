"""Maintenance.Snapshot: the database of one moment as a bbolt file, for etcd's tools and servers.

The file is written on the backend's bulk thread and read once. It loses its name before anything is in it, so it goes with its descriptor,
whatever happens to the process; a kill between the two steps leaves an empty file for the next start (`DataDirectory.tidy`).

Invariant: an `Export` is complete; a read transaction lives no longer than the writing takes, however slowly a client reads.
Must not know: gRPC.
"""

import asyncio
import errno
import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from raftsched import limits
from raftsched.errors import EtcdError, GrpcCode, StatusError, status_of
from raftsched.store.backend.directory import DataDirectory
from raftsched.store.membership import INCARNATION_KEY, Membership
from raftsched.store.snapshot.progress import undisturbed

Items = list[tuple[bytes, bytes]]
Sides = list[tuple[str, bytes, bytes | None]]
FILE_NAME = "export.{}.tmp"
FULL = frozenset(map(os.strerror, (errno.ENOSPC, errno.EDQUOT)))  # also what a bulk job tells of them


def storage_version(cluster_version: bytes) -> str:
    """What etcd keeps as `storageVersion` in a cluster of this version: "" before 3.6, or while it is undecided."""
    try:
        major, minor = map(int, cluster_version.decode().split(".")[:2])
    except ValueError:
        return ""
    return f"{major}.{minor}.0" if (major, minor) >= (3, 6) else ""


def describe(buckets: dict[str, Items]) -> Sides:
    """What an etcd has in its small buckets and this store keeps elsewhere, or not at all; and the other way round."""
    cluster = dict(buckets["cluster"])
    members = Membership(lambda _write: None)
    members.load(buckets["members"], (), None)
    state: dict[str, object] = {"voters": [one.member_id for one in members.members() if not one.is_learner]}
    if learners := [one.member_id for one in members.members() if one.is_learner]:
        state["learners"] = learners
    state["auto_leave"] = False
    version = storage_version(cluster.get(b"clusterVersion", b""))
    return [
        ("cluster", INCARNATION_KEY, None),
        ("meta", b"confState", json.dumps(state, separators=(",", ":")).encode()),
        ("meta", b"storageVersion", version.encode() or None),
    ]


class Export:
    """One complete file: a `ports.SnapshotFile`."""

    def __init__(self, descriptor: int, size_bytes: int, version: str, closed: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._closed = closed
        self._offset = 0
        self._hash = hashlib.sha256()
        self.size_bytes = size_bytes
        self.version = version

    async def read(self) -> bytes:
        """See `ports.SnapshotFile`."""
        return await undisturbed(asyncio.to_thread(self._read))

    def _read(self) -> bytes:
        data = os.pread(self._descriptor, min(limits.EXPORT_READ_BYTES, self.size_bytes - self._offset), self._offset)
        if not data and self._offset < self.size_bytes:
            raise OSError(errno.EIO, "the file is shorter than it was written")
        self._hash.update(data)
        os.posix_fadvise(self._descriptor, self._offset, len(data), os.POSIX_FADV_DONTNEED)  # nobody reads it again
        self._offset += len(data)
        return data

    def digest(self) -> bytes:
        return self._hash.digest()

    def close(self) -> None:
        """See `ports.SnapshotFile`."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._closed()


class Exports:
    """Makes them, so many at a time."""

    def __init__(
        self,
        directory: DataDirectory,
        *,
        write: Callable[[int, Callable[[dict[str, Items]], Sides]], Awaitable[int]],
        in_use_bytes: Callable[[], int],
        mono_ns: Callable[[], int],
        observe: Callable[[float], None],
    ) -> None:
        """`write(descriptor, describe)`: everything that is applied into the file; its size (`Flusher.export`). `observe(seconds)`: how
        long a snapshot took, from the call to its end."""
        self._directory = directory
        self._write = write
        self._in_use_bytes = in_use_bytes
        self._mono_ns = mono_ns
        self._open = 0
        self._made = 0
        self._observe = observe

    async def open(self) -> Export:
        """A file of this moment. Raises StatusError: too many at a time, no room, the store's own."""
        if self._open >= limits.EXPORTS_MAX:
            raise status_of(EtcdError.TOO_MANY_REQUESTS)
        self._open += 1
        began_ns = self._mono_ns()
        try:
            return await self._make(began_ns)
        except BaseException as error:
            self._open -= 1
            if isinstance(error, OSError):
                raise _refused(error.strerror or str(error)) from error
            if isinstance(error, StatusError) and error.message in FULL:
                raise _refused(error.message) from error
            raise

    async def _make(self, began_ns: int) -> Export:
        self._check_room()
        descriptor = self._nameless()
        version = ""

        def noted(buckets: dict[str, Items]) -> Sides:
            nonlocal version
            sides = describe(buckets)
            version = next((value.decode() for _, key, value in sides if key == b"storageVersion" and value), "")
            return sides

        def closed() -> None:
            self._open -= 1
            self._observe((self._mono_ns() - began_ns) / 1e9)

        try:
            size_bytes = await self._write(descriptor, noted)
        except BaseException:
            os.close(descriptor)
            raise
        return Export(descriptor, size_bytes, version, closed)

    def _nameless(self) -> int:
        """A file 0600 on the data's file system that is gone with its descriptor."""
        self._made += 1
        path = self._directory.snap_path / FILE_NAME.format(self._made)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.unlink(path)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check_room(self) -> None:
        path: Path = self._directory.snap_path
        info = os.statvfs(path)
        free = info.f_bavail * info.f_frsize
        needed = int(self._in_use_bytes() * limits.EXPORT_SIZE_RATIO) + limits.SNAPSHOT_SPACE_RESERVE_BYTES
        if free < needed:
            raise StatusError(GrpcCode.RESOURCE_EXHAUSTED, f"a snapshot needs {needed} bytes in {path}, {free} are free")


def _refused(text: str) -> StatusError:
    return StatusError(GrpcCode.RESOURCE_EXHAUSTED if text in FULL else GrpcCode.INTERNAL, f"cannot write a snapshot: {text}")
