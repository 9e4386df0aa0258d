# A long message as its parts come: read on the way, so that the last part costs no more than any other.

cdef enum:
    AT_FIELD
    AT_RUN_HEAD
    AT_ENTRY
    IN_ENTRY


cdef class Bytes:
    """A growing buffer: what was taken from the front makes room before memory is asked for."""
    cdef uint8_t* data
    cdef size_t start, end, capacity

    def __dealloc__(self):
        free(self.data)

    cdef size_t length(self) noexcept:
        return self.end - self.start

    cdef int append(self, const uint8_t* data, size_t length, size_t most=SIZE_MAX) except -1:
        """`most`: how much will ever be held."""
        cdef size_t capacity = self.capacity
        cdef uint8_t* bigger
        if self.start and (self.start == self.end or capacity - self.end < length):
            memmove(self.data, self.data + self.start, self.end - self.start)
            self.end -= self.start
            self.start = 0
        if capacity - self.end < length:
            capacity = max(min(2 * capacity, most), self.end + length, <size_t>4096)
            bigger = <uint8_t*>realloc(self.data, capacity)
            if bigger == NULL:
                raise MemoryError
            self.data = bigger
            self.capacity = capacity
        memcpy(self.data + self.end, data, length)
        self.end += length
        return 0

    cdef void take(self, size_t length) noexcept:
        self.start += length
        if self.start == self.end:
            self.start = self.end = 0

    cdef void release(self) noexcept:
        free(self.data)
        self.data = NULL
        self.start = self.end = self.capacity = 0


cdef class Growing:
    """A bytes object that grows with what comes for it: at most twice that, and at most its length."""
    cdef PyObject* held            # the one reference to it; NULL = none
    cdef Py_ssize_t came, length, capacity

    def __dealloc__(self):
        Py_XDECREF(self.held)

    cdef int begin(self, Py_ssize_t length) except -1:
        self.length = length
        self.capacity = min(length, <Py_ssize_t>FIRST_BYTES)
        self.came = 0
        self.held = new_bytes(NULL, self.capacity)
        if self.held == NULL:
            raise MemoryError
        return 0

    cdef int put(self, const uint8_t* data, Py_ssize_t count) except -1:
        if self.capacity - self.came < count:
            # The allocator moves a large block by the memory's map, where it can (Linux): no copy.
            self.capacity = min(max(2 * self.capacity, self.came + count), self.length)
            _PyBytes_Resize(&self.held, self.capacity)
        memcpy(bytes_data(self.held) + self.came, data, count)
        self.came += count
        return 0

    cdef object finish(self):
        done = <object>self.held
        Py_XDECREF(self.held)
        self.held = NULL
        return done


