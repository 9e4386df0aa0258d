/* The preparer thread: zeros ahead of the current segment, the spare segment, the reserve file, and the removal of old segments.
 *
 * Invariant: space is taken only while the disk has a margin left; a full disk sets `full` and is asked again a second later.
 */
#ifndef RAFTSCHED_WAL_PREPARER_H
#define RAFTSCHED_WAL_PREPARER_H

#include "wal_state.h"

static uint64_t log_room(const wal_log_t *log)
{
    uint64_t ahead = log->current->zeroed > log->offset ? log->current->zeroed - log->offset : 0;
    return ahead + (log->spare ? log->spare->zeroed : 0);
}

static int wants_ahead(const wal_log_t *log)
{
    return !log->current->extending && log->current->zeroed < log->segment_bytes
        && log->current->zeroed < log->offset + log->ahead_bytes;
}

static int wants_spare(const wal_log_t *log)
{
    return !log->spare && log->offset > log->segment_bytes / 2;
}

/* While little room is left the spare comes first: the bytes of a spent reserve are for the log. */
static int wants_reserve(const wal_log_t *log)
{
    return !log->reserve && !log->stalled && (log_room(log) >= log->ahead_bytes || !wants_spare(log));
}

static int wants_preparing(const wal_log_t *log)
{
    return !log->full && (wants_ahead(log) || wants_spare(log) || wants_reserve(log));
}

/* Whether `bytes` can be taken now. With the mutex held. */
static int has_space(wal_log_t *log, uint64_t bytes)
{
    if (free_bytes(log) >= (int64_t)(bytes + SPACE_MARGIN_BYTES))
        return 1;
    log->full = log->tight = 1;
    return 0;
}

/* The end of an attempt to take space; 0 = it worked. With the mutex held. */
static int prepared(wal_log_t *log, int error, const char *name)
{
    if (is_full(error))
        log->full = log->tight = 1;
    else if (error && error != ECANCELED)
        log_fail(log, "cannot prepare", name, error);
    return error;
}

static void zero_ahead(wal_log_t *log)
{
    wal_segment_t *segment = log->current;
    uint64_t from = segment->zeroed, to = from + log->ahead_bytes;
    if (to > log->segment_bytes)
        to = log->segment_bytes;
    if (!has_space(log, to - from))
        return;
    segment->references++;
    segment->extending = 1;
    pthread_mutex_unlock(&log->mutex);
    int error = write_zeros(segment->fd, from, to, &log->closing, &log->turned);
    pthread_mutex_lock(&log->mutex);
    log->turned = 0;
    segment->extending = 0;
    if (!prepared(log, error, segment->name))
        segment->zeroed = to;
    pthread_cond_broadcast(&log->change);
    segment_release(segment);
}

/* A file of zeros under a temporary name; -1 and errno if it cannot be. `turned` as of write_zeros. */
static int make_zero_file(wal_log_t *log, const char *name, uint64_t bytes, uint64_t *turned)
{
    int fd = openat(log->directory_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -1;
    int error = write_zeros(fd, 0, bytes, &log->closing, turned);
    if (error) {
        close(fd);
        unlinkat(log->directory_fd, name, 0);
        errno = error;
        return -1;
    }
    return fd;
}

static void make_reserve(wal_log_t *log)
{
    if (!has_space(log, log->reserve_bytes))
        return;
    pthread_mutex_unlock(&log->mutex);
    int error = 0, fd = make_zero_file(log, "reserve.tmp", log->reserve_bytes, NULL);
    if (fd < 0 || renameat(log->directory_fd, "reserve.tmp", log->directory_fd, "reserve") || fsync(log->directory_fd))
        error = errno;
    if (fd >= 0)
        close(fd);
    pthread_mutex_lock(&log->mutex);
    if (!prepared(log, error, "reserve"))
        log->reserve = 1;
}

/* A whole segment where the disk has room for one, else a short one that grows like the first. */
static void make_spare(wal_log_t *log)
{
    uint64_t bytes = log->segment_bytes;
    if (free_bytes(log) < (int64_t)(bytes + SPACE_MARGIN_BYTES))
        bytes = log->ahead_bytes < bytes ? log->ahead_bytes : bytes;
    if (!has_space(log, bytes))
        return;
    uint64_t sequence = log->current->sequence + 1;
    pthread_mutex_unlock(&log->mutex);
    wal_segment_t *spare = (wal_segment_t *)calloc(1, sizeof *spare);
    int error = spare ? 0 : ENOMEM;
    if (spare) {
        snprintf(spare->name, sizeof spare->name, "spare.%016llx.tmp", (unsigned long long)sequence);
        spare->fd = make_zero_file(log, spare->name, bytes, &log->turned);
        spare->zeroed = bytes;
        spare->references = 1;
        if (spare->fd < 0)
            error = errno;
    }
    pthread_mutex_lock(&log->mutex);
    log->turned = 0;
    if (!prepared(log, error, "the spare segment"))
        log->spare = spare;
    else
        free(spare);
}

/* Old segments go one by one, each for good before the next: a crash never leaves a gap. */
static void drop_oldest(wal_log_t *log)
{
    char *name = log->drops[log->drop_first];
    pthread_mutex_unlock(&log->mutex);
    int error = 0;
    if ((unlinkat(log->directory_fd, name, 0) && errno != ENOENT) || fsync(log->directory_fd))
        error = errno;
    pthread_mutex_lock(&log->mutex);
    log->drop_first = (log->drop_first + 1) % DROPS_MAX;
    log->drop_count--;
    log->full = 0;
    if (error)
        log_fail(log, "cannot remove", name, error);
    free(name);
    pthread_cond_broadcast(&log->change);
}

static void spend_reserve(wal_log_t *log)
{
    log->reserve = 0;
    log->spending = 1;
    pthread_mutex_unlock(&log->mutex);
    int error = unlinkat(log->directory_fd, "reserve", 0) && errno != ENOENT ? errno : 0;
    pthread_mutex_lock(&log->mutex);
    log->spending = 0;
    log->full = 0;
    if (error)
        log_fail(log, "cannot remove", "reserve", error);
    pthread_cond_broadcast(&log->work);
}

static void prepare_one(wal_log_t *log)
{
    struct timespec until;
    if (log->drop_count) {
        drop_oldest(log);
    } else if (log->full && log->reserve && (log->stalled || log_room(log) < RESERVE_SPENT_BYTES)) {
        spend_reserve(log);
    } else if (log->full) {
        log_deadline(&until, RETRY_FULL_MS);
        if (pthread_cond_timedwait(&log->prepare, &log->mutex, &until) == ETIMEDOUT)
            log->full = 0;
    } else if (wants_ahead(log)) {
        zero_ahead(log);
    } else if (wants_reserve(log)) {
        make_reserve(log);
    } else if (wants_spare(log)) {
        make_spare(log);
    } else {
        log->tight = 0;
        pthread_cond_wait(&log->prepare, &log->mutex);
    }
}

static void *log_preparer(void *argument)
{
    wal_log_t *log = (wal_log_t *)argument;
    pthread_mutex_lock(&log->mutex);
    while (!log->error && !log->closing)
        prepare_one(log);
    pthread_mutex_unlock(&log->mutex);
    return NULL;
}

#endif
