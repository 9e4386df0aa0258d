/* The pairs of one moment (pairs.h) as a bbolt file of ten buckets.
 *
 * Included by backend.h, in whose words it is written. Runs on the bulk thread.
 */
#ifndef RAFTSCHED_EXPORT_H
#define RAFTSCHED_EXPORT_H

#include "../../native/bolt_writer.h"
#include "pairs.h"

static int export_pair(void *context, int bucket, const MDB_val *key, const MDB_val *value)
{
    (void)bucket;
    return bolt_put((bolt_writer_t *)context, 0, key->mv_data, key->mv_size, value->mv_data, value->mv_size);
}

/* All buckets, then the tree of buckets and the meta pages; `*size`: of the file. 0, an errno or one of LMDB's errors. */
static int export_all(const backend_export_t *export_, const MDB_dbi *buckets, bolt_stop_fn stop, void *stop_context, int64_t *size)
{
    bolt_writer_t writer;
    uint64_t roots[BUCKETS_MAX], root, bytes = 0;
    size_t next = 0;
    int error = bolt_writer_begin(&writer, export_->fd, export_->reserve_bytes, stop, stop_context);
    for (int bucket = 0; bucket < BUCKETS_MAX && !error; bucket++)
        if (!(error = each_pair(export_, buckets[bucket], bucket, &next, export_pair, &writer)))
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
