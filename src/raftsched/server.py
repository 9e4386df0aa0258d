"""The process of `raftsched serve`: the only place that knows both towers.

`Supervisor` is the process: healthz and metrics, signals, and one `Server` after another (spec/scheduler.md §2.5, D1). `Server` adds the
scheduler to the store with its doors (store_server.py). A failure that waiting can mend ends an incarnation and a new one is built; what
waiting cannot mend (`FatalError`, `ConfigError`) ends the process with one line and exit code 1.
"""

import asyncio
import os
import random
import signal
import sys
import traceback
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from raftsched import limits
from raftsched.errors import ConfigError, FatalError, GrpcCode, IncarnationOverError, StatusError
from raftsched.in_kubernetes import kubernetes
from raftsched.ports import KvClient
from raftsched.process import LoopComplaints, connections_max, raise_descriptor_limit, settle_garbage
from raftsched.rpc import readiness
from raftsched.rpc.health import HealthzServer
from raftsched.rpc.http import MetricsServer
from raftsched.rpc.http2._h2 import Engine, HttpRequest
from raftsched.rpc.listeners import address_text, cannot_listen
from raftsched.rpc.metrics import GrpcStats
from raftsched.scheduler.standstill import PARTS
from raftsched.securing import CUT_SHORT, Security
from raftsched.store.node import NodeOptions
from raftsched.store.node.leaving import LEFT_LINE
from raftsched.store.node.versions import cluster_version
from raftsched.store_server import ETCD_VERSION, EXPECTED, Instance, StorePlan, StoreServer

if TYPE_CHECKING:
    from raftsched.config import ServeConfig
    from raftsched.log import Logs
    from raftsched.rpc.http2._h2 import Guard
    from raftsched.rpc.jobs.api import JobsApi
    from raftsched.rpc.jobs.workers import WorkersApi
    from raftsched.rpc.scheduler.api import SchedulerApi
    from raftsched.scheduler.service import SchedulerService

RECREATE_DELAY_S_MIN: Final = 0.5
RECREATE_DELAY_S_MAX: Final = 10.0
ANEW_DELAY_S: Final = 0.05  # a new incarnation that is wanted, behind a snapshot: nothing has failed
SCHEDULER_PING_IDLE_MS: Final = 3_000  # Dapr's server pings an idle connection after 3 s ...
SCHEDULER_PING_TIMEOUT_MS: Final = 5_000  # ... and closes it when 5 s bring no answer
LOOK_S: Final = 0.1  # how often a stop looks whether there still is a majority
NS_PER_MS: Final = 1_000_000
NOT_SERVING: Final = "the server is being started"


