# What happens to jobs, told by the store's changes alone: every replica can tell it, for jobs of all owners, and nothing is written for it.
#
# Pages of a load are no events; what changes while jobs are loaded is not told either, since what was before is not known yet.

cdef enum:  # kinds; 0 and 255 are the ring's own
    EVENT_CREATED = 1
    EVENT_OVERWRITTEN = 2
    EVENT_DELETED = 3
    EVENT_RAN = 4          # its counter moved on by one run
    EVENT_RUN_RECORDED = 5  # the same of a job with history: the detail is a RunRecord
    EVENT_FAILED = 6
    EVENT_SKIPPED = 7
    EVENT_PAUSED = 8
    EVENT_RESUMED = 9
    EVENT_CONFIGURED = 10
    EVENT_RUN_ASKED = 11
    EVENT_ASKED_RAN = 12
    EVENT_FROZEN = 13      # the name is the namespace's
    EVENT_UNFROZEN = 14
    EVENT_DEAD = 15        # given up, and kept as a dead letter


cdef event_t event_of(Engine self, int kind, uint64_t revision, const job_t* job) noexcept:
    # `job` NULL: there is none.
    cdef event_t event
    memset(&event, 0, sizeof(event))
    event.kind = kind
    event.revision = revision
    event.heard_ms = self.heard_ms
    if job != NULL:
        event.job_main = job.main
        event.job_sub = job.sub
    return event


cdef void tell(Engine self, event_t* event, slice_t name) noexcept:
    if self.loading:
        return
    event.name_size = <uint32_t>min(name.size, UINT32_MAX)
    event_put(&self.events, event, name.data, NULL)


cdef void tell_job(Engine self, int kind, uint64_t revision, const job_t* job, slice_t name) noexcept:
    cdef event_t event = event_of(self, kind, revision, job)
    tell(self, &event, name)


cdef void tell_counter(Engine self, uint64_t revision, const job_t* job, const counter_t* counter, slice_t name) noexcept:
    # Before the record has the new counter. One that is set otherwise, as an import does, is no run.
    cdef bint known = counted(self, job)
    cdef uint32_t count = job.count if known else 0, attempts = job.attempts if known else 0
    cdef event_t event
    if self.loading or not job.flags & HAS_JOB or counter.partition_id != job.partition_id:
        return
    event = event_of(self, EVENT_RAN, revision, job)
    event.count = counter.count
    event.attempts = counter.attempts
    event.at_s = counter.last.s
    event.at_ns = counter.last.ns
    if counter.count == count + 1:
        if job.more & HISTORY:
            return  # told with its record, which is in the same entry
    elif counter.count != count:
        return
    elif counter.attempts > attempts:
        event.kind = EVENT_FAILED
    elif counter.has_last and not (known and job.flags & HAS_LAST and job.last_s == counter.last.s and job.last_ns == counter.last.ns):
        event.kind = EVENT_SKIPPED
    else:
        return
    tell(self, &event, name)


cdef void tell_state(Engine self, slice_t name, uint64_t revision, bint paused) noexcept:
    # Before the record says so. What goes with its job is no event of its own.
    cdef uint32_t slot = find(self, name)
    cdef const job_t* job
    cdef bint before
    if slot == JOB_NONE or not job_at(&self.table, slot).flags & HAS_JOB:
        return
    job = job_at(&self.table, slot)
    before = job.flags & PAUSED != 0
    tell_job(self, EVENT_CONFIGURED if before == paused else EVENT_PAUSED if paused else EVENT_RESUMED, revision, job, name)


cdef void tell_asked(Engine self, int kind, slice_t name, uint64_t revision) noexcept:
    # A run is asked for, or was and is over: then told with its record, if there is one.
    cdef uint32_t slot = find(self, name)
    cdef const job_t* job
    if slot == JOB_NONE or not job_at(&self.table, slot).flags & HAS_JOB:
        return
    job = job_at(&self.table, slot)
    if kind == EVENT_RUN_ASKED or (job.flags & RUN_WANTED and not job.more & HISTORY):
        tell_job(self, kind, revision, job, name)


cdef void tell_record(Engine self, uint64_t revision, slice_t name, slice_t record) noexcept:
    cdef uint32_t slot = find(self, name)
    cdef event_t event = event_of(self, EVENT_RUN_RECORDED, revision, NULL if slot == JOB_NONE else job_at(&self.table, slot))
    if not self.loading:
        self.recorded[0] = revision
        self.recorded[1] = hash_of(self, name)
        event.name_size = <uint32_t>min(name.size, UINT32_MAX)
        event.detail_size = <uint32_t>min(record.size, UINT32_MAX)
        event_put(&self.events, &event, name.data, record.data)


cdef void tell_dead(Engine self, uint64_t revision, slice_t name, slice_t record) noexcept:
    # `name` with the run. One that was told with its record already is not told again.
    cdef kv_t kv
    cdef pb_in source
    cdef pb_field f
    cdef instant_t at
    cdef uint32_t slot
    cdef event_t event
    while name.size and name.data[name.size - 1] != 47:  # the slash before the run
        name.size -= 1
    if name.size == 0 or kv_parse(record, &kv) < 0:
        return
    name.size -= 1
    if self.recorded[0] == revision and self.recorded[1] == hash_of(self, name):
        return
    slot = find(self, name)
    event = event_of(self, EVENT_DEAD, revision, NULL if slot == JOB_NONE else job_at(&self.table, slot))
    source = pb_open(kv.value)
    while pb_next(&source, &f) == 1:
        if f.number == 1 and f.type == PB_BYTES and pb_instant(f.body, &at) == 0:
            event.at_s = at.s
            event.at_ns = at.ns
        elif f.number == 3 and f.type == PB_VARINT:
            event.attempts = <uint32_t>f.value
    tell(self, &event, name)


cdef uint64_t hash_of(Engine self, slice_t name) noexcept:
    cdef uint64_t low = 0, high = 0
    job_hash(self.table.key, name.data, name.size, &low, &high)
    return low


cdef int forget_events(Engine self) except -1:
    # What could not be told while jobs were loaded is as what has gone. The store may be another one than before, at a lower revision.
    event_forget(&self.events, self.highest)
    self.marked = self.events.tail
    return 0


cdef tuple read_events(Engine self, uint64_t position, uint64_t after, uint32_t limit):
    cdef list found = []
    cdef uint64_t token = 0, start = position
    cdef const event_t* event = event_next(&self.events, &position)
    cdef const uint8_t* name
    cdef bint missed = position != start and start < self.events.head
    while event != NULL and limit:
        if event.kind == EVENT_MARK:
            token = event.revision
        elif event.revision > after:
            limit -= 1
            name = <const uint8_t*>(event + 1)
            found.append((
                event.kind, event.revision, event.heard_ms, PyBytes_FromStringAndSize(<const char*>name, event.name_size),
                (event.job_main, event.job_sub), (event.at_s, event.at_ns), event.count, event.attempts,
                PyBytes_FromStringAndSize(<const char*>name + event.name_size, event.detail_size),
            ))
        position += event.total
        event = event_next(&self.events, &position)
    return found, position, max(token, self.told) if event == NULL else token, missed
