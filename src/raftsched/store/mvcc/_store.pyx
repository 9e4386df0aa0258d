"""The multi-version store: every key with its history, in memory by key and in records by revision.

Invariant: a write request takes one main revision or none; it is refused before it changes anything, or it is done whole. A
live record is found in exactly one of filling, committing and source (see `_store.pyi` for the moment between).
Must not know: LMDB, Raft, clocks, watchers, what a lease is beyond its number.

The parts: native/ holds the index and the codecs in C; _store/read.pxi ranges, slices.pxi large ones, write.pxi puts and deletes, txn.pxi
transactions, history.pxi everything older than now.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject, PyTypeObject
from cpython.pycapsule cimport PyCapsule_GetContext, PyCapsule_New, PyCapsule_SetContext
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_SET_ITEM
from libc.stddef cimport size_t
from libc.stdint cimport SIZE_MAX, UINT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memset

from raftsched.store._records cimport Generation, RecordSource, record_t, scan_fn

cdef extern from "Python.h":
    object PyType_GenericAlloc(PyTypeObject* type, Py_ssize_t items)

from raftsched.errors import CorruptError, FatalError
from raftsched.types import Change

cdef enum:  # of errors.EtcdError
    KEY_NOT_PROVIDED = 1
    KEY_NOT_FOUND = 2
    LEASE_NOT_FOUND = 11
    COMPACTED = 19
    FUTURE_REVISION = 20

cdef enum:
    KIND_PUT = 4            # field numbers of InternalRaftRequest
    KIND_TXN = 6
    KIND_LEASE_GRANT = 8
    FOUND_KEPT_MAX = 65536          # found keys for which the scratch is kept
    ANSWER_KEPT_BYTES_MAX = 1048576
    RECORD_BYTES_MAX = 0x7FFFFFFF
    LARGE = 0x10000         # no EtcdError

include "_store/native.pxi"
include "_store/read.pxi"
include "_store/slices.pxi"
include "_store/write.pxi"
include "_store/txn.pxi"
include "_store/history.pxi"

crc32c_setup()


def crc32c(bytes data not None, uint32_t crc=0, *, bint by_table=False):
    """Continues `crc` over `data`; `by_table` takes the road of a processor without the instruction."""
    cdef wire_span span = span_of(data)
    if by_table:
        return ~crc32c_by_table(~crc, span.data, span.length)
    return crc32c_update(crc, span.data, span.length)


cdef class MvccStore:

    def __cinit__(self, RecordSource source not None, leases, *, hash_seed, int64_t txn_ops_max=128):
        self.seed = <uint64_t> (hash_seed & 0xFFFFFFFFFFFFFFFF)
        if core_open(&self.core, self.seed):
            raise MemoryError
        self.source = source
        self.leases = leases
        self.txn_ops_max = txn_ops_max
        self.filling = Generation()
        self.committing = None
        self.change_list = []
        self.head = 1
        self.compacted = -1

    def __dealloc__(self):
        core_close(&self.core)
        items_free(&self.found)
        free(self.answer.data)
        free(self.changed)
        free(self.path)

    @property
    def revision(self):
        return self.head

    @property
    def compact_revision(self):
        return self.compacted

    @property
    def key_count(self):
        return self.core.keys

    @property
    def superseded_count(self):
        return self.core.superseded

    @property
    def put_total(self):
        return self.puts

    @property
    def delete_total(self):
        return self.deletes

    @property
    def range_total(self):
        return self.ranges

    @property
    def txn_total(self):
        return self.txns

    @property
    def put_bytes_total(self):
        return self.put_bytes

    @property
    def pending_bytes(self):
        return self.filling.size_bytes + (0 if self.committing is None else self.committing.size_bytes)

    # -- validation

    def check_put(self, bytes request not None):
        return check_put(span_of(request))

    def check_range(self, bytes request not None):
        return check_range(span_of(request))

    def check_delete_range(self, bytes request not None):
        return check_delete(span_of(request))

    def check_txn(self, bytes request not None):
        cdef int error = check_txn(span_of(request), self.txn_ops_max, self.seed)
        if error < 0:
            raise MemoryError
        return error

    def range_is_serializable(self, bytes request not None):
        cdef range_request parsed
        return not range_parse(span_of(request), &parsed) and bool(parsed.serializable)

    def txn_is_read_only(self, bytes request not None):
        return txn_read_only(span_of(request))

    def cost(self, int kind, bytes request not None):
        if kind == KIND_PUT:
            return put_cost(span_of(request))
        if kind == KIND_TXN:
            return 0 if txn_validate(span_of(request), 1) else txn_cost(span_of(request))
        return COST_LEASE_BYTES if kind == KIND_LEASE_GRANT else 0

    # -- apply side

    def put(self, bytes request not None):
        return put_result(self, request)

    def delete_range(self, bytes request not None):
        return delete_result(self, request)

    def txn(self, bytes request not None):
        return txn_result(self, request)

    def delete_keys(self, keys):
        cdef uint32_t handle
        cdef bytes key
        for key in keys:
            handle = find_live(self, span_of(key))
            if handle:
                write_delete(self, handle)
            self.deletes += 1
            self.phase += 1
        finish_write(self)
        end_phase(self)
        return self.head

    def compact(self, int64_t revision):
        if revision <= self.compacted:
            return (COMPACTED, self.head, b"")
        if revision > self.head:
            return (FUTURE_REVISION, self.head, b"")
        self.compacted = revision
        core_begin_scrub(&self.core, <uint64_t> revision)
        return (0, self.head, b"")

    # -- read side

    def range(self, bytes request not None):
        return range_result(self, request)

    def range_many(self, requests):
        cdef bytes request
        return [range_result(self, request) for request in requests]

    def range_some(self, requests, *, Py_ssize_t bytes_max, size_t slice_keys, Py_ssize_t slice_bytes):
        cdef bytes request
        cdef object found
        cdef list results = []
        for request in requests:
            found = range_slice(self, request, slice_keys, slice_bytes)
            if type(found) is RangePlan:
                return results, found
            results.append(found)
            bytes_max -= PyBytes_GET_SIZE(<bytes> (<tuple> found)[2])
            if bytes_max <= 0:
                break
        return results, None

    def record(self, uint64_t main, uint32_t sub):
        cdef bint pending
        cdef record_t record
        cdef const record_t* found = pending_record(self, main, sub, &pending)
        if pending:
            return None if found == NULL or found.tombstone else bytes_of(found.value, found.length)
        cdef int status = self.source.get(main, sub, False, &record)
        if status < 0:
            raise FatalError(self.source.error() or f"the record ({main}, {sub}) cannot be read")
        return None if status else bytes_of(record.value, record.length)

    def previous(self, bytes key not None, int64_t before_main):
        cdef uint32_t handle
        cdef version_at version
        cdef record_t record
        self.ranges += 1
        if before_main - 1 < self.compacted or before_main <= 1:
            return None
        handle = core_find(&self.core, span_of(key))
        if not handle:
            return None
        version = entry_version_at(core_entry(&self.core, handle), <uint64_t> (before_main - 1))
        if not version.exists or version.tombstone:
            return None
        fetch(self, version.main, version.sub, &record)
        return bytes_of(record.value, record.length)

    def live(self, bytes start not None, bytes end not None, bytes after, size_t limit):
        cdef index_walk walk
        cdef uint32_t handle
        cdef const entry_t* entry
        cdef record_t record
        if after is not None and after >= start:
            start = after + b"\0"  # the next possible key
        found = []
        core_walk_from(&self.core, span_of(start), span_of(end), &walk)
        handle = core_walk_next(&self.core, &walk)
        while handle and <size_t> len(found) < limit:
            entry = core_entry(&self.core, handle)
            if not entry.dead:
                fetch(self, entry.main, entry.sub, &record)
                found.append(change_of(&record))
            handle = core_walk_next(&self.core, &walk)
        return found

    def history(self, int64_t from_main, int64_t revisions_max, int64_t bytes_max=1 << 62):
        cdef history_context context
        changes = []
        if from_main > self.head:
            return changes, self.head + 1
        context.changes = <void*> changes
        context.revisions_left = max(revisions_max, 1)
        context.bytes_left = max(bytes_max, 1)
        context.main = 0
        context.next = <uint64_t> self.head + 1
        context.failed = 0
        scan_all(self, <uint64_t> max(from_main, 0), <uint64_t> self.head, take_record, &context)
        if context.failed:
            raise CorruptError(f"a record of revision {context.main} cannot be read as a change")
        return changes, context.next

    def hash_kv(self, int64_t revision):
        cdef HashPlan plan
        if revision > 0 and revision < self.compacted:
            return (COMPACTED, 0, 0, 0)
        if revision > self.head:
            return (FUTURE_REVISION, 0, 0, 0)
        if revision == 0:
            revision = self.head
        plan = HashPlan(self, revision)
        plan.step(UINT64_MAX)
        if revision > 0:
            scan_all(self, 0, <uint64_t> revision, hash_one, &plan.plan)
        return (0, plan.crc, self.compacted, revision)

    # -- changes of the present apply batch

    def take_changes(self):
        make_changes(self)
        changes = self.change_list
        if changes:
            self.change_list = []
            return changes
        return []

    # -- pending generations

    def swap(self):
        if self.committing is not None:
            raise RuntimeError("the committing generation was not released")
        make_changes(self)  # they point into the generation that is about to be given away
        self.committing = self.filling
        self.committing.freeze()
        self.filling = Generation()
        return self.committing

    def release(self):
        if self.committing is None:
            raise RuntimeError("no generation is committing")
        self.committing = None

    # -- compaction in slices

    def scrub(self, size_t keys_max, *, size_t records_max=SIZE_MAX):
        cdef list dropped = []
        cdef size_t left
        while self.core.scrub_left and keys_max and <size_t> len(dropped) < records_max:
            keys_max -= 1
            left = records_max - <size_t> len(dropped)
            if scrub_entry(self, self.core.scrub_left - 1, left, dropped):
                self.core.scrub_left -= 1
        return dropped, self.core.scrub_left == 0

    def oldest_revision_keeping(self, uint64_t superseded_max):
        cdef uint64_t revision = core_revision_keeping(&self.core, superseded_max)
        if revision == 0:
            return self.compacted
        return max(min(<int64_t> min(revision, <uint64_t> self.head), self.head), self.compacted)

    # -- start

    def load(self, *, int64_t revision_hint=0, int64_t compact_revision=-1):
        cdef load_context context
        if self.loaded or self.head != 1 or self.next_sub or self.filling.count:
            raise RuntimeError("load comes once, before use")
        self.loaded = True
        memset(&context, 0, sizeof(load_context))
        context.load.core = &self.core
        context.load.main = 1
        try:
            return load_all(self, &context, revision_hint, compact_revision)
        finally:
            free(context.load.handle)

    def memory_bytes(self):
        cdef size_t table = 0, tree = 0, history = 0, other = 0
        cdef size_t entries = core_index_bytes(&self.core, &table, &tree, &history, &other)
        return {
            "entries": entries,
            "table": table,
            "tree": tree,
            "history": history,
            "pending": self.pending_bytes,
            "other": other,
        }
