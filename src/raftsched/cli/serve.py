"""`raftsched serve` and `raftsched-scheduler`: read the options, open the log, run the server.

Invariant: a user's mistake is one line and an exit code, never a traceback. Imports neither typer nor rich nor grpc: a start
must be quick (tests/unit/test_goflags.py).
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from raftsched.cli import goflags
from raftsched.config import ServeConfig, load
from raftsched.config.flags import FLAGS
from raftsched.config.listening import local_line
from raftsched.errors import ConfigError, FatalError
from raftsched.log import Logs, open_logs
from raftsched.version import COMMIT, VERSION


def _peer_urls(text: str) -> Mapping[str, str]:
    """`http(s)://host:port` as our flag; whether peers speak TLS follows from --initial-cluster."""
    url = urlsplit(text)
    if url.scheme not in {"http", "https"} or not url.hostname or url.port is None or "," in text:
        raise ValueError("must be one URL of the form http(s)://<host>:<port>")
    return {"peer-listen-address": url.netloc}


ALIASES: Final[Mapping[str, goflags.Alias]] = {
    "initial-cluster": lambda text: {"etcd-initial-cluster": text},
    "data-dir": lambda text: {"etcd-data-dir": text},
    "listen-peer-urls": _peer_urls,
    "name": lambda text: {"id": text},
}
ALIAS_HELP: Final = {
    "initial-cluster": "--etcd-initial-cluster",
    "data-dir": "--etcd-data-dir",
    "listen-peer-urls": "--peer-listen-address, as http(s)://<host>:<port>",
    "name": "--id",
}


def serve(arguments: Sequence[str]) -> int:
    """`raftsched serve`: Dapr's flags and the short etcd-style names; the exit code."""
    return _main("raftsched serve", arguments, ALIASES, ALIAS_HELP)


def scheduler(arguments: Sequence[str]) -> int:
    """`raftsched-scheduler`: Dapr's flags alone, so that what is unknown to Dapr stays unknown; the exit code."""
    return _main("raftsched-scheduler", arguments, {}, {})


def _main(program: str, arguments: Sequence[str], aliases: Mapping[str, goflags.Alias], alias_help: Mapping[str, str]) -> int:
    ignored: list[str] = []
    try:
        given = goflags.parse(arguments, FLAGS, aliases, ignored)
    except goflags.HelpAsked:
        sys.stdout.write(goflags.usage(program, FLAGS, alias_help))
        return 0
    except goflags.UsageError as error:
        sys.stderr.write(f"{error}\n{goflags.usage(program, FLAGS, alias_help)}{error}\n")
        return error.exit_code
    try:
        config = load(given, os.environ)
        logs = open_logs(config.log_level, as_json=config.log_as_json, file=config.log_file)
    except ConfigError as error:
        open_logs().service().fatal(str(error))
        return error.exit_code
    for word in ignored:  # `--enable-metrics false`, say: a switch takes its value behind `=`
        logs.service().warning(f"ignored, since it is neither a flag nor the value of one: {word}")
    return _run(config, logs)


def _run(config: ServeConfig, logs: Logs) -> int:
    log = logs.service()
    log.info(f"Starting Dapr Scheduler Service -- version {VERSION} -- commit {COMMIT}")
    log.info(f"Log level set to: {config.log_level}")
    if config.etcd_embed and (line := local_line(config.client_listeners)):
        log.info(line)
    try:
        from raftsched import server  # all of it: only once the options are right

        if config.etcd_embed:
            return server.run(config, logs)
        from raftsched.external_server import ExternalServer

        return server.run(config, logs, ExternalServer)
    except ConfigError as error:
        log.fatal(str(error))
        return error.exit_code
    except FatalError as error:
        log.fatal(f"Fatal error running scheduler: {error}")
        return 1
    except KeyboardInterrupt:
        return 0  # before the server took the signal over; afterwards it ends by itself
