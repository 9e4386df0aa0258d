# The face: checks what the inner layer trusts, and turns structs into Python objects. `_core.pyi` documents each method.

HORIZON_MS = HORIZON
MISSED_ALL = 0
MISSED_COALESCE = FLAG_COALESCE
MISSED_SKIP = FLAG_SKIP
FREE_WHEN_DONE = FLAG_FREE_WHEN_DONE


cdef inline int check_due(int64_t due) except -1:
    if not in_range(due):
        raise OverflowError("due_ms out of range")
    return 0


cdef int check_dues(const int64_t[::1] due) except -1:
    cdef Py_ssize_t i
    for i in range(due.shape[0]):
        if not in_range(due[i]):
            raise OverflowError("due_ms out of range, at index %d" % i)
    return 0


cdef Py_ssize_t check_offsets(const uint8_t[::1] blob, const uint32_t[::1] offsets) except -1:
    """How many keys the offsets cut out of the blob."""
    cdef Py_ssize_t i, count = offsets.shape[0] - 1
    if count < 0:
        return 0
    for i in range(count):
        if offsets[i] > offsets[i + 1]:
            raise ValueError("offsets must not fall")
    if offsets[count] > <size_t>blob.shape[0]:
        raise ValueError("offset beyond the blob")
    return count


