/* From frames to requests: header fields, the five-byte framing of gRPC, the rules on messages, and their answers.
 *
 * A message's bytes are allocated as they arrive, never as announced; what is held counts against the budget of bodies.
 * The receive window is given back at once for a message that is still arriving (it is in the budget) and with
 * delivery for one that is complete. Texts are grpc-go's, since its clients' users know them.
 */
#pragma once
#include "web.h"
#include "words.h"

static uint32_t path_hash(const uint8_t *path, size_t length) {
  uint32_t hash = 2166136261u ^ (uint32_t)length;
  size_t from = length > 24 ? length - 24 : 0; /* the tails differ; adding a method checks the whole path */
  for (size_t i = from; i < length; i++) hash = (hash ^ path[i]) * 16777619u;
  return hash ^ hash >> 15;
}

static const door_method *method_find(const door_engine *engine, const uint8_t *path, size_t length) {
  if (!engine->methods_capacity) return NULL;
  uint32_t hash = path_hash(path, length), mask = engine->methods_capacity - 1;
  for (uint32_t i = hash & mask; engine->methods[i]; i = (i + 1) & mask) {
    const door_method *method = engine->methods[i];
    if (method->hash == hash && method->length == length && !memcmp(method->path, path, length)) return method;
  }
  return NULL;
}

static int methods_grow(door_engine *engine) {
  uint32_t capacity = engine->methods_capacity ? engine->methods_capacity * 2 : 64;
  door_method **grown = (door_method **)calloc(capacity, sizeof *grown);
  if (!grown) return -1;
  for (uint32_t i = 0; i < engine->methods_capacity; i++) {
    if (!engine->methods[i]) continue;
    uint32_t at = engine->methods[i]->hash & (capacity - 1);
    while (grown[at]) at = (at + 1) & (capacity - 1);
    grown[at] = engine->methods[i];
  }
  free(engine->methods);
  engine->methods = grown;
  engine->methods_capacity = capacity;
  return 0;
}

/* 0, or -1 out of memory; a path that is there already must be refused by the caller. Methods live as long as the engine. */
static int method_add(door_engine *engine, const char *path, size_t length, uint8_t kind, int32_t index, size_t hold_bytes) {
  if (engine->methods_count * 2 >= engine->methods_capacity && methods_grow(engine)) return -1;
  door_method *method = (door_method *)calloc(1, sizeof *method + length + 1);
  if (!method) return -1;
  method->path = (char *)(method + 1);
  memcpy(method->path, path, length);
  method->length = (uint32_t)length;
  method->hash = path_hash((const uint8_t *)path, length);
  method->kind = kind;
  method->index = index;
  method->hold_bytes = hold_bytes;
  uint32_t at = method->hash & (engine->methods_capacity - 1);
  while (engine->methods[at]) at = (at + 1) & (engine->methods_capacity - 1);
  engine->methods[at] = method;
  engine->methods_count++;
  return 0;
}

/* -- header fields ------------------------------------------------------------------------------------------------ */

static int field_keep(door_stream *stream, nghttp2_rcbuf *name, nghttp2_rcbuf *value) {
  if (stream->fields_count == stream->fields_capacity) {
    uint16_t capacity = (uint16_t)(stream->fields_capacity * 2);
    door_field *grown = (door_field *)malloc(capacity * sizeof *grown);
    if (!grown) return -1;
    memcpy(grown, stream->fields, stream->fields_count * sizeof *grown);
    if (stream->fields != stream->inline_fields) free(stream->fields);
    stream->fields = grown;
    stream->fields_capacity = capacity;
  }
  nghttp2_rcbuf_incref(name);
  nghttp2_rcbuf_incref(value);
  stream->fields[stream->fields_count].name = name;
  stream->fields[stream->fields_count++].value = value;
  return 0;
}

/* 1 to 8 digits and a unit; 0, or -1 when malformed. */
static int timeout_parse(const uint8_t *text, size_t length, double *seconds) {
  static const struct { char unit; double seconds; } UNITS[] = {{'H', 3600}, {'M', 60}, {'S', 1}, {'m', 1e-3}, {'u', 1e-6}, {'n', 1e-9}};
  double number = 0;
  if (length < 2 || length > 9) return -1;
  for (size_t i = 0; i + 1 < length; i++) {
    if (text[i] < '0' || text[i] > '9') return -1;
    number = number * 10 + (text[i] - '0');
  }
  for (size_t i = 0; i < sizeof UNITS / sizeof *UNITS; i++) {
    if (text[length - 1] != (uint8_t)UNITS[i].unit) continue;
    *seconds = number * UNITS[i].seconds;
    return 0;
  }
  return -1;
}

