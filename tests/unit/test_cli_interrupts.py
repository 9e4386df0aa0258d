"""Ctrl-C that is swallowed where an exception has nowhere to go, as in gRPC's native code. In processes of their own, as signals are."""

import subprocess
import sys

SWALLOWED = """
import os, signal, time
from raftsched.cli import interrupts

class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)  # the handler has run: "Exception ignored in"

try:
    with interrupts.repeated():
        Swallows()
        print("goes on", flush=True)
        time.sleep(30)
except KeyboardInterrupt:
    print("ended")
time.sleep(0.7)  # and no more of them
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, signal.getsignal(signal.SIGALRM) is signal.SIG_DFL)
"""
TOLD = """
import os, queue, signal, threading, time
from raftsched.cli import interrupts

reports = queue.SimpleQueue()
with interrupts.told(lambda: reports.put("ctrl-c")):
    os.kill(os.getpid(), signal.SIGINT)
    print(reports.get(timeout=10))
with_none = threading.Thread(target=lambda: interrupts.told(print).__enter__())
with_none.start()
with_none.join()
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def run(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=True)


def test_an_interrupt_that_was_swallowed_comes_again() -> None:
    done = run(SWALLOWED)
    assert done.stdout.splitlines() == ["goes on", "ended", "True True"]
    assert "Exception ignored in" in done.stderr


def test_who_is_told_is_not_interrupted() -> None:
    done = run(TOLD)
    assert done.stdout.splitlines() == ["ctrl-c", "True"]
    assert done.stderr == ""
