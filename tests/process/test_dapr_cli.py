"""What `dapr scheduler list|get|delete|delete-all|export|import` sends (spec §9), byte for byte, to a running server's client port.

That tool is published as no module, so its calls are written down here: requests are put together from bytes, without our messages, and
carry the metadata that etcd's Go client sends. Answers are looked at as that tool does.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from serving import COUNTERS, JOBS, Clients, Worker, composed, wait_for

from raftsched.cli.moving import gob
from raftsched.pb.dapr import scheduler_pb2
from raftsched.pb.etcd import rpc_pb2
from raftsched.testing.process import ServerProcess

pytestmark = pytest.mark.process
METADATA = (("client-api-version", "3.6.5"),)
JOBS_END, COUNTERS_END = b"dapr/jobs0", b"dapr/counters0"
TXN_PUTS_MAX = 128
REPEATS = 6


def field(number: int, value: bytes) -> bytes:
    """A length-delimited one."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def flag(number: int) -> bytes:
    return _varint(number << 3) + b"\1"


def _varint(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found, value = found + bytes([value & 0x7F | 0x80]), value >> 7
    return found + bytes([value])


def get_request(key: bytes, end: bytes = b"") -> bytes:
    return field(1, key) + (field(2, end) if end else b"")


def delete_request(key: bytes, end: bytes = b"", *, previous: bool = False) -> bytes:
    return get_request(key, end) + (flag(3) if previous else b"")


def txn(*operations: tuple[int, bytes]) -> bytes:
    """`(1 = range, 2 = put, 3 = delete, request)` each, without a condition."""
    return b"".join(field(2, field(kind, request)) for kind, request in operations)


class DaprCli:
    """The tool's calls, on a connection of its own."""

    def __init__(self, server: ServerProcess) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(server.client_address, options=options)

    def call(self, method: str, request: bytes) -> bytes:
        return bytes(self._channel.unary_unary(f"/etcdserverpb.KV/{method}")(request, timeout=30, metadata=METADATA))

    def range(self, prefix: bytes, end: bytes) -> dict[bytes, bytes]:
        answer = rpc_pb2.RangeResponse.FromString(self.call("Range", get_request(prefix, end)))
        assert not answer.more
        assert answer.count == len(answer.kvs)
        assert [one.key for one in answer.kvs] == sorted(one.key for one in answer.kvs)
        return {one.key: one.value for one in answer.kvs}

    def everything(self) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
        """Also what `export` reads."""
        return self.range(JOBS, JOBS_END), self.range(COUNTERS, COUNTERS_END)

    def txn(self, *operations: tuple[int, bytes]) -> list[rpc_pb2.ResponseOp]:
        answer = rpc_pb2.TxnResponse.FromString(self.call("Txn", txn(*operations)))
        assert answer.succeeded
        return list(answer.responses)

    def get(self, name: bytes) -> tuple[bytes | None, bytes | None]:
        job, counter = self.txn((1, get_request(JOBS + name)), (1, get_request(COUNTERS + name)))
        first, second = job.response_range.kvs, counter.response_range.kvs
        return (first[0].value if first else None), (second[0].value if second else None)

    def delete(self, name: bytes) -> bool:
        """Whether there was such a job."""
        job, _ = self.txn((3, delete_request(JOBS + name)), (3, delete_request(COUNTERS + name)))
        return bool(job.response_delete_range.deleted == 1)

    def delete_all(self) -> list[bytes]:
        """The keys of the jobs that were there."""
        jobs, _ = self.txn((3, delete_request(JOBS, JOBS_END, previous=True)), (3, delete_request(COUNTERS, COUNTERS_END, previous=True)))
        return [one.key for one in jobs.response_delete_range.prev_kvs]

    def import_(self, pairs: dict[bytes, bytes]) -> None:
        waiting = list(pairs.items())
        while waiting:
            self.txn(*((2, field(1, key) + field(2, value)) for key, value in waiting[:TXN_PUTS_MAX]))
            del waiting[:TXN_PUTS_MAX]

    def close(self) -> None:
        self._channel.close()


@pytest.fixture
def cli(server: ServerProcess) -> Iterator[DaprCli]:
    opened = DaprCli(server)
    yield opened
    opened.close()


def fill(server: ServerProcess, clients: Clients) -> None:
    """A job, reminders of an actor, of a workflow and of an activity; of one job, three ticks are over."""
    clients.schedule("tick", schedule="@every 1s", repeats=REPEATS)
    clients.schedule("far", due_time="10h")
    internal = "dapr.internal.default.app"
    for kind, owner, name in (
        ("Cart", "7", "remind"),
        (f"{internal}.workflow", "wf-1", "timer-0"),
        (f"{internal}.activity", "wf-1::0", "run-activity"),
    ):
        target = scheduler_pb2.JobTargetMetadata(actor=scheduler_pb2.TargetActorReminder(type=kind, id=owner))
        metadata = scheduler_pb2.JobMetadata(app_id="app", namespace="default", target=target)
        request = scheduler_pb2.ScheduleJobRequest(name=name, job=scheduler_pb2.Job(due_time="10h"), metadata=metadata)
        clients.scheduler.ScheduleJob(request, timeout=10)
    with Worker(server) as worker:
        wait_for(lambda: len(worker.acknowledged) >= 3, 20, "no ticks")
    time.sleep(0.3)  # the last result is committed


def test_requests_are_those_of_the_tool() -> None:
    """Our own messages say the same bytes, so nothing of it is an accident of this file."""
    assert get_request(JOBS, JOBS_END) == rpc_pb2.RangeRequest(key=JOBS, range_end=JOBS_END).SerializeToString()
    deleted = rpc_pb2.DeleteRangeRequest(key=JOBS, range_end=JOBS_END, prev_kv=True)
    put = rpc_pb2.PutRequest(key=b"k" * 200, value=b"v" * 300)
    made = rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_delete_range=deleted), rpc_pb2.RequestOp(request_put=put)])
    assert (
        txn((3, delete_request(JOBS, JOBS_END, previous=True)), (2, field(1, b"k" * 200) + field(2, b"v" * 300)))
        == made.SerializeToString()
    )


