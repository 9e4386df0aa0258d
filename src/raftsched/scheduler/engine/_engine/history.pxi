# The last runs of jobs that want them kept: raftsched/history/<composed name>/<number>, written in the branch of the result.
#
# A run's number is a revision: the highest of those of job, counter and request that it saw when it fired; if the run before it has that
# one, then the next. It is below the revision of the entry that has the result. So numbers ascend, whoever owns the job and whatever it has
# heard of the runs before, a result that is sent twice is written once, and what belongs to a job that is gone can be told by its number.

cdef class History:
    cdef uint32_t runs       # how many are wanted
    cdef numbers_t numbers   # of those that are in the store

    def __dealloc__(self):
        free(self.numbers.items)


cdef int keep_history(Engine self, slice_t name, uint32_t runs) except -1:
    # As the job's extra record says; 0 = none, then the owner removes those that there are.
    cdef uint32_t slot = find(self, name)
    cdef job_t* job
    cdef History history
    if slot == JOB_NONE or not job_at(&self.table, slot).flags & HAS_JOB:
        return 0
    job = job_at(&self.table, slot)
    if not runs and not job.more & HISTORY:
        return 0
    history = history_at(self, slot)
    history.runs = runs
    job.more = (job.more | HISTORY) if runs else (job.more & ~HISTORY)
    if not runs:
        if history.numbers.count == 0:
            del self.histories[slot]
        else:
            self.strays.append((BRANCH_STRAY_HISTORY, copy(name), history.numbers.items[history.numbers.count - 1], mine(self, job) != 0))
    return 0


cdef History history_at(Engine self, uint32_t slot):
    cdef History history = self.histories.get(slot)
    if history is None:
        history = self.histories[slot] = History()
    return history


cdef int run_recorded(Engine self, slice_t name, uint64_t revision, bint deleted, slice_t record) except -1:
    # `name` with its number. One of a job that is not there goes with what saw the job go, or was left behind while nothing ran.
    cdef uint64_t number
    cdef uint32_t slot
    cdef kv_t kv
    cdef History history
    if number_parse(&name, &number) < 0:
        return 0
    if not deleted and kv_parse(record, &kv) == 0:
        tell_record(self, revision, name, kv.value)
    slot = find(self, name)
    if slot == JOB_NONE or not job_at(&self.table, slot).flags & HAS_JOB:
        if self.loading and not deleted:
            self.strays.append((BRANCH_STRAY_HISTORY, copy(name), number, False))
        return 0
    if deleted:
        history = self.histories.get(slot)
        if history is not None:
            numbers_remove(&history.numbers, number)
            if not history.runs and history.numbers.count == 0:
                del self.histories[slot]
        return 0
    if not job_at(&self.table, slot).more & HISTORY:
        self.strays.append((BRANCH_STRAY_HISTORY, copy(name), number, mine(self, job_at(&self.table, slot)) != 0))
    if numbers_add(&history_at(self, slot).numbers, number) < 0:
        raise MemoryError
    return 0


cdef bint still_wanted(Engine self, slice_t name) noexcept:
    # Of what seemed left over: its job may have been heard of later.
    cdef uint32_t slot = find(self, name)
    return slot != JOB_NONE and job_at(&self.table, slot).flags & HAS_JOB != 0 and job_at(&self.table, slot).more & HISTORY != 0


cdef int forget_history(Engine self, uint32_t slot, job_t* job, slice_t name, uint64_t revision, bint owned) except -1:
    # The job went with this revision.
    job.more &= ~HISTORY
    if self.histories and self.histories.pop(slot, None) is not None:
        self.strays.append((BRANCH_STRAY_HISTORY, copy(name), revision, owned))
    return 0


cdef int add_to_history(Engine self, const run_t* r, const job_t* job, int status) except -1:
    # Its key, its value, and the oldest beyond what is wanted.
    cdef History history = self.histories[r.job]
    cdef numbers_t* numbers = &history.numbers
    cdef uint64_t number = max(r.main, r.counter_main)
    cdef uint32_t surplus = numbers.count + 1 - history.runs if numbers.count >= history.runs else 0
    cdef bytes prefix = <bytes>HISTORY_PREFIX + (<const char*>r.name)[:r.name_size] + b"/"
    if numbers.count:
        number = max(number, numbers.items[numbers.count - 1] + 1)
    also_put(self, prefix + b"%016x" % number, finished_record(self, r, job, status))
    if surplus:
        also_delete_range(self, prefix, prefix + b"%016x" % (numbers.items[surplus - 1] + 1))
    return 0


cdef bytes finished_record(Engine self, const run_t* r, const job_t* job, int status):
    cdef finished_t finished
    cdef bytes record, error = error_of(self, r)
    memset(&finished, 0, sizeof(finished))
    finished.error = view(error)
    finished.scheduled.s = r.tick_s
    finished.scheduled.ns = r.tick_ns
    finished.sent = of_ms(r.sent_ms)
    finished.answered = of_ms(self.now_ms)
    finished.replica = view(self.replica)
    finished.asked = r.counter_main if r.extra else 0
    finished.partition_id = job.partition_id
    finished.attempts = r.tries if r.extra else 1 + (job.attempts if counted(self, job) else 0)
    finished.result = 1 if status == 0 else 2
    record = PyBytes_FromStringAndSize(NULL, finished_size_max(&finished))
    return record[:finished_put(<uint8_t*>PyBytes_AS_STRING(record), &finished) - <uint8_t*>PyBytes_AS_STRING(record)]


cdef bytes error_of(Engine self, const run_t* r):
    # What the worker said last of this run, as far as this replica remembers.
    found = self.errors.get(r.job)
    if found is None:
        return b""
    _, tick, asked, _, _, error = found
    return error_text(error).encode() if (asked == r.counter_main if r.extra else tick == (r.tick_s, r.tick_ns)) else b""


cdef inline instant_t of_ms(int64_t ms) noexcept:
    cdef instant_t at
    at.s = ms // 1000
    at.ns = <int32_t>(ms % 1000) * 1000000
    return at


cdef uint32_t history_of(slice_t value) noexcept:
    # JobExtra.history {1 runs}; 0: there is none.
    cdef pb_in source = pb_open(value), inner
    cdef pb_field f, g
    cdef uint64_t runs = 0
    cdef int got = pb_next(&source, &f)
    while got == 1:
        if f.number == 7 and f.type == PB_BYTES:
            inner = pb_open(f.body)
            got = pb_next(&inner, &g)
            while got == 1:
                if g.number == 1 and g.type == PB_VARINT:
                    runs = min(g.value, HISTORY_RUNS_MAX)
                got = pb_next(&inner, &g)
            if got < 0:
                return 0
        got = pb_next(&source, &f)
    return <uint32_t>runs if got == 0 else 0
