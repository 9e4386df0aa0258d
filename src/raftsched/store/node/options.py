"""What a node is told at its start, validated once; and the clock port.

Must not know: flags and files (the server builds this from its own configuration).
"""

import time
from dataclasses import dataclass
from typing import Literal, Protocol

from raftsched import limits
from raftsched.errors import ConfigError
from raftsched.store.backend.directory import OWN_NAME

QUIET_IN_TIMEOUT_MIN = 4  # heartbeats of a quiet leader within the shortest election timeout
QUIET_IN_WINDOW_MIN = 5  # the same within the time that is lent: a loan is two of them old when it comes, so three may be lost


class Clock(Protocol):
    """Where the node's time comes from; tests move their own."""

    def mono_ns(self) -> int:
        """Monotonic."""

    def wall_ms(self) -> int:
        """Since the epoch; for request ids only."""


class SystemClock:
    """The machine's."""

    def mono_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


ClusterState = Literal["any", "new", "existing"]
"""Whether a member without data may begin a cluster, join one that it was added to, or both: etcd's --initial-cluster-state, which
`raftsched serve` does without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """Configuration of one member. Defaults are those of `raftsched serve` where it differs from etcd's."""

    data_dir: str
    instance: str | None = None  # `<NAMESPACE>-<id>`; None: the directory is this member's own
    directory_name: str = OWN_NAME  # of the member's directory in it
    wal_dir: str = ""  # where the log lies, "" = in the member's directory
    name: str = "default"
    cluster_token: str = "etcd-cluster"
    peer_urls: tuple[str, ...] = ("http://localhost:2380",)
    initial_cluster: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (name, peer URLs) of all founders; () = this member alone
    listed_name: str = ""  # of this member in that list, "" = `name`: founders who do not know each other's names must list the same ones
    client_urls: tuple[str, ...] = ("http://localhost:2379",)
    cluster_version: str = "3.7.0"
    cluster_state: ClusterState = "any"
    keeps_peer_urls: bool = False  # `raftsched etcd`: a member with data is reached where its cluster has it, whatever `peer_urls` says

    quota_bytes: int = 2 << 30  # space bound of the data; 0 = 2 GiB, < 0 = none
    map_bytes: int = limits.BACKEND_MAP_BYTES
    compaction_mode: Literal["periodic", "revision"] = "periodic"
    compaction_retention: int = 0  # ms in periodic mode, revisions in revision mode; 0 = off
    history_bound: bool = True  # `serve`: limits.SUPERSEDED_RECORDS_MAX; a store alone keeps what it is told to
    snapshot_count: int = 10_000
    max_wals: int = 10  # 0 = all
    max_snapshots: int = 10
    catch_up_entries: int | None = None  # a member further behind gets a snapshot, and so many stay in the log; None = `max_wals` says it
    compaction_records: int = 0  # dropped in one slice of a compaction's work; 0 = as many as a slice of time takes
    compaction_pause_ms: int = 1  # between two slices
    batch_interval_ms: int = 100
    batch_limit: int = 10_000
    txn_ops_max: int = 10_000
    request_bytes_max: int = limits.MESSAGE_BYTES_MAX
    wal_segment_bytes: int = limits.WAL_SEGMENT_BYTES

    heartbeat_ms: int = 50
    election_ms_min: int = 500
    election_ms_max: int = 700
    election_retry_ms_max: int = 150
    election_tick_advance: bool = False  # after a start a member of several waits for a leader only a moment
    request_timeout_ms: int = limits.REQUEST_TIMEOUT_MS
    strict_reconfig_check: bool = True
    learners_max: int = 1
    force_new_cluster: bool = False  # the others are lost for good: this member goes on alone
    form_wait_ms: int | None = 3_000  # a majority of the listed members is enough after it; None = all are needed
    lease_ttl_s_min: int = limits.LEASE_TTL_S_MIN
    auth_token_ttl_s: int = limits.AUTH_TOKEN_TTL_S  # of simple tokens; 0 = the default, as in etcd
    bcrypt_cost: int = limits.BCRYPT_COST
    slow_apply_ms: int = 100  # an apply that takes longer is told; etcd's warning

    initial_corrupt_check: bool = False  # before it serves, a member compares its data with the others'
    corrupt_check_ms: int = 0  # the leader compares all members' data so often; 0 = never
    compact_hash_check: bool = False  # the leader compares the hashes that all have kept of their compactions ...
    compact_hash_check_ms: int = 60_000  # ... so often

    def __post_init__(self) -> None:
        if not self.data_dir:
            raise ConfigError("the data directory is empty")
        if not self.peer_urls or not self.client_urls:
            raise ConfigError("at least one peer URL and one client URL are needed")
        if not 3 * self.heartbeat_ms < self.election_ms_min < self.election_ms_max:
            raise ConfigError("3 x heartbeat < shortest election timeout < longest is needed")
        for what in (
            "snapshot_count",
            "batch_interval_ms",
            "batch_limit",
            "txn_ops_max",
            "request_bytes_max",
            "heartbeat_ms",
            "compact_hash_check_ms",
        ):
            if getattr(self, what) <= 0:
                raise ConfigError(f"{what.replace('_', ' ')} must be positive")
        if not limits.BCRYPT_COST_MIN <= self.bcrypt_cost <= limits.BCRYPT_COST_MAX:
            raise ConfigError("bcrypt cost must be one of bcrypt's")
        for what in ("compaction_retention", "max_wals", "max_snapshots", "corrupt_check_ms", "compaction_records", "compaction_pause_ms"):
            if getattr(self, what) < 0:
                raise ConfigError(f"{what.replace('_', ' ')} must not be negative")

    @property
    def features(self) -> dict[tuple[str, str], bool]:
        """etcd's feature gates, (name, stage) -> whether on, as far as they mean something here; most can only be one way."""
        return {
            ("AllAlpha", "ALPHA"): False,
            ("AllBeta", "BETA"): False,
            ("CompactHashCheck", "ALPHA"): self.compact_hash_check,
            ("FastLeaseKeepAlive", "BETA"): True,  # a keep-alive never waits for the applied index
            ("InitialCorruptCheck", "ALPHA"): self.initial_corrupt_check,
            ("LeaseCheckpoint", "ALPHA"): False,  # a new leader gives each lease its whole time again
            ("LeaseCheckpointPersist", "ALPHA"): False,
            ("PriorityRequest", "ALPHA"): False,
            ("SetMemberLocalAddr", "ALPHA"): False,
            ("StopGRPCServiceOnDefrag", "ALPHA"): False,  # a defragmentation stops nobody
        }

    @property
    def listed(self) -> dict[str, tuple[str, ...]]:
        """The initial cluster, this member included."""
        return dict(self.initial_cluster) or {self.founder: self.peer_urls}

    @property
    def founder(self) -> str:
        """The name of this member in `listed`."""
        return self.listed_name or self.name

    @property
    def election_ticks(self) -> tuple[int, int]:
        """Shortest and longest election timeout in heartbeats."""
        low = max(self.election_ms_min // self.heartbeat_ms, 2)
        return low, max(self.election_ms_max // self.heartbeat_ms, low)

    @property
    def quiet_heartbeat_ticks(self) -> int:
        """Intervals between two heartbeats of a leader with nothing to do: two, where some of these may be lost before anybody campaigns or
        lent time (`store/fence.py`) runs out; else one."""
        in_timeout, in_window = self.election_ticks[0] // 2, limits.FENCE_WINDOW_MS // (2 * self.heartbeat_ms)
        return 2 if in_timeout >= QUIET_IN_TIMEOUT_MIN and in_window >= QUIET_IN_WINDOW_MIN else 1

    @property
    def ticks_ahead(self) -> int:
        """Ticks that a start lets pass at once; what is left is chance's part of the timeout, so that members still do not ask in step."""
        return self.election_ticks[0] - 1 if self.election_tick_advance else 0
