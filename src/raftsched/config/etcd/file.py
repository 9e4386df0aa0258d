"""etcd's configuration file: YAML (and so JSON), with the flags' names and four blocks, read as etcd reads it.

Durations are whole nanoseconds, lists of URLs one text with commas. Must not know: what the options mean.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from raftsched.config.etcd.flags import BY_NAME
from raftsched.config.etcd.values import NUMBERS, Flag, Kind, Value
from raftsched.errors import ConfigError

CLIENT: Final = {
    **{name: name for name in ("cert-file", "key-file", "client-cert-file", "client-key-file", "client-cert-auth", "trusted-ca-file")},
    "auto-tls": "auto-tls",
    "allowed-hostname": "client-cert-allowed-hostname",
}
PEER: Final = {
    **{name: f"peer-{name}" for name in ("cert-file", "key-file", "client-cert-file", "client-key-file", "client-cert-auth")},
    "trusted-ca-file": "peer-trusted-ca-file",
    "auto-tls": "peer-auto-tls",
    "allowed-cn": "peer-cert-allowed-cn",
    "allowed-hostname": "peer-cert-allowed-hostname",
    "skip-client-san-verification": "peer-skip-client-san-verification",
}
BLOCKS: Final[Mapping[str, Mapping[str, str]]] = {
    "client-transport-security": CLIENT,
    "peer-transport-security": PEER,
    "discovery-config": {"token": "discovery-token"},
    "discovery-config.client": {
        "endpoints": "discovery-endpoints",
        "request-timeout": "discovery-request-timeout",
        "dial-timeout": "discovery-dial-timeout",
        "keepalive-time": "discovery-keepalive-time",
        "keepalive-timeout": "discovery-keepalive-timeout",
    },
    "discovery-config.client.secure": {
        "cert": "discovery-cert",
        "key": "discovery-key",
        "cacert": "discovery-cacert",
        "insecure-transport": "discovery-insecure-transport",
        "insecure-skip-tls-verify": "discovery-insecure-skip-tls-verify",
    },
    "discovery-config.client.auth": {"username": "discovery-user", "password": "discovery-password"},
    "socket-options": {"reuse-port": "socket-reuse-port", "reuse-address": "socket-reuse-address"},
}
GO_BLOCKS: Final = {
    "client-transport-security": "embed.securityConfig",
    "peer-transport-security": "embed.securityConfig",
    "discovery-config": "v3discovery.DiscoveryConfig",
    "discovery-config.client": "clientv3.ConfigSpec",
    "discovery-config.client.secure": "clientv3.SecureConfig",
    "discovery-config.client.auth": "clientv3.AuthConfig",
    "socket-options": "transport.SocketOpts",
}
_NOT_HERE: Final = frozenset(
    {f"discovery-config.client.{name}" for name in ("max-request-bytes", "max-recv-bytes", "secure.server-name", "auth.token")}
)
"""What etcd takes in files alone."""
TEXTS: Final = frozenset({"cors", "host-whitelist", "feature-gates"} | {flag.name for flag in BY_NAME.values() if flag.kind is Kind.URLS})
APART: Final = (TEXTS - {"listen-metrics-urls"}) | {"client-transport-security", "peer-transport-security"}
"""What etcd reads into a struct beside that of the other options."""
NOT_IN_FILES: Final = frozenset(
    {"config-file", "version", "discovery-fallback", "raft-read-timeout", "raft-write-timeout"}
    | {name for block in BLOCKS if block != "socket-options" for name in BLOCKS[block].values()}
)
"""Flags whose names are no keys at the top of the file."""
_SIGNED: Final = {Kind.INT: 63, Kind.INT64: 63, Kind.DURATION: 63}
_BITS: Final = {**_SIGNED, Kind.UINT: 64, Kind.UINT64: 64, Kind.UINT32: 32}


def read_file(path: str, on_unknown: Callable[[str], None]) -> dict[str, Value]:
    """The options that a file gives. Raises ConfigError with etcd's words."""
    table = _load(path)
    values: dict[str, Value] = {}
    for key, value in table.items():
        if key in BLOCKS and "." not in key:
            _read_block(key, value, values, on_unknown)
        elif key in BY_NAME and key not in NOT_IN_FILES and BY_NAME[key].kind is not Kind.IGNORED:
            _put(values, BY_NAME[key], key, value)
        else:
            on_unknown(str(key))
    return values


