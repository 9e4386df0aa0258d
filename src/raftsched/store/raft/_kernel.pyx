"""The Raft kernel: elections, log replication, commit and read index, without any IO.

Inputs: `tick`, `step(message)`, `propose`, `propose_change`, `forward`, `read_index`, `persisted(batch)`, `advance(applied)`, `supply`.
Output: `ready()`. The same inputs in the same order give the same outputs: chance comes from a seed, time is counted in ticks.

Invariants: `applied <= applying <= min(commit, stable)`; an entry at or below `commit` is never replaced; a message whose truth depends on
a write leaves only after the driver has said `persisted` for it, so the driver cannot send one too early; the configuration in force is
the one at `applied` and every change in the log behind it.
What may be asked stands here; what follows from it in `_kernel/*.pxi`: elections, replication, reads, changes of the members.
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
                 int election_ticks_max=14, int heartbeat_ticks=1, int quiet_heartbeat_ticks=0, int retry_ticks_max=3,
                 int window_messages=256, int64_t window_bytes=64 << 20, int64_t message_bytes=1 << 20, Py_ssize_t message_entries=4096,
                 int64_t uncommitted_bytes_max=1 << 30, Py_ssize_t apply_entries_max=1024, int64_t apply_bytes_max=16 << 20):
        if member_id == 0:
            raise ValueError("0 is no member id")
        quiet_heartbeat_ticks = quiet_heartbeat_ticks or heartbeat_ticks
        if not 0 < heartbeat_ticks <= quiet_heartbeat_ticks < election_ticks_min <= election_ticks_max:
            raise ValueError("heartbeat_ticks <= quiet_heartbeat_ticks < election_ticks_min <= election_ticks_max is needed")
        self.id = member_id
        self.configuration = Configuration(voters, learners)
        self.voters = self.configuration.voters
        self.random_state = seed
        self.election_ticks_min = election_ticks_min
        self.election_ticks_max = election_ticks_max
        self.heartbeat_ticks = heartbeat_ticks
        self.quiet_heartbeat_ticks = quiet_heartbeat_ticks
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
        adopt_from_log(self, applied + 1)
        self.timeout = pick_timeout(self, election_ticks_min, election_ticks_max)

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

    # -- inputs

    def tick(self):
        """One tick of the driver's clock; a lone voter becomes leader in its first."""
        if self.state == LEADER:
            tick_leader(self)
            return
        self.elapsed += 1
        if self.id in self.voters:
            if self.elapsed >= self.timeout or len(self.voters) == 1:
                campaign(self, False, False)
        elif self.elapsed >= self.timeout and self.configuration.changes and self.configuration.voted_before(self.id, self.commit):
            # Of two voters one has removed itself and died before the other heard of it. Nobody else can be elected, since
            # its log is the longer one: it leads once more, without a vote of its own, until the change is committed.
            campaign(self, False, False)

    def propose(self, list items):
        """Appends `items` in one go; the index of the first, or -1 no leader here, -2 leadership is moving, -3 too much is uncommitted."""
        cdef int64_t refused = self.admit(items), first
        if refused:
            return refused
        first = self.append_own(items, NORMAL)
        if self.progress:
            broadcast_append(self)
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
        adopt(self, index, [change])
        reconfigured(self)
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
        send(self, message)
        return True

    def read_index(self, context):
        """Asks for an index at which a linearizable read may be served: it comes as a read state, or `context` as a read failure.

        False: no leader is known. A follower's context must be an integer, since it travels.
        """
        cdef Message message
        if self.state == LEADER:
            start_read(self, [context])
            return True
        if self.leader == 0:
            return False
        message = make_message(READ_INDEX, self.leader, self.id, self.term)
        message.context = context
        send(self, message)
        return True

    def persisted(self, int64_t batch):
        """The driver has synced every batch up to `batch`."""
        cdef int64_t last = -1
        while self.outstanding and <int64_t>self.outstanding[0][0] <= batch:
            _, last_index, term, vote = self.outstanding.pop(0)
            last = last_index
            self.durable_term = term
            self.durable_vote = vote
            if last > self.stable:
                self.stable = last
        if batch > self.durable_batch:
            self.durable_batch = batch
        release(self)
        if self.state == LEADER and maybe_commit(self):
            broadcast_append(self)

    def advance(self, int64_t applied):
        """Everything up to `applied` has been applied."""
        if applied > self.applying or applied < self.applied:
            raise KernelError(f"applied {applied} is not within {self.applied}..{self.applying}")
        self.applied = applied
        if self.configuration.changes:
            self.configuration.settle(applied)
            if self.state == LEADER and not self.configuration.changes and self.id not in self.voters:
                hand_over(self)

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
            send(self, make_message(TIMEOUT_NOW, member, self.id, self.term))
        else:
            send_append(self, progress, False)
        return True

    def probe(self, uint64_t member):
        """The driver does no more for a member in state CATCH_UP: what it holds by now it says itself; see `_kernel.pyi`."""
        cdef Progress progress = self.progress.get(member)
        if progress is None or progress.state != CATCH_UP:
            return
        progress.become_probe()
        if self.log.term_at(progress.next - 1) == NO_TERM:
            progress.next = self.log.last() + 1  # its refusal tells where it is by now: maybe further than anybody here knows
        send_append(self, progress, False)

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
        send(self, message)
        return True

    def install(self, int64_t index, int64_t term, voters, learners=()):
        """A snapshot up to (index, term) is on disk and its state is in force: the only way a snapshot moves commit.

        Keeps the log if it holds that very entry. False: the snapshot is older than what is committed here.
        """
        if index <= self.commit:
            return False
        if self.state != FOLLOWER:
            become_follower(self, self.term, 0)  # there is a newer leader: what this one believed of its log and of others is void
        if self.log.term_at(index) != term:
            self.restore_log((), index + 1, term)
            self.outstanding = [(batch, min(last, index), hard_term, vote) for batch, last, hard_term, vote in self.outstanding]
        self.commit = self.applied = self.applying = index
        self.stable = max(self.stable, index)
        self.handed = max(self.handed, index)
        self.configuration = Configuration(voters, learners)
        self.voters = self.configuration.voters
        adopt_from_log(self, index + 1)
        return True

    # -- messages

    def step(self, Message message):
        """Takes a message of another member; the driver has checked that its sender is who it says."""
        if message.to != self.id or message.sender == self.id or not well_formed(message):
            return
        if not step_term(self, message):
            return
        if message.type == VOTE or message.type == PRE_VOTE:
            step_vote(self, message)
        elif message.type == APPEND:
            step_append(self, message)
        elif message.type == HEARTBEAT:
            step_heartbeat(self, message)
        elif message.type == VOTE_RESPONSE or message.type == PRE_VOTE_RESPONSE:
            if self.state == (CANDIDATE if message.type == VOTE_RESPONSE else PRE_CANDIDATE) and message.sender in self.voters:
                self.votes.setdefault(message.sender, not message.reject)
                count_votes(self, message.type == VOTE_RESPONSE)
        elif message.type == TIMEOUT_NOW:
            if self.id in self.voters and self.state == FOLLOWER:
                campaign(self, True, True)
        elif message.type == READ_INDEX or message.type == READ_INDEX_RESPONSE:
            step_read(self, message)
        elif message.type == PROPOSE_RESPONSE:
            if message.reject and message.sender == self.leader:
                self.refusals.append((message.context, message.hint_index))
        elif self.state == LEADER:
            step_leader(self, message)

    def absorb(self, Message message):
        """Takes an ack, or an answer to a heartbeat, of a replicating member in the own term: see `_kernel.pyi`."""
        cdef Progress progress
        if message.type != APPEND_RESPONSE and message.type != HEARTBEAT_RESPONSE:
            return False
        if self.state != LEADER or message.reject or message.term != self.term or message.to != self.id:
            return False
        progress = self.progress.get(message.sender)
        if progress is None or progress.state != REPLICATE or progress.leaving:
            return False
        self.step(message)
        return True

    def refuse(self, Message message, int64_t why):
        """In place of `step`: a forwarded proposal that the state machine does not want; see `_kernel.pyi`."""
        if message.to != self.id or message.sender == self.id or message.type != PROPOSE or not step_term(self, message):
            return
        if self.state == LEADER and message.sender in self.progress and message.context > self.taken.get(message.sender, 0):
            self.taken[message.sender] = message.context  # no repetition is: see step_propose
            self.answer_propose(message, why)

    cdef void answer_propose(self, Message message, int64_t refused):
        cdef Message answer = make_message(PROPOSE_RESPONSE, message.sender, self.id, self.term)
        answer.reject = True
        answer.context = message.context
        answer.hint_index = refused
        send(self, answer)

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
            send_owed(self)
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
            release(self)  # that write may be done already, and another never come
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


include "_kernel/elections.pxi"
include "_kernel/replication.pxi"
include "_kernel/read_index.pxi"
include "_kernel/members.pxi"
