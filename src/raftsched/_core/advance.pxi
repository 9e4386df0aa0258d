# Advance: jump over empty slots, drain the slot of each ms into `due`, hand out chunk by chunk, move upper slots down ahead of time.

cdef void recompute_next_upper(wheel_t* wheel) noexcept nogil:
    cdef uint32_t levels = wheel.level_mask & ~<uint32_t>1
    cdef int64_t best = NEVER, start
    cdef int level, distance
    while levels:
        level = TW_CTZ32(levels)
        levels &= levels - 1
        distance = next_occupied(wheel, level, <uint32_t>(wheel.now >> (level * BITS)) & SLOT_MASK)
        if distance < 0:
            wheel.level_mask &= ~(<uint32_t>1 << level)
            continue
        start = ((wheel.now >> (level * BITS)) + distance) << (level * BITS)
        if start < best:
            best = start
    wheel.next_upper = best


cdef inline int64_t next_stop(wheel_t* wheel) noexcept nogil:
    """The next ms at which something is to be done, or NEVER."""
    cdef int distance = next_occupied(wheel, 0, <uint32_t>wheel.now & SLOT_MASK)
    cdef int64_t stop = NEVER if distance < 0 else wheel.now + distance
    return wheel.next_upper if wheel.next_upper < stop else stop


cdef void force_down(wheel_t* wheel) noexcept nogil:
    """Whatever is left in an upper slot that begins now: only after a sleep or a jump is that much."""
    cdef int level
    for level in range(LEVELS - 1, 0, -1):
        if (wheel.level_mask >> level) & 1 and (wheel.now & ((<int64_t>1 << (level * BITS)) - 1)) == 0:
            drain_down(wheel, level, wheel.now >> (level * BITS), NIL)
    recompute_next_upper(wheel)


