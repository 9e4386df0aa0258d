"""An HTTP/2 client over a real socket for requests that are no gRPC, with or without TLS."""

import json
import socket
import ssl
from collections.abc import Mapping
from typing import Any, Self

import h2.config
import h2.connection
import h2.events

from raftsched.testing.http_peer import Answered


class Http2Peer:
    """One connection; a context manager."""

    def __init__(self, port: int, *, timeout_s: float = 10.0, context: ssl.SSLContext | None = None) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self._scheme = "http" if context is None else "https"
        if context is not None:
            tls = context.wrap_socket(self._socket, server_hostname="localhost", suppress_ragged_eofs=False)
            assert tls.selected_alpn_protocol() == "h2"
            self._socket = tls
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self._heads: dict[int, tuple[tuple[str, str], ...]] = {}
        self._data: dict[int, bytes] = {}
        self._ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.h2.initiate_connection()
        self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        end: bool = True,
        host: str = "localhost",
    ) -> int:
        """The stream's number. `end`: there is no more to the body."""
        stream = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", self._scheme), (":path", path), (":authority", host), *(headers or {}).items()]
        self.h2.send_headers(stream, head, end_stream=end and not body)
        self._data[stream] = b""
        if body:
            self.send(stream, body, end=end)
        self._flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Waits for room."""
        while data or end:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if data and not room:
                self._flush()
                self._more()
                continue
            part, data = data[:room], data[room:]
            self.h2.send_data(stream, part, end_stream=end and not data)
            if not data:
                break
        self._flush()

    @property
    def streams_max(self) -> int:
        """What the other side has told; setting it makes this side forget that."""
        return self.h2.remote_settings.max_concurrent_streams

    @streams_max.setter
    def streams_max(self, number: int) -> None:
        self.h2.remote_settings.max_concurrent_streams = number
        self.h2.remote_settings.acknowledge()

    def reset(self, stream: int) -> None:
        self.h2.reset_stream(stream, 8)
        self._flush()

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, host: str = "localhost"
    ) -> Answered:
        return self.answer(self.request(method, path, body, headers, host=host))

    # -- what comes back

    def head(self, stream: int) -> Answered:
        """Status and headers, names in lower case, without the date."""
        while stream not in self._heads:
            self._more(stream)
        fields = self._heads[stream]
        return Answered(int(fields[0][1]), tuple(one for one in fields[1:] if one[0] != "date"), b"")

    def answer(self, stream: int) -> Answered:
        """A whole one."""
        while stream not in self._ended:
            self._more(stream)
        return self.head(stream)._replace(body=self._data[stream])

    def line(self, stream: int) -> Any:
        """The next object of a stream of the gateway."""
        while b"\n" not in self._data[stream]:
            assert stream not in self._ended, self._data[stream]
            self._more(stream)
        line, _, self._data[stream] = self._data[stream].partition(b"\n")
        return json.loads(line)

    def is_over(self, stream: int) -> bool:
        """Waits for the end of an answer of which nothing is left."""
        while stream not in self._ended:
            self._more(stream)
        return not self._data[stream]

    def _flush(self) -> None:
        self._socket.sendall(self.h2.data_to_send())

    def _more(self, stream: int = 0) -> None:
        if stream in self.resets and stream not in self._ended:
            raise ConnectionError(f"stream {stream} was reset: {self.resets[stream]}")
        data = self._socket.recv(1 << 20)
        if not data:
            raise ConnectionError("closed")
        for event in self.h2.receive_data(data):
            self._take(event)
        self._flush()

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            self._heads[event.stream_id] = tuple(event.headers)  # type: ignore[arg-type]
        elif isinstance(event, h2.events.DataReceived):
            self._data[event.stream_id] += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self._ended.add(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.resets[event.stream_id] = int(event.error_code)
