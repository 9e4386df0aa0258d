# distutils: define_macros=_GNU_SOURCE=1
"""The LMDB environment of one member: records by revision, the small buckets, applied index and term in one transaction.

Invariant: data and applied index change together; an applied index that `completed` has returned is on disk.
Must not know: what a record says, Raft, when to commit.

Who owns what: `native/backend.h` owns the environment and its two threads and never touches a Python object; this module keeps
the generation and the bytes of a commit alive until it has ended.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.errno cimport EDQUOT, ENOSPC
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

import os

from raftsched.errors import CorruptError, FatalError, NoSpaceError
from raftsched.store._records cimport Generation, RecordSource, record_t, scan_fn

include "_lmdb/native.pxi"

BUCKETS = tuple((<bytes> bucket_names[i]).decode() for i in range(BUCKETS_MAX))
cdef dict BUCKET_NUMBERS = {name: number for number, name in enumerate(BUCKETS)}

DESCRIBED = ("cluster", "members", "meta")  # the small buckets that an etcd has other pairs in


def side_order(tuple side):
    return BUCKET_NUMBERS[side[0]], side[1]


def as_stored(found):
    """What differs from the stored buckets: nothing."""
    return []


cdef str text_of(int error):
    return (<bytes> mdb_strerror(error)).decode(errors="replace")


cdef struct scan_job_t:
    scan_fn callback
    void* context


cdef class Backend(RecordSource):
    cdef backend_t* handle
    cdef readonly str path
    cdef readonly int fd, bulk_fd
    cdef bint closed
    cdef uint64_t map_bytes
    cdef int read_error          # of the last get or scan that answered -1
    cdef object held             # what the running commit's pointers belong to
    cdef dict bulk_held          # job number: what its pointers belong to

    def __cinit__(self):
        self.handle = backend_new()
        if self.handle == NULL:
            raise MemoryError
        self.closed = True
        self.bulk_held = {}

    def __init__(self, str path not None, *, uint64_t map_bytes=1 << 40, bint create=True):
        cdef const char* what = NULL
        cdef int error
        if self.path is not None:
            raise ValueError("a backend is opened once")
        self.path = path
        self.map_bytes = map_bytes
        data_path = os.path.join(path, "data.mdb")
        fresh = not os.path.exists(data_path)
        if fresh and not create:
            raise FatalError(f"no database in {path}")
        try:
            if not os.path.isdir(path):
                os.mkdir(path, 0o700)
        except OSError as failed:
            kind = NoSpaceError if failed.errno in (ENOSPC, EDQUOT) else FatalError
            raise kind(f"cannot create {path}: {failed.strerror}") from failed
        error = backend_open(self.handle, os.fsencode(path), map_bytes, &what)
        if error:
            if fresh and os.path.exists(data_path):
                os.unlink(data_path)  # begun and not finished: nothing was ever in it
            raise_fatal((<bytes> what).decode(), path, error)
        self.closed = False
        self.fd = self.handle.notify_fd
        self.bulk_fd = self.handle.bulk_fd

    def __dealloc__(self):
        if self.handle != NULL:
            backend_stop(self.handle)
            backend_free(self.handle)

    # -- writing

    def commit(self, Generation generation, deletes, side, uint64_t applied_index, uint64_t term):
        cdef backend_commit_t* commit = &self.handle.commit
        if self.closed or backend_view(self.handle).committing:
            raise ValueError("a commit is under way, or the backend is closed")
        if generation is not None and not generation.frozen:
            raise ValueError("the generation is still filling")
        if applied_index < self.handle.applied_index:
            raise ValueError(f"the applied index falls from {self.handle.applied_index} to {applied_index}")
        self.drop_commit()
        try:
            self.take_deletes(commit, list(deletes))
            held = self.take_sides(commit, list(side))
        except BaseException:
            self.drop_commit()
            raise
        if generation is not None:
            commit.records = <const backend_record_t*> generation.records
            commit.record_count = generation.count
        commit.applied_index, commit.term = applied_index, term
        self.held = (generation, held)
        backend_submit(self.handle)

    cdef int take_deletes(self, backend_commit_t* commit, list deletes) except -1:
        cdef backend_delete_t* one
        commit.deletes = <backend_delete_t*> calloc(len(deletes) + 1, sizeof(backend_delete_t))
        if commit.deletes == NULL:
            raise MemoryError
        for item in deletes:
            one = &commit.deletes[commit.delete_count]
            one.main, one.sub, tombstone = item
            one.tombstone = 1 if tombstone else 0
            commit.delete_count += 1
        return 0

    cdef list take_sides(self, backend_commit_t* commit, list side):
        """Fills commit.sides; the bytes objects that they point into."""
        cdef backend_side_t* one
        cdef list held = []
        commit.sides = <backend_side_t*> calloc(len(side) + 1, sizeof(backend_side_t))
        if commit.sides == NULL:
            raise MemoryError
        for bucket, key, value in side:
            if not 0 < len(key) <= SIDE_KEY_BYTES_MAX or type(key) is not bytes or (value is not None and type(value) is not bytes):
                raise ValueError(f"a side key has 1 to {SIDE_KEY_BYTES_MAX} bytes, key and value are bytes")
            one = &commit.sides[commit.side_count]
            one.bucket = BUCKET_NUMBERS[bucket]
            if one.bucket == BUCKET_KEY:
                raise ValueError("records come in generations")
            one.remove = value is None
            one.key.mv_size, one.key.mv_data = len(key), PyBytes_AS_STRING(key)
            if value is not None:
                one.value.mv_size, one.value.mv_data = len(value), PyBytes_AS_STRING(value)
            held.append((key, value))
            commit.side_count += 1
        return held

    cdef void drop_commit(self) noexcept:
        backend_free_commit(self.handle)
        self.held = None

    def completed(self):
        cdef uint64_t count
        cdef int error
        cdef bint committing
        read(self.handle.notify_fd, &count, sizeof(count))
        pthread_mutex_lock(&self.handle.mutex)
        error = self.handle.error
        committing = self.handle.committing
        self.handle.applied_index = self.handle.durable_index
        self.handle.term = self.handle.durable_term
        pthread_mutex_unlock(&self.handle.mutex)
        if error:
            raise_fatal((<bytes> self.handle.error_what).decode(), self.path, error)
        if not committing:
            self.drop_commit()
        return self.handle.applied_index

    def retry(self):
        if self.closed or not backend_view(self.handle).stalled:
            raise ValueError("no stalled commit")
        backend_submit(self.handle)

    def wait(self, long timeout_ms):
        cdef bint done
        with nogil:
            done = backend_wait(self.handle, timeout_ms, False)
        return done

    def close(self):
        """A stalled commit is given up: its records are in the log."""
        if self.closed:
            return
        self.closed = True
        with nogil:
            backend_stop(self.handle)
        self.drop_commit()
        self.bulk_held.clear()

    @property
    def committing(self):
        return bool(backend_view(self.handle).committing)

    @property
    def stalled(self):
        cdef int error = backend_view(self.handle).stalled
        return f"{self.path}: {text_of(error)}" if error else ""

    @property
    def applied_index(self):
        return self.handle.applied_index

    @property
    def term(self):
        return self.handle.term

    @property
    def size_bytes(self):
        return backend_view(self.handle).size_bytes

    @property
    def in_use_bytes(self):
        return backend_view(self.handle).in_use_bytes

    def measure_now(self):
        """Brings `size_bytes` and `in_use_bytes` up to date; walks the list of free pages."""
        cdef uint64_t size = 0, in_use = 0
        cdef int error
        self.check_open()
        with nogil:
            error = measure(self.handle, &size, &in_use)
        if error:
            raise_fatal("measure", self.path, error)
        pthread_mutex_lock(&self.handle.mutex)
        self.handle.size_bytes, self.handle.in_use_bytes = size, in_use
        pthread_mutex_unlock(&self.handle.mutex)

    # -- reading, on the loop's transaction

    cdef int get(self, uint64_t main, uint32_t sub, bint tombstone, record_t* out) noexcept nogil:
        if self.closed:
            return -1
        return backend_get(self.handle, main, sub, tombstone, <backend_record_t*> out, &self.read_error)

    cdef int scan(self, uint64_t from_main, uint64_t to_main, scan_fn callback, void* context) noexcept nogil:
        cdef MDB_cursor* cursor
        cdef int answer
        if self.closed:
            return -1
        # a cursor of its own: the callback may itself scan
        self.read_error = mdb_cursor_open(self.handle.reader, self.handle.buckets[<int> BUCKET_KEY], &cursor)
        if self.read_error:
            return -1
        answer = scan_records(cursor, from_main, to_main, <backend_scan_fn> callback, context, &self.read_error)
        mdb_cursor_close(cursor)
        return answer

    def error(self):
        """The text of the last read that failed."""
        return f"cannot read the database {self.path}: {text_of(self.read_error)}" if self.read_error else ""

    cdef int check_open(self) except -1:
        if self.closed:
            raise ValueError("the backend is closed")
        return 0

    def renew(self):
        cdef int error
        self.check_open()
        error = renew_reader(self.handle)
        if error:
            raise_fatal("read", self.path, error)

    def bucket_items(self, str bucket not None):
        self.check_open()
        return self.items_in(self.handle.reader, bucket)

    cdef list items_in(self, MDB_txn* txn, str bucket):
        cdef MDB_cursor* cursor
        cdef MDB_val key, value
        cdef int error
        found = []
        error = mdb_cursor_open(txn, self.handle.buckets[<int> BUCKET_NUMBERS[bucket]], &cursor)
        if not error:
            while True:
                error = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)
                if error:
                    break
                found.append((PyBytes_FromStringAndSize(<char*> key.mv_data, key.mv_size),
                              PyBytes_FromStringAndSize(<char*> value.mv_data, value.mv_size)))
            mdb_cursor_close(cursor)
        if error != MDB_NOTFOUND:
            raise_fatal("read", self.path, error)
        return found

    def bucket_get(self, str bucket not None, bytes key not None):
        cdef MDB_val name, value
        cdef int error
        self.check_open()
        name.mv_size, name.mv_data = len(key), PyBytes_AS_STRING(key)
        error = mdb_get(self.handle.reader, self.handle.buckets[<int> BUCKET_NUMBERS[bucket]], &name, &value)
        if error == MDB_NOTFOUND:
            return None
        if error:
            raise_fatal("read", self.path, error)
        return PyBytes_FromStringAndSize(<char*> value.mv_data, value.mv_size)

    def record_count(self):
        cdef MDB_stat stat
        cdef int error
        self.check_open()
        error = mdb_stat(self.handle.reader, self.handle.buckets[<int> BUCKET_KEY], &stat)
        if error:
            raise_fatal("read", self.path, error)
        return stat.ms_entries

    @property
    def last_revision(self):
        """(main, sub) of the last record as of the last renew; (0, 0) = none."""
        cdef MDB_val key, value
        cdef int error
        self.check_open()
        error = mdb_cursor_get(self.handle.cursor, &key, &value, MDB_LAST)
        if error == MDB_NOTFOUND:
            return 0, 0
        if error:
            raise_fatal("read", self.path, error)
        raw = PyBytes_FromStringAndSize(<char*> key.mv_data, key.mv_size)
        return int.from_bytes(raw[:8], "big"), int.from_bytes(raw[9:17], "big")

    # -- bulk jobs

    def start_hash(self, describe=as_stored):
        return self.submit_described(BULK_HASH, describe, -1, 0)

    def start_copy(self, str path not None):
        if os.path.exists(path):
            raise ValueError(f"{path} exists")
        return self.submit(BULK_COPY, path, None, 0, 0)

    def start_scan(self, uint64_t from_main, uint64_t to_main, job):
        if PyCapsule_GetPointer(job, "raftsched.scan_job") == NULL:
            raise ValueError("not a scan job")
        return self.submit(BULK_SCAN, None, job, from_main, to_main)

    def start_export(self, int descriptor, describe, uint64_t reserve_bytes):
        return self.submit_described(BULK_EXPORT, describe, os.dup(descriptor), reserve_bytes)

    cdef int64_t submit_described(self, backend_bulk_kind_t kind, describe, int descriptor, uint64_t reserve_bytes) except -1:
        """Takes over `descriptor`, -1 = none."""
        cdef backend_commit_t sides
        cdef backend_bulk_t request
        cdef backend_export_t* export = <backend_export_t*> calloc(1, sizeof(backend_export_t))
        cdef int64_t number
        if export == NULL:
            if descriptor >= 0:
                os.close(descriptor)
            raise MemoryError
        export.fd = descriptor
        try:
            self.check_open()
            error = mdb_txn_begin(self.handle.env, NULL, MDB_RDONLY, &export.txn)
            if error:
                raise_fatal("read", self.path, error)
            side = describe({bucket: self.items_in(export.txn, bucket) for bucket in DESCRIBED})
            sides.sides, sides.side_count = NULL, 0
            held = self.take_sides(&sides, sorted(side, key=side_order))
            export.sides, export.side_count, export.reserve_bytes = sides.sides, sides.side_count, reserve_bytes
            request.number = request.result = request.error = 0
            request.kind, request.path, request.start, request.stop = kind, NULL, 0, 0
            request.callback, request.context, request.export_ = NULL, NULL, export
            number = backend_submit_bulk(self.handle, request)
            if number < 0:
                raise ValueError(f"more than {BULK_MAX} bulk jobs")
        except BaseException:
            export_free(export)
            raise
        self.bulk_held[number] = held
        return number

    def cancel_export(self, int64_t number):
        backend_cancel_export(self.handle, number)

    cdef int64_t submit(self, backend_bulk_kind_t kind, str path, job, uint64_t start, uint64_t stop) except -1:
        cdef backend_bulk_t request
        cdef scan_job_t* scan
        cdef bytes encoded
        cdef int64_t number
        self.check_open()
        request.number = request.result = request.error = 0
        request.kind, request.path, request.start, request.stop = kind, NULL, start, stop
        request.callback, request.context, request.export_ = NULL, NULL, NULL
        if job is not None:
            scan = <scan_job_t*> PyCapsule_GetPointer(job, "raftsched.scan_job")
            request.callback, request.context = <backend_scan_fn> scan.callback, scan.context
        if path is not None:
            encoded = os.fsencode(path) + b"\0"
            request.path = <char*> malloc(len(encoded))
            if request.path == NULL:
                raise MemoryError
            memcpy(request.path, PyBytes_AS_STRING(encoded), len(encoded))
        number = backend_submit_bulk(self.handle, request)
        if number < 0:
            free(request.path)
            raise ValueError(f"more than {BULK_MAX} bulk jobs")
        self.bulk_held[number] = job
        return number

    def bulk_completed(self):
        cdef backend_bulk_t job
        cdef uint64_t count
        ended = []
        read(self.handle.bulk_fd, &count, sizeof(count))
        while backend_take_bulk(self.handle, &job):
            free(job.path)
            self.bulk_held.pop(job.number, None)
            ended.append((job.number, job.result, text_of(job.error) if job.error else ""))
        return ended

    def wait_bulk(self, long timeout_ms):
        cdef bint done
        with nogil:
            done = backend_wait(self.handle, timeout_ms, True)
        return done

    @property
    def bulk_pending(self):
        return backend_view(self.handle).jobs_pending

    def swap(self, str path not None):
        cdef Backend other
        self.check_open()
        if backend_view(self.handle).committing or backend_view(self.handle).jobs_pending:
            raise ValueError("a commit or a bulk job is under way")
        other = Backend(path, map_bytes=self.map_bytes, create=False)
        if other.handle.applied_index != self.handle.applied_index:
            other.close()
            raise ValueError("the copy is of another applied index: a commit came in between")
        backend_exchange(self.handle, other.handle)
        other.close()
        self.path = path


cdef int raise_fatal(str what, str path, int error) except -1:
    kind = FatalError
    if error in (MDB_CORRUPTED, MDB_INVALID, MDB_VERSION_MISMATCH, MDB_PAGE_NOTFOUND):
        kind = CorruptError
    elif error in (ENOSPC, EDQUOT):
        kind = NoSpaceError
    raise kind(f"cannot {what} the database {path}: {text_of(error)}")


def stored_applied_index(str path not None):
    """The applied index in the environment at `path`, which must not be open in this process. Raises FatalError."""
    cdef Backend backend = Backend(path, create=False)
    cdef uint64_t applied = backend.handle.applied_index
    backend.close()
    return applied
