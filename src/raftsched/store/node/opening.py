"""From a data directory to a member that may go on where it stopped.

Order: the directory's lock, an installation of a snapshot that was cut short, LMDB (what is applied), the log after that, the state machine
from LMDB, the kernel from the log.
Invariant: the applied index of LMDB lies within the log; what the log holds beyond it is replayed through the same apply as ever.
Raises FatalError, CorruptError and NoSpaceError with one line for the user.
Must not know: asyncio.
"""

import itertools
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from raftsched import limits
from raftsched.errors import FatalError
from raftsched.store import codec, membership
from raftsched.store.alarm import AlarmStore
from raftsched.store.apply import Applier, SideWrites
from raftsched.store.auth.store import AuthStore
from raftsched.store.auth.tokens import SimpleTokens
from raftsched.store.backend._lmdb import Backend
from raftsched.store.backend.directory import DataDirectory
from raftsched.store.birth import Birth, found
from raftsched.store.codec import RequestIds
from raftsched.store.lease import Lessor
from raftsched.store.membership import Membership
from raftsched.store.mvcc._store import MvccStore
from raftsched.store.node.beginning import force_once, write_first_entries
from raftsched.store.node.numbering import read_ceiling
from raftsched.store.node.options import Clock, NodeOptions
from raftsched.store.raft._kernel import Kernel, KernelError, Run
from raftsched.store.replica import Replica
from raftsched.store.snapshot import install
from raftsched.store.wal.disk import RealDisk
from raftsched.store.wal.format import Metadata
from raftsched.store.wal.log import Log, open_log
from raftsched.store.wal.recovery import Recovered, has_log
from raftsched.types import HardState

CONF_CHANGE = 1
FIRST_ENTRY_TIMEOUT_MS = 10_000
QUOTA_DEFAULT_BYTES = 2 << 30
FILE_SYSTEM_SHARE = 0.9

Chance = Callable[[int], int]
"""`chance(bits)`: that many random bits."""


@dataclass(slots=True)
class Member:
    """Everything of one member, opened."""

    directory: DataDirectory
    backend: Backend
    log: Log
    store: MvccStore
    applier: Applier
    replica: Replica
    member_id: int
    cluster_id: int
    bound_bytes: int
    fresh: bool
    repaired: str
    mark_index: int  # of the last snapshot mark in the log
    changes: tuple[tuple[int, bytes], ...]  # (index, change): configuration changes that the log holds behind what is applied
    installed: str = ""  # what became of an installation that was cut short or of a forced beginning, for a log line

    def close(self) -> None:
        """Everything, whatever fails on the way. Raises FatalError."""
        try:
            self.log.close()
        finally:
            self.backend.close()
            self.directory.close()


def space_bound(options: NodeOptions, path: Path) -> int:
    """min(quota, 90 % of the file system and of LMDB's map); 0 = none."""
    if options.quota_bytes < 0:
        return 0
    info = os.statvfs(path)
    most = min(info.f_blocks * info.f_frsize, options.map_bytes)
    return min(options.quota_bytes or QUOTA_DEFAULT_BYTES, int(most * FILE_SYSTEM_SHARE))


def claim(options: NodeOptions) -> DataDirectory:
    """Locks the data directory: until then nothing is said to anyone in this member's name. Raises what `DataDirectory` raises."""
    return DataDirectory(options.data_dir, instance=options.instance, name=options.directory_name, wal_dir=options.wal_dir)


class Opener:
    """How a node comes to its member; the simulator has another."""

    def claim(self, options: NodeOptions) -> DataDirectory:
        return claim(options)

    def open(self, options: NodeOptions, clock: Clock, directory: DataDirectory, birth: Birth | None) -> Member:
        return open_member(options, clock, directory, birth)


