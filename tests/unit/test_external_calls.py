"""What `ExternalKv` asks a scripted etcd again and what not, in which order outcomes and changes are told, and many writes at once."""

import asyncio

import pytest
from external_side import UNAVAILABLE, Lines, commit, fake, kv, lines, live, packed, until

from raftsched.errors import EtcdError, StatusError, status_of
from raftsched.proposals import PUT, TXN
from raftsched.scheduler.bridge.external import writing
from raftsched.scheduler.bridge.external.kv import ExternalKv, Target
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import COUNTERS, DEAD, JOBS
from raftsched.scheduler.jobs.requests import Branch, create_request, delete_job_request, packed_request, put_request, range_request
from raftsched.testing.fake_etcd import HANGS, LOST, FakeEtcd

__all__ = ["fake", "kv", "lines"]  # fixtures


# -- what is asked again


async def test_a_read_is_asked_again_until_it_is_answered(fake: FakeEtcd, kv: ExternalKv) -> None:
    fake.etcd.put(b"a", b"1")
    fake.faults["Range"].extend([LOST, UNAVAILABLE, EtcdError.NO_LEADER, EtcdError.TIMEOUT, EtcdError.TOO_MANY_REQUESTS])
    revision, body = await kv.range(range_request(b"a"))
    assert (revision, _jobs.range_kvs(body)[0][1]) == (2, b"1")


async def test_a_read_that_is_refused_for_good_is_told(fake: FakeEtcd, kv: ExternalKv) -> None:
    await live(kv)
    fake.faults["Range"].extend([EtcdError.PERMISSION_DENIED] * 3)
    with pytest.raises(StatusError) as caught:
        await kv.range(range_request(b"a"))
    assert caught.value.message == "etcdserver: permission denied"


@pytest.mark.parametrize("kind", [PUT, TXN])
async def test_a_write_whose_answer_is_lost_is_unknown_and_not_sent_again(fake: FakeEtcd, kv: ExternalKv, kind: int) -> None:
    sink = await live(kv)
    name = "Put" if kind == PUT else "Txn"
    fake.faults[name].append(LOST)
    request = put_request(JOBS + b"a", b"1") if kind == PUT else create_request(JOBS + b"a", b"1")
    kv.write_many(kind, [request], [7], sink)
    await until(lambda: sink.results)
    assert sink.results == {7: (EtcdError.TIMEOUT, 0, b"")}
    assert fake.count(name) == 1
    await until(lambda: sink.keys == [JOBS + b"a"])  # it was done, which the watch tells


async def test_a_single_transaction_whose_answer_is_lost_is_told_so(fake: FakeEtcd, kv: ExternalKv) -> None:
    fake.faults["Txn"].append(LOST)
    with pytest.raises(StatusError) as caught:
        await kv.txn(create_request(b"dapr/leadership/a", b"1"))
    assert caught.value.message == status_of(EtcdError.TIMEOUT).message
    assert fake.count("Txn") == 1


async def test_what_never_reached_etcd_is_sent_again(fake: FakeEtcd, lines: Lines) -> None:
    """A member that is not there: surely not done."""
    gone = FakeEtcd()
    async with gone:
        pass
    for _ in range(8):  # whichever it begins with
        kv = ExternalKv([Target(gone.address, False), Target(fake.address, False)], log=lines)
        await kv.txn(create_request(b"x", b"1"))
        await kv.close()
    assert fake.count("Txn") == 8


async def test_results_are_sent_again_since_their_guards_make_it_safe(fake: FakeEtcd, kv: ExternalKv) -> None:
    sink = await live(kv)
    fake.etcd.put(JOBS + b"a", b"1")
    fake.faults["Txn"].append(LOST)
    error, revision, outcomes = await commit(kv, *packed(b"a", main=2))
    assert (error, outcomes) == (0, b"\1")  # a second time: this guard is on the job alone, which stands
    assert fake.count("Txn") == 2
    assert sink.keys == [JOBS + b"a", COUNTERS + b"a", COUNTERS + b"a"]
    assert revision == 4


# -- order


async def test_changes_are_told_before_the_outcome_of_a_commit(fake: FakeEtcd, kv: ExternalKv) -> None:
    """Also where nothing changed: whoever made the guard fail is told first."""
    sink = await live(kv)
    fake.etcd.put(JOBS + b"a", b"1")
    fake.etcd.put(JOBS + b"a", b"2")
    fake.etcd.put(b"elsewhere", b"1")  # a revision that this watch never sees
    error, revision, outcomes = await commit(kv, *packed(b"a", main=2))
    assert (error, revision, outcomes) == (0, 4, b"\0")
    assert sink.keys == [JOBS + b"a", JOBS + b"a"]
    assert fake.count("progress") > 0


async def test_an_outcome_waits_for_a_watch_that_is_down(fake: FakeEtcd, kv: ExternalKv) -> None:
    sink = await live(kv)
    fake.etcd.put(JOBS + b"a", b"1")
    await until(lambda: sink.changes)
    fake.faults["Watch"].extend([UNAVAILABLE] * 3)
    kv._watch.restart()
    error, _, outcomes = await commit(kv, *packed(b"a", main=2))
    assert (error, outcomes) == (0, b"\1")
    assert sink.keys[-1] == COUNTERS + b"a"
    assert kv._watch.resumes_total == 1


async def test_the_answer_to_a_write_does_not_wait_long_for_a_watch_that_is_down(fake: FakeEtcd, kv: ExternalKv) -> None:
    sink = await live(kv)
    fake.faults["Watch"].extend([UNAVAILABLE] * 100)
    kv._watch.restart()
    kv.write_many(PUT, [put_request(JOBS + b"a", b"1")], [1], sink)
    await until(lambda: sink.results, 5)
    assert sink.results[1][0] == 0


