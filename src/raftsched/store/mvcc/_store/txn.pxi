# Transactions, as etcd applies them: all compares, nested ones too, on the state before; then the checks of the chosen path,
# so that a refusal comes before any change; then the operations, whose reads see what the same transaction wrote.
# The request is walked in place: no tree is built, the path is one byte per transaction in preorder.

cdef bint order_holds(int order, int result) noexcept:
    if result == RESULT_EQUAL:
        return order == 0
    if result == RESULT_NOT_EQUAL:
        return order != 0
    if result == RESULT_GREATER:
        return order > 0
    if result == RESULT_LESS:
        return order < 0
    return True  # as etcd: an operator it does not know refuses nothing


cdef int order_of(int64_t left, int64_t right) noexcept:
    if left < right:
        return -1
    return 1 if left > right else 0


cdef int compare_entry(MvccStore store, const compare_request* compare, const entry_t* entry) except -1:
    """1 if the live key of `entry` satisfies the compare, else 0; entry NULL = a key that is missing."""
    cdef int order = 0
    cdef int64_t wanted = compare.number
    cdef int64_t held = 0
    cdef uint32_t field
    if compare.target == COMPARE_VALUE:
        if entry == NULL:
            return 0  # nothing could stand for a missing value
        order = compare_value(store, compare, entry)
        return order_holds(order, compare.result)
    if compare.target == COMPARE_VERSION:
        field = 4
        held = 0 if entry == NULL else <int64_t> entry.version
    elif compare.target == COMPARE_CREATE:
        field = 5
        held = 0 if entry == NULL else <int64_t> entry.create
    elif compare.target == COMPARE_MOD:
        field = 6
        held = 0 if entry == NULL else <int64_t> entry.main
    elif compare.target == COMPARE_LEASE:
        field = 8
        held = 0 if entry == NULL else entry.lease
    else:
        return order_holds(0, compare.result)
    if compare.given != field:
        wanted = 0
    return order_holds(order_of(held, wanted), compare.result)


cdef int compare_value(MvccStore store, const compare_request* compare, const entry_t* entry) except? -2:
    cdef record_t record
    cdef key_value parsed
    cdef wire_span message
    cdef size_t wanted = compare.value.length if compare.given == 7 else 0
    cdef size_t shorter
    cdef int order = 0
    fetch(store, entry.main, entry.sub, &record)
    message.data = record.value
    message.length = record.length
    if key_value_parse(message, &parsed):
        raise CorruptError(f"the record ({record.main}, {record.sub}) is no KeyValue")
    shorter = min(wanted, parsed.value.length)
    if shorter:
        order = memcmp(parsed.value.data, compare.value.data, shorter)
    if order:
        return -1 if order < 0 else 1
    return order_of(<int64_t> parsed.value.length, <int64_t> wanted)


cdef int compare_holds(MvccStore store, const compare_request* compare) except -1:
    cdef uint32_t handle
    cdef index_walk walk
    cdef bint found = False
    if compare.end.length == 0:
        handle = find_live(store, compare.key)
        return compare_entry(store, compare, core_entry(&store.core, handle) if handle else NULL)
    core_walk_from(&store.core, compare.key, compare.end, &walk)
    handle = core_walk_next(&store.core, &walk)
    while handle:
        if not core_entry(&store.core, handle).dead:
            found = True
            if not compare_entry(store, compare, core_entry(&store.core, handle)):
                return 0
        handle = core_walk_next(&store.core, &walk)
    return 1 if found else compare_entry(store, compare, NULL)


cdef int path_push(MvccStore store, bint succeeded) except -1:
    cdef size_t capacity
    cdef uint8_t* path
    if store.path_count == store.path_capacity:
        capacity = store.path_capacity * 2 if store.path_capacity else 256
        path = <uint8_t*> realloc(store.path, capacity)
        if path == NULL:
            raise MemoryError
        store.path = path
        store.path_capacity = capacity
    store.path[store.path_count] = succeeded
    store.path_count += 1
    return 0


cdef int choose_path(MvccStore store, wire_span txn) except -1:
    """Evaluates the compares of a transaction and of the nested ones on its path; PATH_* of what lies there."""
    cdef wire_reader reader = wire_open(txn)
    cdef wire_span part, body
    cdef compare_request compare
    cdef put_request put
    cdef range_request ranged
    cdef bint holds = True, doubtful = False
    cdef int kind = 0
    while holds and txn_next(&reader, TXN_COMPARE, &part):
        compare_parse(part, &compare)
        count_range(store)
        holds = compare_holds(store, &compare)
    path_push(store, holds)
    reader = wire_open(txn)
    while txn_next(&reader, TXN_SUCCESS if holds else TXN_FAILURE, &part):
        op_parse(part, &kind, &body)
        if kind == OP_TXN:
            doubtful |= choose_path(store, body)
        elif kind == OP_PUT:
            put_parse(body, &put)
            if put.lease or put.ignore_value or put.ignore_lease or put.prev_kv:
                doubtful = True
        elif kind == OP_RANGE:
            range_parse(body, &ranged)
            if ranged.revision:
                doubtful = True
    return doubtful


cdef uint32_t next_branch(MvccStore store) noexcept:
    cdef bint succeeded = store.path[store.path_at]
    store.path_at += 1
    return TXN_SUCCESS if succeeded else TXN_FAILURE


