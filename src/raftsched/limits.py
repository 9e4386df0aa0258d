"""Every bound, by name, with its answer when it is full. Nothing may grow without one of these.

Units stand at the end of each name. A default that etcd or Dapr documents carries that precedent.
"""

from typing import Final

# store: requests (etcd's defaults; `serve` raises the first to Dapr's 2 GiB - 1)
REQUEST_BYTES_MAX: Final = 1_572_864  # etcd --max-request-bytes; beyond: "etcdserver: request is too large"
GRPC_OVERHEAD_BYTES: Final = 524_288  # a message may be this much larger than a request; beyond: ResourceExhausted
MESSAGE_BYTES_MAX: Final = 2**31 - 1  # Dapr's send and receive limit
TXN_OPS_MAX: Final = 128  # etcd --max-txn-ops; Dapr's serve: 10_000
TXN_DEPTH_MAX: Final = 128  # transactions inside transactions (native/request.h); deeper: malformed. etcd: bounded by the ops alone
PROPOSALS_PENDING_MAX: Final = 5_000  # committed - applied (etcd); beyond: "etcdserver: too many requests"
PROPOSALS_WAITING_MAX: Final = 100_000  # on their way through the log; beyond: "etcdserver: too many requests". A batch alone is taken
PROPOSALS_BYTES_MAX: Final = 256 << 20  # the same in bytes, from the door to the answer; beyond: the same. A batch alone is taken
LEADERLESS_BYTES_MAX: Final = 64 << 20  # proposals that wait for a leader; beyond: "etcdserver: too many requests". One is always taken
FORWARD_BYTES_MAX: Final = 1 << 20  # of proposals in one message to the leader; beyond: several messages. One is always taken
FORWARD_ENTRIES_MAX: Final = 4_096
FORWARD_AGAIN_BYTES_MAX: Final = 32 << 20  # of proposals, on a new connection; beyond: they wait for their time. One is always sent
REFUSALS_WAITING_MAX: Final = 1_000  # refused for want of space until the alarm stands; beyond: refused at once
READS_ASKED_MAX: Final = 100_000  # linearizable reads that wait for a leader; beyond: "etcdserver: too many requests"
READ_ANSWERS_BYTES: Final = 4 << 20  # answers of a batch of reads that are made before they go to the door; one is always made
RANGE_SLICE_KEYS: Final = 2_000  # a range that looks at more keys is answered in slices of the loop, one step of so many after the other
RANGE_SLICE_BYTES: Final = 2 << 20  # the same for what is sent
REQUEST_TIMEOUT_MS: Final = 7_000  # etcd: 5 s + 2 x election timeout; beyond: "etcdserver: request timed out"

# store: log, records, history
WAL_SEGMENT_BYTES: Final = 64_000_000  # etcd
WAL_ZERO_AHEAD_BYTES: Final = 4 << 20
WAL_RESERVE_BYTES: Final = 8 << 20  # serves deletes, compaction and alarms when the disk is full
WAL_ENTRY_BYTES_MAX: Final = 2**31 - 1
UNCOMMITTED_BYTES_MAX: Final = 256 << 20  # at the leader, whoever asked; beyond: "etcdserver: too many requests". A batch alone is taken
PENDING_RECORDS_BYTES_MAX: Final = 1 << 30  # records not yet in LMDB; beyond: proposals wait
BACKEND_MAP_BYTES: Final = 1 << 40
SUPERSEDED_RECORDS_MAX: Final = 2_000_000  # beyond: compaction at once ...
SUPERSEDED_RECORDS_KEPT: Final = 100_000  # ... to the oldest revision that leaves this many
SNAPSHOT_INTERVAL_MIN_MS: Final = 10_000
LOOP_SLICE_MS: Final = 5

