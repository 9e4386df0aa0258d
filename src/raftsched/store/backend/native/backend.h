/* One LMDB environment with etcd's buckets, a committer thread and a bulk thread. Neither ever takes the interpreter's lock.
 *
 *   loop thread   reads through `reader`, hands over one commit at a time, asks for bulk jobs
 *   committer     one write transaction per commit: records appended, records deleted, side changes, applied index and term
 *   bulk          hash, compacting copy, export to bbolt, scans, each in a read transaction of its own
 *
 * Invariants:
 *   - All write transactions after open run on the committer.
 *   - A commit that meets a full map or disk leaves nothing behind and stays in `commit` to be run again; any other error
 *     is final (`error`).
 *   - `mutex` guards the fields below it; no LMDB call is made under it.
 */
#ifndef RAFTSCHED_BACKEND_H
#define RAFTSCHED_BACKEND_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "../../native/crc32c.h"
#include "reach.h"

enum { BUCKETS_MAX = 10, REVISION_BYTES = 17, TOMBSTONE_BYTES = 18, BULK_MAX = 64, SIDE_KEY_BYTES_MAX = 511, LOCK_FILE_BYTES = 16384 };
enum { SIZES_SHARE = 20 }; /* sizes are measured when the last time took at most 1/20 of the time since */

static const char *const bucket_names[BUCKETS_MAX] = {
    "alarm", "auth", "authRoles", "authUsers", "cluster", "key", "lease", "members", "members_removed", "meta",
};
enum { BUCKET_KEY = 5, BUCKET_META = 9 };

/* The same layout as record_t of _records.pxd. */
typedef struct {
    uint64_t main;
    uint32_t sub;
    uint32_t length;
    const uint8_t *value;
    uint8_t tombstone;
} backend_record_t;

typedef int (*backend_scan_fn)(void *context, const backend_record_t *record);

typedef struct {
    uint64_t main;
    uint32_t sub;
    uint8_t tombstone;
} backend_delete_t;

typedef struct {
    int bucket;
    int remove;
    MDB_val key, value;
} backend_side_t;

typedef struct {
    const backend_record_t *records;
    size_t record_count;
    backend_delete_t *deletes;
    size_t delete_count;
    backend_side_t *sides;
    size_t side_count;
    uint64_t applied_index, term;
} backend_commit_t;

typedef enum { BULK_HASH, BULK_COPY, BULK_SCAN, BULK_EXPORT } backend_bulk_kind_t;

/* What a bbolt file, or the hash over all, is made of; see pairs.h. Owns all but the bytes that the sides point to. */
typedef struct {
    MDB_txn *txn;
    int fd;
    backend_side_t *sides;
    size_t side_count;
    uint64_t reserve_bytes;
} backend_export_t;

typedef struct {
    int64_t number;
    backend_bulk_kind_t kind;
    char *path; /* of a copy */
    uint64_t from, to;
    backend_scan_fn callback;
    void *context;
    backend_export_t *export_;
    int64_t result;
    int error;
} backend_bulk_t;

typedef struct {
    MDB_env *env;
    MDB_dbi buckets[BUCKETS_MAX];
    MDB_txn *reader; /* the loop thread's */
    MDB_cursor *cursor;
    uint64_t applied_index, term; /* at open, then what completed() has seen */

    pthread_mutex_t mutex;
    pthread_cond_t work, bulk_work, change;
    pthread_t committer, bulk;
    int committer_runs, bulk_runs, closing;
    int notify_fd, bulk_fd;

    backend_commit_t commit;
    int committing;    /* a commit is held */
    int commit_ready;  /* and waits for the committer, or runs */
    int soft_error;    /* and met a full map or disk */
    int error;         /* final */
    const char *error_what;
    uint64_t durable_index, durable_term;
    uint64_t size_bytes, in_use_bytes;
    struct timespec sized_at;
    int64_t sizing_us; /* how long the last measuring took */

    backend_bulk_t jobs[BULK_MAX]; /* ring: [first, first + ended) ended, then [.., + pending) to do */
    size_t job_first, jobs_ended, jobs_pending;
    int64_t job_last;
    int64_t export_cancelled; /* the export up to which nobody wants one any more */
} backend_t;

