# One TCP connection: sniffing, reading into the engine's buffer, writing once per tick, back-pressure.


cdef class BaseConnection:
    cdef Engine engine
    cdef door_connection *core
    cdef object transport, http1
    cdef str peer
    cdef size_t unwritten
    cdef int socket  # -1 = not ours to write to: TLS stands between
    cdef bint queued  # the transport may hold bytes that go first
    cdef bint polled  # the engine reads this socket, asyncio does not

    def __cinit__(self, Engine engine):
        self.engine = engine
        self.core = NULL
        self.peer = ""
        self.socket = -1

    def __dealloc__(self):
        if self.core != NULL:
            connection_free(self.core)

    # -- asyncio

    def connection_made(self, transport):
        cdef Engine engine = self.engine
        engine.core.now = engine.time()
        self.transport = transport
        self.core = connection_new(engine.core)
        if self.core == NULL:
            transport.abort()
            raise MemoryError
        self.core.python = <void *>self
        self.peer = peer_text(transport.get_extra_info("peername"))
        engine.joined(self)
        if engine.draining or (engine.connections_max and engine.core.connections_count > engine.connections_max):
            engine.core.refused_total += 1
            transport.abort()
            return
        sock = transport.get_extra_info("socket")
        keep_alive(sock)
        if sock is not None and transport.get_extra_info("sslcontext") is None:
            self.socket = sock.fileno()
        transport.set_write_buffer_limits(high=65_536, low=16_384)

    def get_buffer(self, size_hint):
        return self.engine.read_view

    def buffer_updated(self, Py_ssize_t length):
        self.take(<const uint8_t *><char *>self.engine.read_buffer, length)

    cdef int take(self, const uint8_t *data, Py_ssize_t length) except -1:
        cdef Engine engine = self.engine
        cdef door_connection *core = self.core
        engine.core.now = core.read_at = engine.time()
        core.pinging = 0
        if core.phase == PHASE_HTTP2:
            self.feed(data, length)
        elif core.phase == PHASE_HTTP1:
            engine.core.bytes_in += length
            self.http1.feed(PyBytes_FromStringAndSize(<const char *>data, length))
        elif core.phase == PHASE_SNIFF:
            self.sniff(data, length)
        return 0

    def eof_received(self):
        return self.http1 is not None and self.http1.eof()

    def pause_writing(self):
        self.core.paused = 1
        self.unwritten = self.transport.get_write_buffer_size()
        self.engine.paused_bytes += self.unwritten
        if self.http1 is not None:
            self.http1.paused = True

    def resume_writing(self):
        self.core.paused = 0
        self.engine.paused_bytes -= self.unwritten
        self.unwritten = 0
        connection_dirty(self.core)
        self.engine.schedule()
        if self.http1 is not None:
            self.http1.resume()

    def connection_lost(self, error):
        cdef Engine engine = self.engine
        engine.read_no_more(self)
        self.socket = -1
        engine.paused_bytes -= self.unwritten
        self.unwritten = 0
        engine.core.now = engine.time()
        if self.http1 is not None:
            self.http1.lost()
            self.http1 = None
        if self.core != NULL:
            connection_end(self.core)
        engine.left(self)
        if engine.core.ready_count:
            engine.schedule()

    # -- bytes in

    cdef int feed(self, const uint8_t *data, size_t length) except -1:
        if connection_feed(self.core, data, length):
            self.core.terminated = 1
        self.engine.schedule()
        return 0

    cdef int sniff(self, const uint8_t *data, size_t length) except -1:
        """The preface of HTTP/2, or a request line; may take several reads. Nothing is sent before it is known."""
        cdef door_connection *core = self.core
        cdef size_t i = 0
        cdef bint same = True
        while i < length and core.sniffed < PREFACE_BYTES:
            core.sniff[core.sniffed] = <char>data[i]
            same = same and core.sniff[core.sniffed] == PREFACE[core.sniffed]
            core.sniffed += 1
            i += 1
            if not same:
                break
        if same and core.sniffed < PREFACE_BYTES:
            return 0
        if same:
            if connection_start_http2(core):
                self.transport.abort()
                return 0
            self.engine.read_natively(self)
            self.feed(<const uint8_t *>core.sniff, PREFACE_BYTES)
            self.feed(data + i, length - i)
            return 0
        self.start_http1(core.sniff[:core.sniffed] + PyBytes_FromStringAndSize(<const char *>data + i, length - i))
        return 0

    cdef int start_http1(self, bytes first) except -1:
        if self.engine.on_http is None or not 0x41 <= first[0] <= 0x5A:  # a method token; else a foreign protocol
            self.transport.abort()
            return 0
        self.core.phase = PHASE_HTTP1
        self.http1 = Http1Connection(
            self.transport, self.dispatch_http, self.engine.charge_body, peer=self.peer,
            body_bytes_max=self.engine.http_body_bytes_max, header_bytes_max=self.engine.core.header_list_bytes_max,
        )
        self.http1.feed(first)
        return 0

    def dispatch_http(self, request):
        self.engine.http_requests_total += 1
        self.engine.core.requests_total += 1
        try:
            self.engine.on_http(request)
        except Exception as error:
            self.engine.report(request.target, error)
            request.fail()

    # -- bytes out

    cdef int flush_connection(self) except -1:
        cdef Engine engine = self.engine
        cdef door_connection *core = self.core
        cdef size_t limit, total
        if core.phase != PHASE_HTTP2 or self.transport.is_closing():
            return 0
        if core.paused:
            if core.terminated:
                self.transport.abort()
            return 0
        limit = engine.write_bytes if engine.paused_bytes < limits.UNWRITTEN_BYTES_MAX else 16_384
        total = connection_collect(core, limit)
        if total:
            self.write(<const char *>engine.core.write_buffer, total)
        if core.held_first != NULL:
            connection_release_held(core)
        if core.terminated or connection_finished(core):
            self.transport.close()
        elif total >= limit and not core.paused and connection_wants_write(core):
            connection_dirty(core)
        return 0

    cdef int write(self, const char *data, size_t length) except -1:
        """To the socket itself while it takes everything; what it does not take, and its errors, are the transport's."""
        cdef ssize_t sent = 0
        if self.queued:
            self.queued = self.transport.get_write_buffer_size() > 0
        if self.socket >= 0 and not self.queued:
            sent = send(self.socket, data, length, MSG_NOSIGNAL | MSG_DONTWAIT)
            if sent == <ssize_t>length:
                return 0
            if sent < 0:
                sent = 0
        self.queued = True
        self.transport.write(PyBytes_FromStringAndSize(data + sent, <ssize_t>length - sent))
        return 0

    # -- time and the end

    cdef int sweep_connection(self) except -1:
        cdef Engine engine = self.engine
        cdef door_connection *core = self.core
        cdef double now = engine.core.now
        if core.phase == PHASE_SNIFF:
            if now - core.opened_at > engine.first_request_timeout_s:
                self.transport.abort()
        elif core.phase == PHASE_HTTP1:
            self.http1.sweep(now, core.read_at, engine.first_request_timeout_s)
        elif core.phase == PHASE_HTTP2 and engine.server_ping_idle_s:
            if core.pinging:
                if now - core.ping_sent_at > engine.server_ping_timeout_s:
                    self.transport.abort()
            elif now - core.read_at >= engine.server_ping_idle_s:
                connection_ping(core)
        return 0

    cdef int begin_drain(self) except -1:
        if self.core.phase == PHASE_HTTP2:
            connection_announce_end(self.core)
        elif self.core.phase == PHASE_HTTP1:
            self.http1.drain()
        else:
            self.transport.close()
        return 0

    cdef int end_connection_streams(self) except -1:
        cdef door_stream *stream = self.core.streams
        while stream != NULL:
            if stream.kind == KIND_STREAM and stream.method != NULL:
                stream_end(stream)
            stream = stream.next
        connection_dirty(self.core)
        return 0

    cdef int cut_connection(self) except -1:
        cdef door_stream *stream = self.core.streams
        if self.core.phase != PHASE_HTTP2:
            return 0
        while stream != NULL:  # finishing does not unlink: nghttp2 closes it later
            stream_end(stream)
            if stream.kind == KIND_UNARY and stream.owner != NULL:
                (<object>stream.owner).cancel()
            stream = stream.next
        connection_refuse_new(self.core)
        connection_dirty(self.core)
        return 0


class Connection(BaseConnection, asyncio.BufferedProtocol):
    """asyncio asks the class whether it reads into a buffer."""

    __slots__ = ()


def peer_text(address):
    """host:port, [host]:port, or "" for a unix socket."""
    if not isinstance(address, tuple):
        return ""
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def keep_alive(sock):
    """A peer that vanished without a word is noticed by the kernel."""
    if sock is not None and sock.family != getattr(socket_module, "AF_UNIX", None):
        sock.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_KEEPALIVE, 1)