# store: members that are behind
SNAPSHOT_CHUNK_BYTES: Final = 1_044_480  # with its head within PEER_BULK_CHUNK_BYTES_MAX
SNAPSHOT_WINDOW_BYTES: Final = 8 << 20  # sent and not yet written at the other side; beyond: the sender waits
SNAPSHOT_BYTES_PER_S: Final = 128 << 20  # of all streams together: a disk and a network that others use too
SNAPSHOT_STREAMS_MAX: Final = 2  # sent at a time; who comes beyond waits for its turn
SNAPSHOT_STALL_MS: Final = 30_000  # without progress: the stream is given up
SNAPSHOT_PROGRESS_MS: Final = 5_000  # between two lines about progress
SNAPSHOT_COPY_IDLE_MS: Final = 60_000  # a copy that nobody asked for is removed
SNAPSHOT_PARTIAL_IDLE_MS: Final = 600_000  # a part that nobody goes on with is removed
SNAPSHOT_SYNC_BYTES: Final = 32 << 20  # written and not yet synced while receiving
SNAPSHOT_SPACE_RESERVE_BYTES: Final = 64 << 20  # stays free beside a copy that is made or received
SIDE_KEY_BYTES_MAX: Final = 511  # of a key in a small bucket (LMDB); beyond: not restored
EXPORTS_MAX: Final = 4  # Maintenance.Snapshot streams at a time: each holds a file; beyond: "etcdserver: too many requests"
EXPORT_READ_BYTES: Final = 1 << 20  # of the file, read and hashed at a time
EXPORT_BLOB_BYTES: Final = 32 << 10  # etcd's; of one message
EXPORT_STALL_MS: Final = 120_000  # a client that takes nothing for so long is cut off, and the file goes
EXPORT_SIZE_RATIO: Final = 1.25  # a bbolt file may be so much larger than what LMDB has in use
CATCH_UP_CHUNK_BYTES: Final = 1 << 20  # of one message with entries from the log's segments
CATCH_UP_CHUNK_ENTRIES: Final = 4_096
CATCH_UP_WINDOW_BYTES: Final = 8 << 20  # supplied and not yet acknowledged, per member; beyond: waits
CATCH_UP_STALL_MS: Final = 5_000  # nothing acknowledged for so long: given up, the leader probes

# store: watch (etcd's numbers where it has them)
WATCH_STREAM_CHANGES_MAX: Final = 1_000  # distinct revisions per watcher and catch-up round
WATCH_CATCH_UP_WATCHERS: Final = 512
WATCH_CATCH_UP_INTERVAL_MS: Final = 100
WATCH_PROGRESS_INTERVAL_MS: Final = 600_000
WATCHERS_MAX: Final = 1_000_000  # of all streams; beyond: created and canceled, "etcdserver: too many requests"
LEASE_TTL_S_MAX: Final = 9_000_000_000
LEASE_TTL_S_MIN: Final = 2
LEASE_REVOKES_PER_TICK: Final = 500
LEASE_EXPIRE_INTERVAL_MS: Final = 500

# store: authentication
AUTH_NAME_BYTES_MAX: Final = 511  # of a user's or a role's name: LMDB's longest key; beyond: "etcdserver: request is too large"
AUTH_NAMES_MAX: Final = 100_000  # of users, and of roles; beyond: "etcdserver: mvcc: database space exceeded"
AUTH_PERMISSIONS_MAX: Final = 10_000  # of one role; beyond: the same
AUTH_TOKENS_MAX: Final = 100_000  # simple tokens that are remembered; beyond: that which was used least lately is forgotten
AUTH_TOKENS_AWAITED_MAX: Final = 1_000  # requests that wait for their token to be applied here; beyond: "etcdserver: invalid auth token"
AUTH_PASSWORDS_WAITING_MAX: Final = 1_000  # to be hashed or compared; beyond: "etcdserver: too many requests"
AUTH_TOKEN_TTL_S: Final = 300  # etcd's --auth-token-ttl
AUTH_JWT_CACHE_MAX: Final = 10_000  # verified JWTs that are remembered; beyond: all are forgotten
WATCH_REQUESTS_HELD_MAX: Final = 10_000  # of one stream, behind a token that is still to be applied; beyond: ResourceExhausted
BCRYPT_COST: Final = 10  # etcd's --bcrypt-cost
BCRYPT_COST_MIN: Final = 4
BCRYPT_COST_MAX: Final = 31

