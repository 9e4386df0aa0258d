"""The file of `dapr scheduler export`: Go's gob of `struct { Jobs, Counters map[string][]byte }`, read and written as a stream.

    message   = its length, a type's id, what it says; numbers are Go's: below 128 one byte, else minus their length and big-endian bytes
    id < 0    = the description of type -id; id > 0 = a value of that type

Invariant: no more than one record is in memory; nothing is taken that the descriptions in the file do not announce.
Must not know: etcd, flags, terminals.
"""

import io
import os
from collections.abc import Iterator
from typing import BinaryIO, Final

from raftsched.errors import CorruptError

KEY_BYTES_MAX: Final = 1 << 20
VALUE_BYTES_MAX: Final = (1 << 31) - 1
MESSAGE_BYTES_MAX: Final = 8 << 30  # what Go's reader takes
DESCRIPTION_BYTES_MAX: Final = 1 << 16
DEPTH_MAX: Final = 8
FIELDS_MAX: Final = 64
BYTES, STRING = 5, 6  # types that need no description
LENGTH_RESERVED: Final = 9

# What Go's encoder writes before the value: type 64, a struct of two maps, and type 65, the map.
DESCRIPTIONS: Final = bytes.fromhex(
    "387f030101137363686564756c65724578706f727446696c6501ff8000010201044a6f627301ff82000108436f756e7465727301ff8200000022ff8104010112"
    "6d61705b737472696e675d5b5d75696e743801ff8200010c010a0000"
)
STRUCT_ID: Final = b"\xff\x80"


class _Reader:
    """Numbers and bytes of one message."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self._path = path
        self.rest = 0  # bytes of the present message
        self.offset = 0

    def broken(self, why: str) -> CorruptError:
        return CorruptError(f"{self._path}: no file of `dapr scheduler export`, or it was cut: {why} at byte {self.offset}")

    def take(self, count: int) -> bytes:
        if count > self.rest:
            raise self.broken(f"{count} bytes are announced where {self.rest} are left")
        self.rest -= count
        data = self._file.read(count)
        self.offset += len(data)
        if len(data) != count:
            raise self.broken("the file ends in the midst of a record")
        return data

    def number(self) -> int:
        first = self.take(1)[0]
        if first < 0x80:
            return first
        width = 256 - first
        if width > 8:
            raise self.broken("a number has more than 8 bytes")
        return int.from_bytes(self.take(width), "big")

    def signed(self) -> int:
        number = self.number()
        return ~(number >> 1) if number & 1 else number >> 1

    def bytes(self, most: int) -> bytes:
        if (count := self.number()) > most:
            raise self.broken(f"{count} bytes are announced, {most} are the most")
        return self.take(count)

    def begin(self) -> bool:
        """To the next message; False = there is none."""
        if self.rest:
            raise self.broken(f"{self.rest} bytes are left behind a value")
        self.rest = 1
        if not self._file.peek(1):  # type: ignore[attr-defined]  # a BufferedReader
            return False
        self.rest = LENGTH_RESERVED
        length = self.number()
        if length > MESSAGE_BYTES_MAX:
            raise self.broken(f"a message of {length} bytes is announced")
        self.rest = length
        return True


class _Types:
    """The descriptions of a file: of structs their fields, of maps their keys and elements."""

    def __init__(self) -> None:
        self.structs: dict[int, list[tuple[str, int]]] = {}
        self.maps: dict[int, tuple[int, int]] = {}

    def describe(self, reader: _Reader, type_id: int) -> None:
        """`wireType`: of its fields 3 is a struct, 4 a map; nothing else is expected."""
        if reader.rest > DESCRIPTION_BYTES_MAX:
            raise reader.broken("the description of a type is too long")
        for field in self._fields(reader):
            if field == 3:
                self.structs[type_id] = self._struct(reader)
            elif field == 4:
                self.maps[type_id] = self._map(reader)
            else:
                raise reader.broken("it holds something else than maps")

    @staticmethod
    def _fields(reader: _Reader) -> Iterator[int]:
        field = 0
        while delta := reader.number():
            field += delta
            if field > FIELDS_MAX:
                raise reader.broken("a struct has too many fields")
            yield field

    def _common(self, reader: _Reader) -> None:
        """`CommonType`: a name and an id."""
        for field in self._fields(reader):
            if field == 1:
                reader.bytes(DESCRIPTION_BYTES_MAX)
            else:
                reader.signed()

    def _struct(self, reader: _Reader) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        for field in self._fields(reader):
            if field == 1:
                self._common(reader)
                continue
            for _ in range(reader.number()):
                name, kind = "", 0
                for part in self._fields(reader):
                    if part == 1:
                        name = reader.bytes(DESCRIPTION_BYTES_MAX).decode(errors="replace")
                    else:
                        kind = reader.signed()
                found.append((name, kind))
        return found

    def _map(self, reader: _Reader) -> tuple[int, int]:
        kinds = [0, 0]
        for field in self._fields(reader):
            if field == 1:
                self._common(reader)
            elif field in (2, 3):
                kinds[field - 2] = reader.signed()
            else:
                raise reader.broken("the description of a map is none")
        return kinds[0], kinds[1]


def read(path: str) -> Iterator[tuple[bytes, bytes, int]]:
    """(key, value, offset behind them) of all jobs and counters, in the file's order. Raises CorruptError, OSError."""
    with open(path, "rb", buffering=1 << 20) as file:
        assert isinstance(file, io.BufferedReader)
        reader, types, values = _Reader(file, path), _Types(), 0
        while reader.begin():
            type_id = reader.signed()
            if type_id < 0:
                types.describe(reader, -type_id)
            else:
                values += 1
                if values > 1 or type_id not in types.structs:
                    raise reader.broken("it holds more than one value, or one that is not described")
                yield from _maps(reader, types, types.structs[type_id])
        if not values:
            raise reader.broken("it holds no value")


