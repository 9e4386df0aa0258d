"""The wire work of a job that runs once per request: requests in, stored.Job out, stored.Job back as API messages.

Invariant: bytes that a client gave (payload, metadata, failure policy) are copied, never decoded and written anew, so that
unknown fields survive. Must not know: schedules, clocks, the store.
"""
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport strlen

from raftsched.scheduler.jobs._stored cimport (
    BEGIN_DUE, INSTANT_SIZE_MAX, JOBS_PREFIX, JOBS_PREFIX_SIZE, METADATA_TYPE_URL, PB_BYTES, PB_VARINT, POLICY_UNSET,
    any_parse, counter_parse, counter_put, counter_t, instant_t, kv_parse, kv_t, metadata_parse, metadata_t, outcomes_parse, pb_bytes_size,
    pb_field, pb_in, pb_next, pb_number_size, pb_open, pb_put_bytes, pb_put_head, pb_put_instant, pb_put_number, pb_put_raw, policy_parse,
    policy_t, prefix_match, slice_t, stored_job_parse, stored_job_t,
    utc_parse,
)

# constant{interval 1 s, max_retries 3}: what an unset failure policy means (spec §5.2)
DEFAULT_POLICY = b"\x12\x06\x0a\x02\x08\x01\x10\x03"


cdef enum:
    TARGET_EMPTY = 3  # as in names.py


class WireError(ValueError):
    """The bytes are no such message."""


cdef inline slice_t view(bytes data) noexcept:
    cdef slice_t s
    s.data = <const uint8_t*>PyBytes_AS_STRING(data)
    s.size = PyBytes_GET_SIZE(data)
    return s


cdef inline bytes copy(slice_t s):
    return PyBytes_FromStringAndSize(<const char*>s.data, s.size)


cdef str text(slice_t s):
    if s.size == 0:
        return ""
    try:
        return (<const char*>s.data)[:s.size].decode("utf-8")
    except UnicodeDecodeError:
        raise WireError("string field contains invalid UTF-8") from None


cdef tuple metadata_tuple(slice_t body):
    cdef metadata_t m
    if metadata_parse(body, &m) < 0:
        raise WireError("malformed JobMetadata")
    target = TARGET_EMPTY if m.has_target and not m.target else <int>m.target
    return (text(m.app_id), text(m.name_space), target, text(m.actor_id), text(m.actor_type),
            text(m.concurrency_key) if m.has_concurrency_key else None)


def parse_metadata(bytes body not None):
    """(app id, namespace, target 0 none | 1 job | 2 actor | 3 empty, actor id, actor type, concurrency key or None)."""
    return metadata_tuple(view(body))


cdef tuple job_tuple(slice_t body):
    """(schedule, repeats, due_time, ttl, data, failure_policy), None where absent; an empty policy oneof counts as absent."""
    cdef pb_in source = pb_open(body)
    cdef pb_field f
    cdef policy_t policy
    cdef slice_t url, value
    cdef int got = pb_next(&source, &f)
    schedule = repeats = due_time = ttl = data = failure_policy = None
    while got == 1:
        if f.number <= 6 and f.type == <uint32_t>(PB_VARINT if f.number == 2 else PB_BYTES):
            if f.number == 1:
                schedule = text(f.body)
            elif f.number == 2:
                repeats = <uint32_t>f.value
            elif f.number == 3:
                due_time = text(f.body)
            elif f.number == 4:
                ttl = text(f.body)
            elif f.number == 5:
                if any_parse(f.body, &url, &value) < 0:
                    raise WireError("malformed Any")
                text(url)
                data = copy(f.body)
            else:
                if policy_parse(f.body, &policy) < 0:
                    raise WireError("malformed JobFailurePolicy")
                failure_policy = None if policy.kind == POLICY_UNSET else copy(f.body)
        got = pb_next(&source, &f)
    if got < 0:
        raise WireError("malformed Job")
    return (schedule, repeats, due_time, ttl, data, failure_policy)


def parse_request(bytes request not None, uint32_t number=0):
    """Any of the unary requests of the scheduler API: (field 1, field 2), as bytes, but field `number` as an int.

    Absent fields are None, and those of another wire type. Raises `WireError`.
    """
    cdef pb_in source = pb_open(view(request))
    cdef pb_field f
    cdef list found = [None, None]
    cdef int got = pb_next(&source, &f)
    while got == 1:
        if f.number <= 2 and f.type == <uint32_t>(PB_VARINT if f.number == number else PB_BYTES):
            found[f.number - 1] = f.value if f.number == number else copy(f.body)
        got = pb_next(&source, &f)
    if got < 0:
        raise WireError("malformed request")
    return tuple(found)


