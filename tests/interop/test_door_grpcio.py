"""The door and grpcio's client, over real sockets: unary, streams, errors, deadlines, cancel, sizes, metadata, keepalive, TLS."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
import trustme

from raftsched.security.tls import server_context
from raftsched.testing.door import EchoDoor

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def until(true: Callable[[], bool]) -> None:
    """The door lives in another thread: wait for what it will do, up to five seconds."""
    for _ in range(500):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it never became true")


@pytest.fixture(scope="module")
def door() -> Iterator[EchoDoor]:
    with EchoDoor(message_bytes_max=128 << 20) as opened:
        yield opened


@pytest.fixture(scope="module")
def channel(door: EchoDoor) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{door.port}", options=OPTIONS) as opened:
        yield opened


def same(data: Any) -> Any:
    return data


def unary(channel: grpc.Channel, name: str) -> Any:
    return channel.unary_unary(f"/test.Echo/{name}", same, same)


@pytest.mark.parametrize("name", ["Batch", "Unary"])
@pytest.mark.parametrize("size", [0, 1, 100, 8_187, 8_192, 16_379, 16_384, 65_535, 1 << 20])
def test_unary_echo(channel: grpc.Channel, name: str, size: int) -> None:
    message = bytes(n * 31 % 256 for n in range(min(size, 4_096))) * (size // 4_096 + 1)
    assert unary(channel, name)(message[:size], timeout=20) == message[:size]


def test_large_message_both_ways(channel: grpc.Channel) -> None:
    message = bytes(100 << 20)
    assert unary(channel, "Batch")(message, timeout=60) == message


def test_many_at_once(channel: grpc.Channel) -> None:
    futures = [unary(channel, "Batch").future(b"%d" % n, timeout=20) for n in range(2_000)]
    assert [future.result() for future in futures] == [b"%d" % n for n in range(2_000)]


@pytest.mark.parametrize("name", ["Batch", "Unary"])
@pytest.mark.parametrize("code", range(1, 17))
def test_every_status(channel: grpc.Channel, name: str, code: int) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, name)(b"fail:%d:100 %% of it" % code, timeout=20)
    assert caught.value.code().value[0] == code
    assert caught.value.details() == "100 % of it"


def test_an_exception_is_internal_and_tells_nothing(door: EchoDoor, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, "Unary")(b"raise", timeout=20)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert isinstance(door.errors[-1][1], RuntimeError)


def test_metadata_and_trailers(channel: grpc.Channel) -> None:
    call = unary(channel, "Unary")
    assert call(b"meta:token", metadata=[("token", "t-1")], timeout=20) == b"t-1"
    assert call(b"meta:raw-bin", metadata=[("raw-bin", b"\x00\xfe\xff")], timeout=20) == b"\x00\xfe\xff"
    assert unary(channel, "Batch")(b"meta:token", metadata=[("token", "t-2")], timeout=20) == b"t-2"
    assert call(b"peer", timeout=20).startswith(b"127.0.0.1:")
    _, with_trailers = call.with_call(b"trailer", timeout=20)
    assert {(m.key, m.value) for m in with_trailers.trailing_metadata()} >= {("x-note", "hello"), ("x-note-bin", b"\x00\xff")}


def test_deadline_reaches_the_handler(door: EchoDoor, channel: grpc.Channel) -> None:
    left = float(unary(channel, "Unary")(b"deadline", timeout=5))
    assert 4 < left < 5.5  # grpcio rounds up
    before = door.cancelled
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel, "Unary")(b"sleep", timeout=0.2)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    until(lambda: door.cancelled == before + 1)


def test_cancel_reaches_the_handler(door: EchoDoor, channel: grpc.Channel) -> None:
    before, started = door.cancelled, door.started
    future = unary(channel, "Unary").future(b"sleep")
    until(lambda: door.started == started + 1)
    future.cancel()
    until(lambda: door.cancelled == before + 1)


def test_bidi_stream(door: EchoDoor, channel: grpc.Channel) -> None:
    call = channel.stream_stream("/test.Echo/Stream", same, same)
    messages = [b"%d" % n * (n % 50) for n in range(3_000)]
    closed = len(door.closed)
    assert list(call(iter(messages), timeout=60)) == messages
    until(lambda: door.closed[closed:] == [0])


def test_bidi_turn_by_turn_and_cancel(door: EchoDoor, channel: grpc.Channel) -> None:
    waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    answers = channel.stream_stream("/test.Echo/Stream", same, same)(iter(waiting.get, None))
    for number in range(50):
        waiting.put(b"%d" % number)
        assert next(answers) == b"%d" % number
    closed = len(door.closed)
    answers.cancel()
    waiting.put(None)
    until(lambda: door.closed[closed:] == [1])


def test_stream_status(channel: grpc.Channel) -> None:
    answers = channel.stream_stream("/test.Echo/Stream", same, same)(iter([b"a", b"finish:11:late"]), timeout=20)
    assert next(answers) == b"a"
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.OUT_OF_RANGE, "late")


def test_a_slow_reader_costs_bounded_memory(door: EchoDoor, channel: grpc.Channel) -> None:
    """20 MB for a client that takes one message a while: what waits here stays below the bounds."""
    answers = channel.unary_stream("/test.Echo/Burst", same, same)(b"20000 1000", timeout=60)
    peak = total = 0
    for number, message in enumerate(answers):
        total += len(message)
        if number % 2_000 == 0:
            peak = max(peak, door.counters()["buffered_bytes"])
    assert total == 20_000_000
    assert peak < 3 << 20


def test_too_large_message() -> None:
    with EchoDoor(message_bytes_max=1_000) as small, grpc.insecure_channel(f"127.0.0.1:{small.port}", options=OPTIONS) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            unary(channel, "Batch")(bytes(100_000), timeout=20)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.details() == "grpc: received message larger than max (100000 vs. 1000)"
        assert unary(channel, "Batch")(b"fine", timeout=20) == b"fine"


def test_compressed_requests_are_taken() -> None:
    with EchoDoor() as plain, grpc.insecure_channel(f"127.0.0.1:{plain.port}", compression=grpc.Compression.Gzip) as channel:
        assert unary(channel, "Batch")(bytes(1_000), timeout=20) == bytes(1_000)
        answers = channel.stream_stream("/test.Echo/Stream", same, same)(iter([b"a" * 2_000, b"b" * 2_000]), timeout=20)
        assert list(answers) == [b"a" * 2_000, b"b" * 2_000]


def test_other_compression_is_refused_and_not_lost() -> None:
    with EchoDoor() as plain, grpc.insecure_channel(f"127.0.0.1:{plain.port}", compression=grpc.Compression.Deflate) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            unary(channel, "Batch")(bytes(1_000), timeout=20)
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert caught.value.details() == 'grpc: Decompressor is not installed for grpc-encoding "deflate"'


def test_client_keepalive_of_ten_seconds_policy_is_tolerated() -> None:
    """grpcio's fastest allowed pings, against a door that allows them: the stream stays."""
    keepalive = [("grpc.keepalive_time_ms", 300), ("grpc.keepalive_permit_without_calls", 1), ("grpc.http2.max_pings_without_data", 0)]
    with EchoDoor(ping_interval_min_ms=250) as fast, grpc.insecure_channel(f"127.0.0.1:{fast.port}", options=keepalive) as channel:
        waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        answers = channel.stream_stream("/test.Echo/Silent", same, same)(iter(waiting.get, None))
        ended = threading.Event()
        answers.add_callback(ended.set)
        assert not ended.wait(2)
        waiting.put(None)
        assert fast.counters()["floods_total"] == 0


