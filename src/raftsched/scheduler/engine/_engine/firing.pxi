# Due jobs, and their way to a stream.

cdef struct place_t:
    int64_t due
    int index


cdef int by_due(const void* left, const void* right) noexcept nogil:
    cdef const place_t* a = <const place_t*>left
    cdef const place_t* b = <const place_t*>right
    if a.due != b.due:
        return -1 if a.due < b.due else 1
    return a.index - b.index


cdef void oldest_first(place_t* order, const int64_t* due, int count) noexcept nogil:
    # The wheel hands out what was due before it was put there in the order in which it was put.
    cdef bint sorted_already = True
    cdef int i
    for i in range(count):
        order[i].due = due[i]
        order[i].index = i
        if i and due[i] < due[i - 1]:
            sorted_already = False
    if not sorted_already:
        qsort(order, count, sizeof(place_t), by_due)


cdef int fire(Engine self, uint32_t slot) except -1:
    cdef job_t* job = job_at(&self.table, slot)
    cdef instant_t tick, first
    cdef run_t* r
    cdef uint32_t run = job.run
    cdef bint extra = run_wanted(self, job)
    if not mine(self, job):
        return settle(self, slot)
    if extra:
        tick.s = self.now_ms // 1000
        tick.ns = <int32_t>(self.now_ms % 1000) * 1000000
    elif held(self, job) or next_wanted(self, slot, &tick) != 1 or (may_pass(self, job) and due_ms(self, tick.s, tick.ns) > self.now_ms):
        return settle(self, slot)
    if run == RUN_NONE:
        run = run_new(&self.delivery.runs)
        if run == RUN_NONE:
            raise MemoryError
        job.run = run
        r = run_at(&self.delivery.runs, run)
        r.job = slot
        r.planned_s = tick.s
        r.planned_ns = tick.ns
        r.extra = extra
    r = run_at(&self.delivery.runs, run)
    r.tick_s = tick.s
    r.tick_ns = tick.ns
    r.main = job.main
    r.counter_main = <uint64_t>self.asked[slot] if extra else job.counter_main
    r.route = job.route
    r.started_ms = self.now_ms
    r.sent_ms = 0
    r.waited_for = WAITED_FOR_NOBODY
    r.kind = (<Route>PyList_GET_ITEM(self.delivery.routes, job.route)).kind
    if not extra and may_pass(self, job) and next_tick(self, job, &first) == 1:
        note_passed(self, job, first, tick, r.kind)
    job.state = IN_FLIGHT
    return submit(self, run)


cdef int fire_canary(Engine self) except -1:
    # An orphan from the beginning: nothing is stored for it, and it goes when it has been sent.
    cdef uint32_t run = run_new(&self.delivery.runs)
    cdef run_t* r
    if run == RUN_NONE:
        raise MemoryError
    r = run_at(&self.delivery.runs, run)
    r.route = (<Route>PyList_GET_ITEM(self.canary.routes, 0)).index
    r.started_ms = self.now_ms
    if not self.delivery.enqueue(run, self.now_ms):
        collect(self, run)  # there is one in line that was not sent
    return 0


cdef int submit(Engine self, uint32_t run) except -1:
    # A run that is nowhere goes to a stream, to a gate, or to the staging of its route.
    cdef run_t* r = run_at(&self.delivery.runs, run)
    cdef Route route = <Route>PyList_GET_ITEM(self.delivery.routes, r.route)
    if held_back(self, job_at(&self.table, r.job), r):
        return settle(self, r.job)
    if not route.streams:
        self.undelivered[r.kind] += 1
        return park(self, run)
    if route.gated and not r.gated:
        return submit_gated(self, run, route)
    return queue_or_park(self, run)


cdef int queue_or_park(Engine self, uint32_t run) except -1:
    cdef run_t* r = run_at(&self.delivery.runs, run)
    if not self.delivery.enqueue(run, self.now_ms):
        return park(self, run)  # streams there are, but full: `requeue` when one has room
    job_at(&self.table, r.job).state = IN_FLIGHT
    return 0


