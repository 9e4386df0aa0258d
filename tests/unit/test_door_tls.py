"""TLS in the door, on real sockets: what clients get through it, what it does to those who speak something else, and how it ends."""

import asyncio
import contextlib
import http.client
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
import pytest

from raftsched.limits import TLS_SLICE_MS_MAX
from raftsched.security.tls import server_context
from raftsched.testing.authority import Authority
from raftsched.testing.door import EchoDoor, FixedGuard

HELLO = b"\x16\x03\x01"
REQUEST = b"GET /a HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.issue("server")
    made.issue("client")
    return made


def guard_of(authority: Authority, **options: object) -> FixedGuard:
    return FixedGuard(server_context(authority.path("server.crt"), authority.path("server.key"), **options))  # type: ignore[arg-type]


@pytest.fixture
def door(authority: Authority) -> Iterator[EchoDoor]:
    with EchoDoor(guard=guard_of(authority), plaintext_too=True, tls_handshake_timeout_ms=300) as opened:
        yield opened


@pytest.fixture
def strict(authority: Authority) -> Iterator[EchoDoor]:
    """Without plaintext."""
    with EchoDoor(guard=guard_of(authority), tls_handshake_timeout_ms=300) as opened:
        yield opened


def causes(door: EchoDoor) -> list[str]:
    assert isinstance(door.guard, FixedGuard)
    return door.guard.causes


def until(condition: object, timeout_s: float = 10) -> None:
    begin = time.monotonic()
    while not condition():  # type: ignore[operator]
        assert time.monotonic() - begin < timeout_s
        time.sleep(0.005)


def dial(door: EchoDoor, context: ssl.SSLContext | None = None, receive_bytes: int = 0) -> socket.socket:
    plain = socket.socket()
    if receive_bytes:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    plain.settimeout(20)
    plain.connect(("127.0.0.1", door.port))
    if context is None:
        return plain
    return context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)


def rest(connection: socket.socket) -> bytes:
    """All that comes until the other side ends."""
    data = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65_536):
            data += part
    return data


class Http2:
    """One HTTP/2 connection over a blocking socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.data: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.h2.initiate_connection()
        self.h2.update_settings({4: 1 << 30})
        self.h2.increment_flow_control_window(1 << 30)

    def ask(self, path: str, message: bytes) -> int:
        stream = self.h2.get_next_available_stream_id()
        head = [(":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "a"), ("content-type", "application/grpc")]
        self.h2.send_headers(stream, [*head, ("te", "trailers")])
        self.h2.send_data(stream, b"\0" + struct.pack(">I", len(message)) + message, end_stream=True)
        self.data[stream] = b""
        return stream

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def read_until(self, stream: int) -> bytes:
        self.flush()
        while stream not in self.ended:
            got = self.socket.recv(65_536)
            assert got, "the connection ended"
            for event in self.h2.receive_data(got):
                if isinstance(event, h2.events.DataReceived):
                    self.data[event.stream_id] += event.data
                if isinstance(event, h2.events.StreamEnded):
                    self.ended.add(event.stream_id)
        return self.data[stream]


# -- what is served


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_http2_and_http1_through_tls_and_without_at_one_port(door: EchoDoor, authority: Authority, version: ssl.TLSVersion) -> None:
    for context in (authority.client_context(version=version), None):
        with dial(door, context) as connection:
            client = Http2(connection)
            assert client.read_until(client.ask("/test.Echo/Batch", b"hello"))[5:] == b"hello"
        plain = http.client.HTTPConnection("127.0.0.1", door.port)
        web = plain if context is None else http.client.HTTPSConnection("localhost", door.port, context=context)
        for number in range(3):
            web.request("POST", f"/{number}", body=b"x" * 50_000)
            assert web.getresponse().read() == b"POST /%d " % number + b"x" * 50_000
        web.close()
    assert causes(door) == []


def test_large_answers_through_a_small_window_stay_whole(strict: EchoDoor, authority: Authority) -> None:
    with dial(strict, authority.client_context(), receive_bytes=4_096) as connection:
        client = Http2(connection)
        stream = client.ask("/test.Echo/Burst", b"300 20000")
        client.flush()
        time.sleep(0.1)  # the socket is full, the door holds the rest
        small = [client.ask("/test.Echo/Batch", b"%d" % number) for number in range(20)]
        assert client.read_until(stream) == (b"\0" + struct.pack(">I", 20_000) + bytes(20_000)) * 300
        assert [client.read_until(one)[5:] for one in small] == [b"%d" % number for number in range(20)]
    until(lambda: strict.counters()["connections"] == 0)
    assert strict.counters()["buffered_bytes"] == 0


def test_large_requests_in_small_records(strict: EchoDoor, authority: Authority) -> None:
    with dial(strict, authority.client_context()) as connection:
        client = Http2(connection)
        streams = [client.ask("/test.Echo/Batch", bytes([number]) * 15_000) for number in range(4)]
        data = client.h2.data_to_send()
        for place in range(0, len(data), 97):  # a record each
            connection.sendall(data[place : place + 97])
        assert [client.read_until(one)[5:] for one in streams] == [bytes([number]) * 15_000 for number in range(4)]


def test_who_the_client_is_is_known_to_the_call(authority: Authority) -> None:
    guard = guard_of(authority, client_ca=authority.path("ca.crt"), client_certificate_required=True)
    files = [Path(authority.path(name)).read_bytes() for name in ("ca.crt", "client.key", "client.crt")]
    with EchoDoor(guard=guard) as door:
        credentials = grpc.ssl_channel_credentials(*files)
        with grpc.secure_channel(f"localhost:{door.port}", credentials) as channel:
            call = channel.unary_unary("/test.Echo/Unary")
            assert b"'commonName', 'client'" in call(b"certificate", timeout=10)
            assert call(b"peer", timeout=10).startswith((b"127.0.0.1:", b"[::1]:"))


def test_a_plaintext_client_of_a_shared_port_has_no_certificate(door: EchoDoor) -> None:
    with dial(door) as connection:
        client = Http2(connection)
        assert client.read_until(client.ask("/test.Echo/Unary", b"certificate"))[5:] == b"None"


# -- how connections end


def shaken(raw: socket.socket, context: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    """A client of which the test sees every record: it, what comes in, what goes out."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            client.do_handshake()
            break
        except ssl.SSLWantReadError:
            raw.sendall(outgoing.read())
            incoming.write(raw.recv(65_536))
    raw.sendall(outgoing.read())
    return client, incoming, outgoing


