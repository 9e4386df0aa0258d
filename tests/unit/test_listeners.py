"""Several listeners of one door: TLS and plaintext, IPv4, IPv6, unix sockets; whose socket name is taken over, and whose is not."""

import asyncio
import contextlib
import os
import socket
import ssl
import stat
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from raftsched.config.listening import ClientListener
from raftsched.rpc.http2._h2 import Engine
from raftsched.rpc.listeners import Listeners
from raftsched.security.guard import ListenerFiles, ListenerGuard
from raftsched.testing.authority import Authority
from raftsched.testing.door import EchoDoor, make_engine
from raftsched.testing.door_peer import frame
from raftsched.testing.process import free_ports


class Log:
    """Keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[tuple[str, dict[str, Any]]] = []

    def debug(self, message: str, /, **fields: object) -> None: ...
    def info(self, message: str, /, **fields: object) -> None: ...
    def error(self, message: str, /, **fields: object) -> None: ...

    def warning(self, message: str, /, **fields: object) -> None:
        self.warnings.append((message, fields))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "authority")
    made.issue("server")
    return made


def engine() -> Engine:
    door = EchoDoor()
    door.loop.close()
    return make_engine(door, asyncio.get_running_loop())


def opened(door: Engine, *listeners: ClientListener, authority: Authority | None = None, log: Log | None = None) -> Listeners:
    log = log or Log()
    files = None if authority is None else ListenerFiles(authority.path("server.crt"), authority.path("server.key"))
    return Listeners(door, listeners, None if files is None else ListenerGuard(files, log), log)


def unix(path: Path, *, secure: bool = False, plaintext: bool = True) -> ClientListener:
    return ClientListener("", 0, str(path), secure, plaintext)


async def fetch(place: Path | tuple[str, int], context: ssl.SSLContext | None = None) -> bytes:
    """What a GET is answered; b"" = nothing."""
    name = "localhost" if context is not None else None
    answer = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        if isinstance(place, Path):
            reader, writer = await asyncio.open_unix_connection(place, ssl=context, server_hostname=name)
        else:
            reader, writer = await asyncio.open_connection(*place, ssl=context, server_hostname=name)
        try:
            writer.write(b"GET /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            answer = await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):  # the other side is gone before it hears of our end
                await writer.wait_closed()
    return answer.partition(b"\r\n\r\n")[2]


async def test_all_kinds_side_by_side(authority: Authority, tmp_path: Path) -> None:
    door, log, (http, https, both, six) = engine(), Log(), free_ports(4)
    local, sealed = tmp_path / "plain.sock", tmp_path / "sealed.sock"
    listeners = opened(
        door,
        ClientListener("127.0.0.1", http, "", False, True),
        ClientListener("127.0.0.1", https, "", True, False),
        ClientListener("127.0.0.1", both, "", True, True),
        ClientListener("::1", six, "", True, False),
        unix(local),
        unix(sealed, secure=True, plaintext=False),
        authority=authority,
        log=log,
    )
    await listeners.open("--flag")
    context = authority.client_context()
    answers = {
        (place, secure): await fetch(place, context if secure else None)
        for place in (("127.0.0.1", http), ("127.0.0.1", https), ("127.0.0.1", both), ("::1", six), local, sealed)
        for secure in (False, True)
    }
    got = [bool(answer) for answer in answers.values()]
    assert got == [True, False, False, True, True, True, False, True, True, False, False, True]
    assert set(answers.values()) == {b"", b"GET /x "}
    places = [fields["address"] for message, fields in log.warnings if "without TLS" in message]
    assert places == [f"127.0.0.1:{http}", f"127.0.0.1:{both}", str(local)]
    families = {one.name: one.samples for one in listeners.families()}
    assert families["raftsched_client_refused_connections_total"] == {("HTTP_REQUEST",): 3}
    await door.drain(200)
    listeners.close()
    assert not local.exists()
    assert not sealed.exists()


async def http2_call(place: Path | tuple[str, int], fields: list[tuple[str, str]]) -> dict[str, str]:
    """Headers and trailers of what a unary echo answers a request of these fields, `reset` among them."""
    reader, writer = await (asyncio.open_unix_connection(place) if isinstance(place, Path) else asyncio.open_connection(*place))
    config = h2.config.H2Configuration(header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False)
    talk = h2.connection.H2Connection(config)
    talk.initiate_connection()
    talk.send_headers(1, fields)
    talk.send_data(1, frame(b"hello"), end_stream=True)
    found: dict[str, str] = {}
    while "ended" not in found:
        writer.write(talk.data_to_send())
        data = await asyncio.wait_for(reader.read(65_536), 20)
        if not data:
            break
        for event in talk.receive_data(data):
            found |= dict(getattr(event, "headers", None) or {})
            if isinstance(event, h2.events.StreamReset):
                found |= {"reset": str(int(event.error_code)), "ended": "yes"}
            if isinstance(event, h2.events.StreamEnded):
                found["ended"] = "yes"
    writer.close()
    await writer.wait_closed()
    return found


ECHO = [(":method", "POST"), (":scheme", "http"), (":path", "/test.Echo/Unary"), ("content-type", "application/grpc"), ("te", "trailers")]
PROTOCOL_ERROR = "1"


async def test_who_calls_a_unix_socket_by_its_path_is_served(tmp_path: Path) -> None:
    """As Go clients before gRPC 1.41 do, those of etcd 3.5 among them: a path is no authority, and at a port it stays none."""
    door, path, (port,) = engine(), tmp_path / "a.sock", free_ports(1)
    listeners = opened(door, unix(path), ClientListener("127.0.0.1", port, "", False, True))
    await listeners.open("--flag")
    for authority in (str(path), "localhost", f"unix:{path}", "\0 \n"):
        assert (await http2_call(path, [*ECHO, (":authority", authority)])).get("grpc-status") == "0"
    assert (await http2_call(("127.0.0.1", port), [*ECHO, (":authority", str(path))])).get("reset") == PROTOCOL_ERROR
    await door.drain(200)
    listeners.close()


@pytest.mark.parametrize(
    "fields",
    [
        [one for one in ECHO if one[0] != ":path"],
        [one for one in ECHO if one[0] != ":method"],
        [(":status", "200"), *ECHO],
        [("Content-Type", "application/grpc"), *ECHO[:3]],
        [*ECHO, ("connection", "close"), ("transfer-encoding", "chunked"), ("content-length", "3")],
        [*ECHO, ("", ""), ("a b\n", "\0\r\n"), ("grpc-encoding", "\x01\0\n")],
        [(":path", "/\0\n%"), *ECHO[:2], *ECHO[3:]],
        [*ECHO, (":path", "/test.Echo/None")],
    ],
)
async def test_what_is_no_request_does_no_harm_at_a_unix_socket(tmp_path: Path, fields: list[tuple[str, str]]) -> None:
    door, path = engine(), tmp_path / "a.sock"
    listeners = opened(door, unix(path))
    await listeners.open("--flag")
    await http2_call(path, fields)
    assert (await http2_call(path, ECHO))["grpc-status"] == "0"
    await door.drain(200)
    listeners.close()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o007])
async def test_a_socket_has_the_permissions_that_the_umask_leaves(tmp_path: Path, mask: int) -> None:
    """Who may connect is who may write, as with etcd's."""
    door, path = engine(), tmp_path / "a.sock"
    before = os.umask(mask)
    try:
        await opened(door, unix(path)).open("--flag")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~mask
    await door.drain(200)


