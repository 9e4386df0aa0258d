/* nghttp2's callbacks, the engine, the connection: feeding bytes in, collecting bytes out, and the limits against floods. */
#pragma once
#include "request.h"
#include "unread.h"

static const char PREFACE[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
#define PREFACE_BYTES 24
static const uint8_t GOAWAY_PING[8] = {'d', 'r', 'a', 'i', 'n', 'i', 'n', 'g'};
static const uint8_t IDLE_PING[8] = {'i', 'd', 'l', 'e', '?', 0, 0, 0};

/* -- floods ----------------------------------------------------------------------------------------------------------- */

/* Ends the connection with a GOAWAY that says why. */
static void connection_calm(door_connection *connection, const char *reason) {
  if (connection->terminated) return;
  connection->terminated = 1;
  connection->flooded = reason;
  connection->engine->floods_total++;
  nghttp2_submit_goaway(connection->session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(connection->session),
                        NGHTTP2_ENHANCE_YOUR_CALM, (const uint8_t *)reason, strlen(reason));
  connection_dirty(connection);
}

/* A frame that costs work and carries nothing. Allowed: a burst, a rate, and ten for each frame that we sent. */
static void connection_nuisance(door_connection *connection) {
  door_engine *engine = connection->engine;
  if (++connection->nuisances <= engine->nuisances_burst) return;
  double allowed = (double)engine->nuisances_burst + (engine->now - connection->opened_at) * engine->nuisances_per_s +
                   10.0 * (double)connection->frames_sent;
  if ((double)connection->nuisances > allowed) connection_calm(connection, "too_many_control_frames");
}

/* A stream that the peer opened and took back before its answer. */
static void connection_reset_counted(door_connection *connection) {
  door_engine *engine = connection->engine;
  engine->resets_total++;
  if (++connection->resets <= engine->resets_burst) return;
  double allowed = (double)engine->resets_burst + (engine->now - connection->opened_at) * engine->resets_per_s;
  if ((double)connection->resets > allowed) connection_calm(connection, "too_many_resets");
}

/* grpc's keepalive policy: two strikes are forgiven, and anything we sent in between wipes them. */
static void connection_pinged(door_connection *connection) {
  double now = connection->engine->now, since = now - connection->peer_ping_at;
  connection->peer_ping_at = now;
  if (connection->ping_reset) {
    connection->ping_reset = 0;
    connection->ping_strikes = 0;
    return;
  }
  if (since < connection->engine->ping_interval_min_s * 0.9) connection->ping_strikes++; /* timers and networks jitter */
  if (connection->ping_strikes > 2) connection_calm(connection, "too_many_pings");
}

/* The server stops: a request that is not whole yet is not waited for, since its rest may never come. What is whole is served. */
static void connection_end_incomplete(door_connection *connection) {
  for (door_stream *stream = connection->streams; stream; stream = stream->next) { /* nothing here unlinks: nghttp2 closes it later */
    if (stream->answered && !stream->half_closed) {
      nghttp2_submit_rst_stream(connection->session, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_NO_ERROR);
    } else if (stream->finished) {
      continue;
    } else if (!stream->kind) {
      nghttp2_submit_rst_stream(connection->session, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_REFUSED_STREAM);
    } else if (stream->kind < KIND_STREAM && !stream->complete) {
      stream_end(stream);
    } else if (stream->kind == KIND_WEB && !stream->half_closed && !stream->started) {
      web_refuse(stream);
    }
  }
}

/* Second step: what was opened until now is served, later streams are not. */
static void connection_refuse_new(door_connection *connection) {
  if (!connection->session || connection->goaway_sent) return;
  connection_end_incomplete(connection);
  connection->goaway_sent = 1;
  nghttp2_submit_goaway(connection->session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(connection->session),
                        NGHTTP2_NO_ERROR, NULL, 0);
  connection_dirty(connection);
}

/* -- callbacks: frames from the peer ---------------------------------------------------------------------------------- */

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *data) {
  door_connection *connection = (door_connection *)data;
  door_engine *engine = connection->engine;
  if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST || connection->terminated) return 0;
  door_stream *stream = NULL;
  if (connection->streams_count < engine->streams_max && engine->bodies_bytes + STREAM_CHARGE_BYTES <= engine->bodies_bytes_max)
    stream = stream_new(connection, frame->hd.stream_id);
  if (!stream) {
    engine->refused_total++;
    return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_REFUSED_STREAM);
  }
  nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, stream);
  return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, nghttp2_rcbuf *name, nghttp2_rcbuf *value, uint8_t flags,
                     void *data) {
  door_connection *connection = (door_connection *)data;
  door_stream *stream = (door_stream *)nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
  if (!stream) return 0;
  nghttp2_vec n = nghttp2_rcbuf_get_buf(name), v = nghttp2_rcbuf_get_buf(value);
  uint32_t limit = connection->engine->header_list_bytes_max;
  if (stream->header_bytes <= limit * 8) stream->header_bytes += (uint32_t)(n.len + v.len + 32);
  if (stream->header_bytes > limit) {
    stream->headers_too_large = 1;
    if (stream->header_bytes > limit * 8) connection_calm(connection, "header_list_too_large");
    return 0;
  }
  if (frame->headers.cat != NGHTTP2_HCAT_REQUEST || field_understood(stream, &n, &v)) return 0; /* trailers mean nothing here */
  if (field_keep(stream, name, value)) stream->headers_too_large = 1;
  return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *data, size_t length, void *user) {
  door_connection *connection = (door_connection *)user;
  door_stream *stream = (door_stream *)nghttp2_session_get_stream_user_data(session, id);
  if (!stream) {
    connection->unconsumed += length;
    return 0;
  }
  stream->unconsumed += length;
  if (stream->kind && !stream->finished) {
    if (stream->kind == KIND_WEB) web_data(stream, data, length);
    else request_data(stream, data, length);
  } else if (stream->kind == KIND_WEB) {
    web_thrown(stream, length);
  }
  /* A complete message keeps the window until it is delivered; a growing one is in the budget; a thrown one is gone. */
  int waits = stream->message && !stream->finished && (stream->kind < KIND_STREAM || PyList_GET_SIZE(stream->message));
  if (!waits) stream_consumed(stream);
  return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *data) {
  door_connection *connection = (door_connection *)data;
  door_stream *stream;
  switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
    case NGHTTP2_DATA:
      stream = (door_stream *)nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
      if (!stream || connection->terminated) return 0;
      if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) request_begin(stream);
      if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) request_end(stream);
      return 0;
    case NGHTTP2_PING:
      if (!(frame->hd.flags & NGHTTP2_FLAG_ACK)) connection_pinged(connection);
      else if (!memcmp(frame->ping.opaque_data, GOAWAY_PING, 8) && connection->going_away) connection_refuse_new(connection);
      return 0;
    default:
      return 0;
  }
}

