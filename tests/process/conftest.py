"""Fixtures for tests that start the real server."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from raftsched.pb.dapr import scheduler_pb2_grpc
from raftsched.pb.etcd import rpc_pb2_grpc
from raftsched.testing.process import ServerProcess

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Clients:
    """Stubs of both APIs over one channel each."""

    def __init__(self, server: ServerProcess) -> None:
        self._etcd = grpc.insecure_channel(server.client_address, options=UNLIMITED)
        self._scheduler = grpc.insecure_channel(server.scheduler_address, options=UNLIMITED)
        self.kv = rpc_pb2_grpc.KVStub(self._etcd)
        self.watch = rpc_pb2_grpc.WatchStub(self._etcd)
        self.lease = rpc_pb2_grpc.LeaseStub(self._etcd)
        self.maintenance = rpc_pb2_grpc.MaintenanceStub(self._etcd)
        self.cluster = rpc_pb2_grpc.ClusterStub(self._etcd)
        self.scheduler = scheduler_pb2_grpc.SchedulerStub(self._scheduler)

    def close(self) -> None:
        self._etcd.close()
        self._scheduler.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A running server on an empty directory."""
    with ServerProcess(tmp_path / "server") as running:
        yield running


@pytest.fixture
def clients(server: ServerProcess) -> Iterator[Clients]:
    opened = Clients(server)
    yield opened
    opened.close()
