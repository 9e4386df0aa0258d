/* From an answer to frames: response headers, DATA from the segments, trailers or trailers-only, RST_STREAM. */
#pragma once
#include "door.h"

#define FIXED(name_, value_) \
  { (uint8_t *)(name_), (uint8_t *)(value_), sizeof(name_) - 1, sizeof(value_) - 1, NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE }
#define FIELDS_MAX 36 /* :status, content-type, grpc-status, grpc-message, grpc-accept-encoding and 31 of the handler's */
#define GRPC_TYPE_BYTES 16 /* application/grpc */
#define CONTENT_TYPE_BYTES_MAX 256 /* a longer one is not told again */

static const char *const STATUS_TEXT[17] = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"};

static nghttp2_nv nv(const char *name, const char *value, size_t length, uint8_t flags) {
  nghttp2_nv field = {(uint8_t *)name, (uint8_t *)value, strlen(name), length, (uint8_t)(NGHTTP2_NV_FLAG_NO_COPY_NAME | flags)};
  return field;
}

/* grpc-status, grpc-message and the handler's own trailers, behind what is already in `fields`. */
static size_t trailer_fields(door_stream *stream, nghttp2_nv *fields, size_t count) {
  const char *code = STATUS_TEXT[stream->status >= 0 && stream->status <= 16 ? stream->status : 2];
  fields[count++] = nv("grpc-status", code, strlen(code), NGHTTP2_NV_FLAG_NO_COPY_VALUE);
  if (stream->status_text) fields[count++] = nv("grpc-message", stream->status_text, strlen(stream->status_text), 0);
  if (stream->encoding_unknown) fields[count++] = (nghttp2_nv)FIXED("grpc-accept-encoding", "identity,gzip");
  for (Py_ssize_t i = 0; stream->trailers && i < PyList_GET_SIZE(stream->trailers) && count < FIELDS_MAX; i++) {
    PyObject *pair = PyList_GET_ITEM(stream->trailers, i), *name = PyTuple_GET_ITEM(pair, 0), *value = PyTuple_GET_ITEM(pair, 1);
    nghttp2_nv field = {(uint8_t *)PyBytes_AS_STRING(name), (uint8_t *)PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(name),
                        (size_t)PyBytes_GET_SIZE(value), 0};
    fields[count++] = field;
  }
  return count;
}

static void stream_submit_trailers(nghttp2_session *session, door_stream *stream) {
  nghttp2_nv fields[FIELDS_MAX];
  stream->trailers_sent = 1;
  if (!stream->status && !stream->trailers) {
    static const nghttp2_nv ok[1] = {FIXED("grpc-status", "0")};
    nghttp2_submit_trailer(session, stream->id, ok, 1);
    return;
  }
  nghttp2_submit_trailer(session, stream->id, fields, trailer_fields(stream, fields, 0));
}

/* There is room again: input that was held and a handler that was told to stop may go on. */
static void stream_drained(door_stream *stream) {
  door_engine *engine = stream->connection->engine;
  if (stream->want_writable && stream->out_bytes <= engine->push_bytes_max / 2) {
    stream->want_writable = 0;
    stream_event(stream, EVENT_WRITABLE, engine);
  }
  if (stream->input_held && stream->out_bytes <= (stream->kind == KIND_WEB ? engine->web_hold_bytes : stream->method->hold_bytes) / 2) {
    stream->input_held = 0;
    stream_event(stream, 0, engine);
  }
}

/* What is queued, as far as there is room. */
static inline size_t segments_take(door_stream *stream, uint8_t *buffer, size_t room) {
  size_t done = 0;
  while (stream->first && done < room) {
    door_segment *segment = stream->first;
    size_t part = segment->length - segment->offset;
    if (part > room - done) part = room - done;
    memcpy(buffer + done, segment->data + segment->offset, part);
    segment->offset += part;
    done += part;
    if (segment->offset < segment->length) break;
    stream->first = segment->next;
    if (!stream->first) stream->last = NULL;
    segment_free(segment);
  }
  stream_out_sub(stream, done);
  if (stream->want_writable || stream->input_held) stream_drained(stream);
  return done;
}

static ssize_t on_read(nghttp2_session *session, int32_t id, uint8_t *buffer, size_t room, uint32_t *flags, nghttp2_data_source *source,
                       void *data) {
  door_stream *stream = (door_stream *)source->ptr;
  size_t done = segments_take(stream, buffer, room);
  if (!stream->first && stream->finished) {
    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    stream_submit_trailers(session, stream);
  } else if (!done) {
    stream->deferred = 1;
    return NGHTTP2_ERR_DEFERRED;
  }
  return (ssize_t)done;
}

/* The request's, as grpc-go tells it: whatever separates the subtype, here it is a plus. */
static nghttp2_nv content_type(const door_stream *stream, char text[CONTENT_TYPE_BYTES_MAX]) {
  nghttp2_rcbuf *value = stream->subtype ? field_find(stream, "content-type", 12) : NULL;
  nghttp2_vec found = {NULL, 0};
  if (value) found = nghttp2_rcbuf_get_buf(value);
  if (found.len <= GRPC_TYPE_BYTES + 1 || found.len > CONTENT_TYPE_BYTES_MAX) return (nghttp2_nv)FIXED("content-type", "application/grpc");
  memcpy(text, found.base, found.len);
  text[GRPC_TYPE_BYTES] = '+';
  return nv("content-type", text, found.len, 0);
}

