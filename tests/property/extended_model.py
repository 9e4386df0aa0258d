"""A slow, obvious reading of the extended dialect: does this local minute match these fields? Dates and lists alone, no masks."""

from calendar import monthrange
from collections.abc import Callable
from datetime import date, datetime, timedelta
from hashlib import sha256

NAMES = ("seconds", "minutes", "hours", "days", "months", "weekdays")
LOW, HIGH = (0, 0, 0, 1, 1, 0), (59, 59, 23, 31, 12, 6)
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]


def weekday(day: date) -> int:
    """Sunday is 0."""
    return day.isoweekday() % 7


def month_of(day: date) -> list[date]:
    return [day.replace(day=number) for number in range(1, monthrange(day.year, day.month)[1] + 1)]


def number_of(text: str) -> int:
    for names, first in ((MONTHS, 1), (WEEKDAYS, 0)):
        if text.lower() in names:
            return names.index(text.lower()) + first
    return int(text)


def ordinary(item: str, index: int, value: int, key: bytes) -> bool:
    """`*`, `a`, `a-b`, `/n`, `H`."""
    base, _, step = item.partition("/")
    if base.upper().startswith("H"):
        low, high = LOW[index], 28 if index == 3 else HIGH[index]
        if "(" in base:
            low, high = map(int, base[2:-1].split("-"))
        hashed = int.from_bytes(sha256(key + b"\0" + NAMES[index].encode()).digest()[:8], "big")
        if not step:
            return value == low + hashed % (high - low + 1)
        first = low + hashed % min(int(step), high - low + 1)
        return value in range(first, high + 1, int(step))
    if base in ("*", "?"):
        low, high = LOW[index], HIGH[index]
    else:
        ends = [number_of(end) for end in base.split("-")]
        low, high = ends[0], ends[-1] if len(ends) > 1 else HIGH[index] if step else ends[0]
    values = range(low, high + 1, int(step or 1))
    return value in values or (index == 5 and value == 0 and 7 in values)


def day_rule(item: str, day: date, excluded: Callable[[date], bool]) -> bool | None:
    """None: it is no rule of its own."""
    month = month_of(day)
    weekdays = [one for one in month if one.isoweekday() <= 5]
    business = [one for one in weekdays if not excluded(one)]
    if item.endswith("BD"):
        head = item[:-2]
        if head == "L":
            return bool(business) and day == business[-1]
        return day in business if not head else len(business) >= int(head) and day == business[int(head) - 1]
    if item.startswith("LBD-"):
        back = int(item[4:])
        return len(business) > back and day == business[-1 - back]
    if item == "LW":
        return day == weekdays[-1]
    if item.endswith("W"):
        wanted = int(item[:-1])
        if wanted > len(month):
            return False
        return day == min(weekdays, key=lambda one: abs(one.day - wanted))
    if item == "L":
        return day == month[-1]
    if item.startswith("L-"):
        return len(month) > int(item[2:]) and day == month[-1 - int(item[2:])]
    return None


def weekday_rule(item: str, day: date) -> bool | None:
    if "#" in item:
        name, _, which = item.partition("#")
    elif item.upper().startswith("L"):
        name, which = item[1:], "L"
    else:
        return None
    same = [one for one in month_of(day) if weekday(one) == number_of(name) % 7]
    return day == same[-1] if which == "L" else len(same) >= int(which) and day == same[int(which) - 1]


def day_matches(days: str, weekdays: str, day: date, key: bytes, excluded: Callable[[date], bool]) -> bool:
    if excluded(day):
        return False

    def by_date(item: str) -> bool:
        found = day_rule(item, day, excluded)
        return ordinary(item, 3, day.day, key) if found is None else found

    def by_weekday(item: str) -> bool:
        found = weekday_rule(item, day)
        return ordinary(item, 5, weekday(day), key) if found is None else found

    stars = [
        any(item.partition("/")[0] in ("*", "?") and item.partition("/")[2] in ("", "1") for item in field.split(","))
        for field in (days, weekdays)
    ]
    both = any(map(by_date, days.split(","))), any(map(by_weekday, weekdays.split(",")))
    return all(both) if any(stars) else any(both)


def matches(text: str, at: datetime, key: bytes, excluded: Callable[[date], bool] = lambda _: False) -> bool:
    """Whether five or six fields want this reading of the wall clock."""
    fields = text.split()
    if len(fields) == 5:
        fields.insert(0, "0")
    seconds, minutes, hours, days, months, weekdays = fields
    plain = ((seconds, 0, at.second), (minutes, 1, at.minute), (hours, 2, at.hour), (months, 4, at.month))
    return all(any(ordinary(item, index, value, key) for item in field.split(",")) for field, index, value in plain) and day_matches(
        days, weekdays, at.date(), key, excluded
    )


def every_minute(first: datetime, count: int) -> list[datetime]:
    return [first + timedelta(minutes=index) for index in range(count)]
