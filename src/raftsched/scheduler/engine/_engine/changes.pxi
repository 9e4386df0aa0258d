# What the store says: the only writer of the record's stored fields.

cdef uint32_t find(Engine self, slice_t name) noexcept:
    cdef uint64_t low = 0, high = 0
    job_hash(self.table.key, name.data, name.size, &low, &high)
    return job_find(&self.table, low, high)


cdef uint32_t find_or_add(Engine self, slice_t name) except? 0xffffffff:
    cdef uint64_t low = 0, high = 0
    cdef uint32_t slot
    job_hash(self.table.key, name.data, name.size, &low, &high)
    slot = job_find(&self.table, low, high)
    if slot == JOB_NONE:
        slot = job_insert(&self.table, low, high)
        if slot == JOB_NONE:
            raise MemoryError("the job table is full")
    return slot


cdef int job_put(Engine self, slice_t name, uint64_t main, uint32_t sub, slice_t record) except -1:
    cdef kv_t kv
    cdef stored_job_t stored
    cdef uint32_t slot
    cdef job_t* job
    if kv_parse(record, &kv) < 0 or stored_job_parse(kv.value, &stored) < 0:
        self.undecodable_total += 1
        self.note("undecodable job", copy(name))
        return job_forgotten(self, name, main)
    slot = find_or_add(self, name)
    job = job_at(&self.table, slot)
    if job.main >= main:
        return 0  # seen already
    detach(self, job)
    drop_error(self, slot, job)
    release_schedule(self, job)
    assign_route(self, job, name, &stored)
    if not job.flags & HAS_JOB:
        self.jobs += 1
    # A pause and a request for a run are the name's: they end with the job, not with a put.
    job.flags = HAS_JOB | (job.flags & (HAS_LAST | PAUSED | EXTRA | RUN_WANTED))
    job.main = main
    job.sub = sub
    job.partition_id = stored.partition_id
    job.begin_s = stored.begin.s
    job.begin_ns = stored.begin.ns
    job.repeats = stored.repeats
    job.flags |= REPEATS if stored.has_repeats else 0
    job.flags |= BEGINS_DUE if stored.begin_kind == BEGIN_DUE else 0
    if stored.has_expiration:
        job.flags |= EXPIRES
        job.expires_s = stored.expiration.s
        job.expires_ns = stored.expiration.ns
    assign_schedule(self, job, name, &stored)
    tell_job(self, EVENT_CREATED if kv.create_revision == kv.mod_revision else EVENT_OVERWRITTEN, main, job, name)
    return settle(self, slot)


cdef int assign_schedule(Engine self, job_t* job, slice_t name, const stored_job_t* stored) except -1:
    cdef bytes text
    job.kind = KIND_ONCE
    job.value = 0
    if not stored.has_schedule:
        return 0
    if (self.cached_text is not None and <size_t>PyBytes_GET_SIZE(self.cached_text) == stored.schedule.size
            and memcmp(PyBytes_AS_STRING(self.cached_text), stored.schedule.data, stored.schedule.size) == 0):
        job.kind = KIND_EVERY
        job.value = self.cached_value
        return 0
    text = copy(stored.schedule)
    try:
        if text.startswith(DIALECT) and self.extended is not None:
            name_space = (<Route>PyList_GET_ITEM(self.delivery.routes, job.route)).name_space
            kind, value = self.compile_schedule(text.decode(), copy(name), (name_space or b"").decode("utf-8", "replace"))
        else:
            kind, value = self.compile_schedule(text.decode())
    except ValueError:
        job.kind = KIND_NEVER
        self.undecodable_total += 1
        self.note("schedule that never fires", copy(name))
        return 0
    job.kind = kind
    job.value = value
    if job.kind == KIND_EVERY:
        self.cached_text = text
        self.cached_value = job.value
    return 0


cdef int release_schedule(Engine self, job_t* job) except -1:
    if job.kind == KIND_CRON and job.flags & HAS_JOB:
        self.wheel.cron.release(<int>job.value)
        job.kind = KIND_ONCE
    elif job.kind == KIND_EXTENDED and job.flags & HAS_JOB:
        self.extended.c_release(job.value)
        job.kind = KIND_ONCE
    return 0


