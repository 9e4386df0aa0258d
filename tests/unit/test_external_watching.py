"""`ExternalKv`'s watch of a scripted etcd: resumption, members that lag, silence, failures."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from external_side import Lines, Sink, commit, fake, kv, lines, live, packed, second, until

from raftsched.errors import EtcdError
from raftsched.pb.etcd import rpc_pb2
from raftsched.proposals import PUT, TXN
from raftsched.scheduler.bridge.external import condition, leases, pace, watching
from raftsched.scheduler.bridge.external.kv import ExternalKv, Target
from raftsched.scheduler.jobs.names import COUNTERS, JOBS
from raftsched.scheduler.jobs.requests import put_request
from raftsched.testing.fake_etcd import FakeEtcd
from raftsched.types import Change

__all__ = ["fake", "kv", "lines", "second"]  # fixtures


async def test_the_watch_goes_on_where_it_broke_off(fake: FakeEtcd, kv: ExternalKv) -> None:
    sink = await live(kv)
    for round_ in range(3):
        fake.etcd.put(JOBS + b"%d-a" % round_, b"1")
        await fake.close()
        fake.etcd.put(JOBS + b"%d-b" % round_, b"1")
        fake.etcd.delete(JOBS + b"%d-a" % round_)
        await fake.open()
        await until(lambda round_=round_: len(sink.changes) == 3 * (round_ + 1))  # type: ignore[misc]
    assert [(change.main, change.deleted) for change in sink.changes] == [(main, main % 3 == 1) for main in range(2, 11)]
    assert sink.resets == 0


async def test_a_compaction_behind_the_watch_loses_the_history(fake: FakeEtcd, kv: ExternalKv) -> None:
    sink = await live(kv)
    fake.etcd.put(JOBS + b"a", b"1")
    await until(lambda: sink.changes)
    await fake.close()
    for number in range(5):
        fake.etcd.put(JOBS + b"%d" % number, b"1")
    fake.compact(fake.etcd.revision - 1)
    await fake.open()
    await until(lambda: sink.resets == 1)
    await asyncio.wait_for(kv._watch.live.wait(), 20)
    found: list[Change] = []
    await kv.scan(JOBS, found.extend)
    assert len(found) == 6
    fake.etcd.put(JOBS + b"later", b"1")
    await until(lambda: JOBS + b"later" in sink.keys)
    assert sink.resets == 1


async def test_a_store_that_was_set_back_is_another_history(fake: FakeEtcd, kv: ExternalKv) -> None:
    sink = await live(kv)
    for number in range(5):
        fake.etcd.put(JOBS + b"%d" % number, b"1")
    await until(lambda: len(sink.changes) == 5)
    await fake.close()
    fake.etcd.revision = 3  # restored from a backup
    fake.history = fake.history[:2]
    await fake.open()
    await until(lambda: sink.resets == 1)


async def test_another_cluster_at_the_same_address_is_another_history(fake: FakeEtcd, kv: ExternalKv) -> None:
    sink = await live(kv)
    fake.etcd.put(JOBS + b"a", b"1")
    await until(lambda: sink.changes)
    fake.cluster_id = 9
    kv._watch.restart()
    await until(lambda: sink.resets == 1)
    await asyncio.wait_for(kv._watch.live.wait(), 20)
    assert sink.resets == 1


async def test_a_member_that_lags_is_waited_for(fake: FakeEtcd, kv: ExternalKv) -> None:
    """It says an older revision when the watch is opened; a read of the present one tells that nothing was set back."""
    sink = await live(kv)
    fake.etcd.put(JOBS + b"a", b"1")
    await until(lambda: sink.changes)
    fake.lag = 1
    kv._watch.restart()
    await until(lambda: fake.count("Watch") == 2 and kv._watch.live.is_set())
    fake.etcd.put(JOBS + b"b", b"1")
    await until(lambda: len(sink.changes) == 2)
    assert sink.resets == 0


@pytest.fixture
async def two(fake: FakeEtcd, second: FakeEtcd, lines: Lines) -> AsyncIterator[ExternalKv]:
    made = ExternalKv([Target(fake.address, False), Target(second.address, False)], log=lines)
    made.start()
    yield made
    await made.close()


def hurry(monkeypatch: pytest.MonkeyPatch, *, stands_ms: int, lags_ms: int) -> None:
    """Looks often, and so long a lag is too much."""
    monkeypatch.setattr(condition, "EXTERNAL_LOOK_MS", 20)
    monkeypatch.setattr(pace, "EXTERNAL_STANDS_MS", stands_ms)
    monkeypatch.setattr(pace, "EXTERNAL_LAGS_MS", lags_ms)
    monkeypatch.setattr(watching, "EXTERNAL_ASK_AGAIN_MS", 20)


async def test_a_watch_at_a_member_that_lags_is_given_up(
    fake: FakeEtcd, second: FakeEtcd, two: ExternalKv, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is there, has a leader and answers, with what it knows: the stream is never silent, and results would wait for ever."""
    hurry(monkeypatch, stands_ms=200, lags_ms=60_000)
    sink = await live(two)
    fake.etcd.put(JOBS + b"a", b"1")
    await until(lambda: sink.changes)
    slow, other = (fake, second) if fake.watches else (second, fake)
    slow.behind = fake.etcd.revision
    error, revision, outcomes = await commit(two, *packed(b"a", main=2))
    assert (error, revision, outcomes) == (0, 3, b"\1")
    assert sink.keys == [JOBS + b"a", COUNTERS + b"a"]
    assert other.watches
    assert two.stats()["raftsched_external_watch_lags_total"] == 1
    assert any(line.startswith("the watch on etcd broke off: it lags: etcd is at revision 3, and 2 was told") for line in lines.lines)
    assert sink.resets == 0


