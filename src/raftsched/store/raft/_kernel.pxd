"""The types of the Raft kernel; see `_kernel.pyi` for what each offers."""
from libc.stdint cimport int64_t, uint8_t, uint64_t


cdef class Message:
    cdef readonly int type
    cdef readonly uint64_t to, sender
    cdef readonly int64_t term
    cdef public int64_t index  # of a heartbeat: the fence's
    cdef readonly int64_t log_term, commit
    cdef readonly int64_t hint_index, hint_term, context
    cdef readonly bint reject
    cdef readonly list runs
    cdef public int64_t beat, echo, left_ms  # of the fence (store/fence.py); the kernel never looks at them


cdef class Ready:
    cdef readonly int64_t batch
    cdef readonly tuple hard_state
    cdef readonly list entries, messages, committed, read_states, read_failures, catch_ups, refusals


cdef class Log:
    # Invariant: entry i sits at position i - first; 1 <= first; count == len(data).
    cdef int64_t first, base_term
    cdef int64_t* terms
    cdef uint8_t* kinds
    cdef Py_ssize_t count, capacity
    cdef list data

    cdef int reserve(self, Py_ssize_t more) except -1
    cdef int64_t last(self) noexcept
    cdef int64_t term_at(self, int64_t index) noexcept
    cdef int append(self, list items, int64_t term, int kind) except -1
    cdef int truncate(self, int64_t index) except -1
    cdef int compact(self, int64_t index) except -1
    cdef int64_t find_change(self, int64_t index) noexcept
    cdef list runs(self, int64_t start, int64_t stop, Py_ssize_t entries_max, int64_t bytes_max)
    cdef int64_t size_bytes(self, int64_t start, int64_t stop) noexcept


cdef class Progress:
    # Invariant: next > match. In PROBE at most one append is unanswered; in REPLICATE `inflight` holds (last index, bytes); in CATCH_UP
    # `next` is what the driver is to supply next.
    cdef uint64_t id
    cdef int64_t match, next, inflight_bytes, probe_sent
    cdef int64_t told     # the highest commit index that was sent to it
    cdef int64_t leaving  # the index of the entry that removes it; 0 = it is a member
    cdef int state, leaving_ticks
    cdef bint paused
    cdef int silent  # ticks since it was heard
    cdef bint owed        # something is news to it: the next `ready` sends it an APPEND
    cdef list inflight

    cdef void become_probe(self)
    cdef void become_replicate(self)
    cdef void acknowledge(self, int64_t index)


cdef class Configuration:
    # Invariant: `changes` is in order of the index; cutting the log at the first of them gives the configuration at the applied index.
    cdef frozenset voters, learners
    cdef list changes

    cdef int sensible(self, bytes data) except -1
    cdef int append(self, int64_t index, bytes data) except -1
    cdef int cut(self, int64_t index) except -1
    cdef int settle(self, int64_t applied) except -1
    cdef int voted_before(self, uint64_t member, int64_t commit) except -1


cdef class Kernel:
    cdef readonly uint64_t id, vote, leader, transferee
    cdef readonly int64_t term, commit, applied, stable
    cdef readonly int state
    cdef readonly int64_t uncommitted_bytes, uncommitted_bytes_max
    cdef readonly Py_ssize_t apply_entries_max
    cdef readonly int64_t apply_bytes_max
    cdef Log log
    cdef Configuration configuration
    cdef dict progress, votes
    cdef dict taken  # of a leader: {sender: the last sequence of its forwarded proposals}
    cdef frozenset voters  # the configuration's, at hand
    cdef int elapsed, heartbeat_elapsed, timeout
    cdef int election_ticks_min, election_ticks_max, heartbeat_ticks, quiet_heartbeat_ticks, retry_ticks_max
    cdef int quiet_ticks  # of a leader: in a row, in which there was nothing that a heartbeat could hasten
    cdef int64_t quiet_since  # the last entry of the log then
    cdef int attempts  # pre-votes in a row since a leader was known
    cdef int window_messages
    cdef int64_t window_bytes, message_bytes
    cdef Py_ssize_t message_entries
    cdef uint64_t random_state
    # what the driver knows and does
    cdef int64_t handed, applying, batch, durable_batch
    cdef int64_t saved_term, saved_commit, durable_term
    cdef uint64_t saved_vote, durable_vote
    cdef list outstanding, held, after, now
    cdef bint owing  # whether anybody is owed an APPEND
    cdef list reads, read_waiting, read_states, read_failures, catch_ups, refusals
    cdef int64_t read_context

    cdef bint has_news(self)
    cdef int64_t admit(self, list items) except? -9
    cdef int64_t append_own(self, list items, int kind) except? -9
    cdef void step_propose(self, Message message)
    cdef void answer_propose(self, Message message, int64_t refused)
