"""`ExternalKv` against a scripted etcd: what is asked again and what not, resumption, loads, leases and the fence, health."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import pytest

from raftsched.errors import EtcdError, StatusError, status_of
from raftsched.pb.etcd import kv_pb2, rpc_pb2
from raftsched.scheduler.bridge.external import condition, endpoints, leases, pace, watching, writing
from raftsched.scheduler.bridge.external.kv import ExternalKv, Target
from raftsched.scheduler.jobs import _jobs
from raftsched.scheduler.jobs.names import COUNTERS, JOBS
from raftsched.scheduler.jobs.requests import create_request, delete_job_request, field, put_request, range_request
from raftsched.testing.fake_etcd import HANGS, LATE, LOST, FakeEtcd
from raftsched.types import Change, Result

PUT, TXN = 4, 6
UNAVAILABLE = (grpc.StatusCode.UNAVAILABLE, "connection reset by peer")


class Lines:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, /, **fields: object) -> None:
        self.lines.append(message)

    debug = warning = error = info


class Sink:
    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.results: dict[int, Result] = {}
        self.resets = 0

    def on_changes(self, changes: Sequence[Change], revision: int) -> None:
        self.changes += changes

    def on_reset(self) -> None:
        self.resets += 1

    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None:
        for token, result in zip(tokens, results, strict=True):
            assert token not in self.results, "answered twice"
            self.results[token] = result

    @property
    def keys(self) -> list[bytes]:
        return [change.key for change in self.changes]


@pytest.fixture
async def fake() -> AsyncIterator[FakeEtcd]:
    async with FakeEtcd() as opened:
        yield opened


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
async def kv(fake: FakeEtcd, lines: Lines) -> AsyncIterator[ExternalKv]:
    made = ExternalKv([Target(fake.address, False)], log=lines)
    made.start()
    yield made
    await made.close()


async def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


async def live(kv: ExternalKv) -> Sink:
    """A sink that hears everything from now on."""
    sink = Sink()
    kv.subscribe(sink)
    await asyncio.wait_for(kv._watch.live.wait(), 20)
    return sink


def packed(*names: bytes, main: int = 0) -> tuple[bytes, int]:
    """Counters put if the job has this revision."""
    request = b""
    for name in names:
        compare = rpc_pb2.Compare(result=rpc_pb2.Compare.EQUAL, target=rpc_pb2.Compare.MOD, key=JOBS + name, mod_revision=main)
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=COUNTERS + name, value=b"1"))
        txn = rpc_pb2.TxnRequest(compare=[compare], success=[put])
        request += field(2, rpc_pb2.RequestOp(request_txn=txn).SerializeToString())
    return request, len(names)


async def commit(kv: ExternalKv, request: bytes, count: int) -> tuple[int, int, bytes]:
    answer: asyncio.Future[tuple[int, int, bytes]] = asyncio.get_running_loop().create_future()
    kv.txn_packed(request, count, lambda *found: answer.set_result(found))
    return await asyncio.wait_for(answer, 20)


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


# -- the watch


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
async def second(fake: FakeEtcd) -> AsyncIterator[FakeEtcd]:
    """Another member of the same etcd."""
    async with FakeEtcd(fake.etcd) as opened:
        opened.history = fake.history
        yield opened


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


# -- loads


async def test_a_load_is_paged_and_records_are_at_hand(fake: FakeEtcd, kv: ExternalKv) -> None:
    for number in range(950):
        fake.etcd.put(JOBS + b"%04d" % number, b"v%d" % number)
    fake.etcd.put(COUNTERS + b"0001", b"c")
    pages: list[int] = []
    found: list[Change] = []

    def page(changes: Sequence[Change]) -> None:
        pages.append(len(changes))
        found.extend(changes)

    await kv.scan(JOBS, page)
    assert pages[0] == 100
    assert sum(pages) == 950
    assert [change.key for change in found] == [JOBS + b"%04d" % number for number in range(950)]
    for change in found:
        record = kv.read_record(change.main, change.sub)
        assert record is not None
        assert kv_pb2.KeyValue.FromString(record).key == change.key
    counters: list[Change] = []
    await kv.scan(COUNTERS, counters.extend)
    assert [change.key for change in counters] == [COUNTERS + b"0001"]
    assert kv.read_record(counters[0].main, 10**6) is None


async def test_large_jobs_make_small_pages(fake: FakeEtcd, kv: ExternalKv) -> None:
    for number in range(220):
        fake.etcd.put(JOBS + b"%04d" % number, b"x" * 200_000)
    pages: list[int] = []
    await kv.scan(JOBS, lambda changes: pages.append(len(changes)))
    assert sum(pages) == 220
    assert max(pages[1:]) <= (8 << 20) // 200_000


async def test_nothing_is_told_while_a_page_is_on_its_way(fake: FakeEtcd, kv: ExternalKv) -> None:
    """Else a page that is older than a deletion would bring the job back."""
    fake.etcd.put(JOBS + b"a", b"1")
    sink = await live(kv)
    kv._tasks[1].cancel()  # the looks at etcd's condition, which would take the fault
    fake.etcd.put(JOBS + b"b", b"1")
    await until(lambda: sink.changes)
    order: list[str] = []
    fake.faults["Range"].append(LATE)
    looks = fake.count("Range")
    running = asyncio.ensure_future(kv.scan(JOBS, lambda page: order.extend(f"page {change.key.decode()}" for change in page)))
    await until(lambda: fake.count("Range") > looks)
    fake.etcd.delete(JOBS + b"a")
    await asyncio.sleep(0.2)
    order += [f"change {change.key.decode()}" for change in sink.changes[1:]]
    fake.release.set()
    await running
    await until(lambda: len(sink.changes) == 2)
    assert order == ["page dapr/jobs/a", "page dapr/jobs/b"]
    assert [change.deleted for change in sink.changes] == [False, True]


async def test_what_goes_during_a_load_does_not_come_back_with_a_page(fake: FakeEtcd, kv: ExternalKv) -> None:
    """Changes are held while a page is on its way: none of them is newer than the page that follows it."""
    for number in range(300):
        fake.etcd.put(JOBS + b"%04d" % number, b"1")
    alive: dict[bytes, int] = {}

    class State(Sink):
        def on_changes(self, changes: Sequence[Change], revision: int) -> None:
            for change in changes:
                if change.deleted:
                    alive.pop(change.key, None)
                else:
                    alive[change.key] = change.main

    await live(kv)
    kv.subscribe(State())
    running = asyncio.ensure_future(kv.scan(JOBS, lambda page: alive.update({change.key: change.main for change in page})))
    for number in range(300):
        fake.etcd.delete(JOBS + b"%04d" % (299 - number))
        await asyncio.sleep(0.0005)
    await running
    await until(lambda: kv._watch.known == fake.etcd.revision)
    assert alive == {}
    assert len(kv._records) == 0


async def test_records_of_jobs_that_went_unseen_are_let_go(fake: FakeEtcd, kv: ExternalKv) -> None:
    for name in (b"a", b"b"):
        fake.etcd.put(JOBS + name, b"1")
    await kv.scan(JOBS, lambda _: None)
    await fake.close()
    fake.etcd.delete(JOBS + b"a")
    fake.compact(fake.etcd.revision)
    fake.etcd.put(JOBS + b"c", b"1")
    fake.compact(fake.etcd.revision)
    await fake.open()
    await until(lambda: kv._watch.resets_total == 1)
    await kv.scan(JOBS, lambda _: None)
    assert sorted(kv._records._slots) == [JOBS + b"b", JOBS + b"c"]


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


# -- the name


@pytest.fixture
async def named(fake: FakeEtcd, lines: Lines) -> AsyncIterator[ExternalKv]:
    made = ExternalKv([Target(fake.address, False)], log=lines, user="scheduler", password="secret")
    made.start()
    yield made
    await made.close()


async def test_a_token_is_taken_and_taken_anew(fake: FakeEtcd, named: ExternalKv) -> None:
    fake.password = "secret"
    await named.txn(create_request(b"a", b"1"))
    await live(named)
    count = fake.count("Authenticate")
    assert count == 1
    fake.tokens.clear()  # simple tokens run out
    results = await asyncio.gather(*(named.range(range_request(b"a")) for _ in range(10)))
    assert {revision for revision, _ in results} == {2}
    assert fake.count("Authenticate") == count + 1
    fake.tokens.clear()
    named._watch.restart()
    sink = Sink()
    named.subscribe(sink)
    fake.etcd.put(JOBS + b"a", b"1")
    await until(lambda: sink.changes)


async def test_a_write_refused_for_its_token_was_not_done_and_is_sent_again(fake: FakeEtcd, named: ExternalKv) -> None:
    fake.password = "secret"
    sink = await live(named)
    for error in (EtcdError.INVALID_AUTH_TOKEN, EtcdError.AUTH_OLD_REVISION):
        fake.faults["Put"].append(error)
        fake.tokens.add("x" * len(sink.results))
        named.write_many(PUT, [put_request(JOBS + b"a", b"1")], [int(error)], sink)
        await until(lambda error=error: int(error) in sink.results)  # type: ignore[misc]
    assert {result[0] for result in sink.results.values()} == {0}


async def test_a_user_at_an_etcd_without_authentication(fake: FakeEtcd, named: ExternalKv) -> None:
    """spec §11: MUST work; and when it is switched on later."""
    await named.txn(create_request(b"a", b"1"))
    fake.password = "secret"
    await named.txn(create_request(b"b", b"1"))
    fake.password = None
    await named.txn(create_request(b"c", b"1"))
    assert len(fake.etcd.keys) == 3


async def test_a_wrong_password_is_told_and_not_tried_all_the_time(fake: FakeEtcd, named: ExternalKv, lines: Lines) -> None:
    fake.password = "another"
    for _ in range(5):
        with pytest.raises(StatusError, match="authentication failed, invalid user ID or password"):
            await named.txn(create_request(b"a", b"1"))
    assert fake.count("Authenticate") <= 2
    assert "etcd refuses the user" in lines.lines
    fake.password = "secret"
    await until(lambda: named.reachable, 10)
    await named.txn(create_request(b"a", b"1"))


# -- leases


async def test_the_fence_is_counted_from_before_the_question(fake: FakeEtcd, kv: ExternalKv, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("EXTERNAL_RENEW_MS", 50), ("EXTERNAL_RENEW_TIMEOUT_MS", 2_000), ("EXTERNAL_RENEW_AGAIN_MS", 20)):
        monkeypatch.setattr(leases, name, value)
    assert kv.fence_ms() == 0
    before_ms = time.monotonic_ns() // 1_000_000
    lease = await kv.lease_grant(20)
    after_ms = time.monotonic_ns() // 1_000_000
    assert before_ms <= kv.fence_ms() - 16_000 <= after_ms
    first = kv.fence_ms()
    lost: list[bool] = []
    stop = kv.lease_keep_alive(lease, lambda: lost.append(True))
    await until(lambda: fake.renewals >= 3)
    assert kv.fence_ms() > first
    fake.faults["LeaseKeepAlive"].append(LATE)
    asked = fake.count("LeaseKeepAlive")
    await until(lambda: fake.count("LeaseKeepAlive") > asked)
    at_most_ms = time.monotonic_ns() // 1_000_000 + 16_000
    await asyncio.sleep(0.2)
    fake.faults["LeaseKeepAlive"].extend([HANGS] * 10)  # no other renewal
    fake.release.set()
    await until(lambda: fake.count("LeaseKeepAlive") > asked + 1)
    assert first < kv.fence_ms() <= at_most_ms
    fake.faults["LeaseKeepAlive"].clear()
    renewals = fake.renewals
    await until(lambda: fake.renewals > renewals)
    fake.faults["LeaseKeepAlive"].extend([EtcdError.NO_LEADER, UNAVAILABLE])
    renewals = fake.renewals
    await until(lambda: fake.renewals > renewals)
    assert not lost
    await kv.lease_revoke(lease)
    assert kv.fence_ms() == 0  # at once, before anybody else can be told
    await until(lambda: lost)
    stop()


async def test_a_lease_that_is_gone_ends_the_fence(fake: FakeEtcd, kv: ExternalKv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "EXTERNAL_RENEW_MS", 20)
    lease = await kv.lease_grant(20)
    lost: list[bool] = []
    kv.lease_keep_alive(lease, lambda: lost.append(True))
    await until(lambda: fake.renewals)
    fake.etcd.revoke(lease)
    await until(lambda: lost)
    assert kv.fence_ms() == 0
    assert lost == [True]


async def test_a_lost_answer_makes_no_second_lease(fake: FakeEtcd, kv: ExternalKv) -> None:
    fake.faults["LeaseGrant"].append(LOST)
    fake.faults["LeaseRevoke"].append(LOST)
    lease = await kv.lease_grant(20)
    assert list(fake.etcd.leases) == [lease]
    await kv.lease_revoke(lease)
    assert not fake.etcd.leases


async def test_a_renewal_that_hangs_is_given_up(fake: FakeEtcd, kv: ExternalKv, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("EXTERNAL_RENEW_MS", 20), ("EXTERNAL_RENEW_TIMEOUT_MS", 100), ("EXTERNAL_RENEW_AGAIN_MS", 20)):
        monkeypatch.setattr(leases, name, value)
    lease = await kv.lease_grant(20)
    fake.faults["LeaseKeepAlive"].extend([HANGS, HANGS])
    kv.lease_keep_alive(lease, lambda: None)
    await until(lambda: fake.renewals >= 2)


async def test_a_lease_that_is_not_renewed_is_said_with_what_follows(
    fake: FakeEtcd, kv: ExternalKv, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads are answered, renewals are not: the fence ends, which /healthz and the log tell, and it goes on by itself."""
    monkeypatch.setattr(condition, "EXTERNAL_LOOK_MS", 20)
    monkeypatch.setattr(condition, "EXTERNAL_UNHEALTHY_MS", 200)
    for name, value in (("EXTERNAL_RENEW_MS", 20), ("EXTERNAL_RENEW_AGAIN_MS", 20), ("EXTERNAL_FENCE_MARGIN_MS", 19_300)):
        monkeypatch.setattr(leases, name, value)
    await live(kv)
    await until(lambda: kv.reachable)
    lease = await kv.lease_grant(20)
    lost: list[bool] = []
    kv.lease_keep_alive(lease, lambda: lost.append(True))
    await until(lambda: fake.renewals >= 2)
    fake.faults["LeaseKeepAlive"].extend([EtcdError.TIMEOUT_WAIT_APPLIED] * 1000)
    await until(lambda: "leadership lease is not renewed" in kv.condition.trouble)
    assert kv.fence_ms() < time.monotonic_ns() // 1_000_000
    await until(lambda: not kv.healthy)
    told = [line for line in lines.lines if line.startswith("the leadership lease could not be renewed")]
    assert len(told) == 2  # when it begins, and when it has consequences
    assert "asked again in 20 ms, triggers pause in" in told[0]
    assert told[1].endswith("triggers pause until it is")
    assert kv.stats()["raftsched_external_lease_renewals_failed_total"] > 2
    fake.faults["LeaseKeepAlive"].clear()
    await until(lambda: kv.fence_ms() > time.monotonic_ns() // 1_000_000)
    assert "the leadership lease is answered for again" in lines.lines
    await until(lambda: kv.healthy and kv.reachable)
    assert not lost


# -- how it is


async def test_health_tells_of_trouble_after_a_while(fake: FakeEtcd, kv: ExternalKv, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condition, "EXTERNAL_LOOK_MS", 20)
    monkeypatch.setattr(condition, "EXTERNAL_UNHEALTHY_MS", 300)
    assert kv.healthy
    await until(lambda: kv.reachable)
    for begin, end in ((lambda: fake.alarms.append("memberID:1 alarm:NOSPACE"), fake.alarms.clear),):
        begin()
        await until(lambda: not kv.reachable)
        assert kv.healthy  # for a moment
        await until(lambda: not kv.healthy)
        end()
        await until(lambda: kv.healthy and kv.reachable)
    await fake.close()
    await until(lambda: not kv.healthy)
    await fake.open()
    await until(lambda: kv.healthy and kv.reachable)
    told = [line for line in lines.lines if line.startswith(("etcd", "connected"))]
    assert told[0].startswith(("etcd is in trouble", "connected to etcd"))
    assert any("NOSPACE" in line for line in told)
    assert told.count("etcd answers again") >= 2


async def test_an_etcd_that_was_never_there_is_no_illness_at_first(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condition, "EXTERNAL_LOOK_MS", 20)
    monkeypatch.setattr(condition, "EXTERNAL_UNHEALTHY_MS", 10)
    monkeypatch.setattr(condition, "EXTERNAL_START_MS", 500)
    gone = FakeEtcd()
    async with gone:
        pass
    kv = ExternalKv([Target(gone.address, False)], log=lines)
    kv.start()
    await asyncio.sleep(0.2)
    assert kv.healthy
    assert not kv.reachable
    await until(lambda: not kv.healthy)
    async with FakeEtcd() as late:
        kv._caller.endpoints._targets = [Target(late.address, False)]
        kv._caller.endpoints._channels.clear()
        await until(lambda: kv.healthy and kv.reachable)
        await kv.close()


async def test_another_member_is_asked_when_one_fails(fake: FakeEtcd, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "EXTERNAL_AVOID_MS", 60_000)
    second = FakeEtcd(fake.etcd)
    second.history = fake.history
    async with second:
        kv = ExternalKv([Target(fake.address, False), Target(second.address, False)], log=lines)
        kv.start()
        sink = await live(kv)
        asked, other = (fake, second) if fake.watches else (second, fake)
        await asked.close()
        fake.etcd.put(JOBS + b"a", b"1")
        await until(lambda: sink.changes)
        assert other.watches
        await kv.range(range_request(b"a"))
        assert kv._caller.endpoints.address == other.address
        assert sum(line.startswith("a member of etcd failed: ") for line in lines.lines) == 1
        await kv.close()
        if asked is fake:
            await fake.open()
        else:
            await second.open()
