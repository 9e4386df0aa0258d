"""Messages compressed with gzip, as grpc-go takes them and in its words.

Must not know: who sent them, nor when to inflate them.
"""

import zlib
from typing import Final

from raftsched.errors import GrpcCode, StatusError

HEADER_BYTES: Final = 10
MEMBERS_MAX: Final = 16
"""A gzip file may consist of many; what compresses messages makes one. A bound, for each costs time that its bytes do not tell."""
GZIP_WINDOW: Final = 31
OF_HEADERS: Final = ("header", "compression method")
OF_SUMS: Final = ("incorrect data check", "incorrect length check")


def inflate(data: bytes, bytes_max: int) -> bytes:
    """The message. Memory: twice `bytes_max` at most, for a moment. StatusError: RESOURCE_EXHAUSTED beyond that, INTERNAL for no gzip."""
    if len(data) < HEADER_BYTES:
        raise StatusError(GrpcCode.INTERNAL, f"grpc: failed to decompress the message: {'unexpected EOF' if data else 'EOF'}")
    parts: list[bytes] = []
    room = bytes_max + 1
    while data:
        if len(parts) == MEMBERS_MAX:
            raise StatusError(GrpcCode.RESOURCE_EXHAUSTED, f"grpc: received compressed message of more than {MEMBERS_MAX} parts")
        member = zlib.decompressobj(GZIP_WINDOW)
        try:
            parts.append(member.decompress(data, room))
        except zlib.error as error:
            raise StatusError(GrpcCode.INTERNAL, corrupt(str(error), first=not parts)) from None
        room -= len(parts[-1])
        if not room:
            raise StatusError(GrpcCode.RESOURCE_EXHAUSTED, f"grpc: received message after decompression larger than max {bytes_max}")
        if not member.eof:
            raise StatusError(GrpcCode.INTERNAL, "grpc: failed to read decompressed data: unexpected EOF")
        data = member.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


def corrupt(why: str, *, first: bool) -> str:
    """zlib's reason in Go's words; where in the data it was found, zlib does not tell."""
    if any(words in why for words in OF_HEADERS):
        return f"grpc: failed to {'decompress the message' if first else 'read decompressed data'}: gzip: invalid header"
    if any(words in why for words in OF_SUMS):
        return "grpc: failed to read decompressed data: gzip: invalid checksum"
    return "grpc: failed to read decompressed data: flate: corrupt input"
