# The engine: methods, the tick, answers, listeners and lifecycle.


cdef size_t MESSAGE_BYTES_MAX = limits.MESSAGE_BYTES_MAX
cdef double SLICE_S = limits.LOOP_SLICE_MS / 1e3

cdef enum:
    READ_BYTES = 262144
    READS_PER_TURN = 256
    MESSAGES_PER_TURN = 1024  # of all streams, each of which may be as dear as a call: about so many,
    STREAM_MESSAGES_PER_TURN = 256  # so many of one stream,
    STREAM_MESSAGES_MIN = 16  # and so many in any case
    MESSAGES_PER_LOOK = 64  # at the clock
    INFLATED_PER_TURN = 8388608  # of all that is compressed, which takes some 20 ms
    INFLATED_PER_MESSAGE = 4096  # takes as long as a message
    PLAIN_BYTES = 65536
    TLS_HANDSHAKE_RECORD = 0x16
    STREAMS_UNLIMITED = 0x7FFFFFFF


cdef class Engine:
    """One HTTP/2 + HTTP/1.1 door; see _h2.pyi."""
    cdef door_engine *core
    cdef readonly object loop
    cdef object call_soon, time, tick_method, on_http, on_http_head, on_error, on_unread
    cdef readonly object local  # calls from within this process: handles below zero
    cdef list handlers, paths, kinds  # by method index
    cdef list handles_pending, messages_pending  # by method index: a list, or None
    cdef set connections, servers
    cdef bytearray read_buffer
    cdef object read_view
    cdef bytearray plain_buffer
    cdef object plain_view
    cdef object shaking  # connections whose handshake has something to go on with
    cdef bint scheduled, draining, streams_ended, inside_tick
    cdef Py_ssize_t messages_left  # for streams, in this tick
    cdef int64_t inflated_left  # bytes, in this tick
    cdef object deadline_timer, sweep_timer, drained
    cdef double deadline_at, sweep_interval_s, server_ping_idle_s, server_ping_timeout_s, first_request_timeout_s
    cdef double handshake_timeout_s, shook_at
    cdef size_t write_bytes
    cdef readonly uint64_t connections_max, http_requests_total
    cdef readonly size_t http_body_bytes_max
    cdef int poll  # epoll of the plaintext HTTP/2 connections: one reader of the loop for all of them

    def __cinit__(self, *arguments, size_t write_buffer_bytes=limits.WRITE_BUFFER_BYTES, **options):
        self.write_bytes = write_buffer_bytes if write_buffer_bytes > 16384 else 16384
        self.core = engine_new(self.write_bytes)
        self.poll = -1
        if self.core == NULL:
            raise MemoryError

    def __init__(
        self, loop, *, message_bytes_max=limits.REQUEST_BYTES_MAX + limits.GRPC_OVERHEAD_BYTES, bodies_bytes_max=0,
        header_list_bytes_max=limits.HEADER_LIST_BYTES_MAX, connections_max=0, write_buffer_bytes=limits.WRITE_BUFFER_BYTES,
        stream_buffer_bytes=limits.STREAM_BUFFER_BYTES, ping_interval_min_ms=5_000, server_ping_idle_ms=0,
        server_ping_timeout_ms=20_000, first_request_timeout_ms=limits.FIRST_REQUEST_TIMEOUT_MS,
        tls_handshake_timeout_ms=limits.TLS_HANDSHAKE_TIMEOUT_MS,
        http_body_bytes_max=limits.HTTP_BODY_BYTES_MAX, resets_burst=limits.STREAM_RESETS_BURST,
        resets_per_s=limits.STREAM_RESETS_PER_S, control_frames_burst=limits.CONTROL_FRAMES_BURST,
        control_frames_per_s=limits.CONTROL_FRAMES_PER_S, streams_max=limits.STREAMS_MAX, on_http=None, on_http_head=None, on_error=None,
        unread_bytes_max=limits.UNREAD_BYTES_MAX, on_unread=None,
    ):
        cdef door_engine *core = self.core
        core.message_bytes_max = min(message_bytes_max, limits.MESSAGE_BYTES_MAX)
        core.bodies_bytes_max = bodies_bytes_max or bodies_default()
        core.header_list_bytes_max = header_list_bytes_max
        core.streams_max = min(streams_max or STREAMS_UNLIMITED, STREAMS_UNLIMITED)
        core.push_bytes_max, core.web_hold_bytes = stream_buffer_bytes, limits.STREAM_HOLD_BYTES
        core.backlog_bytes_max = limits.CONNECTION_BACKLOG_BYTES
        core.unread_bytes_max, core.unread_floor_bytes = unread_bytes_max, limits.UNREAD_FLOOR_BYTES
        core.ping_interval_min_s = ping_interval_min_ms / 1e3
        core.nuisances_burst, core.nuisances_per_s = control_frames_burst, control_frames_per_s
        core.resets_burst, core.resets_per_s = resets_burst, resets_per_s
        engine_limits(core)
        self.connections_max, self.http_body_bytes_max = connections_max, http_body_bytes_max
        self.server_ping_idle_s, self.server_ping_timeout_s = server_ping_idle_ms / 1e3, server_ping_timeout_ms / 1e3
        self.first_request_timeout_s = first_request_timeout_ms / 1e3
        self.handshake_timeout_s = tls_handshake_timeout_ms / 1e3
        shortest = min(self.first_request_timeout_s, self.handshake_timeout_s, self.server_ping_timeout_s, self.server_ping_idle_s or 60.0)
        self.sweep_interval_s = min(max(shortest / 6, 0.01), 1.0)
        self.loop, self.call_soon, self.time, self.tick_method = loop, loop.call_soon, loop.time, self.tick
        self.on_http, self.on_http_head, self.on_error, self.on_unread = on_http, on_http_head, on_error, on_unread
        self.local = LocalCalls(self)
        self.kinds = []
        self.handlers, self.paths, self.handles_pending, self.messages_pending = [], [], [], []
        self.connections, self.servers = set(), set()
        self.read_buffer = bytearray(READ_BYTES)
        self.read_view = memoryview(self.read_buffer)
        self.plain_buffer = bytearray(PLAIN_BYTES)
        self.plain_view = memoryview(self.plain_buffer)
        self.shaking = collections.deque()
        core.now = self.time()

    def __dealloc__(self):
        if self.poll >= 0:
            close(self.poll)
        engine_free(self.core)

    # -- methods

    cdef add(self, str path, int kind, handler, size_t hold_bytes):
        cdef bytes raw = path.encode("ascii")
        if not raw.startswith(b"/") or raw.count(b"/") < 2:
            raise ValueError(f"not /package.Service/Method: {path}")
        if path in self.paths:
            raise ValueError(f"{path} has a handler already")
        if method_add(self.core, raw, len(raw), kind, len(self.paths), hold_bytes):
            raise MemoryError
        self.paths.append(path)
        self.handlers.append(handler)
        self.kinds.append(kind)
        self.handles_pending.append(None)
        self.messages_pending.append(None)

    def add_batch(self, str path, handler):
        self.add(path, KIND_BATCH, handler, 0)

    def add_unary(self, str path, handler):
        self.add(path, KIND_UNARY, handler, 0)

    def add_stream(self, str path, handler, *, size_t hold_bytes=limits.STREAM_HOLD_BYTES):
        self.add(path, KIND_STREAM, handler, hold_bytes)

    def add_unimplemented(self, str service):
        self.add(f"/{service}/", 0, None, 0)

    def handler_of(self, str path):
        """What serves `path` and how: ("batch", "unary" or "stream", handler); None if nothing does."""
        if path not in self.paths:
            return None
        index = self.paths.index(path)
        kind = {KIND_BATCH: "batch", KIND_UNARY: "unary", KIND_STREAM: "stream"}.get(self.kinds[index])
        return None if kind is None else (kind, self.handlers[index])

    @property
    def message_bytes_max(self):
        return self.core.message_bytes_max

    # -- bytes in

    cdef int begin_poll(self) except -1:
        """No poll without a loop that watches it: nobody would read what is in it. Without one the sockets stay asyncio's to read."""
        cdef int poll = epoll_create1(EPOLL_CLOEXEC)
        if poll < 0:
            return 0
        try:
            self.loop.add_reader(poll, self.on_readable)
        except OSError:
            close(poll)
        else:
            self.poll = poll
        return 0

    cdef int read_natively(self, BaseConnection connection) except -1:
        """Takes the reading of a plaintext connection over from asyncio, whose way costs a microsecond or two per socket and turn."""
        cdef epoll_event event
        if connection.socket < 0:
            return 0
        if self.poll < 0:
            self.begin_poll()
        if self.poll < 0:
            return 0
        event.events, event.data.ptr = EPOLLIN, <void *>connection
        if epoll_ctl(self.poll, EPOLL_CTL_ADD, connection.socket, &event):
            return 0
        connection.polled = True
        connection.transport.pause_reading()
        return 0

    cdef int read_no_more(self, BaseConnection connection) except -1:
        """Before its socket is closed, or when asyncio is to see its end."""
        if connection.polled:
            connection.polled = False
            epoll_ctl(self.poll, EPOLL_CTL_DEL, connection.socket, NULL)
        return 0

    def on_readable(self):
        """Level-triggered, one read per connection and turn; what an end or an error means is left to asyncio."""
        cdef epoll_event[READS_PER_TURN] events
        cdef int i, count = epoll_wait(self.poll, events, READS_PER_TURN, 0)
        cdef ssize_t length
        cdef BaseConnection connection
        for i in range(count):
            connection = <BaseConnection>events[i].data.ptr
            if not connection.polled:
                continue
            if connection.transport.is_closing():
                self.read_no_more(connection)
                continue
            length = recv(connection.socket, <char *>self.read_buffer, READ_BYTES, MSG_DONTWAIT)
            if length > 0:
                self.take_for(connection, length)
            elif length == 0 or (errno != EAGAIN and errno != EINTR):
                self.read_no_more(connection)
                connection.transport.resume_reading()

    cdef int take_for(self, BaseConnection connection, Py_ssize_t length) except -1:
        """What fails over the bytes of one connection ends that one, as asyncio would; the others of this turn are read."""
        try:
            connection.take(<const uint8_t *><char *>self.read_buffer, length)
        except Exception as error:
            connection.transport.abort()
            self.report(f"the connection of {connection.peer}", error)
        return 0

    # -- the tick

    cdef int schedule(self) except -1:
        if not self.scheduled:
            self.scheduled = True
            self.call_soon(self.tick_method)
        return 0

    def tick(self):
        self.scheduled = False
        self.core.now = self.time()
        self.inside_tick = True
        try:
            self.deliver()
            self.flush()
        finally:
            self.inside_tick = False
        if self.core.ready_count:
            self.schedule()
        self.arm_deadline()

    cdef int deliver(self) except -1:
        """All news of this tick. A stream in `taken` is queued, so that it lives until its turn; then it is let go
        before Python is called. Streams for which there is no time any more are queued again."""
        cdef door_engine *core = self.core
        cdef door_stream *stream
        cdef uint32_t i, count
        cdef list touched = []
        cdef bint late = False
        cdef Py_ssize_t look_at = MESSAGES_PER_TURN - MESSAGES_PER_LOOK
        if not core.ready_count:
            return 0
        count = engine_take(core)
        self.messages_left = MESSAGES_PER_TURN
        self.inflated_left = INFLATED_PER_TURN
        for i in range(count):
            stream = core.taken[i]
            stream.queued = 0
            if stream.kind == KIND_BATCH:
                self.gather(stream, touched)
            elif stream.kind == KIND_UNARY:
                self.deliver_unary(stream)
            elif stream.kind == KIND_STREAM and late:
                stream_event(stream, 0, core)
            elif stream.kind == KIND_STREAM:
                self.deliver_stream(stream)
                if self.messages_left <= look_at:
                    look_at = self.messages_left - MESSAGES_PER_LOOK
                    late = self.time() >= core.now + SLICE_S
            else:
                deliver_web(self, stream)
        for index in touched:
            self.call_batch(index)
        return 0

    cdef int gather(self, door_stream *stream, list touched) except -1:
        cdef door_engine *core = self.core
        cdef int index
        cdef list handles
        if stream.connection == NULL:
            stream_release(core, stream)
            return 0
        if stream.finished or not stream.events & EVENT_REQUEST:
            return 0
        stream.events = 0
        if connection_behind(stream.connection):
            stream_hold(stream)
            return 0
        if stream.packed and not unpack_call(self, stream):
            return 0
        index = stream.method.index
        handles = <list>self.handles_pending[index]
        if handles is None:
            handles = self.handles_pending[index] = []
            self.messages_pending[index] = []
            touched.append(index)
        handles.append(stream_handle(stream))
        (<list>self.messages_pending[index]).append(take_object(&stream.message))
        stream_consumed(stream)
        return 0

    cdef int call_batch(self, int index) except -1:
        handles, messages = self.handles_pending[index], self.messages_pending[index]
        self.handles_pending[index] = self.messages_pending[index] = None
        try:
            self.handlers[index](handles, messages)
        except Exception as error:
            for handle in handles:
                self.fail(handle, 13, "internal error")
            self.report(self.paths[index], error)
        return 0

    cdef int deliver_unary(self, door_stream *stream) except -1:
        cdef door_engine *core = self.core
        cdef int events = stream.events
        cdef Call call
        stream.events = 0
        if events & EVENT_CLOSED:
            task = take_object(&stream.owner)
            stream_release(core, stream)
            if task is not None:
                task.cancel()
            return 0
        if stream.connection == NULL:
            stream_release(core, stream)
            return 0
        if stream.finished or not events & EVENT_REQUEST:
            return 0
        if connection_behind(stream.connection):
            stream_hold(stream)
            return 0
        if stream.packed and not unpack_call(self, stream):
            return 0
        call = Call.__new__(Call)
        call.engine, call.handle, call.deadline = self, stream_handle(stream), stream.deadline
        call.method = self.paths[stream.method.index]
        call.peer = (<BaseConnection>stream.connection.python).peer
        message = take_object(&stream.message)
        stream_consumed(stream)
        stream.opened = 1
        task = self.loop.create_task(run_unary(self, self.handlers[stream.method.index], call, message))
        put_object(&stream.owner, task)
        return 0

    cdef int deliver_stream(self, door_stream *stream) except -1:
        cdef door_engine *core = self.core
        cdef int events = stream.events, kept = 0, status = stream.status
        cdef int index = stream.method.index if stream.method != NULL else -1
        cdef bint born = False
        cdef Stream face = None
        cdef list messages = None
        cdef object failure = None
        if stream.connection != NULL and not stream.finished and must_wait(stream):
            kept = events & (EVENT_MESSAGES | EVENT_HALF_CLOSE)
            stream.input_held = kept != 0
        stream.events = kept
        events &= ~kept
        if events & EVENT_MESSAGES:
            if stream.packed:
                messages, failure = take_packed(self, stream, &events)
            else:
                messages = self.take_messages(stream, &events)
        if events & EVENT_OPEN and self.streams_ended and stream.connection != NULL:
            stream_end(stream)  # nobody is told that it began
        elif events & EVENT_OPEN and not events & EVENT_CLOSED:
            face = self.stream_face(stream)
            put_object(&stream.owner, face)
            stream.opened = born = 1
        elif events & EVENT_CLOSED:
            face = take_object(&stream.owner)
        elif stream.owner != NULL:
            face = <Stream>stream.owner
        stream_release(core, stream)
        if face is not None:
            self.call_stream(face, index if born else -1, messages, events, status, failure)
        return 0

    def dispatch_head(self, request):
        """Who takes the body of this request as it comes, or None: it is wanted whole."""
        if self.on_http_head is None:
            return None
        try:
            return self.on_http_head(request)
        except Exception as error:
            self.report(request.target, error)
            return None

    def dispatch_http(self, request):
        self.http_requests_total += 1
        self.core.requests_total += 1
        try:
            self.on_http(request)
        except Exception as error:
            self.report(request.target, error)
            request.fail()

    cdef list take_messages(self, door_stream *stream, int *events):
        """As many as there is time for in this tick, all of who has gone; the rest, and the end behind it, is news of the next tick. Until
        the last is taken the client's window stays as it is."""
        cdef list messages = take_object(&stream.message)
        cdef Py_ssize_t room = STREAM_MESSAGES_PER_TURN if self.messages_left > 0 else STREAM_MESSAGES_MIN
        self.messages_left -= min(len(messages), room)
        if stream.connection == NULL:
            return messages
        if len(messages) <= room or events[0] & EVENT_CLOSED:
            stream_delivered(stream)
            return messages
        put_object(&stream.message, messages[room:])
        stream_event(stream, EVENT_MESSAGES | (events[0] & EVENT_HALF_CLOSE), self.core)
        events[0] &= ~EVENT_HALF_CLOSE
        return messages[:room]

    cdef Stream stream_face(self, door_stream *stream):
        cdef Stream face = Stream.__new__(Stream)
        face.engine, face.handle, face.deadline = self, stream_handle(stream), stream.deadline
        face.method = self.paths[stream.method.index]
        face.peer = (<BaseConnection>stream.connection.python).peer
        return face

    cdef int call_stream(self, Stream face, int born, list messages, int events, int status, failure) except -1:
        """`born`: the method index of a stream whose handler is to be made, else -1. `face` keeps the stream's Python
        side alive; the C struct may be gone. `failure`: of the message behind these."""
        try:
            if born >= 0:
                face.handler = self.handlers[born](face, face.method)
            if messages is not None and not face.ended and face.handler is not None:
                face.handler.on_messages(messages)
            if failure is not None:
                on_broken = None if face.ended else getattr(face.handler, "on_broken", None)
                if on_broken is None:
                    raise failure
                on_broken(failure)
            if events & EVENT_HALF_CLOSE and not face.ended and face.handler is not None:
                face.handler.on_half_close()
            if events & EVENT_WRITABLE and not face.ended and not events & EVENT_CLOSED:
                face.handler.on_writable()
        except StatusError as error:
            face.finish(error.code, error.message)
        except Exception as error:
            face.finish(13, "internal error")
            self.report(face.method, error)
        if events & EVENT_CLOSED:
            face.ended = True
            handler, face.handler = face.handler, None
            try:
                if handler is not None:
                    handler.on_closed(status)
            except Exception as error:
                self.report(face.method, error)
        return 0

    cpdef int flush(self) except -1:
        """Collect and write what is ready, once per connection; the tick does so, and who answers outside of it may."""
        cdef door_engine *core = self.core
        cdef door_connection *connection
        cdef uint32_t i = 0
        cdef uint32_t count = core.dirty_count
        while i < count:
            connection = core.dirty[i]
            if connection != NULL:
                connection.dirty = 0
                core.dirty[i] = NULL
                (<BaseConnection>connection.python).flush_connection()
            i += 1
        # what became dirty meanwhile stands behind `count`
        i = 0
        while count < core.dirty_count:
            core.dirty[i] = core.dirty[count]
            i += 1
            count += 1
        core.dirty_count = i
        if i or core.ready_count:
            self.schedule()
        return 0

    # -- deadlines

    cdef int arm_deadline(self) except -1:
        cdef double at
        if self.core.earliest == 0:
            return 0
        at = (ceil(self.core.earliest * TIMER_PER_S) + 0.01) / TIMER_PER_S
        self.core.earliest = 0
        if self.deadline_timer is not None:
            if self.deadline_at <= at:
                return 0
            self.deadline_timer.cancel()
        self.deadline_at = at
        self.deadline_timer = self.loop.call_at(at, self.deadlines_due)
        return 0

    def deadlines_due(self):
        cdef double at
        self.deadline_timer = None
        self.core.now = self.time()
        timers_expire(self.core)
        at = timer_next(self.core)
        self.core.earliest = 0
        if at:
            self.deadline_at = at + 0.01 / TIMER_PER_S
            self.deadline_timer = self.loop.call_at(self.deadline_at, self.deadlines_due)
        self.schedule()

    # -- answers

    cpdef reply(self, int64_t handle, bytes message, bytes header=b""):
        cdef door_stream *stream = stream_find(self.core, handle)
        if handle < 0:
            self.local.reply(handle, header + message)
            return
        if stream == NULL or stream.connection == NULL or stream.finished or stream.kind == KIND_STREAM:
            return
        if stream.owner != NULL:
            take_object(&stream.owner)
        if <size_t>(PyBytes_GET_SIZE(message) + PyBytes_GET_SIZE(header)) > MESSAGE_BYTES_MAX:
            return self.fail(handle, 8, too_large(len(message) + len(header)))
        stream_reply(stream, <PyObject *>header, <PyObject *>message)
        self.schedule()
        if unread_over(self.core):
            relieve(self)

    def reply_many(self, handles, messages, headers=None):
        cdef Py_ssize_t i, count = len(handles)
        if len(messages) != count or (headers is not None and len(headers) != count):
            raise ValueError("handles, messages and headers differ in number")
        for i in range(count):
            self.reply(handles[i], messages[i], b"" if headers is None else headers[i])

    def answer_many(self, handles, results, make_header):
        cdef Py_ssize_t i, count = len(handles)
        cdef bint scheduled = self.scheduled
        cdef object last = None
        cdef tuple result
        cdef bytes header = b""
        cdef list failed = []
        if len(results) != count:
            raise ValueError("handles and results differ in number")
        self.scheduled = True  # the answers are written below: no tick of their own
        try:
            for i in range(count):
                result = results[i]
                if result[0]:
                    failed.append(i)
                    continue
                if result[1] != last:
                    last = result[1]
                    header = make_header(last)
                self.reply(handles[i], <bytes?>result[2], header)
        finally:
            self.scheduled = scheduled
            self.write_now()
        return failed

    def write_now(self):
        """Writes what is ready; inside a tick its end does that."""
        if self.inside_tick:
            return
        if self.core.dirty_count:
            self.flush()
        elif self.core.ready_count:
            self.schedule()

    cpdef fail(self, int64_t handle, int code, str message):
        """Ends a call with a status; of a stream: behind what was pushed."""
        cdef door_stream *stream = stream_find(self.core, handle)
        cdef bytes text
        if handle < 0:
            self.local.fail(handle, code, message)
            return
        if stream == NULL or stream.connection == NULL or stream.finished:
            return
        if stream.kind != KIND_STREAM and stream.owner != NULL:
            take_object(&stream.owner)
        text = message.encode("utf-8", "replace")
        stream_finish(stream, code, text, len(text))
        self.schedule()

    def alive(self, int64_t handle):
        cdef door_stream *stream = stream_find(self.core, handle)
        return self.local.alive(handle) if handle < 0 else stream != NULL and stream.connection != NULL and not stream.finished

    def metadata(self, int64_t handle, str name):
        cdef door_stream *stream = stream_find(self.core, handle)
        cdef bytes raw = name.encode("latin-1").lower()
        cdef nghttp2_rcbuf *value
        cdef nghttp2_vec found
        if handle < 0:
            return self.local.metadata(handle, name)
        if stream == NULL or stream.connection == NULL:
            return None
        value = field_find(stream, raw, len(raw))
        if value == NULL:
            return None
        found = nghttp2_rcbuf_get_buf(value)
        return field_text(raw, PyBytes_FromStringAndSize(<char *>found.base, found.len))

    def metadata_many(self, list handles, bytes name):
        cdef const char *raw = PyBytes_AS_STRING(name)
        cdef size_t length = PyBytes_GET_SIZE(name)
        cdef Py_ssize_t i, count = len(handles)
        cdef door_stream *stream
        cdef nghttp2_rcbuf *value
        cdef nghttp2_vec found
        cdef list values = None
        for i in range(count):
            stream = stream_find(self.core, handles[i])
            value = NULL if stream == NULL or stream.connection == NULL else field_find(stream, raw, length)
            if value != NULL:
                found = nghttp2_rcbuf_get_buf(value)
                text = field_text(name, PyBytes_FromStringAndSize(<char *>found.base, found.len))
            elif <int64_t>handles[i] < 0:
                text = self.local.metadata(handles[i], name.decode())
            else:
                continue
            if text is None:
                continue
            if values is None:
                values = [None] * count
            values[i] = text
        return values

    def deadline(self, int64_t handle):
        cdef door_stream *stream = stream_find(self.core, handle)
        return self.local.deadline(handle) if handle < 0 else 0.0 if stream == NULL else stream.deadline

    def peer(self, int64_t handle):
        cdef door_stream *stream = stream_find(self.core, handle)
        if handle < 0:
            return self.local.peer(handle)
        return "" if stream == NULL or stream.connection == NULL else (<BaseConnection>stream.connection.python).peer

    def peer_certificate(self, int64_t handle):
        cdef door_stream *stream = stream_find(self.core, handle)
        if stream == NULL or stream.connection == NULL:
            return None
        return (<BaseConnection>stream.connection.python).peer_certificate()

    def set_trailer(self, int64_t handle, str name, value):
        cdef door_stream *stream = stream_find(self.core, handle)
        cdef bytes raw = name.lower().encode("ascii"), wire = trailer_value(name.lower(), value)
        if stream == NULL or stream.connection == NULL or stream.finished:
            return
        if raw.startswith((b":", b"grpc-")) and raw != b"grpc-status-details-bin":
            raise ValueError(f"reserved: {name}")
        if stream.trailers == NULL:
            put_object(&stream.trailers, [])
        if len(<list>stream.trailers) >= 31:
            raise ValueError("too many trailers")
        (<list>stream.trailers).append((raw, wire))

    cpdef report(self, str where, error):
        if self.on_error is not None:
            self.on_error(where, error)
        else:
            self.loop.call_exception_handler({"message": f"handler of {where} failed", "exception": error})

    # -- listeners and lifecycle

    async def listen(self, str host, int port, *, guard=None, bint plaintext_too=False, bint grpc=True, bint http=True, reuse_port=None):
        self.draining = self.streams_ended = self.local.stopping = False
        make = functools.partial(Connection, self, guard, plaintext_too, grpc, http)
        server = await self.loop.create_server(make, host or None, port, backlog=1024, reuse_port=reuse_port or None)
        self.servers.add(server)
        return server

    async def listen_unix(self, sock, *, guard=None, bint plaintext_too=False, bint grpc=True, bint http=True):
        self.draining = self.streams_ended = self.local.stopping = False
        make = functools.partial(Connection, self, guard, plaintext_too, grpc, http)
        server = await self.loop.create_unix_server(make, sock=sock, backlog=1024)
        self.servers.add(server)
        return server

    cdef int shake_later(self, BaseConnection connection) except -1:
        """Handshakes cost a millisecond of computing each: a crowd of them must not hold the loop. Nor may a busy loop starve them: they
        may take as long as the rest of a turn took, within limits."""
        if not self.shaking:
            self.shook_at = self.time()
            self.call_soon(self.shake)
        self.shaking.append(connection)
        return 0

    def shake(self):
        cdef BaseConnection connection
        cdef double now = self.time()
        cdef double give_up = now + max(min(now - self.shook_at, limits.TLS_SLICE_MS_MAX / 1e3), limits.LOOP_SLICE_MS / 1e3)
        while self.shaking and self.time() < give_up:
            connection = self.shaking.popleft()
            self.core.now = self.time()
            try:
                connection.shake()
            except Exception as error:
                connection.transport.abort()
                self.report(f"the handshake of {connection.peer}", error)
        if self.shaking:
            self.shook_at = self.time()
            self.call_soon(self.shake)

    cdef int joined(self, BaseConnection connection) except -1:
        self.connections.add(connection)
        if self.sweep_timer is None:
            self.sweep_timer = self.loop.call_later(self.sweep_interval_s, self.sweep)
        return 0

    cdef int left(self, BaseConnection connection) except -1:
        self.connections.discard(connection)
        if not self.connections:
            if self.sweep_timer is not None:
                self.sweep_timer.cancel()
                self.sweep_timer = None
            self.end_poll()  # else the loop holds an engine that was dropped without a drain
            if self.drained is not None and not self.drained.done():
                self.drained.set_result(None)
        return 0

    def sweep(self):
        """What time does to connections: silence at the start, silence later, keepalive."""
        self.core.now = self.time()
        for connection in list(self.connections):
            (<BaseConnection>connection).sweep_connection()
        if unread_over(self.core):
            relieve(self)
        self.sweep_timer = self.loop.call_later(self.sweep_interval_s, self.sweep) if self.connections else None
        if self.core.dirty_count:
            self.schedule()

    def end_streams(self):
        self.streams_ended = True
        for connection in list(self.connections):
            (<BaseConnection>connection).end_connection_streams()
        self.local.end_streams()
        self.schedule()

    async def drain(self, int timeout_ms):
        cdef double give_up
        self.draining = True
        for server in self.servers:
            server.close()
        self.servers.clear()
        self.core.now = self.time()
        for connection in list(self.connections):
            (<BaseConnection>connection).begin_drain()
        self.schedule()
        second = self.loop.call_later(min(1.0, timeout_ms / 2e3), self.refuse_new)
        try:
            if not await self.wait_drained(timeout_ms / 1e3):
                self.cut()
                await self.wait_drained(0.2)
        finally:
            second.cancel()
            for connection in list(self.connections):
                (<BaseConnection>connection).transport.abort()
            self.end_poll()

    cdef int end_poll(self) except -1:
        if self.poll >= 0:
            for connection in self.connections:
                self.read_no_more(connection)
            self.loop.remove_reader(self.poll)
            close(self.poll)
            self.poll = -1
        return 0

    async def wait_drained(self, double seconds):
        if not self.connections:
            return True
        self.drained = self.loop.create_future()
        done, _ = await asyncio.wait([self.drained], timeout=seconds)
        self.drained = None
        return bool(done)

    def refuse_new(self):
        for connection in list(self.connections):
            if (<BaseConnection>connection).core.phase == PHASE_HTTP2:
                connection_refuse_new((<BaseConnection>connection).core)
        self.schedule()

    def cut(self):
        """Every open stream, and every local call, ends as UNAVAILABLE, then its connection ends."""
        self.local.end_calls()
        for connection in list(self.connections):
            (<BaseConnection>connection).cut_connection()
        self.core.now = self.time()
        self.deliver()
        self.flush()
        for connection in list(self.connections):
            (<BaseConnection>connection).close()

    def charge_body(self, int64_t amount):
        """Bodies of HTTP/1.1 count in the same budget; False when there is no room."""
        if amount > 0 and self.core.bodies_bytes + <size_t>amount > self.core.bodies_bytes_max:
            return False
        self.core.bodies_bytes += amount
        return True

    def counters(self):
        cdef door_engine *core = self.core
        return {
            "connections": core.connections_count, "streams": core.streams_count, "streams_live": core.streams_live,
            "requests_total": core.requests_total, "http_requests_total": self.http_requests_total,
            "messages_in": core.messages_in, "messages_out": core.messages_out,
            "bytes_in": core.bytes_in, "bytes_out": core.bytes_out, "resets_total": core.resets_total,
            "floods_total": core.floods_total, "refused_total": core.refused_total,
            "bodies_bytes": core.bodies_bytes, "buffered_bytes": engine_unread(core), "unread_total": core.unread_total,
        }


cdef object take_object(PyObject **place):
    """What is kept there, or None; the place is empty afterwards."""
    if place[0] == NULL:
        return None
    value = <object>place[0]
    Py_DECREF(value)
    place[0] = NULL
    return value


cdef void put_object(PyObject **place, object value) noexcept:
    Py_INCREF(value)
    place[0] = <PyObject *>value


cdef str too_large(size_t length):
    """As grpc-go refuses to send."""
    return f"grpc: trying to send message larger than max ({length} vs. {limits.MESSAGE_BYTES_MAX})"


def bodies_default():
    """A quarter of the machine's memory."""
    import os

    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * limits.BODIES_IN_FLIGHT_RAM_SHARE)
