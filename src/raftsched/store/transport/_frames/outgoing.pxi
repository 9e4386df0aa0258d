# From messages to frames.

def frame(int kind, bytes payload not None):
    """One frame. ValueError if it would be larger than 4 MiB."""
    cdef Py_ssize_t length = PyBytes_GET_SIZE(payload)
    cdef bytes data
    cdef uint8_t* at
    if length > FRAME_PAYLOAD_BYTES_MAX or not 0 < kind < 256:
        raise ValueError("no such frame")
    data = PyBytes_FromStringAndSize(NULL, HEAD_BYTES + length)
    at = <uint8_t*>PyBytes_AS_STRING(data)
    memcpy(at + HEAD_BYTES, PyBytes_AS_STRING(payload), length)
    put_head(at, <uint32_t>length, <uint8_t>kind)
    return data


def frames(list items not None):
    """All in one piece: messages that fit into a frame become frames, bytes are frames already."""
    cdef Py_ssize_t total = 0, size
    cdef list sizes = []
    cdef bytes data
    cdef uint8_t* at
    cdef Py_ssize_t i
    for item in items:
        if type(item) is bytes:
            size = PyBytes_GET_SIZE(item)
        else:
            size = HEAD_BYTES + message_size(<Message?>item)
            if size > HEAD_BYTES + FRAME_PAYLOAD_BYTES_MAX:
                raise ValueError("the message needs parts")
        sizes.append(size)
        total += size
    data = PyBytes_FromStringAndSize(NULL, total)
    at = <uint8_t*>PyBytes_AS_STRING(data)
    for i in range(len(items)):
        item = items[i]
        size = <Py_ssize_t>sizes[i]
        if type(item) is bytes:
            memcpy(at, PyBytes_AS_STRING(item), size)
        else:
            put_message(at + HEAD_BYTES, <Message>item)
            put_head(at, <uint32_t>(size - HEAD_BYTES), KIND_MESSAGE)
        at += size
    return data


cdef class Parts:
    """A long message on its way out, frame by frame."""
    cdef bytes data
    cdef Py_ssize_t at

    def __init__(self, Message message not None):
        self.data = encode(message)

    def next(self):
        """The next frame; None behind the last."""
        cdef Py_ssize_t length = PyBytes_GET_SIZE(self.data) - self.at, extra = 0 if self.at else 8
        cdef bytes out
        cdef uint8_t* at
        if length == 0 and self.at:
            return None
        if length > PART_PAYLOAD_BYTES:
            length = PART_PAYLOAD_BYTES
        out = PyBytes_FromStringAndSize(NULL, HEAD_BYTES + extra + length)
        at = <uint8_t*>PyBytes_AS_STRING(out)
        if extra:
            put_u32(at + HEAD_BYTES, <uint32_t>PyBytes_GET_SIZE(self.data))
            put_u32(at + HEAD_BYTES + 4, <uint32_t>(PyBytes_GET_SIZE(self.data) >> 32))
        memcpy(at + HEAD_BYTES + extra, PyBytes_AS_STRING(self.data) + self.at, length)
        put_head(at, <uint32_t>(extra + length), KIND_PART_FIRST if extra else KIND_PART)
        self.at += length
        return out
