"""Transition tables of IANA zones, from the host's tzdata or the `tzdata` package.

Impure: it reads files. `scheduler/schedule` is given `zone_table` as its port. tzdata differs between machines, so nothing of
it is stored: `tzdata_version` goes to status and metrics.
"""

import struct
import zoneinfo
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from importlib import import_module, resources
from pathlib import Path
from typing import Final

LAST_YEAR: Final = 2100  # the last offset holds after it
WEEK_S: Final = 7 * 86_400
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
END_S: Final = int((datetime(LAST_YEAR, 1, 1, tzinfo=UTC) - EPOCH).total_seconds())
BEGINNING_S: Final = -(1 << 60)
HEADER: Final = struct.Struct(">4sc15x6I")  # TZif: magic, version, counts (RFC 8536 §3.1)

ZoneTable = tuple[tuple[int, ...], tuple[int, ...]]


@lru_cache(maxsize=1_024)
def zone_table(name: str) -> ZoneTable | None:
    """(at, offset) in seconds: offset[i] holds from at[i], offset[0] also before. None = no such zone.

    The file's own transitions, then what its rule for the future gives, found week by week: a rule changes twice a year,
    while explicit transitions may lie closer (America/Boa_Vista had one week of summer time in 2000).
    """
    try:
        zone = zoneinfo.ZoneInfo(name)
        explicit = read_transitions(_zone_file(name))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError, ModuleNotFoundError, struct.error):
        return None
    changes = explicit + _ruled_transitions(zone, explicit[-1])
    at, offset = [changes[0][0]], [changes[0][1]]
    for second, seconds_east in changes[1:]:
        if seconds_east != offset[-1]:
            at.append(second)
            offset.append(seconds_east)
    return tuple(at), tuple(offset)


def read_transitions(data: bytes) -> list[tuple[int, int]]:
    """(second, offset from it on) of a TZif file of version 2 or later; the first holds since the beginning. ValueError."""
    magic, version, *counts = HEADER.unpack_from(data)
    if magic != b"TZif" or version < b"2":
        raise ValueError("not a TZif file of version 2 or later")
    start = HEADER.size + _block_bytes(counts, 4)
    _, _, *counts = HEADER.unpack_from(data, start)
    _, _, _, times, types, _ = counts
    start += HEADER.size
    seconds = struct.unpack_from(f">{times}q", data, start)
    kinds = data[start + 8 * times : start + 9 * times]
    offsets = [offset for offset, _, _ in struct.iter_unpack(">iBB", data[start + 9 * times : start + 9 * times + 6 * types])]
    return [(BEGINNING_S, offsets[0]), *((second, offsets[kind]) for second, kind in zip(seconds, kinds, strict=True))]


def _block_bytes(counts: list[int], time_bytes: int) -> int:
    utc, standard, leaps, times, types, characters = counts
    return times * (time_bytes + 1) + types * 6 + characters + leaps * (time_bytes + 4) + standard + utc


def _zone_file(name: str) -> bytes:
    """Where zoneinfo itself looks: the folders of TZPATH, then the package. The name has passed zoneinfo's own check."""
    for folder in zoneinfo.TZPATH:
        path = Path(folder, name)
        if path.is_file():
            return path.read_bytes()
    *folders, file = name.split("/")
    return resources.files(".".join(["tzdata.zoneinfo", *folders])).joinpath(file).read_bytes()


def _ruled_transitions(zone: zoneinfo.ZoneInfo, last: tuple[int, int]) -> list[tuple[int, int]]:
    def offset_at(second: int) -> int:
        offset = (EPOCH + timedelta(seconds=second)).astimezone(zone).utcoffset()
        return 0 if offset is None else int(offset.total_seconds())

    found: list[tuple[int, int]] = []
    second, offset = max(last[0], 0), last[1]
    while second < END_S:
        later = second + WEEK_S
        if offset_at(later) != offset:
            low, high = second, later
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset_at(middle) == offset else (low, middle)
            offset = offset_at(high)
            found.append((high, offset))
            later = high
        second = later
    return found


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
