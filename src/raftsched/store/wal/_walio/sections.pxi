# Single entries of segments that are being written: where they lie, and chunks of them. For members that are behind.
#
# Both walks run without the interpreter's lock (pages may come from the disk) and verify the chain of checksums.

cdef enum:
    SECTION_ON = 0       # goes on where the one before ends
    SECTION_CUT = 1      # begins at or below the last index: replaces it and all after it
    SECTION_RESTART = 2  # holds no entry: an installed snapshot; what came before counts no more


ctypedef struct section_t:
    uint64_t first
    uint64_t last
    uint64_t offset
    uint32_t crc
    int kind


ctypedef struct sections_t:
    section_t* items
    size_t count
    size_t capacity


ctypedef struct walk_t:
    const uint8_t* data
    uint64_t size
    uint64_t sequence
    uint64_t offset
    uint32_t crc
    wal_frame_t frame
    uint64_t frame_offset
    uint32_t frame_crc     # the chain before the frame


cdef bint walk_next(walk_t* walk) noexcept nogil:
    """Steps over one frame that verifies; False at the end of what is written, or at a break."""
    cdef uint32_t crc
    if walk.offset > walk.size or frame_at(walk.data, walk.size, walk.offset, &walk.frame) != READ_OK:
        return False
    if walk.frame.type == RECORD_CRC:
        if walk.offset and walk.frame.crc != walk.crc or not is_batch_start(&walk.frame, walk.sequence, walk.offset):
            return False
        crc = walk.frame.crc
    else:
        crc = crc32c_update(walk.crc, walk.frame.data, walk.frame.length)
        if crc != walk.frame.crc:
            return False
    walk.frame_offset, walk.frame_crc = walk.offset, walk.crc
    walk.offset, walk.crc = walk.frame.end, crc
    return True


cdef section_t* section_new(sections_t* sections) noexcept nogil:
    cdef section_t* items
    if sections.count == sections.capacity:
        items = <section_t*> realloc(sections.items, (2 * sections.capacity + 16) * sizeof(section_t))
        if items == NULL:
            return NULL
        sections.items = items
        sections.capacity = 2 * sections.capacity + 16
    sections.count += 1
    return &sections.items[sections.count - 1]


cdef int scan_walk(walk_t* walk, sections_t* sections, uint64_t* last_index, uint64_t spacing_bytes) noexcept nogil:
    """Notes sections to the end of what verifies; -1 = out of memory."""
    cdef wal_entry_view_t entry
    cdef wal_mark_view_t mark
    cdef section_t* section = NULL
    while walk_next(walk):
        if walk.frame.type == RECORD_ENTRY:
            if not entry_of(&walk.frame, &entry):
                return 0
            if section == NULL or entry.index != last_index[0] + 1 or walk.frame_offset - section.offset >= spacing_bytes:
                section = section_new(sections)
                if section == NULL:
                    return -1
                section.first, section.offset, section.crc = entry.index, walk.frame_offset, walk.frame_crc
                section.kind = SECTION_CUT if entry.index <= last_index[0] else SECTION_ON
            section.last = last_index[0] = entry.index
        elif walk.frame.type == RECORD_SNAPSHOT and mark_of(&walk.frame, &mark) and (mark.restarts or mark.index > last_index[0]):
            section = section_new(sections)
            if section == NULL:
                return -1
            section.first, section.last, section.offset, section.crc = mark.index + 1, mark.index, walk.offset, walk.crc
            section.kind = SECTION_RESTART
            last_index[0] = mark.index
            section = NULL
    return 0


def scan_sections(data, uint64_t sequence, uint64_t offset, uint32_t crc, uint64_t last_index, uint64_t spacing_bytes):
    """Where the entries of one segment lie, from `offset` (with the chain at `crc`; 0 and 0 = its beginning) to the end of what is written:
    (offset, crc, last index, [(first, last, offset, crc, kind), ...])."""
    cdef Py_buffer view
    cdef walk_t walk
    cdef sections_t sections
    cdef int status
    cdef size_t i
    sections.items, sections.count, sections.capacity = NULL, 0, 0
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        memset(&walk, 0, sizeof(walk))
        walk.data, walk.size, walk.sequence, walk.offset, walk.crc = <const uint8_t*> view.buf, view.len, sequence, offset, crc
        with nogil:
            status = scan_walk(&walk, &sections, &last_index, spacing_bytes)
        if status:
            raise MemoryError
        found = [(sections.items[i].first, sections.items[i].last, sections.items[i].offset, sections.items[i].crc, sections.items[i].kind)
                 for i in range(sections.count)]
        return walk.offset, walk.crc, last_index, found
    finally:
        free(sections.items)
        PyBuffer_Release(&view)


cdef uint64_t chunk_walk(walk_t* walk, uint64_t first, uint64_t to_index, uint64_t entries_max, uint64_t bytes_max,
                         uint64_t* start) noexcept nogil:
    """Steps over the chunk; how many entries it has. `start` becomes the offset of the first one. Ends before what belongs no more."""
    cdef wal_entry_view_t entry
    cdef uint64_t count = 0, size = 0
    cdef walk_t before
    while True:
        before = walk[0]
        if not walk_next(walk):
            break
        if walk.frame.type != RECORD_ENTRY:
            continue
        if not entry_of(&walk.frame, &entry):
            break
        if entry.index < first and not count:
            continue
        if entry.index != first + count or entry.index > to_index or count == entries_max or (count and size + entry.length > bytes_max):
            break
        if not count:
            start[0] = walk.frame_offset
        count += 1
        size += entry.length
    walk[0] = before
    return count


def read_section(data, uint64_t sequence, uint64_t offset, uint32_t crc, uint64_t first, uint64_t to_index, uint64_t entries_max,
                 uint64_t bytes_max):
    """Entries `first ..` of one section, at most to `to_index`, so many and so many bytes of data, but one at least:
    ([(first index, term, kind, [data, ...]), ...], offset, crc) with the position behind them. No entries: they are not there."""
    cdef Py_buffer view
    cdef walk_t walk
    cdef wal_frame_t frame
    cdef wal_entry_view_t entry
    cdef uint64_t start = 0, count, term = 0, kind = 0
    runs, datas = [], None
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        memset(&walk, 0, sizeof(walk))
        walk.data, walk.size, walk.sequence, walk.offset, walk.crc = <const uint8_t*> view.buf, view.len, sequence, offset, crc
        with nogil:
            count = chunk_walk(&walk, first, to_index, entries_max, bytes_max, &start)
        while count:
            frame_at(walk.data, walk.size, start, &frame)
            start = frame.end
            if frame.type != RECORD_ENTRY:
                continue
            entry_of(&frame, &entry)
            if datas is None or entry.term != term or entry.kind != kind:
                term, kind, datas = entry.term, entry.kind, []
                runs.append((entry.index, term, kind, datas))
            datas.append(PyBytes_FromStringAndSize(<const char*> entry.data, entry.length))
            count -= 1
        return runs, walk.offset, walk.crc
    finally:
        PyBuffer_Release(&view)
