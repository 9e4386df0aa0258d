"""Who gets a trigger: streams, routes, staging. The C face for the engine above; `native/runs.h` has the records."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "../delivery/native/runs.h" nogil:
    const uint32_t RUN_NONE
    enum:
        PLACE_NONE
        PLACE_QUEUED
        PLACE_SENT
        PLACE_GATED
        PLACE_STAGED
    ctypedef struct run_t:
        uint64_t main
        uint64_t counter_main
        int64_t tick_s
        int64_t planned_s
        int64_t started_ms
        int64_t sent_ms
        uint64_t stream_id
        char* name
        int32_t tick_ns
        int32_t planned_ns
        uint32_t job
        uint32_t route
        uint32_t stream
        uint32_t next
        uint32_t prev
        uint32_t seq
        uint32_t name_size
        uint8_t place
        uint8_t gated
        uint8_t pending
        uint8_t kind
        uint8_t retry
        uint8_t extra
        uint8_t waited_for
        uint32_t tries
    ctypedef struct run_pool:
        uint32_t used
        uint32_t free_head
        uint32_t live
    ctypedef struct run_ring:
        uint32_t* items
        uint32_t count
    ctypedef struct id_entry:
        uint64_t id
        uint32_t run
    ctypedef struct id_map:
        id_entry* entries
        uint32_t capacity
        uint32_t count
    run_t* run_at(const run_pool* pool, uint32_t run) noexcept
    uint32_t run_new(run_pool* pool) noexcept
    void run_free(run_pool* pool, uint32_t run) noexcept
    int run_set_name(run_t* run, const uint8_t* name, size_t size) noexcept
    void run_pool_clear(run_pool* pool) noexcept
    int ring_push(run_ring* ring, uint32_t run) noexcept
    uint32_t ring_first(const run_ring* ring) noexcept
    uint32_t ring_pop(run_ring* ring) noexcept
    int ids_put(id_map* ids, uint64_t id, uint32_t run) noexcept
    uint32_t ids_take(id_map* ids, uint64_t id) noexcept


cdef class StreamState:
    cdef readonly uint32_t index
    cdef readonly bint open
    cdef public bint writable
    cdef readonly object push            # Stream.push
    cdef public bint batched             # it takes triggers in the form of raftsched.v1.Workers, many in a message
    cdef public object owner             # who to tell when it is to be cut off
    cdef list routes
    cdef run_ring queue
    cdef id_map ids
    cdef uint64_t next_id
    cdef bint dirty                      # stands in Delivery.ready
    cdef int64_t stalled_since_ms        # its queue has been full and unmoved since; 0 = not so
    cdef int64_t writable_since_ms       # after it was not; 0 = it always was


cdef class Route:
    cdef readonly bytes prefix
    cdef readonly uint32_t index
    cdef readonly uint8_t kind           # TARGET_JOB, TARGET_ACTOR, TARGET_NONE: can never be delivered
    cdef public object target            # (namespace, actor type) of an actor route, else None
    cdef public bint gated               # a concurrency gate of its type is declared
    cdef public object name_space        # of the jobs that it is for, as bytes; None: no job has come yet
    cdef public bint frozen              # nothing of that namespace fires
    cdef readonly uint32_t staged        # runs parked here
    cdef list streams
    cdef size_t turn
    cdef uint32_t staged_head
    cdef uint32_t staged_tail
    cdef uint64_t references             # jobs and streams


cdef class Delivery:
    cdef run_pool runs
    cdef list streams                    # by index; None = free
    cdef list routes                     # by index; None = free
    cdef dict route_index                # prefix -> index
    cdef list free_routes
    cdef list ready                      # streams with something queued
    cdef readonly list overflowed        # streams that let their backlog fill and stand still
    cdef readonly uint32_t open_streams
    cdef readonly uint64_t queued        # over all streams
    cdef uint32_t backlog_max
    cdef int64_t stall_ms

    cdef Route hold_route(self, bytes prefix, uint8_t kind)
    cdef int drop_route(self, Route route) except -1
    cdef bint enqueue(self, uint32_t run, int64_t now_ms) except -1
    cdef void stage(self, uint32_t run) noexcept
    cdef void unstage(self, uint32_t run) noexcept
    cdef uint32_t unqueue(self, StreamState stream) noexcept
    cdef int note_full(self, StreamState stream, int64_t now_ms) except -1
    cdef int mark_ready(self, StreamState stream) except -1