/* Every frame's header comes by here, also of frames that libnghttp2 ignores. */
static int on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *header, void *data) {
  switch (header->type) {
    case NGHTTP2_HEADERS:
    case NGHTTP2_CONTINUATION: /* libnghttp2 limits their number */
    case NGHTTP2_PING:
    case NGHTTP2_RST_STREAM: /* counted when the stream closes; of a closed one by libnghttp2's own limit */
      return 0;
    case NGHTTP2_DATA:
      if (!header->length && !(header->flags & NGHTTP2_FLAG_END_STREAM)) connection_nuisance((door_connection *)data);
      return 0;
    default:
      connection_nuisance((door_connection *)data);
      return 0;
  }
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t error, void *data) {
  door_stream *stream = (door_stream *)nghttp2_session_get_stream_user_data(session, id);
  if (!stream) return 0;
  if (error && !stream->trailers_sent) connection_reset_counted((door_connection *)data);
  stream_closed(stream);
  return 0;
}

static int on_sent(nghttp2_session *session, const nghttp2_frame *frame, void *data) {
  door_connection *connection = (door_connection *)data;
  if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
  connection->frames_sent++;
  connection->ping_reset = 1;
  if (!(frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) return 0;
  door_stream *stream = (door_stream *)nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
  if (!stream) return 0;
  stream->answered = 1;
  if (stream->half_closed || (stream->kind == KIND_WEB && !connection->going_away)) return 0;
  return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR); /* the rest is not wanted */
}

/* -- engine and connection ---------------------------------------------------------------------------------------------- */

/* Streams whose last news nobody came to hear. */
static void engine_free_streams(door_engine *engine) {
  for (uint32_t i = 0; i < engine->slots_count; i++) {
    door_stream *stream = engine->slots[i].stream;
    if (!stream) continue;
    stream->queued = 0;
    stream_release(engine, stream);
  }
}

