# Reading: records wherever they lie, ranges with all their options, and the bodies of their answers.

cdef inline void count_range(MvccStore store) noexcept:
    store.ranges += 1
    store.phase += 1


cdef inline void end_phase(MvccStore store) noexcept:
    """etcd counts as a transaction whatever did more than one operation on its view of the store."""
    if store.phase > 1:
        store.txns += 1
    store.phase = 0


cdef inline wire_span span_of(bytes data) noexcept:
    cdef wire_span span
    span.data = <const uint8_t*> PyBytes_AS_STRING(data)
    span.length = <size_t> PyBytes_GET_SIZE(data)
    return span


cdef inline bytes bytes_of(const uint8_t* data, size_t length):
    return PyBytes_FromStringAndSize(<const char*> data, <Py_ssize_t> length)


cdef bytes key_bytes(MvccStore store, const entry_t* entry):
    cdef bytes key = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> core_key_length(&store.core, entry))
    core_key_copy(&store.core, entry, <uint8_t*> PyBytes_AS_STRING(key))
    return key


cdef inline const record_t* pending_record(MvccStore store, uint64_t main, uint32_t sub, bint* pending) noexcept:
    """A record of the two generations; `pending` tells whether it would have to be there."""
    pending[0] = True
    if store.filling.count and main >= store.filling.records[0].main:
        return store.filling.find(main, sub)
    if store.committing is not None and store.committing.count and main >= store.committing.records[0].main:
        return store.committing.find(main, sub)
    pending[0] = False
    return NULL


cdef int fetch(MvccStore store, uint64_t main, uint32_t sub, record_t* out) except -1:
    """The record of a put that the index knows; FatalError when the source lost it or cannot read."""
    cdef bint pending
    cdef const record_t* found = pending_record(store, main, sub, &pending)
    cdef int status = 0
    if found != NULL:
        out[0] = found[0]
        return 0
    if not pending:
        status = store.source.get(main, sub, False, out)
        if status == 0:
            return 0
    if status < 0:
        raise FatalError(store.source.error() or f"the record ({main}, {sub}) cannot be read")
    raise CorruptError(f"the record ({main}, {sub}) is in the index and nowhere else")


cdef int fetch_item(MvccStore store, item_t* item) except -1:
    cdef record_t record
    if item.data == NULL:
        fetch(store, item.main, item.sub, &record)
        item.data = record.value
        item.length = record.length
    return 0


cdef int parse_item(MvccStore store, item_t* item) except -1:
    """Fills what only the record knows."""
    cdef key_value parsed
    cdef wire_span message
    fetch_item(store, item)
    message.data = item.data
    message.length = item.length
    if key_value_parse(message, &parsed):
        raise CorruptError(f"the record ({item.main}, {item.sub}) is no KeyValue")
    item.create = <uint64_t> parsed.create
    item.version = <uint64_t> parsed.version
    item.lease = parsed.lease
    item.value = parsed.value.data
    item.value_length = parsed.value.length
    return 0


cdef int add_item(MvccStore store, uint32_t handle, const entry_t* entry, const version_at* version) except -1:
    cdef item_t* item = items_add(&store.found)
    if item == NULL:
        raise MemoryError
    item.handle = handle
    item.main = version.main
    item.sub = version.sub
    item.latest = version.latest
    item.data = NULL
    item.value = NULL
    item.value_length = 0
    if version.latest:
        item.create = entry.create
        item.version = entry.version
        item.lease = entry.lease
    return 0


cdef int collect_entry(
    MvccStore store, uint32_t handle, int64_t revision, uint64_t items_max, int64_t* count
) except -1:
    cdef const entry_t* entry = core_entry(&store.core, handle)
    cdef version_at version = entry_version_at(entry, <uint64_t> revision)
    if version.exists and not version.tombstone:
        count[0] += 1
        if store.found.count < items_max:
            add_item(store, handle, entry, &version)
    return 0


cdef int collect(
    MvccStore store, wire_span key, wire_span end, int64_t revision, uint64_t items_max, int64_t* count, size_t keys_max=SIZE_MAX
) except -1:
    """Finds the live keys of a range at `revision`: all are counted, the first `items_max` put into store.found. LARGE: looks at no more
    than `keys_max`, and there are more."""
    cdef index_walk walk
    cdef uint32_t handle
    store.found.count = 0
    count[0] = 0
    if end.length == 0:
        handle = core_find(&store.core, key)
        if handle:
            collect_entry(store, handle, revision, items_max, count)
        return 0
    core_walk_from(&store.core, key, end, &walk)
    handle = core_walk_next(&store.core, &walk)
    while handle:
        if keys_max == 0:
            return LARGE
        keys_max -= 1
        collect_entry(store, handle, revision, items_max, count)
        handle = core_walk_next(&store.core, &walk)
    return 0


