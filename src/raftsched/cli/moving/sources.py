"""Where jobs are taken from: a running store, a snapshot, the directory of a stopped one, a file of `dapr scheduler export`.

Invariant: a source is read and never changed; of a running one all is read at one revision. What has to be put in order first goes to a
scratch directory that is removed at the end; memory holds a page of records, and of a snapshot or directory the index of its keys.
"""

import contextlib
import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc

from raftsched.cli.channel import Tls, open_channel
from raftsched.cli.login import logged_in
from raftsched.cli.moving import gob
from raftsched.cli.moving.entries import Fetch, Record, Source, paged
from raftsched.cli.progress import OnProgress
from raftsched.errors import ConfigError, CorruptError, FatalError
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.scheduler.jobs.names import COUNTERS, JOBS, prefix_end

UNLIMITED: Final = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
TIMEOUT_S: Final = 60.0
BOLT_MAGIC: Final = b"\xed\xda\x0c\xed"  # little-endian, behind the header of the first page
BOLT_MAGIC_AT: Final = 16
REPORT_EVERY: Final = 1_000
HASH_STEP_BYTES: Final = 1 << 20
SCRATCH_PREFIX: Final = "raftsched-import-"
TABLES: Final = {JOBS: "jobs", COUNTERS: "counters"}


class Stored:
    """Anything that answers for ranges of keys."""

    def __init__(self, identity: str, revision: int, count: int, fetch: Fetch, counters: int = 0) -> None:
        """`counters`: how many there are, where somebody wants to know."""
        self.identity, self.revision, self.counters = identity, revision, counters
        self._count, self._fetch = count, fetch

    def count(self) -> int:
        return self._count

    def records(self, prefix: bytes) -> Iterator[Record]:
        return paged(prefix, self._fetch)


@contextmanager
def live(address: str, user: str, tls: Tls) -> Iterator[Stored]:
    """A running store, at the revision that it has now. Raises ConfigError, FatalError (nobody answers, what a page asks for is gone)."""
    with open_channel(address, tls, UNLIMITED) as channel:
        with _told(address):
            kv = rpc_pb2_grpc.KVStub(logged_in(channel, user))
            first = kv.Range(_count(JOBS), timeout=TIMEOUT_S)
            counters = kv.Range(_count(COUNTERS, first.header.revision), timeout=TIMEOUT_S).count

        def fetch(start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes, int]]:
            page = rpc_pb2.RangeRequest(key=start, range_end=end, limit=limit, revision=first.header.revision)
            with _told(address):
                return [(one.key, one.value, one.mod_revision) for one in kv.Range(page, timeout=TIMEOUT_S).kvs]

        yield Stored(f"etcd-{first.header.cluster_id:x}", first.header.revision, first.count, fetch, counters)


def _count(prefix: bytes, revision: int = 0) -> rpc_pb2.RangeRequest:
    return rpc_pb2.RangeRequest(key=prefix, range_end=prefix_end(prefix), count_only=True, revision=revision)


@contextmanager
def _told(address: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        details = (error.details() if isinstance(error, grpc.Call) else str(error)) or "no answer"
        raise FatalError(f"cannot read {address}: {details}; nothing is lost: run the same command again to go on") from error


# -- files


def open_source(
    source: str, *, user: str, tls: Tls, scratch: Path | None, skip_hash: bool, on_progress: OnProgress
) -> contextlib.AbstractContextManager[Source]:
    """By what `source` is: a path that exists, else an address. Raises ConfigError, FatalError."""
    path = Path(source)
    if not is_there(source):
        return live(source, user, tls)
    if is_gob(path):
        return exported(path, scratch, on_progress)
    return stopped(path, scratch, skip_hash, on_progress)


def is_there(source: str) -> bool:
    """Whether it is a file or directory; else it is an address. Raises ConfigError."""
    if "://" in source:
        return False
    if Path(source).exists():
        return True
    if ":" not in source:
        raise ConfigError(f"{source}: no such file or directory, and no host:port")
    return False


def is_gob(path: Path) -> bool:
    """Whether it is a file and no database. Raises FatalError."""
    if path.is_dir():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(BOLT_MAGIC_AT + len(BOLT_MAGIC))
    except OSError as error:
        raise FatalError(f"cannot read {path}: {error.strerror}") from error
    return head[BOLT_MAGIC_AT:] != BOLT_MAGIC


@contextmanager
def exported(path: Path, scratch: Path | None, on_progress: OnProgress) -> Iterator[Stored]:
    """A file of `dapr scheduler export`. Its maps have no order, and the counters come last: a database on disk puts both in order."""
    with _place(scratch) as place, contextlib.closing(sqlite3.connect(place / "sorted.db", isolation_level=None)) as database:
        for statement in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-65536"):
            database.execute(f"PRAGMA {statement}")
        identity = f"export-{digest(path)}"
        try:
            _sort(path, database, on_progress)
        except sqlite3.OperationalError as error:
            raise FatalError(f"cannot sort {path}: {error}; --scratch names a directory with more room") from error

        def fetch(start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes, int]]:
            table = TABLES[JOBS if start.startswith(JOBS) else COUNTERS]
            query = f"SELECT key, value FROM {table} WHERE key >= ? AND key < ? ORDER BY key LIMIT ?"
            return [(key, value, 0) for key, value in database.execute(query, (start, end, limit))]

        yield Stored(identity, 0, database.execute("SELECT count(*) FROM jobs").fetchone()[0], fetch)


