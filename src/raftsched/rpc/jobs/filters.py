"""Which jobs a filter of raftsched.v1 wants, and where in the store they can be.

Invariant: a filter's ranges hold every job that it wants; `wants` alone decides, for parts of a key may hold the separator.
Must not know: the store, gRPC.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from raftsched.errors import GrpcCode, StatusError
from raftsched.limits import LABEL_NAME_BYTES_MAX, LABEL_VALUE_BYTES_MAX, LABELS_MAX
from raftsched.pb.v1 import jobs_pb2
from raftsched.scheduler.jobs.fields import Metadata
from raftsched.scheduler.jobs.names import JOBS, TARGET_ACTOR, TARGET_JOB, actor_route, app_route, prefix_end

WORKFLOW_TYPES = "dapr.internal."
ESCAPE, ANY = "\\", "*"


class Pattern:
    """A glob over a whole name: `*` is any run of characters, `\\` takes the next one as it is. Time is linear in the name's length
    for each star."""

    def __init__(self, text: str) -> None:
        pieces, piece, letters = [], "", iter(text)
        for letter in letters:
            if letter == ANY:
                pieces.append(piece)
                piece = ""
            else:
                piece += next(letters, ESCAPE) if letter == ESCAPE else letter
        self._head = pieces[0] if pieces else piece
        self._last = piece if pieces else None
        self._middle = [one for one in pieces[1:] if one]

    @property
    def prefix(self) -> str:
        """What every name that matches begins with."""
        return self._head

    def matches(self, name: str) -> bool:
        if self._last is None:
            return name == self._head
        end = len(name) - len(self._last)
        if end < len(self._head) or not name.startswith(self._head) or not name.endswith(self._last):
            return False
        at = len(self._head)
        for piece in self._middle:
            found = name.find(piece, at, end)
            if found < 0:
                return False
            at = found + len(piece)
        return True


@dataclass(frozen=True, slots=True)
class Range:
    """Keys from `start` up to, without, `end`."""

    start: bytes
    end: bytes


class Filter:
    """A JobFilter. Raises `StatusError` for one that contradicts itself."""

    def __init__(self, asked: jobs_pb2.JobFilter) -> None:
        if asked.type not in jobs_pb2.JobType.values():
            raise StatusError(GrpcCode.INVALID_ARGUMENT, f"unknown job type: {asked.type}")
        if asked.actor_id and not asked.actor_type:
            raise StatusError(GrpcCode.INVALID_ARGUMENT, "actor_id needs actor_type")
        if asked.actor_type and asked.type == jobs_pb2.JOB_TYPE_JOB:
            raise StatusError(GrpcCode.INVALID_ARGUMENT, "actor_type excludes JOB_TYPE_JOB")
        check_labels(asked.labels)
        self.labels: Mapping[str, str] = dict(asked.labels)
        """That a job must have. They are not in its record: `wants` knows nothing of them."""
        self._namespace, self._app_id, self._type = asked.namespace, asked.app_id, asked.type
        self._actor_type, self._actor_id = asked.actor_type, asked.actor_id
        self._pattern = Pattern(asked.name_pattern) if asked.name_pattern else None

    def ranges(self) -> list[Range]:
        """In the order of keys."""
        found = []
        if not self._actor_type and self._type != jobs_pb2.JOB_TYPE_JOB:
            found.append(self._reminders())
        elif self._actor_type:
            found.append(self._actors())
        if not self._actor_type and self._type in (jobs_pb2.JOB_TYPE_UNSPECIFIED, jobs_pb2.JOB_TYPE_JOB):
            found.append(self._jobs())
        return sorted((Range(JOBS + prefix.encode(), prefix_end(JOBS + prefix.encode())) for prefix in found), key=lambda one: one.start)

    def _jobs(self) -> str:
        if not self._namespace:
            return "app||"
        if not self._app_id:
            return f"app||{self._namespace}||"
        return app_route(self._namespace, self._app_id) + (self._pattern.prefix if self._pattern else "")

    def _reminders(self) -> str:
        return f"actorreminder||{self._namespace}||" if self._namespace else "actorreminder||"

    def _actors(self) -> str:
        if not self._namespace:
            return "actorreminder||"
        route = actor_route(self._namespace, self._actor_type)
        return f"{route}{self._actor_id}||{self._pattern.prefix if self._pattern else ''}" if self._actor_id else route

    def wants(self, metadata: Metadata, name: str) -> bool:
        """`name`: the short one."""
        app_id, namespace, target, actor_id, actor_type, _ = metadata
        return (
            (not self._namespace or namespace == self._namespace)
            and (not self._app_id or app_id == self._app_id)
            and (not self._actor_type or (target == TARGET_ACTOR and actor_type == self._actor_type))
            and (not self._actor_id or actor_id == self._actor_id)
            and (not self._type or type_of(target, actor_type) == self._type)
            and (self._pattern is None or self._pattern.matches(name))
        )

    def wants_namespace(self, namespace: str) -> bool:
        """What concerns a whole one: nobody asked for some of its jobs alone."""
        alone = self._app_id or self._actor_type or self._actor_id or self._type or self._pattern
        return not alone and (not self._namespace or namespace == self._namespace)


def check_labels(labels: Mapping[str, str]) -> None:
    """Raises `StatusError`."""
    if len(labels) > LABELS_MAX:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"at most {LABELS_MAX} labels")
    for name, value in labels.items():
        if not name or len(name.encode()) > LABEL_NAME_BYTES_MAX or len(value.encode()) > LABEL_VALUE_BYTES_MAX:
            limits = f"1 to {LABEL_NAME_BYTES_MAX} bytes, its value at most {LABEL_VALUE_BYTES_MAX}"
            raise StatusError(GrpcCode.INVALID_ARGUMENT, f"the name of a label has {limits}")


def type_of(target: int, actor_type: str) -> "jobs_pb2.JobType.ValueType":
    if target == TARGET_JOB:
        return jobs_pb2.JOB_TYPE_JOB
    workflow = actor_type.startswith(WORKFLOW_TYPES)
    return jobs_pb2.JOB_TYPE_WORKFLOW_REMINDER if workflow else jobs_pb2.JOB_TYPE_ACTOR_REMINDER


def page_token(key: bytes) -> str:
    """Of the page behind the job at `key`."""
    return base64.urlsafe_b64encode(key).decode()


def token_key(token: str, root: bytes = JOBS) -> bytes:
    """A key under `root`; b"" = from the beginning. Raises `StatusError`."""
    try:
        key = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        key = b"?"
    if key and not key.startswith(root):
        raise StatusError(GrpcCode.INVALID_ARGUMENT, "not a page token")
    return key