# store: between members
PEER_MESSAGE_BYTES_MAX: Final = WAL_ENTRY_BYTES_MAX + (64 << 20)  # one entry of the largest size, or many small ones; beyond: closed
PEER_MESSAGE_ENTRIES_MAX: Final = 1 << 18  # the kernel sends 4 096; beyond: closed
PEER_QUEUE_BYTES_MAX: Final = 64 << 20  # of entries per peer, unsent; beyond: the oldest message is dropped. The kernel's window
PEER_CONTROL_QUEUE_BYTES_MAX: Final = 1 << 20  # heartbeats, votes, acks; a peer that does not read gets new ones for old
PEER_WRITE_BYTES: Final = 256 << 10  # handed to the socket at a time: what a heartbeat may have to wait for
PEER_REQUEST_BYTES_MAX: Final = 1 << 20  # of a request and of an answer
PEER_REQUESTS_IN_FLIGHT_MAX: Final = 256  # per peer and direction; beyond: PeerCode.BUSY
PEER_ASKS_MAX: Final = 16  # served at a time; beyond: closed
PEER_BULK_STREAMS_MAX: Final = 4  # served at a time, and opened; beyond: PeerCode.BUSY
PEER_BULK_CHUNK_BYTES_MAX: Final = 1 << 20
PEER_HANDSHAKES_MAX: Final = 64  # unfinished at a time; beyond: closed
PEER_HANDSHAKE_BYTES_MAX: Final = 256
PEER_HANDSHAKE_TIMEOUT_MS: Final = 3_000  # TCP, TLS and ours together
PEER_IDLE_TIMEOUT_MS: Final = 5_000  # without a byte from the other side; it is asked for one each PEER_PING_MS
PEER_PING_MS: Final = 1_000
PEER_BULK_IDLE_TIMEOUT_MS: Final = 60_000
PEER_LINGER_MS: Final = 30_000  # a bulk stream that was closed waits so long for the other side to read its end
PEER_RECONNECT_MS_MIN: Final = 50  # doubling, with jitter
PEER_RECONNECT_MS_MAX: Final = 1_000
PEER_REFUSALS_LOGGED_MS: Final = 10_000  # one line per cause and peer in this time
PEER_REFUSALS_REMEMBERED_MAX: Final = 1_024  # causes and peers

# store: health of a member that waits for others (decision 0009)
HEALTH_ALONE_MS: Final = 3_000  # without a leader, or without anybody to form a cluster with: that is no illness
HEALTH_BEHIND_MS: Final = 60_000  # since its start, still catching up: the same

# store: comparing data
CORRUPT_CHECK_ASK_MS: Final = 60_000  # a member's hash of all its data; beyond: it is passed over
CORRUPT_CHECK_CONNECT_MS: Final = 3_000  # a member that starts waits so long for the others; beyond: they are passed over

# store: membership
MEMBERS_MAX: Final = 128  # of a cluster and of an initial list; beyond: refused
ASK_BYTES_MAX: Final = 256 << 10  # what an empty member asks and is answered; beyond: as if nobody had answered
CHANGE_BYTES_MAX: Final = 64 << 10  # a change of members on its way to the leader; beyond: malformed

