"""Logging in to the etcd API, for commands that an administrator may run while authentication is on.

A server whose authentication is off says so, and is asked without a token, as `etcdctl --user` does it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import grpc
import typer

from raftsched.errors import ETCD_STATUS, EtcdError
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc

User = Annotated[
    str, typer.Option("--user", envvar="RAFTSCHED_ETCD_USER", show_default=False, help="NAME:PASSWORD, where the etcd API asks for a user.")
]
OFF: Final = ETCD_STATUS[EtcdError.AUTH_NOT_ENABLED][1]


class _Details(NamedTuple):
    """What gRPC asks of a call's details; its own class has no public constructor."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


if TYPE_CHECKING:
    Unary = grpc.UnaryUnaryClientInterceptor[Any, Any]  # generic in the stubs alone
    Streaming = grpc.UnaryStreamClientInterceptor[Any, Any]
else:
    Unary, Streaming = grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor


class Bearing(Unary, Streaming):
    """Puts the token before every call's own metadata."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        metadata = (("token", self._token), *(details.metadata or ()))
        return continuation(
            _Details(details.method, details.timeout, metadata, details.credentials, details.wait_for_ready, details.compression), request
        )

    def intercept_unary_stream(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return self.intercept_unary_unary(continuation, details, request)


def logged_in(channel: grpc.Channel, user: str, timeout_s: float = 30.0) -> grpc.Channel:
    """The channel in the name of `user`, NAME:PASSWORD; "" = nobody's. Raises grpc.RpcError."""
    if not user:
        return channel
    name, _, password = user.partition(":")
    try:
        request = rpc_pb2.AuthenticateRequest(name=name, password=password)
        token = rpc_pb2_grpc.AuthStub(channel).Authenticate(request, timeout=timeout_s).token
    except grpc.RpcError as error:
        if isinstance(error, grpc.Call) and error.details() == OFF:
            return channel
        raise
    return grpc.intercept_channel(channel, Bearing(token))
