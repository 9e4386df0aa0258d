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


cdef class Pieces:
    """A message's bytes as a list: large entries as they are, not copied, and what stands between them."""
    cdef list done
    cdef Bytes small

    def __init__(self):
        self.done = []
        self.small = Bytes()

    cdef int put(self, const uint8_t* data, size_t length) except -1:
        return self.small.append(data, length)

    cdef int put_entry(self, bytes entry) except -1:
        cdef uint8_t head[10]
        cdef Py_ssize_t length = PyBytes_GET_SIZE(entry)
        self.put(head, wire_put_varint(head, length) - head)
        if length < BIG_ENTRY_BYTES:
            return self.put(<const uint8_t*>PyBytes_AS_STRING(entry), length)
        self.flush()
        self.done.append(entry)
        return 0

    cdef int flush(self) except -1:
        if self.small.length():
            self.done.append(PyBytes_FromStringAndSize(<const char*>self.small.data + self.small.start, self.small.length()))
            self.small.release()
        return 0


cdef list message_pieces(Message message):
    """The same bytes as `encode`."""
    cdef uint64_t numbers[NUMBERS]
    cdef uint8_t head[NUMBERS * 11]
    cdef uint8_t* at = head
    cdef Pieces pieces = Pieces()
    cdef Py_ssize_t entries = 0
    cdef int i
    numbers_of(message, numbers)
    for i in range(NUMBERS):
        at = wire_put_int(at, <uint8_t>((i + 1) << 3), numbers[i])
    pieces.put(head, at - head)
    for run in message.runs:
        at = put_run_head(head, <tuple?>run, run_size(<tuple>run, &entries))
        pieces.put(head, at - head)
        for entry in <list>run[3]:
            pieces.put_entry(<bytes>entry)
    pieces.flush()
    return pieces.done


cdef class Parts:
    """A long message on its way out, frame by frame. Holds its entries, not a copy of them."""
    cdef list pieces
    cdef Py_ssize_t left_bytes, piece, offset
    cdef bint begun

    def __init__(self, Message message not None):
        self.pieces = message_pieces(message)
        for piece in self.pieces:
            self.left_bytes += PyBytes_GET_SIZE(piece)

    @property
    def left(self):
        """Bytes of the message that `next` has not given yet."""
        return self.left_bytes

    def next(self):
        """The next frame; None behind the last."""
        cdef Py_ssize_t length = min(self.left_bytes, <Py_ssize_t>PART_PAYLOAD_BYTES), extra = 0 if self.begun else 8
        cdef bytes out
        cdef uint8_t* at
        if length == 0 and self.begun:
            return None
        out = PyBytes_FromStringAndSize(NULL, HEAD_BYTES + extra + length)
        at = <uint8_t*>PyBytes_AS_STRING(out)
        if extra:
            put_u32(at + HEAD_BYTES, <uint32_t>self.left_bytes)
            put_u32(at + HEAD_BYTES + 4, <uint32_t>(self.left_bytes >> 32))
        self.copy(at + HEAD_BYTES + extra, length)
        put_head(at, <uint32_t>(extra + length), KIND_PART_FIRST if extra else KIND_PART)
        self.begun = True
        return out

    cdef int copy(self, uint8_t* at, Py_ssize_t length) except -1:
        cdef Py_ssize_t size
        self.left_bytes -= length
        while length:
            piece = <bytes>self.pieces[self.piece]
            size = min(length, PyBytes_GET_SIZE(piece) - self.offset)
            memcpy(at, PyBytes_AS_STRING(piece) + self.offset, size)
            at += size
            length -= size
            self.offset += size
            if self.offset == PyBytes_GET_SIZE(piece):
                self.pieces[self.piece] = None
                self.piece += 1
                self.offset = 0
        return 0
