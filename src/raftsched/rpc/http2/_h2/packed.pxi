# Messages that came compressed. They are inflated as they are delivered, at most INFLATED_PER_TURN bytes in one tick, the rest in the next.


cdef bytes inflate_one(Engine engine, bytes message):
    """StatusError when that is none, or too large; what a failure took is not known and counts as all that it might have."""
    cdef uint32_t limit = engine.core.message_bytes_max
    cdef bytes whole
    engine.inflated_left -= limit
    whole = inflate(message, limit)
    engine.inflated_left += <int64_t>limit - PyBytes_GET_SIZE(whole)
    return whole


cdef bint unpack_call(Engine engine, door_stream *stream) except -1:
    """Puts its message in place of the compressed one, and its size in the budget; False: not in this tick, or the call has failed."""
    cdef door_engine *core = engine.core
    cdef int64_t handle = stream_handle(stream)
    cdef bytes whole
    cdef size_t length
    if engine.inflated_left <= 0:
        stream_event(stream, EVENT_REQUEST, core)
        return False
    stream.packed = 0
    try:
        whole = inflate_one(engine, <bytes>take_object(&stream.message))
        length = <size_t>PyBytes_GET_SIZE(whole)
        if core.bodies_bytes + length > core.bodies_bytes_max:
            raise StatusError(8, "too many request bytes in flight, try again")
    except StatusError as error:
        engine.fail(handle, error.code, error.message)
        return False
    core.bodies_bytes += length
    stream.charged += length
    put_object(&stream.message, whole)
    return True


cdef tuple take_packed(Engine engine, door_stream *stream, int *events):
    """As Engine.take_messages where some are compressed: (messages or None, what is wrong with the one behind them or None)."""
    cdef list messages = take_object(&stream.message), taken = []
    cdef object failure = None
    cdef Py_ssize_t i = 0, count = len(messages), room = STREAM_MESSAGES_PER_TURN if engine.messages_left > 0 else STREAM_MESSAGES_MIN
    cdef int64_t before = engine.inflated_left
    while i < count and i < room and engine.inflated_left > 0:
        message = messages[i]
        i += 1
        if type(message) is tuple:
            try:
                message = inflate_one(engine, (<tuple>message)[0])
            except StatusError as error:
                failure, i = error, count
                break
        taken.append(message)
    engine.messages_left -= len(taken) + (before - engine.inflated_left) // INFLATED_PER_MESSAGE
    if stream.connection == NULL:
        return taken or None, failure
    if i == count or events[0] & EVENT_CLOSED:  # for who has gone there is no next tick
        stream.packed = 0
        stream_delivered(stream)
    else:
        put_object(&stream.message, messages[i:])
        stream_event(stream, EVENT_MESSAGES | (events[0] & EVENT_HALF_CLOSE), engine.core)
        events[0] &= ~EVENT_HALF_CLOSE
    return taken or None, failure
