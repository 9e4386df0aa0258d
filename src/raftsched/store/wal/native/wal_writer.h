/* The two native threads of the write-ahead log. Neither ever takes the interpreter's lock.
 *
 *   loop thread   encodes a batch into the last queued group, or starts a new group
 *   writer        takes one group: pwritev, fdatasync; of a new segment also rename and fsync of the directory; eventfd
 *   preparer      writes zeros ahead of the current segment, makes the spare segment and the reserve file, unlinks
 *
 * Invariants:
 *   - A group is written only after the one before it is synced: only the last group on disk can be torn.
 *   - A segment gets its name after its first group is synced: a segment under its own name begins with a whole batch.
 *   - Bytes are written only below `zeroed` of their segment, or by the writer after it has allocated them: a full disk
 *     is met while allocating (`stalled`: waits and tries again), not while writing.
 *   - `mutex` guards all fields of wal_log_t and wal_segment_t; no file is read, written or synced under it.
 *   - Any other error sets `error` once, for good: nothing is written after it.
 */
#ifndef RAFTSCHED_WAL_WRITER_H
#define RAFTSCHED_WAL_WRITER_H

#include "wal_preparer.h"

/* ---- writer ------------------------------------------------------------------------------------------------------------- */

/* Allocates up to `end`; the segment's `extending` is ours. 0 or an errno. */
static int allocate_to(wal_segment_t *segment, uint64_t zeroed, uint64_t end)
{
#ifdef __linux__
    while (fallocate(segment->fd, 0, (off_t)zeroed, (off_t)(end - zeroed)))
        if (errno == EOPNOTSUPP || errno == ENOSYS)
            return write_zeros(segment->fd, zeroed, end, NULL, NULL);
        else if (errno != EINTR)
            return errno;
    return 0;
#else
    return write_zeros(segment->fd, zeroed, end, NULL, NULL);
#endif
}

/* Makes the group's bytes lie below `zeroed`; waits while the disk is full. With the mutex held; -1 = the log has ended. */
static int make_room(wal_log_t *log, wal_group_t *group)
{
    wal_segment_t *segment = group->segment;
    uint64_t end = (group->offset + group->length + 4095) & ~4095ull;
    for (;;) {
        if (log->error)
            return -1;
        if (group->offset + group->length <= segment->zeroed)
            return 0;
        if (segment->extending) {
            pthread_cond_wait(&log->change, &log->mutex);
            continue;
        }
        uint64_t zeroed = segment->zeroed;
        segment->extending = 1;
        pthread_mutex_unlock(&log->mutex);
        int error = allocate_to(segment, zeroed, end);
        pthread_mutex_lock(&log->mutex);
        segment->extending = 0;
        pthread_cond_broadcast(&log->change);
        if (!error) {
            segment->zeroed = end;
            log->stalled = 0;
        } else if (!is_full(error)) {
            log_fail(log, "cannot allocate", segment->name, error);
        } else if (log->closing) {
            log_fail(log, "no space for the last writes to", segment->name, error);
        } else {
            struct timespec until;
            log->stalled = log->full = log->tight = 1;
            pthread_cond_signal(&log->prepare); /* it gives up the reserve */
            log_deadline(&until, RETRY_STALLED_MS);
            pthread_cond_timedwait(&log->work, &log->mutex, &until);
        }
    }
}

