# What this module uses of native/: see door.h for who owns what.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_READ
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.math cimport ceil
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "<sys/socket.h>" nogil:
    enum: MSG_NOSIGNAL, MSG_DONTWAIT
    ssize_t send(int socket, const void *data, size_t length, int flags)
    ssize_t recv(int socket, void *buffer, size_t length, int flags)

cdef extern from "<sys/epoll.h>" nogil:
    enum: EPOLLIN, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    ctypedef union epoll_data_t:
        void *ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int count, int timeout_ms)

cdef extern from "<errno.h>" nogil:
    int errno
    enum: EAGAIN, EINTR

cdef extern from "<unistd.h>" nogil:
    int close(int fd)


cdef extern from "native/session.h" nogil:
    enum: KIND_BATCH, KIND_UNARY, KIND_STREAM, KIND_WEB
    enum: EVENT_REQUEST, EVENT_OPEN, EVENT_MESSAGES, EVENT_HALF_CLOSE, EVENT_WRITABLE, EVENT_CLOSED
    enum: PHASE_SNIFF, PHASE_HTTP1, PHASE_HTTP2, PHASE_DEAD
    enum: PREFACE_BYTES
    const char *PREFACE
    double TIMER_PER_S

    ctypedef struct nghttp2_rcbuf:
        pass
    ctypedef struct nghttp2_vec:
        uint8_t *base
        size_t len
    nghttp2_vec nghttp2_rcbuf_get_buf(nghttp2_rcbuf *buffer)
    int nghttp2_submit_rst_stream(void *session, uint8_t flags, int32_t stream_id, uint32_t error_code)

    ctypedef struct door_method:
        char *path
        uint32_t length
        int32_t index
        uint8_t kind
        size_t hold_bytes

    ctypedef struct door_field:
        nghttp2_rcbuf *name
        nghttp2_rcbuf *value

    ctypedef struct door_connection
    ctypedef struct door_stream:
        door_connection *connection
        door_stream *next
        int32_t id
        const door_method *method
        uint8_t kind, events
        unsigned queued, held, opened, half_closed, finished, want_writable, input_held, packed
        unsigned post, has_timeout, started
        double timeout_s, deadline
        door_field *fields
        uint16_t fields_count
        PyObject *message
        PyObject *trailers
        PyObject *owner
        size_t charged, out_bytes
        int status

    ctypedef struct door_engine
    ctypedef struct door_connection:
        door_engine *engine
        door_connection *next
        void *session
        void *python
        door_stream *streams
        door_stream *held_first
        uint32_t streams_count
        uint8_t phase, sniffed
        char *sniff
        unsigned dirty, paused, going_away, goaway_sent, terminated, pinging, grpc, web, secure
        size_t out_bytes, unwritten
        double read_at, ping_sent_at, opened_at

    ctypedef struct door_engine:
        door_stream **taken
        uint32_t ready_count, dirty_count, timed_count
        door_connection **dirty
        door_connection *connections
        uint8_t *write_buffer
        double now, earliest
        uint32_t message_bytes_max, header_list_bytes_max, streams_max
        size_t bodies_bytes_max, push_bytes_max, backlog_bytes_max, web_hold_bytes, unread_bytes_max, unread_floor_bytes
        double ping_interval_min_s
        uint64_t nuisances_burst, resets_burst
        double nuisances_per_s, resets_per_s
        size_t bodies_bytes, out_bytes, unwritten_bytes
        uint64_t connections_count, streams_count, streams_live, requests_total, messages_in, messages_out, bytes_in, bytes_out
        uint64_t resets_total, floods_total, refused_total, unread_total

    door_engine *engine_new(size_t write_bytes)
    void engine_limits(door_engine *engine)
    void engine_free(door_engine *engine)


# These touch Python objects or may free them: the GIL is held.
cdef extern from "native/session.h":
    int method_add(door_engine *engine, const char *path, size_t length, uint8_t kind, int32_t index, size_t hold_bytes)
    uint32_t engine_take(door_engine *engine)
    void timers_expire(door_engine *engine)
    double timer_next(const door_engine *engine)
    int64_t stream_handle(const door_stream *stream)
    door_stream *stream_find(door_engine *engine, int64_t handle)
    nghttp2_rcbuf *field_find(const door_stream *stream, const char *name, size_t length)
    int stream_append(door_stream *stream, PyObject *header, PyObject *message)
    void stream_kick(door_stream *stream)
    void stream_event(door_stream *stream, uint8_t event, door_engine *engine)
    void stream_reply(door_stream *stream, PyObject *header, PyObject *message)
    void stream_finish(door_stream *stream, int status, const char *text, size_t length)
    void stream_end(door_stream *stream)
    void stream_consumed(door_stream *stream)
    void stream_delivered(door_stream *stream)
    void stream_release(door_engine *engine, door_stream *stream)
    void stream_hold(door_stream *stream)
    int web_start(door_stream *stream, PyObject *pairs, bint last)
    int web_append(door_stream *stream, PyObject *part)
    void web_finish(door_stream *stream)
    void web_proceed(door_stream *stream)
    void web_reset(door_stream *stream, uint32_t error)
    door_connection *connection_new(door_engine *engine)
    int connection_start_http2(door_connection *connection, bint any_authority)
    void connection_tell_streams_max(const door_connection *connection, size_t length)
    int connection_feed(door_connection *connection, const uint8_t *data, size_t length)
    size_t connection_collect(door_connection *connection, size_t limit)
    bint connection_wants_write(door_connection *connection)
    bint connection_finished(door_connection *connection)
    void connection_dirty(door_connection *connection)
    void connection_release_held(door_connection *connection)
    size_t connection_unread(const door_connection *connection)
    size_t engine_unread(const door_engine *engine)
    bint connection_behind(const door_connection *connection)
    bint unread_over(door_engine *engine)
    door_connection *unread_victim(door_engine *engine, double stall_s)
    void connection_unwritten(door_connection *connection, size_t bytes)
    void connection_announce_end(door_connection *connection)
    void connection_refuse_new(door_connection *connection)
    void connection_ping(door_connection *connection)
    void connection_end(door_connection *connection)
    void connection_free(door_connection *connection)
