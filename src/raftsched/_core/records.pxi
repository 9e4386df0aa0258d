# Records: slots, generations, arming. A record outlives its job until the slot is used again: callers still read it.

cdef inline record_t* record_of(wheel_t* wheel, uint64_t handle) noexcept nogil:
    """The record of a live handle; NULL = stale."""
    cdef uint32_t slot = <uint32_t>handle
    cdef record_t* record
    if slot >= wheel.slots_used:
        return NULL
    record = &wheel.records[slot]
    return record if record.generation == <uint32_t>(handle >> 32) and not record.flags & FLAG_FREE else NULL


cdef inline record_t* readable_record(wheel_t* wheel, uint64_t handle) noexcept nogil:
    """As record_of, but a freed slot may still be read until it is used again."""
    cdef uint32_t slot = <uint32_t>handle
    if slot >= wheel.slots_used or wheel.records[slot].generation != <uint32_t>(handle >> 32):
        return NULL
    return &wheel.records[slot]


cdef inline uint64_t handle_of(const record_t* record, uint32_t slot) noexcept nogil:
    return <uint64_t>record.generation << 32 | slot


cdef inline void free_key(record_t* record) noexcept nogil:
    if record.klen == LONG_KEY:
        free((<void**>(record.key + 2))[0])
    record.klen = KEYLESS


cdef inline uint32_t take_slot(wheel_t* wheel) noexcept nogil:
    """A slot with a new generation, not armed, without a key; NIL = full. A re-used slot inherits its stale entry."""
    cdef uint32_t slot
    cdef record_t* record
    if wheel.free_count:
        wheel.free_count -= 1
        slot = wheel.free_slots[wheel.free_count]
        if wheel.free_count >= 8:
            TW_PREFETCH(&wheel.records[wheel.free_slots[wheel.free_count - 8]])
        record = &wheel.records[slot]
        free_key(record)
        record.generation += 1
        if record.generation == 0:
            record.generation = 1
    else:
        if wheel.slots_used >= wheel.max_jobs:
            return NIL
        slot = wheel.slots_used
        wheel.slots_used += 1
        record = &wheel.records[slot]
        record.generation = 1
        record.klen = KEYLESS
        record.due = -1
        record.entry_time = -1
    record.flags = 0
    record.tag = 0
    record.period = 0
    return slot


cdef inline void give_slot(wheel_t* wheel, uint32_t slot) noexcept nogil:
    """The record keeps tag, key and generation until take_slot; its entry goes stale."""
    cdef record_t* record = &wheel.records[slot]
    record.due = -1
    record.flags |= FLAG_FREE
    wheel.free_slots[wheel.free_count] = slot
    wheel.free_count += 1


cdef inline void arm_record(wheel_t* wheel, uint32_t slot, int64_t due) noexcept nogil:
    """The caller has checked due and room."""
    cdef record_t* record = &wheel.records[slot]
    if record.due < 0:
        wheel.live += 1
    record.due = due
    # Later is free: an entry that surfaces early enough finds the new due and moves itself.
    if record.entry_time >= 0 and (record.entry_time <= due or record.entry_time <= wheel.now):
        return
    record.entry_time = due
    wheel.entries += 1
    put_entry(wheel, due, slot)


cdef inline void pause_record(wheel_t* wheel, record_t* record) noexcept nogil:
    if record.due >= 0:
        wheel.live -= 1
        record.due = -1


cdef inline bint in_range(int64_t due) noexcept nogil:
    return 0 <= due <= HORIZON


cdef inline bint make_room(wheel_t* wheel) noexcept nogil:
    """Room for one more entry; compacts as far as it takes when chunks run short. False = full."""
    if TW_LIKELY(has_room(wheel)):
        return True
    compact(wheel, <int64_t>(2 * wheel.entries) + COMPACT_BUDGET)
    return has_room(wheel)


cdef uint64_t arm_keyless(wheel_t* wheel, uint32_t tag, int64_t due, int64_t period, uint8_t flags) noexcept nogil:
    """The handle; 0 = full or out of range."""
    cdef uint32_t slot
    cdef record_t* record
    if not in_range(due) or not make_room(wheel):
        return 0
    slot = take_slot(wheel)
    if slot == NIL:
        return 0
    record = &wheel.records[slot]
    record.tag = tag
    record.period = period
    record.flags = flags
    arm_record(wheel, slot, due)
    maintain(wheel)
    return handle_of(record, slot)


cdef int rearm_handle(wheel_t* wheel, uint64_t handle, int64_t due) noexcept nogil:
    """1 = done, 0 = stale, -1 = out of range or full."""
    if record_of(wheel, handle) == NULL:
        return 0
    if not in_range(due) or not make_room(wheel):
        return -1
    arm_record(wheel, <uint32_t>handle, due)
    maintain(wheel)
    return 1


cdef bint pause_handle(wheel_t* wheel, uint64_t handle) noexcept nogil:
    cdef record_t* record = record_of(wheel, handle)
    if record == NULL:
        return False
    pause_record(wheel, record)
    maintain(wheel)
    return True


cdef bint disarm_handle(wheel_t* wheel, uint64_t handle) noexcept nogil:
    cdef record_t* record = record_of(wheel, handle)
    if record == NULL:
        return False
    pause_record(wheel, record)
    remove_slot(wheel, <uint32_t>handle)
    maintain(wheel)
    return True


cdef inline void remove_slot(wheel_t* wheel, uint32_t slot) noexcept nogil:
    """Out of the key table, if it is there, and onto the free stack."""
    if wheel.records[slot].klen != KEYLESS:
        forget_key(wheel, slot)
    give_slot(wheel, slot)
