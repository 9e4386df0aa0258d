# distutils: define_macros=_GNU_SOURCE=1
"""The write-ahead log's native half: records into bytes, bytes into records, and the writer with its threads.

Invariant: a batch number that `LogWriter.completed` has returned is on disk, and so are all before it.
Must not know: what an entry's data means, when to take a snapshot, which segments may go (that is `segments.py`).

Who owns what: `native/wal_format.h` is pure; `native/wal_writer.h` owns files and threads and never touches a Python object;
this module owns the references to large entries' bytes until their batch is durable.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset, strerror

from raftsched.errors import FatalError
from raftsched.types import HardState

include "_walio/native.pxi"
include "_walio/batch.pxi"
include "_walio/writer.pxi"
include "_walio/reader.pxi"
include "_walio/sections.pxi"
