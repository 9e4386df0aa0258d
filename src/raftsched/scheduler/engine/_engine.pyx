"""The engine: every job of the store as one native record, from its change to its tick to its committed result.

Invariant: a job has at most one open run; a result is committed only under the ModRevisions of job and counter that its fire
saw; the record says what the store says, because only the change list writes into it.
Must not know: clocks (`now_ms` is an argument), sockets, asyncio, how the store is reached. Records are read through a callable
that answers at once.

Parts: `_engine/ticks.pxi` when is the next tick; `_engine/changes.pxi` what the store says; `_engine/firing.pxi` due jobs and
their way to a stream; `_engine/results.pxi` acks and commits; `_engine/held.pxi` what may not fire; `_engine/misfires.pxi` missed ticks;
`_engine/further.pxi` what is stored with a result; `_engine/lateness.pxi` how late each step is;
`_engine/extended.pxi` schedules of the extended dialect; `_engine/retries.pxi` retry ladders and last errors;
`_engine/history.pxi` the last runs; `_engine/events.pxi` what happens to jobs.
"""
from collections import OrderedDict

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from libc.stdint cimport UINT32_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memcmp, memcpy, memset

from raftsched._core cimport ExtendedTable, TimerWheel
from raftsched.scheduler.delivery._delivery cimport (
    PLACE_GATED, PLACE_NONE, PLACE_QUEUED, PLACE_SENT, PLACE_STAGED, RUN_NONE, Delivery, Route, StreamState, ids_put, ids_take,
    ring_first, run_at, run_free, run_new, run_set_name, run_t,
)
from raftsched.scheduler.jobs._stored cimport (
    BEGIN_DUE, BRANCH_COUNTER, BRANCH_FINISH, BRANCH_ORPHAN, BRANCH_RAN, BRANCH_STRAY, BRANCH_STRAY_RUN, COUNTERS_PREFIX,
    COUNTERS_PREFIX_SIZE, GONE_MISSING, GONE_RECREATED, GONE_SEEN, JOBS_PREFIX, JOBS_PREFIX_SIZE, LEADERSHIP_PREFIX,
    BRANCH_STRAY_HISTORY, DEAD_PREFIX, DEAD_PREFIX_SIZE, HISTORY_PREFIX, HISTORY_PREFIX_SIZE,
    LEADERSHIP_PREFIX_SIZE, NAMESPACES_PREFIX, NAMESPACES_PREFIX_SIZE, RUNS_PREFIX, RUNS_PREFIX_SIZE, STATES_PREFIX, STATES_PREFIX_SIZE,
    CALENDARS_PREFIX, CALENDARS_PREFIX_SIZE,
    PB_BYTES, PB_VARINT, POLICY_CONSTANT, POLICY_DROP, POLICY_UNSET, TARGET_ACTOR, TARGET_NONE, branch_put,
    branch_size_max, counter_parse, counter_t, instant_t, kv_parse, kv_t, metadata_parse, metadata_t, pb_buffer, pb_field, pb_in,
    pb_bytes_size, pb_instant, pb_next, pb_open, pb_reserve, policy_parse, policy_t, prefix_match, slice_t, stored_job_parse, stored_job_t,
    put_op_put, put_op_size, drop_op_put, drop_op_size, drop_range_op_put, drop_range_op_size, trigger_put, trigger_size,
)

from raftsched.limits import BATCH_BYTES as _BATCH_BYTES, BATCHED_ACKS_BYTES_MAX, COMMIT_BRANCHES_MAX, TRIGGERS_PER_ADVANCE
from raftsched.limits import DEAD_LETTER_PAYLOAD_BYTES_MAX, ERROR_BYTES_MAX, LAST_ERRORS_MAX
from raftsched.limits import RETRY_ATTEMPTS_MAX, RETRY_FACTOR_PERCENT_MAX, RETRY_WAIT_S_MAX
from raftsched.scheduler.jobs.dead_letters import dead_key, dead_letter, dead_run, error_text, run_id
from raftsched.scheduler.jobs.requests import field
from raftsched.limits import COMMIT_BYTES_MAX, MISFIRE_RUNS_MAX as _MISFIRE_RUNS_MAX, MISFIRE_WINDOW_S_MAX
from raftsched.limits import EVENT_LOG_BYTES, HISTORY_RUNS_MAX as _HISTORY_RUNS_MAX

cdef extern from "native/table.h" nogil:
    const uint32_t JOB_NONE
    ctypedef struct job_t:
        uint64_t hash_low
        uint64_t hash_high
        uint64_t main
        uint64_t counter_main
        uint64_t partition_id
        uint64_t counter_partition_id
        uint64_t handle
        int64_t value
        int64_t begin_s
        int64_t last_s
        int64_t expires_s
        int32_t begin_ns
        int32_t last_ns
        int32_t expires_ns
        uint32_t sub
        uint32_t count
        uint32_t repeats
        uint32_t attempts
        uint32_t run
        uint32_t route
        uint8_t state
        uint8_t kind
        uint8_t flags
        uint8_t more
    ctypedef struct job_table:
        uint32_t used
        uint32_t live
        uint64_t key[2]
    void job_hash(const uint64_t* key, const uint8_t* data, size_t size, uint64_t* low, uint64_t* high) noexcept
    job_t* job_at(const job_table* table, uint32_t slot) noexcept
    uint32_t job_find(job_table* table, uint64_t low, uint64_t high) noexcept
    uint32_t job_insert(job_table* table, uint64_t low, uint64_t high) noexcept
    void job_remove(job_table* table, uint32_t slot) noexcept
    void table_init(job_table* table, uint64_t key0, uint64_t key1) noexcept
    void table_clear(job_table* table) noexcept