static int is_grpc(const uint8_t *value, size_t length) {
  static const char GRPC[] = "application/grpc";
  size_t n = sizeof GRPC - 1;
  return length >= n && !memcmp(value, GRPC, n) && (length == n || value[n] == '+' || value[n] == ';');
}

/* 1 when the field needs no keeping: it is understood here. */
static int field_understood(door_stream *stream, const nghttp2_vec *name, const nghttp2_vec *value) {
#define IS(text) (name->len == sizeof(text) - 1 && !memcmp(name->base, text, sizeof(text) - 1))
  if (IS(":path")) {
    stream->method = method_find(stream->connection->engine, value->base, value->len);
    return stream->method != NULL;
  }
  if (IS(":method")) return stream->post = value->len == 4 && !memcmp(value->base, "POST", 4);
  if (IS("content-type")) {
    stream->grpc = stream->connection->grpc & (unsigned)is_grpc(value->base, value->len);
    stream->subtype = stream->grpc && value->len > GRPC_TYPE_BYTES;
    return stream->grpc && !stream->subtype;
  }
  if (IS("te") || IS(":scheme") || IS("grpc-accept-encoding") || IS("accept-encoding")) return 1;
  if (IS("grpc-timeout")) {
    stream->has_timeout = !timeout_parse(value->base, value->len, &stream->timeout_s);
    if (!stream->has_timeout) stream->bad_field = 1;
    return stream->has_timeout;
  }
  if (IS("grpc-encoding")) {
    stream->gzip = value->len == 4 && !memcmp(value->base, "gzip", 4);
    stream->encoding_unknown = !stream->gzip && value->len && !(value->len == 8 && !memcmp(value->base, "identity", 8));
    return !stream->encoding_unknown;
  }
  if (is_binary(name) && base64_objection(value) >= 0) stream->bad_field = 1;
  return 0;
#undef IS
}

/* -- headers are whole ---------------------------------------------------------------------------------------------- */

/* `format` holds one %s for the value of a field, in quotes. */
static void fail_field(door_stream *stream, const char *http, int status, const char *format, const char *name) {
  char text[WORDS_BYTES], shown[QUOTED_BYTES];
  nghttp2_rcbuf *value = field_find(stream, name, strlen(name));
  nghttp2_vec found = {(uint8_t *)"", 0};
  if (value) found = nghttp2_rcbuf_get_buf(value);
  int length = snprintf(text, sizeof text, format, quoted(&found, shown));
  stream_finish_http(stream, http, status, text, (size_t)length);
}

/* Of the fields that were kept the last that is malformed counts, as grpc-go reads on. */
static void fail_malformed(door_stream *stream) {
  char text[WORDS_BYTES];
  int length = 0;
  for (uint16_t i = stream->fields_count; i-- && !length;) {
    nghttp2_vec name = nghttp2_rcbuf_get_buf(stream->fields[i].name), value = nghttp2_rcbuf_get_buf(stream->fields[i].value);
    if (name.len == 12 && !memcmp(name.base, "grpc-timeout", 12)) length = timeout_words(&value, text);
    else if (is_binary(&name)) length = base64_words(&name, &value, text);
  }
  stream_finish_http(stream, "400", 13, text, (size_t)length);
}

static int service_known(const door_engine *engine, const char *service, size_t length) {
  for (uint32_t i = 0; i < engine->methods_capacity; i++) {
    const door_method *method = engine->methods[i];
    if (method && method->length > length + 1 && !memcmp(method->path + 1, service, length) && method->path[length + 1] == '/') return 1;
  }
  return 0;
}

static void fail_unknown(door_stream *stream) {
  char text[WORDS_BYTES];
  nghttp2_rcbuf *value = field_find(stream, ":path", 5);
  nghttp2_vec path = {(uint8_t *)"", 0};
  if (value) path = nghttp2_rcbuf_get_buf(value);
  const char *whole = (const char *)path.base, *from = whole + (path.len && *whole == '/');
  size_t length = path.len - (size_t)(from - whole), cut = length;
  while (cut && from[cut - 1] != '/') cut--;
  if (!cut || *whole != '/') {
    char shown[QUOTED_BYTES];
    length = (size_t)snprintf(text, sizeof text, "malformed method name: %s", quoted(&path, shown));
  } else if (service_known(stream->connection->engine, from, cut - 1)) {
    size_t rest = length - cut;
    length = (size_t)snprintf(text, sizeof text, "unknown method %.*s for service %.*s", (int)(rest > 300 ? 300 : rest), from + cut,
                              (int)(cut - 1 > 300 ? 300 : cut - 1), from);
  } else {
    length = (size_t)snprintf(text, sizeof text, "unknown service %.*s", (int)(cut - 1 > 300 ? 300 : cut - 1), from);
  }
  stream_finish(stream, 12, text, length);
}

