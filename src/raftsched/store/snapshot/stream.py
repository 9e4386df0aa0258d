"""A database as a stream of chunks: what the two sides say, and in which order. Pure: bytes in, bytes and decisions out.

    sender                                              receiver
    OFFER(index, term, size, SHA-256 of everything) ──►
                        ◄── FROM(offset): 0, or where an interrupted stream of the same offer stopped; or REFUSE(reason)
    CHUNK(sequence, offset, CRC-32C, data) …        ──►
                        ◄── ACK(offset): written up to there; bounds what is under way
                        ◄── DONE: size and hash are right, all of it is synced; or REFUSE(reason)

Invariant: what arrives is written in order and once; nothing counts before the total hash matches.
Must not know: files, sockets, clocks, what a database is.
"""

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum

from raftsched import limits
from raftsched.store.wal._walio import crc32c

VERSION = 1
HASH_BYTES = 32
REASON_BYTES_MAX = 1_000
_OFFER = struct.Struct(f"<BBQQQ{HASH_BYTES}s")
_OFFSET = struct.Struct("<BQ")
_CHUNK = struct.Struct("<BQQI")
CHUNK_HEAD_BYTES = _CHUNK.size


class Kind(IntEnum):
    OFFER = 1
    FROM = 2
    CHUNK = 3
    ACK = 4
    DONE = 5
    REFUSE = 6


class StreamError(Exception):
    """The other side, or the way to it, did what it must not: the stream ends; another one may go on where it stopped."""


class RefusedError(StreamError):
    """The other side does not want it, or cannot take it; its reason."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What is sent. Two streams of equal offers carry the same bytes."""

    index: int
    term: int
    size_bytes: int
    digest: bytes  # SHA-256

    def encode(self) -> bytes:
        return _OFFER.pack(Kind.OFFER, VERSION, self.index, self.term, self.size_bytes, self.digest)


def decode_offer(data: bytes) -> Offer:
    """Raises StreamError."""
    try:
        kind, version, index, term, size_bytes, digest = _OFFER.unpack(data)
    except struct.error as error:
        raise StreamError("not an offer") from error
    if kind != Kind.OFFER or not index or not term or not size_bytes:
        raise StreamError("not an offer")
    if version != VERSION:
        raise StreamError(f"a snapshot stream of version {version}, this one speaks {VERSION}")
    return Offer(index, term, size_bytes, digest)


def _decode_offset(data: bytes) -> int:
    try:
        return int(_OFFSET.unpack(data)[1])
    except struct.error as error:
        raise StreamError("an offset of the wrong length") from error


def refusal(reason: str) -> bytes:
    """The receiver's last word."""
    return bytes([Kind.REFUSE]) + reason.encode()[:REASON_BYTES_MAX]


class Sending:
    """The sender's side: `offer`, then chunks as long as `next_chunk` names one, and `on_message` for what comes back."""

    def __init__(self, offer: Offer, *, window_bytes: int = limits.SNAPSHOT_WINDOW_BYTES) -> None:
        self.offer = offer
        self.acked_bytes = -1  # -1 = not accepted yet
        self.done = False
        self._window_bytes = window_bytes
        self._sent_bytes = 0
        self._sequence = 0

    def next_chunk(self) -> tuple[int, int] | None:
        """(offset, length) of the chunk to send now; None: first hear the other side."""
        size = min(self.offer.size_bytes - self._sent_bytes, limits.SNAPSHOT_CHUNK_BYTES)
        if self.acked_bytes < 0 or size == 0 or self._sent_bytes + size - self.acked_bytes > self._window_bytes:
            return None
        return self._sent_bytes, size

    def chunk(self, data: bytes) -> bytes:
        """The message for the chunk that `next_chunk` named."""
        message = _CHUNK.pack(Kind.CHUNK, self._sequence, self._sent_bytes, crc32c(data)) + data
        self._sequence += 1
        self._sent_bytes += len(data)
        return message

    def on_message(self, data: bytes) -> None:
        """Raises StreamError (also for b"", the end of the stream), RefusedError."""
        if not data:
            raise StreamError("the other side ended the stream")
        kind = data[0]
        if kind == Kind.REFUSE:
            raise RefusedError(data[1:].decode(errors="replace"))
        if kind == Kind.DONE:
            if self.acked_bytes != self.offer.size_bytes:
                raise StreamError("done before everything was sent")
            self.done = True
            return
        offset = _decode_offset(data)
        if kind == Kind.FROM and self.acked_bytes < 0 and offset <= self.offer.size_bytes:
            self.acked_bytes = self._sent_bytes = offset
        elif kind == Kind.ACK and self.acked_bytes <= offset <= self._sent_bytes and self.acked_bytes >= 0:
            self.acked_bytes = offset
        else:
            raise StreamError(f"message {kind} at offset {offset} does not belong here")


