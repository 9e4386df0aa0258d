# Message and Ready: what goes between kernels, and between a kernel and its driver, and what is well formed of it. Included by _kernel.pyx.

# Message types carry the numbers of etcd's raftpb.MessageType, so that a trace reads alike.
cdef enum:
    PROPOSE = 2
    APPEND = 3
    APPEND_RESPONSE = 4
    VOTE = 5
    VOTE_RESPONSE = 6
    HEARTBEAT = 8
    HEARTBEAT_RESPONSE = 9
    TIMEOUT_NOW = 14
    READ_INDEX = 15
    READ_INDEX_RESPONSE = 16
    PRE_VOTE = 17
    PRE_VOTE_RESPONSE = 18
    PROPOSE_RESPONSE = 20  # ours: etcd has none

cdef enum:
    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3

cdef enum:
    NORMAL = 0       # entry kinds, numbers of raftpb.EntryType
    CONF_CHANGE = 1

cdef int64_t NO_TERM = -1
cdef int RETRY_DOUBLINGS_MAX = 8


cdef class Message:
    """One message between two kernels. `runs` are the entries after `index`: [(first index, term, kind, [bytes])]."""

    def __init__(self, int type, uint64_t to, uint64_t sender, int64_t term, *, int64_t index=0, int64_t log_term=0, int64_t commit=0,
                 int64_t hint_index=0, int64_t hint_term=0, int64_t context=0, bint reject=False, list runs=None,
                 int64_t beat=0, int64_t echo=0, int64_t left_ms=0):
        self.type = type
        self.to = to
        self.sender = sender
        self.term = term
        self.index = index
        self.log_term = log_term
        self.commit = commit
        self.hint_index = hint_index
        self.hint_term = hint_term
        self.context = context
        self.reject = reject
        self.runs = runs if runs is not None else []
        self.beat = beat
        self.echo = echo
        self.left_ms = left_ms

    def __repr__(self):
        return (f"Message(type={self.type}, to={self.to}, sender={self.sender}, term={self.term}, index={self.index}, "
                f"log_term={self.log_term}, commit={self.commit}, hint=({self.hint_index}, {self.hint_term}), "
                f"context={self.context}, reject={self.reject}, runs={[(r[0], r[1], r[2], len(r[3])) for r in self.runs]}, "
                f"beat={self.beat}, echo={self.echo}, left_ms={self.left_ms})")


cdef Message make_message(int type, uint64_t to, uint64_t sender, int64_t term):
    cdef Message message = Message.__new__(Message)
    message.type = type
    message.to = to
    message.sender = sender
    message.term = term
    message.runs = []
    return message


cdef class Ready:
    """What the driver has to do now; see `_kernel.pyi`."""


cdef bint well_formed(Message message):
    """Entries follow `index` without a gap, in terms that do not fall and are not above the message's."""
    cdef int64_t next_index = message.index + 1, term = message.log_term
    if message.index < 0 or term < 0:  # the term of an entry that is not held never agrees with another such
        return False
    for run in message.runs:
        if run[0] != next_index or not term <= run[1] <= message.term or not run[3]:
            return False
        next_index += len(run[3])
        term = run[1]
    return True


cdef list without_older_acks(list messages):
    """Of several acks to one member only the one that says the most: acks are cumulative."""
    cdef Message one, kept
    cdef dict acks
    if len(messages) < 2:
        return messages
    acks = {}
    for one in messages:
        if one.type == APPEND_RESPONSE and not one.reject:
            kept = acks.get((one.to, one.term))
            if kept is None or one.index >= kept.index:
                acks[(one.to, one.term)] = one
            else:
                kept.commit = max(kept.commit, one.commit)
    return [one for one in messages if (<Message>one).type != APPEND_RESPONSE or (<Message>one).reject
            or acks[((<Message>one).to, (<Message>one).term)] is one]


cdef int64_t runs_last(list runs):
    cdef tuple run = <tuple>runs[len(runs) - 1]
    return <int64_t>run[0] + len(<list>run[3]) - 1


cdef int64_t run_bytes(list runs):
    cdef int64_t size = 0
    for _, _, _, items in runs:
        for item in items:
            size += PyBytes_GET_SIZE(item)
    return size
