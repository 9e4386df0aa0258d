"""A wake-up finer than the loop's own: asyncio rounds every sleep up to a millisecond, a timerfd does not.

Invariant: at most one wake-up is set; it comes through the loop, never early. Where the system has no timerfd, the loop's own
timer is used and wake-ups are up to a millisecond late. Must not know: jobs, wall time.
"""
from libc.stdint cimport int64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <unistd.h>
    #if defined(__linux__)
    #include <sys/timerfd.h>
    static int timer_open(void) { return timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC); }
    static int timer_set(int fd, int64_t ns) {
        struct itimerspec spec = {{0, 0}, {ns / 1000000000, ns % 1000000000}};
        return timerfd_settime(fd, 0, &spec, 0);
    }
    static void timer_drain(int fd) { uint64_t count; ssize_t got = read(fd, &count, sizeof count); (void)got; }
    static void timer_close(int fd) { close(fd); }
    #else
    static int timer_open(void) { return -1; }
    static int timer_set(int fd, int64_t ns) { (void)fd; (void)ns; return -1; }
    static void timer_drain(int fd) { (void)fd; }
    static void timer_close(int fd) { (void)fd; }
    #endif
    """
    int timer_open() noexcept
    int timer_set(int fd, int64_t ns) noexcept
    void timer_drain(int fd) noexcept
    void timer_close(int fd) noexcept


cdef class LoopTimer:
    """Calls `wake()` on the loop once after each `arm`."""

    cdef object loop, wake, handle
    cdef int fd

    def __cinit__(self, loop, wake):
        self.loop = loop
        self.wake = wake
        self.fd = timer_open()
        if self.fd >= 0:
            loop.add_reader(self.fd, self._fired)

    def arm(self, int64_t delay_ns):
        """`wake` in `delay_ns` (at least 1); replaces what was set. RuntimeError after `close`."""
        if self.loop is None:
            raise RuntimeError("the timer is closed")
        if self.fd < 0:
            if self.handle is not None:
                self.handle.cancel()
            self.handle = self.loop.call_later(max(delay_ns, 1) / 1e9, self.wake)
        elif timer_set(self.fd, max(delay_ns, 1)) < 0:
            raise OSError("timerfd_settime failed")

    def _fired(self):
        timer_drain(self.fd)
        self.wake()

    def close(self):
        """No wake-up any more. Idempotent."""
        if self.loop is None:
            return
        if self.handle is not None:
            self.handle.cancel()
        if self.fd >= 0:
            self.loop.remove_reader(self.fd)
            timer_close(self.fd)
            self.fd = -1
        self.loop = self.wake = self.handle = None
