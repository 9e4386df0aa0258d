"""HTTP of a running server: the gateway over a real log, origins and hosts by flag, and the further listener for metrics and health."""

import base64
import hashlib
import json
from pathlib import Path

from serving import Clients, fetch, wait_for

from raftsched.testing.http_peer import HttpPeer, get, post
from raftsched.testing.process import ServerProcess, free_ports

FOO = base64.b64encode(b"foo").decode()


def test_the_gateway_of_a_server(server: ServerProcess, clients: Clients) -> None:
    port = server.client_port
    wait_for(lambda: fetch(port, "/health")[0] == 200, 10, "not healthy")
    with HttpPeer(port) as watch:
        watch.request("POST", "/v3/watch", b'{"create_request":{"key":"Zm9v"}}')
        assert watch.head().status == 200
        assert watch.line()["result"]["created"] is True
        revision = post(port, "/v3/kv/put", {"key": FOO, "value": FOO}).json()["header"]["revision"]
        assert clients.get(b"foo") == b"foo"
        event = watch.line()["result"]
        assert event["header"]["revision"] == revision
        assert event["events"][0]["kv"] == {"key": FOO, "create_revision": revision, "mod_revision": revision, "version": "1", "value": FOO}
        status = post(port, "/v3/maintenance/status").json()
        assert status["leader"] == status["header"]["member_id"]
        assert server.stop() == 0  # a watch over HTTP does not hold it up
        assert watch.line()["error"]["code"] == 14


def test_a_snapshot_over_http(server: ServerProcess) -> None:
    port = server.client_port
    wait_for(lambda: fetch(port, "/health")[0] == 200, 10, "not healthy")
    answer = post(port, "/v3/maintenance/snapshot")
    assert answer.status == 200
    blobs = [json.loads(line)["result"] for line in answer.body.splitlines()]
    data = b"".join(base64.b64decode(one["blob"]) for one in blobs)
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    assert int(blobs[0]["remaining_bytes"]) == len(data) - 32 - len(base64.b64decode(blobs[0]["blob"]))
    assert "remaining_bytes" not in blobs[-1]


def test_flags_of_http(tmp_path: Path) -> None:
    (measures,) = free_ports(1)
    flags = ["--cors=http://a.example:80", "--host-whitelist=127.0.0.1,localhost", f"--listen-metrics-urls=http://127.0.0.1:{measures}"]
    with ServerProcess(tmp_path, args=flags) as server:
        assert get(server.client_port, "/version", {"Origin": "http://a.example:80"}).header("access-control-allow-origin")
        assert get(server.client_port, "/version", {"Origin": "http://b.example:80"}).header("access-control-allow-origin") is None
        assert get(server.client_port, "/version", host="evil.example").status == 421
        wait_for(lambda: fetch(measures, "/health")[0] == 200, 10, "not healthy")
        assert "\netcd_server_has_leader 1" in fetch(measures, "/metrics")[1]
        assert fetch(measures, "/readyz") == (200, "ok\n")
        assert fetch(measures, "/livez/serializable_read") == (200, "ok\n")
        for path in ("/version", "/debug/vars", "/v3/kv/range", "/"):
            assert fetch(measures, path)[0] == 404
        assert get(measures, "/metrics", host="evil.example").header("access-control-allow-origin") is None
        variables = json.loads(fetch(server.client_port, "/debug/vars")[1])
        assert variables["raft.status"]["lead"] == variables["raft.status"]["id"]
