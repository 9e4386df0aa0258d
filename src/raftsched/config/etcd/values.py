"""The types of etcd's flags: how a text becomes a value, with the words of refusal of Go's flag package and of etcd's own types.

Must not know: which flags there are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from raftsched.config.etcd import gates
from raftsched.config.etcd.urls import Url, parse_urls
from raftsched.units import parse_bool, parse_duration, parse_int, parse_uint, quote

Value = str | int | bool | tuple[str, ...] | tuple[Url, ...] | Mapping[str, bool]
"""Durations are nanoseconds."""


class Kind(Enum):
    """The type of a flag; the value is its Go type, which a configuration file's errors name."""

    BOOL = "bool"
    INT = "int"
    INT64 = "int64"
    UINT = "uint"
    UINT32 = "uint32"
    UINT64 = "uint64"
    DURATION = "time.Duration"
    STRING = "string"
    LIST = "[]string"
    SET = "sorted []string"
    URLS = "[]url.URL"
    ORIGINS = "map[string]struct{}"
    GATES = "featuregate"
    IGNORED = ""


NUMBERS: Final = frozenset({Kind.INT, Kind.INT64, Kind.UINT, Kind.UINT32, Kind.UINT64, Kind.DURATION})


class Effect(Enum):
    """What becomes of a flag that is given a value other than its default."""

    TAKEN = "takes effect"
    WARNED = "accepted with a warning line"


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of etcd's. `note`: why it has no effect. `valid`: the texts that are allowed, () = any; `several`: with commas between."""

    name: str
    kind: Kind
    default: Value
    help: str
    effect: Effect = Effect.TAKEN
    note: str = ""
    valid: tuple[str, ...] = ()
    several: bool = False

    @property
    def field(self) -> str:
        """Its name in a table of options."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "ETCD_" + self.field.upper()

    @property
    def is_switch(self) -> bool:
        """Whether it needs no value."""
        return self.kind in {Kind.BOOL, Kind.IGNORED}

    def parse(self, text: str) -> Value:
        """The value that `text` means; ValueError with etcd's words."""
        for word in text.split(",") if self.several else [text]:
            if self.valid and word not in self.valid:
                raise ValueError(f"invalid value {quote(word)}" if self.several else "invalid value")
        return _PARSERS[self.kind](text)


def _number(parse: Callable[[str], int]) -> Callable[[str], int]:
    """As package flag words it: what strconv says, in two kinds."""

    def parsed(text: str) -> int:
        try:
            return parse(text)
        except ValueError as error:
            raise ValueError("value out of range" if str(error).endswith("value out of range") else "parse error") from None

    return parsed


def _boolean(text: str) -> bool:
    try:
        return parse_bool(text)
    except ValueError:
        raise ValueError("parse error") from None


def _origins(text: str) -> tuple[str, ...]:
    return ("*",) if text == "*" else tuple(str(one) for one in parse_urls(text))


_PARSERS: Final[dict[Kind, Callable[[str], Value]]] = {
    Kind.BOOL: _boolean,
    Kind.INT: _number(parse_int),
    Kind.INT64: _number(parse_int),
    Kind.UINT: _number(parse_uint),
    Kind.UINT64: _number(parse_uint),
    Kind.UINT32: lambda text: parse_uint(text, 32),  # a type of etcd's own: strconv's words as they are
    Kind.DURATION: _number(parse_duration),
    Kind.STRING: str,
    Kind.LIST: lambda text: tuple(text.split(",")) if text else (),
    Kind.SET: lambda text: tuple(sorted(set(text.split(",")))),
    Kind.URLS: lambda text: parse_urls(text) if text else (),
    Kind.ORIGINS: _origins,
    Kind.GATES: gates.parse,
    Kind.IGNORED: str,
}


def refusal(flag: Flag, text: str, error: ValueError) -> str:
    """What is said of a value on the command line."""
    if flag.kind is Kind.BOOL:
        return f"invalid boolean value {quote(text)} for -{flag.name}: {error}"
    return f"invalid value {quote(text)} for flag -{flag.name}: {error}"
