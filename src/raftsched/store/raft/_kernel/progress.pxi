# What a leader knows of one member. Included by _kernel.pyx.

cdef enum:
    PROBE = 0      # looking for the point where the logs agree: one append at a time
    REPLICATE = 1  # agreed: appends are pipelined within the window
    CATCH_UP = 2   # needs entries that are no longer in memory: the driver serves log segments or a snapshot


cdef class Progress:
    def __cinit__(self):
        self.inflight = []

    cdef void become_probe(self):
        self.state = PROBE
        self.paused = False
        self.next = self.match + 1
        self.inflight = []
        self.inflight_bytes = 0

    cdef void become_replicate(self):
        self.state = REPLICATE
        self.paused = False
        self.next = self.match + 1
        self.inflight = []
        self.inflight_bytes = 0

    cdef void acknowledge(self, int64_t index):
        """Frees the window up to `index`."""
        cdef Py_ssize_t done = 0
        for last, size in self.inflight:
            if last > index:
                break
            self.inflight_bytes -= size
            done += 1
        if done:
            del self.inflight[:done]
