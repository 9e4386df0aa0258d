# The memory of a wheel: six levels of 512 slots, buckets of 1 KiB chunks, 64-byte records.

cdef enum:
    BITS = 8                         # of the due per level; a slot of level l is 256**l ms wide
    SLOTS = 512                      # per level: two rotations, so that a slot is filled from below before it drains
    SLOT_MASK = 511
    LEVELS = 6
    BUCKETS = 3072                   # LEVELS * SLOTS
    WORDS = 8                        # of a level's bitmap
    CHUNK_BYTES = 1024
    CHUNK_STRIDE = 128               # entries per chunk, the header included
    CHUNK_ENTRIES = 127
    PREFETCH = 12                    # records ahead, while a chunk is worked off
    SLACK_ENTRIES = 65536            # entries <= 2 * live + this, and what 64 per call leave behind
    CASCADE_MS_MIN = 64              # between two calls of a sleeper whose next slots hold much
    CASCADE_CHUNKS = 8               # moved by one such call, at least
    COMPACT_BUDGET = 64              # entries rotated per mutating call above that
    INLINE_KEY_BYTES = 30
    LONG_KEY = 255                   # klen of a key on the heap
    KEYLESS = 254                    # klen of a job without a key
    FLAG_COALESCE = 1
    FLAG_SKIP = 2
    FLAG_FREE_WHEN_DONE = 4
    FLAGS_PUBLIC = 7
    FLAG_KEPT = 64                   # set while a chunk is rotated, and only then
    FLAG_FREE = 128                  # the slot is on the free stack
    CAPACITY_MIN = 128               # of the caller's buffers: one chunk must fit

cdef uint32_t NIL = 0xffffffffu
cdef int64_t NEVER = <int64_t>0x7fffffffffffffff
cdef int64_t HORIZON = <int64_t>253402300799999
cdef uint64_t MAX_JOBS = (<uint64_t>1 << 28) - 2       # a slot + 1 fits 28 bits of a key-table word

cdef struct entry_t:                 # chunk header: low = next chunk or NIL
    uint32_t low                     # low 32 bits of the due
    uint32_t slot

cdef struct bucket_t:
    entry_t* write                   # 1 KiB-aligned (or NULL) = take a chunk first
    uint32_t head
    uint32_t chunks

cdef struct record_t:                # 64 bytes, 64-aligned
    int64_t due                      # -1 = not armed
    int64_t entry_time               # due of its valid entries; -1 = it has none
    int64_t period                   # > 0 interval, 0 once, < 0: -(cron spec + 1)
    uint32_t tag
    uint32_t generation              # rises when the slot is used again; never 0 in use
    uint8_t klen                     # <= 30 inline, LONG_KEY, KEYLESS
    uint8_t flags
    char key[INLINE_KEY_BYTES]       # a long key: pointer at 2, length at 10

cdef struct counters_t:
    uint64_t fired
    uint64_t moved                   # entries moved down a level
    uint64_t visited                 # entries looked at by the emission
    uint64_t stale_dropped
    uint64_t compacted
    uint64_t steps
    uint64_t max_step_work           # entries moved or visited in one step
    uint64_t max_step_excess         # the same less the fires of that step

cdef struct wheel_t:
    record_t* records
    entry_t* chunks
    uint32_t* free_slots             # a stack
    uint64_t records_bytes, chunks_bytes, free_bytes
    uint32_t max_jobs, slots_used, free_count
    uint32_t chunk_free, chunk_next, chunk_count, chunks_used, chunks_safe
    int64_t now, next_upper          # next_upper: earliest start of an occupied slot above level 0
    uint64_t live, entries
    bucket_t buckets[BUCKETS]
    bucket_t due
    uint64_t bitmap[LEVELS][WORDS]
    uint32_t level_mask
    uint8_t level_of[65]             # by bit length of due - now
    uint64_t* table                  # keys; see keys.pxi
    uint64_t* next_table
    int shift, next_shift, huge_pages
    uint64_t frontier, capacity, next_capacity, key_count
    uint64_t seed0, seed1
    cron_table_t* cron
    uint64_t herd_version
    int64_t herd_period, herd_after, herd_next     # the last cron answer: one expression is shared by many jobs
    uint32_t compact_bucket, compact_left
    uint64_t step_work, step_fired
    counters_t counters


cdef wheel_t* wheel_new(int64_t now, uint64_t max_jobs, uint64_t seed, bint huge_pages, cron_table_t* cron) noexcept nogil:
    """NULL = the address space was refused."""
    cdef wheel_t* wheel = <wheel_t*>calloc(1, sizeof(wheel_t))
    cdef int bits, level, i
    if wheel == NULL:
        return NULL
    wheel.max_jobs = <uint32_t>max_jobs
    # entries/127 + one open chunk per bucket, with compaction a little behind its bound
    wheel.chunk_count = <uint32_t>((max_jobs * 9 // 4 + 2 * SLACK_ENTRIES) // CHUNK_ENTRIES + 2 * BUCKETS + 1024)
    wheel.chunks_safe = wheel.chunk_count - BUCKETS - 256
    wheel.records_bytes = max_jobs * sizeof(record_t)
    wheel.chunks_bytes = <uint64_t>wheel.chunk_count * CHUNK_BYTES
    wheel.free_bytes = max_jobs * 4
    wheel.capacity = 1024
    wheel.shift = 54
    wheel.huge_pages = huge_pages
    wheel.records = <record_t*>tw_reserve(wheel.records_bytes, huge_pages)
    wheel.chunks = <entry_t*>tw_reserve(wheel.chunks_bytes, huge_pages)
    wheel.free_slots = <uint32_t*>tw_reserve(wheel.free_bytes, 0)
    wheel.table = table_new(wheel.capacity, 0)
    if wheel.records == NULL or wheel.chunks == NULL or wheel.free_slots == NULL or wheel.table == NULL:
        wheel_free(wheel)
        return NULL
    for bits in range(65):
        level = 0
        while bits > BITS + 1 + level * BITS:
            level += 1
        wheel.level_of[bits] = level
    for i in range(BUCKETS):
        wheel.buckets[i].head = NIL
    wheel.due.head = NIL
    wheel.chunk_free = NIL
    wheel.now = now
    wheel.next_upper = NEVER
    wheel.seed0 = seed * <uint64_t>0x9E3779B97F4A7C15u + 1
    wheel.seed1 = (seed ^ <uint64_t>0xD6E8FEB86659FD93u) * <uint64_t>0xA0761D6478BD642Fu
    wheel.cron = cron
    wheel.herd_after = -2
    return wheel


cdef void wheel_free(wheel_t* wheel) noexcept nogil:
    cdef uint32_t i
    if wheel.records != NULL:
        for i in range(wheel.slots_used):
            free_key(&wheel.records[i])
    tw_release(wheel.records, wheel.records_bytes)
    tw_release(wheel.chunks, wheel.chunks_bytes)
    tw_release(wheel.free_slots, wheel.free_bytes)
    table_free(wheel.table, wheel.capacity)
    table_free(wheel.next_table, wheel.next_capacity)
    free(wheel)