def _maps(reader: _Reader, types: _Types, fields: list[tuple[str, int]]) -> Iterator[tuple[bytes, bytes, int]]:
    if not {"Jobs", "Counters"} & {name for name, _ in fields}:
        raise reader.broken("its value has neither Jobs nor Counters")
    for field in types._fields(reader):
        if field > len(fields):
            raise reader.broken("a field is not described")
        name, kind = fields[field - 1]
        if name not in ("Jobs", "Counters") or types.maps.get(kind) != (STRING, BYTES):
            raise reader.broken(f"its field {name!r} is no map from texts to bytes")
        for _ in range(reader.number()):
            key = reader.bytes(KEY_BYTES_MAX)
            yield key, reader.bytes(VALUE_BYTES_MAX), reader.offset


def number(value: int) -> bytes:
    """An unsigned number as gob has it."""
    if value < 0x80:
        return bytes([value])
    data = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([256 - len(data)]) + data


class Writer:
    """A file as it grows: the maps one after the other, each with as many pairs as was said."""

    def __init__(self, file: BinaryIO) -> None:
        """`file`: seekable and empty."""
        self._file = file
        self._field = 0
        self._left = 0
        file.write(DESCRIPTIONS)
        self._length_at = file.tell()
        file.write(bytes(LENGTH_RESERVED) + STRUCT_ID)

    def begin(self, field: int, count: int) -> None:
        """Field 1 = Jobs, 2 = Counters; of an empty map nothing is written, as Go does it."""
        assert self._left == 0
        if count:
            self._file.write(number(field - self._field) + number(count))
            self._field, self._left = field, count

    def add(self, key: bytes, value: bytes) -> None:
        self._left -= 1
        assert self._left >= 0
        self._file.write(number(len(key)) + key + number(len(value)) + value)

    def end(self) -> int:
        """Size of the file in bytes."""
        assert self._left == 0
        self._file.write(b"\0")
        size = self._file.tell()
        self._file.seek(self._length_at)
        self._file.write(b"\xf8" + (size - self._length_at - LENGTH_RESERVED).to_bytes(8, "big"))
        self._file.seek(0, os.SEEK_END)
        return size
