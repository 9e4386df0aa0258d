/* What the gateway knows of a message: its fields in order of declaration, which is the order of their numbers; and a growing buffer.
 *
 * Names and tables are owned by the Schema that built them (_json.pyx) and outlive every use.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { JSON_BOOL, JSON_INT32, JSON_INT64, JSON_UINT32, JSON_UINT64, JSON_STRING, JSON_BYTES, JSON_ENUM, JSON_MESSAGE };

typedef struct { const uint8_t *data; size_t length; } json_span;

typedef struct { json_span name; int32_t number; } json_value;

struct json_message;

typedef struct {
  uint32_t number;
  uint8_t kind, repeated, presence; /* presence: a zero is told apart from nothing */
  uint8_t oneof;                    /* from 1; 0 = in none */
  json_span name, camel_name;
  const struct json_message *message;
  const json_value *values; /* of an enum */
  uint32_t values_count;
} json_field;

typedef struct json_message {
  json_field *fields; /* at most 64 */
  uint32_t fields_count;
} json_message;

typedef struct { uint8_t *data; size_t length, capacity; } json_out;

/* Room for `length` more bytes behind what is there, not yet counted; NULL when out of memory. */
static uint8_t *json_room(json_out *out, size_t length) {
  if (!out->data || out->capacity - out->length < length) {
    size_t capacity = out->length + length + out->length / 2 + 256;
    uint8_t *grown = (uint8_t *)realloc(out->data, capacity);
    if (!grown) return NULL;
    out->data = grown;
    out->capacity = capacity;
  }
  return out->data + out->length;
}

static int json_put(json_out *out, const void *data, size_t length) {
  uint8_t *room = json_room(out, length);
  if (!room) return -1;
  if (length) memcpy(room, data, length);
  out->length += length;
  return 0;
}

static int json_put_byte(json_out *out, uint8_t byte) { return json_put(out, &byte, 1); }

static int json_same(json_span a, json_span b) { return a.length == b.length && !memcmp(a.data, b.data, a.length); }

static size_t json_varint(uint8_t *at, uint64_t value) {
  size_t length = 0;
  while (value >= 0x80) {
    at[length++] = (uint8_t)(value | 0x80);
    value >>= 7;
  }
  at[length++] = (uint8_t)value;
  return length;
}

/* The rune at `data` (length >= 1) and how many bytes it has; 0 when it is no UTF-8 as Go reads it: overlong, surrogate, beyond 10FFFF. */
static size_t json_rune(const uint8_t *data, size_t length, uint32_t *rune) {
  uint8_t first = data[0];
  size_t more = first < 0x80 ? 0 : first >= 0xC2 && first < 0xE0 ? 1 : first >= 0xE0 && first < 0xF0 ? 2 : first >= 0xF0 && first < 0xF5 ? 3 : 9;
  if (more == 9 || length <= more) return 0;
  *rune = more == 0 ? first : (uint32_t)(first & (0x3F >> more));
  for (size_t i = 1; i <= more; i++) {
    if ((data[i] & 0xC0) != 0x80) return 0;
    *rune = *rune << 6 | (data[i] & 0x3F);
  }
  if ((more == 2 && (*rune < 0x800 || (*rune >= 0xD800 && *rune < 0xE000))) || (more == 3 && (*rune < 0x10000 || *rune > 0x10FFFF))) return 0;
  return more + 1;
}