/* One pwritev where possible. 0 or an errno. */
static int write_group(const wal_group_t *group)
{
    struct iovec vectors[IOVECS_MAX];
    uint64_t offset = group->offset;
    size_t piece = 0, skip = 0;
    while (piece < group->piece_count) {
        int count = 0;
        for (size_t i = piece; i < group->piece_count && count < IOVECS_MAX; i++, count++) {
            const wal_piece_t *p = &group->pieces[i];
            const uint8_t *start = p->external ? p->external : group->buffer + p->offset;
            size_t cut = i == piece ? skip : 0;
            vectors[count].iov_base = (void *)(uintptr_t)(start + cut);
            vectors[count].iov_len = p->length - cut;
        }
        ssize_t wrote = pwritev(group->segment->fd, vectors, count, (off_t)offset);
        if (wrote < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
        if (wrote == 0)
            return EIO;
        offset += (uint64_t)wrote;
        for (skip += (size_t)wrote; piece < group->piece_count && skip >= group->pieces[piece].length; piece++)
            skip -= group->pieces[piece].length;
    }
    return 0;
}

/* Gives a new segment its name. 0 or an errno. */
static int publish(wal_log_t *log, wal_segment_t *segment)
{
    if (renameat(log->directory_fd, segment->name, log->directory_fd, segment->final))
        return errno;
    return fsync(log->directory_fd) ? errno : 0;
}

/* Writes the group at the head of the queue. With the mutex held; -1 = the log has ended. */
static int write_head(wal_log_t *log)
{
    wal_group_t *group = log->head;
    const char *what = "cannot write";
    log->writing = 1; /* from here on the loop thread adds nothing to it */
    if (make_room(log, group))
        return -1;
    pthread_mutex_unlock(&log->mutex);
    uint64_t begun_ns = monotonic_ns();
    int error = write_group(group);
    uint64_t written_ns = monotonic_ns();
    if (!error && fdatasync(group->segment->fd)) {
        error = errno;
        what = "cannot sync";
    }
    uint64_t synced_ns = monotonic_ns();
    if (!error && group->publishes && (error = publish(log, group->segment)))
        what = "cannot name";
    pthread_mutex_lock(&log->mutex);
    if (error) {
        log_fail(log, what, group->segment->name, error);
        return -1;
    }
    if (group->publishes)
        memcpy(group->segment->name, group->segment->final, sizeof group->segment->name);
    log->head = group->next;
    if (!log->head)
        log->tail = NULL;
    log->writing = 0;
    log->sync_count++;
    duration_add(&log->writes, written_ns - begun_ns);
    duration_add(&log->syncs, synced_ns - written_ns);
    log->written_bytes += group->length;
    log->queued_bytes -= group->length;
    log->durable_batch = group->batch_last;
    segment_release(group->segment);
    group->segment = NULL;
    group->next = log->done;
    log->done = group;
    pthread_cond_broadcast(&log->change);
    log_notify(log);
    return 0;
}

static void *log_writer(void *argument)
{
    wal_log_t *log = (wal_log_t *)argument;
    pthread_mutex_lock(&log->mutex);
    while (!log->error && (log->head || !log->closing)) {
        if (!log->head)
            pthread_cond_wait(&log->work, &log->mutex);
        else if (write_head(log))
            break;
    }
    pthread_mutex_unlock(&log->mutex);
    return NULL;
}

/* ---- loop thread -------------------------------------------------------------------------------------------------------- */

static void group_free(wal_group_t *group)
{
    segment_release(group->segment);
    free(group->buffer);
    free(group->pieces);
    free(group->owners);
    free(group);
}

/* An empty group at the end of the queue of encoding; with the mutex held; NULL = out of memory. */
static wal_group_t *group_new(wal_log_t *log)
{
    wal_group_t *group = log->idle;
    if (group) {
        log->idle = group->next;
        log->idle_count--;
    } else if (!(group = (wal_group_t *)calloc(1, sizeof *group))) {
        return NULL;
    }
    group->next = NULL;
    group->length = 0;
    group->used = group->piece_count = group->owner_count = 0;
    group->publishes = 0;
    return group;
}

/* Takes back a written group whose owners were released; with the mutex held. */
static void group_recycle(wal_log_t *log, wal_group_t *group)
{
    if (log->idle_count == GROUPS_FREE_MAX || group->capacity > GROUP_KEPT_BYTES_MAX) {
        group_free(group);
        return;
    }
    group->next = log->idle;
    log->idle = group;
    log->idle_count++;
}

/* Turns the spare into the current segment: the new group begins with the head that makes older segments dispensable. */
static void rotate(wal_log_t *log, wal_group_t *group)
{
    wal_segment_t *segment = log->spare;
    log->spare = NULL;
    segment->sequence = log->current->sequence + 1;
    snprintf(segment->final, sizeof segment->final, "%016llx-%016llx.wal", (unsigned long long)segment->sequence,
             (unsigned long long)(log->last_index + 1));
    segment_release(log->current);
    log->current = segment;
    log->offset = 0;
    group->publishes = 1;
}

static void group_begin(wal_log_t *log, wal_group_t *group)
{
    group->segment = log->current;
    group->segment->references++;
    group->offset = log->offset;
    group_put_batch_start(group, &log->crc, log->current->sequence, log->offset);
    if (log->offset)
        return;
    group_put_record(group, RECORD_METADATA, &log->crc, log->metadata, log->metadata_length);
    if (log->state.known)
        group_put_state(group, &log->crc, &log->state);
}

/* The group that the next batch goes into, with room reserved for it; NULL = out of memory, nothing changed. */
static wal_group_t *group_for(wal_log_t *log, uint64_t disk, size_t buffer, size_t externals)
{
    wal_group_t *group = log->tail;
    size_t head = 3 * (RECORD_HEAD_BYTES_MAX + STATE_BYTES_MAX);
    int fits = log->offset + disk + head <= log->segment_bytes;
    if (group && !(group == log->head && log->writing) && group->length < GROUP_BYTES_MAX && (fits || !log->spare))
        return group_reserve(group, buffer, externals) ? NULL : group;
    group = group_new(log);
    if (!group)
        return NULL;
    if (group_reserve(group, buffer + head, externals)) {
        group_recycle(log, group);
        return NULL;
    }
    if (!fits && log->spare)
        rotate(log, group);
    group_begin(log, group);
    if (log->tail)
        log->tail->next = group;
    else
        log->head = group;
    log->tail = group;
    log->offset += group->length;
    log->queued_bytes += group->length;
    return group;
}

/* Queues one batch; 0, -1 = out of memory, -2 = the log has ended: then nothing changed. The caller has checked everything.
 * `restart_index`, not 0: the mark is that of an installed snapshot, and the log goes on behind that index, whatever it held. */
static int log_append(wal_log_t *log, const wal_state_t *state, uint64_t first_index, const wal_entry_t *entries, size_t count,
                      const uint8_t *mark, size_t mark_length, uint64_t restart_index)
{
    uint64_t disk;
    size_t buffer, externals;
    entries_need(entries, count, &disk, &buffer, &externals);
    disk += 2 * RECORD_HEAD_BYTES_MAX + STATE_BYTES_MAX + mark_length;
    buffer += 2 * RECORD_HEAD_BYTES_MAX + STATE_BYTES_MAX + mark_length;
    pthread_mutex_lock(&log->mutex);
    if (log->error || log->closing) {
        pthread_mutex_unlock(&log->mutex);
        return -2;
    }
    wal_group_t *group = group_for(log, disk, buffer, externals);
    if (!group) {
        pthread_mutex_unlock(&log->mutex);
        return -1;
    }
    uint64_t before = group->length;
    for (size_t i = 0; i < count; i++)
        group_put_entry(group, &log->crc, &entries[i], first_index + i);
    if (count)
        log->last_index = first_index + count - 1;
    if (state->known) {
        group_put_state(group, &log->crc, state);
        log->state = *state;
    }
    if (mark_length)
        group_put_record(group, RECORD_SNAPSHOT, &log->crc, mark, mark_length);
    if (restart_index)
        log->last_index = restart_index;
    log->offset += group->length - before;
    log->queued_bytes += group->length - before;
    group->batch_last = ++log->batch;
    int work = group == log->head && !log->writing, prepare = wants_preparing(log);
    pthread_mutex_unlock(&log->mutex);
    /* After the unlock: else the woken thread would run into the mutex at once. */
    if (work)
        pthread_cond_signal(&log->work);
    if (prepare)
        pthread_cond_signal(&log->prepare);
    return 0;
}

static int log_start_threads(wal_log_t *log)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals belong to the interpreter's threads */
    int error = pthread_create(&log->writer, NULL, log_writer, log);
    log->writer_runs = !error;
    if (!error) {
        error = pthread_create(&log->preparer, NULL, log_preparer, log);
        log->preparer_runs = !error;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

static wal_log_t *log_new(void)
{
    wal_log_t *log = (wal_log_t *)calloc(1, sizeof *log);
    pthread_condattr_t monotonic;
    if (!log)
        return NULL;
    log->notify_fd = log->directory_fd = -1;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&log->mutex, NULL);
    pthread_cond_init(&log->work, &monotonic);
    pthread_cond_init(&log->prepare, &monotonic);
    pthread_cond_init(&log->change, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return log;
}

/* Opens the directory and its newest segment, and starts the threads. 0 or an errno. */
static int log_open(wal_log_t *log, const char *directory, const char *name, uint64_t sequence)
{
    struct stat info;
    wal_segment_t *segment = (wal_segment_t *)calloc(1, sizeof *segment);
    if (!segment)
        return ENOMEM;
    segment->references = 1;
    segment->sequence = sequence;
    segment->fd = -1;
    log->current = segment;
    snprintf(segment->name, sizeof segment->name, "%s", name);
    memcpy(segment->final, segment->name, sizeof segment->final);
    log->directory_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (log->directory_fd < 0)
        return errno;
    segment->fd = openat(log->directory_fd, name, O_RDWR | O_CLOEXEC);
    if (segment->fd < 0 || fstat(segment->fd, &info))
        return errno;
    segment->zeroed = (uint64_t)info.st_size;
    log->reserve = !faccessat(log->directory_fd, "reserve", F_OK, 0);
    log->notify_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (log->notify_fd < 0)
        return errno;
    return log_start_threads(log);
}

/* Writes what is queued, then ends the threads. Without the interpreter's lock. */
static void log_stop(wal_log_t *log)
{
    pthread_mutex_lock(&log->mutex);
    __atomic_store_n(&log->closing, 1, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&log->work);
    pthread_cond_broadcast(&log->prepare);
    pthread_cond_broadcast(&log->change);
    pthread_mutex_unlock(&log->mutex);
    if (log->writer_runs)
        pthread_join(log->writer, NULL);
    if (log->preparer_runs)
        pthread_join(log->preparer, NULL);
    log->writer_runs = log->preparer_runs = 0;
}

/* After log_stop, and after the owners of all groups were released. */
static void log_free(wal_log_t *log)
{
    wal_group_t *lists[3] = {log->head, log->done, log->idle};
    for (int i = 0; i < 3; i++)
        for (wal_group_t *group = lists[i], *next; group; group = next) {
            next = group->next;
            group_free(group);
        }
    segment_release(log->current);
    if (log->spare && log->directory_fd >= 0)
        unlinkat(log->directory_fd, log->spare->name, 0);
    segment_release(log->spare);
    for (; log->drop_count; log->drop_count--, log->drop_first = (log->drop_first + 1) % DROPS_MAX)
        free(log->drops[log->drop_first]);
    if (log->notify_fd >= 0)
        close(log->notify_fd);
    if (log->directory_fd >= 0)
        close(log->directory_fd);
    pthread_cond_destroy(&log->work);
    pthread_cond_destroy(&log->prepare);
    pthread_cond_destroy(&log->change);
    pthread_mutex_destroy(&log->mutex);
    free(log);
}

/* What the loop thread shows of the threads' state. */
typedef struct {
    uint64_t room_bytes, queued_bytes, sync_count, written_bytes, drop_count;
    int stalled, tight, reserve;
} wal_view_t;

static wal_view_t log_view(wal_log_t *log)
{
    pthread_mutex_lock(&log->mutex);
    wal_view_t view = {
        .room_bytes = log_room(log),
        .queued_bytes = log->queued_bytes,
        .sync_count = log->sync_count,
        .written_bytes = log->written_bytes,
        .drop_count = log->drop_count,
        .stalled = log->stalled,
        .tight = log->tight,
        .reserve = log->reserve,
    };
    pthread_mutex_unlock(&log->mutex);
    return view;
}

static void log_durations(wal_log_t *log, wal_durations_t *writes, wal_durations_t *syncs)
{
    pthread_mutex_lock(&log->mutex);
    *writes = log->writes;
    *syncs = log->syncs;
    pthread_mutex_unlock(&log->mutex);
}

/* Takes over `name`, a file to be removed; 0 = too many wait. */
static int log_drop(wal_log_t *log, char *name)
{
    pthread_mutex_lock(&log->mutex);
    int taken = log->drop_count < DROPS_MAX;
    if (taken)
        log->drops[(log->drop_first + log->drop_count++) % DROPS_MAX] = name;
    pthread_mutex_unlock(&log->mutex);
    pthread_cond_signal(&log->prepare);
    return taken;
}

/* Whether a proposal of `bytes` may enter the log; see the stub. */
static int log_has_room(wal_log_t *log, uint64_t bytes, int privileged)
{
    pthread_mutex_lock(&log->mutex);
    uint64_t room = log_room(log), need = bytes + log->ahead_bytes;
    int enough = privileged || !log->tight || log->reserve;
    if (privileged) {
        need = bytes + PRIVILEGED_ROOM_BYTES;
        room += log->reserve || log->spending ? log->reserve_bytes : 0;
    }
    if (enough && room < need) {
        /* The preparer may just be behind: then the disk still has what is missing, or it is being turned into zeros and becomes room under
         * this mutex. Free space is looked at first: it goes over into `turned`, never back. */
        int64_t unused = free_bytes(log) - SPACE_MARGIN_BYTES;
        room += __atomic_load_n(&log->turned, __ATOMIC_RELAXED);
        enough = room >= need || unused >= (int64_t)(need - room);
    }
    pthread_mutex_unlock(&log->mutex);
    return enough;
}

/* 1 = durable, 0 = not within the time, -1 = the log has ended. Without the interpreter's lock. */
static int log_wait(wal_log_t *log, uint64_t batch, long timeout_ms)
{
    struct timespec until;
    int late = 0;
    log_deadline(&until, timeout_ms);
    pthread_mutex_lock(&log->mutex);
    while (log->durable_batch < batch && !log->error && !late)
        late = pthread_cond_timedwait(&log->change, &log->mutex, &until) == ETIMEDOUT;
    int result = log->durable_batch >= batch ? 1 : log->error ? -1 : 0;
    pthread_mutex_unlock(&log->mutex);
    return result;
}

#endif
