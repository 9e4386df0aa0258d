"""Who gets a trigger: live streams by route, round robin; what nobody can take now is staged.

Invariant: a run is in exactly one place: a stream's queue, sent on a stream, waiting at a gate, staged at its route, or none
(its result is being committed). Ids on a stream count from 1 and are never used again.
Must not know: jobs, counters, time (`now_ms` is an argument), gRPC.
"""
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memset

from raftsched.limits import STREAM_BACKLOG_TRIGGERS_MAX, STREAM_STALL_MS


cdef class StreamState:
    """One open WatchJobs stream, as the delivery sees it. `push(message) -> room left` takes one encoded trigger."""

    def __cinit__(self, uint32_t index, object push, object owner):
        self.index = index
        self.push = push
        self.owner = owner
        self.open = self.writable = True
        self.routes = []
        self.next_id = 1

    def __dealloc__(self):
        free(self.queue.items)
        free(self.ids.entries)

    @property
    def backlog(self):
        return self.queue.count

    @property
    def in_flight(self):
        return self.ids.count


cdef class Route:
    """A deliverable prefix: `app||ns||app||` or `actorreminder||ns||type||`."""

    def __cinit__(self, bytes prefix, uint32_t index, uint8_t kind):
        self.prefix = prefix
        self.index = index
        self.kind = kind
        self.streams = []
        self.staged_head = self.staged_tail = RUN_NONE

    @property
    def live(self):
        return len(self.streams)


