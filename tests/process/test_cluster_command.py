"""`make cluster`: three members by one command, a killed one comes back, Ctrl-C ends all of them in order."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from serving import fetch, wait_for

from raftsched.cli.app import run as command
from raftsched.testing.managed import free_shift, load

pytestmark = pytest.mark.process
SCRIPT = Path(__file__).parents[2] / "scripts" / "cluster.py"
script = load(SCRIPT)


def healthy(port: int) -> bool:
    try:
        return fetch(port, "/healthz")[0] == 200
    except OSError:
        return False


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_three_members_by_one_command(tmp_path: Path) -> None:
    shift = free_shift(script)
    data, log = tmp_path / "data", tmp_path / "log"
    words = [sys.executable, str(SCRIPT), "--data", str(data), "--shift", str(shift)]
    with log.open("wb") as out:
        manager = subprocess.Popen(words, stdout=out, stderr=out)
    health = [8080 + shift, 28080 + shift, 38080 + shift]
    try:
        wait_for(lambda: all(map(healthy, health)), 40, log.read_text)
        pids = [int((data / str(number) / "pid").read_text()) for number in range(3)]
        os.kill(pids[1], signal.SIGKILL)
        wait_for(lambda: not healthy(health[1]), 10, "it is still there")
        wait_for(lambda: healthy(health[1]), 40, log.read_text)
        assert int((data / "1" / "pid").read_text()) != pids[1]
        pids[1] = int((data / "1" / "pid").read_text())
        leave = ["member", "leave", "--id=dapr-scheduler-server-2", f"--address=127.0.0.1:{32379 + shift}"]
        assert command(leave) == 0
        wait_for(lambda: "2 | was asked to end: left alone" in log.read_text(), 20, log.read_text)
    finally:
        manager.send_signal(signal.SIGINT)
        code = manager.wait(60)
    text = log.read_text()
    assert code == 0, text
    assert not [pid for pid in pids if alive(pid)]
    assert f"export ETCDCTL_ENDPOINTS=localhost:{2379 + shift},localhost:{22379 + shift},localhost:{32379 + shift}" in text
    assert "1 | ended with -9" in text
    assert "1 | starts again in 5 s" in text
    assert text.count("ended with 0") == 3
