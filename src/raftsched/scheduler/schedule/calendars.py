"""Calendars: named days of a namespace on which schedules that name them do not fire (docs/schedules.md).

Invariant: an exclusion in the native table says what its calendars say; while one of them is not there, nothing of its schedules fires.
Must not know: the clock, jobs, the store.
"""

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from raftsched._core import ExtendedTable
from raftsched.limits import CALENDAR_RULES_MAX, EXCLUSIONS_SWEPT_AT
from raftsched.scheduler.schedule.cron import MONTH_DAYS_MAX, WEEKDAYS
from raftsched.scheduler.schedule.errors import InvalidJobError
from raftsched.scheduler.schedule.instants import days_from_civil, days_in_month

_DATE: Final = re.compile(r"(?:([0-9]{4})-)?([0-9]{2})-([0-9]{2})")


class Days(NamedTuple):
    """What a calendar, or several together, exclude."""

    weekdays: int = 0
    """Bit 0 = Sunday."""
    yearly: tuple[int, ...] = (0,) * 13
    """[month], bit = day."""
    ranges: tuple[tuple[int, int], ...] = ()
    """Day numbers (0 = 1970-01-01), both ends included, rising and apart."""

    def covers(self, year: int, month: int, day: int) -> bool:
        number = days_from_civil(year, month, day)
        weekday = (number + 4) % 7
        index = bisect_right(self.ranges, (number, number)) - 1
        near = self.ranges[max(index, 0) : index + 2]
        return bool(self.weekdays >> weekday & 1 or self.yearly[month] >> day & 1 or any(low <= number <= high for low, high in near))


def parse_days(rules: Sequence[str]) -> Days:
    """`2026-12-25`, `12-25` (each year), either as a range `a..b` with both ends, `SAT`. Raises `InvalidJobError`."""
    if len(rules) > CALENDAR_RULES_MAX:
        raise InvalidJobError(f"a calendar has at most {CALENDAR_RULES_MAX} rules")
    weekdays, yearly, ranges = 0, [0] * 13, []
    for rule in rules:
        if rule.lower() in WEEKDAYS:
            weekdays |= 1 << WEEKDAYS[rule.lower()]
            continue
        first, dots, last = rule.partition("..")
        low, high = _date(first, rule), _date(last if dots else first, rule)
        if (low[0] is None) != (high[0] is None):
            raise InvalidJobError(f"a range has a year at both ends, or at none: {rule}")
        if low[0] is None or high[0] is None:
            _mark_years(yearly, low[1:], high[1:])
            continue
        begin, end = days_from_civil(low[0], *low[1:]), days_from_civil(high[0], *high[1:])
        if end < begin:
            raise InvalidJobError(f"the range ends before it begins: {rule}")
        ranges.append((begin, end))
    return Days(weekdays, tuple(yearly), tuple(_apart(ranges)))


def _date(text: str, rule: str) -> tuple[int | None, int, int]:
    match = _DATE.fullmatch(text)
    if match is not None:
        year, month, day = None if match[1] is None else int(match[1]), int(match[2]), int(match[3])
        if 1 <= month <= 12 and 1 <= day <= (MONTH_DAYS_MAX[month] if year is None else days_in_month(year, month)) and year != 0:
            return year, month, day
    raise InvalidJobError(f"expected a date (2026-12-25, or 12-25 of each year), a range of two (a..b), or a weekday (SAT): {rule}")


def _mark_years(yearly: list[int], low: tuple[int, int], high: tuple[int, int]) -> None:
    """A range may go over the end of the year."""
    month, day = low
    while True:
        yearly[month] |= 1 << day
        if (month, day) == high:
            return
        month, day = (month, day + 1) if day < MONTH_DAYS_MAX[month] else (month % 12 + 1, 1)


def _apart(ranges: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    joined: tuple[int, int] | None = None
    for low, high in sorted(ranges):
        if joined is not None and low <= joined[1] + 1:
            joined = joined[0], max(joined[1], high)
            continue
        if joined is not None:
            yield joined
        joined = low, high
    if joined is not None:
        yield joined


class Calendars:
    """The calendars that there are, by namespace and name, and the exclusions that schedules made of them."""

    def __init__(self, table: ExtendedTable) -> None:
        self._table = table
        self._known: dict[tuple[str, str], Days] = {}
        self._numbers: dict[tuple[str, tuple[str, ...]], int] = {}
        self._sweep_at = EXCLUSIONS_SWEPT_AT

    def __len__(self) -> int:
        return len(self._known)

    def get(self, namespace: str, name: str) -> Days | None:
        return self._known.get((namespace, name))

    def missing(self, namespace: str, names: Sequence[str]) -> list[str]:
        """Those that are not there."""
        return [name for name in names if (namespace, name) not in self._known]

    def exclusion(self, namespace: str, names: tuple[str, ...]) -> int:
        """The number of what these exclude together; -1 = nothing, for no names."""
        if not names:
            return -1
        number = self._numbers.get((namespace, names))
        if number is None:
            if len(self._numbers) >= self._sweep_at:
                self._sweep()
            number = self._numbers[namespace, names] = self._table.new_exclusion()
            self._write(namespace, names, number)
        return number

    def change(self, namespace: str, name: str, days: Days | None) -> bool:
        """There is another one, or (None) none any more. Whether a schedule uses it, whose jobs have to be computed anew."""
        if days is None:
            self._known.pop((namespace, name), None)
        else:
            self._known[namespace, name] = days
        used = False
        for (where, names), number in self._numbers.items():
            if where == namespace and name in names:
                self._write(where, names, number)
                used = used or self._table.users(number) > 0
        return used

    def users(self, namespace: str, name: str) -> int:
        """Jobs whose schedules name it."""
        return sum(self._table.users(number) for (where, names), number in self._numbers.items() if where == namespace and name in names)

    def waited_for(self) -> list[tuple[str, str, int]]:
        """(namespace, name, jobs) of those that are not there and whose absence holds jobs back."""
        wanted = {(where, name) for (where, names), number in self._numbers.items() if self._table.users(number) for name in names}
        return [(where, name, self.users(where, name)) for where, name in sorted(wanted - self._known.keys())]

    def clear(self) -> None:
        """Before a load: nothing is known."""
        self._known.clear()
        for (namespace, names), number in self._numbers.items():
            self._write(namespace, names, number)

    def _write(self, namespace: str, names: tuple[str, ...], number: int) -> None:
        found = [days for name in names if (days := self._known.get((namespace, name))) is not None]
        weekdays, yearly = 0, [0] * 13
        for days in found:
            weekdays |= days.weekdays
            yearly = [one | other for one, other in zip(yearly, days.yearly, strict=True)]
        apart = list(_apart([one for days in found for one in days.ranges]))
        first, last = array("i", [low for low, _ in apart]), array("i", [high for _, high in apart])
        self._table.set_exclusion(number, len(found) == len(names), weekdays, yearly, first, last)

    def _sweep(self) -> None:
        for which, number in list(self._numbers.items()):
            if not self._table.users(number):
                self._table.drop_exclusion(number)
                del self._numbers[which]
        self._sweep_at = max(EXCLUSIONS_SWEPT_AT, 2 * len(self._numbers))