def parse_schedule_request(bytes request not None):
    """ScheduleJobRequest as (name, job or None, metadata bytes, metadata tuple or None, overwrite).

    `job` is (schedule, repeats, due_time, ttl, data, failure_policy), see `parse_metadata` for the metadata. Raises `WireError`.
    """
    cdef pb_in source = pb_open(view(request))
    cdef pb_field f
    cdef int got = pb_next(&source, &f)
    name = ""
    job = metadata = None
    cdef bytes metadata_bytes = b""
    cdef bint overwrite = False
    while got == 1:
        if f.number <= 4 and f.type == <uint32_t>(PB_VARINT if f.number == 4 else PB_BYTES):
            if f.number == 1:
                name = text(f.body)
            elif f.number == 2:
                job = job_tuple(f.body)
            elif f.number == 3:
                metadata_bytes = copy(f.body)
                metadata = metadata_tuple(f.body)
            else:
                overwrite = f.value != 0
        got = pb_next(&source, &f)
    if got < 0:
        raise WireError("malformed ScheduleJobRequest")
    return (name, job, metadata_bytes, metadata, overwrite)


cdef inline instant_t instant(int64_t seconds, int32_t nanos) noexcept:
    cdef instant_t t
    t.s = seconds
    t.ns = nanos
    return t


def encode_stored_job(uint64_t partition_id, bint due, int64_t begin_s, int32_t begin_ns, expiration, bytes schedule, bytes due_time,
                      bytes ttl, repeats, bytes metadata not None, bytes payload, bytes failure_policy):
    """The bytes of stored.Job (spec §6.1); None leaves a field out. `expiration` is (seconds, nanos) or None.

    `due`: begin is the due time, else the instant of receipt. `metadata` is the JobMetadata message, `payload` the Any,
    `failure_policy` a JobFailurePolicy with its oneof set.
    """
    cdef size_t url = strlen(METADATA_TYPE_URL), any_size, inner
    cdef instant_t begin = instant(begin_s, begin_ns), expires
    cdef uint32_t times = 0 if repeats is None else repeats
    any_size = pb_bytes_size(1, url) + pb_bytes_size(2, len(metadata))
    inner = pb_bytes_size(5, any_size)
    if schedule is not None:
        inner += pb_bytes_size(1, len(schedule))
    if due_time is not None:
        inner += pb_bytes_size(2, len(due_time))
    if ttl is not None:
        inner += pb_bytes_size(3, len(ttl))
    if repeats is not None:
        inner += pb_number_size(4, times)
    if payload is not None:
        inner += pb_bytes_size(6, len(payload))
    if failure_policy is not None:
        inner += pb_bytes_size(7, len(failure_policy))
    cdef bytes result = PyBytes_FromStringAndSize(NULL, 11 + 2 * (INSTANT_SIZE_MAX + 2) + pb_bytes_size(5, inner))
    cdef uint8_t* start = <uint8_t*>PyBytes_AS_STRING(result)
    cdef uint8_t* at = start
    if partition_id:
        at = pb_put_number(at, 1, partition_id)
    if expiration is not None:
        expires = instant(expiration[0], expiration[1])
        at = pb_put_instant(at, 4, expires)
    at = pb_put_head(at, 5, inner)
    if schedule is not None:
        at = pb_put_bytes(at, 1, PyBytes_AS_STRING(schedule), len(schedule))
    if due_time is not None:
        at = pb_put_bytes(at, 2, PyBytes_AS_STRING(due_time), len(due_time))
    if ttl is not None:
        at = pb_put_bytes(at, 3, PyBytes_AS_STRING(ttl), len(ttl))
    if repeats is not None:
        at = pb_put_number(at, 4, times)
    at = pb_put_head(at, 5, any_size)
    at = pb_put_bytes(at, 1, METADATA_TYPE_URL, url)
    at = pb_put_bytes(at, 2, PyBytes_AS_STRING(metadata), len(metadata))
    if payload is not None:
        at = pb_put_bytes(at, 6, PyBytes_AS_STRING(payload), len(payload))
    if failure_policy is not None:
        at = pb_put_bytes(at, 7, PyBytes_AS_STRING(failure_policy), len(failure_policy))
    at = pb_put_instant(at, 3 if due else 2, begin)  # of a oneof, which Go writes last
    return result[:at - start]


