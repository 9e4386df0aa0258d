"""The fields of the extended dialect (docs/schedules.md): what masks cannot say, and `H`, which the job's key fills in.

Invariant: what is returned fires for every key; what does not is refused, with the place of the fault.
Must not know: time, zones, prefixes, jobs.
"""

import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Final, NamedTuple

from raftsched.scheduler.schedule import go
from raftsched.scheduler.schedule.cron import FIELDS, WEEKDAYS, Bounds, parse_item
from raftsched.scheduler.schedule.errors import InvalidJobError, PlacedError

NAMES: Final = ("seconds", "minutes", "hours", "days", "months", "weekdays")
DAYS, WEEKDAYS_FIELD = 3, 5
SPREAD_DAY_MAX: Final = 28  # a day that every month has
BUSINESS_DAYS_MAX: Final = 23  # of a month
_SPREAD: Final = re.compile(r"H(?:\(([0-9]{1,2})-([0-9]{1,2})\))?(?:/([0-9]{1,2}))?", re.IGNORECASE)
_DRAWN: Final = re.compile(r"R(?:\(.*\))?(?:/.*)?", re.IGNORECASE)
_DAY_RULE: Final = re.compile(
    r"(?P<last>L)(?:-(?P<before>[0-9]{1,2}))?|(?:(?P<near>[0-9]{1,2})|(?P<nearlast>L))W"
    r"|(?P<business>[0-9]{1,2})?BD|(?P<lastbusiness>L)BD(?:-(?P<businessbefore>[0-9]{1,2}))?",
    re.IGNORECASE,
)
_WEEKDAY_RULE: Final = re.compile(r"(?:(?P<day>[A-Z]{3}|[0-7])#(?P<which>[1-5L])|L(?P<lastday>[A-Z]{3}|[0-7]))", re.IGNORECASE)
NTH_LAST: Final = 35  # bits of `nth` that name the last one


class Spread(NamedTuple):
    """`H`: a value of low … high that the key picks; with a step its first one is within the first step."""

    low: int
    high: int
    step: int
    """0 = one value."""


class Field(NamedTuple):
    """What is fixed as a mask, and what the key picks."""

    mask: int
    star: bool
    spreads: tuple[Spread, ...]


class DayRules(NamedTuple):
    """Days that no mask tells; the bits are those of `extended_t` in `_core/extended.pxi`."""

    nth: int = 0
    from_end: int = 0
    nearest: int = 0
    business: int = 0
    business_from_end: int = 0

    def joined(self, other: "DayRules") -> "DayRules":
        return DayRules(*(one | two for one, two in zip(self, other, strict=True)))


class Rules(NamedTuple):
    """Six fields, seconds first."""

    fields: tuple[Field, ...]
    days: DayRules

    def masks(self, key: bytes) -> tuple[int, ...]:
        """As `CronTable.add` takes them, for the job of this key."""
        values = [field.mask | _picked(field.spreads, key, name) for field, name in zip(self.fields, NAMES, strict=True)]
        return (*values, int(self.fields[DAYS].star), int(self.fields[WEEKDAYS_FIELD].star))

    def choices(self) -> Iterator[tuple[int, ...]]:
        """Masks as single values of `H` in days and months would make them, each once: if all of these fire, every key's do."""
        days, months = (_alone(self.fields[index]) for index in (DAYS, DAYS + 1))
        fixed = self.masks(b"")
        for day in days:
            for month in months:
                yield (*fixed[:DAYS], day, month, *fixed[DAYS + 2 :])


def spread_hash(key: bytes, name: str) -> int:
    """64 bits for one field of one job: the first eight bytes of SHA-256 over key, NUL and the field's name. Never to be changed."""
    return int.from_bytes(sha256(key + b"\0" + name.encode()).digest()[:8], "big")


def _picked(spreads: tuple[Spread, ...], key: bytes, name: str) -> int:
    mask, drawn = 0, spread_hash(key, name) if spreads else 0
    for low, high, step in spreads:
        width = high - low + 1
        first = low + drawn % (min(step, width) if step else width)
        mask |= sum(1 << value for value in range(first, high + 1, step)) if step else 1 << first
    return mask


def _alone(field: Field) -> list[int]:
    # Each value once: a list may name `H` a thousand times, and days and months are multiplied.
    firsts = {(low, min(step, high - low + 1) if step else high - low + 1) for low, high, step in field.spreads}
    return sorted({field.mask | 1 << value for low, count in firsts for value in range(low, low + count)}) or [field.mask]


