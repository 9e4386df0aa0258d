"""Protobuf's integers of variable length, for the few messages that are written by hand."""

from typing import Final

MASK_64: Final = (1 << 64) - 1


def varint(value: int) -> bytes:
    """Base-128 of an int64 or uint64; a negative one takes ten bytes, as protobuf wants."""
    value &= MASK_64
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
