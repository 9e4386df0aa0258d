"""Dapr's SDK for Python, of the version that the sidecars of `make interop` have, in an environment of its own under .cache/clients.

python scripts/dapr_sdk.py    fetches it, once
"""

import hashlib
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "clients"
PACKAGES = ("dapr==1.18.3", "dapr-ext-grpc==1.18.3", "dapr-ext-workflow==1.18.3", "dapr-ext-fastapi==1.18.3", "uvicorn==0.54.0")
FOLDER = CACHE / f"dapr-{hashlib.sha256(repr((PACKAGES, sys.version_info[:2])).encode()).hexdigest()[:12]}"
PYTHON = FOLDER / "bin" / "python"
TIMEOUT_S = 300.0


def fetch() -> str | None:
    """None when it is there, or in one line why it cannot be had."""
    if (FOLDER / "complete").exists():
        return None
    install = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
    for command in ([sys.executable, "-m", "venv", "--clear", str(FOLDER)], install):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return f"Dapr's SDK for Python was not fetched within {TIMEOUT_S} s"
        if done.returncode:
            return "no Dapr SDK for Python: " + ((done.stdout + done.stderr).strip().splitlines() or ["pip failed"])[-1]
    (FOLDER / "complete").touch()
    return None


if __name__ == "__main__":
    if reason := fetch():
        print(f"{reason}: what needs it is skipped by name")
