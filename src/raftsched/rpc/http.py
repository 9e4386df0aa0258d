"""HTTP/1.1 on the etcd client port beside gRPC (etcd-api §4.3): /health, /livez, /readyz, /version, /metrics,
/debug/vars; all else is 404. What stands before it is rpc/gateway/front.py.

`MetricsServer` answers every path with the metrics: the scheduler's port 9090 (scheduler §10.1).
Must not know: sockets, HTTP parsing (rpc/http2 does both).
"""

import asyncio
import json
import resource
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from raftsched.errors import StatusError, status_of
from raftsched.ports import StoreNode
from raftsched.rpc.etcd.version import SERVER_VERSION, storage_version
from raftsched.rpc.metrics import CONTENT_TYPE, Family, Metrics, single
from raftsched.rpc.targets import path_of, query_of

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import HttpRequest

Headers = Sequence[tuple[str, str]]
Answer = tuple[int, Headers, bytes]
Check = Callable[[], Awaitable[None]]

TEXT: Final = (("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff"))
JSON: Final = (("Content-Type", "application/json"),)
ALARM_NAMES: Final = {1: "NOSPACE", 2: "CORRUPT"}
NOT_FOUND: Final[Answer] = (404, TEXT, b"404 page not found\n")
WRONG_METHOD: Final[Answer] = (405, (("Allow", "GET"), *TEXT), b"Method Not Allowed\n")
HEALTH_KEY: Final = b"\x0a\x06health\x40\x01"  # RangeRequest{key: "health", keys_only: true}


class HealthError(Exception):
    """A check failed; the text is what the caller sees."""


