"""Stock pysyncobj has the faults that our kernel must not have: were one mended, decision 0001 would have one reason less."""

import subprocess
import sys
from pathlib import Path

import pytest

NAMES = [*(f"S{number}" for number in range(1, 13)), "R1"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_stock_pysyncobj_has_this_fault(name: str) -> None:
    script = Path(__file__).with_name("stock_scenarios.py")
    done = subprocess.run([sys.executable, str(script), name], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(name)
