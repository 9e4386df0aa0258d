# Retry ladders, of jobs that have one, and the last error of jobs that failed (docs/jobs-api.md).
#
# A wait counts from the answer that said that the attempt failed. Who owns the job anew does not know when that was: it counts from the
# tick, as if each attempt had failed at once, so it is not later than the one before would have been.

cdef inline ladder_t ladder_at(Engine self, uint32_t slot) except *:
    cdef ladder_t ladder
    ladder.initial_ms, ladder.factor_percent, ladder.cap_ms, ladder.jitter_percent, ladder.max_attempts = self.ladders[slot]
    return ladder


cdef bint climb(Engine self, run_t* r, const job_t* job, uint32_t attempts) except -1:
    # As plan_retry, of a job that has a ladder.
    cdef ladder_t ladder = ladder_at(self, r.job)
    cdef int64_t due
    if ladder.max_attempts and attempts >= ladder.max_attempts:
        return False
    due = self.now_ms + ladder_wait_ms(&ladder, job.partition_id, attempts)
    r.planned_s = due // 1000
    r.planned_ns = <int32_t>(due % 1000) * 1000000
    return True


cdef int64_t first_due_ms(Engine self, uint32_t slot, instant_t tick) except -1:
    # When a tick is due of which there is no run here.
    cdef job_t* job = job_at(&self.table, slot)
    cdef int64_t due = due_ms(self, tick.s, tick.ns)
    cdef ladder_t ladder
    if job.more & LADDER and counted(self, job) and job.attempts > 0:
        ladder = ladder_at(self, slot)
        due = min(due + ladder_sum_ms(&ladder, job.partition_id, job.attempts), DUE_MAX_MS)
    return due


cdef int set_ladder(Engine self, uint32_t slot, job_t* job, object wanted) except -1:
    # `wanted`: (initial ms, factor in percent, cap ms, jitter in percent, attempts or 0), or None: the failure policy holds.
    if wanted is None:
        if job.more & LADDER:
            job.more &= ~LADDER
            del self.ladders[slot]
    else:
        job.more |= LADDER
        self.ladders[slot] = wanted
    return 0


cdef int64_t wait_field_ms(slice_t body) noexcept:
    # Of a Duration; -1: it is no wait of a ladder.
    cdef instant_t wait
    if pb_instant(body, &wait) < 0 or not 0 <= wait.s <= RETRY_WAIT_S or not 0 <= wait.ns < NS:
        return -1
    return min(wait.s * 1000 + (wait.ns + 999999) // 1000000, RETRY_WAIT_S * 1000)


cdef object ladder_of(slice_t value):
    # JobExtra.retry {1 initial, 2 factor_percent, 3 cap, 4 jitter_percent, 5 max_attempts}; None: there is none, or it means nothing.
    cdef slice_t retry
    cdef pb_in source
    cdef pb_field f
    cdef int64_t initial = 0, cap = RETRY_WAIT_S * 1000
    cdef uint64_t factor = 0, jitter = 0, most = 0
    cdef int got
    if not message_field(value, 5, &retry):
        return None
    source = pb_open(retry)
    got = pb_next(&source, &f)
    while got == 1:
        if f.number == 1 and f.type == PB_BYTES:
            initial = wait_field_ms(f.body)
        elif f.number == 3 and f.type == PB_BYTES:
            cap = wait_field_ms(f.body)
        elif f.number == 2 and f.type == PB_VARINT:
            factor = f.value
        elif f.number == 4 and f.type == PB_VARINT:
            jitter = f.value
        elif f.number == 5 and f.type == PB_VARINT:
            most = f.value
        got = pb_next(&source, &f)
    if got < 0 or initial <= 0 or cap < 0:
        return None
    return (initial, min(max(factor or 200, 100), RETRY_FACTOR), max(cap, initial), min(jitter, 100), min(most, RETRY_ATTEMPTS))


cdef bint message_field(slice_t value, uint32_t number, slice_t* out) noexcept:
    # The last one of this number that is a message, or text.
    cdef pb_in source = pb_open(value)
    cdef pb_field f
    cdef bint found = False
    cdef int got = pb_next(&source, &f)
    while got == 1:
        if f.number == number and f.type == PB_BYTES:
            out[0] = f.body
            found = True
        got = pb_next(&source, &f)
    return found and got == 0


# -- the last error


cdef int remember_error(Engine self, const run_t* r, job_t* job, slice_t error) except -1:
    # The oldest is forgotten beyond LAST_ERRORS_MAX; it goes with the job, with an overwrite, and with the ownership.
    cdef uint32_t slot = r.job
    error.size = min(error.size, ERROR_BYTES)
    if r.extra:
        entry = (self.now_ms, None, r.counter_main, job.partition_id, r.tries, copy(error))
    else:
        attempt = job.attempts if counted(self, job) else 0
        entry = (self.now_ms, (r.tick_s, r.tick_ns), 0, job.partition_id, attempt, copy(error))
    job.more |= ERRED
    self.errors[slot] = entry
    self.errors.move_to_end(slot)
    if len(self.errors) > LAST_ERRORS:
        forgotten, _ = self.errors.popitem(last=False)
        job_at(&self.table, forgotten).more &= ~ERRED
    return 0


cdef int drop_error(Engine self, uint32_t slot, job_t* job) except -1:
    if job.more & ERRED:
        job.more &= ~ERRED
        del self.errors[slot]
    return 0


cdef int drop_errors_of_others(Engine self) except -1:
    cdef uint32_t slot
    for slot in list(self.errors):
        if not mine(self, job_at(&self.table, slot)):
            drop_error(self, slot, job_at(&self.table, slot))
    return 0