class Partial:
    """What was received of one offer; outlives an interrupted stream, and by `part.py` this process."""

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.offset_bytes = 0
        self._hash = hashlib.sha256()

    def took(self, data: bytes) -> None:
        """`data` is written. Costs a hash: for a worker thread."""
        self._hash.update(data)
        self.offset_bytes += len(data)

    @property
    def digest(self) -> bytes:
        """SHA-256 of what was received."""
        return self._hash.copy().digest()

    @property
    def complete(self) -> bool:
        return self.offset_bytes == self.offer.size_bytes

    @property
    def intact(self) -> bool:
        """The whole is what was offered."""
        return self.complete and self.digest == self.offer.digest


class Receiving:
    """The receiver's side of one stream: `on_offer`, `begin`, then `on_chunk` gives what to write, `written` what to answer."""

    def __init__(self) -> None:
        self._partial: Partial
        self._sequence = 0
        self._acked_bytes = 0

    def on_offer(self, data: bytes) -> Offer:
        """Raises StreamError."""
        return decode_offer(data)

    def begin(self, partial: Partial) -> bytes:
        """The answer that lets the chunks come, from where `partial` stands."""
        self._partial = partial
        self._acked_bytes = partial.offset_bytes
        return _OFFSET.pack(Kind.FROM, partial.offset_bytes)

    def on_chunk(self, message: bytes) -> bytes:
        """The data to write at `Partial.offset_bytes`. Raises StreamError for what is cut, repeated, out of order or damaged."""
        if len(message) <= CHUNK_HEAD_BYTES or message[0] != Kind.CHUNK:
            raise StreamError("not a chunk")
        _kind, sequence, offset, crc = _CHUNK.unpack_from(message)
        data = message[CHUNK_HEAD_BYTES:]
        partial = self._partial
        if sequence != self._sequence or offset != partial.offset_bytes:
            raise StreamError(f"chunk {sequence} at offset {offset}, but {self._sequence} at {partial.offset_bytes} is next")
        if crc32c(data) != crc:
            raise StreamError(f"chunk {sequence} at offset {offset} does not verify")
        if len(data) > limits.SNAPSHOT_CHUNK_BYTES or offset + len(data) > partial.offer.size_bytes:
            raise StreamError(f"chunk {sequence} at offset {offset} has {len(data)} bytes")
        self._sequence += 1
        return data

    def written(self) -> bytes:
        """The answer once `Partial.took` was told; b"" = none yet. Asks for more when half of the window is written."""
        offset = self._partial.offset_bytes
        if offset - self._acked_bytes < limits.SNAPSHOT_WINDOW_BYTES // 2 and not self._partial.complete:
            return b""
        self._acked_bytes = offset
        return _OFFSET.pack(Kind.ACK, offset)

    def done(self) -> bytes:
        """The answer once everything is checked and synced."""
        return bytes([Kind.DONE])


class Pace:
    """A rate limit: how long to wait before sending, so that the rate holds but for one burst."""

    def __init__(self, bytes_per_s: int, *, burst_bytes: int = limits.SNAPSHOT_WINDOW_BYTES) -> None:
        self._bytes_per_s = bytes_per_s
        self._burst_ns = burst_bytes * 10**9 // bytes_per_s
        self._free_at_ns = 0  # when all that was sent so far is within the rate

    def wait_ns(self, size_bytes: int, mono_ns: int) -> int:
        """To be called once for each chunk; the time to wait before it is sent."""
        start_ns = max(self._free_at_ns, mono_ns - self._burst_ns)
        self._free_at_ns = start_ns + size_bytes * 10**9 // self._bytes_per_s
        return max(start_ns - mono_ns, 0)
