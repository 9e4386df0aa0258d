"""From a member's Maintenance.Snapshot to a file that is whole when it has its name.

Invariant: a file under the asked name has all bytes that the member sent, their SHA-256 is right, and it is synced.
"""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any, Final

import grpc

from raftsched.cli.login import logged_in
from raftsched.cli.progress import OnProgress
from raftsched.errors import ConfigError, CorruptError, FatalError
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc

PART_SUFFIX: Final = ".part"
SUM_BYTES: Final = 32


def save(address: str, path: Path, *, force: bool, timeout_s: float | None, on_progress: OnProgress, user: str = "") -> dict[str, Any]:
    """What was saved, asked by `user` (NAME:PASSWORD). Raises ConfigError (the file is there), CorruptError, FatalError,
    grpc.RpcError: no file is left then."""
    if path.exists() and not force:
        raise ConfigError(f"{path} exists: give another name, or --force")
    part = path.with_name(path.name + PART_SUFFIX)
    try:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FatalError(f"cannot write {part}: {error.strerror}") from error
    try:
        with grpc.insecure_channel(address) as channel:
            answers = rpc_pb2_grpc.MaintenanceStub(logged_in(channel, user)).Snapshot(rpc_pb2.SnapshotRequest(), timeout=timeout_s)
            size_bytes, digest, version = _receive(answers, descriptor, on_progress)
        os.fsync(descriptor)
        part.rename(path)
        _sync_directory(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise FatalError(f"cannot write {path}: {error.strerror}") from error
        raise
    finally:
        os.close(descriptor)
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


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
