"""The registry of etcd's v3 discovery, read and written through gRPC; imported only by a start that discovers.

An endpoint that does not answer is followed by the next one until the time of the request is over. Raises ServiceError alone.
"""

import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc

from raftsched.cli.channel import PLAIN, Tls, open_channel
from raftsched.config.etcd.discovery import DiscoveryOptions
from raftsched.config.etcd.registry import DiscoveryError
from raftsched.errors import ETCD_STATUS, ConfigError, EtcdError
from raftsched.pb.etcd import kv_pb2, rpc_pb2, rpc_pb2_grpc

KEEPALIVE_MS_MIN: Final = 10_000  # as gRPC's client in Go
PAUSE_S: Final = 0.1  # after all endpoints failed
LATE: Final = "context deadline exceeded"
NO_AUTH: Final = ETCD_STATUS[EtcdError.AUTH_NOT_ENABLED][1]
BAD_TOKEN: Final = ETCD_STATUS[EtcdError.INVALID_AUTH_TOKEN][1]


class ServiceError(Exception):
    """The service did not do what it was asked; in etcd's words."""


class Pair(NamedTuple):
    """Of the registry, without spaces around."""

    key: str
    value: str
    created: int
    raw: bytes


class Registry:
    """One user of the service. `close` ends its connections."""

    def __init__(self, options: DiscoveryOptions) -> None:
        """Raises DiscoveryError: a file for TLS is not there."""
        check_files(options)
        self._options = options
        self._channels: dict[str, grpc.Channel] = {}
        self._at = 0
        self._token = ""

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def login(self) -> None:
        """For a user with a password; a service without users is asked without a name. Raises ServiceError."""
        if not self._options.user or not self._options.password:
            return
        request = rpc_pb2.AuthenticateRequest(name=self._options.user, password=self._options.password)
        try:
            self._token = self._call(
                lambda channel: rpc_pb2_grpc.AuthStub(channel).Authenticate, request, self._options.dial_timeout_s
            ).token
        except ServiceError as error:
            if str(error) != NO_AUTH:
                raise

    def read(self, key: str, *, below: bool = False) -> tuple[list[Pair], int]:
        """The pair, or all whose keys begin so, and the revision of the service."""
        request = rpc_pb2.RangeRequest(key=key.encode(), range_end=_end_of(key) if below else b"")
        answer = self._request(lambda channel: rpc_pb2_grpc.KVStub(channel).Range, request)
        return [_pair(one) for one in answer.kvs], answer.header.revision

    def write(self, key: str, value: str) -> None:
        request = rpc_pb2.PutRequest(key=key.encode(), value=value.encode())
        self._request(lambda channel: rpc_pb2_grpc.KVStub(channel).Put, request)

    def watch(self, prefix: str, revision: int) -> Iterator[list[Pair]]:
        """Changes from `revision` on, for ever. Raises ServiceError as soon as that is over."""
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        wanted = rpc_pb2.WatchCreateRequest(key=prefix.encode(), range_end=_end_of(prefix), start_revision=revision)
        requests.put(rpc_pb2.WatchRequest(create_request=wanted))
        stream = None
        try:
            stream = rpc_pb2_grpc.WatchStub(self._channel()).Watch(iter(requests.get, None), metadata=self._metadata())
            for answer in stream:
                if answer.canceled:
                    raise ServiceError(answer.cancel_reason or "the watch was canceled")
                if answer.events:
                    yield [_pair(event.kv) for event in answer.events]
        except grpc.RpcError as error:
            raise ServiceError(_words(error)) from None
        finally:
            requests.put(None)
            if stream is not None:
                stream.cancel()  # type: ignore[no-untyped-call]  # its stubs leave it out
        raise ServiceError("the watch has ended")

    def _request(self, method: Callable[[grpc.Channel], Any], request: Any) -> Any:
        """Logs in anew when the token is not known any more."""
        try:
            return self._call(method, request, self._options.request_timeout_s)
        except ServiceError as error:
            if str(error) != BAD_TOKEN or not self._token:
                raise
        self.login()
        return self._call(method, request, self._options.request_timeout_s)

    def _call(self, method: Callable[[grpc.Channel], Any], request: Any, timeout_s: float) -> Any:
        end_s = time.monotonic() + timeout_s
        failed = 0
        while (left_s := end_s - time.monotonic()) > 0:
            try:
                return method(self._channel())(request, timeout=self._attempt_s(left_s), metadata=self._metadata())
            except (grpc.RpcError, ConfigError) as error:  # ConfigError: nobody shows a certificate
                if isinstance(error, grpc.RpcError) and not _is_silence(error):
                    raise ServiceError(_words(error)) from None
            self._at += 1
            failed += 1
            if failed % len(self._options.endpoints) == 0:
                time.sleep(min(PAUSE_S, max(end_s - time.monotonic(), 0)))
        raise ServiceError(LATE)

    def _attempt_s(self, left_s: float) -> float:
        """For one of several endpoints, lest a silent one takes all the time."""
        dial_s = self._options.dial_timeout_s
        return min(left_s, dial_s) if len(self._options.endpoints) > 1 and dial_s > 0 else left_s

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("token", self._token),) if self._token else ()

    def _channel(self) -> grpc.Channel:
        """To the present endpoint. Raises ConfigError."""
        endpoint = self._options.endpoints[self._at % len(self._options.endpoints)].strip()
        if endpoint not in self._channels:
            self._channels[endpoint] = _open(endpoint, self._options)
        return self._channels[endpoint]


def check_files(options: DiscoveryOptions) -> None:
    """Raises DiscoveryError with etcd's words."""
    if bool(options.cert) != bool(options.key):
        raise DiscoveryError(f"KeyFile and CertFile must both be present[key: {options.key}, cert: {options.cert}]")
    for path in filter(None, (options.cert, options.key, options.cacert)):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise DiscoveryError(f"open {path}: {(error.strerror or str(error)).lower()}") from None


def _open(endpoint: str, options: DiscoveryOptions) -> grpc.Channel:
    """http:// never speaks TLS, https:// always, others if any option of TLS is given. Raises ConfigError."""
    settings: list[tuple[str, Any]] = []
    if options.keepalive_ms:
        settings = [
            ("grpc.keepalive_time_ms", max(options.keepalive_ms, KEEPALIVE_MS_MIN)),
            ("grpc.keepalive_timeout_ms", options.keepalive_timeout_ms),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    if endpoint.startswith("unix:"):
        return grpc.insecure_channel("unix:" + endpoint.removeprefix("unix:").removeprefix("//"), options=settings)
    if endpoint.startswith("http://"):
        return open_channel(endpoint, PLAIN, settings)
    cacert, cert, key = (Path(path) if path else None for path in (options.cacert, options.cert, options.key))
    tls = Tls(cacert, cert, key, options.skip_verify)
    if "://" not in endpoint and not options.insecure_transport:
        endpoint = f"https://{endpoint}"
    return open_channel(endpoint, tls, settings)


def _is_silence(error: grpc.RpcError) -> bool:
    return isinstance(error, grpc.Call) and error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def _words(error: grpc.RpcError) -> str:
    return str(error.details() or error.code().name) if isinstance(error, grpc.Call) else str(error)


def _pair(pair: kv_pb2.KeyValue) -> Pair:
    key, value = (data.decode(errors="replace").strip() for data in (pair.key, pair.value))
    return Pair(key, value, pair.create_revision, pair.value)


def _end_of(prefix: str) -> bytes:
    """Of all keys that begin so; the last byte is ASCII."""
    data = prefix.encode()
    return data[:-1] + bytes((data[-1] + 1,))
