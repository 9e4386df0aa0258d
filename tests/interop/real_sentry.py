"""Dapr's own Sentry as a child process."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from raftsched.config.sentry import SentryOptions
from raftsched.security.anchors import read_anchors
from raftsched.security.identity import Identity
from raftsched.security.sentry import Sentry
from raftsched.store.transport.resolving import SystemResolver
from raftsched.testing.peers import LogLines
from raftsched.testing.process import free_ports

START_S = 60
CONFIGURATION = """apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata:
  name: daprsystem
spec:
  mtls:
    enabled: true
    workloadCertTTL: {}
    allowedClockSkew: {}
"""


class RealSentry:
    """`program`: its executable; `folder`, which it makes, gets its issuer and its log; `ttl`: of what it signs, 15 minutes added unless
    that were more."""

    def __init__(self, program: Path, folder: Path, ttl: str = "24h") -> None:
        self.folder = folder
        self.port, healthz, metrics = free_ports(3)
        self.anchors = folder / "ca.crt"
        self.address = f"127.0.0.1:{self.port}"
        folder.mkdir()
        words = [f"--issuer-credentials={folder}", "--trust-domain=localhost", f"--port={self.port}", f"--healthz-port={healthz}"]
        words += [f"--metrics-port={metrics}", "--listen-address=127.0.0.1", "--mode=standalone", f"--config={folder / 'config.yaml'}"]
        (folder / "config.yaml").write_text(CONFIGURATION.format(ttl, "15m" if ttl.endswith("h") else "0s"))
        environment = {**os.environ, "NAMESPACE": "default"}
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen([str(program), *words], stdout=log, stderr=log, env=environment, cwd=folder)

    def wait(self) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.process.poll() is None:
            if self.anchors.exists():
                try:
                    socket.create_connection(("127.0.0.1", self.port), 1).close()
                except OSError:
                    pass
                else:
                    return
            time.sleep(0.1)
        raise RuntimeError((self.folder / "log").read_text())

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)

    def sign(self, app_id: str, namespace: str = "default", trust_domain: str = "localhost") -> Identity:
        options = SentryOptions("127.0.0.1", self.port, trust_domain, namespace, app_id, str(self.anchors), None, False, None)
        asked = Sentry(options, lambda: read_anchors(str(self.anchors)), SystemResolver(), lambda: 0.5, LogLines())
        return asyncio.run(asked.sign())

    def flags(self) -> list[str]:
        return ["--tls-enabled", f"--trust-anchors-file={self.anchors}", f"--sentry-address={self.address}"]
