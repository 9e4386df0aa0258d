"""What a lone voter gathers while its disk is busy: written without an event if need be, answered once whatever becomes of the write."""

import asyncio
from pathlib import Path

import pytest
from test_store_node import Rig, until

from raftsched import proposals
from raftsched.errors import EtcdError, FatalError
from raftsched.pb.etcd import rpc_pb2


class Disk:
    """In front of the real log: its writes are seen to end when the test says so, or fail."""

    def __init__(self, log) -> None:
        self.log = log
        self.busy = True
        self.broken = False
        self.ended = log.completed()
        self.appended = 0

    def __getattr__(self, name: str):
        return getattr(self.log, name)

    def append(self, *arguments, **named) -> int:
        self.appended += 1
        return self.log.append(*arguments, **named)

    def completed(self) -> int:
        if self.broken:
            raise FatalError("cannot sync wal/0.wal: Input/output error")
        ended = self.log.completed()
        self.ended = self.ended if self.busy else ended
        return self.ended

    def wait_durable(self, batch: int, timeout_ms: int) -> bool:
        return not self.busy and self.log.wait_durable(batch, timeout_ms)


class Answers:
    def __init__(self) -> None:
        self.given: list[tuple[int, int]] = []

    def on_results(self, tokens, results) -> None:
        self.given += [(token, error) for token, (error, _, _) in zip(tokens, results, strict=True)]


async def gathering(path: Path, monkeypatch: pytest.MonkeyPatch, **options) -> tuple[Rig, Disk, Answers]:
    """A member that writes proposal 1 and has gathered 2 and 3."""
    rig = Rig(path, **options)
    await rig.node.start()
    await until(lambda: not rig.node._batches)
    disk = Disk(rig.node._member.log)
    monkeypatch.setattr(rig.node._member, "log", disk)
    answers = Answers()
    propose(rig, 1, answers)
    await until(lambda: disk.appended == 1)
    assert disk.log.wait_durable(rig.node._batches[-1][0], 5_000)
    await asyncio.sleep(0.01)  # the real end of the write has come to the loop, and told nothing
    assert len(rig.node._batches) == 1
    propose(rig, 2, answers)
    propose(rig, 3, answers)
    assert not rig.node._pump_scheduled
    assert disk.appended == 1
    return rig, disk, answers


def propose(rig: Rig, token: int, answers: Answers) -> None:
    rig.node.propose_many(proposals.PUT, [rpc_pb2.PutRequest(key=b"k%d" % token, value=b"v").SerializeToString()], [token], answers)


async def test_a_heartbeat_takes_them_when_no_event_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, disk, answers = await gathering(tmp_path, monkeypatch)
    await until(lambda: disk.appended == 2)
    assert answers.given == []
    disk.busy = False
    rig.node._on_log_event()
    await until(lambda: len(answers.given) == 3)
    assert answers.given == [(1, 0), (2, 0), (3, 0)]
    await rig.node.stop()
    assert len(answers.given) == 3


async def test_they_go_as_one_batch_when_the_write_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, disk, answers = await gathering(tmp_path, monkeypatch, heartbeat_ms=5_000, election_ms_min=20_000, election_ms_max=30_000)
    disk.busy = False
    rig.node._on_log_event()
    assert disk.appended == 2
    await until(lambda: len(answers.given) == 3)
    assert answers.given == [(1, 0), (2, 0), (3, 0)]
    await rig.node.stop()


async def test_a_stop_writes_what_is_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, disk, answers = await gathering(tmp_path, monkeypatch)
    disk.busy = False
    await rig.node.stop()
    assert answers.given == [(1, 0), (2, 0), (3, 0)]
    async with Rig(tmp_path) as again:
        assert await again.get(b"k3") == b"v"


async def test_a_stop_over_a_write_that_never_ends_answers_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, _, answers = await gathering(tmp_path, monkeypatch)
    await rig.node.stop()
    assert sorted(answers.given) == [(token, EtcdError.STOPPED) for token in (1, 2, 3)]
    assert rig.fatal == []


async def test_a_write_that_fails_answers_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, disk, answers = await gathering(tmp_path, monkeypatch)
    disk.broken = True
    rig.node._on_log_event()
    propose(rig, 4, answers)
    assert answers.given == [(4, EtcdError.STOPPED)]
    await until(lambda: len(answers.given) == 4)
    await rig.node.stop()
    assert sorted(answers.given) == [(token, EtcdError.STOPPED) for token in (1, 2, 3, 4)]
    assert len(rig.fatal) == 1
