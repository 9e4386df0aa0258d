"""The records under raftsched/calendars/ → the calendars that schedules go by.

Must not know: the store, the engine.
"""

from collections.abc import Callable

from google.protobuf.message import DecodeError

from raftsched.pb.v1 import state_pb2
from raftsched.scheduler.schedule import InvalidJobError
from raftsched.scheduler.schedule.calendars import Calendars, Days, parse_days


class CalendarRecords:
    """The engine's `CalendarKeeper`."""

    def __init__(self, calendars: Calendars, note: Callable[[str, bytes], None]) -> None:
        """`note(event, key)`: something for the log."""
        self._calendars = calendars
        self._note = note

    def clear(self) -> None:
        self._calendars.clear()

    def record_changed(self, key: bytes, value: bytes | None) -> bool:
        """Of what cannot be read it is as if it were not there."""
        namespace, _, name = key.decode("utf-8", "replace").rpartition("/")
        days = None if value is None else self._days(key, value)
        used = self._calendars.change(namespace, name, days)
        if used and days is None:
            self._note("calendar is missing: jobs that go by it do not fire", key)
        return used

    def tell_missing(self) -> None:
        """After a load."""
        for namespace, name, _ in self._calendars.waited_for():
            self._note("calendar is missing: jobs that go by it do not fire", f"{namespace}/{name}".encode())

    def _days(self, key: bytes, value: bytes) -> Days | None:
        try:
            return parse_days(state_pb2.CalendarRecord.FromString(value).exclude)
        except (DecodeError, InvalidJobError):
            self._note("undecodable calendar", key)
            return None
