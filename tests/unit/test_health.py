"""grpc.health.v1, reflection and /healthz: answers, changes, and what they do with nonsense."""

import asyncio
import json
import socket
from collections.abc import Iterator

import grpc
import pytest

from raftsched.pb.wellknown import health_pb2, reflection_v1_pb2, reflection_v1alpha_pb2
from raftsched.rpc.health import HEALTH, HealthService, HealthzServer, add_reflection
from raftsched.testing.door import EchoDoor

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


@pytest.fixture
def door() -> Iterator[tuple[EchoDoor, HealthService]]:
    service = HealthService()
    with EchoDoor() as opened:

        async def register() -> None:
            service.register(opened.engine)
            add_reflection(opened.engine, ["test.Echo", HEALTH])

        opened.run(register())
        yield opened, service


async def call_soon(service: HealthService, serving: bool, name: str) -> None:
    service.set_serving(serving, name)


def test_check_and_list(door: tuple[EchoDoor, HealthService]) -> None:
    opened, service = door
    with grpc.insecure_channel(f"127.0.0.1:{opened.port}") as channel:
        encode, decode = health_pb2.HealthCheckRequest.SerializeToString, health_pb2.HealthCheckResponse.FromString
        check = channel.unary_unary(f"/{HEALTH}/Check", encode, decode)
        assert check(health_pb2.HealthCheckRequest(), timeout=5).status == NOT_SERVING
        opened.run(call_soon(service, True, ""))
        assert check(health_pb2.HealthCheckRequest(), timeout=5).status == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            check(health_pb2.HealthCheckRequest(service="nobody"), timeout=5)
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "unknown service")
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"/{HEALTH}/Check")(b"\xff\xff", timeout=5)
        assert caught.value.code() == grpc.StatusCode.INTERNAL
        listed = health_pb2.HealthListResponse.FromString(channel.unary_unary(f"/{HEALTH}/List")(b"", timeout=5))
        assert {name: status.status for name, status in listed.statuses.items()} == {"": SERVING}


def test_watch_tells_each_change_once(door: tuple[EchoDoor, HealthService]) -> None:
    opened, service = door
    with grpc.insecure_channel(f"127.0.0.1:{opened.port}") as channel:
        watch = channel.unary_stream(f"/{HEALTH}/Watch", response_deserializer=health_pb2.HealthCheckResponse.FromString)
        answers = watch(health_pb2.HealthCheckRequest(service="kv").SerializeToString(), timeout=20)
        assert next(answers).status == SERVICE_UNKNOWN
        for serving in (True, True, False, True):
            opened.run(call_soon(service, serving, "kv"))
        assert [next(answers).status for _ in range(3)] == [SERVING, NOT_SERVING, SERVING]
        answers.cancel()


def test_the_table_of_names_is_bounded() -> None:
    service = HealthService()
    for number in range(99):
        service.set_serving(True, str(number))
    with pytest.raises(ValueError, match="too many"):
        service.set_serving(True, "one more")


@pytest.mark.parametrize(("version", "module"), [("v1", reflection_v1_pb2), ("v1alpha", reflection_v1alpha_pb2)])
def test_reflection(door: tuple[EchoDoor, HealthService], version: str, module: object) -> None:
    opened, _ = door
    request = module.ServerReflectionRequest  # type: ignore[attr-defined]
    decode = module.ServerReflectionResponse.FromString  # type: ignore[attr-defined]
    questions = [
        request(list_services=""),
        request(file_containing_symbol=HEALTH),
        request(file_by_filename="raftsched/pb/wellknown/health.proto"),
        request(file_containing_symbol="no.Such"),
        request(all_extension_numbers_of_type="grpc.health.v1.HealthCheckRequest"),
    ]
    with grpc.insecure_channel(f"127.0.0.1:{opened.port}") as channel:
        ask = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo", request.SerializeToString, decode)
        listed, by_symbol, by_name, missing, numbers = list(ask(iter(questions), timeout=20))
    assert {"test.Echo", HEALTH} < {service.name for service in listed.list_services_response.service}
    assert by_symbol.file_descriptor_response == by_name.file_descriptor_response
    assert b"HealthCheckRequest" in by_name.file_descriptor_response.file_descriptor_proto[0]
    assert (missing.error_response.error_code, missing.original_request) == (5, questions[3])
    assert numbers.all_extension_numbers_response.base_type_name == "grpc.health.v1.HealthCheckRequest"


async def test_healthz() -> None:
    ready = False
    server = HealthzServer(asyncio.get_running_loop(), lambda: ready, stuck=dict)
    port = (await server.listen("127.0.0.1", 0)).sockets[0].getsockname()[1]

    async def get(path: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, family=socket.AF_INET)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    assert (await get("/healthz")).startswith(b"HTTP/1.1 503 ")
    ready = True
    answer = await get("/healthz?x")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n")
    for path in ("/", "//[", "http://[", "/%zz"):
        assert (await get(path)).startswith(b"HTTP/1.1 404 "), path
    assert (await get("http://a:1/healthz")).startswith(b"HTTP/1.1 200 ")
    await server.close()


async def test_readyz() -> None:
    stuck = {"commit": "results wait"}
    server = HealthzServer(asyncio.get_running_loop(), lambda: True, stuck=lambda: stuck)
    port = (await server.listen("127.0.0.1", 0)).sockets[0].getsockname()[1]

    async def get(path: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, family=socket.AF_INET)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    answer = await get("/readyz")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"ready": False, "stuck": {"commit": "results wait"}}
    assert (await get("/healthz")).startswith(b"HTTP/1.1 200 ")
    stuck.clear()
    answer = await get("/readyz?verbose")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"application/json" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"ready": True, "stuck": {}}
    await server.close()
