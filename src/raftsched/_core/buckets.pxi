# Buckets of chunks: putting an entry, moving a slot down, finding the next occupied slot.

cdef inline entry_t* chunk_at(wheel_t* wheel, uint32_t chunk) noexcept nogil:
    return wheel.chunks + <size_t>chunk * CHUNK_STRIDE


cdef inline uint32_t take_chunk(wheel_t* wheel) noexcept nogil:
    cdef uint32_t chunk = wheel.chunk_free
    if chunk != NIL:
        wheel.chunk_free = chunk_at(wheel, chunk).low
    else:
        chunk = wheel.chunk_next                  # never past chunk_count: see has_room()
        wheel.chunk_next += 1
    chunk_at(wheel, chunk).low = NIL
    wheel.chunks_used += 1
    return chunk


cdef inline void give_chunk(wheel_t* wheel, uint32_t chunk) noexcept nogil:
    chunk_at(wheel, chunk).low = wheel.chunk_free
    wheel.chunk_free = chunk
    wheel.chunks_used -= 1


cdef inline bint has_room(wheel_t* wheel) noexcept nogil:
    return wheel.chunks_used < wheel.chunks_safe


cdef inline uint32_t entries_of(wheel_t* wheel, bucket_t* bucket, uint32_t chunk) noexcept nogil:
    """How many entries a chunk of this bucket holds: all but its last are full."""
    cdef entry_t* start = chunk_at(wheel, chunk)
    return <uint32_t>(bucket.write - start) - 1 if start.low == NIL else CHUNK_ENTRIES


cdef inline uint32_t pop_chunk(wheel_t* wheel, bucket_t* bucket) noexcept nogil:
    """Takes the first chunk out of the chain; the caller has read its count and gives it back."""
    cdef uint32_t chunk = bucket.head
    bucket.head = chunk_at(wheel, chunk).low
    bucket.chunks -= 1
    if bucket.head == NIL:
        bucket.write = NULL
    return chunk


cdef inline void append_chunk(wheel_t* wheel, bucket_t* bucket) noexcept nogil:
    cdef uint32_t chunk = take_chunk(wheel)
    if bucket.write != NULL:
        (bucket.write - CHUNK_STRIDE).low = chunk
    else:
        bucket.head = chunk
    bucket.chunks += 1
    bucket.write = chunk_at(wheel, chunk) + 1


cdef inline void set_bit(wheel_t* wheel, int level, uint32_t slot) noexcept nogil:
    wheel.bitmap[level][slot >> 6] |= <uint64_t>1 << (slot & 63)
    wheel.level_mask |= <uint32_t>1 << level


cdef inline void clear_bit(wheel_t* wheel, int level, uint32_t slot) noexcept nogil:
    wheel.bitmap[level][slot >> 6] &= ~(<uint64_t>1 << (slot & 63))


cdef inline bint has_bit(wheel_t* wheel, int level, uint32_t slot) noexcept nogil:
    return (wheel.bitmap[level][slot >> 6] >> (slot & 63)) & 1


cdef void grow_bucket(wheel_t* wheel, bucket_t* bucket, int level, int64_t due) noexcept nogil:
    """A chunk for a bucket that has no room; level -1 is the `due` bucket, which has no bit."""
    cdef int64_t start
    if bucket.write == NULL and level >= 0:
        set_bit(wheel, level, <uint32_t>(due >> (level * BITS)) & SLOT_MASK)
        if level:
            start = (due >> (level * BITS)) << (level * BITS)
            if start < wheel.next_upper:
                wheel.next_upper = start
    append_chunk(wheel, bucket)


cdef inline void put_entry(wheel_t* wheel, int64_t due, uint32_t slot) noexcept nogil:
    cdef bucket_t* bucket
    cdef entry_t* write
    cdef int level = -1, shift
    cdef int64_t ahead = due - wheel.now, position
    if TW_UNLIKELY(ahead <= 0):
        bucket = &wheel.due
    else:
        level = wheel.level_of[64 - TW_CLZ64(<uint64_t>ahead)]
        shift = level * BITS
        position = due >> shift
        if position - (wheel.now >> shift) >= SLOTS:
            level += 1
            position >>= BITS
        bucket = &wheel.buckets[level * SLOTS + (<uint32_t>position & SLOT_MASK)]
    write = bucket.write
    if TW_UNLIKELY((<size_t>write & (CHUNK_BYTES - 1)) == 0):
        grow_bucket(wheel, bucket, level, due)
        write = bucket.write
    write.low = <uint32_t>due
    write.slot = slot
    bucket.write = write + 1


cdef inline int next_occupied(wheel_t* wheel, int level, uint32_t after) noexcept nogil:
    """Distance (1 … SLOTS) from slot `after` to the next occupied one, or -1."""
    cdef uint32_t start = (after + 1) & SLOT_MASK, word = start >> 6, i, slot
    cdef uint64_t bits = wheel.bitmap[level][word] & (<uint64_t>0xffffffffffffffff << (start & 63))
    for i in range(WORDS + 1):
        if bits:
            slot = word * 64 + TW_CTZ64(bits)
            return <int>((slot - start) & SLOT_MASK) + 1
        word = (word + 1) & (WORDS - 1)
        bits = wheel.bitmap[level][word]
    return -1


cdef uint32_t drain_down(wheel_t* wheel, int level, int64_t position, uint32_t chunks) noexcept nogil:
    """Moves up to `chunks` chunks of slot `position` (unmasked) to lower levels or to `due`."""
    cdef uint32_t index = <uint32_t>position & SLOT_MASK, count, chunk, done = 0
    cdef bucket_t* bucket = &wheel.buckets[level * SLOTS + index]
    while bucket.head != NIL and done < chunks:
        count = entries_of(wheel, bucket, bucket.head)
        chunk = pop_chunk(wheel, bucket)
        if bucket.head != NIL:
            TW_PREFETCH(chunk_at(wheel, bucket.head))
            TW_PREFETCH(chunk_at(wheel, bucket.head) + 8)
        if level * BITS <= 32:
            spread(wheel, chunk_at(wheel, chunk), count, position << (level * BITS))
        else:
            spread_top(wheel, chunk_at(wheel, chunk), count, position)
        wheel.counters.moved += count
        wheel.step_work += count
        give_chunk(wheel, chunk)
        done += 1
    if bucket.head == NIL:
        clear_bit(wheel, level, index)
    return done


cdef inline void spread(wheel_t* wheel, entry_t* chunk, uint32_t count, int64_t base) noexcept nogil:
    """The full due is the slot's start plus what the low 32 bits are beyond it."""
    cdef uint32_t low = <uint32_t>base, i
    for i in range(1, count + 1):
        put_entry(wheel, base + <uint32_t>(chunk[i].low - low), chunk[i].slot)


cdef void spread_top(wheel_t* wheel, entry_t* chunk, uint32_t count, int64_t position) noexcept nogil:
    """A slot of the top level is wider than 32 bits: the record knows the due, and an entry it does not know is stale."""
    cdef uint32_t i
    cdef int64_t due
    for i in range(1, count + 1):
        due = wheel.records[chunk[i].slot].entry_time
        if <uint32_t>due == chunk[i].low and due >= 0 and due >> (BITS * (LEVELS - 1)) == position:
            put_entry(wheel, due, chunk[i].slot)
        else:
            wheel.entries -= 1
            wheel.counters.stale_dropped += 1
