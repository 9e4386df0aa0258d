"""Go's way of reading and quoting, where the wire contract shows it: durations, integers, white space, quoted strings.

Must not know: jobs, schedules. Errors are ValueError with the text that Go's own error would have.
"""

import re
from typing import Final

NS_PER_S: Final = 1_000_000_000
UNITS_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # micro sign
    "\u03bcs": 1_000,  # Greek mu
    "ms": 1_000_000,
    "s": NS_PER_S,
    "m": 60 * NS_PER_S,
    "h": 3600 * NS_PER_S,
}
INT64_MAX: Final = 2**63 - 1
SPACE: Final = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # unicode.IsSpace, as a character class
_SPACES: Final = re.compile(f"[{SPACE}]+")
_PART: Final = re.compile(r"([0-9]*)(?:(\.)([0-9]*))?([^.0-9]*)")
_ESCAPES: Final = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 34: '"', 92: "\\"}


def split_fields(text: str) -> list[str]:
    """strings.Fields."""
    return [field for field in _SPACES.split(text) if field]


def first_space(text: str) -> int:
    """strings.IndexFunc(text, unicode.IsSpace): -1 when there is none."""
    match = _SPACES.search(text)
    return match.start() if match else -1


def trim_space(text: str) -> str:
    """strings.TrimSpace."""
    return re.sub(f"^[{SPACE}]+|[{SPACE}]+\\Z", "", text)


def quote(text: str) -> str:
    """strconv.Quote, the %q of a string."""
    return '"' + "".join(map(_quote_char, text)) + '"'


def _quote_char(char: str) -> str:
    code = ord(char)
    if code in _ESCAPES:
        return "\\" + _ESCAPES[code]
    if char.isprintable():
        return char
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quote_bytes(text: str) -> str:
    """The time package's own quote: what is not printable ASCII goes byte by byte."""
    parts = []
    for char in text:
        if char < " " or char >= "\x80":
            parts += [f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogatepass")]
        else:
            parts.append("\\" + char if char in '"\\' else char)
    return '"' + "".join(parts) + '"'


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


def parse_duration(text: str) -> int:
    """time.ParseDuration: nanoseconds, -2**63 … 2**63 - 1."""
    negative = text.startswith("-")
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    invalid = ValueError(f"time: invalid duration {quote_bytes(text)}")
    if not rest:
        raise invalid
    total = at = 0
    while at < len(rest):
        match = _PART.match(rest, at)
        whole, _, fraction, unit = match.groups() if match else ("", None, None, "")
        significant = whole.lstrip("0") or "0"
        if match is None or not (whole or fraction) or len(significant) > 19 or int(significant) > 2**63:
            raise invalid
        if not unit:
            raise ValueError(f"time: missing unit in duration {quote_bytes(text)}")
        if unit not in UNITS_NS:
            raise ValueError(f"time: unknown unit {quote_bytes(unit)} in duration {quote_bytes(text)}")
        total += _part_ns(int(significant), fraction or "", UNITS_NS[unit], invalid)
        if total > 2**63:
            raise invalid
        at = match.end()
    if not negative and total > INT64_MAX:
        raise invalid
    return -total if negative else total


def _part_ns(whole: int, fraction: str, unit_ns: int, invalid: ValueError) -> int:
    """One number with its unit. The fraction is scaled in floating point, as Go does it, so that both round alike."""
    if whole > 2**63 // unit_ns:
        raise invalid
    value, scale = 0, 1.0
    for digit in fraction:
        larger = value * 10 + int(digit)
        if value > INT64_MAX // 10 or larger > 2**63:
            break  # digits beyond the precision are ignored
        value, scale = larger, scale * 10
    nanoseconds = whole * unit_ns + (int(float(value) * (float(unit_ns) / scale)) if value else 0)
    if nanoseconds > 2**63:
        raise invalid
    return nanoseconds