cdef int park(Engine self, uint32_t run) except -1:
    cdef run_t* r = run_at(&self.delivery.runs, run)
    job_at(&self.table, r.job).state = STAGED
    r.waited_for = WAITED_FOR_WORKER
    self.delivery.stage(run)
    return 0


cdef int submit_gated(Engine self, uint32_t run, Route route) except -1:
    cdef run_t* r = run_at(&self.delivery.runs, run)
    cdef job_t* job = job_at(&self.table, r.job)
    cdef stored_job_t stored
    cdef metadata_t metadata
    cdef slice_t name
    cdef bytes record = self.read_record(job.main, job.sub)
    if not decode(record, &name, &stored) or metadata_parse(stored.metadata, &metadata) < 0:
        return record_missing(self, run)
    if run_set_name(r, name.data, name.size) < 0:
        raise MemoryError
    key = text(metadata.concurrency_key) if metadata.has_concurrency_key else None
    answer = self.gates.admit(run, route.target[0], route.target[1], key)
    if answer == 0:
        r.gated = True
        return queue_or_park(self, run)
    if answer == 1:
        r.place = PLACE_GATED
        r.waited_for = WAITED_FOR_GATE
        job.state = IN_FLIGHT
        return 0
    return result(self, run, 1, view(b"refused by a concurrency limit"))


cdef int release_gate(Engine self, uint32_t run) except -1:
    cdef run_t* r = run_at(&self.delivery.runs, run)
    if not r.gated:
        return 0
    r.gated = False
    let_go(self, self.gates.release(run))
    return 0


cdef int let_go(Engine self, list admitted) except -1:
    # Waiters that got their slots.
    cdef run_t* r
    cdef uint32_t run
    for run in admitted:
        r = run_at(&self.delivery.runs, run)
        r.place = PLACE_NONE
        r.gated = True
        if (<Route>PyList_GET_ITEM(self.delivery.routes, r.route)).streams:
            queue_or_park(self, run)
        else:
            self.undelivered[r.kind] += 1
            park(self, run)
            release_gate(self, run)
    return 0


cdef int requeue(Engine self, Route route) except -1:
    # Parked runs of a route, oldest first, as far as there is room.
    cdef uint32_t count = route.staged, run
    while count and route.streams:
        count -= 1
        run = route.staged_head
        self.delivery.unstage(run)
        submit(self, run)
        if run_at(&self.delivery.runs, run).place == PLACE_STAGED:
            break
    return 0


cdef int record_missing(Engine self, uint32_t run) except -1:
    # Between a deletion and its change the record may be gone already; otherwise it comes again, and is told.
    cdef run_t* r = run_at(&self.delivery.runs, run)
    cdef uint32_t slot = r.job
    cdef job_t* job = job_at(&self.table, slot)
    self.note("record not found", (<str>"%d.%d" % (job.main, job.sub)).encode())
    r.place = PLACE_NONE
    detach(self, job)
    return arm(self, slot, self.now_ms + MISSING_RECORD_RETRY_MS)


# -- streams


cdef int refresh_gated(Engine self) except -1:
    cdef Route route
    declared = self.gates.declared_types()
    if declared == self.declared:
        return 0  # streams come and go by the thousand, and there may be as many routes
    self.declared = declared
    for found in self.delivery.routes:
        if found is not None:
            route = found
            route.gated = route.target is not None and route.target in declared
    return 0


