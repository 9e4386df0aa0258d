class RecordSource:
    """Where records live that are no longer pending."""

    def read(self, main: int, sub: int, tombstone: bool = False) -> bytes | None:
        """The stored value at (main, sub)."""

class MemoryRecords(RecordSource):
    def store(self, generation: Generation) -> None:
        """Takes over all records of a frozen generation, as a commit would."""
    def remove(self, main: int, sub: int, tombstone: bool) -> None: ...

class Generation:
    """Records between two commits; see `_records.pxd`."""

    size_bytes: int
    frozen: bool
    def __len__(self) -> int: ...
    def add(self, main: int, sub: int, tombstone: bool, value: bytes) -> None: ...
    def freeze(self) -> None: ...
    def items(self) -> list[tuple[int, int, bool, bytes]]: ...
