/* The last things that happened to jobs, as the store told them: records of their own size in a ring of bytes, the oldest go.
 *
 * Invariant: head and tail are positions in all that was ever written, at most `capacity` apart; a record lies in one piece; where the end
 * of the ring has no room for one there is a filler. Nothing is allocated before the first event. */
#ifndef RAFTSCHED_EVENTS_H
#define RAFTSCHED_EVENTS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { EVENT_FILLER = 0, EVENT_MARK = 255, EVENT_ALIGN = 8 };

typedef struct {
    uint32_t total;                  /* with name, detail and padding */
    uint32_t kind;                   /* EVENT_*, of events.pxi */
    uint64_t revision;               /* of a mark: everything up to it was told */
    uint64_t job_main;               /* with job_sub the place of the job's record; 0 = not known */
    int64_t heard_ms;
    int64_t at_s;                    /* an instant of the schedule */
    int32_t at_ns;
    uint32_t job_sub, count, attempts, name_size, detail_size;
} event_t;

typedef struct {
    uint8_t *data;
    uint64_t head, tail;
    uint64_t floor;                  /* the highest revision of what is not here any more */
    uint64_t dropped;                /* events that found no room at all */
    size_t capacity;                 /* a power of two */
} event_log;

static inline event_t *event_there(const event_log *log, uint64_t at) { return (event_t *)(log->data + (at & (log->capacity - 1))); }

static void event_evict(event_log *log, uint64_t until) {
    while (log->head < until) {
        const event_t *oldest = event_there(log, log->head);
        if (oldest->kind != EVENT_FILLER && oldest->kind != EVENT_MARK && oldest->revision > log->floor) log->floor = oldest->revision;
        log->head += oldest->total;
    }
}

/* One that is larger than a sixteenth of the ring, or for which there is no memory, is as one that has gone already. */
static void event_put(event_log *log, event_t *event, const uint8_t *name, const uint8_t *detail) {
    size_t size = (sizeof *event + event->name_size + (size_t)event->detail_size + EVENT_ALIGN - 1) & ~(size_t)(EVENT_ALIGN - 1);
    if (!log->data && !(log->data = malloc(log->capacity))) size = SIZE_MAX;
    if (size > log->capacity / 16) {
        if (event->revision > log->floor) log->floor = event->revision;
        log->dropped++;
        return;
    }
    size_t left = log->capacity - (size_t)(log->tail & (log->capacity - 1));
    if (left < size) {
        if (log->tail + left > log->head + log->capacity) event_evict(log, log->tail + left - log->capacity);
        event_t *filler = event_there(log, log->tail);
        filler->total = (uint32_t)left;
        filler->kind = EVENT_FILLER;
        log->tail += left;
    }
    if (log->tail + size > log->head + log->capacity) event_evict(log, log->tail + size - log->capacity);
    event->total = (uint32_t)size;
    uint8_t *at = (uint8_t *)event_there(log, log->tail);
    memcpy(at, event, sizeof *event);
    if (event->name_size) memcpy(at + sizeof *event, name, event->name_size);
    if (event->detail_size) memcpy(at + sizeof *event + event->name_size, detail, event->detail_size);
    log->tail += size;
}

/* The event at `position` or the next one, a mark too; NULL = there is none. `position` is then where it is. */
static const event_t *event_next(const event_log *log, uint64_t *position) {
    if (*position < log->head) *position = log->head;
    while (*position < log->tail) {
        const event_t *found = event_there(log, *position);
        if (found->kind != EVENT_FILLER) return found;
        *position += found->total;
    }
    return NULL;
}

/* Everything goes; nothing up to `floor` can be asked for. Who had read everything finds a gap, too. */
static void event_forget(event_log *log, uint64_t floor) {
    log->tail += EVENT_ALIGN;
    log->head = log->tail;
    log->floor = floor;
}
#endif
