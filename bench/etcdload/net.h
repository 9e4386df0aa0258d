/* Sockets, TLS and HTTP/2 sessions of one thread: everything that must be cheap, so that the server is what is measured.
 *
 * Nothing here may fail silently: whatever is not expected ends the program with one line on stderr and code 1. */
#pragma once
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <openssl/ssl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define READ_BYTES (1 << 18)
#define WINDOW_MAX 0x7FFFFFFF

static void die(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "etcdload: ");
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* -- bytes -------------------------------------------------------------------------------------------------------------- */

typedef struct {
  uint8_t *data;
  size_t length, room;
} buffer;

static void buffer_add(buffer *to, const void *data, size_t length) {
  if (to->length + length > to->room) {
    size_t room = to->room ? to->room : 256;
    while (room < to->length + length) room *= 2;
    to->data = realloc(to->data, room);
    if (!to->data) die("out of memory");
    to->room = room;
  }
  memcpy(to->data + to->length, data, length);
  to->length += length;
}

/* -- connections -------------------------------------------------------------------------------------------------------- */

typedef struct connection {
  int fd, dirty, waits_to_write, established;
  SSL *ssl;
  nghttp2_session *session;
  buffer out;
  size_t out_sent;
  struct connection *next_dirty;
} connection;

static struct {
  int epoll, stdin_ready, input_closed;
  connection *dirty;
  SSL_CTX *tls;
  uint64_t bytes_in;
  char line[256];
  size_t line_length;
} net;

static void connection_dirty(connection *one) {
  if (one->dirty) return;
  one->dirty = 1;
  one->next_dirty = net.dirty;
  net.dirty = one;
}

static void watch_writing(connection *one, int wanted) {
  if (one->waits_to_write == wanted) return;
  one->waits_to_write = wanted;
  struct epoll_event event = {.events = EPOLLIN | (wanted ? EPOLLOUT : 0), .data.ptr = one};
  epoll_ctl(net.epoll, EPOLL_CTL_MOD, one->fd, &event);
}

/* How many bytes went; 0 = the socket is full. */
static size_t connection_put(connection *one, const uint8_t *data, size_t length) {
  if (one->ssl) {
    int done = SSL_write(one->ssl, data, (int)(length > (1 << 20) ? 1 << 20 : length));
    if (done > 0) return (size_t)done;
    int why = SSL_get_error(one->ssl, done);
    if (why == SSL_ERROR_WANT_WRITE || why == SSL_ERROR_WANT_READ) return 0;
    die("TLS: cannot write (%d)", why);
  }
  ssize_t done = send(one->fd, data, length, MSG_NOSIGNAL);
  if (done >= 0) return (size_t)done;
  if (errno == EAGAIN) return 0;
  die("cannot write: %s", strerror(errno));
  return 0;
}

static void connection_flush(connection *one) {
  one->dirty = 0;
  while (1) {
    while (one->out_sent < one->out.length) {
      size_t done = connection_put(one, one->out.data + one->out_sent, one->out.length - one->out_sent);
      if (!done) {
        watch_writing(one, 1);
        return;
      }
      one->out_sent += done;
    }
    one->out.length = one->out_sent = 0;
    while (one->out.length < READ_BYTES) {
      const uint8_t *data;
      ssize_t length = nghttp2_session_mem_send(one->session, &data);
      if (length < 0) die("nghttp2: %s", nghttp2_strerror((int)length));
      if (!length) break;
      buffer_add(&one->out, data, (size_t)length);
    }
    if (!one->out.length) break;
  }
  watch_writing(one, 0);
}

static void connection_read(connection *one) {
  static uint8_t data[READ_BYTES];
  while (1) {
    ssize_t length;
    if (one->ssl) {
      length = SSL_read(one->ssl, data, sizeof data);
      if (length <= 0) {
        int why = SSL_get_error(one->ssl, (int)length);
        if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) return;
        die("the server closed a connection (TLS %d)", why);
      }
    } else {
      length = recv(one->fd, data, sizeof data, 0);
      if (length < 0 && errno == EAGAIN) return;
      if (length <= 0) die("the server closed a connection: %s", length ? strerror(errno) : "end of file");
    }
    net.bytes_in += (uint64_t)length;
    ssize_t taken = nghttp2_session_mem_recv(one->session, data, (size_t)length);
    if (taken != length) die("nghttp2: %s", nghttp2_strerror((int)taken));
    connection_dirty(one);
    if (!one->ssl && length < (ssize_t)sizeof data) return;
  }
}

