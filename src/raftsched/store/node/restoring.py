"""A new member out of an etcd's or a Dapr Scheduler's data: the first member of a new cluster, as `etcdutl snapshot restore` makes one.

Keys, revisions, leases, alarms and users stay as they were; ids, members and log are those of the new cluster. All its members are to be
made from the same source: what tells clusters of one list apart (`raftschedIncarnation`) follows from the source's bytes, so members of
different sources refuse each other.

    1. <root>.restoring/ is filled: database, log, snapshot file; opened once as a start would, the rest of the old log replayed
    2. everything is synced; a log that is to lie elsewhere becomes <wal-dir>.restoring
    3. <root>.restoring/raftsched-1 gets the target's name, then the log its own

Invariant: under the final names there is nothing or everything: a kill before 3 leaves what a start refuses to pass by
(`DataDirectory`), between the two renames a database without its log, which is refused, too. Nothing that was there is touched.
Must not know: flags, terminals.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from raftsched import limits
from raftsched.errors import ConfigError, CorruptError, FatalError, NoSpaceError
from raftsched.store import membership
from raftsched.store._records import Generation
from raftsched.store.apply import revision_key
from raftsched.store.backend._lmdb import Backend
from raftsched.store.backend.directory import RESTORING_SUFFIX, DataDirectory, DirectoryInUseError
from raftsched.store.backend.files import sync_directory
from raftsched.store.birth import Birth, found
from raftsched.store.bolt import sources
from raftsched.store.bolt._bolt import BoltFile, RecordReader
from raftsched.store.membership import Membership
from raftsched.store.node.opening import Member, open_member
from raftsched.store.node.options import NodeOptions, SystemClock
from raftsched.store.node.replaying import Tail, read_tail, replay
from raftsched.store.snapshot.files import RaftSnapshot, save
from raftsched.store.wal.format import ConfState, Metadata, SnapshotMark, encode_mark
from raftsched.store.wal.log import Log, open_log
from raftsched.types import HardState

TERM: Final = 1
TIMEOUT_MS: Final = 60_000
BATCH_BYTES: Final = 32 << 20  # of records in one transaction
SIDE_BATCH: Final = 10_000
TAKEN: Final = ("alarm", "auth", "authRoles", "authUsers", "lease")  # buckets that are taken as they are
REPLACED: Final = ("cluster", "members", "members_removed", "meta")
COMPACTED: Final = (b"scheduledCompactRev", b"finishedCompactRev")

Side = tuple[str, bytes, bytes | None]
OnProgress = Callable[[str, int, int], None]
"""`on_progress(what is done, so much, of so much)`, now and then; units differ."""


class Database(Protocol):
    """What is taken over beside the records: a `BoltFile`, or what others put together."""

    path: str

    @property
    def buckets(self) -> list[str]: ...
    @property
    def page_count(self) -> int:
        """Of the records, in the reader's units."""

    @property
    def size_bytes(self) -> int: ...
    def items(self, bucket: str, *, bytes_max: int = ...) -> list[tuple[bytes, bytes]]: ...


