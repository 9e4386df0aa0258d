"""The load generator of the scheduler's figures: both kinds of worker see every tick of a small load."""

import sys
from pathlib import Path

import pytest

from raftsched.testing.process import ServerProcess

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from bench.load import schedload

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not schedload.available(), reason="schedload is not built (Go)"),
]


@pytest.mark.parametrize("kind", ["", "-batched"])
def test_every_tick_is_seen(tmp_path: Path, kind: str) -> None:
    with ServerProcess(tmp_path / "server") as server:
        load = schedload.Load([server.scheduler_address], [kind] if kind else [])
        figures = load.run("sustained", "-n", "200", "-d", "2s", "-lead", "2s")
        assert (figures["missed"], figures["got"], figures["expected"]) == (0, 401, 401)
