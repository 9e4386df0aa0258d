/* From JSON text that json_scan.h found whole to the wire form of a message, by the rules of Go's protojson with unknown fields discarded.
 *
 * Bounded: the nesting of messages by `depth_left`, the output by a small multiple of the text. A reason for a refusal is a code, a place and
 * the text that it is about; _json.pyx makes Go's sentence of it.
 */
#pragma once
#include "json_scan.h"

enum { DECODE_OK, DECODE_TOKEN, DECODE_VALUE, DECODE_DUPLICATE, DECODE_ONEOF, DECODE_UTF8, DECODE_ESCAPE, DECODE_EOF, DECODE_DEPTH, DECODE_MEMORY };

typedef struct {
  const uint8_t *start, *at, *end;
  int depth_left;
  json_out text; /* the last string, unescaped */
  int error;
  size_t error_at;
  json_span error_raw;
  const json_field *error_field;
} json_in;

static int decode_fail(json_in *in, int error, const uint8_t *at, size_t length, const json_field *field) {
  in->error = error;
  in->error_at = (size_t)(at - in->start);
  in->error_raw.data = at;
  in->error_raw.length = length;
  in->error_field = field;
  return -1;
}

static int no_memory(json_in *in) { return decode_fail(in, DECODE_MEMORY, in->at, 0, NULL); }

static void skip_space(json_in *in) {
  while (in->at < in->end && is_space(*in->at)) in->at++;
}