cdef uint32_t flush_stream(Engine self, StreamState stream, uint32_t budget) except? 0xffffffff:
    cdef uint32_t run, sent = 0
    cdef run_t* r
    cdef job_t* job
    cdef bytes message, record
    cdef object push = stream.push
    cdef list batch = []
    cdef Py_ssize_t batch_bytes = 0
    while sent < budget and stream.queue.count and stream.writable and stream.open:
        run = self.delivery.unqueue(stream)
        r = run_at(&self.delivery.runs, run)
        r.place = PLACE_NONE
        if r.job == JOB_NONE:
            release_gate(self, run)
            collect(self, run)
            if stream is self.canary:
                push(b"")
            continue
        job = job_at(&self.table, r.job)
        if not mine(self, job) or held_back(self, job, r) or not wants_now(self, run):
            release_gate(self, run)
            settle(self, r.job)  # it is another's, or paused, or too late meanwhile, and nothing was sent yet
            continue
        record = self.read_record(job.main, job.sub)
        message = encode_batched(self, record, stream.next_id, r, job) if stream.batched else encode(self, record, stream.next_id, r)
        if message is None:
            record_missing(self, run)
            continue
        if ids_put(&stream.ids, stream.next_id, run) < 0:
            raise MemoryError
        r.place = PLACE_SENT
        note_sent(self, r, stream)
        r.stream_id = stream.next_id
        stream.next_id += 1
        sent += 1
        if stream.batched:
            batch.append(message)
            batch_bytes += PyBytes_GET_SIZE(message)
            if batch_bytes < BATCH_BYTES:
                continue
            message = b"".join(batch)
            batch.clear()
            batch_bytes = 0
        if not push(message):
            stream.writable = False
    if batch and not push(b"".join(batch)):
        stream.writable = False
    return sent


cdef bytes encode(Engine self, bytes record, uint64_t id, run_t* r):
    # The stored record as WatchJobsResponse, or None; keeps the composed name for the result.
    cdef stored_job_t stored
    cdef metadata_t metadata
    cdef slice_t name
    cdef size_t prefix, route
    cdef bytes message
    if not decode(record, &name, &stored) or not stored.has_metadata or metadata_parse(stored.metadata, &metadata) < 0:
        return None
    prefix = prefix_match(name, &metadata, &route)
    if prefix == 0:
        return None
    if run_set_name(r, name.data, name.size) < 0:
        raise MemoryError
    name.data += prefix
    name.size -= prefix
    message = PyBytes_FromStringAndSize(NULL, trigger_size(name, id, &stored))
    trigger_put(<uint8_t*>PyBytes_AS_STRING(message), name, id, &stored)
    return message


cdef bytes encode_batched(Engine self, bytes record, uint64_t id, run_t* r, const job_t* job):
    # As `encode`, an element of WatchTriggersResponse. The id of the run is made of what every replica reads in the store.
    cdef batched_t trigger
    cdef stored_job_t stored
    cdef metadata_t metadata
    cdef char[96] tail
    cdef size_t prefix, route, size, tail_size
    cdef bytes message
    if (not decode(record, &trigger.composed, &stored) or not stored.has_metadata or metadata_parse(stored.metadata, &metadata) < 0
            or run_set_name(r, trigger.composed.data, trigger.composed.size) < 0):
        return None
    prefix = prefix_match(trigger.composed, &metadata, &route)
    if prefix == 0:
        return None
    trigger.name.data = trigger.composed.data + prefix
    trigger.name.size = trigger.composed.size - prefix
    trigger.metadata = &metadata
    trigger.job = &stored
    trigger.id = id
    trigger.asked = <uint64_t>self.asked.get(r.job, 0) if r.extra else 0
    trigger.tick.s = r.tick_s
    trigger.tick.ns = r.tick_ns
    trigger.attempt = r.tries if r.extra else job.attempts if counted(self, job) else 0
    tail_size = run_tail(&trigger, tail)
    size = batched_body_size(&trigger, tail_size)
    message = PyBytes_FromStringAndSize(NULL, pb_bytes_size(1, size))
    batched_put(<uint8_t*>PyBytes_AS_STRING(message), &trigger, tail, tail_size)
    return message
