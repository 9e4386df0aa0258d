# What is stored with a result, in the branch of its entry and under its guards: done once with it, or not at all, however often the entry
# is sent. For jobs alone that want it (a bit of FURTHER in their `more`): others do not come here.
#
# Keys are under raftsched/ and of this job alone, at most BRANCH_FURTHER_MAX of them, none twice: etcd refuses what puts one key twice,
# and counts operations.

cdef int collect_further(Engine self, uint32_t run, int status) except -1:
    # Of a run that is about to be stored, with `retry` decided. Each feature adds what it keeps by `also_put` and `also_delete`.
    return 0


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
