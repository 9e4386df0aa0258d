# One connection: sniffing, TLS, reading into the engine's buffer, writing once per tick, back-pressure.
#
# TLS lies between the socket and the rest: the transport is always the plain one, what it reads is ciphertext once `tls` is there.


cdef class BaseConnection:
    cdef Engine engine
    cdef door_connection *core
    cdef object transport, http1
    cdef object guard  # gives the TLS context and judges certificates; None = plaintext
    cdef object tls, incoming, outgoing  # an ssl.SSLObject and its two ssl.MemoryBIO, once the client has begun
    cdef object certificate  # what the client has proved, once somebody asked
    cdef bint plaintext_too  # the first byte decides
    cdef bint grpc, http  # what is served here
    cdef bint shaken, told, sealed, in_line
    cdef double in_line_since, in_line_s  # waiting for this server to go on with the handshake: not the client's fault
    cdef str peer
    cdef size_t closing_bytes
    cdef double closing_since  # that many bytes are left to be written before the end; 0 = it was not looked at yet
    cdef int socket  # -1 = not ours to write to
    cdef bint queued  # the transport may hold bytes that go first
    cdef bint polled  # the engine reads this socket, asyncio does not

    def __cinit__(self, Engine engine, guard=None, bint plaintext_too=False, bint grpc=True, bint http=True):
        self.engine, self.guard, self.plaintext_too = engine, guard, plaintext_too
        self.grpc, self.http = grpc, http and engine.on_http is not None
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
        self.core.grpc, self.core.web = self.grpc, self.http
        self.peer = peer_text(transport.get_extra_info("peername"))
        engine.joined(self)
        if engine.draining or (engine.connections_max and engine.core.connections_count > engine.connections_max):
            engine.core.refused_total += 1
            transport.abort()
            return
        sock = transport.get_extra_info("socket")
        keep_alive(sock)
        if sock is not None:
            self.socket = sock.fileno()
        transport.set_write_buffer_limits(high=65_536, low=16_384)

    def get_buffer(self, size_hint):
        return self.engine.read_view

    def buffer_updated(self, Py_ssize_t length):
        self.take(<const uint8_t *><char *>self.engine.read_buffer, length)

    cdef int take(self, const uint8_t *data, Py_ssize_t length) except -1:
        """What the socket gave, which lies at the beginning of the engine's buffer."""
        self.engine.core.now = self.core.read_at = self.engine.time()
        self.core.pinging = 0
        if self.guard is None:
            return self.take_plain(data, length)
        return self.take_sealed(data, length)

    cdef int take_plain(self, const uint8_t *data, Py_ssize_t length) except -1:
        cdef Engine engine = self.engine
        cdef door_connection *core = self.core
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
        self.measure()
        if self.http1 is not None:
            self.http1.paused = True
            if unread_over(self.engine.core):
                relieve(self.engine)

    def resume_writing(self):
        self.core.paused = 0
        connection_unwritten(self.core, 0)
        connection_dirty(self.core)
        self.engine.schedule()
        if self.http1 is not None:
            self.http1.resume()

    def connection_lost(self, error):
        cdef Engine engine = self.engine
        engine.read_no_more(self)
        self.socket = -1
        if self.incoming is not None and not self.shaken and not engine.draining:
            self.tell("closed in the handshake")
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
            if connection_start_http2(core, not self.peer):
                self.transport.abort()
                return 0
            if self.engine.core.streams_max < STREAMS_UNLIMITED:
                self.greet()
            self.engine.read_natively(self)
            self.feed(<const uint8_t *>core.sniff, PREFACE_BYTES)
            self.feed(data + i, length - i)
            return 0
        self.start_http1(core.sniff[:core.sniffed] + PyBytes_FromStringAndSize(<const char *>data + i, length - i))
        return 0

    cdef int greet(self) except -1:
        """Our SETTINGS, before anything else: they hold a number that libnghttp2 is not told."""
        cdef size_t length = connection_collect(self.core, self.engine.write_bytes)
        connection_tell_streams_max(self.core, length)
        return self.write(<const char *>self.engine.core.write_buffer, length)

    cdef int start_http1(self, bytes first) except -1:
        if not self.http or not 0x41 <= first[0] <= 0x5A:  # a method token; else a foreign protocol
            self.transport.abort()
            return 0
        self.core.phase = PHASE_HTTP1
        self.http1 = Http1Connection(
            self.transport if self.tls is None else SealedTransport(self), self.engine.dispatch_http, self.engine.charge_body,
            peer=self.peer, on_head=self.engine.dispatch_head, linger=self.linger, later=self.engine.call_soon,
            secure=self.tls is not None, certificate=self.client_certificate,
            body_bytes_max=self.engine.http_body_bytes_max, header_bytes_max=self.engine.core.header_list_bytes_max,
        )
        self.http1.feed(first)
        return 0

    def linger(self):
        """Half-closed, then closed: a reset would take the answer away from a client that still sends."""
        self.announce_end()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.engine.loop.call_later(LINGER_S, self.transport.close)

    # -- TLS

    cdef int take_sealed(self, const uint8_t *data, Py_ssize_t length) except -1:
        if self.incoming is None:
            if self.plaintext_too and data[0] != TLS_HANDSHAKE_RECORD:
                self.guard = None
                return self.take_plain(data, length)
            self.incoming, self.outgoing = ssl_module.MemoryBIO(), ssl_module.MemoryBIO()
        if self.sealed:  # lingering: what a client still sends is thrown away
            return 0
        self.incoming.write(self.engine.read_view[:length])
        if self.shaken:
            return self.unseal()
        self.transport.pause_reading()  # what is waiting to be decrypted stays one read
        self.in_line, self.in_line_since = True, self.engine.core.now
        return self.engine.shake_later(self)

    cdef int shake(self) except -1:
        """One step of the handshake with what has come; the guard has the last word."""
        self.in_line = False
        self.in_line_s += self.engine.core.now - self.in_line_since
        if self.transport.is_closing():
            return 0
        self.transport.resume_reading()
        if self.tls is None:
            self.tls = self.guard.context().wrap_bio(self.incoming, self.outgoing, server_side=True)
        try:
            self.tls.do_handshake()
        except SSLWantReadError:
            return self.send_sealed()
        except SSLError as error:
            self.send_sealed()  # the alert
            return self.refuse(tls_words(error))
        cause = self.guard.objection(self.tls)
        if cause:
            return self.refuse(cause)
        self.shaken = True
        self.core.secure = 1
        self.send_sealed()
        return self.unseal()

    cdef int refuse(self, cause) except -1:
        self.tell(cause)
        self.transport.close()
        return 0

    cdef int tell(self, cause) except -1:
        """Once per connection."""
        if not self.told:
            self.told = True
            self.guard.refused(self.peer, cause)
        return 0

    cdef int unseal(self) except -1:
        """All that can be decrypted. An end that the client announced is taken behind the answers of this turn."""
        cdef Engine engine = self.engine
        cdef Py_ssize_t count
        while not self.sealed and not self.transport.is_closing():  # behind our own end, what there still is counts as an error
            try:
                count = self.tls.read(PLAIN_BYTES, engine.plain_view)
            except SSLWantReadError:
                break
            except SSLError:
                self.transport.abort()
                return 0
            if not count:
                engine.call_soon(self.on_announced_end)
                break
            self.take_plain(<const uint8_t *><char *>engine.plain_buffer, count)
        return self.send_sealed()  # what TLS itself has to say

    def write_sealed(self, data):
        self.seal(memoryview(data))

    def close_sealed(self):
        self.close()

    def on_announced_end(self):
        if not self.eof_received():
            self.close()

    cdef int seal(self, data) except -1:
        cdef Py_ssize_t done = 0, length = len(data)
        if self.sealed or self.transport.is_closing():
            return 0
        try:
            while done < length:
                done += self.tls.write(data[done:])
        except SSLError:
            self.transport.abort()
            return 0
        return self.send_sealed()

    cdef int send_sealed(self) except -1:
        cdef bytes data
        if self.outgoing.pending:
            data = self.outgoing.read()
            if not self.transport.is_closing():
                self.write_raw(PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))
        return 0

    cdef int close(self) except -1:
        """What was written still goes out; with TLS the end is announced."""
        self.announce_end()
        self.transport.close()
        return 0

    cdef int announce_end(self) except -1:
        if self.shaken and not self.sealed and not self.transport.is_closing():
            try:
                self.tls.unwrap()
            except SSLError:  # the other side's end is not waited for
                pass
            self.send_sealed()
            self.sealed = True
        return 0

    def client_certificate(self):
        return self.peer_certificate()

    cdef object peer_certificate(self):
        if not self.shaken:
            return None
        if self.certificate is None:
            self.certificate = self.tls.getpeercert() or {}
        return self.certificate or None

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
        limit = engine.write_bytes if engine.core.unwritten_bytes < limits.UNWRITTEN_BYTES_MAX else 16_384
        total = connection_collect(core, limit)
        if total:
            self.write(<const char *>engine.core.write_buffer, total)
        if core.held_first != NULL:
            connection_release_held(core)
        if core.terminated or connection_finished(core):
            self.close()
        elif total >= limit and not core.paused and connection_wants_write(core):
            connection_dirty(core)
        return 0

    cdef int write(self, const char *data, size_t length) except -1:
        if self.tls is None:
            return self.write_raw(data, length)
        return self.seal(PyMemoryView_FromMemory(<char *>data, <Py_ssize_t>length, PyBUF_READ))

    cdef int write_raw(self, const char *data, size_t length) except -1:
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
        cdef double now = engine.core.now, silent_s = now - core.opened_at - self.in_line_s
        if self.transport.is_closing():
            return self.sweep_closing(now)
        if core.paused:
            self.measure()
        if core.phase == PHASE_SNIFF:
            if self.in_line:
                return 0
            if self.guard is not None and not self.shaken and silent_s > engine.handshake_timeout_s:
                if self.incoming is not None:
                    self.tell("timeout")
                self.transport.abort()
            elif silent_s > engine.first_request_timeout_s:
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

    cdef int measure(self) except -1:
        """Of a paused transport: what the peer has not taken yet."""
        connection_unwritten(self.core, self.transport.get_write_buffer_size())
        return 0

    cdef int cut_off(self) except -1:
        """The end, at once; what was to be sent is dropped. Handlers hear of it in the next tick."""
        self.engine.read_no_more(self)
        connection_end(self.core)
        self.transport.abort()
        self.engine.schedule()
        return 0

    cdef int sweep_closing(self, double now) except -1:
        """Who takes nothing more of what was written to it is not waited for."""
        cdef size_t left = self.transport.get_write_buffer_size()
        if not self.closing_since or left < self.closing_bytes:
            self.closing_since, self.closing_bytes = now, left
        elif now - self.closing_since > self.engine.server_ping_timeout_s:
            self.transport.abort()
        return 0

    cdef int begin_drain(self) except -1:
        if self.core.phase == PHASE_HTTP2:
            connection_announce_end(self.core)
        elif self.core.phase == PHASE_HTTP1:
            self.http1.drain()
        else:
            self.close()
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
            if stream.kind == KIND_WEB:
                web_reset(stream, 8)
            else:
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


class SealedTransport:
    """What HTTP/1 sees of a connection with TLS."""

    __slots__ = ("close", "is_closing", "pause_reading", "resume_reading", "write")

    def __init__(self, BaseConnection connection):
        transport = connection.transport
        self.pause_reading, self.resume_reading, self.is_closing = transport.pause_reading, transport.resume_reading, transport.is_closing
        self.write, self.close = connection.write_sealed, connection.close_sealed


def peer_text(address):
    """host:port, [host]:port, or "" for a unix socket."""
    if not isinstance(address, tuple):
        return ""
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def keep_alive(sock):
    """A peer that vanished without a word is noticed by the kernel."""
    if sock is not None and sock.family != getattr(socket_module, "AF_UNIX", None):
        sock.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_KEEPALIVE, 1)
