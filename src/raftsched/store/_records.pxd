"""Records on their way from the apply to LMDB: the contract between mvcc (writes, reads) and the backend (stores, reads).

A record is what etcd's bucket `key` holds: at (main, sub) the encoded mvccpb.KeyValue, or a tombstone.
"""
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef struct record_t:
    uint64_t main
    uint32_t sub
    uint32_t length              # of value, in bytes (a value is < 2 GiB)
    const uint8_t* value         # encoded KeyValue; of a tombstone only its key field
    uint8_t tombstone


# Called per record of a scan, in ascending (main, sub); a non-zero answer stops it.
ctypedef int (*scan_fn)(void* context, const record_t* record) noexcept nogil


cdef class RecordSource:
    """Where records live that are no longer pending. Implemented by backend._lmdb.Backend and by `MemoryRecords`.

    `value` pointers stay valid until the source is renewed on the same thread.
    """
    # 0 = found, 1 = not found, -1 = I/O error (the source remembers the text for `error()`)
    cdef int get(self, uint64_t main, uint32_t sub, bint tombstone, record_t* out) noexcept nogil
    # records with from_main <= main <= to_main, ascending; returns 0, the callback's non-zero answer, or -1
    cdef int scan(self, uint64_t from_main, uint64_t to_main, scan_fn callback, void* context) noexcept nogil


cdef class MemoryRecords(RecordSource):
    """A RecordSource in memory, for tests, the simulator and the twin."""
    cdef dict _values
    cdef list _order
    cdef bint _sorted
    cdef _sort(self)


@cython.final
cdef class Generation:
    """An append-only arena of records with strictly rising (main, sub); pointers into it stay valid while it lives.

    Owned by the loop thread while filling; read-only, and shared with the committer thread, once `freeze()` was called.
    """
    cdef record_t* records
    cdef size_t count, capacity
    cdef uint8_t** chunks
    cdef size_t chunk_count, chunk_capacity, chunk_used, chunk_size
    cdef readonly uint64_t size_bytes
    cdef readonly bint frozen

    # Reserves room for a value and returns where to write it; NULL when out of memory or frozen. `append` = reserve + memcpy.
    cdef uint8_t* reserve(self, uint64_t main, uint32_t sub, bint tombstone, uint32_t length) noexcept nogil
    cdef int append(self, uint64_t main, uint32_t sub, bint tombstone, const uint8_t* value, uint32_t length) noexcept nogil
    cdef const record_t* find(self, uint64_t main, uint32_t sub) noexcept nogil
    cdef int scan(self, uint64_t from_main, uint64_t to_main, scan_fn callback, void* context) noexcept nogil
    cdef size_t lower_bound(self, uint64_t main, uint32_t sub) noexcept nogil
    cpdef void freeze(self) noexcept
    cdef int grow_records(self) noexcept nogil
    cdef uint8_t* room(self, uint32_t length) noexcept nogil
