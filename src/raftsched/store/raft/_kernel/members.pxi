# Changes of the members while they are in the log: in force, told, gone. Included by _kernel.pyx.

cdef int adopt(Kernel self, int64_t index, list items) except -1:
    """The changes at `index` ... come into force."""
    for item in items:
        self.configuration.append(index, item)
        index += 1
    self.voters = self.configuration.voters
    return 0


cdef int adopt_from_log(Kernel self, int64_t index) except -1:
    """All changes that the log holds from `index` on."""
    while (index := self.log.find_change(index)):
        adopt(self, index, [self.log.data[index - self.log.first]])
        index += 1
    return 0


cdef int reconfigured(Kernel self) except -1:
    """Of a leader whose configuration has just changed: whom to tell, and what the new majority says about commit and reads."""
    cdef frozenset members = self.voters | self.configuration.learners
    cdef Progress progress
    for member in sorted(members):
        if member != self.id and member not in self.progress:
            begin_progress(self, member)
    for progress in self.progress.values():
        if progress.id in members:
            progress.leaving = 0
        elif progress.leaving == 0:
            progress.leaving = self.log.last()
            progress.leaving_ticks = 0
    maybe_commit(self)
    broadcast_append(self)
    confirm_reads(self)
    return 0


cdef Progress begin_progress(Kernel self, uint64_t member):
    cdef Progress progress = Progress()
    progress.id = member
    progress.next = self.log.last() + 1
    self.progress[member] = progress
    return progress


cdef int forget_leaving(Kernel self) except -1:
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


cdef int hand_over(Kernel self) except -1:
    """The entry that removes this leader is applied: it goes, and names the voter that has the longest log."""
    cdef Progress progress, best = None
    for progress in self.progress.values():
        if progress.id in self.voters and (best is None or progress.match > best.match):
            best = progress
    if best is not None:
        send(self, make_message(TIMEOUT_NOW, best.id, self.id, self.term))
    become_follower(self, self.term, 0)
    return 0
