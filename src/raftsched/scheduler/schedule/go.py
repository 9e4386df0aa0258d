"""Go's way of reading text, where the wire contract shows it: integers, white space. Durations and quotes are in `units`.

Must not know: jobs, schedules. Errors are ValueError with the text that Go's own error would have.
"""

import re
from typing import Final

from raftsched.units import INT64_MAX, NS_PER_S, parse_duration, quote

__all__ = ["NS_PER_S", "first_space", "parse_duration", "parse_int", "quote", "split_fields", "trim_space"]

SPACE: Final = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"  # unicode.IsSpace
_SPACES: Final = re.compile(f"[{SPACE}]+")


def split_fields(text: str) -> list[str]:
    """strings.Fields."""
    return [field for field in _SPACES.split(text) if field]


def first_space(text: str) -> int:
    """strings.IndexFunc(text, unicode.IsSpace): -1 when there is none."""
    match = _SPACES.search(text)
    return match.start() if match else -1


def trim_space(text: str) -> str:
    """strings.TrimSpace."""
    return text.strip(SPACE)


def parse_int(text: str) -> int:
    """strconv.Atoi."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    known = re.match("[0-9]*", digits)
    prefix = known.group() if known else ""
    significant = prefix.lstrip("0") or "0"  # Python refuses to read thousands of digits
    # Go stops at the first digit that overflows 64 bits, before it sees what follows.
    if len(significant) > 20 or int(significant) > 2**64 - 1:
        raise ValueError(f"strconv.Atoi: parsing {quote(text)}: value out of range")
    if not digits or prefix != digits:
        raise ValueError(f"strconv.Atoi: parsing {quote(text)}: invalid syntax")
    number = -int(significant) if text.startswith("-") else int(significant)
    if not -INT64_MAX - 1 <= number <= INT64_MAX:
        raise ValueError(f"strconv.Atoi: parsing {quote(text)}: value out of range")
    return number