cdef extern from "native/batch.h" nogil:
    ctypedef struct batch_entry:
        pass
    ctypedef struct batch_names:
        batch_entry* entries
    int batch_init(batch_names* names, uint32_t branches_max) noexcept
    void batch_next(batch_names* names) noexcept
    int batch_add(batch_names* names, uint64_t name, int puts) noexcept

cdef extern from "native/batched.h" nogil:
    enum:
        RUN_TAIL_MAX
    ctypedef struct batched_t:
        slice_t composed
        slice_t name
        const metadata_t* metadata
        const stored_job_t* job
        uint64_t id
        uint64_t asked
        instant_t tick
        uint32_t attempt
    size_t run_tail(const batched_t* trigger, char* out) noexcept
    size_t batched_body_size(const batched_t* trigger, size_t tail) noexcept
    void batched_put(uint8_t* at, const batched_t* trigger, const char* tail, size_t tail_size) noexcept
    int acks_open(slice_t message, pb_in* acks) noexcept
    int ack_next(pb_in* acks, uint64_t* id, int* failed, slice_t* error) noexcept

cdef extern from "native/ladder.h" nogil:
    ctypedef struct ladder_t:
        int64_t initial_ms
        int64_t cap_ms
        uint32_t factor_percent
        uint32_t jitter_percent
        uint32_t max_attempts
    int64_t ladder_wait_ms(const ladder_t* ladder, uint64_t partition_id, uint32_t attempts) noexcept
    int64_t ladder_sum_ms(const ladder_t* ladder, uint64_t partition_id, uint32_t attempts) noexcept

cdef extern from "native/lateness.h" nogil:
    enum:
        LATENESS_BOUNDS
        WAITED_FOR_NOBODY
        WAITED_FOR_WORKER
        WAITED_FOR_GATE
        WAITED_FORS
    const int32_t* LATENESS_MS
    ctypedef struct lateness_t:
        uint64_t* counts
        int64_t sum_ms
    ctypedef struct steps_t:
        lateness_t[3][3] due_to_sent
        lateness_t[3] sent_to_acknowledged
        lateness_t[3] acknowledged_to_committed
        lateness_t[3] due_to_committed
    void lateness_add(lateness_t* lateness, int64_t ms) noexcept

cdef extern from "native/history.h" nogil:
    enum:
        NUMBER_DIGITS
    ctypedef struct finished_t:
        instant_t scheduled
        instant_t sent
        instant_t answered
        slice_t error
        slice_t replica
        uint64_t asked
        uint64_t partition_id
        uint32_t attempts
        int result
    ctypedef struct numbers_t:
        uint64_t* items
        uint32_t count
    int numbers_add(numbers_t* numbers, uint64_t number) noexcept
    void numbers_remove(numbers_t* numbers, uint64_t number) noexcept
    size_t finished_size_max(const finished_t* finished) noexcept
    uint8_t* finished_put(uint8_t* at, const finished_t* finished) noexcept
    int number_parse(slice_t* name, uint64_t* number) noexcept

cdef extern from "native/events.h" nogil:
    enum:
        EVENT_MARK
    ctypedef struct event_t:
        uint32_t total
        uint32_t kind
        uint64_t revision
        uint64_t job_main
        int64_t heard_ms
        int64_t at_s
        int32_t at_ns
        uint32_t job_sub
        uint32_t count
        uint32_t attempts
        uint32_t name_size
        uint32_t detail_size
    ctypedef struct event_log:
        uint8_t* data
        uint64_t head
        uint64_t tail
        uint64_t floor
        uint64_t dropped
        size_t capacity
    void event_put(event_log* log, event_t* event, const uint8_t* name, const uint8_t* detail) noexcept
    const event_t* event_next(const event_log* log, uint64_t* position) noexcept
    void event_forget(event_log* log, uint64_t floor) noexcept

cdef enum:  # states.State
    IDLE = 0
    ARMED = 1
    IN_FLIGHT = 2
    STAGED = 3
    COMMITTING = 4
    FINISHING = 5

cdef enum:  # kinds
    KIND_ONCE = 0
    KIND_EVERY = 1
    KIND_CRON = 2
    KIND_NEVER = 3     # its schedule cannot be used; kept, never fires
    KIND_EXTENDED = 4

cdef enum:  # flags
    HAS_JOB = 1
    BEGINS_DUE = 2
    EXPIRES = 4
    HAS_LAST = 8
    REPEATS = 16
    PAUSED = 32
    EXTRA = 64         # there is a key for it under raftsched/jobs/
    RUN_WANTED = 128   # there is one under raftsched/runs/: somebody asked for a run

cdef enum:  # more
    MISFIRES = 1       # missed ticks are passed over, as `misfires` says
    DEAD_LETTERS = 2   # runs that are given up are kept
    FURTHER = 2 | 4    # something is stored with its results: of dead letters, of its history
    HISTORY = 4        # its last runs are kept, as `histories` says
    LADDER = 8         # failed runs are tried again as `ladders` says
    ERRED = 16         # `errors` has its last one

cdef enum:
    TYPES = 3          # target kinds: none ("unknown"), job, actor
    LATENCY_BOUNDS = 5
    MISSING_RECORD_RETRY_MS = 1000
    NARROWINGS_MAX = 8  # handovers begun and not ended; beyond: nothing is owned until one ends
    CANARY = 0xfffffffe  # a tag in the wheel that is no job's
    WIDOWS_MAX = 100000  # counters without a job that are remembered; more are found by the next load