static int is_delimiter(uint8_t c) {
  return !(c == '-' || c == '+' || c == '.' || c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'));
}

/* -- strings ---------------------------------------------------------------------------------------------------------- */

static uint32_t hex4(const uint8_t *at) {
  uint32_t value = 0;
  for (int i = 0; i < 4; i++) {
    uint8_t c = at[i];
    int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return UINT32_MAX;
    value = value << 4 | (uint32_t)digit;
  }
  return value;
}

static int put_rune(json_out *out, uint32_t rune) {
  uint8_t b[4];
  size_t length = rune < 0x80 ? 1 : rune < 0x800 ? 2 : rune < 0x10000 ? 3 : 4;
  if (length == 1) return json_put_byte(out, (uint8_t)rune);
  for (size_t i = length - 1; i; i--, rune >>= 6) b[i] = (uint8_t)(0x80 | (rune & 0x3F));
  b[0] = (uint8_t)((0xF00 >> length) | rune);
  return json_put(out, b, length);
}

/* Behind "\u"; a surrogate needs its other half at once. */
static int string_hex(json_in *in, const uint8_t *token, const uint8_t **at) {
  uint32_t rune = hex4(*at), low;
  *at += 4;
  if (rune >= 0xD800 && rune < 0xE000) {
    if (in->end - *at < 6) return decode_fail(in, DECODE_EOF, token, 0, NULL);
    low = (*at)[0] == '\\' && (*at)[1] == 'u' ? hex4(*at + 2) : UINT32_MAX;
    if (rune >= 0xDC00 || low < 0xDC00 || low >= 0xE000) {
      decode_fail(in, DECODE_ESCAPE, *at, 6, NULL);
      in->error_at = (size_t)(token - in->start);
      return -1;
    }
    rune = 0x10000 + ((rune - 0xD800) << 10) + (low - 0xDC00);
    *at += 6;
  }
  return put_rune(&in->text, rune) ? no_memory(in) : 0;
}

static int string_escape(json_in *in, const uint8_t *token, const uint8_t **at) {
  uint8_t c = (*at)[1], plain = c == 'b' ? '\b' : c == 'f' ? '\f' : c == 'n' ? '\n' : c == 'r' ? '\r' : c == 't' ? '\t' : c;
  *at += 2;
  if (c == 'u') return string_hex(in, token, at);
  return json_put_byte(&in->text, plain) ? no_memory(in) : 0;
}

/* Reads the string at in->at into in->text. */
static int string_take(json_in *in) {
  const uint8_t *token = in->at, *at = token + 1, *from = at;
  uint32_t rune;
  in->text.length = 0;
  for (;;) {
    while (at < in->end && *at != '"' && *at != '\\' && *at < 0x80) at++;
    if (at >= in->end) return decode_fail(in, DECODE_EOF, token, 0, NULL);
    if (*at >= 0x80) {
      size_t length = json_rune(at, (size_t)(in->end - at), &rune);
      if (!length) return decode_fail(in, DECODE_UTF8, token, 0, NULL);
      at += length;
      continue;
    }
    if (json_put(&in->text, from, (size_t)(at - from))) return no_memory(in);
    if (*at == '"') break;
    if (string_escape(in, token, &at)) return -1;
    from = at;
  }
  in->at = at + 1;
  return 0;
}

/* -- tokens ----------------------------------------------------------------------------------------------------------- */

/* How long the token at in->at is, a string excepted. */
static size_t token_length(const json_in *in) {
  const uint8_t *at = in->at;
  if (is_delimiter(*at)) return 1;
  while (at < in->end && !is_delimiter(*at)) at++;
  return (size_t)(at - in->at);
}

/* Whatever is there is not what belongs there; a string must be a string first. */
static int unexpected(json_in *in) {
  const uint8_t *token = in->at;
  if (*token != '"') return decode_fail(in, DECODE_TOKEN, token, token_length(in), NULL);
  if (string_take(in)) return -1;
  return decode_fail(in, DECODE_TOKEN, token, (size_t)(in->at - token), NULL);
}

/* Separators stand only inside of something open. */
static int skip_value(json_in *in) {
  size_t open = 0;
  do {
    skip_space(in);
    if (in->at >= in->end) return decode_fail(in, DECODE_EOF, in->end, 0, NULL);
    if (*in->at == '"') {
      if (string_take(in)) return -1;
      continue;
    }
    if (*in->at == '{' || *in->at == '[') open++;
    if (*in->at == '}' || *in->at == ']') open--;
    in->at += token_length(in);
  } while (open);
  return 0;
}

/* -- numbers ---------------------------------------------------------------------------------------------------------- */

typedef struct { const uint8_t *whole, *fraction, *exponent; size_t whole_length, fraction_length, exponent_length; int negative; } number_parts;

/* The number that `text` begins with, up to a delimiter; 0, or -1 when it begins with none. */
static int number_split(json_span text, number_parts *parts) {
  const uint8_t *at = text.data, *end = at + text.length;
  memset(parts, 0, sizeof *parts);
  if (at < end && *at == '-') parts->negative = 1, at++;
  if (at == end || *at < '0' || *at > '9') return -1;
  parts->whole = at;
  if (*at == '0') parts->whole = ++at;
  else while (at < end && *at >= '0' && *at <= '9') at++;
  parts->whole_length = (size_t)(at - parts->whole);
  if (end - at >= 2 && *at == '.' && at[1] >= '0' && at[1] <= '9') {
    parts->fraction = ++at;
    while (at < end && *at >= '0' && *at <= '9') at++;
    parts->fraction_length = (size_t)(at - parts->fraction);
    while (parts->fraction_length && parts->fraction[parts->fraction_length - 1] == '0') parts->fraction_length--;
  }
  if (end - at >= 2 && (*at == 'e' || *at == 'E')) {
    parts->exponent = ++at;
    if (*at == '+' || *at == '-') at++;
    if (at == end) return -1;
    while (at < end && *at >= '0' && *at <= '9') at++;
    parts->exponent_length = (size_t)(at - parts->exponent);
  }
  return at < end && !is_delimiter(*at) ? -1 : 0;
}

static int exponent_of(const number_parts *parts, int64_t *exponent) {
  const uint8_t *at = parts->exponent, *end = at + parts->exponent_length;
  int negative = at < end && *at == '-';
  *exponent = 0;
  if (at == end) return 0;
  if (*at == '-' || *at == '+') at++;
  if (at == end) return -1;
  for (; at < end; at++) {
    *exponent = *exponent * 10 + (*at - '0');
    if (*exponent > (int64_t)INT32_MAX + negative) return -1;
  }
  if (negative) *exponent = -*exponent;
  return 0;
}

static int digits_add(uint64_t *value, uint8_t digit) {
  if (*value > (UINT64_MAX - (uint64_t)(digit - '0')) / 10) return -1;
  *value = *value * 10 + (uint64_t)(digit - '0');
  return 0;
}

/* The integer that the parts make: its magnitude; -1 when it is none, or too large. Zero has no sign. */
static int number_integer(number_parts *parts, uint64_t *value) {
  int64_t exponent;
  *value = 0;
  if (!parts->whole_length && !parts->fraction_length) {
    parts->negative = 0;
    return 0;
  }
  if (exponent_of(parts, &exponent)) return -1;
  if (exponent < 0) {
    if (parts->fraction_length || (int64_t)parts->whole_length + exponent < 0) return -1;
    for (int64_t i = (int64_t)parts->whole_length + exponent; i < (int64_t)parts->whole_length; i++)
      if (parts->whole[i] != '0') return -1;
    parts->whole_length = (size_t)((int64_t)parts->whole_length + exponent);
    if (!parts->whole_length) return -1; /* Go: an empty text is no number */
    exponent = 0;
  }
  if ((int64_t)parts->fraction_length > exponent || (int64_t)parts->whole_length + exponent > 20) return -1;
  for (size_t i = 0; i < parts->whole_length; i++)
    if (digits_add(value, parts->whole[i])) return -1;
  for (int64_t i = 0; i < exponent; i++)
    if (digits_add(value, i < (int64_t)parts->fraction_length ? parts->fraction[i] : '0')) return -1;
  return 0;
}

static int number_fits(const number_parts *parts, uint64_t magnitude, uint8_t kind) {
  switch (kind) {
    case JSON_UINT64: return !parts->negative;
    case JSON_UINT32: return !parts->negative && magnitude <= UINT32_MAX;
    case JSON_INT64: return magnitude <= (uint64_t)INT64_MAX + (uint64_t)parts->negative;
  }
  return magnitude <= (uint64_t)INT32_MAX + (uint64_t)parts->negative;
}

/* Whether the text ends with what Go's strings.TrimSpace cuts off. */
static int ends_with_space(json_span text) {
  uint32_t rune;
  for (size_t back = 1; back <= 3 && back <= text.length; back++) {
    if (json_rune(text.data + text.length - back, back, &rune) != back) continue;
    return rune == ' ' || (rune >= 9 && rune <= 13) || rune == 0x85 || rune == 0xA0 || rune == 0x1680 || (rune >= 0x2000 && rune <= 0x200A) ||
           rune == 0x2028 || rune == 0x2029 || rune == 0x202F || rune == 0x205F || rune == 0x3000;
  }
  return 0;
}

/* The 64 bits that go on the wire, negative ones sign-extended. */
static int number_value(json_span text, uint8_t kind, uint64_t *bits) {
  number_parts parts;
  if (number_split(text, &parts) || number_integer(&parts, bits) || !number_fits(&parts, *bits, kind)) return -1;
  if (parts.negative) *bits = 0 - *bits;
  return 0;
}

/* -- base64 ----------------------------------------------------------------------------------------------------------- */

static int base64_digit(uint8_t c, int url) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == (url ? '-' : '+')) return 62;
  return c == (url ? '_' : '/') ? 63 : -1;
}

