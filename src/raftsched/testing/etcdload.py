"""bench/etcdload as a child process: the native load generator of process tests and benchmarks. scripts/tools.py finds it.

Invariant: every answer was looked at. A generator that met what it did not expect raises here with its one line.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Told:
    """One phase. Times of calls in ms; `cpu_s` is the generator's own."""

    ok: int
    failed: int
    seconds: float
    cpu_s: float
    bytes_in: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    errors: dict[str, int]

    @property
    def per_s(self) -> float:
        return self.ok / self.seconds


def words(**options: object) -> list[str]:
    """`value_bytes=1` is --value-bytes=1; True is a bare flag."""
    given = {name.replace("_", "-"): value for name, value in options.items() if value is not False}
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items()]


class EtcdLoad:
    """One run of the generator that is told by lines when to go on: `ready` first, then a `line` for what follows."""

    def __init__(self, program: Path, load: str, address: str, **options: object) -> None:
        host, port = address.split(":")
        command = [str(program), load, host, port, *words(**options)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ready(self) -> int:
        """How many connections, watchers, streams stand."""
        return int(self._line()["ready"])

    def say(self, line: object = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def told(self) -> Told:
        answer = self._line()
        del answer["what"]
        return Told(**answer)

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"etcdload ended: {self._process.communicate()[1].strip()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Ends the generator and its connections."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def unary(program: Path, address: str, method: str, **options: object) -> Told:
    """One closed or paced run of unary calls."""
    with EtcdLoad(program, "unary", address, method=method, **options) as load:
        load.ready()
        return load.told()


def done(program: Path, address: str, method: str, **options: object) -> Told:
    """The same, where no call may fail."""
    told = unary(program, address, method, **options)
    if told.failed:
        raise RuntimeError(f"{method}: {told.failed} of {told.ok + told.failed} calls failed: {told.errors}")
    return told
