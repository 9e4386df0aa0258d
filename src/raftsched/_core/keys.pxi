# The key table: u64 words of 36 hash bits and slot + 1, indexed by the hash's TOP bits, so that doubling is one sweep from front
# to back. The `frontier` says which of two tables owns a hash; it always stops behind an empty word, so no probe crosses it.

cdef enum:
    SLOT_BITS = 28                   # of a word
    TABLE_SPARE = 4096               # words behind the last home: probing does not wrap
    MIGRATE_WORDS = 16               # swept per insert while the table doubles

cdef uint64_t WORD_SLOT = ((<uint64_t>1 << SLOT_BITS) - 1)


cdef uint64_t* table_new(uint64_t capacity, int huge_pages) noexcept nogil:
    return <uint64_t*>tw_reserve((capacity + TABLE_SPARE) * 8, huge_pages)


cdef void table_free(uint64_t* table, uint64_t capacity) noexcept nogil:
    tw_release(table, (capacity + TABLE_SPARE) * 8)


cdef inline const unsigned char* key_of(record_t* record, size_t* length) noexcept nogil:
    """NULL = keyless."""
    if record.klen <= INLINE_KEY_BYTES:
        length[0] = record.klen
        return <const unsigned char*>record.key
    if record.klen == KEYLESS:
        length[0] = 0
        return NULL
    memcpy(length, record.key + 10, sizeof(size_t))
    return (<unsigned char**>(record.key + 2))[0]


cdef inline uint64_t hash_key(wheel_t* wheel, const unsigned char* key, size_t length) noexcept nogil:
    return tw_hash(key, length, wheel.seed0, wheel.seed1)


cdef inline uint64_t* home_of(wheel_t* wheel, uint64_t hashed) noexcept nogil:
    cdef uint64_t i = hashed >> wheel.shift
    if TW_UNLIKELY(wheel.next_table != NULL) and i < wheel.frontier:
        return wheel.next_table + (hashed >> wheel.next_shift)
    return wheel.table + i


cdef inline uint32_t slot_in(uint64_t word) noexcept nogil:
    return <uint32_t>(word & WORD_SLOT) - 1


cdef inline uint32_t find_key(wheel_t* wheel, const unsigned char* key, size_t length, uint64_t hashed) noexcept nogil:
    """The slot, or NIL."""
    cdef uint64_t* word = home_of(wheel, hashed)
    cdef size_t found_length
    cdef const unsigned char* found
    cdef uint32_t slot
    while word[0]:
        if (word[0] ^ hashed) >> SLOT_BITS == 0:
            slot = slot_in(word[0])
            found = key_of(&wheel.records[slot], &found_length)
            if found_length == length and memcmp(found, key, length) == 0:
                return slot
        word += 1
    return NIL


cdef inline void prefetch_key(wheel_t* wheel, uint64_t hashed) noexcept nogil:
    """Second stage of a batch: the table word has arrived, ask for the record behind it."""
    cdef uint64_t* word = home_of(wheel, hashed)
    while word[0] and (word[0] ^ hashed) >> SLOT_BITS:
        word += 1
    if word[0]:
        TW_PREFETCH(&wheel.records[slot_in(word[0])])


cdef void migrate(wheel_t* wheel, uint64_t budget) noexcept nogil:
    """Sweeps at least `budget` words into the next table and goes on to an empty one: there the frontier may stand."""
    cdef uint64_t i = wheel.frontier, end = wheel.capacity + TABLE_SPARE
    cdef uint64_t* word
    while i < end:
        if wheel.table[i]:
            word = wheel.next_table + (wheel.table[i] >> wheel.next_shift)
            while word[0]:
                word += 1
            word[0] = wheel.table[i]
        elif budget == 0:
            break
        i += 1
        if budget:
            budget -= 1
    wheel.frontier = i + 1 if i < end else i
    if i >= end:
        table_free(wheel.table, wheel.capacity)
        wheel.table = wheel.next_table
        wheel.next_table = NULL
        wheel.capacity = wheel.next_capacity
        wheel.shift = wheel.next_shift


cdef void start_growth(wheel_t* wheel) noexcept nogil:
    """Doubles the table; when the address space is refused the old one goes on, up to the check in reserve_key."""
    wheel.next_capacity = wheel.capacity * 2
    wheel.next_shift = wheel.shift - 1
    wheel.frontier = 0
    wheel.next_table = table_new(wheel.next_capacity, wheel.huge_pages if wheel.next_capacity > 262144 else 0)
    if wheel.next_table != NULL:
        migrate(wheel, 0)