static void put_u64be(uint8_t *at, uint64_t value)
{
    for (int i = 7; i >= 0; i--, value >>= 8)
        at[i] = (uint8_t)value;
}

static uint64_t get_u64be(const uint8_t *at)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | at[i];
    return value;
}

/* etcd's revision key: main, '_', sub, and of a tombstone 't'. */
static MDB_val revision_key(uint8_t *at, uint64_t main, uint64_t sub, int tombstone)
{
    MDB_val key = {tombstone ? TOMBSTONE_BYTES : REVISION_BYTES, at};
    put_u64be(at, main);
    at[8] = '_';
    put_u64be(at + 9, sub);
    at[17] = 't';
    return key;
}

/* A stored record; 0, or MDB_CORRUPTED if the key is no revision. */
static int to_record(const MDB_val *key, const MDB_val *value, backend_record_t *out)
{
    const uint8_t *at = (const uint8_t *)key->mv_data;
    if (key->mv_size != REVISION_BYTES && (key->mv_size != TOMBSTONE_BYTES || at[17] != 't'))
        return MDB_CORRUPTED;
    out->main = get_u64be(at);
    out->sub = (uint32_t)get_u64be(at + 9);
    out->tombstone = key->mv_size == TOMBSTONE_BYTES;
    out->value = (const uint8_t *)value->mv_data;
    out->length = (uint32_t)value->mv_size;
    return 0;
}

static void backend_notify(int fd)
{
    uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

/* ---- sizes ---------------------------------------------------------------------------------------------------------------- */

/* Bytes of the file in use, and of those the ones that hold data. 0 or an error. */
static int measure(backend_t *backend, uint64_t *size, uint64_t *in_use)
{
    MDB_envinfo info;
    MDB_stat stat;
    MDB_txn *txn;
    MDB_cursor *cursor;
    MDB_val key, value;
    uint64_t free_pages = 0;
    int error = mdb_txn_begin(backend->env, NULL, MDB_RDONLY, &txn);
    if (error)
        return error;
    mdb_env_info(backend->env, &info);
    mdb_env_stat(backend->env, &stat);
    error = mdb_cursor_open(txn, 0, &cursor); /* LMDB's own list of free pages: each value begins with its length */
    if (!error) {
        while (!(error = mdb_cursor_get(cursor, &key, &value, MDB_NEXT))) {
            size_t pages;
            memcpy(&pages, value.mv_data, sizeof pages);
            free_pages += pages;
        }
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(txn);
    *size = (uint64_t)(info.me_last_pgno + 1) * stat.ms_psize;
    *in_use = *size - free_pages * stat.ms_psize;
    return error == MDB_NOTFOUND ? 0 : error;
}

static int64_t us_since(const struct timespec *then)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec - then->tv_sec) * 1000000LL + (now.tv_nsec - then->tv_nsec) / 1000;
}

/* ---- committer ------------------------------------------------------------------------------------------------------------ */

static int compare_deletes(const void *a, const void *b)
{
    const backend_delete_t *x = (const backend_delete_t *)a, *y = (const backend_delete_t *)b;
    if (x->main != y->main)
        return x->main < y->main ? -1 : 1;
    if (x->sub != y->sub)
        return x->sub < y->sub ? -1 : 1;
    return (int)x->tombstone - (int)y->tombstone;
}

static int put_records(backend_t *backend, MDB_txn *txn, const backend_commit_t *commit)
{
    uint8_t bytes[TOMBSTONE_BYTES];
    MDB_cursor *cursor;
    int error = mdb_cursor_open(txn, backend->buckets[BUCKET_KEY], &cursor);
    if (error)
        return error;
    for (size_t i = 0; i < commit->record_count && !error; i++) {
        const backend_record_t *record = &commit->records[i];
        MDB_val key = revision_key(bytes, record->main, record->sub, record->tombstone);
        MDB_val value = {record->length, (void *)(uintptr_t)record->value};
        error = mdb_cursor_put(cursor, &key, &value, MDB_APPEND);
    }
    mdb_cursor_close(cursor);
    return error;
}

