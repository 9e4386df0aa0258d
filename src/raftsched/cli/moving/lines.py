"""One job as a line of JSON: what its owner said, what is stored, how far it has come, and the bytes themselves."""

import base64
from typing import Any

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from raftsched.cli import render
from raftsched.cli.moving.entries import Entry
from raftsched.pb.dapr import scheduler_pb2, stored_pb2
from raftsched.scheduler.jobs.names import COUNTERS, JOBS


def as_line(entry: Entry) -> dict[str, Any]:
    """`stored` and `stored_counter` are the values, in base64; a value that cannot be read has nothing beside them."""
    found: dict[str, Any] = {"key": (JOBS + entry.name).decode(errors="backslashreplace"), **_described(entry)}
    if entry.job is not None:
        found["stored"] = base64.b64encode(entry.job).decode()
    if entry.counter is not None:
        found["counter_key"] = (COUNTERS + entry.name).decode(errors="backslashreplace")
        found["stored_counter"] = base64.b64encode(entry.counter).decode()
    return found


def _described(entry: Entry) -> dict[str, Any]:
    try:
        job = stored_pb2.Job.FromString(entry.job or b"")
        counter = None if entry.counter is None else stored_pb2.Counter.FromString(entry.counter)
        metadata = scheduler_pb2.JobMetadata()
        job.job.metadata.Unpack(metadata)
        shown = render.job_as_dict(_short(entry.name, metadata), metadata, _public(job))
    except (DecodeError, UnicodeDecodeError, ValueError):
        return {}
    for name in ("start", "due_time", "expiration"):
        if job.HasField(name):
            shown["due" if name == "due_time" else name] = _instant(getattr(job, name))
    if counter is not None and counter.job_partition_id == job.partition_id:
        shown["count"], shown["attempts"] = counter.count, counter.attempts
        if counter.HasField("last_trigger"):
            shown["last_trigger"] = _instant(counter.last_trigger)
    return shown


def _short(name: bytes, metadata: scheduler_pb2.JobMetadata) -> str:
    """The name in its app or actor: by the metadata, as `||` may stand anywhere."""
    if metadata.target.HasField("actor"):
        prefix = f"actorreminder||{metadata.namespace}||{metadata.target.actor.type}||{metadata.target.actor.id}||"
    else:
        prefix = f"app||{metadata.namespace}||{metadata.app_id}||"
    return name.decode().removeprefix(prefix)


def _public(job: stored_pb2.Job) -> scheduler_pb2.Job:
    """As GetJob answers it; the policy's fields have the same numbers."""
    stored = job.job
    public = scheduler_pb2.Job()
    for name in ("schedule", "due_time", "ttl", "repeats"):
        if stored.HasField(name):
            setattr(public, name, getattr(stored, name))
    if stored.HasField("payload"):
        public.data.CopyFrom(stored.payload)
    if stored.HasField("failure_policy"):
        public.failure_policy.ParseFromString(stored.failure_policy.SerializeToString())
    return public


def _instant(stamp: Timestamp) -> str:
    return stamp.ToJsonString()
