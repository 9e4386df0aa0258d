# What may not fire: paused jobs, frozen namespaces; and the states under raftsched/ whose jobs are gone.
#
# Being held is no state of a job: it is IDLE, and each place that a run passes looks whether it still may. What was sent is answered and
# counted as ever.

cdef inline bint is_frozen(Engine self, const job_t* job) noexcept:
    return self.freezes and job.route != JOB_NONE and (<Route>PyList_GET_ITEM(self.delivery.routes, job.route)).frozen


cdef inline bint held(Engine self, const job_t* job) noexcept:
    return job.flags & PAUSED != 0 or is_frozen(self, job)


cdef inline bint run_wanted(Engine self, const job_t* job) noexcept:
    # A run that somebody asked for is made of a paused job too, not of one in a frozen namespace.
    return job.flags & RUN_WANTED != 0 and not is_frozen(self, job)


cdef inline bint held_back(Engine self, const job_t* job, const run_t* r) noexcept:
    return held(self, job) and not (r.extra and run_wanted(self, job))


cdef bint state_changed(Engine self, slice_t key, tuple change) except -1:
    # Whether the key is one of ours under raftsched/.
    cdef bytes record
    cdef bint frozen
    if key.size >= <size_t>STATES_PREFIX_SIZE and memcmp(key.data, STATES_PREFIX, STATES_PREFIX_SIZE) == 0:
        key.data += STATES_PREFIX_SIZE
        key.size -= STATES_PREFIX_SIZE
        if change[0]:
            tell_state(self, key, change[2], False)
            left_over(self, BRANCH_STRAY, key)
            set_state(self, key, 0, view(b""), False)
            keep_history(self, key, 0)
        else:
            record = change[4]
            state_put(self, key, change[2], view(record))
        return True
    if key.size >= <size_t>RUNS_PREFIX_SIZE and memcmp(key.data, RUNS_PREFIX, RUNS_PREFIX_SIZE) == 0:
        key.data += RUNS_PREFIX_SIZE
        key.size -= RUNS_PREFIX_SIZE
        if change[0]:
            tell_asked(self, EVENT_ASKED_RAN, key, change[2])
            left_over(self, BRANCH_STRAY_RUN, key)
            set_run_wanted(self, key, 0, None)
        elif belongs(self, key, change[2], BRANCH_STRAY_RUN):
            record = change[4]
            tell_asked(self, EVENT_RUN_ASKED, key, change[2])
            set_run_wanted(self, key, change[2], redriven_of(view(record)))
        return True
    if key.size >= <size_t>HISTORY_PREFIX_SIZE and memcmp(key.data, HISTORY_PREFIX, HISTORY_PREFIX_SIZE) == 0:
        key.data += HISTORY_PREFIX_SIZE
        key.size -= HISTORY_PREFIX_SIZE
        record = change[4]
        run_recorded(self, key, change[2], change[0], view(record))
        return True
    if key.size >= <size_t>DEAD_PREFIX_SIZE and memcmp(key.data, DEAD_PREFIX, DEAD_PREFIX_SIZE) == 0:
        if not change[0]:
            key.data += DEAD_PREFIX_SIZE
            key.size -= DEAD_PREFIX_SIZE
            record = change[4]
            tell_dead(self, change[2], key, view(record))
        return False
    if key.size >= <size_t>NAMESPACES_PREFIX_SIZE and memcmp(key.data, NAMESPACES_PREFIX, NAMESPACES_PREFIX_SIZE) == 0:
        key.data += NAMESPACES_PREFIX_SIZE
        key.size -= NAMESPACES_PREFIX_SIZE
        if change[0]:
            frozen = False
        else:
            record = change[4]
            frozen = has_first_field(view(record))
        if (copy(key) in self.frozen) != frozen:
            tell_job(self, EVENT_FROZEN if frozen else EVENT_UNFROZEN, change[2], NULL, key)
        set_frozen(self, copy(key), frozen)
        return True
    return calendar_changed(self, key, change)


cdef bint has_first_field(slice_t record) noexcept:
    # Of the message in a KeyValue: JobExtra.pause, NamespaceExtra.freeze. What cannot be read holds nobody.
    cdef kv_t kv
    cdef pb_in source
    cdef pb_field f
    cdef bint found = False
    cdef int got
    if kv_parse(record, &kv) < 0:
        return False
    source = pb_open(kv.value)
    got = pb_next(&source, &f)
    while got == 1:
        found = found or (f.number == 1 and f.type == PB_BYTES)
        got = pb_next(&source, &f)
    return found and got == 0


cdef bint belongs(Engine self, slice_t name, uint64_t main, int stray) except -1:
    # What is written beside a job is of the one that was there then; one that was created later has nothing to do with it.
    cdef uint32_t slot = find(self, name)
    cdef job_t* job
    cdef kv_t kv
    cdef bytes stored
    if slot == JOB_NONE or not job_at(&self.table, slot).flags & HAS_JOB:
        self.strays.append((stray, copy(name), main, False))
        return False
    job = job_at(&self.table, slot)
    stored = self.read_record(job.main, job.sub)
    if stored is not None and kv_parse(view(stored), &kv) == 0 and kv.create_revision > main:
        self.strays.append((stray, copy(name), main, False))
        return False
    return True


