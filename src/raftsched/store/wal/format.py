"""The small messages of the log in etcd's wire form: metadata, snapshot marks, configuration states; and segment names.

Invariant: what is encoded here is what etcd's own encoder writes (proto2: scalar fields always present), so its tools read it.
Must not know: files, batches, what a member is. Entries and hard states are encoded natively (`_walio`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from raftsched.varint import varint as any_varint

SEGMENT_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.wal")


@dataclass(frozen=True, slots=True)
class Metadata:
    """Whose log this is (etcdserverpb.Metadata); the same in every segment."""

    node_id: int
    cluster_id: int


@dataclass(frozen=True, slots=True)
class ConfState:
    """The members in force at an index (raftpb.ConfState), never joint here."""

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SnapshotMark:
    """walpb.Snapshot: a Raft snapshot of this index and term exists. (0, 0) stands at the head of every new log."""

    index: int
    term: int
    conf_state: ConfState | None = None
    restarts: bool = False  # of an installed snapshot: no entry before it counts. Field 15, ours: etcd's readers skip it


class WireError(ValueError):
    """Bytes that are not the message asked for."""


def varint(value: int) -> bytes:
    """Of 0 <= value < 2**64."""
    if not 0 <= value < 1 << 64:
        raise WireError(f"{value} is no uint64")
    return any_varint(value)


def number_field(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def bytes_field(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise WireError("a varint that does not end")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    if value >> 64:
        raise WireError("a varint beyond 64 bits")
    return value, at


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a message of varint and length-delimited fields. Raises WireError."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        value, at = _read_varint(data, at)
        if key & 7 == 0:
            yield key >> 3, value
        elif key & 7 == 2:
            if len(data) - at < value:
                raise WireError("a field that runs over the end")
            yield key >> 3, data[at : at + value]
            at += value
        else:
            raise WireError(f"wire type {key & 7}")


def number(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise WireError("bytes where a number belongs")
    return value


def octets(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise WireError("a number where bytes belong")
    return value


def encode_metadata(metadata: Metadata) -> bytes:
    return number_field(1, metadata.node_id) + number_field(2, metadata.cluster_id)


def decode_metadata(data: bytes) -> Metadata:
    """Raises WireError."""
    found = {field: number(value) for field, value in fields(data)}
    if set(found) != {1, 2}:
        raise WireError("metadata without node id or cluster id")
    return Metadata(node_id=found[1], cluster_id=found[2])


def encode_conf_state(state: ConfState) -> bytes:
    voters = b"".join(number_field(1, member) for member in state.voters)
    learners = b"".join(number_field(2, member) for member in state.learners)
    return voters + learners + number_field(5, 0)


def decode_conf_state(data: bytes) -> ConfState:
    """Raises WireError; a joint configuration is one."""
    voters: list[int] = []
    learners: list[int] = []
    for field, value in fields(data):
        if field in {3, 4} or (field == 5 and value):
            raise WireError("a joint configuration")
        if field in {1, 2}:
            (voters if field == 1 else learners).append(number(value))
    return ConfState(voters=tuple(voters), learners=tuple(learners))


def encode_mark(mark: SnapshotMark) -> bytes:
    """For `LogWriter.append(mark=...)`."""
    data = number_field(1, mark.index) + number_field(2, mark.term)
    if mark.conf_state is not None:
        data += bytes_field(3, encode_conf_state(mark.conf_state))
    return data + number_field(15, 1) if mark.restarts else data


def decode_mark(data: bytes) -> SnapshotMark:
    """Raises WireError."""
    index = term = restarts = 0
    state = None
    for field, value in fields(data):
        if field == 15:
            restarts = number(value)
        elif field == 1:
            index = number(value)
        elif field == 2:
            term = number(value)
        elif field == 3:
            state = decode_conf_state(octets(value))
    return SnapshotMark(index=index, term=term, conf_state=state, restarts=bool(restarts))


def segment_name(sequence: int, first_index: int) -> str:
    """`%016x-%016x.wal`: the segment's number from 0, and the index of the first entry that it may hold."""
    return f"{sequence:016x}-{first_index:016x}.wal"


def parse_segment_name(name: str) -> tuple[int, int] | None:
    """(sequence, first index), None if it is no segment's name."""
    match = SEGMENT_NAME.fullmatch(name)
    return (int(match[1], 16), int(match[2], 16)) if match else None