cdef inline bint reserve_key(wheel_t* wheel) noexcept nogil:
    """Before an insert: keeps the load at or below 0.7. False = the table cannot grow."""
    if TW_UNLIKELY(wheel.next_table != NULL):
        migrate(wheel, MIGRATE_WORDS)
    elif TW_UNLIKELY(wheel.key_count * 10 >= wheel.capacity * 7):
        start_growth(wheel)
        return wheel.next_table != NULL or wheel.key_count * 10 < wheel.capacity * 9
    return True


cdef inline bint insert_key(wheel_t* wheel, uint64_t hashed, uint32_t slot) noexcept nogil:
    """False = the spare words are used up (with a seeded hash: never seen), nothing changed."""
    cdef uint64_t* word = home_of(wheel, hashed)
    cdef uint64_t* end = wheel.table + wheel.capacity + TABLE_SPARE - 1
    if TW_UNLIKELY(wheel.next_table != NULL) and not wheel.table <= word <= end:
        end = wheel.next_table + wheel.next_capacity + TABLE_SPARE - 1
    while word[0]:
        word += 1
    if word >= end:
        return False
    word[0] = (hashed & ~WORD_SLOT) | (slot + 1)
    wheel.key_count += 1
    return True


cdef void remove_word(wheel_t* wheel, uint32_t slot, uint64_t hashed) noexcept nogil:
    """Backward-shift delete: probes never need tombstones."""
    cdef uint64_t* hole = home_of(wheel, hashed)
    cdef uint64_t* base = wheel.table
    cdef uint64_t* word
    cdef int shift = wheel.shift
    if wheel.next_table != NULL and not wheel.table <= hole < wheel.table + wheel.capacity + TABLE_SPARE:
        base = wheel.next_table
        shift = wheel.next_shift
    while hole[0] & WORD_SLOT != slot + 1:
        hole += 1
    word = hole
    while True:
        word += 1
        if word[0] == 0:
            break
        if base + (word[0] >> shift) <= hole:
            hole[0] = word[0]
            hole = word
    hole[0] = 0
    wheel.key_count -= 1


cdef void forget_key(wheel_t* wheel, uint32_t slot) noexcept nogil:
    """Out of the table; the record keeps the bytes until its slot is used again."""
    cdef size_t length
    cdef const unsigned char* key = key_of(&wheel.records[slot], &length)
    remove_word(wheel, slot, hash_key(wheel, key, length))


cdef inline bint store_key(record_t* record, const unsigned char* key, size_t length) noexcept nogil:
    cdef void* copy
    if length <= INLINE_KEY_BYTES:
        record.klen = <uint8_t>length
        memcpy(record.key, key, length)
        return True
    copy = malloc(length)
    if copy == NULL:
        return False
    memcpy(copy, key, length)
    record.klen = LONG_KEY
    (<void**>(record.key + 2))[0] = copy
    memcpy(record.key + 10, &length, sizeof(size_t))
    return True


cdef uint32_t new_keyed(wheel_t* wheel, const unsigned char* key, size_t length, uint64_t hashed) noexcept nogil:
    """A slot that holds the key and stands in the table; NIL = full, nothing changed."""
    cdef uint32_t slot
    if not reserve_key(wheel):
        return NIL
    slot = take_slot(wheel)
    if slot == NIL:
        return NIL
    if not store_key(&wheel.records[slot], key, length):
        give_slot(wheel, slot)
        return NIL
    if not insert_key(wheel, hashed, slot):
        give_slot(wheel, slot)
        return NIL
    return slot


cdef inline uint32_t upsert(wheel_t* wheel, const unsigned char* key, size_t length, uint64_t hashed, int64_t due, int64_t period,
                            uint32_t tag, uint8_t flags) noexcept nogil:
    """Arms the job of a key, new or known; NIL = full or out of range, nothing changed."""
    cdef uint32_t slot
    cdef record_t* record
    if not in_range(due) or not make_room(wheel):
        return NIL
    slot = find_key(wheel, key, length, hashed)
    if slot == NIL:
        slot = new_keyed(wheel, key, length, hashed)
        if slot == NIL:
            return NIL
    record = &wheel.records[slot]
    record.period = period
    record.tag = tag
    record.flags = flags
    arm_record(wheel, slot, due)
    maintain(wheel)
    return slot
