# Schedules of the extended dialect (docs/schedules.md): the same rules as of the others, over ticks on whole milliseconds.

cdef inline int64_t whole_ms(int64_t s, int32_t ns, int32_t more_ns) noexcept:
    # Within the years 1 to 9999.
    return min(max(s, <int64_t>-62135596800), <int64_t>253402300800) * 1000 + (<int64_t>ns + more_ns) // 1000000


cdef inline int64_t begins_ms(const job_t* job) noexcept:
    return whole_ms(job.begin_s, job.begin_ns, 999999)


cdef inline int put_tick(int64_t found_ms, instant_t* tick) noexcept:
    if found_ms < 0:                     # none, or before 1970: then the wheel takes it as due at once
        if found_ms == EXTENDED_NONE:
            return -1
        tick.s = -((999 - found_ms) // 1000)
    else:
        tick.s = found_ms // 1000
    tick.ns = <int32_t>(found_ms - tick.s * 1000) * 1000000
    return 1


cdef int after_extended(Engine self, const job_t* job, instant_t at, instant_t* tick) noexcept:
    return put_tick(self.extended.c_next(job.value, begins_ms(job), whole_ms(at.s, at.ns, 0)), tick)


cdef int pass_extended(Engine self, const job_t* job, instant_t* tick, int64_t window_ms, int64_t most) noexcept:
    # As pass_cron.
    cdef int64_t begin = begins_ms(job), given = whole_ms(tick.s, tick.ns, 0), first = given, found, until = self.now_ms
    if most > 0:
        while most > 0:
            found = self.extended.c_last(job.value, begin, given - 1, until)
            if found == EXTENDED_NONE or found <= given:
                break
            first = found
            until = found - 1
            most -= 1
        if most > 0:
            first = given
    if window_ms >= 0 and first < self.now_ms - window_ms:
        first = self.extended.c_next(job.value, begin, self.now_ms - window_ms - 1)
        if first == EXTENDED_NONE:
            return -1
    return put_tick(first, tick) if first > given else 1


cdef int64_t count_extended(Engine self, const job_t* job, instant_t from_tick, instant_t to_tick) noexcept:
    cdef int64_t at = whole_ms(from_tick.s, from_tick.ns, 0), until = whole_ms(to_tick.s, to_tick.ns, 0), count = 0
    while EXTENDED_NONE < at < until and count < PASSED_COUNT_MAX:
        at = self.extended.c_next(job.value, begins_ms(job), at)
        count += 1
    return count


cdef object last_extended(Engine self, const job_t* job, instant_t tick, int64_t until_s, int32_t until_ns):
    # (seconds, nanoseconds) of the last tick up to an instant; `tick`, which is one, if there is none behind it.
    cdef int64_t found = self.extended.c_last(job.value, begins_ms(job), whole_ms(tick.s, tick.ns, 0), whole_ms(until_s, until_ns, 0))
    if found != EXTENDED_NONE:
        put_tick(found, &tick)
    return tick.s, tick.ns


cdef bint calendar_changed(Engine self, slice_t key, tuple change) except -1:
    # Whether the key is a calendar's. Its records are read outside; jobs that go by it are looked at again, here and on each replica.
    cdef bytes record
    cdef kv_t kv
    cdef object value = None
    if self.calendars is None or key.size < <size_t>CALENDARS_PREFIX_SIZE or memcmp(key.data, CALENDARS_PREFIX, CALENDARS_PREFIX_SIZE) != 0:
        return False
    key.data += CALENDARS_PREFIX_SIZE
    key.size -= CALENDARS_PREFIX_SIZE
    if not change[0]:
        record = change[4]
        value = copy(kv.value) if kv_parse(view(record), &kv) == 0 else b"\xff"
    if self.calendars.record_changed(copy(key), value):
        self.replan = True
        self.regained = True
        self.cursor = 0
    return True


cdef inline bint replanned(Engine self, const job_t* job) noexcept:
    return self.replan and job.kind == KIND_EXTENDED and job.state == ARMED
