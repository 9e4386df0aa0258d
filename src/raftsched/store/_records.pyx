"""Records between the apply and the disk: the arena of one commit, and a record source in memory.

Invariant: (main, sub) rises strictly inside a generation, and a value's bytes never move while the generation lives.
Must not know: keys, revisions' meaning, LMDB, threads.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from bisect import bisect_left

cdef enum:
    CHUNK_BYTES_MIN = 1 << 16   # the first chunk: an idle store's generation stays small
    CHUNK_BYTES_MAX = 1 << 21   # chunks double up to this; a larger value gets a chunk of its own
    RECORDS_MIN = 256


cdef class RecordSource:

    cdef int get(self, uint64_t main, uint32_t sub, bint tombstone, record_t* out) noexcept nogil:
        return -1

    cdef int scan(self, uint64_t from_main, uint64_t to_main, scan_fn callback, void* context) noexcept nogil:
        return -1

    def error(self):
        """The text of the last I/O error; empty if there was none."""
        return ""

    def read(self, uint64_t main, uint32_t sub, bint tombstone=False):
        """The stored value at (main, sub); None if there is none. OSError when the source cannot read."""
        cdef record_t record
        cdef int status
        with nogil:
            status = self.get(main, sub, tombstone, &record)
        if status < 0:
            raise OSError(self.error() or f"{type(self).__name__} cannot be read")
        if status > 0:
            return None
        return PyBytes_FromStringAndSize(<const char*> record.value, record.length)


cdef class MemoryRecords(RecordSource):

    def __init__(self):
        self._values = {}
        self._order = []
        self._sorted = True

    def __len__(self):
        return len(self._values)

    def store(self, Generation generation not None):
        """Takes over all records of a frozen generation, as a commit would. ValueError if it is not frozen."""
        if not generation.frozen:
            raise ValueError("the generation is still filling")
        for main, sub, tombstone, value in generation.items():
            self.put(main, sub, tombstone, value)

    def put(self, main, sub, tombstone, bytes value not None):
        """Stores one record."""
        place = (main, sub, bool(tombstone))
        if place not in self._values:
            self._order.append(place)
            self._sorted = False
        self._values[place] = value

    def remove(self, main, sub, tombstone):
        """Drops one record; KeyError if it is not there."""
        place = (main, sub, bool(tombstone))
        del self._values[place]
        self._sort()
        del self._order[bisect_left(self._order, place)]

    def items(self):
        """All records in order, as (main, sub, tombstone, value)."""
        self._sort()
        return [(*place, self._values[place]) for place in self._order]

    cdef _sort(self):
        if not self._sorted:
            self._order.sort()
            self._sorted = True

    cdef int get(self, uint64_t main, uint32_t sub, bint tombstone, record_t* out) noexcept nogil:
        with gil:
            value = self._values.get((main, sub, bool(tombstone)))
            if value is None:
                return 1
            fill(out, main, sub, tombstone, value)
            return 0

    cdef int scan(self, uint64_t from_main, uint64_t to_main, scan_fn callback, void* context) noexcept nogil:
        cdef record_t record
        cdef int status = 0
        with gil:
            self._sort()
            order = self._order
            for position in range(bisect_left(order, (from_main, 0, False)), len(order)):
                place = order[position]
                if place[0] > to_main:
                    break
                fill(&record, place[0], place[1], place[2], self._values[place])
                status = callback(context, &record)
                if status:
                    break
            return status


cdef void fill(record_t* out, uint64_t main, uint32_t sub, bint tombstone, bytes value) noexcept:
    out.main = main
    out.sub = sub
    out.tombstone = tombstone
    out.value = <const uint8_t*> PyBytes_AS_STRING(value)
    out.length = <uint32_t> PyBytes_GET_SIZE(value)


@cython.final
cdef class Generation:

    def __cinit__(self):
        self.records = NULL
        self.chunks = NULL

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.chunk_count):
            free(self.chunks[i])
        free(self.chunks)
        free(self.records)

    def __len__(self):
        return self.count

    cdef uint8_t* reserve(self, uint64_t main, uint32_t sub, bint tombstone, uint32_t length) noexcept nogil:
        cdef record_t* last
        cdef record_t* record
        cdef uint8_t* value
        if self.frozen:
            return NULL
        if self.count:
            last = &self.records[self.count - 1]
            if main < last.main or (main == last.main and sub <= last.sub):
                return NULL
        if self.count == self.capacity and self.grow_records() < 0:
            return NULL
        value = self.room(length)
        if value == NULL:
            return NULL
        record = &self.records[self.count]
        record.main = main
        record.sub = sub
        record.length = length
        record.tombstone = tombstone
        record.value = value
        self.count += 1
        self.size_bytes += length + sizeof(record_t)
        return value

    cdef int append(
        self, uint64_t main, uint32_t sub, bint tombstone, const uint8_t* value, uint32_t length
    ) noexcept nogil:
        cdef uint8_t* room = self.reserve(main, sub, tombstone, length)
        if room == NULL:
            return -1
        memcpy(room, value, length)
        return 0

    cdef int grow_records(self) noexcept nogil:
        cdef size_t capacity = self.capacity * 2 if self.capacity else RECORDS_MIN
        cdef record_t* records = <record_t*> realloc(self.records, capacity * sizeof(record_t))
        if records == NULL:
            return -1
        self.records = records
        self.capacity = capacity
        return 0

    cdef uint8_t* room(self, uint32_t length) noexcept nogil:
        """`length` bytes of the arena; NULL when out of memory. Chunks are never moved: values are pointed at."""
        cdef uint8_t** chunks
        cdef uint8_t* chunk
        cdef size_t size, capacity
        if self.chunk_count and self.chunk_size - self.chunk_used >= length:
            chunk = self.chunks[self.chunk_count - 1] + self.chunk_used
            self.chunk_used += length
            return chunk
        if self.chunk_count == self.chunk_capacity:
            capacity = self.chunk_capacity * 2 if self.chunk_capacity else 16
            chunks = <uint8_t**> realloc(self.chunks, capacity * sizeof(uint8_t*))
            if chunks == NULL:
                return NULL
            self.chunks = chunks
            self.chunk_capacity = capacity
        size = CHUNK_BYTES_MIN
        if self.chunk_count > 5:
            size = CHUNK_BYTES_MAX
        elif self.chunk_count:
            size <<= self.chunk_count
        if size < length:
            size = length
        chunk = <uint8_t*> malloc(size if size else 1)
        if chunk == NULL:
            return NULL
        self.chunks[self.chunk_count] = chunk
        self.chunk_count += 1
        self.chunk_size = size
        self.chunk_used = length
        return chunk

    cdef const record_t* find(self, uint64_t main, uint32_t sub) noexcept nogil:
        cdef size_t position = self.lower_bound(main, sub)
        if position < self.count and self.records[position].main == main and self.records[position].sub == sub:
            return &self.records[position]
        return NULL

    cdef size_t lower_bound(self, uint64_t main, uint32_t sub) noexcept nogil:
        """The position of the first record at or after (main, sub)."""
        cdef size_t low = 0, high = self.count, middle
        cdef record_t* record
        if not high or main < self.records[0].main:
            return 0
        # Single puts dominate and make mains dense: then the distance from the first one is the position.
        if main - self.records[0].main < high:
            middle = <size_t> (main - self.records[0].main)
            record = &self.records[middle]
            if record.main == main and record.sub == sub:
                return middle
        while low < high:
            middle = (low + high) >> 1
            record = &self.records[middle]
            if record.main < main or (record.main == main and record.sub < sub):
                low = middle + 1
            else:
                high = middle
        return low

    cdef int scan(self, uint64_t from_main, uint64_t to_main, scan_fn callback, void* context) noexcept nogil:
        cdef size_t position = self.lower_bound(from_main, 0)
        cdef int status = 0
        while position < self.count and self.records[position].main <= to_main and not status:
            status = callback(context, &self.records[position])
            position += 1
        return status

    cpdef void freeze(self) noexcept:
        self.frozen = True

    def add(self, uint64_t main, uint32_t sub, bint tombstone, bytes value not None):
        """Appends one record. ValueError if it is frozen or (main, sub) does not rise."""
        if PyBytes_GET_SIZE(value) > 0xFFFFFFFF:
            raise ValueError("a record's value is at most 4 GiB")
        if self.append(main, sub, tombstone, <const uint8_t*> PyBytes_AS_STRING(value), <uint32_t> PyBytes_GET_SIZE(value)):
            raise ValueError(f"cannot add ({main}, {sub}): frozen, out of order, or out of memory")

    def items(self):
        """All records in order, as (main, sub, tombstone, value)."""
        cdef size_t i
        found = []
        for i in range(self.count):
            found.append((
                self.records[i].main,
                self.records[i].sub,
                bool(self.records[i].tombstone),
                PyBytes_FromStringAndSize(<const char*> self.records[i].value, self.records[i].length),
            ))
        return found
