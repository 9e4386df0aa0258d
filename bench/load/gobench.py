"""etcd's own load generator in Go: its client takes 30 to 70 us of the same cores for each request, so it says what Go programs will see
rather than what a server can do."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.load import h2load
from bench.load.ratio import KEYS, WATCHERS, Answer, Cost, Drive, Side, weighed

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import tools

TIMEOUT_S = 300


def say(address: str, *arguments: str, clients: int = 100) -> str:
    """What it prints, with ten connections. `address`: host:port, more of them with ,http:// between. Raises when it, or a call, fails."""
    command = [str(tools.benchmark()), f"--endpoints=http://{address}", "--conns=10", f"--clients={clients}", *arguments]
    text = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout
    if "Error distribution" in text:
        raise RuntimeError(f"benchmark met errors: {text.partition('Error distribution')[2].strip()[:500]}")
    return text


def summary(text: str) -> h2load.Run:
    """`Requests/sec` and percentiles of the first summary in there; it has no line for those that are 0."""
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if rate is None:
        raise RuntimeError(f"benchmark said something else:\n{text}")
    taken_s = {percent: float(value) for percent, value in re.findall(r"([\d.]+)% in ([\d.]+) secs", text)}
    return h2load.Run(float(rate[1]), taken_s.get("50", 0.0) * 1000, taken_s.get("99", 0.0) * 1000, 0, 0)


def drive(address: str, *arguments: str) -> h2load.Run:
    """One run of a hundred clients."""
    return summary(say(address, *arguments))


def by_go(count: int, *arguments: str) -> Drive:
    """Of etcd's own generator: a hundred clients on ten connections."""

    def costing(side: Side) -> Cost:
        before = side.server.cpu_seconds()
        run = drive(side.address, *arguments, f"--total={count}")
        return Cost(run.requests_per_s, run.p99_ms, (side.server.cpu_seconds() - before) / count * 1e6)

    return costing


def fan_out_by_go(puts: int) -> Drive:
    """One writer, a hundred watchers. Told are events a second, and the slowest hundredth of the times from a put to an event."""

    def costing(side: Side) -> Cost:
        before = side.server.cpu_seconds()
        words = (f"--streams={WATCHERS}", "--watchers-per-stream=1", f"--put-total={puts}", "--put-rate=1000000", "--val-size=256")
        text = say(side.address, "watch-latency", *words, clients=10)
        spent = side.server.cpu_seconds() - before
        written, _, seen = text.partition("Watch events summary:")
        return Cost(summary(written).requests_per_s * WATCHERS, summary(seen).p99_ms, spent / (puts * WATCHERS) * 1e6)

    return costing


def speed_rows(theirs: Side, ours: Side, scale: int) -> Iterator[Answer]:
    """For information, beside the rows of the native generator; those of put and of the linearizable range stand with the store's. A
    keep-alive is a stream of its own there, opened and ended."""
    if tools.benchmark() is None:
        yield "etcd's Go benchmark (for information)", "", "missing: benchmark", None
        return
    first, end = "bench/00000000", f"bench/{1_000:08d}"
    txn = by_go(30_000 // scale, "txn-put", "--key-size=8", "--val-size=256", f"--key-space-size={KEYS}")
    for what, load in (
        ("range of one key, serializable", by_go(60_000 // scale, "range", first, "--consistency=s")),
        ("txn of one put", txn),
        ("range of 1,000 keys", by_go(1_000 // scale, "range", first, end, "--consistency=l")),
        ("lease keep-alive, a stream each", by_go(30_000 // scale, "lease-keepalive")),
        ("watch, 1 writer, 100 watchers", fan_out_by_go(1_000 // scale)),
    ):
        yield f"{what}, etcd's Go benchmark (for information)", "", weighed(theirs, ours, load).told, None
