"""`make cluster`: several members on this machine, started together and stopped together, with their logs side by side.

    python scripts/cluster.py [--members 3] [--data DIR] [-- flags for every member]

A member that fails or is killed is started again after some seconds; one that ends three times in a row right after its start is left
alone, as is one that ends with 0: it was asked to stop, or to leave. Ctrl-C stops all of them in order; a second one kills what is left.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

STEP = 10_000
MEMBERS_MAX = 5
PORTS = {"healthz-port": 8080, "metrics-port": 9090, "etcd-client-port": 2379}
PEER_PORT = 2380
COLOURS = (36, 33, 35, 32, 34)
STOP_S = 15.0
RESTART_S = 5.0
SHORT_LIFE_S = 5.0
SHORT_LIVES_MAX = 3

GUIDE = """
{count} members with their data in {data}

{table}

In another terminal:

  . .venv/bin/activate
  export ETCDCTL_ENDPOINTS={endpoints}
  etcdctl member list -w table
  etcdctl endpoint status --cluster -w table
  etcdctl put greeting hello
  raftsched job schedule hello --schedule '@every 1s' --data '{{"text": "hi"}}'
  raftsched job watch --address localhost:{scheduler}      # as a sidecar: it is told of all members, a stream to each
  kill -9 $(cat {data}/0/pid)      # the others go on; it is back after {restart:.0f} s

Ctrl-C stops all members.
"""


def name(number: int) -> str:
    return f"dapr-scheduler-server-{number}"


def moved(port: int, number: int, shift: int) -> int:
    """2379, 22379, 32379 …: as in etcd's own examples."""
    return port + shift + ((number + 1) * STEP if number else 0)


def ports(number: int, shift: int) -> dict[str, int]:
    """50006, 50007, 50008 …, and the others 10000 apart."""
    return {"port": 50006 + shift + number} | {flag: moved(port, number, shift) for flag, port in PORTS.items()}


def command(number: int, count: int, data: Path, shift: int, more: list[str], peer_shift: int = 0) -> list[str]:
    listed = ",".join(f"{name(one)}=http://127.0.0.1:{moved(PEER_PORT, one, shift) + peer_shift}" for one in range(count))
    words = [str(Path(sys.executable).with_name("raftsched")), "serve", f"--id={name(number)}", f"--etcd-initial-cluster={listed}"]
    words += [f"--{flag}={port}" for flag, port in ports(number, shift).items()]
    words += ["--listen-address=127.0.0.1", "--healthz-listen-address=127.0.0.1", f"--etcd-data-dir={data / str(number) / 'data'}"]
    if peer_shift:
        words.append(f"--peer-listen-address=127.0.0.1:{moved(PEER_PORT, number, shift)}")
    return words + more


def tell(text: str) -> None:
    """To whoever reads along; that nobody does any more stops no member."""
    with contextlib.suppress(BrokenPipeError):
        print(text, flush=True)


class Member:
    """One process after the other, and the thread that shows its log."""

    def __init__(self, number: int, count: int, data: Path, shift: int, more: list[str], peer_shift: int = 0) -> None:
        self.number = number
        self._folder = data / str(number)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._command = command(number, count, data, shift, more, peer_shift)
        self._short_lives = 0
        self.ended: float | None = None
        self.start()

    def start(self) -> None:
        own_session = True  # Ctrl-C is ours to pass on
        out = subprocess.PIPE
        self.process = subprocess.Popen(
            self._command, stdout=out, stderr=subprocess.STDOUT, text=True, bufsize=1, start_new_session=own_session
        )
        self.begun, self.ended = time.monotonic(), None
        (self._folder / "pid").write_text(f"{self.process.pid}\n")
        assert self.process.stdout is not None
        self.thread = threading.Thread(target=self._show, args=(self.process.stdout,))
        self.thread.start()

    def care(self) -> bool:
        """Starts it again when it has been down long enough; whether it runs or will."""
        if self.process.poll() is None:
            return True
        if self.process.returncode == 0:
            if self.ended is None:
                self.ended = time.monotonic()
                self.say("was asked to end: left alone")
            return False
        now = time.monotonic()
        if self.ended is None:
            self.ended = now
            short = now - self.begun < SHORT_LIFE_S and self.process.returncode != -signal.SIGKILL  # that was somebody else
            self._short_lives = self._short_lives + 1 if short else 0
            again = self._short_lives < SHORT_LIVES_MAX
            self.say(f"starts again in {RESTART_S:.0f} s" if again else "does not stay up: left alone")
        if self._short_lives >= SHORT_LIVES_MAX:
            return False
        if now - self.ended >= RESTART_S:
            self.thread.join()
            self.start()
        return True

    def _show(self, stream: IO[str]) -> None:
        for line in stream:
            self.say(line.rstrip("\n"))
        self.say(f"ended with {self.process.wait()}")

    def say(self, text: str) -> None:
        prefix = f"{self.number} |"
        if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
            prefix = f"\x1b[{COLOURS[self.number % len(COLOURS)]}m{prefix}\x1b[0m"
        tell(f"{prefix} {text}")


def stop(members: list[Member]) -> int:
    """SIGTERM to all, SIGKILL to what is left; 0 when all of them ended in order."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for member in members:
            if member.process.poll() is None:
                member.process.send_signal(number)
        deadline = time.monotonic() + STOP_S
        try:
            for member in members:
                member.process.wait(max(deadline - time.monotonic(), 0.1))
            break
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            continue
    for member in members:
        member.thread.join()
    return int(max(abs(member.process.returncode or 0) for member in members))


def guide(count: int, data: Path, shift: int) -> str:
    rows = [
        f"  {name(one)}: scheduler localhost:{ports(one, shift)['port']}, etcd localhost:{ports(one, shift)['etcd-client-port']},"
        for one in range(count)
    ]
    rows = [
        f"{row} http://localhost:{ports(one, shift)['healthz-port']}/healthz, metrics :{ports(one, shift)['metrics-port']}"
        for one, row in enumerate(rows)
    ]
    endpoints = ",".join(f"localhost:{ports(one, shift)['etcd-client-port']}" for one in range(count))
    scheduler = ports(0, shift)["port"]
    return GUIDE.format(count=count, data=data, table="\n".join(rows), endpoints=endpoints, scheduler=scheduler, restart=RESTART_S)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=3, choices=range(1, MEMBERS_MAX + 1))
    parser.add_argument("--data", type=Path, default=Path("data/cluster"))
    parser.add_argument("--shift", type=int, default=0, help="added to every port, for a second cluster beside the first")
    parser.add_argument(
        "--peer-shift", type=int, default=0, help="peers dial ports so much higher: what stands there is a proxy (make chaos)"
    )
    parser.add_argument("more", nargs="*", help="flags of raftsched serve for every member, behind --")
    options = parser.parse_args()
    print(guide(options.members, options.data, options.shift), flush=True)
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    count, data = options.members, options.data.absolute()
    members = [Member(number, count, data, options.shift, options.more, options.peer_shift) for number in range(count)]
    while not asked.wait(0.2) and any([member.care() for member in members]):  # noqa: C419  # each is cared for
        pass
    if asked.is_set():
        tell("\nstopping all members")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return stop(members)


if __name__ == "__main__":
    raise SystemExit(main())
