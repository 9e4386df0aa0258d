# What the C headers under native/ offer.

cdef extern from "native/request.h" nogil:
    ctypedef struct wire_reader:
        pass
    ctypedef struct range_request:
        wire_span key
        wire_span end
        int64_t limit
        int64_t revision
        int64_t min_mod
        int64_t max_mod
        int64_t min_create
        int64_t max_create
        int32_t order
        int32_t target
        uint8_t serializable
        uint8_t keys_only
        uint8_t count_only
    ctypedef struct put_request:
        wire_span key
        wire_span value
        int64_t lease
        uint8_t prev_kv
        uint8_t ignore_value
        uint8_t ignore_lease
    ctypedef struct delete_request:
        wire_span key
        wire_span end
        uint8_t prev_kv
    ctypedef struct compare_request:
        wire_span key
        wire_span end
        wire_span value
        int64_t number
        int32_t result
        int32_t target
        uint32_t given
    ctypedef struct key_value:
        wire_span key
        wire_span value
        int64_t create
        int64_t mod
        int64_t version
        int64_t lease
    cdef enum:
        ORDER_NONE
        ORDER_ASCEND
        ORDER_DESCEND
        TARGET_KEY
        TARGET_VALUE
        RESULT_EQUAL
        RESULT_GREATER
        RESULT_LESS
        RESULT_NOT_EQUAL
        COMPARE_VERSION
        COMPARE_CREATE
        COMPARE_MOD
        COMPARE_VALUE
        COMPARE_LEASE
        OP_NONE
        OP_RANGE
        OP_PUT
        OP_DELETE
        OP_TXN
        TXN_COMPARE
        TXN_SUCCESS
        TXN_FAILURE
    wire_reader wire_open(wire_span span)
    size_t wire_varint_size(uint64_t value)
    size_t wire_int_size(uint64_t value)
    size_t wire_bytes_size(size_t length)
    uint8_t* wire_put_int(uint8_t* at, uint8_t tag, uint64_t value)
    uint8_t* wire_put_length(uint8_t* at, uint8_t tag, size_t length)
    uint8_t* wire_put_bytes(uint8_t* at, uint8_t tag, const void* data, size_t length)
    int range_parse(wire_span message, range_request* out)
    int put_parse(wire_span message, put_request* out)
    int delete_parse(wire_span message, delete_request* out)
    int compare_parse(wire_span message, compare_request* out)
    int key_value_parse(wire_span message, key_value* out)
    int op_parse(wire_span message, int* kind, wire_span* body)
    int txn_next(wire_reader* reader, uint32_t wanted, wire_span* out)
    int txn_validate(wire_span message, int depth)

cdef extern from "native/check.h" nogil:
    cdef enum:
        CHECK_MALFORMED
        COST_LEASE_BYTES
    int check_range(wire_span message)
    int check_put(wire_span message)
    int check_delete(wire_span message)
    int check_txn(wire_span message, int64_t ops_max, uint64_t seed)
    int txn_read_only(wire_span message)
    uint64_t put_cost(wire_span message)
    uint64_t txn_cost(wire_span message)

cdef extern from "native/core.h" nogil:
    ctypedef struct entries_t:
        pass
    ctypedef struct index_t:
        entries_t entries
    ctypedef struct index_walk:
        pass
    ctypedef struct older_t:
        uint64_t main
        uint32_t sub
        uint32_t tombstone
    ctypedef struct history_t:
        uint32_t count
        older_t* item
    ctypedef struct entry_t:
        uint64_t main
        uint64_t create
        int64_t lease
        history_t* older
        uint32_t sub
        uint64_t version
        uint64_t dead
        uint64_t dirty
    ctypedef struct version_at:
        uint64_t main
        uint32_t sub
        uint8_t exists
        uint8_t tombstone
        uint8_t latest
    ctypedef struct path_t:
        pass
    int core_open(core_t* core, uint64_t seed)
    void core_close(core_t* core)
    entry_t* core_entry(const core_t* core, uint32_t handle)
    int core_put(
        core_t* core, uint32_t handle, int fresh, uint64_t main, uint32_t sub, uint64_t create, uint64_t version, int64_t lease
    )
    int core_delete(core_t* core, uint32_t handle, int fresh, uint64_t main, uint32_t sub)
    ctypedef struct load_t:
        core_t* core
        uint32_t begun
        uint32_t done
        uint64_t main
        uint32_t sub
        uint32_t* handle
        size_t handle_count
    int load_record(load_t* load, uint64_t main, uint32_t sub, int tombstone, const uint8_t* value, size_t length)
    int load_finish(load_t* load)
    uint64_t core_revision_keeping(const core_t* core, uint64_t kept_max)
    void core_begin_scrub(core_t* core, uint64_t revision)
    uint32_t entry_compactable(const entry_t* entry, uint64_t revision, int* all)
    void core_drop_older(core_t* core, entry_t* entry, uint32_t count)
    int core_drop_entry(core_t* core, uint32_t handle)
    void core_clean(core_t* core, size_t position)
    size_t core_index_bytes(const core_t* core, size_t* table, size_t* tree, size_t* history, size_t* other)
    uint32_t core_find(const core_t* core, wire_span key)
    uint32_t core_add(core_t* core, wire_span key, int* fresh)
    void core_walk_from(const core_t* core, wire_span start, wire_span end, index_walk* walk)
    uint32_t core_walk_next(const core_t* core, index_walk* walk)
    size_t core_key_length(const core_t* core, const entry_t* entry)
    void core_key_copy(const core_t* core, const entry_t* entry, uint8_t* out)
    version_at entry_version_at(const entry_t* entry, uint64_t revision)

cdef extern from "native/answer.h" nogil:
    int buffer_room(buffer_t* buffer, size_t length)
    size_t buffer_begin(buffer_t* buffer, uint8_t tag)
    int buffer_end(buffer_t* buffer, size_t start)
    void buffer_int(buffer_t* buffer, uint8_t tag, uint64_t value)
    item_t* items_add(items_t* items)
    void items_free(items_t* items)
    int items_sort(items_t* items, int target, int descending)
    void items_filter(items_t* items, const range_request* request)
    size_t items_size(const core_t* core, const items_t* items, int stripped)
    uint8_t* items_write(const core_t* core, const items_t* items, uint8_t tag, int stripped, uint8_t* at)
    size_t key_value_size(size_t key, uint64_t create, uint64_t mod, uint64_t version, size_t value, int64_t lease)
    uint8_t* key_value_write(
        uint8_t* at, wire_span key, uint64_t create, uint64_t mod, uint64_t version, wire_span value, int64_t lease
    )

cdef extern from "native/hash.h" nogil:
    ctypedef struct hash_plan:
        int64_t revision
        int64_t compact_revision
        uint32_t crc
    void crc32c_setup()
    uint32_t crc32c_by_table(uint32_t state, const uint8_t* data, size_t length)
    uint32_t crc32c_update(uint32_t crc, const uint8_t* data, size_t length)
    void hash_plan_begin(hash_plan* plan, int64_t revision, int64_t compact_revision)
    int hash_plan_step(hash_plan* plan, const core_t* core, size_t keys_max)
    void hash_plan_free(hash_plan* plan)
    void hash_record(hash_plan* plan, uint64_t main, uint32_t sub, int tombstone, const uint8_t* value, size_t length)
