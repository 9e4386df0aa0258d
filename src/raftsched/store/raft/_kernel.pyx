"""The Raft kernel: elections, log replication, commit and read index, without any IO.

Inputs: `tick`, `step(message)`, `propose`, `read_index`, `persisted(batch)`, `advance(applied)`. Output: `ready()`. The same inputs in the
same order give the same outputs: chance comes from a seed, time is counted in ticks.

Invariants: `applied <= applying <= min(commit, stable)`; an entry at or below `commit` is never replaced; a message whose truth depends on
a write leaves only after the driver has said `persisted` for it, so the driver cannot send one too early.
Must not know: clocks, disks, sockets, what an entry means.

Reference for the behaviour: Ongaro's thesis (chapters 3, 4, 6, 9.6), etcd's raft library; docs/raft.md tells where this one differs.
"""
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove, memset

include "_kernel/types.pxi"
include "_kernel/log.pxi"
include "_kernel/progress.pxi"


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
        if member_id == 0 or 0 in voters:
            raise ValueError("0 is no member id")
        if not 0 < heartbeat_ticks < election_ticks_min <= election_ticks_max:
            raise ValueError("heartbeat_ticks < election_ticks_min <= election_ticks_max is needed")
        self.id = member_id
        self.voters = frozenset(voters)
        self.learners = frozenset(learners)
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
        return self.learners

    def term_at(self, int64_t index):
        return self.log.term_at(index)

    @property
    def committed_in_term(self):
        """True once a leader has committed an entry of its own term: only then its commit index is up to date (thesis §6.4)."""
        return self.state == LEADER and self.log.term_at(self.commit) == self.term

    def matches(self):
        """Of a leader: {member: (match, next, state, recently active)}."""
        cdef Progress one
        found = {}
        for member, progress in self.progress.items():
            one = <Progress>progress
            found[member] = (one.match, one.next, one.state, one.active)
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
        if self.id in self.voters and (self.elapsed >= self.timeout or len(self.voters) == 1):
            self.campaign(False, False)

    cdef void tick_leader(self):
        cdef Progress progress
        cdef int active = 1 if self.id in self.voters else 0
        self.elapsed += 1
        self.heartbeat_elapsed += 1
        if self.elapsed >= self.election_ticks_min:
            # Check-quorum (thesis §6.2): who heard no majority for an election timeout is no leader any more.
            self.elapsed = 0
            self.transferee = 0
            for member in self.voters:
                if member != self.id:
                    progress = <Progress>self.progress[member]
                    active += progress.active
            for progress in self.progress.values():
                progress.active = False
            if active < self.quorum():
                self.become_follower(self.term, 0)
                return
        if self.heartbeat_elapsed >= self.heartbeat_ticks:
            self.heartbeat_elapsed = 0
            self.broadcast_heartbeat()

    def propose(self, list items, int kind=NORMAL):
        """Appends `items` in one go; the index of the first, or -1 no leader here, -2 leadership is moving, -3 too much is uncommitted."""
        cdef int64_t size = 0, first = self.log.last() + 1
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
        self.log.append(items, self.term, kind)
        self.uncommitted_bytes += size
        if self.progress:
            self.broadcast_append()
        return first

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
        self.send_append(progress, False)

    def install(self, int64_t index, int64_t term, voters, learners=()):
        """A snapshot up to (index, term) is on disk and its state is in force: the only way a snapshot moves commit.

        Keeps the log if it holds that very entry. False: the snapshot is older than what is committed here.
        """
        if index <= self.commit:
            return False
        if self.log.term_at(index) != term:
            self.restore_log((), index + 1, term)
            self.outstanding = [(batch, min(last, index), hard_term, vote) for batch, last, hard_term, vote in self.outstanding]
        self.commit = self.applied = self.applying = index
        self.stable = max(self.stable, index)
        self.handed = max(self.handed, index)
        self.voters = frozenset(voters)
        self.learners = frozenset(learners)
        return True

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
        self.elapsed = 0
        self.timeout = self.pick_timeout(self.election_ticks_min, self.election_ticks_max)

    cdef void campaign(self, bint real, bint forced):
        """First asks (pre-vote, thesis §9.6) whether an election could be won; only the real one raises the term."""
        cdef Message message
        cdef int64_t last = self.log.last()
        self.fail_reads()
        self.leader = 0
        self.elapsed = 0
        self.timeout = self.pick_timeout(self.election_ticks_min, self.election_ticks_max)
        self.votes = {self.id: True}
        if real:
            self.state = CANDIDATE
            self.term += 1
            self.vote = self.id
        else:
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

    cdef void become_leader(self):
        cdef Progress progress
        self.state = LEADER
        self.leader = self.id
        self.elapsed = 0
        self.heartbeat_elapsed = 0
        self.progress = {}
        for member in sorted(self.voters | self.learners):
            if member != self.id:
                progress = Progress()
                progress.id = member
                progress.next = self.log.last() + 1
                progress.active = True
                progress.learner = member in self.learners
                self.progress[member] = progress
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
        for progress in self.progress.values():
            self.send_append(<Progress>progress, True)

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
                self.catch_ups.append((progress.id, progress.next))
                return
            message = self.bare_append(progress)
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
        self.reads.append((self.read_context, self.commit, contexts, {self.id}))
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
        elif self.state == LEADER:
            self.step_leader(message)

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
                self.log.append(items[skip:] if skip else items, term, kind)
                index += len(items) - skip
        return index - message.index

    cdef int truncate(self, int64_t index) except -1:
        """Cuts the log from `index` on. Why writes under way are clamped: a write of (10, term 1) that completes after 10 was replaced by
        term 2 and then by term 1 again says nothing about the third version, although index and term look the same."""
        if index <= self.commit:
            raise KernelError(f"entry {index} would change, but {self.commit} is committed")
        self.log.truncate(index)
        self.stable = min(self.stable, index - 1)
        self.handed = min(self.handed, index - 1)
        self.outstanding = [(batch, min(last, index - 1), term, vote) for batch, last, term, vote in self.outstanding]
        return 0

    cdef void step_leader(self, Message message):
        cdef Progress progress = self.progress.get(message.sender)
        if progress is None:
            return
        progress.active = True
        if message.type == APPEND_RESPONSE:
            self.step_append_response(progress, message)
        elif message.type == HEARTBEAT_RESPONSE:
            self.step_heartbeat_response(progress, message)

    cdef void step_append_response(self, Progress progress, Message message):
        cdef int64_t agreed
        if message.reject:
            # Late rejections say nothing new: below what matched, or not of the probe that is out.
            if message.index <= progress.match or progress.state == CATCH_UP:
                return
            if progress.state == PROBE and message.index != progress.probe_sent:
                return
            agreed = min(message.hint_index, message.index - 1)
            while agreed > progress.match and self.log.term_at(agreed) != NO_TERM and self.log.term_at(agreed) > message.hint_term:
                agreed -= 1
            progress.become_probe()
            progress.next = max(progress.match, agreed) + 1
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
        self.send_append(progress, False)
        if self.transferee == progress.id and progress.match == self.log.last():
            self.send(make_message(TIMEOUT_NOW, progress.id, self.id, self.term))

    cdef void step_heartbeat(self, Message message):
        cdef Message answer
        if self.state != FOLLOWER or self.leader != message.sender:
            self.become_follower(message.term, message.sender)
        self.elapsed = 0
        self.set_commit(max(self.commit, min(message.commit, self.log.last())))
        answer = make_message(HEARTBEAT_RESPONSE, message.sender, self.id, self.term)
        answer.context = message.context
        self.send(answer)

    cdef void step_heartbeat_response(self, Progress progress, Message message):
        cdef int64_t done = 0
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
            if len(acknowledged) >= self.quorum():
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

    def ready(self):
        """What the driver has to do now, or None; see `_kernel.pyi`."""
        cdef int64_t last = self.log.last(), stop
        cdef bint election = self.term != self.saved_term or self.vote != self.saved_vote
        cdef Ready ready
        stop = min(self.commit, self.stable)
        if not (last > self.handed or election or self.now or self.after or stop > self.applying or self.read_states
                or self.read_failures or self.catch_ups):
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
        ready.messages, self.now = self.now, []
        ready.read_states, self.read_states = self.read_states, []
        ready.read_failures, self.read_failures = self.read_failures, []
        ready.catch_ups, self.catch_ups = self.catch_ups, []
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


cdef int64_t runs_last(list runs):
    cdef tuple run = <tuple>runs[len(runs) - 1]
    return <int64_t>run[0] + len(<list>run[3]) - 1


cdef int64_t run_bytes(list runs):
    cdef int64_t size = 0
    for _, _, _, items in runs:
        for item in items:
            size += PyBytes_GET_SIZE(item)
    return size
