/* The state that the loop thread and the two native threads of the log share, and what all three do with it. See wal_writer.h. */
#ifndef RAFTSCHED_WAL_STATE_H
#define RAFTSCHED_WAL_STATE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "wal_format.h"

enum {
    ZERO_CHUNK_BYTES = 1 << 20,
    IOVECS_MAX = 512,
    RESERVE_SPENT_BYTES = 1 << 20, /* less room than this and no space: the reserve file is given up */
    SPACE_MARGIN_BYTES = 1 << 20,  /* left to others before space is taken */
    PRIVILEGED_ROOM_BYTES = 1 << 16,
    RETRY_FULL_MS = 1000,
    RETRY_STALLED_MS = 200,
    GROUP_BYTES_MAX = 4 << 20, /* a queued group longer than this takes no more batches */
    GROUPS_FREE_MAX = 4,
    GROUP_KEPT_BYTES_MAX = 8 << 20,
    DROPS_MAX = 4096
};

typedef struct wal_segment {
    char name[64];   /* present name inside the directory */
    char final[64];  /* the name it will have */
    int fd;
    int references;
    int extending;   /* a thread allocates beyond `zeroed` */
    uint64_t sequence;
    uint64_t zeroed; /* the file's size: all bytes below are allocated */
} wal_segment_t;

/* Buckets of 1 ms, 2 ms, ... 8.192 s, and one above: etcd's. */
enum { DURATION_BUCKETS = 15 };

typedef struct {
    uint64_t counts[DURATION_BUCKETS], total_ns;
} wal_durations_t;

typedef struct wal_log {
    pthread_mutex_t mutex;
    pthread_cond_t work;    /* to the writer */
    pthread_cond_t prepare; /* to the preparer */
    pthread_cond_t change;  /* something became durable, an extension ended, an error */
    pthread_t writer, preparer;
    int writer_runs, preparer_runs;
    int notify_fd, directory_fd;
    uint64_t segment_bytes, ahead_bytes, reserve_bytes;

    /* written by the loop thread */
    wal_segment_t *current;
    uint64_t offset; /* end of what is encoded, in `current` */
    uint32_t crc;
    uint64_t last_index, batch;
    wal_state_t state;
    uint8_t metadata[32];
    size_t metadata_length;

    /* shared */
    wal_segment_t *spare;
    wal_group_t *head, *tail; /* queued */
    wal_group_t *done;        /* written: the loop thread releases the owners */
    wal_group_t *idle;        /* for reuse */
    size_t idle_count;
    uint64_t queued_bytes, durable_batch, sync_count, written_bytes;
    wal_durations_t writes, syncs; /* of pwritev and fdatasync */
    int writing, closing, stalled, reserve;
    int spending;    /* the reserve is being removed: neither reserve nor free space for a moment */
    uint64_t turned; /* zeros that are written and not room yet: no free space any more */
    int full;  /* the last attempt to take space failed: try again in a second */
    int tight; /* as `full`, but kept until everything wanted was got */
    char *drops[DROPS_MAX];
    size_t drop_first, drop_count;
    int error;
    char error_text[256];
} wal_log_t;

static uint64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void duration_add(wal_durations_t *durations, uint64_t ns)
{
    int bucket = 0;
    while (bucket < DURATION_BUCKETS - 1 && ns > (uint64_t)1000000 << bucket)
        bucket++;
    durations->counts[bucket]++;
    durations->total_ns += ns;
}

static void log_deadline(struct timespec *at, long milliseconds)
{
    clock_gettime(CLOCK_MONOTONIC, at);
    at->tv_sec += milliseconds / 1000;
    at->tv_nsec += milliseconds % 1000 * 1000000;
    if (at->tv_nsec >= 1000000000) {
        at->tv_sec++;
        at->tv_nsec -= 1000000000;
    }
}

static void log_notify(wal_log_t *log)
{
    uint64_t one = 1;
    while (write(log->notify_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

static int is_full(int error)
{
    return error == ENOSPC || error == EDQUOT;
}

/* Ends the log for good; the first reason stays. With the mutex held. */
static void log_fail(wal_log_t *log, const char *what, const char *name, int error)
{
    if (!log->error) {
        char reason[96];
        log->error = error;
        snprintf(log->error_text, sizeof log->error_text, "%s %s: %s", what, name, strerror_r(error, reason, sizeof reason));
    }
    pthread_cond_broadcast(&log->change);
    pthread_cond_broadcast(&log->work);
    pthread_cond_broadcast(&log->prepare);
    log_notify(log);
}

static void segment_release(wal_segment_t *segment)
{
    if (segment && --segment->references == 0) {
        if (segment->fd >= 0)
            close(segment->fd);
        free(segment);
    }
}

static int64_t free_bytes(wal_log_t *log)
{
    struct statvfs info;
    if (fstatvfs(log->directory_fd, &info))
        return 0;
    return (int64_t)info.f_bavail * (int64_t)info.f_frsize;
}

/* Zeros at [from, to), synced; `turned` (may be NULL) grows before each portion, and is the caller's to clear. 0 or an errno; ECANCELED as
 * soon as `stop` (may be NULL) is set. */
static int write_zeros(int fd, uint64_t from, uint64_t to, const int *stop, uint64_t *turned)
{
    static const uint8_t zeros[ZERO_CHUNK_BYTES];
    while (from < to) {
        size_t length = to - from < ZERO_CHUNK_BYTES ? (size_t)(to - from) : ZERO_CHUNK_BYTES;
        if (turned)
            __atomic_fetch_add(turned, length, __ATOMIC_RELAXED);
        ssize_t wrote = pwrite(fd, zeros, length, (off_t)from);
        if (turned && wrote != (ssize_t)length)
            __atomic_fetch_sub(turned, wrote < 0 ? length : length - (size_t)wrote, __ATOMIC_RELAXED);
        if (wrote < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
#ifdef __linux__
        /* In small portions, so that the writer's syncs do not queue behind a whole segment of zeros. */
        sync_file_range(fd, (off_t)from, wrote, SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
#endif
        from += (uint64_t)wrote;
        if (stop && __atomic_load_n(stop, __ATOMIC_RELAXED))
            return ECANCELED;
    }
    return fdatasync(fd) ? errno : 0;
}

#endif