cdef struct range_answer:
    int64_t count
    bint more
    bint stripped      # keys_only: written from the index, not copied


cdef int range_find(MvccStore store, const range_request* request, int64_t current, size_t keys_max, range_answer* out) except -1:
    """An EtcdError number; 0: store.found holds what to send; LARGE: there are more than `keys_max` keys to be looked at."""
    cdef int64_t revision = request.revision
    cdef uint64_t items_max = UINT64_MAX
    cdef bint filters = request.min_mod or request.max_mod or request.min_create or request.max_create
    cdef bint custom = filters or (request.order != ORDER_NONE and not (request.order == ORDER_ASCEND and request.target == TARGET_KEY))
    out.more = False
    out.stripped = request.keys_only
    if revision > current:
        return FUTURE_REVISION
    if revision <= 0:
        revision = current
    if revision < store.compacted:
        return COMPACTED
    if request.count_only:
        items_max = 0
    elif request.limit > 0 and not custom:
        items_max = <uint64_t> request.limit + 1
    if collect(store, request.key, request.end, revision, items_max, &out.count, keys_max):
        return LARGE
    if store.found.count:
        range_arrange(store, request, filters)
    if request.limit > 0 and store.found.count > <uint64_t> request.limit:
        store.found.count = <size_t> request.limit
        out.more = True
    range_fetch(store, request)
    return 0


cdef int range_arrange(MvccStore store, const range_request* request, bint filters) except -1:
    """Filters and sorts. etcd's quirk: a target other than KEY without an order sorts ascending, after the limit's cut."""
    cdef size_t i
    cdef item_t* item
    if filters or request.keys_only or request.target != TARGET_KEY:
        for i in range(store.found.count):
            item = &store.found.item[i]
            if not item.latest or request.target == TARGET_VALUE:
                parse_item(store, item)
    if filters:
        items_filter(&store.found, request)
    if request.order == ORDER_DESCEND or request.target != TARGET_KEY:
        if items_sort(&store.found, request.target, request.order == ORDER_DESCEND):
            raise MemoryError
    return 0


cdef int range_fetch(MvccStore store, const range_request* request) except -1:
    cdef size_t i
    if not request.keys_only:
        for i in range(store.found.count):
            fetch_item(store, &store.found.item[i])
    elif request.target != TARGET_VALUE:
        for i in range(store.found.count):
            store.found.item[i].lease = 0   # since 3.7.0 etcd serves keys_only from its index, which knows no lease
    return 0


cdef size_t range_size(MvccStore store, const range_answer* answer) noexcept:
    cdef size_t size = items_size(&store.core, &store.found, answer.stripped) + wire_int_size(<uint64_t> answer.count)
    return size + 2 if answer.more else size


cdef uint8_t* range_write(MvccStore store, const range_answer* answer, uint8_t* at) noexcept:
    at = items_write(&store.core, &store.found, 0x12, answer.stripped, at)
    at = wire_put_int(at, 0x18, answer.more)
    return wire_put_int(at, 0x20, <uint64_t> answer.count)


cdef tuple range_result(MvccStore store, bytes request):
    cdef range_request parsed
    cdef range_answer answer
    if range_parse(span_of(request), &parsed):
        return (CHECK_MALFORMED, store.head, b"")
    store.ranges += 1
    return range_answered(store, range_find(store, &parsed, store.head, SIZE_MAX, &answer), &answer)


cdef tuple range_answered(MvccStore store, int error, const range_answer* answer):
    """What range_find found."""
    cdef bytes body
    if error:
        return (error, store.head, b"")
    body = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> range_size(store, answer))
    range_write(store, answer, <uint8_t*> PyBytes_AS_STRING(body))
    shrink_found(store)
    return (0, store.head, body)


cdef void shrink_found(MvccStore store) noexcept:
    """Gives back the scratch of an unusually large range."""
    if store.found.count > FOUND_KEPT_MAX:
        items_free(&store.found)
