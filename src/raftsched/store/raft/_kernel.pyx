"""The Raft kernel: elections, log replication, commit and read index, without any IO.

Inputs: `tick`, `step(message)`, `propose`, `propose_change`, `forward`, `read_index`, `persisted(batch)`, `advance(applied)`, `supply`.
Output: `ready()`. The same inputs in the same order give the same outputs: chance comes from a seed, time is counted in ticks.

Invariants: `applied <= applying <= min(commit, stable)`; an entry at or below `commit` is never replaced; a message whose truth depends on
a write leaves only after the driver has said `persisted` for it, so the driver cannot send one too early; the configuration in force is
the one at `applied` and every change in the log behind it.
Must not know: clocks, disks, sockets, what an entry means (of a configuration change: anything but whom it is about).

Reference for the behaviour: Ongaro's thesis (chapters 3, 4, 6, 9.6), etcd's raft library; docs/raft.md tells where this one differs.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcpy, memmove, memset

include "_kernel/types.pxi"
include "_kernel/log.pxi"
include "_kernel/progress.pxi"
include "_kernel/configuration.pxi"


Run = tuple  # (first index, term, kind, [bytes]); its full type stands in the .pyi


class KernelError(Exception):
    """The rules of Raft are broken (an entry below the commit index would change): the node must stop."""


cdef class Kernel:
    """One member of a Raft group; see `_kernel.pyi` for the public face."""

    def __init__(self, uint64_t member_id, *, voters, learners=(), uint64_t seed, int64_t term=0, uint64_t vote=0, int64_t commit=0,
                 int64_t applied=0, int64_t first_index=1, int64_t base_term=0, entries=(), int election_ticks_min=10,
                 int election_ticks_max=14, int heartbeat_ticks=1, int retry_ticks_max=3, int window_messages=256,
                 int64_t window_bytes=64 << 20, int64_t message_bytes=1 << 20, Py_ssize_t message_entries=4096,
                 int64_t uncommitted_bytes_max=1 << 30, Py_ssize_t apply_entries_max=1024, int64_t apply_bytes_max=16 << 20):
        if member_id == 0:
            raise ValueError("0 is no member id")
        if not 0 < heartbeat_ticks < election_ticks_min <= election_ticks_max:
            raise ValueError("heartbeat_ticks < election_ticks_min <= election_ticks_max is needed")
        self.id = member_id
        self.configuration = Configuration(voters, learners)
        self.voters = self.configuration.voters
        self.random_state = seed
        self.election_ticks_min = election_ticks_min
        self.election_ticks_max = election_ticks_max
        self.heartbeat_ticks = heartbeat_ticks
        self.retry_ticks_max = retry_ticks_max
        self.window_messages = window_messages
        self.window_bytes = window_bytes
        self.message_bytes = message_bytes
        self.message_entries = message_entries
        self.uncommitted_bytes_max = uncommitted_bytes_max
        self.apply_entries_max = apply_entries_max
        self.apply_bytes_max = apply_bytes_max
        self.progress = {}
        self.taken = {}
        self.votes = {}
        self.outstanding = []
        self.held = []
        self.after = []
        self.now = []
        self.reads = []
        self.read_waiting = []
        self.read_states = []
        self.read_failures = []
        self.catch_ups = []
        self.refusals = []
        self.restore_log(entries, first_index, base_term)
        self.term = self.saved_term = self.durable_term = max(term, self.log.term_at(self.log.last()))
        # a vote belongs to its term: if the log is of a later one, there is none
        self.vote = self.saved_vote = self.durable_vote = vote if self.term == term else 0
        if self.term != term:
            self.saved_term = -1  # write it down with the first batch
        self.commit = self.saved_commit = max(commit, applied)
        self.applied = self.applying = applied
        if not first_index - 1 <= applied <= self.commit <= self.log.last():
            raise KernelError(f"the log holds {first_index}..{self.log.last()}, which does not fit applied {applied}, commit {self.commit}")
        self.adopt_from_log(applied + 1)
        self.timeout = self.pick_timeout(election_ticks_min, election_ticks_max)

    def restore_log(self, entries, int64_t first_index, int64_t base_term):
        self.log = Log()
        self.log.first = first_index
        self.log.base_term = base_term
        for first, term, kind, items in entries:
            if first != self.log.last() + 1:
                raise KernelError(f"entry {first} after {self.log.last()}")
            self.log.append(items, term, kind)
        self.stable = self.handed = self.log.last()

    # -- what the driver may ask

    @property
    def first_index(self):
        return self.log.first

    @property
    def last_index(self):
        return self.log.last()

    @property
    def voter_ids(self):
        return self.voters

    @property
    def learner_ids(self):
        return self.configuration.learners

    @property
    def applied_members(self):
        """(voters, learners) at `applied`, without the changes behind it: what a snapshot of the state machine must say."""
        if self.configuration.changes:
            return self.configuration.changes[0][1:]
        return self.voters, self.configuration.learners

    def term_at(self, int64_t index):
        return self.log.term_at(index)

    @property
    def committed_in_term(self):
        """True once a leader has committed an entry of its own term: only then its commit index is up to date (thesis §6.4)."""
        return self.state == LEADER and self.log.term_at(self.commit) == self.term

    def matches(self):
        """Of a leader: {member: (match, next, state, heard within an election timeout)}, of those too that it tells of their removal."""
        cdef Progress one
        found = {}
        for member, progress in self.progress.items():
            one = <Progress>progress
            found[member] = (one.match, one.next, one.state, one.silent < self.election_ticks_min)
        return found

    cdef int pick_timeout(self, int low, int high) noexcept:
        # splitmix64: small, and good enough to keep members from campaigning in step
        cdef uint64_t z
        self.random_state += <uint64_t>0x9E3779B97F4A7C15
        z = self.random_state
        z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
        z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
        z = z ^ (z >> 31)
        return low + <int>(z % <uint64_t>(high - low + 1))

    cdef int quorum(self) noexcept:
        return <int>len(self.voters) // 2 + 1

    # -- inputs

    def tick(self):
        """One tick of the driver's clock; a lone voter becomes leader in its first."""
        if self.state == LEADER:
            self.tick_leader()
            return
        self.elapsed += 1
        if self.id in self.voters:
            if self.elapsed >= self.timeout or len(self.voters) == 1:
                self.campaign(False, False)
        elif self.elapsed >= self.timeout and self.configuration.changes and self.configuration.voted_before(self.id, self.commit):
            # Of two voters one has removed itself and died before the other heard of it. Nobody else can be elected, since
            # its log is the longer one: it leads once more, without a vote of its own, until the change is committed.
            self.campaign(False, False)

    cdef void tick_leader(self):
        cdef Progress progress
        cdef int heard = 1 if self.id in self.voters else 0
        self.elapsed += 1
        self.heartbeat_elapsed += 1
        if self.elapsed >= self.election_ticks_min:
            self.elapsed = 0
            self.transferee = 0
        for progress in self.progress.values():
            progress.silent += 1
            heard += progress.silent < self.election_ticks_min and progress.id in self.voters
        if heard < self.quorum():
            # Check-quorum (thesis §6.2): who has not heard a majority within the last election timeout is no leader any more.
            self.become_follower(self.term, 0)
            return
        self.forget_leaving()
        if self.heartbeat_elapsed >= self.heartbeat_ticks:
            self.heartbeat_elapsed = 0
            self.broadcast_heartbeat()

    def propose(self, list items):
        """Appends `items` in one go; the index of the first, or -1 no leader here, -2 leadership is moving, -3 too much is uncommitted."""
        cdef int64_t refused = self.admit(items), first
        if refused:
            return refused
        first = self.append_own(items, NORMAL)
        if self.progress:
            self.broadcast_append()
        return first

    def propose_change(self, bytes change):
        """Appends a raftpb.ConfChange, which is in force at once; its index, or a negative: see `_kernel.pyi`.

        Why only after a commit in the own term: two leaders could each have a change that the other does not know, and both
        majorities would not meet (Ongaro, raft-dev, July 2015).
        """
        cdef int64_t refused, index
        if self.state == LEADER and not self.transferee:
            if self.configuration.changes:
                return -4
            if self.log.term_at(self.commit) != self.term:
                return -5
            if not self.configuration.sensible(change):
                return -6
        refused = self.admit([change])
        if refused:
            return refused
        index = self.append_own([change], CONF_CHANGE)
        self.adopt(index, [change])
        self.reconfigured()
        return index

    cdef int64_t admit(self, list items) except? -9:
        """0, and they count as uncommitted; or why these entries are not taken now: the negative of `propose`."""
        cdef int64_t size = 0
        cdef Py_ssize_t i
        if self.state != LEADER:
            return -1
        if self.transferee:
            return -2
        for i in range(len(items)):
            if not isinstance(<object>PyList_GET_ITEM(items, i), bytes):
                raise TypeError("an entry is bytes")
            size += PyBytes_GET_SIZE(<object>PyList_GET_ITEM(items, i))
        if self.uncommitted_bytes and self.uncommitted_bytes + size > self.uncommitted_bytes_max:
            return -3
        self.uncommitted_bytes += size
        return 0

    cdef int64_t append_own(self, list items, int kind) except? -9:
        cdef int64_t first = self.log.last() + 1
        self.log.append(items, self.term, kind)
        return first

    def forward(self, list items, int64_t sequence):
        """Sends `items` to the leader, to be proposed there; False = none is known, or it is this member."""
        cdef Message message
        if self.leader == 0 or self.state == LEADER or not items:
            return False
        message = make_message(PROPOSE, self.leader, self.id, self.term)
        message.context = sequence
        message.runs = [(1, self.term, NORMAL, items)]
        self.send(message)
        return True

    def read_index(self, context):
        """Asks for an index at which a linearizable read may be served: it comes as a read state, or `context` as a read failure.

        False: no leader is known. A follower's context must be an integer, since it travels.
        """
        cdef Message message
        if self.state == LEADER:
            self.start_read([context])
            return True
        if self.leader == 0:
            return False
        message = make_message(READ_INDEX, self.leader, self.id, self.term)
        message.context = context
        self.send(message)
        return True

    def persisted(self, int64_t batch):
        """The driver has synced every batch up to `batch`."""
        cdef int64_t last = -1
        cdef list still = []
        while self.outstanding and <int64_t>self.outstanding[0][0] <= batch:
            _, last_index, term, vote = self.outstanding.pop(0)
            last = last_index
            self.durable_term = term
            self.durable_vote = vote
            if last > self.stable:
                self.stable = last
        if batch > self.durable_batch:
            self.durable_batch = batch
        for wait, message in self.held:
            if wait > self.durable_batch:
                still.append((wait, message))
            elif (<Message>message).term == self.term or (<Message>message).type in (PRE_VOTE, PRE_VOTE_RESPONSE):
                self.now.append(message)  # what was said in an older term is of no use to anyone
        self.held = still
        if self.state == LEADER and self.maybe_commit():
            self.broadcast_append()

    def advance(self, int64_t applied):
        """Everything up to `applied` has been applied."""
        if applied > self.applying or applied < self.applied:
            raise KernelError(f"applied {applied} is not within {self.applied}..{self.applying}")
        self.applied = applied
        if self.configuration.changes:
            self.configuration.settle(applied)
            if self.state == LEADER and not self.configuration.changes and self.id not in self.voters:
                self.hand_over()

    def compact(self, int64_t index):
        """Forgets the entries up to `index` (<= applied); they stay readable on disk for as long as the driver keeps them."""
        if index > self.applied or index > self.stable:
            raise KernelError(f"compaction to {index} above applied {self.applied} or stable {self.stable}")
        self.log.compact(index)

    def transfer(self, uint64_t member):
        """Moves leadership (thesis §3.10): proposals stop until `member` leads or an election timeout has passed; False = not possible."""
        cdef Progress progress
        if self.state != LEADER or member == self.id or member not in self.voters:
            return False
        self.transferee = member
        self.elapsed = 0
        progress = <Progress>self.progress[member]
        if progress.match == self.log.last():
            self.send(make_message(TIMEOUT_NOW, member, self.id, self.term))
        else:
            self.send_append(progress, False)
        return True

    def caught_up(self, uint64_t member, int64_t index):
        """The driver has brought `member` up to `index` by log segments or a snapshot (0: it gave up; try by probing)."""
        cdef Progress progress = self.progress.get(member)
        if progress is None or progress.state != CATCH_UP:
            return
        if index > progress.match:
            progress.match = index
        progress.become_probe()
        if self.log.term_at(progress.next - 1) == NO_TERM:
            progress.next = self.log.last() + 1  # its refusal tells where it is by now: maybe further than anybody here knows
        self.send_append(progress, False)

    def supply(self, uint64_t member, list runs, *, int64_t prev_term):
        """Sends entries that the driver has read from its log on disk to a member in state CATCH_UP; `prev_term`: of the entry before.

        False: not in that state (any more). Raises ValueError if they are not of this leader's log.
        """
        cdef Progress progress = self.progress.get(member)
        cdef Message message
        cdef int64_t last, held
        if progress is None or progress.state != CATCH_UP or not runs:
            return False
        message = make_message(APPEND, member, self.id, self.term)
        message.index = <int64_t>(<tuple>runs[0])[0] - 1
        message.log_term = prev_term
        message.commit = self.commit
        message.runs = runs
        last = runs_last(runs)
        held = self.log.term_at(last)
        if not well_formed(message) or last > self.log.last() or (held != NO_TERM and held != <int64_t>(<tuple>runs[len(runs) - 1])[1]):
            raise ValueError(f"entries up to {last} are none of this log")
        progress.next = max(progress.next, last + 1)
        self.send(message)
        return True

    def install(self, int64_t index, int64_t term, voters, learners=()):
        """A snapshot up to (index, term) is on disk and its state is in force: the only way a snapshot moves commit.

        Keeps the log if it holds that very entry. False: the snapshot is older than what is committed here.
        """
        if index <= self.commit:
            return False
        if self.state != FOLLOWER:
            self.become_follower(self.term, 0)  # there is a newer leader: what this one believed of its log and of others is void
        if self.log.term_at(index) != term:
            self.restore_log((), index + 1, term)
            self.outstanding = [(batch, min(last, index), hard_term, vote) for batch, last, hard_term, vote in self.outstanding]
        self.commit = self.applied = self.applying = index
        self.stable = max(self.stable, index)
        self.handed = max(self.handed, index)
        self.configuration = Configuration(voters, learners)
        self.voters = self.configuration.voters
        self.adopt_from_log(index + 1)
        return True

    # -- configuration

    cdef int adopt(self, int64_t index, list items) except -1:
        """The changes at `index` ... come into force."""
        for item in items:
            self.configuration.append(index, item)
            index += 1
        self.voters = self.configuration.voters
        return 0

    cdef int adopt_from_log(self, int64_t index) except -1:
        """All changes that the log holds from `index` on."""
        while (index := self.log.find_change(index)):
            self.adopt(index, [self.log.data[index - self.log.first]])
            index += 1
        return 0

    cdef int reconfigured(self) except -1:
        """Of a leader whose configuration has just changed: whom to tell, and what the new majority says about commit and reads."""
        cdef frozenset members = self.voters | self.configuration.learners
        cdef Progress progress
        for member in sorted(members):
            if member != self.id and member not in self.progress:
                self.begin_progress(member)
        for progress in self.progress.values():
            if progress.id in members:
                progress.leaving = 0
            elif progress.leaving == 0:
                progress.leaving = self.log.last()
                progress.leaving_ticks = 0
        self.maybe_commit()
        self.broadcast_append()
        self.confirm_reads()
        return 0

    cdef Progress begin_progress(self, uint64_t member):
        cdef Progress progress = Progress()
        progress.id = member
        progress.next = self.log.last() + 1
        self.progress[member] = progress
        return progress

    cdef int forget_leaving(self) except -1:
        """A removed member that does not answer is told for one election timeout, counted from the commit of its removal."""
        cdef Progress progress
        cdef list gone = []
        for progress in self.progress.values():
            if progress.leaving and progress.leaving <= self.commit:
                progress.leaving_ticks += 1
                if progress.leaving_ticks > self.election_ticks_min:
                    gone.append(progress.id)
        for member in gone:
            del self.progress[member]
        return 0

    cdef int hand_over(self) except -1:
        """The entry that removes this leader is applied: it goes, and names the voter that has the longest log."""
        cdef Progress progress, best = None
        for progress in self.progress.values():
            if progress.id in self.voters and (best is None or progress.match > best.match):
                best = progress
        if best is not None:
            self.send(make_message(TIMEOUT_NOW, best.id, self.id, self.term))
        self.become_follower(self.term, 0)
        return 0

    # -- roles

    cdef void become_follower(self, int64_t term, uint64_t leader):
        if term != self.term:
            self.term = term
            self.vote = 0
        if self.state == LEADER:
            self.progress = {}
            self.uncommitted_bytes = 0
            self.transferee = 0
        self.fail_reads()
        self.state = FOLLOWER
        self.leader = leader
        if leader:
            self.attempts = 0
        self.elapsed = 0
        self.timeout = self.pick_timeout(self.election_ticks_min, self.election_ticks_max)

    cdef int pick_retry(self) noexcept:
        """Ticks until an undecided vote is tried again: few at first, twice as many each time, an election timeout in the end. Of these
        each voter has its own share, for chance alone would often let those that asked in step do so again."""
        cdef int high = (self.retry_ticks_max + 1) << min(max(self.attempts - 1, 0), RETRY_DOUBLINGS_MAX)
        cdef int low = min(high // 2, self.election_ticks_min)
        cdef int count = max(<int>len(self.voters), 1), rank = 0, room
        for member in self.voters:
            rank += <uint64_t>member < self.id
        room = min(high, self.election_ticks_max) - low
        if room < count:
            return low + rank % (room + 1)
        return low + rank + count * self.pick_timeout(0, (room - rank) // count)

    cdef void campaign(self, bint real, bint forced):
        """First asks (pre-vote, thesis §9.6) whether an election could be won; only the real one raises the term."""
        cdef Message message
        cdef int64_t last = self.log.last()
        self.fail_reads()
        self.leader = 0
        self.elapsed = 0
        self.votes = {self.id: True} if self.id in self.voters else {}
        if real:
            self.timeout = self.pick_timeout(self.election_ticks_min, self.election_ticks_max)
            self.state = CANDIDATE
            self.term += 1
            self.vote = self.id
        else:
            # Who hears a leader does not answer, and may not hear it a moment later: asked again soon, once. More would crowd a network.
            self.attempts += 1
            if self.attempts == 1:
                self.timeout = self.pick_retry()
            else:
                self.timeout = self.pick_timeout(self.election_ticks_min, self.election_ticks_max)
            self.state = PRE_CANDIDATE
        for member in sorted(self.voters):
            if member != self.id:
                message = make_message(VOTE if real else PRE_VOTE, member, self.id, self.term if real else self.term + 1)
                message.index = last
                message.log_term = self.log.term_at(last)
                message.context = forced
                self.send(message)
        self.count_votes(real)

    cdef void count_votes(self, bint real):
        cdef int granted = 0
        for member, vote in self.votes.items():
            if vote and member in self.voters:
                granted += 1
        if granted >= self.quorum():
            if not real:
                self.campaign(True, False)
            else:
                self.become_leader()
        elif len(self.votes) - granted >= self.quorum() or len(self.votes) == len(self.voters):
            # Lost or split: not worth an election timeout of waiting.
            self.state = FOLLOWER
            self.elapsed = 0
            self.timeout = self.pick_timeout(1, self.retry_ticks_max)
        elif real and len(self.votes) >= self.quorum():
            # Split, and who has not answered may be gone. Not before a majority has: each vote needs a sync, perhaps of a slow disk.
            self.timeout = min(self.timeout, self.elapsed + self.pick_retry())

    cdef void become_leader(self):
        self.state = LEADER
        self.leader = self.id
        self.attempts = 0
        self.elapsed = 0
        self.heartbeat_elapsed = 0
        self.progress = {}
        self.taken = {}
        for member in sorted(self.voters | self.configuration.learners):
            if member != self.id:
                self.begin_progress(member)
        self.uncommitted_bytes = self.log.size_bytes(self.commit + 1, self.log.last() + 1)
        self.log.append([b""], self.term, NORMAL)  # thesis §6.4: commits what older terms left behind
        self.broadcast_append()

    # -- sending

    cdef void send(self, Message message):
        """Decides what a message waits for: a claim about what is stored waits for the write that stores it."""
        cdef bint wait = self.durable_term != self.term or self.durable_vote != self.vote
        if message.type == APPEND_RESPONSE and not message.reject:
            wait = wait or message.index > self.stable
        elif message.type == PRE_VOTE:
            wait = False  # promises nothing
        if wait:
            self.after.append(message)
        else:
            self.now.append(message)

    cdef void broadcast_append(self):
        """Entries, a commit index, or both: all that is news to a member between two `ready` goes in one APPEND."""
        self.owing = True
        for progress in self.progress.values():
            (<Progress>progress).owed = True

    cdef void send_owed(self):
        cdef Progress progress
        self.owing = False
        for progress in self.progress.values():
            if progress.owed:
                progress.owed = False
                self.send_append(progress, progress.told < self.commit)

    cdef void broadcast_heartbeat(self):
        cdef Message message
        cdef Progress progress
        for progress in self.progress.values():
            message = make_message(HEARTBEAT, progress.id, self.id, self.term)
            # never beyond what this member is known to hold: its tail may differ (thesis §3.5)
            message.commit = min(progress.match, self.commit)
            message.context = self.read_context
            self.send(message)
            progress.paused = False

    cdef void send_append(self, Progress progress, bint empty):
        """Sends what the window allows. `empty`: also sends a bare commit index when there is nothing else to send."""
        cdef Message message
        cdef int64_t last = self.log.last(), prev
        cdef bint sent = False
        while True:
            if progress.state == CATCH_UP or (progress.state == PROBE and progress.paused):
                return
            if progress.state == REPLICATE:
                if len(progress.inflight) >= self.window_messages or progress.inflight_bytes >= self.window_bytes:
                    return
                if progress.next > last and (sent or not empty):
                    return
            prev = progress.next - 1
            if self.log.term_at(prev) == NO_TERM:
                progress.state = CATCH_UP
                if not progress.leaving:  # the transport tells a removed member that is so far behind
                    self.catch_ups.append((progress.id, progress.next))
                return
            message = self.bare_append(progress)
            progress.told = self.commit
            if progress.next <= last:
                message.runs = self.log.runs(progress.next, last + 1, self.message_entries, self.message_bytes)
            self.send(message)
            sent = True
            if progress.state == PROBE:
                progress.paused = True
                progress.probe_sent = prev
                return
            if not message.runs:
                return
            size = run_bytes(message.runs)
            progress.next = runs_last(message.runs) + 1
            progress.inflight.append((progress.next - 1, size))
            progress.inflight_bytes += size

    cdef Message bare_append(self, Progress progress):
        cdef Message message = make_message(APPEND, progress.id, self.id, self.term)
        message.index = progress.next - 1
        message.log_term = self.log.term_at(message.index)
        message.commit = self.commit
        return message

    # -- commit and reads

    cdef bint maybe_commit(self):
        """Counts who stores what; the leader itself only up to what it has synced (thesis §10.2.1). Own term only (§3.6.2)."""
        cdef list matches = []
        cdef int64_t index
        for member in self.voters:
            matches.append(self.stable if member == self.id else (<Progress>self.progress[member]).match)
        matches.sort(reverse=True)
        index = matches[self.quorum() - 1]
        if index <= self.commit or self.log.term_at(index) != self.term:
            return False
        self.set_commit(index)
        if self.read_waiting:
            waiting, self.read_waiting = self.read_waiting, []
            self.start_read(waiting)
        return True

    cdef void set_commit(self, int64_t index) noexcept:
        if self.state == LEADER:
            self.uncommitted_bytes -= self.log.size_bytes(self.commit + 1, index + 1)
        self.commit = index

    cdef void fail_reads(self):
        for _, _, contexts, _ in self.reads:
            self.read_failures.extend(contexts)
        self.read_failures.extend(self.read_waiting)
        self.reads = []
        self.read_waiting = []

    cdef void start_read(self, list contexts):
        if self.log.term_at(self.commit) != self.term:
            self.read_waiting.extend(contexts)  # what older terms committed is not known yet
            return
        if len(self.voters) == 1 and self.id in self.voters:
            for context in contexts:
                self.answer_read(context, self.commit)
            return
        self.read_context += 1
        self.reads.append((self.read_context, self.commit, contexts, {self.id} if self.id in self.voters else set()))
        self.broadcast_heartbeat()

    cdef void answer_read(self, object context, int64_t index):
        cdef Message message
        if isinstance(context, tuple):  # asked by another member
            message = make_message(READ_INDEX_RESPONSE, context[0], self.id, self.term)
            message.context = context[1]
            message.index = index
            self.send(message)
        else:
            self.read_states.append((context, index))

    # -- messages

    def step(self, Message message):
        """Takes a message of another member; the driver has checked that its sender is who it says."""
        if message.to != self.id or message.sender == self.id or not well_formed(message):
            return
        if not self.step_term(message):
            return
        if message.type == VOTE or message.type == PRE_VOTE:
            self.step_vote(message)
        elif message.type == APPEND:
            self.step_append(message)
        elif message.type == HEARTBEAT:
            self.step_heartbeat(message)
        elif message.type == VOTE_RESPONSE or message.type == PRE_VOTE_RESPONSE:
            if self.state == (CANDIDATE if message.type == VOTE_RESPONSE else PRE_CANDIDATE) and message.sender in self.voters:
                self.votes.setdefault(message.sender, not message.reject)
                self.count_votes(message.type == VOTE_RESPONSE)
        elif message.type == TIMEOUT_NOW:
            if self.id in self.voters and self.state == FOLLOWER:
                self.campaign(True, True)
        elif message.type == READ_INDEX or message.type == READ_INDEX_RESPONSE:
            self.step_read(message)
        elif message.type == PROPOSE_RESPONSE:
            if message.reject and message.sender == self.leader:
                self.refusals.append((message.context, message.hint_index))
        elif self.state == LEADER:
            self.step_leader(message)

    def absorb(self, Message message):
        """Takes an ack of a replicating member in the own term, for which nothing but the kernel's books changes: see `_kernel.pyi`."""
        cdef Progress progress
        if self.state != LEADER or message.type != APPEND_RESPONSE or message.reject or message.term != self.term or message.to != self.id:
            return False
        progress = self.progress.get(message.sender)
        if progress is None or progress.state != REPLICATE or progress.leaving:
            return False
        self.step(message)
        return True

    cdef bint step_term(self, Message message):
        """True if the message is of the present term (or a pre-vote), False if it needs no more attention."""
        cdef Message answer
        if message.term > self.term:
            if message.type == VOTE or message.type == PRE_VOTE:
                # Who hears a leader helps nobody to depose it (thesis §4.2.3), unless that leader asked for it.
                if not message.context and self.leader != 0 and self.elapsed < self.election_ticks_min:
                    return False
            if message.type == PRE_VOTE or (message.type == PRE_VOTE_RESPONSE and not message.reject):
                return True
            self.become_follower(message.term, message.sender if message.type in (APPEND, HEARTBEAT) else 0)
        elif message.term < self.term:
            if message.type == APPEND or message.type == HEARTBEAT:
                answer = make_message(APPEND_RESPONSE, message.sender, self.id, self.term)
                answer.reject = True
                self.send(answer)  # a deposed leader learns of it
            elif message.type == PRE_VOTE or message.type == VOTE:
                answer = make_message(PRE_VOTE_RESPONSE if message.type == PRE_VOTE else VOTE_RESPONSE, message.sender, self.id, self.term)
                answer.reject = True
                self.send(answer)
            return False
        return True

    cdef void step_vote(self, Message message):
        cdef int64_t last = self.log.last(), last_term = self.log.term_at(last)
        cdef Message answer
        cdef bint real = message.type == VOTE
        cdef bint free_vote = (self.vote == message.sender or (self.vote == 0 and self.leader == 0)) if real else message.term > self.term
        cdef bint current = message.log_term > last_term or (message.log_term == last_term and message.index >= last)
        answer = make_message(VOTE_RESPONSE if real else PRE_VOTE_RESPONSE, message.sender, self.id, self.term)
        answer.reject = not (free_vote and current)
        if not answer.reject:
            answer.term = message.term
            if real:
                self.vote = message.sender
                self.elapsed = 0
        self.send(answer)

    cdef void step_append(self, Message message):
        cdef Message answer
        cdef int64_t hint
        if self.state != FOLLOWER or self.leader != message.sender:
            self.become_follower(message.term, message.sender)
        self.elapsed = 0
        answer = make_message(APPEND_RESPONSE, message.sender, self.id, self.term)
        if message.index < self.commit:
            answer.index = self.commit  # committed entries agree by themselves
        elif self.log.term_at(message.index) == message.log_term:
            answer.index = message.index + self.accept_entries(message)
            # never "my last index": a tail beyond this message has not been compared
            self.set_commit(max(self.commit, min(message.commit, answer.index)))
        else:
            # The hint skips a whole term: the last place where the terms could still agree.
            hint = min(message.index, self.log.last())
            while hint > self.commit and self.log.term_at(hint) > message.log_term:
                hint -= 1
            answer.reject = True
            answer.index = message.index
            answer.hint_index = hint
            answer.hint_term = self.log.term_at(hint)
        answer.commit = self.commit  # so that a leader knows when a removed member knows
        self.send(answer)

    cdef int accept_entries(self, Message message) except -1:
        """Stores what is new, cuts only at the first entry that conflicts; the number of entries in the message."""
        cdef int64_t index = message.index
        cdef Py_ssize_t skip
        for _, term, kind, items in message.runs:
            skip = 0
            while skip < len(items) and self.log.term_at(index + 1) == term:
                index += 1
                skip += 1
            if skip < len(items):
                if index < self.log.last():
                    self.truncate(index + 1)
                if skip:
                    items = items[skip:]
                self.log.append(items, term, kind)
                if kind == CONF_CHANGE:
                    self.adopt(index + 1, items)
                index += len(items)
        return index - message.index

    cdef int truncate(self, int64_t index) except -1:
        """Cuts the log from `index` on. Why writes under way are clamped: a write of (10, term 1) that completes after 10 was replaced by
        term 2 and then by term 1 again says nothing about the third version, although index and term look the same."""
        if index <= self.commit:
            raise KernelError(f"entry {index} would change, but {self.commit} is committed")
        self.log.truncate(index)
        self.configuration.cut(index)
        self.voters = self.configuration.voters
        self.stable = min(self.stable, index - 1)
        self.handed = min(self.handed, index - 1)
        self.outstanding = [(batch, min(last, index - 1), term, vote) for batch, last, term, vote in self.outstanding]
        return 0

    cdef void step_leader(self, Message message):
        cdef Progress progress = self.progress.get(message.sender)
        if progress is None:
            return
        progress.silent = 0
        if message.type == APPEND_RESPONSE:
            self.step_append_response(progress, message)
        elif message.type == HEARTBEAT_RESPONSE:
            self.step_heartbeat_response(progress, message)
        elif message.type == PROPOSE:
            self.step_propose(message)
            return
        if progress.leaving and message.commit >= progress.leaving and self.progress.get(message.sender) is progress:
            del self.progress[message.sender]  # it knows

    def refuse(self, Message message, int64_t why):
        """In place of `step`: a forwarded proposal that the state machine does not want; see `_kernel.pyi`."""
        if message.to != self.id or message.sender == self.id or message.type != PROPOSE or not self.step_term(message):
            return
        if self.state == LEADER and message.sender in self.progress and message.context > self.taken.get(message.sender, 0):
            self.taken[message.sender] = message.context  # no repetition is: see step_propose
            self.answer_propose(message, why)

    cdef void answer_propose(self, Message message, int64_t refused):
        cdef Message answer = make_message(PROPOSE_RESPONSE, message.sender, self.id, self.term)
        answer.reject = True
        answer.context = message.context
        answer.hint_index = refused
        self.send(answer)

    cdef void step_propose(self, Message message):
        """Proposals of another member, each once. A refused one counts as taken: were its repetition taken later, the refusal had lied."""
        cdef int64_t refused
        cdef list items = []
        if message.context <= self.taken.get(message.sender, 0):
            return
        self.taken[message.sender] = message.context
        for run in message.runs:
            if run[2] != NORMAL:
                return
            items += run[3]
        refused = self.propose(items) if items else 0
        if refused < 0:
            self.answer_propose(message, refused)

    cdef void step_append_response(self, Progress progress, Message message):
        if message.reject:
            # Late rejections say nothing new: below what matched, or not of the probe that is out.
            if message.index <= progress.match:
                return
            if progress.state == CATCH_UP:
                if message.index < progress.next:  # of what was supplied since the last rejection
                    self.rewind(progress, message)
                    if not progress.leaving:
                        self.catch_ups.append((progress.id, progress.next))
                return
            if progress.state == PROBE and message.index != progress.probe_sent:
                return
            progress.become_probe()
            self.rewind(progress, message)
            self.send_append(progress, False)
            return
        if message.index > self.log.last():
            return  # no one can hold what this leader never sent
        if message.index > progress.match:
            progress.match = message.index
            progress.next = max(progress.next, progress.match + 1)
            if self.maybe_commit():
                self.broadcast_append()
        if progress.state == REPLICATE:
            progress.acknowledge(message.index)
        elif progress.state == PROBE or progress.match + 1 >= self.log.first:
            progress.become_replicate()
        if self.transferee != progress.id:
            if progress.state == PROBE or progress.next <= self.log.last() or progress.told < self.commit:
                progress.owed = self.owing = True
            return
        self.send_append(progress, progress.told < self.commit)
        if progress.match == self.log.last():
            self.send(make_message(TIMEOUT_NOW, progress.id, self.id, self.term))

    cdef void rewind(self, Progress progress, Message message):
        """Goes back to the last place where the logs could still agree."""
        cdef int64_t agreed = min(message.hint_index, message.index - 1)
        while agreed > progress.match and self.log.term_at(agreed) != NO_TERM and self.log.term_at(agreed) > message.hint_term:
            agreed -= 1
        progress.next = max(progress.match, agreed) + 1

    cdef void step_heartbeat(self, Message message):
        cdef Message answer
        if self.state != FOLLOWER or self.leader != message.sender:
            self.become_follower(message.term, message.sender)
        self.elapsed = 0
        self.set_commit(max(self.commit, min(message.commit, self.log.last())))
        answer = make_message(HEARTBEAT_RESPONSE, message.sender, self.id, self.term)
        answer.context = message.context
        answer.commit = self.commit
        self.send(answer)

    cdef void step_heartbeat_response(self, Progress progress, Message message):
        progress.paused = False
        if progress.match < self.log.last() or progress.state == PROBE:
            if progress.state == REPLICATE and progress.inflight:
                # Appends are unanswered: slow, or lost. A bare one behind them finds out: it is rejected if they never came.
                if self.log.term_at(progress.next - 1) == NO_TERM:
                    progress.become_probe()  # what it would follow was compacted away meanwhile
                else:
                    self.send(self.bare_append(progress))
            self.send_append(progress, False)
        for context, _, _, acknowledged in self.reads:
            if context <= message.context and progress.id in self.voters:
                acknowledged.add(progress.id)
        self.confirm_reads()

    cdef void confirm_reads(self):
        """Answers what a majority of the voters of now has confirmed."""
        cdef int64_t done = 0
        for context, _, _, acknowledged in self.reads:
            if len(acknowledged) >= self.quorum() and len(acknowledged & self.voters) >= self.quorum():
                done = context
        if done:  # a later round confirms the earlier ones too
            while self.reads and <int64_t>self.reads[0][0] <= done:
                _, index, contexts, _ = self.reads.pop(0)
                for context in contexts:
                    self.answer_read(context, index)

    cdef void step_read(self, Message message):
        if message.type == READ_INDEX_RESPONSE:
            if message.sender == self.leader:
                self.read_states.append((message.context, message.index))
        elif self.state == LEADER and message.sender in self.progress:
            self.start_read([(message.sender, message.context)])

    # -- output

    @property
    def has_ready(self):
        return self.has_news()

    cdef bint has_news(self):
        return (self.owing or self.log.last() > self.handed or self.term != self.saved_term or self.vote != self.saved_vote
                or min(self.commit, self.stable) > self.applying or len(self.now) or len(self.after) or len(self.read_states)
                or len(self.read_failures) or len(self.catch_ups) or len(self.refusals))

    def ready(self):
        """What the driver has to do now, or None; see `_kernel.pyi`."""
        cdef int64_t last = self.log.last(), stop
        cdef bint election = self.term != self.saved_term or self.vote != self.saved_vote
        cdef Ready ready
        if self.owing:
            self.send_owed()
        stop = min(self.commit, self.stable)
        if not self.has_news():
            return None
        ready = Ready.__new__(Ready)
        ready.entries = []
        if last > self.handed or election:
            self.batch += 1
            ready.batch = self.batch
            if election or self.commit != self.saved_commit:
                ready.hard_state = (self.term, self.vote, self.commit)
                self.saved_term = self.term
                self.saved_vote = self.vote
                self.saved_commit = self.commit
            if last > self.handed:
                ready.entries = self.log.runs(self.handed + 1, last + 1, last, INT64_MAX)
                self.handed = last
            self.outstanding.append((self.batch, last, self.saved_term, self.saved_vote))
        if self.after:
            # what they wait for is at the latest in the newest batch that was handed out
            for message in self.after:
                self.held.append((self.batch, message))
            self.after = []
        ready.messages, self.now = without_older_acks(self.now), []
        ready.read_states, self.read_states = self.read_states, []
        ready.read_failures, self.read_failures = self.read_failures, []
        ready.catch_ups, self.catch_ups = self.catch_ups, []
        ready.refusals, self.refusals = self.refusals, []
        ready.committed = []
        if stop > self.applying:
            ready.committed = self.log.runs(self.applying + 1, stop + 1, self.apply_entries_max, self.apply_bytes_max)
            self.applying = runs_last(ready.committed)
        return ready


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
