/* From the wire form of a message to compact JSON as Go's protojson writes it with the original names: fields in order, zeros left out,
 * 64-bit integers and bytes as strings.
 *
 * `html`: the text goes through Go's encoding/json once more, as in streams, which escapes what HTML could misread.
 */
#pragma once
#include "json_table.h"

#define ENCODE_DEPTH_MAX 1000

typedef struct { json_out out; int html, memory; } json_writer;

typedef struct { const uint8_t *at, *end; } wire_in;
typedef struct { uint32_t number, type; uint64_t value; json_span span; } wire_entry;

static int wire_varint(wire_in *in, uint64_t *value) {
  *value = 0;
  for (unsigned shift = 0; shift < 64 && in->at < in->end; shift += 7) {
    uint8_t byte = *in->at++;
    *value |= (uint64_t)(byte & 0x7F) << shift;
    if (byte < 0x80) return 0;
  }
  return -1;
}

static int wire_skip(wire_in *in, size_t length) {
  if ((size_t)(in->end - in->at) < length) return -1;
  in->at += length;
  return 0;
}

/* The next field; -1 for what is no message. */
static int wire_next(wire_in *in, wire_entry *entry) {
  uint64_t tag;
  if (wire_varint(in, &tag)) return -1;
  entry->number = (uint32_t)(tag >> 3);
  entry->type = (uint32_t)(tag & 7);
  if (entry->type == 0) return wire_varint(in, &entry->value);
  if (entry->type == 1) return wire_skip(in, 8);
  if (entry->type == 5) return wire_skip(in, 4);
  if (entry->type != 2 || wire_varint(in, &entry->value)) return -1;
  entry->span.data = in->at;
  entry->span.length = (size_t)entry->value;
  return entry->value > (size_t)(in->end - in->at) ? -1 : wire_skip(in, entry->span.length);
}

static int write_text(json_writer *writer, const char *text, size_t length) {
  writer->memory |= json_put(&writer->out, text, length);
  return 0;
}

static int write_integer(json_writer *writer, uint64_t magnitude, int negative) {
  char digits[24], *at = digits + sizeof digits;
  do *--at = (char)('0' + magnitude % 10);
  while (magnitude /= 10);
  if (negative) *--at = '-';
  return write_text(writer, at, (size_t)(digits + sizeof digits - at));
}

static int write_signed(json_writer *writer, int64_t value) {
  return write_integer(writer, value < 0 ? 0 - (uint64_t)value : (uint64_t)value, value < 0);
}

static int write_base64(json_writer *writer, json_span bytes) {
  static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  uint8_t *room = json_room(&writer->out, (bytes.length + 2) / 3 * 4 + 2), *to = room;
  size_t i = 0;
  if (!room) return writer->memory = -1, 0;
  *to++ = '"';
  for (; i + 2 < bytes.length; i += 3) {
    uint32_t bits = (uint32_t)bytes.data[i] << 16 | (uint32_t)bytes.data[i + 1] << 8 | bytes.data[i + 2];
    *to++ = (uint8_t)ALPHABET[bits >> 18], *to++ = (uint8_t)ALPHABET[bits >> 12 & 63];
    *to++ = (uint8_t)ALPHABET[bits >> 6 & 63], *to++ = (uint8_t)ALPHABET[bits & 63];
  }
  if (i < bytes.length) {
    uint32_t bits = (uint32_t)bytes.data[i] << 16 | (i + 1 < bytes.length ? (uint32_t)bytes.data[i + 1] << 8 : 0);
    *to++ = (uint8_t)ALPHABET[bits >> 18], *to++ = (uint8_t)ALPHABET[bits >> 12 & 63];
    *to++ = i + 1 < bytes.length ? (uint8_t)ALPHABET[bits >> 6 & 63] : '=', *to++ = '=';
  }
  *to++ = '"';
  writer->out.length += (size_t)(to - room);
  return 0;
}

static int write_escaped(json_writer *writer, uint32_t rune) {
  static const char HEX[] = "0123456789abcdef";
  char text[] = {'\\', 'u', HEX[rune >> 12 & 15], HEX[rune >> 8 & 15], HEX[rune >> 4 & 15], HEX[rune & 15]};
  return write_text(writer, text, 6);
}

static int write_rune(json_writer *writer, const uint8_t *at, size_t length, uint32_t rune) {
  static const char SHORT[][2] = {{'\b', 'b'}, {'\f', 'f'}, {'\n', 'n'}, {'\r', 'r'}, {'\t', 't'}, {'"', '"'}, {'\\', '\\'}};
  for (size_t i = 0; rune < 0x80 && i < sizeof SHORT / sizeof *SHORT; i++)
    if (rune == (uint32_t)SHORT[i][0]) return write_text(writer, (char[]){'\\', SHORT[i][1]}, 2);
  if (rune < 0x20) return write_escaped(writer, rune);
  if (writer->html && (rune == '<' || rune == '>' || rune == '&' || rune == 0x2028 || rune == 0x2029)) return write_escaped(writer, rune);
  return write_text(writer, (const char *)at, length);
}