/* In key order: neighbours lie on one page. What is not there was deleted before a crash. */
static int delete_records(backend_t *backend, MDB_txn *txn, const backend_commit_t *commit)
{
    uint8_t bytes[TOMBSTONE_BYTES];
    int error = 0;
    qsort(commit->deletes, commit->delete_count, sizeof *commit->deletes, compare_deletes);
    for (size_t i = 0; i < commit->delete_count && !error; i++) {
        const backend_delete_t *one = &commit->deletes[i];
        MDB_val key = revision_key(bytes, one->main, one->sub, one->tombstone);
        error = mdb_del(txn, backend->buckets[BUCKET_KEY], &key, NULL);
        if (error == MDB_NOTFOUND)
            error = 0;
    }
    return error;
}

static int put_number(backend_t *backend, MDB_txn *txn, const char *name, uint64_t number)
{
    uint8_t bytes[8];
    MDB_val key = {strlen(name), (void *)(uintptr_t)name}, value = {sizeof bytes, bytes};
    put_u64be(bytes, number);
    return mdb_put(txn, backend->buckets[BUCKET_META], &key, &value, 0);
}

static int put_sides(backend_t *backend, MDB_txn *txn, const backend_commit_t *commit)
{
    int error = 0;
    for (size_t i = 0; i < commit->side_count && !error; i++) {
        backend_side_t *side = &commit->sides[i];
        MDB_val key = side->key, value = side->value;
        if (!side->remove)
            error = mdb_put(txn, backend->buckets[side->bucket], &key, &value, 0);
        else if ((error = mdb_del(txn, backend->buckets[side->bucket], &key, NULL)) == MDB_NOTFOUND)
            error = 0;
    }
    return error;
}

/* Data and applied index in one transaction: a replay after a crash does each entry exactly once. */
static int run_commit(backend_t *backend, const backend_commit_t *commit)
{
    MDB_txn *txn;
    int error = mdb_txn_begin(backend->env, NULL, 0, &txn);
    if (error)
        return error;
    /* Deletes after puts: a record may be superseded and scrubbed before it was ever stored. */
    if ((error = put_records(backend, txn, commit)) || (error = delete_records(backend, txn, commit))
        || (error = put_sides(backend, txn, commit)) || (error = put_number(backend, txn, "consistent_index", commit->applied_index))
        || (error = put_number(backend, txn, "term", commit->term))) {
        mdb_txn_abort(txn);
        return error;
    }
    return mdb_txn_commit(txn);
}

static int is_soft(int error)
{
    return error == MDB_MAP_FULL || error == ENOSPC || error == EDQUOT;
}

/* Whether the file system has less free than the commit may need. */
static int is_disk_full(backend_t *backend, const backend_commit_t *commit)
{
    struct statvfs info;
    uint64_t need = 1 << 20;
    int fd;
    for (size_t i = 0; i < commit->record_count; i++)
        need += 4096 + commit->records[i].length;
    for (size_t i = 0; i < commit->side_count; i++)
        need += 4096 + commit->sides[i].value.mv_size;
    return !mdb_env_get_fd(backend->env, &fd) && !fstatvfs(fd, &info) && (uint64_t)info.f_bavail * info.f_frsize < need;
}

/* LMDB answers EIO when a full disk cuts a write short. A second attempt is safe also after a real error: the transaction
 * failed as a whole, and the next one writes each of its pages again from memory before it syncs. */
static int commit_with_care(backend_t *backend, const backend_commit_t *commit)
{
    int error = run_commit(backend, commit);
    if (error == EIO && !is_disk_full(backend, commit))
        error = run_commit(backend, commit);
    return error == EIO && is_disk_full(backend, commit) ? ENOSPC : error;
}