cdef int assign_route(Engine self, job_t* job, slice_t name, const stored_job_t* stored) except -1:
    # Metadata that do not lead to the key make a job that nobody can take (D11): its route is the empty prefix.
    cdef metadata_t metadata
    cdef size_t size = 0
    cdef uint8_t kind = TARGET_NONE
    cdef Route route
    if stored.has_metadata and metadata_parse(stored.metadata, &metadata) == 0 and prefix_match(name, &metadata, &size):
        kind = metadata.target
    else:
        size = 0
        self.note("metadata do not match the key", copy(name))
    name.size = size
    route = self.delivery.hold_route(copy(name), kind)
    release_route(self, job)
    job.route = route.index
    if kind != TARGET_NONE and route.name_space is None:
        route.name_space = copy(metadata.name_space)
        route.frozen = route.name_space in self.frozen
    if kind == TARGET_ACTOR and route.target is None:
        route.target = (text(metadata.name_space), text(metadata.actor_type))
        route.gated = self.gates.gated(*route.target)
    return 0


cdef int release_route(Engine self, job_t* job) except -1:
    if job.route != JOB_NONE:
        self.delivery.drop_route(<Route>PyList_GET_ITEM(self.delivery.routes, job.route))
        job.route = JOB_NONE
    return 0


cdef int job_deleted(Engine self, slice_t name, uint64_t main) except -1:
    cdef uint32_t slot = find(self, name)
    cdef job_t* job
    if slot == JOB_NONE:
        return 0
    job = job_at(&self.table, slot)
    if not job.flags & HAS_JOB or job.main >= main:
        return 0
    tell_job(self, EVENT_DELETED, main, job, name)
    return forget(self, slot, name, main, True)


cdef int job_forgotten(Engine self, slice_t name, uint64_t main) except -1:
    # Overwritten by something undecodable: the former schedule holds no more, the counter is left alone.
    cdef uint32_t slot = find(self, name)
    if slot == JOB_NONE or not job_at(&self.table, slot).flags & HAS_JOB or job_at(&self.table, slot).main >= main:
        return 0
    return forget(self, slot, name, main, False)


cdef int forget(Engine self, uint32_t slot, slice_t name, uint64_t main, bint collect_counter) except -1:
    cdef job_t* job = job_at(&self.table, slot)
    cdef bint owned = mine(self, job)
    # An owner may be dead, and its jobs be nobody's yet: the first replica sees to what is beside them, too.
    set_misfires(self, slot, job, None)
    set_ladder(self, slot, job, None)
    set_further(self, slot, job, view(b""))
    drop_error(self, slot, job)
    if job.flags & EXTRA or left_over(self, BRANCH_STRAY, name):
        self.strays.append((BRANCH_STRAY, copy(name), main, owned or self.index == 0))
    if job.flags & RUN_WANTED:
        self.asked.pop(slot, None)
        self.redriven.pop(slot, None)
        self.strays.append((BRANCH_STRAY_RUN, copy(name), main, owned or self.index == 0))
    elif left_over(self, BRANCH_STRAY_RUN, name):
        self.strays.append((BRANCH_STRAY_RUN, copy(name), main, owned or self.index == 0))
    forget_history(self, slot, job, name, main, owned or self.index == 0)
    detach(self, job)
    release_schedule(self, job)
    release_route(self, job)
    if job.handle:
        self.wheel.c_disarm(job.handle)
        job.handle = 0
    job.flags &= HAS_LAST
    job.state = IDLE
    job.kind = KIND_ONCE
    job.main = 0
    self.jobs -= 1
    if job.counter_main == 0:
        job_remove(&self.table, slot)
    elif collect_counter:
        if owned and not self.loading:
            self.orphans.append(copy(name))
        else:
            widowed(self, name)
    return 0


