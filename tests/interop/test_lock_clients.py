"""Locks and elections by other people's clients, on a running member and on a real etcd: etcd's Go package, `etcdctl lock` and `elect`."""

import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from raftsched.testing.cluster import Cluster
from raftsched.testing.lock_side import until

TIMEOUT_S = 60.0
EXPIRED_S = 6.0  # a lease of 2 s, looked after twice a second, on a busy machine


DEADLINE = "context deadline exceeded"
RESET = "stream terminated by RST_STREAM with error code: CANCEL"  # who sees the deadline first decides which of the two the client says


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory, etcd_program: Path) -> Iterator[list[str]]:
    """The judge's and ours."""
    folder = tmp_path_factory.mktemp("lock")
    with Cluster(folder / "etcd", 1, etcd=etcd_program) as judge, Cluster(folder / "raftsched", 1) as subject:
        judge.leader()
        subject.leader()
        yield [judge.members[0].client_address, subject.members[0].client_address]


def test_a_go_program_with_etcds_package_concurrency(addresses: list[str], concurrency_program: Path) -> None:
    told = []
    for address in addresses:
        done = subprocess.run([concurrency_program, address], capture_output=True, text=True, timeout=TIMEOUT_S * 2, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        told.append(done.stdout.replace(RESET, DEADLINE).splitlines())
    assert "mutex: counter 100 inside at most 1 left 0" in told[0]
    assert told[1] == told[0]


class Running:
    """An etcdctl that runs in the background."""

    def __init__(self, stack: ExitStack, program: Path, address: str, *arguments: str) -> None:
        command = [str(program), f"--endpoints={address}", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines: list[str] = []
        stack.callback(self._close)

    def line(self) -> str:
        """The next line of what it says, without what a server makes up."""
        assert self.process.stdout is not None
        self.lines.append(re.sub(r"[0-9a-f]{10,}", "lease", self.process.stdout.readline().rstrip()))
        return self.lines[-1]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)

    def _close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


Start = Callable[..., Running]


def on_both(addresses: list[str], program: Path, story: Callable[[Start], list[object]]) -> list[object]:
    """What `story` tells, the same on both."""
    told = []
    for address in addresses:
        with ExitStack() as stack:
            told.append(story(lambda *arguments, stack=stack, address=address: Running(stack, program, address, *arguments)))
    assert told[1] == told[0]
    return told[1]


def test_etcdctl_lock_runs_a_command(addresses: list[str], etcdctl_path: Path) -> None:
    def story(start: Start) -> list[object]:
        one = start("lock", "command", "--", "sh", "-c", "echo $ETCD_LOCK_KEY; exit 3")
        return [one.line(), one.process.wait(TIMEOUT_S)]

    assert on_both(addresses, etcdctl_path, story)[0] == "command/lease"


def test_etcdctl_lock_waits_and_is_let_in(addresses: list[str], etcdctl_path: Path) -> None:
    """The first is interrupted and lets go at once; the second is killed, and its lease has to end."""

    def story(start: Start) -> list[object]:
        told: list[object] = []
        first = start("lock", "line", "--ttl=60")
        told.append(first.line())
        second = start("lock", "line", "--ttl=2")
        until(lambda: waiters(start, "line/") == 2, "for the second")
        third = start("lock", "line", "--ttl=60")
        until(lambda: waiters(start, "line/") == 3, "for the third")
        told.append(first.end(signal.SIGINT))
        told.append(second.line())
        killed_s = time.monotonic()
        told.append(second.end(signal.SIGKILL))
        told.append(third.line())
        assert time.monotonic() - killed_s < EXPIRED_S
        told.append(third.end(signal.SIGTERM))
        until(lambda: waiters(start, "line/") == 0, "for the end")
        return told

    assert on_both(addresses, etcdctl_path, story)[0] == "line/lease"


def test_etcdctl_elect(addresses: list[str], etcdctl_path: Path) -> None:
    def story(start: Start) -> list[object]:
        observer = start("elect", "--listen", "vote")
        first = start("elect", "vote", "one")
        told: list[object] = [first.line(), first.line(), observer.line(), observer.line()]
        second = start("elect", "vote", "two")
        until(lambda: waiters(start, "vote/") == 2, "for the second")
        told += [first.end(signal.SIGINT), second.line(), second.line(), observer.line(), observer.line()]
        told.append(second.end(signal.SIGINT))
        until(lambda: waiters(start, "vote/") == 0, "for the end")
        return told

    assert on_both(addresses, etcdctl_path, story)[:4] == ["vote/lease", "one", "vote/lease", "one"]


def waiters(start: Start, prefix: str) -> int:
    done = start("get", prefix, "--prefix", "--keys-only")
    output, _ = done.process.communicate(timeout=TIMEOUT_S)
    return len(output.split())
