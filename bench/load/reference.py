"""A real etcd as the partner of a comparison, started in the same run with fsync on."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.process import free_ports

READY_TIMEOUT_S = 20.0


class ReferenceEtcd:
    """One member with etcd's defaults, its data in `directory`."""

    def __init__(self, binary: Path, directory: Path) -> None:
        client_port, peer_port = free_ports(2)
        self.address = f"127.0.0.1:{client_port}"
        self._directory = directory
        self._command = [
            str(binary),
            f"--data-dir={directory / 'etcd'}",
            f"--listen-client-urls=http://{self.address}",
            f"--advertise-client-urls=http://{self.address}",
            f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}",
            f"--initial-cluster=default=http://127.0.0.1:{peer_port}",
            "--log-level=error",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def add_flags(self, flags: Sequence[str]) -> None:
        """Of two that are the same the last one counts; keep http at `address`, which is asked whether it is ready."""
        self._command += flags

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "etcd.log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        begin = time.monotonic()
        while True:
            with grpc.insecure_channel(self.address) as channel:
                try:
                    rpc_pb2_grpc.KVStub(channel).Range(rpc_pb2.RangeRequest(key=b"ready"), timeout=2)
                except grpc.RpcError:
                    if time.monotonic() - begin > READY_TIMEOUT_S:
                        raise
                    time.sleep(0.05)
                else:
                    return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """In order; it can be entered again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def cpu_seconds(self) -> float:
        """User and system time used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
