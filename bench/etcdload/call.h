/* gRPC calls over the sessions of net.h: messages out and in, and how a call ended. */
#pragma once
#include "net.h"

typedef struct call call;
typedef struct {
  void (*on_message)(call *one, const uint8_t *data, size_t length);
  void (*on_end)(call *one); /* status and text stand in the call, which is gone afterwards */
} call_kind;

struct call {
  connection *on;
  const call_kind *kind;
  int32_t stream;
  int status, ended, deferred;
  buffer out, in;
  size_t out_sent;
  uint64_t began_ns;
  char text[160];
  int64_t number, stream_turn; /* the caller's */
  void *owner;
};

static char authority[64];

static ssize_t call_feed(nghttp2_session *session, int32_t stream, uint8_t *into, size_t room, uint32_t *flags,
                         nghttp2_data_source *source, void *user) {
  call *one = source->ptr;
  size_t left = one->out.length - one->out_sent, part = left < room ? left : room;
  memcpy(into, one->out.data + one->out_sent, part);
  one->out_sent += part;
  if (one->out_sent == one->out.length) {
    one->out.length = one->out_sent = 0;
    if (one->ended) *flags |= NGHTTP2_DATA_FLAG_EOF;
    else if (!part) {
      one->deferred = 1;
      return NGHTTP2_ERR_DEFERRED;
    }
  }
  return (ssize_t)part;
}

static nghttp2_nv field(const char *name, const char *value) {
  nghttp2_nv one = {(uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value), NGHTTP2_NV_FLAG_NONE};
  return one;
}

static void call_resume(call *one) {
  if (one->deferred) {
    one->deferred = 0;
    nghttp2_session_resume_data(one->on->session, one->stream);
  }
  connection_dirty(one->on);
}

/* Adds a message; `last` ends our side of the call. */
static void call_send(call *one, const uint8_t *message, size_t length, int last) {
  uint8_t head[5] = {0, (uint8_t)(length >> 24), (uint8_t)(length >> 16), (uint8_t)(length >> 8), (uint8_t)length};
  buffer_add(&one->out, head, 5);
  buffer_add(&one->out, message, length);
  one->ended = last;
  call_resume(one);
}

static call *call_open(connection *on, const char *path, const call_kind *kind) {
  call *one = calloc(1, sizeof *one);
  one->on = on;
  one->kind = kind;
  one->status = -1;
  one->began_ns = now_ns();
  nghttp2_nv fields[] = {field(":method", "POST"), field(":scheme", net.tls ? "https" : "http"), field(":path", path),
                         field(":authority", authority), field("content-type", "application/grpc"), field("te", "trailers"),
                         field("user-agent", "etcdload")};
  nghttp2_data_provider data = {.source.ptr = one, .read_callback = call_feed};
  one->stream = nghttp2_submit_request(on->session, NULL, fields, 7, &data, one);
  if (one->stream < 0) die("nghttp2: %s", nghttp2_strerror(one->stream));
  connection_dirty(on);
  return one;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_length,
                     const uint8_t *value, size_t length, uint8_t flags, void *user) {
  call *one = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
  if (!one) return 0;
  if (name_length == 11 && !memcmp(name, "grpc-status", 11)) one->status = atoi((const char *)value);
  if (name_length == 12 && !memcmp(name, "grpc-message", 12)) {
    size_t part = length < sizeof one->text - 1 ? length : sizeof one->text - 1;
    memcpy(one->text, value, part);
    one->text[part] = 0;
  }
  return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data, size_t length, void *user) {
  call *one = nghttp2_session_get_stream_user_data(session, stream);
  if (!one) return 0;
  if (one->in.length) {
    buffer_add(&one->in, data, length);
    data = one->in.data;
    length = one->in.length;
  }
  size_t at = 0;
  while (length - at >= 5) {
    size_t size = (size_t)data[at + 1] << 24 | (size_t)data[at + 2] << 16 | (size_t)data[at + 3] << 8 | data[at + 4];
    if (length - at < 5 + size) break;
    one->kind->on_message(one, data + at + 5, size);
    at += 5 + size;
  }
  if (one->in.length) {
    memmove(one->in.data, one->in.data + at, length - at);
    one->in.length = length - at;
  } else if (at < length) {
    buffer_add(&one->in, data + at, length - at);
  }
  return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t stream, uint32_t error, void *user) {
  call *one = nghttp2_session_get_stream_user_data(session, stream);
  if (!one) return 0;
  if (one->status < 0) snprintf(one->text, sizeof one->text, "HTTP/2 error %u", error);
  one->kind->on_end(one);
  free(one->out.data);
  free(one->in.data);
  free(one);
  return 0;
}

static nghttp2_session_callbacks *call_callbacks(void) {
  nghttp2_session_callbacks *callbacks;
  nghttp2_session_callbacks_new(&callbacks);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
  return callbacks;
}
