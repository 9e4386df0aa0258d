# cython: language_level=3
"""Protobuf's JSON as etcd's gateway reads and writes it: Go's encoding/json finds the values, Go's protojson understands them.

Native, for a request of some MiB would stop the loop otherwise. Never more than one pass of the input is held beside it.
Invariant: what decodes is a canonical message but for the order of its fields; a refusal has the words of etcd 3.7.
Must not know: methods, HTTP.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from raftsched import limits


cdef extern from "native/json_decode.h" nogil:
    enum: JSON_BOOL, JSON_INT32, JSON_INT64, JSON_UINT32, JSON_UINT64, JSON_STRING, JSON_BYTES, JSON_ENUM, JSON_MESSAGE
    enum: SCAN_MORE, SCAN_DONE, SCAN_DONE_BEFORE, SCAN_ERROR, AT_VALUE
    enum: DECODE_OK, DECODE_TOKEN, DECODE_VALUE, DECODE_DUPLICATE, DECODE_ONEOF
    enum: DECODE_UTF8, DECODE_ESCAPE, DECODE_EOF, DECODE_DEPTH, DECODE_MEMORY

    ctypedef struct json_span:
        const uint8_t *data
        size_t length
    ctypedef struct json_value:
        json_span name
        int32_t number
    ctypedef struct json_message
    ctypedef struct json_field:
        uint32_t number
        uint8_t kind, repeated, presence, oneof
        json_span name, camel_name
        const json_message *message
        const json_value *values
        uint32_t values_count
    ctypedef struct json_message:
        json_field *fields
        uint32_t fields_count
    ctypedef struct json_out:
        uint8_t *data
        size_t length, capacity
    ctypedef struct json_scan:
        uint8_t state
        uint8_t *stack
        const char *context
        uint8_t bad
    ctypedef struct json_in:
        const uint8_t *start
        const uint8_t *at
        const uint8_t *end
        int depth_left
        json_out text
        int error
        size_t error_at
        json_span error_raw
        const json_field *error_field
    void scan_reset(json_scan *scan)
    int scan_run(json_scan *scan, const uint8_t *data, size_t length, size_t *at)
    int scan_ends_whole(json_scan *scan)
    int is_space(uint8_t byte)
    int decode_message(json_in *text, const json_message *message, json_out *out)

cdef extern from "native/json_encode.h" nogil:
    ctypedef struct json_writer:
        json_out out
        int html, memory
    int write_message(json_writer *writer, const json_message *message, json_span wire, int depth)


class JsonError(ValueError):
    """What came is no such message; the text is what grpc-gateway says of it."""


cdef class Scanner:
    """Cuts a stream of bytes into JSON values; see _json.pyi."""
    cdef json_scan scan
    cdef bytearray buffer
    cdef size_t at  # looked at
    cdef str failed

    def __cinit__(self):
        scan_reset(&self.scan)
        self.buffer = bytearray()

    def __dealloc__(self):
        free(self.scan.stack)

    @property
    def pending_bytes(self):
        return len(self.buffer)

    def feed(self, bytes data not None):
        self.buffer += data

    def next(self):
        cdef int found
        if self.failed is not None:
            raise JsonError(self.failed)
        if self.scan.state == AT_VALUE and self.at == 0:
            self.skip_space()
        found = scan_run(&self.scan, <const uint8_t *><char *>self.buffer, len(self.buffer), &self.at)
        if found == SCAN_ERROR:
            self.fail(self.scan_error())
        return None if found == SCAN_MORE else self.cut()

    def end(self):
        value = self.next()
        if value is not None:
            return value
        if scan_ends_whole(&self.scan):
            return self.cut()
        if self.buffer:
            self.fail("unexpected EOF")
        return None

    cdef bytes cut(self):
        cdef bytes value = bytes(memoryview(self.buffer)[:self.at])
        del self.buffer[:self.at]
        self.at = 0
        scan_reset(&self.scan)
        return value

    cdef int skip_space(self) except -1:
        cdef size_t length = len(self.buffer), i = 0
        cdef const uint8_t *data = <const uint8_t *><char *>self.buffer
        while i < length and is_space(data[i]):
            i += 1
        if i:
            del self.buffer[:i]
        return 0

    cdef int fail(self, str text) except -1:
        self.failed = text
        self.buffer = bytearray()
        self.at = 0
        raise JsonError(text)

    cdef str scan_error(self):
        if self.scan.context == NULL:
            raise MemoryError
        if self.scan.context[0] == 0:
            return f"invalid character {quoted_byte(self.scan.bad)} exceeded max depth"
        return f"invalid character {quoted_byte(self.scan.bad)} {self.scan.context.decode()}"


cdef class Schema:
    """A message type and those in it; see _json.pyi."""
    cdef json_message *message
    cdef readonly str name
    cdef list kept  # what the spans point into
    cdef dict types, oneofs  # full name -> Schema; (full name, number of a field) -> name of its oneof
    cdef json_value **enums
    cdef size_t enums_count

    def __init__(self, descriptor):
        self.types = {}
        self.build(descriptor, self.types)

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.enums_count):
            free(self.enums[i])
        free(self.enums)
        if self.message != NULL:
            free(self.message.fields)
            free(self.message)

    cdef int build(self, descriptor, dict types) except -1:
        """Types may hold themselves: one is known by its name before its fields are."""
        cdef uint32_t i
        cdef Schema other
        self.name, self.kept, self.types, self.oneofs = descriptor.full_name, [], types, {}
        types[self.name] = self
        if len(descriptor.fields) > 64:
            raise ValueError(f"{self.name} has too many fields")
        self.message = <json_message *>calloc(1, sizeof(json_message))
        self.enums = <json_value **>calloc(len(descriptor.fields) + 1, sizeof(json_value *))
        if self.message == NULL or self.enums == NULL:
            raise MemoryError
        self.message.fields = <json_field *>calloc(len(descriptor.fields) + 1, sizeof(json_field))
        if self.message.fields == NULL:
            raise MemoryError
        self.message.fields_count = len(descriptor.fields)
        for i, field in enumerate(descriptor.fields):
            self.build_field(&self.message.fields[i], field)
            if field.message_type is None:
                continue
            if field.message_type.full_name not in types:
                other = Schema.__new__(Schema)
                other.build(field.message_type, types)
            other = types[field.message_type.full_name]
            self.message.fields[i].message = other.message
        return 0

    cdef int build_field(self, json_field *made, field) except -1:
        if field.type not in KINDS or (field.message_type is not None and field.message_type.GetOptions().map_entry):
            raise ValueError(f"{field.full_name}: no such kind of field")
        made.number, made.kind, made.repeated = field.number, KINDS[field.type][0], is_repeated(field)
        made.presence = field.has_presence
        made.name = self.span(field.name)
        made.camel_name = self.span(field.json_name)
        if field.containing_oneof is not None:
            made.oneof = field.containing_oneof.index + 1
            self.oneofs[field.number] = field.containing_oneof.full_name
        if field.enum_type is not None:
            self.build_enum(made, field.enum_type)
        return 0

    cdef int build_enum(self, json_field *made, enum) except -1:
        cdef json_value *values = <json_value *>calloc(len(enum.values), sizeof(json_value))
        if values == NULL:
            raise MemoryError
        self.enums[self.enums_count] = values
        self.enums_count += 1
        for i, value in enumerate(enum.values):
            values[i].name, values[i].number = self.span(value.name), value.number
        made.values, made.values_count = values, len(enum.values)
        return 0

    cdef json_span span(self, str text):
        cdef bytes raw = text.encode()
        self.kept.append(raw)
        return span_of(raw)

    def decode(self, bytes text not None):
        cdef json_in source
        cdef json_out out
        cdef int failed
        source.start = source.at = <const uint8_t *>PyBytes_AS_STRING(text)
        source.end = source.start + PyBytes_GET_SIZE(text)
        source.depth_left, source.error = limits.GATEWAY_DEPTH_MAX, DECODE_OK
        source.text.data, source.text.length, source.text.capacity = NULL, 0, 0
        out.data, out.length, out.capacity = NULL, 0, 0
        try:
            failed = decode_message(&source, self.message, &out)
            if failed:
                self.refuse(&source, text)
            return PyBytes_FromStringAndSize(<const char *>out.data, out.length)
        finally:
            free(source.text.data)
            free(out.data)

    cdef int refuse(self, json_in *source, bytes text) except -1:
        """Raises what went wrong, in Go's words."""
        cdef bytes raw = source.error_raw.data[:min(source.error_raw.length, limits.GATEWAY_QUOTED_BYTES_MAX)]
        cdef str said = raw.decode("utf-8", "replace"), place
        if source.error == DECODE_MEMORY:
            raise MemoryError
        if source.error == DECODE_EOF:
            raise JsonError("proto: unexpected EOF")
        if source.error == DECODE_DEPTH:
            raise JsonError("proto: exceeded max recursion depth")
        place = position(text, source.error_at)
        if source.error == DECODE_TOKEN:
            raise JsonError(f"proto: syntax error {place}: unexpected token {said}")
        if source.error == DECODE_UTF8:
            raise JsonError(f"proto: syntax error {place}: invalid UTF-8 in string")
        if source.error == DECODE_ESCAPE:
            raise JsonError(f"proto: syntax error {place}: invalid escape code {quoted(raw)} in string")
        if source.error == DECODE_DUPLICATE:
            raise JsonError(f"proto: {place}: duplicate field {said}")
        if source.error == DECODE_ONEOF:
            raise JsonError(f"proto: {place}: error parsing {said}, oneof {self.oneof_of(source.error_field)} is already set")
        kind = KIND_NAMES[source.error_field.kind]
        name = (<const char *>source.error_field.camel_name.data)[:source.error_field.camel_name.length].decode()
        raise JsonError(f"proto: {place}: invalid value for {kind} field {name}: {said}")

    cdef str oneof_of(self, const json_field *field):
        cdef Schema one
        for one in self.types.values():
            if one.message.fields <= field < one.message.fields + one.message.fields_count:
                return one.oneofs[field.number]
        return ""

    def encode(self, bytes wire not None, *, bint html=False):
        cdef json_writer writer
        cdef int failed
        writer.out.data, writer.out.length, writer.out.capacity = NULL, 0, 0
        writer.html, writer.memory = html, 0
        try:
            failed = write_message(&writer, self.message, span_of(wire), 0)
            if writer.memory:
                raise MemoryError
            if failed:
                raise ValueError(f"not the wire form of {self.name}")
            return PyBytes_FromStringAndSize(<const char *>writer.out.data, writer.out.length)
        finally:
            free(writer.out.data)


