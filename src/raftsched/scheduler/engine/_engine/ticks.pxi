# The next-trigger rule (spec §5.3), pure: a function of the record.

cdef inline bint counted(Engine self, const job_t* job) noexcept:
    # A counter of another partition id is stale: the job starts from zero.
    return job.counter_main != 0 and job.counter_partition_id == job.partition_id


cdef inline bint in_partition(Engine self, uint64_t partition_id) noexcept:
    cdef uint32_t i
    if self.total == 0 or partition_id % self.total != self.index:
        return False
    for i in range(self.narrowings):
        if partition_id % self.narrow_totals[i] != self.narrow_indexes[i]:
            return False
    return True


cdef inline bint mine(Engine self, const job_t* job) noexcept:
    return in_partition(self, job.partition_id)


cdef int after(Engine self, const job_t* job, instant_t at, instant_t* tick) noexcept:
    # The first tick of the schedule strictly after `at`; -1 = never.
    cdef int64_t s
    if job.kind == KIND_EVERY:
        tick.s = at.s + job.value // NS
        tick.ns = at.ns + <int32_t>(job.value % NS)
        if tick.ns >= NS:
            tick.s += 1
            tick.ns -= <int32_t>NS
        return 1 if tick.s <= DUE_MAX_MS // 1000 else -1
    if job.kind == KIND_CRON:
        s = self.wheel.cron.c_next(<int>job.value, at.s)
        tick.s = s
        tick.ns = 0
        return 1 if s >= 0 else -1
    return after_extended(self, job, at, tick) if job.kind == KIND_EXTENDED else -1


cdef int next_tick(Engine self, const job_t* job, instant_t* tick) noexcept:
    # 1 = `tick` is the next one, 0 = finished, -1 = never.
    cdef bint with_counter = counted(self, job)
    cdef uint32_t count = job.count if with_counter else 0
    cdef instant_t begin, last
    cdef int found = 1
    begin.s = job.begin_s
    begin.ns = job.begin_ns
    if job.kind == KIND_NEVER:
        return -1
    if job.kind == KIND_ONCE:
        if count >= 1:
            return 0
        tick[0] = begin
    else:
        if job.flags & REPEATS and count >= job.repeats:
            return 0
        if with_counter and job.flags & HAS_LAST:
            last.s = job.last_s
            last.ns = job.last_ns
            found = after(self, job, last, tick)
        elif job.flags & BEGINS_DUE:
            tick[0] = begin
        else:
            found = after(self, job, begin, tick)
        if found < 0:
            return -1  # kept, never fires (D8)
    if job.flags & EXPIRES and (tick.s > job.expires_s or (tick.s == job.expires_s and tick.ns > job.expires_ns)):
        return 0
    return 1


cdef inline int64_t due_ms(Engine self, int64_t s, int32_t ns) noexcept:
    # Rounded up: never early. Instants before 1970 are due at once.
    cdef int64_t ms
    if s < 0:
        return 0
    ms = s * 1000 + (<int64_t>ns + 999999) // 1000000
    return ms if ms < DUE_MAX_MS else DUE_MAX_MS


cdef int settle(Engine self, uint32_t slot) except -1:
    # From the record alone to where the job belongs: the wheel, the queue of the finished, or idle.
    cdef job_t* job = job_at(&self.table, slot)
    cdef instant_t tick
    cdef run_t* run
    cdef int found
    if self.loading or not mine(self, job) or (held(self, job) and not run_wanted(self, job)):
        detach(self, job)
        return to_idle(self, job)
    if run_wanted(self, job):
        detach(self, job)
        return arm(self, slot, self.now_ms)
    found = next_wanted(self, slot, &tick)
    if job.run != RUN_NONE:
        # Kept only for a retry of the same tick, whose planned time the record does not hold.
        run = run_at(&self.delivery.runs, job.run)
        if (found == 1 and counted(self, job) and job.attempts > 0 and run.retry and run.place == PLACE_NONE
                and run.tick_s == tick.s and run.tick_ns == tick.ns):
            return arm(self, slot, due_ms(self, run.planned_s, run.planned_ns))
        detach(self, job)
    if found == 1:
        return arm(self, slot, first_due_ms(self, slot, tick))
    to_idle(self, job)
    return queue_finish(self, slot) if found == 0 else 0


cdef int arm(Engine self, uint32_t slot, int64_t due) except -1:
    cdef job_t* job = job_at(&self.table, slot)
    if job.handle == 0 or self.wheel.c_rearm(job.handle, due) != 1:
        job.handle = self.wheel.c_arm(slot, due)
        if job.handle == 0:
            raise MemoryError("the timing wheel is full")
    job.state = ARMED
    return 0


cdef int to_idle(Engine self, job_t* job) except -1:
    if job.handle:
        self.wheel.c_pause(job.handle)
    job.state = IDLE
    return 0


cdef int detach(Engine self, job_t* job) except -1:
    # Orphans the open run: what comes back for it is dropped.
    cdef uint32_t run = job.run
    cdef run_t* r
    if run == RUN_NONE:
        return 0
    job.run = RUN_NONE
    r = run_at(&self.delivery.runs, run)
    if r.place == PLACE_STAGED:
        self.delivery.unstage(run)
    elif r.place == PLACE_GATED:
        self.gates.drop(run)
        r.place = PLACE_NONE
    r.job = JOB_NONE
    if r.gated and r.place == PLACE_NONE:
        release_gate(self, run)
    collect(self, run)
    return 0


cdef void collect(Engine self, uint32_t run) noexcept:
    # An orphan is freed when neither a stream nor a commit knows it any more.
    cdef run_t* r = run_at(&self.delivery.runs, run)
    if r.job == JOB_NONE and r.place == PLACE_NONE and r.pending == 0:
        run_free(&self.delivery.runs, run)


cdef int queue_finish(Engine self, uint32_t slot) except -1:
    cdef size_t capacity
    cdef uint32_t* grown
    if self.finish_count == self.finish_capacity:
        capacity = self.finish_capacity * 2 if self.finish_capacity else 256
        grown = <uint32_t*>realloc(self.finish_queue, capacity * sizeof(uint32_t))
        if grown == NULL:
            raise MemoryError
        self.finish_queue = grown
        self.finish_capacity = capacity
    self.finish_queue[self.finish_count] = slot
    self.finish_count += 1
    job_at(&self.table, slot).state = FINISHING
    return 0
