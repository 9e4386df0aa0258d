"""Maintenance.Snapshot inside a member: what is in the file, its bounds, a disk without room, a caller that goes away, a stop."""

import asyncio
import hashlib
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from test_node_hash import Sink

from raftsched import limits, proposals
from raftsched.errors import EtcdError, GrpcCode, StatusError, status_of
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.rpc.etcd import snapshot as stream
from raftsched.rpc.etcd.snapshot import encode_blob
from raftsched.store._records import Generation
from raftsched.store.backend._lmdb import BUCKETS, Backend
from raftsched.store.bolt._bolt import BoltFile
from raftsched.store.membership import INCARNATION_KEY
from raftsched.store.node import Node, NodeOptions
from raftsched.store.snapshot import exporting
from raftsched.store.snapshot.exporting import Export, describe, storage_version
from raftsched.testing.door_cluster import Quiet
from raftsched.testing.lone_node import EtcdDoor


async def put(node: Node, key: bytes, value: bytes) -> int:
    sink = Sink()
    node.propose_many(proposals.PUT, [rpc_pb2.PutRequest(key=key, value=value).SerializeToString()], [0], sink)
    error, revision, _ = await sink.future
    assert error == 0
    return revision


@asynccontextmanager
async def member(path: Path, **options) -> AsyncIterator[Node]:
    node = Node(NodeOptions(data_dir=str(path), **options), log=Quiet(), on_fatal=pytest.fail)
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


async def taken(export: Export) -> bytes:
    parts = []
    while data := await export.read():
        parts.append(data)
    return b"".join(parts)


def opened(data: bytes) -> BoltFile:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return BoltFile(file.name)


async def test_what_is_applied_is_in_it_and_the_small_buckets_are_etcds(tmp_path: Path) -> None:
    async with member(tmp_path, batch_interval_ms=60_000) as node:
        revision = await put(node, b"key", b"value")
        while not node.cluster_version:
            await asyncio.sleep(0.01)
        export = await node.snapshot()
        data = await taken(export)
        assert len(data) == export.size_bytes
        assert len(data) % 512 == 0
        assert export.digest() == hashlib.sha256(data).digest()
        export.close()
        export.close()
        bolt = opened(data)
        assert bolt.buckets == list(BUCKETS)
        assert int.from_bytes(bolt.items("key")[-1][0][:8], "big") == revision
        meta, cluster = dict(bolt.items("meta")), dict(bolt.items("cluster"))
        assert json.loads(meta[b"confState"]) == {"voters": [node.member_id], "auto_leave": False}
        assert meta[b"storageVersion"] == b"3.7.0" == export.version.encode()
        assert int.from_bytes(meta[b"consistent_index"], "big") > 1
        assert cluster == {b"clusterVersion": b"3.7.0"}
        assert node.histograms()["etcd_disk_backend_snapshot_duration_seconds"][0][-1][1] == 1


def test_what_differs_from_the_stored_buckets() -> None:
    members = [(b"%x" % one, json.dumps({"id": one, "peerURLs": [], "isLearner": one == 3}).encode()) for one in (1, 2, 3)]
    sides = describe(
        {"members": members, "cluster": [(INCARNATION_KEY, b"1"), (b"clusterVersion", b"3.5.0"), (b"downgrade", b"{}")], "meta": []}
    )
    assert sorted(sides) == [
        ("cluster", INCARNATION_KEY, None),
        ("meta", b"confState", b'{"voters":[1,2],"learners":[3],"auto_leave":false}'),
        ("meta", b"storageVersion", None),
    ]
    assert [storage_version(text) for text in (b"", b"3.5.0", b"3.6.0", b"3.7.0", b"4.0.0", b"x")] == [
        "",
        "",
        "3.6.0",
        "3.7.0",
        "4.0.0",
        "",
    ]