cdef bint is_repeated(field):
    """protobuf before 6.31 has the label only, later ones want it no more."""
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED


cdef json_span span_of(bytes raw):
    cdef json_span span
    span.data, span.length = <const uint8_t *>PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw)
    return span


KINDS = {  # descriptor type -> kind and protobuf's name of it
    3: (JSON_INT64, "int64"), 4: (JSON_UINT64, "uint64"), 5: (JSON_INT32, "int32"), 8: (JSON_BOOL, "bool"), 9: (JSON_STRING, "string"),
    11: (JSON_MESSAGE, "message"), 12: (JSON_BYTES, "bytes"), 13: (JSON_UINT32, "uint32"), 14: (JSON_ENUM, "enum"),
}
KIND_NAMES = dict(KINDS.values())


cdef str position(bytes text, size_t at):
    """(line L:C), counted in runes from 1."""
    cdef bytes before = text[:at]
    cdef Py_ssize_t start = before.rfind(b"\n") + 1
    column = len(before[start:].decode("utf-8", "replace")) + 1
    return f"(line {before.count(NEWLINE) + 1}:{column})"


NEWLINE = b"\n"
ESCAPES = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 92: "\\\\"}


cdef str quoted_byte(int byte):
    """As encoding/json names a byte that it did not expect: Go takes it for the rune of that number."""
    if byte == 39:
        return r"'\''"
    if byte == 34:
        return "'\"'"
    if byte in ESCAPES:
        return f"'{ESCAPES[byte]}'"
    if byte < 0x20 or byte == 0x7F:
        return f"'\\x{byte:02x}'"
    return f"'{chr(byte)}'" if chr(byte).isprintable() else f"'\\u{byte:04x}'"


cdef str quoted(bytes raw):
    """As Go's %q."""
    cdef list parts = []
    for letter in raw.decode("utf-8", "surrogateescape"):
        number = ord(letter)
        if 0xDC80 <= number <= 0xDCFF:
            parts.append(f"\\x{number - 0xDC00:02x}")
        elif number == 34:
            parts.append('\\"')
        elif number in ESCAPES:
            parts.append(ESCAPES[number])
        elif number < 0x20 or number == 0x7F:
            parts.append(f"\\x{number:02x}")
        else:
            parts.append(letter if letter.isprintable() else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}")
    return '"' + "".join(parts) + '"'
