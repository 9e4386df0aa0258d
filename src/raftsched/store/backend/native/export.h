/* The database of one read transaction as a bbolt file: all ten buckets, in a few small ones with other or more pairs (`sides`).
 *
 * Included by backend.h, in whose words it is written. Runs on the bulk thread.
 */
#ifndef RAFTSCHED_EXPORT_H
#define RAFTSCHED_EXPORT_H

#include "../../native/bolt_writer.h"

/* The sides of a bucket lie together, in key order, and stand in place of what the bucket has under their keys. */
static int export_side(bolt_writer_t *writer, const backend_side_t *side)
{
    return side->remove ? 0 : bolt_put(writer, 0, side->key.mv_data, side->key.mv_size, side->value.mv_data, side->value.mv_size);
}

static int export_compare(const MDB_val *a, const MDB_val *b)
{
    int order = memcmp(a->mv_data, b->mv_data, a->mv_size < b->mv_size ? a->mv_size : b->mv_size);
    return order ? order : a->mv_size < b->mv_size ? -1 : a->mv_size > b->mv_size;
}

/* `*next`: the first side that is not behind us. */
static int export_bucket(MDB_txn *txn, MDB_dbi dbi, int bucket, const backend_export_t *export_, size_t *next, bolt_writer_t *writer)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int error = mdb_cursor_open(txn, dbi, &cursor);
    if (error)
        return error;
    const backend_side_t *sides = export_->sides;
    size_t end = *next;
    while (end < export_->side_count && sides[end].bucket == bucket)
        end++;
    while (!(error = mdb_cursor_get(cursor, &key, &value, MDB_NEXT))) {
        int order = 1;
        while (!error && *next < end && (order = export_compare(&sides[*next].key, &key)) <= 0) {
            error = export_side(writer, &sides[(*next)++]);
            if (!order)
                break;
        }
        if (!error && order)
            error = bolt_put(writer, 0, key.mv_data, key.mv_size, value.mv_data, value.mv_size);
        if (error)
            break;
    }
    mdb_cursor_close(cursor);
    for (error = error == MDB_NOTFOUND ? 0 : error; !error && *next < end; (*next)++)
        error = export_side(writer, &sides[*next]);
    return error;
}

/* All buckets, then the tree of buckets and the meta pages; `*size`: of the file. 0, an errno or one of LMDB's errors. */
static int export_all(const backend_export_t *export_, const MDB_dbi *buckets, bolt_stop_fn stop, void *stop_context, int64_t *size)
{
    bolt_writer_t writer;
    uint64_t roots[BUCKETS_MAX], root, bytes = 0;
    size_t next = 0;
    int error = bolt_writer_begin(&writer, export_->fd, export_->reserve_bytes, stop, stop_context);
    for (int bucket = 0; bucket < BUCKETS_MAX && !error; bucket++)
        if (!(error = export_bucket(export_->txn, buckets[bucket], bucket, export_, &next, &writer)))
            error = bolt_end_tree(&writer, &roots[bucket]);
    for (int bucket = 0; bucket < BUCKETS_MAX && !error; bucket++) {
        uint8_t value[BOLT_BUCKET_BYTES];
        bolt_bucket_value(value, roots[bucket]);
        error = bolt_put(&writer, BOLT_BUCKET, bucket_names[bucket], strlen(bucket_names[bucket]), value, sizeof value);
    }
    if (!error && !(error = bolt_end_tree(&writer, &root)))
        error = bolt_finish(&writer, root, &bytes);
    bolt_writer_end(&writer);
    *size = (int64_t)bytes;
    return error;
}

static void export_free(backend_export_t *export_)
{
    if (!export_)
        return;
    if (export_->txn)
        mdb_txn_abort(export_->txn);
    if (export_->fd >= 0)
        close(export_->fd);
    free(export_->sides);
    free(export_);
}

#endif
