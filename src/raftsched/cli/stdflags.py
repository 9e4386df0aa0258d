"""A command line as Go's package flag reads it: `-x=y`, `-x y`, a switch alone, one dash or two; the first other word ends the flags.

Must not know: what the flags mean.
"""

from collections.abc import Mapping, Sequence

from raftsched.cli.goflags import HelpAsked, UsageError
from raftsched.config.etcd.values import Flag, Value, refusal


def parse(words: Sequence[str], flags: Mapping[str, Flag]) -> tuple[dict[str, Value], list[str]]:
    """The given flags by name, and the words behind them. Raises UsageError and HelpAsked."""
    given: dict[str, Value] = {}
    rest = list(words)
    while rest and len(rest[0]) > 1 and rest[0].startswith("-"):
        word = rest.pop(0)
        if word == "--":
            break
        name, equals, text = word[2 if word.startswith("--") else 1 :].partition("=")
        if not name or name.startswith("-"):
            raise UsageError(f"bad flag syntax: {word}")
        flag = flags.get(name)
        if flag is None:
            if name in {"help", "h"}:
                raise HelpAsked
            raise UsageError(f"flag provided but not defined: -{name}")
        given[name] = _value(flag, text if equals else None, rest)
    return given, rest


def _value(flag: Flag, text: str | None, rest: list[str]) -> Value:
    if text is None:
        if flag.is_switch:
            text = "true"
        elif not rest:
            raise UsageError(f"flag needs an argument: -{flag.name}")
        else:
            text = rest.pop(0)
    try:
        return flag.parse(text)
    except ValueError as error:
        raise UsageError(refusal(flag, text, error)) from None
