"""Schedule texts → what can be computed with: an interval in nanoseconds, or masks in a native cron table.

Invariant: a `Schedule` fires; what never does is refused. The cache is bounded and holds no more than texts and integers.
Must not know: the clock, jobs, where zone tables come from.
"""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from raftsched._core import CronTable, ExtendedTable
from raftsched.limits import SPEC_CACHE_ENTRIES, TIME_TEXT_CHARACTERS_MAX
from raftsched.scheduler.schedule import go
from raftsched.scheduler.schedule.calendars import Calendars
from raftsched.scheduler.schedule.cron import DESCRIPTORS, Masks, parse_cron
from raftsched.scheduler.schedule.dialect import DIALECT_PREFIX, EXTENDED, Extended, parse_extended, split_words
from raftsched.scheduler.schedule.errors import InvalidJobError
from raftsched.scheduler.schedule.instants import INSTANT_NS_MAX

EVERY: Final = 1  # the engine's numbers
CRON: Final = 2
EVERY_PREFIX: Final = "@every "
ZONE_PREFIXES: Final = ("TZ=", "CRON_TZ=")
CACHED_TEXT_CHARACTERS_MAX: Final = 1_024  # longer texts are parsed each time
ZONES_MAX: Final = 1_024  # of the native table; beyond: "provided bad location"

