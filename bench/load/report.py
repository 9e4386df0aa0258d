"""`make bench`: every target of docs/performance.md, measured in one run, as a table for eyes and JSON for scripts.

    python -m bench.load.report [--only NAME,…] [--quick] [--json FILE]

The partner of a comparison runs in the same minutes on the same machine, in turns (A B A B …); what counts is the ratio of
the medians. A row whose tool is missing says so and is not a pass. The last lines name the rows that missed their target.
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

from bench.load import cluster, guarded, jobs, many, speed, store, wheel

FOR_INFORMATION = "(for information)"
"""In the name or the target of a row that is not judged."""
DEFAULT_JSON = Path("build/bench/report.json")


@dataclass(frozen=True, slots=True)
class Row:
    """One target: what was measured, what was asked, and whether it is met (None = could not be measured)."""

    what: str
    target: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        if FOR_INFORMATION in self.what + self.target:
            return ""
        return {True: "yes", False: "NO", None: "not measured"}[self.met]


SECTIONS: dict[str, Callable[[Path, bool], Iterable[tuple[str, str, str, bool | None]]]] = {
    "store": store.rows,
    "speed": speed.rows,
    "tls": speed.tls_rows,
    "wheel": wheel.rows,
    "jobs": jobs.rows,
    "guarded": guarded.rows,
    "many": many.rows,
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
        table.add_row(row.what, row.target, row.measured, row.verdict)
    Console(width=160).print(table)


def misses(rows: list[Row]) -> list[str]:
    """Lines for the end: what has no `yes`."""
    judged = [row for row in rows if row.verdict != ""]
    lines = [f"{sum(row.verdict == 'yes' for row in judged)} of {len(judged)} targets met"]
    for verdict, title in (("NO", "missed"), ("not measured", "not measured")):
        lines += [f"{title}: {row.what}: {row.measured}; asked: {row.target}" for row in judged if row.verdict == verdict]
    return lines


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
    print("\n".join(misses(rows)))
    return 0


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    raise SystemExit(main())
