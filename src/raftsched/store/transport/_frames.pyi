"""The codec between members; `_frames.pyx` tells the format."""

from raftsched.store.raft._kernel import Message

FRAME_BYTES_MAX: int
PART_BYTES: int
MESSAGE: int
PART_FIRST: int
PART: int

class WireError(Exception):
    """Bytes that no member of this protocol sends; the text is the reason, a few words."""

def encode(message: Message) -> bytes:
    """The bytes of a message, without a frame. ValueError: more entries than PEER_MESSAGE_ENTRIES_MAX, or an empty run."""

def decode(data: bytes) -> Message:
    """The message of `encode`; WireError for anything else."""

def size_bytes(message: Message) -> int:
    """What `encode` would give, in bytes. ValueError and TypeError as there."""

def frame(kind: int, payload: bytes) -> bytes:
    """One frame. ValueError if it would be larger than 4 MiB."""

def frames(items: list[Message | bytes]) -> bytes:
    """All in one piece: messages that fit into a frame become frames, bytes are frames already."""

class Parts:
    """A long message on its way out, frame by frame."""

    def __init__(self, message: Message) -> None: ...
    @property
    def left(self) -> int:
        """Bytes of the message that `next` has not given yet."""

    def next(self) -> bytes | None:
        """The next frame; None behind the last."""

class Decoder:
    """The frames of one connection; never holds more than a frame, a read, and one message in parts."""

    payload_bytes_max: int
    message_bytes_max: int
    def __init__(self, *, payload_bytes_max: int = ..., message_bytes_max: int) -> None: ...
    @property
    def buffered(self) -> int:
        """Bytes fed and not yet taken, those of unfinished messages included."""

    def feed(self, data: bytes | bytearray, count: int = -1) -> None:
        """Takes the first `count` bytes, or all, and keeps a copy."""

    def take(self, frames_max: int = -1) -> list[Message | tuple[int, bytes]]:
        """What is complete, in order. After WireError nothing more comes from this connection."""