class HttpEndpoints:
    """`Engine.on_http` of the client port."""

    def __init__(self, node: StoreNode, metrics: Metrics, *, counted: bool = True, metrics_only: bool = False) -> None:
        """`counted`: whether its health checks are among the metrics; of several for one node, one is. `metrics_only`: metrics and health,
        nothing else, as on etcd's --listen-metrics-urls."""
        self._metrics_only = metrics_only
        self._node = node
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()
        self._health_success = 0
        self._health_failures = 0
        self._checks: dict[tuple[str, str, str], int] = {}  # (type, name, status) -> count
        self._last: dict[tuple[str, str], int] = {}  # (type, name) -> 1 or 0
        self._pages: dict[str, Callable[[], Answer]] = {"/version": self._version, "/debug/vars": self._variables}
        self._probes: dict[str, dict[str, Check]] = {
            "livez": {"serializable_read": self._read_local},
            "readyz": {
                "data_corruption": self._not_corrupt,
                "serializable_read": self._read_local,
                "linearizable_read": self._read_linearizable,
                "non_learner": self._not_learner,
            },
        }
        if counted:
            metrics.add(self.families)

    def __call__(self, request: "HttpRequest") -> None:
        task = asyncio.get_running_loop().create_task(self._serve(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def families(self) -> Iterator[Family]:
        yield single("etcd_server_health_success", "counter", "The total number of successful health checks", self._health_success)
        yield single("etcd_server_health_failures", "counter", "The total number of failed health checks", self._health_failures)
        yield Family(
            "etcd_server_healthcheck", "gauge", "The result of each kind of healthcheck.", ("type", "name"), dict(self._last.items())
        )
        yield Family(
            "etcd_server_healthchecks_total",
            "counter",
            "The total number of each kind of healthcheck.",
            ("type", "name", "status"),
            dict(self._checks.items()),
        )

    async def answer(self, method: str, target: str) -> Answer:
        """What `method` on `target` gets."""
        path, query = path_of(target) or "", query_of(target)
        probe, slash, one = path.removeprefix("/").partition("/")
        if path in self._pages and not self._metrics_only:
            return self._pages[path]() if method == "GET" else WRONG_METHOD
        if path == "/metrics":
            return 200, (("Content-Type", CONTENT_TYPE),), self._metrics.render()
        if path == "/health":
            return await self._health(query) if method == "GET" else WRONG_METHOD
        if probe in self._probes and (not slash or one in self._probes[probe]):
            return await self._probe(probe, [one] if one else None, query) if method == "GET" else WRONG_METHOD
        return NOT_FOUND

    async def _serve(self, request: "HttpRequest") -> None:
        status, headers, body = await self.answer(request.method, request.target)
        request.respond(status, headers, body)

    def _version(self) -> Answer:
        cluster = self._node.cluster_version
        storage = storage_version(cluster) or "unknown"
        versions = {"etcdserver": SERVER_VERSION, "etcdcluster": cluster or "not_decided", "storage": storage}
        return 200, JSON, json.dumps(versions, separators=(",", ":")).encode()

    def _variables(self) -> Answer:
        """As Go's expvar: what it always has, and etcd's own."""
        status = self._node.status()
        variables = {
            "cmdline": [masked(one) for one in sys.argv],
            "file_descriptor_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "memstats": {"Sys": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024},
            "raft.status": {
                "id": f"{self._node.member_id:x}",
                "term": self._node.term,
                "commit": status.raft_index,
                "lead": f"{self._node.leader_id:x}",
                "applied": status.applied_index,
            },
        }
        lines = ",\n".join(f'"{name}": {json.dumps(value, separators=(",", ":"))}' for name, value in variables.items())
        return 200, (("Content-Type", "application/json; charset=utf-8"),), f"{{\n{lines}\n}}\n".encode()

    async def _health(self, query: dict[str, list[str]]) -> Answer:
        reason = await self._unhealthy(set(query.get("exclude", ())), local=query.get("serializable", [""])[0] == "true")
        body = json.dumps({"health": "false" if reason else "true", "reason": reason}, separators=(",", ":")).encode()
        if reason:
            self._health_failures += 1
            return 503, TEXT, body + b"\n"
        self._health_success += 1
        return 200, TEXT[:1], body

    async def _unhealthy(self, excluded: set[str], *, local: bool) -> str:
        for _, kind in self._node.alarms():
            name = ALARM_NAMES.get(kind, "UNKNOWN")
            if name not in excluded:
                return f"ALARM {name}"
        if not local and not self._node.leader_id:
            return "RAFT NO LEADER"
        try:
            await (self._read_local() if local else self._read_linearizable())
        except HealthError as error:
            return f"RANGE ERROR:{error}"
        return ""

    async def _probe(self, probe: str, names: list[str] | None, query: dict[str, list[str]]) -> Answer:
        excluded = () if names else query.get("exclude", ())
        lines, failed = [], False
        for name in names or [name for name in self._probes[probe] if name not in excluded]:
            try:
                await self._probes[probe][name]()
            except HealthError as error:
                failed = True
                lines.append(f"[-]{name} failed: {error}\n")
            else:
                lines.append(f"[+]{name} ok\n")
            status = "error" if lines[-1].startswith("[-]") else "success"
            self._last[probe, name] = int(status == "success")
            self._checks[probe, name, status] = self._checks.get((probe, name, status), 0) + 1
        if failed:
            return 503, TEXT, ("".join(lines) + "\n").encode()
        return 200, TEXT, ("".join(lines) if "verbose" in query else "").encode() + b"ok\n"

    async def _read_local(self) -> None:
        error, _, _ = self._node.read_local(HEALTH_KEY + b"\x38\x01")
        if error:
            raise HealthError(status_of(error).message)

    async def _read_linearizable(self) -> None:
        try:
            await self._node.read_barrier()  # which times out by itself
        except StatusError as error:
            raise HealthError(error.message) from error
        await self._read_local()

    async def _not_corrupt(self) -> None:
        if any(kind == 2 for _, kind in self._node.alarms()):
            raise HealthError("alarm activated: CORRUPT")

    async def _not_learner(self) -> None:
        if self._node.status().is_learner:
            raise HealthError("not supported for learner")


def masked(argument: str) -> str:
    """A word of the command line; what may be a secret is not shown."""
    name, equals, _ = argument.partition("=")
    return f"{name}=***" if equals and "password" in name else argument


class MetricsServer:
    """`Engine.on_http` of the metrics port: the metrics, whatever the path."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def __call__(self, request: "HttpRequest") -> None:
        request.respond(200, (("Content-Type", CONTENT_TYPE),), b"" if request.method == "HEAD" else self._metrics.render())
