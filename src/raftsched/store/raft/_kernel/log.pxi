# The part of the log that is held in memory. Included by _kernel.pyx.


cdef class Log:
    """Entries first .. last; what is older lives in the log on disk alone.

    `base_term` is the term of entry first - 1, so that an append can be checked against it.
    """

    def __cinit__(self):
        self.first = 1
        self.base_term = 0
        self.data = []

    def __dealloc__(self):
        free(self.terms)
        free(self.kinds)

    cdef int reserve(self, Py_ssize_t more) except -1:
        cdef Py_ssize_t capacity = self.capacity
        cdef void* terms
        cdef void* kinds
        if self.count + more <= capacity:
            return 0
        capacity = max(2 * capacity, self.count + more, 1024)
        terms = realloc(self.terms, capacity * sizeof(int64_t))
        if terms == NULL:
            raise MemoryError
        self.terms = <int64_t*>terms
        kinds = realloc(self.kinds, capacity)
        if kinds == NULL:
            raise MemoryError
        self.kinds = <uint8_t*>kinds
        self.capacity = capacity
        return 0

    cdef int64_t last(self) noexcept:
        return self.first + self.count - 1

    cdef int64_t term_at(self, int64_t index) noexcept:
        """NO_TERM when the entry is not held here."""
        cdef int64_t position = index - self.first
        if 0 <= position < self.count:
            return self.terms[position]
        return self.base_term if position == -1 else NO_TERM

    cdef int append(self, list items, int64_t term, int kind) except -1:
        cdef Py_ssize_t more = len(items), i
        self.reserve(more)
        for i in range(self.count, self.count + more):
            self.terms[i] = term
        memset(self.kinds + self.count, kind, more)
        self.data.extend(items)
        self.count += more
        return 0

    cdef int truncate(self, int64_t index) except -1:
        """Drops entry `index` and all after it."""
        cdef Py_ssize_t keep = index - self.first
        del self.data[keep:]
        self.count = keep
        return 0

    cdef int compact(self, int64_t index) except -1:
        """Drops everything up to and including `index`, which is held here."""
        cdef Py_ssize_t drop = index - self.first + 1
        if drop <= 0:
            return 0
        self.base_term = self.term_at(index)
        del self.data[:drop]
        self.count -= drop
        memmove(self.terms, self.terms + drop, self.count * sizeof(int64_t))
        memmove(self.kinds, self.kinds + drop, self.count)
        self.first = index + 1
        return 0

    cdef int64_t find_change(self, int64_t index) noexcept:
        """The first configuration change at `index` (> first - 1) or after it; 0 = none."""
        cdef Py_ssize_t position = index - self.first
        cdef const void* found = NULL
        if position < self.count:
            found = memchr(self.kinds + position, CONF_CHANGE, self.count - position)
        return 0 if found == NULL else self.first + (<const uint8_t*>found - self.kinds)

    cdef list runs(self, int64_t start, int64_t stop, Py_ssize_t entries_max, int64_t bytes_max):
        """Entries start .. stop - 1 grouped by term and kind, at least one, cut at either bound."""
        cdef Py_ssize_t position = start - self.first, end = stop - self.first, run_start
        cdef int64_t size = 0
        cdef list found = []
        if end > position + entries_max:
            end = position + entries_max
        while position < end and (size < bytes_max or not found):
            run_start = position
            while position < end and self.terms[position] == self.terms[run_start] and self.kinds[position] == self.kinds[run_start]:
                size += PyBytes_GET_SIZE(<object>PyList_GET_ITEM(self.data, position))
                if size > bytes_max and (position > run_start or found):
                    end = position  # this one does not fit any more
                    break
                position += 1
            if position > run_start:
                found.append((self.first + run_start, self.terms[run_start], self.kinds[run_start], self.data[run_start:position]))
        return found

    cdef int64_t size_bytes(self, int64_t start, int64_t stop) noexcept:
        """Bytes of the entries start .. stop - 1."""
        cdef int64_t size = 0
        cdef Py_ssize_t position
        for position in range(start - self.first, stop - self.first):
            size += PyBytes_GET_SIZE(<object>PyList_GET_ITEM(self.data, position))
        return size
