"""Drive one unary gRPC method with h2load: a client whose own cost is small, so that the server is what is measured.

h2load sends the same body again and again and does not look at grpc-status: the caller checks by the store's revision, or by a
call of its own, that the requests did what they should.
"""

import re
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Run:
    """One run's figures."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    requests: int
    failed: int


def available() -> bool:
    return shutil.which("h2load") is not None


def frame(message: bytes) -> bytes:
    """A gRPC length-prefixed message, uncompressed."""
    return struct.pack(">BI", 0, len(message)) + message


def drive(address: str, path: str, message: bytes, *, requests: int, connections: int, streams: int) -> Run:
    """`requests` calls of `path` over `connections` times `streams`; raises `RuntimeError` when any of them failed."""
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder, "body")
        log = Path(folder, "log")
        body.write_bytes(frame(message))
        command = ["h2load", f"-n{requests}", f"-c{connections}", f"-m{streams}", f"-d{body}", f"--log-file={log}"]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers", f"http://{address}{path}"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
        taken_us = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", answer.stdout)
    counts = re.search(r"requests: (\d+) total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed", answer.stdout)
    if rate is None or counts is None:
        raise RuntimeError(f"h2load said something else:\n{answer.stdout}")
    if int(counts[3]) != requests:
        raise RuntimeError(f"h2load: {counts[3]} of {requests} succeeded\n{answer.stdout}")
    return Run(
        requests_per_s=float(rate[1]),
        p50_ms=taken_us[len(taken_us) // 2] / 1000,
        p99_ms=taken_us[len(taken_us) * 99 // 100] / 1000,
        requests=requests,
        failed=int(counts[4]),
    )
