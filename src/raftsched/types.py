"""Words that several rooms share: the result of an applied command, a change of a key, the hard state of Raft."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, NewType, Protocol

Revision = NewType("Revision", int)
"""A main revision of the store: 1 on a fresh store, +1 for each write request."""

Result = tuple[int, int, bytes]
"""(error, revision, body): what an applied write or a read answers.

`error` is an `errors.EtcdError` number, 0 = success. `revision` is the main revision for the response header.
`body` is the response message *without* its header (field 1), in protobuf wire form: the door puts
`_wire.header(...)` in front of it, which is legal because the header is the first field of every etcd response.
"""


class ResultSink(Protocol):
    """Where answers go: one call per batch, tokens and results in the same order, each token exactly once."""

    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None: ...


class Change(NamedTuple):
    """One event of one key, as the apply produced it."""

    deleted: bool
    key: bytes
    main: int
    """The revision of the change: mod_revision of a put, the deleting revision of a delete."""
    sub: int
    """Position inside its revision, from 0; (main, sub) locates the record."""
    record: bytes
    """The stored mvccpb.KeyValue; of a delete only key (field 1) is set, add mod_revision = main when encoding events."""


@dataclass(frozen=True, slots=True)
class HardState:
    """What Raft must not forget (thesis §3.8): written before a message that depends on it leaves."""

    term: int
    vote: int
    commit: int


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """A member as etcd's Cluster API shows it."""

    member_id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool = False
    stays_learner: bool = False
    """Until somebody promotes it: it was added as a learner, and does not just come as one, as whoever joins."""


class Identity(NamedTuple):
    """Who asks, and the revision of the auth store by which that was found out; revision 0 = nobody."""

    name: str
    revision: int


NOBODY = Identity("", 0)
INTERNAL = Identity("root", (1 << 64) - 1)
"""This process itself: `root` exists and is privileged as long as authentication is on, and no revision is younger."""
