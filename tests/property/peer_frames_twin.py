"""The codec of `store/transport/_frames.pyx`, slow and obvious: the same bytes, the same refusals."""

from raftsched.store.raft._kernel import Message

FIELDS = (
    "type",
    "to",
    "sender",
    "term",
    "index",
    "log_term",
    "commit",
    "hint_index",
    "hint_term",
    "context",
    "reject",
    "beat",
    "echo",
    "left_ms",
)


class Refused(Exception):
    """What the native codec says WireError to."""


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def encode(message: Message) -> bytes:
    out = b""
    for field, name in enumerate(FIELDS, 1):
        value = int(getattr(message, name))
        if value:
            out += varint(field << 3) + varint(value)
    for first, term, kind, items in message.runs:
        body = b"".join(map(varint, (first, term, kind, len(items)))) + b"".join(varint(len(item)) + item for item in items)
        out += varint(15 << 3 | 2) + varint(len(body)) + body
    return out


def frame(kind: int, payload: bytes) -> bytes:
    return struct_head(len(payload), kind, crc32c(bytes([kind]) + payload)) + payload


def struct_head(length: int, kind: int, checksum: int) -> bytes:
    return length.to_bytes(4, "little") + bytes([kind]) + checksum.to_bytes(4, "little")


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def varint(self) -> int:
        value = 0
        for shift in range(0, 64, 7):
            (byte,) = self.bytes(1)
            if shift == 63 and byte > 1:
                raise Refused
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise Refused

    def bytes(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise Refused
        self.at += count
        return self.data[self.at - count : self.at]

    def tag(self) -> tuple[int, int]:
        tag = self.varint()
        if not 0 < tag >> 3 < 1 << 29 or tag & 7 > 5:
            raise Refused
        return tag >> 3, tag & 7

    def skip(self, field: int, wire: int, depth: int = 0) -> None:
        if wire == 0:
            self.varint()
        elif wire == 2:
            self.bytes(self.varint())
        elif wire in {1, 5}:
            self.bytes(8 if wire == 1 else 4)
        elif wire == 3 and depth < 100:
            while (inner := self.tag())[1] != 4:
                self.skip(*inner, depth + 1)
            if inner[0] != field:
                raise Refused
        else:
            raise Refused


def decode(data: bytes, entries_max: int) -> dict[str, object]:
    """Field name -> value; raises Refused."""
    reader, numbers, runs = Reader(data), [0] * 14, []
    while reader.at < len(data):
        field, wire = reader.tag()
        if field <= 14:
            if wire:
                raise Refused
            numbers[field - 1] = reader.varint()
        elif field == 15:
            if wire != 2:
                raise Refused
            runs.append(run(Reader(reader.bytes(reader.varint()))))
        else:
            reader.skip(field, wire)
    if numbers[0] >= 2**31 or numbers[10] > 1 or sum(len(one[3]) for one in runs) > entries_max:
        raise Refused
    signed = [value if name in {"to", "sender"} or value < 2**63 else value - 2**64 for name, value in zip(FIELDS, numbers, strict=True)]
    return {**dict(zip(FIELDS, signed, strict=True)), "reject": bool(numbers[10]), "runs": runs}


def run(reader: Reader) -> tuple[int, int, int, list[bytes]]:
    first, term, kind, count = (reader.varint() for _ in range(4))
    if not count or first >= 2**63 or term >= 2**63 or kind > 255 or count > len(reader.data):
        raise Refused
    items = [reader.bytes(reader.varint()) for _ in range(count)]
    if reader.at != len(reader.data):
        raise Refused
    return first, term, kind, items