cdef inline void precascade(wheel_t* wheel, int64_t elapsed) noexcept nogil:
    """Moves a share of each next upper slot down, so that nothing is left at its start. New inserts already go below it.
    `elapsed`: ms since the step before; more than one only after a sleep."""
    cdef uint32_t levels = wheel.level_mask & ~<uint32_t>1, chunks, index
    cdef int64_t position, left, gap, share, most
    cdef int level
    while levels:
        level = TW_CTZ32(levels)
        levels &= levels - 1
        position = (wheel.now >> (level * BITS)) + 1
        index = <uint32_t>position & SLOT_MASK
        if not has_bit(wheel, level, index):
            continue
        left = (position << (level * BITS)) - wheel.now
        chunks = wheel.buckets[level * SLOTS + index].chunks
        if elapsed > 1:                       # the share of all that time, and no more than `cascade_wait` meant to bring
            most = chunks * CASCADE_MS_MIN // left
            most = most if most > CASCADE_CHUNKS else CASCADE_CHUNKS
            share = chunks * elapsed // left + 1
            drain_down(wheel, level, position, <uint32_t>(share if share < most else most))
            continue
        if <int64_t>chunks >= left:
            drain_down(wheel, level, position, <uint32_t>(chunks // left) + 1)
            continue
        gap = left // chunks                  # one chunk each power of two of ms: a little ahead of what is needed
        if gap <= 1 or (wheel.now & ((<int64_t>1 << (63 - TW_CLZ64(<uint64_t>gap))) - 1)) == 0:
            drain_down(wheel, level, position, 1)


cdef int64_t cascade_wait(wheel_t* wheel) noexcept nogil:
    """Ms until the pre-cascade wants to be called again, at least CASCADE_MS_MIN; NEVER while no slot that comes next holds anything."""
    cdef uint32_t levels = wheel.level_mask & ~<uint32_t>1
    cdef int64_t position, wait, best = NEVER
    cdef int level, distance
    while levels:
        level = TW_CTZ32(levels)
        levels &= levels - 1
        position = (wheel.now >> (level * BITS)) + 1
        distance = next_occupied(wheel, level, <uint32_t>(position - 1) & SLOT_MASK)
        if distance < 0:
            continue
        wait = ((position - 1 + distance) << (level * BITS)) - wheel.now
        if distance > 1:                      # until the slot before it begins
            wait -= <int64_t>1 << (level * BITS)
        else:
            wait = wait * CASCADE_CHUNKS // wheel.buckets[level * SLOTS + (<uint32_t>position & SLOT_MASK)].chunks
        if wait < best:
            best = wait
    return best if best > CASCADE_MS_MIN else CASCADE_MS_MIN


cdef inline void prefetch_ahead(wheel_t* wheel) noexcept nogil:
    """Hides the misses of the coming slots: the chunk of now + 8, the first records of now + 4."""
    cdef bucket_t* bucket = &wheel.buckets[<uint32_t>(wheel.now + 8) & SLOT_MASK]
    cdef entry_t* chunk
    cdef uint32_t count, i
    if bucket.head != NIL:
        TW_PREFETCH(chunk_at(wheel, bucket.head))
    bucket = &wheel.buckets[<uint32_t>(wheel.now + 4) & SLOT_MASK]
    if bucket.head != NIL:
        chunk = chunk_at(wheel, bucket.head)
        count = entries_of(wheel, bucket, bucket.head)
        for i in range(1, (count if count < 7 else 7) + 1):
            TW_PREFETCH(&wheel.records[chunk[i].slot])


cdef inline void take_due_slot(wheel_t* wheel) noexcept nogil:
    """The level-0 slot of `now` becomes due; a cascade may have put entries there already."""
    cdef uint32_t index = <uint32_t>wheel.now & SLOT_MASK, chunk, count, i
    cdef bucket_t* bucket = &wheel.buckets[index]
    if not has_bit(wheel, 0, index):
        return
    clear_bit(wheel, 0, index)
    if TW_LIKELY(wheel.due.head == NIL):
        wheel.due = bucket[0]
        bucket.write = NULL
        bucket.head = NIL
        bucket.chunks = 0
        return
    while bucket.head != NIL:
        count = entries_of(wheel, bucket, bucket.head)
        chunk = pop_chunk(wheel, bucket)
        for i in range(1, count + 1):
            put_entry(wheel, wheel.now, chunk_at(wheel, chunk)[i].slot)
        give_chunk(wheel, chunk)


cdef inline void end_step(wheel_t* wheel) noexcept nogil:
    wheel.counters.steps += 1
    if wheel.step_work > wheel.counters.max_step_work:
        wheel.counters.max_step_work = wheel.step_work
    if wheel.step_work > wheel.step_fired + wheel.counters.max_step_excess:
        wheel.counters.max_step_excess = wheel.step_work - wheel.step_fired
    wheel.step_work = 0
    wheel.step_fired = 0


cdef size_t advance(wheel_t* wheel, int64_t now, uint64_t* handles, uint32_t* tags, int64_t* due, size_t capacity) noexcept nogil:
    cdef size_t count
    cdef int64_t stop, elapsed
    if capacity < CAPACITY_MIN:
        return 0
    if now < wheel.now:
        now = wheel.now                       # the clock went back: time stands still
    if now > HORIZON:
        now = HORIZON
    count = emit(wheel, now, handles, tags, due, 0, capacity)
    while wheel.due.head == NIL and wheel.now < now:
        stop = wheel.now + 1
        if stop < now:
            stop = next_stop(wheel)
            if stop > now:
                stop = now
        elapsed = stop - wheel.now
        wheel.now = stop
        if TW_UNLIKELY(wheel.next_upper <= stop):
            force_down(wheel)
        take_due_slot(wheel)
        precascade(wheel, elapsed)            # before the emission, which may stop at a full buffer
        if wheel.due.head != NIL:
            count = emit(wheel, now, handles, tags, due, count, capacity)
        prefetch_ahead(wheel)
        end_step(wheel)
    if TW_UNLIKELY(wheel.entries > 2 * wheel.live + SLACK_ENTRIES):
        compact(wheel, COMPACT_BUDGET * (1 + <int64_t>count))           # each finished job lowers the bound by two
    return count


cdef int64_t cron_after(wheel_t* wheel, int64_t period, int64_t after_ms) noexcept nogil:
    """The next fire of a cron job in ms, or -1. One expression shared by many jobs is computed once."""
    cdef int64_t after = after_ms // 1000, found
    if period != wheel.herd_period or after != wheel.herd_after or wheel.cron.version != wheel.herd_version:
        found = table_next(wheel.cron, -(period + 1), after)
        wheel.herd_version = wheel.cron.version
        wheel.herd_period = period
        wheel.herd_after = after
        wheel.herd_next = -1 if found < 0 else found * 1000
    return wheel.herd_next


cdef int64_t next_tick(wheel_t* wheel, const record_t* record, int64_t after, int64_t now) noexcept nogil:
    """The tick that follows the one at `after`, by the missed-tick rule; -1 = none, or past the horizon."""
    cdef int64_t following
    cdef bint catch_up = record.flags & (FLAG_COALESCE | FLAG_SKIP) == 0
    if record.period < 0:
        return cron_after(wheel, record.period, after if catch_up or now < after else now)
    following = after + record.period
    if following <= now and not catch_up:
        following += record.period * ((now - following) // record.period + 1)
    return following if following <= HORIZON else -1


cdef int64_t newest_due(wheel_t* wheel, const record_t* record, int64_t now) noexcept nogil:
    """MISSED_SKIP: the last tick <= now."""
    cdef int64_t last
    if now <= record.due or record.period == 0:
        return record.due
    if record.period > 0:
        return record.due + (now - record.due) // record.period * record.period
    last = table_last(wheel.cron, -(record.period + 1), record.due // 1000, now // 1000)
    return record.due if last < 0 else last * 1000


cdef inline void finish(wheel_t* wheel, record_t* record, uint32_t slot) noexcept nogil:
    record.due = -1
    record.entry_time = -1
    wheel.entries -= 1
    wheel.live -= 1
    if record.flags & FLAG_FREE_WHEN_DONE:
        remove_slot(wheel, slot)


cdef inline void reput(wheel_t* wheel, record_t* record, uint32_t slot, int64_t due) noexcept nogil:
    """Re-uses the entry that surfaced."""
    record.due = due
    record.entry_time = due
    put_entry(wheel, due, slot)


cdef size_t emit(wheel_t* wheel, int64_t now, uint64_t* handles, uint32_t* tags, int64_t* due, size_t done, size_t capacity) noexcept nogil:
    """Works off `due` chunk by chunk; stops when the next chunk may not fit. `now` is the target of the call."""
    cdef uint32_t chunk, count
    cdef size_t start = done
    while wheel.due.head != NIL:
        count = entries_of(wheel, &wheel.due, wheel.due.head)
        if done + count > capacity:
            break
        chunk = pop_chunk(wheel, &wheel.due)
        done = emit_chunk(wheel, chunk_at(wheel, chunk), count, now, handles, tags, due, done)
        wheel.counters.visited += count
        wheel.step_work += count
        give_chunk(wheel, chunk)
    wheel.step_fired += done - start
    wheel.counters.fired += done - start
    return done


cdef inline size_t emit_chunk(wheel_t* wheel, entry_t* chunk, uint32_t count, int64_t now, uint64_t* handles, uint32_t* tags,
                              int64_t* due, size_t done) noexcept nogil:
    cdef uint32_t i, slot
    cdef record_t* record
    cdef int64_t tick, following
    for i in range(1, (count if count < PREFETCH else PREFETCH) + 1):
        TW_PREFETCH(&wheel.records[chunk[i].slot])
    for i in range(1, count + 1):
        if i + PREFETCH <= count:
            TW_PREFETCH(&wheel.records[chunk[i + PREFETCH].slot])
        slot = chunk[i].slot
        record = &wheel.records[slot]
        if TW_UNLIKELY(<uint32_t>record.entry_time != chunk[i].low or record.entry_time > wheel.now or record.entry_time < 0):
            wheel.entries -= 1
            wheel.counters.stale_dropped += 1
            continue
        tick = record.due
        if TW_UNLIKELY(tick > wheel.now):                  # moved later: the entry follows
            reput(wheel, record, slot, tick)
            continue
        if TW_UNLIKELY(tick < 0):                          # cancelled
            record.entry_time = -1
            wheel.entries -= 1
            wheel.counters.stale_dropped += 1
            continue
        if TW_UNLIKELY(record.flags & FLAG_SKIP):
            tick = newest_due(wheel, record, now)
            if tick > wheel.now:
                reput(wheel, record, slot, tick)
                continue
        handles[done] = handle_of(record, slot)
        due[done] = tick
        if tags != NULL:
            tags[done] = record.tag
        done += 1
        if record.period == 0:
            finish(wheel, record, slot)
            continue
        following = next_tick(wheel, record, tick, now)
        if TW_UNLIKELY(following < 0):
            finish(wheel, record, slot)
        else:
            reput(wheel, record, slot, following)
    return done


cdef int64_t next_wakeup(wheel_t* wheel) noexcept nogil:
    cdef int64_t stop
    if wheel.due.head != NIL:
        return wheel.now
    stop = next_stop(wheel)
    return -1 if stop == NEVER else stop