# rpc: the door
BODIES_IN_FLIGHT_RAM_SHARE: Final = 0.25  # of all RAM, for request bodies; beyond: ResourceExhausted
HEADER_LIST_BYTES_MAX: Final = 16_384
WRITE_BUFFER_BYTES: Final = 1 << 20  # collected and unwritten per connection before it stops collecting
FIRST_REQUEST_TIMEOUT_MS: Final = 20_000  # a connection that says nothing is closed
TLS_HANDSHAKE_TIMEOUT_MS: Final = 10_000  # etcd
TLS_SLICE_MS_MAX: Final = 50  # of handshakes in one turn of a busy loop; of an idle one: LOOP_SLICE_MS
TLS_CAUSES_MAX: Final = 64  # causes of refusals counted one by one; beyond: as "other"
TLS_REFUSALS_LOGGED_MS: Final = 10_000  # one line per cause in this time
SPIFFE_IDS_KNOWN_MAX: Final = 4_096  # read before; beyond: the oldest is read again
SENTRY_ANSWER_BYTES_MAX: Final = 1 << 20  # certificates and tokens; beyond: refused
KUBE_ANSWER_BYTES_MAX: Final = 64 << 20  # a page of namespaces; beyond: refused
KUBE_EVENT_BYTES_MAX: Final = 4 << 20  # one line of a watch; beyond: the watch ends
KUBE_NAMESPACES_MAX: Final = 1_000_000
TRUST_ANCHORS_BYTES_MAX: Final = 1 << 20  # of the file; beyond: it cannot be used
STREAM_BUFFER_BYTES: Final = 256 << 10  # pushed and uncollected per stream; beyond: `push` says stop
STREAM_HOLD_BYTES: Final = 4 << 20  # beyond: what the peer sends on this stream waits until it reads
CONNECTION_BACKLOG_BYTES: Final = 64 << 20  # answers uncollected per connection; beyond: its next requests wait
UNREAD_BYTES_MAX: Final = 512 << 20  # unread answers of a door's connections together; beyond: the largest backlog is closed. One is taken
UNREAD_FLOOR_BYTES: Final = 1 << 20  # per connection instead of CONNECTION_BACKLOG_BYTES, while half of that is used
UNREAD_STALL_MS: Final = 1_000  # who took nothing for so long is closed before who reads
UNREAD_LOGGED_MS: Final = 10_000  # one line about closed connections in this time
UNWRITTEN_BYTES_MAX: Final = 64 << 20  # collected, unwritten, of all connections; beyond: 16 KiB at a time each
HTTP_BODY_BYTES_MAX: Final = 4 << 20  # of an HTTP/1.1 request; beyond: 413
GATEWAY_BODY_BYTES_MAX: Final = 64 << 20  # of a JSON request, whatever a message may have; beyond: 429
GATEWAY_STREAM_BYTES_MAX: Final = 4 << 20  # of one JSON value of a stream of requests; beyond: ResourceExhausted, a WebSocket: close 1009
GATEWAY_DEPTH_MAX: Final = 600  # messages inside messages in JSON; a transaction counts twice (TXN_DEPTH_MAX); beyond: 400
GATEWAY_QUOTED_BYTES_MAX: Final = 1_024  # of a value that a refusal repeats
STREAMS_MAX: Final = 100_000  # open streams of one HTTP/2 connection; beyond: REFUSED_STREAM
STREAM_RESETS_BURST: Final = 10_000  # streams taken back unanswered, per connection; beyond: GOAWAY ENHANCE_YOUR_CALM
STREAM_RESETS_PER_S: Final = 1_000
CONTROL_FRAMES_BURST: Final = 10_000  # frames that carry nothing, per connection; beyond: GOAWAY ENHANCE_YOUR_CALM
CONTROL_FRAMES_PER_S: Final = 1_000
DRAIN_TIMEOUT_MS: Final = 5_000
DRAIN_ALONE_MS: Final = 1_000  # a member that stops without a majority: nothing that waits for the store would be answered
CLIENT_VERSIONS_MAX: Final = 100  # different client-api-version values counted one by one; beyond: as "other"
KEEP_ALIVES_WAITING_MAX: Final = 10_000  # unanswered keep-alives of one stream; beyond: ResourceExhausted
RECIPES_RUNNING_MAX: Final = 50_000  # calls of Lock and Election under way, 12 KB each; beyond: "etcdserver: too many requests"
RANGE_STREAM_CHUNK_KEYS: Final = 10  # first chunk of RangeStream (etcd); grows towards REQUEST_BYTES_MAX

