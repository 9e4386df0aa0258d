# Declarations of native/*.h.

cdef extern from "native/wal_writer.h" nogil:
    uint32_t crc32c_update(uint32_t crc, const void* data, size_t length)

    enum:
        RECORD_METADATA
        RECORD_ENTRY
        RECORD_STATE
        RECORD_CRC
        RECORD_SNAPSHOT
        RECORD_HEAD_BYTES_MAX
        STATE_BYTES_MAX
        EXTERNAL_BYTES

    ctypedef struct wal_entry_t:
        uint64_t term
        uint64_t type
        const uint8_t* data
        uint64_t length
        void* owner

    ctypedef struct wal_state_t:
        uint64_t term
        uint64_t vote
        uint64_t commit
        int known

    ctypedef struct wal_piece_t:
        const uint8_t* external
        size_t offset
        size_t length

    ctypedef struct wal_group_t:
        wal_group_t* next
        uint64_t length
        uint8_t* buffer
        size_t used
        wal_piece_t* pieces
        size_t piece_count
        void** owners
        size_t owner_count

    int group_reserve(wal_group_t* group, size_t buffer_bytes, size_t externals)
    void group_put_record(wal_group_t* group, unsigned type, uint32_t* crc, const uint8_t* data, size_t length)
    void group_put_batch_start(wal_group_t* group, uint32_t* crc, uint64_t sequence, uint64_t offset)
    void group_put_state(wal_group_t* group, uint32_t* crc, const wal_state_t* state)
    void group_put_entry(wal_group_t* group, uint32_t* crc, const wal_entry_t* entry, uint64_t index)
    void entries_need(const wal_entry_t* entries, size_t count, uint64_t* disk, size_t* buffer, size_t* externals)

    ctypedef enum wal_read_t:
        READ_OK
        READ_END
        READ_LENGTH
        READ_RECORD
        READ_CHECKSUM
        READ_PADDING

    ctypedef struct wal_frame_t:
        uint64_t end
        uint64_t type
        uint32_t crc
        const uint8_t* data
        uint64_t length

    wal_read_t frame_at(const uint8_t* data, uint64_t size, uint64_t offset, wal_frame_t* out)
    bint is_batch_start(const wal_frame_t* frame, uint64_t sequence, uint64_t offset)
    int64_t find_batch_start(const uint8_t* data, uint64_t size, uint64_t start, uint64_t sequence)
    uint64_t find_nonzero(const uint8_t* data, uint64_t size, uint64_t start)
    const uint8_t* get_field(const uint8_t* at, const uint8_t* end, uint8_t tag, uint64_t* value)

    ctypedef struct wal_entry_view_t:
        uint64_t kind
        uint64_t term
        uint64_t index
        const uint8_t* data
        uint64_t length

    ctypedef struct wal_mark_view_t:
        uint64_t index
        uint64_t term
        uint64_t restarts

    bint entry_of(const wal_frame_t* frame, wal_entry_view_t* out)
    bint mark_of(const wal_frame_t* frame, wal_mark_view_t* out)

    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_lock(pthread_mutex_t* mutex)
    int pthread_mutex_unlock(pthread_mutex_t* mutex)

    ctypedef struct wal_segment_t:
        char* name
        char* final
        uint64_t sequence
        uint64_t zeroed

    ctypedef struct wal_log_t:
        pthread_mutex_t mutex
        int notify_fd
        uint64_t segment_bytes
        uint64_t ahead_bytes
        uint64_t reserve_bytes
        wal_segment_t* current
        uint64_t offset
        uint32_t crc
        uint64_t last_index
        uint64_t batch
        wal_state_t state
        uint8_t* metadata
        size_t metadata_length
        wal_group_t* head
        wal_group_t* done
        uint64_t durable_batch
        bint closing
        int error
        char* error_text

    wal_log_t* log_new()
    int log_open(wal_log_t* log, const char* directory, const char* name, uint64_t sequence)
    int log_append(wal_log_t* log, const wal_state_t* state, uint64_t first_index, const wal_entry_t* entries, size_t count,
                   const uint8_t* mark, size_t mark_length, uint64_t restart_index)
    ctypedef struct wal_view_t:
        uint64_t room_bytes
        uint64_t queued_bytes
        uint64_t sync_count
        uint64_t written_bytes
        uint64_t drop_count
        bint stalled
        bint tight
        bint reserve

    wal_view_t log_view(wal_log_t* log)
    enum:
        DURATION_BUCKETS

    ctypedef struct wal_durations_t:
        uint64_t* counts
        uint64_t total_ns

    void log_durations(wal_log_t* log, wal_durations_t* writes, wal_durations_t* syncs)
    bint log_drop(wal_log_t* log, char* name)
    bint log_has_room(wal_log_t* log, uint64_t size_bytes, bint privileged)
    int log_wait(wal_log_t* log, uint64_t batch, long timeout_ms)
    void log_stop(wal_log_t* log)
    void log_free(wal_log_t* log)
    void group_recycle(wal_log_t* log, wal_group_t* group)
    void group_free(wal_group_t* group)

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void* buffer, size_t count)


def crc32c(const uint8_t[::1] data not None, uint32_t value=0):
    """CRC-32C (Castagnoli) of `data`, chained on from `value`."""
    if not data.shape[0]:
        return value
    return crc32c_update(value, &data[0], data.shape[0])
