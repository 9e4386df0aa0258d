# A range over more keys, or more bytes, than one turn of the loop is for: found and written slice by slice, as of one revision.

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject** data, Py_ssize_t length) except -1


cdef enum:
    TAIL_BYTES_MAX = 16  # `more` and `count` behind the keys


cdef class RangePlan:
    cdef MvccStore store
    cdef bytes request          # what `parsed` points into
    cdef range_request parsed
    cdef int64_t at             # the revision that is read
    cdef readonly int64_t revision
    cdef int64_t count
    cdef uint64_t wanted        # keys still to be sent
    cdef bint more
    cdef bytes next             # the key to go on at
    cdef PyObject* body         # grown in place: nobody else has it
    cdef Py_ssize_t length

    def __dealloc__(self):
        Py_XDECREF(self.body)

    def step(self, size_t keys_max, size_t bytes_max):
        cdef MvccStore store = self.store
        cdef index_walk walk
        cdef uint32_t handle
        cdef size_t size = 0
        if self.at < store.compacted:
            return (COMPACTED, store.head, b"")
        store.found.count = 0
        core_walk_from(&store.core, span_of(self.next), self.parsed.end, &walk)
        handle = core_walk_next(&store.core, &walk)
        while handle and keys_max and size < bytes_max:
            keys_max -= 1
            size += plan_take(self, handle)
            handle = core_walk_next(&store.core, &walk)
        plan_write(self)
        if handle:
            self.next = key_bytes(store, core_entry(&store.core, handle))
            return None
        shrink_found(store)
        return (0, self.revision, plan_end(self))


cdef RangePlan plan_of(MvccStore store, bytes request, const range_request* parsed):
    cdef RangePlan plan = RangePlan.__new__(RangePlan)
    cdef object body = PyBytes_FromStringAndSize(NULL, TAIL_BYTES_MAX)
    plan.store, plan.request, plan.parsed = store, request, parsed[0]
    plan.revision = store.head
    plan.at = parsed.revision if parsed.revision > 0 else store.head
    plan.wanted = 0 if parsed.count_only else <uint64_t> parsed.limit if parsed.limit > 0 else UINT64_MAX
    plan.next = bytes_of(parsed.key.data, parsed.key.length)
    Py_INCREF(body)
    plan.body = <PyObject*> body
    return plan


cdef bint may_be_sliced(const range_request* request) noexcept:
    """What is sorted or filtered is not: it is there only once all of it is there."""
    return (
        request.end.length != 0
        and request.target == TARGET_KEY
        and (request.order == ORDER_NONE or request.order == ORDER_ASCEND)
        and not (request.min_mod or request.max_mod or request.min_create or request.max_create)
    )


cdef size_t plan_take(RangePlan plan, uint32_t handle) except? 0xFFFFFFFF:
    """Counts a key, and finds it if it is wanted; the bytes that it adds."""
    cdef MvccStore store = plan.store
    cdef const entry_t* entry = core_entry(&store.core, handle)
    cdef version_at version = entry_version_at(entry, <uint64_t> plan.at)
    cdef item_t* item
    if not version.exists or version.tombstone:
        return 0
    plan.count += 1
    if not plan.wanted:
        plan.more = not plan.parsed.count_only
        return 0
    plan.wanted -= 1
    add_item(store, handle, entry, &version)
    item = &store.found.item[store.found.count - 1]
    if not plan.parsed.keys_only:
        fetch_item(store, item)
        return item.length
    if not item.latest:
        parse_item(store, item)
    item.lease = 0  # as in range_fetch
    return core_key_length(&store.core, entry)


cdef int plan_write(RangePlan plan) except -1:
    """What was found, behind what is written."""
    cdef MvccStore store = plan.store
    cdef Py_ssize_t wanted = plan.length + <Py_ssize_t> items_size(&store.core, &store.found, plan.parsed.keys_only) + TAIL_BYTES_MAX
    cdef Py_ssize_t room = PyBytes_GET_SIZE(<object> plan.body)
    if wanted > room:
        _PyBytes_Resize(&plan.body, max(wanted, room + room // 2))
    cdef uint8_t* begin = <uint8_t*> PyBytes_AS_STRING(<object> plan.body)
    plan.length = items_write(&store.core, &store.found, 0x12, plan.parsed.keys_only, begin + plan.length) - begin
    return 0


cdef bytes plan_end(RangePlan plan):
    cdef uint8_t* begin = <uint8_t*> PyBytes_AS_STRING(<object> plan.body)
    cdef uint8_t* at = wire_put_int(begin + plan.length, 0x18, plan.more)
    cdef object body
    plan.length = wire_put_int(at, 0x20, <uint64_t> plan.count) - begin
    _PyBytes_Resize(&plan.body, plan.length)
    body = <object> plan.body
    Py_XDECREF(plan.body)
    plan.body = NULL
    return body


cdef object range_slice(MvccStore store, bytes request, size_t keys_max, Py_ssize_t bytes_max):
    """A Result, or a RangePlan of what is larger than that."""
    cdef range_request parsed
    cdef range_answer answer
    cdef int error
    if range_parse(span_of(request), &parsed):
        return (CHECK_MALFORMED, store.head, b"")
    store.ranges += 1
    error = range_find(store, &parsed, store.head, keys_max if may_be_sliced(&parsed) else SIZE_MAX, &answer)
    if error == LARGE or (not error and may_be_sliced(&parsed) and <Py_ssize_t> range_size(store, &answer) > bytes_max):
        return plan_of(store, request, &parsed)
    return range_answered(store, error, &answer)
