"""The short form of `make mutations`: known faults in a copy of the kernel, each found by the schedules of kernels alone.

With test_raft_fuzz.py (acks without a term) and test_planted_faults.py (the applied index outside the transaction) these are the seven
that the cluster's promises name.
"""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "mutate_kernel.py"


def test_the_schedules_find_known_faults_in_the_kernel_itself() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--short"], capture_output=True, text=True, timeout=300, check=False)
    assert not done.returncode, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0].split(" ", 1)[1].strip() for line in lines][1:] == [
        "truncate without conflict",
        "vote not persisted",
        "commit of an old term",
        "two membership changes at once",
        "read without quorum",
    ]
    assert lines[0].endswith("nothing in 20")
