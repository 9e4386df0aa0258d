# What is HTTP and no gRPC on an HTTP/2 connection: news of such streams, and what http2.py holds of one.


cdef class WebStream:
    """One request of HTTP/2 that is no gRPC; see _h2.pyi."""
    cdef Engine engine
    cdef readonly int64_t handle
    cdef readonly str peer
    cdef readonly bint secure

    cdef door_stream *stream(self) noexcept:
        """None for one whose answer is over, or whose client is gone."""
        cdef door_stream *stream = stream_find(self.engine.core, self.handle)
        return NULL if stream == NULL or stream.connection == NULL or stream.finished else stream

    def head(self):
        """(method, target, headers) as HTTP/1.1 has them: `:authority` is the host; what the door understands for gRPC is told again."""
        cdef door_stream *stream = self.stream()
        cdef str method = "POST", target = "", host = ""
        cdef list headers = []
        cdef bytes name, value
        cdef int i
        if stream == NULL:
            return method, target, headers
        for i in range(stream.fields_count):
            name, value = buffer_bytes(stream.fields[i].name), buffer_bytes(stream.fields[i].value)
            if name == b":path":
                target = value.decode("latin-1")
            elif name == b":method":
                method = value.decode("latin-1")
            elif name == b":authority":
                host = value.decode("latin-1")
            else:
                headers.append((name.decode("latin-1"), value.decode("latin-1")))
        if stream.method != NULL:
            target = PyBytes_FromStringAndSize(stream.method.path, stream.method.length).decode("latin-1")
        if stream.has_timeout:
            headers.append(("grpc-timeout", f"{ceil(stream.timeout_s * 1e6):.0f}u"))
        if host:
            headers.insert(0, ("host", host))
        return method, target or host, headers

    def start(self, list fields, bint last):
        cdef door_stream *stream = self.stream()
        if stream != NULL:
            if web_start(stream, <PyObject *>fields, last):
                raise MemoryError
            self.engine.schedule()

    cpdef bint write(self, bytes part) except -1:
        cdef door_stream *stream = self.stream()
        if stream == NULL:
            return False
        if web_append(stream, <PyObject *>part):
            raise MemoryError
        self.engine.schedule()
        return has_room(self.engine, stream, self.handle)

    def end(self):
        cdef door_stream *stream = self.stream()
        if stream != NULL:
            web_finish(stream)
            self.engine.schedule()

    def go_on(self):
        """There is room for more of the body."""
        cdef door_stream *stream = self.stream()
        if stream != NULL and stream.input_held:
            stream.input_held = 0
            stream_event(stream, 0, self.engine.core)
            self.engine.schedule()

    def proceed(self):
        cdef door_stream *stream = self.stream()
        if stream != NULL:
            web_proceed(stream)
            self.engine.schedule()

    def reset(self, uint32_t error_code):
        cdef door_stream *stream = self.stream()
        if stream != NULL:
            web_reset(stream, error_code)
            self.engine.schedule()

    def peer_certificate(self):
        return self.engine.peer_certificate(self.handle)


cdef int deliver_web(Engine engine, door_stream *stream) except -1:
    cdef door_engine *core = engine.core
    cdef int events = stream.events, kept = 0
    cdef bint born = False
    cdef list parts = None
    cdef object exchange = None
    if stream.connection != NULL and not stream.finished:
        if stream.held:
            return 0
        if not stream.opened and connection_behind(stream.connection):
            stream_hold(stream)
            return 0
        if stream.out_bytes > core.web_hold_bytes or (stream.owner != NULL and (<object>stream.owner).busy):
            kept = events & (EVENT_MESSAGES | EVENT_HALF_CLOSE)
            stream.input_held = kept != 0
    stream.events = kept
    events &= ~kept
    if events & EVENT_MESSAGES:
        parts = take_object(&stream.message)
        if stream.connection != NULL:
            stream_delivered(stream)
    if events & EVENT_OPEN and not events & EVENT_CLOSED:
        exchange = web_exchange(engine, stream)
        put_object(&stream.owner, exchange)
        stream.opened = born = 1
    elif events & EVENT_CLOSED:
        exchange = take_object(&stream.owner)
    elif stream.owner != NULL:
        exchange = <object>stream.owner
    stream_release(core, stream)
    if exchange is not None:
        call_web(engine, exchange, born, parts, events)
    return 0


cdef object web_exchange(Engine engine, door_stream *stream):
    cdef WebStream face = WebStream.__new__(WebStream)
    face.engine, face.handle, face.secure = engine, stream_handle(stream), stream.connection.secure
    face.peer = (<BaseConnection>stream.connection.python).peer
    return Http2Exchange(
        face, engine.dispatch_http, engine.dispatch_head, engine.charge_body, engine.call_soon, body_bytes_max=engine.http_body_bytes_max
    )


cdef int call_web(Engine engine, exchange, bint born, list parts, int events) except -1:
    try:
        if born:
            exchange.begin()
        if parts is not None:
            exchange.on_parts(parts)
        if events & EVENT_HALF_CLOSE:
            exchange.on_end()
        if events & EVENT_WRITABLE and not events & EVENT_CLOSED:
            exchange.on_writable()
    except Exception as error:
        engine.report(exchange.target, error)
        exchange.fail()
    if events & EVENT_CLOSED:
        exchange.lost()
    return 0
