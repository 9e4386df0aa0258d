/* What is wrong with a header field, in Go's words: its clients' users know them. On the way of a refusal alone, but for base64_objection. */
#pragma once
#include "answer.h"
#include <stdio.h>

#define WORDS_BYTES 2048
#define SHOWN_BYTES_MAX 300 /* of a peer's value */
#define QUOTED_BYTES (SHOWN_BYTES_MAX * 4 + 3)

/* Bytes of the UTF-8 character that begins here, or 0. */
static size_t utf8_length(const uint8_t *text, size_t length) {
  size_t size = text[0] < 0x80 ? 1 : text[0] >> 5 == 6 && text[0] >= 0xC2 ? 2 : text[0] >> 4 == 14 ? 3 : text[0] >> 3 == 30 ? 4 : 0;
  if (!size || size > length) return 0;
  uint32_t rune = size == 1 ? text[0] : text[0] & (0x7Fu >> size);
  for (size_t i = 1; i < size; i++) {
    if (text[i] >> 6 != 2) return 0;
    rune = rune << 6 | (text[i] & 0x3F);
  }
  if (size == 3 && (rune < 0x800 || (rune >= 0xD800 && rune < 0xE000))) return 0;
  return size == 4 && (rune < 0x10000 || rune > 0x10FFFF) ? 0 : size;
}

/* In quotes, escaped where that is needed (%q of Go, to which no letter of a script is unprintable here). */
static const char *quoted(const nghttp2_vec *value, char out[QUOTED_BYTES]) {
  size_t length = value->len > SHOWN_BYTES_MAX ? SHOWN_BYTES_MAX : value->len, size;
  char *to = out;
  *to++ = '"';
  for (size_t i = 0; i < length; i += size) {
    const uint8_t *from = value->base + i;
    size = utf8_length(from, length - i);
    if (*from == '"' || *from == '\\') *to++ = '\\';
    if (*from == '\t') to += sprintf(to, "\\t");
    else if (!size || *from < 0x20 || *from == 0x7F) to += sprintf(to, "\\x%02x", *from);
    else for (size_t j = 0; j < size; j++) *to++ = (char)from[j];
    if (!size) size = 1;
  }
  *to++ = '"';
  *to = 0;
  return out;
}

/* -- grpc-timeout ---------------------------------------------------------------------------------------------------- */

/* Of one that timeout_parse refused. */
static int timeout_words(const nghttp2_vec *value, char text[WORDS_BYTES]) {
  char shown[QUOTED_BYTES];
  nghttp2_vec number = {value->base, value->len ? value->len - 1 : 0};
  const char *format = "transport: timeout unit is not recognized: %s";
  if (value->len < 2) format = "transport: timeout string is too short: %s";
  else if (value->len > 9) format = "transport: timeout string is too long: %s";
  else if (memchr("HMSmun", value->base[number.len], 6)) format = "strconv.ParseUint: parsing %s: invalid syntax";
  else number = *value;
  if (format[0] == 't') number = *value;
  int length = snprintf(text, WORDS_BYTES, "malformed grpc-timeout: ");
  return length + snprintf(text + length, WORDS_BYTES - (size_t)length, format, quoted(&number, shown));
}

/* -- binary metadata -------------------------------------------------------------------------------------------------- */

static inline int is_binary(const nghttp2_vec *name) { return name->len >= 4 && !memcmp(name->base + name->len - 4, "-bin", 4); }

static int base64_letter(uint8_t c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '/';
}

/* The byte at which Go's decoder gives up, or -1. Padding is asked for where the length is that of a padded text, else refused. */
static ssize_t base64_objection(const nghttp2_vec *value) {
  size_t length = value->len, i = 0;
  while (i < length && base64_letter(value->base[i])) i++;
  if (i == length) return length % 4 == 1 ? (ssize_t)(length - 1) : -1;
  if (value->base[i] != '=' || length % 4 || i % 4 < 2) return (ssize_t)i;
  if (i % 4 == 2) {
    if (value->base[i + 1] != '=') return (ssize_t)i; /* there is one more, by the length */
    i++;
  }
  return i + 1 < length ? (ssize_t)(i + 1) : -1;
}

static int base64_words(const nghttp2_vec *name, const nghttp2_vec *value, char text[WORDS_BYTES]) {
  char shown[QUOTED_BYTES];
  ssize_t at = base64_objection(value);
  if (at < 0) return 0;
  size_t size = (size_t)snprintf(text, WORDS_BYTES, "malformed binary metadata %s in header ", quoted(value, shown));
  nghttp2_vec some = {name->base, name->len > 60 ? 60 : name->len};
  return (int)size + snprintf(text + size, WORDS_BYTES - size, "%s: illegal base64 data at input byte %zd", quoted(&some, shown), at);
}
