"""The wire work of a job, native; see `_jobs.pyx`."""

from typing import Final

from raftsched.scheduler.jobs.fields import Instant, JobFields, Metadata

DEFAULT_POLICY: Final[bytes]
"""JobFailurePolicy constant{interval 1 s, max_retries 3}: what an unset policy means (spec §5.2)."""

class WireError(ValueError):
    """The bytes are no such message."""

def parse_metadata(body: bytes) -> Metadata: ...
def parse_request(request: bytes, number: int = 0) -> tuple[bytes | int | None, bytes | int | None]:
    """Fields 1 and 2 of a request as bytes, but field `number` as int; None = absent, or of another wire type. Raises `WireError`."""

def parse_schedule_request(request: bytes) -> tuple[str, JobFields | None, bytes, Metadata | None, bool]:
    """ScheduleJobRequest as (name, job, metadata bytes, metadata, overwrite). Raises `WireError`."""

def encode_stored_job(
    partition_id: int,
    due: bool,
    begin_s: int,
    begin_ns: int,
    expiration: Instant | None,
    schedule: bytes | None,
    due_time: bytes | None,
    ttl: bytes | None,
    repeats: int | None,
    metadata: bytes,
    payload: bytes | None,
    failure_policy: bytes | None,
) -> bytes:
    """The bytes of stored.Job (spec §6.1); None leaves a field out. `due`: begin is the due time, else the receipt."""

def utc_instant(given: str) -> Instant | None:
    """Of an RFC 3339 instant in UTC with at most nine digits of fraction; None = another form, or none at all."""

def put_job_request(name: bytes, value: bytes) -> bytes:
    """PutRequest of a job by composed name."""

def create_job_request(name: bytes, value: bytes) -> bytes:
    """TxnRequest: if there is no job of this composed name, put it; else read it."""

def decode_stored_job(
    value: bytes,
) -> tuple[
    int,
    bool,
    Instant,
    Instant | None,
    bytes | None,
    bytes | None,
    bytes | None,
    int | None,
    bytes | None,
    bytes | None,
    bytes | None,
]:
    """(partition_id, due, begin, expiration, schedule, due_time, ttl, repeats, metadata, payload, policy). Raises `WireError`."""

def encode_counter(partition_id: int, count: int, last: Instant | None, attempts: int) -> bytes: ...
def decode_counter(value: bytes) -> tuple[int, int, Instant | None, int]:
    """(job_partition_id, count, last trigger, attempts). Raises `WireError`."""

def get_job_response(value: bytes) -> bytes:
    """stored.Job → GetJobResponse, the failure policy filled in. Raises `WireError`."""

class JobPage:
    """One RangeResponse over dapr/jobs/ as a piece of ListJobsResponse: pieces of one revision simply follow each other."""

    jobs: bytes
    last_key: bytes | None
    count: int
    more: bool
    mismatch: tuple[bytes, bytes] | None
    """(key, JobMetadata bytes) of the first record whose metadata do not lead to its key."""
    undecodable: list[bytes]

def list_page(body: bytes) -> JobPage: ...
def range_kvs(body: bytes) -> list[tuple[bytes, bytes, int, int, int]]:
    """RangeResponse → (key, value, mod_revision, lease) each. Raises `WireError`."""

def parse_kv(record: bytes) -> tuple[bytes, bytes, int, int, int]: ...
def txn_succeeded(body: bytes) -> bool: ...
def parse_leadership(value: bytes) -> tuple[int, int, str]:
    """cron.stored.Leadership as (total, uid, address of the host). Raises `WireError`."""

def txn_outcomes(body: bytes, count: int) -> bytes:
    """TxnResponse of a packed request of `count` branches → one byte 0 or 1 each. Raises `WireError`."""
