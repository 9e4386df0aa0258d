/* The nouns of the door: engine, connection, stream, slot, segment, and who owns whom.
 *
 * Everything lives on the loop thread and under the GIL; no callback of nghttp2 ever calls Python.
 *
 *   engine ── slots[] ── stream     a handle is (generation << 24 | slot): a stale one finds nothing
 *   connection ── streams list      a stream knows its connection until that, or itself, is closed
 *   engine.ready[]                  streams with news for Python; a stream in it (queued) is not freed
 *
 * A stream is freed when it is closed *and* not queued; nothing else holds a pointer over a call into Python.
 */
#pragma once
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <nghttp2/nghttp2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

#define SLOT_BITS 24
#define SLOTS_MAX (1u << SLOT_BITS)
#define GENERATION_MASK ((1ull << 39) - 1)
#define FREE_STREAMS_MAX 4096
#define SEGMENT_BYTES 4096
#define REFERENCE_BYTES 8192 /* from here on an answer is referenced, not copied */
#define STREAM_CHARGE_BYTES 1024 /* what an open stream costs by itself, in the budget of bodies */
#define INLINE_FIELDS 6
#define TIMER_BUCKETS 2048
#define TIMER_PER_S 125.0 /* 8 ms */
#define PREFIX_BYTES 5
#define WINDOW_STREAM_BYTES (1 << 20)
#define WINDOW_CONNECTION_BYTES (16 << 20)

enum { KIND_NONE, KIND_BATCH, KIND_UNARY, KIND_STREAM, KIND_WEB }; /* web: no gRPC (web.h) */
enum { EVENT_REQUEST = 1, EVENT_OPEN = 2, EVENT_MESSAGES = 4, EVENT_HALF_CLOSE = 8, EVENT_WRITABLE = 16, EVENT_CLOSED = 32 };
enum { PHASE_SNIFF, PHASE_HTTP1, PHASE_HTTP2, PHASE_DEAD };

struct door_connection;
struct door_stream;

typedef struct door_segment {
  struct door_segment *next;
  PyObject *owner; /* referenced bytes, or NULL: the data follows the struct */
  const uint8_t *data;
  size_t length, offset, capacity;
} door_segment;

typedef struct door_method {
  char *path;
  uint32_t length, hash;
  int32_t index;
  uint8_t kind;
  size_t hold_bytes; /* a stream with more output queued than this gets no input; 0 = never held */
} door_method;

typedef struct { nghttp2_rcbuf *name, *value; } door_field;

typedef struct door_stream {
  struct door_connection *connection; /* NULL once closed */
  struct door_stream *previous, *next; /* siblings */
  struct door_stream *timer_previous, *timer_next;
  struct door_stream *held_next;
  uint64_t generation;
  uint32_t slot;
  int32_t id;
  const door_method *method;
  uint8_t kind, events;
  unsigned queued : 1, timed : 1, held : 1, opened : 1; /* opened: Python has made a handler of it */
  unsigned post : 1, grpc : 1, bad_field : 1, has_timeout : 1, headers_too_large : 1, encoding_unknown : 1, path_seen : 1;
  unsigned subtype : 1; /* of the content type: told again in the answer */
  unsigned answered : 1; /* the end of the answer was sent */
  unsigned gzip : 1, packed : 1; /* may send compressed messages; one at least waits for delivery */
  unsigned half_closed : 1, complete : 1, started : 1, finished : 1, deferred : 1, want_writable : 1, trailers_sent : 1, input_held : 1;
  uint32_t header_bytes;
  double timeout_s, deadline; /* loop time; 0 = none */
  door_field *fields, inline_fields[INLINE_FIELDS];
  uint16_t fields_count, fields_capacity;
  /* request */
  uint8_t prefix[PREFIX_BYTES], prefix_length;
  uint8_t partial_flag;
  uint32_t partial_length, partial_declared;
  Py_ssize_t partial_capacity;
  PyObject *partial; /* bytes being filled */
  PyObject *message; /* unary: the message; stream: list of messages not yet delivered, a compressed one as a tuple of it */
  size_t charged, unconsumed;
  /* answer */
  door_segment *first, *last;
  size_t out_bytes;
  int status;
  char *status_text; /* percent-encoded, or NULL */
  PyObject *trailers; /* list of (name, value) bytes, or NULL */
  PyObject *owner; /* what Python keeps here: a Stream or a Task */
} door_stream;

