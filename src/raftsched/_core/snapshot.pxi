# Export and load: records in slot order, packed, little-endian, resumable by slot.
#   i64 due (-1 = not armed) | i64 period, or -(cron spec + 1) | u32 tag | u8 flags | u32 key length, 2**32 - 1 = keyless | key

cdef enum:
    EXPORT_HEADER_BYTES = 25

cdef struct exported_t:
    int64_t due
    int64_t period
    uint32_t tag
    uint32_t length                  # NIL = keyless
    uint8_t flags
    const unsigned char* key


cdef size_t exported_bytes(wheel_t* wheel, uint32_t first, uint32_t end) noexcept nogil:
    cdef size_t total = 0, length
    cdef uint32_t slot
    for slot in range(first, end):
        if not wheel.records[slot].flags & FLAG_FREE:
            key_of(&wheel.records[slot], &length)
            total += EXPORT_HEADER_BYTES + length
    return total


cdef void export_slots(wheel_t* wheel, uint32_t first, uint32_t end, unsigned char* out) noexcept nogil:
    cdef size_t length
    cdef uint32_t slot, stored
    cdef const unsigned char* key
    cdef record_t* record
    for slot in range(first, end):
        record = &wheel.records[slot]
        if record.flags & FLAG_FREE:
            continue
        key = key_of(record, &length)
        stored = NIL if key == NULL else <uint32_t>length
        memcpy(out, &record.due, 8)
        memcpy(out + 8, &record.period, 8)
        memcpy(out + 16, &record.tag, 4)
        out[20] = record.flags
        memcpy(out + 21, &stored, 4)
        if length:
            memcpy(out + EXPORT_HEADER_BYTES, key, length)
        out += EXPORT_HEADER_BYTES + length


cdef inline size_t read_exported(const unsigned char* blob, size_t size, size_t at, exported_t* job) noexcept nogil:
    """The offset behind the record at `at`; 0 = cut off."""
    cdef size_t length
    memset(job, 0, sizeof(exported_t))
    if size - at < EXPORT_HEADER_BYTES:
        return 0
    memcpy(&job.due, blob + at, 8)
    memcpy(&job.period, blob + at + 8, 8)
    memcpy(&job.tag, blob + at + 16, 4)
    job.flags = blob[at + 20]
    memcpy(&job.length, blob + at + 21, 4)
    at += EXPORT_HEADER_BYTES
    job.key = blob + at
    length = 0 if job.length == NIL else job.length
    return 0 if size - at < length else at + length


cdef inline bint spec_exists(const cron_table_t* table, int64_t spec) noexcept nogil:
    return 0 <= spec < table.count and table.specs[spec].users != 0


cdef int64_t check_exported(wheel_t* wheel, const unsigned char* blob, size_t size) noexcept nogil:
    """How many records; -1 = malformed."""
    cdef size_t at = 0
    cdef int64_t count = 0
    cdef exported_t job
    while at < size:
        at = read_exported(blob, size, at, &job)
        if at == 0 or job.due < -1 or job.due > HORIZON or job.period > HORIZON or job.flags & ~FLAGS_PUBLIC:
            return -1
        if job.period < 0 and not spec_exists(wheel.cron, -(job.period + 1)):
            return -1
        count += 1
    return count


cdef bint load_one(wheel_t* wheel, const exported_t* job, uint64_t* handle) noexcept nogil:
    cdef uint32_t slot = NIL
    cdef uint64_t hashed
    cdef record_t* record
    if job.length == NIL:
        slot = take_slot(wheel)
    else:
        hashed = hash_key(wheel, job.key, job.length)
        slot = find_key(wheel, job.key, job.length, hashed)
        if slot == NIL:
            slot = new_keyed(wheel, job.key, job.length, hashed)
    if slot == NIL or not make_room(wheel):
        return False
    record = &wheel.records[slot]
    record.period = job.period
    record.tag = job.tag
    record.flags = job.flags
    if job.due >= 0:
        arm_record(wheel, slot, job.due)
    else:
        pause_record(wheel, record)
    maintain(wheel)
    handle[0] = handle_of(record, slot)
    return True


cdef bint load_all(wheel_t* wheel, const unsigned char* blob, size_t size, uint64_t* handles) noexcept nogil:
    """False = no memory for a key; `handles` may be NULL."""
    cdef size_t at = 0
    cdef int64_t count = 0
    cdef uint64_t handle
    cdef exported_t job
    while at < size:
        at = read_exported(blob, size, at, &job)
        if at == 0 or not load_one(wheel, &job, &handle):
            return False
        if handles != NULL:
            handles[count] = handle
        count += 1
    return True
