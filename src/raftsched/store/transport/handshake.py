"""Who talks to whom, and whether they may: the first four frames of every connection.

    dialer                          acceptor
      |  <---- CHALLENGE (nonce) ----  |     at once
      |  ---- HELLO (nonce, ids) --->  |     who I am, whom I mean, what for
      |  <---- WELCOME (ids) --------  |     or REFUSED, or the connection ends

The nonce keeps a recorded connection from being played back; who the dialer is, only TLS proves. Later versions may add bytes behind
those of a frame.

Invariant: nothing here waits, sends or keeps state. Must not know: sockets, TLS.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError
from typing import Any, Final

from raftsched.store.transport._frames import WireError, frame

MAGIC: Final = b"raftsch\n"
NONCE_BYTES: Final = 16
PROTOCOL_MIN: Final = 1
PROTOCOL_MAX: Final = 1

# Kinds of frames; 1 to 3 are the codec's.
CHALLENGE: Final = 16
HELLO: Final = 17
WELCOME: Final = 18
REFUSED: Final = 19
PING: Final = 32
PONG: Final = 33
REQUEST: Final = 34
RESPONSE: Final = 35
KNOWN: Final = 36
DATA: Final = 48
END: Final = 49

# What a connection is for
CONTROL: Final = 1
BULK: Final = 2
ASK: Final = 3

# Codes of REFUSED
REMOVED: Final = 1
BUSY: Final = 2

_CHALLENGE: Final = Struct(f"<8s{NONCE_BYTES}s")
_HELLO: Final = Struct(f"<8s{NONCE_BYTES}sHHQQQ3HBIQ")
_WELCOME: Final = Struct("<8sHQQ3HQ")
_REFUSED: Final = Struct("<8sHQQ")
_KNOWN: Final = Struct("<Q")

WRONG_INCARNATION: Final = "wrong incarnation of the cluster"

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Identity:
    """One member as it shows itself; cluster_id 0 = in no cluster yet, incarnation 0 = not known yet."""

    cluster_id: int
    member_id: int
    version: Version
    incarnation: int = 0

    def is_of(self, incarnation: int) -> bool:
        """Whether it may be of that incarnation of its cluster: who does not know its own yet may be of any."""
        return self.incarnation == incarnation or 0 in (self.incarnation, incarnation)


@dataclass(frozen=True, slots=True)
class Hello:
    nonce: bytes
    protocol_min: int
    protocol_max: int
    sender: Identity
    receiver_id: int
    purpose: int
    detail: int
    """The purpose of a bulk stream."""


def challenge(nonce: bytes) -> bytes:
    return frame(CHALLENGE, _CHALLENGE.pack(MAGIC, nonce))


def read_challenge(item: object) -> bytes:
    """The nonce. WireError, as for all readers here."""
    magic, nonce = _unpack(_CHALLENGE, CHALLENGE, item)
    _check_magic(magic)
    return bytes(nonce)


def hello(own: Identity, nonce: bytes, *, receiver_id: int, purpose: int, detail: int = 0) -> bytes:
    head = (MAGIC, nonce, PROTOCOL_MIN, PROTOCOL_MAX, own.cluster_id, own.member_id, receiver_id)
    return frame(HELLO, _HELLO.pack(*head, *own.version, purpose, detail, own.incarnation))


def read_hello(item: object) -> Hello:
    magic, nonce, low, high, cluster_id, sender, receiver, major, minor, patch, purpose, detail, incarnation = _unpack(_HELLO, HELLO, item)
    _check_magic(magic)
    return Hello(nonce, low, high, Identity(cluster_id, sender, (major, minor, patch), incarnation), receiver, purpose, detail)


def welcome(own: Identity) -> bytes:
    return frame(WELCOME, _WELCOME.pack(MAGIC, PROTOCOL_MAX, own.cluster_id, own.member_id, *own.version, own.incarnation))


def refused(own: Identity, code: int, dialer_id: int) -> bytes:
    return frame(REFUSED, _REFUSED.pack(MAGIC, code, own.cluster_id, dialer_id))


def known(incarnation: int) -> bytes:
    """Said later on a control connection by who said 0 in the handshake."""
    return frame(KNOWN, _KNOWN.pack(incarnation))


def read_known(payload: bytes) -> int:
    return int(_unpack(_KNOWN, KNOWN, (KNOWN, payload))[0])


def read_answer(item: object) -> Identity | tuple[int, int, int]:
    """Who welcomes; or (code, cluster id, id of the dialer) of a refusal."""
    if isinstance(item, tuple) and item[0] == REFUSED:
        magic, code, cluster_id, dialer_id = _unpack(_REFUSED, REFUSED, item)
        _check_magic(magic)
        return code, cluster_id, dialer_id
    magic, protocol, cluster_id, member_id, *version, incarnation = _unpack(_WELCOME, WELCOME, item)
    _check_magic(magic)
    if not PROTOCOL_MIN <= protocol <= PROTOCOL_MAX:
        raise WireError("protocol version")
    return Identity(cluster_id, member_id, (version[0], version[1], version[2]), incarnation)


def objection(said: Hello, own: Identity, nonce: bytes, members: Container[int], is_removed: Callable[[int], bool]) -> str:
    """Why this dialer may not come in; "" = it may. The words are the cause in the log and in the counter."""
    if said.nonce != nonce:
        return "replayed handshake"
    if said.protocol_max < PROTOCOL_MIN or said.protocol_min > PROTOCOL_MAX:
        return "protocol version"
    if said.purpose == ASK:
        return ""
    if said.purpose not in {CONTROL, BULK}:
        return "unknown purpose"
    if not own.cluster_id:
        return "not in a cluster yet"
    if said.sender.cluster_id != own.cluster_id:
        return "wrong cluster id"
    if not said.sender.is_of(own.incarnation):
        return WRONG_INCARNATION
    if said.receiver_id != own.member_id:
        return "wrong receiver id"
    if is_removed(said.sender.member_id):
        return "removed member"
    if said.sender.member_id not in members:
        return "unknown member"
    return ""


def _unpack(struct: Struct, kind: int, item: object) -> tuple[Any, ...]:  # Any: as `struct` gives it
    if not isinstance(item, tuple) or item[0] != kind:
        raise WireError("a frame out of order")
    try:
        return struct.unpack_from(item[1])
    except StructError:
        raise WireError("a frame is too short") from None


def _check_magic(magic: object) -> None:
    if magic != MAGIC:
        raise WireError("no raftsched peer")