static void *backend_committer(void *argument)
{
    backend_t *backend = (backend_t *)argument;
    pthread_mutex_lock(&backend->mutex);
    for (;;) {
        while (!backend->commit_ready && !backend->closing)
            pthread_cond_wait(&backend->work, &backend->mutex);
        if (!backend->commit_ready)
            break;
        int want_sizes = us_since(&backend->sized_at) >= backend->sizing_us * SIZES_SHARE;
        uint64_t size = 0, in_use = 0;
        struct timespec began;
        pthread_mutex_unlock(&backend->mutex);
        int error = commit_with_care(backend, &backend->commit);
        clock_gettime(CLOCK_MONOTONIC, &began);
        int sized = !error && want_sizes && !measure(backend, &size, &in_use);
        pthread_mutex_lock(&backend->mutex);
        backend->commit_ready = 0;
        if (!error) {
            backend->durable_index = backend->commit.applied_index;
            backend->durable_term = backend->commit.term;
            backend->committing = 0;
        } else if (is_soft(error)) {
            backend->soft_error = error;
        } else {
            backend->error = error;
            backend->error_what = "commit";
        }
        if (sized) {
            backend->size_bytes = size;
            backend->in_use_bytes = in_use;
            backend->sizing_us = us_since(&began);
            clock_gettime(CLOCK_MONOTONIC, &backend->sized_at);
        }
        pthread_cond_broadcast(&backend->change);
        backend_notify(backend->notify_fd);
    }
    pthread_mutex_unlock(&backend->mutex);
    return NULL;
}

/* ---- reading -------------------------------------------------------------------------------------------------------------- */

/* Records of [from, to], ascending, through `cursor`. 0, the callback's answer, or -1 with `*error`. */
static int scan_records(MDB_cursor *cursor, uint64_t from, uint64_t to, backend_scan_fn callback, void *context, int *error)
{
    uint8_t bytes[TOMBSTONE_BYTES];
    MDB_val key = revision_key(bytes, from, 0, 0), value;
    backend_record_t record;
    int status = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    for (; !status; status = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        if ((status = to_record(&key, &value, &record)))
            break;
        if (record.main > to)
            return 0;
        int answer = callback(context, &record);
        if (answer)
            return answer;
    }
    if (status == MDB_NOTFOUND)
        return 0;
    *error = status;
    return -1;
}

static int backend_get(backend_t *backend, uint64_t main, uint32_t sub, int tombstone, backend_record_t *out, int *error)
{
    uint8_t bytes[TOMBSTONE_BYTES];
    MDB_val key = revision_key(bytes, main, sub, tombstone), value;
    int status = mdb_get(backend->reader, backend->buckets[BUCKET_KEY], &key, &value);
    if (!status && !(status = to_record(&key, &value, out)))
        return 0;
    if (status == MDB_NOTFOUND)
        return 1;
    *error = status;
    return -1;
}

/* ---- bulk ----------------------------------------------------------------------------------------------------------------- */

static int sync_path(const char *directory, const char *name)
{
    int error = 0, at = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (at < 0)
        return errno;
    int fd = openat(at, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) || fsync(at))
        error = errno;
    if (fd >= 0)
        close(fd);
    close(at);
    return error;
}

static int run_copy(backend_t *backend, const char *path)
{
    int error;
    if (mkdir(path, 0700))
        return errno;
    error = mdb_env_copy2(backend->env, path, MDB_CP_COMPACT);
    return error ? error : sync_path(path, "data.mdb");
}

#include "export.h"
#include "hash.h"

typedef struct {
    backend_t *backend;
    int64_t number;
} export_stop_t;

/* Whether nobody wants the export any more: its asker is gone, or the process ends. */
static int is_export_over(void *context)
{
    const export_stop_t *stop = (const export_stop_t *)context;
    pthread_mutex_lock(&stop->backend->mutex);
    int over = stop->backend->closing || stop->backend->export_cancelled == stop->number;
    pthread_mutex_unlock(&stop->backend->mutex);
    return over ? ECANCELED : 0;
}

/* The transaction and the descriptor go as soon as the job is done: they hold pages and space. */
static void run_described(backend_t *backend, backend_bulk_t *job)
{
    export_stop_t stop = {backend, job->number};
    if (job->kind == BULK_HASH)
        job->error = hash_all(job->export_, backend->buckets, &job->result);
    else
        job->error = export_all(job->export_, backend->buckets, is_export_over, &stop, &job->result);
    export_free(job->export_);
    job->export_ = NULL;
}