# -- many writes


async def test_many_writes_are_packed_and_answered_one_by_one(fake: FakeEtcd, kv: ExternalKv) -> None:
    sink = await live(kv)
    fake.etcd.put(JOBS + b"3", b"there")
    creates = [create_request(JOBS + b"%d" % number, b"1") for number in range(10)]
    kv.write_many(TXN, creates, list(range(10)), sink)
    await until(lambda: len(sink.results) == 10)
    assert fake.count("Txn") == 1
    assert [number for number in range(10) if _jobs.txn_succeeded(sink.results[number][2])] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert b"there" in sink.results[3][2]
    kv.write_many(PUT, [put_request(JOBS + b"p%d" % number, b"1") for number in range(250)], list(range(100, 350)), sink)
    await until(lambda: len(sink.results) == 260)
    assert all(result[0] == 0 for result in sink.results.values())
    assert fake.count("Put") == 0
    assert set(sink.keys) >= {JOBS + b"p%d" % number for number in range(250)}


async def test_a_lower_limit_of_operations_is_learned(fake: FakeEtcd, kv: ExternalKv) -> None:
    sink = await live(kv)
    fake.operations_max = 10
    kv.write_many(PUT, [put_request(JOBS + b"%d" % number, b"1") for number in range(100)], list(range(100)), sink)
    await until(lambda: len(sink.results) == 100)
    assert {result[0] for result in sink.results.values()} == {0}
    assert kv._writer._operations_max == 50
    for name in [b"%d" % number for number in range(40)]:
        fake.etcd.put(JOBS + name, b"2")
    names = [b"%d" % number for number in range(40)]
    error, _, _ = await commit(kv, *packed(*names))
    while error == EtcdError.TOO_MANY_OPS:  # as the service repeats it
        error, _, outcomes = await commit(kv, *packed(*names))
    assert (error, outcomes) == (0, b"\0" * 40)
    assert kv._writer._operations_max <= 10


async def test_a_lower_limit_of_bytes_is_learned(fake: FakeEtcd, kv: ExternalKv) -> None:
    """Results with letters are large: a commit that is refused for ever would stand in the way of all triggers."""
    await live(kv)
    fake.bytes_max = 100_000
    name, value = JOBS + b"a", b"1" * 40_000
    fake.etcd.put(name, b"1")
    branches = [Branch([(name, fake.etcd.keys[name].mod_revision)], [(DEAD + b"%d" % number, value)]) for number in range(10)]
    request = packed_request(branches), len(branches)
    error, _, outcomes = await commit(kv, *request)
    while error == EtcdError.REQUEST_TOO_LARGE:  # as the service repeats it
        error, _, outcomes = await commit(kv, *request)
    assert (error, outcomes) == (0, b"\1" * 10)
    assert 80_000 <= kv._writer._bytes_max < 120_000  # two of them, not three


async def test_one_that_is_too_large_does_not_take_the_others_with_it(fake: FakeEtcd, kv: ExternalKv) -> None:
    sink = await live(kv)
    fake.faults["Txn"].append(EtcdError.REQUEST_TOO_LARGE)
    fake.faults["Put"].append(EtcdError.REQUEST_TOO_LARGE)
    kv.write_many(PUT, [put_request(JOBS + b"%d" % number, b"1") for number in range(5)], list(range(5)), sink)
    await until(lambda: len(sink.results) == 5)
    assert sorted(result[0] for result in sink.results.values()) == [0, 0, 0, 0, EtcdError.REQUEST_TOO_LARGE]


async def test_a_full_store_is_told_to_each(fake: FakeEtcd, kv: ExternalKv) -> None:
    sink = await live(kv)
    fake.etcd.full = True
    kv.write_many(PUT, [put_request(JOBS + b"%d" % number, b"1") for number in range(5)], list(range(5)), sink)
    await until(lambda: len(sink.results) == 5)
    assert {result[0] for result in sink.results.values()} == {EtcdError.NO_SPACE}
    await kv.txn(delete_job_request(b"1"))


async def test_a_commit_is_cut_and_joined_again(fake: FakeEtcd, kv: ExternalKv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "EXTERNAL_OPERATIONS", 3)
    await live(kv)
    kv._writer._operations_max = 3
    for number in range(8):
        if number % 3:
            fake.etcd.put(JOBS + b"%d" % number, b"1")
    error, _, outcomes = await commit(kv, *packed(*(b"%d" % number for number in range(8))))
    assert (error, outcomes) == (0, bytes(number % 3 == 0 for number in range(8)))  # guarded by "is not there"
    assert fake.count("Txn") == 3
    fake.faults["Txn"].extend([EtcdError.NO_SPACE])
    assert (await commit(kv, *packed(*(b"%d" % number for number in range(8)))))[0] == EtcdError.NO_SPACE


async def test_writes_that_wait_are_answered_when_it_ends(fake: FakeEtcd, kv: ExternalKv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "EXTERNAL_CALLS_MAX", 1)
    sink = await live(kv)
    fake.faults["Put"].append(HANGS)
    for number in range(3):
        kv.write_many(PUT, [put_request(JOBS + b"a", b"1")], [number], sink)
    await asyncio.sleep(0.05)
    await kv.close()
    assert {token: result[0] for token, result in sink.results.items()} == {1: EtcdError.STOPPED, 2: EtcdError.STOPPED}
