"""The thread that answers probes for a loop that does not turn: only then, in HTTP, and whoever knocks."""

import ctypes
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from raftsched.rpc._watchdog import Watchdog

FOR_EVER_MS = 10_000_000


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        yield made


def ask(listener: socket.socket, request: bytes) -> bytes:
    with socket.create_connection(listener.getsockname(), timeout=20) as one:
        one.sendall(request)
        answer = b""
        while got := one.recv(4_096):
            answer += got
        return answer


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def test_a_loop_that_does_not_beat_is_told_on(listener: socket.socket) -> None:
    watchdog = Watchdog([listener.fileno()], 0)
    for path in ("/readyz", "/readyz?verbose"):
        head, _, body = ask(listener, get(path)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert f"content-length: {len(body)}".encode() in head
        told = json.loads(body)
        assert told["ready"] is False
        assert told["stuck"]["loop"].startswith("the event loop has not turned for ")
    for request in (get("/healthz"), get("/readyzz"), b"\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"x" * 5_000):
        head, _, body = ask(listener, request).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert body == b""
    assert watchdog.answered_total == 7
    watchdog.close()
    watchdog.close()


def test_who_says_nothing_keeps_others_waiting_for_a_moment_only(listener: socket.socket) -> None:
    watchdog = Watchdog([listener.fileno()], 0)
    with socket.create_connection(listener.getsockname(), timeout=20) as silent:
        assert b'"loop"' in ask(listener, get("/readyz"))
        assert silent.recv(100).startswith(b"HTTP/1.1 503 ")
    watchdog.close()


def test_it_answers_while_the_interpreter_is_held(listener: socket.socket) -> None:
    """The other side is a process: nothing of Python runs in this one meanwhile."""
    watchdog = Watchdog([listener.fileno()], 0)
    with socket.create_connection(listener.getsockname(), timeout=20) as one:
        one.sendall(get("/readyz"))
        ctypes.PyDLL(None).usleep(1_500_000)  # holds the interpreter's lock
        assert watchdog.answered_total == 1
        assert one.recv(4_096).startswith(b"HTTP/1.1 503 ")
    watchdog.close()


def test_while_the_loop_beats_its_listener_is_its_own(listener: socket.socket) -> None:
    watchdog = Watchdog([listener.fileno()], FOR_EVER_MS)
    listener.setblocking(True)
    listener.settimeout(20)
    with socket.create_connection(listener.getsockname(), timeout=20) as one:
        accepted, _ = listener.accept()
        with accepted:
            one.sendall(b"x")
            assert accepted.recv(1) == b"x"
    assert watchdog.answered_total == 0
    watchdog.close()


def test_with_the_next_beat_it_leaves_the_listener_alone(listener: socket.socket) -> None:
    """`stall_ms` is two seconds: it answers after that, and not while beats come."""
    watchdog = Watchdog([listener.fileno()], 2_000)
    assert b'"loop"' in ask(listener, get("/readyz"))
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.01):
            watchdog.beat()

    beats = threading.Thread(target=beat)
    watchdog.beat()
    beats.start()
    try:
        time.sleep(0.5)  # what it had begun to wait for at the listener is over
        answered = watchdog.answered_total
        with socket.create_connection(listener.getsockname(), timeout=20) as one:
            one.sendall(get("/readyz"))
            time.sleep(1)
            if watchdog.answered_total == answered:
                listener.accept()[0].close()
            else:
                pytest.fail("it answered while beats came")
    finally:
        stop.set()
        beats.join()
    watchdog.close()


def test_no_descriptor_is_no_watchdog() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        Watchdog([1 << 20], 0)
