"""Builds the real adapters and joins the two towers: the only place that knows them all.

`Supervisor` is the process: healthz and metrics, signals, and one `Server` after another (spec/scheduler.md §2.5, D1). `Server` is one
incarnation: the store, the two doors, the scheduler. A failure that waiting can mend ends an incarnation and a new one is built;
what waiting cannot mend (`FatalError`, `ConfigError`) ends the process with one line and exit code 1.
"""

import asyncio
import gc
import os
import random
import signal
import sys
import traceback
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Final

from raftsched import limits
from raftsched.broadcast import broadcast_address
from raftsched.config.auth import SIMPLE
from raftsched.errors import ConfigError, EtcdError, FatalError, IncarnationOverError, NoSpaceError, StatusError, status_of
from raftsched.ports import TokenSigner
from raftsched.process import LoopComplaints, connections_max, raise_descriptor_limit
from raftsched.rpc.etcd.services import SERVICES, EtcdServices
from raftsched.rpc.health import HEALTH, HealthService, HealthzServer, add_reflection
from raftsched.rpc.http import HttpEndpoints, MetricsServer
from raftsched.rpc.http2._h2 import Engine, HttpRequest
from raftsched.rpc.metrics import Family, GrpcStats, Metrics
from raftsched.rpc.scheduler.api import SchedulerApi
from raftsched.scheduler.bridge.embedded import EmbeddedKv
from raftsched.scheduler.service import SchedulerService
from raftsched.store.backend.directory import DirectoryInUseError
from raftsched.store.node import Node, NodeOptions
from raftsched.store.node.leaving import LEFT_LINE
from raftsched.store.node.versions import cluster_version
from raftsched.store.transport.peers import Peers
from raftsched.store.transport.ports import PeerHandler
from raftsched.store.transport.tls import PeerTls as PeerFiles
from raftsched.types import Identity
from raftsched.zones import zone_table

if TYPE_CHECKING:
    from raftsched.config import ServeConfig
    from raftsched.config.auth import AuthToken
    from raftsched.log import Logs

RECREATE_DELAY_S_MIN: Final = 0.5
RECREATE_DELAY_S_MAX: Final = 10.0
ANEW_DELAY_S: Final = 0.05  # a new incarnation that is wanted, behind a snapshot: nothing has failed
SCHEDULER_PING_IDLE_MS: Final = 3_000  # Dapr's server pings an idle connection after 3 s ...
SCHEDULER_PING_TIMEOUT_MS: Final = 5_000  # ... and closes it when 5 s bring no answer
PROGRESS_JITTER: Final = 0.1
LOOK_S: Final = 0.1  # how often a stop looks whether there still is a majority
NS_PER_MS: Final = 1_000_000
ETCD_VERSION: Final = (3, 7, 1)
EXPECTED: Final = (OSError, DirectoryInUseError, NoSpaceError, FatalError, ConfigError, TimeoutError, IncarnationOverError)
"""What may end an incarnation; anything else is a fault of ours, told with its trace on the engine's stream."""


