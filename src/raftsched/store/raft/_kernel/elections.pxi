# Terms, votes and roles: who leads, who may, and for how long. Included by _kernel.pyx.

cdef void tick_leader(Kernel self):
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
    if heard < quorum(self):
        # Check-quorum (thesis §6.2): who has not heard a majority within the last election timeout is no leader any more.
        become_follower(self, self.term, 0)
        return
    forget_leaving(self)
    self.quiet_ticks = min(self.quiet_ticks + 1, self.election_ticks_min) if is_quiet(self) else 0
    if self.heartbeat_elapsed >= (self.quiet_heartbeat_ticks if self.quiet_ticks == self.election_ticks_min else self.heartbeat_ticks):
        self.heartbeat_elapsed = 0
        broadcast_heartbeat(self)


cdef bint is_quiet(Kernel self):
    """Whether a heartbeat could hasten nothing: no entry is new since the last tick or lacks anywhere, no read waits, and all have answered
    the last one. Who is late with that is asked more often again."""
    cdef Progress progress
    cdef int64_t last = self.log.last()
    cdef bint new = last != self.quiet_since
    self.quiet_since = last
    if new or self.commit != last or self.transferee or len(self.reads) or len(self.read_waiting):
        return False
    for progress in self.progress.values():
        if progress.state != REPLICATE or progress.match != last or progress.leaving or progress.silent > self.quiet_heartbeat_ticks:
            return False
    return True


cdef void become_follower(Kernel self, int64_t term, uint64_t leader):
    if term != self.term:
        self.term = term
        self.vote = 0
    if self.state == LEADER:
        self.progress = {}
        self.uncommitted_bytes = 0
        self.transferee = 0
    fail_reads(self)
    self.state = FOLLOWER
    self.leader = leader
    if leader:
        self.attempts = 0
    self.elapsed = 0
    self.timeout = pick_timeout(self, self.election_ticks_min, self.election_ticks_max)


cdef int pick_timeout(Kernel self, int low, int high) noexcept:
    # splitmix64: small, and good enough to keep members from campaigning in step
    cdef uint64_t z
    self.random_state += <uint64_t>0x9E3779B97F4A7C15
    z = self.random_state
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    z = z ^ (z >> 31)
    return low + <int>(z % <uint64_t>(high - low + 1))


cdef int pick_retry(Kernel self) noexcept:
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
    return low + rank + count * pick_timeout(self, 0, (room - rank) // count)


cdef int quorum(Kernel self) noexcept:
    return <int>len(self.voters) // 2 + 1


cdef void campaign(Kernel self, bint real, bint forced):
    """First asks (pre-vote, thesis §9.6) whether an election could be won; only the real one raises the term."""
    cdef Message message
    cdef int64_t last = self.log.last()
    fail_reads(self)
    self.leader = 0
    self.elapsed = 0
    self.votes = {self.id: True} if self.id in self.voters else {}
    if real:
        self.timeout = pick_timeout(self, self.election_ticks_min, self.election_ticks_max)
        self.state = CANDIDATE
        self.term += 1
        self.vote = self.id
    else:
        # Who hears a leader does not answer, and may not hear it a moment later: asked again soon, once. More would crowd a network.
        self.attempts += 1
        if self.attempts == 1:
            self.timeout = pick_retry(self)
        else:
            self.timeout = pick_timeout(self, self.election_ticks_min, self.election_ticks_max)
        self.state = PRE_CANDIDATE
    for member in sorted(self.voters):
        if member != self.id:
            message = make_message(VOTE if real else PRE_VOTE, member, self.id, self.term if real else self.term + 1)
            message.index = last
            message.log_term = self.log.term_at(last)
            message.context = forced
            send(self, message)
    count_votes(self, real)


cdef void count_votes(Kernel self, bint real):
    cdef int granted = 0
    for member, vote in self.votes.items():
        if vote and member in self.voters:
            granted += 1
    if granted >= quorum(self):
        if not real:
            campaign(self, True, False)
        else:
            become_leader(self)
    elif len(self.votes) - granted >= quorum(self) or len(self.votes) == len(self.voters):
        # Lost or split: not worth an election timeout of waiting.
        self.state = FOLLOWER
        self.elapsed = 0
        self.timeout = pick_timeout(self, 1, self.retry_ticks_max)
    elif real and len(self.votes) >= quorum(self):
        # Split, and who has not answered may be gone. Not before a majority has: each vote needs a sync, perhaps of a slow disk.
        self.timeout = min(self.timeout, self.elapsed + pick_retry(self))


cdef void become_leader(Kernel self):
    self.state = LEADER
    self.leader = self.id
    self.attempts = 0
    self.elapsed = 0
    self.heartbeat_elapsed = 0
    self.quiet_ticks = 0
    self.quiet_since = 0
    self.progress = {}
    self.taken = {}
    for member in sorted(self.voters | self.configuration.learners):
        if member != self.id:
            begin_progress(self, member)
    self.uncommitted_bytes = self.log.size_bytes(self.commit + 1, self.log.last() + 1)
    self.log.append([b""], self.term, NORMAL)  # thesis §6.4: commits what older terms left behind
    broadcast_append(self)


cdef bint step_term(Kernel self, Message message):
    """True if the message is of the present term (or a pre-vote), False if it needs no more attention."""
    cdef Message answer
    if message.term > self.term:
        if message.type == VOTE or message.type == PRE_VOTE:
            # Who hears a leader helps nobody to depose it (thesis §4.2.3), unless that leader asked for it.
            if not message.context and self.leader != 0 and self.elapsed < self.election_ticks_min:
                return False
        if message.type == PRE_VOTE or (message.type == PRE_VOTE_RESPONSE and not message.reject):
            return True
        become_follower(self, message.term, message.sender if message.type in (APPEND, HEARTBEAT) else 0)
    elif message.term < self.term:
        if message.type == APPEND or message.type == HEARTBEAT:
            answer = make_message(APPEND_RESPONSE, message.sender, self.id, self.term)
            answer.reject = True
            send(self, answer)  # a deposed leader learns of it
        elif message.type == PRE_VOTE or message.type == VOTE:
            answer = make_message(PRE_VOTE_RESPONSE if message.type == PRE_VOTE else VOTE_RESPONSE, message.sender, self.id, self.term)
            answer.reject = True
            send(self, answer)
        return False
    return True


cdef void step_vote(Kernel self, Message message):
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
    send(self, answer)