def test_a_request_before_the_announced_end_is_answered(strict: EchoDoor, authority: Authority) -> None:
    with dial(strict) as raw:
        client, incoming, outgoing = shaken(raw, authority.client_context())
        client.write(REQUEST)
        with contextlib.suppress(ssl.SSLWantReadError):
            client.unwrap()
        raw.sendall(outgoing.read())
        incoming.write(rest(raw))
        answer = b""
        with contextlib.suppress(ssl.SSLZeroReturnError):
            while part := client.read(65_536):
                answer += part
        assert answer.endswith(b"GET /a ")


def test_the_door_announces_its_end(authority: Authority) -> None:
    with EchoDoor(guard=guard_of(authority)) as door, dial(door, authority.client_context()) as connection:
        connection.sendall(REQUEST)
        answer = b""
        while not answer.endswith(b"GET /a "):
            answer += connection.recv(65_536)
        door.run(door.engine.drain(500))
        assert connection.recv(100) == b""  # with suppress_ragged_eofs=False: an end without close_notify would raise


def test_a_lost_client_leaves_nothing(strict: EchoDoor, authority: Authority) -> None:
    connection = dial(strict, authority.client_context(), receive_bytes=4_096)
    client = Http2(connection)
    client.ask("/test.Echo/Burst", b"300 20000")
    client.flush()
    until(lambda: strict.counters()["streams"] == 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    until(lambda: strict.counters()["connections"] == 0)
    assert strict.counters()["streams"] == strict.counters()["buffered_bytes"] == 0
    assert len(strict.closed) == 1


def test_records_that_are_tampered_with_end_the_connection(strict: EchoDoor, authority: Authority) -> None:
    raw = dial(strict)
    client, _, outgoing = shaken(raw, authority.client_context())
    client.write(REQUEST)
    record = bytearray(outgoing.read())
    record[-1] ^= 1
    raw.sendall(record)
    rest(raw)
    raw.close()
    until(lambda: strict.counters()["connections"] == 0)
    assert strict.counters()["http_requests_total"] == 0


# -- who speaks something else


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (REQUEST, "HTTP_REQUEST"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "WRONG_VERSION_NUMBER"),
        (b"\0" * 64, "WRONG_VERSION_NUMBER"),
        (bytes(range(255, 0, -1)), "WRONG_VERSION_NUMBER"),
        (HELLO + b"\x00\x05\x01\x00\x00\x01\xff", None),
        (HELLO + b"\xff\xff" + bytes(70_000), None),
    ],
    ids=["http", "http2", "zeros", "bytes", "a hello cut short", "a record too long"],
)
def test_what_is_no_tls_is_closed_and_told(strict: EchoDoor, data: bytes, cause: str | None) -> None:
    with dial(strict) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        assert b"200" not in rest(connection)
    until(lambda: causes(strict))
    assert cause is None or causes(strict) == [cause]
    assert len(causes(strict)) == 1
    assert strict.errors == []


def test_tls_at_a_plaintext_port_is_closed(authority: Authority) -> None:
    with EchoDoor() as door, pytest.raises((ssl.SSLError, ConnectionError)):
        dial(door, authority.client_context())


