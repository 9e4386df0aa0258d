"""`raftsched etcd` and `raftsched-etcd`: etcd's command line, our store (etcd-api.md §8).

Exit codes are etcd's: 0 for --version and --help, 2 for a flag that is unknown or malformed, 1 for a start that fails; a stop by SIGTERM or
SIGINT ends the process by that signal. Imports neither typer nor rich nor grpc nor yaml
nor dnspython: a start must be quick.
"""

import os
import platform
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from raftsched.broadcast import find_host_address
from raftsched.cli import stdflags
from raftsched.cli.goflags import HelpAsked, UsageError
from raftsched.config.etcd import EtcdConfig, load
from raftsched.config.etcd.bootstrap import Cluster, complete, founders
from raftsched.config.etcd.flags import BY_NAME, GROUPS
from raftsched.config.etcd.options import NO_ADVERTISED
from raftsched.config.etcd.registry import DiscoveryError
from raftsched.config.etcd.sources import Line, ShadowedError
from raftsched.config.etcd.values import Effect, Flag, Kind, Value
from raftsched.errors import ConfigError
from raftsched.log import Logger, Logs, open_etcd_logs
from raftsched.units import format_duration

USAGE: Final = """\
Usage:

  etcd [flags]
    Start a member: the store of raftsched alone, with etcd's flags.

  etcd --version
    Show the version of etcd's API, and whose it is.

  etcd -h | --help
    Show all flags.

  etcd --config-file FILE
    Take all options from a YAML file; other flags and the environment are ignored then. Durations are whole nanoseconds there.
"""
MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
NO_COMMANDS: Final = ("gateway", "grpc-proxy")


def etcd(arguments: Sequence[str]) -> int:
    """The exit code; does not return when a signal ended the server."""
    if arguments and arguments[0] in NO_COMMANDS:
        sys.stderr.write(f"{arguments[0]} is not supported by raftsched\n")
        return 1
    try:
        given, rest = stdflags.parse(arguments, BY_NAME)
    except HelpAsked:
        sys.stderr.write(USAGE + "\n")
        sys.stdout.write(usage())
        return 0
    except UsageError as error:
        sys.stderr.write(f"{error}\n{USAGE}\n")
        return error.exit_code
    if given.get("version") and not rest:
        sys.stdout.write(version())
        return 0
    return _start(given, rest)


def version() -> str:
    """The four lines that tools read (etcd-api.md §8.2)."""
    from raftsched.rpc.etcd.version import SERVER_VERSION

    machine = platform.machine()
    return (
        f"etcd Version: {SERVER_VERSION}\nGit SHA: raftsched\nGo Version: none\n"
        f"Go OS/Arch: {sys.platform}/{MACHINES.get(machine, machine)}\n"
    )


def usage() -> str:
    """Every flag with its default, and what becomes of it if that is nothing."""
    lines: list[str] = []
    for group, flags in GROUPS.items():
        lines += ["", f"{group}:"]
        for flag in flags:
            if flag.kind is Kind.IGNORED:
                continue
            effect = f" No effect: {flag.note}." if flag.effect is Effect.WARNED else ""
            lines += [f"  --{flag.name} '{_shown(flag)}'", f"    {flag.help[0].upper()}{flag.help[1:]}.{effect}"]
    return "\n".join(lines) + "\n"


def _shown(flag: Flag) -> str:
    if isinstance(flag.default, bool):
        return str(flag.default).lower()
    if flag.kind is Kind.DURATION and isinstance(flag.default, int):
        return format_duration(flag.default)
    if isinstance(flag.default, tuple):
        return ",".join(map(str, flag.default))
    return "" if flag.kind is Kind.GATES else str(flag.default)


def _start(given: Mapping[str, Value], rest: Sequence[str]) -> int:
    lines: list[Line] = []
    try:
        refuse_words(rest)
        config = load(given, os.environ, lines)
        logs = open_etcd_logs(config.log_level, outputs=config.log_outputs, console=config.log_format == "console")
    except ShadowedError as error:
        log = open_etcd_logs().engine("")
        tell(lines, log)
        log.fatal(str(error), **{"environment-variable": error.variable})
        return 1
    except ConfigError as error:
        log = open_etcd_logs().engine("")
        tell(lines, log)
        log.info("Running: ", args=sys.argv)
        log.warning("failed to verify flags", error=str(error))
        if str(error) == NO_ADVERTISED:
            log.warning("advertise client URLs are not set", error=str(error))
        return 1
    log = logs.engine("")
    tell(lines, log)
    log.info("Running: ", args=sys.argv)
    return _begin(config, logs, log)