def digest(path: Path) -> str:
    """SHA-256. Raises FatalError."""
    try:
        found = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(HASH_STEP_BYTES):
                found.update(block)
    except OSError as error:
        raise FatalError(f"cannot read {path}: {error.strerror}") from error
    return found.hexdigest()[:32]


def _sort(path: Path, database: sqlite3.Connection, on_progress: OnProgress) -> None:
    for table in TABLES.values():
        database.execute(f"CREATE TABLE {table} (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
    inserts = {prefix: f"INSERT INTO {table} VALUES (?, ?)" for prefix, table in TABLES.items()}
    total = path.stat().st_size
    database.execute("BEGIN")
    for done, (key, value, offset) in enumerate(gob.read(str(path))):
        prefix = next((one for one in TABLES if key.startswith(one)), None)
        if prefix is None:
            raise CorruptError(f"{path}: {key[:200]!r} is neither a job's key nor a counter's")
        try:
            database.execute(inserts[prefix], (key, value))
        except sqlite3.IntegrityError:
            raise CorruptError(f"{path}: {key[:200]!r} stands in it twice") from None
        if done % REPORT_EVERY == 0:
            on_progress("reading", offset, total)
    database.execute("COMMIT")


@contextmanager
def stopped(path: Path, scratch: Path | None, skip_hash: bool, on_progress: OnProgress) -> Iterator[Stored]:
    """A snapshot, or the directory of a stopped etcd or Dapr Scheduler: a member of nobody's is restored from it and opened."""
    from raftsched.store.backend.directory import OWN_NAME, DataDirectory
    from raftsched.store.node.opening import open_member
    from raftsched.store.node.options import NodeOptions, SystemClock
    from raftsched.store.node.restoring import Plan, restore

    urls = ("http://localhost:2380",)
    with _place(scratch) as place:
        root = place / OWN_NAME
        cluster = {"import": urls}
        plan = Plan(
            source=path.absolute(),
            target=root,
            root=root,
            name="import",
            peer_urls=urls,
            initial_cluster=cluster,
            cluster_token="import",
            skip_hash_check=skip_hash,
        )
        restored = restore(plan, on_progress)
        options = NodeOptions(
            data_dir=str(place), name="import", cluster_token="import", peer_urls=urls, initial_cluster=tuple(cluster.items())
        )
        member = open_member(options, SystemClock(), DataDirectory(place, instance=None))
        try:
            yield Stored(
                f"data-{restored.incarnation:016x}", restored.revision, _counted(member.store.range), _fetching(member.store.range)
            )
        finally:
            member.close()


Range = Callable[[bytes], tuple[int, int, bytes]]


def _ask(ask: Range, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
    error, _, body = ask(request.SerializeToString())
    if error:
        raise FatalError(f"the restored data cannot be read: error {error}")
    return rpc_pb2.RangeResponse.FromString(body)


def _counted(ask: Range) -> int:
    return _ask(ask, _count(JOBS)).count


def _fetching(ask: Range) -> Fetch:
    def fetch(start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes, int]]:
        found = _ask(ask, rpc_pb2.RangeRequest(key=start, range_end=end, limit=limit))
        return [(one.key, one.value, one.mod_revision) for one in found.kvs]

    return fetch


@contextmanager
def _place(scratch: Path | None) -> Iterator[Path]:
    """A directory that goes again; after a kill it stays, and its name tells whose it was."""
    try:
        place = tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, dir=scratch)
    except OSError as error:
        raise FatalError(f"cannot write in {scratch or tempfile.gettempdir()}: {error.strerror}; --scratch names another place") from error
    with place as name:
        yield Path(os.path.abspath(name))