class Server(StoreServer):
    """One incarnation of `raftsched serve`."""

    def __init__(self, config: "ServeConfig", logs: "Logs", metrics: "Instance", security: Security) -> None:
        super().__init__(replace(store_plan(config), peer_security=security.peers), logs, metrics)
        self._config = config
        self._security = security
        self._service: SchedulerService | None = None
        self._api: SchedulerApi | None = None
        self._jobs: JobsApi | None = None
        self._workers: WorkersApi | None = None

    @property
    def ready(self) -> bool:
        """Health does not wait for others (decision 0009); it is false while results cannot be stored here."""
        if self._node is None or self.failed.done():
            return False
        return (self._listening and self._service is not None and self._service.healthy) or self._node.awaits_others

    def stuck(self) -> Mapping[str, str]:
        """Why this replica does not deliver, by `standstill.PARTS`; empty = it does."""
        if self.failed.done():
            return {"server": self.failed.result()}
        if self._service is None or not self._listening:
            waits = self._node is not None and self._node.awaits_others
            return {"server": "it waits for other members" if waits else "it is being opened or closed"}
        return self._service.stuck()

    async def start(self) -> None:
        """Store first, then the doors, then the scheduler. Raises what the parts raise; `stop` cleans up in every case."""
        from raftsched.scheduler.bridge.embedded import EmbeddedKv

        address = self._address()
        node = await self.start_store()
        node.set_duties(await self._start_scheduler(EmbeddedKv(node), address))
        self._listening = True

    def _address(self) -> str:
        """That of the scheduler API, as others are told."""
        from raftsched.broadcast import broadcast_address

        config = self._config
        return broadcast_address(
            override=config.override_broadcast_host_port,
            listen_address=config.listen_address,
            port=config.port,
            environment={"DAPR_HOST_IP": config.host_ip or ""},
        )

    async def _start_scheduler(self, kv: KvClient, address: str) -> "SchedulerService":
        service = self._service = self._build_service(kv, address)
        await self._open_scheduler_port(service)
        await service.start()
        self._health.set_serving(True)
        return service

    def _build_service(self, kv: KvClient, address: str) -> "SchedulerService":
        from raftsched.scheduler.service import SchedulerService
        from raftsched.zones import zone_table

        chance = random.Random(os.urandom(32))  # a system call per job would be a tenth of its creation
        return SchedulerService(
            kv,
            scheduler_id=self._config.id,
            address=address,
            zone_source=zone_table,
            rng=lambda: chance.getrandbits(64),
            log=self._logs.service("dapr.scheduler"),
            engine_log=self._logs.engine("scheduler"),
            workers=self._config.workers,
        )

    async def _open_scheduler_port(self, service: "SchedulerService") -> None:
        from raftsched.rpc.jobs.api import JobsApi
        from raftsched.rpc.jobs.rest import JobsFront
        from raftsched.rpc.jobs.workers import WorkersApi
        from raftsched.rpc.scheduler.api import SchedulerApi

        loop, front = asyncio.get_running_loop(), JobsFront()
        door = Engine(
            loop,
            message_bytes_max=limits.MESSAGE_BYTES_MAX,
            connections_max=self._connections_max,
            server_ping_idle_ms=SCHEDULER_PING_IDLE_MS,
            server_ping_timeout_ms=SCHEDULER_PING_TIMEOUT_MS,
            on_http=front,
            on_error=self._on_handler_error,
            on_unread=self._unread.closed,
        )
        self._doors.append(door)
        stats = GrpcStats()
        log = self._logs.service("dapr.scheduler.server")
        self._api = SchedulerApi(service, door, log, stats, tls=self._security.checks_callers)
        self._jobs = JobsApi(service, door, self._api.access, stats)
        self._workers = WorkersApi(service, door, self._api.access, self._api.stats, log=log, grpc_stats=stats)
        front.serve(door)
        self._metrics.current.add(self._api.stats.families)
        self._metrics.current.add(self._jobs.families)
        self._metrics.current.add(self._security.families)
        await listen(door, self._config.listen_address, self._config.port, "--port", guard=self._security.guard)
        log.info(f"Running gRPC server on port {self._config.port}")

    async def remove_namespace(self, namespace: str) -> None:
        """All jobs, counters and dead letters of that very namespace. StatusError: not now."""
        from raftsched.scheduler.jobs.names import namespace_prefixes
        from raftsched.scheduler.jobs.requests import delete_letters_request, delete_prefix_request

        if self._service is None:
            raise StatusError(GrpcCode.UNAVAILABLE, NOT_SERVING)
        await self._service.ready.wait()
        for prefix in namespace_prefixes(namespace):
            await self._service.kv.txn(delete_prefix_request(prefix.encode()))
            try:
                await self._service.kv.txn(delete_letters_request(prefix.encode()))
            except StatusError as error:
                if error.code != GrpcCode.PERMISSION_DENIED:  # of an etcd that is not ours: who may not write there has none
                    raise

    async def stop(self) -> None:
        """Readiness first; the scheduler's streams and calls drain; the lease is revoked; the store is closed last."""
        self._listening = False
        self._health.set_serving(False)
        if self._etcd is not None:
            self._etcd.end_waiting()
        if self._api is not None:
            self._api.close_streams()
        if self._jobs is not None:
            self._jobs.close_streams()
        if self._workers is not None:
            self._workers.close_streams()
        if self._service is not None:
            await self._retire(self._service)
        await super().stop()

    async def _retire(self, service: "SchedulerService") -> None:
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


async def listen(door: Engine | HealthzServer, host: str, port: int, flag: str, *, guard: "Guard | None" = None) -> None:
    """Opens a port; OSError with a text that names the address and the flag, for asyncio's names neither."""
    try:
        await (door.listen(host, port, guard=guard) if isinstance(door, Engine) else door.listen(host, port))
    except OSError as error:
        raise cannot_listen(error, address_text(host, port), flag) from error


def store_plan(config: "ServeConfig") -> StorePlan:
    """What the configuration says of the store and its doors."""
    return StorePlan(
        node=node_options(config),
        peer_listen=((config.peer_listen_host, config.peer_listen_port),),
        peer_tls=config.peer_tls,
        client_listeners=config.client_listeners,
        client_listen_flag="--listen-client-urls" if config.listen_client_urls else "--etcd-client-port",
        metrics_listeners=config.metrics_listeners,
        client_tls=config.client_tls,
        client_cert_auth=config.client_cert_auth,
        fixtures=config.fixtures_directory,
        cors=config.cors,
        hosts=config.host_whitelist,
        defrag_threshold_bytes=config.etcd_bootstrap_defrag_threshold_bytes,
        reclaims=True,
        extensive_metrics=config.etcd_metrics == "extensive",
        auth_token=config.auth_token,
    )