/* Behind the digits of a padded last quantum of which `have` came: its padding, line ends, nothing else. */
static int base64_padding(json_span text, size_t at, int have) {
  int wanted = 4 - have;
  if (have < 2) return -1;
  for (; at < text.length; at++) {
    if (text.data[at] == '\r' || text.data[at] == '\n') continue;
    if (text.data[at] != '=' || !wanted--) return -1;
  }
  return wanted ? -1 : 0;
}

/* Both alphabets, padding where the length asks for it, line ends anywhere: as Go reads it. The bytes go behind `out`. */
static int base64_take(json_span text, json_out *out) {
  int url = memchr(text.data, '-', text.length) || memchr(text.data, '_', text.length), padded = text.length % 4 == 0, have = 0;
  uint8_t *room = json_room(out, text.length / 4 * 3 + 3), *to = room;
  uint32_t bits = 0;
  size_t i = 0;
  if (!room) return 1;
  for (; i < text.length; i++) {
    uint8_t c = text.data[i];
    int digit = base64_digit(c, url);
    if (c == '\r' || c == '\n') continue;
    if (c == '=' && padded) break;
    if (digit < 0) return -1;
    bits = bits << 6 | (uint32_t)digit;
    if (++have < 4) continue;
    *to++ = (uint8_t)(bits >> 16), *to++ = (uint8_t)(bits >> 8), *to++ = (uint8_t)bits;
    have = 0;
  }
  if (i < text.length ? base64_padding(text, i, have) : have == 1 || (have && padded)) return -1;
  if (have == 2) *to++ = (uint8_t)(bits >> 4);
  if (have == 3) *to++ = (uint8_t)(bits >> 10), *to++ = (uint8_t)(bits >> 2);
  out->length += (size_t)(to - room);
  return 0;
}

