"""A native thread that answers probes while the event loop does not turn."""

from collections.abc import Sequence

class Watchdog:
    """Runs until `close`."""

    answered_total: int
    """Probes that were answered here."""
    def __init__(self, listeners: Sequence[int], stall_ms: int) -> None:
        """`listeners`: descriptors of listening sockets, of which the first 16 are served. While `beat` is not called for `stall_ms`, who
        connects there gets 503, on /readyz with a body. OSError: there is no thread, or no descriptor."""

    def beat(self) -> None:
        """The loop turns."""

    def close(self) -> None:
        """Idempotent; takes a second at most."""
