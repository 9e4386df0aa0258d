"""The process of `raftsched etcd`: our store alone, as etcd runs: one start, etcd's log lines, its signals and exit codes (etcd-api.md §8).

What fails ends the process, as etcd's does; only an installed snapshot begins a new incarnation in the same process.
Must not know: where an option came from.
"""

import asyncio
import os
import platform
import signal
import socket
import traceback
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from raftsched import limits
from raftsched.config.etcd.bootstrap import Cluster
from raftsched.config.etcd.options import EtcdConfig
from raftsched.config.etcd.urls import Url
from raftsched.errors import FatalError, IncarnationOverError
from raftsched.process import LoopComplaints, settle_garbage
from raftsched.store.backend.directory import ETCD_NAME
from raftsched.store.node import NodeOptions
from raftsched.store.node.leaving import LEFT_LINE, REMOVED_LINE
from raftsched.store.node.versions import cluster_version
from raftsched.store_server import ETCD_VERSION, EXPECTED, Instance, StorePlan, StoreServer
from raftsched.units import NS_PER_MS, format_duration

if TYPE_CHECKING:
    from raftsched.log import Logger, Logs
    from raftsched.store.node import Node

VOTE_WAIT_S: Final = 5.0
"""A member that joins comes as a learner and is promoted at once: clients are told that it is ready afterwards."""
LOOK_S: Final = 0.02
SECURE_LINE: Final = "serving client traffic securely"
INSECURE_LINE: Final = "serving client traffic insecurely; this is strongly discouraged!"
MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
SIGNAL_NAMES: Final = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupt"}
REQUEST_BASE_MS: Final = 5_000
"""etcd: for queues and disks; two election timeouts come on top."""


def machine() -> str:
    """As Go calls it."""
    return MACHINES.get(platform.machine(), platform.machine())


def texts(urls: tuple[Url, ...]) -> list[str]:
    return [str(url) for url in urls]


def wal_directory(config: EtcdConfig) -> Path:
    return Path(config.wal_dir) if config.wal_dir else Path(config.data_dir) / ETCD_NAME / "wal"


def is_initialized(config: EtcdConfig) -> bool:
    """Whether a log is there: then the flags about a new cluster are ignored."""
    return any(wal_directory(config).glob("*.wal"))


