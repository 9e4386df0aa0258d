"""What a process costs: CPU of its loop thread, memory that is its own."""

import os
from pathlib import Path


def thread_cpu_ns(pid: int) -> int:
    """CPU time of the main thread, which is the event loop's (/proc/PID/task/PID/schedstat)."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])


def rss_anon_bytes(pid: int) -> int:
    """Anonymous resident memory: page cache of the mapped store is not counted."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no RssAnon for process {pid}")


def cpu_s(pid: int) -> float:
    """CPU time of all its threads, user's and kernel's, in seconds (/proc/PID/stat)."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")