def parse_rules(text: str, at: int) -> Rules:
    """Five fields (minutes first; seconds are 0) or six (seconds first). `at`: where `text` stands, for the place of a fault."""
    found = [(match.start() + at, match.group()) for match in re.finditer(f"[^{go.SPACE}]+", text)]
    if len(found) not in (5, 6):
        raise PlacedError(f"expected 5 or 6 fields, found {len(found)}: [{' '.join(field for _, field in found)}]", at, len(text))
    if len(found) == 5:
        found.insert(0, (at, "0"))
    fields, rules = [], DayRules()
    for index, (where, field) in enumerate(found):
        parsed, more = _field(field, index, where)
        fields.append(parsed)
        rules = rules.joined(more)
    return Rules(tuple(fields), rules)


def _field(text: str, index: int, at: int) -> tuple[Field, DayRules]:
    mask, star, spreads, rules = 0, False, [], DayRules()
    for match in re.finditer("[^,]+", text):
        item = match.group()
        try:
            found = _item(item, index)
        except InvalidJobError as error:
            raise PlacedError(str(error), at + match.start(), len(item)) from None
        if isinstance(found, Spread):
            spreads.append(found)
        elif isinstance(found, DayRules):
            rules = rules.joined(found)
        else:
            mask, star = mask | found[0], star or found[1]
    if not (mask or spreads or any(rules)):
        raise PlacedError(f"empty list: {text}", at, len(text))
    return Field(mask, star, tuple(dict.fromkeys(spreads))), rules


def _item(item: str, index: int) -> Spread | DayRules | tuple[int, bool]:
    if (match := _SPREAD.fullmatch(item)) is not None:
        return _spread(item, match, index)
    if _DRAWN.fullmatch(item) is not None:
        raise InvalidJobError(f"{item} is refused: a time drawn by chance is another one on each replica; H spreads by the job's key")
    if index == DAYS and (match := _DAY_RULE.fullmatch(item)) is not None:
        return _day_rule(item, match)
    if index == WEEKDAYS_FIELD:
        if (match := _WEEKDAY_RULE.fullmatch(item)) is not None:
            return _weekday_rule(item, match)
        return _weekdays(item)
    return parse_item(item, FIELDS[index])


def _spread(item: str, match: re.Match[str], index: int) -> Spread:
    bounds = FIELDS[index]
    low, high = bounds.low, SPREAD_DAY_MAX if index == DAYS else bounds.high
    if match[1]:
        low, high = int(match[1]), int(match[2])
        if not bounds.low <= low < high <= bounds.high:
            raise InvalidJobError(f"H wants a range within {bounds.low}-{bounds.high}: {item}")
    step = int(match[3]) if match[3] else 0
    if match[3] and step == 0:
        raise InvalidJobError(f"step of range should be a positive number: {item}")
    return Spread(low, high, step)


def _day_rule(item: str, match: re.Match[str]) -> DayRules:
    if match["last"]:
        return DayRules(from_end=1 << _within(item, match["before"], 0, 30))
    if match["near"] or match["nearlast"]:
        return DayRules(nearest=1 if match["nearlast"] else 1 << _within(item, match["near"], 1, 31))
    if match["lastbusiness"]:
        return DayRules(business_from_end=1 << _within(item, match["businessbefore"], 0, BUSINESS_DAYS_MAX - 1))
    return DayRules(business=1 << _within(item, match["business"], 1, BUSINESS_DAYS_MAX) if match["business"] else 1)


def _within(item: str, number: str | None, low: int, high: int) -> int:
    value = int(number) if number is not None else low
    if not low <= value <= high:
        raise InvalidJobError(f"expected a number of {low} to {high}: {item}")
    return value


def _weekday_rule(item: str, match: re.Match[str]) -> DayRules:
    name = (match["day"] or match["lastday"]).lower()
    if not name.isdigit() and name not in WEEKDAYS:
        raise InvalidJobError(f"no such weekday: {item}")
    weekday = int(name) % 7 if name.isdigit() else WEEKDAYS[name]
    which = (match["which"] or "L").upper()
    return DayRules(nth=1 << (NTH_LAST + weekday if which == "L" else (int(which) - 1) * 7 + weekday))


def _weekdays(item: str) -> tuple[int, bool]:
    """As Dapr's, and 7 is Sunday too."""
    week = Bounds(0, 7, WEEKDAYS) if "7" in item.partition("/")[0].split("-") else FIELDS[WEEKDAYS_FIELD]
    mask, star = parse_item(item, week)
    return (mask | mask >> 7) & 0x7F, star
