"""Keys that Dapr does not have, over an external etcd: told behind what happened to their jobs, waited for, resumed, bounded."""

import asyncio

import pytest
from external_side import Lines, commit, fake, kv, lines, live, until

from raftsched.errors import StatusError
from raftsched.pb.etcd import rpc_pb2
from raftsched.scheduler.bridge.external import condition, order, writing
from raftsched.scheduler.bridge.external.kv import ExternalKv
from raftsched.scheduler.jobs.names import COUNTERS, JOBS, NAMESPACES, RUNS, STATES
from raftsched.scheduler.jobs.requests import Branch, create_request, packed_request
from raftsched.testing.fake_etcd import FakeEtcd
from raftsched.types import Change

__all__ = ["fake", "kv", "lines"]  # fixtures
JOB, STATE, COUNTER = JOBS + b"a", STATES + b"a", COUNTERS + b"a"


def txn(fake: FakeEtcd, *changes: tuple[bytes, bytes | None]) -> None:
    """All at one revision."""
    operations = [
        rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value))
        if value is not None
        else rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key))
        for key, value in changes
    ]
    fake.etcd.apply(6, rpc_pb2.TxnRequest(success=operations).SerializeToString())


async def test_both_roots_are_told_in_the_order_of_their_revisions(fake: FakeEtcd, kv: ExternalKv) -> None:
    sink = await live(kv)
    for number in range(20):
        fake.etcd.put((JOBS, STATES, COUNTERS, RUNS, NAMESPACES)[number % 5] + b"%d" % number, b"1")
        if number % 7 == 0:
            await asyncio.sleep(0.01)
    await until(lambda: len(sink.changes) == 20)
    for side in (b"dapr/", b"raftsched/"):
        mains = [change.main for change in sink.changes if change.key.startswith(side)]
        assert mains == sorted(mains)
    for at, change in enumerate(sink.changes):
        if change.key.startswith(b"raftsched/"):
            assert all(one.main > change.main for one in sink.changes[at + 1 :] if one.key.startswith(b"dapr/"))


async def test_what_is_beside_a_job_waits_for_the_job(fake: FakeEtcd, kv: ExternalKv) -> None:
    """etcd has not got rid of what it has to tell of Dapr's keys."""
    sink = await live(kv)
    fake.stuck[b"dapr/"] = fake.etcd.revision
    fake.etcd.put(JOB, b"1")
    fake.etcd.put(STATE, b"paused")
    txn(fake, (STATE, None), (COUNTER, b"moved"))
    await asyncio.sleep(0.3)
    assert sink.keys == []
    assert kv._watch.order.holds
    fake.stuck.clear()
    fake.etcd.put(COUNTERS + b"b", b"1")
    await until(lambda: len(sink.changes) == 5)
    assert sink.keys == [JOB, STATE, COUNTER, STATE, COUNTERS + b"b"]


async def test_jobs_do_not_wait_for_what_is_beside_them(fake: FakeEtcd, kv: ExternalKv) -> None:
    sink = await live(kv)
    fake.stuck[b"raftsched/"] = fake.etcd.revision
    fake.etcd.put(STATE, b"paused")
    assert (await asyncio.wait_for(kv.txn(create_request(JOB, b"1")), 20))[0] == fake.etcd.revision
    assert sink.keys == [JOB]
    asked = asyncio.ensure_future(commit(kv, packed_request([Branch([(JOB, fake.etcd.revision)], [(RUNS + b"a", b"1")])]), 1))
    await asyncio.sleep(0.3)
    assert not asked.done(), "an answer comes behind its change"
    fake.stuck.clear()
    fake.etcd.put(JOB, b"2")
    assert (await asyncio.wait_for(asked, 20))[2] == b"\x01"
    assert RUNS + b"a" in sink.keys


async def test_a_write_of_one_root_or_both_is_answered_when_it_was_told(
    fake: FakeEtcd, kv: ExternalKv, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "EXTERNAL_SETTLE_MS", 20_000)
    sink = await live(kv)
    for number in range(10):
        await kv.txn(create_request(NAMESPACES + b"%d" % number, b"1"))
        assert len(sink.changes) == 3 * number + 1
        branch = Branch([(STATES + b"%d" % number, 0)], [(COUNTERS + b"%d" % number, b"1"), (STATES + b"%d" % number, b"1")])
        error, revision, outcomes = await commit(kv, packed_request([branch]), 1)
        assert (error, revision, outcomes) == (0, fake.etcd.revision, b"\x01")
        assert len(sink.changes) == 3 * number + 3


