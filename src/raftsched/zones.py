"""Transition tables of IANA zones, read from the host's tzdata or the `tzdata` package through zoneinfo.

Impure: it reads files. `scheduler/schedule` is given `zone_table` as its port. tzdata differs between machines, so nothing of
it is stored: `tzdata_version` goes to status and metrics.
"""

import zoneinfo
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Final

FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 2100  # the last offset holds after it
WEEK_S: Final = 7 * 86_400
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=1_024)
def zone_table(name: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(at, offset) in seconds: offset[i] holds from at[i], offset[0] also before. None = no such zone.

    Week by week, then bisected to the second: no zone since 1970 changes twice within seven days (a test looks).
    """
    try:
        zone = zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError, UnicodeError):
        return None

    def offset_at(second: int) -> int:
        offset = (EPOCH + timedelta(seconds=second)).astimezone(zone).utcoffset()
        return 0 if offset is None else int(offset.total_seconds())

    second, end = (int((datetime(year, 1, 1, tzinfo=UTC) - EPOCH).total_seconds()) for year in (FIRST_YEAR, LAST_YEAR))
    at, offsets = [second], [offset_at(second)]
    while second < end:
        later = second + WEEK_S
        if offset_at(later) != offsets[-1]:
            low, high = second, later
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset_at(middle) == offsets[-1] else (low, middle)
            at.append(high)
            offsets.append(offset_at(high))
            later = high  # a second change in the same week would begin here
        second = later
    return tuple(at), tuple(offsets)


def tzdata_version() -> str:
    """The release of the data in use, such as 2025b; "unknown" when the host does not say."""
    for folder in zoneinfo.TZPATH:
        if not Path(folder, "UTC").exists():
            continue
        for file in ("+VERSION", "tzdata.zi"):
            path = Path(folder, file)
            if path.exists():
                with path.open(encoding="ascii", errors="replace") as lines:
                    return lines.readline().split()[-1]
        return "unknown"
    try:
        return str(import_module("tzdata").IANA_VERSION)
    except ImportError:
        return "unknown"
