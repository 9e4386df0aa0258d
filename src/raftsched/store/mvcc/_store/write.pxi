# Writing: one record per change into the filling generation, the index beside it, leases and changes after it.

cdef int note_change(MvccStore store, uint64_t main, uint32_t sub, bint tombstone, const uint8_t* value, uint32_t length) except -1:
    cdef size_t capacity
    cdef record_t* changed
    if store.changed_count == store.changed_capacity:
        capacity = store.changed_capacity * 2 if store.changed_capacity else 256
        changed = <record_t*> realloc(store.changed, capacity * sizeof(record_t))
        if changed == NULL:
            raise MemoryError
        store.changed = changed
        store.changed_capacity = capacity
    changed = &store.changed[store.changed_count]
    store.changed_count += 1
    changed.main = main
    changed.sub = sub
    changed.tombstone = tombstone
    changed.value = value
    changed.length = length
    return 0


cdef uint8_t* reserve(MvccStore store, bint tombstone, size_t length) except NULL:
    cdef uint8_t* room
    if length > RECORD_BYTES_MAX:
        raise MemoryError
    room = store.filling.reserve(<uint64_t> store.head + 1, store.next_sub, tombstone, <uint32_t> length)
    if room == NULL:
        raise MemoryError
    return room


cdef int write_put(MvccStore store, wire_span key, wire_span value, int64_t lease) except -1:
    """Stores a put at (head + 1, next_sub). `value` may point into any record."""
    cdef int fresh
    cdef uint32_t handle = core_add(&store.core, key, &fresh)
    cdef entry_t* entry
    cdef uint64_t main = <uint64_t> store.head + 1, create = main, version = 1
    cdef int64_t lease_before = 0
    cdef size_t length
    cdef uint8_t* room
    if not handle:
        raise MemoryError
    entry = core_entry(&store.core, handle)
    if not fresh and not entry.dead:
        create = entry.create
        version = entry.version + 1
        lease_before = entry.lease
    length = key_value_size(key.length, create, main, version, value.length, lease)
    room = reserve(store, False, length)
    key_value_write(room, key, create, main, version, value, lease)
    if core_put(&store.core, handle, fresh, main, store.next_sub, create, version, lease):
        raise MemoryError
    if store.watching:
        note_change(store, main, store.next_sub, False, room, <uint32_t> length)
    store.next_sub += 1
    store.puts += 1
    store.phase += 1
    store.put_bytes += key.length + value.length
    if lease_before != lease:
        move_lease(store, lease_before, lease, bytes_of(key.data, key.length))
    return 0


cdef int move_lease(MvccStore store, int64_t before, int64_t after, bytes key) except -1:
    if before:
        store.leases.detach(before, key)
    if after:
        store.leases.attach(after, key)
    return 0


cdef int write_delete(MvccStore store, uint32_t handle) except -1:
    """Stores a tombstone for a live key at (head + 1, next_sub)."""
    cdef entry_t* entry = core_entry(&store.core, handle)
    cdef size_t key_length = core_key_length(&store.core, entry)
    cdef size_t length = wire_bytes_size(key_length)
    cdef int64_t lease = entry.lease
    cdef uint8_t* room = reserve(store, True, length)
    core_key_copy(&store.core, entry, wire_put_length(room, 0x0A, key_length))
    if core_delete(&store.core, handle, False, <uint64_t> store.head + 1, store.next_sub):
        raise MemoryError
    if store.watching:
        note_change(store, <uint64_t> store.head + 1, store.next_sub, True, room, <uint32_t> length)
    store.next_sub += 1
    if lease:
        move_lease(store, lease, 0, key_bytes(store, entry))
    return 0


cdef inline void finish_write(MvccStore store) noexcept:
    """A request that changed anything takes its revision."""
    if store.next_sub:
        store.head += 1
        store.next_sub = 0


cdef uint32_t find_live(MvccStore store, wire_span key) noexcept:
    cdef uint32_t handle = core_find(&store.core, key)
    if handle and core_entry(&store.core, handle).dead:
        return 0
    return handle


