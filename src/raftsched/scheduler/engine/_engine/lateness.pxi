# How late each step of a trigger is; `native/lateness.h` counts.

cdef inline void note_sent(Engine self, run_t* r, StreamState stream) noexcept:
    # The due time is that of the attempt; a second delivery of it is as late as the first one was, and is not counted again.
    if r.sent_ms == 0:
        if r.waited_for == WAITED_FOR_NOBODY and stream.writable_since_ms > r.started_ms:
            r.waited_for = WAITED_FOR_WORKER  # who did not read while it was in line
        lateness_add(&self.steps.due_to_sent[r.kind][r.waited_for], self.now_ms - due_ms(self, r.planned_s, r.planned_ns))
    r.sent_ms = self.now_ms


cdef inline void note_committed(Engine self, uint8_t kind, const token_t* token) noexcept:
    if token.acknowledged_ms:
        lateness_add(&self.steps.acknowledged_to_committed[kind], self.now_ms - token.acknowledged_ms)
        lateness_add(&self.steps.due_to_committed[kind], self.now_ms - token.due_ms)


cdef tuple lateness_of(const lateness_t* lateness):
    return [lateness.counts[i] for i in range(LATENESS_BOUNDS + 1)], lateness.sum_ms