def listed(config: EtcdConfig, cluster: Cluster) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The founders. SRV records tell no names, and each founder numbers the others in its own way: there the places are the names."""
    return tuple((_place(urls) if config.discovery_srv else name, tuple(sorted(texts(urls)))) for name, urls in cluster.items())


def _place(urls: tuple[Url, ...]) -> str:
    return min(url.netloc for url in urls)


def node_options(config: EtcdConfig, cluster: Cluster | None) -> NodeOptions:
    """`cluster`: the founders; None = there are data."""
    heartbeat_ms = config.heartbeat_interval
    ticks = config.election_timeout // heartbeat_ms
    election_ms = ticks * heartbeat_ms  # etcd counts ticks, too
    own = texts(config.initial_advertise_peer_urls) if cluster is None else texts(cluster[config.name])
    return NodeOptions(
        data_dir=config.data_dir,
        directory_name=ETCD_NAME,
        wal_dir=config.wal_dir,
        name=config.name,
        cluster_token=config.initial_cluster_token,
        peer_urls=tuple(sorted(own)),
        initial_cluster=() if cluster is None else listed(config, cluster),
        listed_name=_place(cluster[config.name]) if cluster is not None and config.discovery_srv else "",
        client_urls=tuple(texts(config.advertise_client_urls)),
        cluster_version=cluster_version(ETCD_VERSION),
        cluster_state="existing" if config.initial_cluster_state == "existing" else "new",
        keeps_peer_urls=True,
        quota_bytes=config.quota_backend_bytes,
        compaction_mode="revision" if config.auto_compaction_mode == "revision" else "periodic",
        compaction_retention=config.auto_compaction_retention,
        history_bound=False,
        snapshot_count=config.snapshot_count,
        max_wals=config.max_wals,
        max_snapshots=config.max_snapshots,
        catch_up_entries=config.catch_up_entries,
        compaction_records=config.compaction_records,
        compaction_pause_ms=config.compaction_pause_ms,
        batch_interval_ms=config.batch_interval_ms,
        batch_limit=config.batch_limit,
        txn_ops_max=config.max_txn_ops,
        request_bytes_max=config.max_request_bytes,
        heartbeat_ms=heartbeat_ms,
        election_ms_min=election_ms,
        election_ms_max=2 * election_ms,
        request_timeout_ms=REQUEST_BASE_MS + 2 * election_ms,
        strict_reconfig_check=config.strict_reconfig_check,
        learners_max=config.max_learners,
        force_new_cluster=config.force_new_cluster and cluster is None,
        lease_ttl_s_min=-(-(3 * ticks // 2 * heartbeat_ms) // 1000),
        slow_apply_ms=config.warning_apply_ms,
        auth_token_ttl_s=config.auth_token_ttl_s,
        bcrypt_cost=config.bcrypt_cost,
        initial_corrupt_check=config.initial_corrupt_check,
        corrupt_check_ms=config.corrupt_check_ms,
        compact_hash_check=config.compact_hash_check,
        compact_hash_check_ms=config.compact_hash_check_ms,
    )


def store_plan(config: EtcdConfig, cluster: Cluster | None) -> StorePlan:
    return StorePlan(
        node=node_options(config, cluster),
        peer_listen=[url.host_port for url in config.listen_peer_urls],
        peer_listen_flag="--listen-peer-urls",
        peer_tls=config.peer_tls,
        client_listeners=config.client_listeners,
        metrics_listeners=config.metrics_listeners,
        client_tls=config.client_tls,
        client_cert_auth=config.client_cert_auth,
        fixtures=Path(config.data_dir) / "fixtures",
        cors=config.cors,
        hosts=config.host_whitelist,
        gateway=config.enable_grpc_gateway,
        defrag_threshold_bytes=config.etcd_bootstrap_defrag_threshold_bytes,
        extensive_metrics=config.etcd_metrics == "extensive",
        auth_token=config.auth_token,
        request_bytes_max=config.max_request_bytes,
        message_bytes_max=min(config.max_request_bytes + limits.GRPC_OVERHEAD_BYTES, limits.MESSAGE_BYTES_MAX),
        progress_interval_ms=config.watch_progress_interval_ms,
        ping_interval_min_ms=config.keepalive_min_ms,
        ping_idle_ms=config.keepalive_interval_ms,
        ping_timeout_ms=config.keepalive_timeout_ms,
        streams_max=config.max_concurrent_streams,
        reuse_port=config.socket_reuse_port,
    )


class EtcdServer(StoreServer):
    """One incarnation."""

    def __init__(self, config: EtcdConfig, cluster: Cluster | None, logs: "Logs", metrics: Instance) -> None:
        super().__init__(store_plan(config, cluster), logs, metrics)
        self._config = config
        self._log = logs.engine("")

    async def start(self) -> None:
        """Raises what the parts raise; `stop` cleans up in every case."""
        node = await self.start_store()
        for url in self._config.listen_metrics_urls:
            self._log.info("serving metrics", address=str(url))
        if self._plan.node.initial_cluster:
            await self._until_it_votes(node)
        config = self._config
        self._log.info(
            "now serving peer/client/metrics",
            **{
                "local-member-id": f"{node.member_id:x}",
                "initial-advertise-peer-urls": texts(config.initial_advertise_peer_urls),
                "listen-peer-urls": texts(config.listen_peer_urls),
                "advertise-client-urls": texts(config.advertise_client_urls),
                "listen-client-urls": texts(config.listen_client_urls),
                "listen-metrics-urls": texts(config.listen_metrics_urls),
            },
        )
        self._health.set_serving(True)
        self._listening = True
        traffic = "grpc" if config.listen_client_http_urls else "grpc+http"
        for url, kind in (
            *((url, traffic) for url in config.listen_client_urls),
            *((url, "http") for url in config.listen_client_http_urls),
        ):
            self._log.info("ready to serve client requests")
            address = url.socket_path if url.is_socket else url.netloc
            self._log.info(SECURE_LINE if url.is_secure else INSECURE_LINE, traffic=kind, address=address)

    async def _until_it_votes(self, node: "Node") -> None:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + VOTE_WAIT_S
        while node.is_learner and not node.stays_learner and loop.time() < end_s and not self.failed.done():
            await asyncio.sleep(LOOK_S)


class Process:
    """From the first line to the exit code."""

    def __init__(self, config: EtcdConfig, cluster: Cluster | None, logs: "Logs", environ: Mapping[str, str]) -> None:
        self._config, self._cluster, self._logs, self._environ = config, cluster, logs, environ
        self._log: Logger = logs.engine("")
        self._stopping = asyncio.Event()
        self._signal = 0
        self._metrics = Instance()

    async def run(self) -> int:
        """0 or 1, or the negative number of the signal by which the process is to end."""
        loop = asyncio.get_running_loop()
        for number in SIGNAL_NAMES:
            loop.add_signal_handler(number, self._on_signal, number)
        told: dict[str, object] = {
            "name": self._config.name,
            "data-dir": self._config.data_dir,
            "advertise-peer-urls": texts(self._config.initial_advertise_peer_urls),
            "advertise-client-urls": texts(self._config.advertise_client_urls),
        }
        while True:
            failure = await self._one_incarnation(told)
            if self._stopping.is_set():
                return -self._signal
            if not isinstance(failure, IncarnationOverError):
                return self._end(failure)
            self._log.info("the member begins anew", reason=str(failure))
            self._cluster = None
            self._metrics.renew()

    async def _one_incarnation(self, told: Mapping[str, Any]) -> Exception:
        """Runs until the stop is asked for or something fails; what failed."""
        server = EtcdServer(self._config, self._cluster, self._logs, self._metrics)
        try:
            await self._until_stop(server.start())
            if not self._stopping.is_set():
                self._notify_ready()
                await self._until_stop(server.failed)
        except Exception as error:  # whatever it is, it ends this incarnation, and is told
            if not isinstance(error, EXPECTED):
                self._log.error("unexpected failure", error=repr(error), stacktrace=traceback.format_exc())
            return error
        finally:
            self._log.info("closing etcd server", **told)
            await server.stop()
            self._log.info("closed etcd server", **told)
        if self._stopping.is_set() or not server.failed.done():
            return FatalError("stopped")
        line = server.failed.result()
        return IncarnationOverError(line) if server.anew else FatalError(line)

    async def _until_stop(self, work: asyncio.Future[str] | Coroutine[object, object, None]) -> None:
        """`work`, given up as soon as the stop is asked for. Raises what it raises."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            task.result()
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def _end(self, failure: Exception) -> int:
        """A member that is none any more ends as etcd's does: with 0, for a restart mends nothing."""
        if str(failure) in {REMOVED_LINE, LEFT_LINE}:
            self._log.warning("server error", error="the member has been permanently removed from the cluster")
            self._log.warning("data-dir used by this member must be removed")
            return 0
        self._log.fatal("the member cannot go on", error=str(failure))
        return 1

    def _on_signal(self, number: signal.Signals) -> None:
        """A second one changes nothing, as in etcd: a stop is bounded."""
        if not self._stopping.is_set():
            self._log.info("received signal; shutting down", signal=SIGNAL_NAMES[number])
            self._signal = number
            self._stopping.set()

    def _notify_ready(self) -> None:
        """systemd's READY=1."""
        path = self._environ.get("NOTIFY_SOCKET", "")
        self._log.info("notifying init daemon")
        try:
            if path:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
                    notifier.sendto(b"READY=1", "\0" + path[1:] if path.startswith("@") else path)
        except OSError as error:
            self._log.error("failed to notify systemd for readiness", error=error.strerror or str(error))
            return
        self._log.info("successfully notified init daemon")


