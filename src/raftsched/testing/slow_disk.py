"""A disk that is slow for one process: the kernel's throttle of block writes, by a cgroup of version 1. Root, and Linux, only.

It counts the writes that reach the device: one fsync is two or three. A tmpfs has no device and cannot be slowed.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path("/sys/fs/cgroup/blkio")
LIMIT = "blkio.throttle.write_iops_device"
LIMIT_BYTES = "blkio.throttle.write_bps_device"


def why_not() -> str:
    """Empty when disks can be slowed here, else why they cannot."""
    if os.geteuid() != 0:
        return "slowing a disk needs root"
    return "" if (ROOT / LIMIT).exists() or (ROOT / "cgroup.procs").exists() else f"no {ROOT} to slow a disk with"


class SlowDisk:
    """At most `writes_per_s` writes of process `pid` to the device under `path`, and `bytes_per_s` together (0 = any), while it lasts."""

    def __init__(self, path: Path, pid: int, *, writes_per_s: int, bytes_per_s: int = 0) -> None:
        device = os.stat(path).st_dev
        self._group = ROOT / f"raftsched-{os.getpid()}-{pid}"
        self._pid = pid
        self._device = f"{os.major(device)}:{os.minor(device)}"
        self._limits = {LIMIT: writes_per_s, LIMIT_BYTES: bytes_per_s}

    def __enter__(self) -> Self:
        self._group.mkdir()
        for name, limit in self._limits.items():
            (self._group / name).write_text(f"{self._device} {limit}")
        (self._group / "cgroup.procs").write_text(str(self._pid))
        return self

    def writes(self) -> int:
        """How many writes were counted, and so held back if they were too many."""
        lines = (self._group / "blkio.throttle.io_serviced").read_text().splitlines()
        return sum(int(line.split()[2]) for line in lines if " Write " in line)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name in self._limits:
            (self._group / name).write_text(f"{self._device} 0")
        for pid in (self._group / "cgroup.procs").read_text().split():
            (ROOT / "cgroup.procs").write_text(pid)
        self._group.rmdir()