def node_options(config: "ServeConfig") -> NodeOptions:
    """The store's part of the configuration."""
    periodic = config.etcd_compaction_mode == "periodic"
    return NodeOptions(
        data_dir=str(config.etcd_data_dir),
        instance=config.instance,
        name=config.id,
        peer_urls=(config.peer_url,),
        strict_reconfig_check=config.strict_reconfig_check,
        learners_max=config.max_learners,
        form_wait_ms=config.form_wait_ms,
        force_new_cluster=config.force_new_cluster,
        initial_cluster=tuple((one.name, (one.url,)) for one in config.initial_cluster),
        cluster_version=cluster_version(ETCD_VERSION),
        client_urls=config.advertise_client_urls,
        quota_bytes=config.etcd_space_quota_bytes,
        compaction_mode="periodic" if periodic else "revision",
        compaction_retention=config.etcd_compaction_retention // (NS_PER_MS if periodic else 1),
        snapshot_count=config.etcd_snapshot_count,
        max_wals=config.etcd_max_wals,
        max_snapshots=config.etcd_max_snapshots,
        batch_interval_ms=max(config.etcd_backend_batch_interval_ns // NS_PER_MS, 1),
        batch_limit=config.etcd_backend_batch_limit,
        txn_ops_max=config.etcd_max_txn_ops,
        election_tick_advance=config.etcd_initial_election_tick_advance,
        auth_token_ttl_s=config.auth_token_ttl_s,
        bcrypt_cost=config.bcrypt_cost,
    )


class Supervisor:
    """The process: starts what outlives an incarnation, and builds incarnations until it is told to stop."""

    def __init__(self, config: "ServeConfig", logs: "Logs", incarnation: type[Server] = Server) -> None:
        self._config = config
        self._logs = logs
        self._log = logs.service("dapr.scheduler")
        self._incarnation = incarnation
        self._server: Server | None = None
        self._instance = Instance()
        self._connections_max = connections_max(raise_descriptor_limit())
        self._stopping = asyncio.Event()
        self._signals = 0
        self._healthz: HealthzServer | None = None
        self._metrics_door: Engine | None = None
        self._security = Security(config, logs)
        self._namespaces = kubernetes(config, logs, self._remove_namespace)

    async def _remove_namespace(self, namespace: str) -> None:
        if self._server is None:
            raise StatusError(GrpcCode.UNAVAILABLE, NOT_SERVING)
        await self._server.remove_namespace(namespace)

    @property
    def _ready(self) -> bool:
        return self._server is not None and self._server.ready and (self._namespaces is None or self._namespaces.synced)

    def _stuck(self) -> Mapping[str, str]:
        """What /readyz says."""
        if self._server is None:
            return {"server": NOT_SERVING}
        found = dict(self._server.stuck())
        if self._namespaces is not None and not self._namespaces.synced:
            found["namespaces"] = "the namespaces of the Kubernetes API are not known yet"
        return found

    async def run(self) -> int:
        """The exit code."""
        self._catch_signals()
        delay_s = RECREATE_DELAY_S_MIN
        while not self._stopping.is_set():
            failure = await self._one_incarnation()
            if self._stopping.is_set() and (self._security.identified or not isinstance(failure, FatalError)):
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
        self._instance.current.add(lambda: readiness.families(self._stuck(), PARTS))
        server: Server | None = None
        try:
            await self._open_fixed()
            if self._namespaces is not None:
                self._namespaces.start()
            await self._until_stop(self._security.start())
            if self._stopping.is_set():
                return "" if self._security.identified else FatalError(CUT_SHORT)
            server = self._server = self._incarnation(self._config, self._logs, self._instance, self._security)
            await self._until_stop(server.start())
            if not self._stopping.is_set():
                await self._until_stop(server.failed)
        except Exception as error:  # whatever it is, it ends this incarnation, and is told
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
            healthz = HealthzServer(loop, lambda: self._ready, stuck=self._stuck, connections_max=self._connections_max)
            await listen(healthz, config.healthz_listen_address, config.healthz_port, "--healthz-port")
            self._healthz = healthz
        if self._metrics_door is None and config.enable_metrics:
            door = Engine(loop, connections_max=self._connections_max, on_http=self._serve_metrics)
            await listen(door, config.metrics_listen_address, config.metrics_port, "--metrics-port")
            self._metrics_door = door

    def _serve_metrics(self, request: HttpRequest) -> None:
        MetricsServer(self._instance.current)(request)

    async def _close_fixed(self) -> None:
        if self._namespaces is not None:
            await self._namespaces.close()
        await self._security.close()
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


def run(config: "ServeConfig", logs: "Logs", incarnation: type[Server] = Server) -> int:
    """Serves until a signal; the exit code. `incarnation`: whose store it is."""
    import raftsched.rpc.jobs.api  # these six before the loop runs, which an import would hold up
    import raftsched.rpc.jobs.workers
    import raftsched.rpc.scheduler.api
    import raftsched.scheduler.bridge.embedded
    import raftsched.scheduler.service
    import raftsched.zones  # noqa: F401  # for what the import does

    settle_garbage()

    async def main() -> int:
        asyncio.get_running_loop().set_exception_handler(LoopComplaints(logs.engine("server")))
        return await Supervisor(config, logs, incarnation).run()

    return asyncio.run(main())