def tell_start(config: EtcdConfig, cluster: Cluster | None, log: "Logger") -> None:
    """etcd's lines before it listens."""
    log.info("configuring peer listeners", **{"listen-peer-urls": texts(config.listen_peer_urls)})
    log.info("configuring client listeners", **{"listen-client-urls": texts(config.listen_client_urls)})
    fields: dict[str, object] = {
        "etcd-version": ".".join(map(str, ETCD_VERSION)),
        "git-sha": "raftsched",
        "go-version": "none",
        "go-os": "linux",
        "go-arch": machine(),
        "max-cpu-available": os.cpu_count(),
        "member-initialized": cluster is None,
        "name": config.name,
        "data-dir": config.data_dir,
        "wal-dir": config.wal_dir,
        "member-dir": str(Path(config.data_dir) / ETCD_NAME),
        "force-new-cluster": config.force_new_cluster,
        "heartbeat-interval": format_duration(config.heartbeat_interval * NS_PER_MS),
        "election-timeout": format_duration(config.election_timeout * NS_PER_MS),
        "snapshot-count": config.snapshot_count,
        "max-wals": config.max_wals,
        "initial-advertise-peer-urls": texts(config.initial_advertise_peer_urls),
        "advertise-client-urls": texts(config.advertise_client_urls),
        "initial-cluster": config.initial_cluster if cluster is not None else "",
        "initial-cluster-state": config.initial_cluster_state,
        "initial-cluster-token": config.initial_cluster_token if cluster is not None else "",
        "quota-backend-bytes": config.quota_backend_bytes or 2 << 30,
        "max-request-bytes": config.max_request_bytes,
        "auto-compaction-mode": config.auto_compaction_mode,
    }
    log.info("starting an etcd server", **fields)


def run(config: EtcdConfig, cluster: Cluster | None, logs: "Logs", environ: Mapping[str, str]) -> int:
    """Serves until a signal; see `Process.run`. Raises ConfigError."""
    settle_garbage()
    tell_start(config, cluster, logs.engine(""))

    async def main() -> int:
        asyncio.get_running_loop().set_exception_handler(LoopComplaints(logs.engine("server")))
        return await Process(config, cluster, logs, environ).run()

    return asyncio.run(main())