static void run_bulk(backend_t *backend, backend_bulk_t *job)
{
    MDB_txn *txn;
    MDB_cursor *cursor;
    if (job->kind == BULK_COPY) {
        job->error = run_copy(backend, job->path);
        return;
    }
    if (job->export_) {
        run_described(backend, job);
        return;
    }
    job->error = mdb_txn_begin(backend->env, NULL, MDB_RDONLY, &txn);
    if (job->error)
        return;
    if (!(job->error = mdb_cursor_open(txn, backend->buckets[BUCKET_KEY], &cursor))) {
        job->result = scan_records(cursor, job->from, job->to, job->callback, job->context, &job->error);
        mdb_cursor_close(cursor);
    }
    mdb_txn_abort(txn);
}

static void *backend_bulk(void *argument)
{
    backend_t *backend = (backend_t *)argument;
    pthread_mutex_lock(&backend->mutex);
    while (!backend->closing) {
        if (!backend->jobs_pending) {
            pthread_cond_wait(&backend->bulk_work, &backend->mutex);
            continue;
        }
        backend_bulk_t *job = &backend->jobs[(backend->job_first + backend->jobs_ended) % BULK_MAX];
        pthread_mutex_unlock(&backend->mutex);
        run_bulk(backend, job);
        pthread_mutex_lock(&backend->mutex);
        backend->jobs_pending--;
        backend->jobs_ended++;
        pthread_cond_broadcast(&backend->change);
        backend_notify(backend->bulk_fd);
    }
    pthread_mutex_unlock(&backend->mutex);
    return NULL;
}

/* ---- loop thread ---------------------------------------------------------------------------------------------------------- */

/* Hands over backend->commit, filled by the caller. */
static void backend_submit(backend_t *backend)
{
    pthread_mutex_lock(&backend->mutex);
    backend->committing = backend->commit_ready = 1;
    backend->soft_error = 0;
    pthread_mutex_unlock(&backend->mutex);
    pthread_cond_signal(&backend->work);
}

/* The job's number; -1 = too many wait. Takes over `job.path` and `job.export_` then alone. */
static int64_t backend_submit_bulk(backend_t *backend, backend_bulk_t job)
{
    pthread_mutex_lock(&backend->mutex);
    size_t held = backend->jobs_ended + backend->jobs_pending;
    if (held < BULK_MAX) {
        job.number = ++backend->job_last;
        backend->jobs[(backend->job_first + held) % BULK_MAX] = job;
        backend->jobs_pending++;
    } else {
        job.number = -1;
    }
    pthread_mutex_unlock(&backend->mutex);
    pthread_cond_signal(&backend->bulk_work);
    return job.number;
}

static void backend_cancel_export(backend_t *backend, int64_t number)
{
    pthread_mutex_lock(&backend->mutex);
    backend->export_cancelled = number;
    pthread_mutex_unlock(&backend->mutex);
}

/* Takes the oldest job that has ended; 0 = none. */
static int backend_take_bulk(backend_t *backend, backend_bulk_t *out)
{
    pthread_mutex_lock(&backend->mutex);
    int some = backend->jobs_ended > 0;
    if (some) {
        *out = backend->jobs[backend->job_first];
        backend->job_first = (backend->job_first + 1) % BULK_MAX;
        backend->jobs_ended--;
    }
    pthread_mutex_unlock(&backend->mutex);
    return some;
}

static int renew_reader(backend_t *backend)
{
    int error;
    if (!backend->reader) {
        if ((error = mdb_txn_begin(backend->env, NULL, MDB_RDONLY, &backend->reader)))
            return error;
        return mdb_cursor_open(backend->reader, backend->buckets[BUCKET_KEY], &backend->cursor);
    }
    mdb_txn_reset(backend->reader);
    if ((error = mdb_txn_renew(backend->reader)))
        return error;
    return mdb_cursor_renew(backend->reader, backend->cursor);
}

static int read_number(backend_t *backend, const char *name, uint64_t *number)
{
    MDB_val key = {strlen(name), (void *)(uintptr_t)name}, value;
    int error = mdb_get(backend->reader, backend->buckets[BUCKET_META], &key, &value);
    *number = 0;
    if (error == MDB_NOTFOUND)
        return 0;
    if (error)
        return error;
    if (value.mv_size != 8)
        return MDB_CORRUPTED;
    *number = get_u64be((const uint8_t *)value.mv_data);
    return 0;
}