/* -1 for what is no UTF-8. */
static int write_string(json_writer *writer, json_span text) {
  uint32_t rune;
  write_text(writer, "\"", 1);
  for (size_t i = 0, length; i < text.length; i += length) {
    length = json_rune(text.data + i, text.length - i, &rune);
    if (!length) return -1;
    write_rune(writer, text.data + i, length, rune);
  }
  return write_text(writer, "\"", 1);
}

static int write_enum(json_writer *writer, const json_field *field, int32_t number) {
  for (uint32_t i = 0; i < field->values_count; i++)
    if (field->values[i].number == number) return write_string(writer, field->values[i].name);
  return write_signed(writer, number);
}

static int write_varint_value(json_writer *writer, const json_field *field, uint64_t value) {
  if (field->kind == JSON_BOOL) return write_text(writer, value ? "true" : "false", value ? 4 : 5);
  if (field->kind == JSON_INT32) return write_signed(writer, (int32_t)value);
  if (field->kind == JSON_UINT32) return write_integer(writer, (uint32_t)value, 0);
  if (field->kind == JSON_ENUM) return write_enum(writer, field, (int32_t)value);
  write_text(writer, "\"", 1);
  if (field->kind == JSON_INT64) write_signed(writer, (int64_t)value);
  else write_integer(writer, value, 0);
  return write_text(writer, "\"", 1);
}

static int write_message(json_writer *writer, const json_message *message, json_span wire, int depth);

static int write_value(json_writer *writer, const json_field *field, const wire_entry *entry, int depth) {
  if (field->kind < JSON_STRING || field->kind == JSON_ENUM) return entry->type ? -1 : write_varint_value(writer, field, entry->value);
  if (entry->type != 2) return -1;
  if (field->kind == JSON_MESSAGE) return write_message(writer, field->message, entry->span, depth);
  return field->kind == JSON_BYTES ? write_base64(writer, entry->span) : write_string(writer, entry->span);
}

static void write_name(json_writer *writer, const json_field *field, int *first) {
  if (!*first) write_text(writer, ",", 1);
  *first = 0;
  write_text(writer, "\"", 1);
  write_text(writer, (const char *)field->name.data, field->name.length);
  write_text(writer, "\":", 2);
}

static int is_scalar(const json_field *field) { return field->kind < JSON_STRING || field->kind == JSON_ENUM; }

static int write_packed(json_writer *writer, const json_field *field, json_span span, int *count) {
  wire_in in = {span.data, span.data + span.length};
  uint64_t value;
  while (in.at < in.end) {
    if (wire_varint(&in, &value)) return -1;
    if ((*count)++) write_text(writer, ",", 1);
    if (write_varint_value(writer, field, value)) return -1;
  }
  return 0;
}

static int write_repeated(json_writer *writer, const json_field *field, json_span wire, int depth, int *first) {
  wire_in in = {wire.data, wire.data + wire.length};
  wire_entry entry;
  int count = 0, opened = 0;
  while (in.at < in.end) {
    if (wire_next(&in, &entry)) return -1;
    if (entry.number != field->number) continue;
    if (!opened++) {
      write_name(writer, field, first);
      write_text(writer, "[", 1);
    }
    if (is_scalar(field) && entry.type == 2) {
      if (write_packed(writer, field, entry.span, &count)) return -1;
      continue;
    }
    if (count++) write_text(writer, ",", 1);
    if (write_value(writer, field, &entry, depth)) return -1;
  }
  return opened ? write_text(writer, "]", 1) : 0;
}

static int write_single(json_writer *writer, const json_field *field, json_span wire, int depth, int *first) {
  wire_in in = {wire.data, wire.data + wire.length};
  wire_entry entry, last;
  int found = 0;
  while (in.at < in.end) {
    if (wire_next(&in, &entry)) return -1;
    if (entry.number != field->number) continue;
    last = entry;
    found = 1;
  }
  if (!found) return 0;
  if (field->kind != JSON_MESSAGE && !field->presence && !(is_scalar(field) ? last.value : last.span.length)) return 0;
  write_name(writer, field, first);
  return write_value(writer, field, &last, depth);
}

/* 0, or -1 for what is no such message; writer->memory tells of the other failure. */
static int write_message(json_writer *writer, const json_message *message, json_span wire, int depth) {
  int first = 1;
  if (depth > ENCODE_DEPTH_MAX) return -1;
  write_text(writer, "{", 1);
  for (uint32_t i = 0; i < message->fields_count; i++) {
    const json_field *field = &message->fields[i];
    int failed = field->repeated ? write_repeated(writer, field, wire, depth + 1, &first) : write_single(writer, field, wire, depth + 1, &first);
    if (failed) return -1;
  }
  return write_text(writer, "}", 1);
}