static void connection_begin_tls(connection *one) {
  one->ssl = SSL_new(net.tls);
  SSL_set_fd(one->ssl, one->fd);
  SSL_set_alpn_protos(one->ssl, (const uint8_t *)"\2h2", 3);
  if (SSL_connect(one->ssl) != 1) die("no TLS connection");
  const uint8_t *protocol;
  unsigned length;
  SSL_get0_alpn_selected(one->ssl, &protocol, &length);
  if (length != 2 || memcmp(protocol, "h2", 2)) die("the server does not speak h2 over TLS");
}

/* Connects (and shakes hands) at once, then never blocks again. */
static connection *connection_open(const char *host, int port, nghttp2_session_callbacks *callbacks) {
  connection *one = calloc(1, sizeof *one);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  inet_pton(AF_INET, host, &address.sin_addr);
  one->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(one->fd, (struct sockaddr *)&address, sizeof address)) die("cannot connect: %s", strerror(errno));
  int yes = 1;
  setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  if (net.tls) connection_begin_tls(one);
  fcntl(one->fd, F_SETFL, fcntl(one->fd, F_GETFL) | O_NONBLOCK);
  nghttp2_session_client_new(&one->session, callbacks, one);
  nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW_MAX}, {NGHTTP2_SETTINGS_ENABLE_PUSH, 0}};
  nghttp2_submit_settings(one->session, NGHTTP2_FLAG_NONE, settings, 2);
  nghttp2_session_set_local_window_size(one->session, NGHTTP2_FLAG_NONE, 0, WINDOW_MAX);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
  epoll_ctl(net.epoll, EPOLL_CTL_ADD, one->fd, &event);
  connection_dirty(one);
  return one;
}

/* -- the loop ----------------------------------------------------------------------------------------------------------- */

static void read_input(void) {
  char letter;
  ssize_t got;
  while ((got = read(0, &letter, 1)) == 1) {
    if (letter == '\n') {
      net.line[net.line_length] = 0;
      net.line_length = 0;
      net.stdin_ready = 1;
      return;
    }
    if (net.line_length + 1 < sizeof net.line) net.line[net.line_length++] = letter;
  }
  net.input_closed = net.stdin_ready = 1;
  net.line[0] = 0;
  epoll_ctl(net.epoll, EPOLL_CTL_DEL, 0, NULL);
}

/* One turn: what came is read, what is to be sent goes out; waits at most so long (ms, -1 = for anything). */
static void loop_turn(int wait_ms) {
  struct epoll_event events[256];
  while (net.dirty) {
    connection *one = net.dirty;
    net.dirty = one->next_dirty;
    connection_flush(one);
  }
  int count = epoll_wait(net.epoll, events, 256, wait_ms);
  for (int index = 0; index < count; index++) {
    connection *one = events[index].data.ptr;
    if (!one) {
      read_input();
      continue;
    }
    if (events[index].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) connection_read(one);
    if (events[index].events & EPOLLOUT) connection_dirty(one);
  }
}

/* The next line of standard input; NULL at its end. Connections are served meanwhile. */
static const char *loop_line(void) {
  if (net.input_closed) return NULL;
  while (!net.stdin_ready) loop_turn(-1);
  net.stdin_ready = 0;
  return net.input_closed ? NULL : net.line;
}

static void net_begin(int tls) {
  net.epoll = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
  epoll_ctl(net.epoll, EPOLL_CTL_ADD, 0, &event); /* fails for a regular file: then nobody says anything */
  if (!tls) return;
  net.tls = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_verify(net.tls, SSL_VERIFY_NONE, NULL); /* whoever is measured was started by whoever measures */
  SSL_CTX_set_mode(net.tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}
