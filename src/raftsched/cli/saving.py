"""From a member's Maintenance.Snapshot to a file that is whole when it has its name.

Invariant: a file under the asked name has all bytes that the member sent, their SHA-256 is right, and it is synced.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, Final

from raftsched.cli.channel import PLAIN, Tls, open_channel
from raftsched.cli.login import logged_in
from raftsched.cli.progress import OnProgress
from raftsched.cli.whole_file import whole_file
from raftsched.errors import CorruptError
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc

SUM_BYTES: Final = 32


def save(
    address: str, path: Path, *, force: bool, timeout_s: float | None, on_progress: OnProgress, user: str = "", tls: Tls = PLAIN
) -> dict[str, Any]:
    """What was saved, asked by `user` (NAME:PASSWORD). Raises ConfigError (the file is there), CorruptError, FatalError,
    grpc.RpcError: no file is left then."""
    with whole_file(path, force=force) as file, open_channel(address, tls) as channel:
        answers = rpc_pb2_grpc.MaintenanceStub(logged_in(channel, user)).Snapshot(rpc_pb2.SnapshotRequest(), timeout=timeout_s)
        size_bytes, digest, version = _receive(answers, file.fileno(), on_progress)
    return {"path": str(path), "size_bytes": size_bytes, "sha256": digest, "version": version}


def _receive(answers: Any, descriptor: int, on_progress: OnProgress) -> tuple[int, str, str]:
    """(bytes of the file, SHA-256 of the database, its storage version). The last 32 bytes are the sum of all before."""
    digest, tail, written, version = hashlib.sha256(), b"", 0, ""
    for answer in answers:
        tail += answer.blob
        data, tail = tail[:-SUM_BYTES], tail[-SUM_BYTES:]
        digest.update(data)
        written += len(answer.blob)
        version = answer.version
        _write(descriptor, answer.blob)
        on_progress("saving", written, written + answer.remaining_bytes)
    if written <= SUM_BYTES or tail != digest.digest():
        raise CorruptError(f"what came is not what was sent: {written} bytes, whose SHA-256 is not the one at their end")
    return written, digest.hexdigest(), version


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
