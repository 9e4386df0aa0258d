# The writer's Python face; every call is short and takes the log's mutex, never a file.

cdef class LogWriter:
    cdef wal_log_t* log
    cdef Batch batch
    cdef readonly str directory
    cdef readonly int fd

    def __cinit__(self):
        self.log = log_new()
        if self.log == NULL:
            raise MemoryError

    def __init__(self, str directory not None, str name not None, *, uint64_t sequence, uint64_t offset_bytes, uint32_t crc,
                 uint64_t last_index, hard_state, bytes metadata not None, uint64_t segment_bytes, uint64_t zero_ahead_bytes,
                 uint64_t reserve_bytes):
        cdef int error
        cdef bytes path = directory.encode(), file_name = name.encode()
        if not 0 < len(metadata) <= 32 or len(file_name) > 63 or self.batch is not None:
            raise ValueError("bad arguments of LogWriter")
        self.directory = directory
        self.batch = Batch()
        self.log.segment_bytes = segment_bytes
        self.log.ahead_bytes = zero_ahead_bytes
        self.log.reserve_bytes = reserve_bytes
        self.log.offset = offset_bytes
        self.log.crc = crc
        self.log.last_index = last_index
        if hard_state is not None:
            self.log.state.term, self.log.state.vote, self.log.state.commit = hard_state.term, hard_state.vote, hard_state.commit
            self.log.state.known = 1
        memcpy(self.log.metadata, <const char*> metadata, len(metadata))
        self.log.metadata_length = len(metadata)
        error = log_open(self.log, path, file_name, sequence)
        if error:
            raise FatalError(f"cannot open the log {directory}/{name}: {strerror(error).decode()}")
        self.fd = self.log.notify_fd

    def __dealloc__(self):
        if self.log != NULL:
            log_stop(self.log)
            self.release(self.log.head)
            self.release(self.log.done)
            log_free(self.log)

    def append(self, hard_state, uint64_t first_index, terms, datas, *, types=None, bytes mark=b"", uint64_t restart_index=0):
        cdef wal_log_t* log = self.log
        cdef wal_entry_t* entry
        cdef size_t i
        cdef int status
        self.batch.take(hard_state, terms, datas, types, mark)
        if not self.batch.count and hard_state is None and not mark:
            raise ValueError("an empty batch")
        if restart_index and (self.batch.count or not mark):
            raise ValueError("the log restarts with a mark and without entries")
        if self.batch.count and (not first_index or first_index > log.last_index + 1):
            raise ValueError(f"entry {first_index} does not follow {log.last_index}")
        for i in range(self.batch.count):
            entry = &self.batch.entries[i]
            if entry.length >= EXTERNAL_BYTES:
                Py_INCREF(<object> <PyObject*> entry.owner)
        status = log_append(log, &self.batch.state, first_index, self.batch.entries, self.batch.count,
                            self.batch.mark, self.batch.mark_length, restart_index)
        if status:
            for i in range(self.batch.count):
                entry = &self.batch.entries[i]
                if entry.length >= EXTERNAL_BYTES:
                    Py_DECREF(<object> <PyObject*> entry.owner)
            if status == -2:
                self.fail("the log is closed")
            raise MemoryError
        return log.batch

    def completed(self):
        cdef wal_log_t* log = self.log
        cdef wal_group_t* done
        cdef wal_group_t* next_group
        cdef uint64_t count, durable
        cdef int error
        read(log.notify_fd, &count, sizeof(count))
        pthread_mutex_lock(&log.mutex)
        done = log.done
        log.done = NULL
        durable = log.durable_batch
        error = log.error
        pthread_mutex_unlock(&log.mutex)
        self.release(done)
        pthread_mutex_lock(&log.mutex)
        while done != NULL:
            next_group = done.next
            group_recycle(log, done)
            done = next_group
        pthread_mutex_unlock(&log.mutex)
        if error:
            self.fail("")
        return durable

    cdef void release(self, wal_group_t* group) noexcept:
        """Gives back the bytes that these groups pointed at."""
        cdef size_t i
        while group != NULL:
            for i in range(group.owner_count):
                Py_DECREF(<object> <PyObject*> group.owners[i])
            group.owner_count = 0
            group = group.next

    cdef int fail(self, str otherwise) except -1:
        cdef str text
        pthread_mutex_lock(&self.log.mutex)
        text = (<bytes> self.log.error_text).decode(errors="replace")
        pthread_mutex_unlock(&self.log.mutex)
        raise FatalError(f"write-ahead log in {self.directory}: {text or otherwise}")

    def has_room(self, uint64_t size_bytes=0, *, bint privileged=False):
        return log_has_room(self.log, size_bytes, privileged)

    def wait_durable(self, uint64_t batch, long timeout_ms):
        cdef int status
        with nogil:
            status = log_wait(self.log, batch, timeout_ms)
        if status < 0:
            self.fail("")
        return status == 1

    def drop_segments(self, names):
        """Has these files removed in the background, in this order, each for good before the next. At most a few thousand wait:
        the number that was taken."""
        cdef wal_log_t* log = self.log
        cdef char* copy
        cdef int taken = 0
        for name in names:
            encoded = (<str> name).encode()
            copy = <char*> calloc(1, len(encoded) + 1)
            if copy == NULL:
                raise MemoryError
            memcpy(copy, <const char*> encoded, len(encoded))
            if not log_drop(log, copy):
                free(copy)
                break
            taken += 1
        return taken

    def close(self):
        if self.log.closing:
            return
        with nogil:
            log_stop(self.log)
        self.release(self.log.head)
        self.release(self.log.done)
        if self.log.error:
            self.fail("")

    @property
    def segment(self):
        """(sequence, name) of the segment that the next batch goes to, if it fits."""
        return self.log.current.sequence, (<bytes> self.log.current.final).decode()

    @property
    def last_index(self):
        return self.log.last_index

    @property
    def batch_last(self):
        """Number of the last batch appended."""
        return self.log.batch

    @property
    def room_bytes(self):
        return log_view(self.log).room_bytes

    @property
    def queued_bytes(self):
        return log_view(self.log).queued_bytes

    @property
    def stalled(self):
        return bool(log_view(self.log).stalled)

    @property
    def no_space(self):
        """The disk could not give what the log wanted ahead."""
        return bool(log_view(self.log).tight)

    @property
    def reserve_ready(self):
        return bool(log_view(self.log).reserve)

    @property
    def sync_count(self):
        return log_view(self.log).sync_count

    @property
    def written_bytes(self):
        return log_view(self.log).written_bytes

    def durations(self):
        cdef wal_durations_t writes
        cdef wal_durations_t syncs
        log_durations(self.log, &writes, &syncs)
        return (([writes.counts[i] for i in range(DURATION_BUCKETS)], writes.total_ns / 1e9),
                ([syncs.counts[i] for i in range(DURATION_BUCKETS)], syncs.total_ns / 1e9))

    @property
    def drops_pending(self):
        return log_view(self.log).drop_count
