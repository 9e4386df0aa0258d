# Bytes into records: walks one segment after the other and keeps what a restart needs.

cdef tuple REASONS = ("", "", "impossible length word", "not a record", "checksum mismatch", "padding not zero")


cdef class LogReader:
    """Reads segments in order, verifies the chain, keeps the entries after `after_index`.

    A *break* is where the bytes stop to verify; whether it is a torn tail or corruption is not decided here. *Illegal* is a
    record that verifies and cannot be: a gap, a term that falls, an entry that replaces a committed one.
    """
    cdef readonly uint64_t after_index
    cdef readonly uint32_t crc
    cdef readonly uint64_t last_index      # of the log as read so far
    cdef readonly uint64_t last_term       # 0 = not known (nothing read, or only a mark)
    cdef readonly uint64_t base_term       # of the entry after_index; 0 = not seen
    cdef readonly bytes metadata
    cdef readonly list terms
    cdef readonly list datas
    cdef readonly dict types               # position: type, where it is not 0
    cdef readonly bytes mark               # the walpb.Snapshot of the highest index, encoded
    cdef readonly uint64_t mark_index
    cdef readonly uint64_t mark_term
    cdef readonly uint64_t restart_index   # of the newest installed snapshot; 0 = none
    cdef readonly uint64_t record_count
    cdef readonly bint head_read           # of the segment read last
    cdef wal_state_t state
    cdef bint started
    cdef bint foreign                      # etcd's own, whose checksum records carry no stamp
    cdef object term_object                # the last term as a Python int: entries of one term share it
    cdef uint64_t term_value

    def __init__(self, uint64_t after_index, *, bint foreign=False):
        self.after_index = after_index
        self.foreign = foreign
        self.metadata = None
        self.mark = b""
        self.terms, self.datas, self.types = [], [], {}
        self.term_object, self.term_value = 0, 0

    @property
    def hard_state(self):
        return HardState(self.state.term, self.state.vote, self.state.commit) if self.state.known else None

    def read(self, data, uint64_t sequence, uint64_t first_index):
        """One segment: (offset where reading ended, reason of a break or "", reason of an illegal record or "").

        `first_index` is the one in the segment's name."""
        cdef Py_buffer view
        cdef uint64_t offset = 0
        cdef str broken = "", illegal = ""
        if self.started and first_index != self.last_index + 1:
            return 0, "", f"its name says index {first_index}, the log before it ends at {self.last_index}"
        if not self.started:
            self.last_index = first_index - 1
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            broken, illegal = self.walk(<const uint8_t*> view.buf, view.len, sequence, &offset)
        finally:
            PyBuffer_Release(&view)
        return offset, broken, illegal

    cdef tuple walk(self, const uint8_t* data, uint64_t size, uint64_t sequence, uint64_t* offset):
        cdef wal_frame_t frame
        cdef wal_read_t status
        cdef uint32_t crc
        cdef uint64_t position = 0     # of the record in its segment
        cdef str illegal
        self.head_read = False
        while True:
            status = frame_at(data, size, offset[0], &frame)
            if status == READ_END:
                if not self.head_read:
                    return "no record", ""
                if find_nonzero(data, size, offset[0]) != size:
                    return "bytes behind the last record", ""
                return "", ""
            if status != READ_OK:
                return REASONS[<int> status], ""
            if frame.type == RECORD_CRC:
                crc = frame.crc if not self.started else self.crc
            else:
                crc = crc32c_update(self.crc, frame.data, frame.length)
            if crc != frame.crc:
                return REASONS[<int> READ_CHECKSUM], ""
            if frame.type == RECORD_CRC and not self.foreign and not is_batch_start(&frame, sequence, offset[0]):
                return "a batch start that belongs elsewhere", ""   # its stamp, which no checksum covers, may be torn off
            illegal = self.take(&frame, position)
            if illegal:
                return "", illegal
            self.crc = crc
            self.started = True
            position += 1
            self.head_read = position >= 2
            self.record_count += 1
            offset[0] = frame.end

    cdef str take(self, wal_frame_t* frame, uint64_t position):
        """Takes in a record that verifies; the reason if it cannot be."""
        if position == 0 and frame.type != RECORD_CRC or position == 1 and frame.type != RECORD_METADATA:
            return "a segment starts with a checksum and metadata"
        if frame.type == RECORD_ENTRY:
            return self.take_entry(frame)
        if frame.type == RECORD_STATE:
            return self.take_state(frame)
        if frame.type == RECORD_CRC:
            return ""
        if frame.type == RECORD_SNAPSHOT:
            return self.take_mark(frame)
        if frame.type == RECORD_METADATA and position == 1:
            metadata = PyBytes_FromStringAndSize(<const char*> frame.data, frame.length)
            if self.metadata is not None and metadata != self.metadata:
                return "metadata of another log"
            self.metadata = metadata
            return ""
        return f"record type {frame.type} here"

    cdef str take_entry(self, wal_frame_t* frame):
        cdef wal_entry_view_t entry
        if not entry_of(frame, &entry):
            return "not an entry"
        if entry.index > self.last_index + 1:
            return f"entry {entry.index} follows {self.last_index}"
        if entry.index <= self.state.commit:
            return f"entry {entry.index} replaces a committed one"
        if entry.index <= self.restart_index:
            return f"entry {entry.index} replaces one of the snapshot at {self.restart_index}"
        if entry.index == self.last_index + 1 and entry.term < self.last_term:
            return f"entry {entry.index} has term {entry.term} after {self.last_term}"
        if entry.index > self.after_index and self.last_index < self.after_index:
            return f"entry {entry.index} follows a gap: the store ends at {self.after_index}"
        self.keep(entry.index, entry.term, entry.kind,
                  PyBytes_FromStringAndSize(<const char*> entry.data, entry.length) if entry.index > self.after_index else None)
        return ""

    cdef int keep(self, uint64_t index, uint64_t term, uint64_t kind, bytes data) except -1:
        if term != self.term_value or not self.term_value:
            self.term_object, self.term_value = term, term
        if index <= self.last_index:
            self.cut(index)
        if index == self.after_index:
            self.base_term = term
        if data is not None:
            if kind:
                self.types[len(self.datas)] = kind
            self.terms.append(self.term_object)
            self.datas.append(data)
        self.last_index = index
        self.last_term = term
        return 0

    cdef int cut(self, uint64_t index) except -1:
        """Forgets the entries from `index` on."""
        cdef Py_ssize_t position = index - self.after_index - 1 if index > self.after_index else 0
        if position < len(self.datas):
            del self.terms[position:]
            del self.datas[position:]
            self.types = {at: kind for at, kind in self.types.items() if at < position}
        return 0

    cdef str take_state(self, wal_frame_t* frame):
        cdef wal_state_t state
        cdef const uint8_t* at = frame.data
        cdef const uint8_t* end = at + frame.length
        state.term = state.vote = state.commit = 0
        at = self.get(self.get(self.get(at, end, 0x08, &state.term), end, 0x10, &state.vote), end, 0x18, &state.commit)
        if at == NULL or at != end:
            return "not a hard state"
        if state.term < self.state.term:
            return f"the term falls from {self.state.term} to {state.term}"
        state.known = 1
        self.state = state
        return ""

    cdef const uint8_t* get(self, const uint8_t* at, const uint8_t* end, uint8_t tag, uint64_t* value) noexcept:
        """A number; a foreign log may leave out one that is 0."""
        return at if self.foreign and at != NULL and (at == end or at[0] != tag) else get_field(at, end, tag, value)

    cdef str take_mark(self, wal_frame_t* frame):
        cdef wal_mark_view_t mark
        if not mark_of(frame, &mark):
            return "not a snapshot mark"
        if mark.index >= self.mark_index:   # one of the member's own may have been under way when a snapshot was installed
            self.mark = PyBytes_FromStringAndSize(<const char*> frame.data, frame.length)
            self.mark_index, self.mark_term = mark.index, mark.term
        if mark.restarts or mark.index > self.last_index:
            return self.restart(mark.index, mark.term)
        return ""

    cdef str restart(self, uint64_t index, uint64_t term):
        """An installed snapshot: nothing before it counts, the log goes on behind it."""
        if index <= self.state.commit:
            return f"the snapshot at {index} replaces committed entries"
        if index > self.after_index:
            return f"the snapshot at {index} is not in the store, which ends at {self.after_index}"
        self.cut(self.after_index + 1)
        self.restart_index = self.last_index = index
        self.last_term = term
        self.base_term = term if index == self.after_index else 0
        return ""


def batch_start_after(data, uint64_t offset, uint64_t sequence):
    """Offset of the first batch start of segment `sequence` at or after `offset`; -1 = none."""
    cdef Py_buffer view
    cdef int64_t found
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        found = find_batch_start(<const uint8_t*> view.buf, view.len, offset, sequence)
    finally:
        PyBuffer_Release(&view)
    return found


def data_end(data, uint64_t offset):
    """Offset behind the last byte at or after `offset` that is not zero; `offset` if all are."""
    cdef Py_buffer view
    cdef uint64_t end
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        end = view.len
        while end > offset and not (<const uint8_t*> view.buf)[end - 1]:
            end -= 1
    finally:
        PyBuffer_Release(&view)
    return end