ZoneTable = tuple[Sequence[int], Sequence[int]]
"""(at, offset): offset[i] seconds east hold from the Unix second at[i], rising; offset[0] also before at[0]."""
ZoneSource = Callable[[str], ZoneTable | None]
"""The transition table of an IANA zone; None = there is no such zone. `zones.zone_table` is the real one."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A parsed schedule. `kind` EVERY uses `interval_ns`, CRON uses `masks` and `zone` (a number in `table`, -1 = UTC)."""

    kind: int
    text: str
    interval_ns: int = 0
    masks: Masks | None = None
    zone: int = -1
    table: CronTable | None = field(default=None, repr=False, compare=False)

    def next_after(self, instant_ns: int) -> int | None:
        """The first tick strictly after an instant (`@every`: one interval after it); None = past the year 9999.

        An interval of 0 answers the instant itself.
        """
        if self.masks is None or self.table is None:
            following = instant_ns + self.interval_ns
            return following if following <= INSTANT_NS_MAX else None
        second = self.table.next_of(self.masks, self.zone, instant_ns // go.NS_PER_S)
        return None if second == -1 else second * go.NS_PER_S

    def local_between(self, start_s: int, end_s: int) -> int | None:
        """The first reading of the wall clock, start_s <= s < end_s, that the masks want, whether there is such a time or not."""
        if self.masks is None or self.table is None:
            return None
        second = self.table.next_of(self.masks, -1, start_s - 1)
        return second if start_s <= second < end_s else None


class Schedules:
    """The parser with its zones and a bounded cache of texts, least recently used out first. One thread."""

    def __init__(self, zone_source: ZoneSource, table: CronTable | None = None) -> None:
        """`table`: where specs and zones are put; the wheel's own when jobs are computed natively."""
        self.table = CronTable() if table is None else table
        self.extended = ExtendedTable(self.table)
        self.calendars = Calendars(self.extended)
        self._zone_source = zone_source
        self._zones: dict[str, int] = {}
        self._cache: OrderedDict[str, Schedule | Extended] = OrderedDict()

    def parse(self, text: str) -> Schedule | Extended:
        """Raises `InvalidJobError` with Dapr's text. What is extended is of no job yet: `Extended.of`."""
        found = self._cache.get(text)
        if found is not None:
            self._cache.move_to_end(text)
            return found
        schedule = self._parse(text)
        if len(text) <= CACHED_TEXT_CHARACTERS_MAX:
            self._cache[text] = schedule
            if len(self._cache) > SPEC_CACHE_ENTRIES:
                self._cache.popitem(last=False)
        return schedule

    def compile(self, text: str, key: bytes = b"", namespace: str = "") -> tuple[int, int]:
        """(EVERY, interval in ns), (CRON, number in `table`, counted once more: `table.release` it), or (EXTENDED, number in `extended`, to
        be released there) of the job with this composed name in a namespace. Raises as `parse`."""
        schedule = self.parse(text)
        if isinstance(schedule, Extended):
            return EXTENDED, self.extended.add(self.own(schedule, key, 0, namespace).spec())
        if schedule.masks is None:
            return EVERY, schedule.interval_ns
        return CRON, self.table.add(schedule.masks, schedule.zone)

    def own(self, schedule: Extended, key: bytes, begin_ns: int, namespace: str) -> Extended:
        """A schedule as that of the job with this composed name, which begins then."""
        return schedule.of(key, begin_ns, self.calendars.exclusion(namespace, schedule.calendars))

    def missing_calendars(self, text: str, namespace: str) -> list[str]:
        """Those that a schedule names and that are not there: nothing of it fires until they are. Raises as `parse`."""
        schedule = self.parse(text)
        return self.calendars.missing(namespace, schedule.calendars) if isinstance(schedule, Extended) else []

    def reload_zones(self) -> list[str]:
        """Asks the source again for every zone in use, after tzdata has changed; a zone that is gone keeps its table.

        Specs keep their numbers; jobs in the zones that are returned have to be computed anew.
        """
        renewed = []
        for name, number in self._zones.items():
            found = self._zone_source(name)
            if found is not None:
                self.table.set_zone(number, array("q", found[0]), array("i", found[1]))
                renewed.append(name)
        return renewed

    def zone_of(self, text: str) -> tuple[str, ZoneTable | None]:
        """Name and table of the zone that a schedule begins with; ("", None) = UTC. Raises as `parse`, for the zone alone."""
        if text.startswith(DIALECT_PREFIX):
            name = split_words(text).zone
            return ("", None) if self._zone(name) < 0 else (name, self._zone_source(name))
        end = go.first_space(text) if text.startswith(ZONE_PREFIXES) else -1
        name = text[text.index("=") + 1 : end] if end >= 0 else ""
        return ("", None) if self._zone(name) < 0 else (name, self._zone_source(name))

    def _parse(self, text: str) -> Schedule | Extended:
        if not text:
            raise InvalidJobError("empty spec string")
        if len(text) > TIME_TEXT_CHARACTERS_MAX:
            raise InvalidJobError(f"schedule is longer than {TIME_TEXT_CHARACTERS_MAX} characters: {len(text)}")
        if text.startswith(DIALECT_PREFIX):
            return parse_extended(text, self.extended, self._zone)
        zone, body = -1, text
        if text.startswith(ZONE_PREFIXES):
            end = go.first_space(text)
            if end < 0:
                raise InvalidJobError(f"timezone prefix {text} is not followed by a schedule")
            zone = self._zone(text[text.index("=") + 1 : end])
            body = go.trim_space(text[end:])
            if body.startswith(EVERY_PREFIX):
                raise InvalidJobError(f"timezone is not supported for @every schedules: {text}")
        if body.startswith(EVERY_PREFIX):
            return Schedule(EVERY, text, interval_ns=_interval_ns(body))
        if body.startswith("@"):
            if body not in DESCRIPTORS:
                raise InvalidJobError(f"unrecognized descriptor: {body}")
            body = DESCRIPTORS[body]
        return Schedule(CRON, text, masks=parse_cron(body, text), zone=zone, table=self.table)

    def _zone(self, name: str) -> int:
        """The number of a zone in the native table, loaded on first use; -1 = UTC."""
        if name in ("", "UTC", "Local"):  # a schedule is local to the instants that it is asked of, and these are in UTC
            return -1
        if ".." in name or name[0] in "/\\":
            raise InvalidJobError(f"provided bad location {name}: time: invalid location name")
        number = self._zones.get(name)
        if number is None:
            found = self._zone_source(name)
            if found is None:
                raise InvalidJobError(f"provided bad location {name}: unknown time zone {name}")
            number = len(self._zones)
            if number >= ZONES_MAX:
                raise InvalidJobError(f"provided bad location {name}: too many time zones in use")
            self.table.set_zone(number, array("q", found[0]), array("i", found[1]))
            self._zones[name] = number
        return number


def _interval_ns(descriptor: str) -> int:
    try:
        interval_ns = go.parse_duration(descriptor[len(EVERY_PREFIX) :])
    except ValueError as error:
        raise InvalidJobError(f"failed to parse duration {descriptor}: {error}") from None
    if interval_ns < 0:
        raise InvalidJobError(f"failed to parse duration {descriptor}: must not be negative")
    return interval_ns
