"""Snapshot files: etcd's bytes, what is kept, what a damaged one does."""

import asyncio
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from raftsched.errors import FatalError
from raftsched.pb.raft import raft_pb2
from raftsched.store import membership
from raftsched.store.backend._lmdb import Backend
from raftsched.store.node.options import NodeOptions
from raftsched.store.node.snapshots import Snapshots
from raftsched.store.snapshot.files import RaftSnapshot, decode, encode, load_newest, prune, save
from raftsched.store.wal._walio import crc32c
from raftsched.store.wal.disk import RealDisk
from raftsched.store.wal.format import ConfState, Metadata, SnapshotMark, WireError, bytes_field, fields, number_field
from raftsched.store.wal.log import open_log
from raftsched.store.wal.recovery import peek_mark
from raftsched.types import MemberInfo

SNAPSHOT = RaftSnapshot(index=300, term=4, conf_state=ConfState(voters=(1, 2**64 - 1), learners=(9,)))


def test_bytes_are_those_of_etcd() -> None:
    inner = raft_pb2.Snapshot(
        metadata=raft_pb2.SnapshotMetadata(
            conf_state=raft_pb2.ConfState(voters=[1, 2**64 - 1], learners=[9], auto_leave=False), index=300, term=4
        )
    ).SerializeToString()
    assert encode(SNAPSHOT) == number_field(1, crc32c(inner)) + bytes_field(2, inner)
    assert decode(encode(SNAPSHOT)) == SNAPSHOT
    assert crc32c(inner) != zlib.crc32(inner)


def test_every_flipped_bit_and_truncation_is_noticed() -> None:
    data = encode(SNAPSHOT)
    for bit in range(len(data) * 8):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireError):
            decode(bytes(broken))
    for length in range(len(data)):
        with pytest.raises(WireError):
            decode(data[:length])


def test_newest_valid_one_counts(tmp_path: Path) -> None:
    assert load_newest(tmp_path) == (None, [])
    for term, index in ((1, 100), (1, 200), (2, 150), (4, 300)):
        save(tmp_path, RaftSnapshot(index=index, term=term, conf_state=ConfState((term,))))
    assert sorted(path.name for path in tmp_path.iterdir())[-1] == f"{4:016x}-{300:016x}.snap"
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    assert load_newest(tmp_path)[0] == RaftSnapshot(index=300, term=4, conf_state=ConfState((4,)))
    newest = tmp_path / f"{4:016x}-{300:016x}.snap"
    newest.write_bytes(newest.read_bytes()[:-1])
    (tmp_path / f"{3:016x}-{1:016x}.snap").write_bytes(encode(SNAPSHOT))  # renamed by somebody
    snapshot, problems = load_newest(tmp_path)
    assert snapshot == RaftSnapshot(index=150, term=2, conf_state=ConfState((2,)))
    assert len(problems) == 2
    assert newest.name in problems[0]


def test_old_ones_are_pruned(tmp_path: Path) -> None:
    for index in (1, 2, 3, 4):
        save(tmp_path, RaftSnapshot(index=index, term=1, conf_state=ConfState((1,))))
    (tmp_path / "x.snap.tmp").write_bytes(b"")
    assert prune(tmp_path, keep=0) == []
    assert prune(tmp_path, keep=2) == [f"{1:016x}-{index:016x}.snap" for index in (2, 1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{1:016x}-{index:016x}.snap" for index in (3, 4)]


def test_failed_save_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match=r"cannot save the snapshot .*No such file"):
        save(tmp_path / "nowhere", SNAPSHOT)


def test_messages_that_are_none() -> None:
    for data in (b"\x80", b"\x0a\x05abc", b"\x0d\x00\x00\x00\x00", b"\xff" * 11):
        with pytest.raises(WireError):
            list(fields(data))


def test_the_members_of_a_mark_are_those_of_its_index(tmp_path: Path) -> None:
    """What LMDB holds at the durable index counts, not what is applied since, and not what the kernel has in force already."""

    async def run() -> None:
        (tmp_path / "wal").mkdir()
        (tmp_path / "snap").mkdir()
        backend = Backend(str(tmp_path / "db.0"))
        log, _ = open_log(str(tmp_path / "wal"), metadata=Metadata(5, 9))
        told = [MemberInfo(5, "", ("http://a:1",), ()), MemberInfo(6, "", ("http://b:1",), (), is_learner=True)]
        side = [("members", membership.bucket_key(one.member_id), membership.encode_json(one)) for one in told]
        backend.commit(None, [], side, 10, 3)
        assert backend.wait(10_000)
        backend.completed()
        backend.renew()
        kernel = SimpleNamespace(voter_ids=frozenset({5, 6, 7}), learner_ids=frozenset())
        member = SimpleNamespace(
            backend=backend,
            log=log,
            mark_index=0,
            replica=SimpleNamespace(kernel=kernel),
            directory=SimpleNamespace(snap_path=tmp_path / "snap"),
        )
        failures: list[FatalError] = []
        snapshots = Snapshots(member, NodeOptions(data_dir="x", snapshot_count=5), SimpleNamespace(), failures.append)
        snapshots.look(1_000_000)
        await snapshots.close()
        log.close()
        state = ConfState(voters=(5,), learners=(6,))
        assert peek_mark(RealDisk(str(tmp_path / "wal"))) == SnapshotMark(10, 3, state)
        assert load_newest(tmp_path / "snap")[0] == RaftSnapshot(10, 3, state)
        backend.commit(None, [], [("members", membership.bucket_key(5), b"{")], 20, 3)
        assert backend.wait(10_000)
        backend.completed()
        backend.renew()
        snapshots._mark_batch = 0
        snapshots.look(2_000_000)
        assert [str(one) for one in failures] == [
            "bucket members: no member: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
        ]
        backend.close()

    asyncio.run(run())
