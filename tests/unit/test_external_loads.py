"""`ExternalKv` loads pages from a scripted etcd while things change."""

import asyncio
from collections.abc import Sequence

from external_side import Sink, fake, kv, lines, live, until

from raftsched.pb.etcd import kv_pb2
from raftsched.scheduler.bridge.external.kv import ExternalKv
from raftsched.scheduler.jobs.names import COUNTERS, JOBS
from raftsched.testing.fake_etcd import LATE, FakeEtcd
from raftsched.types import Change

__all__ = ["fake", "kv", "lines"]  # fixtures


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
