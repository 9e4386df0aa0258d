"""Real sidecars before raftsched: daprd, the placement service, Sentry, and an app that speaks HTTP."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from real_sentry import RealSentry

from raftsched.testing.cluster import Cluster
from raftsched.testing.process import ServerProcess, free_ports

START_S = 90.0
STOP_S = 30.0
WAIT_S = 60.0
POLL_S = 0.05
ACTOR_TYPE = "Counter"
RESOURCES = {
    "store.yaml": """apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: store
spec:
  type: state.in-memory
  version: v1
  metadata:
  - name: actorStateStore
    value: "true"
"""
}
CONFIGURATION = """apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata:
  name: config
spec:
  nameResolution:
    component: nameformat
    version: v1
    configuration:
      format: "{appid}.localhost"
  workflow:
    activityConcurrencyLimits:
    - name: slow
      maxConcurrent: 3
"""


def until(holds: Callable[[], bool], what: str, seconds: float = WAIT_S) -> None:
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(POLL_S)


@dataclass(frozen=True, slots=True)
class Call:
    """What the sidecar asked of the app."""

    method: str
    path: str
    body: bytes
    at: float


@dataclass(slots=True)
class App:
    """An app that notes what it is told. `answers`: the statuses of the next calls of a path, 200 when they are used up. `actors`: whether
    it has any."""

    actors: bool = False
    calls: list[Call] = field(default_factory=list)
    answers: dict[str, list[int]] = field(default_factory=dict)
    port: int = 0

    def of(self, path: str) -> list[Call]:
        return [call for call in self.calls if call.path == path]

    def answer(self, call: Call) -> tuple[int, bytes]:
        if call.path == "/dapr/config":
            entities = [ACTOR_TYPE] if self.actors else []
            return 200, json.dumps({"entities": entities, "actorIdleTimeout": "1h"}).encode()
        if call.path == "/dapr/subscribe":
            return 200, b"[]"
        self.calls.append(call)
        left = self.answers.get(call.path)
        return (left.pop(0) if left else 200), b"{}"

    @contextmanager
    def serving(self) -> Iterator["App"]:
        app = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, text = app.answer(Call(self.command, self.path, body, time.time()))
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = handle_any  # http.server looks for these names

            def log_message(self, *_: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            server.daemon_threads = True
            self.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


class Program:
    """A child process with its log; gone when it is closed."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(list(command), stdout=log, stderr=log, env=environment, cwd=folder)

    def wait(self, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + START_S
        while not ready():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{self.name} is not ready:\n" + self.log.read_text()[-6000:])
            time.sleep(POLL_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


def ask(method: str, url: str, body: object = None) -> tuple[int, Any]:
    """The status, and the body's JSON, or its text if it is none."""
    request = urllib.request.Request(url, method=method)
    request.add_header("Content-Type", "application/json")
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(request, data, timeout=40) as answer:
            status, text = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read()
    try:
        return status, json.loads(text) if text else None
    except ValueError:
        return status, text.decode()


class Daprd(Program):
    """A sidecar; `app_port` 0: without an app. `wait`: until it is healthy, which takes an app that listens."""

    def __init__(self, stack: "Stack", app_id: str, app_port: int, protocol: str = "http", *, wait: bool = True) -> None:
        self.http_port, self.grpc_port, internal, public = free_ports(4)
        folder = stack.folder / f"{app_id}-{self.http_port}"
        (folder / "resources").mkdir(parents=True, exist_ok=True)
        for name, text in RESOURCES.items():
            (folder / "resources" / name).write_text(text)
        (folder / "config.yaml").write_text(CONFIGURATION)
        command = [str(stack.programs.daprd), f"--app-id={app_id}", "--mode=standalone", "--log-level=debug", "--enable-metrics=false"]
        command += [f"--app-port={app_port}", f"--app-protocol={protocol}"] if app_port else []
        command += [f"--dapr-http-port={self.http_port}", f"--dapr-grpc-port={self.grpc_port}", f"--dapr-internal-grpc-port={internal}"]
        command += [f"--dapr-public-port={public}", "--dapr-public-listen-address=127.0.0.1", "--dapr-listen-addresses=127.0.0.1"]
        command += ["--dapr-internal-grpc-listen-address=127.0.0.1", "--dapr-graceful-shutdown-seconds=1"]
        command += [f"--resources-path={folder / 'resources'}", f"--config={folder / 'config.yaml'}"]
        command += [f"--placement-host-address=127.0.0.1:{stack.placement_port}"]
        command += ["--scheduler-host-address=" + ",".join(stack.addresses())]
        environment = {**os.environ, "NAMESPACE": "default", "DAPR_HOST_IP": "127.0.0.1"}
        if stack.sentry is not None:
            command += ["--enable-mtls", f"--sentry-address={stack.sentry.address}", "--control-plane-trust-domain=localhost"]
            environment["DAPR_TRUST_ANCHORS"] = stack.sentry.anchors.read_text()
        super().__init__("daprd", command, folder, environment)
        if wait:
            try:
                self.wait(lambda: listens(self.http_port) and ask("GET", self.url("/v1.0/healthz"))[0] == 204)
            except BaseException:
                self.close()
                raise

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http_port}{path}"

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        return ask(method, self.url(path), body)


@dataclass(frozen=True, slots=True)
class Programs:
    """Executables; `sentry` None: without TLS."""

    daprd: Path
    placement: Path
    sentry: Path | None


class Stack:
    """raftsched with `count` replicas, the placement service and, with `programs.sentry`, mTLS between all of them. A context manager.

    `first`: how many replicas there are to begin with. `certificate_ttl`: of what Sentry signs.
    """

    def __init__(self, folder: Path, programs: Programs, count: int, *, first: int | None = None, certificate_ttl: str = "24h") -> None:
        self.folder = folder
        self.programs = programs
        self.count = count
        self.first = count if first is None else first
        self.certificate_ttl = certificate_ttl
        self.sentry: RealSentry | None = None
        self.cluster: Cluster | None = None
        self.servers: list[ServerProcess] = []
        self.placement: Program | None = None
        self.placement_port, self._placement_healthz = free_ports(2)

    def __enter__(self) -> "Stack":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.programs.sentry is not None:
            self.sentry = RealSentry(self.programs.sentry, self.folder / "sentry", self.certificate_ttl)
            self.sentry.wait()
        flags = self.sentry.flags() if self.sentry else []
        self.start_servers(flags)
        self._start_placement(flags)

    def start_servers(self, flags: list[str]) -> None:
        if self.count == 1:
            self.servers = [ServerProcess(self.folder / "server", args=flags).start()]
            return
        scheme = "https" if self.sentry else "http"
        self.cluster = Cluster(self.folder / "cluster", self.count, first=self.first, args=flags, scheme=scheme)
        self.cluster.start()
        self.servers = list(self.cluster.members[: self.first])

    def addresses(self) -> list[str]:
        """Where sidecars ask for the hosts: each replica that is or will be, as a name that leads to all of them would say."""
        known = self.servers if self.cluster is None else self.cluster.members
        return [server.scheduler_address for server in known]

    def _start_placement(self, flags: list[str]) -> None:
        raft, metrics = free_ports(2)
        command = [str(self.programs.placement), f"--port={self.placement_port}", f"--healthz-port={self._placement_healthz}"]
        command += ["--listen-address=127.0.0.1", "--healthz-listen-address=127.0.0.1", f"--metrics-port={metrics}", "--id=p0"]
        command += [f"--initial-cluster=p0=127.0.0.1:{raft}", *flags]
        environment = {**os.environ, "NAMESPACE": "default"}
        self.placement = Program("placement", command, self.folder / "placement", environment)
        self.placement.wait(lambda: listens(self._placement_healthz) and listens(self.placement_port))

    def __exit__(self, *_: object) -> None:
        if self.placement is not None:
            self.placement.close()
        if self.cluster is not None:
            self.cluster.close()
        else:
            for server in self.servers:
                server.__exit__(None, None, None)
        if self.sentry is not None:
            self.sentry.stop()
