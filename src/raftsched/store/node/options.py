"""What a node is told at its start, validated once; and the clock port.

Must not know: flags and files (the server builds this from its own configuration).
"""

import time
from dataclasses import dataclass
from typing import Literal, Protocol

from raftsched import limits
from raftsched.errors import ConfigError


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


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """Configuration of one member. Defaults are those of `raftsched serve` where it differs from etcd's."""

    data_dir: str
    instance: str | None = None  # `<NAMESPACE>-<id>`; None: the directory is this member's own
    name: str = "default"
    cluster_token: str = "etcd-cluster"
    peer_urls: tuple[str, ...] = ("http://localhost:2380",)
    initial_cluster: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (name, peer URLs) of all founders; () = this member alone
    client_urls: tuple[str, ...] = ("http://localhost:2379",)
    cluster_version: str = "3.7.0"

    quota_bytes: int = 2 << 30  # space bound of the data; 0 = 2 GiB, < 0 = none
    map_bytes: int = limits.BACKEND_MAP_BYTES
    compaction_mode: Literal["periodic", "revision"] = "periodic"
    compaction_retention: int = 0  # ms in periodic mode, revisions in revision mode; 0 = off
    history_bound: bool = True  # `serve`: limits.SUPERSEDED_RECORDS_MAX; a store alone keeps what it is told to
    snapshot_count: int = 10_000
    max_wals: int = 10  # 0 = all
    max_snapshots: int = 10
    batch_interval_ms: int = 100
    batch_limit: int = 10_000
    txn_ops_max: int = 10_000
    request_bytes_max: int = limits.MESSAGE_BYTES_MAX
    wal_segment_bytes: int = limits.WAL_SEGMENT_BYTES

    heartbeat_ms: int = 50
    election_ms_min: int = 500
    election_ms_max: int = 700
    election_retry_ms_max: int = 150
    request_timeout_ms: int = limits.REQUEST_TIMEOUT_MS
    strict_reconfig_check: bool = True
    learners_max: int = 1
    force_new_cluster: bool = False  # the others are lost for good: this member goes on alone
    form_wait_ms: int | None = 3_000  # a majority of the listed members is enough after it; None = all are needed
    lease_ttl_s_min: int = limits.LEASE_TTL_S_MIN
    auth_token_ttl_s: int = limits.AUTH_TOKEN_TTL_S  # of simple tokens; 0 = the default, as in etcd
    bcrypt_cost: int = limits.BCRYPT_COST

    def __post_init__(self) -> None:
        if not self.data_dir:
            raise ConfigError("the data directory is empty")
        if not self.peer_urls or not self.client_urls:
            raise ConfigError("at least one peer URL and one client URL are needed")
        if not 3 * self.heartbeat_ms < self.election_ms_min < self.election_ms_max:
            raise ConfigError("3 x heartbeat < shortest election timeout < longest is needed")
        for what in ("snapshot_count", "batch_interval_ms", "batch_limit", "txn_ops_max", "request_bytes_max", "heartbeat_ms"):
            if getattr(self, what) <= 0:
                raise ConfigError(f"{what.replace('_', ' ')} must be positive")
        if not limits.BCRYPT_COST_MIN <= self.bcrypt_cost <= limits.BCRYPT_COST_MAX:
            raise ConfigError("bcrypt cost must be one of bcrypt's")
        for what in ("compaction_retention", "max_wals", "max_snapshots"):
            if getattr(self, what) < 0:
                raise ConfigError(f"{what.replace('_', ' ')} must not be negative")

    @property
    def listed(self) -> dict[str, tuple[str, ...]]:
        """The initial cluster, this member included."""
        return dict(self.initial_cluster) or {self.name: self.peer_urls}

    @property
    def election_ticks(self) -> tuple[int, int]:
        """Shortest and longest election timeout in heartbeats."""
        low = max(self.election_ms_min // self.heartbeat_ms, 2)
        return low, max(self.election_ms_max // self.heartbeat_ms, low)
