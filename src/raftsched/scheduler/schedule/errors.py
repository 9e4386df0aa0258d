"""The one way in which this room says no.

Must not know: status codes; the caller puts `job failed validation: ` in front of the text.
"""


class InvalidJobError(ValueError):
    """The caller's fault. The text is part of the wire contract (spec/scheduler.md §5), byte for byte."""


class PlacedError(InvalidJobError):
    """One that knows where in the text the fault is."""

    def __init__(self, reason: str, position: int, length: int) -> None:
        """`position` and `length` in characters of the schedule."""
        super().__init__(reason)
        self.position, self.length = position, length
