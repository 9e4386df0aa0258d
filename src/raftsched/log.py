"""The two log streams: the service's lines on stdout, the engine's and the store's JSON on stderr.

Invariant: one line is one write, whole or not at all where the system grants it; a line that cannot be written is dropped and
never ends the process. A call below the level costs one empty method call.
Must not know: what is logged.

stdout (spec/scheduler.md §10.3), text or JSON with the same names:

    time="2026-01-02T03:04:05.6Z" level=info msg="Cron is ready" instance=host scope=dapr.scheduler.server type=log ver=0.1.0

stderr, always JSON, fields last and in the order given:

    {"level":"info","ts":"2026-01-02T03:04:05.600000Z","logger":"…","caller":"scheduler/service.py:179","msg":"…","id":"…"}

`raftsched etcd` has the second stream alone, wherever and in whichever form etcd's --log-* flags want it.
"""

import errno
import json
import os
import re
import sys
import time
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Protocol

from raftsched.errors import ConfigError
from raftsched.units import quote
from raftsched.version import VERSION


def _import_structlog() -> ModuleType:
    """structlog without its coloured console, for which it would import rich: half of the time that a start may take."""
    absent = object()
    before: object = sys.modules.get("rich", absent)
    sys.modules["rich"] = None  # type: ignore[assignment]  # what import makes of a package that is not there
    try:
        import structlog
    finally:
        if before is absent:
            del sys.modules["rich"]
        else:
            sys.modules["rich"] = before  # type: ignore[assignment]
    return structlog


structlog: Any = _import_structlog()

