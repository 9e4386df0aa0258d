"""etcdctl as somebody at a console has it: whole commands with their output, and commands that stay in the foreground."""

import queue
import re
import signal
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path

TIMEOUT_S = 60.0


class Running:
    """An etcdctl that runs in the background, its errors among its output."""

    def __init__(self, stack: ExitStack, program: Path, address: str, *arguments: str) -> None:
        command = [str(program), f"--endpoints={address}", *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )
        self._said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        stack.callback(self._close)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._said.put(line)
        self._said.put(None)

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")

    def silent(self, for_s: float) -> bool:
        """Whether nothing was said that nobody has read yet, and nothing is within `for_s`."""
        deadline = time.monotonic() + for_s
        while self._said.empty() and time.monotonic() < deadline:
            time.sleep(0.01)
        return self._said.empty()

    def line(self) -> str:
        """The next line of what it says, without what a server makes up; empty when it has ended. Raises queue.Empty when none comes."""
        said = self._said.get(timeout=TIMEOUT_S)
        if said is None:
            self._said.put(None)
        return re.sub(r"[0-9a-f]{10,}", "lease", (said or "").rstrip())

    def lines(self, count: int) -> list[str]:
        return [self.line() for _ in range(count)]

    def rest(self) -> str:
        """All that is said until it ends by itself."""
        self.process.wait(TIMEOUT_S)
        told = []
        while (said := self._said.get(timeout=TIMEOUT_S)) is not None:
            told.append(said)
        return "".join(told)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)

    def _close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
