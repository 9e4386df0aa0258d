# From bytes to frames, and from frames and parts to messages.

cdef class Decoder:
    """The frames of one connection. `feed` takes what the socket gave, `take` gives what is complete."""
    cdef Bytes raw
    cdef Assembly parts            # None = no message is in parts
    cdef public uint64_t message_bytes_max
    cdef public Py_ssize_t payload_bytes_max
    cdef bint broken

    def __init__(self, *, Py_ssize_t payload_bytes_max=FRAME_PAYLOAD_BYTES_MAX, uint64_t message_bytes_max):
        self.raw = Bytes()
        self.payload_bytes_max = payload_bytes_max
        self.message_bytes_max = message_bytes_max

    @property
    def buffered(self):
        """Bytes fed and not yet taken, those of unfinished messages included."""
        return self.raw.length() + (0 if self.parts is None else self.parts.came)

    def feed(self, data, Py_ssize_t count=-1):
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if count < 0 or count > view.len:
                count = view.len
            self.raw.append(<const uint8_t*>view.buf, count)
        finally:
            PyBuffer_Release(&view)

    def take(self, Py_ssize_t frames_max=-1):
        """[Message or (kind, payload)] in order. After WireError nothing more comes from this connection."""
        cdef list found = []
        if self.broken:
            raise WireError("an earlier frame was malformed")
        try:
            while len(found) != frames_max and self.one(found):
                pass
        except WireError:
            self.broken = True
            self.raw.release()
            self.parts = None
            raise
        if self.raw.start == self.raw.end and self.raw.capacity > 1 << 20:
            self.raw.release()
        return found

    cdef bint one(self, list found) except -1:
        """Takes one frame off; False = it is not complete."""
        cdef const uint8_t* at = self.raw.data + self.raw.start
        cdef size_t held = self.raw.length(), length
        cdef uint8_t kind
        if held < HEAD_BYTES:
            return False
        length = get_u32(at)
        kind = at[4]
        if length > <size_t>min(self.payload_bytes_max, FRAME_PAYLOAD_BYTES_MAX):
            raise WireError("an oversize frame")
        if held < HEAD_BYTES + length:
            return False
        if crc32c_update(crc32c_update(0, &kind, 1), at + HEAD_BYTES, length) != get_u32(at + 5):
            raise WireError("a frame's checksum is wrong")
        at += HEAD_BYTES
        if kind == KIND_MESSAGE:
            found.append(take_message(at, length))
        elif kind == KIND_PART_FIRST or kind == KIND_PART:
            self.part(kind, at, length, found)
        else:
            found.append((<int>kind, PyBytes_FromStringAndSize(<const char*>at, length)))
        self.raw.take(HEAD_BYTES + length)
        return True

    cdef int part(self, uint8_t kind, const uint8_t* at, size_t length, list found) except -1:
        cdef uint64_t total
        if (kind == KIND_PART_FIRST) != (self.parts is None) or (kind == KIND_PART_FIRST and length <= 8) or not length:
            raise WireError("a part out of order")
        if kind == KIND_PART_FIRST:
            total = get_u32(at) | <uint64_t>get_u32(at + 4) << 32
            at += 8
            length -= 8
            if total > self.message_bytes_max or not total:
                raise WireError("an oversize message")
            self.parts = Assembly(total)
        if length > self.parts.total - self.parts.came:
            raise WireError("a part beyond the end of its message")
        self.parts.feed(at, length)
        if self.parts.came == self.parts.total:
            found.append(self.parts.message())
            self.parts = None
        return 0