def test_list_and_get(server: ServerProcess, clients: Clients, cli: DaprCli) -> None:
    fill(server, clients)
    jobs, counters = cli.everything()
    assert set(jobs) == {
        JOBS + composed("tick"),
        JOBS + composed("far"),
        JOBS + b"actorreminder||default||Cart||7||remind",
        JOBS + b"actorreminder||default||dapr.internal.default.app.workflow||wf-1||timer-0",
        JOBS + b"actorreminder||default||dapr.internal.default.app.activity||wf-1::0||run-activity",
    }
    assert set(counters) == {COUNTERS + composed("tick")}
    assert cli.get(composed("tick")) == (jobs[JOBS + composed("tick")], counters[COUNTERS + composed("tick")])
    assert cli.get(composed("far")) == (jobs[JOBS + composed("far")], None)
    assert cli.get(composed("nothing")) == (None, None)


def test_delete_ends_what_fires(server: ServerProcess, clients: Clients, cli: DaprCli) -> None:
    fill(server, clients)
    assert cli.delete(composed("tick"))
    assert not cli.delete(composed("tick"))
    with Worker(server) as worker:
        time.sleep(2.5)
        assert worker.deliveries == []
    assert "tick" not in clients.listed()
    assert cli.get(composed("tick")) == (None, None)


def test_delete_all_export_import(server: ServerProcess, clients: Clients, cli: DaprCli, tmp_path: Path) -> None:
    """The file goes over Go's form; what comes back is what there was, and the count goes on."""
    fill(server, clients)
    jobs, counters = cli.everything()
    counter = clients.counter("tick")
    assert counter is not None
    assert cli.delete_all() == sorted(jobs)
    assert cli.everything() == ({}, {})
    with (tmp_path / "file").open("w+b") as file:
        writer = gob.Writer(file)
        for number, pairs in ((1, jobs), (2, counters)):
            writer.begin(number, len(pairs))
            for key, value in pairs.items():
                writer.add(key, value)
        writer.end()
    read = {key: value for key, value, _ in gob.read(str(tmp_path / "file"))}
    cli.import_({key: read[key] for key in sorted(read, reverse=True)})
    assert cli.everything() == (jobs, counters)
    with Worker(server) as worker:
        wait_for(lambda: clients.stored_job("tick") is None, 30, "it does not end")
        assert worker.deliveries == ["tick"] * (REPEATS - counter.count)
    assert clients.listed() == {"far"}


@pytest.mark.parametrize("first", ["counters", "jobs"])
def test_import_in_any_order(first: str, server: ServerProcess, clients: Clients, cli: DaprCli) -> None:
    """300 jobs in transactions of 128, their counters before or behind all jobs: no tick that was counted is given again."""
    clients.schedule("model", schedule="@every 1s", repeats=REPEATS)
    with Worker(server) as worker:
        wait_for(lambda: len(worker.acknowledged) >= 3, 20, "no ticks")
    time.sleep(0.3)
    (job,), (counted,) = [list(pairs.values()) for pairs in cli.everything()]
    counter = clients.counter("model")
    assert counter is not None
    cli.delete_all()
    names = [composed(f"job-{number}") for number in range(300)]
    pairs: dict[str, Callable[[], dict[bytes, bytes]]] = {
        "jobs": lambda: {JOBS + name: job for name in names},
        "counters": lambda: {COUNTERS + name: counted for name in names},
    }
    cli.import_(pairs[first]())
    cli.import_(pairs["jobs" if first == "counters" else "counters"]())
    with Worker(server) as worker:
        wait_for(lambda: not cli.everything()[0], 60, "they do not end")
        found = {name: worker.deliveries.count(name) for name in set(worker.deliveries)}
    print(f"{first} first: deliveries of a job {sorted(set(found.values()))}")
    assert len(found) == 300
    assert set(found.values()) == {REPEATS - counter.count}
