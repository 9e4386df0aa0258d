"""`raftsched serve` whose wall clock the test sets: `python skewed_member.py <file> <arguments of raftsched>`.

The file holds eight bytes, by how many nanoseconds the clock is ahead; they may change at any time.
"""

import mmap
import struct
import sys
import time

true_ns = time.time_ns
with open(sys.argv[1], "rb") as file:
    ahead = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)


def skewed_ns() -> int:
    return true_ns() + int(struct.unpack("<q", ahead[:8])[0])


time.time_ns = skewed_ns
time.time = lambda: skewed_ns() / 1e9

if __name__ == "__main__":
    from raftsched.cli import main  # only now: modules may take the clock over when they are read

    del sys.argv[1]
    raise SystemExit(main())
