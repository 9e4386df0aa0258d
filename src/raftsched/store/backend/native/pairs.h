/* All pairs of one moment as an etcd has them: those of LMDB, in a few small buckets with other or more pairs (`sides`).
 *
 * Included by backend.h, in whose words it is written.
 */
#ifndef RAFTSCHED_PAIRS_H
#define RAFTSCHED_PAIRS_H

typedef int (*pair_fn)(void *context, int bucket, const MDB_val *key, const MDB_val *value);

/* The sides of a bucket lie together, in key order, and stand in place of what the bucket has under their keys. */
static int pair_of_side(const backend_side_t *side, pair_fn each, void *context)
{
    return side->remove ? 0 : each(context, side->bucket, &side->key, &side->value);
}

static int pair_compare(const MDB_val *a, const MDB_val *b)
{
    int order = memcmp(a->mv_data, b->mv_data, a->mv_size < b->mv_size ? a->mv_size : b->mv_size);
    return order ? order : a->mv_size < b->mv_size ? -1 : a->mv_size > b->mv_size;
}

/* Pairs of one bucket, ascending. `*next`: the first side that is not behind us. 0, the callback's error or one of LMDB's. */
static int each_pair(const backend_export_t *export_, MDB_dbi dbi, int bucket, size_t *next, pair_fn each, void *context)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int error = mdb_cursor_open(export_->txn, dbi, &cursor);
    if (error)
        return error;
    const backend_side_t *sides = export_->sides;
    size_t end = *next;
    while (end < export_->side_count && sides[end].bucket == bucket)
        end++;
    while (!(error = mdb_cursor_get(cursor, &key, &value, MDB_NEXT))) {
        int order = 1;
        while (!error && *next < end && (order = pair_compare(&sides[*next].key, &key)) <= 0) {
            error = pair_of_side(&sides[(*next)++], each, context);
            if (!order)
                break;
        }
        if (!error && order)
            error = each(context, bucket, &key, &value);
        if (error)
            break;
    }
    mdb_cursor_close(cursor);
    for (error = error == MDB_NOTFOUND ? 0 : error; !error && *next < end; (*next)++)
        error = pair_of_side(&sides[*next], each, context);
    return error;
}

#endif
