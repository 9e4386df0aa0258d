# A batch as the caller gives it, checked, in C form; and the pure encoder.

cdef class Batch:
    """The entries of one append as C structs; reused from call to call. Points into the caller's objects."""
    cdef wal_entry_t* entries
    cdef size_t capacity
    cdef size_t count
    cdef wal_state_t state
    cdef const uint8_t* mark
    cdef size_t mark_length

    def __dealloc__(self):
        free(self.entries)

    cdef int take(self, hard_state, terms, datas, types, bytes mark) except -1:
        """Checks and takes everything; ValueError or TypeError leaves nothing behind."""
        cdef list term_list = terms if type(terms) is list else list(terms)
        cdef list data_list = datas if type(datas) is list else list(datas)
        cdef list type_list = None if types is None else list(types)
        cdef size_t count = len(data_list)
        cdef wal_entry_t* entry
        cdef size_t i
        self.count = 0
        if <size_t> len(term_list) != count or (type_list is not None and <size_t> len(type_list) != count):
            raise ValueError("terms, datas and types differ in length")
        self.reserve(count)
        for i in range(count):
            entry = &self.entries[i]
            data = data_list[i]
            if type(data) is not bytes:
                raise TypeError("an entry's data is bytes")
            entry.term = term_list[i]
            entry.type = 0 if type_list is None else type_list[i]
            if entry.type > 2 or not entry.term:
                raise ValueError("an entry's type is 0 to 2, its term at least 1")
            entry.data = <const uint8_t*> PyBytes_AS_STRING(data)
            entry.length = PyBytes_GET_SIZE(data)
            entry.owner = <void*> data
        self.state.known = hard_state is not None
        if hard_state is not None:
            self.state.term = hard_state.term
            self.state.vote = hard_state.vote
            self.state.commit = hard_state.commit
        self.mark = <const uint8_t*> PyBytes_AS_STRING(mark)
        self.mark_length = PyBytes_GET_SIZE(mark)
        self.count = count
        return 0

    cdef int reserve(self, size_t count) except -1:
        cdef wal_entry_t* entries
        if count > self.capacity:
            entries = <wal_entry_t*> realloc(self.entries, 2 * count * sizeof(wal_entry_t))
            if entries == NULL:
                raise MemoryError
            self.entries = entries
            self.capacity = 2 * count
        return 0


cdef bytes flatten(wal_group_t* group):
    """The group's bytes in one piece."""
    cdef bytes result = PyBytes_FromStringAndSize(NULL, group.length)
    cdef char* at = PyBytes_AS_STRING(result)
    cdef wal_piece_t* piece
    cdef size_t i
    for i in range(group.piece_count):
        piece = &group.pieces[i]
        memcpy(at, piece.external if piece.external != NULL else group.buffer + piece.offset, piece.length)
        at += piece.length
    return result


cdef class RecordEncoder:
    """Records into bytes, without files or threads: for the first segment, the simulator and tests. Same code as the writer."""
    cdef public uint32_t crc
    cdef Batch batch

    def __init__(self, uint32_t crc=0):
        self.crc = crc
        self.batch = Batch()

    def group(self, uint64_t sequence, uint64_t offset, uint64_t first_index, terms=(), datas=(), *, types=None,
              hard_state=None, bytes mark=b"", bytes metadata=b"", head_state=None):
        """The bytes of one group at `offset` of segment `sequence`: batch start; at offset 0 metadata and `head_state`; entries,
        hard state, mark."""
        cdef wal_group_t* group
        cdef wal_state_t head
        cdef uint64_t disk
        cdef size_t size, externals, i
        self.batch.take(hard_state, terms, datas, types, mark)
        entries_need(self.batch.entries, self.batch.count, &disk, &size, &externals)
        size += 5 * (RECORD_HEAD_BYTES_MAX + STATE_BYTES_MAX) + len(mark) + len(metadata)
        group = <wal_group_t*> calloc(1, sizeof(wal_group_t))
        if group == NULL or group_reserve(group, size, externals):
            if group != NULL:
                group_free(group)
            raise MemoryError
        try:
            group_put_batch_start(group, &self.crc, sequence, offset)
            if metadata:
                group_put_record(group, RECORD_METADATA, &self.crc, <const uint8_t*> PyBytes_AS_STRING(metadata), len(metadata))
            if head_state is not None:
                head.term, head.vote, head.commit = head_state.term, head_state.vote, head_state.commit
                group_put_state(group, &self.crc, &head)
            for i in range(self.batch.count):
                group_put_entry(group, &self.crc, &self.batch.entries[i], first_index + i)
            if self.batch.state.known:
                group_put_state(group, &self.crc, &self.batch.state)
            if self.batch.mark_length:
                group_put_record(group, RECORD_SNAPSHOT, &self.crc, self.batch.mark, self.batch.mark_length)
            return flatten(group)
        finally:
            group_free(group)
