"""The contract of the Raft kernel: docs/raft.md tells the rules behind it."""

from collections.abc import Collection, Iterable

Run = tuple[int, int, int, list[bytes]]
"""(first index, term, kind, entries): neighbours of one term and kind. Kind: raftpb.EntryType, 0 normal, 1 configuration change."""

class KernelError(Exception):
    """The rules of Raft are broken (an entry below the commit index would change): the node must stop."""

class Message:
    """One message between two kernels. `type`: raftpb.MessageType (2 forwarded proposals, 3 append, 4 its response, 5 vote, 6, 8 heartbeat,
    9, 14 timeout now, 15 read index, 16, 17 pre-vote, 18), and 20, refused proposals. `runs`: the entries after `index`. `beat`, `echo`
    and `left_ms` are of the fence (store/fence.py), which may set them; the kernel never looks at them."""

    type: int
    to: int
    sender: int
    term: int
    index: int
    log_term: int
    commit: int
    hint_index: int
    hint_term: int
    context: int
    reject: bool
    runs: list[Run]
    beat: int
    echo: int
    left_ms: int
    def __init__(
        self,
        type: int,
        to: int,
        sender: int,
        term: int,
        *,
        index: int = 0,
        log_term: int = 0,
        commit: int = 0,
        hint_index: int = 0,
        hint_term: int = 0,
        context: int = 0,
        reject: bool = False,
        runs: list[Run] | None = None,
        beat: int = 0,
        echo: int = 0,
        left_ms: int = 0,
    ) -> None: ...

class Ready:
    """What the driver has to do, in this order; all of it is handed out once.

    1. `batch` != 0: write `hard_state` (term, vote, commit), if there is one, and `entries` as one batch; when it and all
       before it are synced, call `persisted(batch)`. An entry whose index was written before replaces that one and all after it.
    2. Send `messages`: nothing in them waits for a write that is not done. What does is kept inside and comes after `persisted`.
    3. Apply `committed`, in order, then call `advance`. They are durable here.
    4. `read_states` (context, index): serve when applied >= index. `read_failures`: contexts to refuse, leadership was lost.
    5. `catch_ups` (member, next index): it needs entries that are no longer in memory: `supply` log segments from that index on, or bring
       it a snapshot and say `probe`. A member that comes again did not hold what came before: go on from the new index.
    6. `refusals` (sequence, negative of `propose` or `refuse`): of what this member has forwarded; the leader never appended it, and never
       will.
    """

    batch: int
    hard_state: tuple[int, int, int] | None
    entries: list[Run]
    messages: list[Message]
    committed: list[Run]
    read_states: list[tuple[object, int]]
    read_failures: list[object]
    catch_ups: list[tuple[int, int]]
    refusals: list[tuple[int, int]]

