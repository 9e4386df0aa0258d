# distutils: define_macros=_GNU_SOURCE=1
"""bbolt files, read offline: etcd's snapshots and its `member/snap/db`. native/bolt_reader.h checks every page before it is used.

Invariant: whatever a file holds, it is read or CorruptError names the page; nothing is ever written to it.
Must not know: what a key or a value says, but for the revisions in bucket `key`.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

import os

from raftsched.errors import CorruptError, FatalError
from raftsched.store._records cimport Generation

cdef extern from "../native/crc32c.h" nogil:
    uint32_t crc32c_update(uint32_t crc, const void* data, size_t length)

cdef extern from "../native/bolt_reader.h" nogil:
    enum:
        BOLT_BUCKET
    ctypedef struct bolt_meta_t:
        uint32_t page_bytes
        uint64_t root
        uint64_t page_count
        uint64_t txid
    ctypedef struct bolt_file_t:
        uint64_t file_bytes
        bolt_meta_t meta
        const char* why
        int error
        uint64_t where
    ctypedef struct bolt_cursor_t:
        bolt_file_t* file
        uint64_t pages_seen
    ctypedef struct bolt_pair_t:
        uint32_t flags
        const uint8_t* key
        const uint8_t* value
        size_t key_bytes
        size_t value_bytes
    int bolt_open(bolt_file_t* file, int fd, uint64_t file_bytes)
    int bolt_cursor_begin(bolt_cursor_t* cursor, bolt_file_t* file, uint64_t root)
    int bolt_cursor_bucket(bolt_cursor_t* cursor, bolt_file_t* file, const uint8_t* value, size_t size, uint64_t holder)
    void bolt_cursor_end(bolt_cursor_t* cursor)
    int bolt_next(bolt_cursor_t* cursor, bolt_pair_t* pair)
    uint64_t bolt_page_of(const bolt_cursor_t* cursor)

EMPTY_MAX = 1000  # records without a value that are remembered
REPORT_PAGES = 16384  # between two calls of `on_pages`


cdef uint64_t number_at(const uint8_t* at) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(8):
        value = value << 8 | at[i]
    return value


# (main, sub, tombstone) of a key of bucket `key`; False if it is none that fits
cdef bint revision_of(const uint8_t* key, size_t size, uint64_t* main, uint64_t* sub, bint* tombstone) noexcept nogil:
    if size != 17 and not (size == 18 and key[17] == b"t") or key[8] != b"_":
        return False
    main[0], sub[0], tombstone[0] = number_at(key), number_at(key + 9), size == 18
    return main[0] < (<uint64_t> 1 << 63) and sub[0] < (<uint64_t> 1 << 32)


# the key of an encoded mvccpb.KeyValue; None if there is none in front (etcd writes fields in order)
cdef bytes user_key(const uint8_t* value, size_t size):
    cdef size_t at = 1, length = 0
    cdef int shift = 0
    if size < 2 or value[0] != 0x0A:
        return None
    while at < size and shift < 35:
        length |= <size_t> (value[at] & 0x7F) << shift
        at += 1
        if value[at - 1] < 0x80:
            return PyBytes_FromStringAndSize(<char*> value + at, length) if length <= size - at else None
        shift += 7
    return None


cdef class BoltFile:
    cdef bolt_file_t file
    cdef readonly str path
    cdef int descriptor
    cdef dict bucket_values

    def __cinit__(self):
        self.descriptor = -1

    def __init__(self, str path not None):
        if self.descriptor >= 0:
            raise ValueError("a file is opened once")
        self.path = path
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            size = os.fstat(self.descriptor).st_size
        except OSError as error:
            raise FatalError(f"cannot read {path}: {error.strerror}") from error
        if bolt_open(&self.file, self.descriptor, size):
            raise self.failure()
        self.bucket_values = self.read_buckets()

    def __dealloc__(self):
        if self.descriptor >= 0:
            os.close(self.descriptor)

    cdef failure(self):
        if self.file.why == NULL:
            if self.file.error == 12:
                return MemoryError()
            return FatalError(f"cannot read {self.path}: {os.strerror(self.file.error)}")
        where = f"page {self.file.where}: " if self.file.where else ""
        return CorruptError(f"{self.path}: {where}{(<bytes> self.file.why).decode()}")

    cdef damaged(self, str why, uint64_t page):
        return CorruptError(f"{self.path}: page {page}: {why}")

    cdef dict read_buckets(self):
        cdef bolt_cursor_t cursor
        cdef bolt_pair_t pair
        cdef int more
        found = {}
        try:
            more = bolt_cursor_begin(&cursor, &self.file, self.file.meta.root)
            while more >= 0:
                more = bolt_next(&cursor, &pair)
                if more != 1:
                    break
                if not pair.flags & BOLT_BUCKET:
                    raise self.damaged("a key that belongs to no bucket", bolt_page_of(&cursor))
                if len(found) == 64:
                    raise self.damaged("more buckets than any etcd has", bolt_page_of(&cursor))
                found[PyBytes_FromStringAndSize(<char*> pair.key, pair.key_bytes)] = (
                    PyBytes_FromStringAndSize(<char*> pair.value, pair.value_bytes), bolt_page_of(&cursor))
            if more < 0:
                raise self.failure()
        finally:
            bolt_cursor_end(&cursor)
        return found

    @property
    def buckets(self):
        return [name.decode(errors="backslashreplace") for name in self.bucket_values]

    @property
    def page_bytes(self):
        return self.file.meta.page_bytes

    @property
    def page_count(self):
        return self.file.meta.page_count

    @property
    def size_bytes(self):
        return self.file.meta.page_count * self.file.meta.page_bytes

    @property
    def file_bytes(self):
        return self.file.file_bytes

    @property
    def txid(self):
        return self.file.meta.txid

    cdef int enter(self, bolt_cursor_t* cursor, str bucket) except -1:
        """False: there is no such bucket, and `cursor` is empty."""
        memset(cursor, 0, sizeof(bolt_cursor_t))
        found = self.bucket_values.get(bucket.encode())
        if found is None:
            return 0
        value, page = found
        if bolt_cursor_bucket(cursor, &self.file, <const uint8_t*> (<bytes> value), len(value), page):
            raise self.failure()
        return 1

    def items(self, str bucket not None, *, size_t bytes_max=1 << 28):
        cdef bolt_cursor_t cursor
        cdef bolt_pair_t pair
        cdef int more = 0
        cdef size_t size = 0
        found = []
        try:
            if self.enter(&cursor, bucket):
                while True:
                    more = bolt_next(&cursor, &pair)
                    if more != 1:
                        break
                    size += pair.key_bytes + pair.value_bytes + 64
                    if size > bytes_max:
                        raise CorruptError(f"{self.path}: bucket {bucket} takes more than {bytes_max} bytes")
                    if pair.flags:
                        raise self.damaged("a bucket inside of a bucket", bolt_page_of(&cursor))
                    found.append((PyBytes_FromStringAndSize(<char*> pair.key, pair.key_bytes),
                                  PyBytes_FromStringAndSize(<char*> pair.value, pair.value_bytes)))
            if more < 0:
                raise self.failure()
        finally:
            bolt_cursor_end(&cursor)
        return found

    def digest(self, on_pages=None):
        """(hash, revision, live keys, records)"""
        cdef uint32_t crc = 0
        cdef uint64_t revision = 0, records = 0, pages = 0
        live = set()
        for name in self.bucket_values:
            crc = crc32c_update(crc, <const uint8_t*> (<bytes> name), len(name))
            bucket = name.decode(errors="replace")
            crc, revision, records, pages = self.digest_bucket(bucket, name == b"key", crc, revision, records, live, on_pages, pages)
        return crc, revision, len(live), records

    cdef tuple digest_bucket(
        self, str bucket, bint is_key, uint32_t crc, uint64_t revision, uint64_t records, set live, on_pages, uint64_t before
    ):
        cdef bolt_cursor_t cursor
        cdef bolt_pair_t pair
        cdef int more = 0
        cdef uint64_t main = 0, sub = 0, told = 0
        cdef bint tombstone = False
        try:
            if self.enter(&cursor, bucket):
                while True:
                    more = bolt_next(&cursor, &pair)
                    if more != 1:
                        break
                    crc = crc32c_update(crc32c_update(crc, pair.key, pair.key_bytes), pair.value, pair.value_bytes)
                    if pair.flags:
                        raise self.damaged("a bucket inside of a bucket", bolt_page_of(&cursor))
                    records += 1
                    if is_key:
                        if not revision_of(pair.key, pair.key_bytes, &main, &sub, &tombstone):
                            raise self.damaged("a key that is no revision", bolt_page_of(&cursor))
                        revision = main
                        key = user_key(pair.value, pair.value_bytes)
                        if key is not None:
                            if tombstone:
                                live.discard(key)
                            else:
                                live.add(key)
                    if on_pages is not None and cursor.pages_seen - told >= REPORT_PAGES:
                        told = cursor.pages_seen
                        on_pages(before + told)
            if more < 0:
                raise self.failure()
            return crc, revision, records, before + cursor.pages_seen
        finally:
            bolt_cursor_end(&cursor)


cdef class RecordReader:
    cdef BoltFile bolt
    cdef bolt_cursor_t cursor
    cdef bint inside
    cdef readonly uint64_t main, sub, count
    cdef readonly list empty

    def __init__(self, BoltFile bolt not None):
        if self.bolt is not None:
            raise ValueError("a reader is made once")
        self.bolt = bolt
        self.empty = []
        self.inside = bolt.enter(&self.cursor, "key")

    def __dealloc__(self):
        bolt_cursor_end(&self.cursor)

    @property
    def pages_seen(self):
        return self.cursor.pages_seen

    def fill(self, Generation generation not None, uint64_t bytes_max):
        cdef bolt_pair_t pair
        cdef uint64_t main = 0, sub = 0
        cdef bint tombstone = False
        cdef int more = 0
        while self.inside and generation.size_bytes < bytes_max:
            more = bolt_next(&self.cursor, &pair)
            if more != 1:
                self.inside = False
                break
            if not revision_of(pair.key, pair.key_bytes, &main, &sub, &tombstone):
                raise self.bolt.damaged("a key that is no revision", bolt_page_of(&self.cursor))
            if pair.flags:
                raise self.bolt.damaged("a bucket inside of a bucket", bolt_page_of(&self.cursor))
            if self.count and main == self.main and sub == self.sub:
                raise self.bolt.damaged("two records of one revision", bolt_page_of(&self.cursor))
            if generation.append(main, <uint32_t> sub, tombstone, pair.value, <uint32_t> pair.value_bytes):
                raise MemoryError
            if not pair.value_bytes and len(self.empty) < EMPTY_MAX:
                self.empty.append((main, sub, tombstone))
            self.main, self.sub = main, sub
            self.count += 1
        if more < 0:
            raise self.bolt.failure()
        return bool(self.inside)
