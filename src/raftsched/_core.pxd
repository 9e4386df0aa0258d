"""What native rooms may cimport: the wheel and the cron table, called without Python objects and without the GIL.

The `c_` methods trust their caller: one owner thread, indices and times in range as said beside each. The Python face checks.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef struct cron_masks_t:            # bit n = value n; 40 bytes
    uint64_t seconds
    uint64_t minutes
    uint32_t hours
    uint32_t days                    # of the month, bits 1..31
    uint32_t months                  # bits 1..12
    uint32_t weekdays                # bit 0 = Sunday
    uint8_t day_star                 # the field carries the star: it does not restrict
    uint8_t weekday_star

cdef struct cron_spec_t              # _core/cron_table.pxi
cdef struct cron_table_t
cdef struct wheel_t                  # _core/layout.pxi

cdef class CronTable:
    cdef cron_table_t* table
    cdef int read_spec(self, masks, int zone, cron_spec_t* spec) except -1
    # The first fire strictly after `after_s` (seconds since the epoch, any sign); -1 = none up to the end of 9999, or no such spec.
    cdef int64_t c_next(self, int spec, int64_t after_s) noexcept nogil
    # The last fire <= `until_s` and > `after_s`; -1 = none.
    cdef int64_t c_last(self, int spec, int64_t after_s, int64_t until_s) noexcept nogil

cdef struct extended_table_t         # _core/extended.pxi
cdef struct extended_t

cdef class ExtendedTable:
    cdef CronTable cron
    cdef extended_table_t* table
    cdef int read(self, tuple spec, extended_t* e) except -1
    # Numbers are those of `add`. Milliseconds; none = -0x7fffffffffffffff. `begin_ms`: from where @every counts.
    cdef int64_t c_next(self, int64_t number, int64_t begin_ms, int64_t after_ms) noexcept nogil
    cdef int64_t c_last(self, int64_t number, int64_t begin_ms, int64_t after_ms, int64_t until_ms) noexcept nogil
    cdef void c_release(self, int64_t number) noexcept nogil

cdef class TimerWheel:
    cdef wheel_t* wheel
    cdef readonly CronTable cron
    cdef bint busy                                           # a call that released the GIL is under way
    cdef bint debug
    cdef unsigned long owner                                 # thread, checked when debug
    cdef int enter(self) except -1
    cdef int check_job(self, int64_t due, int64_t period, int64_t spec, int flags) except -1
    cdef int check_slots(self, const unsigned char* keys, const uint32_t[::1] offsets, Py_ssize_t count) except -1
    # Hands out what is due at `now` (ms): handles, tags and scheduled times; `tags` may be NULL. capacity >= 128, else nothing
    # moves. Returns the count; while c_more(), call again with the same `now`. A `now` in the past stands still.
    cdef int c_advance(self, int64_t now, uint64_t* handles, uint32_t* tags, int64_t* due, size_t capacity) noexcept nogil
    cdef bint c_more(self) noexcept nogil
    cdef int64_t c_next_wakeup(self) noexcept nogil          # as next_wakeup(): -1 when empty
    # A one-shot without a key; its handle (never 0), or 0 when the wheel is full or due is outside 0..253402300799999.
    cdef uint64_t c_arm(self, uint32_t tag, int64_t due) noexcept nogil
    # A new due for a known handle, fired or not. 1 = done, 0 = the handle is stale, -1 = due out of range or no room.
    cdef int c_rearm(self, uint64_t handle, int64_t due) noexcept nogil
    # Keeps handle and tag but takes the job out of the time; False = stale.
    cdef bint c_pause(self, uint64_t handle) noexcept nogil
    # Takes the job out and frees its slot; False = stale.
    cdef bint c_disarm(self, uint64_t handle) noexcept nogil
    # The scheduled time, -1 = not armed, -2 = stale.
    cdef int64_t c_due(self, uint64_t handle) noexcept nogil
    # Hints that the record of this handle is needed soon; call it ~12 handles ahead in batch loops.
    cdef void c_prefetch(self, uint64_t handle) noexcept nogil
