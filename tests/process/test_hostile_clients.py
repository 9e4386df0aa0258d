"""Garbage on every port while a good client works: it is answered or cut off, and nobody else notices."""

import random
import socket
import struct
import threading
from pathlib import Path

import pytest
from serving import Clients, Worker, wait_for

from raftsched.testing.process import ServerProcess

pytestmark = pytest.mark.process
ROUNDS = 120
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
GROWTH_BYTES_MAX = 64 << 20


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def garbage(chance: random.Random) -> bytes:
    """From noise to something that is nearly a request."""
    noise = chance.randbytes(chance.choice((1, 24, 300, 20_000)))
    frames = b"".join(
        frame(chance.randrange(12), chance.randrange(256), chance.choice((0, 1, 3, 2**31 - 1)), chance.randbytes(chance.randrange(200)))
        for _ in range(20)
    )
    return chance.choice(
        (
            noise,
            PREFACE + noise,
            PREFACE + frame(4, 0, 0, b"") + frames,
            b"GET /health HTTP/1.1\r\n" + b"X: " + noise,
            b"POST /v3/kv/put HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n" + noise,
            b"\x16\x03\x01" + noise,
            PREFACE + frame(4, 0, 0, b"") + frame(6, 0, 0, bytes(8)) * 2_000,
        )
    )


def throw(port: int, data: bytes, *, read: bool) -> None:
    with socket.socket() as connection:
        connection.settimeout(2)
        try:
            connection.connect(("127.0.0.1", port))
            connection.sendall(data)
            if read:
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass
        except OSError:
            pass  # cut off: that is an answer


def bombard(server: ServerProcess, seed: int) -> None:
    chance = random.Random(seed)
    ports = [server.scheduler_port, server.client_port, server.healthz_port, server.metrics_port]
    for _ in range(ROUNDS):
        throw(chance.choice(ports), garbage(chance), read=chance.random() < 0.8)


def test_garbage_disturbs_nobody(server: ServerProcess, clients: Clients) -> None:
    clients.schedule("ticking", schedule="@every 50ms")
    bombard(server, 0)  # what is allocated once is allocated now
    before = server.memory_bytes()
    with Worker(server) as worker:
        throwers = [threading.Thread(target=bombard, args=(server, seed)) for seed in (1, 2)]
        for thrower in throwers:
            thrower.start()
        number = 0
        while any(thrower.is_alive() for thrower in throwers):
            clients.put(b"k%d" % (number % 50), b"%d" % number)
            assert clients.get(b"k%d" % (number % 50)) == b"%d" % number
            number += 1
        for thrower in throwers:
            thrower.join()
        count = len(worker.deliveries)
        wait_for(lambda: len(worker.deliveries) > count + 2, 10, "triggers have stopped")
    assert number > 10
    assert server.health() == 200
    assert server.memory_bytes() - before < GROWTH_BYTES_MAX
    assert "Traceback" not in server.logs(1 << 20)
    assert server.stop() == 0


def test_hundreds_of_silent_connections_leave_room_for_others(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server") as server:
        silent = []
        for _ in range(400):
            connection = socket.socket()
            connection.connect(("127.0.0.1", server.client_port))
            silent.append(connection)
        clients = Clients(server)
        clients.put(b"k", b"v")
        assert clients.get(b"k") == b"v"
        assert server.memory_bytes() < 120 << 20
        clients.close()
        for connection in silent:
            connection.close()
        assert server.stop() == 0