# scheduler
JOB_NAME_BYTES_MAX: Final = 512
STREAM_BACKLOG_TRIGGERS_MAX: Final = 200_000  # unread by one stream (spec D16: >= 100 000); beyond: treated as dead
STREAM_TYPES_MAX: Final = 10_000  # actor types and concurrency limits that one stream may declare; beyond: refused
STREAM_STALL_MS: Final = 5_000  # a full backlog that does not move for so long is a dead stream
COMMIT_BRANCHES_MAX: Final = 1_024  # results in one Raft entry: about 5 ms of apply
COMMIT_BYTES_MAX: Final = 2 << 20  # of them; one that is larger goes alone
BRANCH_FURTHER_MAX: Final = 8  # operations that a result brings along; an external etcd leaves 28 for those of one branch
COMMITS_IN_FLIGHT_MAX: Final = 8  # entries proposed and not yet answered; beyond: results wait
RESULTS_PENDING_MAX: Final = 200_000  # results not yet committed; beyond: no trigger fires
ACKS_WAITING_MAX: Final = 100_000  # messages of all streams, not yet worked off; beyond: the stream that brings more waits for them
ACKS_POSTPONED_MS_MAX: Final = 1_000  # acks wait while a tick is being sent, at most so long
LIST_PAGE_JOBS: Final = 1_000  # of ListJobs, as Dapr asks
JOB_PAGE_DEFAULT: Final = 100  # of raftsched.v1.Jobs/ListJobs
JOB_PAGE_MAX: Final = 1_000  # the same; beyond: INVALID_ARGUMENT
JOB_SCAN_MAX: Final = 100_000  # jobs that one ListJobs looks at; beyond: the page ends short, with a token
JOB_SCAN_PAGE_BYTES: Final = 1 << 20  # aimed at by each read of a listing, whose payloads come along
JOB_SCAN_PAGE_JOBS: Final = 500  # of each such read, at most
JOB_SEARCHES_MAX: Final = 64  # SearchJobs streams at a time; beyond: RESOURCE_EXHAUSTED
EXPLAINED_FIRES_DEFAULT: Final = 10  # of raftsched.v1.Jobs/ExplainSchedule
EXPLAINED_FIRES_MAX: Final = 1_000  # the same; beyond: INVALID_ARGUMENT
EXPLAINED_PASSED_MAX: Final = 1_000  # missed ticks of a calendar that are passed over and counted; beyond: so many are told
EXPLAINED_BYTES_MAX: Final = 4_096  # of each text that is to be explained; beyond: INVALID_ARGUMENT
HOLD_REASON_BYTES_MAX: Final = 1_024  # of a pause or a freeze; beyond: INVALID_ARGUMENT
HOLD_BY_BYTES_MAX: Final = 256  # who; beyond: the same
LABELS_MAX: Final = 32  # of a job, and of a filter; beyond: INVALID_ARGUMENT
LABEL_NAME_BYTES_MAX: Final = 128  # beyond, or none: the same
LABEL_VALUE_BYTES_MAX: Final = 256
MISFIRE_RUNS_MAX: Final = 100  # missed ticks that a policy can ask for; beyond: INVALID_ARGUMENT
MISFIRE_WINDOW_S_MAX: Final = 10 * 366 * 86_400  # the same of a window
MISFIRE_SKIP_S: Final = 60  # so late a tick is missed, for those who want none of these
RETRY_WAIT_S_MAX: Final = 366 * 86_400  # of a retry ladder; beyond: INVALID_ARGUMENT
RETRY_FACTOR_PERCENT_MAX: Final = 10_000  # the same
RETRY_ATTEMPTS_MAX: Final = 1_000_000  # the same, or without end
ERROR_BYTES_MAX: Final = 1_024  # of what a worker says of a failed run; beyond: cut
LAST_ERRORS_MAX: Final = 10_000  # jobs whose last error this replica remembers; beyond: the oldest is forgotten
DEAD_LETTERS_MAX: Final = 1_000  # of a namespace; beyond: the oldest go, a sixteenth at a time
DEAD_LETTERS_TRIM_MS: Final = 1_000  # between a letter and the look whether there are too many
DEAD_LETTER_PAYLOAD_BYTES_MAX: Final = 64 << 10  # kept with one; beyond: it is with the job alone; so are metadata and policy
DEAD_LETTER_RUNS_MAX: Final = 1_000  # that one request names; beyond: INVALID_ARGUMENT
BATCH_BYTES: Final = 64 << 10  # of triggers in a message of raftsched.v1.Workers; one that is larger goes alone
BATCHED_ACKS_BYTES_MAX: Final = 64 << 10  # of one message of answers there; beyond: the stream ends
BATCHED_ACK_BYTES: Final = 4  # of an answer there, at least; a turn's share of answers is counted by it
HISTORY_RUNS_MAX: Final = 100  # that a job can keep; beyond: INVALID_ARGUMENT
EVENT_LOG_BYTES: Final = 8 << 20  # of a replica, some 60,000 events; the oldest go. A power of two
EVENT_WATCHES_MAX: Final = 64  # WatchEvents streams at a time; beyond: RESOURCE_EXHAUSTED
EVENTS_PER_MESSAGE: Final = 256  # about 5 ms of decoding
EVENT_PROGRESS_MS: Final = 10_000  # a watch that has nothing to tell gets a token so often
JOB_CHANGE_BRANCHES_MAX: Final = 256  # jobs that one entry of PauseJobs and the like changes
JOB_CHANGE_ATTEMPTS_MAX: Final = 5  # of a job that changes under the hand; beyond: it counts as unchanged
SCAN_PAGE_KEYS: Final = 1_000  # of a load, per loop slice
TIME_TEXT_CHARACTERS_MAX: Final = 4_096  # of a schedule, due time or ttl; all of what cron can say takes some 700; beyond: refused
QUOTED_CHARACTERS_MAX: Final = 4_000  # of a name in an error's text; beyond: cut, for the door sends 4 KiB of a text and its end says why
SPEC_CACHE_ENTRIES: Final = 4_096  # parsed schedule texts kept
THROTTLED_LABELS_MAX: Final = 10_000  # gates whose refusals are counted, also of those that are gone; beyond: the stalest goes
GATE_LABEL_CHARACTERS_MAX: Final = 1_024  # of a gate's name in metrics; beyond: cut
CALENDAR_RULES_MAX: Final = 10_000  # of a calendar; beyond: INVALID_ARGUMENT
CALENDAR_BYTES_MAX: Final = 256 << 10  # of its record; beyond: the same
CALENDARS_MAX: Final = 10_000  # of all namespaces; beyond: RESOURCE_EXHAUSTED
CALENDARS_OF_SCHEDULE_MAX: Final = 8  # that one schedule may name; beyond: refused
EXCLUSIONS_SWEPT_AT: Final = 1_024  # combinations of calendars that are kept; then those that no job uses are given back
GATE_WAITERS_MAX: Final = 100_000  # per concurrency gate; beyond: FAILED
TRIGGERS_PER_ADVANCE: Final = 4_096  # due jobs that one wheel call hands over
LEADERSHIP_LEASE_TTL_S: Final = 20
CANARY_MS: Final = 500  # between two triggers of no job that show that this replica delivers
STUCK_MS: Final = 3_000  # nothing went through, or somebody waits, for so long: /readyz says 503 (the promise: within 5 s)
HANDOVER_RESULTS_MS: Final = 200  # how long results of jobs that move away are awaited before others may have them