static void engine_free(door_engine *engine) {
  if (!engine || --engine->references) return;
  engine_free_streams(engine);
  if (engine->callbacks) nghttp2_session_callbacks_del(engine->callbacks);
  if (engine->option) nghttp2_option_del(engine->option);
  while (engine->free_streams) {
    door_stream *stream = engine->free_streams;
    engine->free_streams = stream->next;
    free(stream);
  }
  for (uint32_t i = 0; i < engine->methods_capacity; i++) free(engine->methods[i]);
  free(engine->methods);
  free(engine->slots);
  free(engine->ready);
  free(engine->taken);
  free(engine->dirty);
  free(engine->write_buffer);
  free(engine);
}

#define WRITE_MARGIN_BYTES 65536

/* `write_bytes`: how much of one connection is collected at once. */
static door_engine *engine_new(size_t write_bytes) {
  door_engine *engine = (door_engine *)calloc(1, sizeof *engine);
  if (!engine) return NULL;
  engine->references = 1;
  engine->write_capacity = write_bytes + WRITE_MARGIN_BYTES;
  engine->write_buffer = (uint8_t *)malloc(engine->write_capacity);
  if (!engine->write_buffer || nghttp2_session_callbacks_new(&engine->callbacks) || nghttp2_option_new(&engine->option)) {
    engine_free(engine);
    return NULL;
  }
  nghttp2_session_callbacks_set_on_begin_headers_callback(engine->callbacks, on_begin_headers);
  nghttp2_session_callbacks_set_on_header_callback2(engine->callbacks, on_header);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(engine->callbacks, on_data);
  nghttp2_session_callbacks_set_on_begin_frame_callback(engine->callbacks, on_begin_frame);
  nghttp2_session_callbacks_set_on_frame_recv_callback(engine->callbacks, on_frame);
  nghttp2_session_callbacks_set_on_stream_close_callback(engine->callbacks, on_close);
  nghttp2_session_callbacks_set_on_frame_send_callback(engine->callbacks, on_sent);
  nghttp2_option_set_no_closed_streams(engine->option, 1);
  nghttp2_option_set_no_auto_window_update(engine->option, 1);
  nghttp2_option_set_max_outbound_ack(engine->option, 1000);
  nghttp2_option_set_max_settings(engine->option, 32);
  nghttp2_option_set_max_continuations(engine->option, 8);
  return engine;
}

/* Behind the engine's own limits, which say why; these two only exist in a libnghttp2 that knows of rapid reset. */
static void engine_limits(door_engine *engine) {
  nghttp2_option_set_stream_reset_rate_limit(engine->option, engine->resets_burst * 2, (uint64_t)(engine->resets_per_s * 2) + 1);
}

static door_connection *connection_new(door_engine *engine) {
  door_connection *connection = (door_connection *)calloc(1, sizeof *connection);
  if (!connection) return NULL;
  connection->engine = engine;
  engine->references++;
  connection->opened_at = connection->read_at = engine->now;
  connection->peer_ping_at = -1e18;
  connection->next = engine->connections;
  if (connection->next) connection->next->previous = connection;
  engine->connections = connection;
  engine->connections_count++;
  return connection;
}

/* `any_authority`: of a unix socket. Go clients before gRPC 1.41 give its path there, which is no authority, and nghttp2 cannot be told
 * to pass over that alone; nothing in request.h relies on what else it looks at. */
static int connection_start_http2(door_connection *connection, int any_authority) {
  door_engine *engine = connection->engine;
  nghttp2_settings_entry settings[] = {
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 0x7fffffff},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW_STREAM_BYTES},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, engine->header_list_bytes_max},
      {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
  };
  nghttp2_option_set_no_http_messaging(engine->option, any_authority);
  if (nghttp2_session_server_new2(&connection->session, engine->callbacks, connection, engine->option)) return -1;
  connection->phase = PHASE_HTTP2;
  if (nghttp2_submit_settings(connection->session, NGHTTP2_FLAG_NONE, settings, sizeof settings / sizeof *settings)) return -1;
  if (nghttp2_session_set_local_window_size(connection->session, NGHTTP2_FLAG_NONE, 0, WINDOW_CONNECTION_BYTES)) return -1;
  connection_dirty(connection);
  return 0;
}

/* The first bytes for the peer are in the write buffer: they say how many streams it may have. libnghttp2 itself does not know: it would
 * end the whole connection where grpc-go refuses the one stream. */
static void connection_tell_streams_max(const door_connection *connection, size_t length) {
  door_engine *engine = connection->engine;
  uint8_t *frame = engine->write_buffer, *value = frame + 11;
  if (length < 15 || frame[3] != NGHTTP2_SETTINGS || frame[10] != NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS) return;
  for (int i = 0; i < 4; i++) value[i] = (uint8_t)(engine->streams_max >> (24 - 8 * i));
}

