"""What of an HTTP request's headers its call sees, by the rules of grpc-gateway.

Must not know: what any of it means.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Final

from raftsched.errors import GrpcCode, StatusError

PREFIX: Final = "grpc-metadata-"
PERMANENT: Final = frozenset(
    {
        "accept",
        "accept-charset",
        "accept-language",
        "accept-ranges",
        "authorization",
        "cache-control",
        "content-type",
        "cookie",
        "date",
        "expect",
        "from",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-schedule-tag-match",
        "if-unmodified-since",
        "max-forwards",
        "origin",
        "pragma",
        "referer",
        "user-agent",
        "via",
        "warning",
    }
)
"""Headers that a call sees as `grpcgateway-<name>`."""
UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
SECONDS_MAX: Final = 1e9  # of a time-out; Go's 292 years would not fit a timer


def metadata_of(headers: Sequence[tuple[str, str]]) -> dict[str, str]:
    """By name, the first value of each. StatusError for a binary header that is not base64.

    `Authorization` is the token as it is. `grpcgateway-accept` is always there: it says that a certificate is not the caller's.
    """
    found: dict[str, str] = {}
    for name, value in headers:
        if name == "authorization":
            found.setdefault("authorization", value)
        if name in PERMANENT:
            found.setdefault("grpcgateway-" + name, value)
        elif name.startswith(PREFIX):
            key = name.removeprefix(PREFIX)
            if key.endswith("-bin"):
                found.setdefault(key, _binary(name, value))
            elif value.isascii() and value.isprintable():
                found.setdefault(key, value)
    found.setdefault("grpcgateway-accept", "")
    return found


def _binary(name: str, value: str) -> str:
    try:
        return base64.b64decode(value.encode("latin-1") + b"=" * (-len(value) % 4), validate=True).decode("latin-1")
    except (binascii.Error, ValueError) as error:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"invalid binary header {name.title()}: {error}") from None


def timeout_s(value: str | None) -> float | None:
    """Of a `Grpc-Timeout` header; None: it is not there, or 0, which is no limit. StatusError for what is none."""
    if not value:
        return None
    digits, unit = value[:-1], value[-1]
    if unit not in UNITS or not digits.removeprefix("-").isdecimal() or not digits.isascii() or len(digits) > 18:
        raise StatusError(GrpcCode.INVALID_ARGUMENT, f"invalid grpc-timeout: {value}")
    return min(max(int(digits) * UNITS[unit], 0.0), SECONDS_MAX) if int(digits) else None
