"""A native thread that answers probes while the event loop does not turn; `native/watchdog.h` has the rules.

Must not know: why the loop stands still, what is ready.
"""
from libc.stdint cimport int64_t

import os

cdef extern from "native/watchdog.h" nogil:
    enum:
        WATCHDOG_LISTENERS_MAX
    ctypedef struct watchdog:
        int64_t answered_total
    int watchdog_start(watchdog* w, const int* listeners, int count, int64_t stall_ms) noexcept
    void watchdog_beat(watchdog* w) noexcept
    void watchdog_stop(watchdog* w) noexcept


cdef class Watchdog:
    """Runs until `close`."""

    cdef watchdog native
    cdef bint running

    def __init__(self, listeners, int64_t stall_ms):
        """`listeners`: descriptors of listening sockets, the first 16 of them. OSError: there is no thread, or no descriptor."""
        cdef int[16] numbers
        cdef int count = min(len(listeners), WATCHDOG_LISTENERS_MAX)
        cdef int i
        if self.running:
            raise RuntimeError("it runs already")
        for i in range(count):
            numbers[i] = listeners[i]
        error = watchdog_start(&self.native, numbers, count, stall_ms)
        if error:
            raise OSError(error, os.strerror(error))
        self.running = True

    def beat(self):
        """The loop turns."""
        watchdog_beat(&self.native)

    @property
    def answered_total(self):
        """Probes that were answered here."""
        return self.native.answered_total

    def close(self):
        """Idempotent."""
        if self.running:
            self.running = False
            with nogil:
                watchdog_stop(&self.native)

    def __dealloc__(self):
        if self.running:
            watchdog_stop(&self.native)
