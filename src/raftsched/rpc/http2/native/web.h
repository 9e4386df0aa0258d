/* What is HTTP and no gRPC on an HTTP/2 connection: the body goes to Python in the parts that came, head and body of the answer are Python's.
 *
 * What waits for Python is in the budget of bodies, and its window is given back with delivery. The end of the last part ends the stream.
 */
#pragma once
#include "answer.h"

#define WEB_LINGER_BYTES (1u << 20) /* thrown away behind an answer, before the client is told that nobody listens */
#define WEB_PART_BYTES 64 /* what a part costs by itself */

static void web_begin(door_stream *stream) {
  stream->kind = KIND_WEB;
  stream_event(stream, EVENT_OPEN, stream->connection->engine);
}

static ssize_t on_read_web(nghttp2_session *session, int32_t id, uint8_t *buffer, size_t room, uint32_t *flags, nghttp2_data_source *source,
                           void *data) {
  door_stream *stream = (door_stream *)source->ptr;
  size_t done = segments_take(stream, buffer, room);
  if (!stream->first && stream->finished) {
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    stream->trailers_sent = 1;
  } else if (!done) {
    stream->deferred = 1;
    return NGHTTP2_ERR_DEFERRED;
  }
  return (ssize_t)done;
}

/* The head: pairs of bytes, :status first. `last`: there is no body. -1 when out of memory. */
static int web_start(door_stream *stream, PyObject *pairs, int last) {
  Py_ssize_t count = PyList_GET_SIZE(pairs);
  nghttp2_data_provider provider = {{.ptr = stream}, on_read_web};
  nghttp2_nv *fields = (nghttp2_nv *)calloc((size_t)count, sizeof *fields);
  if (!fields) return -1;
  for (Py_ssize_t i = 0; i < count; i++) {
    PyObject *name = PyTuple_GET_ITEM(PyList_GET_ITEM(pairs, i), 0), *value = PyTuple_GET_ITEM(PyList_GET_ITEM(pairs, i), 1);
    fields[i].name = (uint8_t *)PyBytes_AS_STRING(name);
    fields[i].namelen = (size_t)PyBytes_GET_SIZE(name);
    fields[i].value = (uint8_t *)PyBytes_AS_STRING(value);
    fields[i].valuelen = (size_t)PyBytes_GET_SIZE(value);
  }
  stream->started = 1;
  if (last) stream->finished = stream->trailers_sent = 1;
  int failed = nghttp2_submit_response(stream->connection->session, stream->id, fields, (size_t)count, last ? NULL : &provider);
  free(fields);
  connection_dirty(stream->connection);
  return failed ? -1 : 0;
}

/* A part of the body; a large one is referenced. -1 when out of memory. */
static int web_append(door_stream *stream, PyObject *part) {
  size_t length = (size_t)PyBytes_GET_SIZE(part);
  if (length >= REFERENCE_BYTES) {
    if (segment_reference(stream, part)) return -1;
  } else {
    uint8_t *room = segment_room(stream, length);
    if (!room) return -1;
    memcpy(room, PyBytes_AS_STRING(part), length);
  }
  stream_out_add(stream, length);
  stream_kick(stream);
  return 0;
}

static void web_finish(door_stream *stream) {
  stream->finished = 1;
  stream_kick(stream);
}

/* 100: the body is wanted. */
static void web_proceed(door_stream *stream) {
  static const nghttp2_nv fields[1] = {FIXED(":status", "100")};
  nghttp2_submit_headers(stream->connection->session, NGHTTP2_FLAG_NONE, stream->id, NULL, fields, 1, NULL);
  connection_dirty(stream->connection);
}

/* RST_STREAM: what is queued is dropped. Python hears that it is over. */
static void web_reset(door_stream *stream, uint32_t error) {
  door_engine *engine = stream->connection->engine;
  if (stream->finished) return;
  stream->finished = stream->trailers_sent = 1;
  stream_out_drop(stream);
  stream_unhold(stream);
  if (stream->opened || stream->events & EVENT_OPEN) stream_event(stream, EVENT_CLOSED, engine);
  nghttp2_submit_rst_stream(stream->connection->session, NGHTTP2_FLAG_NONE, stream->id, error);
  connection_dirty(stream->connection);
}

/* No room for what comes: 503, as over HTTP/1.1, or an end where the answer has begun. */
static void web_refuse(door_stream *stream) {
  static const nghttp2_nv fields[2] = {FIXED(":status", "503"), FIXED("content-length", "0")};
  door_engine *engine = stream->connection->engine;
  if (stream->started) {
    web_reset(stream, NGHTTP2_CANCEL);
    return;
  }
  stream->started = stream->finished = stream->trailers_sent = 1;
  stream_unhold(stream);
  if (stream->opened || stream->events & EVENT_OPEN) stream_event(stream, EVENT_CLOSED, engine);
  nghttp2_submit_response(stream->connection->session, stream->id, fields, 2, NULL);
  connection_dirty(stream->connection);
}

/* More of a body whose answer is over. An RST_STREAM at once would take that answer away from some clients (curl). */
static void web_thrown(door_stream *stream, size_t length) {
  stream->partial_length += (uint32_t)length;
  if (stream->partial_length <= WEB_LINGER_BYTES) return;
  nghttp2_submit_rst_stream(stream->connection->session, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_NO_ERROR);
  connection_dirty(stream->connection);
}

static void web_data(door_stream *stream, const uint8_t *data, size_t length) {
  door_engine *engine = stream->connection->engine;
  if (engine->bodies_bytes + length + WEB_PART_BYTES > engine->bodies_bytes_max) {
    web_refuse(stream);
    return;
  }
  PyObject *part = PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)length);
  if (!stream->message) stream->message = PyList_New(0);
  if (!part || !stream->message || PyList_Append(stream->message, part)) {
    Py_XDECREF(part);
    PyErr_Clear();
    web_refuse(stream);
    return;
  }
  Py_DECREF(part);
  engine->bodies_bytes += length + WEB_PART_BYTES;
  stream->charged += length + WEB_PART_BYTES;
  stream_event(stream, EVENT_MESSAGES, engine);
}
