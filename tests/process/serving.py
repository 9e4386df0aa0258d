"""What process tests do with a running server, in few words: clients of both APIs, jobs, a worker, metrics, broken starts."""

import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable

import grpc
import pytest

from raftsched.pb.dapr import common_pb2, scheduler_pb2, scheduler_pb2_grpc, stored_pb2
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.process import ServerProcess

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
SUCCESS = scheduler_pb2.WatchJobsRequestResultStatus.SUCCESS
FAILED = scheduler_pb2.WatchJobsRequestResultStatus.FAILED
JOBS = b"dapr/jobs/"
COUNTERS = b"dapr/counters/"


class Clients:
    """Stubs of both APIs over one channel each."""

    def __init__(self, server: ServerProcess) -> None:
        self._etcd = grpc.insecure_channel(server.client_address, options=UNLIMITED)
        self._scheduler = grpc.insecure_channel(server.scheduler_address, options=UNLIMITED)
        self.kv = rpc_pb2_grpc.KVStub(self._etcd)
        self.watch = rpc_pb2_grpc.WatchStub(self._etcd)
        self.lease = rpc_pb2_grpc.LeaseStub(self._etcd)
        self.maintenance = rpc_pb2_grpc.MaintenanceStub(self._etcd)
        self.cluster = rpc_pb2_grpc.ClusterStub(self._etcd)
        self.scheduler = scheduler_pb2_grpc.SchedulerStub(self._scheduler)

    def close(self) -> None:
        self._etcd.close()
        self._scheduler.close()

    def put(self, key: bytes, value: bytes, timeout_s: float = 10) -> int:
        """The revision."""
        return int(self.kv.Put(rpc_pb2.PutRequest(key=key, value=value), timeout=timeout_s).header.revision)

    def get(self, key: bytes) -> bytes | None:
        pairs = self.kv.Range(rpc_pb2.RangeRequest(key=key), timeout=10).kvs
        return pairs[0].value if pairs else None

    def under(self, prefix: bytes) -> dict[bytes, bytes]:
        end = prefix[:-1] + bytes([prefix[-1] + 1])
        return {pair.key: pair.value for pair in self.kv.Range(rpc_pb2.RangeRequest(key=prefix, range_end=end), timeout=30).kvs}

    def delete_under(self, prefix: bytes) -> int:
        end = prefix[:-1] + bytes([prefix[-1] + 1])
        return int(self.kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=prefix, range_end=end), timeout=30).deleted)

    def schedule(self, name: str, *, app: str = "app", overwrite: bool = False, policy: object = None, **fields: object) -> None:
        """ScheduleJob; `fields` are those of Job."""
        job = scheduler_pb2.Job(failure_policy=policy, **fields)
        request = scheduler_pb2.ScheduleJobRequest(name=name, job=job, metadata=job_metadata(app), overwrite=overwrite)
        self.scheduler.ScheduleJob(request, timeout=10)

    def listed(self, app: str = "app") -> set[str]:
        request = scheduler_pb2.ListJobsRequest(metadata=job_metadata(app))
        return {job.name for job in self.scheduler.ListJobs(request, timeout=10).jobs}

    def stored_job(self, name: str, *, app: str = "app") -> stored_pb2.Job | None:
        value = self.get(JOBS + composed(name, app))
        return None if value is None else stored_pb2.Job.FromString(value)

    def counter(self, name: str, *, app: str = "app") -> stored_pb2.Counter | None:
        value = self.get(COUNTERS + composed(name, app))
        return None if value is None else stored_pb2.Counter.FromString(value)


def job_metadata(app: str) -> scheduler_pb2.JobMetadata:
    target = scheduler_pb2.JobTargetMetadata(job=scheduler_pb2.TargetJob())
    return scheduler_pb2.JobMetadata(app_id=app, namespace="default", target=target)


def composed(name: str, app: str = "app") -> bytes:
    return f"app||default||{app}||{name}".encode()


def constant(interval_ms: int, max_retries: int | None) -> common_pb2.JobFailurePolicy:
    policy = common_pb2.JobFailurePolicyConstant(max_retries=max_retries)
    policy.interval.FromMilliseconds(interval_ms)
    return common_pb2.JobFailurePolicy(constant=policy)


def instant_ns(stamp: object) -> int:
    """A Timestamp as nanoseconds since the epoch."""
    return stamp.seconds * 10**9 + stamp.nanos  # type: ignore[attr-defined,no-any-return]


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """Code and text of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = caught.value
    assert isinstance(error, grpc.Call)
    return error.code(), error.details() or ""


def wait_for(condition: Callable[[], object], timeout_s: float, what: str | Callable[[], str]) -> None:
    """Until `condition` holds: the server is another process, so there is no clock to move."""
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin > timeout_s:
            raise AssertionError(what if isinstance(what, str) else what())
        time.sleep(0.01)


def fetch(port: int, path: str) -> tuple[int, str]:
    """Status and body of a GET."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metrics(port: int) -> dict[str, float]:
    """The samples of /metrics by name with labels, as they stand in the text."""
    lines = fetch(port, "/metrics")[1].splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def ends(server: ServerProcess, timeout_s: float = 20) -> int:
    """The exit code of a server that must end by itself."""
    assert server.process is not None
    code = server.process.wait(timeout_s)
    server.process = None
    return code


class Worker:
    """A sidecar that comes back: one WatchJobs stream at a time, answers by `answer`, notes every delivery.

    `answer(name)` is SUCCESS, FAILED, or None to stay silent.
    """

    def __init__(self, server: ServerProcess, *, app: str = "app", answer: Callable[[str], int | None] = lambda _: SUCCESS) -> None:
        self._address = server.scheduler_address
        self._app = app
        self.answer = answer
        self.deliveries: list[str] = []
        self.acknowledged: list[str] = []
        self.payloads: list[bytes] = []
        self._stopping = False
        self._requests: queue.Queue[scheduler_pb2.WatchJobsRequest | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping:
            with grpc.insecure_channel(self._address, options=[*UNLIMITED, ("grpc.max_reconnect_backoff_ms", 100)]) as channel:
                self._requests = queue.Queue()
                self._requests.put(self._initial())
                stream = scheduler_pb2_grpc.SchedulerStub(channel).WatchJobs(iter(self._requests.get, None))
                try:
                    for trigger in stream:
                        self._on_trigger(trigger)
                except grpc.RpcError:
                    pass  # the server went away: the next stream
                finally:
                    self._requests.put(None)
            if not self._stopping:
                time.sleep(0.02)  # between two attempts to connect

    def _initial(self) -> scheduler_pb2.WatchJobsRequest:
        return scheduler_pb2.WatchJobsRequest(initial=scheduler_pb2.WatchJobsRequestInitial(app_id=self._app, namespace="default"))

    def _on_trigger(self, trigger: scheduler_pb2.WatchJobsResponse) -> None:
        self.deliveries.append(trigger.name)
        self.payloads.append(trigger.data.value)
        status = self.answer(trigger.name)
        if status is not None:
            self.acknowledged.append(trigger.name)
            result = scheduler_pb2.WatchJobsRequestResult(id=trigger.id, status=status)  # type: ignore[arg-type]
            self._requests.put(scheduler_pb2.WatchJobsRequest(result=result))

    def stop(self) -> None:
        self._stopping = True
        self._requests.put(None)  # half-close: the server ends the stream
        self._thread.join(30)
        assert not self._thread.is_alive()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def segments(server: ServerProcess) -> list[str]:
    """The log's files, oldest first."""
    return sorted(str(path) for path in server.directory.rglob("*.wal"))
