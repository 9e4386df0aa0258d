# At which index a linearizable read may be served (thesis §6.4). Included by _kernel.pyx.

cdef void start_read(Kernel self, list contexts):
    if self.log.term_at(self.commit) != self.term:
        self.read_waiting.extend(contexts)  # what older terms committed is not known yet
        return
    if len(self.voters) == 1 and self.id in self.voters:
        for context in contexts:
            answer_read(self, context, self.commit)
        return
    self.read_context += 1
    self.reads.append((self.read_context, self.commit, contexts, {self.id} if self.id in self.voters else set()))
    broadcast_heartbeat(self)


cdef void answer_read(Kernel self, object context, int64_t index):
    cdef Message message
    if isinstance(context, tuple):  # asked by another member
        message = make_message(READ_INDEX_RESPONSE, context[0], self.id, self.term)
        message.context = context[1]
        message.index = index
        send(self, message)
    else:
        self.read_states.append((context, index))


cdef void fail_reads(Kernel self):
    for _, _, contexts, _ in self.reads:
        self.read_failures.extend(contexts)
    self.read_failures.extend(self.read_waiting)
    self.reads = []
    self.read_waiting = []


cdef void confirm_reads(Kernel self):
    """Answers what a majority of the voters of now has confirmed."""
    cdef int64_t done = 0
    for context, _, _, acknowledged in self.reads:
        if len(acknowledged) >= quorum(self) and len(acknowledged & self.voters) >= quorum(self):
            done = context
    if done:  # a later round confirms the earlier ones too
        while self.reads and <int64_t>self.reads[0][0] <= done:
            _, index, contexts, _ = self.reads.pop(0)
            for context in contexts:
                answer_read(self, context, index)


cdef void step_read(Kernel self, Message message):
    if message.type == READ_INDEX_RESPONSE:
        if message.sender == self.leader:
            self.read_states.append((message.context, message.index))
    elif self.state == LEADER and message.sender in self.progress:
        start_read(self, [(message.sender, message.context)])
