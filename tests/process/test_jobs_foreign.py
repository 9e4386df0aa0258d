"""raftsched.v1 over HTTP, of a store in which others have written what cannot be told as JSON: each call is answered."""

import json
from pathlib import Path

import pytest
from serving import Clients
from test_jobs_v1 import post

from raftsched.pb.etcd import rpc_pb2
from raftsched.pb.v1 import state_pb2
from raftsched.scheduler.jobs.names import NAMESPACES
from raftsched.testing.process import ServerProcess

pytestmark = pytest.mark.process


def test_an_instant_that_is_none_is_an_answer(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server") as server:
        clients = Clients(server)
        stored = state_pb2.NamespaceExtra()
        stored.freeze.at.seconds = 2**62
        clients.kv.Put(rpc_pb2.PutRequest(key=NAMESPACES + b"ns", value=stored.SerializeToString()))
        status, body = post(server, "/v1/namespaces/frozen", {})
        assert (status, json.loads(body)["code"]) == (500, 13)
        assert "cannot be told as JSON" in json.loads(body)["message"]
        clients.close()