async def test_so_many_at_a_time(tmp_path: Path) -> None:
    async with member(tmp_path) as node:
        held = [await node.snapshot() for _ in range(limits.EXPORTS_MAX)]
        with pytest.raises(StatusError) as caught:
            await node.snapshot()
        assert caught.value.message == status_of(EtcdError.TOO_MANY_REQUESTS).message
        held.pop().close()
        (await node.snapshot()).close()
        for export in held:
            export.close()
        assert list(tmp_path.rglob("export.*")) == []


async def test_a_disk_without_room_is_said_before_and_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with member(tmp_path) as node:
        for number in range(20):
            await put(node, b"%d" % number, bytes(1 << 20))
        with monkeypatch.context() as patched:
            patched.setattr(limits, "SNAPSHOT_SPACE_RESERVE_BYTES", 1 << 60)
            with pytest.raises(StatusError, match=r"a snapshot needs \d+ bytes in .*snap, \d+ are free") as caught:
                await node.snapshot()
            assert caught.value.code == GrpcCode.RESOURCE_EXHAUSTED
            patched.setattr(exporting.Exports, "_check_room", lambda _self: None)
            with pytest.raises(StatusError, match="cannot write a snapshot: No space left on device") as caught:
                await node.snapshot()
            assert caught.value.code == GrpcCode.RESOURCE_EXHAUSTED
        for _ in range(limits.EXPORTS_MAX + 1):  # no place is lost
            (await node.snapshot()).close()
        assert await put(node, b"and", b"on") > 0


async def test_a_caller_that_goes_away_ends_the_work(tmp_path: Path) -> None:
    async with member(tmp_path) as node:
        for number in range(64):
            await put(node, b"%d" % number, os.urandom(1 << 20))
        for _ in range(2 * limits.EXPORTS_MAX):
            work = asyncio.ensure_future(node.snapshot())
            await asyncio.sleep(0.01)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work
        export = await node.snapshot()
        assert len(opened(await taken(export)).items("key")) >= 64
        export.close()


async def test_a_stop_does_not_wait_for_it(tmp_path: Path) -> None:
    async with member(tmp_path) as node:
        for number in range(64):
            await put(node, b"%d" % number, os.urandom(1 << 20))
        work = asyncio.ensure_future(node.snapshot())
        await asyncio.sleep(0.02)
    try:
        (await work).close()  # it was done before
    except StatusError as error:
        assert error.message == status_of(EtcdError.STOPPED).message  # noqa: PT017


def commit(backend: Backend, size: int) -> None:
    made = Generation()
    for main in range(1, 40):
        made.add(main, 0, False, bytes(size))
    made.freeze()
    backend.commit(made, [], [], 5, 1)
    assert backend.wait(20_000)
    backend.completed()


def finished(backend: Backend) -> tuple[int, int, str]:
    assert backend.wait_bulk(20_000)
    (ended,) = backend.bulk_completed()
    return ended


