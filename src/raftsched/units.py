"""Numbers as people write them for Go programs: durations, integers, booleans, Kubernetes quantities, quoted strings.

Invariant: the same text gives the same number, or the same words of refusal, as Go's time, strconv and apimachinery's
resource packages. Errors are ValueError with Go's text.
"""

import re
from fractions import Fraction
from typing import Final

NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000
INT64_MAX: Final = 2**63 - 1
UNITS_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # micro sign
    "\u03bcs": 1_000,  # Greek mu
    "ms": NS_PER_MS,
    "s": NS_PER_S,
    "m": 60 * NS_PER_S,
    "h": 3600 * NS_PER_S,
}
_PART: Final = re.compile(r"([0-9]*)(?:(\.)([0-9]*))?([^.0-9]*)")
_ESCAPES: Final = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 34: '"', 92: "\\"}
_BOOLS: Final = dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "false", "FALSE", "False"), False
)
_DIGITS: Final = {
    "0x": re.compile(r"0[xX](_?[0-9a-fA-F])+"),
    "0b": re.compile(r"0[bB](_?[01])+"),
    "0o": re.compile(r"0[oO]?(_?[0-7])+"),
    "": re.compile(r"0|[1-9](_?[0-9])*"),
}
_BASES: Final = {"0x": 16, "0b": 2, "0o": 8, "": 10}
_QUANTITY: Final = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?([eEinumkKMGTP]*[-+]?[0-9]*)")
_SUFFIXES: Final = {
    suffix: Fraction(base) ** power
    for base, powers in (
        (10, {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}),
        (2, {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}),
    )
    for suffix, power in powers.items()
}
_QUANTITY_LENGTH_MAX: Final = 1_000
_EXPONENT_MAX: Final = 1_000  # 10 to the 1000th is beyond every bound; a larger exponent would only cost time


# ---- durations ------------------------------------------------------------------------------------------------------


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


def format_duration(duration_ns: int) -> str:
    """time.Duration.String: 0s, 1.5ms, 10m0s, 26h3m4.5s."""
    sign, rest = ("-", -duration_ns) if duration_ns < 0 else ("", duration_ns)
    if rest < NS_PER_S:
        if rest == 0:
            return "0s"
        unit, unit_ns = ("ns", 1) if rest < 1_000 else ("\u00b5s", 1_000) if rest < NS_PER_MS else ("ms", NS_PER_MS)
        return f"{sign}{_decimal(rest, unit_ns)}{unit}"
    minutes, rest = divmod(rest, 60 * NS_PER_S)
    text = _decimal(rest, NS_PER_S) + "s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        text = (f"{hours}h" if hours else "") + f"{minutes}m{text}"
    return sign + text


def _decimal(value: int, unit: int) -> str:
    whole, fraction = divmod(value, unit)
    digits = f"{fraction:0{len(str(unit)) - 1}d}".rstrip("0") if fraction else ""
    return f"{whole}.{digits}" if digits else str(whole)


# ---- Kubernetes quantities ------------------------------------------------------------------------------------------


def parse_quantity(text: str) -> int:
    """resource.ParseQuantity(text).Value(): a whole number, rounded away from zero, capped at ±(2**63 - 1).

    `9.2E`, `2Gi`, `500M`, `1e3`, `128` …
    """
    match = _QUANTITY.fullmatch(text)
    if not text or match is None or len(text) > _QUANTITY_LENGTH_MAX:
        raise ValueError("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    sign, whole, fraction, suffix = match.groups()
    number = Fraction(int((whole or "0") + (fraction or "")), 10 ** len(fraction or "")) * _multiplier(suffix)
    value = min(-(-number.numerator // number.denominator), INT64_MAX)
    return -value if sign == "-" else value


def _multiplier(suffix: str) -> Fraction:
    known = _SUFFIXES.get(suffix)
    if known is not None:
        return known
    if suffix[:1] in {"e", "E"} and re.fullmatch(r"[-+]?[0-9]+", suffix[1:]) and abs(int(suffix[1:])) <= INT64_MAX:
        return Fraction(10) ** max(-_EXPONENT_MAX, min(int(suffix[1:]), _EXPONENT_MAX))
    raise ValueError("unable to parse quantity's suffix")


# ---- strconv --------------------------------------------------------------------------------------------------------


def parse_int(text: str, bits: int = 64) -> int:
    """strconv.ParseInt(text, 0, bits): decimal, 0x, 0b, 0o or 0 prefix, `_` between digits."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    number = _magnitude("ParseInt", text, digits)
    if number >= 2 ** (bits - 1) + (text[:1] == "-"):
        raise ValueError(f"strconv.ParseInt: parsing {quote(text)}: value out of range")
    return -number if text[:1] == "-" else number


def parse_uint(text: str, bits: int = 64) -> int:
    """strconv.ParseUint(text, 0, bits)."""
    number = _magnitude("ParseUint", text, text)
    if number >= 2**bits:
        raise ValueError(f"strconv.ParseUint: parsing {quote(text)}: value out of range")
    return number


def _magnitude(function: str, text: str, digits: str) -> int:
    for prefix, pattern in _DIGITS.items():
        if pattern.fullmatch(digits):
            plain = digits.replace("_", "")[{"0x": 2, "0b": 2, "0o": 1, "": 0}[prefix] :].lstrip("oO0")
            # Longer than 64 binary digits is out of every range; do not let Python count on.
            return int(plain or "0", _BASES[prefix]) if len(plain) <= 64 else 2**64
    raise ValueError(f"strconv.{function}: parsing {quote(text)}: invalid syntax")


def parse_bool(text: str) -> bool:
    """strconv.ParseBool."""
    value = _BOOLS.get(text)
    if value is None:
        raise ValueError(f"strconv.ParseBool: parsing {quote(text)}: invalid syntax")
    return value


def quote(text: str) -> str:
    """strconv.Quote, the %q of a string; bytes that are no UTF-8 (surrogate escapes) as \\xNN."""
    return '"' + "".join(map(_quote_char, text)) + '"'


def _quote_char(char: str) -> str:
    code = ord(char)
    if code in _ESCAPES:
        return "\\" + _ESCAPES[code]
    if char.isprintable():
        return char
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
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
