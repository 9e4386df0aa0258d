"""Dapr's cron dialect: six fields or a descriptor → bit masks (docs/timing-wheel.md §7; spec/scheduler.md §5.1).

Invariant: what is returned fires again and again; what can never fire is refused. The wall clock is taken literally.
Must not know: time, zones beyond their prefix, how masks are evaluated.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from raftsched.scheduler.schedule import go
from raftsched.scheduler.schedule.errors import InvalidJobError


class Bounds(NamedTuple):
    """The values of a field, both ends included, and their names (lower case)."""

    low: int
    high: int
    names: Mapping[str, int] = MappingProxyType({})


MONTH_NAMES: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
MONTHS: Final = {name: number for number, name in enumerate(MONTH_NAMES, 1)}
WEEKDAYS: Final = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
FIELDS: Final = (Bounds(0, 59), Bounds(0, 59), Bounds(0, 23), Bounds(1, 31), Bounds(1, 12, MONTHS), Bounds(0, 6, WEEKDAYS))
MONTH_DAYS_MAX: Final = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
DESCRIPTORS: Final = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}


class Masks(NamedTuple):
    """Bit n = value n; of weekdays bit 0 = Sunday. A starred day field does not restrict; two restricted ones are ORed."""

    seconds: int
    minutes: int
    hours: int
    days: int
    months: int
    weekdays: int
    day_star: bool
    weekday_star: bool


def parse_cron(text: str, spec: str) -> Masks:
    """Masks of six fields. `spec` is the whole schedule, for the texts of errors."""
    fields = go.split_fields(text)
    if len(fields) != len(FIELDS):
        raise InvalidJobError(f"expected exactly 6 fields, found {len(fields)}: [{' '.join(fields)}]")
    parsed = [_field(field, bounds) for field, bounds in zip(fields, FIELDS, strict=True)]
    seconds, minutes, hours, (days, day_star), months, (weekdays, weekday_star) = parsed
    masks = Masks(seconds[0], minutes[0], hours[0], days, months[0], weekdays, day_star, weekday_star)
    if never_fires(masks):
        raise InvalidJobError(f"schedule never fires: {spec}")
    for field, (mask, _) in zip(fields, parsed, strict=True):
        if not mask:  # One empty day field: Dapr runs it by the other one. No list at all is a slip of the pen.
            raise InvalidJobError(f"empty list: {field}")
    return masks


def never_fires(masks: Masks) -> bool:
    """Exact, without a search: an empty field, or a day by date only that no selected month has (29 February counts)."""
    if not (masks.seconds and masks.minutes and masks.hours and masks.months and (masks.days or masks.weekdays)):
        return True
    if masks.day_star or (masks.weekdays and not masks.weekday_star):
        return not masks.weekdays
    months = [month for month in range(1, 13) if masks.months >> month & 1]
    return not any(masks.days & ((2 << MONTH_DAYS_MAX[month]) - 1) for month in months)


def _field(text: str, bounds: Bounds) -> tuple[int, bool]:
    """The mask of a comma list, and whether an item carries the star (`*` or `?` with step 1). Empty items are skipped."""
    mask, star = 0, False
    for item in filter(None, text.split(",")):
        item_mask, item_star = parse_item(item, bounds)
        mask |= item_mask
        star = star or item_star
    return mask, star


def parse_item(item: str, bounds: Bounds) -> tuple[int, bool]:
    """One item: `*`, `?`, `n`, `a-b`, each with optional `/step`; `n/step` runs to the maximum. Checked in Dapr's order."""
    parts = item.split("/")
    ends = parts[0].split("-")
    starred = ends[0] in ("*", "?")
    if starred:  # What follows a hyphen is not read: "*-5" is "*".
        start, end = bounds.low, bounds.high
    else:
        start = end = _number(ends[0], bounds.names)
        if len(ends) > 2:
            raise InvalidJobError(f"too many hyphens: {item}")
        if len(ends) == 2:
            end = _number(ends[1], bounds.names)
    if len(parts) > 2:
        raise InvalidJobError(f"too many slashes: {item}")
    step = _number(parts[1]) if len(parts) == 2 else 1
    if len(parts) == 2 and len(ends) == 1:
        end = bounds.high
    if start < bounds.low:
        raise InvalidJobError(f"beginning of range ({start}) below minimum ({bounds.low}): {item}")
    if end > bounds.high:
        raise InvalidJobError(f"end of range ({end}) above maximum ({bounds.high}): {item}")
    if start > end:
        raise InvalidJobError(f"beginning of range ({start}) beyond end of range ({end}): {item}")
    if step == 0:
        raise InvalidJobError(f"step of range should be a positive number: {item}")
    return sum(1 << value for value in range(start, end + 1, step)), starred and step == 1


def check_item(item: str, bounds: Bounds) -> bool:
    """Whether one item of a field is in order."""
    try:
        parse_item(item, bounds)
    except InvalidJobError:
        return False
    return True


def _number(text: str, names: Mapping[str, int] | None = None) -> int:
    if names and text.lower() in names:
        return names[text.lower()]
    try:
        number = go.parse_int(text)
    except ValueError as error:
        raise InvalidJobError(f"failed to parse int from {text}: {error}") from None
    if number < 0:
        raise InvalidJobError(f"negative number ({number}) not allowed: {text}")
    return number