ONCE = KIND_ONCE
EVERY = KIND_EVERY
CRON = KIND_CRON
NEVER = KIND_NEVER
LATENESS_BOUNDS_MS = tuple([LATENESS_MS[i] for i in range(LATENESS_BOUNDS)])
EXTENDED = KIND_EXTENDED
AT_STREAM, AT_WORKER, AT_GATE, AT_ROUTE = PLACE_QUEUED, PLACE_SENT, PLACE_GATED, PLACE_STAGED  # where a run is, for `look`

cdef int64_t NS = 1000000000
cdef object NS_OBJECT = 1000000000     # for what has no bounds
cdef Py_ssize_t BATCH_BYTES = _BATCH_BYTES
cdef uint64_t MISFIRE_RUNS_MAX = _MISFIRE_RUNS_MAX
cdef int64_t WINDOW_MAX_S = MISFIRE_WINDOW_S_MAX
cdef int64_t RETRY_WAIT_S = RETRY_WAIT_S_MAX
cdef uint64_t RETRY_FACTOR = RETRY_FACTOR_PERCENT_MAX, RETRY_ATTEMPTS = RETRY_ATTEMPTS_MAX
cdef size_t ERROR_BYTES = ERROR_BYTES_MAX, DEAD_PAYLOAD_BYTES = DEAD_LETTER_PAYLOAD_BYTES_MAX
cdef Py_ssize_t LAST_ERRORS = LAST_ERRORS_MAX
cdef size_t BYTES_PER_COMMIT = COMMIT_BYTES_MAX
cdef uint64_t HISTORY_RUNS_MAX = _HISTORY_RUNS_MAX
cdef int64_t PASSED_COUNT_MAX = 1000
cdef int64_t DUE_MAX_MS = 253402300799999
cdef int64_t EXTENDED_NONE = -<int64_t>0x7fffffffffffffff   # as ExtendedTable says it
cdef bytes DIALECT = b"DIALECT="
cdef int64_t[5] LATENCY_MS = [100, 500, 1000, 5000, 10000]


cdef inline slice_t view(bytes data) noexcept:
    cdef slice_t s
    s.data = <const uint8_t*>PyBytes_AS_STRING(data)
    s.size = PyBytes_GET_SIZE(data)
    return s


cdef inline bytes copy(slice_t s):
    return PyBytes_FromStringAndSize(<const char*>s.data, s.size)


cdef str text(slice_t s):
    return (<const char*>s.data)[:s.size].decode("utf-8", "replace") if s.size else ""


cdef bint decode(bytes record, slice_t* name, stored_job_t* stored) noexcept:
    # A stored KeyValue under dapr/jobs/; the slices point into `record`, which the caller keeps.
    cdef kv_t kv
    if record is None or kv_parse(view(record), &kv) < 0 or kv.key.size < <size_t>JOBS_PREFIX_SIZE:
        return False
    name.data = kv.key.data + JOBS_PREFIX_SIZE
    name.size = kv.key.size - JOBS_PREFIX_SIZE
    return stored_job_parse(kv.value, stored) == 0


cdef int parse_result(slice_t message, uint64_t* id) noexcept:
    # WatchJobsRequest{result}: its status; -1 = no result in it, -2 = an unknown status.
    cdef pb_in source = pb_open(message), inner
    cdef pb_field f, g
    cdef uint64_t status = 0
    cdef bint found = False
    cdef int got = pb_next(&source, &f)
    id[0] = 0
    while got == 1:
        if f.number == 1:
            found = False
        elif f.number == 2 and f.type == PB_BYTES:
            found = True
            id[0] = status = 0
            inner = pb_open(f.body)
            got = pb_next(&inner, &g)
            while got == 1:
                if g.type == PB_VARINT:
                    if g.number == 1:
                        id[0] = g.value
                    elif g.number == 2:
                        status = g.value
                got = pb_next(&inner, &g)
            if got < 0:
                return -1
        got = pb_next(&source, &f)
    if got < 0 or not found:
        return -1
    return <int>status if status <= 1 else -2


cdef struct token_t:
    uint32_t run
    uint32_t seq
    int64_t due_ms
    int64_t acknowledged_ms    # 0: it is no answer to a trigger


cdef class Commit:
    """Results that go to the store as one transaction: `request` is the TxnRequest, `count` its branches."""

    cdef readonly bytes request
    cdef readonly uint32_t count
    cdef token_t* tokens

    def __dealloc__(self):
        free(self.tokens)