async def test_a_socket_that_a_killed_server_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
        left.listen()
    door = engine()
    await opened(door, unix(path)).open("--flag")
    assert await fetch(path) == b"GET /x "
    await door.drain(200)


async def test_a_socket_of_a_living_server_is_left_alone(tmp_path: Path) -> None:
    path, first, second = tmp_path / "a.sock", engine(), engine()
    await opened(first, unix(path)).open("--flag")
    with pytest.raises(OSError, match=rf"^cannot listen on {path} \(--flag\): Address already in use$"):
        await opened(second, unix(path)).open("--flag")
    assert await fetch(path) == b"GET /x "
    await first.drain(200)


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
async def test_what_is_no_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    """etcd removes any file, and an empty directory."""
    path = tmp_path / "precious"
    if kind == "file":
        path.write_text("data")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match=rf"^cannot listen on {path} \(--flag\): there is a file that is no socket$"):
        await opened(engine(), unix(path)).open("--flag")
    assert path.is_symlink() or path.exists()


async def test_a_successors_socket_is_not_removed(tmp_path: Path) -> None:
    path, first, second = tmp_path / "a.sock", engine(), engine()
    older = opened(first, unix(path))
    await older.open("--flag")
    await first.drain(200)  # it listens no more, its name is still there
    await opened(second, unix(path)).open("--flag")
    older.close()
    assert await fetch(path) == b"GET /x "
    await second.drain(200)


async def test_an_address_that_cannot_be_had_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"^cannot listen on 127.0.0.1:{port} \(--flag\): Address already in use$"):
            await opened(engine(), ClientListener("127.0.0.1", port, "", False, True)).open("--flag")
    with pytest.raises(OSError, match=r"^cannot listen on /nowhere/a.sock \(--flag\): No such file or directory$"):
        await opened(engine(), unix(Path("/nowhere/a.sock"))).open("--flag")
    with pytest.raises(OSError, match=r"^cannot listen on /a+ \(--flag\): AF_UNIX path too long$"):
        await opened(engine(), unix(Path("/" + "a" * 200))).open("--flag")
