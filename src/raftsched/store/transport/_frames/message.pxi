# A kernel's Message in protobuf's wire format: fields 1 to 14 integers in the order of the class, 15 a run, again for each.
# A run is first index, term, kind, count, then per entry its length and its bytes; numbers as varints, without tags.

cdef enum:
    NUMBERS = 14
    RUN_FIELD = 15
    RUN_TAG = 0x7A


cdef int numbers_of(Message message, uint64_t* numbers) except -1:
    numbers[0] = <uint64_t>message.type
    numbers[1] = message.to
    numbers[2] = message.sender
    numbers[3] = <uint64_t>message.term
    numbers[4] = <uint64_t>message.index
    numbers[5] = <uint64_t>message.log_term
    numbers[6] = <uint64_t>message.commit
    numbers[7] = <uint64_t>message.hint_index
    numbers[8] = <uint64_t>message.hint_term
    numbers[9] = <uint64_t>message.context
    numbers[10] = message.reject
    numbers[11] = <uint64_t>message.beat
    numbers[12] = <uint64_t>message.echo
    numbers[13] = <uint64_t>message.left_ms
    return 0


cdef Message message_of(const uint64_t* numbers, list runs):
    cdef Message message = Message.__new__(Message)
    message.type = <int>numbers[0]
    message.to = numbers[1]
    message.sender = numbers[2]
    message.term = <int64_t>numbers[3]
    message.index = <int64_t>numbers[4]
    message.log_term = <int64_t>numbers[5]
    message.commit = <int64_t>numbers[6]
    message.hint_index = <int64_t>numbers[7]
    message.hint_term = <int64_t>numbers[8]
    message.context = <int64_t>numbers[9]
    message.reject = numbers[10] != 0
    message.beat = <int64_t>numbers[11]
    message.echo = <int64_t>numbers[12]
    message.left_ms = <int64_t>numbers[13]
    message.runs = runs
    return message


cdef Py_ssize_t run_size(tuple run, Py_ssize_t* entries) except -1:
    """Bytes of a run's body; adds its entries to the count. ValueError for what `decode` would refuse."""
    cdef list items = <list?>run[3]
    cdef Py_ssize_t i, length, count = PyList_GET_SIZE(items)
    cdef Py_ssize_t size = wire_varint_size(<uint64_t><int64_t>run[0]) + wire_varint_size(<uint64_t><int64_t>run[1])
    size += wire_varint_size(<uint64_t><int64_t>run[2]) + wire_varint_size(count)
    entries[0] += count
    if not count or entries[0] > ENTRIES_MAX:
        raise ValueError(f"a message has 1 to {ENTRIES_MAX} entries in its runs, and no empty run")
    for i in range(count):
        if type(<object>PyList_GET_ITEM(items, i)) is not bytes:
            raise TypeError("an entry is bytes")
        length = PyBytes_GET_SIZE(<object>PyList_GET_ITEM(items, i))
        size += wire_varint_size(length) + length
    return size


cdef uint8_t* put_run_head(uint8_t* at, tuple run, Py_ssize_t size) except NULL:
    at[0] = RUN_TAG
    at = wire_put_varint(at + 1, size)
    at = wire_put_varint(at, <uint64_t><int64_t>run[0])
    at = wire_put_varint(at, <uint64_t><int64_t>run[1])
    at = wire_put_varint(at, <uint64_t><int64_t>run[2])
    return wire_put_varint(at, PyList_GET_SIZE(<list>run[3]))


cdef uint8_t* put_run(uint8_t* at, tuple run, Py_ssize_t size) except NULL:
    cdef list items = <list>run[3]
    cdef Py_ssize_t i, length
    at = put_run_head(at, run, size)
    for i in range(PyList_GET_SIZE(items)):
        length = PyBytes_GET_SIZE(<object>PyList_GET_ITEM(items, i))
        at = wire_put_varint(at, length)
        memcpy(at, PyBytes_AS_STRING(<object>PyList_GET_ITEM(items, i)), length)
        at += length
    return at


