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
REQUEST_TIMEOUT_MS: Final = 7_000  # etcd: 5 s + 2 x election timeout; beyond: "etcdserver: request timed out"

# store: log, records, history
WAL_SEGMENT_BYTES: Final = 64_000_000  # etcd
WAL_ZERO_AHEAD_BYTES: Final = 4 << 20
WAL_RESERVE_BYTES: Final = 8 << 20  # serves deletes, compaction and alarms when the disk is full
WAL_ENTRY_BYTES_MAX: Final = 2**31 - 1
UNCOMMITTED_BYTES_MAX: Final = 4 << 30  # one request may be 2 GiB - 1; beyond: "etcdserver: too many requests"
PENDING_RECORDS_BYTES_MAX: Final = 1 << 30  # records not yet in LMDB; beyond: proposals wait
BACKEND_MAP_BYTES: Final = 1 << 40
SUPERSEDED_RECORDS_MAX: Final = 2_000_000  # beyond: compaction at once ...
SUPERSEDED_RECORDS_KEPT: Final = 100_000  # ... to the oldest revision that leaves this many
SNAPSHOT_INTERVAL_MIN_MS: Final = 10_000
LOOP_SLICE_MS: Final = 5

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

# rpc: the door
BODIES_IN_FLIGHT_RAM_SHARE: Final = 0.25  # of all RAM, for request bodies; beyond: ResourceExhausted
HEADER_LIST_BYTES_MAX: Final = 16_384
WRITE_BUFFER_BYTES: Final = 1 << 20  # collected and unwritten per connection before it stops collecting
FIRST_REQUEST_TIMEOUT_MS: Final = 20_000  # a connection that says nothing is closed
STREAM_BUFFER_BYTES: Final = 256 << 10  # pushed and uncollected per stream; beyond: `push` says stop
STREAM_HOLD_BYTES: Final = 4 << 20  # beyond: what the peer sends on this stream waits until it reads
CONNECTION_BACKLOG_BYTES: Final = 64 << 20  # answers uncollected per connection; beyond: its next requests wait
UNWRITTEN_BYTES_MAX: Final = 64 << 20  # collected, unwritten, of all connections; beyond: 16 KiB at a time each
HTTP_BODY_BYTES_MAX: Final = 4 << 20  # of an HTTP/1.1 request; beyond: 413
STREAM_RESETS_BURST: Final = 10_000  # streams taken back unanswered, per connection; beyond: GOAWAY ENHANCE_YOUR_CALM
STREAM_RESETS_PER_S: Final = 1_000
CONTROL_FRAMES_BURST: Final = 10_000  # frames that carry nothing, per connection; beyond: GOAWAY ENHANCE_YOUR_CALM
CONTROL_FRAMES_PER_S: Final = 1_000
DRAIN_TIMEOUT_MS: Final = 5_000
CLIENT_VERSIONS_MAX: Final = 100  # different client-api-version values counted one by one; beyond: as "other"
KEEP_ALIVES_WAITING_MAX: Final = 10_000  # unanswered keep-alives of one stream; beyond: ResourceExhausted
RANGE_STREAM_CHUNK_KEYS: Final = 10  # first chunk of RangeStream (etcd); grows towards REQUEST_BYTES_MAX

# scheduler
JOB_NAME_BYTES_MAX: Final = 512
STREAM_BACKLOG_TRIGGERS_MAX: Final = 200_000  # unread by one stream (spec D16: >= 100 000); beyond: treated as dead
STREAM_STALL_MS: Final = 5_000  # a full backlog that does not move for so long is a dead stream
COMMIT_BRANCHES_MAX: Final = 1_024  # results in one Raft entry: about 5 ms of apply
COMMITS_IN_FLIGHT_MAX: Final = 8  # entries proposed and not yet answered; beyond: results wait
RESULTS_PENDING_MAX: Final = 200_000  # results not yet committed; beyond: no trigger fires
ACKS_POSTPONED_MS_MAX: Final = 1_000  # acks wait while a tick is being sent, at most so long
LIST_PAGE_JOBS: Final = 1_000  # of ListJobs, as Dapr asks
SCAN_PAGE_KEYS: Final = 1_000  # of a load, per loop slice
SPEC_CACHE_ENTRIES: Final = 4_096  # parsed schedule texts kept
GATE_WAITERS_MAX: Final = 100_000  # per concurrency gate; beyond: FAILED
TRIGGERS_PER_ADVANCE: Final = 4_096  # due jobs that one wheel call hands over
LEADERSHIP_LEASE_TTL_S: Final = 20
STORE_RETRY_MS_MIN: Final = 50  # doubling; a leader change is over in less than a second
STORE_RETRY_MS_MAX: Final = 5_000  # a full store: looks again so often