async def test_a_watch_that_moves_and_stays_far_behind_is_given_up_too(
    fake: FakeEtcd, second: FakeEtcd, two: ExternalKv, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch, stands_ms=60_000, lags_ms=300)
    sink = await live(two)
    slow, other = (fake, second) if fake.watches else (second, fake)
    slow.behind = fake.etcd.revision
    for number in range(200):
        fake.etcd.put(JOBS + b"%d" % number, b"1")
        if number >= 10:
            slow.behind += 1  # ten revisions behind, all the time
        await asyncio.sleep(0.01)
        if other.watches:
            break
    await until(lambda: two._watch.known == fake.etcd.revision)
    assert other.watches
    assert [change.main for change in sink.changes] == list(range(2, fake.etcd.revision + 1))


async def test_a_single_member_that_lags_is_waited_for(fake: FakeEtcd, kv: ExternalKv, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch, stands_ms=150, lags_ms=60_000)
    sink = await live(kv)
    fake.etcd.put(JOBS + b"a", b"1")
    await until(lambda: sink.changes)
    fake.behind = fake.etcd.revision
    waiting = asyncio.ensure_future(commit(kv, *packed(b"a", main=2)))
    await until(lambda: kv._watch.pace.lags_total >= 2)
    assert not waiting.done()
    assert not kv.reachable
    fake.behind = None
    await until(lambda: kv.reachable)
    assert (await asyncio.wait_for(waiting, 20))[::2] == (0, b"\1")
    assert (sink.resets, sink.keys) == (0, [JOBS + b"a", COUNTERS + b"a"])


async def test_a_watch_that_keeps_pace_or_is_held_by_a_load_does_not_lag(
    fake: FakeEtcd, kv: ExternalKv, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch, stands_ms=100, lags_ms=200)
    fake.etcd.put(JOBS + b"a", b"1")
    sink = await live(kv)
    for number in range(40):
        fake.etcd.put(JOBS + b"%d" % number, b"1")
        fake.etcd.put(b"elsewhere", b"1")  # of which the watch hears only when it asks
        await asyncio.sleep(0.01)
    await until(lambda: len(sink.changes) == 40)
    with kv._watch.holding():
        fake.etcd.put(JOBS + b"b", b"1")
        await asyncio.sleep(0.5)
    await until(lambda: len(sink.changes) == 41)
    assert kv._watch.pace.lags_total == 0


