# From the leader's log to the others' and back: what is sent when, what is stored, what is committed. Included by _kernel.pyx.

cdef void send(Kernel self, Message message):
    """Decides what a message waits for: a claim about what is stored waits for the write that stores it."""
    cdef bint wait = self.durable_term != self.term or self.durable_vote != self.vote
    if message.type == APPEND_RESPONSE and not message.reject:
        wait = wait or message.index > self.stable
    elif message.type == PRE_VOTE:
        wait = False  # promises nothing
    elif message.type == PROPOSE and not wait and queued_behind(self, message):
        return
    if wait:
        self.after.append(message)
    else:
        self.now.append(message)


cdef bint queued_behind(Kernel self, Message message):
    """Lets a forwarded proposal wait as long as those of its term that wait already, and no longer; False = there are none.

    Why: their numbers rise, and the leader takes whatever comes behind a higher one for a repetition.
    """
    for other in self.after:
        if (<Message>other).type == PROPOSE and (<Message>other).term == message.term:
            self.after.append(message)
            return True
    for batch, other in reversed(self.held):
        if (<Message>other).type == PROPOSE and (<Message>other).term == message.term:
            self.held.append((batch, message))  # the next batch may be of much later
            return True
    return False


cdef void release(Kernel self):
    """What waited for writes that are done may leave, in its order."""
    cdef list still = []
    for wait, message in self.held:
        if wait > self.durable_batch:
            still.append((wait, message))
        elif (<Message>message).term == self.term or (<Message>message).type in (PRE_VOTE, PRE_VOTE_RESPONSE):
            self.now.append(message)  # what was said in an older term is of no use to anyone
    self.held = still


cdef void broadcast_append(Kernel self):
    """Entries, a commit index, or both: all that is news to a member between two `ready` goes in one APPEND."""
    self.owing = True
    for progress in self.progress.values():
        (<Progress>progress).owed = True


cdef void send_owed(Kernel self):
    cdef Progress progress
    self.owing = False
    for progress in self.progress.values():
        if progress.owed:
            progress.owed = False
            send_append(self, progress, progress.told < self.commit)


cdef void broadcast_heartbeat(Kernel self):
    cdef Message message
    cdef Progress progress
    for progress in self.progress.values():
        message = make_message(HEARTBEAT, progress.id, self.id, self.term)
        # never beyond what this member is known to hold: its tail may differ (thesis §3.5)
        message.commit = min(progress.match, self.commit)
        message.context = self.read_context
        send(self, message)
        progress.paused = False


cdef void send_append(Kernel self, Progress progress, bint empty):
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
        message = bare_append(self, progress)
        progress.told = self.commit
        if progress.next <= last:
            message.runs = self.log.runs(progress.next, last + 1, self.message_entries, self.message_bytes)
        send(self, message)
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


cdef Message bare_append(Kernel self, Progress progress):
    cdef Message message = make_message(APPEND, progress.id, self.id, self.term)
    message.index = progress.next - 1
    message.log_term = self.log.term_at(message.index)
    message.commit = self.commit
    return message


cdef bint maybe_commit(Kernel self):
    """Counts who stores what; the leader itself only up to what it has synced (thesis §10.2.1). Own term only (§3.6.2)."""
    cdef list matches = []
    cdef int64_t index
    for member in self.voters:
        matches.append(self.stable if member == self.id else (<Progress>self.progress[member]).match)
    matches.sort(reverse=True)
    index = matches[quorum(self) - 1]
    if index <= self.commit or self.log.term_at(index) != self.term:
        return False
    set_commit(self, index)
    if self.read_waiting:
        waiting, self.read_waiting = self.read_waiting, []
        start_read(self, waiting)
    return True


cdef void set_commit(Kernel self, int64_t index) noexcept:
    if self.state == LEADER:
        self.uncommitted_bytes -= self.log.size_bytes(self.commit + 1, index + 1)
    self.commit = index


