# Declarations of native/backend.h and of the part of lmdb.h that is used here.

cdef extern from "lmdb.h" nogil:
    ctypedef struct MDB_txn:
        pass
    ctypedef struct MDB_cursor:
        pass
    ctypedef struct MDB_env:
        pass
    ctypedef unsigned int MDB_dbi
    ctypedef struct MDB_val:
        size_t mv_size
        void* mv_data
    ctypedef struct MDB_stat:
        size_t ms_entries
    ctypedef enum MDB_cursor_op:
        MDB_NEXT
        MDB_LAST
    int MDB_CORRUPTED, MDB_INVALID, MDB_VERSION_MISMATCH, MDB_NOTFOUND, MDB_PAGE_NOTFOUND
    const char* mdb_strerror(int error)
    unsigned int MDB_RDONLY
    int mdb_txn_begin(MDB_env* env, MDB_txn* parent, unsigned int flags, MDB_txn** txn)
    int mdb_get(MDB_txn* txn, MDB_dbi dbi, MDB_val* key, MDB_val* data)
    int mdb_stat(MDB_txn* txn, MDB_dbi dbi, MDB_stat* stat)
    int mdb_cursor_open(MDB_txn* txn, MDB_dbi dbi, MDB_cursor** cursor)
    void mdb_cursor_close(MDB_cursor* cursor)
    int mdb_cursor_get(MDB_cursor* cursor, MDB_val* key, MDB_val* data, MDB_cursor_op op)

cdef extern from "native/backend.h" nogil:
    enum:
        BUCKETS_MAX
        BUCKET_KEY
        BULK_MAX
        SIDE_KEY_BYTES_MAX
    const char** bucket_names

    ctypedef struct backend_record_t:
        uint64_t main
        uint32_t sub

    ctypedef int (*backend_scan_fn)(void* context, const backend_record_t* record)

    ctypedef struct backend_delete_t:
        uint64_t main
        uint32_t sub
        uint8_t tombstone

    ctypedef struct backend_side_t:
        int bucket
        int remove
        MDB_val key
        MDB_val value

    ctypedef struct backend_commit_t:
        const backend_record_t* records
        size_t record_count
        backend_delete_t* deletes
        size_t delete_count
        backend_side_t* sides
        size_t side_count
        uint64_t applied_index
        uint64_t term

    ctypedef enum backend_bulk_kind_t:
        BULK_HASH
        BULK_COPY
        BULK_SCAN
        BULK_EXPORT

    ctypedef struct backend_export_t:
        MDB_txn* txn
        int fd
        backend_side_t* sides
        size_t side_count
        uint64_t reserve_bytes

    ctypedef struct backend_bulk_t:
        int64_t number
        backend_bulk_kind_t kind
        char* path
        uint64_t start "from"
        uint64_t stop "to"
        backend_scan_fn callback
        void* context
        backend_export_t* export_
        int64_t result
        int error

    ctypedef struct pthread_mutex_t:
        pass
    int pthread_mutex_lock(pthread_mutex_t* mutex)
    int pthread_mutex_unlock(pthread_mutex_t* mutex)

    ctypedef struct backend_t:
        MDB_env* env
        MDB_dbi* buckets
        MDB_txn* reader
        MDB_cursor* cursor
        uint64_t applied_index
        uint64_t term
        pthread_mutex_t mutex
        int notify_fd
        int bulk_fd
        backend_commit_t commit
        bint committing
        int error
        const char* error_what
        uint64_t durable_index
        uint64_t durable_term
        uint64_t size_bytes
        uint64_t in_use_bytes

    ctypedef struct backend_view_t:
        uint64_t size_bytes
        uint64_t in_use_bytes
        size_t jobs_pending
        bint committing
        int stalled

    backend_view_t backend_view(backend_t* backend)
    backend_t* backend_new()
    int backend_open(backend_t* backend, const char* path, size_t map_bytes, const char** what)
    int backend_get(backend_t* backend, uint64_t main, uint32_t sub, bint tombstone, backend_record_t* out, int* error)
    int scan_records(MDB_cursor* cursor, uint64_t start, uint64_t stop, backend_scan_fn callback, void* context, int* error)
    int renew_reader(backend_t* backend)
    int measure(backend_t* backend, uint64_t* size, uint64_t* in_use)
    void backend_submit(backend_t* backend)
    int64_t backend_submit_bulk(backend_t* backend, backend_bulk_t job)
    void backend_cancel_export(backend_t* backend, int64_t number)
    void export_free(backend_export_t* export_)
    bint backend_take_bulk(backend_t* backend, backend_bulk_t* out)
    void backend_exchange(backend_t* backend, backend_t* other)
    bint backend_wait(backend_t* backend, long timeout_ms, bint bulk)
    void backend_stop(backend_t* backend)
    void backend_free_commit(backend_t* backend)
    void backend_free(backend_t* backend)

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void* buffer, size_t count)