/* -- fields ----------------------------------------------------------------------------------------------------------- */

static int put_tag(json_out *out, const json_field *field, uint32_t wire_type) {
  uint8_t *room = json_room(out, 10);
  if (!room) return -1;
  out->length += json_varint(room, (uint64_t)field->number << 3 | wire_type);
  return 0;
}

static int put_varint(json_in *in, json_out *out, const json_field *field, uint64_t value) {
  if (!value && !field->presence && !field->repeated) return 0;
  if (put_tag(out, field, 0) || !json_room(out, 10)) return no_memory(in);
  out->length += json_varint(out->data + out->length, value);
  return 0;
}

/* The length of what stands behind `place`, put before it. */
static int put_length(json_in *in, json_out *out, size_t place) {
  uint8_t prefix[10];
  size_t length = out->length - place, size = json_varint(prefix, length);
  if (!json_room(out, size)) return no_memory(in);
  memmove(out->data + place + size, out->data + place, length);
  memcpy(out->data + place, prefix, size);
  out->length += size;
  return 0;
}

static int decode_message(json_in *in, const json_message *message, json_out *out);

static int decode_nested(json_in *in, const json_field *field, json_out *out) {
  if (put_tag(out, field, 2)) return no_memory(in);
  size_t place = out->length;
  return decode_message(in, field->message, out) ? -1 : put_length(in, out, place);
}

/* in->text is the string; 1 = no value of this field. */
static int decode_text(json_in *in, const json_field *field, json_out *out) {
  json_span text = {in->text.data, in->text.length};
  size_t start = out->length, place;
  if (field->kind != JSON_STRING && field->kind != JSON_BYTES) return 1;
  if (put_tag(out, field, 2)) return no_memory(in);
  place = out->length;
  int failed = field->kind == JSON_STRING ? json_put(out, text.data, text.length) : base64_take(text, out);
  if (failed > 0 || (failed && field->kind == JSON_STRING)) return no_memory(in);
  if (failed) return 1;
  if (out->length == place && !field->presence && !field->repeated) {
    out->length = start;
    return 0;
  }
  return put_length(in, out, place);
}

/* in->text names a value of the enum. A name that it does not have is discarded, like an unknown field. */
static int decode_name(json_in *in, const json_field *field, json_out *out) {
  json_span text = {in->text.data, in->text.length};
  for (uint32_t i = 0; i < field->values_count; i++)
    if (json_same(field->values[i].name, text)) return put_varint(in, out, field, (uint64_t)(int64_t)field->values[i].number);
  return 0;
}

static int decode_string(json_in *in, const json_field *field, json_out *out) {
  uint64_t bits;
  json_span text = {in->text.data, in->text.length};
  if (field->kind == JSON_ENUM) return decode_name(in, field, out);
  if (field->kind >= JSON_STRING) return decode_text(in, field, out);
  if (field->kind == JSON_BOOL || !text.length || ends_with_space(text) || number_value(text, field->kind, &bits)) return 1;
  return put_varint(in, out, field, bits);
}