class Server:
    """One incarnation: opened by `start`, closed by `stop`; `failed` is done when it cannot go on."""

    def __init__(self, config: "ServeConfig", logs: "Logs", metrics: "Instance") -> None:
        self._config = config
        self._logs = logs
        self._metrics = metrics
        self._connections_max = connections_max(raise_descriptor_limit())
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.fatal = False
        self.anew = False
        self._listening = False
        self._node: Node | None = None
        self._service: SchedulerService | None = None
        self._api: SchedulerApi | None = None
        self._etcd: EtcdServices | None = None
        self._health = HealthService()
        self._doors: list[Engine] = []

    @property
    def ready(self) -> bool:
        """Health does not wait for others (decision 0009); it is false while results cannot be stored here."""
        if self._node is None or self.failed.done():
            return False
        return (self._listening and self._service is not None and self._service.healthy) or self._node.awaits_others

    async def start(self) -> None:
        """Store first, then the doors, then the scheduler. Raises what the parts raise; `stop` cleans up in every case."""
        config = self._config
        address = broadcast_address(
            override=config.override_broadcast_host_port,
            listen_address=config.listen_address,
            port=config.port,
            environment={"DAPR_HOST_IP": config.host_ip or ""},
        )
        self._node = Node(
            node_options(config),
            log=self._logs.engine("store"),
            on_fatal=self._on_fatal,
            network=self._make_peers,
            on_restart=self._on_restart,
        )
        await self._node.start()
        await self._reclaim_space(self._node)
        await self._open_client_port(self._node)
        self._service = self._build_service(self._node, address)
        await self._open_scheduler_port(self._service)
        await self._service.start()
        self._node.set_duties(self._service)
        self._health.set_serving(True)
        self._listening = True

    def _make_peers(self, handler: PeerHandler) -> "PeerNetwork":
        config = self._config
        tls = config.peer_tls
        peers = PeerNetwork(
            listen_host=config.peer_listen_host,
            port=config.peer_listen_port,
            handler=handler,
            log=self._logs.engine("peers"),
            version=ETCD_VERSION,
            tls=None if tls is None else PeerFiles(tls.cert_file, tls.key_file, tls.trusted_ca_file, tls.client_cert_auth),
        )
        self._metrics.current.add(lambda: (Family(*family) for family in peers.families()))
        return peers

    async def _reclaim_space(self, node: Node) -> None:
        """Defragments before anybody is served, if the threshold's worth of the file is free."""
        threshold_bytes = self._config.etcd_bootstrap_defrag_threshold_bytes
        status = node.status()
        free_bytes = status.db_size - status.db_size_in_use
        if threshold_bytes and free_bytes >= threshold_bytes:
            try:
                await node.defragment()
            except StatusError as error:
                self._logs.engine("store").warning("space could not be reclaimed at boot", error=error.message)
                return
            self._logs.engine("store").info("reclaimed space at boot", freed_bytes=status.db_size - node.status().db_size)

    def _build_service(self, node: Node, address: str) -> SchedulerService:
        chance = random.Random(os.urandom(32))  # a system call per job would be a tenth of its creation
        return SchedulerService(
            EmbeddedKv(node),
            scheduler_id=self._config.id,
            address=address,
            zone_source=zone_table,
            rng=lambda: chance.getrandbits(64),
            log=self._logs.service("dapr.scheduler"),
            engine_log=self._logs.engine("scheduler"),
            workers=self._config.workers,
        )

    async def _open_client_port(self, node: Node) -> None:
        loop = asyncio.get_running_loop()
        endpoints = HttpEndpoints(node, self._metrics.current)
        door = Engine(
            loop,
            message_bytes_max=limits.MESSAGE_BYTES_MAX,
            connections_max=self._connections_max,
            on_http=endpoints,
            on_error=self._on_handler_error,
        )
        self._doors.append(door)
        chance = random.Random()
        services = self._etcd = EtcdServices(
            door,
            node,
            request_bytes_max=limits.MESSAGE_BYTES_MAX,
            progress_interval_ms=lambda: limits.WATCH_PROGRESS_INTERVAL_MS * (1 + PROGRESS_JITTER * chance.random()),
            extensive_metrics=self._config.etcd_metrics == "extensive",
            token_signer=token_signer(self._config.auth_token),
        )
        self._health.register(door)
        add_reflection(door, [*SERVICES, HEALTH])
        self._metrics.current.add(services.families)
        self._metrics.current.add(lambda: door_families(self._doors))
        await listen(door, self._config.etcd_client_listen_address, self._config.etcd_client_port, "--etcd-client-port")

    async def _open_scheduler_port(self, service: SchedulerService) -> None:
        loop = asyncio.get_running_loop()
        door = Engine(
            loop,
            message_bytes_max=limits.MESSAGE_BYTES_MAX,
            connections_max=self._connections_max,
            server_ping_idle_ms=SCHEDULER_PING_IDLE_MS,
            server_ping_timeout_ms=SCHEDULER_PING_TIMEOUT_MS,
            on_error=self._on_handler_error,
        )
        self._doors.append(door)
        stats = GrpcStats()
        log = self._logs.service("dapr.scheduler.server")
        self._api = SchedulerApi(service, door, log, stats)
        self._metrics.current.add(self._api.stats.families)
        await listen(door, self._config.listen_address, self._config.port, "--port")
        log.info(f"Running gRPC server on port {self._config.port}")

    def _on_fatal(self, line: str) -> None:
        self.fatal = True
        if not self.failed.done():
            self.failed.set_result(line)

    def _on_restart(self, line: str) -> None:
        if not self.failed.done():
            self.anew = True
            self.failed.set_result(line)

    def _on_handler_error(self, where: str, error: BaseException) -> None:
        self._logs.engine("rpc").error("a handler failed", method=where, error=repr(error))

    async def stop(self) -> None:
        """Readiness first; the scheduler's streams and calls drain; the lease is revoked; the store is closed last."""
        self._listening = False
        self._health.set_serving(False)
        if self._etcd is not None:
            self._etcd.end_waiting()
        if self._api is not None:
            self._api.close_streams()
        if self._service is not None:
            await self._retire(self._service)
        for door in self._doors:
            door.end_streams()  # a watch or a keep-alive goes on at another member; it would never end by itself
        drain_ms = limits.DRAIN_TIMEOUT_MS if self._reaches_majority else limits.DRAIN_ALONE_MS
        await asyncio.gather(*(door.drain(drain_ms) for door in self._doors))
        if self._node is not None:
            await self._node.stop()

    @property
    def _reaches_majority(self) -> bool:
        return self._node is not None and self._node.reaches_majority

    async def _retire(self, service: SchedulerService) -> None:
        """The scheduler gives up what it owns, as far as there is a store to tell. All members may stop at once: the last ones have no
        majority any more, and wait a moment for one to come back, not for all of the time."""
        loop = asyncio.get_running_loop()
        work = asyncio.ensure_future(service.stop())
        began_s = reached_s = loop.time()
        while not work.done() and loop.time() < min(began_s + limits.DRAIN_TIMEOUT_MS / 1000, reached_s + limits.DRAIN_ALONE_MS / 1000):
            if self._reaches_majority:
                reached_s = loop.time()
            await asyncio.wait((work,), timeout=LOOK_S)
        if work.done():
            work.result()
            return
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        self._logs.engine("scheduler").warning("the leadership lease could not be revoked in time")