/* Whether what is no gRPC is taken for HTTP. As etcd: through TLS the content type decides; in clear text etcd has gRPC alone on HTTP/2, so
 * what names a service there is refused as gRPC refuses it, and only the rest, which etcd refuses too, is served. */
static int is_web(const door_stream *stream) {
  const door_connection *connection = stream->connection;
  if (!connection->web || !connection->grpc) return connection->web;
  nghttp2_rcbuf *type = field_find(stream, "content-type", 12), *path = field_find(stream, ":path", 5);
  nghttp2_vec found = {NULL, 0};
  if (type) found = nghttp2_rcbuf_get_buf(type);
  if (found.len && memmem(found.base, found.len, "application/grpc", 16)) return 0;
  if (connection->secure || !path) return connection->secure || !stream->method;
  found = nghttp2_rcbuf_get_buf(path);
  size_t cut = found.len;
  while (cut > 1 && found.base[cut - 1] != '/') cut--;
  return cut < 2 || !service_known(connection->engine, (const char *)found.base + 1, cut - 2);
}

static void request_begin(door_stream *stream) {
  door_engine *engine = stream->connection->engine;
  if (stream->headers_too_large) stream_finish_http(stream, "431", 8, "received metadata size exceeds limit", 36);
  else if (!stream->grpc) {
    if (is_web(stream)) {
      web_begin(stream);
      return;
    }
    fail_field(stream, "415", 3, "invalid gRPC request content-type %s", "content-type");
  }
  else if (stream->bad_field) fail_malformed(stream);
  else if (!stream->post) fail_field(stream, "405", 13, "Received a HEADERS frame with :method %s which should be POST", ":method");
  else if (!stream->method || !stream->method->kind) fail_unknown(stream);
  else if (stream->encoding_unknown) fail_field(stream, "200", 12, "grpc: Decompressor is not installed for grpc-encoding %s", "grpc-encoding");
  if (stream->finished) return;
  stream->kind = stream->method->kind;
  engine->requests_total++;
  if (stream->has_timeout) {
    stream->deadline = engine->now + stream->timeout_s;
    if (stream->timeout_s <= 0) {
      stream_expire(stream);
      return;
    }
    timer_add(engine, stream);
  }
  if (stream->kind == KIND_STREAM) stream_event(stream, EVENT_OPEN, engine);
}

/* -- messages ------------------------------------------------------------------------------------------------------- */

static int budget_take(door_stream *stream, size_t bytes) {
  door_engine *engine = stream->connection->engine;
  if (engine->bodies_bytes + bytes > engine->bodies_bytes_max) {
    stream_fail(stream, 8, "too many request bytes in flight, try again");
    return -1;
  }
  engine->bodies_bytes += bytes;
  stream->charged += bytes;
  return 0;
}

/* Checks the five bytes in front of a message before anything is allocated for it. */
static int prefix_check(door_stream *stream) {
  char text[128];
  uint8_t *p = stream->prefix;
  uint32_t declared = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
  uint32_t max = stream->connection->engine->message_bytes_max;
  if (declared > max) {
    int length = snprintf(text, sizeof text, "grpc: received message larger than max (%u vs. %u)", declared, max);
    stream_finish(stream, 8, text, (size_t)length);
    return -1;
  }
  if (p[0] == 1 && !stream->gzip) {
    stream_fail(stream, 13, "grpc: compressed flag set with identity or empty encoding");
    return -1;
  }
  if (p[0] > 1) {
    int length = snprintf(text, sizeof text, "grpc: received unexpected payload format %u", p[0]);
    stream_finish(stream, 13, text, (size_t)length);
    return -1;
  }
  stream->partial_declared = declared;
  stream->partial_length = 0;
  return 0;
}

static int out_of_memory(door_stream *stream) {
  PyErr_Clear();
  Py_CLEAR(stream->partial);
  stream_fail(stream, 8, "out of memory");
  return -1;
}

/* A compressed message is marked, and becomes what it stands for with delivery. `message` is stolen; NULL when out of memory. */
static PyObject *message_packed(door_stream *stream, PyObject *message) {
  stream->packed = 1;
  if (stream->kind != KIND_STREAM) return message;
  PyObject *marked = PyTuple_Pack(1, message);
  Py_DECREF(message);
  return marked;
}

/* `message` is stolen. */
static int message_complete(door_stream *stream, PyObject *message) {
  door_engine *engine = stream->connection->engine;
  engine->messages_in++;
  stream->prefix_length = 0;
  if (stream->prefix[0] && !(message = message_packed(stream, message))) return out_of_memory(stream);
  if (stream->kind != KIND_STREAM) {
    stream->message = message;
    stream->complete = 1;
    stream_event(stream, EVENT_REQUEST, engine);
    return 0;
  }
  if (!stream->message) stream->message = PyList_New(0);
  if (!stream->message || PyList_Append(stream->message, message)) {
    Py_DECREF(message);
    return out_of_memory(stream);
  }
  Py_DECREF(message);
  stream_event(stream, EVENT_MESSAGES, engine);
  return 0;
}

