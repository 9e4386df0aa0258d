"""One incarnation of the store with its doors, which is all that `raftsched etcd` has (standalone.py); `Server` of server.py adds the
scheduler.

Builds the real adapters of the store's tower and joins them. Must not know: the scheduler, where an option came from.
"""

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from raftsched import limits
from raftsched.config.auth import SIMPLE, AuthToken
from raftsched.config.listening import ClientListener
from raftsched.config.tls import TlsOptions
from raftsched.errors import ConfigError, EtcdError, FatalError, IncarnationOverError, NoSpaceError, StatusError, status_of
from raftsched.ports import TokenSigner
from raftsched.process import connections_max, raise_descriptor_limit
from raftsched.rpc.counted import CountedMethods
from raftsched.rpc.etcd.services import SERVICES, EtcdServices
from raftsched.rpc.gateway.front import Front
from raftsched.rpc.gateway.gateway import Gateway
from raftsched.rpc.health import HEALTH, HealthService, add_reflection
from raftsched.rpc.http import HttpEndpoints
from raftsched.rpc.http2._h2 import Engine
from raftsched.rpc.listeners import Listeners, address_text, cannot_listen
from raftsched.rpc.metrics import Family, Metrics
from raftsched.rpc.unread import UnreadLog
from raftsched.security.guard import ListenerGuard
from raftsched.store.backend.directory import DirectoryInUseError
from raftsched.store.node import Node, NodeOptions
from raftsched.store.node.reclaiming import keep_small
from raftsched.store.transport.peers import Peers
from raftsched.store.transport.ports import PeerHandler
from raftsched.store.transport.tls import PeerSecurity
from raftsched.tls_files import client_guard, peer_files
from raftsched.types import Identity

if TYPE_CHECKING:
    from raftsched.log import Logs

PROGRESS_JITTER: Final = 0.1
ETCD_VERSION: Final = (3, 7, 1)
EXPECTED: Final = (OSError, DirectoryInUseError, NoSpaceError, FatalError, ConfigError, TimeoutError, IncarnationOverError)
"""What may end an incarnation; anything else is a fault of ours, told with its trace on the engine's stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePlan:
    """What the two commands tell the store's part; defaults are those of `raftsched serve`."""

    node: NodeOptions
    peer_listen: Sequence[tuple[str, int]]
    """(host, port) of at least one listener; "" = all interfaces."""
    peer_listen_flag: str = "--peer-listen-address"
    peer_tls: TlsOptions | None
    peer_security: PeerSecurity | None = None
    """Instead of files."""
    client_listeners: Sequence[ClientListener]
    client_listen_flag: str = "--listen-client-urls"
    metrics_listeners: Sequence[ClientListener] = ()
    """Further ones for metrics and health alone."""
    client_tls: TlsOptions | None
    """None = nothing listens with TLS."""
    client_cert_auth: bool
    """The common name of a client's certificate is its user."""
    fixtures: Path
    """Where certificates of our own making are kept."""
    cors: Sequence[str]
    hosts: Sequence[str]
    gateway: bool = True
    defrag_threshold_bytes: int
    """So much free space in the file is given back at the start; 0 = off."""
    reclaims: bool = False
    """Also while it runs (`store/node/reclaiming.py`)."""
    extensive_metrics: bool
    auth_token: AuthToken
    request_bytes_max: int = limits.MESSAGE_BYTES_MAX
    message_bytes_max: int = limits.MESSAGE_BYTES_MAX
    progress_interval_ms: int = limits.WATCH_PROGRESS_INTERVAL_MS
    ping_interval_min_ms: int = 5_000
    ping_idle_ms: int = 0
    """After so long without a word the server pings; 0 = never."""
    ping_timeout_ms: int = 20_000
    streams_max: int = limits.STREAMS_MAX
    """Open streams of one connection of a client; 0 = no limit."""
    reuse_port: bool = False
    """Others may listen at the same addresses."""