# the fence (decision 0008): who may trigger how long
FENCE_WINDOW_MS: Final = 600  # since a leader sent the heartbeat that a quorum answered
FENCE_SILENT_MS: Final = 900  # without an answer: that member triggers no more; its jobs go to others
FENCE_ELECTED_MS: Final = 700  # the same for who was not heard since the leader's election, and after a key vanished
FENCE_SLEPT_MS: Final = 300  # between two heartbeats: the leader itself slept, and listens as long before it calls anyone dead
FENCE_ALONE_MS: Final = 1 << 62  # of a lone voter: nobody else can be elected
SILENCE_POLL_MS: Final = 200  # the leader's scheduler looks for silent members so often
ALONE_POLL_MS: Final = 1_000  # the same while it knows of no other: far less than anybody's silence is long
FENCE_LOANS_MAX: Final = 64  # numbered heartbeats or loans remembered: at 50 ms apart, five windows; older ones count for nothing
STORE_RETRY_MS_MIN: Final = 50  # doubling; a leader change is over in less than a second
STORE_RETRY_MS_MAX: Final = 500  # a full store: looks again so often, since ticks wait

# scheduler: an external etcd (decision 0010)
EXTERNAL_CALL_MS: Final = 5_000  # one call at one member; etcd itself gives up after 7 s
EXTERNAL_PING_MS: Final = 10_000  # etcd closes connections that are pinged more often than each 5 s
EXTERNAL_PING_TIMEOUT_MS: Final = 5_000
EXTERNAL_RECONNECT_MS: Final = 100  # quadrupling twice at most
EXTERNAL_AVOID_MS: Final = 5_000  # a member that failed is asked last for so long
EXTERNAL_LOGIN_REFUSED_MS: Final = 2_000  # after a refused password nobody asks again for so long
EXTERNAL_PROGRESS_MS: Final = 2_000  # the watch is asked so often how far it has come ...
EXTERNAL_ASK_AGAIN_MS: Final = 100  # ... and while somebody waits for that
EXTERNAL_SILENCE_MS: Final = 6_000  # a watch that says nothing for so long is opened anew
EXTERNAL_STANDS_MS: Final = 1_000  # a watch that stands still so long before what etcd is known to have: another member is asked ...
EXTERNAL_LAGS_MS: Final = 5_000  # ... or that is so far behind, though it moves; doubled each time, up to eight times as long ...
EXTERNAL_STEADY_MS: Final = 30_000  # ... and as at first after a stream that lived so long
EXTERNAL_TELL_CHANGES: Final = 1_000  # changes told in one turn of the loop, or one revision
EXTERNAL_HELD_CHANGES_MAX: Final = 100_000  # of keys beside Dapr's that wait for Dapr's; beyond: all is loaded again
EXTERNAL_SETTLE_MS: Final = 200  # an answer waits so long for its own change to be told; results of triggers: without limit
EXTERNAL_RENEW_MS: Final = 3_000  # between renewals of the leadership lease
EXTERNAL_RENEW_AGAIN_MS: Final = 250
EXTERNAL_RENEW_TIMEOUT_MS: Final = 3_000
EXTERNAL_FENCE_MARGIN_MS: Final = 4_000  # triggers stop so long before the lease can end: a deposed leader may have renewed it
EXTERNAL_OPERATIONS: Final = 100  # in one transaction, of etcd's 128; a nested one's own count on top
EXTERNAL_PACK_BYTES: Final = 512 << 10  # of one transaction of many; etcd takes 1.5 MiB
EXTERNAL_PACK_BYTES_MIN: Final = 32 << 10  # the same of an etcd that takes less: so far it is learned
EXTERNAL_CALLS_MAX: Final = 16  # writes under way at a time; beyond: they wait, and are packed
EXTERNAL_PAGE_BYTES: Final = 8 << 20  # a page of a load is made so large, as far as one can know before
EXTERNAL_LOOK_MS: Final = 1_000  # between two looks at etcd's condition
EXTERNAL_LOOK_TIMEOUT_MS: Final = 1_000  # of one member; a slower one is left for another
EXTERNAL_BESIDE_MS: Final = 10_000  # between two looks whether keys may be read that could not
EXTERNAL_UNHEALTHY_MS: Final = 6_000  # since it was found well: /healthz says 503 (the contract: within 10 s)
EXTERNAL_START_MS: Final = 60_000  # never reached since the start: healthy for so long
