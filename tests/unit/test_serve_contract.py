"""Lines of spec/scheduler.md about the process that need no process: recreating, fixed settings, texts that must not be there."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from raftsched.cli.goflags import parse
from raftsched.config import load
from raftsched.config.flags import FLAGS
from raftsched.limits import LEADERSHIP_LEASE_TTL_S, MESSAGE_BYTES_MAX
from raftsched.server import SCHEDULER_PING_IDLE_MS, SCHEDULER_PING_TIMEOUT_MS, Supervisor, node_options
from raftsched.testing.peers import LogLines

ROOT = Path(__file__).parents[2]
SPEC = (ROOT / "docs" / "spec" / "scheduler.md").read_text()


class Logs:
    """Both streams in one list."""

    def __init__(self) -> None:
        self.lines = LogLines()

    def service(self, scope: str = "") -> LogLines:
        return self.lines

    def engine(self, name: str) -> LogLines:
        return self.lines


class Failing:
    """An incarnation that cannot start."""

    starts = 0
    ready = False
    fatal = False
    anew = False

    def __init__(self, *arguments: Any) -> None:
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        Failing.starts += 1
        raise OSError("port busy")

    async def stop(self) -> None:
        """Nothing was started."""


def supervised(folder: Path, incarnation: type[Failing]) -> tuple[Supervisor, Logs]:
    words = [f"--etcd-data-dir={folder}", "--listen-address=127.0.0.1", "--healthz-listen-address=127.0.0.1"]
    config = load(parse([*words, "--healthz-port=0", "--metrics-port=0", "--etcd-client-port=0"], FLAGS, {}), {})
    logs = Logs()
    return Supervisor(config, logs, incarnation), logs  # type: ignore[arg-type]


async def test_a_failure_is_recreated_with_decorrelated_jitter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """§2.5, D1: log, wait uniformly between 500 ms and min(10 s, 3 x the wait before), build anew; never an end of the process."""
    waits: list[float] = []
    supervisor, logs = supervised(tmp_path, Failing)

    async def pause(delay_s: float) -> None:
        waits.append(delay_s)
        if len(waits) == 200:
            supervisor._stopping.set()

    monkeypatch.setattr(supervisor, "_pause", pause)
    assert await supervisor.run() == 0
    assert Failing.starts == len(waits) == 200
    for before, wait in zip([0.5, *waits], waits, strict=False):
        assert 0.5 <= wait <= min(10, 3 * before) + 1e-9
    assert max(waits) > 5
    told = [line for line in logs.lines.texts() if line.startswith("Scheduler server failed, recreating in ")]
    assert len(told) == 200
    assert all(re.fullmatch(r"Scheduler server failed, recreating in [0-9.]+s: port busy", line) for line in told)
    assert logs.lines.texts()[-1] == "Scheduler service shut down gracefully"


class Renewed(Failing):
    """An incarnation that ends by itself, three times, since another one is wanted: behind a snapshot, say."""

    anew = True

    async def start(self) -> None:
        Renewed.starts += 1
        self.failed.set_result("a snapshot was taken")


async def test_a_clean_end_is_followed_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """§2.5: a clean end with no shutdown asked recreates at once: no back-off, no line of a failure."""
    waits: list[float] = []
    supervisor, logs = supervised(tmp_path, Renewed)

    async def pause(delay_s: float) -> None:
        waits.append(delay_s)
        if len(waits) == 3:
            supervisor._stopping.set()

    monkeypatch.setattr(supervisor, "_pause", pause)
    assert await supervisor.run() == 0
    assert Renewed.starts - Failing.starts == 3
    assert max(waits) < 0.1
    assert not [line for line in logs.lines.texts() if "failed" in line]


async def test_readiness_goes_before_anything_else_of_a_stop(tmp_path: Path) -> None:
    """§2.5: SIGINT, SIGTERM: readiness false first, then everything else."""
    seen: list[bool] = []

    class Serving(Failing):
        ready = True

        async def start(self) -> None:
            assert supervisor._ready
            supervisor._stopping.set()

        async def stop(self) -> None:
            seen.append(supervisor._ready)

    supervisor, _ = supervised(tmp_path, Serving)
    assert await supervisor.run() == 0
    assert seen == [False]


def test_fixed_settings_of_the_port() -> None:
    """§2.5: limit 2^31-1 bytes, a ping after 3 s without traffic, closed after 5 s without an answer; §6.2: leases of 20 s."""
    assert MESSAGE_BYTES_MAX == 2**31 - 1
    assert (SCHEDULER_PING_IDLE_MS, SCHEDULER_PING_TIMEOUT_MS) == (3_000, 5_000)
    assert LEADERSHIP_LEASE_TTL_S == 20


def test_fixed_settings_of_the_store() -> None:
    """§11: Dapr's fixed settings: name = id; elections are no slower than Dapr's: heartbeat 100 ms, election 1000 ms."""
    config = load(parse(["--id=x", "--etcd-initial-cluster=x=http://localhost:1"], FLAGS, {}), {})
    options = node_options(config)
    assert options.name == "x"
    assert options.heartbeat_ms <= 100
    assert options.election_ms_max <= 1_000
    assert [(one.host, one.port, one.secure) for one in config.client_listeners] == [("localhost", 2379, False)]


def test_the_line_that_is_read_as_a_crashed_engine_is_nowhere() -> None:
    """§10.3: `counter not found for modRevision` never; `cron instance shutdown` stands at the real stop alone."""
    texts = {path: path.read_text() for path in (ROOT / "src").rglob("*.py*") if path.suffix in {".py", ".pyx", ".pxi"}}
    assert not [path for path, text in texts.items() if "counter not found for modRevision" in text]
    assert [path.name for path, text in texts.items() if '"cron instance shutdown"' in text] == ["service.py"]


def test_every_flag_has_the_default_of_the_table() -> None:
    """§2.1: every row of the table: the flag is known, its default is the one of Dapr's documentation."""
    part = SPEC.split("### 2.1 Flags")[1].split("### 2.2")[0]
    rows = re.findall(r"^\| (`--.+?) \| (.+?) \| (.+?) \|", part, re.M)
    assert len(rows) > 35
    known = {flag.name: flag for flag in FLAGS}
    for names, _, defaults in rows:
        flags = re.findall(r"--([\w-]+)", names)
        values = defaults.split(" / ") if len(flags) > 1 and "/" in defaults else [defaults] * len(flags)
        for name, value in zip(flags, values, strict=True):
            assert name in known, name
            shown = value.strip("*` ").replace(" (all)", "").strip('"')
            if shown in {"unset", "none"} or "<" in shown or name in {"trust-anchors-file", "metrics-listen-address"}:
                assert not known[name].default, name  # what it becomes: test_config.py
            else:
                default = known[name].default
                assert (",".join(default) if isinstance(default, tuple) else str(default).lower()) == shown.lower(), name