cdef int check_path(MvccStore store, wire_span txn) except -1:
    """What refuses the chosen path, in the order of its operations; of a put the lease is looked at first."""
    cdef uint32_t which = next_branch(store)
    cdef wire_reader reader = wire_open(txn)
    cdef wire_span part, body
    cdef put_request put
    cdef range_request ranged
    cdef int kind = 0, error = 0
    while not error and txn_next(&reader, which, &part):
        op_parse(part, &kind, &body)
        if kind == OP_TXN:
            error = check_path(store, body)
        elif kind == OP_PUT:
            put_parse(body, &put)
            if put.lease and not store.leases.exists(put.lease):
                error = LEASE_NOT_FOUND
                continue
            if put.ignore_value or put.ignore_lease or put.prev_kv:
                count_range(store)
            if (put.ignore_value or put.ignore_lease) and not find_live(store, put.key):
                error = KEY_NOT_FOUND
        elif kind == OP_RANGE:
            range_parse(body, &ranged)
            if ranged.revision > store.head:
                error = FUTURE_REVISION
            elif ranged.revision and ranged.revision < store.compacted:
                error = COMPACTED
    return error


cdef inline int room(MvccStore store, size_t length) except -1:
    if buffer_room(&store.answer, length):
        raise MemoryError
    return 0


cdef inline int end_message(MvccStore store, size_t start) except -1:
    if buffer_end(&store.answer, start):
        raise MemoryError
    return 0


cdef int begin_op(MvccStore store, int kind, int64_t revision, size_t length, size_t* response) except -1:
    """Opens ResponseOp's message of `kind` with its header {revision}; room for `length` more bytes is there."""
    cdef size_t header
    room(store, length + 32)
    response[0] = buffer_begin(&store.answer, <uint8_t> (kind << 3 | 2))
    header = buffer_begin(&store.answer, 0x0A)
    buffer_int(&store.answer, 0x18, <uint64_t> revision)
    return end_message(store, header)


cdef int execute_range(MvccStore store, wire_span body) except -1:
    cdef range_request request
    cdef range_answer found
    cdef size_t response
    cdef int64_t current = store.head + 1 if store.next_sub else store.head
    range_parse(body, &request)
    count_range(store)
    if range_find(store, &request, current, SIZE_MAX, &found):
        raise CorruptError("a range inside a transaction failed after its checks")
    begin_op(store, OP_RANGE, current, range_size(store, &found), &response)
    store.answer.length = range_write(store, &found, store.answer.data + store.answer.length) - store.answer.data
    return end_message(store, response)


cdef int execute_put(MvccStore store, wire_span body) except -1:
    cdef put_request request
    cdef record_t previous
    cdef size_t response
    put_parse(body, &request)
    put_one(store, &request, &previous)
    begin_op(store, OP_PUT, store.head + 1, 16 + (previous.length if previous.value != NULL else 0), &response)
    if previous.value != NULL:
        store.answer.length = wire_put_bytes(
            store.answer.data + store.answer.length, 0x12, previous.value, previous.length
        ) - store.answer.data
    return end_message(store, response)


cdef int execute_delete(MvccStore store, wire_span body) except -1:
    cdef delete_request request
    cdef size_t response
    cdef int64_t deleted
    delete_parse(body, &request)
    deleted = delete_some(store, &request)
    begin_op(store, OP_DELETE, store.head + 1 if store.next_sub else store.head, deleted_size(store, deleted), &response)
    store.answer.length = deleted_write(store, deleted, store.answer.data + store.answer.length) - store.answer.data
    return end_message(store, response)


cdef int execute_nested(MvccStore store, wire_span body) except -1:
    cdef size_t response
    room(store, 16)
    response = buffer_begin(&store.answer, OP_TXN << 3 | 2)
    end_message(store, buffer_begin(&store.answer, 0x0A))  # its header is there, and empty
    execute_txn(store, body)
    return end_message(store, response)


cdef int execute_txn(MvccStore store, wire_span txn) except -1:
    """Runs the chosen branch and writes a TxnResponse without its header."""
    cdef uint32_t which = next_branch(store)
    cdef wire_reader reader = wire_open(txn)
    cdef wire_span part, body
    cdef size_t response
    cdef int kind = 0
    room(store, 16)
    buffer_int(&store.answer, 0x10, which == TXN_SUCCESS)
    while txn_next(&reader, which, &part):
        op_parse(part, &kind, &body)
        room(store, 16)
        response = buffer_begin(&store.answer, 0x1A)
        if kind == OP_RANGE:
            execute_range(store, body)
        elif kind == OP_PUT:
            execute_put(store, body)
        elif kind == OP_DELETE:
            execute_delete(store, body)
        elif kind == OP_TXN:
            execute_nested(store, body)
        end_message(store, response)
    return 0


cdef tuple txn_result(MvccStore store, bytes request):
    cdef wire_span txn = span_of(request)
    cdef int error = 0
    cdef bint doubtful
    if txn_validate(txn, 1):
        return (CHECK_MALFORMED, store.head, b"")
    store.path_count = 0
    store.answer.length = 0
    doubtful = choose_path(store, txn)
    if doubtful:
        store.path_at = 0
        error = check_path(store, txn)
    if error:
        end_phase(store)
        return (error, store.head, b"")
    if store.phase and not txn_read_only(txn):
        end_phase(store)  # compares and checks had a view of their own
    store.path_at = 0
    execute_txn(store, txn)
    finish_write(store)
    end_phase(store)
    body = bytes_of(store.answer.data, store.answer.length)
    if store.answer.capacity > ANSWER_KEPT_BYTES_MAX:
        free(store.answer.data)
        memset(&store.answer, 0, sizeof(buffer_t))
    shrink_found(store)
    return (0, store.head, body)