def utc_instant(str given not None):
    """(seconds, nanos) of an RFC 3339 instant in UTC with at most nine digits of fraction; None = another form, or none at all."""
    cdef slice_t s
    cdef instant_t instant
    cdef Py_ssize_t size
    s.data = <const uint8_t*>PyUnicode_AsUTF8AndSize(given, &size)
    s.size = size
    return (instant.s, instant.ns) if utc_parse(s, &instant) else None


cdef size_t key_size(bytes name) noexcept:
    return JOBS_PREFIX_SIZE + PyBytes_GET_SIZE(name)


cdef uint8_t* put_key(uint8_t* at, uint32_t number, bytes name) noexcept:
    at = pb_put_head(at, number, key_size(name))
    at = pb_put_raw(at, JOBS_PREFIX, JOBS_PREFIX_SIZE)
    return pb_put_raw(at, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))


def put_job_request(bytes name not None, bytes value not None):
    """PutRequest of a job by composed name."""
    cdef size_t size = pb_bytes_size(1, key_size(name)) + pb_bytes_size(2, PyBytes_GET_SIZE(value))
    cdef bytes result = PyBytes_FromStringAndSize(NULL, size)
    cdef uint8_t* at = put_key(<uint8_t*>PyBytes_AS_STRING(result), 1, name)
    pb_put_bytes(at, 2, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    return result


def create_job_request(bytes name not None, bytes value not None):
    """TxnRequest: if there is no job of this composed name, put it; else read it."""
    cdef size_t key = pb_bytes_size(1, key_size(name))
    cdef size_t compare = 2 + key + 2                   # target CREATE, the key, create_revision 0
    cdef size_t put = key + pb_bytes_size(2, PyBytes_GET_SIZE(value))
    cdef size_t size = pb_bytes_size(1, compare) + pb_bytes_size(2, pb_bytes_size(2, put)) + pb_bytes_size(3, pb_bytes_size(1, key))
    cdef bytes result = PyBytes_FromStringAndSize(NULL, size)
    cdef uint8_t* at = pb_put_head(<uint8_t*>PyBytes_AS_STRING(result), 1, compare)
    at = pb_put_number(at, 2, 1)
    at = put_key(at, 3, name)
    at = pb_put_number(at, 5, 0)
    at = pb_put_head(at, 2, pb_bytes_size(2, put))
    at = pb_put_head(at, 2, put)
    at = put_key(at, 1, name)
    at = pb_put_bytes(at, 2, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
    at = pb_put_head(at, 3, pb_bytes_size(1, key))
    at = pb_put_head(at, 1, key)
    put_key(at, 1, name)
    return result


def decode_stored_job(bytes value not None):
    """(partition_id, due, (begin s, ns), expiration or None, schedule, due_time, ttl, repeats, metadata, payload, policy).

    `metadata` is the JobMetadata message, None if the Any holds something else. Raises `WireError` (also without begin or job).
    """
    cdef stored_job_t job
    if stored_job_parse(view(value), &job) < 0:
        raise WireError("malformed stored.Job")
    return (
        job.partition_id, job.begin_kind == BEGIN_DUE, (job.begin.s, job.begin.ns),
        (job.expiration.s, job.expiration.ns) if job.has_expiration else None,
        copy(job.schedule) if job.has_schedule else None, copy(job.due_time) if job.has_due_time else None,
        copy(job.ttl) if job.has_ttl else None, job.repeats if job.has_repeats else None,
        copy(job.metadata) if job.has_metadata else None, copy(job.payload) if job.has_payload else None,
        copy(job.policy) if job.has_policy else None,
    )


def encode_counter(uint64_t partition_id, uint32_t count, last, uint32_t attempts):
    """The bytes of stored.Counter; `last` is (seconds, nanos) or None."""
    cdef counter_t counter
    cdef uint8_t out[64]
    counter.partition_id = partition_id
    counter.count = count
    counter.attempts = attempts
    counter.has_last = last is not None
    counter.last = instant(0, 0) if last is None else instant(last[0], last[1])
    return PyBytes_FromStringAndSize(<char*>out, counter_put(out, &counter) - out)


def decode_counter(bytes value not None):
    """(job_partition_id, count, last trigger (seconds, nanos) or None, attempts). Raises `WireError`."""
    cdef counter_t counter
    if counter_parse(view(value), &counter) < 0:
        raise WireError("malformed stored.Counter")
    return (counter.partition_id, counter.count, (counter.last.s, counter.last.ns) if counter.has_last else None, counter.attempts)


cdef size_t api_job_size(const stored_job_t* job, slice_t policy) noexcept:
    cdef size_t size = pb_bytes_size(6, policy.size) if policy.size else 0
    if job.has_schedule:
        size += pb_bytes_size(1, job.schedule.size)
    if job.has_repeats:
        size += pb_number_size(2, job.repeats)
    if job.has_due_time:
        size += pb_bytes_size(3, job.due_time.size)
    if job.has_ttl:
        size += pb_bytes_size(4, job.ttl.size)
    if job.has_payload:
        size += pb_bytes_size(5, job.payload.size)
    return size


cdef uint8_t* put_api_job(uint8_t* at, uint32_t number, const stored_job_t* job, slice_t policy) noexcept:
    at = pb_put_head(at, number, api_job_size(job, policy))
    if job.has_schedule:
        at = pb_put_bytes(at, 1, job.schedule.data, job.schedule.size)
    if job.has_repeats:
        at = pb_put_number(at, 2, job.repeats)
    if job.has_due_time:
        at = pb_put_bytes(at, 3, job.due_time.data, job.due_time.size)
    if job.has_ttl:
        at = pb_put_bytes(at, 4, job.ttl.data, job.ttl.size)
    if job.has_payload:
        at = pb_put_bytes(at, 5, job.payload.data, job.payload.size)
    return pb_put_bytes(at, 6, policy.data, policy.size) if policy.size else at


cdef slice_t policy_of(const stored_job_t* job) noexcept:
    """As it is stored; empty if there is none, which only records have that others wrote."""
    cdef policy_t policy
    if job.has_policy and policy_parse(job.policy, &policy) == 0 and policy.kind != POLICY_UNSET:
        return job.policy
    return view(b"")


def get_job_response(bytes value not None):
    """stored.Job → GetJobResponse{1 job}. Raises `WireError`."""
    cdef stored_job_t job
    if stored_job_parse(view(value), &job) < 0:
        raise WireError("malformed stored.Job")
    cdef slice_t policy = policy_of(&job)
    cdef bytes result = PyBytes_FromStringAndSize(NULL, pb_bytes_size(1, api_job_size(&job, policy)))
    put_api_job(<uint8_t*>PyBytes_AS_STRING(result), 1, &job, policy)
    return result


cdef class JobPage:
    """One RangeResponse over dapr/jobs/ as a piece of ListJobsResponse: pieces of one revision simply follow each other."""

    cdef readonly bytes jobs
    """Encoded `jobs` entries (field 1) of ListJobsResponse."""
    cdef readonly bytes last_key
    cdef readonly int count
    cdef readonly bint more
    cdef readonly tuple mismatch
    """(key, expected prefix) of the first record whose metadata do not lead to its key, else None."""
    cdef readonly list undecodable
    """Keys of records that are no stored.Job: left out."""


cdef bytes named_job(slice_t name, const stored_job_t* job):
    cdef slice_t policy = policy_of(job)
    cdef size_t size = api_job_size(job, policy)
    cdef size_t inner = pb_bytes_size(2, job.metadata.size) + pb_bytes_size(3, size)
    if name.size:
        inner += pb_bytes_size(1, name.size)
    cdef bytes result = PyBytes_FromStringAndSize(NULL, pb_bytes_size(1, inner))
    cdef uint8_t* at = pb_put_head(<uint8_t*>PyBytes_AS_STRING(result), 1, inner)
    if name.size:
        at = pb_put_bytes(at, 1, name.data, name.size)
    at = pb_put_bytes(at, 2, job.metadata.data, job.metadata.size)
    put_api_job(at, 3, job, policy)
    return result


def list_page(bytes body not None):
    """RangeResponse (without header) → `JobPage`. Raises `WireError` if the bytes are no RangeResponse."""
    cdef JobPage page = JobPage()
    cdef pb_in source = pb_open(view(body))
    cdef pb_field f
    cdef kv_t kv
    cdef stored_job_t job
    cdef metadata_t metadata
    cdef slice_t name
    cdef size_t prefix, route
    cdef list pieces = []
    cdef int got = pb_next(&source, &f)
    page.undecodable = []
    while got == 1:
        if f.number == 3 and f.type == PB_VARINT:
            page.more = f.value != 0
        elif f.number == 2 and f.type == PB_BYTES:
            if kv_parse(f.body, &kv) < 0 or kv.key.size < JOBS_PREFIX_SIZE:
                raise WireError("malformed RangeResponse")
            page.count += 1
            page.last_key = copy(kv.key)
            name.data = kv.key.data + JOBS_PREFIX_SIZE
            name.size = kv.key.size - JOBS_PREFIX_SIZE
            if stored_job_parse(kv.value, &job) < 0 or not job.has_metadata or metadata_parse(job.metadata, &metadata) < 0:
                page.undecodable.append(copy(kv.key))
            else:
                prefix = prefix_match(name, &metadata, &route)
                if prefix == 0:
                    if page.mismatch is None:
                        page.mismatch = (copy(kv.key), copy(job.metadata))
                else:
                    name.data += prefix
                    name.size -= prefix
                    pieces.append(named_job(name, &job))
        got = pb_next(&source, &f)
    if got < 0:
        raise WireError("malformed RangeResponse")
    page.jobs = b"".join(pieces)
    return page


def range_kvs(bytes body not None):
    """RangeResponse (without header) → list of (key, value, mod_revision, lease, create_revision). Raises `WireError`."""
    cdef pb_in source = pb_open(view(body))
    cdef pb_field f
    cdef kv_t kv
    cdef list found = []
    cdef int got = pb_next(&source, &f)
    while got == 1:
        if f.number == 2 and f.type == PB_BYTES:
            if kv_parse(f.body, &kv) < 0:
                raise WireError("malformed KeyValue")
            found.append((copy(kv.key), copy(kv.value), kv.mod_revision, kv.lease, kv.create_revision))
        got = pb_next(&source, &f)
    if got < 0:
        raise WireError("malformed RangeResponse")
    return found


def parse_kv(bytes record not None):
    """The stored mvccpb.KeyValue as (key, value, mod_revision, lease, create_revision). Raises `WireError`."""
    cdef kv_t kv
    if kv_parse(view(record), &kv) < 0:
        raise WireError("malformed KeyValue")
    return (copy(kv.key), copy(kv.value), kv.mod_revision, kv.lease, kv.create_revision)


def txn_succeeded(bytes body not None):
    """TxnResponse.succeeded. Raises `WireError`."""
    cdef pb_in source = pb_open(view(body))
    cdef pb_field f
    cdef bint succeeded = False
    cdef int got = pb_next(&source, &f)
    while got == 1:
        if f.number == 2 and f.type == PB_VARINT:
            succeeded = f.value != 0
        got = pb_next(&source, &f)
    if got < 0:
        raise WireError("malformed TxnResponse")
    return succeeded


def parse_leadership(bytes value not None):
    """cron.stored.Leadership as (total, uid, address of the host); address "" if the replica data hold none. Raises `WireError`."""
    cdef pb_in source = pb_open(view(value)), inner
    cdef pb_field f, g
    cdef int got = pb_next(&source, &f)
    total = uid = 0
    address = ""
    while got == 1:
        if f.number == 1 and f.type == PB_VARINT:
            total = f.value
        elif f.number == 2 and f.type == PB_VARINT:
            uid = f.value
        elif f.number == 3 and f.type == PB_BYTES:
            inner = pb_open(f.body)
            while pb_next(&inner, &g) == 1:
                if g.number == 2 and g.type == PB_BYTES:
                    address = host_address(g.body)
        got = pb_next(&source, &f)
    if got < 0:
        raise WireError("malformed Leadership")
    return (total, uid, address)


cdef str host_address(slice_t host):
    cdef pb_in source = pb_open(host)
    cdef pb_field f
    address = ""
    while pb_next(&source, &f) == 1:
        if f.number == 1 and f.type == PB_BYTES:
            address = text(f.body)
    return address


def txn_outcomes(bytes body not None, size_t count):
    """TxnResponse of a packed request of `count` branches → one byte 0 or 1 each. Raises `WireError`."""
    cdef bytes result = PyBytes_FromStringAndSize(NULL, count)
    if outcomes_parse(view(body), <uint8_t*>PyBytes_AS_STRING(result), count) < 0:
        raise WireError("not the answer to this transaction")
    return result
