"""`python -m raftsched.testing.sim --seconds 60`: fresh seeds for that long; `--seed 123`: that one again, with `--trace` line by line."""

import argparse
import secrets
import sys
import time

from raftsched.testing.sim.external import simulate_external
from raftsched.testing.sim.external_options import ExternalReport
from raftsched.testing.sim.options import Report
from raftsched.testing.sim.world import simulate

EXTERNAL = "external-"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m raftsched.testing.sim", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long, of real time")
    parser.add_argument("--seed", help="this one alone")
    parser.add_argument("--first", type=int, help="fresh seeds from this number on, instead of by chance")
    parser.add_argument("--trace", action="store_true", help="print what happened, line by line")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return one(arguments.seed, trace=arguments.trace)
    return many(arguments.seconds, secrets.randbits(40) if arguments.first is None else arguments.first)


def one(seed: str, *, trace: bool) -> int:
    report = play(seed, keep_trace=trace)
    print("\n".join(report.trace) if trace else describe(report))
    if report.error:
        print(complaint(report), file=sys.stderr)
    return bool(report.error)


def many(seconds: float, first: int) -> int:
    began_s = time.monotonic()
    count = failures = entries = ticks = 0
    virtual_s = latest_ms = 0.0
    held_up = 0
    while time.monotonic() - began_s < seconds:
        report = play(seed_of(first + count))
        count, entries, ticks, virtual_s = count + 1, entries + report.entries, ticks + report.committed_ticks, virtual_s + report.virtual_s
        held_up, latest_ms = held_up + report.held_up, max(latest_ms, report.latest_ms)
        if report.error:
            failures += 1
            print(complaint(report), file=sys.stderr)
    taken_s = time.monotonic() - began_s
    pace = f"{count / taken_s:.2f} seeds/s, {virtual_s / taken_s:.0f} virtual seconds per second"
    print(f"{count} seeds from {first}, {failures} failed; {pace}; {entries} entries, {ticks} ticks committed")
    print(f"{held_up} ticks waited behind a fault while a calm majority was there, at most {latest_ms:.0f} ms")
    return bool(failures)


def play(seed: str, *, keep_trace: bool = False) -> Report | ExternalReport:
    """One run, of the kind that the seed says."""
    if seed.startswith(EXTERNAL):
        return simulate_external(seed, keep_trace=keep_trace)
    return simulate(seed, keep_trace=keep_trace)


def seed_of(number: int) -> str:
    """Every fourth is a hard one, which takes as long as three others, and every fourth is over an external etcd."""
    return f"hard-{number}" if number % 4 == 0 else f"{EXTERNAL}{number}" if number % 4 == 2 else str(number)


def complaint(report: Report | ExternalReport) -> str:
    return f"seed {report.seed}: {report.error}\n  again: .venv/bin/python -m raftsched.testing.sim --seed {report.seed} --trace"


def describe(report: Report | ExternalReport) -> str:
    shown = (
        "virtual_s",
        "turns",
        "entries",
        "operations",
        "deliveries",
        "committed_ticks",
        "lives",
        "watched",
        "expired",
        "undecided",
        "held_up",
        "latest_ms",
        "digest",
    )
    return (
        f"seed {report.seed}: "
        + ", ".join(f"{name} {getattr(report, name)}" for name in shown if hasattr(report, name))
        + f"\n{report.options}"
    )


if __name__ == "__main__":
    sys.exit(main())