typedef struct { door_stream *stream; uint64_t generation; uint32_t next_free; } door_slot;

typedef struct door_connection {
  struct door_engine *engine;
  struct door_connection *previous, *next;
  nghttp2_session *session;
  void *python; /* borrowed: the Connection that owns this struct */
  door_stream *streams;
  door_stream *held_first, *held_last; /* complete requests that wait until this peer reads its answers */
  uint32_t streams_count;
  uint8_t phase, sniffed;
  char sniff[24];
  unsigned dirty : 1, paused : 1, going_away : 1, goaway_sent : 1, terminated : 1, pinging : 1;
  unsigned grpc : 1, web : 1, secure : 1; /* what is served here; secure: through TLS */
  size_t unconsumed, out_bytes, unwritten; /* unwritten: what the transport holds, known while it is paused (unread.h) */
  double read_at, taken_at, ping_sent_at, opened_at; /* taken_at: when the peer last took something of what it has unread */
  /* keepalive policy */
  double peer_ping_at;
  unsigned ping_strikes, ping_reset;
  /* floods: what costs us work and brings nothing */
  uint64_t nuisances, frames_sent, resets;
  const char *flooded; /* why the connection is being ended, or NULL */
} door_connection;

typedef struct door_engine {
  uint32_t references; /* Python's engine and each connection: the garbage collector frees them in any order */
  nghttp2_session_callbacks *callbacks;
  nghttp2_option *option;
  door_method **methods; /* open addressing, power of two */
  uint32_t methods_capacity, methods_count;
  door_slot *slots;
  uint32_t slots_count, slots_capacity, slot_free; /* slot_free: index + 1 of the first free, 0 = none */
  door_stream *free_streams;
  uint32_t free_count;
  door_stream **ready, **taken;
  uint32_t ready_count, ready_capacity, taken_capacity;
  door_connection **dirty;
  uint32_t dirty_count, dirty_capacity;
  door_connection *connections;
  uint8_t *write_buffer;
  size_t write_capacity;
  door_stream *timers[TIMER_BUCKETS];
  uint32_t timed_count;
  int64_t timer_tick;
  double now, earliest; /* loop time; earliest deadline added since the timer was armed */
  PyObject *empty;
  /* limits */
  uint32_t message_bytes_max, header_list_bytes_max, streams_max;
  size_t bodies_bytes_max, push_bytes_max, backlog_bytes_max, web_hold_bytes, unread_bytes_max, unread_floor_bytes;
  double ping_interval_min_s;
  uint64_t nuisances_burst, resets_burst;
  double nuisances_per_s, resets_per_s;
  /* figures */
  size_t bodies_bytes, out_bytes, unwritten_bytes, unread_look_at;
  uint64_t connections_count, streams_count, streams_live, requests_total, messages_in, messages_out, bytes_in, bytes_out;
  uint64_t resets_total, floods_total, refused_total, unread_total;
} door_engine;

/* -- growth of the engine's own arrays -------------------------------------------------------------------------- */

static int array_room(void **array, uint32_t *capacity, uint32_t count, size_t item) {
  if (count < *capacity) return 0;
  uint32_t wanted = *capacity ? *capacity * 2 : 256;
  void *grown = realloc(*array, (size_t)wanted * item);
  if (!grown) return -1;
  *array = grown;
  *capacity = wanted;
  return 0;
}

static void connection_dirty(door_connection *connection) {
  door_engine *engine = connection->engine;
  if (connection->dirty || connection->phase == PHASE_DEAD) return;
  if (array_room((void **)&engine->dirty, &engine->dirty_capacity, engine->dirty_count, sizeof(void *))) return;
  connection->dirty = 1;
  engine->dirty[engine->dirty_count++] = connection;
}