cdef Py_ssize_t message_size(Message message) except -1:
    cdef uint64_t numbers[NUMBERS]
    cdef Py_ssize_t size = 0, body, entries = 0
    cdef int i
    numbers_of(message, numbers)
    for i in range(NUMBERS):
        size += wire_int_size(numbers[i])
    for run in message.runs:
        body = run_size(<tuple?>run, &entries)
        size += 1 + wire_varint_size(body) + body
    return size


cdef uint8_t* put_message(uint8_t* at, Message message) except NULL:
    """Writes as many bytes as `message_size` said."""
    cdef uint64_t numbers[NUMBERS]
    cdef Py_ssize_t entries = 0
    cdef int i
    numbers_of(message, numbers)
    for i in range(NUMBERS):
        at = wire_put_int(at, <uint8_t>((i + 1) << 3), numbers[i])
    for run in message.runs:
        at = put_run(at, <tuple>run, run_size(<tuple>run, &entries))
    return at


cdef bint is_run_head(const uint64_t* head, uint64_t left, Py_ssize_t entries) noexcept:
    """First index, term, kind and count, with `left` bytes behind them, after so many entries of earlier runs."""
    if not head[3] or head[3] > <uint64_t>(ENTRIES_MAX - entries) or head[3] > left:
        return False
    return head[0] <= <uint64_t>INT64_MAX and head[1] <= <uint64_t>INT64_MAX and head[2] <= 255


cdef tuple take_run(wire_span body, Py_ssize_t* entries):
    """None = malformed."""
    cdef wire_reader reader = wire_open(body)
    cdef uint64_t head[4]
    cdef wire_span entry
    cdef uint64_t i
    cdef list items = []
    for i in range(4):
        if wire_varint(&reader, &head[i]):
            return None
    if not is_run_head(head, reader.end - reader.at, entries[0]):
        return None
    for i in range(head[3]):
        if wire_bytes(&reader, &entry):
            return None
        items.append(PyBytes_FromStringAndSize(<const char*>entry.data, entry.length))
    if reader.at != reader.end:
        return None
    entries[0] += head[3]
    return (<int64_t>head[0], <int64_t>head[1], <int>head[2], items)


cdef Message checked_message(const uint64_t* numbers, list runs):
    """Raises WireError."""
    if numbers[0] > <uint64_t>INT32_MAX or numbers[10] > 1:
        raise WireError("a field is out of range")
    return message_of(numbers, runs)


cdef Message take_message(const uint8_t* data, size_t length):
    cdef wire_span span = wire_span(data, length)
    cdef wire_reader reader = wire_open(span)
    cdef uint64_t numbers[NUMBERS]
    cdef Py_ssize_t entries = 0
    cdef uint32_t field, type
    cdef int64_t number
    cdef int got
    cdef list runs = []
    for got in range(NUMBERS):
        numbers[got] = 0
    while True:
        got = wire_tag(&reader, &field, &type)
        if got <= 0:
            break
        if field <= NUMBERS:
            if wire_take_int(&reader, type, &number):
                raise WireError("a field is no number")
            numbers[field - 1] = <uint64_t>number
        elif field == RUN_FIELD:
            if type != WIRE_BYTES or wire_bytes(&reader, &span):
                raise WireError("a run is cut off")
            run = take_run(span, &entries)
            if run is None:
                raise WireError("a run is malformed")
            runs.append(run)
        elif wire_skip(&reader, field, type):
            raise WireError("an unknown field is malformed")
    if got < 0:
        raise WireError("a tag is malformed")
    return checked_message(numbers, runs)


def encode(Message message not None):
    """The bytes of a message, without a frame. ValueError: more entries than PEER_MESSAGE_ENTRIES_MAX, or an empty run."""
    cdef Py_ssize_t size = message_size(message)
    cdef bytes data = PyBytes_FromStringAndSize(NULL, size)
    put_message(<uint8_t*>PyBytes_AS_STRING(data), message)
    return data


def decode(bytes data not None):
    """The message of `encode`; WireError for anything else."""
    return take_message(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


def size_bytes(Message message not None):
    """What `encode` would give, in bytes."""
    return message_size(message)
