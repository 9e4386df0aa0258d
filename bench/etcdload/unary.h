/* Unary calls in a closed loop (connections times streams), or at a rate: each with a key of its own. */
#pragma once
#include "load.h"

static struct {
  int64_t started, done;
  const char *path;
  uint8_t *value;
  buffer message;
} unary;

static void add_put(buffer *to, int64_t number) {
  char key[256];
  put_bytes(to, 1, key, key_of(key, sizeof key, number));
  put_bytes(to, 2, unary.value, (size_t)given.value_bytes);
}

/* --ops puts, with keys that follow each other. */
static void add_txn(buffer *to, int64_t number) {
  static buffer put, operation;
  for (int64_t index = 0; index < given.ops; index++) {
    put.length = operation.length = 0;
    add_put(&put, number * given.ops + index);
    put_bytes(&operation, 2, put.data, put.length);
    put_bytes(to, 2, operation.data, operation.length);
  }
}

static void add_range(buffer *to, int64_t number, int serializable) {
  char key[256];
  put_bytes(to, 1, key, key_of(key, sizeof key, number));
  put_number(to, 7, (uint64_t)serializable);
}

/* --limit keys that follow each other, all of the range that is asked for: neither server has to count what lies behind. */
static void add_page(buffer *to, int64_t number) {
  char key[256];
  int64_t from = number * given.limit % given.keys;
  put_bytes(to, 1, key, key_of(key, sizeof key, from));
  put_bytes(to, 2, key, (size_t)snprintf(key, sizeof key, "%s%08lld", given.prefix, (long long)(from + given.limit)));
}

static void unary_message(buffer *to, int64_t number) {
  const char *method = given.method;
  to->length = 0;
  number += given.first;
  if (!strcmp(method, "put")) add_put(to, number);
  else if (!strcmp(method, "txn")) add_txn(to, number);
  else if (!strcmp(method, "range")) add_range(to, number, 0);
  else if (!strcmp(method, "serializable")) add_range(to, number, 1);
  else if (!strcmp(method, "page")) add_page(to, number);
  else {
    put_number(to, 1, !strcmp(method, "grant") ? (uint64_t)given.ttl : (uint64_t)number);
    if (!strcmp(method, "grant")) put_number(to, 2, (uint64_t)number);
  }
}

static const char *unary_path(void) {
  const char *paths[][2] = {{"put", "KV/Put"}, {"txn", "KV/Txn"}, {"range", "KV/Range"}, {"serializable", "KV/Range"},
                            {"page", "KV/Range"}, {"grant", "Lease/LeaseGrant"}, {"revoke", "Lease/LeaseRevoke"}};
  static char path[64];
  for (size_t index = 0; index < sizeof paths / sizeof *paths; index++)
    if (!strcmp(given.method, paths[index][0])) {
      snprintf(path, sizeof path, "/etcdserverpb.%s", paths[index][1]);
      return path;
    }
  die("no method %s", given.method);
  return NULL;
}

static void unary_start(connection *on);

static void unary_on_message(call *one, const uint8_t *data, size_t length) {}

static void unary_on_end(call *one) {
  unary.done++;
  tell_taken(one->began_ns);
  if (one->status) tell_failed(one->text);
  else told.ok++;
  if (!given.rate && (given.until_input ? !net.stdin_ready : unary.started < given.requests)) unary_start(one->on);
}

static const call_kind UNARY = {unary_on_message, unary_on_end};

static void unary_start(connection *on) {
  unary_message(&unary.message, unary.started++);
  call_send(call_open(on, unary.path, &UNARY), unary.message.data, unary.message.length, 1);
}

/* --rate calls a second, whatever comes back: none is left out because another is late. */
static void unary_paced(void) {
  uint64_t began = now_ns();
  while (given.until_input ? !net.stdin_ready : unary.started < given.requests) {
    int64_t due = (int64_t)((double)(now_ns() - began) * (double)given.rate / 1e9) + 1;
    while (unary.started < due) unary_start(connections[unary.started % given.connections]);
    loop_turn(1);
  }
}

/* Asks for --requests and reads no answer, until a line of stdin: what a client that hangs does to a server. */
static void unary_deaf(void) {
  while (unary.started < given.requests) unary_start(connections[unary.started % given.connections]);
  while (net.dirty) {
    connection *one = net.dirty;
    net.dirty = one->next_dirty;
    connection_flush(one);
  }
  tell_ready("asked", unary.started);
  read_input();
}

static void load_unary(void) {
  unary.path = unary_path();
  unary.value = malloc((size_t)given.value_bytes + 1);
  memset(unary.value, 'v', (size_t)given.value_bytes);
  open_connections();
  tell_ready("connections", given.connections);
  tell_begin();
  if (given.deaf) {
    unary_deaf();
    return;
  }
  if (given.rate) {
    unary_paced();
  } else {
    for (int64_t index = 0; index < given.connections * given.streams; index++)
      if (given.until_input || unary.started < given.requests) unary_start(connections[index % given.connections]);
    while (given.until_input && !net.stdin_ready) loop_turn(1000);
  }
  until(&unary.done, given.until_input || given.rate ? unary.started : given.requests);
  tell(given.method);
}