static void connection_forget_dirty(door_connection *connection) {
  door_engine *engine = connection->engine;
  if (!connection->dirty) return;
  for (uint32_t i = 0; i < engine->dirty_count; i++)
    if (engine->dirty[i] == connection) engine->dirty[i] = NULL;
  connection->dirty = 0;
}

/* News of this stream for Python. Out of memory here means that the stream's news wait for its next event. */
static void stream_event(door_stream *stream, uint8_t event, door_engine *engine) {
  stream->events |= event;
  if (stream->queued) return;
  if (array_room((void **)&engine->ready, &engine->ready_capacity, engine->ready_count, sizeof(void *))) return;
  stream->queued = 1;
  engine->ready[engine->ready_count++] = stream;
}

/* -- handles ---------------------------------------------------------------------------------------------------- */

static int slot_take(door_engine *engine, door_stream *stream) {
  uint32_t index;
  if (engine->slot_free) {
    index = engine->slot_free - 1;
    engine->slot_free = engine->slots[index].next_free;
  } else {
    if (engine->slots_count == SLOTS_MAX) return -1;
    if (array_room((void **)&engine->slots, &engine->slots_capacity, engine->slots_count, sizeof(door_slot))) return -1;
    index = engine->slots_count++;
    engine->slots[index].generation = 1;
  }
  engine->slots[index].stream = stream;
  stream->slot = index;
  stream->generation = engine->slots[index].generation;
  return 0;
}

static void slot_give(door_engine *engine, door_stream *stream) {
  door_slot *slot = &engine->slots[stream->slot];
  slot->stream = NULL;
  slot->generation = (slot->generation + 1) & GENERATION_MASK;
  if (!slot->generation) slot->generation = 1;
  slot->next_free = engine->slot_free;
  engine->slot_free = stream->slot + 1;
}

static int64_t stream_handle(const door_stream *stream) { return (int64_t)(stream->generation << SLOT_BITS | stream->slot); }

/* The stream of a handle, or NULL when its call is gone. */
static door_stream *stream_find(door_engine *engine, int64_t handle) {
  uint64_t word = (uint64_t)handle;
  uint32_t index = word & (SLOTS_MAX - 1);
  if (handle <= 0 || index >= engine->slots_count) return NULL;
  door_slot *slot = &engine->slots[index];
  return slot->generation == word >> SLOT_BITS ? slot->stream : NULL;
}

/* -- deadlines: a one-level wheel of lists; a far deadline stays in its bucket for several rounds ------------------- */

static void timer_remove(door_engine *engine, door_stream *stream) {
  if (!stream->timed) return;
  int64_t tick = (int64_t)ceil(stream->deadline * TIMER_PER_S);
  if (stream->timer_previous) stream->timer_previous->timer_next = stream->timer_next;
  else engine->timers[(uint64_t)tick % TIMER_BUCKETS] = stream->timer_next;
  if (stream->timer_next) stream->timer_next->timer_previous = stream->timer_previous;
  stream->timer_previous = stream->timer_next = NULL;
  stream->timed = 0;
  engine->timed_count--;
}

static void timer_add(door_engine *engine, door_stream *stream) {
  int64_t tick = (int64_t)ceil(stream->deadline * TIMER_PER_S);
  door_stream **bucket = &engine->timers[(uint64_t)tick % TIMER_BUCKETS];
  if (!engine->timed_count++) engine->timer_tick = (int64_t)floor(engine->now * TIMER_PER_S);
  stream->timer_previous = NULL;
  stream->timer_next = *bucket;
  if (*bucket) (*bucket)->timer_previous = stream;
  *bucket = stream;
  stream->timed = 1;
  if (engine->earliest == 0 || stream->deadline < engine->earliest) engine->earliest = stream->deadline;
}

/* Loop time at which the first bucket that holds anything comes up; 0 = nothing is timed. */
static double timer_next(const door_engine *engine) {
  if (!engine->timed_count) return 0;
  for (int64_t tick = engine->timer_tick + 1; tick <= engine->timer_tick + TIMER_BUCKETS; tick++)
    if (engine->timers[(uint64_t)tick % TIMER_BUCKETS]) return (double)tick / TIMER_PER_S;
  return engine->now + TIMER_BUCKETS / TIMER_PER_S;
}