cdef int state_put(Engine self, slice_t name, uint64_t main, slice_t record) except -1:
    cdef kv_t kv
    if not belongs(self, name, main, BRANCH_STRAY):
        return 0
    if kv_parse(record, &kv) < 0:
        kv.value = view(b"")
    tell_state(self, name, main, has_first_field(record))
    keep_history(self, name, history_of(kv.value))
    return set_state(self, name, EXTRA, kv.value, has_first_field(record))


cdef object redriven_of(slice_t record):
    # RunRequest.dead_letter; None: there is none.
    cdef kv_t kv
    cdef slice_t found
    return copy(found) if kv_parse(record, &kv) == 0 and message_field(kv.value, 4, &found) and found.size else None


cdef int set_run_wanted(Engine self, slice_t name, uint64_t wanted, object redriven) except -1:
    # By the request of this revision; 0 = there is none. What is out is answered first: runs of one job never overlap.
    cdef uint32_t slot = find(self, name)
    cdef job_t* job
    if slot == JOB_NONE or not job_at(&self.table, slot).flags & HAS_JOB:
        return 0
    job = job_at(&self.table, slot)
    self.redriven.pop(slot, None)
    if wanted:
        self.asked[slot] = wanted
        if redriven is not None:
            self.redriven[slot] = redriven
        job.flags |= RUN_WANTED
        return settle(self, slot) if job.state in (IDLE, ARMED, FINISHING) else 0
    job.flags &= ~RUN_WANTED
    self.asked.pop(slot, None)
    return settle(self, slot) if job.run == RUN_NONE or run_at(&self.delivery.runs, job.run).extra else 0


cdef int set_state(Engine self, slice_t name, uint8_t extra, slice_t value, bint paused) except -1:
    # `value`: the JobExtra, empty if there is none.
    cdef uint32_t slot = find(self, name)
    cdef job_t* job
    if slot == JOB_NONE or not job_at(&self.table, slot).flags & HAS_JOB:
        return 0
    job = job_at(&self.table, slot)
    job.flags = (job.flags & ~(PAUSED | EXTRA)) | extra | (PAUSED if paused else 0)
    misfires, ladder = misfires_of(value), ladder_of(value)
    changed = self.misfires.get(slot) != misfires or self.ladders.get(slot) != ladder
    set_misfires(self, slot, job, misfires)
    set_ladder(self, slot, job, ladder)
    set_further(self, slot, job, value)
    return settle(self, slot) if not paused and (job.state == IDLE or (changed and job.state == ARMED)) else 0


cdef int set_frozen(Engine self, bytes name_space, bint frozen) except -1:
    cdef Route route
    if (name_space in self.frozen) == frozen:
        return 0
    if frozen:
        self.frozen.add(name_space)
    else:
        self.frozen.discard(name_space)
        self.cursor = 0
        self.regained = True
    self.freezes = len(self.frozen) > 0
    for found in self.delivery.routes:
        if found is not None:
            route = found
            if route.name_space == name_space:
                route.frozen = frozen
    return 0


cdef int thaw_all(Engine self) except -1:
    cdef Route route
    if self.freezes:
        for found in self.delivery.routes:
            if found is not None:
                route = found
                route.frozen = False
    self.frozen.clear()
    self.freezes = False
    return 0


cdef int remove_strays(Engine self) except -1:
    # By who owned the job; where nobody saw it go (it went while nothing ran), by the first replica. What was heard of before its job, as
    # may be while jobs are loaded, is none: the guards see to that.
    cdef bytes name
    cdef uint32_t run, slot
    cdef run_t* r
    if self.loading or self.total == 0:
        return 0
    for kind, name, revision, owned in self.strays:
        if not owned and self.index != 0:
            continue
        if kind == BRANCH_STRAY_HISTORY and still_wanted(self, view(name)):
            continue
        run = run_new(&self.delivery.runs)
        if run == RUN_NONE:
            raise MemoryError
        r = run_at(&self.delivery.runs, run)
        r.main = revision
        slot = find(self, view(name))
        if owned:
            r.counter_main = GONE_SEEN
        elif slot == JOB_NONE or not job_at(&self.table, slot).flags & HAS_JOB:
            r.counter_main = GONE_MISSING
        else:
            r.counter_main = GONE_RECREATED
            if kind != BRANCH_STRAY_HISTORY:  # which goes without a guard
                self.recreated.add((kind, name))
        if run_set_name(r, view(name).data, view(name).size) < 0:
            raise MemoryError
        append_branch(self, run, kind, NULL)
    self.strays.clear()
    return 0
