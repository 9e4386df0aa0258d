"""What members say to each other, as bytes: kernel messages, and the frames that carry them.

A frame is a head of 9 bytes (payload length as u32, kind as u8, CRC-32C over kind and payload as u32; little-endian) and its payload. A
message that is longer than PART_BYTES goes as several frames; one message at a time is in parts on a connection, and whole frames may
stand between its parts. A message is in protobuf's wire format, so that a later version may add fields which this one skips. What is in
parts is read as it comes, so no part costs more than its own bytes; a field that is no run has at most 4 KiB there.

Invariant: `decode` and `Decoder` are total: any bytes give messages or WireError, and never take more memory than a small multiple of
the bytes that came. Must not know: sockets, peers, what a message means.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from libc.stdint cimport INT32_MAX, INT64_MAX, SIZE_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

from raftsched.store.raft._kernel cimport Message

from raftsched.limits import PEER_MESSAGE_ENTRIES_MAX

include "_frames/native.pxi"
include "_frames/message.pxi"
include "_frames/assembly.pxi"
include "_frames/incoming.pxi"
include "_frames/outgoing.pxi"


class WireError(Exception):
    """Bytes that no member of this protocol sends; the text is the reason, a few words."""
