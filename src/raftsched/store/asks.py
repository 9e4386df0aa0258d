"""What a member without a cluster asks the listed ones, and their answers, as bytes (docs/cluster.md, "Forming, joining, leaving").

Invariant: a message is bounded before it is read, and what is no message is `None`, whatever the bytes: strangers speak here too.
Must not know: who asks whom and when, what follows from an answer.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from raftsched import limits
from raftsched.store.codec import WireError, bytes_field, fields, text_field, varint_field
from raftsched.store.membership import decode_json, encode_json
from raftsched.types import MemberInfo

LOOK, JOIN = 1, 2
EMPTY, CLUSTER, GRANTED, REFUSED, LATER = 1, 2, 3, 4, 5
ID_MAX: Final = (1 << 64) - 1
_VERSION: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){1,2}")


@dataclass(frozen=True, slots=True, order=True)
class Listed:
    """One entry of --etcd-initial-cluster."""

    name: str
    peer_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """What do you have? `cluster_id` 0: the one who asks has nothing."""

    name: str
    cluster_id: int = 0
    incarnation: int = 0


@dataclass(frozen=True, slots=True)
class JoinAsk:
    """Take me in."""

    name: str
    peer_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Empty:
    """I have no data, and this list; `list_hash` covers the cluster token too."""

    name: str
    list_hash: bytes
    listed: tuple[Listed, ...]


@dataclass(frozen=True, slots=True)
class InCluster:
    """I have data of this cluster.

    `founding`: they are the first entries and nothing else, and this member has never voted. `incarnation`: what the first leader drew by
    lot when the cluster began, 0 = not known yet; two clusters formed of one list have one id, but not this.
    """

    name: str
    cluster_id: int
    incarnation: int
    founding: bool
    members: tuple[MemberInfo, ...]
    cluster_version: str = ""
    """Of the form 3.7.0; "" = not known."""


@dataclass(frozen=True, slots=True)
class Granted:
    """You are in, as `member_id`."""

    member_id: int
    cluster_id: int
    members: tuple[MemberInfo, ...]
    is_learner: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """Never, and why."""

    text: str


@dataclass(frozen=True, slots=True)
class Later:
    """Not here or not now, and why; `peer_urls`: who may know better."""

    text: str
    peer_urls: tuple[str, ...] = ()


Ask = Look | JoinAsk
Answer = Empty | InCluster | Granted | Refused | Later


def hash_list(listed: Iterable[Listed], cluster_token: str) -> bytes:
    """The same for the same list, in any order, under the same token."""
    parts = [cluster_token, *(text for one in sorted(listed) for text in (one.name, str(len(one.peer_urls)), *sorted(one.peer_urls)))]
    return hashlib.sha256(b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in parts)).digest()


# -- writing


def _texts(number: int, values: Sequence[str]) -> bytes:
    return b"".join(bytes_field(number, value.encode()) for value in values)


def _members(members: Sequence[MemberInfo]) -> bytes:
    return b"".join(bytes_field(8, encode_json(one)) for one in members)


def encode_ask(ask: Ask) -> bytes:
    if isinstance(ask, Look):
        return varint_field(1, LOOK) + text_field(2, ask.name) + varint_field(5, ask.cluster_id) + varint_field(6, ask.incarnation)
    return varint_field(1, JOIN) + text_field(2, ask.name) + _texts(3, ask.peer_urls)


def encode_answer(answer: Answer) -> bytes:
    if isinstance(answer, Empty):
        listed = b"".join(bytes_field(4, text_field(1, one.name) + _texts(2, one.peer_urls)) for one in answer.listed)
        return varint_field(1, EMPTY) + text_field(2, answer.name) + listed + bytes_field(7, answer.list_hash)
    if isinstance(answer, InCluster):
        head = varint_field(1, CLUSTER) + text_field(2, answer.name) + varint_field(5, answer.cluster_id)
        return (
            head
            + varint_field(6, answer.incarnation)
            + _members(answer.members)
            + varint_field(10, answer.founding)
            + text_field(11, answer.cluster_version)
        )
    if isinstance(answer, Granted):
        head = varint_field(1, GRANTED) + varint_field(5, answer.cluster_id) + _members(answer.members)
        return head + varint_field(9, answer.member_id) + varint_field(10, answer.is_learner)
    if isinstance(answer, Refused):
        return varint_field(1, REFUSED) + text_field(2, answer.text)
    return varint_field(1, LATER) + text_field(2, answer.text) + _texts(3, answer.peer_urls)


# -- reading


class _Fields:
    """The fields of one message; every access raises ValueError if it is not what it must be."""

    def __init__(self, data: bytes) -> None:
        if len(data) > limits.ASK_BYTES_MAX:
            raise WireError("too large")
        self._found = list(fields(data))

    def number(self, wanted: int) -> int:
        value = next((value for number, value in self._found if number == wanted), 0)
        if not isinstance(value, int):
            raise WireError(f"field {wanted} is no number")
        return value

    def all(self, wanted: int) -> Iterator[bytes]:
        for number, value in self._found:
            if number == wanted:
                if not isinstance(value, bytes):
                    raise WireError(f"field {wanted} is no text")
                yield value

    def data(self, wanted: int) -> bytes:
        return next(self.all(wanted), b"")

    def text(self, wanted: int) -> str:
        return self.data(wanted).decode()

    def texts(self, wanted: int) -> tuple[str, ...]:
        return tuple(one.decode() for one in self.all(wanted))

    def version(self, wanted: int) -> str:
        value = self.text(wanted)
        if value and not _VERSION.fullmatch(value):
            raise WireError(f"field {wanted} is no version")
        return value

    def identity(self, wanted: int) -> int:
        """An id, which is never 0."""
        value = self.number(wanted)
        if not value:
            raise WireError(f"field {wanted} is missing")
        return value

    def members(self) -> tuple[MemberInfo, ...]:
        found = tuple(decode_json(one) for one in self.all(8))
        if not found or len(found) > limits.MEMBERS_MAX or any(not 0 < one.member_id <= ID_MAX for one in found):
            raise WireError("no list of members")
        return found


def _listed(data: bytes) -> Listed:
    found = _Fields(data)
    return Listed(found.text(1), found.texts(2))


def _read_empty(found: _Fields) -> Empty:
    listed = tuple(_listed(one) for one in found.all(4))
    if not listed or len(listed) > limits.MEMBERS_MAX:
        raise WireError("no list")
    return Empty(found.text(2), found.data(7), listed)


def decode_ask(data: bytes) -> Ask | None:
    """None: no such message."""
    try:
        found = _Fields(data)
        kind = found.number(1)
        if kind == LOOK:
            return Look(found.text(2), found.number(5), found.number(6))
        if kind == JOIN and found.text(2) and found.texts(3):
            return JoinAsk(found.text(2), found.texts(3))
    except ValueError:  # WireError and undecodable text are some
        pass
    return None


def decode_answer(data: bytes) -> Answer | None:
    """None: no such message."""
    try:
        found = _Fields(data)
        kind = found.number(1)
        if kind == EMPTY:
            return _read_empty(found)
        if kind == CLUSTER:
            head = found.text(2), found.identity(5), found.number(6), bool(found.number(10))
            return InCluster(*head, found.members(), found.version(11))
        if kind == GRANTED:
            return Granted(found.identity(9), found.identity(5), found.members(), bool(found.number(10)))
        if kind == REFUSED:
            return Refused(found.text(2))
        if kind == LATER:
            return Later(found.text(2), found.texts(3))
    except ValueError:  # WireError and undecodable text are some
        pass
    return None