async def test_both_watches_go_on_where_they_broke_off(fake: FakeEtcd, kv: ExternalKv) -> None:
    sink = await live(kv)
    for round_ in range(3):
        fake.etcd.put(JOBS + b"%d" % round_, b"1")
        fake.etcd.put(STATES + b"%d" % round_, b"1")
        await fake.close()
        fake.etcd.put(STATES + b"%d-" % round_, b"1")
        fake.etcd.put(JOBS + b"%d-" % round_, b"1")
        await fake.open()
        await until(lambda round_=round_: len(sink.changes) == 4 * (round_ + 1))  # type: ignore[misc]
    assert len(set(sink.keys)) == 12, "each once"
    assert sink.resets == 0


async def test_what_is_loaded_beside_jobs_is_not_newer_than_what_was_told(fake: FakeEtcd, kv: ExternalKv) -> None:
    """A pause that is over already, and the counter that moved with it: both are known when the load is done."""
    fake.etcd.put(STATE, b"paused")
    sink = await live(kv)
    fake.stuck[b"dapr/"] = fake.etcd.revision
    txn(fake, (STATE, None), (COUNTER, b"moved"))
    found: list[Change] = []
    loading = asyncio.ensure_future(kv.scan(STATES, found.extend))
    await asyncio.sleep(0.4)
    assert (found, loading.done()) == ([], False)
    fake.stuck.clear()
    fake.etcd.put(COUNTERS + b"b", b"1")
    await asyncio.wait_for(loading, 20)
    assert COUNTER in sink.keys


async def test_a_load_does_not_wait_for_a_history_that_is_lost(fake: FakeEtcd, kv: ExternalKv) -> None:
    sink = await live(kv)
    fake.stuck[b"dapr/"] = fake.etcd.revision
    fake.etcd.put(JOB, b"1")
    loading = asyncio.ensure_future(kv.scan(STATES, lambda _: None))
    await asyncio.sleep(0.1)
    fake.cluster_id = 9
    kv._watch.restart()
    await until(lambda: sink.resets == 1)
    await asyncio.wait_for(loading, 20)


async def test_more_than_is_kept_is_loaded_again(fake: FakeEtcd, kv: ExternalKv, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "EXTERNAL_HELD_CHANGES_MAX", 5)
    sink = await live(kv)
    fake.stuck[b"dapr/"] = fake.etcd.revision
    fake.etcd.put(JOB, b"1")
    for number in range(6):
        fake.etcd.put(STATES + b"%d" % number, b"1")
    await until(lambda: sink.resets == 1)
    assert any("6 changes of raftsched/ wait for older ones" in line for line in lines.lines)


async def test_no_question_is_asked_for_who_uses_dapr_alone(fake: FakeEtcd, kv: ExternalKv) -> None:
    await live(kv)
    await asyncio.sleep(0.1)
    asked = fake.count("progress")
    for number in range(50):
        await kv.txn(create_request(JOBS + b"%d" % number, b"1"))
    assert fake.count("progress") - asked < 10, "but for the usual one"


async def test_who_may_read_daprs_keys_alone_goes_without_the_others(
    fake: FakeEtcd, kv: ExternalKv, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user for whom only dapr/ was granted; until somebody grants the rest, which needs no restart."""
    monkeypatch.setattr(condition, "EXTERNAL_LOOK_MS", 20)
    monkeypatch.setattr(condition, "EXTERNAL_BESIDE_MS", 50)
    fake.denied = b"raftsched/"
    fake.etcd.put(STATE, b"paused")
    sink = await live(kv)
    await until(lambda: kv.reachable)
    assert [line for line in lines.lines if "may not read raftsched/ in etcd" in line] != []
    await kv.txn(create_request(JOB, b"1"))
    fake.etcd.put(STATES + b"b", b"paused")
    for prefix in (JOBS, STATES):
        await asyncio.wait_for(kv.scan(prefix, sink.changes.extend), 20)
    assert set(sink.keys) == {JOB}
    assert sink.resets == 0
    fake.denied = b""
    await until(lambda: sink.resets == 1)
    await until(lambda: kv._watch.live.is_set() and not kv._watch.bare)
    await asyncio.wait_for(kv.scan(STATES, sink.changes.extend), 20)
    assert {STATE, STATES + b"b"} < set(sink.keys)
    assert sum("may not read" in line for line in lines.lines) == 1


async def test_a_permission_that_is_taken_away_does_not_stop_a_load(fake: FakeEtcd, kv: ExternalKv) -> None:
    await live(kv)
    fake.denied = b"raftsched/"
    with pytest.raises(StatusError, match="permission denied"):
        await kv.scan(STATES, lambda _: None)
    await until(lambda: kv._watch.bare and kv._watch.live.is_set())
    await asyncio.wait_for(kv.scan(STATES, lambda _: None), 20)