cdef class Assembly:
    """One message in parts. `carry`: the beginning of a number, or of a field that is no run, which is not whole yet."""
    cdef uint64_t total, came
    cdef uint64_t left             # bytes of the message that are not read yet ...
    cdef uint64_t run_left         # ... and of those, of the run
    cdef uint64_t items_left       # entries of the run that are not whole yet
    cdef Py_ssize_t entries
    cdef int where
    cdef uint64_t numbers[NUMBERS]
    cdef uint64_t head[4]          # of the run
    cdef list runs, items
    cdef Growing entry
    cdef Bytes carry

    def __cinit__(self, uint64_t total):
        cdef int i
        self.total = self.left = total
        self.runs = []
        self.carry = Bytes()
        self.entry = Growing()
        for i in range(NUMBERS):
            self.numbers[i] = 0

    cdef int feed(self, const uint8_t* data, size_t length) except -1:
        """The next bytes, at most `total - came`. Raises WireError."""
        cdef Py_ssize_t used
        self.came += length
        if self.carry.length():
            self.carry.append(data, length)
            self.carry.take(self.read(self.carry.data + self.carry.start, self.carry.length()))
        else:
            used = self.read(data, length)
            self.carry.append(data + used, length - used)
        if self.carry.length() > FIELD_BYTES_MAX:
            raise WireError("a field is too long")
        return 0

    cdef Py_ssize_t read(self, const uint8_t* data, size_t length) except -1:
        """How much of it was read: all but the beginning of something that is not whole yet."""
        cdef wire_reader reader
        cdef const uint8_t* at = data
        cdef const uint8_t* end = data + length
        cdef uint64_t used, most
        while at != end:
            most = self.left if self.where == AT_FIELD else self.run_left
            reader = wire_open(wire_span(at, min(most, <uint64_t>(end - at))))
            if not self.one(&reader):
                if <uint64_t>(end - at) >= most:
                    raise WireError("a run is malformed" if self.where != AT_FIELD else "a field is malformed")
                break
            used = reader.at - at
            at = reader.at
            self.left -= used
        return at - data

    cdef bint one(self, wire_reader* reader) except -1:
        """Reads one thing; False = it is not whole."""
        cdef const uint8_t* at = reader.at
        if self.where == AT_FIELD:
            return self.field(reader)
        if self.where == AT_RUN_HEAD:
            if not self.run_head(reader):
                return False
        elif self.where == IN_ENTRY:
            self.entry_body(reader)
        elif not self.entry_head(reader):
            return False
        self.run_left -= reader.at - at
        if not self.items_left:
            self.end_run()
        return True

    cdef bint field(self, wire_reader* reader) except -1:
        cdef const uint8_t* at = reader.at
        cdef uint32_t field, type
        cdef int64_t number
        if wire_tag(reader, &field, &type) <= 0:
            return False
        if field == RUN_FIELD:
            if type != WIRE_BYTES:
                raise WireError("a run is cut off")
            if wire_varint(reader, &self.run_left):
                return False
            if self.run_left > self.left - (reader.at - at):
                raise WireError("a run is cut off")
            self.where = AT_RUN_HEAD
            return True
        if field > NUMBERS:
            return not wire_skip(reader, field, type)
        if wire_take_int(reader, type, &number):
            return False
        self.numbers[field - 1] = <uint64_t>number
        return True

    cdef bint run_head(self, wire_reader* reader) except -1:
        cdef const uint8_t* at = reader.at
        cdef int i
        for i in range(4):
            if wire_varint(reader, &self.head[i]):
                return False
        self.items_left = self.head[3]
        if not is_run_head(self.head, self.run_left - (reader.at - at), self.entries):
            raise WireError("a run is malformed")
        self.items = []
        self.where = AT_ENTRY
        return True

    cdef bint entry_head(self, wire_reader* reader) except -1:
        """The length of an entry, and the entry itself if it is whole."""
        cdef const uint8_t* at = reader.at
        cdef uint64_t length, there
        if wire_varint(reader, &length):
            return False
        if length > self.run_left - (reader.at - at):
            raise WireError("a run is malformed")
        there = reader.end - reader.at
        if length <= there:
            self.items.append(PyBytes_FromStringAndSize(<const char*>reader.at, length))
            self.items_left -= 1
            reader.at += length
        else:
            self.entry.begin(length)
            self.where = IN_ENTRY
        return True

    cdef int entry_body(self, wire_reader* reader) except -1:
        cdef Py_ssize_t count = min(self.entry.length - self.entry.came, <Py_ssize_t>(reader.end - reader.at))
        self.entry.put(reader.at, count)
        reader.at += count
        if self.entry.came == self.entry.length:
            self.items.append(self.entry.finish())
            self.items_left -= 1
            self.where = AT_ENTRY
        return 0

    cdef int end_run(self) except -1:
        if self.run_left:
            raise WireError("a run is malformed")
        self.entries += self.head[3]
        self.runs.append((<int64_t>self.head[0], <int64_t>self.head[1], <int>self.head[2], self.items))
        self.items = None
        self.where = AT_FIELD
        return 0

    cdef Message message(self):
        """When all came. Raises WireError."""
        if self.left or self.where != AT_FIELD:
            raise WireError("a message is cut off")
        return checked_message(self.numbers, self.runs)
