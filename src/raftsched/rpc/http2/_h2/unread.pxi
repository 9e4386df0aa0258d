# Answers that nobody reads (native/unread.h): streams are told to stop, and where the room for all is used up connections go.


cdef double UNREAD_STALL_S = limits.UNREAD_STALL_MS / 1e3


cdef bint has_room(Engine engine, door_stream *stream, int64_t handle) except -1:
    """Whether more may be pushed on a stream to which something was added; if not, it is told when there is room again. Its connection may
    have to go."""
    if unread_over(engine.core):
        relieve(engine)
        stream = stream_find(engine.core, handle)
        if stream == NULL or stream.connection == NULL:
            return False
    if stream.out_bytes > engine.core.push_bytes_max or (stream.out_bytes and connection_behind(stream.connection)):
        stream.want_writable = 1
        return False
    return True


cdef bint must_wait(const door_stream *stream) noexcept:
    """Whether what has come on this open stream waits until its peer reads; for that there must be something to read on it."""
    cdef size_t hold = stream.method.hold_bytes
    return hold and (stream.out_bytes > hold or (stream.out_bytes and connection_behind(stream.connection)))


cdef int relieve(Engine engine) except -1:
    """Closes connections until there is room. May be called by whoever has just added to a stream: no pointer to one outlives it, but those
    of streams that are queued."""
    cdef door_connection *connection = engine.core.connections
    cdef BaseConnection victim
    cdef size_t unread
    while connection != NULL:
        if connection.paused:
            (<BaseConnection>connection.python).measure()
        connection = connection.next
    while True:
        connection = unread_victim(engine.core, UNREAD_STALL_S)
        if connection == NULL:
            return 0
        unread = connection_unread(connection)
        victim = <BaseConnection>connection.python
        engine.core.unread_total += 1
        victim.cut_off()
        if engine.on_unread is not None:
            engine.on_unread(victim.peer, unread)
