# Compaction: entries stay below 2 x live + 65 536 and what one pass lags behind. Every level, 0 included: a job moved earlier
# by 1 ms at a time leaves up to 511 stale entries there.

cdef inline void maintain(wheel_t* wheel) noexcept nogil:
    """After every mutating call."""
    if TW_UNLIKELY(wheel.entries > 2 * wheel.live + SLACK_ENTRIES):
        compact(wheel, COMPACT_BUDGET)


cdef bint next_compact_bucket(wheel_t* wheel) noexcept nogil:
    """Moves the hand to the next bucket with entries; False = there is none."""
    cdef int i
    for i in range(BUCKETS):
        wheel.compact_bucket = (wheel.compact_bucket + 1) % BUCKETS
        if wheel.buckets[wheel.compact_bucket].head != NIL:
            wheel.compact_left = wheel.buckets[wheel.compact_bucket].chunks
            return True
    return False


cdef void compact(wheel_t* wheel, int64_t budget) noexcept nogil:
    """Rotates about `budget` entries, chunk by chunk: the first chunk's live entries go to the bucket's end, once
    each, the dead are dropped."""
    cdef bucket_t* bucket
    while budget > 0:
        if wheel.compact_left == 0 and not next_compact_bucket(wheel):
            return
        bucket = &wheel.buckets[wheel.compact_bucket]
        if bucket.head == NIL:
            wheel.compact_left = 0
            continue
        if wheel.compact_left > bucket.chunks:
            wheel.compact_left = bucket.chunks
        wheel.compact_left -= 1
        budget -= rotate_chunk(wheel, bucket)
        if bucket.head == NIL:
            clear_bit(wheel, <int>(wheel.compact_bucket // SLOTS), wheel.compact_bucket & SLOT_MASK)
            if wheel.compact_bucket >= SLOTS:
                recompute_next_upper(wheel)


cdef uint32_t rotate_chunk(wheel_t* wheel, bucket_t* bucket) noexcept nogil:
    """Returns how many entries it looked at."""
    cdef entry_t kept[CHUNK_ENTRIES]
    cdef uint32_t count = entries_of(wheel, bucket, bucket.head), keep = 0, i, chunk = pop_chunk(wheel, bucket)
    cdef entry_t* entries = chunk_at(wheel, chunk)
    cdef record_t* record
    for i in range(1, count + 1):
        if i + PREFETCH <= count:
            TW_PREFETCH(&wheel.records[entries[i + PREFETCH].slot])
        record = &wheel.records[entries[i].slot]
        if <uint32_t>record.entry_time != entries[i].low or record.entry_time < 0:
            continue
        if record.due < 0:
            record.entry_time = -1
        elif not record.flags & FLAG_KEPT:             # see "Validity" in docs/timing-wheel.md: it may have come to be twice
            record.flags |= FLAG_KEPT
            kept[keep] = entries[i]
            keep += 1
    for i in range(keep):
        wheel.records[kept[i].slot].flags &= ~<uint8_t>FLAG_KEPT
    give_chunk(wheel, chunk)
    wheel.entries -= count - keep
    wheel.counters.compacted += count - keep
    for i in range(keep):
        if (<size_t>bucket.write & (CHUNK_BYTES - 1)) == 0:
            append_chunk(wheel, bucket)
        bucket.write[0] = kept[i]
        bucket.write += 1
    return count
