/* What every load shares: options, connections, latencies, errors by their text, and the one JSON line that tells them. */
#pragma once
#include <sys/resource.h>

#include "call.h"
#include "wire.h"

#define ERRORS_MAX 16

typedef struct {
  const char *host, *method, *prefix;
  int port, tls, until_input, deaf;
  int64_t connections, streams, requests, value_bytes, keys, first, limit, ops, ttl, depth, rate, watchers, timeout_ms;
} options;

static options given = {.host = "127.0.0.1", .method = "put", .prefix = "bench/", .connections = 10, .streams = 10, .requests = 1000,
                        .value_bytes = 256, .keys = 1 << 30, .ops = 1, .ttl = 60, .depth = 1, .watchers = 1, .timeout_ms = 120000};

static struct {
  uint32_t *taken_us;
  size_t count, room;
  int64_t ok, failed;
  struct {
    char text[160];
    int64_t count;
  } errors[ERRORS_MAX];
  uint64_t began_ns;
  double cpu_s;
} told;

static connection **connections;

static double cpu_seconds(void) {
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void tell_begin(void) {
  told.count = 0;
  told.ok = told.failed = 0;
  memset(told.errors, 0, sizeof told.errors);
  told.cpu_s = cpu_seconds();
  told.began_ns = now_ns();
}

static void tell_taken(uint64_t began_ns) {
  if (told.count == told.room) {
    told.room = told.room ? told.room * 2 : 1 << 16;
    told.taken_us = realloc(told.taken_us, told.room * sizeof *told.taken_us);
    if (!told.taken_us) die("out of memory");
  }
  told.taken_us[told.count++] = (uint32_t)((now_ns() - began_ns) / 1000);
}

static void tell_failed(const char *text) {
  told.failed++;
  for (int index = 0; index < ERRORS_MAX; index++) {
    if (!told.errors[index].count) snprintf(told.errors[index].text, sizeof told.errors[index].text, "%s", text);
    if (!strcmp(told.errors[index].text, text)) {
      told.errors[index].count++;
      return;
    }
  }
}

static int by_size(const void *one, const void *other) {
  uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
  return a < b ? -1 : a > b;
}

static double quantile_ms(double share) {
  if (!told.count) return 0;
  size_t at = (size_t)((double)told.count * share);
  return told.taken_us[at < told.count ? at : told.count - 1] / 1000.0;
}

/* One line of JSON with all figures since tell_begin. Texts of errors hold what HTTP/2 percent-encodes, so nothing needs escaping. */
static void tell(const char *what) {
  double seconds = (double)(now_ns() - told.began_ns) / 1e9;
  qsort(told.taken_us, told.count, sizeof *told.taken_us, by_size);
  printf("{\"what\": \"%s\", \"ok\": %lld, \"failed\": %lld, \"seconds\": %.6f, \"cpu_s\": %.6f, \"bytes_in\": %llu", what,
         (long long)told.ok, (long long)told.failed, seconds, cpu_seconds() - told.cpu_s, (unsigned long long)net.bytes_in);
  printf(", \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"p999_ms\": %.3f, \"max_ms\": %.3f, \"errors\": {", quantile_ms(0.5),
         quantile_ms(0.99), quantile_ms(0.999), quantile_ms(1));
  for (int index = 0; index < ERRORS_MAX && told.errors[index].count; index++) {
    for (char *letter = told.errors[index].text; *letter; letter++)
      if (*letter == '"' || *letter == '\\' || *letter < ' ') *letter = '?';
    printf("%s\"%s\": %lld", index ? ", " : "", told.errors[index].text, (long long)told.errors[index].count);
  }
  printf("}}\n");
  fflush(stdout);
}

static void tell_ready(const char *what, int64_t count) {
  printf("{\"what\": \"%s\", \"ready\": %lld}\n", what, (long long)count);
  fflush(stdout);
}

/* Turns of the loop until `*count` is `wanted`; dies when that takes longer than --timeout-ms. */
static void until(const int64_t *count, int64_t wanted) {
  uint64_t deadline = now_ns() + (uint64_t)given.timeout_ms * 1000000u;
  while (*count < wanted) {
    loop_turn(1000);
    if (now_ns() > deadline) die("%lld of %lld within %lld ms", (long long)*count, (long long)wanted, (long long)given.timeout_ms);
  }
}

static void open_connections(void) {
  nghttp2_session_callbacks *callbacks = call_callbacks();
  snprintf(authority, sizeof authority, "%s:%d", given.host, given.port);
  connections = calloc((size_t)given.connections + 1, sizeof *connections);
  for (int64_t index = 0; index <= given.connections; index++) /* the last one is for what is not part of the load */
    connections[index] = connection_open(given.host, given.port, callbacks);
}

static size_t key_of(char *into, size_t room, int64_t number) {
  return (size_t)snprintf(into, room, "%s%08lld", given.prefix, (long long)(number % given.keys));
}
