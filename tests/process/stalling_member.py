"""`raftsched serve` whose event loop stands still for STALL_S when SIGUSR1 comes: `python stalling_member.py <arguments of raftsched>`.

The interpreter's lock is held all the time, as in native code that takes too long.
"""

import ctypes
import signal

STALL_S = 8


def stall(_number: int, _frame: object) -> None:
    ctypes.PyDLL(None).sleep(STALL_S)


if __name__ == "__main__":
    from raftsched.cli import main

    signal.signal(signal.SIGUSR1, stall)
    raise SystemExit(main())