def test_errors_of_the_file_are_the_jobs(tmp_path: Path) -> None:
    backend = Backend(str(tmp_path / "db"))
    commit(backend, 1 << 20)
    with open("/dev/full", "wb") as full, open(tmp_path / "file", "wb") as file, open("/dev/null", "rb") as unwritable:
        backend.start_export(full.fileno(), lambda _found: [], 0)
        assert finished(backend)[2] == "No space left on device"
        backend.start_export(unwritable.fileno(), lambda _found: [], 0)
        assert finished(backend)[2] == "Bad file descriptor"
        backend.start_export(file.fileno(), lambda _found: [], 1 << 62)
        assert finished(backend)[2] == "No space left on device"
        for number in range(3):
            job = backend.start_export(file.fileno(), lambda _found: [], 0)
            backend.cancel_export(job)
            assert finished(backend) in ((job, 0, "Operation canceled"), (job, os.fstat(file.fileno()).st_size, "")), number
    with pytest.raises(ZeroDivisionError):
        backend.start_export(1, lambda _found: [1 / 0], 0)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="records come in generations"):
        backend.start_export(1, lambda _found: [("key", b"a", b"b")], 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        backend.start_export(10_000, lambda _found: [], 0)
    spare = os.open(tmp_path / "spare", os.O_RDWR | os.O_CREAT)
    backend.start_export(spare, lambda _found: [], 0)
    backend.start_export(spare, lambda _found: [], 0)
    backend.close()  # with work that was never begun
    os.close(spare)


def test_blobs_are_the_generated_class_es() -> None:
    for blob, remaining, version in ((b"x" * 32_768, 1 << 40, "3.7.0"), (b"", 0, ""), (b"y", 127, ""), (b"z" * 32, 0, "3.7.0")):
        wanted = rpc_pb2.SnapshotResponse(blob=blob, remaining_bytes=remaining, version=version)
        assert rpc_pb2.SnapshotResponse.FromString(encode_blob(memoryview(blob), remaining, version.encode())) == wanted


# --------------------------------------------------------------------------------------------------------------------
# The stream
# --------------------------------------------------------------------------------------------------------------------


class MemoryFile:
    def __init__(self, data: bytes, part_bytes: int) -> None:
        self._data, self._part_bytes, self._offset = data, part_bytes, 0
        self.size_bytes, self.version, self.closed = len(data), "3.7.0", False

    async def read(self) -> bytes:
        part = self._data[self._offset : self._offset + self._part_bytes]
        self._offset += len(part)
        return part

    def digest(self) -> bytes:
        assert self._offset == len(self._data)
        return hashlib.sha256(self._data).digest()

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def door() -> Iterator[EtcdDoor]:
    with EtcdDoor() as opened:
        yield opened


def serving(door: EtcdDoor, file: MemoryFile) -> None:
    async def snapshot() -> MemoryFile:
        return file

    door.run(lambda: setattr(door.node, "snapshot", snapshot))


def test_blobs_count_down_and_a_learner_sends_them_too(door: EtcdDoor) -> None:
    data = os.urandom(5 << 20) + b"tail"
    with grpc.insecure_channel(door.address) as channel:
        stub = rpc_pb2_grpc.MaintenanceStub(channel)
        for is_learner in (False, True):
            file = MemoryFile(data, limits.EXPORT_READ_BYTES)
            serving(door, file)
            door.run(lambda now=is_learner: setattr(door.node, "is_learner", now))  # type: ignore[misc]
            *blobs, last = list(stub.Snapshot(rpc_pb2.SnapshotRequest(), timeout=30))
            assert b"".join(one.blob for one in blobs) == data
            assert {len(one.blob) for one in blobs[:-1]} == {32 << 10}
            left = len(data)
            for one in blobs:
                left -= len(one.blob)
                assert one.remaining_bytes == left
            assert (last.blob, last.remaining_bytes) == (hashlib.sha256(data).digest(), 0)
            assert {one.version for one in (*blobs, last)} == {"3.7.0"}
            assert not any(one.HasField("header") for one in (*blobs, last))
            assert file.closed
        with pytest.raises(grpc.RpcError) as caught:
            list(rpc_pb2_grpc.KVStub(channel).RangeStream(rpc_pb2.RangeRequest(key=b"a"), timeout=30))
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_a_file_that_cannot_be_read_and_a_client_that_reads_nothing(door: EtcdDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(MemoryFile):
        async def read(self) -> bytes:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(stream, "EXPORT_STALL_MS", 300)
    with grpc.insecure_channel(door.address) as channel:
        stub = rpc_pb2_grpc.MaintenanceStub(channel)
        broken = Broken(b"x" * 5000, 10)
        serving(door, broken)
        with pytest.raises(grpc.RpcError, match="cannot read the snapshot: Input/output error"):
            list(stub.Snapshot(rpc_pb2.SnapshotRequest(), timeout=30))
        assert broken.closed
        endless = MemoryFile(bytes(64 << 20), 1 << 20)
        serving(door, endless)
        call = stub.Snapshot(rpc_pb2.SnapshotRequest(), timeout=30)
        next(call)
        deadline = time.monotonic() + 10
        while not endless.closed and time.monotonic() < deadline:
            time.sleep(0.01)  # the server is in another thread
        assert endless.closed
        call.cancel()
