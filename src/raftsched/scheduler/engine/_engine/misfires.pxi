# Ticks that were missed, of jobs that do not want them all (docs/jobs-api.md): which of them is the next one, by the present moment.
#
# Nothing is written for a tick that is passed over: the next run's result moves the counter behind it, and until then whoever looks finds
# the same again. A run that has begun, one with failed attempts, is no missed tick.

cdef inline int64_t ns_of(instant_t at) noexcept:
    return at.s * NS + at.ns


cdef inline bint may_pass(Engine self, const job_t* job) noexcept:
    return job.more & MISFIRES != 0 and not (counted(self, job) and job.attempts > 0)


cdef int next_wanted(Engine self, uint32_t slot, instant_t* tick) except -2:
    # As next_tick, without those that the job's policy passes over.
    cdef job_t* job = job_at(&self.table, slot)
    cdef int found = next_tick(self, job, tick)
    if found != 1 or not may_pass(self, job) or due_ms(self, tick.s, tick.ns) >= self.now_ms:
        return found
    window_ms, most = self.misfires[slot]
    if job.kind == KIND_ONCE:
        return 0 if window_ms >= 0 and self.now_ms - due_ms(self, tick.s, tick.ns) > window_ms else 1
    if job.kind == KIND_EVERY:
        pass_every(self, job, tick, window_ms, most)
    elif job.kind == KIND_EXTENDED:
        found = pass_extended(self, job, tick, window_ms, most)
    else:
        found = pass_cron(self, job, tick, window_ms, most)
    if found == 1 and job.flags & EXPIRES and (tick.s > job.expires_s or (tick.s == job.expires_s and tick.ns > job.expires_ns)):
        return 0
    return found


cdef void pass_every(Engine self, const job_t* job, instant_t* tick, int64_t window_ms, int64_t most) noexcept:
    # `tick` is before now, so that all this is within 64 bits.
    cdef int64_t elapsed = self.now_ms * 1000000 - ns_of(tick[0]), period = job.value, passed = 0, ns
    if period <= 0 or elapsed < 0:
        return
    if most > 0:
        passed = elapsed // period + 1 - most
    if window_ms >= 0 and elapsed > window_ms * 1000000:
        passed = max(passed, (elapsed - window_ms * 1000000 + period - 1) // period)
    if passed > 0:
        ns = ns_of(tick[0]) + passed * period
        tick.s = ns // NS
        tick.ns = <int32_t>(ns % NS)


cdef int pass_cron(Engine self, const job_t* job, instant_t* tick, int64_t window_ms, int64_t most) noexcept:
    cdef int64_t now_s = self.now_ms // 1000, first = tick.s, found, until = now_s
    if most > 0:
        while most > 0:
            found = self.wheel.cron.c_last(<int>job.value, tick.s - 1, until)
            if found <= tick.s:
                break                    # as many as that there are not
            first = found
            until = found - 1
            most -= 1
        if most > 0:
            first = tick.s               # the first one itself, which a due time may have given, is among the last
    if window_ms >= 0 and first * 1000 < self.now_ms - window_ms:
        first = self.wheel.cron.c_next(<int>job.value, (self.now_ms - window_ms + 999) // 1000 - 1)
        if first < 0:
            return -1
    if first > tick.s:
        tick.s = first
        tick.ns = 0
    return 1


cdef int note_passed(Engine self, const job_t* job, instant_t from_tick, instant_t to_tick, uint8_t kind) noexcept:
    # Counted one by one where the schedule is a calendar's, up to a bound: more are not worth the time.
    cdef int64_t at = from_tick.s, count = 0
    if job.kind == KIND_EVERY:
        count = (ns_of(to_tick) - ns_of(from_tick)) // job.value if job.value > 0 else 0
    elif job.kind == KIND_EXTENDED:
        count = count_extended(self, job, from_tick, to_tick)
    else:
        while 0 <= at < to_tick.s and count < PASSED_COUNT_MAX:
            at = self.wheel.cron.c_next(<int>job.value, at)
            count += 1
    self.passed[kind] += count
    return 0


cdef bint wants_now(Engine self, uint32_t run) except -1:
    # Of a run that is about to be sent: whether some tick is still wanted; the run is of that one from now on.
    cdef run_t* r = run_at(&self.delivery.runs, run)
    cdef instant_t tick, before
    if r.extra or not may_pass(self, job_at(&self.table, r.job)):
        return True
    if next_wanted(self, r.job, &tick) != 1 or due_ms(self, tick.s, tick.ns) > self.now_ms:
        return False
    before.s = r.tick_s
    before.ns = r.tick_ns
    note_passed(self, job_at(&self.table, r.job), before, tick, r.kind)
    r.tick_s = r.planned_s = tick.s
    r.tick_ns = r.planned_ns = tick.ns
    return True


cdef int set_misfires(Engine self, uint32_t slot, job_t* job, object wanted) except -1:
    # `wanted`: (window in ms or -1, how many at most or 0), or None: all ticks, as Dapr does.
    if wanted is None:
        if job.more & MISFIRES:
            job.more &= ~MISFIRES
            del self.misfires[slot]
    else:
        job.more |= MISFIRES
        self.misfires[slot] = wanted
    return 0


cdef object misfires_of(slice_t value):
    # JobExtra.misfire {1 window: Duration, 2 max}; None: there is none, or nothing in it.
    cdef pb_in source = pb_open(value), inner
    cdef pb_field f, g
    cdef instant_t window
    cdef int64_t window_ms = -1, most = 0
    cdef int got = pb_next(&source, &f)
    while got == 1:
        if f.number == 4 and f.type == PB_BYTES:
            inner = pb_open(f.body)
            got = pb_next(&inner, &g)
            while got == 1:
                if g.number == 1 and g.type == PB_BYTES:
                    if pb_instant(g.body, &window) < 0 or window.ns < 0 or not 0 <= window.s <= WINDOW_MAX_S:
                        return None
                    window_ms = window.s * 1000 + window.ns // 1000000
                elif g.number == 2 and g.type == PB_VARINT:
                    most = <int64_t>min(g.value, MISFIRE_RUNS_MAX)
                got = pb_next(&inner, &g)
            if got < 0:
                return None
        got = pb_next(&source, &f)
    return None if got < 0 or (window_ms < 0 and most == 0) else (window_ms, most)
