/* Finds where one JSON value ends, byte by byte, and says as Go's encoding/json does why something is none.
 *
 * It looks at no more bytes than Go's Decoder: an object or array ends with its bracket, a bare literal with the byte behind it.
 * What is in a string is not looked at beyond its escapes; json_decode.h does that.
 */
#pragma once
#include "json_table.h"

#define JSON_NESTING_MAX 10000 /* Go's */

enum { SCAN_MORE, SCAN_DONE, SCAN_DONE_BEFORE, SCAN_ERROR };

enum {
  AT_VALUE, AT_VALUE_OR_END, AT_KEY, AT_KEY_OR_END, BEHIND_VALUE,
  IN_STRING, IN_ESCAPE, IN_HEX, /* hex digits still to come: `left` */
  IN_WORD,                      /* of true, false, null: `word` and `left` */
  BEHIND_MINUS, BEHIND_ZERO, IN_DIGITS, BEHIND_POINT, IN_FRACTION, BEHIND_E, BEHIND_SIGN, IN_EXPONENT
};
enum { INSIDE_KEY, INSIDE_VALUE, INSIDE_ARRAY };

typedef struct {
  uint8_t state, left;
  const char *word;
  uint8_t *stack; /* INSIDE_* of each open bracket */
  uint32_t depth, capacity;
  const char *context; /* of an error, with the byte it is about; "" = too deep; NULL = out of memory */
  uint8_t bad;
} json_scan;

static void scan_reset(json_scan *scan) {
  scan->state = AT_VALUE;
  scan->depth = 0;
}

static int scan_fail(json_scan *scan, uint8_t byte, const char *context) {
  scan->bad = byte;
  scan->context = context;
  return SCAN_ERROR;
}

static int scan_open(json_scan *scan, uint8_t inside, uint8_t state) {
  if (scan->depth >= JSON_NESTING_MAX) return scan_fail(scan, inside == INSIDE_KEY ? '{' : '[', "");
  if (scan->depth == scan->capacity) {
    uint32_t capacity = scan->capacity ? scan->capacity * 2 : 32;
    uint8_t *grown = (uint8_t *)realloc(scan->stack, capacity);
    if (!grown) return scan_fail(scan, 0, NULL);
    scan->stack = grown;
    scan->capacity = capacity;
  }
  scan->stack[scan->depth++] = inside;
  scan->state = state;
  return SCAN_MORE;
}

static int scan_close(json_scan *scan) {
  scan->state = BEHIND_VALUE;
  return --scan->depth ? SCAN_MORE : SCAN_DONE;
}

