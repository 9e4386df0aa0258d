"""The port through which recovery sees a directory of log files, and its real form.

Invariant: nothing counts as stored before `sync` (contents) or `sync_directory` (names) has returned.
Must not know: what the files mean.
"""

import contextlib
import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from raftsched.errors import FatalError, NoSpaceError

Bytes = bytes | mmap.mmap


class Disk(Protocol):
    """One directory. `testing.disk.SimulatedDisk` is the other implementation; errors are FatalError, for want of space NoSpaceError."""

    @property
    def path(self) -> str:
        """For messages."""

    def sizes(self) -> list[tuple[str, int]]:
        """(name, size in bytes) of all files."""

    def open_bytes(self, name: str) -> AbstractContextManager[Bytes]:
        """The contents, read-only, valid inside the `with`."""

    def create(self, name: str, data: bytes) -> None:
        """A new file with these contents, synced under a temporary name and then renamed; the directory is synced."""

    def write(self, name: str, offset: int, data: bytes) -> None: ...
    def sync(self, name: str) -> None: ...
    def remove(self, name: str) -> None: ...
    def sync_directory(self) -> None: ...


class RealDisk:
    """A directory of the operating system."""

    def __init__(self, path: str) -> None:
        self.path = path

    def _fail(self, what: str, name: str, error: OSError) -> FatalError | NoSpaceError:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT} and what != "sync"  # a failed sync is never tried again
        return (NoSpaceError if full else FatalError)(f"cannot {what} {os.path.join(self.path, name)}: {error.strerror}")

    def sizes(self) -> list[tuple[str, int]]:
        try:
            with os.scandir(self.path) as entries:
                found = []
                for entry in entries:
                    # a segment that was let go may vanish while we look
                    with contextlib.suppress(FileNotFoundError):
                        if entry.is_file(follow_symlinks=False):
                            found.append((entry.name, entry.stat().st_size))
                return found
        except OSError as error:
            raise self._fail("read", "", error) from error

    @contextlib.contextmanager
    def open_bytes(self, name: str) -> Iterator[Bytes]:
        try:
            with open(os.path.join(self.path, name), "rb") as file:
                empty = os.fstat(file.fileno()).st_size == 0
                mapped: Bytes = b"" if empty else mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except OSError as error:
            raise self._fail("read", name, error) from error
        try:
            yield mapped
        finally:
            if isinstance(mapped, mmap.mmap):
                mapped.close()

    def create(self, name: str, data: bytes) -> None:
        temporary = os.path.join(self.path, name + ".tmp")
        try:
            with open(temporary, "wb", opener=private) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, os.path.join(self.path, name))
        except OSError as error:
            raise self._fail("create", name, error) from error
        self.sync_directory()

    def write(self, name: str, offset: int, data: bytes) -> None:
        try:
            with open(os.path.join(self.path, name), "r+b", buffering=0) as file:
                rest = memoryview(data)
                while rest:
                    count = os.pwrite(file.fileno(), rest, offset)
                    rest, offset = rest[count:], offset + count
        except OSError as error:
            raise self._fail("write", name, error) from error

    def sync(self, name: str) -> None:
        try:
            with open(os.path.join(self.path, name), "r+b", buffering=0) as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise self._fail("sync", name, error) from error

    def remove(self, name: str) -> None:
        try:
            os.unlink(os.path.join(self.path, name))
        except OSError as error:
            raise self._fail("remove", name, error) from error

    def sync_directory(self) -> None:
        try:
            sync_directory(self.path)
        except OSError as error:
            raise self._fail("sync", "", error) from error


def private(path: str, flags: int) -> int:
    """An `opener` for files of mode 0600."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def sync_directory(path: str) -> None:
    """Makes names in a directory durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
