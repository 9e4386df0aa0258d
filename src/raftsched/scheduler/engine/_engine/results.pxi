# What workers answer, and what becomes of it in the store.

cdef int answered(Engine self, StreamState stream, uint64_t id, int status, slice_t error) except -1:
    cdef uint32_t run = ids_take(&stream.ids, id)
    if run == RUN_NONE:
        self.unknown_acks_total += 1
        self.note("unknown trigger id", b"%d" % id)
        return 0
    run_at(&self.delivery.runs, run).place = PLACE_NONE
    return result(self, run, status, error)


cdef int batched_acks(Engine self, StreamState stream, slice_t message) except? -1:
    # -1: it is malformed, or something else; what came before that counts.
    cdef pb_in acks
    cdef uint64_t id
    cdef int failed, got
    cdef slice_t error
    if acks_open(message, &acks) < 0:
        return -1
    got = ack_next(&acks, &id, &failed, &error)
    while got == 1:
        answered(self, stream, id, failed, error)
        got = ack_next(&acks, &id, &failed, &error)
    return got


cdef int result(Engine self, uint32_t run, int status, slice_t error) except -1:
    # SUCCESS 0 or FAILED 1, and why, of a run that is nowhere now.
    cdef run_t* r = run_at(&self.delivery.runs, run)
    cdef uint32_t slot = r.job
    cdef job_t* job
    cdef job_t later
    cdef counter_t counter
    cdef instant_t tick
    cdef bint retry = False
    cdef int64_t due = due_ms(self, r.planned_s, r.planned_ns)
    count_result(self, r, status)
    if r.sent_ms:
        lateness_add(&self.steps.sent_to_acknowledged[r.kind], self.now_ms - r.sent_ms)
    if r.gated:
        release_gate(self, run)
    if slot == JOB_NONE:
        collect(self, run)
        return 0
    job = job_at(&self.table, slot)
    if status == 1:
        remember_error(self, r, job, error)
    if r.extra:
        return extra_result(self, run, status, due)
    counter_of(self, job, &counter)
    if status == 1:
        retry = plan_retry(self, r, job, counter.attempts + 1)
    r.retry = retry
    if retry:
        counter.attempts += 1
    else:
        counter.count += 1
        counter.attempts = 0
        counter.has_last = True
        counter.last.s = r.tick_s
        counter.last.ns = r.tick_ns
    later = job[0]
    later.counter_main = 1
    later.counter_partition_id = later.partition_id
    later.count = counter.count
    later.last_s = counter.last.s
    later.last_ns = counter.last.ns
    later.flags = (later.flags & ~HAS_LAST) | (HAS_LAST if counter.has_last else 0)
    job.state = COMMITTING
    if job.more & FURTHER:
        collect_further(self, run, status)
    return append_branch(self, run, BRANCH_FINISH if next_tick(self, &later, &tick) == 0 else BRANCH_COUNTER, &counter, due)


cdef int extra_result(Engine self, uint32_t run, int status, int64_t due) except -1:
    # Of a run that somebody asked for: the failure policy holds, but what is tried again is not written down.
    cdef run_t* r = run_at(&self.delivery.runs, run)
    cdef job_t* job = job_at(&self.table, r.job)
    r.tries += 1
    r.retry = status == 1 and plan_retry(self, r, job, r.tries)
    if r.retry:
        return arm(self, r.job, due_ms(self, r.planned_s, r.planned_ns))
    job.state = COMMITTING
    if job.more & FURTHER or self.redriven:
        collect_further(self, run, status)
    return append_branch(self, run, BRANCH_RAN, NULL, due)


cdef void counter_of(Engine self, const job_t* job, counter_t* counter) noexcept:
    # The job's counter as it stands; zero if there is none of this partition id.
    memset(counter, 0, sizeof(counter_t))
    counter.partition_id = job.partition_id
    if counted(self, job):
        counter.count = job.count
        counter.attempts = job.attempts
        counter.has_last = job.flags & HAS_LAST != 0
        if counter.has_last:
            counter.last.s = job.last_s
            counter.last.ns = job.last_ns