static int is_space(uint8_t byte) { return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n'; }

static int scan_word(json_scan *scan, const char *rest) {
  scan->word = rest;
  scan->state = IN_WORD;
  return SCAN_MORE;
}

static int scan_value(json_scan *scan, uint8_t byte) {
  switch (byte) {
    case '{': return scan_open(scan, INSIDE_KEY, AT_KEY_OR_END);
    case '[': return scan_open(scan, INSIDE_ARRAY, AT_VALUE_OR_END);
    case '"': scan->state = IN_STRING; return SCAN_MORE;
    case '-': scan->state = BEHIND_MINUS; return SCAN_MORE;
    case '0': scan->state = BEHIND_ZERO; return SCAN_MORE;
    case 't': return scan_word(scan, "rue");
    case 'f': return scan_word(scan, "alse");
    case 'n': return scan_word(scan, "ull");
  }
  if (byte < '1' || byte > '9') return scan_fail(scan, byte, "looking for beginning of value");
  scan->state = IN_DIGITS;
  return SCAN_MORE;
}

static int scan_behind(json_scan *scan, uint8_t byte) {
  if (!scan->depth) return SCAN_DONE_BEFORE;
  scan->state = BEHIND_VALUE;
  if (is_space(byte)) return SCAN_MORE;
  uint8_t *inside = &scan->stack[scan->depth - 1];
  if (*inside == INSIDE_KEY) {
    if (byte != ':') return scan_fail(scan, byte, "after object key");
    *inside = INSIDE_VALUE;
    scan->state = AT_VALUE;
    return SCAN_MORE;
  }
  if (*inside == INSIDE_VALUE) {
    if (byte == '}') return scan_close(scan);
    if (byte != ',') return scan_fail(scan, byte, "after object key:value pair");
    *inside = INSIDE_KEY;
    scan->state = AT_KEY;
    return SCAN_MORE;
  }
  if (byte == ']') return scan_close(scan);
  if (byte != ',') return scan_fail(scan, byte, "after array element");
  scan->state = AT_VALUE;
  return SCAN_MORE;
}

static int scan_key(json_scan *scan, uint8_t byte) {
  if (scan->state == AT_KEY_OR_END && byte == '}') {
    scan->stack[scan->depth - 1] = INSIDE_VALUE;
    return scan_close(scan);
  }
  if (byte != '"') return scan_fail(scan, byte, "looking for beginning of object key string");
  scan->state = IN_STRING;
  return SCAN_MORE;
}

static int scan_escape(json_scan *scan, uint8_t byte) {
  if (scan->state == IN_HEX) {
    if (!((byte >= '0' && byte <= '9') || (byte >= 'a' && byte <= 'f') || (byte >= 'A' && byte <= 'F')))
      return scan_fail(scan, byte, "in \\u hexadecimal character escape");
    if (!--scan->left) scan->state = IN_STRING;
    return SCAN_MORE;
  }
  if (byte == 'u') {
    scan->state = IN_HEX;
    scan->left = 4;
    return SCAN_MORE;
  }
  if (!byte || !strchr("bfnrt\\/\"", byte)) return scan_fail(scan, byte, "in string escape code");
  scan->state = IN_STRING;
  return SCAN_MORE;
}

static int scan_in_word(json_scan *scan, uint8_t byte) {
  static const char *const CONTEXTS[] = {
      "in literal true (expecting 'r')", "in literal true (expecting 'u')",  "in literal true (expecting 'e')",  "in literal false (expecting 'a')",
      "in literal false (expecting 'l')", "in literal false (expecting 's')", "in literal false (expecting 'e')", "in literal null (expecting 'u')",
      "in literal null (expecting 'l')", "in literal null (expecting 'l')"};
  static const char *const RESTS[] = {"rue", "ue", "e", "alse", "lse", "se", "e", "ull", "ll", "l"};
  static const uint8_t FIRST[] = {0, 0, 0, 1, 1, 1, 1, 2, 2, 2};
  if (byte == (uint8_t)*scan->word) {
    if (!*++scan->word) scan->state = BEHIND_VALUE;
    return SCAN_MORE;
  }
  for (size_t i = 0; i < sizeof RESTS / sizeof *RESTS; i++)
    if (FIRST[i] == scan->left && !strcmp(RESTS[i], scan->word)) return scan_fail(scan, byte, CONTEXTS[i]);
  return scan_fail(scan, byte, "looking for beginning of value");
}

static int scan_number(json_scan *scan, uint8_t byte) {
  int digit = byte >= '0' && byte <= '9';
  switch (scan->state) {
    case BEHIND_MINUS:
      if (!digit) return scan_fail(scan, byte, "in numeric literal");
      scan->state = byte == '0' ? BEHIND_ZERO : IN_DIGITS;
      return SCAN_MORE;
    case BEHIND_POINT:
      if (!digit) return scan_fail(scan, byte, "after decimal point in numeric literal");
      scan->state = IN_FRACTION;
      return SCAN_MORE;
    case BEHIND_E:
      if (byte == '+' || byte == '-') {
        scan->state = BEHIND_SIGN;
        return SCAN_MORE;
      } /* fall through */
    case BEHIND_SIGN:
      if (!digit) return scan_fail(scan, byte, "in exponent of numeric literal");
      scan->state = IN_EXPONENT;
      return SCAN_MORE;
  }
  if (digit && scan->state != BEHIND_ZERO) return SCAN_MORE;
  if (byte == '.' && (scan->state == BEHIND_ZERO || scan->state == IN_DIGITS)) {
    scan->state = BEHIND_POINT;
    return SCAN_MORE;
  }
  if ((byte == 'e' || byte == 'E') && scan->state != IN_EXPONENT) {
    scan->state = BEHIND_E;
    return SCAN_MORE;
  }
  return scan_behind(scan, byte);
}

static int scan_byte(json_scan *scan, uint8_t byte) {
  switch (scan->state) {
    case AT_VALUE_OR_END:
      if (byte == ']') return scan_close(scan); /* fall through */
    case AT_VALUE:
      if (is_space(byte)) return SCAN_MORE;
      scan->left = byte == 't' ? 0 : byte == 'f' ? 1 : 2;
      return scan_value(scan, byte);
    case AT_KEY:
    case AT_KEY_OR_END: return is_space(byte) ? SCAN_MORE : scan_key(scan, byte);
    case IN_STRING:
      if (byte == '"') scan->state = BEHIND_VALUE;
      else if (byte == '\\') scan->state = IN_ESCAPE;
      else if (byte < 0x20) return scan_fail(scan, byte, "in string literal");
      return SCAN_MORE;
    case IN_ESCAPE:
    case IN_HEX: return scan_escape(scan, byte);
    case IN_WORD: return scan_in_word(scan, byte);
    case BEHIND_VALUE: return scan_behind(scan, byte);
  }
  return scan_number(scan, byte);
}

/* Reads on from data[*at]; *at is behind the last byte that was looked at, or, for SCAN_DONE_BEFORE, at it. */
static int scan_run(json_scan *scan, const uint8_t *data, size_t length, size_t *at) {
  size_t i = *at;
  int found = SCAN_MORE;
  while (i < length && found == SCAN_MORE) {
    if (scan->state == IN_STRING)
      while (i < length && data[i] != '"' && data[i] != '\\' && data[i] >= 0x20) i++;
    if (i == length) break;
    found = scan_byte(scan, data[i++]);
  }
  *at = found == SCAN_DONE_BEFORE ? i - 1 : i;
  return found;
}

/* There is no more: whether a bare literal is whole. */
static int scan_ends_whole(json_scan *scan) { return scan->state != AT_VALUE && scan_byte(scan, ' ') == SCAN_DONE_BEFORE; }
