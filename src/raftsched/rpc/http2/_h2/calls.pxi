# What a handler holds of its call: an engine and a handle, never a pointer.


cdef class Call:
    """A unary call on the cold path; see _h2.pyi."""
    cdef Engine engine
    cdef readonly int64_t handle
    cdef readonly str method
    cdef readonly double deadline
    cdef readonly str peer

    def metadata(self, str name):
        return self.engine.metadata(self.handle, name)

    def peer_certificate(self):
        return self.engine.peer_certificate(self.handle)

    def set_trailer(self, str name, value):
        self.engine.set_trailer(self.handle, name, value)


cdef class Stream:
    """One open gRPC stream: `ports.Stream`, and see _h2.pyi."""
    cdef Engine engine
    cdef readonly int64_t handle
    cdef readonly str method
    cdef readonly double deadline
    cdef readonly str peer
    cdef object handler
    cdef bint ended

    cpdef bint push(self, bytes message) except -1:
        cdef door_stream *stream = stream_find(self.engine.core, self.handle)
        if stream == NULL or stream.finished or stream.connection == NULL:
            return False
        if <size_t>PyBytes_GET_SIZE(message) > MESSAGE_BYTES_MAX:
            self.finish(8, too_large(len(message)))
            return False
        if stream_append(stream, NULL, <PyObject *>message):
            raise MemoryError
        stream_kick(stream)
        self.engine.schedule()
        return has_room(self.engine, stream, self.handle)

    def push_many(self, messages):
        """All of them, in order; the room after the last."""
        cdef bint room = True
        for message in messages:
            room = self.push(message)
        return room

    def finish(self, int code=0, str message=""):
        if not self.ended:
            self.ended = True
            self.engine.fail(self.handle, code, message)

    def reset(self, uint32_t error_code=8):
        """RST_STREAM: what is queued is dropped."""
        cdef door_stream *stream = stream_find(self.engine.core, self.handle)
        if stream != NULL and stream.connection != NULL:
            nghttp2_submit_rst_stream(stream.connection.session, 0, stream.id, error_code)
            connection_dirty(stream.connection)
            self.engine.schedule()

    @property
    def queued_bytes(self):
        """Bytes pushed and not yet collected for the connection."""
        cdef door_stream *stream = stream_find(self.engine.core, self.handle)
        return 0 if stream == NULL else stream.out_bytes

    def metadata(self, str name):
        return self.engine.metadata(self.handle, name)

    def peer_certificate(self):
        return self.engine.peer_certificate(self.handle)

    def set_trailer(self, str name, value):
        self.engine.set_trailer(self.handle, name, value)


cdef bytes buffer_bytes(nghttp2_rcbuf *buffer):
    cdef nghttp2_vec found = nghttp2_rcbuf_get_buf(buffer)
    return PyBytes_FromStringAndSize(<char *>found.base, found.len)


cdef bytes trailer_value(str name, value):
    """The wire form: base64 for `-bin`, else printable ASCII; ValueError for what no header may carry."""
    cdef bytes raw = value.encode("utf-8") if isinstance(value, str) else bytes(value)
    if name.endswith("-bin"):
        return base64.b64encode(raw).rstrip(b"=")
    if any(byte < 0x20 or byte > 0x7E for byte in raw):
        raise ValueError(f"trailer {name}: not printable ASCII")
    return raw


cdef str field_text(bytes name, bytes value):
    """A request header as text; `-bin` decoded (padded or not), None when that is malformed."""
    if not name.endswith(b"-bin"):
        return value.decode("latin-1")
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True).decode("latin-1")
    except (binascii.Error, ValueError):
        return None


async def run_unary(Engine engine, object handler, Call call, bytes message):
    """One cold call as a task: exactly one answer, unless the call is gone."""
    try:
        answer = await handler(call, message)
        engine.reply(call.handle, answer)
    except StatusError as error:
        engine.fail(call.handle, error.code, error.message)
    except asyncio.CancelledError:
        engine.fail(call.handle, 1, "context canceled")
        raise
    except Exception as error:
        engine.fail(call.handle, 13, "internal error")
        engine.report(call.method, error)
