"""How long jobs take to move, and how much memory: `raftsched import dapr` and `raftsched export` of many jobs with counters.

    python bench/moving.py --jobs 1000000

Everything in processes of its own; the memory is the command's peak (ru_maxrss), not the server's.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from raftsched.testing.exported import write_export
from raftsched.testing.process import ServerProcess


def run(what: str, jobs: int, *words: object) -> None:
    begun_s = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "raftsched", *map(str, words)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - begun_s
    if process.returncode:
        raise SystemExit(f"{what} failed: {process.returncode}")
    cpu_s = usage.ru_utime + usage.ru_stime
    print(f"{what:58} {seconds:7.1f} s  {jobs / seconds:9,.0f}/s  cpu {cpu_s:6.1f} s  peak {usage.ru_maxrss // 1024:5} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory(prefix="raftsched-bench-") as name:
        place = Path(name)
        file, snapshot, scratch = place / "jobs.export", place / "backup.db", ("--scratch", place)
        write_export(file, jobs)
        print(f"{jobs:,} jobs with counters, {file.stat().st_size >> 20} MiB")
        with ServerProcess(place / "one") as server:
            to = ("--address", server.client_address)
            run("import of an export file into a running server", jobs, "import", "dapr", file, *to, *scratch)
            run("the same again: nothing is left to do", jobs, "import", "dapr", file, *to, *scratch)
            run("export", jobs, "export", place / "again.export", *to)
            run("export as lines of JSON", jobs, "export", place / "again.jsonl", "--format", "jsonl", *to)
            run("snapshot save", jobs, "snapshot", "save", snapshot, *to)
            with ServerProcess(place / "two") as other:
                run("import of a running server", jobs, "import", "dapr", server.client_address, "--address", other.client_address)
        with ServerProcess(place / "three") as server:
            run("import of a snapshot", jobs, "import", "dapr", snapshot, "--address", server.client_address, *scratch)
        run("import of an export file into a new data directory", jobs, "import", "dapr", file, "--data-dir", place / "new", *scratch)


if __name__ == "__main__":
    main()
