"""Into a running store: one transaction per batch, which also moves the mark that says how far the import has come.

    raftsched/imports/<identity of the source>    JSON: {"source", "revision", "after": last name done, "done"}

A transaction takes place only if everything in it is as it was looked at, the mark too; so a batch is taken whole and once, whoever is
killed, and a job that was imported, fired and ended does not come back when the same source is imported again.

Invariant: what the target has is changed in no way that `decide` did not say; nothing is written in a dry run.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from raftsched.cli.moving.entries import ABSENT, Action, Entry, Known, Source, decide, entries, readable
from raftsched.cli.progress import OnProgress
from raftsched.errors import ConfigError, FatalError
from raftsched.pb.etcd import rpc_pb2
from raftsched.scheduler.jobs.names import COUNTERS, JOBS

MARKS: Final = b"raftsched/imports/"
BATCH_JOBS: Final = 60  # two comparisons each and one for the mark: within the 128 that an etcd takes
BATCH_BYTES: Final = 1 << 20  # an etcd takes 1.5 MiB
TRIES_MAX: Final = 20
TIMEOUT_S: Final = 60.0
NAMES_TOLD_MAX: Final = 100

Compare = rpc_pb2.Compare
Op = rpc_pb2.RequestOp


@dataclass(slots=True)
class Mark:
    """How far this source has come in this target."""

    key: bytes
    source: str
    at: int  # mod revision; 0 = there is none
    revision: int = 0  # of the source, when it was read
    after: bytes = b""
    done: bool = False

    def covers(self, entry: Entry) -> bool:
        """Whether an earlier run has seen to it."""
        return self.at > 0 and (self.done or entry.name <= self.after) and entry.revision <= self.revision

    def value(self, revision: int, after: bytes, *, done: bool) -> bytes:
        told = {"source": self.source, "revision": revision, "after": base64.b64encode(after).decode(), "done": done}
        return json.dumps(told).encode()


@dataclass(slots=True)
class Report:
    """What was done; names are told up to a bound."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*map(str, Action), "earlier", "orphans", "unreadable"), 0))
    jobs: int = 0
    names: dict[str, list[str]] = field(default_factory=lambda: {"kept": [], "unreadable": []})

    def add(self, what: str, name: bytes) -> None:
        self.counts[what] += 1
        if what in self.names and len(self.names[what]) < NAMES_TOLD_MAX:
            self.names[what].append(name.decode(errors="backslashreplace"))


class Target:
    """A running etcd API that takes jobs."""

    def __init__(self, kv: Any, address: str, *, overwrite: bool, dry_run: bool) -> None:
        """`kv`: a stub of KV."""
        self._kv = kv
        self._address = address
        self._overwrite = overwrite
        self._dry_run = dry_run

    def take(self, source: Source, name: str, *, again: bool, on_progress: OnProgress) -> Report:
        """Everything of the source. Raises ConfigError (it is the target), FatalError."""
        report = Report()
        try:
            mark = self._mark(source.identity, name)
            if again and mark.at:
                mark.done, mark.after = False, b""
            total = source.count()
            for batch in _batches(_wanted(entries(source), mark, report)):
                self._write(source.revision, mark, batch, report)
                on_progress("importing", report.jobs, total)
            self._finish(source.revision, mark)
        except grpc.RpcError as error:
            details = (error.details() if isinstance(error, grpc.Call) else str(error)) or "no answer"
            raise FatalError(
                f"cannot write to {self._address}: {details}; {report.jobs} jobs were seen to: run the same command again to go on"
            ) from error
        return report

    def _mark(self, identity: str, name: str) -> Mark:
        key = MARKS + identity.encode()
        answer = self._kv.Range(rpc_pb2.RangeRequest(key=key), timeout=TIMEOUT_S)
        if identity == f"etcd-{answer.header.cluster_id:x}":
            raise ConfigError(f"{name} and {self._address} are the same cluster: there is nothing to import")
        found = answer.kvs
        if not found:
            return Mark(key, name, 0)
        try:
            told = json.loads(found[0].value)
            after = base64.b64decode(told["after"], validate=True)
            return Mark(key, name, found[0].mod_revision, int(told["revision"]), after, bool(told["done"]))
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise FatalError(f"{key.decode()} in {self._address} is not what an import wrote: delete it to begin anew") from error

    def _write(self, revision: int, mark: Mark, batch: Sequence[Entry], report: Report) -> None:
        """Tries with what is known of the target, at first nothing, until nobody was in between."""
        known: dict[bytes, Known] = {}
        for _ in range(TRIES_MAX):
            actions = [decide(entry, known.get(entry.name, ABSENT), overwrite=self._overwrite) for entry in batch]
            request = rpc_pb2.TxnRequest(failure=_gets(mark.key, batch))
            request.compare.append(_unchanged(mark.key, mark.at))
            for entry, action in zip(batch, actions, strict=True):
                request.compare.extend(_expected(entry, known.get(entry.name, ABSENT)))
                request.success.extend(_changes(entry, action))
            if self._dry_run:
                del request.success[:]
            else:
                request.success.append(_put(mark.key, _moved(mark, revision, batch[-1].name)))
            answer = self._kv.Txn(request, timeout=TIMEOUT_S)
            if answer.succeeded:
                if not self._dry_run:
                    _move(mark, revision, batch[-1].name, answer.header.revision)
                return _count(report, batch, actions)
            known = self._known(mark, batch, answer.responses)
        raise FatalError(f"{self._address}: {batch[0].name!r} and what follows are changed all the time by somebody else: try again later")

    def _known(self, mark: Mark, batch: Sequence[Entry], responses: Sequence[Any]) -> dict[bytes, Known]:
        marks, *found = [answer.response_range.kvs for answer in responses]
        if (marks[0].mod_revision if marks else 0) != mark.at:
            raise FatalError(f"{self._address}: another import of the same source is under way, or was: run it again to go on behind it")
        known = {}
        for at, entry in enumerate(batch):
            job, counter = found[2 * at], found[2 * at + 1]
            known[entry.name] = Known(
                job[0].value if job else b"",
                job[0].mod_revision if job else 0,
                counter[0].value if counter else b"",
                counter[0].mod_revision if counter else 0,
            )
        return known

    def _finish(self, revision: int, mark: Mark) -> None:
        if self._dry_run or (mark.done and mark.revision >= revision):
            return
        request = rpc_pb2.TxnRequest(compare=[_unchanged(mark.key, mark.at)])
        request.success.append(_put(mark.key, mark.value(revision, b"", done=True)))
        if not self._kv.Txn(request, timeout=TIMEOUT_S).succeeded:
            raise FatalError(f"{self._address}: another import of the same source is under way: nothing is lost")