@pytest.mark.parametrize("sent", [b"", HELLO], ids=["silent", "half a record"])
def test_a_handshake_that_stands_still_is_cut_off(strict: EchoDoor, sent: bytes) -> None:
    with dial(strict) as connection:
        connection.sendall(sent)
        begin = time.monotonic()
        assert rest(connection) == b""
        assert time.monotonic() - begin < 5
    until(lambda: strict.counters()["connections"] == 0)
    assert causes(strict) == (["timeout"] if sent else [])  # who says nothing at all is a port scan


def test_a_handshake_byte_by_byte_is_cut_off_too(strict: EchoDoor) -> None:
    with dial(strict) as connection:
        connection.sendall(HELLO[:1])
        for turn in range(400):
            time.sleep(0.02)
            try:
                connection.sendall(bytes([turn % 256]))
            except ConnectionError:
                break
        assert turn < 399
    until(lambda: causes(strict))


def test_an_end_in_the_handshake_is_told_once(strict: EchoDoor) -> None:
    with dial(strict) as connection:
        connection.sendall(HELLO)
    until(lambda: causes(strict))
    until(lambda: strict.counters()["connections"] == 0)
    assert causes(strict) == ["closed in the handshake"]


def test_a_wrong_client_hears_the_alert(authority: Authority, tmp_path: Path) -> None:
    """In TLS 1.3 with its first read."""
    stranger = Authority(tmp_path)
    stranger.issue("client")
    guard = guard_of(authority, client_ca=authority.path("ca.crt"), client_certificate_required=True)
    with EchoDoor(guard=guard) as door:
        for context, text in (
            (authority.client_context(), "CERTIFICATE_REQUIRED"),
            (mixed(authority, stranger), "UNKNOWN_CA"),
        ):
            with dial(door, context) as connection, pytest.raises(ssl.SSLError, match=text):
                connection.recv(10)
    assert causes(door) == ["PEER_DID_NOT_RETURN_A_CERTIFICATE", "unable to get local issuer certificate"]


def mixed(authority: Authority, shown: Authority) -> ssl.SSLContext:
    """Believes one, shows a certificate of the other."""
    context = authority.client_context()
    context.load_cert_chain(shown.path("client.crt"), shown.path("client.key"))
    return context


# -- the loop


class SlowGuard(FixedGuard):
    """A handshake that costs more than a slice of the loop, and how often the loop went round between two of them."""

    turns = 0
    between: list[int]

    def objection(self, tls: ssl.SSLObject) -> str:
        self.between.append(self.turns)
        time.sleep(0.006)
        return ""


def test_a_crowd_of_handshakes_does_not_hold_the_loop(authority: Authority) -> None:
    guard = SlowGuard(guard_of(authority).context())
    guard.between = []

    async def tick() -> None:
        while len(guard.between) < 30:
            guard.turns += 1
            await asyncio.sleep(0)

    with EchoDoor(guard=guard) as door:
        ticking = asyncio.run_coroutine_threadsafe(tick(), door.loop)
        context = authority.client_context()
        clients = [dial(door) for _ in range(30)]
        ends = []
        for client in clients:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            end = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
            client.sendall(outgoing.read())
            ends.append((end, incoming, outgoing))
        for client, (end, incoming, outgoing) in zip(clients, ends, strict=True):
            while True:
                incoming.write(client.recv(65_536))
                try:
                    end.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    continue
            client.sendall(outgoing.read())  # all of them at about the same time
        ticking.result(20)
        for client in clients:
            client.close()
    assert max(Counter(guard.between).values()) <= TLS_SLICE_MS_MAX // 6 + 1, "in one turn of the loop"


class LateGuard(FixedGuard):
    """Takes longer over everybody than a client may take over its handshake."""

    def context(self) -> ssl.SSLContext:
        time.sleep(0.04)
        return super().context()

    def objection(self, tls: ssl.SSLObject) -> str:
        time.sleep(0.06)
        return ""


def test_who_waits_for_the_server_is_not_cut_off(authority: Authority) -> None:
    """Twenty times 100 ms of work is more than the limit: it is the server that is slow."""
    guard = LateGuard(guard_of(authority).context())
    with EchoDoor(guard=guard, tls_handshake_timeout_ms=1_000) as door:
        with ThreadPoolExecutor(20) as pool:
            clients = list(pool.map(lambda _: dial(door, authority.client_context()), range(20)))
        for client in clients:
            client.sendall(REQUEST)
        for client in clients:
            assert client.recv(12) == b"HTTP/1.1 200"
            client.close()
    assert guard.causes == []


def test_more_connections_than_allowed_are_refused_before_their_handshake(authority: Authority) -> None:
    guard = guard_of(authority)
    with EchoDoor(guard=guard, connections_max=2) as door:
        held = [dial(door, authority.client_context()) for _ in range(2)]
        with dial(door) as third:
            third.sendall(HELLO)
            assert rest(third) == b""
        assert door.counters()["refused_total"] == 1
        for one in held:
            one.close()
    assert guard.causes == []
