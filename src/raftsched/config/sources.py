"""Where options come from: flags before environment before file before defaults.

Invariant: nothing is silently ignored: an unknown key of the file, a value of the wrong type, an unreadable file are one line each.
Must not know: what the options mean.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from typing import Any, Final

from raftsched.config.flags import BY_NAME, FLAGS, Flag, Kind, Value
from raftsched.config.serve import ServeConfig, validate
from raftsched.errors import ConfigError

PREFIX: Final = "RAFTSCHED_"
# Kubernetes gives every pod <SERVICE>_PORT=tcp://… for each service: one called raftsched is not meant to set --port.
SERVICE_LINK: Final = re.compile(r"(tcp|udp|sctp)://")


def load(given: Mapping[str, Value], environ: Mapping[str, str]) -> ServeConfig:
    """The configuration from parsed flags (by flag name) and the environment. Raises ConfigError."""
    from_environment = read_environment(environ)
    path = given.get("config", from_environment.get("config", ""))
    from_file = read_file(str(path)) if path else {}
    values = {flag.name: flag.default for flag in FLAGS} | from_file | from_environment | dict(given)
    return validate(values, environ)


def read_environment(environ: Mapping[str, str]) -> dict[str, Value]:
    """The options that RAFTSCHED_<FLAG> variables give."""
    values: dict[str, Value] = {}
    for flag in FLAGS:
        variable = PREFIX + flag.field.upper()
        text = environ.get(variable)
        if text is None or (flag.name == "port" and SERVICE_LINK.match(text)):
            continue
        try:
            values[flag.name] = flag.parse(text)
        except ValueError as error:
            raise ConfigError(f'invalid value "{text}" for the environment variable {variable}: {error}') from None
    return values


def read_file(path: str) -> dict[str, Value]:
    """The options that a TOML file gives: one key per flag, with `-` or `_`, all at the top."""
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read --config {path}: {os.strerror(error.errno) if error.errno else error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read --config {path}: {error}") from None
    values: dict[str, Value] = {}
    for key, value in table.items():
        flag = BY_NAME.get(key.replace("_", "-"))
        if flag is None or flag.name == "config":
            raise ConfigError(f'unknown option "{key}" in {path}')
        try:
            values[flag.name] = _typed(flag, value)
        except ValueError as error:
            raise ConfigError(f'invalid value for "{key}" in {path}: {error}') from None
    return values


def _typed(flag: Flag, value: Any) -> Value:
    """A TOML value as the flag's type; a string is read as on the command line."""
    if isinstance(value, str):
        return flag.parse(value)
    if flag.kind is Kind.LIST and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if flag.kind is Kind.BOOL and isinstance(value, bool):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and flag.kind not in {Kind.BOOL, Kind.LIST}:
        return flag.parse(str(value))
    raise ValueError(f"expected {flag.kind.value or 'a boolean'}")
