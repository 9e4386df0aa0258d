"""More connections than file descriptors: the other ports go on, and the log stays short."""

import contextlib
import json
import resource
import socket
from pathlib import Path

import pytest
from serving import Clients, wait_for

from raftsched.pb.etcd import rpc_pb2
from raftsched.testing.process import ServerProcess

pytestmark = pytest.mark.process
LIMIT = 220
CONNECTIONS = 600


def test_one_port_cannot_use_up_all_descriptors(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "server")
    server.command = ["sh", "-c", f'ulimit -n {LIMIT}; exec "$@"', "sh", *server.command]
    with server, contextlib.ExitStack() as held:
        for _ in range(CONNECTIONS):
            connection = held.enter_context(socket.socket())
            connection.settimeout(5)
            with contextlib.suppress(OSError):
                connection.connect(("127.0.0.1", server.client_port))
        wait_for(lambda: server.health() == 200, 10, server.logs())
        clients = Clients(server)
        clients.schedule("one", due_time="1h")
        assert clients.listed() == {"one"}
        held.close()
        clients.kv.Range(rpc_pb2.RangeRequest(key=b"k"), timeout=20, wait_for_ready=True)  # the flooded port is back
        clients.close()
        assert server.stop() == 0
    lines = server.stderr_path.read_text().splitlines()
    assert len(lines) < 20
    assert all(json.loads(line)["msg"] for line in lines)


def test_the_soft_limit_is_raised_to_the_hard_one(tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    server = ServerProcess(tmp_path / "server")
    server.command = ["sh", "-c", 'ulimit -Sn 200; exec "$@"', "sh", *server.command]
    with server:
        assert server.process is not None
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
        row = next(line.split() for line in limits.splitlines() if line.startswith("Max open files"))
        assert row[3] == row[4] == (str(hard) if hard != resource.RLIM_INFINITY else "unlimited")
        assert server.stop() == 0