async def listen(door: Engine | HealthzServer, host: str, port: int, flag: str) -> None:
    """Opens a port; OSError with a text that names the address and the flag, for asyncio's names neither."""
    try:
        await door.listen(host, port)
    except OSError as error:
        raise cannot_listen(error, host, port, flag) from error


def cannot_listen(error: OSError, host: str, port: int, flag: str) -> OSError:
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
    return OSError(f"cannot listen on {f'[{host}]' if ':' in host else host}:{port} ({flag}): {reason}")


class PeerNetwork(Peers):
    """The real transport, whose complaints name address and flag."""

    async def start(self) -> None:
        host, port = self.listen_address
        try:
            await super().start()
        except OSError as error:
            raise cannot_listen(error, host, port, "--peer-listen-address") from error


class Instance:
    """The metrics of the present incarnation; the metrics port outlives it."""

    def __init__(self) -> None:
        self.current = Metrics()

    def renew(self) -> None:
        self.current = Metrics()


def door_families(doors: list[Engine]) -> Iterator[Family]:
    """Bytes that clients and this process exchanged on the gRPC ports, and what the doors refuse."""
    counters = [door.counters() for door in doors]

    def total(name: str) -> float:
        return float(sum(one.get(name, 0) for one in counters))

    yield Family(
        "etcd_network_client_grpc_received_bytes_total", "counter", "Bytes received from gRPC clients.", (), {(): total("bytes_in")}
    )
    yield Family("etcd_network_client_grpc_sent_bytes_total", "counter", "Bytes sent to gRPC clients.", (), {(): total("bytes_out")})
    yield Family("raftsched_door_connections", "gauge", "Open client connections.", (), {(): total("connections")})
    yield Family("raftsched_door_streams", "gauge", "Open HTTP/2 streams.", (), {(): total("streams")})
    yield Family("raftsched_door_floods_total", "counter", "Connections closed because they flooded.", (), {(): total("floods_total")})


