"""The wheel's rows: bench/test_wheel.py in a process of its own, whose JSON is read here."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

Answer = tuple[str, str, str, bool | None]
ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 900


def rows(folder: Path, quick: bool) -> Iterable[Answer]:
    output = folder / "wheel.json"
    sizes = "1e5" if quick else "1e6,1e7"
    environment = os.environ | {"WHEEL_JOBS": sizes, "WHEEL_JSON": str(output)}
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "bench/test_wheel.py"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=TIMEOUT_S, stdout=sys.stderr)
    for size, figures in json.loads(output.read_text())["results"].items():
        for name, wanted_ns in (("fire and native re-arm", 35.0), ("re-arm by handle, batches", 60.0)):
            if name in figures:
                yield f"wheel, {size} jobs: {name}", f"<= {wanted_ns:.0f} ns", f"{figures[name]:.1f} ns", figures[name] <= wanted_ns
        if "times faster than heapq + dict" in figures:
            ratio = figures["times faster than heapq + dict"]
            yield f"wheel, {size} jobs: against heapq + dict", ">= 50 x", f"{ratio:.0f} x", ratio >= 50
