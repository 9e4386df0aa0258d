"""A directory in memory that forgets what was not synced: the other implementation of `store.wal.disk.Disk`.

Invariant: after `crash`, a synced byte is what it was, and each unsynced sector of 512 bytes is either its old or its new self, as
the caller's choice says; a name counts only once its directory was synced, unless the choice keeps it.
Must not know: what the files mean.
"""

import contextlib
from collections.abc import Callable, Iterator

from raftsched.errors import FatalError

SECTOR_BYTES = 512

Choice = Callable[[], bool]
"""Asked once per unsynced sector and name: does it reach the disk?"""


class SimulatedDisk:
    """Files as byte arrays, each with the bytes that are safe and those that are only written."""

    def __init__(self, path: str = "/simulated") -> None:
        self.path = path
        self.files: dict[str, bytearray] = {}
        self.synced: dict[str, bytes] = {}  # contents on stable storage
        self.names: dict[str, bytearray] = {}  # the directory on stable storage: name -> file
        self.fail: str = ""  # "write", "sync": the next such call fails

    def _check(self, what: str, name: str) -> bytearray:
        if self.fail == what:
            self.fail = ""
            raise FatalError(f"cannot {what} {self.path}/{name}: Input/output error")
        return self.files[name]

    def sizes(self) -> list[tuple[str, int]]:
        return [(name, len(data)) for name, data in self.files.items()]

    @contextlib.contextmanager
    def open_bytes(self, name: str) -> Iterator[bytes]:
        yield bytes(self.files[name])

    def create(self, name: str, data: bytes) -> None:
        self.files[name] = bytearray()
        self.write(name, 0, data)
        self.sync(name)
        self.sync_directory()

    def write(self, name: str, offset: int, data: bytes) -> None:
        file = self._check("write", name)
        if len(file) < offset + len(data):
            file.extend(bytes(offset + len(data) - len(file)))
        file[offset : offset + len(data)] = data

    def sync(self, name: str) -> None:
        self.synced[name] = bytes(self._check("sync", name))

    def remove(self, name: str) -> None:
        del self.files[name]

    def sync_directory(self) -> None:
        self.names = dict(self.files)

    def crash(self, keep: Choice) -> "SimulatedDisk":
        """The disk as the next start finds it."""
        after = SimulatedDisk(self.path)
        for name in sorted(self.files.keys() | self.names.keys()):
            if (name in self.names) != (name in self.files) and keep() != (name in self.files):
                continue
            now = bytes(self.files.get(name, self.names.get(name, b"")))
            after.files[name] = bytearray(self._mixed(self.synced.get(name, b""), now, keep))
            after.synced[name] = bytes(after.files[name])
        after.names = dict(after.files)
        return after

    @staticmethod
    def _mixed(old: bytes, new: bytes, keep: Choice) -> bytes:
        old = old.ljust(len(new), b"\0")
        out = bytearray(old)
        for start in range(0, len(new), SECTOR_BYTES):
            stop = start + SECTOR_BYTES
            if old[start:stop] != new[start:stop] and keep():
                out[start:stop] = new[start:stop]
        return bytes(out)
