"""What is remembered of a snapshot that is being received, so that the next life of this member can go on with it.

A file beside the data: the offer, how many bytes of it are written and synced, their SHA-256, and a CRC-32C over all that. It is written
after the data's sync and not synced itself: an older one, or none, only means that more is sent again.

Invariant: nothing is taken for received because the file says so: the bytes are hashed again first. What lies in the data behind them does
not count.
Must not know: streams, what a database is.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from raftsched.store.snapshot.stream import Offer, Partial, StreamError, decode_offer
from raftsched.store.wal._walio import crc32c
from raftsched.store.wal.disk import private

PART_NAME = "PART"
HASH_STEP_BYTES = 1 << 20
_TAIL = struct.Struct("<Q32sI")


@dataclass(frozen=True, slots=True)
class Part:
    """Of one offer: so many bytes, and their SHA-256."""

    offer: Offer
    offset_bytes: int
    digest: bytes

    def encode(self) -> bytes:
        head = self.offer.encode() + _TAIL.pack(self.offset_bytes, self.digest, 0)[:-4]
        return head + crc32c(head).to_bytes(4, "little")


def write(directory: Path, partial: Partial) -> None:
    """After a sync of the data. Raises OSError."""
    temporary = directory / (PART_NAME + ".tmp")
    with open(temporary, "wb", opener=private) as file:
        file.write(Part(partial.offer, partial.offset_bytes, partial.digest).encode())
    temporary.rename(directory / PART_NAME)


def read(directory: Path) -> Part | None:
    """None: there is nothing to go on with."""
    try:
        data = (directory / PART_NAME).read_bytes()
        offset_bytes, digest, crc = _TAIL.unpack(data[-_TAIL.size :])
        offer = decode_offer(data[: -_TAIL.size])
    except (OSError, struct.error, StreamError):
        return None
    return Part(offer, offset_bytes, digest) if crc == crc32c(data[:-4]) and offset_bytes <= offer.size_bytes else None


def remove(directory: Path) -> None:
    """The data are a whole database from here on. Raises OSError."""
    for name in (PART_NAME, PART_NAME + ".tmp"):
        (directory / name).unlink(missing_ok=True)


def verified(part: Part, file: Path) -> Partial | None:
    """Reads what is there; None: it is not what was written. Blocks: for a worker thread."""
    partial = Partial(part.offer)
    try:
        with open(file, "rb", buffering=0) as source:
            while partial.offset_bytes < part.offset_bytes:
                block = source.read(min(HASH_STEP_BYTES, part.offset_bytes - partial.offset_bytes))
                if not block:
                    return None
                partial.took(block)
    except OSError:
        return None
    return partial if partial.digest == part.digest else None