@cython.final
cdef class TimerWheel:
    def __cinit__(self, int64_t now_ms, *, uint64_t max_jobs=1 << 27, uint64_t hash_seed=0, bint huge_pages=True, debug=None):
        if max_jobs < 1 or max_jobs > MAX_JOBS:
            raise ValueError("max_jobs out of range")
        if not in_range(now_ms):
            raise OverflowError("now_ms out of range")
        self.cron = CronTable()
        self.debug = TW_DEBUG if debug is None else debug
        self.owner = PyThread_get_thread_ident()
        self.wheel = wheel_new(now_ms, max_jobs, hash_seed, huge_pages, self.cron.table)
        if self.wheel == NULL:
            raise MemoryError("address space for %d jobs" % max_jobs)

    def __dealloc__(self):
        if self.wheel != NULL:
            wheel_free(self.wheel)

    cdef int enter(self) except -1:
        """At the start of every method: one thread at a time, and the owner's when debug."""
        if TW_UNLIKELY(self.busy):
            raise RuntimeError("the wheel is busy in another thread")
        if TW_UNLIKELY(self.debug) and <unsigned long>PyThread_get_thread_ident() != self.owner:
            raise RuntimeError("the wheel belongs to another thread")
        return 0

    cdef int check_job(self, int64_t due, int64_t period, int64_t spec, int flags) except -1:
        check_due(due)
        if period < 0 or period > HORIZON:
            raise OverflowError("period_ms out of range")
        if spec >= 0 and period:
            raise ValueError("period_ms or spec, not both")
        if spec < -1 or (spec >= 0 and not spec_exists(self.wheel.cron, spec)):
            raise ValueError("no such cron spec")
        if flags & ~FLAGS_PUBLIC or flags & (FLAG_COALESCE | FLAG_SKIP) == FLAG_COALESCE | FLAG_SKIP:
            raise ValueError("unknown flags")
        return 0

    # ------------------------------------------------------------ native callers: see _core.pxd
    cdef int c_advance(self, int64_t now, uint64_t* handles, uint32_t* tags, int64_t* due, size_t capacity) noexcept nogil:
        return <int>advance(self.wheel, now, handles, tags, due, capacity if capacity < 1 << 30 else 1 << 30)

    cdef bint c_more(self) noexcept nogil:
        return self.wheel.due.head != NIL

    cdef int64_t c_next_wakeup(self) noexcept nogil:
        return next_wakeup(self.wheel)

    cdef uint64_t c_arm(self, uint32_t tag, int64_t due) noexcept nogil:
        return arm_keyless(self.wheel, tag, due, 0, 0)

    cdef int c_rearm(self, uint64_t handle, int64_t due) noexcept nogil:
        return rearm_handle(self.wheel, handle, due)

    cdef bint c_pause(self, uint64_t handle) noexcept nogil:
        return pause_handle(self.wheel, handle)

    cdef bint c_disarm(self, uint64_t handle) noexcept nogil:
        return disarm_handle(self.wheel, handle)

    cdef int64_t c_due(self, uint64_t handle) noexcept nogil:
        cdef record_t* record = record_of(self.wheel, handle)
        return -2 if record == NULL else record.due

    cdef void c_prefetch(self, uint64_t handle) noexcept nogil:
        TW_PREFETCH(&self.wheel.records[<uint32_t>handle])

    # ------------------------------------------------------------ one job per call
    def __len__(self):
        return self.wheel.live

    def arm(self, uint32_t tag, int64_t due_ms, int64_t period_ms=0, int64_t spec=-1, int flags=0):
        cdef uint64_t handle
        self.enter()
        self.check_job(due_ms, period_ms, spec, flags)
        handle = arm_keyless(self.wheel, tag, due_ms, -(spec + 1) if spec >= 0 else period_ms, <uint8_t>flags)
        if handle == 0:
            raise MemoryError("the wheel is full")
        return handle

    def rearm(self, uint64_t handle, int64_t due_ms):
        cdef int done
        self.enter()
        check_due(due_ms)
        done = rearm_handle(self.wheel, handle, due_ms)
        if done < 0:
            raise MemoryError("the wheel is full")
        return done == 1

    def pause(self, uint64_t handle):
        self.enter()
        return pause_handle(self.wheel, handle)

    def disarm(self, uint64_t handle):
        self.enter()
        return disarm_handle(self.wheel, handle)

    def due_of(self, uint64_t handle):
        self.enter()
        return self.c_due(handle)

    def schedule(self, bytes key not None, int64_t due_ms, int64_t period_ms=0, *, int64_t spec=-1, uint32_t tag=0, int flags=0):
        cdef const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(key)
        cdef size_t length = PyBytes_GET_SIZE(key)
        cdef uint32_t slot
        self.enter()
        self.check_job(due_ms, period_ms, spec, flags)
        if length >= NIL:
            raise ValueError("key too long")
        slot = upsert(self.wheel, text, length, hash_key(self.wheel, text, length), due_ms,
                      -(spec + 1) if spec >= 0 else period_ms, tag, <uint8_t>flags)
        if slot == NIL:
            raise MemoryError("the wheel is full")
        return handle_of(&self.wheel.records[slot], slot)

    def reschedule(self, bytes key not None, int64_t due_ms):
        cdef const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(key)
        cdef size_t length = PyBytes_GET_SIZE(key)
        cdef uint32_t slot
        self.enter()
        check_due(due_ms)
        slot = find_key(self.wheel, text, length, hash_key(self.wheel, text, length))
        if slot == NIL:
            return False
        if not make_room(self.wheel):
            raise MemoryError("the wheel is full")
        arm_record(self.wheel, slot, due_ms)
        maintain(self.wheel)
        return True

    def cancel(self, bytes key not None):
        cdef const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(key)
        cdef size_t length = PyBytes_GET_SIZE(key)
        cdef uint32_t slot
        self.enter()
        slot = find_key(self.wheel, text, length, hash_key(self.wheel, text, length))
        return slot != NIL and disarm_handle(self.wheel, handle_of(&self.wheel.records[slot], slot))

    def get(self, bytes key not None):
        cdef const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(key)
        cdef size_t length = PyBytes_GET_SIZE(key)
        cdef uint32_t slot
        cdef record_t* record
        self.enter()
        slot = find_key(self.wheel, text, length, hash_key(self.wheel, text, length))
        if slot == NIL:
            return None
        record = &self.wheel.records[slot]
        if record.period < 0:
            return record.due, 0, -(record.period + 1), record.tag, record.flags
        return record.due, record.period, -1, record.tag, record.flags

    # ------------------------------------------------------------ many jobs per call; these keep the GIL: 4 096 take ~0.2 ms
    def reserve(self, uint64_t n, bint prefault=True):
        cdef wheel_t* wheel = self.wheel
        cdef uint64_t capacity = wheel.capacity
        cdef int shift = wheel.shift
        cdef uint64_t* table
        self.enter()
        if wheel.slots_used or wheel.next_table != NULL:
            raise RuntimeError("reserve() must come first")
        if n > wheel.max_jobs:
            raise ValueError("n exceeds max_jobs")
        while n * 10 > capacity * 7:
            capacity *= 2
            shift -= 1
        if capacity != wheel.capacity:
            table = table_new(capacity, wheel.huge_pages)
            if table == NULL:
                raise MemoryError("key table")
            table_free(wheel.table, wheel.capacity)
            wheel.table = table
            wheel.capacity = capacity
            wheel.shift = shift
        if prefault:
            self.busy = True
            with nogil:
                memset(wheel.table, 0, (capacity + TABLE_SPARE) * 8)
                memset(wheel.records, 0, n * sizeof(record_t))
                # at least the chunks that n entries fill; never beyond the pool
                memset(wheel.chunks, 0, min(n * 5 // 4 // CHUNK_ENTRIES + BUCKETS, <uint64_t>wheel.chunk_count) * CHUNK_BYTES)
            self.busy = False

    def arm_packed(self, const uint32_t[::1] tags not None, const int64_t[::1] due not None, uint64_t[::1] handles not None):
        cdef Py_ssize_t i, count = due.shape[0]
        self.enter()
        if tags.shape[0] != count or handles.shape[0] < count:
            raise ValueError("lengths differ")
        check_dues(due)
        if <uint64_t>count > self.wheel.max_jobs - self.wheel.slots_used + self.wheel.free_count:
            raise MemoryError("the wheel is full")
        for i in range(count):
            handles[i] = arm_keyless(self.wheel, tags[i], due[i], 0, 0)
            if handles[i] == 0:
                raise MemoryError("the wheel is full, at index %d" % i)

    def rearm_packed(self, const uint64_t[::1] handles not None, const int64_t[::1] due not None):
        cdef Py_ssize_t i, count = handles.shape[0], armed = 0
        cdef int done
        self.enter()
        if due.shape[0] != count:
            raise ValueError("lengths differ")
        check_dues(due)
        for i in range(count):
            if i + PREFETCH < count:
                self.c_prefetch(handles[i + PREFETCH])
            done = rearm_handle(self.wheel, handles[i], due[i])
            if done < 0:
                raise MemoryError("the wheel is full, at index %d" % i)
            armed += done
        return armed

    def disarm_packed(self, const uint64_t[::1] handles not None):
        cdef Py_ssize_t i, count = handles.shape[0], gone = 0
        self.enter()
        for i in range(count):
            if i + PREFETCH < count:
                self.c_prefetch(handles[i + PREFETCH])
            gone += disarm_handle(self.wheel, handles[i])
        return gone

    def schedule_many(self, list keys not None, const int64_t[::1] due not None, const int64_t[::1] period not None):
        """Joins the keys and goes the packed way: one copy, one loop."""
        cdef Py_ssize_t i, count = PyList_GET_SIZE(keys), total = 0
        cdef uint32_t[::1] offsets
        for i in range(count):
            key = <object>PyList_GET_ITEM(keys, i)
            if not PyBytes_CheckExact(key):
                raise TypeError("keys must be bytes")
        blob = b"".join(keys)
        if PyBytes_GET_SIZE(blob) >= NIL:
            raise ValueError("keys too long for one call")
        offsets = memoryview(bytearray((count + 1) * 4)).cast("I")
        for i in range(count):
            total += PyBytes_GET_SIZE(<object>PyList_GET_ITEM(keys, i))
            offsets[i + 1] = <uint32_t>total
        return self.schedule_packed(blob, offsets, due, period)

    def schedule_packed(self, const uint8_t[::1] blob not None, const uint32_t[::1] offsets not None, const int64_t[::1] due not None,
                        const int64_t[::1] period not None, const int32_t[::1] spec=None):
        cdef Py_ssize_t i, j, group, count
        cdef wheel_t* wheel = self.wheel
        cdef uint64_t hashes[16]
        cdef const unsigned char* keys = NULL
        cdef int64_t re_arm
        self.enter()
        count = check_offsets(blob, offsets)
        if due.shape[0] != count or period.shape[0] != count or (spec is not None and spec.shape[0] != count):
            raise ValueError("lengths differ")
        for i in range(count):
            self.check_job(due[i], period[i], -1 if spec is None else spec[i], 0)
        if count == 0:
            return 0
        if blob.shape[0]:
            keys = &blob[0]
        self.check_slots(keys, offsets, count)
        for i in range(0, count, 16):
            group = count - i if count - i < 16 else 16
            for j in range(group):
                hashes[j] = hash_key(wheel, keys + offsets[i + j], offsets[i + j + 1] - offsets[i + j])
                TW_PREFETCH(home_of(wheel, hashes[j]))
            for j in range(group):
                prefetch_key(wheel, hashes[j])
            for j in range(group):
                re_arm = period[i + j] if spec is None or spec[i + j] < 0 else -(<int64_t>spec[i + j] + 1)
                if upsert(wheel, keys + offsets[i + j], offsets[i + j + 1] - offsets[i + j], hashes[j], due[i + j], re_arm, 0, 0) == NIL:
                    raise MemoryError("no memory for a key, at index %d" % (i + j))
        return count

    cdef int check_slots(self, const unsigned char* keys, const uint32_t[::1] offsets, Py_ssize_t count) except -1:
        """Raises when the new keys would not fit; looks them up only when it is close. A key given twice counts twice."""
        cdef wheel_t* wheel = self.wheel
        cdef uint64_t free_slots = <uint64_t>wheel.max_jobs - wheel.slots_used + wheel.free_count, fresh = 0
        cdef size_t length
        cdef Py_ssize_t i
        if <uint64_t>count <= free_slots:
            return 0
        for i in range(count):
            length = offsets[i + 1] - offsets[i]
            fresh += find_key(wheel, keys + offsets[i], length, hash_key(wheel, keys + offsets[i], length)) == NIL
        if fresh > free_slots:
            raise MemoryError("the wheel is full")
        return 0

    def cancel_packed(self, const uint8_t[::1] blob not None, const uint32_t[::1] offsets not None):
        cdef Py_ssize_t i, j, group, count, gone = 0
        cdef wheel_t* wheel = self.wheel
        cdef uint64_t hashes[16]
        cdef const unsigned char* keys = NULL
        cdef uint32_t slot
        self.enter()
        count = check_offsets(blob, offsets)
        if blob.shape[0]:
            keys = &blob[0]
        for i in range(0, count, 16):
            group = count - i if count - i < 16 else 16
            for j in range(group):
                hashes[j] = hash_key(wheel, keys + offsets[i + j], offsets[i + j + 1] - offsets[i + j])
                TW_PREFETCH(home_of(wheel, hashes[j]))
            for j in range(group):
                prefetch_key(wheel, hashes[j])
            for j in range(group):
                slot = find_key(wheel, keys + offsets[i + j], offsets[i + j + 1] - offsets[i + j], hashes[j])
                if slot != NIL:
                    gone += disarm_handle(wheel, handle_of(&wheel.records[slot], slot))
        return gone

    # ------------------------------------------------------------ time, reading back, snapshots
    @property
    def now(self):
        return self.wheel.now

    @property
    def more(self):
        return self.wheel.due.head != NIL

    @property
    def slots(self):
        return self.wheel.slots_used

    def advance(self, int64_t now_ms, uint64_t[::1] handles not None, int64_t[::1] due not None, uint32_t[::1] tags=None):
        cdef Py_ssize_t capacity = handles.shape[0]
        self.enter()
        if capacity < CAPACITY_MIN or due.shape[0] < capacity or (tags is not None and tags.shape[0] < capacity):
            raise ValueError("buffers too small")
        if now_ms < 0:
            raise OverflowError("now_ms out of range")
        return self.c_advance(now_ms, &handles[0], NULL if tags is None else &tags[0], &due[0], capacity)

    def next_wakeup(self):
        self.enter()
        return next_wakeup(self.wheel)

    def cascade_wait(self):
        self.enter()
        return cascade_wait(self.wheel)

    def tags_of(self, const uint64_t[::1] handles not None, Py_ssize_t count, uint32_t[::1] tags not None):
        cdef Py_ssize_t i
        cdef record_t* record
        self.enter()
        if count < 0 or handles.shape[0] < count or tags.shape[0] < count:
            raise ValueError("buffers too small")
        for i in range(count):
            if i + PREFETCH < count:
                self.c_prefetch(handles[i + PREFETCH])
            record = readable_record(self.wheel, handles[i])
            tags[i] = NIL if record == NULL else record.tag

    def keys_of(self, const uint64_t[::1] handles not None, Py_ssize_t count):
        cdef Py_ssize_t i
        cdef size_t length
        cdef record_t* record
        cdef const unsigned char* key
        cdef list keys = []
        self.enter()
        if count < 0 or handles.shape[0] < count:
            raise ValueError("buffers too small")
        for i in range(count):
            if i + PREFETCH < count:
                self.c_prefetch(handles[i + PREFETCH])
            record = readable_record(self.wheel, handles[i])
            key = NULL
            if record != NULL:
                key = key_of(record, &length)
            keys.append(None if key == NULL else PyBytes_FromStringAndSize(<const char*>key, length))
        return keys

    def pack(self, const uint64_t[::1] handles not None, const int64_t[::1] due not None, Py_ssize_t count):
        cdef Py_ssize_t i
        cdef size_t length, total = 0
        cdef uint16_t short_length
        cdef record_t* record
        cdef const unsigned char* key
        cdef char* out
        self.enter()
        if count < 0 or handles.shape[0] < count or due.shape[0] < count:
            raise ValueError("buffers too small")
        for i in range(count):
            if i + PREFETCH < count:
                self.c_prefetch(handles[i + PREFETCH])
            record = readable_record(self.wheel, handles[i])
            if record == NULL:
                raise ValueError("stale handle, at index %d" % i)
            key_of(record, &length)
            if length > 0xffff:
                raise ValueError("key too long to pack, at index %d" % i)
            total += 10 + length
        packed = PyBytes_FromStringAndSize(NULL, total)
        out = PyBytes_AS_STRING(packed)
        for i in range(count):
            key = key_of(&self.wheel.records[<uint32_t>handles[i]], &length)
            short_length = <uint16_t>length
            memcpy(out, &due[i], 8)
            memcpy(out + 8, &short_length, 2)
            if length:
                memcpy(out + 10, key, length)
            out += 10 + length
        return packed

    def stats(self):
        cdef wheel_t* wheel = self.wheel
        cdef counters_t* counters = &wheel.counters
        self.enter()
        return {
            "live": wheel.live, "entries": wheel.entries, "slots": wheel.slots_used, "free_slots": wheel.free_count,
            "keys": wheel.key_count, "table_words": wheel.capacity, "chunks": wheel.chunks_used, "fired": counters.fired,
            "moved": counters.moved, "visited": counters.visited, "stale_dropped": counters.stale_dropped,
            "compacted": counters.compacted, "steps": counters.steps, "max_step_work": counters.max_step_work,
            "max_step_excess": counters.max_step_excess, "cron_specs": self.cron.table.used,
        }

    def add_cron(self, masks, int zone=-1):
        self.enter()
        return self.cron.add(masks, zone)

    def set_zone(self, int zone, at, offset):
        self.enter()
        self.cron.set_zone(zone, at, offset)

    def export(self, uint32_t first_slot, uint32_t max_slots):
        cdef wheel_t* wheel = self.wheel
        cdef uint32_t end
        cdef unsigned char* out
        cdef size_t size
        self.enter()
        if first_slot >= wheel.slots_used:
            return b""
        end = first_slot + min(max_slots, wheel.slots_used - first_slot)
        self.busy = True
        with nogil:
            size = exported_bytes(wheel, first_slot, end)
        try:
            blob = PyBytes_FromStringAndSize(NULL, size)
            out = <unsigned char*>PyBytes_AS_STRING(blob)
            with nogil:
                export_slots(wheel, first_slot, end, out)
        finally:
            self.busy = False
        return blob

    def load(self, const uint8_t[::1] blob not None, uint64_t[::1] handles=None):
        cdef wheel_t* wheel = self.wheel
        cdef size_t size = blob.shape[0]
        cdef const unsigned char* data = NULL
        cdef uint64_t* out = NULL
        cdef int64_t count
        cdef bint done
        self.enter()
        if size == 0:
            return 0
        data = &blob[0]
        count = check_exported(wheel, data, size)
        if count < 0:
            raise ValueError("not an export of this wheel's kind, or its cron specs are missing")
        if handles is not None:
            if handles.shape[0] < count:
                raise ValueError("buffers too small")
            out = &handles[0]
        if <uint64_t>count > <uint64_t>wheel.max_jobs - wheel.slots_used + wheel.free_count:
            raise MemoryError("the wheel is full")
        self.busy = True
        with nogil:
            done = load_all(wheel, data, size, out)
        self.busy = False
        if not done:
            raise MemoryError("no memory for a key")
        return count

    def check_invariants(self):
        cdef const char* broken
        self.enter()
        broken = check_wheel(self.wheel)
        if broken != NULL:
            raise AssertionError((<bytes>broken).decode())