class StoreServer:
    """Opened by `start_store`, closed by `stop`; `failed` is done when it cannot go on."""

    def __init__(self, plan: StorePlan, logs: "Logs", metrics: "Instance") -> None:
        self._plan = plan
        self._logs = logs
        self._metrics = metrics
        self._connections_max = connections_max(raise_descriptor_limit())
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.fatal = False
        self.anew = False
        self._listening = False
        self._node: Node | None = None
        self._reclaiming: asyncio.Task[None] | None = None
        self._etcd: EtcdServices | None = None
        self._health = HealthService()
        self._doors: list[Engine] = []
        self._guard: ListenerGuard | None = None
        self._listeners: list[Listeners] = []
        self._unread = UnreadLog(logs.engine("rpc"))

    async def start_store(self) -> Node:
        """The store, then its doors. Raises what the parts raise; `stop` cleans up in every case."""
        self._guard = self._make_guard(self_signed=False)  # a wrong file is told before others are waited for
        self._node = node = Node(
            self._plan.node,
            log=self._logs.engine("store"),
            on_fatal=self._on_fatal,
            network=self._make_peers,
            on_restart=self._on_restart,
        )
        await node.start()
        await self._reclaim_space(node)
        if self._plan.reclaims:
            self._reclaiming = asyncio.create_task(keep_small(node, self._logs.engine("store")))
        self._guard = self._guard or self._make_guard(self_signed=True)  # in the data directory, which is ours by now
        await self._open_client_ports(node)
        await self._open_metrics_ports(node)
        return node

    def _make_guard(self, *, self_signed: bool) -> ListenerGuard | None:
        """Of the listeners with TLS, if their certificate is such a one. ConfigError."""
        options, log = self._plan.client_tls, self._logs.engine("rpc")
        if options is None or bool(options.self_signed_years) is not self_signed:
            return None
        if not any(one.secure for one in (*self._plan.client_listeners, *self._plan.metrics_listeners)):
            log.warning("no URL is https or unixs: key and cert files are ignored")
            return None
        return client_guard(options, self._plan.fixtures, log)

    def _make_peers(self, handler: PeerHandler) -> "PeerNetwork":
        tls, log = self._plan.peer_tls, self._logs.engine("peers")
        host, port = self._plan.peer_listen[0]
        peers = PeerNetwork(
            listen_host=host,
            port=port,
            more=self._plan.peer_listen[1:],
            flag=self._plan.peer_listen_flag,
            reuse_port=self._plan.reuse_port,
            handler=handler,
            log=log,
            version=ETCD_VERSION,
            tls=self._plan.peer_security if tls is None else peer_files(tls, self._plan.fixtures, log),
        )
        self._metrics.current.add(lambda: (Family(*family) for family in peers.families()))
        return peers

    async def _reclaim_space(self, node: Node) -> None:
        """Defragments before anybody is served, if the threshold's worth of the file is free."""
        threshold_bytes = self._plan.defrag_threshold_bytes
        status = node.status()
        free_bytes = status.db_size - status.db_size_in_use
        if threshold_bytes and free_bytes >= threshold_bytes:
            try:
                await node.defragment()
            except StatusError as error:
                self._logs.engine("store").warning("space could not be reclaimed at boot", error=error.message)
                return
            self._logs.engine("store").info("reclaimed space at boot", freed_bytes=status.db_size - node.status().db_size)

    async def _open_client_ports(self, node: Node) -> None:
        door = self._client_door(node)
        services = self._etcd = self._serve_etcd(door, node)
        self._health.register(CountedMethods(door, services.stats))
        add_reflection(door, [*SERVICES, HEALTH])
        self._metrics.current.add(services.families)
        self._metrics.current.add(lambda: door_families(self._doors))
        listeners = await self._listen(door, self._plan.client_listeners, self._plan.client_listen_flag)
        self._metrics.current.add(listeners.families)

    def _client_door(self, node: Node) -> Engine:
        plan = self._plan
        front = Front(
            HttpEndpoints(node, self._metrics.current),
            cors=plan.cors,
            hosts=plan.hosts,
            names_users=lambda: plan.client_cert_auth and node.auth.store.enabled,
        )
        door = Engine(
            asyncio.get_running_loop(),
            message_bytes_max=plan.message_bytes_max,
            connections_max=self._connections_max,
            ping_interval_min_ms=plan.ping_interval_min_ms,
            server_ping_idle_ms=plan.ping_idle_ms,
            server_ping_timeout_ms=plan.ping_timeout_ms,
            streams_max=plan.streams_max,
            on_http=front,
            on_http_head=front.head,
            on_error=self._on_handler_error,
            on_unread=self._unread.closed,
        )
        front.gateway = Gateway(door) if plan.gateway else None
        self._doors.append(door)
        return door

    def _serve_etcd(self, door: Engine, node: Node) -> EtcdServices:
        chance = random.Random()
        return EtcdServices(
            door,
            node,
            request_bytes_max=self._plan.request_bytes_max,
            progress_interval_ms=lambda: self._plan.progress_interval_ms * (1 + PROGRESS_JITTER * chance.random()),
            extensive_metrics=self._plan.extensive_metrics,
            token_signer=token_signer(self._plan.auth_token),
            client_cert_auth=self._plan.client_cert_auth,
        )

    async def _open_metrics_ports(self, node: Node) -> None:
        """/metrics, /health, /livez and /readyz of the store beside the client port."""
        if not self._plan.metrics_listeners:
            return
        endpoints = HttpEndpoints(node, self._metrics.current, counted=False, metrics_only=True)
        door = Engine(asyncio.get_running_loop(), connections_max=self._connections_max, on_http=endpoints, on_error=self._on_handler_error)
        self._doors.append(door)
        await self._listen(door, self._plan.metrics_listeners, "--listen-metrics-urls")

    async def _listen(self, door: Engine, where: Sequence[ClientListener], flag: str) -> Listeners:
        """Raises OSError that names the address and the flag."""
        listeners = Listeners(door, where, self._guard, self._logs.engine("rpc"), reuse_port=self._plan.reuse_port)
        self._listeners.append(listeners)
        await listeners.open(flag)
        return listeners

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
        """Streams end and calls drain; the store is closed last."""
        self._listening = False
        self._health.set_serving(False)
        if self._reclaiming is not None:
            self._reclaiming.cancel()
        if self._etcd is not None:
            self._etcd.end_waiting()
        for door in self._doors:
            door.end_streams()  # a watch or a keep-alive goes on at another member; it would never end by itself
        drain_ms = limits.DRAIN_TIMEOUT_MS if self._reaches_majority else limits.DRAIN_ALONE_MS
        await asyncio.gather(*(door.drain(drain_ms) for door in self._doors))
        for listeners in self._listeners:
            listeners.close()
        if self._node is not None:
            await self._node.stop()

    @property
    def _reaches_majority(self) -> bool:
        return self._node is not None and self._node.reaches_majority


class PeerNetwork(Peers):
    """The real transport, whose complaints name address and flag."""

    def __init__(self, *, flag: str, **options: Any) -> None:
        super().__init__(**options)
        self._flag = flag

    async def listen(self, host: str, port: int) -> None:
        try:
            await super().listen(host, port)
        except OSError as error:
            raise cannot_listen(error, address_text(host, port), self._flag) from error


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
    yield Family("raftsched_door_unread_bytes", "gauge", "Answers that clients have not read yet.", (), {(): total("buffered_bytes")})
    text = "Connections closed because too many answers were not read, most of them there."
    yield Family("raftsched_door_unread_closed_total", "counter", text, (), {(): total("unread_total")})


def token_signer(token: AuthToken) -> TokenSigner | None:
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
