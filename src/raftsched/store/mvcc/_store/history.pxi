# What is older than the latest: compaction and its scrub, reading changes by revision, the hash, and the load at start.

cdef int scan_all(MvccStore store, uint64_t from_main, uint64_t to_main, scan_fn callback, void* context) except? -1:
    """All records of [from_main, to_main] in order, from the source and both generations, each once.

    While a commit is being taken over the source may already show the committing records: it is read up to them only.
    """
    cdef uint64_t source_to = to_main, committing_to = to_main
    cdef int status = 0
    cdef bint committing = store.committing is not None and store.committing.count
    if store.filling.count and store.filling.records[0].main <= to_main:
        source_to = committing_to = store.filling.records[0].main - 1
    if committing and store.committing.records[0].main <= source_to:
        source_to = store.committing.records[0].main - 1
    if from_main <= source_to:
        status = store.source.scan(from_main, source_to, callback, context)
        if status == -1:
            raise FatalError(store.source.error() or "the records cannot be read")
    if not status and committing and from_main <= committing_to:
        status = store.committing.scan(from_main, committing_to, callback, context)
    if not status:
        status = store.filling.scan(from_main, to_main, callback, context)
    return status


# -- compaction ------------------------------------------------------------------------------------------------------

cdef bint name_older(MvccStore store, uint32_t handle, entry_t* entry, uint32_t count, size_t names_max, list dropped) except -1:
    """Names the next of the oldest `count` revisions; True when all are named, and dropped from the index.

    A key may have a million: they are named over many slices and dropped in one go, because dropping moves what stays. Meanwhile the
    index has revisions that the backend may not have; they are compacted, so nobody reads them. A key that another one came in between
    begins anew: to delete a record twice is no error.
    """
    cdef uint32_t i, begin = store.core.named if handle == store.core.named_handle else 0
    cdef uint32_t end = <uint32_t> min(<size_t> count, begin + names_max)
    for i in range(begin, end):
        dropped.append((entry.older.item[i].main, <uint32_t> entry.older.item[i].sub, bool(entry.older.item[i].tombstone)))
    store.core.named_handle, store.core.named = handle, end
    if end < count:
        return False
    store.core.named = 0
    core_drop_older(&store.core, entry, count)
    return True


cdef bint scrub_entry(MvccStore store, size_t position, size_t names_max, list dropped) except -1:
    """False: there is more of this key to name."""
    cdef uint32_t handle = store.core.dirty[position]
    cdef entry_t* entry = core_entry(&store.core, handle)
    cdef int everything = 0
    cdef uint32_t count = entry_compactable(entry, <uint64_t> store.compacted, &everything)
    if count and not name_older(store, handle, entry, count, names_max, dropped):
        return False
    if everything:
        dropped.append((entry.main, entry.sub, True))
        if core_drop_entry(&store.core, handle):
            raise MemoryError
        core_clean(&store.core, position)
    elif entry.older == NULL and not entry.dead:
        entry.dirty = 0
        core_clean(&store.core, position)
    return True


# -- changes by revision ---------------------------------------------------------------------------------------------

cdef struct history_context:
    void* changes
    int64_t revisions_left
    int64_t bytes_left
    uint64_t main
    uint64_t next
    int failed


cdef int take_record(void* raw, const record_t* record) noexcept nogil:
    cdef history_context* context = <history_context*> raw
    if record.main != context.main:
        if context.revisions_left == 0 or context.bytes_left <= 0:
            context.next = record.main
            return 1
        context.revisions_left -= 1
        context.main = record.main
    context.bytes_left -= record.length
    with gil:
        try:
            (<list> context.changes).append(change_of(record))
        except BaseException:
            context.failed = 1
            return 1
    return 0


# -- the hash --------------------------------------------------------------------------------------------------------

cdef int hash_one(void* plan, const record_t* record) noexcept nogil:
    hash_record(<hash_plan*> plan, record.main, record.sub, record.tombstone, record.value, record.length)
    return 0


cdef struct scan_job_t:   # what Backend.start_scan takes
    scan_fn callback
    void* context


cdef class HashPlan:
    cdef hash_plan plan
    cdef scan_job_t scan
    cdef MvccStore store

    def __cinit__(self, MvccStore store not None, int64_t revision):
        hash_plan_begin(&self.plan, revision, store.compacted)
        self.store = store
        self.scan.callback = hash_one
        self.scan.context = &self.plan

    def __dealloc__(self):
        hash_plan_free(&self.plan)

    def step(self, size_t keys_max):
        cdef int status = hash_plan_step(&self.plan, &self.store.core, keys_max)
        if status < 0:
            raise MemoryError
        return status == 1

    def job(self):
        """The capsule keeps the plan alive: it may outlive who asked for the hash."""
        capsule = PyCapsule_New(&self.scan, "raftsched.scan_job", drop_plan)
        PyCapsule_SetContext(capsule, <void*> self)
        Py_INCREF(self)
        return capsule

    @property
    def crc(self):
        return self.plan.crc

    @property
    def compact_revision(self):
        return self.plan.compact_revision


cdef void drop_plan(object capsule) noexcept:
    Py_DECREF(<object> PyCapsule_GetContext(capsule))


# -- start -----------------------------------------------------------------------------------------------------------

cdef struct load_context:
    load_t load
    int error


cdef int load_one(void* raw, const record_t* record) noexcept nogil:
    cdef load_context* context = <load_context*> raw
    context.error = load_record(&context.load, record.main, record.sub, record.tombstone, record.value, record.length)
    return 1 if context.error else 0


cdef list load_all(MvccStore store, load_context* context, int64_t revision_hint, int64_t compact_revision):
    cdef int status
    with nogil:
        status = store.source.scan(0, UINT64_MAX, load_one, context)
        if status == 0:
            context.error = load_finish(&context.load)
    if context.error == -2:
        raise CorruptError(f"the record ({context.load.main}, {context.load.sub}) is no KeyValue")
    if context.error:
        raise MemoryError
    if status:
        raise FatalError(store.source.error() or "the records cannot be read")
    store.compacted = compact_revision
    store.head = max(<int64_t> context.load.main, revision_hint, compact_revision, 1)
    if compact_revision > 0:
        core_begin_scrub(&store.core, <uint64_t> compact_revision)
    return attached_keys(store, &context.load)


cdef list attached_keys(MvccStore store, const load_t* load):
    """(lease, key) of every live key with a lease, in key order."""
    cdef size_t i
    cdef entry_t* entry
    attached = []
    for i in range(load.handle_count):
        entry = core_entry(&store.core, load.handle[i])
        attached.append((entry.lease, key_bytes(store, entry)))
    return attached
