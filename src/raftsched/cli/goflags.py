"""A command line as Go programs with pflag read it: `--x=y`, `--x y`, a bool alone, one dash or two, lists repeated.

Invariant: every word is either a flag, a flag's value, or positional; an unknown flag is an error, positional words are ignored
(as Dapr does). Must not know: what the flags mean.
"""

import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from raftsched.config.flags import Flag, Kind, Value
from raftsched.errors import ConfigError

USAGE_EXIT_CODE: Final = 2
Alias = Callable[[str], Mapping[str, str]]
"""What a short name stands for: its text → texts by flag name. Raises ValueError."""


class HelpAsked(Exception):
    """`--help`, or `-h`."""


class UsageError(ConfigError):
    """A flag that is unknown or malformed: error and usage on stderr, exit 2."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=USAGE_EXIT_CODE)


def parse(
    words: Sequence[str], flags: Iterable[Flag], aliases: Mapping[str, Alias] | None = None, ignored: list[str] | None = None
) -> dict[str, Value]:
    """The given flags by name; `ignored` grows by the positional words. Raises UsageError and HelpAsked."""
    ignored = [] if ignored is None else ignored
    known = {flag.name: flag for flag in flags}
    given: dict[str, Value] = {}
    rest = iter(words)
    for word in rest:
        if word == "--":
            ignored += rest
            break
        if len(word) < 2 or not word.startswith("-"):
            ignored.append(word)
            continue
        name, text = _split(word, known, rest, aliases or {})
        try:
            for target, target_text in (aliases or {}).get(name, lambda same, name=name: {name: same})(text).items():
                _take(given, known[target], target_text)
        except ValueError as error:
            raise UsageError(f'invalid argument "{text}" for "--{name}" flag: {error}') from None
    return given


def _split(word: str, known: Mapping[str, Flag], rest: Iterator[str], aliases: Mapping[str, Alias]) -> tuple[str, str]:
    """The flag's name and its text, which may be the next word."""
    dashes = 2 if word.startswith("--") else 1
    name, equals, text = word[dashes:].partition("=")
    if not name or name.startswith("-"):
        raise UsageError(f"bad flag syntax: {word}")
    flag = known.get(name)
    if flag is None and name not in aliases:
        if name in {"help", "h"}:
            raise HelpAsked
        raise UsageError(f"unknown shorthand flag: '{name}' in -{name}" if len(word) == 2 else f"unknown flag: --{name}")
    if equals:
        return name, text
    if flag is not None and flag.kind is Kind.BOOL:
        return name, "true"
    for value in rest:
        return name, value
    raise UsageError(f"flag needs an argument: --{name}")


def _take(given: dict[str, Value], flag: Flag, text: str) -> None:
    """A list that is given again grows; anything else is replaced."""
    value = flag.parse(text)
    before = given.get(flag.name)
    given[flag.name] = before + value if isinstance(before, tuple) and isinstance(value, tuple) else value


def usage(program: str, flags: Iterable[Flag], aliases: Mapping[str, str] | None = None) -> str:
    """The help text; `aliases` are short names with what they stand for."""
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))
    lines = [f"Usage of {program}:"]
    for flag in flags:
        if not flag.hidden:
            lines += _entry(f"--{flag.name} {flag.kind.value}".rstrip(), flag.help + _default(flag), width)
    if aliases:
        lines += ["", "Short names:"]
        for name, meaning in aliases.items():
            lines += _entry(f"--{name}", meaning, width)
    return "\n".join(lines) + "\n"


def _entry(left: str, text: str, width: int) -> list[str]:
    indent = " " * 10
    return [f"  {left}", *textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent)]


def _default(flag: Flag) -> str:
    """As pflag writes it: nothing for what is empty, false or absent."""
    if flag.default in ("", False, None, ()):
        return ""
    if isinstance(flag.default, tuple):
        return f" (default [{','.join(flag.default)}])"
    if isinstance(flag.default, str):
        return f' (default "{flag.default}")'
    return f" (default {str(flag.default).lower()})"
