"""What other native rooms may use of the backend: scans on the bulk thread (HashKV)."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from raftsched.store._records cimport Generation, RecordSource, record_t, scan_fn

cdef extern from "native/backend.h":
    ctypedef struct backend_t:
        pass

cdef class Backend(RecordSource):
    cdef backend_t* handle
    cdef readonly str path
    cdef readonly int fd, bulk_fd
    cdef readonly str stalled
    cdef readonly bint committing
    cdef uint64_t map_bytes
    cdef object _held            # what the running commit's pointers belong to
    cdef dict _bulk_held
    cdef object _failed

    # Runs `callback` over all records of from_main..to_main on the bulk thread, in a read transaction of its own; `owner` is
    # kept alive until bulk_completed() has told the end (result = the scan's answer). Returns the job number.
    cdef int64_t start_scan(self, uint64_t from_main, uint64_t to_main, scan_fn callback, void* context, object owner) except -1
