"""The C face of stored records and of protobuf's wire form: native/stored.h, for native rooms above."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "../jobs/native/stored.h" nogil:
    ctypedef struct slice_t:
        const uint8_t* data
        size_t size
    ctypedef struct pb_in:
        const uint8_t* at
        const uint8_t* end
    ctypedef struct pb_field:
        uint32_t number
        uint32_t type
        uint64_t value
        slice_t body
    ctypedef struct pb_buffer:
        uint8_t* data
        size_t size
        size_t capacity
    ctypedef struct instant_t:
        int64_t s
        int32_t ns
    ctypedef struct kv_t:
        slice_t key
        slice_t value
        uint64_t create_revision
        uint64_t mod_revision
        uint64_t version
        int64_t lease
    ctypedef struct metadata_t:
        slice_t app_id
        slice_t name_space
        slice_t actor_id
        slice_t actor_type
        slice_t concurrency_key
        uint8_t target
        uint8_t has_target
        uint8_t has_concurrency_key
    ctypedef struct policy_t:
        uint8_t kind
        uint8_t has_max
        uint32_t max_retries
        int64_t interval_ns
    ctypedef struct stored_job_t:
        uint64_t partition_id
        instant_t begin
        instant_t expiration
        slice_t schedule
        slice_t due_time
        slice_t ttl
        slice_t metadata
        slice_t payload
        slice_t policy
        uint32_t repeats
        uint8_t begin_kind
        uint8_t has_expiration
        uint8_t has_schedule
        uint8_t has_due_time
        uint8_t has_ttl
        uint8_t has_repeats
        uint8_t has_metadata
        uint8_t has_payload
        uint8_t has_policy
    ctypedef struct counter_t:
        uint64_t partition_id
        instant_t last
        uint32_t count
        uint32_t attempts
        uint8_t has_last

    enum:
        PB_VARINT
        PB_BYTES
        BEGIN_NONE
        BEGIN_START
        BEGIN_DUE
        POLICY_UNSET
        POLICY_DROP
        POLICY_CONSTANT
        TARGET_NONE
        TARGET_JOB
        TARGET_ACTOR
        BRANCH_FINISH
        BRANCH_COUNTER
        BRANCH_ORPHAN
        BRANCH_STRAY
        BRANCH_STRAY_RUN
        BRANCH_RAN
        BRANCH_STRAY_HISTORY
        GONE_SEEN
        GONE_MISSING
        GONE_RECREATED
        COUNTER_SIZE_MAX
        INSTANT_SIZE_MAX
        JOBS_PREFIX_SIZE
        COUNTERS_PREFIX_SIZE
        LEADERSHIP_PREFIX_SIZE
        STATES_PREFIX_SIZE
        NAMESPACES_PREFIX_SIZE
        RUNS_PREFIX_SIZE
        CALENDARS_PREFIX_SIZE
        HISTORY_PREFIX_SIZE
        DEAD_PREFIX_SIZE
    const char* JOBS_PREFIX
    const char* COUNTERS_PREFIX
    const char* LEADERSHIP_PREFIX
    const char* STATES_PREFIX
    const char* NAMESPACES_PREFIX
    const char* RUNS_PREFIX
    const char* CALENDARS_PREFIX
    const char* HISTORY_PREFIX
    const char* DEAD_PREFIX
    const char* METADATA_TYPE_URL

    pb_in pb_open(slice_t body) noexcept
    int pb_next(pb_in* source, pb_field* field) noexcept
    size_t pb_varint_size(uint64_t value) noexcept
    size_t pb_bytes_size(uint32_t number, size_t size) noexcept
    size_t pb_number_size(uint32_t number, uint64_t value) noexcept
    uint8_t* pb_put_number(uint8_t* at, uint32_t number, uint64_t value) noexcept
    uint8_t* pb_put_head(uint8_t* at, uint32_t number, size_t size) noexcept
    uint8_t* pb_put_raw(uint8_t* at, const void* data, size_t size) noexcept
    uint8_t* pb_put_bytes(uint8_t* at, uint32_t number, const void* data, size_t size) noexcept
    uint8_t* pb_put_instant(uint8_t* at, uint32_t number, instant_t value) noexcept
    size_t pb_instant_size(instant_t value) noexcept
    int utc_parse(slice_t text, instant_t* out) noexcept
    uint8_t* pb_reserve(pb_buffer* buffer, size_t more) noexcept

    int pb_instant(slice_t body, instant_t* out) noexcept
    int kv_parse(slice_t record, kv_t* out) noexcept
    int any_parse(slice_t body, slice_t* url, slice_t* value) noexcept
    int metadata_parse(slice_t body, metadata_t* out) noexcept
    int policy_parse(slice_t body, policy_t* out) noexcept
    int stored_job_parse(slice_t value, stored_job_t* out) noexcept
    int counter_parse(slice_t value, counter_t* out) noexcept
    uint8_t* counter_put(uint8_t* at, const counter_t* counter) noexcept
    size_t prefix_match(slice_t name, const metadata_t* metadata, size_t* route_size) noexcept
    size_t trigger_size(slice_t name, uint64_t id, const stored_job_t* job) noexcept
    uint8_t* trigger_put(uint8_t* at, slice_t name, uint64_t id, const stored_job_t* job) noexcept
    size_t branch_size_max(size_t name_size) noexcept
    uint8_t* branch_put(uint8_t* at, int kind, slice_t name, uint64_t job_main, uint64_t counter_main,
                        const counter_t* counter, slice_t further) noexcept
    size_t put_op_size(size_t key_size, size_t value_size) noexcept
    uint8_t* put_op_put(uint8_t* at, slice_t key, slice_t value) noexcept
    size_t drop_op_size(size_t key_size) noexcept
    uint8_t* drop_op_put(uint8_t* at, slice_t key) noexcept
    size_t drop_range_op_size(size_t key_size, size_t end_size) noexcept
    uint8_t* drop_range_op_put(uint8_t* at, slice_t key, slice_t end) noexcept
    int outcomes_parse(slice_t body, uint8_t* out, size_t count) noexcept
