"""HTTP beside gRPC on one port, asked by curl and by raw sockets."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from raftsched.security.tls import server_context
from raftsched.testing.door import EchoDoor

CURL = shutil.which("curl")
needs_curl = pytest.mark.skipif(CURL is None, reason="curl is not installed")


@pytest.fixture(scope="module")
def door() -> Iterator[EchoDoor]:
    with EchoDoor(http_body_bytes_max=100_000) as opened:
        yield opened


def curl(*arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # a sanitizer is not for curl
    command = [CURL or "", "-sS", "-m", "10", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


@needs_curl
def test_get_post_head_and_upgrade(door: EchoDoor, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{door.port}/health?x=1"
    assert curl(url) == "GET /health?x=1 "
    assert curl("--http2", url) == "GET /health?x=1 "  # Upgrade: h2c is ignored
    assert curl("-d", "body", url) == "POST /health?x=1 body"
    assert "content-length: 17" in curl("-I", url).lower()
    assert curl("-H", "Transfer-Encoding: chunked", "-d", "chunky", url) == "POST /health?x=1 chunky"
    (tmp_path / "big").write_bytes(b"b" * 90_000)
    assert len(curl("-H", "Expect: 100-continue", "--data-binary", f"@{tmp_path}/big", url)) == 90_017
    (tmp_path / "huge").write_bytes(b"b" * 100_001)
    assert curl("-o", "/dev/null", "-w", "%{http_code}", "--data-binary", f"@{tmp_path}/huge", url) == "413"
    chunked = ["-H", "Transfer-Encoding: chunked", "--data-binary", f"@{tmp_path}/huge", url]
    assert curl("-o", "/dev/null", "-w", "%{http_code}", *chunked) == "413"


@needs_curl
def test_http2_in_clear_text(door: EchoDoor, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{door.port}/health?x=1"
    known = ("--http2-prior-knowledge", "-w", " %{http_version}")
    assert curl(*known, url) == "GET /health?x=1  2"
    assert curl(*known, "-d", "body", url) == "POST /health?x=1 body 2"
    assert "content-length: 17" in curl(*known, "-I", url)
    (tmp_path / "huge").write_bytes(b"b" * 100_001)
    assert curl(*known, "--data-binary", f"@{tmp_path}/huge", url) == "Content Too Large\n 2"


@needs_curl
def test_keep_alive(door: EchoDoor) -> None:
    url = f"http://127.0.0.1:{door.port}/a"
    assert curl("-w", "%{num_connects}.", url, url, url) == "GET /a 1.GET /a 0.GET /a 0."


@needs_curl
def test_a_failing_handler_is_500(door: EchoDoor) -> None:
    assert curl("-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{door.port}/raise") == "500"


@needs_curl
def test_tls_with_either_version(tmp_path: Path) -> None:
    ca = trustme.CA()
    server = ca.issue_cert("localhost")
    server.private_key_pem.write_to_path(tmp_path / "key.pem")
    server.cert_chain_pems[0].write_to_path(tmp_path / "crt.pem")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    with EchoDoor(context=server_context(f"{tmp_path}/crt.pem", f"{tmp_path}/key.pem")) as door:
        url = f"https://localhost:{door.port}/json"
        for flag, version in (("--http2", "2"), ("--http1.1", "1.1")):
            asked = ("--cacert", f"{tmp_path}/ca.pem", flag, "-w", " %{http_version}", url)
            assert curl(*asked) == f"GET /json  {version}"
            assert curl("-d", "x" * 90_000, *asked) == f"POST /json {'x' * 90_000} {version}"


def talk(door: EchoDoor, data: bytes) -> bytes:
    """All that comes back until the door closes or has nothing to say for a second."""
    with socket.create_connection(("127.0.0.1", door.port)) as client:
        client.settimeout(1)
        client.sendall(data)
        answer = b""
        try:
            while part := client.recv(65_536):
                answer += part
        except TimeoutError:
            pass
        return answer


def test_pipelined_requests_are_answered_in_order(door: EchoDoor) -> None:
    answer = talk(door, b"".join(b"GET /%d HTTP/1.1\r\nhost: a\r\n\r\n" % n for n in range(20)) + b"GET /z HTTP/1.0\r\n\r\n")
    assert [part.split(b"\r\n\r\n")[1] for part in answer.split(b"HTTP/1.1 200")[1:]] == [b"GET /%d " % n for n in range(20)] + [b"GET /z "]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # no host
        (b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: " + b"y" * 20_000, b"431"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", None),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 999999999999\r\n\r\n", b"413"),
        (b"PRI * HTTP/2.0\r\n\r\nXX\r\nhost: a\r\n\r\n", b"505"),
    ],
)
def test_what_is_no_request(door: EchoDoor, data: bytes, status: bytes | None) -> None:
    answer = talk(door, data)
    if status is not None:
        assert answer.split(b" ")[1] == status
    assert talk(door, b"GET /next HTTP/1.0\r\n\r\n").endswith(b"GET /next ")
