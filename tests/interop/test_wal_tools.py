"""etcd's own tools read our log and snapshots: its packages every record, `etcd-dump-logs` as a person would."""

import base64
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from raftsched.pb.etcd import raft_internal_pb2, rpc_pb2
from raftsched.store.snapshot.files import RaftSnapshot, save
from raftsched.store.wal.format import ConfState, Metadata, SnapshotMark, encode_mark, encode_metadata
from raftsched.store.wal.log import open_log
from raftsched.types import HardState

METADATA = Metadata(node_id=0x8E9E05C52164694D, cluster_id=0xCDF818194E3A8C32)


@pytest.fixture
def tools() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "scripts" / "tools.py"
    spec = importlib.util.spec_from_file_location("wal_tools", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def request(number: int) -> bytes:
    put = rpc_pb2.PutRequest(key=b"key-%d" % number, value=b"v" * (number % 400))
    return raft_internal_pb2.InternalRaftRequest(header=raft_internal_pb2.RequestHeader(ID=number), put=put).SerializeToString()


def write_log(data: Path, *, marked: bool) -> list[bytes]:
    """600 entries over several segments, an overwritten tail, a large entry; and, if asked, a snapshot at 100."""
    wal, snap = data / "member" / "wal", data / "member" / "snap"
    wal.mkdir(parents=True)
    snap.mkdir()
    log, _ = open_log(str(wal), metadata=METADATA, segment_bytes=32 << 10, zero_ahead_bytes=8 << 10, reserve_bytes=8 << 10)
    datas = [b"", *(request(number) for number in range(2, 601))]
    for first in range(1, 600, 10):
        part = datas[first - 1 : first + 9]
        batch = log.append(HardState(3, METADATA.node_id, first - 1), first, [3] * len(part), part)
        assert log.wait_durable(batch, 20_000)
        if marked and first == 101:
            conf = ConfState(voters=(METADATA.node_id,))
            save(snap, RaftSnapshot(index=100, term=3, conf_state=conf))
            log.append(None, 111, [], [], mark=encode_mark(SnapshotMark(100, 3, conf)))
    datas[598:] = [request(1000), request(1 << 20)]
    big = raft_internal_pb2.InternalRaftRequest(put=rpc_pb2.PutRequest(key=b"big", value=b"b" * 700_000)).SerializeToString()
    log.append(HardState(5, 0, 598), 599, [5, 5, 5], [datas[598], datas[599], big])
    datas.append(big)
    log.close()
    return datas


@pytest.mark.parametrize("marked", [False, True])
def test_etcds_packages_read_every_record(tmp_path: Path, tools: ModuleType, marked: bool) -> None:
    program = tools.walreader()
    if program is None:
        pytest.skip("walreader is not built (scripts/tools.py build, needs Go)")
    datas = write_log(tmp_path, marked=marked)
    member = tmp_path / "member"
    done = subprocess.run([program, member / "wal", member / "snap"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert read["Verified"]
    assert base64.b64decode(read["Metadata"]) == encode_metadata(METADATA)
    assert (read["Term"], read["Vote"], read["Commit"]) == (5, 0, 598)
    skipped = 100 if marked else 0
    assert (read["SnapIndex"], read["SnapTerm"]) == ((100, 3) if marked else (0, 0))
    assert read["Voters"] == ([METADATA.node_id] if marked else None)
    assert read["ValidSnapshotEntries"] == (2 if marked else 1)
    entries = [(e["Index"], e["Term"], e["Type"], base64.b64decode(e["Data"])) for e in read["Entries"]]
    expected = [(n, 5 if n >= 599 else 3, 0, data) for n, data in enumerate(datas, 1)]
    assert entries == expected[skipped:]


def test_etcd_dump_logs_reads_it(tmp_path: Path, tools: ModuleType) -> None:
    program = tools.dump_logs()
    if program is None:
        pytest.skip("etcd-dump-logs is not built (scripts/tools.py build, needs Go)")
    write_log(tmp_path, marked=True)
    done = subprocess.run([program, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "WAL metadata:" in lines
    assert "nodeID=8e9e05c52164694d clusterID=cdf818194e3a8c32 term=5 commitIndex=598 vote=0" in lines
    puts = [line for line in lines if "put:<key" in line or "put:{" in line]
    assert len(puts) == 501
    assert any('"key-101"' in line for line in puts)


def test_etcds_packages_read_a_log_behind_an_installed_snapshot(tmp_path: Path, tools: ModuleType) -> None:
    """Our field in the mark is skipped, and the entries go on behind the snapshot."""
    program = tools.walreader()
    if program is None:
        pytest.skip("walreader is not built (scripts/tools.py build, needs Go)")
    wal, snap = tmp_path / "member" / "wal", tmp_path / "member" / "snap"
    wal.mkdir(parents=True)
    snap.mkdir()
    log, _ = open_log(str(wal), metadata=METADATA, segment_bytes=32 << 10, zero_ahead_bytes=8 << 10, reserve_bytes=8 << 10)
    log.append(HardState(3, 0, 10), 1, [3] * 40, [request(number) for number in range(1, 41)])
    conf = ConfState(voters=(METADATA.node_id,))
    save(snap, RaftSnapshot(index=500, term=4, conf_state=conf))
    log.append(None, 41, [], [], mark=encode_mark(SnapshotMark(500, 4, conf, restarts=True)), restart_index=500)
    datas = [request(number) for number in range(501, 701)]
    for first in range(501, 701, 10):
        part = datas[first - 501 : first - 491]
        assert log.wait_durable(log.append(HardState(5, 0, first - 1), first, [5] * len(part), part), 20_000)
    log.close()
    done = subprocess.run([program, wal, snap], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert read["Verified"]
    assert (read["SnapIndex"], read["SnapTerm"], read["Voters"]) == (500, 4, [METADATA.node_id])
    entries = [(e["Index"], e["Term"], base64.b64decode(e["Data"])) for e in read["Entries"]]
    assert entries == [(index, 5, data) for index, data in enumerate(datas, 501)]