cdef class Delivery:
    """All routes and streams of one scheduler."""

    def __cinit__(self, uint32_t backlog_max=STREAM_BACKLOG_TRIGGERS_MAX, int64_t stall_ms=STREAM_STALL_MS):
        self.runs.free_head = RUN_NONE
        self.streams = []
        self.routes = []
        self.route_index = {}
        self.free_routes = []
        self.ready = []
        self.overflowed = []
        self.backlog_max = backlog_max
        self.stall_ms = stall_ms

    def __dealloc__(self):
        run_pool_clear(&self.runs)

    # -- routes
    cdef Route hold_route(self, bytes prefix, uint8_t kind):
        """The route of a prefix, made if it is new; the caller owns one reference."""
        cdef Route route
        index = self.route_index.get(prefix)
        if index is None:
            index = self.free_routes.pop() if self.free_routes else len(self.routes)
            route = Route(prefix, index, kind)
            if index == len(self.routes):
                self.routes.append(route)
            else:
                self.routes[index] = route
            self.route_index[prefix] = index
        else:
            route = self.routes[index]
        route.references += 1
        return route

    cdef int drop_route(self, Route route) except -1:
        route.references -= 1
        if route.references == 0:
            del self.route_index[route.prefix]
            self.routes[route.index] = None
            self.free_routes.append(route.index)
        return 0

    def route(self, bytes prefix):
        """The `Route` of a prefix or None."""
        index = self.route_index.get(prefix)
        return None if index is None else self.routes[index]

    # -- streams
    def open_stream(self, push, owner, prefixes):
        """A new stream that takes `prefixes`: (prefix, target kind) each. Staged runs are the caller's to submit again."""
        cdef StreamState stream
        cdef Route route
        index = self.streams.index(None) if None in self.streams else len(self.streams)
        stream = StreamState(index, push, owner)
        if index == len(self.streams):
            self.streams.append(stream)
        else:
            self.streams[index] = stream
        self.open_streams += 1
        for prefix, kind in prefixes:
            route = self.hold_route(prefix, kind)
            route.streams.append(stream)
            stream.routes.append(route)
        return stream

    def open_canary(self, push):
        """A stream with a route of its own that nobody sees: it is in no count, and no prefix leads to it."""
        cdef Route route = Route(b"", len(self.routes), 0)
        cdef StreamState stream = StreamState(RUN_NONE, push, None)
        self.routes.append(route)
        route.streams.append(stream)
        stream.routes.append(route)
        return stream

    def close_stream(self, StreamState stream not None):
        """Deregisters first (spec §4); (runs that were queued or in flight, routes now without a stream). Once per stream."""
        cdef list runs = []
        cdef list gone = []
        cdef Route route
        cdef uint32_t i
        if not stream.open:
            return runs, gone
        stream.open = stream.writable = False
        self.streams[stream.index] = None
        self.open_streams -= 1
        if stream in self.overflowed:
            self.overflowed.remove(stream)
        for i in range(stream.ids.capacity):
            if stream.ids.entries[i].id:
                runs.append((stream.ids.entries[i].id, stream.ids.entries[i].run))
        runs.sort()
        runs = [run for _, run in runs]
        memset(stream.ids.entries, 0, stream.ids.capacity * sizeof(id_entry))
        stream.ids.count = 0
        while stream.queue.count:
            runs.append(self.unqueue(stream))
        for run in runs:
            run_at(&self.runs, run).place = PLACE_NONE
        for route in stream.routes:
            route.streams.remove(stream)
            if not route.streams:
                gone.append(route)
            self.drop_route(route)
        stream.routes = []
        stream.push = None
        return runs, gone

    # -- placing runs
    cdef bint enqueue(self, uint32_t run, int64_t now_ms) except -1:
        """Onto the next stream of the route that has room; False = none has, or there is none."""
        cdef run_t* r = run_at(&self.runs, run)
        cdef Route route = <Route>PyList_GET_ITEM(self.routes, r.route)
        cdef Py_ssize_t count = PyList_GET_SIZE(route.streams), _i
        cdef StreamState stream
        for _i in range(count):
            route.turn += 1
            if route.turn >= <size_t>count:
                route.turn = 0
            stream = <StreamState>PyList_GET_ITEM(route.streams, route.turn)
            if stream.queue.count >= self.backlog_max:
                self.note_full(stream, now_ms)
                continue
            if ring_push(&stream.queue, run) < 0:
                raise MemoryError
            r.stream = stream.index
            r.place = PLACE_QUEUED
            self.queued += 1
            if not stream.dirty:
                self.mark_ready(stream)
            return True
        return False

    cdef int note_full(self, StreamState stream, int64_t now_ms) except -1:
        if stream.stalled_since_ms == 0:
            stream.stalled_since_ms = now_ms
        elif now_ms - stream.stalled_since_ms >= self.stall_ms and stream not in self.overflowed:
            self.overflowed.append(stream)
        return 0

    cdef int mark_ready(self, StreamState stream) except -1:
        if not stream.dirty and stream.open:
            stream.dirty = True
            self.ready.append(stream)
        return 0

    cdef uint32_t unqueue(self, StreamState stream) noexcept:
        self.queued -= 1
        stream.stalled_since_ms = 0
        return ring_pop(&stream.queue)

    cdef void stage(self, uint32_t run) noexcept:
        cdef run_t* r = run_at(&self.runs, run)
        cdef Route route = <Route>PyList_GET_ITEM(self.routes, r.route)
        r.place = PLACE_STAGED
        r.next = RUN_NONE
        r.prev = route.staged_tail
        if route.staged_tail == RUN_NONE:
            route.staged_head = run
        else:
            run_at(&self.runs, route.staged_tail).next = run
        route.staged_tail = run
        route.staged += 1

    cdef void unstage(self, uint32_t run) noexcept:
        cdef run_t* r = run_at(&self.runs, run)
        cdef Route route = <Route>PyList_GET_ITEM(self.routes, r.route)
        if r.prev == RUN_NONE:
            route.staged_head = r.next
        else:
            run_at(&self.runs, r.prev).next = r.next
        if r.next == RUN_NONE:
            route.staged_tail = r.prev
        else:
            run_at(&self.runs, r.next).prev = r.prev
        r.next = r.prev = RUN_NONE
        r.place = PLACE_NONE
        route.staged -= 1

    def stats(self):
        """Gauges by name."""
        return {
            "streams": self.open_streams,
            "routes": len(self.route_index),
            "runs": self.runs.live,
            "queued": self.queued,
            "staged": sum([(<Route>route).staged for route in self.routes if route is not None]),
        }