def test_drain_lets_the_open_call_finish_and_refuses_new_ones() -> None:
    with EchoDoor() as leaving, grpc.insecure_channel(f"127.0.0.1:{leaving.port}") as channel:
        future = unary(channel, "Batch").future(b"hold")
        until(lambda: bool(leaving.held))
        draining = threading.Thread(target=lambda: leaving.run(leaving.engine.drain(10_000)))
        draining.start()
        time.sleep(0.3)  # a round trip between GOAWAY and its ping
        with pytest.raises(grpc.RpcError) as caught:
            unary(channel, "Batch")(b"late", timeout=5)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        leaving.loop.call_soon_threadsafe(leaving.engine.reply, leaving.held[0][0], b"answer")
        assert future.result(5) == b"answer"
        draining.join(5)
        assert not draining.is_alive()
        assert leaving.counters()["connections"] == 0


def test_streams_end_when_they_are_told_to_and_calls_are_not_touched() -> None:
    with EchoDoor() as leaving, grpc.insecure_channel(f"127.0.0.1:{leaving.port}") as channel:
        held = unary(channel, "Batch").future(b"hold")
        waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        waiting.put(b"before")
        stream = channel.stream_stream("/test.Echo/Stream", same, same)
        answers = stream(iter(waiting.get, None))
        assert next(answers) == b"before"
        until(lambda: bool(leaving.held))
        leaving.loop.call_soon_threadsafe(leaving.engine.end_streams)
        until(lambda: leaving.closed == [14])
        for one in (answers, stream(iter([b"late"]))):
            with pytest.raises(grpc.RpcError) as caught:
                next(one)
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNAVAILABLE, "server is shutting down")
        assert leaving.closed == [14], "a handler was made for the late one"
        leaving.loop.call_soon_threadsafe(leaving.engine.reply, leaving.held[0][0], b"answer")
        assert held.result(5) == b"answer"
        assert unary(channel, "Unary")(b"echo", timeout=5) is not None
        waiting.put(None)