class Records(Protocol):
    """The records, in order, as `RecordReader` gives them."""

    empty: list[tuple[int, int, bool]]

    @property
    def pages_seen(self) -> int: ...
    def fill(self, generation: Generation, bytes_max: int) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be made of what."""

    source: Path
    target: Path  # the member's directory, which gets wal/, snap/, db.0/
    root: Path  # the directory that comes to be as a whole: the target or above it
    wal_dir: Path | None = None  # None: in the target
    name: str
    peer_urls: tuple[str, ...]
    initial_cluster: Mapping[str, Sequence[str]]
    cluster_token: str
    bump_revision: int = 0
    mark_compacted: bool = False
    skip_hash_check: bool = False


@dataclass(frozen=True, slots=True)
class Restored:
    """What was made."""

    path: str
    member_id: int
    cluster_id: int
    revision: int
    compact_revision: int  # -1 = never compacted
    keys: int
    leases: int
    auth_enabled: bool
    replayed: int  # requests of the old log behind the database
    notes: tuple[str, ...]
    incarnation: int  # the same for the same source and plan


def check(plan: Plan) -> Birth:
    """Everything that can be said before anything is read; identity and first entries. Raises ConfigError."""
    if plan.bump_revision < 0 or plan.bump_revision >= 1 << 62:
        raise ConfigError("--bump-revision must not be negative, nor beyond 2^62")
    if bool(plan.bump_revision) != plan.mark_compacted:
        raise ConfigError("--mark-compacted is required with --bump-revision, and is only allowed with it")
    if plan.name not in plan.initial_cluster:
        raise ConfigError(f'couldn\'t find local name "{plan.name}" in the initial cluster configuration')
    listed = sorted(plan.initial_cluster[plan.name])
    if listed != sorted(plan.peer_urls):
        raise ConfigError(
            f"--initial-cluster has {plan.name}={','.join(listed)}, --initial-advertise-peer-urls {','.join(sorted(plan.peer_urls))}"
        )
    owners: dict[str, str] = {}
    for name, urls in plan.initial_cluster.items():
        for url in urls:
            if owners.setdefault(url, name) != name:
                raise ConfigError(f"{url} belongs to {owners[url]} and to {name} in --initial-cluster")
    for path in filter(None, (plan.root, plan.target, plan.wal_dir)):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} exists and is not empty: nothing is restored over it")
    return found(plan.name, plan.initial_cluster, plan.cluster_token)


def restore(plan: Plan, on_progress: OnProgress = lambda _what, _done, _total: None) -> Restored:
    """Blocks. Raises ConfigError, FatalError, CorruptError, NoSpaceError; what was begun is removed then."""
    birth = check(plan)
    source = sources.find(plan.source)
    bolt = sources.open_database(source)
    required = source.wal is None and not plan.skip_hash_check
    digest = sources.check_sum(bolt, required=required, on_bytes=lambda done, total: on_progress("reading", done, total))
    return _fill(plan, birth, bolt, RecordReader(bolt), digest, _tail_of(source, bolt), on_progress)


def restore_records(
    plan: Plan, database: Database, records: Records, digest: bytes, on_progress: OnProgress = lambda _what, _done, _total: None
) -> Restored:
    """As `restore`, of what somebody else has read. `digest`: of all of it, the same for all members. Raises what `restore` raises."""
    return _fill(plan, check(plan), database, records, digest, Tail(1), on_progress)


def _fill(plan: Plan, birth: Birth, database: Database, records: Records, digest: bytes, tail: Tail, on_progress: OnProgress) -> Restored:
    directory = _begin(plan, database)
    try:
        incarnation = _incarnation(plan, birth, digest, tail)
        restored = _Filling(plan, birth, directory, database, records, incarnation, on_progress).run(tail)
        _settle(plan, directory)
    except BaseException as error:
        directory.close()
        shutil.rmtree(_temporary(plan.root), ignore_errors=True)
        if isinstance(error, OSError):
            raise _failure(error, plan.target) from error
        raise
    return restored


def _tail_of(source: sources.Source, bolt: BoltFile) -> Tail:
    meta = dict(bolt.items("meta"))
    index = int.from_bytes(meta.get(b"consistent_index", b"")[:8], "big")
    if source.wal is None:
        return Tail(index + 1)
    members = Membership(lambda _write: None)
    members.load(bolt.items("members"), (), None)
    return read_tail(source.wal, index, members)


def _incarnation(plan: Plan, birth: Birth, digest: bytes, tail: Tail) -> int:
    """The same for all members of one source; never 0."""
    words = (birth.cluster_id, plan.bump_revision, tail.first_index, len(tail.datas))
    parts = b"".join(word.to_bytes(8, "big") for word in words)
    replayed = hashlib.sha256(b"".join(hashlib.sha256(one).digest() for one in tail.datas)).digest()
    return int.from_bytes(hashlib.sha256(digest + parts + replayed).digest()[:8], "big") or 1


# -- places


def _temporary(path: Path) -> Path:
    return path.with_name(path.name + RESTORING_SUFFIX)


def _begin(plan: Plan, bolt: Database) -> DataDirectory:
    """An empty place beside the target, locked. What a killed restore left there goes."""
    place = _temporary(plan.root)
    try:
        plan.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = os.statvfs(plan.root.parent)
        free, needed = info.f_bavail * info.f_frsize, bolt.size_bytes + limits.SNAPSHOT_SPACE_RESERVE_BYTES
        if free < needed:
            raise NoSpaceError(f"a restore needs {needed} bytes in {plan.root.parent}, {free} are free")
        if place.exists():
            DataDirectory(place, instance=None).close()  # somebody may be at it
            shutil.rmtree(place)
        return DataDirectory(place, instance=None)
    except DirectoryInUseError as error:
        raise FatalError(f"another restore is under way in {place}") from error
    except OSError as error:
        raise _failure(error, place) from error


def _settle(plan: Plan, directory: DataDirectory) -> None:
    """Steps 2 and 3. The lock is given back."""
    place, own = _temporary(plan.root), directory.path
    for path in (own / "db.0", own / "wal", own / "snap", own, place):
        sync_directory(path)
    log = _move_log(plan.wal_dir, own / "wal") if plan.wal_dir is not None else None
    directory.close()
    plan.target.parent.mkdir(mode=0o700, exist_ok=True)
    os.rename(own, plan.target)
    for path in (plan.target.parent, plan.root.parent):
        sync_directory(path)
    if log is not None and plan.wal_dir is not None:
        os.rename(log, plan.wal_dir)
        sync_directory(plan.wal_dir.parent)
    shutil.rmtree(place, ignore_errors=True)


def _move_log(wal_dir: Path, log: Path) -> Path:
    """The log beside the place where it is to lie, perhaps on another file system."""
    place = _temporary(wal_dir)
    wal_dir.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    for path in sorted(log.iterdir()):
        with open(path, "rb") as one, open(place / path.name, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as other:
            shutil.copyfileobj(one, other, 1 << 20)
            other.flush()
            os.fsync(other.fileno())
    sync_directory(place)
    shutil.rmtree(log)
    sync_directory(log.parent)
    return place


def _failure(error: OSError, path: Path) -> FatalError | NoSpaceError:
    full = error.errno in {28, 122}  # ENOSPC, EDQUOT
    return (NoSpaceError if full else FatalError)(f"cannot restore into {path}: {error.filename or ''} {error.strerror}")


def _durable(log: Log, batch: int) -> None:
    if not log.wait_durable(batch, TIMEOUT_MS):
        raise NoSpaceError(f"the log in {log.directory} cannot be written: no space on the disk")


# -- contents


class _Filling:
    """Step 1."""

    def __init__(
        self,
        plan: Plan,
        birth: Birth,
        directory: DataDirectory,
        bolt: Database,
        records: Records,
        incarnation: int,
        on_progress: OnProgress,
    ) -> None:
        self._plan = plan
        self._birth = birth
        self._directory = directory
        self._bolt = bolt
        self._records = records
        self._incarnation = incarnation
        self._on_progress = on_progress
        self._index = len(birth.entries)
        self._notes: list[str] = []
        self._bumps: list[tuple[int, int, bool]] = []

    def run(self, tail: Tail) -> Restored:
        backend = Backend(self._directory.database_path)
        try:
            self._take_records(backend)
            self._take_rest(backend)
        finally:
            backend.close()
        self._write_log()
        plan = self._plan
        options = NodeOptions(
            data_dir=str(_temporary(plan.root)),
            name=plan.name,
            cluster_token=plan.cluster_token,
            peer_urls=plan.peer_urls,
            initial_cluster=tuple((name, tuple(urls)) for name, urls in plan.initial_cluster.items()),
        )
        member = open_member(options, SystemClock(), self._directory)
        try:
            replayed = self._replay(member, tail)
            if plan.bump_revision:
                self._bump(member.backend)
            return self._told(member, replayed)
        finally:
            member.log.close()
            member.backend.close()

    # -- the database

    def _take_records(self, backend: Backend) -> None:
        reader, more = self._records, True
        while more:
            generation = Generation()
            more = reader.fill(generation, BATCH_BYTES)
            self._commit(backend, generation, [])
            self._bumps = reader.empty
            self._on_progress("restoring", min(reader.pages_seen, self._bolt.page_count), self._bolt.page_count)

    def _take_rest(self, backend: Backend) -> None:
        """The small buckets; users, leases and alarms as they are."""
        side: list[Side] = [("cluster", membership.INCARNATION_KEY, self._incarnation.to_bytes(8, "big"))]
        meta = dict(self._bolt.items("meta"))
        side += [("meta", key, meta[key]) for key in COMPACTED if key in meta]
        table = Membership(side.append)
        for entry in self._birth.entries:
            table.apply_change(entry)
        for bucket in TAKEN:
            for key, value in self._bolt.items(bucket):
                if not 0 < len(key) <= limits.SIDE_KEY_BYTES_MAX:
                    raise CorruptError(f"{self._bolt.path}: bucket {bucket} has a key of {len(key)} bytes")
                side.append((bucket, key, value))
        for at in range(0, len(side), SIDE_BATCH):
            self._commit(backend, None, side[at : at + SIDE_BATCH])
        if unknown := sorted(set(self._bolt.buckets) - {"key", *TAKEN, *REPLACED}):
            self._notes.append(f"buckets that are not etcd's were left out: {', '.join(unknown)}")

    def _commit(
        self, backend: Backend, generation: Generation | None, side: Sequence[Side], *, deletes: Sequence[tuple[int, int, bool]] = ()
    ) -> None:
        if generation is not None:
            generation.freeze()
        backend.commit(generation, deletes, side, self._index, TERM)
        while not backend.wait(TIMEOUT_MS):
            pass  # a slow disk
        backend.completed()
        if backend.stalled:
            raise NoSpaceError(backend.stalled)
        backend.renew()

    # -- the log

    def _write_log(self) -> None:
        """A log that begins behind the founders' entries, as after the installation of a snapshot: if it held them, a member that joins
        would be given the log from its first entry on, and never what was restored. The hard state comes when the mark is durable: a
        commit index beyond it would be corruption. `vote`: this is no cluster in which nothing has happened."""
        voters = [membership.decode_change(entry)[1] for entry in self._birth.entries]
        state = ConfState(voters=tuple(voters))
        metadata = Metadata(node_id=self._birth.member_id, cluster_id=self._birth.cluster_id)
        log, _ = open_log(str(self._directory.wal_path), metadata=metadata)
        try:
            mark = encode_mark(SnapshotMark(self._index, TERM, state, restarts=True))
            _durable(log, log.append(None, 1, [], [], mark=mark, restart_index=self._index))
            hard = HardState(term=TERM, vote=voters[0], commit=self._index)
            _durable(log, log.append(hard, self._index + 1, [], []))
        finally:
            log.close()
        save(self._directory.snap_path, RaftSnapshot(index=self._index, term=TERM, conf_state=state))

    def _replay(self, member: Member, tail: Tail) -> int:
        if tail.torn:
            self._notes.append(tail.torn)
        if tail.left_out:
            self._notes.append(
                f"{tail.left_out} entries at the end of the old log were left out: nothing tells whether they were committed"
            )
        if not tail.datas:
            return 0
        applier, side = member.applier, member.applier.side
        applier.applied_index = tail.first_index - 1
        self._on_progress("replaying", 0, len(tail.datas))
        applied = replay(applier, tail)
        generation = member.store.swap() if member.store.pending_bytes else None
        self._commit(member.backend, generation, side.take())
        if generation is not None:
            member.store.release()
        applier.applied_index = self._index
        self._on_progress("replaying", len(tail.datas), len(tail.datas))
        return applied

    def _bump(self, backend: Backend) -> None:
        """As etcdutl: a record with nothing in it so far ahead, and a compaction up to it at the first start. That compaction would take
        the empty records of earlier restores, which our index does not know: they go here."""
        revision = backend.last_revision[0] + self._plan.bump_revision
        if revision >= 1 << 63:
            raise ConfigError(f"--bump-revision goes beyond what a revision can be: the last one is {backend.last_revision[0]}")
        generation = Generation()
        generation.add(revision, 0, False, b"")
        self._commit(backend, generation, [("meta", b"scheduledCompactRev", revision_key(revision))], deletes=self._bumps)

    def _told(self, member: Member, replayed: int) -> Restored:
        backend, store = member.backend, member.store
        bumped = self._plan.bump_revision > 0
        revision = backend.last_revision[0] if bumped else store.revision
        return Restored(
            path=str(self._plan.target),
            member_id=member.member_id,
            cluster_id=member.cluster_id,
            revision=revision,
            compact_revision=revision if bumped else store.compact_revision,
            keys=store.key_count,
            leases=len(backend.bucket_items("lease")),
            auth_enabled=backend.bucket_get("auth", b"authEnabled") == b"\x01",
            replayed=replayed,
            notes=tuple(self._notes),
            incarnation=self._incarnation,
        )
