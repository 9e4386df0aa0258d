"""--auth-token, --auth-token-ttl and --bcrypt-cost: etcd's flags, read by etcd's rules.

Must not know: keys and signatures (security/jwt_tokens.py reads the files that are named here).
"""

from dataclasses import dataclass
from typing import Final

from raftsched import limits
from raftsched.errors import ConfigError
from raftsched.units import NS_PER_S, parse_duration

SIMPLE: Final = "simple"
JWT: Final = "jwt"
INVALID: Final = "auth: invalid auth options"
METHODS: Final = ("EdDSA", *(f"{family}{bits}" for family in ("RS", "PS", "ES", "HS") for bits in (256, 384, 512)))
JWT_TTL_NS: Final = 300 * NS_PER_S  # etcd's


@dataclass(frozen=True, slots=True)
class AuthToken:
    """`kind`: SIMPLE, JWT, or "" for no tokens at all. The rest is of JWTs; "" = no such file."""

    kind: str = SIMPLE
    sign_method: str = ""
    public_key_file: str = ""
    private_key_file: str = ""
    ttl_ns: int = JWT_TTL_NS


def parse_auth_token(text: str) -> AuthToken:
    """`simple`, or `jwt,sign-method=RS256,pub-key=FILE,priv-key=FILE,ttl=10m`. Options that are not known are ignored, as by etcd. Raises
    ConfigError."""
    kind, *pairs = text.split(",")
    options: dict[str, str] = {}
    for pair in pairs:
        name, found, value = pair.partition("=")
        if not found or "=" in value or name in options:
            raise ConfigError(INVALID)
        options[name] = value
    if kind in ("", SIMPLE):
        return AuthToken(kind)
    if kind != JWT:
        raise ConfigError(INVALID)
    if options.get("sign-method") not in METHODS:
        raise ConfigError(INVALID)
    return AuthToken(JWT, options["sign-method"], options.get("pub-key", ""), options.get("priv-key", ""), _ttl_ns(options.get("ttl", "")))


def _ttl_ns(text: str) -> int:
    try:
        return parse_duration(text) if text else JWT_TTL_NS
    except ValueError:
        raise ConfigError(INVALID) from None


def bcrypt_cost(given: int) -> int:
    """What bcrypt cannot do is its default, as in etcd."""
    return given if limits.BCRYPT_COST_MIN <= given <= limits.BCRYPT_COST_MAX else limits.BCRYPT_COST