def test_drain_cuts_what_does_not_end() -> None:
    with EchoDoor() as leaving, grpc.insecure_channel(f"127.0.0.1:{leaving.port}") as channel:
        waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        answers = channel.stream_stream("/test.Echo/Silent", same, same)(iter(waiting.get, None))
        call = unary(channel, "Unary").future(b"sleep")
        until(lambda: leaving.started == 1 and leaving.counters()["streams"] == 2)
        start = time.monotonic()
        leaving.run(leaving.engine.drain(300))
        assert time.monotonic() - start < 2
        waiting.put(None)
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert call.exception().code() == grpc.StatusCode.UNAVAILABLE
        until(lambda: leaving.closed == [14] and leaving.cancelled == 1)
        counters = leaving.counters()
        assert (counters["connections"], counters["streams_live"], counters["bodies_bytes"]) == (0, 0, 0)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    ca, folder = trustme.CA(), tmp_path_factory.mktemp("tls")
    server, client = ca.issue_cert("localhost", "127.0.0.1"), ca.issue_cert("worker@example.org")
    server.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "crt.pem").write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
    ca.cert_pem.write_to_path(folder / "ca.pem")
    chain = b"".join(blob.bytes() for blob in client.cert_chain_pems)
    return {"folder": folder, "ca": ca.cert_pem.bytes(), "key": client.private_key_pem.bytes(), "chain": chain}


def test_tls_with_client_certificates(authority: dict[str, Any]) -> None:
    folder = authority["folder"]
    context = server_context(f"{folder}/crt.pem", f"{folder}/key.pem", client_ca=f"{folder}/ca.pem", client_certificate_required=True)
    with EchoDoor(context=context, message_bytes_max=16 << 20) as door:
        mutual = grpc.ssl_channel_credentials(authority["ca"], authority["key"], authority["chain"])
        with grpc.secure_channel(f"localhost:{door.port}", mutual, options=OPTIONS) as channel:
            message = bytes(5 << 20)
            assert unary(channel, "Batch")(message, timeout=30) == message
            assert b"worker@example.org" in unary(channel, "Unary")(b"certificate", timeout=20)
            burst = channel.unary_stream("/test.Echo/Burst", same, same)(b"20000 100", timeout=60)
            assert sum(len(part) for part in burst) == 2_000_000
        with grpc.secure_channel(f"localhost:{door.port}", grpc.ssl_channel_credentials(authority["ca"])) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                unary(channel, "Batch")(b"x", timeout=5)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