def node_options(config: "ServeConfig") -> NodeOptions:
    """The store's part of the configuration."""
    host = config.etcd_client_listen_address or "localhost"
    periodic = config.etcd_compaction_mode == "periodic"
    return NodeOptions(
        data_dir=str(config.etcd_data_dir),
        instance=f"{config.namespace}-{config.id}",
        name=config.id,
        peer_urls=(config.peer_url,),
        strict_reconfig_check=config.strict_reconfig_check,
        learners_max=config.max_learners,
        form_wait_ms=config.form_wait_ms,
        force_new_cluster=config.force_new_cluster,
        initial_cluster=tuple((one.name, (one.url,)) for one in config.initial_cluster),
        cluster_version=cluster_version(ETCD_VERSION),
        client_urls=(f"http://{host}:{config.etcd_client_port}",),
        quota_bytes=config.etcd_space_quota_bytes,
        compaction_mode="periodic" if periodic else "revision",
        compaction_retention=config.etcd_compaction_retention // (NS_PER_MS if periodic else 1),
        snapshot_count=config.etcd_snapshot_count,
        max_wals=config.etcd_max_wals,
        max_snapshots=config.etcd_max_snapshots,
        batch_interval_ms=max(config.etcd_backend_batch_interval_ns // NS_PER_MS, 1),
        batch_limit=config.etcd_backend_batch_limit,
        txn_ops_max=config.etcd_max_txn_ops,
        auth_token_ttl_s=config.auth_token_ttl_s,
        bcrypt_cost=config.bcrypt_cost,
    )


def token_signer(token: "AuthToken") -> TokenSigner | None:
    """Of --auth-token; None = simple tokens. Raises ConfigError."""
    if token.kind == SIMPLE:
        return None
    if not token.kind:
        return NoTokens()
    from raftsched.security.jwt_tokens import JwtTokens  # a tenth of a second, for those who use them

    return JwtTokens(token.sign_method, public_key_file=token.public_key_file, private_key_file=token.private_key_file, ttl_ns=token.ttl_ns)


class NoTokens:
    """A `ports.TokenSigner` that knows and gives out none: --auth-token="", for clients with certificates alone."""

    def find(self, token: str) -> Identity | None:
        return None

    def sign(self, user: str, revision: int) -> str:
        raise status_of(EtcdError.AUTH_FAILED)


class Supervisor:
    """The process: starts what outlives an incarnation, and builds incarnations until it is told to stop."""

    def __init__(self, config: "ServeConfig", logs: "Logs") -> None:
        self._config = config
        self._logs = logs
        self._log = logs.service("dapr.scheduler")
        self._server: Server | None = None
        self._instance = Instance()
        self._connections_max = connections_max(raise_descriptor_limit())
        self._stopping = asyncio.Event()
        self._signals = 0
        self._healthz: HealthzServer | None = None
        self._metrics_door: Engine | None = None

    async def run(self) -> int:
        """The exit code."""
        self._catch_signals()
        delay_s = RECREATE_DELAY_S_MIN
        while not self._stopping.is_set():
            failure = await self._one_incarnation()
            if self._stopping.is_set():
                break
            if isinstance(failure, FatalError | ConfigError):
                await self._close_fixed()
                if str(failure) == LEFT_LINE:  # as asked: who starts it again on a failure alone must not make it join anew
                    self._log.info(f"Scheduler server ends: {failure}")
                    return 0
                self._logs.service().fatal(f"Fatal error running scheduler: {failure}")
                return 1
            if isinstance(failure, IncarnationOverError):
                self._log.info(f"Scheduler server begins anew: {failure}")
                await self._pause(ANEW_DELAY_S)
                continue
            delay_s = random.uniform(RECREATE_DELAY_S_MIN, min(RECREATE_DELAY_S_MAX, 3 * delay_s))
            self._log.error(f"Scheduler server failed, recreating in {delay_s:.3f}s: {failure}")
            await self._pause(delay_s)
        await self._close_fixed()
        self._log.info("Scheduler service shut down gracefully")
        return 0

    async def _one_incarnation(self) -> BaseException | str:
        """Runs until the stop is asked for or something fails; what failed."""
        self._instance.renew()
        server: Server | None = None
        try:
            await self._open_fixed()
            server = self._server = Server(self._config, self._logs, self._instance)
            await self._until_stop(server.start())
            if not self._stopping.is_set():
                await self._until_stop(server.failed)
        except Exception as error:
            if not isinstance(error, EXPECTED):
                self._logs.engine("server").error("unexpected failure", error=repr(error), trace=traceback.format_exc())
            return error
        finally:
            self._server = None  # /healthz says 503 from here on
            if server is not None:
                await server.stop()
        if not self._stopping.is_set() and server.failed.done():
            line = server.failed.result()
            return FatalError(line) if server.fatal else IncarnationOverError(line) if server.anew else line
        return ""

    async def _until_stop(self, work: asyncio.Future[str] | Coroutine[object, object, None]) -> None:
        """`work`, given up as soon as the stop is asked for."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return
        if not isinstance(work, asyncio.Future):
            task.result()

    async def _open_fixed(self) -> None:
        """healthz and metrics: they outlive incarnations; a busy port is tried again with the next one."""
        config, loop = self._config, asyncio.get_running_loop()
        if self._healthz is None:
            healthz = HealthzServer(loop, lambda: self._server is not None and self._server.ready, connections_max=self._connections_max)
            await listen(healthz, config.healthz_listen_address, config.healthz_port, "--healthz-port")
            self._healthz = healthz
        if self._metrics_door is None and config.enable_metrics:
            door = Engine(loop, connections_max=self._connections_max, on_http=self._serve_metrics)
            await listen(door, config.metrics_listen_address, config.metrics_port, "--metrics-port")
            self._metrics_door = door

    def _serve_metrics(self, request: HttpRequest) -> None:
        MetricsServer(self._instance.current)(request)

    async def _close_fixed(self) -> None:
        if self._healthz is not None:
            await self._healthz.close()
        if self._metrics_door is not None:
            await self._metrics_door.drain(100)

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)

    def _on_signal(self, number: signal.Signals) -> None:
        self._signals += 1
        if self._signals > 1:
            self._log.warning(f"second signal {number.name}: ending at once")
            sys.stdout.flush()
            os._exit(1)
        self._log.info(f"received {number.name}, shutting down")
        self._stopping.set()

    async def _pause(self, delay_s: float) -> None:
        try:
            async with asyncio.timeout(delay_s):
                await self._stopping.wait()
        except TimeoutError:
            return


def run(config: "ServeConfig", logs: "Logs") -> int:
    """Serves until a signal; the exit code."""
    # Collections of the oldest generation walk every object that start-up made: freeze them, and collect rarely.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)

    async def main() -> int:
        asyncio.get_running_loop().set_exception_handler(LoopComplaints(logs.engine("server")))
        return await Supervisor(config, logs).run()

    return asyncio.run(main())