cdef void step_append(Kernel self, Message message):
    cdef Message answer
    cdef int64_t hint
    if self.state != FOLLOWER or self.leader != message.sender:
        become_follower(self, message.term, message.sender)
    self.elapsed = 0
    answer = make_message(APPEND_RESPONSE, message.sender, self.id, self.term)
    if message.index < self.commit:
        answer.index = self.commit  # committed entries agree by themselves
    elif self.log.term_at(message.index) == message.log_term:
        answer.index = message.index + accept_entries(self, message)
        # never "my last index": a tail beyond this message has not been compared
        set_commit(self, max(self.commit, min(message.commit, answer.index)))
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
    send(self, answer)


cdef int accept_entries(Kernel self, Message message) except -1:
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
                truncate(self, index + 1)
            if skip:
                items = items[skip:]
            self.log.append(items, term, kind)
            if kind == CONF_CHANGE:
                adopt(self, index + 1, items)
            index += len(items)
    return index - message.index


cdef int truncate(Kernel self, int64_t index) except -1:
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


cdef void step_leader(Kernel self, Message message):
    cdef Progress progress = self.progress.get(message.sender)
    if progress is None:
        return
    progress.silent = 0
    if message.type == APPEND_RESPONSE:
        step_append_response(self, progress, message)
    elif message.type == HEARTBEAT_RESPONSE:
        step_heartbeat_response(self, progress, message)
    elif message.type == PROPOSE:
        self.step_propose(message)
        return
    if progress.leaving and message.commit >= progress.leaving and self.progress.get(message.sender) is progress:
        del self.progress[message.sender]  # it knows


cdef void step_append_response(Kernel self, Progress progress, Message message):
    if message.reject:
        # Late rejections say nothing new: below what matched, or not of the probe that is out.
        if message.index <= progress.match:
            return
        if progress.state == CATCH_UP:
            if message.index < progress.next:  # of what was supplied since the last rejection
                rewind(self, progress, message)
                if not progress.leaving:
                    self.catch_ups.append((progress.id, progress.next))
            return
        if progress.state == PROBE and message.index != progress.probe_sent:
            return
        progress.become_probe()
        rewind(self, progress, message)
        send_append(self, progress, False)
        return
    if message.index > self.log.last():
        return  # no one can hold what this leader never sent
    if message.index > progress.match:
        progress.match = message.index
        progress.next = max(progress.next, progress.match + 1)
        if maybe_commit(self):
            broadcast_append(self)
    if progress.state == REPLICATE:
        progress.acknowledge(message.index)
    elif progress.state == PROBE or progress.match + 1 >= self.log.first:
        progress.become_replicate()
    if self.transferee != progress.id:
        if progress.state == PROBE or progress.next <= self.log.last() or progress.told < self.commit:
            progress.owed = self.owing = True
        return
    send_append(self, progress, progress.told < self.commit)
    if progress.match == self.log.last():
        send(self, make_message(TIMEOUT_NOW, progress.id, self.id, self.term))


cdef void rewind(Kernel self, Progress progress, Message message):
    """Goes back to the last place where the logs could still agree."""
    cdef int64_t agreed = min(message.hint_index, message.index - 1)
    while agreed > progress.match and self.log.term_at(agreed) != NO_TERM and self.log.term_at(agreed) > message.hint_term:
        agreed -= 1
    progress.next = max(progress.match, agreed) + 1


cdef void step_heartbeat(Kernel self, Message message):
    cdef Message answer
    if self.state != FOLLOWER or self.leader != message.sender:
        become_follower(self, message.term, message.sender)
    self.elapsed = 0
    set_commit(self, max(self.commit, min(message.commit, self.log.last())))
    answer = make_message(HEARTBEAT_RESPONSE, message.sender, self.id, self.term)
    answer.context = message.context
    answer.commit = self.commit
    send(self, answer)


cdef void step_heartbeat_response(Kernel self, Progress progress, Message message):
    progress.paused = False
    if progress.match < self.log.last() or progress.state == PROBE:
        if progress.state == REPLICATE and progress.inflight:
            # Appends are unanswered: slow, or lost. A bare one behind them finds out: it is rejected if they never came.
            if self.log.term_at(progress.next - 1) == NO_TERM:
                progress.become_probe()  # what it would follow was compacted away meanwhile
            else:
                send(self, bare_append(self, progress))
        send_append(self, progress, False)
    for context, _, _, acknowledged in self.reads:
        if context <= message.context and progress.id in self.voters:
            acknowledged.add(progress.id)
    confirm_reads(self)
