/* Streams that stay: watchers and the events that reach them, leases and their keep-alives. */
#pragma once
#include "unary.h"

static struct {
  call **calls;
  int64_t count, created, events, answered, lost, asked;
} streams;

static void stream_on_end(call *one) {
  die("a stream ended: status %d, %s", one->status, one->text);
}

static void open_streams(const char *path, const call_kind *kind) {
  open_connections();
  streams.count = given.connections * given.streams;
  streams.calls = calloc((size_t)streams.count, sizeof *streams.calls);
  for (int64_t index = 0; index < streams.count; index++) {
    streams.calls[index] = call_open(connections[index % given.connections], path, kind);
    streams.calls[index]->number = index;
  }
}

/* -- watchers: --watchers on each stream, all of one key ----------------------------------------------------------------- */

static void watch_on_message(call *one, const uint8_t *data, size_t length) {
  reader from = reader_of(data, length);
  while (next_field(&from)) {
    if (from.number == 3 && from.type == 0) streams.created++;
    if (from.number == 4 && from.type == 0) die("a watch was canceled");
    if (from.number == 11) streams.events++;
  }
}

static const call_kind WATCH = {watch_on_message, stream_on_end};

static void put_on_end(call *one) {
  if (one->status) die("a put failed: %s", one->text);
  tell_taken(one->began_ns);
  unary.done++;
}

static const call_kind PUT_ALONE = {unary_on_message, put_on_end};

static void put_again(void) {
  unary.message.length = 0;
  add_put(&unary.message, 0);
  unary.started++;
  call_send(call_open(connections[given.connections], "/etcdserverpb.KV/Put", &PUT_ALONE), unary.message.data, unary.message.length, 1);
}

/* So many puts of the watched key, --depth at a time; over when every watcher has every event. */
static void watch_puts(int64_t count) {
  int64_t wanted = streams.events + count * streams.count * given.watchers, before = unary.done;
  tell_begin();
  int64_t started = 0;
  uint64_t deadline = now_ns() + (uint64_t)given.timeout_ms * 1000000u;
  while (unary.done - before < count || streams.events < wanted) {
    while (started < count && started - (unary.done - before) < given.depth) {
      put_again();
      started++;
    }
    loop_turn(1000);
    if (now_ns() > deadline) die("%lld events are missing", (long long)(wanted - streams.events));
  }
  told.ok = count;
  tell("events");
}

static void load_watch(void) {
  unary.value = malloc((size_t)given.value_bytes + 1);
  memset(unary.value, 'v', (size_t)given.value_bytes);
  open_streams("/etcdserverpb.Watch/Watch", &WATCH);
  static buffer create, request;
  char key[256];
  put_bytes(&create, 1, key, key_of(key, sizeof key, 0));
  put_bytes(&request, 1, create.data, create.length);
  for (int64_t index = 0; index < streams.count; index++)
    for (int64_t turn = 0; turn < given.watchers; turn++) call_send(streams.calls[index], request.data, request.length, 0);
  until(&streams.created, streams.count * given.watchers);
  tell_ready("watchers", streams.created);
  const char *line;
  while ((line = loop_line())) watch_puts(atoll(line));
}

/* -- leases: --keys of them from --first on, each stream renews its share in turn ---------------------------------------- */

static void renew(call *one) {
  static buffer message;
  int64_t share = given.keys / streams.count, turn = one->stream_turn++;
  message.length = 0;
  put_number(&message, 1, (uint64_t)(given.first + one->number * share + turn % (share > 0 ? share : 1)));
  call_send(one, message.data, message.length, 0);
  streams.asked++;
}

static void renew_on_message(call *one, const uint8_t *data, size_t length) {
  reader from = reader_of(data, length);
  uint64_t ttl = 0;
  while (next_field(&from))
    if (from.number == 3) ttl = from.value;
  streams.answered++;
  if (ttl) told.ok++;
  else tell_failed("lease not found");
  tell_taken(one->began_ns);
  one->began_ns = now_ns(); /* with --depth 1 that of the request which follows at once */
  if (!given.rate && (given.until_input ? !net.stdin_ready : streams.asked < given.requests)) renew(one);
}

static const call_kind RENEW = {renew_on_message, stream_on_end};

static void renew_paced(void) {
  uint64_t began = now_ns();
  while (!net.stdin_ready) {
    int64_t due = (int64_t)((double)(now_ns() - began) * (double)given.rate / 1e9) + 1;
    while (streams.asked < due) {
      call *one = streams.calls[streams.asked % streams.count];
      one->began_ns = now_ns();
      renew(one);
    }
    loop_turn(1);
  }
}

static void load_renew(void) {
  open_streams("/etcdserverpb.Lease/LeaseKeepAlive", &RENEW);
  tell_ready("streams", streams.count);
  tell_begin();
  if (given.rate) {
    renew_paced();
  } else {
    for (int64_t turn = 0; turn < given.depth * streams.count; turn++) {
      streams.calls[turn % streams.count]->began_ns = now_ns();
      renew(streams.calls[turn % streams.count]);
    }
    while (given.until_input && !net.stdin_ready) loop_turn(1000);
  }
  until(&streams.answered, given.until_input || given.rate ? streams.asked : given.requests);
  tell("renew");
}
