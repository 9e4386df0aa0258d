/* As much of protobuf as etcd's hot messages need: writing requests, looking at a few fields of answers. */
#pragma once
#include "net.h"

static void put_varint(buffer *to, uint64_t value) {
  uint8_t bytes[10];
  size_t count = 0;
  do {
    bytes[count] = (uint8_t)(value & 0x7F) | (value > 0x7F ? 0x80 : 0);
    count++;
  } while (value >>= 7);
  buffer_add(to, bytes, count);
}

static void put_number(buffer *to, int number, uint64_t value) {
  if (!value) return;
  put_varint(to, (uint64_t)number << 3);
  put_varint(to, value);
}

static void put_bytes(buffer *to, int number, const void *data, size_t length) {
  put_varint(to, (uint64_t)number << 3 | 2);
  put_varint(to, length);
  buffer_add(to, data, length);
}

typedef struct {
  const uint8_t *at, *end;
  int number, type;
  uint64_t value; /* of a varint; the length of bytes */
  const uint8_t *bytes;
} reader;

static uint64_t get_varint(reader *from) {
  uint64_t value = 0;
  for (int shift = 0; from->at < from->end && shift < 64; shift += 7) {
    uint8_t byte = *from->at++;
    value |= (uint64_t)(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  die("an answer is no protobuf message");
  return 0;
}

/* The next field; 0 at the end. */
static int next_field(reader *from) {
  if (from->at >= from->end) return 0;
  uint64_t tag = get_varint(from);
  from->number = (int)(tag >> 3);
  from->type = (int)(tag & 7);
  from->value = get_varint(from); /* etcd's messages have varints and bytes alone */
  if (from->type == 2) {
    if (from->value > (uint64_t)(from->end - from->at)) die("an answer is no protobuf message");
    from->bytes = from->at;
    from->at += from->value;
  } else if (from->type != 0) {
    die("an answer has a field of type %d", from->type);
  }
  return 1;
}

static reader reader_of(const uint8_t *data, size_t length) {
  reader one = {.at = data, .end = data + length};
  return one;
}