async def test_a_revision_in_fragments_is_told_whole(fake: FakeEtcd, kv: ExternalKv) -> None:
    fake.fragments = True
    told: list[list[int]] = []

    class Whole(Sink):
        def on_changes(self, changes: Sequence[Change], revision: int) -> None:
            told.append([change.main for change in changes])

    kv.subscribe(Whole())
    await live(kv)
    fake.etcd.put(JOBS + b"a", b"1")
    fake.etcd.apply(TXN, put_two(b"b", b"c"))
    await until(lambda: sum(map(len, told)) == 3)
    assert [main for mains in told for main in mains] == [2, 3, 3]
    assert told[-1][-2:] == [3, 3]


def put_two(*names: bytes) -> bytes:
    ops = [rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=JOBS + name, value=b"1")) for name in names]
    return rpc_pb2.TxnRequest(success=ops).SerializeToString()


async def test_a_watch_that_falls_silent_is_opened_anew(fake: FakeEtcd, kv: ExternalKv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "EXTERNAL_SILENCE_MS", 200)
    fake.mute = True
    await live(kv)
    await until(lambda: fake.count("Watch") >= 3)


async def test_a_sink_that_fails_has_everything_loaded_again(fake: FakeEtcd, kv: ExternalKv, lines: Lines) -> None:
    """A fault of ours ends neither the watch nor the process."""

    class Failing(Sink):
        def on_changes(self, changes: Sequence[Change], revision: int) -> None:
            if not self.resets:
                raise ZeroDivisionError
            super().on_changes(changes, revision)

    await live(kv)
    sink = Failing()
    kv.subscribe(sink)
    fake.etcd.put(JOBS + b"a", b"1")
    await until(lambda: sink.resets == 1)
    await asyncio.wait_for(kv._watch.live.wait(), 20)
    fake.etcd.put(JOBS + b"b", b"1")
    await until(lambda: sink.changes)
    assert "the watch on etcd failed" in lines.lines


async def test_a_cancellation_that_nobody_asked_for_ends_nothing(
    fake: FakeEtcd, kv: ExternalKv, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """grpc raises CancelledError for calls that it has given up; a task that took that for its own end would be missed by nobody."""
    monkeypatch.setattr(condition, "EXTERNAL_LOOK_MS", 20)
    monkeypatch.setattr(leases, "EXTERNAL_RENEW_MS", 20)
    monkeypatch.setattr(leases, "EXTERNAL_RENEW_AGAIN_MS", 20)
    sink = await live(kv)
    kv.lease_keep_alive(await kv.lease_grant(20), lambda: None)
    open_stream, call = kv._caller.open_stream, kv._caller.call
    strays: list[str] = []

    def astray(wrapped: Callable[..., Any]) -> Callable[..., Any]:
        async def inner(path: str, *args: Any, **options: Any) -> Any:
            if path not in strays:
                strays.append(path)
                raise asyncio.CancelledError
            return await wrapped(path, *args, **options)

        return inner

    monkeypatch.setattr(kv._caller, "open_stream", astray(open_stream))
    monkeypatch.setattr(kv._caller, "call", astray(call))
    kv._watch.restart()
    await until(lambda: len(strays) == 4)  # watch, renewal, and both looks
    renewals = fake.renewals
    await until(lambda: kv._watch.live.is_set() and fake.renewals > renewals and kv.reachable)
    fake.etcd.put(JOBS + b"a", b"1")
    await until(lambda: JOBS + b"a" in sink.keys)
    kv.write_many(PUT, [put_request(JOBS + b"b", b"1")], [1], sink)
    request, count = packed(b"a", main=fake.etcd.revision)
    await until(lambda: sink.results)
    assert sink.results[1][0] == EtcdError.TIMEOUT
    assert (await commit(kv, request, count))[0] == EtcdError.TIMEOUT
    assert (await commit(kv, request, count))[0] == EtcdError.OK
    assert not any(task.done() for task in kv._tasks)


async def test_a_watch_that_is_not_permitted_says_so(fake: FakeEtcd, kv: ExternalKv, lines: Lines) -> None:
    await live(kv)
    fake.faults["Watch"].extend([EtcdError.PERMISSION_DENIED] * 3)
    kv._watch.restart()
    await until(lambda: any("permission denied" in line for line in lines.lines))
    await until(kv._watch.live.is_set)
