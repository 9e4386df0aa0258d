/* A thread that answers probes while the event loop does not turn.
 *
 * It never takes the interpreter's lock, so that it answers whatever the loop's thread does with it. The loop beats; while beats come, the
 * thread sleeps and touches no socket. When none has come for `stall_ms` it takes what knocks at the listeners, which are the loop's own,
 * says 503, and leaves them alone again with the next beat.
 */
#ifndef RAFTSCHED_WATCHDOG_H
#define RAFTSCHED_WATCHDOG_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

enum { WATCHDOG_LISTENERS_MAX = 16, WATCHDOG_REQUEST_BYTES_MAX = 2048, WATCHDOG_READ_MS = 200, WATCHDOG_READS_MAX = 5 };

typedef struct {
    pthread_t thread;
    struct pollfd polled[1 + WATCHDOG_LISTENERS_MAX]; /* the end of `stop`'s pipe, then the listeners */
    int count, stop_fd;
    int64_t stall_ms;
    _Atomic int64_t beat_ms, answered_total;
} watchdog;

static int64_t watchdog_now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void watchdog_beat(watchdog *w) { atomic_store(&w->beat_ms, watchdog_now_ms()); }

/* The request's head, as far as it comes in time; others wait meanwhile, so no longer than WATCHDOG_READS_MAX times WATCHDOG_READ_MS. */
static void watchdog_read(int fd, char *head) {
    size_t size = 0;
    for (int reads = 0; reads < WATCHDOG_READS_MAX && size < WATCHDOG_REQUEST_BYTES_MAX; reads++) {
        ssize_t got = recv(fd, head + size, WATCHDOG_REQUEST_BYTES_MAX - size, 0);
        if (got <= 0) break;
        size += (size_t)got;
        head[size] = 0;
        if (strstr(head, "\r\n\r\n")) break;
    }
    head[size] = 0;
}

static void watchdog_answer(watchdog *w, int fd) {
    char head[WATCHDOG_REQUEST_BYTES_MAX + 1], body[160] = "", text[512];
    struct timeval limit = {0, WATCHDOG_READ_MS * 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    watchdog_read(fd, head);
    if (!strncmp(head, "GET /readyz", 11) && (head[11] == ' ' || head[11] == '?'))
        snprintf(body, sizeof body, "{\"ready\": false, \"stuck\": {\"loop\": \"the event loop has not turned for %.1f s\"}}\n",
                 (double)(watchdog_now_ms() - atomic_load(&w->beat_ms)) / 1000);
    int size = snprintf(text, sizeof text, "HTTP/1.1 503 Service Unavailable\r\n%scontent-length: %zu\r\nconnection: close\r\n\r\n%s",
                        *body ? "content-type: application/json\r\n" : "", strlen(body), body);
    if (send(fd, text, (size_t)size, MSG_NOSIGNAL) == size) atomic_fetch_add(&w->answered_total, 1);
    shutdown(fd, SHUT_WR);
}

static void watchdog_take(watchdog *w, int listener) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) return; /* the loop was faster, or nobody is left */
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    watchdog_answer(w, fd);
    close(fd);
}

static void *watchdog_run(void *argument) {
    watchdog *w = argument;
    for (;;) {
        int64_t left_ms = atomic_load(&w->beat_ms) + w->stall_ms - watchdog_now_ms();
        int stalled = left_ms <= 0;
        int found = poll(w->polled, stalled ? (nfds_t)w->count : 1, stalled ? WATCHDOG_READ_MS : (int)left_ms + 1);
        if (found < 0 && errno != EINTR) return NULL;
        if (found <= 0) continue;
        if (w->polled[0].revents) return NULL;
        for (int i = 1; stalled && i < w->count; i++)
            if (w->polled[i].revents & POLLIN) watchdog_take(w, w->polled[i].fd);
            else if (w->polled[i].revents) { /* broken: nobody can be answered there */
                close(w->polled[i].fd);
                w->polled[i].fd = -1;
            }
    }
}

static void watchdog_close(watchdog *w) {
    for (int i = 0; i < w->count; i++)
        if (w->polled[i].fd >= 0) close(w->polled[i].fd);
    if (w->stop_fd >= 0) close(w->stop_fd);
}

/* 0, or an errno: nothing runs then. The listeners are duplicated, so theirs may be closed at any time. */
static int watchdog_start(watchdog *w, const int *listeners, int count, int64_t stall_ms) {
    int ends[2];
    memset(w, 0, sizeof *w);
    w->stop_fd = -1;
    if (pipe(ends) < 0) return errno;
    w->polled[0] = (struct pollfd){ends[0], POLLIN, 0};
    w->stop_fd = ends[1];
    w->count = 1;
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    for (int i = 0; i < count && i < WATCHDOG_LISTENERS_MAX; i++) {
        int fd = fcntl(listeners[i], F_DUPFD_CLOEXEC, 3);
        if (fd < 0) {
            int error = errno;
            watchdog_close(w);
            return error;
        }
        w->polled[w->count++] = (struct pollfd){fd, POLLIN, 0};
    }
    w->stall_ms = stall_ms;
    watchdog_beat(w);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals belong to the interpreter's threads */
    int error = pthread_create(&w->thread, NULL, watchdog_run, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) watchdog_close(w);
    return error;
}

/* Returns when the thread has ended: at most a request's time. */
static void watchdog_stop(watchdog *w) {
    ssize_t written = write(w->stop_fd, "", 1);
    (void)written;
    pthread_join(w->thread, NULL);
    watchdog_close(w);
}
#endif
