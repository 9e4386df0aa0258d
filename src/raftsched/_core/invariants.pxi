# The debug walk over everything. Returns the name of what is broken, or NULL.

cdef struct walk_t:
    uint8_t* chunk_seen
    uint8_t* valid                   # per slot: valid entries found, saturating
    uint64_t entries
    uint32_t chunks


cdef const char* walk_bucket(wheel_t* wheel, walk_t* walk, bucket_t* bucket, int level, uint32_t index) noexcept nogil:
    cdef uint32_t chunk = bucket.head, chunks = 0, count, i
    cdef int64_t position = 0, entry_time
    cdef entry_t* entries
    if level >= 0:
        position = wheel.now >> (level * BITS)
        position += (index - <uint32_t>position) & SLOT_MASK
        if bucket.head != NIL and (position << (level * BITS)) <= wheel.now:
            return "an occupied slot lies at or before now"
    while chunk != NIL:
        if chunk >= wheel.chunk_next or walk.chunk_seen[chunk]:
            return "a chunk is in two chains, or beyond the pool"
        walk.chunk_seen[chunk] = 1
        chunks += 1
        entries = chunk_at(wheel, chunk)
        count = entries_of(wheel, bucket, chunk)
        if count < 1 or count > CHUNK_ENTRIES:
            return "a chunk in a chain is empty or overfull"
        for i in range(1, count + 1):
            if entries[i].slot >= wheel.slots_used:
                return "an entry names a slot never used"
            entry_time = wheel.records[entries[i].slot].entry_time
            if entry_time < 0 or <uint32_t>entry_time != entries[i].low:
                continue
            if entry_time <= wheel.now if level < 0 else entry_time >> (level * BITS) == position:
                walk.valid[entries[i].slot] += walk.valid[entries[i].slot] < 255
        walk.entries += count
        chunk = entries.low
    walk.chunks += chunks
    if chunks != bucket.chunks:
        return "a bucket miscounts its chunks"
    return NULL


cdef const char* walk_buckets(wheel_t* wheel, walk_t* walk) noexcept nogil:
    cdef int level
    cdef uint32_t chunk, seen = 0
    cdef int slot
    cdef int64_t earliest = NEVER, start
    cdef const char* broken = walk_bucket(wheel, walk, &wheel.due, -1, 0)
    if broken != NULL:
        return broken
    for level in range(LEVELS):
        for slot in range(SLOTS):
            broken = walk_bucket(wheel, walk, &wheel.buckets[level * SLOTS + slot], level, slot)
            if broken != NULL:
                return broken
            if has_bit(wheel, level, slot) != (wheel.buckets[level * SLOTS + slot].head != NIL):
                return "a bitmap bit and its bucket disagree"
            if wheel.buckets[level * SLOTS + slot].head == NIL:
                continue
            if not (wheel.level_mask >> level) & 1:
                return "the level mask misses an occupied level"
            start = wheel.now >> (level * BITS)
            start = (start + ((slot - <uint32_t>start) & SLOT_MASK)) << (level * BITS)
            if level and start < earliest:
                earliest = start
    if wheel.next_upper > earliest:
        return "next_upper is later than an occupied upper slot"
    if walk.entries != wheel.entries:
        return "the entries of all buckets do not add up"
    if walk.chunks != wheel.chunks_used:
        return "the chunks of all buckets do not add up"
    chunk = wheel.chunk_free
    while chunk != NIL:
        if chunk >= wheel.chunk_next or walk.chunk_seen[chunk]:
            return "a free chunk is in a chain"
        walk.chunk_seen[chunk] = 1
        seen += 1
        chunk = chunk_at(wheel, chunk).low
    if seen + walk.chunks != wheel.chunk_next:
        return "a chunk is neither free nor in a chain"
    return NULL


cdef const char* walk_records(wheel_t* wheel, walk_t* walk) noexcept nogil:
    cdef uint64_t live = 0
    cdef uint32_t slot, free_records = 0, keyed = 0
    cdef record_t* record
    for slot in range(wheel.slots_used):
        record = &wheel.records[slot]
        if record.flags & FLAG_FREE:
            free_records += 1
            if record.due >= 0:
                return "a free slot is armed"
        elif record.klen != KEYLESS:
            keyed += 1
        if record.due >= 0:
            live += 1
            if record.due > HORIZON or record.entry_time < 0:
                return "an armed record has no entry time, or is due past the horizon"
            if record.entry_time > record.due and record.entry_time > wheel.now:
                return "an entry would surface too late"
            # more than one is allowed: the first that surfaces changes entry_time, and the others are stale
            if walk.valid[slot] == 0:
                return "an armed record has no valid entry"
    if live != wheel.live:
        return "the live count is wrong"
    if free_records != wheel.free_count:
        return "the free stack is wrong"
    if keyed != wheel.key_count:
        return "the key count is wrong"
    # one rotation lags behind by what was added meanwhile: the 5 % of the gate
    if wheel.entries > (2 * wheel.live + SLACK_ENTRIES) * 21 // 20:
        return "more entries than compaction allows"
    return NULL


cdef const char* walk_table(wheel_t* wheel) noexcept nogil:
    cdef uint32_t slot
    cdef size_t length
    cdef const unsigned char* key
    for slot in range(wheel.slots_used):
        if wheel.records[slot].flags & FLAG_FREE or wheel.records[slot].klen == KEYLESS:
            continue
        key = key_of(&wheel.records[slot], &length)
        if find_key(wheel, key, length, hash_key(wheel, key, length)) != slot:
            return "probing does not find a key"
    if wheel.next_table != NULL and wheel.frontier and wheel.table[wheel.frontier - 1] != 0:
        return "the word before the frontier is not empty"
    return NULL


cdef const char* check_wheel(wheel_t* wheel) noexcept nogil:
    cdef walk_t walk
    cdef const char* broken = "no memory for the check"
    memset(&walk, 0, sizeof(walk))
    walk.chunk_seen = <uint8_t*>calloc(wheel.chunk_next + 1, 1)
    walk.valid = <uint8_t*>calloc(<size_t>wheel.slots_used + 1, 1)
    if walk.chunk_seen != NULL and walk.valid != NULL:
        broken = walk_buckets(wheel, &walk)
        if broken == NULL:
            broken = walk_records(wheel, &walk)
        if broken == NULL:
            broken = walk_table(wheel)
    free(walk.chunk_seen)
    free(walk.valid)
    return broken