/* All streams end as cancelled. The struct stays until connection_free: it may be in the dirty list of this tick. */
static void connection_end(door_connection *connection) {
  door_engine *engine = connection->engine;
  if (connection->phase == PHASE_DEAD) return;
  connection_forget_dirty(connection);
  connection->phase = PHASE_DEAD;
  while (connection->streams) stream_closed(connection->streams);
  if (connection->session) nghttp2_session_del(connection->session);
  connection->session = NULL;
  if (connection->previous) connection->previous->next = connection->next;
  else engine->connections = connection->next;
  if (connection->next) connection->next->previous = connection->previous;
  connection_unwritten(connection, 0);
  engine->connections_count--;
}

static void connection_free(door_connection *connection) {
  door_engine *engine = connection->engine;
  connection_end(connection);
  free(connection);
  engine_free(engine);
}

/* 0, or -1: the connection cannot go on (what it has to say last is still to be collected). */
static int connection_feed(door_connection *connection, const uint8_t *data, size_t length) {
  connection->engine->bytes_in += length;
  if (connection->terminated) return 0;
  ssize_t done = nghttp2_session_mem_recv(connection->session, data, length);
  connection_dirty(connection);
  if (done == NGHTTP2_ERR_FLOODED) connection->engine->floods_total++;
  return done < 0 ? -1 : 0;
}

/* What to write now, at most about `limit` bytes, into the engine's write buffer; the number of bytes. */
static size_t connection_collect(door_connection *connection, size_t limit) {
  door_engine *engine = connection->engine;
  const uint8_t *chunk;
  ssize_t length;
  size_t total = 0;
  if (connection->unconsumed) {
    nghttp2_session_consume_connection(connection->session, connection->unconsumed);
    connection->unconsumed = 0;
  }
  while (total < limit && (length = nghttp2_session_mem_send(connection->session, &chunk)) > 0) {
    if (total + (size_t)length > engine->write_capacity) { /* no frame is larger than WRITE_MARGIN_BYTES: cannot be */
      connection->terminated = 1;
      break;
    }
    memcpy(engine->write_buffer + total, chunk, (size_t)length);
    total += (size_t)length;
  }
  if (total) connection->taken_at = engine->now;
  engine->bytes_out += total;
  return total;
}

static int connection_wants_write(door_connection *connection) {
  return connection->session && nghttp2_session_want_write(connection->session);
}

static int connection_finished(door_connection *connection) {
  if (!connection->session) return 0;
  if (connection->terminated) return !nghttp2_session_want_write(connection->session);
  return !nghttp2_session_want_read(connection->session) && !nghttp2_session_want_write(connection->session);
}

/* First step of a graceful end: nothing new, please; the ping comes back when the peer has read that. */
static void connection_announce_end(door_connection *connection) {
  if (!connection->session || connection->going_away) return;
  connection->going_away = 1;
  connection_end_incomplete(connection);
  nghttp2_submit_shutdown_notice(connection->session);
  nghttp2_submit_ping(connection->session, NGHTTP2_FLAG_NONE, GOAWAY_PING);
  connection_dirty(connection);
}

static void connection_ping(door_connection *connection) {
  connection->pinging = 1;
  connection->ping_sent_at = connection->engine->now;
  nghttp2_submit_ping(connection->session, NGHTTP2_FLAG_NONE, IDLE_PING);
  connection_dirty(connection);
}

/* Hold a complete request of a peer that does not read its answers; it comes back by connection_release_held. */
static void stream_hold(door_stream *stream) {
  door_connection *connection = stream->connection;
  stream->held = 1;
  stream->held_next = NULL;
  if (connection->held_last) connection->held_last->held_next = stream;
  else connection->held_first = stream;
  connection->held_last = stream;
}

static void connection_release_held(door_connection *connection) {
  while (connection->held_first && connection_unread(connection) <= unread_allowed(connection->engine) / 2) {
    door_stream *stream = connection->held_first;
    connection->held_first = stream->held_next;
    if (!connection->held_first) connection->held_last = NULL;
    stream->held = 0;
    stream_event(stream, EVENT_REQUEST, connection->engine);
  }
}

/* The array of streams with news, for the caller to work through; new news go into the other one. */
static uint32_t engine_take(door_engine *engine) {
  door_stream **swap = engine->taken;
  uint32_t capacity = engine->taken_capacity, count = engine->ready_count;
  engine->taken = engine->ready;
  engine->taken_capacity = engine->ready_capacity;
  engine->ready = swap;
  engine->ready_capacity = capacity;
  engine->ready_count = 0;
  return count;
}
