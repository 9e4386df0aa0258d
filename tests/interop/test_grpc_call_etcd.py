"""The call that asks Sentry, against a server in Go: a real etcd, whose gRPC is Sentry's."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftsched.errors import GrpcCode, StatusError
from raftsched.pb.etcd import rpc_pb2
from raftsched.security.dialing import connect
from raftsched.security.grpc_call import Exchange, call
from raftsched.testing.authority import Authority
from raftsched.testing.etcd import RealEtcd
from raftsched.testing.process import free_ports

KV = "/etcdserverpb.KV/"


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, etcd_program: Path) -> Iterator[tuple[Authority, int]]:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    authority.issue("server")
    port = free_ports(1)[0]
    etcd = RealEtcd(tmp_path_factory.mktemp("etcd"), etcd_program)
    urls = f"http://127.0.0.1:{etcd.port},https://127.0.0.1:{port}"
    files = [f"--cert-file={authority.path('server.crt')}", f"--key-file={authority.path('server.key')}"]
    etcd.add_flags([f"--listen-client-urls={urls}", f"--advertise-client-urls=http://127.0.0.1:{etcd.port}", *files])
    with etcd:
        yield authority, port


async def ask(secured: tuple[Authority, int], method: str, message: bytes, *, answer_bytes_max: int = 1 << 20) -> bytes:
    authority, port = secured
    context = authority.client_context(alpn=("h2",))
    shown: list[str] = []

    def judge(tls: ssl.SSLObject) -> None:
        shown.append(tls.selected_alpn_protocol() or "")

    exchange = Exchange(f"127.0.0.1:{port}", method, message, timeout_s=10, answer_bytes_max=answer_bytes_max)
    found = await call(exchange, await connect([("127.0.0.1", port)], context, "127.0.0.1"), judge)
    assert shown == ["h2"]
    return found


async def test_answers_small_and_large(secured: tuple[Authority, int]) -> None:
    large = bytes(700_000)  # more than any window at the beginning, in both directions
    put = rpc_pb2.PutRequest(key=b"k", value=large)
    assert rpc_pb2.PutResponse.FromString(await ask(secured, KV + "Put", put.SerializeToString())).header.revision > 1
    found = await ask(secured, KV + "Range", rpc_pb2.RangeRequest(key=b"k").SerializeToString())
    assert rpc_pb2.RangeResponse.FromString(found).kvs[0].value == large
    with pytest.raises(StatusError, match="the answer is too large"):
        await ask(secured, KV + "Range", rpc_pb2.RangeRequest(key=b"k").SerializeToString(), answer_bytes_max=1_000)


async def test_refusals(secured: tuple[Authority, int]) -> None:
    for method, message, code, text in (
        ("Put", b"", GrpcCode.INVALID_ARGUMENT, "etcdserver: key is not provided"),
        (
            "Range",
            rpc_pb2.RangeRequest(key=b"k", revision=1 << 40).SerializeToString(),
            GrpcCode.OUT_OF_RANGE,
            "etcdserver: mvcc: required",
        ),
        ("Nothing", b"", GrpcCode.UNIMPLEMENTED, "unknown method Nothing for service etcdserverpb.KV"),
    ):
        with pytest.raises(StatusError) as caught:
            await ask(secured, KV + method, message)
        assert caught.value.code == code
        assert caught.value.message.startswith(text)