static int stream_start(door_stream *stream) {
  static const nghttp2_nv usual[2] = {FIXED(":status", "200"), FIXED("content-type", "application/grpc")};
  char type[CONTENT_TYPE_BYTES_MAX];
  nghttp2_nv told[2];
  const nghttp2_nv *fields = usual;
  nghttp2_data_provider provider = {{.ptr = stream}, on_read};
  if (stream->subtype) {
    told[0] = usual[0];
    told[1] = content_type(stream, type);
    fields = told;
  }
  stream->started = 1;
  connection_dirty(stream->connection);
  return nghttp2_submit_response(stream->connection->session, stream->id, fields, 2, &provider);
}

/* Get queued bytes, or the end, on their way. */
static void stream_kick(door_stream *stream) {
  if (!stream->started) {
    stream_start(stream);
  } else if (stream->deferred) {
    stream->deferred = 0;
    nghttp2_session_resume_data(stream->connection->session, stream->id);
    connection_dirty(stream->connection);
  }
}

/* Percent-encoding of grpc-message: all but 0x20–0x7E, and '%'. */
static char *percent_encode(const char *text, size_t length) {
  static const char HEX[] = "0123456789ABCDEF";
  if (length > 4096) length = 4096; /* a header must fit the peer's limit */
  char *encoded = (char *)malloc(length * 3 + 1), *out = encoded;
  if (!encoded) return NULL;
  for (size_t i = 0; i < length; i++) {
    uint8_t byte = (uint8_t)text[i];
    if (byte >= 0x20 && byte <= 0x7E && byte != '%') {
      *out++ = (char)byte;
    } else {
      *out++ = '%';
      *out++ = HEX[byte >> 4];
      *out++ = HEX[byte & 15];
    }
  }
  *out = 0;
  return encoded;
}

static void stream_forget_request(door_engine *engine, door_stream *stream) {
  Py_CLEAR(stream->partial);
  if (stream->kind != KIND_STREAM) Py_CLEAR(stream->message);
  stream->prefix_length = 0;
}

static void submit_trailers_only(door_stream *stream, const char *http_status) {
  char type[CONTENT_TYPE_BYTES_MAX];
  nghttp2_nv fields[FIELDS_MAX];
  fields[0] = nv(":status", http_status, 3, NGHTTP2_NV_FLAG_NO_COPY_VALUE);
  fields[1] = content_type(stream, type);
  stream->started = stream->trailers_sent = 1;
  nghttp2_submit_response(stream->connection->session, stream->id, fields, trailer_fields(stream, fields, 2), NULL);
  connection_dirty(stream->connection);
}

/* The last word on a stream: trailers behind what is queued, or trailers-only. Later answers are ignored. */
static void stream_finish_http(door_stream *stream, const char *http_status, int status, const char *text, size_t length) {
  door_engine *engine = stream->connection->engine;
  if (stream->finished) return;
  stream->finished = 1;
  stream->status = status;
  if (length) stream->status_text = percent_encode(text, length);
  timer_remove(engine, stream);
  stream_unhold(stream);
  stream_forget_request(engine, stream);
  if (stream->kind == KIND_STREAM && (stream->opened || stream->events & EVENT_OPEN)) stream_event(stream, EVENT_CLOSED, engine);
  if (!stream->started && !stream->first) submit_trailers_only(stream, http_status);
  else stream_kick(stream);
}

static void stream_finish(door_stream *stream, int status, const char *text, size_t length) {
  stream_finish_http(stream, "200", status, text, length);
}

static void stream_fail(door_stream *stream, int status, const char *text) { stream_finish(stream, status, text, strlen(text)); }

/* The server stops. 14, for clients go to another member at this code alone. */
static void stream_end(door_stream *stream) { stream_fail(stream, 14, "server is shutting down"); }

/* Unary answer. */
static void stream_reply(door_stream *stream, PyObject *header, PyObject *message) {
  if (stream->finished) return;
  if (stream_append(stream, header, message)) {
    stream_out_drop(stream);
    stream_fail(stream, 8, "out of memory");
    return;
  }
  stream->finished = 1;
  timer_remove(stream->connection->engine, stream);
  stream_start(stream);
}

/* The client's time is over. What it has not read it will not read: RST_STREAM, as grpc-go does, unless nothing was sent. */
static void stream_expire(door_stream *stream) {
  static const char TEXT[] = "context deadline exceeded";
  door_engine *engine = stream->connection->engine;
  if (stream->kind == KIND_UNARY && stream->opened) stream_event(stream, EVENT_CLOSED, engine);
  if (stream->kind == KIND_UNARY && !stream->opened) stream->events = 0;
  int unread = stream->first != NULL;
  if (unread) stream_out_drop(stream);
  stream_finish(stream, 4, TEXT, sizeof TEXT - 1);
  if (unread) nghttp2_submit_rst_stream(stream->connection->session, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_CANCEL);
}

static void timers_expire(door_engine *engine) {
  int64_t target = (int64_t)floor(engine->now * TIMER_PER_S);
  if (target - engine->timer_tick > TIMER_BUCKETS) engine->timer_tick = target - TIMER_BUCKETS;
  while (engine->timed_count && engine->timer_tick < target) {
    door_stream *stream = engine->timers[(uint64_t)++engine->timer_tick % TIMER_BUCKETS];
    while (stream) {
      door_stream *next = stream->timer_next;
      if (stream->deadline <= engine->now) stream_expire(stream);
      stream = next;
    }
  }
  if (!engine->timed_count) engine->timer_tick = target;
}
