"""Jobs that move: entries out of pages, what becomes of one that is there, batches and marks against an etcd in memory."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from raftsched.cli.moving.entries import ABSENT, Action, Entry, Known, Record, decide, entries, paged, readable
from raftsched.cli.moving.lines import as_line
from raftsched.cli.moving.target import BATCH_JOBS, MARKS, Target
from raftsched.errors import ConfigError, FatalError
from raftsched.pb.dapr import scheduler_pb2, stored_api_pb2, stored_pb2
from raftsched.pb.etcd import rpc_pb2
from raftsched.scheduler.jobs.names import COUNTERS, JOBS


def job(partition: int = 7, schedule: str = "@every 1s") -> bytes:
    found = stored_pb2.Job(partition_id=partition, job=stored_api_pb2.Job(schedule=schedule))
    target = scheduler_pb2.JobTargetMetadata(job=scheduler_pb2.TargetJob())
    found.job.metadata.Pack(scheduler_pb2.JobMetadata(app_id="app", namespace="default", target=target))
    found.start.seconds = 1_700_000_000
    return found.SerializeToString()


def counter(count: int, partition: int = 7, attempts: int = 0) -> bytes:
    return stored_pb2.Counter(job_partition_id=partition, count=count, attempts=attempts).SerializeToString()


class Some:
    """A source in memory; `revisions` by name."""

    def __init__(self, jobs: dict[bytes, bytes], counters: dict[bytes, bytes] | None = None, revision: int = 0) -> None:
        self.identity, self.revision = "some", revision
        self.pairs = {JOBS: jobs, COUNTERS: counters or {}}
        self.revisions: dict[bytes, int] = {}

    def count(self) -> int:
        return len(self.pairs[JOBS])

    def records(self, prefix: bytes) -> Iterator[Record]:
        for name, value in sorted(self.pairs[prefix].items()):
            yield Record(name, value, self.revisions.get(name, 0))


class MemoryKv:
    """As much of an etcd as an import asks for: Range of one key, Txn of flat comparisons by revision."""

    def __init__(self) -> None:
        self.pairs: dict[bytes, tuple[bytes, int]] = {}
        self.revision = 1
        self.writes = 0
        self.killed_after: int | None = None
        self.meanwhile: Any = None

    def set(self, key: bytes, value: bytes) -> None:
        self.revision += 1
        self.pairs[key] = (value, self.revision)

    def Range(self, request: Any, timeout: float) -> Any:
        answer = rpc_pb2.RangeResponse()
        answer.header.revision, answer.header.cluster_id = self.revision, 0xABC
        if request.key in self.pairs:
            value, revision = self.pairs[request.key]
            answer.kvs.add(key=request.key, value=value, mod_revision=revision)
        return answer

    def Txn(self, request: Any, timeout: float) -> Any:
        assert len(request.compare) <= 128
        assert max(len(request.success), len(request.failure)) <= 128
        if self.killed_after is not None and self.writes >= self.killed_after:
            raise KeyboardInterrupt
        if self.meanwhile is not None:
            (meanwhile, self.meanwhile) = (self.meanwhile, None)
            meanwhile()
        succeeded = all(self.pairs.get(one.key, (b"", 0))[1] == one.mod_revision for one in request.compare)
        answer = rpc_pb2.TxnResponse(succeeded=succeeded)
        operations = request.success if succeeded else request.failure
        self.revision += any(not one.HasField("request_range") for one in operations)
        for one in operations:
            found = answer.responses.add()
            if one.HasField("request_put"):
                self.pairs[one.request_put.key] = (one.request_put.value, self.revision)
                self.writes += 1
            elif one.HasField("request_delete_range"):
                self.pairs.pop(one.request_delete_range.key, None)
            else:
                found.response_range.CopyFrom(self.Range(one.request_range, timeout))
        answer.header.revision = self.revision
        return answer

    def live(self) -> dict[bytes, bytes]:
        return {key: value for key, (value, _) in self.pairs.items() if not key.startswith(MARKS)}


def take(kv: MemoryKv, source: Some, *, overwrite: bool = False, dry_run: bool = False, again: bool = False) -> dict[str, int]:
    """The counts that are not 0."""
    report = Target(kv, "here", overwrite=overwrite, dry_run=dry_run).take(source, "there", again=again, on_progress=lambda *_: None)
    return {name: count for name, count in report.counts.items() if count}


def many(count: int) -> Some:
    names = [b"app||default||app||%06d" % number for number in range(count)]
    return Some({name: job(number) for number, name in enumerate(names)}, {name: counter(3, number) for number, name in enumerate(names)})


# --------------------------------------------------------------------------------------------------------------------
# Entries
# --------------------------------------------------------------------------------------------------------------------


def test_jobs_and_counters_meet_by_name() -> None:
    found = list(entries(Some({b"a": b"1", b"c": b"3", b"d": b"4"}, {b"b": b"x", b"c": b"y", b"e": b"z"})))
    assert [(one.name, one.job, one.counter) for one in found] == [
        (b"a", b"1", None),
        (b"b", None, b"x"),
        (b"c", b"3", b"y"),
        (b"d", b"4", None),
        (b"e", None, b"z"),
    ]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 48, 500])
def test_pages_join_and_shrink_where_values_are_large(count: int) -> None:
    stored = [(b"p/%04d" % number, bytes(1_000_000 if number % 100 > 50 else 10), number) for number in range(count)]
    asked: list[tuple[int, int]] = []

    def fetch(start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes, int]]:
        page = [one for one in stored if start <= one[0] < end][:limit]
        asked.append((limit, sum(len(value) for _, value, _ in page)))
        return page

    found = list(paged(b"p/", fetch))
    assert [(one.name, one.revision) for one in found] == [(b"%04d" % number, number) for number in range(count)]
    assert all(size < 256 * 1_000_000 for _, size in asked)
    if count == 500:
        assert min(limit for limit, _ in asked) < 16


def test_what_becomes_of_a_job_that_is_there() -> None:
    entry = Entry(b"a", job(7), counter(5), 0)
    assert decide(entry, ABSENT, overwrite=False) is Action.CREATED
    assert decide(entry, Known(job(7), 3, counter(5), 4), overwrite=True) is Action.SAME
    assert decide(entry, Known(job(7), 3, counter(6), 4), overwrite=True) is Action.SAME, "the target is further on"
    assert decide(entry, Known(job(7), 3, counter(4), 4), overwrite=False) is Action.ADVANCED
    assert decide(entry, Known(job(7), 3), overwrite=False) is Action.ADVANCED
    assert decide(entry, Known(job(7), 3, counter(9, partition=1), 4), overwrite=False) is Action.ADVANCED, "a counter of another job's"
    assert decide(Entry(b"a", job(7), counter(9, partition=1), 0), Known(job(7), 3), overwrite=False) is Action.SAME
    assert decide(Entry(b"a", job(7), counter(5, attempts=2), 0), Known(job(7), 3, counter(5), 4), overwrite=False) is Action.ADVANCED
    assert decide(Entry(b"a", job(7), b"\xff", 0), Known(job(7), 3, counter(5), 4), overwrite=False) is Action.SAME
    assert decide(entry, Known(job(8), 3), overwrite=False) is Action.KEPT
    assert decide(entry, Known(job(8), 3), overwrite=True) is Action.REPLACED


def test_what_can_be_read() -> None:
    assert readable(job())
    assert not readable(b"\xff\xff")
    assert not readable(b"")


# --------------------------------------------------------------------------------------------------------------------
# Into a running store
# --------------------------------------------------------------------------------------------------------------------


def test_all_of_a_source_once() -> None:
    kv, source = MemoryKv(), many(3 * BATCH_JOBS + 1)
    assert take(kv, source) == {"created": source.count()}
    assert kv.live() == {prefix + name: value for prefix, pairs in source.pairs.items() for name, value in pairs.items()}
    before = dict(kv.pairs)
    assert take(kv, source) == {"earlier": source.count()}
    assert kv.pairs == before, "a repetition writes nothing"


def test_what_has_fired_and_ended_does_not_come_back() -> None:
    kv, source = MemoryKv(), many(10)
    take(kv, source)
    kv.pairs.pop(JOBS + b"app||default||app||000003")
    assert take(kv, source) == {"earlier": 10}
    assert JOBS + b"app||default||app||000003" not in kv.pairs
    assert take(kv, source, again=True) == {"created": 1, "same": 9}


@pytest.mark.parametrize("writes", [0, 1, 121, 122, 240, 300])
def test_killed_anywhere_the_next_run_goes_on(writes: int) -> None:
    kv, source = MemoryKv(), many(200)
    kv.killed_after = writes
    with pytest.raises(KeyboardInterrupt):
        take(kv, source)
    done = sum(key.startswith(JOBS) for key in kv.pairs)
    kv.killed_after = None
    for name in list(kv.pairs)[:5]:  # some have fired and ended since
        if not name.startswith(MARKS):
            kv.pairs.pop(name)
    told = take(kv, source)
    assert told.get("earlier", 0) == done
    assert told["created"] == 200 - done


def test_a_dry_run_tells_and_writes_nothing() -> None:
    kv, source = MemoryKv(), many(70)
    kv.set(JOBS + b"app||default||app||000001", job(99))
    kv.set(JOBS + b"app||default||app||000002", job(2))
    before = dict(kv.pairs)
    assert take(kv, source, dry_run=True) == {"created": 68, "kept": 1, "advanced": 1}
    assert kv.pairs == before
    assert take(kv, source) == {"created": 68, "kept": 1, "advanced": 1}


def test_another_job_of_the_name_stays_until_it_is_said() -> None:
    kv, source = MemoryKv(), Some({b"a": job(1), b"b": job(2)}, {b"a": counter(4, 1)})
    kv.set(JOBS + b"a", job(50, "@every 9s"))
    kv.set(COUNTERS + b"a", counter(1, 50))
    assert take(kv, source) == {"created": 1, "kept": 1}
    assert kv.live()[JOBS + b"a"] == job(50, "@every 9s")
    assert kv.live()[COUNTERS + b"a"] == counter(1, 50)
    assert take(kv, source, overwrite=True, again=True) == {"replaced": 1, "same": 1}
    assert kv.live() == {JOBS + b"a": job(1), COUNTERS + b"a": counter(4, 1), JOBS + b"b": job(2)}


def test_a_counter_that_nobody_asked_for_goes_with_the_job_that_is_replaced() -> None:
    kv = MemoryKv()
    kv.set(JOBS + b"a", job(50))
    kv.set(COUNTERS + b"a", counter(1, 50))
    assert take(kv, Some({b"a": job(1)}), overwrite=True) == {"replaced": 1}
    assert kv.live() == {JOBS + b"a": job(1)}


def test_who_changes_a_job_meanwhile_is_seen() -> None:
    kv, source = MemoryKv(), many(5)
    kv.meanwhile = lambda: kv.set(JOBS + b"app||default||app||000002", job(77))
    assert take(kv, source) == {"created": 4, "kept": 1}


def test_two_imports_of_one_source_at_a_time() -> None:
    kv, source = MemoryKv(), many(5)
    kv.meanwhile = lambda: kv.set(MARKS + b"some", b"{}")
    with pytest.raises(FatalError, match="another import of the same source is under way"):
        take(kv, source)


def test_a_live_source_that_went_on_is_taken_on() -> None:
    kv, source = MemoryKv(), Some({b"a": job(1), b"b": job(2)}, revision=10)
    source.revisions = {b"a": 4, b"b": 5}
    assert take(kv, source) == {"created": 2}
    source.pairs[COUNTERS][b"b"], source.revisions[b"b"], source.revision = counter(3, 2), 12, 15
    source.pairs[JOBS][b"c"], source.revisions[b"c"] = job(3), 13
    kv.pairs.pop(JOBS + b"a")  # fired and ended here; there it is as it was
    assert take(kv, source) == {"earlier": 1, "advanced": 1, "created": 1}
    assert JOBS + b"a" not in kv.pairs


def test_counters_without_jobs_stay_and_what_cannot_be_read_goes_along() -> None:
    kv, source = MemoryKv(), Some({b"a": b"\xff\xff"}, {b"b": counter(1)})
    assert take(kv, source) == {"created": 1, "orphans": 1, "unreadable": 1}
    assert kv.live() == {JOBS + b"a": b"\xff\xff"}


def test_a_source_that_is_the_target() -> None:
    source = many(1)
    source.identity = "etcd-abc"
    with pytest.raises(ConfigError, match="are the same cluster"):
        take(MemoryKv(), source)


def test_a_mark_of_somebody_elses() -> None:
    kv = MemoryKv()
    kv.set(MARKS + b"some", b"not JSON")
    with pytest.raises(FatalError, match="delete it to begin anew"):
        take(kv, many(1))


def test_large_jobs_go_alone() -> None:
    kv = MemoryKv()
    source = Some({b"%d" % number: job(number) + b"\x72" + b"\xff\xff\x3f" + bytes((1 << 20) - 1) for number in range(3)})
    sizes = []
    kv.Txn = lambda request, timeout, inner=kv.Txn: (sizes.append(request.ByteSize()), inner(request, timeout))[1]  # type: ignore[method-assign]
    assert take(kv, source)["created"] == 3
    assert max(sizes) < 1.5 * (1 << 20)


def test_who_went_away_is_named() -> None:
    """A source that ends in the midst is no fault of the target's, and the other way round."""
    source = many(200)
    whole = source.records

    def records(prefix: bytes) -> Iterator[Record]:
        for number, record in enumerate(whole(prefix)):
            if number == 150:
                raise FatalError("cannot read there: it went away")
            yield record

    source.records = records  # type: ignore[method-assign]
    kv = MemoryKv()
    with pytest.raises(FatalError, match="cannot read there"):
        take(kv, source)
    source.records = whole  # type: ignore[method-assign]
    assert take(kv, source) == {"earlier": 2 * BATCH_JOBS, "created": 200 - 2 * BATCH_JOBS}

    class LostError(grpc.RpcError):
        pass

    def lost(*_: Any, **__: Any) -> Any:
        raise LostError("gone")

    kv.Txn = lost  # type: ignore[method-assign]
    with pytest.raises(FatalError, match=r"cannot write to here: gone; 0 jobs were seen to: run the same command again to go on"):
        take(kv, many(5), again=True)


# --------------------------------------------------------------------------------------------------------------------
# Lines
# --------------------------------------------------------------------------------------------------------------------


def test_a_line_tells_what_is_said_and_what_is_stored() -> None:
    line = as_line(Entry(b"app||default||app||a||b", job(7), counter(5, attempts=2), 0))
    assert json.loads(json.dumps(line)) == line
    assert {name: line[name] for name in ("name", "namespace", "app_id", "schedule", "start", "count", "attempts", "key")} == {
        "name": "a||b",
        "namespace": "default",
        "app_id": "app",
        "schedule": "@every 1s",
        "start": "2023-11-14T22:13:20Z",
        "count": 5,
        "attempts": 2,
        "key": "dapr/jobs/app||default||app||a||b",
    }
    assert sorted(as_line(Entry(b"a", b"\xff", None, 0))) == ["key", "stored"]
