/* Answers that their peers do not read, of one connection and of all together: who waits, and who has to go.
 *
 * Unread is what streams hold (out_bytes) and what the transport was given and could not write (unwritten). A connection that is *behind*
 * is handed no further requests, and what streams on it is told to stop. That cannot hold a unary answer back, nor the first message of a
 * stream; where these alone use the room up, connections are closed, the largest first: so a client that reads its answers, or asks for
 * little, is the last to notice. One answer alone may be larger than the room, as everywhere (limits.py).
 */
#pragma once
#include "door.h"

static size_t connection_unread(const door_connection *connection) { return connection->out_bytes + connection->unwritten; }

static size_t engine_unread(const door_engine *engine) { return engine->out_bytes + engine->unwritten_bytes; }

/* How much one connection may have unread: little, while half of the room for all is used. */
static size_t unread_allowed(const door_engine *engine) {
  return engine_unread(engine) > engine->unread_bytes_max / 2 ? engine->unread_floor_bytes : engine->backlog_bytes_max;
}

static int connection_behind(const door_connection *connection) {
  return connection_unread(connection) > unread_allowed(connection->engine);
}

/* Whether somebody may have to go. After a look that found nobody, not before there is more than was let be. */
static int unread_over(door_engine *engine) {
  size_t total = engine_unread(engine);
  if (total <= engine->unread_bytes_max) engine->unread_look_at = 0;
  return total > engine->unread_bytes_max && total >= engine->unread_look_at;
}

static size_t largest_answer(const door_connection *connection) {
  size_t largest = 0;
  for (const door_stream *stream = connection->streams; stream; stream = stream->next)
    if (stream->out_bytes > largest) largest = stream->out_bytes;
  return largest + connection->unwritten;
}

/* Who has to go now, or NULL: of those that have more than the floor and took nothing for `stall_s` the largest, else the largest of all. */
static door_connection *unread_victim(door_engine *engine, double stall_s) {
  door_connection *largest = NULL, *stalled = NULL;
  if (engine_unread(engine) <= engine->unread_bytes_max) return NULL;
  for (door_connection *one = engine->connections; one; one = one->next) {
    size_t unread = connection_unread(one);
    if (!largest || unread > connection_unread(largest)) largest = one;
    if (unread <= engine->unread_floor_bytes || engine->now - one->taken_at < stall_s) continue;
    if (!stalled || unread > connection_unread(stalled)) stalled = one;
  }
  size_t one_answer = largest ? largest_answer(largest) : 0;
  if (engine_unread(engine) - one_answer <= engine->unread_bytes_max) {
    engine->unread_look_at = engine->unread_bytes_max + one_answer + 1;
    return NULL;
  }
  return stalled ? stalled : largest;
}

/* The transport holds so many bytes; less than before means that the peer reads. */
static void connection_unwritten(door_connection *connection, size_t bytes) {
  door_engine *engine = connection->engine;
  if (bytes < connection->unwritten || !connection_unread(connection)) connection->taken_at = engine->now;
  engine->unwritten_bytes += bytes - connection->unwritten;
  connection->unwritten = bytes;
}