/* Room in the partial message for `wanted` bytes in all: grown with what arrived, at most to what was announced. */
static int partial_room(door_stream *stream, size_t wanted) {
  if (stream->partial && (size_t)stream->partial_capacity >= wanted) return 0;
  size_t capacity = wanted < 16384 ? 16384 : wanted + wanted / 2;
  if (capacity > stream->partial_declared) capacity = stream->partial_declared;
  if (budget_take(stream, capacity - (stream->partial ? (size_t)stream->partial_capacity : 0))) return -1;
  if (!stream->partial) stream->partial = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)capacity);
  else if (_PyBytes_Resize(&stream->partial, (Py_ssize_t)capacity)) return out_of_memory(stream);
  if (!stream->partial) return out_of_memory(stream);
  stream->partial_capacity = (Py_ssize_t)capacity;
  return 0;
}

static int partial_fill(door_stream *stream, const uint8_t *data, size_t length) {
  if (partial_room(stream, stream->partial_length + length)) return -1;
  memcpy(PyBytes_AS_STRING(stream->partial) + stream->partial_length, data, length);
  stream->partial_length += (uint32_t)length;
  if (stream->partial_length < stream->partial_declared) return 0;
  PyObject *message = stream->partial;
  stream->partial = NULL;
  if (PyBytes_GET_SIZE(message) != stream->partial_length && _PyBytes_Resize(&message, stream->partial_length)) return out_of_memory(stream);
  return message_complete(stream, message);
}

static int message_whole(door_stream *stream, const uint8_t *data) {
  size_t cost = stream->partial_declared + (stream->kind == KIND_STREAM ? 64u : 0u); /* an empty message is an object too */
  if (budget_take(stream, cost)) return -1;
  PyObject *message = PyBytes_FromStringAndSize((const char *)data, stream->partial_declared);
  return message ? message_complete(stream, message) : out_of_memory(stream);
}

/* Body bytes of an open request. Behind a verdict, or the message of a unary call, the rest is thrown away: grpc-go serves
 * a unary call as soon as its message is there and never looks further. */
static void request_data(door_stream *stream, const uint8_t *data, size_t length) {
  while (length && !stream->finished && !stream->complete) {
    if (stream->prefix_length < PREFIX_BYTES) {
      size_t part = PREFIX_BYTES - stream->prefix_length;
      if (part > length) part = length;
      memcpy(stream->prefix + stream->prefix_length, data, part);
      stream->prefix_length = (uint8_t)(stream->prefix_length + part);
      data += part;
      length -= part;
      if (stream->prefix_length < PREFIX_BYTES || prefix_check(stream)) return;
      if (stream->partial_declared) continue;
    }
    size_t part = stream->partial_declared - stream->partial_length;
    if (part > length) part = length;
    int failed = !stream->partial && part == stream->partial_declared ? message_whole(stream, data) : partial_fill(stream, data, part);
    if (failed) return;
    data += part;
    length -= part;
  }
}

static void request_end(door_stream *stream) {
  stream->half_closed = 1;
  if (stream->finished || !stream->kind) return;
  int cut = stream->partial || stream->prefix_length == PREFIX_BYTES; /* a part of the prefix is nothing, for grpc-go */
  if (stream->kind >= KIND_STREAM) {
    if (cut) stream_fail(stream, 13, "unexpected EOF");
    else stream_event(stream, EVENT_HALF_CLOSE, stream->connection->engine);
  } else if (!stream->complete) {
    stream_fail(stream, 2, cut ? "unexpected EOF" : "EOF");
  }
}

/* The handler took what arrived: both windows open again, and the budget is free of it. */
static void stream_consumed(door_stream *stream) {
  door_connection *connection = stream->connection;
  if (stream->unconsumed) {
    if (stream->half_closed) connection->unconsumed += stream->unconsumed; /* its own window is of no use any more */
    else nghttp2_session_consume(connection->session, stream->id, stream->unconsumed);
    stream->unconsumed = 0;
    connection_dirty(connection);
  }
}

static void stream_delivered(door_stream *stream) {
  size_t kept = STREAM_CHARGE_BYTES + (stream->partial ? (size_t)stream->partial_capacity : 0);
  if (stream->charged > kept) {
    stream->connection->engine->bodies_bytes -= stream->charged - kept;
    stream->charged = kept;
  }
  stream_consumed(stream);
}
