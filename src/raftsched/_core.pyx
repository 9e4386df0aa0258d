"""The hot trigger path: a hierarchical timing wheel and the bitmask cron engine (docs/timing-wheel.md).

Invariant: each armed record has exactly one valid entry in the buckets; equal calls give equal fires.
Must not know: clocks, jobs, schedules as text, time zone names, the network.

Inner functions are `noexcept nogil` on raw structs and trust what they are told; the `def` layer checks: due range, equal
lengths, rising offsets, buffer capacity, room. The concepts stand in `_core/*.pxi`, in the order of the includes.
"""
# cython: freethreading_compatible=False
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

cdef extern from "native/core.h":
    int TW_CLZ64(uint64_t) noexcept nogil
    int TW_CTZ64(uint64_t) noexcept nogil
    int TW_CTZ32(uint32_t) noexcept nogil
    void TW_PREFETCH(const void*) noexcept nogil
    bint TW_LIKELY(bint) noexcept nogil
    bint TW_UNLIKELY(bint) noexcept nogil
    int TW_DEBUG
    void* tw_reserve(size_t, int) noexcept nogil
    void tw_release(void*, size_t) noexcept nogil
    uint64_t tw_hash(const unsigned char*, size_t, uint64_t, uint64_t) noexcept nogil

include "_core/cron.pxi"
include "_core/cron_table.pxi"
include "_core/extended.pxi"
include "_core/layout.pxi"
include "_core/buckets.pxi"
include "_core/records.pxi"
include "_core/keys.pxi"
include "_core/compaction.pxi"
include "_core/advance.pxi"
include "_core/snapshot.pxi"
include "_core/invariants.pxi"
include "_core/wheel.pxi"