static int open_buckets(backend_t *backend)
{
    MDB_txn *txn;
    int error = mdb_txn_begin(backend->env, NULL, 0, &txn);
    if (error)
        return error;
    for (int i = 0; i < BUCKETS_MAX && !error; i++)
        error = mdb_dbi_open(txn, bucket_names[i], MDB_CREATE, &backend->buckets[i]);
    if (error) {
        mdb_txn_abort(txn);
        return error;
    }
    return mdb_txn_commit(txn);
}

/* A file that lost its tail would kill the process by a signal when read. One that is only short at its end is whole: see reach.h. */
static int check_length(backend_t *backend)
{
    MDB_envinfo info;
    MDB_stat stat;
    struct stat file;
    int fd;
    mdb_env_info(backend->env, &info);
    mdb_env_stat(backend->env, &stat);
    if (mdb_env_get_fd(backend->env, &fd) || fstat(fd, &file))
        return errno;
    if ((uint64_t)file.st_size >= (uint64_t)(info.me_last_pgno + 1) * stat.ms_psize)
        return 0;
    return reach_check(fd, stat.ms_psize, (uint64_t)file.st_size, info.me_last_txnid);
}

/* LMDB writes to its lock file through a map, where a full disk is a signal and no error: takes the blocks beforehand. */
static int allocate_lock_file(const char *path)
{
    char name[4096];
    if (snprintf(name, sizeof name, "%s/lock.mdb", path) >= (int)sizeof name)
        return ENAMETOOLONG;
    int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno;
    int error = posix_fallocate(fd, 0, LOCK_FILE_BYTES);
    close(fd);
    return error;
}

static int path_is_full(const char *path)
{
    struct statvfs info;
    return !statvfs(path, &info) && (uint64_t)info.f_bavail * info.f_frsize < 1 << 20;
}

static int open_environment(backend_t *backend, const char *path, size_t map_bytes, const char **what)
{
    int error;
    *what = "open";
    if ((error = allocate_lock_file(path)))
        return error;
    if ((error = mdb_env_create(&backend->env)))
        return error;
    mdb_env_set_maxdbs(backend->env, BUCKETS_MAX + 2);
    if ((error = mdb_env_set_mapsize(backend->env, map_bytes)) || (error = mdb_env_open(backend->env, path, MDB_NOTLS, 0600)))
        return error;
    *what = "read";
    int dead;
    mdb_reader_check(backend->env, &dead); /* slots that a killed process left in the lock file */
    if ((error = check_length(backend)) || (error = open_buckets(backend)) || (error = renew_reader(backend)))
        return error;
    if ((error = read_number(backend, "consistent_index", &backend->applied_index)) || (error = read_number(backend, "term", &backend->term)))
        return error;
    backend->durable_index = backend->applied_index;
    backend->durable_term = backend->term;
    error = measure(backend, &backend->size_bytes, &backend->in_use_bytes);
    clock_gettime(CLOCK_MONOTONIC, &backend->sized_at);
    return error;
}

static void close_environment(backend_t *backend)
{
    if (backend->cursor)
        mdb_cursor_close(backend->cursor);
    if (backend->reader)
        mdb_txn_abort(backend->reader);
    if (backend->env)
        mdb_env_close(backend->env);
    backend->cursor = NULL;
    backend->reader = NULL;
    backend->env = NULL;
}

