"""Records between the apply and the disk; see `_records.pxd` for the native side."""

class RecordSource:
    """Where records live that are no longer pending."""

    def read(self, main: int, sub: int, tombstone: bool = False) -> bytes | None:
        """The stored value at (main, sub). OSError when the source cannot read."""
    def error(self) -> str:
        """The text of the last I/O error; empty if there was none."""

class MemoryRecords(RecordSource):
    """A source in memory, for tests and the simulator."""

    def __len__(self) -> int: ...
    def store(self, generation: Generation) -> None:
        """Takes over all records of a frozen generation, as a commit would. ValueError if it is not frozen."""
    def put(self, main: int, sub: int, tombstone: bool, value: bytes) -> None:
        """Stores one record, also over an older one at the same place."""
    def remove(self, main: int, sub: int, tombstone: bool) -> None:
        """Drops one record; KeyError if it is not there."""
    def items(self) -> list[tuple[int, int, bool, bytes]]:
        """All records in order, as (main, sub, tombstone, value)."""

class Generation:
    """Records between two commits; see `_records.pxd`."""

    size_bytes: int
    frozen: bool
    def __len__(self) -> int: ...
    def add(self, main: int, sub: int, tombstone: bool, value: bytes) -> None:
        """Appends one record. ValueError if it is frozen or (main, sub) does not rise."""
    def freeze(self) -> None:
        """No record can be added from now on."""
    def items(self) -> list[tuple[int, int, bool, bytes]]:
        """All records in order, as (main, sub, tombstone, value)."""
