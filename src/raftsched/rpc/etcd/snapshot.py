"""etcdserverpb.Maintenance/Snapshot (etcd-api §3.1): a bbolt file in blobs, and its SHA-256.

The file is complete before the first blob leaves; then the next part is read when the client has taken the one before.
Must not know: what is in the file.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from raftsched.errors import STREAM_MALFORMED, FatalError, GrpcCode, StatusError
from raftsched.limits import EXPORT_BLOB_BYTES, EXPORT_STALL_MS
from raftsched.pb.etcd.rpc_pb2 import SnapshotRequest
from raftsched.ports import SnapshotFile, Stream
from raftsched.rpc.etcd.calls import Door, parse
from raftsched.rpc.etcd.streams import StreamCall
from raftsched.varint import varint

REMAINING: Final = b"\x10"  # SnapshotResponse, the field's tag: varint 2
BLOB: Final = b"\x1a"  # bytes 3
VERSION: Final = b"\x22"  # string 4


def encode_blob(blob: bytes | memoryview, remaining: int, version: bytes) -> bytes:
    """A SnapshotResponse without header, zero fields left out; the generated class would copy each blob twice more."""
    head = REMAINING + varint(remaining) if remaining else b""
    tail = VERSION + varint(len(version)) + version if version else b""
    return b"".join((head, BLOB, varint(len(blob)), blob, tail))


class SnapshotStream(StreamCall):
    """One call: a `StreamHandler`."""

    def __init__(self, door: Door, stream: Stream, path: str) -> None:
        super().__init__(door, stream, door.stats.method(path, "server_stream"))
        self._asked = False
        self._room = asyncio.Event()
        self.admit(of_learner=True)

    def on_messages(self, messages: Sequence[bytes]) -> None:
        if self._over:
            return
        if self._asked or len(messages) > 1:
            self.finish(int(GrpcCode.INTERNAL), "grpc: received more than one request of a server-streaming call")
            return
        self._asked = True
        self._stats.received += 1
        try:
            parse(SnapshotRequest, messages[0], STREAM_MALFORMED)
        except StatusError as error:
            self.finish(int(error.code), error.message)
            return
        self._task = self._door.spawn(self._run())

    def on_half_close(self) -> None:
        if not self._asked and not self._over:
            self.finish(int(GrpcCode.INTERNAL), "grpc: a server-streaming call without a request")

    def on_writable(self) -> None:
        self._room.set()

    async def _run(self) -> None:
        try:
            file = await self._door.node.snapshot()
            try:
                await self._send(file)
            finally:
                file.close()
        except StatusError as error:
            self.finish(int(error.code), error.message)
        except FatalError as error:
            self.finish(int(GrpcCode.INTERNAL), str(error))
        except OSError as error:
            self.finish(int(GrpcCode.INTERNAL), f"cannot read the snapshot: {error.strerror}")
        except TimeoutError:
            self.finish(int(GrpcCode.ABORTED), f"nothing of the snapshot was taken for {EXPORT_STALL_MS // 1000} s")
        else:
            self.finish(0, "")

    async def _send(self, file: SnapshotFile) -> None:
        version, remaining = file.version.encode(), file.size_bytes
        while data := await file.read():
            rest = memoryview(data)
            while rest:
                blob, rest = rest[:EXPORT_BLOB_BYTES], rest[EXPORT_BLOB_BYTES:]
                remaining -= len(blob)
                await self._push(encode_blob(blob, remaining, version))
        await self._push(encode_blob(file.digest(), 0, version))

    async def _push(self, message: bytes) -> None:
        self._stats.sent += 1
        self._room.clear()
        if not self._stream.push(message):
            async with asyncio.timeout(EXPORT_STALL_MS / 1_000):
                await self._room.wait()