cdef class Engine:
    """All jobs of one scheduler; see the module's text. Not re-entrant: calls come from one thread, one after another."""

    cdef job_table table
    cdef readonly TimerWheel wheel
    cdef readonly Delivery delivery
    cdef object gates
    cdef object declared                 # (namespace, actor type)s with a gate, as the routes' `gated` say
    cdef object read_record              # (main, sub) -> stored KeyValue or None
    cdef object compile_schedule         # text (and, of the extended dialect, name) -> (kind, value); ValueError
    cdef ExtendedTable extended
    cdef object calendars                # who reads the records of calendars; or None
    cdef bint replan                     # calendars changed: `arm_some` computes anew what goes by them
    cdef object note                     # (event, key or text): told once per occurrence, for the log
    cdef uint64_t total, index           # of the partition; total 0 = owns nothing
    cdef uint64_t[8] narrow_totals       # of handovers under way: owned is only what is in all of these too
    cdef uint64_t[8] narrow_indexes
    cdef uint32_t narrowings
    cdef bint loading
    cdef uint32_t cursor                 # of arm_some
    cdef uint32_t* finish_queue
    cdef size_t finish_count, finish_capacity
    cdef pb_buffer branches
    cdef pb_buffer further               # operations that go with the next result; empty of a job that wants none
    cdef batch_names names               # whose branches are in `branches`
    cdef token_t* tokens
    cdef uint32_t token_count, branches_max
    cdef list commits                    # sealed, not yet taken
    cdef list orphans                    # names of counters whose job was deleted in this batch
    cdef set widows                      # names of counters without a job that were another's to remove, or that a load found
    cdef list strays                     # (kind of branch, name, revision, owned): keys whose job is gone since that revision
    cdef set recreated                   # (kind, name) of strays on their way out, beside a job that came later: they go with it, too
    cdef set frozen                      # namespaces of which nothing fires, as bytes
    cdef bint freezes                    # there are any
    cdef dict asked                      # slot -> revision of the request for a run
    cdef dict misfires                   # slot -> (window in ms or -1, how many at most or 0)
    cdef dict ladders                    # slot -> (initial ms, factor in percent, cap ms, jitter in percent, attempts or 0)
    cdef dict redriven                   # slot -> the run, in the key of its dead letter, that is asked for
    cdef object errors                   # slot -> (when, tick or None, request or 0, partition id, attempt, text), the oldest first
    cdef readonly set dead_namespaces    # of the dead letters that were kept since whoever clears it
    cdef dict histories                  # slot -> History
    cdef bytes replica                   # who this is, in what is kept of a run
    cdef event_log events
    cdef uint64_t marked                 # tail of `events` behind its last mark
    cdef uint64_t told                   # everything up to this revision was told
    cdef uint64_t highest                # revision of all that was heard
    cdef uint64_t recorded[2]            # revision and name (hash) of the last run that was told with its record
    cdef public int64_t heard_ms         # of the changes that are told next
    cdef public bint regained            # jobs may fire again that could not: `arm_some` until it is done
    cdef readonly bint touched
    cdef readonly uint64_t results_pending
    cdef readonly uint64_t jobs          # records with a job
    cdef readonly uint64_t undecodable_total
    cdef readonly uint64_t unknown_acks_total
    cdef readonly uint64_t fired_total
    cdef int64_t now_ms
    cdef uint64_t[3] succeeded, failed, undelivered, passed, dead
    cdef uint64_t[3][6] latency
    cdef int64_t[3] latency_sum_ms
    cdef steps_t steps
    cdef StreamState canary              # where canaries end; None = there are none
    cdef uint64_t canary_handle          # of the wheel
    cdef bytes cached_text               # the last schedule compiled that needs no counting
    cdef int64_t cached_value

    def __cinit__(self, TimerWheel wheel not None, Delivery delivery not None, gates, read_record, compile_schedule, note, *,
                  hash_key=(0, 0), uint32_t branches_max=COMMIT_BRANCHES_MAX, ExtendedTable extended=None, calendars=None,
                  size_t event_log_bytes=EVENT_LOG_BYTES, bytes replica=b""):
        table_init(&self.table, hash_key[0], hash_key[1])
        self.wheel = wheel
        self.delivery = delivery
        self.gates = gates
        self.declared = gates.declared_types()
        self.read_record = read_record
        self.compile_schedule = compile_schedule
        self.extended = extended
        self.calendars = calendars
        self.note = note
        self.branches_max = branches_max
        self.events.capacity = event_log_bytes
        self.commits = []
        self.orphans = []
        self.widows = set()
        self.strays = []
        self.recreated = set()
        self.frozen = set()
        self.asked = {}
        self.misfires = {}
        self.ladders = {}
        self.redriven = {}
        self.errors = OrderedDict()
        self.dead_namespaces = set()
        self.histories = {}
        self.replica = replica
        self.tokens = <token_t*>malloc(branches_max * sizeof(token_t))
        if self.tokens == NULL or batch_init(&self.names, branches_max) < 0:
            raise MemoryError

    def __dealloc__(self):
        table_clear(&self.table)
        free(self.finish_queue)
        free(self.branches.data)
        free(self.further.data)
        free(self.names.entries)
        free(self.tokens)
        free(self.events.data)

    def on_changes(self, changes):
        """Changes of dapr/jobs/ and dapr/counters/ in revision order, whole revisions; those of dapr/leadership/ are returned.

        `changes` are `types.Change`s; other keys are passed over. Undecodable records are skipped, noted once and counted (D11).
        """
        cdef tuple change
        cdef bytes key, record
        cdef slice_t k, name
        cdef bint deleted, ours
        cdef list others = []
        self.touched = False
        for found in changes:
            change = <tuple>found  # a NamedTuple: no exact tuple, but laid out as one
            key = change[1]
            self.highest = max(self.highest, <uint64_t>change[2])
            k = view(key)
            deleted = change[0]
            ours = True
            if k.size >= <size_t>JOBS_PREFIX_SIZE and memcmp(k.data, JOBS_PREFIX, JOBS_PREFIX_SIZE) == 0:
                name.data = k.data + JOBS_PREFIX_SIZE
                name.size = k.size - JOBS_PREFIX_SIZE
                if deleted:
                    job_deleted(self, name, change[2])
                else:
                    record = change[4]
                    job_put(self, name, change[2], change[3], view(record))
            elif k.size >= <size_t>COUNTERS_PREFIX_SIZE and memcmp(k.data, COUNTERS_PREFIX, COUNTERS_PREFIX_SIZE) == 0:
                name.data = k.data + COUNTERS_PREFIX_SIZE
                name.size = k.size - COUNTERS_PREFIX_SIZE
                if deleted:
                    counter_deleted(self, name, change[2])
                else:
                    record = change[4]
                    counter_put(self, name, change[2], view(record))
            elif k.size >= <size_t>LEADERSHIP_PREFIX_SIZE and memcmp(k.data, LEADERSHIP_PREFIX, LEADERSHIP_PREFIX_SIZE) == 0:
                others.append(change)
            else:
                ours = state_changed(self, k, change)
            self.touched = self.touched or ours
        if self.orphans:
            remove_orphans(self)
        if self.strays:
            remove_strays(self)
        return others

    def begin_load(self):
        """Before a scan: everything known is dropped, nothing is armed until `finish_load`. In-flight results are dropped."""
        cdef uint32_t slot
        cdef job_t* job
        for slot in range(self.table.used):
            job = job_at(&self.table, slot)
            if job.flags & HAS_JOB:
                detach(self, job)
                release_schedule(self, job)
                release_route(self, job)
                if job.handle:
                    self.wheel.c_disarm(job.handle)
        table_clear(&self.table)
        self.jobs = 0
        self.finish_count = 0
        self.orphans.clear()
        self.widows.clear()
        self.strays.clear()
        self.recreated.clear()
        self.asked.clear()
        self.misfires.clear()
        self.ladders.clear()
        self.redriven.clear()
        self.errors.clear()
        self.histories.clear()
        self.highest = self.told = 0
        thaw_all(self)
        if self.calendars is not None:
            self.calendars.clear()
        self.loading = True
        self.cursor = 0

    def finish_load(self, uint64_t revision=0):
        """After the scan (all jobs and counters of one revision): `arm_some` until it says that nothing is left.
        `revision`: that of the store, as far as it was read."""
        self.loading = False
        self.cursor = 0
        self.highest = max(self.highest, revision)
        forget_events(self)
        remove_strays(self)

    def set_partition(self, uint64_t total, uint64_t index):
        """This replica's place: it owns partition_id % total == index. total 0 = nothing. Then `arm_some` until it is done."""
        self.total = total
        self.index = index
        self.narrowings = 0
        self.cursor = 0
        drop_errors_of_others(self)
        remove_strays(self)

    def narrow(self, uint64_t total, uint64_t index):
        """Until the next `set_partition`, owns only what is in this partition too. Nothing else is sent from now on; what was
        sent is `leaving`: its results still count. Takes no time, whatever the number of jobs."""
        cdef uint32_t i
        for i in range(self.narrowings):
            if self.narrow_totals[i] == total and self.narrow_indexes[i] == index:
                return
        if total == 0 or self.narrowings == NARROWINGS_MAX:
            self.total = 0
            return
        self.narrow_totals[self.narrowings] = total
        self.narrow_indexes[self.narrowings] = index
        self.narrowings += 1

    @property
    def leaving(self):
        """Triggers of jobs not owned any more that were sent, or whose result is on its way to the store."""
        cdef uint32_t run, found = 0
        cdef run_t* r
        for run in range(self.delivery.runs.used):
            r = run_at(&self.delivery.runs, run)
            if r.job != JOB_NONE and (r.place == PLACE_SENT or r.pending) and not mine(self, job_at(&self.table, r.job)):
                found += 1
        return found

    def arm_some(self, uint32_t limit):
        """Looks at up to `limit` records and arms what is ours, disarms what is not; False = all were looked at. Then counters
        without a job go, too, as far as they are ours."""
        cdef uint32_t end = min(self.table.used, self.cursor + limit)
        cdef job_t* job
        while self.cursor < end:
            job = job_at(&self.table, self.cursor)
            if job.flags & HAS_JOB and ((job.state == IDLE) == mine(self, job) or replanned(self, job)):
                settle(self, self.cursor)
            self.cursor += 1
        if self.cursor < self.table.used:
            return True
        self.replan = False
        take_widows(self)
        return False

    def advance(self, int64_t now_ms):
        """Fires up to TRIGGERS_PER_ADVANCE due jobs and returns their number; while `more`, call again with the same time."""
        cdef uint64_t[4096] handles
        cdef uint32_t[4096] tags
        cdef int64_t[4096] due
        cdef place_t[4096] order
        cdef int count, i, k
        cdef job_t* job
        self.now_ms = now_ms
        count = self.wheel.c_advance(now_ms, handles, tags, due, TRIGGERS_PER_ADVANCE)
        oldest_first(order, due, count)
        for i in range(count):
            k = order[i].index
            if tags[k] == CANARY:
                fire_canary(self)
                continue
            job = job_at(&self.table, tags[k])
            if job.state == ARMED and job.handle == handles[k]:
                fire(self, tags[k])
            self.fired_total += 1
        return count

    @property
    def more(self):
        """The last `advance` did not hand out all that is due."""
        return self.wheel.c_more()

    def open_canary(self, push):
        """Triggers of no job: each goes from the wheel through delivery to `push`, as those of jobs do. See `_engine.pyi`."""
        self.canary = self.delivery.open_canary(push)

    def send_canary(self, int64_t due_ms):
        """One that is due then, in the place of one that has not fired yet."""
        if self.canary_handle == 0 or self.wheel.c_rearm(self.canary_handle, due_ms) != 1:
            self.canary_handle = self.wheel.c_arm(CANARY, due_ms)
            if self.canary_handle == 0:
                raise MemoryError("the timing wheel is full")

    @property
    def canary_armed(self):
        """The canary has not left the wheel."""
        return self.canary_handle != 0 and self.wheel.c_due(self.canary_handle) >= 0

    @property
    def oldest_unsent_ms(self):
        """When the oldest trigger fired that is in line on a stream with room; -1 = there is none."""
        cdef StreamState stream
        cdef int64_t fired, oldest = -1
        for found in self.delivery.streams:
            if found is None:
                continue
            stream = found
            if stream.writable and stream.queue.count:
                fired = run_at(&self.delivery.runs, ring_first(&stream.queue)).started_ms
                oldest = fired if oldest < 0 else min(oldest, fired)
        return oldest

    @property
    def finish_pending(self):
        """Jobs found finished whose end is not yet on its way."""
        return self.finish_count

    def open_stream(self, push, owner, prefixes, namespace="", limits=(), *, batched=False):
        """Registers a stream; what was parked for it is queued at once. The `StreamState`. `batched`: one of raftsched.v1.Workers.

        `prefixes`: (prefix, target kind, (namespace, actor type) or None) each; `limits`: `gates.Limit`s.
        """
        cdef StreamState stream = self.delivery.open_stream(push, owner, [(prefix, kind) for prefix, kind, _ in prefixes])
        cdef Route route
        stream.batched = batched
        for route, (_, _, target) in zip(stream.routes, prefixes):
            if route.target is None and target is not None:
                route.target = target
                route.gated = self.gates.gated(*target)
        admitted = self.gates.declare(stream, namespace, limits)
        refresh_gated(self)
        let_go(self, admitted)
        for route in stream.routes:
            requeue(self, route)
        return stream

    def close_stream(self, StreamState stream not None):
        """The stream is gone: what it had goes to another one at once, or is parked. Nothing is written. Idempotent."""
        cdef Route route
        cdef run_t* r
        cdef uint32_t run
        cdef list freed = []
        runs, gone = self.delivery.close_stream(stream)
        admitted, dropped = self.gates.withdraw(stream)
        for route in gone:
            if route.target is not None:
                dropped += self.gates.evict(*route.target)
        refresh_gated(self)
        for run in runs:
            r = run_at(&self.delivery.runs, run)
            if r.gated:
                r.gated = False
                freed += self.gates.release(run)
        for run in dropped:
            run_at(&self.delivery.runs, run).place = PLACE_NONE
        for run in runs + dropped:
            r = run_at(&self.delivery.runs, run)
            if r.job == JOB_NONE:
                collect(self, run)
                continue
            self.undelivered[r.kind] += 1
            if (<Route>PyList_GET_ITEM(self.delivery.routes, r.route)).streams:
                submit(self, run)
            else:
                park(self, run)
        let_go(self, admitted + freed)

    def set_gate_share(self, index, total):
        """The place of this replica among all, for the shares of the gates."""
        let_go(self, self.gates.set_share(index, total))

    def stream_writable(self, StreamState stream not None):
        """There is room again after `push` said no."""
        if stream.open:
            stream.writable = True
            stream.writable_since_ms = self.now_ms
            if stream.queue.count:
                self.delivery.mark_ready(stream)

    def flush(self, uint32_t budget, int64_t now_ms=0):
        """Sends up to `budget` queued triggers, reading each record now; the number sent. `sendable` tells whether more could go."""
        cdef list ready = self.delivery.ready
        cdef StreamState stream
        cdef Route route
        cdef uint32_t sent = 0
        self.now_ms = max(self.now_ms, now_ms)
        while ready and sent < budget:
            stream = ready.pop(0)
            sent += flush_stream(self, stream, min(budget - sent, 512))
            if stream.open and stream.writable and stream.queue.count:
                ready.append(stream)
                continue
            stream.dirty = False
            if stream.open and stream.queue.count < self.delivery.backlog_max // 2:
                for route in stream.routes:
                    if route.staged:
                        requeue(self, route)
        return sent

    @property
    def sendable(self):
        """Some stream has triggers queued and room for them."""
        return bool(self.delivery.ready)

    def on_acks(self, StreamState stream not None, messages, int64_t now_ms):
        """WatchJobsRequests, or WatchTriggersRequests, after the first. None, or why the stream must be closed (the rest is not looked at).

        An unknown or repeated id is dropped, counted and noted (D4).
        """
        cdef bytes message
        cdef uint64_t id
        cdef int status
        cdef slice_t nothing = view(b"")
        self.now_ms = max(self.now_ms, now_ms)
        for message in messages:
            if stream.batched:
                if PyBytes_GET_SIZE(message) > <Py_ssize_t>BATCHED_ACKS_BYTES_MAX:
                    return "too many acks in a message"
                if batched_acks(self, stream, view(message)) < 0:
                    return "unexpected message: acks are required"
                continue
            status = parse_result(view(message), &id)
            if status < 0:
                return "unexpected message: a result is required" if status == -1 else "unknown trigger result status"
            answered(self, stream, id, status, nothing)
        return None

    def finish_some(self, uint32_t limit):
        """Sends up to `limit` jobs that were found finished on their way out; True = there are more."""
        cdef uint32_t slot, run
        cdef job_t* job
        cdef run_t* r
        cdef stored_job_t stored
        cdef slice_t name
        cdef bytes record
        while limit and self.finish_count:
            self.finish_count -= 1
            slot = self.finish_queue[self.finish_count]
            job = job_at(&self.table, slot)
            if job.state != FINISHING:
                continue
            limit -= 1
            if not mine(self, job) or held(self, job):
                job.state = IDLE
                continue
            record = self.read_record(job.main, job.sub)
            if not decode(record, &name, &stored):
                self.note("record not found", b"%d.%d" % (job.main, job.sub))
                job.state = IDLE
                continue
            run = run_new(&self.delivery.runs)
            if run == RUN_NONE:
                raise MemoryError
            r = run_at(&self.delivery.runs, run)
            r.job = slot
            r.main = job.main
            r.counter_main = job.counter_main
            if run_set_name(r, name.data, name.size) < 0:
                raise MemoryError
            job.run = run
            job.state = COMMITTING
            append_branch(self, run, BRANCH_FINISH, NULL)
        return self.finish_count > 0

    def take_commits(self, limit=1 << 30):
        """Up to `limit` `Commit`s, oldest first: all results so far. Each is answered once by `on_outcomes`."""
        if self.token_count and len(self.commits) < limit:
            seal(self)
        taken = self.commits[:limit]
        del self.commits[:limit]
        return taken

    @property
    def commit_waiting(self):
        """Results wait for `take_commits`."""
        return self.token_count > 0 or bool(self.commits)

    def on_outcomes(self, Commit commit not None, bytes outcomes not None, int64_t now_ms=0):
        """One byte per branch: 1 = done, 0 = a guard failed. All changes up to the answer's revision have been told before.

        Returns how many branches were done without their change having come: 0 unless the change list has a hole.
        """
        cdef uint32_t i, run, missing = 0
        cdef run_t* r
        cdef job_t* job
        if <uint32_t>PyBytes_GET_SIZE(outcomes) != commit.count:
            raise ValueError("as many outcomes as branches")
        if commit.tokens == NULL:
            raise ValueError("answered twice")
        self.now_ms = max(self.now_ms, now_ms)
        for i in range(commit.count):
            run = commit.tokens[i].run
            r = run_at(&self.delivery.runs, run)
            if r.seq != commit.tokens[i].seq:
                raise ValueError("a run was given away before its outcome")
            r.pending -= 1
            self.results_pending -= 1
            if outcomes[i]:
                note_committed(self, r.kind, &commit.tokens[i])
            if r.job == JOB_NONE:
                collect(self, run)
                continue
            job = job_at(&self.table, r.job)
            if job.state != COMMITTING or r.pending:
                continue
            if outcomes[i]:
                missing += 1
            else:
                settle(self, r.job)
        free(commit.tokens)
        commit.tokens = NULL
        return missing

    # -- events
    def mark_told(self, uint64_t revision):
        """Every change up to `revision` has been told."""
        cdef event_t mark
        self.told = max(self.told, revision)
        if self.events.tail != self.marked:
            mark = event_of(self, EVENT_MARK, self.told, NULL)
            event_put(&self.events, &mark, NULL, NULL)
            self.marked = self.events.tail

    def event_span(self):
        """See the stub."""
        return self.events.head, self.events.tail, self.events.floor, max(self.told, self.events.floor), self.events.dropped

    def read_events(self, uint64_t position, uint64_t after=0, uint32_t limit=1 << 20):
        """See the stub."""
        return read_events(self, position, after, limit)

    # -- reading, for tests and status
    def state_of(self, bytes name not None):
        """The state of a job by composed name, or None."""
        cdef uint32_t slot = find(self, view(name))
        return None if slot == JOB_NONE or not job_at(&self.table, slot).flags & HAS_JOB else job_at(&self.table, slot).state

    def describe(self, bytes name not None):
        """What is known of a name: a dict of the record's fields, or None."""
        cdef uint32_t slot = find(self, view(name))
        cdef job_t* job
        cdef instant_t tick
        if slot == JOB_NONE:
            return None
        job = job_at(&self.table, slot)
        cdef int known = next_tick(self, job, &tick) if job.flags & HAS_JOB else -1
        return {
            "state": job.state, "has_job": bool(job.flags & HAS_JOB), "owned": bool(mine(self, job)),
            "main": job.main, "counter_main": job.counter_main,
            "count": job.count if counted(self, job) else 0, "attempts": job.attempts if counted(self, job) else 0,
            "last": (job.last_s, job.last_ns) if counted(self, job) and job.flags & HAS_LAST else None,
            "tick": (tick.s, tick.ns) if known == 1 else None, "finished": known == 0,
            "due_ms": self.wheel.c_due(job.handle) if job.handle and job.state == ARMED else None,
        }

    def look(self, bytes name not None):
        """What the API tells of a job by composed name, or None; see `_engine.pyi`."""
        cdef uint32_t slot = find(self, view(name))
        cdef job_t* job
        cdef instant_t tick
        cdef bint with_counter
        cdef int known
        if slot == JOB_NONE or not job_at(&self.table, slot).flags & HAS_JOB:
            return None
        job = job_at(&self.table, slot)
        with_counter = counted(self, job)
        known = next_wanted(self, slot, &tick)
        return (
            job.main, job.state, PLACE_NONE if job.run == RUN_NONE else run_at(&self.delivery.runs, job.run).place, mine(self, job) != 0,
            (tick.s, tick.ns) if known == 1 else None, known == 0,
            (job.last_s, job.last_ns) if with_counter and job.flags & HAS_LAST else None,
            job.count if with_counter else 0, job.attempts if with_counter else 0,
            job.flags & PAUSED != 0, is_frozen(self, job) != 0, job.flags & EXTRA != 0,
            job.flags & RUN_WANTED != 0,
        )

    def last_error(self, bytes name not None):
        """The last failed attempt of a job of this replica; see the stub."""
        cdef uint32_t slot
        if not self.errors:
            return None
        slot = find(self, view(name))
        return self.errors.get(slot) if slot != JOB_NONE and mine(self, job_at(&self.table, slot)) else None

    def next_attempt_ms(self, bytes name not None):
        """When a job of this replica that failed is tried again, or None; see the stub."""
        cdef uint32_t slot = find(self, view(name))
        cdef job_t* job
        cdef bint failed
        if slot == JOB_NONE or not job_at(&self.table, slot).flags & HAS_JOB:
            return None
        job = job_at(&self.table, slot)
        failed = job.attempts > 0 and counted(self, job)
        if job.run != RUN_NONE and run_at(&self.delivery.runs, job.run).extra:
            failed = run_at(&self.delivery.runs, job.run).tries > 0
        return self.wheel.c_due(job.handle) if failed and job.state == ARMED and mine(self, job) else None

    def missed(self, bytes name not None, int64_t until_s, int32_t until_ns):
        """(last tick of a recurring job that is due by then and not done, its counter with that tick as the last one); see the stub."""
        cdef uint32_t slot = find(self, view(name))
        cdef job_t* job
        cdef instant_t tick
        if slot == JOB_NONE or not job_at(&self.table, slot).flags & HAS_JOB:
            return None
        job = job_at(&self.table, slot)
        if job.kind not in (KIND_EVERY, KIND_CRON, KIND_EXTENDED) or next_tick(self, job, &tick) != 1:
            return None
        due, until = tick.s * NS_OBJECT + tick.ns, until_s * NS_OBJECT + until_ns
        if due > until:
            return None
        if job.kind == KIND_CRON:
            last = (self.wheel.cron.last(<int>job.value, tick.s - 1, until_s), 0)
        elif job.kind == KIND_EXTENDED:
            last = last_extended(self, job, tick, until_s, until_ns)
        else:
            last = divmod(due + (until - due) // job.value * job.value if job.value else until, NS_OBJECT)
        return (last, job.main, job.counter_main, job.partition_id, job.count if counted(self, job) else 0)

    def metrics(self):
        """Counters by target kind (0 unknown, 1 job, 2 actor): triggered, failed, undelivered, latency buckets and sums."""
        return {
            "triggered": [self.succeeded[i] for i in range(TYPES)],
            "failed": [self.failed[i] for i in range(TYPES)],
            "undelivered": [self.undelivered[i] for i in range(TYPES)],
            "passed": [self.passed[i] for i in range(TYPES)],
            "dead": [self.dead[i] for i in range(TYPES)],
            "latency": [[self.latency[i][j] for j in range(LATENCY_BOUNDS + 1)] for i in range(TYPES)],
            "latency_sum_ms": [self.latency_sum_ms[i] for i in range(TYPES)],
        }

    def lateness(self):
        """By step, then by target kind; the first step also by what was waited for. See `_engine.pyi`."""
        return {
            "due_to_sent": [[lateness_of(&self.steps.due_to_sent[i][j]) for j in range(WAITED_FORS)] for i in range(TYPES)],
            "sent_to_acknowledged": [lateness_of(&self.steps.sent_to_acknowledged[i]) for i in range(TYPES)],
            "acknowledged_to_committed": [lateness_of(&self.steps.acknowledged_to_committed[i]) for i in range(TYPES)],
            "due_to_committed": [lateness_of(&self.steps.due_to_committed[i]) for i in range(TYPES)],
        }

    def check_invariants(self):
        """Debug: walks all records; AssertionError names what is broken."""
        cdef uint32_t slot
        cdef job_t* job
        cdef run_t* run
        cdef uint64_t jobs = 0
        for slot in range(self.table.used):
            job = job_at(&self.table, slot)
            if not job.flags & HAS_JOB:
                assert job.main == 0, "a record without a job has a revision"
                continue
            jobs += 1
            assert job.state <= FINISHING, "unknown state"
            if job.run != JOB_NONE:
                run = run_at(&self.delivery.runs, job.run)
                assert run.job == slot, "the open run names another job"
                assert (job.state in (IN_FLIGHT, STAGED, COMMITTING)
                        or (job.state == ARMED and (job.attempts > 0 or run.extra))), "an open run too many"
                assert (run.place == PLACE_STAGED) == (job.state == STAGED), "staged in one place only"
                if job.state == IN_FLIGHT:
                    assert run.place in (PLACE_QUEUED, PLACE_SENT, PLACE_GATED), "in flight, but nowhere"
            else:
                assert job.state in (IDLE, ARMED, FINISHING), "no open run"
            if job.state == ARMED:
                assert self.wheel.c_due(job.handle) >= 0, "armed, but not in the wheel"
            elif job.handle:
                assert self.wheel.c_due(job.handle) == -1, "in the wheel, but not armed"
        assert jobs == self.jobs, "the count of jobs is wrong"


include "_engine/ticks.pxi"
include "_engine/extended.pxi"
include "_engine/misfires.pxi"
include "_engine/retries.pxi"
include "_engine/history.pxi"
include "_engine/events.pxi"
include "_engine/held.pxi"
include "_engine/lateness.pxi"
include "_engine/changes.pxi"
include "_engine/firing.pxi"
include "_engine/further.pxi"
include "_engine/results.pxi"