cdef int put_one(MvccStore store, const put_request* request, record_t* previous) except -1:
    """Executes a put whose checks are done. `previous.value` is NULL unless prev_kv asks for it and the key existed."""
    cdef uint32_t handle
    cdef wire_span value = request.value, message
    cdef int64_t lease = request.lease
    cdef record_t record
    cdef key_value parsed
    previous.value = NULL
    if request.prev_kv or request.ignore_value or request.ignore_lease:
        count_range(store)
        handle = find_live(store, request.key)
        if handle:
            fetch(store, core_entry(&store.core, handle).main, core_entry(&store.core, handle).sub, &record)
            message.data = record.value
            message.length = record.length
            if key_value_parse(message, &parsed):
                raise CorruptError(f"the record ({record.main}, {record.sub}) is no KeyValue")
            if request.ignore_value:
                value = parsed.value
            if request.ignore_lease:
                lease = parsed.lease
            if request.prev_kv:
                previous[0] = record
    return write_put(store, request.key, value, lease)


cdef tuple put_result(MvccStore store, bytes request):
    cdef put_request parsed
    cdef record_t previous
    cdef bytes body = b""
    if put_parse(span_of(request), &parsed):
        return (CHECK_MALFORMED, store.head, b"")
    if parsed.key.length == 0:
        return (KEY_NOT_PROVIDED, store.head, b"")
    if parsed.lease and not store.leases.exists(parsed.lease):
        return (LEASE_NOT_FOUND, store.head, b"")
    if (parsed.ignore_value or parsed.ignore_lease) and not find_live(store, parsed.key):
        store.ranges += 1
        return (KEY_NOT_FOUND, store.head, b"")
    put_one(store, &parsed, &previous)
    finish_write(store)
    end_phase(store)
    if previous.value != NULL:
        body = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> wire_bytes_size(previous.length))
        wire_put_bytes(<uint8_t*> PyBytes_AS_STRING(body), 0x12, previous.value, previous.length)
    return (0, store.head, body)


cdef int64_t delete_some(MvccStore store, const delete_request* request) except -1:
    """Deletes the live keys of a range; with prev_kv their records stay in store.found. How many."""
    cdef int64_t count
    cdef size_t i
    if request.prev_kv:
        count_range(store)
    store.deletes += 1
    store.phase += 1
    collect(store, request.key, request.end, store.head + 1, UINT64_MAX, &count)
    if request.prev_kv:
        for i in range(store.found.count):
            fetch_item(store, &store.found.item[i])
    for i in range(store.found.count):
        write_delete(store, store.found.item[i].handle)
    if not request.prev_kv:
        store.found.count = 0
    return count


cdef inline size_t deleted_size(MvccStore store, int64_t deleted) noexcept:
    return wire_int_size(<uint64_t> deleted) + items_size(&store.core, &store.found, False)


cdef inline uint8_t* deleted_write(MvccStore store, int64_t deleted, uint8_t* at) noexcept:
    return items_write(&store.core, &store.found, 0x1A, False, wire_put_int(at, 0x10, <uint64_t> deleted))


cdef tuple delete_result(MvccStore store, bytes request):
    cdef delete_request parsed
    cdef int64_t deleted
    cdef bytes body
    if delete_parse(span_of(request), &parsed):
        return (CHECK_MALFORMED, store.head, b"")
    if parsed.key.length == 0:
        return (KEY_NOT_PROVIDED, store.head, b"")
    deleted = delete_some(store, &parsed)
    finish_write(store)
    end_phase(store)
    body = PyBytes_FromStringAndSize(NULL, <Py_ssize_t> deleted_size(store, deleted))
    deleted_write(store, deleted, <uint8_t*> PyBytes_AS_STRING(body))
    shrink_found(store)
    return (0, store.head, body)


cdef object change_of(const record_t* record):
    """A `types.Change`, built without running Python code."""
    cdef key_value parsed
    cdef wire_span message
    cdef object change
    message.data = record.value
    message.length = record.length
    if key_value_parse(message, &parsed):
        raise CorruptError(f"the record ({record.main}, {record.sub}) is no KeyValue")
    change = PyType_GenericAlloc(<PyTypeObject*> Change, 5)
    set_item(change, 0, True if record.tombstone else False)
    set_item(change, 1, bytes_of(parsed.key.data, parsed.key.length))
    set_item(change, 2, record.main)
    set_item(change, 3, record.sub)
    set_item(change, 4, bytes_of(record.value, record.length))
    return change


cdef inline int set_item(object change, Py_ssize_t position, object value) except -1:
    Py_INCREF(value)  # PyTuple_SET_ITEM takes a reference over
    PyTuple_SET_ITEM(change, position, value)
    return 0


cdef int make_changes(MvccStore store) except -1:
    cdef size_t i
    for i in range(store.changed_count):
        store.change_list.append(change_of(&store.changed[i]))
    store.changed_count = 0
    return 0
