"""Protobuf's JSON as etcd's gateway reads and writes it; the tables come from message descriptors."""

from google.protobuf.descriptor import Descriptor

class JsonError(ValueError):
    """What came is no such message; the text is what grpc-gateway says of it."""

class Scanner:
    """Cuts a stream of bytes into JSON values."""

    pending_bytes: int
    """Of a value that is not whole yet."""

    def feed(self, data: bytes) -> None: ...
    def next(self) -> bytes | None:
        """The next value that is whole, without spaces around it; None: more bytes are needed. JsonError: this is no JSON, for good."""

    def end(self) -> bytes | None:
        """There are no more bytes: a bare literal that was whole, or None. JsonError for a value that was cut off."""

class Schema:
    """A message type and those in it. ValueError for kinds of fields that etcd's API does not have (floats, maps, fixed-width integers)."""

    def __init__(self, descriptor: Descriptor) -> None: ...
    def decode(self, text: bytes) -> bytes:
        """The wire form of a JSON value that a Scanner found whole. JsonError."""

    def encode(self, wire: bytes, *, html: bool = False) -> bytes:
        """Compact JSON. `html`: `<`, `>`, `&` and line separators are escaped. ValueError for bytes that are no such message."""