/* First value of a field, or NULL. Names are lower-case on the wire. */
static nghttp2_rcbuf *field_find(const door_stream *stream, const char *name, size_t length) {
  for (uint16_t i = 0; i < stream->fields_count; i++) {
    nghttp2_vec found = nghttp2_rcbuf_get_buf(stream->fields[i].name);
    if (found.len == length && !memcmp(found.base, name, length)) return stream->fields[i].value;
  }
  return NULL;
}

/* -- segments: what a stream has still to send ----------------------------------------------------------------------- */

static void segment_free(door_segment *segment) {
  Py_XDECREF(segment->owner);
  free(segment);
}

static door_segment *segment_new(door_stream *stream, size_t capacity) {
  door_segment *segment = (door_segment *)malloc(sizeof *segment + capacity);
  if (!segment) return NULL;
  segment->next = NULL;
  segment->owner = NULL;
  segment->data = (const uint8_t *)(segment + 1);
  segment->length = segment->offset = 0;
  segment->capacity = capacity;
  if (stream->last) stream->last->next = segment;
  else stream->first = segment;
  stream->last = segment;
  return segment;
}

/* Room for `length` more bytes at the end, contiguous; NULL when out of memory. */
static uint8_t *segment_room(door_stream *stream, size_t length) {
  door_segment *segment = stream->last;
  if (!segment || segment->owner || segment->capacity - segment->length < length) {
    size_t capacity = stream->first ? SEGMENT_BYTES : length; /* the first is exact: most answers are one message */
    segment = segment_new(stream, capacity < length ? length : capacity);
    if (!segment) return NULL;
  }
  uint8_t *room = (uint8_t *)segment->data + segment->length;
  segment->length += length;
  return room;
}

static void stream_out_add(door_stream *stream, size_t bytes) {
  door_connection *connection = stream->connection;
  if (!connection->out_bytes) connection->taken_at = connection->engine->now; /* until now there was nothing to take */
  stream->out_bytes += bytes;
  connection->out_bytes += bytes;
  connection->engine->out_bytes += bytes;
}

static void stream_out_sub(door_stream *stream, size_t bytes) {
  stream->out_bytes -= bytes;
  stream->connection->out_bytes -= bytes;
  stream->connection->engine->out_bytes -= bytes;
}

/* Drops what was not sent; the stream must still know its connection. */
static void stream_out_drop(door_stream *stream) {
  stream_out_sub(stream, stream->out_bytes);
  while (stream->first) {
    door_segment *segment = stream->first;
    stream->first = segment->next;
    segment_free(segment);
  }
  stream->last = NULL;
}

/* Behind what is there, without a copy. */
static int segment_reference(door_stream *stream, PyObject *bytes) {
  door_segment *segment = segment_new(stream, 0);
  if (!segment) return -1;
  segment->owner = Py_NewRef(bytes);
  segment->data = (const uint8_t *)PyBytes_AS_STRING(bytes);
  segment->length = segment->capacity = (size_t)PyBytes_GET_SIZE(bytes);
  return 0;
}

/* One gRPC message = header + message; a large message is referenced. -1 when out of memory. */
static int stream_append(door_stream *stream, PyObject *header, PyObject *message) {
  size_t header_length = header ? (size_t)PyBytes_GET_SIZE(header) : 0, length = (size_t)PyBytes_GET_SIZE(message);
  size_t total = header_length + length, copied = length < REFERENCE_BYTES ? total : header_length;
  uint8_t *room = segment_room(stream, PREFIX_BYTES + copied);
  if (!room) return -1;
  room[0] = 0;
  room[1] = (uint8_t)(total >> 24);
  room[2] = (uint8_t)(total >> 16);
  room[3] = (uint8_t)(total >> 8);
  room[4] = (uint8_t)total;
  if (header_length) memcpy(room + PREFIX_BYTES, PyBytes_AS_STRING(header), header_length);
  if (copied == total) {
    memcpy(room + PREFIX_BYTES + header_length, PyBytes_AS_STRING(message), length);
  } else if (segment_reference(stream, message)) {
    return -1;
  }
  stream_out_add(stream, PREFIX_BYTES + total);
  stream->connection->engine->messages_out++;
  return 0;
}

