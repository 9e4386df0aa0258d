"""Due times and times to live: RFC 3339, Go duration or ISO 8601 duration → an instant (spec/scheduler.md §5.2).

Instants are nanoseconds since the Unix epoch, as Python integers; Dapr takes years before 1 and after 9999, too, which a protobuf
Timestamp cannot name: they are stored as they are, and count as that year's beginning and end.
Must not know: the clock; what a duration counts from is an argument.
"""

import re
from typing import Final, NamedTuple

from raftsched.scheduler.schedule import go
from raftsched.scheduler.schedule.errors import InvalidJobError

NS_PER_S: Final = go.NS_PER_S
DAY_S: Final = 86_400
FIRST_NS: Final = -(2**63) * NS_PER_S  # what the seconds of a Timestamp can hold
LAST_NS: Final = 2**63 * NS_PER_S - 1
INSTANT_NS_MIN: Final = -62_135_596_800 * NS_PER_S  # 0001-01-01T00:00:00Z
INSTANT_NS_MAX: Final = 253_402_300_800 * NS_PER_S - 1  # 9999-12-31T23:59:59.999999999Z
NOT_RECOGNIZED: Final = "due time format not recognized"
NO_REPEATS: Final = "repeats not supported for due time"
MONTH_DAYS: Final = (0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
# Go's RFC 3339 layout: the hour may have one digit, the fraction a comma; offsets of 24:60 pass.
_RFC3339: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{1,2}):([0-9]{2}):([0-9]{2})(?:[.,]([0-9]+))?(?:Z|([+-])([0-9]{2}):([0-9]{2}))\Z"
)
_ISO_PART: Final = re.compile("([^TYMWDHS]*)([TYMWDHS])")
_ISO_REPEATS: Final = re.compile(r"R([^/]+)(/|\Z)")
_ISO_NS: Final = {"H": 3600 * NS_PER_S, "M": 60 * NS_PER_S, "S": NS_PER_S}


class IsoDuration(NamedTuple):
    """Calendar units apart from clock time: a month has no fixed length."""

    years: int
    months: int
    days: int
    clock_ns: int
    repeats: int
    """-1 = none given."""


def parse_instant(text: str, base_ns: int) -> int:
    """The instant of a due time or a ttl; durations count from `base_ns`, calendar units in UTC. Raises `InvalidJobError`."""
    instant = _instant(text, base_ns)
    if instant is None or not FIRST_NS <= instant <= LAST_NS:
        raise InvalidJobError(NOT_RECOGNIZED)
    return instant


def _instant(text: str, base_ns: int) -> int | None:
    if (instant := parse_rfc3339(text)) is not None:
        return instant
    try:
        return base_ns + go.parse_duration(text)
    except ValueError:
        iso = parse_iso_duration(text)
    if iso is None:
        return None
    if iso.repeats > 0:
        raise InvalidJobError(NO_REPEATS)
    return add_calendar(base_ns, iso.years, iso.months, iso.days) + iso.clock_ns


def parse_rfc3339(text: str) -> int | None:
    """time.Parse(time.RFC3339, text), or None. Fractions beyond nanoseconds are cut off."""
    match = _RFC3339.match(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    fraction, sign, offset_hour, offset_minute = match.groups()[6:]
    if not 1 <= month <= 12 or not 1 <= day <= days_in_month(year, month) or hour > 23 or minute > 59 or second > 59:
        return None
    offset_s = 0
    if sign:
        if int(offset_hour) > 24 or int(offset_minute) > 60:
            return None
        offset_s = (int(offset_hour) * 3600 + int(offset_minute) * 60) * (-1 if sign == "-" else 1)
    seconds = days_from_civil(year, month, day) * DAY_S + hour * 3600 + minute * 60 + second - offset_s
    return seconds * NS_PER_S + int((fraction or "")[:9].ljust(9, "0"))


def parse_iso_duration(text: str) -> IsoDuration | None:
    """`[R<n>/]P[nY][nM][nW][nD][T[nH][nM][nS]]`, signed integers, units in any order; None = it is none.

    As Dapr reads it: what follows the last unit is passed over, so `PT5` is no time at all.
    """
    repeats = -1
    if len(text.encode()) < 2:
        return None
    if text.startswith("R"):
        match = _ISO_REPEATS.match(text)
        count = _int64(match.group(1)) if match else None
        if match is None or count is None:
            return None
        repeats = count
        text = text[match.end() :]
        if not text:
            return IsoDuration(0, 0, 0, 0, repeats)
    return _iso_units(text, repeats) if text.startswith("P") else None


def _iso_units(text: str, repeats: int) -> IsoDuration | None:
    amounts = dict.fromkeys("YMWD", 0)
    clock, clock_ns = False, 0
    for given, unit in _ISO_PART.findall(text, 1):
        number = None if unit == "T" or not given else _int64(given)
        if unit == "T" and not given:
            clock = True
        elif number is None or unit not in ("HMS" if clock else "YMWD"):
            return None
        elif clock:
            clock_ns = _wrapped(clock_ns + number * _ISO_NS[unit])
        else:
            amounts[unit] = number if unit in ("Y", "M") else amounts[unit] + number  # as Dapr: years and months replace, others add up
    return IsoDuration(amounts["Y"], amounts["M"], _wrapped(amounts["W"] * 7 + amounts["D"]), clock_ns, repeats)


def _wrapped(number: int) -> int:
    """As an int64 that overflows."""
    return (number + 2**63) % 2**64 - 2**63


def _int64(text: str) -> int | None:
    try:
        return go.parse_int(text)
    except ValueError:
        return None


def add_calendar(instant_ns: int, years: int, months: int, days: int) -> int:
    """time.AddDate in UTC: 31 January and one month is 3 March (2 in a leap year)."""
    day_number, of_day_ns = divmod(instant_ns, DAY_S * NS_PER_S)
    year, month, day = civil_from_days(day_number)
    month_index = month - 1 + months
    first = days_from_civil(year + years + month_index // 12, month_index % 12 + 1, 1)
    return (first + day - 1 + days) * DAY_S * NS_PER_S + of_day_ns


def days_in_month(year: int, month: int) -> int:
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 29 if month == 2 and leap else MONTH_DAYS[month]


def days_from_civil(year: int, month: int, day: int) -> int:
    """The day number (0 = 1970-01-01) of a Gregorian date, any year; years counted from March, eras of 400 years."""
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    return era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468


def civil_from_days(number: int) -> tuple[int, int, int]:
    """The date of a day number."""
    era, of_era = divmod(number + 719_468, 146_097)
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    march_month = (5 * of_year + 2) // 153
    month = march_month + 3 if march_month < 10 else march_month - 9
    return year_of_era + era * 400 + (month <= 2), month, of_year - (153 * march_month + 2) // 5 + 1
