"""The eight methods over the real door with a grpcio client: gates, order, codes and texts of spec §3, §4 and §7."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from raftsched.pb.dapr import scheduler_pb2, scheduler_pb2_grpc, stored_pb2
from raftsched.rpc.http2._h2 import Engine
from raftsched.rpc.metrics import GrpcStats
from raftsched.rpc.scheduler.api import SchedulerApi
from raftsched.scheduler.jobs.names import COUNTERS, JOBS, LEADERSHIP
from raftsched.scheduler.jobs.requests import leadership_value
from raftsched.scheduler.service import SchedulerService
from raftsched.testing.memory_etcd import MemoryKv
from raftsched.zones import zone_table

pb = scheduler_pb2
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Quiet:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, /, **fields: object) -> None:
        self.lines.append(message)

    debug = warning = error = info


class Site:
    def __init__(self, kv: Any = None) -> None:
        self.kv = MemoryKv() if kv is None else kv
        self.log = Quiet()
        numbers = count(1)
        self.service = SchedulerService(
            self.kv,
            scheduler_id="s-0",
            address="127.0.0.1:1",
            zone_source=zone_table,
            rng=lambda: next(numbers),
            log=self.log,
            engine_log=self.log,
        )
        self.door = Engine(asyncio.get_running_loop())
        self.api = SchedulerApi(self.service, self.door, self.log, GrpcStats())
        self.channel: Any = None
        self.stub: Any = None

    async def open(self) -> None:
        server = await self.door.listen("127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS)
        self.stub = scheduler_pb2_grpc.SchedulerStub(self.channel)

    async def close(self) -> None:
        await self.channel.close()
        self.api.close_streams()
        await self.service.stop()
        await self.door.drain(500)

    def keys(self) -> list[bytes]:
        return sorted(key for key in self.kv.etcd.keys if not key.startswith(LEADERSHIP))


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    one = Site()
    await one.open()
    await one.service.start()
    yield one
    await one.close()


def job_target(app_id: str = "app", namespace: str = "ns") -> Any:
    return pb.JobMetadata(app_id=app_id, namespace=namespace, target=pb.JobTargetMetadata(job=pb.TargetJob()))


def actor_target(actor_type: str = "cat", actor_id: str = "1", app_id: str = "app", namespace: str = "ns") -> Any:
    target = pb.JobTargetMetadata(actor=pb.TargetActorReminder(id=actor_id, type=actor_type))
    return pb.JobMetadata(app_id=app_id, namespace=namespace, target=target)


def schedule(name: str = "a", metadata: Any = None, *, overwrite: bool = False, **job: Any) -> Any:
    job = job or {"schedule": "@every 1h"}
    return pb.ScheduleJobRequest(name=name, job=pb.Job(**job), metadata=metadata or job_target(), overwrite=overwrite)


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def test_schedule_stores_the_contract_s_bytes(site: Site) -> None:
    data = AnyMessage(type_url="x", value=b"payload")
    await site.stub.ScheduleJob(schedule(schedule="@every 100s", repeats=3, ttl="1h", due_time="100s", data=data))
    stored = stored_pb2.Job.FromString(site.kv.etcd.keys[JOBS + b"app||ns||app||a"].value)
    assert stored.partition_id > 0
    assert stored.WhichOneof("begin") == "due_time"
    assert stored.expiration.seconds - stored.due_time.seconds == 3600
    job = stored.job
    assert (job.schedule, job.due_time, job.ttl, job.repeats) == ("@every 100s", "100s", "1h", 3)
    assert job.payload == data
    metadata = pb.JobMetadata()
    assert job.metadata.Unpack(metadata)
    assert metadata == job_target()
    assert job.failure_policy.constant.interval.seconds == 1
    assert job.failure_policy.constant.max_retries == 3
    got = (await site.stub.GetJob(pb.GetJobRequest(name="a", metadata=job_target()))).job
    assert (got.schedule, got.due_time, got.ttl, got.repeats, got.data) == ("@every 100s", "100s", "1h", 3, data)
    assert got.failure_policy.constant.max_retries == 3


async def test_create_and_overwrite(site: Site) -> None:
    await site.stub.ScheduleJob(schedule())
    first = site.kv.etcd.keys[JOBS + b"app||ns||app||a"].value
    assert await refused(site.stub.ScheduleJob(schedule())) == (grpc.StatusCode.ALREADY_EXISTS, "job already exists: 'app||ns||app||a'")
    await site.stub.ScheduleJob(schedule(overwrite=True))
    assert site.kv.etcd.keys[JOBS + b"app||ns||app||a"].value != first


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (pb.ScheduleJobRequest(name="a"), "INVALID_ARGUMENT", "missing namespace or appID in request"),
        (schedule(metadata=job_target(app_id="")), "INVALID_ARGUMENT", "missing namespace or appID in request"),
        (schedule(metadata=job_target(namespace="")), "INVALID_ARGUMENT", "missing namespace or appID in request"),
        (schedule(name="/", metadata=pb.JobMetadata(app_id="a", namespace="n")), "UNKNOWN", "unknown job type: <nil>"),
        (
            schedule(name="a/b", schedule="junk"),
            "UNKNOWN",
            "job name is invalid \"app||ns||app||a/b\": must not contain '/', '\\', '#' or '?'",
        ),
        (
            pb.ScheduleJobRequest(name="a", metadata=job_target()),
            "UNKNOWN",
            "job failed validation: job must have either a due time or a schedule",
        ),
        (schedule(schedule="* * * *"), "UNKNOWN", "job failed validation: expected exactly 6 fields, found 4: [* * * *]"),
        (schedule(schedule="0 0 0 30 2 *"), "UNKNOWN", "job failed validation: schedule never fires: 0 0 0 30 2 *"),
        (schedule(schedule="@every -1s"), "UNKNOWN", "job failed validation: failed to parse duration @every -1s: must not be negative"),
        (schedule(due_time="junk"), "UNKNOWN", "job failed validation: due time format not recognized"),
        (schedule(schedule="@daily", repeats=0), "UNKNOWN", "job failed validation: defined repeats must be greater than 0"),
    ],
)
async def test_schedule_refusals(site: Site, request_: Any, code: str, text: str) -> None:
    assert await refused(site.stub.ScheduleJob(request_)) == (grpc.StatusCode[code], text)
    assert site.keys() == []


async def test_a_full_store_is_said_in_etcd_s_words(site: Site) -> None:
    await site.service.ready.wait()
    site.kv.etcd.full = True
    code, text = await refused(site.stub.ScheduleJob(schedule()))
    assert code == grpc.StatusCode.UNKNOWN
    assert "etcdserver: mvcc: database space exceeded" in text


async def test_a_create_whose_outcome_was_unknown_is_no_conflict_with_itself(site: Site) -> None:
    await site.service.ready.wait()
    site.kv.fail_next = [24]
    await site.stub.ScheduleJob(schedule())
    assert site.keys() == [JOBS + b"app||ns||app||a"]


async def test_get_and_delete(site: Site) -> None:
    assert await refused(site.stub.GetJob(pb.GetJobRequest(name="a", metadata=job_target()))) == (
        grpc.StatusCode.NOT_FOUND,
        "job not found: a",
    )
    await site.stub.ScheduleJob(schedule())
    site.kv.etcd.put(COUNTERS + b"app||ns||app||a", b"")
    for _ in range(2):  # a missing job is OK
        await site.stub.DeleteJob(pb.DeleteJobRequest(name="a", metadata=job_target()))
    assert site.keys() == []
    assert site.api.stats.deleted == [0, 2, 0]
    code, text = await refused(site.stub.DeleteJob(pb.DeleteJobRequest(name="#", metadata=job_target())))
    assert (code, text[:19]) == (grpc.StatusCode.UNKNOWN, "job name is invalid")


async def test_list(site: Site) -> None:
    for name in ("b", "a", "c||d"):
        await site.stub.ScheduleJob(schedule(name))
    await site.stub.ScheduleJob(schedule("other", job_target("app2")))
    for actor_id in ("1", "10"):
        await site.stub.ScheduleJob(schedule("r", actor_target(actor_id=actor_id)))

    async def names(metadata: Any) -> list[str]:
        return [job.name for job in (await site.stub.ListJobs(pb.ListJobsRequest(metadata=metadata))).jobs]

    assert await names(job_target()) == ["a", "b", "c||d"]
    assert await names(actor_target(actor_id="1")) == ["r"]
    assert await names(actor_target(actor_id="")) == ["r", "r"]
    assert await names(actor_target("dog")) == []
    [job] = (await site.stub.ListJobs(pb.ListJobsRequest(metadata=job_target("app2")))).jobs
    assert job.metadata == job_target("app2")
    assert job.job.schedule == "@every 1h"
    site.kv.etcd.put(JOBS + b"app||ns||app||z", site.kv.etcd.keys[JOBS + b"app||ns||app2||other"].value)
    assert await refused(site.stub.ListJobs(pb.ListJobsRequest(metadata=job_target()))) == (
        grpc.StatusCode.UNKNOWN,
        'job key "app||ns||app||z" does not match expected prefix "app||ns||app2||" from its metadata',
    )


async def test_list_of_more_than_a_page(site: Site) -> None:
    await site.stub.ScheduleJob(schedule("x"))
    value = site.kv.etcd.keys[JOBS + b"app||ns||app||x"].value
    for index in range(2500):
        site.kv.etcd._write(lambda main, index=index: site.kv.etcd._put(main, JOBS + b"app||ns||app||j%04d" % index, value, 0))
    assert len((await site.stub.ListJobs(pb.ListJobsRequest(metadata=job_target()))).jobs) == 2501


async def test_delete_by_metadata(site: Site) -> None:
    for app in ("app", "app2", "other"):
        await site.stub.ScheduleJob(schedule("a", job_target(app)))
    for actor_type, actor_id in (("cat", "1"), ("cat", "10"), ("cat", "2"), ("catfish", "1")):
        await site.stub.ScheduleJob(schedule("r", actor_target(actor_type, actor_id)))

    async def left(metadata: Any, **options: Any) -> int:
        await site.stub.DeleteByMetadata(pb.DeleteByMetadataRequest(metadata=metadata, **options))
        return len(site.keys())

    assert await left(job_target("app")) == 6
    assert await left(job_target("app"), id_prefix_match=True) == 5  # app2
    assert await left(actor_target("cat", "1")) == 4
    assert await left(actor_target("cat", "1"), id_prefix_match=True) == 3  # cat||10
    assert await left(actor_target("cat", "")) == 2
    assert await left(actor_target("cat", ""), id_prefix_match=True) == 1  # catfish
    assert site.keys() == [JOBS + b"app||ns||other||a"]
    assert site.api.stats.bulk_deleted == 6
    assert await refused(site.stub.DeleteByMetadata(pb.DeleteByMetadataRequest())) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "failed to parse metadata: rpc error: code = InvalidArgument desc = missing namespace or appID in request",
    )
    assert site.api.stats.sidecar_errors["auth_failed"] == 1


async def test_delete_by_name_prefix(site: Site) -> None:
    for name in ("job-1", "job-2", "task"):
        await site.stub.ScheduleJob(schedule(name))
    await site.stub.DeleteByNamePrefix(pb.DeleteByNamePrefixRequest(name_prefix="job-", metadata=job_target()))
    assert site.keys() == [JOBS + b"app||ns||app||task"]
    await site.stub.DeleteByNamePrefix(pb.DeleteByNamePrefixRequest(metadata=job_target()))
    assert site.keys() == []
    code, text = await refused(site.stub.DeleteByNamePrefix(pb.DeleteByNamePrefixRequest(name_prefix="a/", metadata=job_target())))
    assert (code, text[:19]) == (grpc.StatusCode.UNKNOWN, "job name is invalid")


async def test_calls_wait_for_readiness_and_keep_their_deadline() -> None:
    site = Site()
    await site.open()
    call = asyncio.ensure_future(site.stub.ScheduleJob(schedule()))
    late = site.stub.GetJob(pb.GetJobRequest(name="a", metadata=job_target()), timeout=0.2)
    early = await refused(site.stub.DeleteByMetadata(pb.DeleteByMetadataRequest(), timeout=5))
    assert early[1].startswith("failed to parse metadata")  # gates 2 and 3 come first here
    assert (await refused(late))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    assert not call.done()
    await site.service.start()
    await call
    await site.close()


class Sidecar:
    """A WatchJobs stream of grpcio."""

    def __init__(self, site: Site, **initial: Any) -> None:
        self.stream = site.stub.WatchJobs()
        self.initial = {"app_id": "app", "namespace": "ns", **initial}

    async def open(self) -> "Sidecar":
        await self.stream.write(pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(**self.initial)))
        return self

    async def trigger(self) -> Any:
        async with asyncio.timeout(5):
            return await self.stream.read()

    async def answer(self, id_: int, status: int = 0) -> None:
        await self.stream.write(pb.WatchJobsRequest(result=pb.WatchJobsRequestResult(id=id_, status=status)))

    async def _drain(self) -> None:
        while await self.stream.read() is not grpc.aio.EOF:
            pass

    async def end(self) -> tuple[grpc.StatusCode, str]:
        async with asyncio.timeout(5):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await self._drain()
            return caught.value.code(), caught.value.details() or ""


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_watch_jobs(site: Site) -> None:
    sidecar = await Sidecar(site).open()
    data = AnyMessage(type_url="x", value=b"payload")
    await site.stub.ScheduleJob(schedule("a", due_time="0s", data=data))
    trigger = await sidecar.trigger()
    assert (trigger.name, trigger.id, trigger.data, trigger.metadata) == ("a", 1, data, job_target())
    await sidecar.answer(99)  # unknown: dropped, the stream stays
    await sidecar.answer(1)
    await sidecar.answer(1)
    await until(lambda: site.keys() == [])
    await until(lambda: site.service.stats()["unknown_acks"] == 2)
    assert "Sidecar connected: ns/app (actorTypes=[]) (prefixes=[app||ns||app||])." in site.log.lines
    sidecar.stream.cancel()
    await until(lambda: site.service.stats()["streams"] == 0)


async def test_watch_jobs_takes_what_it_accepts(site: Site) -> None:
    kinds = {"accept_job_types": [pb.JOB_TARGET_TYPE_ACTOR_REMINDER], "actor_types": ["cat", "dog"]}
    sidecar = await Sidecar(site, **kinds).open()
    idle = await Sidecar(site, accept_job_types=[pb.JOB_TARGET_TYPE_ACTOR_REMINDER]).open()  # nothing deliverable: open and idle (D7)
    await site.stub.ScheduleJob(schedule("job", due_time="0s"))
    await site.stub.ScheduleJob(schedule("r", actor_target("dog"), due_time="0s"))
    trigger = await sidecar.trigger()
    assert (trigger.name, trigger.id) == ("r", 1)
    assert site.service.stats()["streams"] == 2
    assert site.service.stats()["staged"] == 1
    idle.stream.cancel()


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (
            pb.WatchJobsRequest(result=pb.WatchJobsRequestResult(id=1)),
            "UNKNOWN",
            "initial request is required on stream connection",
        ),
        (pb.WatchJobsRequest(), "UNKNOWN", "initial request is required on stream connection"),
        (
            pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id="app")),
            "INVALID_ARGUMENT",
            "missing namespace or appID in request",
        ),
        (
            pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id="a", namespace="n", accept_job_types=[1, 0, 1])),
            "UNKNOWN",
            "duplicate target type specified: JOB_TARGET_TYPE_ACTOR_REMINDER",
        ),
    ],
)
async def test_watch_jobs_refusals(site: Site, request_: Any, code: str, text: str) -> None:
    sidecar = Sidecar(site)
    await sidecar.stream.write(request_)
    assert await sidecar.end() == (grpc.StatusCode[code], text)


async def test_an_unknown_status_closes_the_stream_and_the_trigger_goes_elsewhere(site: Site) -> None:
    sidecar = await Sidecar(site).open()
    await site.stub.ScheduleJob(schedule("a", due_time="0s"))
    assert (await sidecar.trigger()).id == 1
    await sidecar.answer(1, 7)
    assert await sidecar.end() == (grpc.StatusCode.CANCELLED, "context canceled")
    second = await Sidecar(site).open()
    assert (await second.trigger()).name == "a"


async def test_watch_hosts_sends_each_set_once(site: Site) -> None:
    stream = site.stub.WatchHosts(pb.WatchHostsRequest())
    assert [host.address for host in (await stream.read()).hosts] == ["127.0.0.1:1"]
    for total in (1, 2, 2):
        site.kv.etcd.put(LEADERSHIP + b"s-1", leadership_value(total, 9, "b:1"))
        await asyncio.sleep(0)
    assert [host.address for host in (await stream.read()).hosts] == ["127.0.0.1:1", "b:1"]
    site.kv.etcd.delete(LEADERSHIP + b"s-1")
    assert [host.address for host in (await stream.read()).hosts] == ["127.0.0.1:1"]


async def test_watch_hosts_before_readiness_waits_and_begins_with_the_hosts() -> None:
    site = Site()
    await site.open()
    stream = site.stub.WatchHosts(pb.WatchHostsRequest())
    await until(lambda: site.service._ready_waiters)
    await site.service.start()
    assert [host.address for host in (await stream.read()).hosts] == ["127.0.0.1:1"]
    await site.close()


async def test_streams_that_come_during_the_shutdown_are_ended_too(site: Site) -> None:
    site.api.close_streams()
    assert await refused(site.stub.WatchJobs().read()) == (grpc.StatusCode.UNKNOWN, "server is closing")
    assert await refused(site.stub.WatchHosts(pb.WatchHostsRequest()).read()) == (grpc.StatusCode.UNKNOWN, "server is closing")
    assert site.service.stats()["streams"] == 0


async def test_shutdown_ends_streams_with_its_text(site: Site) -> None:
    sidecar = await Sidecar(site).open()
    hosts = site.stub.WatchHosts(pb.WatchHostsRequest())
    await hosts.read()
    await until(lambda: site.service.stats()["streams"] == 1)
    site.api.close_streams()
    assert await sidecar.end() == (grpc.StatusCode.UNKNOWN, "server is closing")
    assert await refused(hosts.read()) == (grpc.StatusCode.UNKNOWN, "server is closing")


async def test_malformed_requests_are_answered(site: Site) -> None:
    for method in ("ScheduleJob", "GetJob", "DeleteJob", "ListJobs", "DeleteByMetadata", "DeleteByNamePrefix"):
        raw = site.channel.unary_unary(f"/dapr.proto.scheduler.v1.Scheduler/{method}")
        for body in (b"\xff", b"\x0a\x05a", b"\x0a\x01\xff\x12\x01\xff\x1a\x01\xff"):
            code, _ = await refused(raw(body))
            assert code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT), (method, body)
    assert (await refused(site.channel.unary_unary("/dapr.proto.scheduler.v1.Scheduler/Nope")(b"")))[0] == grpc.StatusCode.UNIMPLEMENTED


async def test_metrics_have_the_contract_s_names(site: Site) -> None:
    sidecar = await Sidecar(site, actor_types=["cat"], concurrency_limits=[
        pb.ConcurrencyLimit(max_concurrent=1, actor=pb.ConcurrencyLimitActor(type="cat")),
        pb.ConcurrencyLimit(max_concurrent=0, actor=pb.ConcurrencyLimitActor(type="dog")),
    ]).open()  # fmt: skip
    await site.stub.ScheduleJob(schedule("a", due_time="0s"))
    await sidecar.answer((await sidecar.trigger()).id)
    await until(lambda: site.keys() == [])
    await refused(site.stub.ScheduleJob(schedule(schedule="junk")))
    families = {family.name: family for family in site.api.stats.families() if family.name.startswith("dapr_")}
    assert set(families) == {f"dapr_scheduler_{name}" for name in (
        "sidecars_connected", "jobs_created_total", "jobs_created_failed_total", "jobs_triggered_total", "jobs_failed_total",
        "jobs_undelivered_total", "jobs_deleted_total", "jobs_bulk_deleted_total", "trigger_latency", "concurrency_inflight",
        "concurrency_pending", "concurrency_throttled_total", "sidecar_errors_total",
    )}  # fmt: skip
    assert families["dapr_scheduler_jobs_created_total"].samples["job",] == 1
    assert families["dapr_scheduler_jobs_created_failed_total"].samples["job",] == 1
    assert families["dapr_scheduler_jobs_triggered_total"].samples["job",] == 1
    assert families["dapr_scheduler_sidecars_connected"].samples[()] == 1
    assert families["dapr_scheduler_concurrency_inflight"].samples == {("cat",): 0}
    buckets, total = families["dapr_scheduler_trigger_latency"].samples["job",]  # type: ignore[misc]
    assert [bound for bound, _ in buckets] == [100, 500, 1000, 5000, 10000, float("inf")]
    assert buckets[-1][1] == 1
    assert total >= 0