static int start_threads(backend_t *backend)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals belong to the interpreter's threads */
    int error = pthread_create(&backend->committer, NULL, backend_committer, backend);
    backend->committer_runs = !error;
    if (!error) {
        error = pthread_create(&backend->bulk, NULL, backend_bulk, backend);
        backend->bulk_runs = !error;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

static backend_t *backend_new(void)
{
    backend_t *backend = (backend_t *)calloc(1, sizeof *backend);
    pthread_condattr_t monotonic;
    if (!backend)
        return NULL;
    backend->notify_fd = backend->bulk_fd = -1;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&backend->mutex, NULL);
    pthread_cond_init(&backend->work, NULL);
    pthread_cond_init(&backend->bulk_work, NULL);
    pthread_cond_init(&backend->change, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return backend;
}

static int backend_open(backend_t *backend, const char *path, size_t map_bytes, const char **what)
{
    int error = open_environment(backend, path, map_bytes, what);
    if (error)
        return error == EIO && path_is_full(path) ? ENOSPC : error; /* as LMDB calls a write that was cut short */
    *what = "start the threads of";
    backend->notify_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    backend->bulk_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (backend->notify_fd < 0 || backend->bulk_fd < 0)
        return errno;
    return start_threads(backend);
}

/* What the loop thread shows of the threads' state. */
typedef struct {
    uint64_t size_bytes, in_use_bytes;
    size_t jobs_pending;
    int committing, stalled; /* stalled: the error that a commit waits for the end of */
} backend_view_t;

static backend_view_t backend_view(backend_t *backend)
{
    pthread_mutex_lock(&backend->mutex);
    backend_view_t view = {
        .size_bytes = backend->size_bytes,
        .in_use_bytes = backend->in_use_bytes,
        .jobs_pending = backend->jobs_pending,
        .committing = backend->committing,
        .stalled = backend->committing && !backend->commit_ready ? backend->soft_error : 0,
    };
    pthread_mutex_unlock(&backend->mutex);
    return view;
}

/* Moves this environment's innards out and `other`'s in; nothing may be under way in either. */
static void backend_exchange(backend_t *backend, backend_t *other)
{
    MDB_env *env = backend->env;
    MDB_txn *reader = backend->reader;
    MDB_cursor *cursor = backend->cursor;
    pthread_mutex_lock(&backend->mutex);
    backend->env = other->env;
    backend->reader = other->reader;
    backend->cursor = other->cursor;
    memcpy(backend->buckets, other->buckets, sizeof backend->buckets);
    backend->size_bytes = other->size_bytes;
    backend->in_use_bytes = other->in_use_bytes;
    pthread_mutex_unlock(&backend->mutex);
    other->env = env;
    other->reader = reader;
    other->cursor = cursor;
}

static void backend_stop(backend_t *backend)
{
    pthread_mutex_lock(&backend->mutex);
    backend->closing = 1;
    pthread_cond_broadcast(&backend->work);
    pthread_cond_broadcast(&backend->bulk_work);
    pthread_mutex_unlock(&backend->mutex);
    if (backend->committer_runs)
        pthread_join(backend->committer, NULL);
    if (backend->bulk_runs)
        pthread_join(backend->bulk, NULL);
    backend->committer_runs = backend->bulk_runs = 0;
    for (size_t i = 0; i < backend->jobs_pending; i++) { /* never begun: their transactions end before the environment */
        backend_bulk_t *job = &backend->jobs[(backend->job_first + backend->jobs_ended + i) % BULK_MAX];
        export_free(job->export_);
        job->export_ = NULL;
    }
    close_environment(backend);
}

static void backend_free_commit(backend_t *backend)
{
    free(backend->commit.deletes);
    free(backend->commit.sides);
    memset(&backend->commit, 0, sizeof backend->commit);
}

static void backend_free(backend_t *backend)
{
    backend_free_commit(backend);
    for (size_t i = 0; i < backend->jobs_ended + backend->jobs_pending; i++)
        free(backend->jobs[(backend->job_first + i) % BULK_MAX].path);
    if (backend->notify_fd >= 0)
        close(backend->notify_fd);
    if (backend->bulk_fd >= 0)
        close(backend->bulk_fd);
    pthread_cond_destroy(&backend->work);
    pthread_cond_destroy(&backend->bulk_work);
    pthread_cond_destroy(&backend->change);
    pthread_mutex_destroy(&backend->mutex);
    free(backend);
}

/* 1 = no commit runs (ended or stalled), 0 = still one after the time. Without the interpreter's lock. */
static int backend_wait(backend_t *backend, long timeout_ms, int bulk)
{
    struct timespec until;
    int late = 0;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += timeout_ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&backend->mutex);
    while ((bulk ? backend->jobs_pending > 0 : backend->commit_ready) && !late)
        late = pthread_cond_timedwait(&backend->change, &backend->mutex, &until) == ETIMEDOUT;
    pthread_mutex_unlock(&backend->mutex);
    return !late;
}

#endif