cdef bint plan_retry(Engine self, run_t* r, const job_t* job, uint32_t attempts) except -1:
    # True: the same tick again, at the previous planned time + interval (spec §5.4). The policy stays on disk.
    cdef policy_t policy
    cdef stored_job_t stored
    cdef slice_t name
    cdef int64_t ns
    cdef bytes record
    if job.more & LADDER:
        return climb(self, r, job, attempts)
    record = self.read_record(job.main, job.sub)
    if not decode(record, &name, &stored) or (stored.has_policy and policy_parse(stored.policy, &policy) < 0):
        policy.kind = POLICY_CONSTANT
        policy.has_max = True
        policy.max_retries = 3
        policy.interval_ns = NS
    elif not stored.has_policy or policy.kind == POLICY_UNSET:
        return False  # only what others wrote has no policy, and Dapr drops it
    if policy.kind == POLICY_DROP or (policy.has_max and policy.max_retries < attempts):
        return False
    if policy.interval_ns > 0:
        ns = r.planned_ns + policy.interval_ns % NS
        r.planned_s += policy.interval_ns // NS + ns // NS
        r.planned_ns = <int32_t>(ns % NS)
    return True


cdef void count_result(Engine self, const run_t* r, int status) noexcept:
    cdef int64_t elapsed = max(0, self.now_ms - r.started_ms)
    cdef int bucket = 0
    if status == 0:
        self.succeeded[r.kind] += 1
    else:
        self.failed[r.kind] += 1
    while bucket < LATENCY_BOUNDS and elapsed > LATENCY_MS[bucket]:
        bucket += 1
    self.latency[r.kind][bucket] += 1
    self.latency_sum_ms[r.kind] += elapsed


# -- commits


cdef int append_branch(Engine self, uint32_t run, int kind, const counter_t* counter, int64_t due=-1) except -1:
    # With what is in `further`. Branches of one name are in one transaction only if none of them puts. `due`: of the trigger that this is
    # the result of; -1 = of none.
    cdef run_t* r = run_at(&self.delivery.runs, run)
    cdef slice_t name, further
    cdef uint8_t* room
    cdef bint puts = kind == BRANCH_COUNTER or self.further.size > 0
    name.data = <const uint8_t*>r.name
    name.size = r.name_size
    further.data = self.further.data
    further.size = self.further.size
    if self.token_count and self.branches.size + branch_size_max(name.size) + further.size > BYTES_PER_COMMIT:
        seal(self)
    if batch_add(&self.names, name_hash(self, r, name), puts):
        seal(self)
        batch_add(&self.names, name_hash(self, r, name), puts)
    room = pb_reserve(&self.branches, branch_size_max(name.size) + further.size)
    if room == NULL:
        raise MemoryError
    self.branches.size += branch_put(room, kind, name, r.main, r.counter_main, counter, further) - room
    self.further.size = 0
    self.tokens[self.token_count].run = run
    self.tokens[self.token_count].seq = r.seq
    self.tokens[self.token_count].due_ms = due
    self.tokens[self.token_count].acknowledged_ms = self.now_ms if due >= 0 and r.sent_ms else 0
    self.token_count += 1
    r.pending += 1
    self.results_pending += 1
    if self.token_count == self.branches_max:
        seal(self)
    return 0


cdef inline uint64_t name_hash(Engine self, const run_t* r, slice_t name) noexcept:
    cdef uint64_t low = 0, high = 0
    if r.job != JOB_NONE:
        return job_at(&self.table, r.job).hash_low
    job_hash(self.table.key, name.data, name.size, &low, &high)
    return low


cdef int seal(Engine self) except -1:
    cdef Commit commit = Commit()
    commit.request = PyBytes_FromStringAndSize(<const char*>self.branches.data, self.branches.size)
    commit.count = self.token_count
    commit.tokens = <token_t*>malloc(self.token_count * sizeof(token_t))
    if commit.tokens == NULL:
        raise MemoryError
    memcpy(commit.tokens, self.tokens, self.token_count * sizeof(token_t))
    self.commits.append(commit)
    self.branches.size = 0
    self.token_count = 0
    batch_next(&self.names)
    return 0