def _load(path: str) -> Mapping[Any, Any]:
    import yaml  # slow to import, and wanted with a file alone

    try:
        with open(path, encoding="utf-8") as file:
            table = yaml.safe_load(file)
    except OSError as error:
        raise ConfigError(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"error converting YAML to JSON: yaml: {_in_a_line(error)}") from None
    except RecursionError:
        raise ConfigError("error converting YAML to JSON: yaml: exceeded max depth") from None
    if table is None:
        return {}
    if not isinstance(table, Mapping):
        raise ConfigError(_mismatch(table, "", "embed.configYAML"))
    return table


def _in_a_line(error: Exception) -> str:
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return " ".join(str(error).split()) if mark is None else f"line {mark.line + 1}: {problem}"


def _read_block(block: str, value: object, values: dict[str, Value], on_unknown: Callable[[str], None]) -> None:
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise ConfigError(_mismatch(value, block, GO_BLOCKS[block]))
    for key, inner in value.items():
        name, path = BLOCKS[block].get(key), f"{block}.{key}"
        if path in BLOCKS:
            _read_block(path, inner, values, on_unknown)
        elif path in _NOT_HERE:
            raise ConfigError(f"{path}: not supported by this version of raftsched")
        elif name is None:
            on_unknown(path)
        else:
            _put(values, BY_NAME[name], path, inner)


def _put(values: dict[str, Value], flag: Flag, key: str, value: object) -> None:
    """What is null or an empty text, where a text is another thing, is as good as absent."""
    if value is None or (value == "" and flag.kind in {Kind.URLS, Kind.ORIGINS, Kind.SET, Kind.GATES}):
        return
    try:
        values[flag.name] = _typed(flag, value)
    except TypeError:
        wanted = "string" if flag.name in TEXTS else flag.kind.value.removeprefix("sorted ")
        raise ConfigError(_mismatch(value, key, wanted)) from None
    except ValueError as error:
        raise ConfigError(f"unexpected error setting up {flag.name}: {error}" if flag.kind is Kind.URLS else str(error)) from None


def _typed(flag: Flag, value: object) -> Value:
    """TypeError: of another type; ValueError: not such a text."""
    if flag.kind in NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int) or not _in_range(flag.kind, value):
            raise TypeError
        return value
    if flag.kind is Kind.BOOL:
        if not isinstance(value, bool):
            raise TypeError
        return value
    if flag.kind in {Kind.LIST, Kind.SET} and flag.name != "host-whitelist":
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise TypeError
        return tuple(value) if flag.kind is Kind.LIST else tuple(sorted(set(value)))
    if not isinstance(value, str):
        raise TypeError
    return value if flag.valid else flag.parse(value)


def _in_range(kind: Kind, value: int) -> bool:
    low = -(1 << 63) if kind in _SIGNED else 0
    return low <= value < 1 << _BITS[kind]


def _mismatch(value: object, key: str, wanted: str) -> str:
    names = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    found = names.get(type(value), "string")
    if found == "number" and wanted in {kind.value for kind in NUMBERS}:
        found += f" {json.dumps(value)}"
    struct = "configJSON" if key.partition(".")[0] in APART else "Config"
    block, dot, _ = key.rpartition(".")
    owner = GO_BLOCKS[block].rpartition(".")[2] if dot else "configYAML"
    field = f"Go struct field {owner}.{struct}.{key} of type {wanted}" if key else f"Go value of type {wanted}"
    return f"error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into {field}"