LEVELS: Final = {"debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40, "fatal": 50}
_SERVICE_LEVELS: Final = {"critical": "fatal"}
_ENGINE_LEVELS: Final = {"critical": "fatal", "warning": "warn"}
_PLAIN: Final = re.compile(r"[a-zA-Z0-9\-._/@^+]*")
_PACKAGE: Final = os.path.dirname(__file__) + os.sep
_THIS: Final = __file__
Event = MutableMapping[str, Any]


class Logger(Protocol):
    """`ports.Log`, and the last words of a process."""

    def debug(self, message: str, /, **fields: object) -> object: ...
    def info(self, message: str, /, **fields: object) -> object: ...
    def warning(self, message: str, /, **fields: object) -> object: ...
    def error(self, message: str, /, **fields: object) -> object: ...
    def fatal(self, message: str, /, **fields: object) -> object: ...


class LineWriter:
    """Whole lines to a file descriptor, past Python's buffers: nothing is lost when the process is killed right after."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.dropped = 0
        """Lines that could not be written: the reader is gone, or the disk is full."""

    def msg(self, line: str) -> None:
        rest = memoryview(line.encode("utf-8", "backslashreplace") + b"\n")
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            self.dropped += 1

    debug = info = warning = error = critical = fatal = msg


class LineWriters:
    """The same lines to several descriptors."""

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._writers = [LineWriter(descriptor) for descriptor in descriptors]

    @property
    def dropped(self) -> int:
        return sum(writer.dropped for writer in self._writers)

    def msg(self, line: str) -> None:
        for writer in self._writers:
            writer.msg(line)

    debug = info = warning = error = critical = fatal = msg


@dataclass(frozen=True, slots=True)
class Logs:
    """Makes loggers; one per process."""

    level: int
    as_json: bool
    service_writer: LineWriter | LineWriters
    engine_writer: LineWriter | LineWriters
    instance: str
    console: bool = False
    """The engine's lines as zap's console encoder writes them."""

    def service(self, scope: str = "dapr.scheduler") -> Logger:
        """A logger of stdout; `scope` names the part of the service."""
        render = _render_json if self.as_json else _render_text
        return self._logger(self.service_writer, render, {"instance": self.instance, "scope": scope, "type": "log", "ver": VERSION})

    def engine(self, name: str) -> Logger:
        """A logger of stderr; `name` is the value of `logger`, "" = without one."""
        return self._logger(self.engine_writer, _render_console if self.console else _render_engine, {"logger": name})

    def _logger(self, writer: LineWriter | LineWriters, render: object, context: dict[str, str]) -> Logger:
        logger: Logger = structlog.make_filtering_bound_logger(self.level)(writer, [render], context)
        return logger


def parse_level(text: str) -> int:
    """The number of a `--log-level`; raises ConfigError."""
    level = LEVELS.get(text.lower())
    if level is None:
        raise ConfigError(f"invalid value for --log-level: {text}")
    return level


def open_logs(level: str = "info", *, as_json: bool = False, file: str = "") -> Logs:
    """`file` replaces stdout, appended to. Raises ConfigError for an unknown level and for a file that cannot be opened."""
    number = parse_level(level)
    descriptor = 1
    if file:
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            reason = os.strerror(error.errno or errno.EIO).lower()
            raise ConfigError(f"failed to open log file {quote(file)}: open {file}: {reason}") from None
    return Logs(number, as_json, LineWriter(descriptor), LineWriter(2), os.uname().nodename)


def open_etcd_logs(level: str = "info", *, outputs: Sequence[str] = ("default",), console: bool = False) -> Logs:
    """etcd's --log-level, --log-outputs and --log-format. Raises ConfigError for a file that cannot be opened."""
    own = {"default": 2, "stderr": 2, "stdout": 1}
    names = ("/dev/null",) if "/dev/null" in outputs else tuple(outputs)
    descriptors = [own[name] if name in own else _open_file(name) for name in names]
    writer = LineWriters(descriptors)
    return Logs({"dpanic": 50, "panic": 50}.get(level) or parse_level(level), True, writer, writer, "", console)


def _open_file(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO).lower()
        raise ConfigError(f"couldn't open sink {quote(path)}: open {path}: {reason}") from None


def _now(*, microseconds: bool) -> str:
    """RFC 3339 in UTC: nanoseconds without trailing zeros, or exactly six digits."""
    seconds, rest_ns = divmod(time.time_ns(), 1_000_000_000)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    if microseconds:
        return f"{stamp}.{rest_ns // 1000:06d}Z"
    fraction = f".{rest_ns:09d}".rstrip("0")
    return f"{stamp}{fraction}Z" if fraction != "." else f"{stamp}Z"


def _render_text(_logger: object, method: str, event: Event) -> str:
    message = str(event.pop("event"))
    head = f'time="{_now(microseconds=False)}" level={_SERVICE_LEVELS.get(method, method)} msg={_word(message)}'
    return " ".join([head, *(f"{key}={_word(_text(value))}" for key, value in sorted(event.items()))])


def _word(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else quote(text)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else str(value)


def _render_json(_logger: object, method: str, event: Event) -> str:
    event["msg"] = event.pop("event")
    event["time"] = _now(microseconds=False)
    event["level"] = _SERVICE_LEVELS.get(method, method)
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False, sort_keys=True, default=str)


def _render_engine(_logger: object, method: str, event: Event) -> str:
    name = event.pop("logger")
    line = {
        "level": _ENGINE_LEVELS.get(method, method),
        "ts": _now(microseconds=True),
        **({"logger": name} if name else {}),
        "caller": _caller(),
        "msg": event.pop("event"),
    }
    return json.dumps({**line, **event}, separators=(",", ":"), ensure_ascii=False, default=str)


def _render_console(_logger: object, method: str, event: Event) -> str:
    """Tabs between time, level, logger, caller and message; fields as JSON behind them."""
    name, message = event.pop("logger"), str(event.pop("event"))
    head = [_now(microseconds=True), _ENGINE_LEVELS.get(method, method), name, _caller(), message]
    fields = json.dumps(event, separators=(", ", ": "), ensure_ascii=False, default=str) if event else ""
    return "\t".join(filter(None, [*head, fields]))


def _caller() -> str:
    """File and line, below the package, of the first frame that is neither this module's nor structlog's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (frame.f_code.co_filename == _THIS or "structlog" in frame.f_code.co_filename):
        frame = frame.f_back
    return f"{frame.f_code.co_filename.removeprefix(_PACKAGE)}:{frame.f_lineno}"
