"""From a store to a file of jobs that is whole when it has its name: as `dapr scheduler export` writes it, or a line of JSON each.

Invariant: jobs and counters are of one revision. Memory holds a page of them.
"""

import json
import sys
from pathlib import Path
from typing import Final, TextIO

from raftsched.cli.moving import gob
from raftsched.cli.moving.entries import entries
from raftsched.cli.moving.lines import as_line
from raftsched.cli.moving.sources import Stored
from raftsched.cli.progress import OnProgress
from raftsched.cli.whole_file import whole_file
from raftsched.errors import FatalError
from raftsched.scheduler.jobs.names import COUNTERS, JOBS

REPORT_EVERY: Final = 256
STDOUT: Final = Path("-")


def write_export(source: Stored, counters: int, path: Path, *, force: bool, on_progress: OnProgress) -> dict[str, int]:
    """As `dapr scheduler import` takes it. Raises ConfigError (the file is there), FatalError."""
    with whole_file(path, force=force) as file:
        writer = gob.Writer(file)
        total, done = source.count() + counters, 0
        for field, prefix, count in ((1, JOBS, source.count()), (2, COUNTERS, counters)):
            writer.begin(field, count)
            for record in source.records(prefix):
                writer.add(prefix + record.name, record.value)
                done += 1
                if done % REPORT_EVERY == 0:
                    on_progress("exporting", done, total)
        if writer.end() > gob.MESSAGE_BYTES_MAX:
            raise FatalError(f"{path} would have more than 8 GiB, which no reader of that format takes: use --format jsonl, or a snapshot")
    return {"jobs": source.count(), "counters": counters}


def write_lines(source: Stored, path: Path, *, force: bool, on_progress: OnProgress) -> dict[str, int]:
    """For scripts; `-` is the standard output. Counters without a job are told, too. Raises ConfigError, FatalError, OSError."""
    if path == STDOUT:
        return _lines(source, sys.stdout, on_progress)
    with whole_file(path, force=force) as file:
        text = open(file.fileno(), "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # of the same descriptor
        with text:
            return _lines(source, text, on_progress)


def _lines(source: Stored, file: TextIO, on_progress: OnProgress) -> dict[str, int]:
    jobs = counters = 0
    for entry in entries(source):
        file.write(json.dumps(as_line(entry), separators=(",", ":")) + "\n")
        jobs += entry.job is not None
        counters += entry.counter is not None
        if jobs % REPORT_EVERY == 0:
            on_progress("exporting", jobs, source.count())
    return {"jobs": jobs, "counters": counters}