class Kernel:
    """One member of a Raft group, without IO; see the module's text for the invariants."""

    id: int
    term: int
    vote: int
    leader: int
    """0 = none known."""
    transferee: int
    state: int
    """0 follower, 1 pre-candidate, 2 candidate, 3 leader."""
    commit: int
    applied: int
    stable: int
    """Last entry that is durable here, as far as `persisted` told."""
    uncommitted_bytes: int
    uncommitted_bytes_max: int
    apply_entries_max: int
    apply_bytes_max: int
    def __init__(
        self,
        member_id: int,
        *,
        voters: Collection[int],
        learners: Collection[int] = (),
        seed: int,
        term: int = 0,
        vote: int = 0,
        commit: int = 0,
        applied: int = 0,
        first_index: int = 1,
        base_term: int = 0,
        entries: Iterable[Run] = (),
        election_ticks_min: int = 10,
        election_ticks_max: int = 14,
        heartbeat_ticks: int = 1,
        quiet_heartbeat_ticks: int = 0,
        retry_ticks_max: int = 3,
        window_messages: int = 256,
        window_bytes: int = 64 << 20,
        message_bytes: int = 1 << 20,
        message_entries: int = 4096,
        uncommitted_bytes_max: int = 1 << 30,
        apply_entries_max: int = 1024,
        apply_bytes_max: int = 16 << 20,
    ) -> None:
        """A member as its disk left it: hard state, `applied` of the state machine, the configuration at `applied`, the log from
        `first_index` on (`base_term`: the term of the entry before); changes behind `applied` come into force on top. Election timeouts
        are drawn from [min, max] ticks; after a lost vote from [1, retry], after a split one from [(retry + 1) / 2, retry + 1], twice that
        each time until a leader is known; a first pre-vote is asked again as soon. A leader sends heartbeats every `heartbeat_ticks`, and
        every `quiet_heartbeat_ticks` (0 = the same) once there was nothing that one could hasten for the shortest election timeout. Without
        voters (one that is to join) it waits to be told. Raises KernelError if log and state do not fit, ValueError for ids of 0 and for a
        voter that is a learner too."""
    @property
    def first_index(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    @property
    def voter_ids(self) -> frozenset[int]:
        """In force: what the log says up to its last entry."""
    @property
    def learner_ids(self) -> frozenset[int]: ...
    @property
    def applied_members(self) -> tuple[frozenset[int], frozenset[int]]:
        """(voters, learners) at `applied`: what a snapshot of the state machine must say."""
    @property
    def committed_in_term(self) -> bool: ...
    def term_at(self, index: int) -> int:
        """-1 = not held in memory."""
    def matches(self) -> dict[int, tuple[int, int, int, bool]]:
        """Of a leader: {member: (match, next, progress state, heard since the last quorum check)}. Progress states: 0 probe, 1 replicate,
        2 catch-up. A removed member stays until it knows, or an election timeout has passed since the commit of its removal."""
    def tick(self) -> None: ...
    def step(self, message: Message) -> None: ...
    def refuse(self, message: Message, why: int) -> None:
        """In place of `step`: proposals that another member has forwarded, and that this leader's state machine does not want. They are
        never appended, and that member is told `why`, a negative number below those of `propose`."""
    def absorb(self, message: Message) -> bool:
        """Takes an ack or an answer to a heartbeat of a replicating member of this leader's own term, as `step` does: whether anything
        follows for others, `has_ready` says. False: it is something else, and was not taken."""
    def propose(self, items: list[bytes]) -> int:
        """Appends all in one go; the index of the first, or -1 no leader here, -2 leadership is moving, -3 too much is uncommitted."""
    def propose_change(self, change: bytes) -> int:
        """Appends a raftpb.ConfChange, which is in force at once; its index, or -1 to -3 as `propose`, -4 an earlier change is not applied
        yet, -5 nothing of this leader's own term is committed yet, -6 it makes no sense (unreadable, unknown member, no voter left)."""
    def forward(self, items: list[bytes], sequence: int) -> bool:
        """Sends `items` to the leader, to be proposed there in one go; False = none is known, or it is this member. `sequence` > 0 rises
        with every call, over restarts too (a time-based id does): a leader takes no lower one. May be lost. The same under the same
        sequence may be sent again in the same term, before any higher one: the leader takes it once."""
    def read_index(self, context: object) -> bool:
        """Asks for an index for a linearizable read; False = no leader known. A follower's context is an int. May be lost: ask again."""
    def persisted(self, batch: int) -> None: ...
    def advance(self, applied: int) -> None: ...
    def compact(self, index: int) -> None:
        """Forgets entries up to `index` <= applied from memory."""
    def transfer(self, member: int) -> bool: ...
    def probe(self, member: int) -> None:
        """The driver has brought `member` a snapshot, or gave up: the kernel asks the member what it holds, and comes again in `catch_ups`
        if it must. Without effect unless that is in catch-up. Nothing counts as acknowledged but what the member itself acknowledges."""
    def supply(self, member: int, runs: list[Run], *, prev_term: int) -> bool:
        """Sends entries of the log on disk to a member in catch-up, as one append; `prev_term`: the term of the entry before the first
        (0 before the very first). May be called again before the answer; `matches` tells how far the member is. Nobody repeats what is
        lost. False: the member is not in catch-up (any more). Raises ValueError for entries that are not of this log."""
    def install(self, index: int, term: int, voters: Collection[int], learners: Collection[int] = ()) -> bool:
        """A snapshot with the configuration at `index` is in force; False = what is committed here is newer."""
    @property
    def has_ready(self) -> bool:
        """Whether `ready` would return something."""
    def ready(self) -> Ready | None: ...
