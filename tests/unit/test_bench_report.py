"""What `make bench` says at its end, and how it reads etcd's own generator."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from bench.load import gobench
from bench.load.ratio import Cost, Load, Side
from bench.load.report import Row, misses

ROWS = [
    Row("puts", ">= 2 x", "3 x", True),
    Row("ranges", ">= 2 x", "1 x", False),
    Row("starts", "< 1 s", "missing: etcd", None),
    Row("ranges by Go (for information)", ">= 2 x", "1 x", False),
    Row("catching up", "time (for information)", "3 s", None),
]

PRINTED = """
Put summary:

Summary:
  Total:\t1.0512 secs.
  Requests/sec:\t951.2938

Latency distribution:
  50% in 0.0010 secs.
  99% in 0.0042 secs.
  99.9% in 0.0050 secs.

Watch events summary:

Summary:
  Total:\t0.0310 secs.
  Requests/sec:\t3000000.1

Latency distribution:
  99% in 0.0031 secs.
"""


def test_the_end_names_what_was_missed_and_what_was_not_measured() -> None:
    assert misses(ROWS) == [
        "1 of 3 targets met",
        "missed: ranges: 1 x; asked: >= 2 x",
        "not measured: starts: missing: etcd; asked: < 1 s",
    ]
    assert [row.verdict for row in ROWS] == ["yes", "NO", "not measured", "", ""]


def test_a_summary_of_etcds_generator() -> None:
    written, _, seen = PRINTED.partition("Watch events summary:")
    assert gobench.summary(written).requests_per_s == 951.2938
    assert (gobench.summary(written).p50_ms, gobench.summary(written).p99_ms) == pytest.approx((1.0, 4.2))
    assert (gobench.summary(seen).p50_ms, gobench.summary(seen).p99_ms) == pytest.approx((0.0, 3.1)), "it leaves out what is 0"
    with pytest.raises(RuntimeError, match="something else"):
        gobench.summary("usage:")


@pytest.mark.parametrize(("secure", "met"), [(400.0, True), (300.0, True), (299.0, False)])
def test_over_tls_the_plain_ratio_is_what_is_asked(secure: float, met: bool) -> None:
    """Etcd does 100 a second both ways, ours 300 over plaintext."""
    server: object = object()
    theirs, ours, theirs_tls, ours_tls = (Side(server, name, tls) for tls in (False, True) for name in ("theirs", "ours"))  # type: ignore[arg-type]
    rates = {theirs: 100.0, ours: 300.0, theirs_tls: 100.0, ours_tls: secure}
    load = Load("txn", 2.0, lambda side: Cost(rates[side], 1.0, 1.0))
    what, wanted, _, is_met = load.beside_plain((theirs, ours), (theirs_tls, ours_tls))
    assert (what, is_met) == ("TLS: txn", met)
    assert "3.00 x" in wanted
