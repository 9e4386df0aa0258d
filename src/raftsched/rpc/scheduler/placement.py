"""ReportActorTypes of Dapr 1.19 (spec §17), which asks the scheduler to place actors: this one says that it does not.

A sidecar tells the answer from that of an older scheduler by its text, and goes on with the placement service.
"""

from collections.abc import Callable, Sequence
from typing import Final

from raftsched.errors import GrpcCode
from raftsched.ports import Stream

TEXT: Final = "placement is not enabled on this scheduler"


class NoPlacement:
    """The handler of one stream: it is over before its first message."""

    def __init__(self, stream: Stream, ended: Callable[[int], None]) -> None:
        self._ended = ended
        stream.finish(int(GrpcCode.UNIMPLEMENTED), TEXT)

    def on_messages(self, messages: Sequence[bytes]) -> None:
        """Nobody asks."""

    def on_half_close(self) -> None:
        """Nobody waits."""

    def on_writable(self) -> None:
        """Nothing is to be written."""

    def on_closed(self, code: int) -> None:
        self._ended(code)