def _wanted(found: Iterable[Entry], mark: Mark, report: Report) -> Iterator[Entry]:
    """What no earlier run has seen to, and what is a job."""
    for entry in found:
        if entry.job is None:
            report.add("orphans", entry.name)
            continue
        if mark.covers(entry):
            report.jobs += 1
            report.add("earlier", entry.name)
            continue
        if not readable(entry.job):
            report.add("unreadable", entry.name)
        yield entry


def _batches(found: Iterable[Entry]) -> Iterator[list[Entry]]:
    batch: list[Entry] = []
    size = 0
    for entry in found:
        more = len(entry.name) * 2 + len(entry.job or b"") + len(entry.counter or b"")
        if batch and (len(batch) == BATCH_JOBS or size + more > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += more
    if batch:
        yield batch


def _moved(mark: Mark, revision: int, name: bytes) -> bytes:
    """The mark behind a batch. What an earlier run did beyond it, of an older revision, stays said until this run has passed it."""
    if mark.done or name <= mark.after:
        return mark.value(mark.revision, mark.after, done=mark.done)
    return mark.value(revision, name, done=False)


def _move(mark: Mark, revision: int, name: bytes, at: int) -> None:
    if not mark.done and name > mark.after:
        mark.revision, mark.after = revision, name
    mark.at = at


def _count(report: Report, batch: Sequence[Entry], actions: Sequence[Action]) -> None:
    for entry, action in zip(batch, actions, strict=True):
        report.jobs += 1
        report.add(action, entry.name)


# -- requests


def _unchanged(key: bytes, revision: int) -> Any:
    return Compare(key=key, target=Compare.MOD, result=Compare.EQUAL, mod_revision=revision)


def _expected(entry: Entry, known: Known) -> Iterator[Any]:
    yield _unchanged(JOBS + entry.name, known.job_revision)
    if known.job_revision:
        yield _unchanged(COUNTERS + entry.name, known.counter_revision)


def _changes(entry: Entry, action: Action) -> Iterator[Any]:
    """The job is written even if only its counter is: that is what makes a scheduler look at both again."""
    if action in (Action.SAME, Action.KEPT):
        return
    assert entry.job is not None
    if entry.counter is not None:
        yield _put(COUNTERS + entry.name, entry.counter)
    else:
        yield Op(request_delete_range=rpc_pb2.DeleteRangeRequest(key=COUNTERS + entry.name))
    yield _put(JOBS + entry.name, entry.job)


def _gets(mark: bytes, batch: Sequence[Entry]) -> list[Any]:
    keys = [mark, *(prefix + entry.name for entry in batch for prefix in (JOBS, COUNTERS))]
    return [Op(request_range=rpc_pb2.RangeRequest(key=key)) for key in keys]


def _put(key: bytes, value: bytes) -> Any:
    return Op(request_put=rpc_pb2.PutRequest(key=key, value=value))
