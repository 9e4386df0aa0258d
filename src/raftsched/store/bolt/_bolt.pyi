"""The contract of the native reader of bbolt files."""

from collections.abc import Callable

from raftsched.store._records import Generation

REPORT_PAGES: int

class BoltFile:
    """One file, open for reading; closed with the object. Offline: whoever may write to it must have ended.

    Opening reads the meta pages and the list of buckets; everything else is checked when it is read. All methods raise CorruptError, with
    the page, for what cannot be so, and FatalError when the file cannot be read.
    """

    path: str
    def __init__(self, path: str) -> None: ...
    @property
    def buckets(self) -> list[str]:
        """In byte order."""
    @property
    def page_bytes(self) -> int: ...
    @property
    def page_count(self) -> int:
        """The high-water mark: pages that are or were in use."""
    @property
    def size_bytes(self) -> int:
        """Of those pages; what follows in the file is not the database's."""
    @property
    def file_bytes(self) -> int: ...
    @property
    def txid(self) -> int:
        """Of the meta page in force."""
    def items(self, bucket: str, *, bytes_max: int = 1 << 28) -> list[tuple[bytes, bytes]]:
        """All pairs of a small bucket, in key order; none if there is no such bucket."""
    def digest(self, on_pages: Callable[[int], None] | None = None) -> tuple[int, int, int, int]:
        """(hash, revision, live keys, records of all buckets) as `etcdutl snapshot status` has them; reads everything.
        `on_pages(pages so far)` now and then."""

class RecordReader:
    """The records of bucket `key`, in order, for generations."""

    main: int
    sub: int
    count: int
    empty: list[tuple[int, int, bool]]
    """(main, sub, tombstone) of the records without a value: what `--bump-revision` has written at earlier restores."""
    def __init__(self, bolt: BoltFile) -> None: ...
    @property
    def pages_seen(self) -> int: ...
    def fill(self, generation: Generation, bytes_max: int) -> bool:
        """Appends records until the generation holds so many bytes; False: there are no more. CorruptError as `BoltFile`."""