def refuse_words(rest: Sequence[str]) -> None:
    """Raises ConfigError for a word that no flag takes."""
    if rest:
        raise ConfigError(f'"{rest[0]}" is not a valid flag')


def tell(lines: Sequence[Line], log: Logger) -> None:
    for line in lines:
        (log.warning if line.level == "warning" else log.info)(line.message, **line.fields)


def _begin(config: EtcdConfig, logs: Logs, log: Logger) -> int:
    try:
        config, cluster = _prepare(config, log)
        from raftsched import standalone  # all of it: only once the options are right

        code = standalone.run(config, cluster, logs, os.environ)
    except DiscoveryError as error:
        _tell_failure(config, str(error), log)
        return 1
    except ConfigError as error:
        log.fatal("discovery failed", error=str(error))  # etcd's words for whatever fails before it serves
        return 1
    except KeyboardInterrupt:
        code = -signal.SIGINT
    return code if code >= 0 else _end_by(-code)


def _tell_failure(config: EtcdConfig, error: str, log: Logger) -> None:
    """etcd's words, whatever it was that the discovery service did not like."""
    log.error("bootstrap failed", error=error)
    fields: dict[str, object] = {}
    if config.discovery is not None:
        fields = {"discovery-token": config.discovery.token, "discovery-endpoints": list(config.discovery.endpoints)}
    log.warning("failed to bootstrap; discovery token was already used", **fields, error=error)
    log.warning("do not reuse discovery token; generate a new one to bootstrap a cluster")


def _prepare(config: EtcdConfig, log: Logger) -> tuple[EtcdConfig, Cluster | None]:
    """What follows from the options, the data directory and this machine. Raises ConfigError."""
    was_empty = not config.data_dir
    config, host = complete(config, lambda: _default_host(log))
    if host:
        log.info("detected default host for advertise", host=host)
    if was_empty:
        log.warning("'data-dir' was empty; using default", **{"data-dir": config.data_dir})
    kind = _look_at(config.data_dir, log)
    started = "server has already been initialized" if kind == "member" else "Initialize and start etcd server"
    log.info(started, **{"data-dir": config.data_dir, "dir-type": kind})
    wal = Path(config.wal_dir) if config.wal_dir else Path(config.data_dir) / "member" / "wal"
    if any(wal.glob("*.wal")):
        if config.discovery:
            log.warning("discovery token is ignored since cluster already initialized; valid logs are found", **{"wal-dir": str(wal)})
        return config, None
    return _found(config, log)


def _found(config: EtcdConfig, log: Logger) -> tuple[EtcdConfig, Cluster]:
    """The cluster that is to begin. Raises ConfigError."""
    if config.discovery is not None:
        from raftsched.cli import discovery  # grpc

        return discovery.discover(config, config.discovery, log)
    if config.discovery_srv:
        from raftsched.cli import srv  # dnspython

        return srv.discover(config, srv.Dns(), resolve, log)
    return config, founders(config, resolve)


def _default_host(log: Logger) -> str:
    try:
        return find_host_address()
    except ConfigError as error:
        log.info("failed to detect default host", error=str(error))
        return ""


def _look_at(data_dir: str, log: Logger) -> str:
    """etcd's dir-type: member or empty. Raises ConfigError."""
    try:
        names = sorted(os.listdir(data_dir))
    except FileNotFoundError:
        return "empty"
    except OSError as error:
        raise ConfigError(f"failed to list data directory {data_dir}: {error.strerror}") from None
    for name in names:
        if name not in {"member", "proxy"}:
            log.warning("found invalid file under data directory", **{"filename": name, "data-dir": data_dir})
    if "proxy" in names:
        raise ConfigError("invalid datadir; the proxy of etcd's v2 is no more")
    return "member" if "member" in names else "empty"


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name; none if it has none now."""
    try:
        return sorted({str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
    except OSError:
        return []


def _end_by(number: int) -> int:
    """As etcd does: the process dies by the signal that ended it; the first of a container just ends."""
    sys.stdout.flush()
    if os.getpid() != 1:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return 0


def main() -> int:
    """The console script `raftsched-etcd`, which an image may link as /usr/local/bin/etcd."""
    return etcd(sys.argv[1:])
