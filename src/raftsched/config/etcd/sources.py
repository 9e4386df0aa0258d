"""Where options come from: with a configuration file from it alone, else flags and environment (etcd-api.md §5).

A variable beside its flag is an error, as in etcd 3.7. Lines for the log are returned, in order: the log is known only afterwards.
Must not know: what the options mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from raftsched.config.etcd import gates
from raftsched.config.etcd.file import read_file
from raftsched.config.etcd.flags import BY_NAME, DEFAULTS, DEPRECATED, FLAGS
from raftsched.config.etcd.options import EtcdConfig, validate
from raftsched.config.etcd.values import Effect, Flag, Kind, Value
from raftsched.errors import ConfigError
from raftsched.units import quote

PREFIX: Final = "ETCD_"
VERSION_VARIABLE: Final = "ETCD_VERSION"
SHADOWED: Final = (
    "conflicting environment variable is shadowed by corresponding command-line flag "
    "(either unset environment variable or disable flag))"  # the bracket is etcd's
)
UNKNOWN_KEY: Final = "the configuration file has a key that is no option: ignored, as by etcd"
LOADED: Final = "loaded server configuration, other configuration command line flags and environment variables will be ignored if provided"


@dataclass(frozen=True, slots=True)
class Line:
    """One line for the log."""

    level: str
    message: str
    fields: Mapping[str, object] = field(default_factory=dict)


class ShadowedError(ConfigError):
    """A variable beside its flag."""

    def __init__(self, variable: str) -> None:
        super().__init__(SHADOWED)
        self.variable = variable


def load(given: Mapping[str, Value], environ: Mapping[str, str], lines: list[Line]) -> EtcdConfig:
    """The configuration from parsed flags (by flag name) and the environment; `lines` grows even if it fails. Raises ConfigError."""
    path = str(given.get("config-file") or environ.get(BY_NAME["config-file"].variable, ""))
    if path:
        explicit = read_file(path, lambda key: lines.append(Line("warning", UNKNOWN_KEY, {"key": key})))
        config = validate({**DEFAULTS, **explicit}, explicit)
        lines.append(Line("info", LOADED, {"path": path}))
    else:
        explicit = {**read_environment(given, environ, lines), **given}
        config = validate({**DEFAULTS, **explicit}, explicit)
    lines += [Line("warning", text) for name, text in DEPRECATED.items() if name in explicit]
    if explicit.get("snapshot-count") == 0:
        fields = {"given-snapshot-count": 0, "updated-snapshot-count": config.snapshot_count}
        lines.append(Line("info", "updating snapshot-count to default", fields))
    lines += ineffective(explicit) + ineffective_gates(config.feature_gates)
    return config


def read_environment(given: Mapping[str, Value], environ: Mapping[str, str], lines: list[Line]) -> dict[str, Value]:
    """The options that ETCD_<FLAG> variables give. An empty variable gives nothing. Raises ConfigError."""
    if environ.get(VERSION_VARIABLE):
        fields = {"key": VERSION_VARIABLE, "value": environ[VERSION_VARIABLE]}
        lines.append(Line("warning", "cannot set special environment variable", fields))
    shadowing = {BY_NAME[name].variable for name in given}
    values: dict[str, Value] = {}
    used: set[str] = set()
    failed: ConfigError | None = None
    for flag in sorted(FLAGS, key=lambda one: one.name):
        text = environ.get(flag.variable, "")
        if not text or flag.variable in shadowing or flag.name == "version":
            continue
        used.add(flag.variable)
        try:
            values[flag.name] = flag.parse(text)
        except ValueError as error:
            failed = ConfigError(f"invalid value {quote(text)} for {flag.variable}: {error}")
            continue
        lines.append(Line("info", "recognized and used environment variable", {"variable-name": flag.variable, "variable-value": text}))
    _verify(environ, used, shadowing, lines)
    if failed is not None:
        raise failed
    return values


def _verify(environ: Mapping[str, str], used: set[str], shadowing: set[str], lines: list[Line]) -> None:
    """Every variable that has etcd's prefix is one that was used. Raises ShadowedError."""
    for name, text in environ.items():
        if name in used or name == VERSION_VARIABLE:
            continue
        if name in shadowing:
            raise ShadowedError(name)
        if name.startswith(PREFIX):
            lines.append(Line("warning", "unrecognized environment variable", {"environment-variable": f"{name}={text}"}))


def ineffective(explicit: Mapping[str, Value]) -> list[Line]:
    """One line for each option that was given something else than its default and has no effect here."""
    return [
        Line("warning", "a flag of etcd has no effect here", {"flag": f"--{flag.name}", "reason": flag.note})
        for flag in _changed(explicit)
        if flag.effect is Effect.WARNED
    ]


def ineffective_gates(given: Mapping[str, bool]) -> list[Line]:
    return [
        Line("warning", "a feature gate of etcd has no effect here", {"gate": f"{name}={str(value).lower()}", "reason": why})
        for name, value, why in gates.ineffective(given)
    ]


def _changed(explicit: Mapping[str, Value]) -> list[Flag]:
    return [BY_NAME[name] for name, value in explicit.items() if value != BY_NAME[name].default or BY_NAME[name].kind is Kind.IGNORED]
