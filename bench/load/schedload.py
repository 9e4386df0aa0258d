"""bench/schedload as a tool of the rows: one command of it, and its figures."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import tools

TIMEOUT_S = 600
COLLECTOR = {"GOGC": "800"}  # at Go's default its collector alone stops the generator for up to 70 ms


@dataclass(frozen=True, slots=True)
class Load:
    """A generator against the scheduler API at `addresses` (host:port); `words` go with each command."""

    addresses: Sequence[str]
    words: Sequence[str] = ()

    def run(self, command: str, *arguments: str) -> dict[str, float]:
        """Its `key=value` figures, times in the unit that the key names. Raises RuntimeError when it failed."""
        to = [word for one in self.addresses for word in ("-addr", one)]
        line = [str(tools.schedload()), command, *to, *self.words, *arguments]
        answer = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, env=COLLECTOR | os.environ)
        if answer.returncode:
            raise RuntimeError(f"schedload {command} failed: {answer.stdout.strip()} {answer.stderr.strip()}")
        print(answer.stdout.strip(), file=sys.stderr)
        found = ((key, number(value)) for key, value in re.findall(r"(\w+)=(\S+)", answer.stdout))
        return {key: value for key, value in found if value is not None}


def available() -> bool:
    return tools.schedload() is not None


def number(text: str) -> float | None:
    """A figure without its unit; None for words."""
    match = re.fullmatch(r"(-?[\d.]+)(?:ms|s|us|/s)?", text)
    return float(match[1]) if match else None