def open_member(options: NodeOptions, clock: Clock, directory: DataDirectory | None = None, birth: Birth | None = None) -> Member:
    """Opens or begins, in a `directory` that was claimed before. `birth`: how a member without data begins, by default as a founder of
    the cluster that the options list. On failure nothing stays open."""
    directory = directory or claim(options)
    try:
        installed = install.finish(directory)
        backend = Backend(directory.database_path, map_bytes=options.map_bytes)
        try:
            bound_bytes = space_bound(options, directory.path)
            log, recovered, fresh = _open_log(
                options, directory, backend, bound_bytes, birth or found(options.founder, options.listed, options.cluster_token)
            )
            try:
                return assemble(
                    options,
                    clock,
                    directory,
                    backend=backend,
                    log=log,
                    recovered=recovered,
                    bound_bytes=bound_bytes,
                    fresh=fresh,
                    installed=installed,
                )
            except BaseException:
                log.close()
                raise
        except BaseException:
            backend.close()
            raise
    except BaseException:
        directory.close()
        raise


def _open_log(
    options: NodeOptions, directory: DataDirectory, backend: Backend, bound_bytes: int, birth: Birth
) -> tuple[Log, Recovered, bool]:
    path = str(directory.wal_path)
    metadata = None
    if not has_log(RealDisk(path)):
        if backend.applied_index:
            raise FatalError(f"{path} holds no log, but {backend.path} has applied {backend.applied_index}: the two do not belong together")
        metadata = Metadata(node_id=birth.member_id, cluster_id=birth.cluster_id)
    log, recovered = open_log(
        path,
        metadata=metadata,
        after_index=backend.applied_index,
        segment_bytes=options.wal_segment_bytes,
        keep_segments=options.max_wals,
        keep_bytes=bound_bytes // 4 or 1 << 62,
    )
    fresh = recovered.last_index == 0
    if fresh and is_founder(recovered.metadata, birth):
        try:
            recovered = write_first_entries(log, recovered, birth.entries)
        except BaseException:
            log.close()
            raise
    return log, recovered, fresh


def is_founder(metadata: Metadata, birth: Birth) -> bool:
    """Whether a log without entries is a founder's, killed before it wrote them. Who joined has an id that depends on the time."""
    return bool(birth.entries) and (metadata.node_id, metadata.cluster_id) == (birth.member_id, birth.cluster_id)


def _runs(recovered: Recovered) -> list[Run]:
    """The log's entries as the kernel takes them."""
    types = recovered.types
    kinds = (
        [(term, types.get(position, 0)) for position, term in enumerate(recovered.terms)]
        if types
        else [(term, 0) for term in recovered.terms]
    )
    runs: list[Run] = []
    position = 0
    for (term, kind), group in itertools.groupby(kinds):
        count = sum(1 for _ in group)
        runs.append((recovered.first_index + position, term, kind, recovered.datas[position : position + count]))
        position += count
    return runs


def _applied_members(members: Membership) -> tuple[set[int], set[int]]:
    """(voters, learners) at the applied index; the kernel puts the changes of the log behind it on top."""
    voters = {one.member_id for one in members.members() if not one.is_learner}
    return voters, {one.member_id for one in members.members() if one.is_learner}


def _revision_of(value: bytes | None) -> int:
    return int.from_bytes(value[:8], "big") if value and len(value) >= 8 else -1


