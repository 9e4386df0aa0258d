"""`make bench`: every target of docs/performance.md, measured in one run, as a table for eyes and JSON for scripts.

    python -m bench.load.report [--only NAME,…] [--quick] [--json FILE]

The partner of a comparison runs in the same minutes on the same machine, in turns (A B A B …); what counts is the ratio of
the medians. A row whose tool is missing says so and is not a pass.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.load import cluster, jobs, store, wheel

DEFAULT_JSON = Path("build/bench/report.json")


@dataclass(frozen=True, slots=True)
class Row:
    """One target: what was measured, what was asked, and whether it is met (None = could not be measured)."""

    what: str
    target: str
    measured: str
    met: bool | None


SECTIONS: dict[str, Callable[[Path, bool], Iterable[tuple[str, str, str, bool | None]]]] = {
    "store": store.rows,
    "wheel": wheel.rows,
    "jobs": jobs.rows,
    "cluster": cluster.rows,
}


def collect(names: list[str], *, quick: bool) -> list[Row]:
    rows: list[Row] = []
    for name in names:
        host = HostShare()
        with tempfile.TemporaryDirectory(prefix="raftsched-bench-") as folder:
            for row in SECTIONS[name](Path(folder), quick):
                rows.append(Row(*row))
                print(f"{rows[-1].what}: {rows[-1].measured}", file=sys.stderr, flush=True)
        print(f"{name}: {host.stolen():.1%} of the machine's time went to others", file=sys.stderr, flush=True)
    return rows


class HostShare:
    """How much of the machine's time its host gave to others (`steal` in /proc/stat): what no program here can answer for."""

    def __init__(self) -> None:
        self._begin = self._times()

    @staticmethod
    def _times() -> list[int]:
        return [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]

    def stolen(self) -> float:
        """The share of all cores since this was made."""
        spent = [now - then for now, then in zip(self._times(), self._begin, strict=True)]
        return spent[7] / max(sum(spent), 1)


def show(rows: list[Row]) -> None:
    table = Table("what", "target", "measured", "met")
    for row in rows:
        table.add_row(row.what, row.target, row.measured, {True: "yes", False: "NO", None: "not measured"}[row.met])
    Console(width=160).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections, of {', '.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, to see that it runs: its figures mean little")
    parser.add_argument("--json", type=Path, default=DEFAULT_JSON)
    options = parser.parse_args()
    rows = collect([name for name in options.only.split(",") if name], quick=options.quick)
    show(rows)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    raise SystemExit(main())
