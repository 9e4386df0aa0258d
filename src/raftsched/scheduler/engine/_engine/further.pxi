# What is stored with a result, in the branch of its entry and under its guards: done once with it, or not at all, however often the entry
# is sent. For jobs alone that want it (a bit of FURTHER in their `more`): others do not come here.
#
# Keys are under raftsched/ and of this job alone, at most BRANCH_FURTHER_MAX of them, none twice: etcd refuses what puts one key twice,
# and counts operations.

cdef int collect_further(Engine self, uint32_t run, int status) except -1:
    # Of a run that is about to be stored, with `retry` decided. Each feature adds what it keeps by `also_put` and `also_delete`.
    cdef run_t* r = run_at(&self.delivery.runs, run)
    cdef job_t* job = job_at(&self.table, r.job)
    if job.more & HISTORY and not r.retry:
        add_to_history(self, r, job, status)
    if status == 1:
        if job.more & DEAD_LETTERS and not r.retry:
            keep_dead_letter(self, r, job)
    else:
        redriven = letter_of(self, r)
        if redriven is not None:
            also_delete(self, dead_key(r.name[:r.name_size], redriven))
    return 0


cdef object letter_of(Engine self, const run_t* r):
    # The run, in the key of its letter, that this one is instead of; None: there is none. A job that was put after the request for the run
    # is not the one whose letter was asked for.
    return self.redriven.get(r.job) if r.extra and r.main < r.counter_main else None


cdef int set_further(Engine self, uint32_t slot, job_t* job, slice_t extra) except -1:
    # By the JobExtra, empty if there is none.
    cdef bint wanted = has_flag(extra, 6)
    job.more = (job.more & ~DEAD_LETTERS) | (DEAD_LETTERS if wanted else 0)
    return 0


cdef bint has_flag(slice_t value, uint32_t number) noexcept:
    cdef pb_in source = pb_open(value)
    cdef pb_field f
    cdef bint found = False
    cdef int got = pb_next(&source, &f)
    while got == 1:
        if f.number == number and f.type == PB_VARINT:
            found = f.value != 0
        got = pb_next(&source, &f)
    return found and got == 0


cdef int keep_dead_letter(Engine self, const run_t* r, const job_t* job) except -1:
    # A redriven run keeps the place of its letter. A record that cannot be read leaves its payload behind.
    cdef stored_job_t stored
    cdef slice_t name
    cdef bytes composed = r.name[:r.name_size], record = self.read_record(job.main, job.sub), key
    at_ms, tick, asked, partition_id, attempt, error = self.errors[r.job]
    key = dead_key(composed, letter_of(self, r) or dead_run(tick, asked, partition_id))
    payload = metadata = failure_policy = None
    if decode(record, &name, &stored):
        metadata = copy(stored.metadata) if stored.metadata.size <= DEAD_PAYLOAD_BYTES else of_whom(stored.metadata)
        payload = copy(stored.payload) if stored.has_payload and stored.payload.size <= DEAD_PAYLOAD_BYTES else None
        failure_policy = copy(stored.policy) if stored.has_policy and stored.policy.size <= DEAD_PAYLOAD_BYTES else None
    omitted = payload is None and (metadata is None or stored.has_payload)
    also_put(self, key, dead_letter(tick, at_ms, attempt + 1, error, run_id(composed, tick, asked, partition_id, attempt), job.main,
                                    metadata, payload, omitted, failure_policy))
    self.dead[r.kind] += 1
    self.dead_namespaces.add((<Route>PyList_GET_ITEM(self.delivery.routes, r.route)).name_space)
    return 0


cdef bytes of_whom(slice_t metadata):
    # JobMetadata without its concurrency key, which may be as long as a request, and without fields that nobody knows: with them a letter
    # could be what an etcd takes no more, and the commit with it would stand in the way of all others.
    cdef pb_in source = pb_open(metadata)
    cdef pb_field f
    cdef list parts = []
    while pb_next(&source, &f) == 1:
        if f.number <= 3 and f.type == PB_BYTES:
            parts.append(field(f.number, copy(f.body)))
    return b"".join(parts)


cdef int also_put(Engine self, bytes key, bytes value) except -1:
    cdef uint8_t* room = pb_reserve(&self.further, put_op_size(PyBytes_GET_SIZE(key), PyBytes_GET_SIZE(value)))
    if room == NULL:
        raise MemoryError
    self.further.size += put_op_put(room, view(key), view(value)) - room
    return 0


cdef int also_delete(Engine self, bytes key) except -1:
    cdef uint8_t* room = pb_reserve(&self.further, drop_op_size(PyBytes_GET_SIZE(key)))
    if room == NULL:
        raise MemoryError
    self.further.size += drop_op_put(room, view(key)) - room
    return 0


cdef int also_delete_range(Engine self, bytes key, bytes end) except -1:
    cdef uint8_t* room = pb_reserve(&self.further, drop_range_op_size(PyBytes_GET_SIZE(key), PyBytes_GET_SIZE(end)))
    if room == NULL:
        raise MemoryError
    self.further.size += drop_range_op_put(room, view(key), view(end)) - room
    return 0