def assemble(
    options: NodeOptions,
    clock: Clock,
    directory: DataDirectory,
    *,
    backend: Backend,
    log: Log,
    recovered: Recovered,
    bound_bytes: int,
    fresh: bool,
    chance: Chance = secrets.randbits,
    installed: str = "",
) -> Member:
    """The state machine from what LMDB holds, the kernel from the log. Also what a simulated member is made by."""
    side = SideWrites()
    lessor = Lessor(side.write, ttl_min_s=options.lease_ttl_s_min)
    alarms = AlarmStore(side.write)
    members = Membership(side.write)
    store = MvccStore(backend, lessor, hash_seed=chance(64), txn_ops_max=options.txn_ops_max)
    scheduled = _revision_of(backend.bucket_get("meta", b"scheduledCompactRev"))
    attached = store.load(revision_hint=max(scheduled, 0), compact_revision=scheduled)
    lessor.load(backend.bucket_items("lease"), attached)
    alarms.load(backend.bucket_items("alarm"))
    members.load(
        backend.bucket_items("members"),
        backend.bucket_items("members_removed"),
        backend.bucket_get("cluster", b"clusterVersion"),
        backend.bucket_get("cluster", membership.INCARNATION_KEY),
        backend.bucket_get("cluster", membership.DOWNGRADE_KEY),
    )
    auth = AuthStore(side.write, tokens=SimpleTokens((options.auth_token_ttl_s or limits.AUTH_TOKEN_TTL_S) * 1_000))
    auth.load(backend.bucket_items("auth"), backend.bucket_items("authUsers"), backend.bucket_items("authRoles"))
    applier = Applier(store, lessor, alarms, members, side, auth=auth, version=options.cluster_version)
    applier.applied_index = backend.applied_index
    applier.applied_term = backend.term
    recovered, forced = force_once(directory.path, options, log, recovered, members, applied_index=backend.applied_index)
    kernel, ids = _make_kernel(options, clock, backend, recovered, members, chance, read_ceiling(directory.path))
    replica = Replica(
        kernel,
        applier,
        ids,
        request_bytes_max=options.request_bytes_max,
        request_timeout_ms=options.request_timeout_ms,
        lease_extend_ms=options.election_ms_min,
    )
    metadata = recovered.metadata
    return Member(
        directory=directory,
        backend=backend,
        log=log,
        store=store,
        applier=applier,
        replica=replica,
        member_id=metadata.node_id,
        cluster_id=metadata.cluster_id,
        bound_bytes=bound_bytes,
        fresh=fresh,
        repaired=recovered.repaired,
        mark_index=recovered.mark.index,
        changes=tuple(
            (recovered.first_index + position, recovered.datas[position])
            for position, kind in sorted(recovered.types.items())
            if kind == CONF_CHANGE
        ),
        installed="; ".join(filter(None, (installed, forced))),
    )


def _make_kernel(
    options: NodeOptions, clock: Clock, backend: Backend, recovered: Recovered, members: Membership, chance: Chance, ceiling: int
) -> tuple[Kernel, RequestIds]:
    runs = _runs(recovered)
    voters, learners = _applied_members(members)
    member_id = recovered.metadata.node_id
    low, high = options.election_ticks
    state = recovered.hard_state or HardState(0, 0, 0)
    try:
        kernel = Kernel(
            member_id,
            voters=voters,
            learners=learners,
            seed=chance(64),
            term=state.term,
            vote=state.vote,
            commit=state.commit,
            applied=backend.applied_index,
            first_index=recovered.first_index,
            base_term=recovered.base_term or backend.term,
            entries=runs,
            election_ticks_min=low,
            election_ticks_max=high,
            quiet_heartbeat_ticks=options.quiet_heartbeat_ticks,
            retry_ticks_max=max(options.election_retry_ms_max // options.heartbeat_ms, 1),
            uncommitted_bytes_max=limits.UNCOMMITTED_BYTES_MAX,
            apply_entries_max=256,
        )
    except KernelError as error:
        raise FatalError(f"{options.data_dir}: {error}") from error
    ids = RequestIds(member_id, clock.wall_ms())
    for _, _, kind, entries in runs:
        found = _change_ids(entries) if kind == CONF_CHANGE else (one + stop - start - 1 for one, start, stop in codec.unwrap(entries)[2])
        for last_id in found:
            ids.skip_past(last_id)
    ids.skip_past(ceiling)
    return kernel, ids


def _change_ids(entries: Iterable[bytes]) -> Iterator[int]:
    for entry in entries:
        try:
            yield membership.decode_change(entry)[3]
        except codec.WireError:
            continue  # applies as a refused change
