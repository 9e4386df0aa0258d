/* Maintenance.Hash: CRC-32C over every bucket's name and pairs, but for what differs between members of one state.
 *
 * Included by backend.h, in whose words it is written. Runs on the bulk thread.
 */
#ifndef RAFTSCHED_HASH_H
#define RAFTSCHED_HASH_H

#include "pairs.h"

static int is_unhashed(int bucket, const MDB_val *key)
{
    static const char *const names[3] = {"term", "consistent_index", "storageVersion"};
    for (int i = 0; bucket == BUCKET_META && i < 3; i++)
        if (key->mv_size == strlen(names[i]) && !memcmp(key->mv_data, names[i], key->mv_size))
            return 1;
    return 0;
}

static int hash_pair(void *context, int bucket, const MDB_val *key, const MDB_val *value)
{
    uint32_t *crc = (uint32_t *)context;
    if (!is_unhashed(bucket, key))
        *crc = crc32c_update(crc32c_update(*crc, key->mv_data, key->mv_size), value->mv_data, value->mv_size);
    return 0;
}

static int hash_all(const backend_export_t *export_, const MDB_dbi *buckets, int64_t *result)
{
    uint32_t crc = 0;
    size_t next = 0;
    int error = 0;
    for (int bucket = 0; bucket < BUCKETS_MAX && !error; bucket++) {
        crc = crc32c_update(crc, bucket_names[bucket], strlen(bucket_names[bucket]));
        error = each_pair(export_, buckets[bucket], bucket, &next, hash_pair, &crc);
    }
    *result = crc;
    return error;
}

#endif
