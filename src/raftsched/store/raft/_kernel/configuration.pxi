# Who votes and who only listens, and the changes of it in the log. Included by _kernel.pyx.

# raftpb.ConfChangeType
cdef enum:
    ADD_VOTER = 0    # promotes a learner too
    REMOVE = 1
    UPDATE = 2       # of what is no business of the kernel: addresses
    ADD_LEARNER = 3

cdef struct Change:
    int64_t type
    uint64_t member


cdef bint read_varint(const uint8_t** at, const uint8_t* end, uint64_t* value) noexcept nogil:
    cdef int shift = 0
    cdef uint8_t byte
    value[0] = 0
    while at[0] < end and shift < 64:
        byte = at[0][0]
        at[0] += 1
        value[0] |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            return True
        shift += 7
    return False


cdef bint read_change(bytes data, Change* change) noexcept:
    """Type (field 2) and member (field 3) of a raftpb.ConfChange, the last of each; False if it cannot be read, exactly when
    `membership.decode_change` cannot: a member must not be in one table and not in the other."""
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(data)
    cdef const uint8_t* end = at + PyBytes_GET_SIZE(data)
    cdef uint64_t tag, value, size
    cdef uint64_t found[5]
    cdef bint is_number[5]
    found[2] = found[3] = 0
    is_number[1] = is_number[2] = is_number[3] = True
    is_number[4] = False
    while at < end:
        if not read_varint(&at, end, &tag):
            return False
        value = 0
        if tag & 7 == 0:
            if not read_varint(&at, end, &value):
                return False
        else:
            size = 8 if tag & 7 == 1 else 4
            if tag & 7 == 2:
                if not read_varint(&at, end, &size):
                    return False
            elif tag & 7 != 1 and tag & 7 != 5:
                return False
            if size > <uint64_t>(end - at):
                return False
            if tag & 7 != 2:
                memcpy(&value, at, size)  # little-endian, as every platform this is built for
            at += size
        if 1 <= tag >> 3 <= 4:
            found[tag >> 3] = value
            is_number[tag >> 3] = tag & 7 != 2
    change.type = <int64_t>found[2] if found[2] <= ADD_LEARNER else -1
    change.member = found[3]
    return is_number[1] and is_number[2] and is_number[3] and not is_number[4] and change.type >= 0 and change.member != 0


cdef class Configuration:
    """Voters and learners in force: those at the applied index, and every change in the log behind it (thesis §4.1).

    `changes`: (index, voters before it, learners before it), of the changes that are not applied; at most one of them is not
    committed, but a founder's first entries are several.
    """

    def __cinit__(self, voters, learners):
        self.voters = frozenset(voters)
        self.learners = frozenset(learners)
        self.changes = []
        if 0 in self.voters or 0 in self.learners:
            raise ValueError("0 is no member id")
        if self.voters & self.learners:
            raise ValueError("a member is a voter or a learner, not both")

    cdef int sensible(self, bytes data) except -1:
        """Whether this change may be proposed: readable, of a member that is known if it must be, and a voter is left."""
        cdef Change change
        if not read_change(data, &change):
            return False
        if change.type == ADD_VOTER:
            return True
        if change.type != ADD_LEARNER and change.member not in self.voters and change.member not in self.learners:
            return False
        return change.type == UPDATE or bool(self.voters - {change.member})

    cdef int append(self, int64_t index, bytes data) except -1:
        """The change at `index` comes into force. What must not be proposed has no effect, alike on every member."""
        cdef Change change
        self.changes.append((index, self.voters, self.learners))
        if not read_change(data, &change) or change.type == UPDATE:
            return 0
        voters, learners = self.voters - {change.member}, self.learners - {change.member}
        if change.type == ADD_VOTER:
            voters |= {change.member}
        elif change.type == ADD_LEARNER:
            learners |= {change.member}
        if voters or not self.voters:  # before a founder's first entry there is no voter
            self.voters, self.learners = voters, learners
        return 0

    cdef int cut(self, int64_t index) except -1:
        """The log is cut from `index` on: what changed there is as before."""
        for position in range(len(self.changes)):
            first, voters, learners = self.changes[position]
            if <int64_t>first >= index:
                self.voters, self.learners = voters, learners
                del self.changes[position:]
                break
        return 0

    cdef int settle(self, int64_t applied) except -1:
        """Changes up to `applied` stand for good."""
        while self.changes and <int64_t>self.changes[0][0] <= applied:
            self.changes.pop(0)
        return 0

    cdef int voted_before(self, uint64_t member, int64_t commit) except -1:
        """Whether a change above `commit` took the vote from `member`: it may still be needed (thesis §4.2.2, figure 4.6)."""
        for index, voters, _ in self.changes:
            if <int64_t>index > commit:
                return member in voters
        return False