static int decode_bare(json_in *in, const json_field *field, size_t length, json_out *out) {
  uint64_t bits;
  json_span text = {in->at, length};
  uint8_t first = *in->at;
  if (field->kind == JSON_BOOL) return first == 't' || first == 'f' ? put_varint(in, out, field, first == 't') : 1;
  if (field->kind == JSON_STRING || field->kind == JSON_BYTES || (first != '-' && (first < '0' || first > '9'))) return 1;
  return number_value(text, field->kind, &bits) ? 1 : put_varint(in, out, field, bits);
}

static int decode_scalar(json_in *in, const json_field *field, json_out *out) {
  const uint8_t *token = in->at;
  size_t length;
  int failed;
  if (*token == '"') {
    if (string_take(in)) return -1;
    length = (size_t)(in->at - token);
    failed = decode_string(in, field, out);
  } else {
    length = token_length(in);
    failed = decode_bare(in, field, length, out);
    in->at = token + length;
  }
  return failed > 0 ? decode_fail(in, DECODE_VALUE, token, length, field) : failed;
}

static int decode_one(json_in *in, const json_field *field, json_out *out) {
  skip_space(in);
  return field->kind == JSON_MESSAGE ? decode_nested(in, field, out) : decode_scalar(in, field, out);
}

static int decode_list(json_in *in, const json_field *field, json_out *out) {
  skip_space(in);
  if (*in->at != '[') return unexpected(in);
  in->at++;
  for (;;) {
    skip_space(in);
    if (*in->at == ',') in->at++;
    skip_space(in);
    if (*in->at == ']') {
      in->at++;
      return 0;
    }
    if (decode_one(in, field, out)) return -1;
  }
}

static const json_field *field_named(const json_message *message, json_span name) {
  for (uint32_t i = 0; i < message->fields_count; i++) {
    const json_field *field = &message->fields[i];
    if (json_same(field->camel_name, name) || json_same(field->name, name)) return field;
  }
  return NULL;
}

typedef struct { uint64_t fields, oneofs; } seen_names;

/* One name and its value. */
static int decode_member(json_in *in, const json_message *message, json_out *out, seen_names *seen) {
  const uint8_t *token = in->at;
  if (string_take(in)) return -1;
  size_t length = (size_t)(in->at - token);
  json_span name = {in->text.data, in->text.length};
  const json_field *field = field_named(message, name);
  skip_space(in);
  if (in->end - in->at < 2) return decode_fail(in, DECODE_EOF, in->end, 0, NULL);
  in->at++; /* the colon */
  if (!field) return skip_value(in);
  uint64_t bit = 1ull << (field - message->fields), oneof = field->oneof ? 1ull << field->oneof : 0;
  if (seen->fields & bit) return decode_fail(in, DECODE_DUPLICATE, token, length, field);
  seen->fields |= bit;
  skip_space(in);
  if (*in->at == 'n') {
    in->at += token_length(in);
    return 0;
  }
  if (field->repeated) return decode_list(in, field, out);
  if (seen->oneofs & oneof) return decode_fail(in, DECODE_ONEOF, token, length, field);
  seen->oneofs |= oneof;
  return decode_one(in, field, out);
}

/* 0, or -1 with the reason in `in`. A NUL stands behind the text (it is bytes of Python), which no value goes on over. */
static int decode_message(json_in *in, const json_message *message, json_out *out) {
  seen_names seen = {0, 0};
  if (--in->depth_left < 0) return decode_fail(in, DECODE_DEPTH, in->at, 0, NULL);
  skip_space(in);
  if (*in->at != '{') return unexpected(in);
  in->at++;
  for (;;) {
    skip_space(in);
    if (*in->at == ',') in->at++;
    skip_space(in);
    if (*in->at == '}') break;
    if (decode_member(in, message, out, &seen)) return -1;
  }
  in->at++;
  in->depth_left++;
  return 0;
}