cdef bint left_over(Engine self, int kind, slice_t name) except -1:
    # What a former job left, and was to go beside a later one, whose end fails that guard. No longer so.
    if not self.recreated:
        return False
    entry = (kind, copy(name))
    found = entry in self.recreated
    self.recreated.discard(entry)
    return found


cdef int widowed(Engine self, slice_t name) except -1:
    # Its owner may be dead, and nobody else would ever remove it.
    if len(self.widows) < WIDOWS_MAX:
        self.widows.add(copy(name))
    return 0


cdef int counter_put(Engine self, slice_t name, uint64_t main, slice_t record) except -1:
    cdef kv_t kv
    cdef counter_t counter
    cdef uint32_t slot
    cdef job_t* job
    if kv_parse(record, &kv) < 0 or counter_parse(kv.value, &counter) < 0:
        # Taken as a counter of no job: the job starts from zero and overwrites it.
        self.undecodable_total += 1
        self.note("undecodable counter", copy(name))
        memset(&counter, 0, sizeof(counter))
    slot = find_or_add(self, name)
    job = job_at(&self.table, slot)
    if job.counter_main >= main:
        return 0
    tell_counter(self, main, job, &counter, name)
    job.counter_main = main
    job.counter_partition_id = counter.partition_id
    job.count = counter.count
    job.attempts = counter.attempts
    job.flags = (job.flags & ~HAS_LAST) | (HAS_LAST if counter.has_last else 0)
    job.last_s = counter.last.s
    job.last_ns = counter.last.ns
    if self.loading and not job.flags & HAS_JOB:
        widowed(self, name)
    return counter_changed(self, slot)


cdef int counter_deleted(Engine self, slice_t name, uint64_t main) except -1:
    cdef uint32_t slot = find(self, name)
    cdef job_t* job
    if slot == JOB_NONE:
        return 0
    job = job_at(&self.table, slot)
    if job.counter_main == 0 or job.counter_main >= main:
        return 0
    job.counter_main = 0
    job.flags &= ~HAS_LAST
    job.count = job.attempts = 0
    if not job.flags & HAS_JOB:
        job_remove(&self.table, slot)
        if self.widows:
            self.widows.discard(copy(name))
        return 0
    return counter_changed(self, slot)


cdef int counter_changed(Engine self, uint32_t slot) except -1:
    # Also while a trigger is out: whoever changed the counter has gone on without it, as another replica does that owned the job for a
    # while; waiting for a worker that may never answer would hold back every tick since.
    return settle(self, slot) if job_at(&self.table, slot).flags & HAS_JOB else 0


cdef int remove_orphans(Engine self) except -1:
    # A job deleted without its counter, by hand: nothing else would ever remove the counter.
    cdef bytes name
    cdef uint32_t slot
    for name in self.orphans:
        slot = find(self, view(name))
        if slot != JOB_NONE and not job_at(&self.table, slot).flags & HAS_JOB:
            remove_counter(self, slot, view(name))
    self.orphans.clear()
    return 0


cdef int take_widows(Engine self) except -1:
    # Those of whom this replica is the owner now. Undecodable ones, of no partition, stay as they are (D11). The guards see to it that
    # the job is not there: a load reads its counters after its jobs.
    cdef bytes name
    cdef uint32_t slot
    cdef job_t* job
    for name in sorted(self.widows):
        slot = find(self, view(name))
        if slot == JOB_NONE or job_at(&self.table, slot).flags & HAS_JOB:
            self.widows.discard(name)
            continue
        job = job_at(&self.table, slot)
        if job.counter_partition_id and in_partition(self, job.counter_partition_id):
            remove_counter(self, slot, view(name))
    return 0


cdef int remove_counter(Engine self, uint32_t slot, slice_t name) except -1:
    cdef uint32_t run = run_new(&self.delivery.runs)
    cdef run_t* r
    if run == RUN_NONE:
        raise MemoryError
    r = run_at(&self.delivery.runs, run)
    r.counter_main = job_at(&self.table, slot).counter_main
    if run_set_name(r, name.data, name.size) < 0:
        raise MemoryError
    return append_branch(self, run, BRANCH_ORPHAN, NULL)


# -- load and ownership
