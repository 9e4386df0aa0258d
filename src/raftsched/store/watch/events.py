"""The wire form of watch answers (etcdserverpb.WatchResponse without its header, etcd-api appendix A), written by hand.

An event is encoded once, whoever watches: the stored KeyValue bytes go in verbatim. Bodies are put behind a header by the door.
Must not know: watchers, streams, revisions of the store.
"""

from typing import Final

from raftsched.types import Change
from raftsched.varint import varint

_KV: Final = b"\x12"  # Event.kv = 2
_PREV_KV: Final = b"\x1a"  # Event.prev_kv = 3
_DELETE: Final = b"\x08\x01"  # Event.type = 1: DELETE
_EVENTS: Final = b"\x5a"  # WatchResponse.events = 11
FRAGMENT: Final = b"\x38\x01"  # WatchResponse.fragment = 7: true
CREATED: Final = b"\x18\x01"  # WatchResponse.created = 3: true
CANCELED: Final = b"\x20\x01"  # WatchResponse.canceled = 4: true


def watch_id_field(watch_id: int) -> bytes:
    """WatchResponse.watch_id = 2; nothing for 0."""
    return b"\x10" + varint(watch_id) if watch_id else b""


def is_create(change: Change) -> bool:
    """Whether a put made its key: create_revision = mod_revision, the fields that follow the key in the stored bytes."""
    revision = varint(change.main)
    key_field_bytes = 1 + len(varint(len(change.key))) + len(change.key)
    return not change.deleted and change.record.startswith(b"\x10" + revision + b"\x18" + revision, key_field_bytes)


def encode_event(change: Change, previous: bytes | None = None) -> bytes:
    """One `events` item, tag and length included; `previous` is the KeyValue before the change, None to leave it out."""
    record = change.record
    if change.deleted:
        record += b"\x18" + varint(change.main)  # KeyValue.mod_revision = 3
        event = _DELETE + _KV + varint(len(record)) + record
    else:
        event = _KV + varint(len(record)) + record
    if previous is not None:
        event += _PREV_KV + varint(len(previous)) + previous
    return _EVENTS + varint(len(event)) + event


def created(watch_id: int) -> bytes:
    return watch_id_field(watch_id) + CREATED


def refused(reason: str) -> bytes:
    """The answer to a create that failed: created and canceled, watch_id -1, the reason."""
    text = reason.encode()
    return watch_id_field(-1) + CREATED + CANCELED + b"\x32" + varint(len(text)) + text


def canceled(watch_id: int, compact_revision: int = 0) -> bytes:
    """`compact_revision` > 0: the watcher's next revision is compacted away."""
    tail = b"\x28" + varint(compact_revision) if compact_revision else b""
    return watch_id_field(watch_id) + CANCELED + tail


def split_events(head: bytes, events: list[bytes], header_bytes: int, bytes_max: int) -> list[bytes]:
    """The bodies that `events` of one answer take when a message may not reach `bytes_max`: all but the last say `fragment`.

    A single event is never split. `header_bytes` is what the header adds to each message.
    """
    bodies: list[bytes] = []
    room = bytes_max - header_bytes - len(head)
    if len(events) < 2 or sum(map(len, events)) < room:
        return [head + b"".join(events)]
    part: list[bytes] = []
    size = len(FRAGMENT)
    for event in events:
        if part and size + len(event) >= room:
            bodies.append(head + FRAGMENT + b"".join(part))
            part, size = [], len(FRAGMENT)
        part.append(event)
        size += len(event)
    bodies.append(head + b"".join(part))
    return bodies