/* -- life of a stream -------------------------------------------------------------------------------------------------- */

static door_stream *stream_new(door_connection *connection, int32_t id) {
  door_engine *engine = connection->engine;
  door_stream *stream = engine->free_streams;
  if (stream) {
    engine->free_streams = stream->next;
    engine->free_count--;
  } else if (!(stream = (door_stream *)malloc(sizeof *stream))) {
    return NULL;
  }
  memset(stream, 0, sizeof *stream);
  stream->fields = stream->inline_fields;
  stream->fields_capacity = INLINE_FIELDS;
  if (slot_take(engine, stream)) {
    free(stream);
    return NULL;
  }
  stream->id = id;
  stream->connection = connection;
  stream->next = connection->streams;
  if (stream->next) stream->next->previous = stream;
  connection->streams = stream;
  connection->streams_count++;
  engine->streams_count++;
  engine->streams_live++;
  stream->charged = STREAM_CHARGE_BYTES;
  engine->bodies_bytes += STREAM_CHARGE_BYTES;
  return stream;
}

static void stream_uncharge(door_engine *engine, door_stream *stream) {
  engine->bodies_bytes -= stream->charged;
  stream->charged = 0;
}

static void stream_drop_fields(door_stream *stream) {
  for (uint16_t i = 0; i < stream->fields_count; i++) {
    nghttp2_rcbuf_decref(stream->fields[i].name);
    nghttp2_rcbuf_decref(stream->fields[i].value);
  }
  if (stream->fields != stream->inline_fields) free(stream->fields);
  stream->fields = stream->inline_fields;
  stream->fields_count = 0;
  stream->fields_capacity = INLINE_FIELDS;
}

/* Free it once it is closed and Python has nothing more to hear of it. */
static void stream_release(door_engine *engine, door_stream *stream) {
  if (stream->connection || stream->queued) return;
  slot_give(engine, stream);
  Py_CLEAR(stream->partial);
  Py_CLEAR(stream->message);
  Py_CLEAR(stream->trailers);
  Py_CLEAR(stream->owner);
  free(stream->status_text);
  engine->streams_live--;
  if (engine->free_count < FREE_STREAMS_MAX) {
    stream->next = engine->free_streams;
    engine->free_streams = stream;
    engine->free_count++;
  } else {
    free(stream);
  }
}

static void stream_unhold(door_stream *stream) {
  door_connection *connection = stream->connection;
  if (!stream->held) return;
  stream->held = 0;
  door_stream **link = &connection->held_first, *before = NULL;
  while (*link && *link != stream) {
    before = *link;
    link = &(*link)->held_next;
  }
  if (*link) *link = stream->held_next;
  if (connection->held_last == stream) connection->held_last = before;
}

/* nghttp2 has closed it, or the connection is gone: tell Python where Python knows it, exactly once, and let go. */
static void stream_closed(door_stream *stream) {
  door_connection *connection = stream->connection;
  door_engine *engine = connection->engine;
  stream_out_drop(stream);
  timer_remove(engine, stream);
  stream_unhold(stream);
  stream_drop_fields(stream);
  stream_uncharge(engine, stream);
  connection->unconsumed += stream->unconsumed;
  if (connection->unconsumed) connection_dirty(connection);
  stream->unconsumed = 0;
  if (stream->previous) stream->previous->next = stream->next;
  else connection->streams = stream->next;
  if (stream->next) stream->next->previous = stream->previous;
  connection->streams_count--;
  engine->streams_count--;
  stream->connection = NULL;
  if (!stream->finished && stream->kind >= KIND_UNARY) {
    stream->status = 1; /* CANCELLED */
    stream->finished = 1;
    if (stream->kind == KIND_UNARY) stream->events = 0;
    if (stream->opened || stream->events & EVENT_OPEN) stream_event(stream, EVENT_CLOSED, engine);
  }
  stream->finished = 1;
  stream_release(engine, stream);
}
