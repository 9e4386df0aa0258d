"""The native side of the store; `_store.pyi` tells what it offers."""
from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from raftsched.store._records cimport Generation, RecordSource, record_t

cdef extern from "native/request.h":
    ctypedef struct wire_span:
        const uint8_t* data
        size_t length

cdef extern from "native/core.h":
    ctypedef struct core_t:
        uint64_t keys
        uint64_t superseded
        uint32_t* dirty
        size_t dirty_count
        size_t scrub_left
        uint32_t named_handle, named

cdef extern from "native/answer.h":
    ctypedef struct buffer_t:
        uint8_t* data
        size_t length
        size_t capacity

    ctypedef struct item_t:
        uint64_t main
        uint64_t create
        uint64_t version
        int64_t lease
        const uint8_t* data
        const uint8_t* value
        size_t value_length
        uint32_t length
        uint32_t sub
        uint32_t handle
        uint8_t latest

    ctypedef struct items_t:
        item_t* item
        size_t count


cdef class MvccStore:
    cdef core_t core
    cdef RecordSource source
    cdef Generation filling
    cdef Generation committing     # None, or what the backend writes at present
    cdef object leases
    cdef uint64_t seed
    cdef int64_t txn_ops_max
    cdef int64_t head              # current main revision
    cdef int64_t compacted         # -1 = nothing
    cdef uint32_t next_sub         # > 0 while a transaction has written at head + 1
    cdef public bint watching
    cdef bint loaded
    cdef record_t* changed         # changes not yet made into tuples; values point into a generation
    cdef size_t changed_count, changed_capacity
    cdef list change_list
    cdef items_t found             # scratch of the range under way
    cdef buffer_t answer           # scratch of the transaction under way
    cdef uint8_t* path             # the branches that the compares chose, in preorder
    cdef size_t path_count, path_capacity, path_at
    # etcd's metrics: operations since the start; `phase` are those of the request under way
    cdef uint64_t puts, deletes, ranges, txns, put_bytes, phase
