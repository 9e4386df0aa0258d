"""Jobs and payloads as people read them, and as JSON for scripts.

Invariant: what a stranger stored cannot steer the terminal: nothing unprintable is written raw. Only the payloads of a list on a
terminal are cut.
"""

import base64
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf import any_pb2, json_format, struct_pb2, wrappers_pb2
from google.protobuf.message import DecodeError
from rich.cells import cell_len, set_cell_size

from raftsched.pb.dapr import common_pb2, scheduler_pb2
from raftsched.units import NS_PER_S, format_duration

GAP = "  "
PAYLOAD_CELLS_MIN = 20  # of a list on a terminal, however narrow it is


def plain(text: str) -> str:
    """`text` with everything unprintable, line ends included, escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape", "replace").decode() for char in text)


def encode_payload(text: str) -> any_pb2.Any:
    """JSON as google.protobuf.Value, as Dapr's sidecar does it; any other text as StringValue, NaN and Infinity too."""
    packed = any_pb2.Any()
    value = struct_pb2.Value()
    try:
        json_format.Parse(text, value)
        json_format.MessageToDict(value)
        packed.Pack(value)
    except (json_format.ParseError, ValueError):  # ValueError: a Value that is no JSON
        packed.Pack(wrappers_pb2.StringValue(value=text))
    return packed


def decode_payload(packed: any_pb2.Any) -> Any:
    """What `encode_payload` made, bytes as text where they are; anything else as its type and base64."""
    for kind in (struct_pb2.Value(), wrappers_pb2.StringValue(), wrappers_pb2.BytesValue()):
        try:
            if packed.Unpack(kind):
                return kind.value.decode() if isinstance(kind, wrappers_pb2.BytesValue) else json.loads(json_format.MessageToJson(kind))
        except (ValueError, DecodeError):
            break
    try:
        if not packed.type_url:
            return packed.value.decode()
    except UnicodeDecodeError:
        pass
    return {"@type": packed.type_url, "base64": base64.b64encode(packed.value).decode()}


def job_as_dict(name: str, metadata: scheduler_pb2.JobMetadata, job: scheduler_pb2.Job) -> dict[str, Any]:
    """A job for JSON: only what is set."""
    shown: dict[str, Any] = {"name": name, "namespace": metadata.namespace, "app_id": metadata.app_id}
    if metadata.target.HasField("actor"):
        shown |= {"actor_type": metadata.target.actor.type, "actor_id": metadata.target.actor.id}
    for field in ("schedule", "due_time", "ttl", "repeats"):
        if job.HasField(field):
            shown[field] = getattr(job, field)
    if job.HasField("data"):
        shown["data"] = decode_payload(job.data)
    if job.HasField("failure_policy"):
        shown["failure_policy"] = _policy_as_dict(job.failure_policy)
    return shown


def _policy_as_dict(policy: common_pb2.JobFailurePolicy) -> dict[str, Any]:
    if policy.HasField("drop"):
        return {"drop": {}}
    constant = policy.constant
    interval_ns = constant.interval.seconds * NS_PER_S + constant.interval.nanos
    shown: dict[str, Any] = {"interval": format_duration(interval_ns)}
    if constant.HasField("max_retries"):
        shown["max_retries"] = constant.max_retries
    return {"constant": shown}


def print_json(value: object) -> None:
    """One value, indented; ASCII, so that it is safe on any terminal."""
    print(json.dumps(value, indent=2))


def print_json_line(value: object) -> None:
    print(json.dumps(value, separators=(",", ":")), flush=True)


def print_jobs(jobs: Iterable[dict[str, Any]]) -> None:
    """A table of jobs."""
    rows: list[tuple[str, ...]] = [("NAME", "SCHEDULE", "DUE", "REPEATS", "TTL", "DATA")]
    for one in jobs:
        name = f"{one['actor_type']}/{one['actor_id']}/{one['name']}" if "actor_type" in one else one["name"]
        cells = [name, *(one.get(field, "") for field in ("schedule", "due_time", "repeats", "ttl"))]
        rows.append((*(plain(str(cell)) for cell in cells), cell_of(one.get("data", ""))))
    print_rows(rows, cut=True)


def print_job(job: dict[str, Any]) -> None:
    """One job, a field a line."""
    print_rows([(name.replace("_", " "), cell_of(value)) for name, value in job.items()], cut=False)


def print_rows(rows: Sequence[Sequence[str]], *, cut: bool) -> None:
    """Columns as wide as their cells, but for the last; `cut`: on a terminal the last column ends with the line."""
    widths = [max(map(cell_len, column)) for column in zip(*(row[:-1] for row in rows), strict=True)]
    room: int | None = None
    if cut and sys.stdout.isatty():
        room = max(shutil.get_terminal_size().columns - sum(widths) - len(GAP) * len(widths), PAYLOAD_CELLS_MIN)
    lines = []
    for *cells, last in rows:
        padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
        lines.append(GAP.join([*padded, _fit(last, room)]).rstrip())
    sys.stdout.write("\n".join(lines) + "\n")


def _fit(text: str, room: int | None) -> str:
    if room is None or (len(text) <= room and cell_len(text) <= room):
        return text
    return set_cell_size(text[:room], room - 1).rstrip() + "…"


def cell_of(value: object) -> str:
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
