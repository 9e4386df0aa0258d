"""Lines of spec/scheduler.md over the real door with a grpcio client that test_scheduler_api.py leaves open; each test names its own."""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from test_scheduler_api import Sidecar, Site, actor_target, job_target, pb, refused, schedule, until

from raftsched.errors import EtcdError, status_of
from raftsched.limits import ACKS_WAITING_MAX, STREAM_TYPES_MAX
from raftsched.pb.dapr import common_pb2, stored_pb2
from raftsched.pb.etcd import rpc_pb2
from raftsched.rpc.metrics import Metrics
from raftsched.rpc.scheduler.api import PATH
from raftsched.rpc.scheduler.watch_jobs import WatchJobs
from raftsched.scheduler.jobs.names import COUNTERS, JOBS, LEADERSHIP
from raftsched.scheduler.jobs.requests import leadership_value

UNKNOWN = grpc.StatusCode.UNKNOWN
SPEC = Path(__file__).parents[2] / "docs" / "spec" / "scheduler.md"
UNARY = ("ScheduleJob", "GetJob", "DeleteJob", "ListJobs", "DeleteByMetadata", "DeleteByNamePrefix")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    one = Site()
    await one.open()
    await one.service.start()
    yield one
    await one.close()


def asked(method: str, metadata: Any = None, name: str = "a") -> Any:
    """A request of each unary method that is in order."""
    metadata = job_target() if metadata is None else metadata
    if method == "ScheduleJob":
        return schedule(name, metadata, overwrite=True)
    if method in {"GetJob", "DeleteJob"}:
        return getattr(pb, method + "Request")(name=name, metadata=metadata)
    if method == "DeleteByNamePrefix":
        return pb.DeleteByNamePrefixRequest(name_prefix=name, metadata=metadata)
    return getattr(pb, method + "Request")(metadata=metadata)


# -- §2.5, §3, §17: what is served at the port
@pytest.mark.parametrize("service", ["grpc.health.v1.Health/Check", "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"])
async def test_neither_health_nor_reflection(site: Site, service: str) -> None:
    """§2.5: no reflection, no health service at the scheduler's port."""
    name = service.partition("/")[0]
    assert await refused(site.channel.unary_unary("/" + service)(b"")) == (grpc.StatusCode.UNIMPLEMENTED, f"unknown service {name}")


async def test_placement_is_said_to_be_off(site: Site) -> None:
    """§17: `ReportActorTypes` of 1.19 is Unimplemented with its text, to a stream that has ended and to one that has not begun."""
    for words in (([],), ()):
        stream = site.channel.stream_stream(PATH + "ReportActorTypes")(*words)
        assert await refused(stream.read()) == (grpc.StatusCode.UNIMPLEMENTED, "placement is not enabled on this scheduler")


# -- §3.1
def spec_messages() -> dict[str, dict[str, tuple[int, str, bool]]]:
    """The table of §3.1: message -> field -> (number, what its type says, optional)."""
    part = SPEC.read_text().split("### 3.1 Messages")[1].split("### 3.2")[0]
    found: dict[str, dict[str, tuple[int, str, bool]]] = {}
    for left, right in re.findall(r"^\| (.+?) \| (.+?) \|$", part, re.M):
        names = [name.rpartition(".")[2] for name in re.split(r"[,/] ", left.replace(" /", "/"))]
        bodies = right.split(" / ") if "/" in left else [right] * len(names)
        for name, body in zip(names, bodies, strict=True):
            if name.startswith(("Message", "enum", "-")):
                continue
            fields = re.findall(r"(?:^|; |\{ |target \{ )(\d+) (\w+)(?: (o|rep))?(?: ([\w.]+))?", body)
            found[name] = {field: (int(number), kind, flag == "o") for number, field, flag, kind in fields}
    return found


def test_every_message_of_the_contract_has_its_fields() -> None:
    """§3.1: names, numbers and presence of every field, read out of the table itself."""
    messages = spec_messages()
    assert len(messages) >= 25
    for name, fields in messages.items():
        module = common_pb2 if name.startswith("JobFailurePolicy") else pb
        descriptor = getattr(module, name).DESCRIPTOR
        assert {field.name: field.number for field in descriptor.fields} == {field: number for field, (number, _, _) in fields.items()}, (
            name
        )
        for field, (_, kind, optional) in fields.items():
            described = descriptor.fields_by_name[field]
            assert not optional or described.has_presence, (name, field)
            if described.message_type is not None:
                assert kind in described.message_type.full_name, (name, field)
    assert dict(pb.JobTargetType.items()) == {"JOB_TARGET_TYPE_JOB": 0, "JOB_TARGET_TYPE_ACTOR_REMINDER": 1}
    assert dict(pb.WatchJobsRequestResultStatus.items()) == {"SUCCESS": 0, "FAILED": 1}


async def test_unknown_fields_are_tolerated_and_kept(site: Site) -> None:
    """§3.1: tolerated on the wire everywhere, kept inside the stored Any: what a later sidecar wrote reaches a later reader."""
    extra = bytes.fromhex("a21f03") + b"new"  # field 500, length-delimited
    metadata = job_target().SerializeToString() + extra
    parts = (b"\x0a\x01a", b"\x12\x0b" + b"\x0a\x09@every 1h" + b"", b"\x1a" + bytes([len(metadata)]) + metadata, extra)
    await site.channel.unary_unary(PATH + "ScheduleJob")(b"".join(parts))
    stored = stored_pb2.Job.FromString(site.kv.etcd.keys[JOBS + b"app||ns||app||a"].value)
    assert stored.job.metadata.type_url == "type.googleapis.com/dapr.proto.scheduler.v1.JobMetadata"
    assert stored.job.metadata.value == metadata
    for method in ("GetJob", "ListJobs"):
        body = asked(method).SerializeToString() + extra
        answer = await site.channel.unary_unary(PATH + method)(body)
        assert (b"new" in answer) == (method == "ListJobs")
    stream = site.channel.stream_stream(PATH + "WatchJobs")()
    initial = pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id="app", namespace="ns")).initial.SerializeToString() + extra
    await stream.write(b"\x0a" + bytes([len(initial)]) + initial + extra)
    await site.channel.unary_unary(PATH + "ScheduleJob")(b"".join((b"\x0a\x01b", b"\x12\x04\x1a\x020s", parts[2])))
    async with asyncio.timeout(5):
        assert extra in await stream.read()
    await stream.write(pb.WatchJobsRequest(result=pb.WatchJobsRequestResult(id=1)).SerializeToString() + extra)
    await until(lambda: site.keys() == [JOBS + b"app||ns||app||a"])
    stream.cancel()


async def test_a_oneof_arm_of_length_nothing_counts_as_set(site: Site) -> None:
    """§3.1: `job` with an empty TargetJob is a target; so is an actor without id and type."""
    await site.channel.unary_unary(PATH + "ScheduleJob")(b"\x0a\x01a\x12\x04\x1a\x021h\x1a\x0b\x0a\x01b\x12\x02ns\x1a\x02\x0a\x00")
    await site.stub.ScheduleJob(schedule("r", actor_target("", "")))
    assert site.keys() == [JOBS + b"actorreminder||ns||||||r", JOBS + b"app||ns||b||a"]


# -- §3.2
@pytest.mark.parametrize("method", UNARY)
async def test_gates_of_every_method(site: Site, method: str) -> None:
    """§3.2: authorisation, then target, then name; both DeleteBy* wrap 2 and 3 and keep the code; auth_failed is counted."""
    call = getattr(site.stub, method)
    wrapped = "failed to parse metadata: " if method.startswith("DeleteBy") else ""
    status = "rpc error: code = InvalidArgument desc = " if wrapped else ""
    missing = (grpc.StatusCode.INVALID_ARGUMENT, f"{wrapped}{status}missing namespace or appID in request")
    for nobody in (pb.JobMetadata(), pb.JobMetadata(namespace="ns"), pb.JobMetadata(app_id="app")):
        assert await refused(call(asked(method, nobody, "a/b"))) == missing
    assert site.api.stats.sidecar_errors["auth_failed"] == 3
    untargeted = pb.JobMetadata(app_id="app", namespace="ns")
    code, text = await refused(call(asked(method, untargeted, "a/b")))
    assert (code, text.startswith(wrapped + "unknown job type: ")) == (UNKNOWN, True)
    if method not in {"ListJobs", "DeleteByMetadata"}:  # these have no name
        code, text = await refused(call(asked(method, None, "a/b")))
        shown = "app||ns||app||a/b" + ("a" if method == "DeleteByNamePrefix" else "")
        assert (code, text) == (UNKNOWN, f"job name is invalid \"{shown}\": must not contain '/', '\\', '#' or '?'")


async def test_a_list_checks_no_name(site: Site) -> None:
    """§3.3: List does not check: an app id that no job could be created for lists as nothing."""
    odd = job_target("a/b")
    assert not (await site.stub.ListJobs(pb.ListJobsRequest(metadata=odd))).jobs
    assert (await refused(site.stub.ScheduleJob(schedule("x", odd))))[0] == UNKNOWN


async def test_a_lost_quorum_makes_calls_wait_and_ask_again(site: Site) -> None:
    """§3.2: the gate opens once; a loss of quorum later makes calls wait and retry inside, bounded by the caller's deadline."""
    await site.stub.ScheduleJob(schedule())
    for method in ("ScheduleJob", "DeleteJob", "DeleteByMetadata", "DeleteByNamePrefix"):
        site.kv.fail_next = [EtcdError.NO_LEADER, EtcdError.TIMEOUT_LEADER_FAILURE]
        await getattr(site.stub, method)(asked(method), timeout=10)
        assert site.kv.fail_next == []
    site.kv.fail_next = [EtcdError.NO_LEADER] * 1_000
    assert (await refused(site.stub.DeleteJob(asked("DeleteJob"), timeout=0.5)))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await refused(site.stub.ScheduleJob(schedule("b"), timeout=0.5)))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: site.api.stats.created_failed[1] == 1)  # §10.1: it failed, if only by waiting
    site.kv.fail_next = []


@pytest.mark.parametrize("method", UNARY)
async def test_an_engine_that_is_closed_says_so(site: Site, method: str) -> None:
    """§3.2: engine closed for good: `cron is closed`, behind what a list and a prefix deletion say of every error of the store."""
    await site.service.ready.wait()
    site.service.closing = True
    before = {
        "ListJobs": "failed to query job list: ",
        "DeleteByMetadata": 'failed to delete prefixes "app||ns||app||": ',
        "DeleteByNamePrefix": 'failed to delete prefixes "app||ns||app||a": ',
    }
    assert await refused(getattr(site.stub, method)(asked(method))) == (UNKNOWN, before.get(method, "") + "cron is closed")
    site.service.closing = False


# -- §3.3
async def test_names_of_every_plane(site: Site) -> None:
    """§3.3: all UTF-8 but the named characters: one name of each of Unicode's 17 planes is stored, listed, delivered and deleted."""
    names = [chr(plane << 16 | 0x0153) + f" :_@|||A{plane}" for plane in range(17)] + [
        "\U0010fffd" * 100,
        "\ufffd\u202e\ufeff",
        "",
        " ",
        ".",
    ]
    for name in names:
        await site.stub.ScheduleJob(schedule(name))
        assert (await site.stub.GetJob(pb.GetJobRequest(name=name, metadata=job_target()))).job.schedule == "@every 1h"
    listed = [job.name for job in (await site.stub.ListJobs(pb.ListJobsRequest(metadata=job_target()))).jobs]
    assert listed == sorted(names, key=str.encode)
    sidecar = await Sidecar(site).open()
    for name in names:
        await site.stub.ScheduleJob(schedule(name, overwrite=True, due_time="0s"))
        trigger = await sidecar.trigger()
        assert trigger.name == name
        await sidecar.answer(trigger.id)
    await until(lambda: site.keys() == [])
    for name in names:
        await site.stub.ScheduleJob(schedule(name))
        await site.stub.DeleteJob(pb.DeleteJobRequest(name=name, metadata=job_target()))
    assert site.keys() == []


async def test_the_limit_is_of_the_composed_name_in_bytes(site: Site) -> None:
    """§3.3, D12: 512 bytes of the composed name; the text says characters."""
    room = 512 - len("app||ns||app||")
    await site.stub.ScheduleJob(schedule("ä" * (room // 2)))
    code, text = await refused(site.stub.ScheduleJob(schedule("ä" * (room // 2) + "bc")))
    assert (code, text.endswith('": must be at most 512 characters')) == (UNKNOWN, True)


async def test_megabytes_where_a_few_letters_belong(site: Site) -> None:
    """Bad input: a name or schedule of a MiB is refused at once, with a text that a client takes; eight: unit/test_long_texts.py."""
    long = "1," * (1 << 19)
    for request_, end in (
        (schedule(long), '…": must be at most 512 characters'),
        (schedule(schedule=long), f"schedule is longer than 4096 characters: {len(long)}"),
        (schedule(due_time=long), "due time format not recognized"),
    ):
        code, text = await refused(site.stub.ScheduleJob(request_))
        assert (code, text.endswith(end), len(text) < 8_000) == (UNKNOWN, True, True)


# -- §3.4
async def test_an_overwrite_is_a_new_job(site: Site) -> None:
    """§3.4, ScheduleJob: overwrite is an unconditional put with a new random partition_id; without it nothing changes."""
    await site.stub.ScheduleJob(schedule())
    key = JOBS + b"app||ns||app||a"
    first = stored_pb2.Job.FromString(site.kv.etcd.keys[key].value)
    await refused(site.stub.ScheduleJob(schedule(schedule="@every 2h")))
    assert stored_pb2.Job.FromString(site.kv.etcd.keys[key].value) == first
    await site.stub.ScheduleJob(schedule(overwrite=True))
    assert stored_pb2.Job.FromString(site.kv.etcd.keys[key].value).partition_id != first.partition_id
    await site.stub.ScheduleJob(schedule("new", overwrite=True))  # there need not be one


async def test_strings_come_back_as_they_were_given(site: Site) -> None:
    """§3.4, GetJob; summary, line 4: verbatim, with data, and with the default policy filled in; a policy that was given as it was."""
    policies = {
        "none": (None, "constant { interval { seconds: 1 } max_retries: 3 }"),
        "empty": (common_pb2.JobFailurePolicy(), "constant { interval { seconds: 1 } max_retries: 3 }"),
        "drop": (common_pb2.JobFailurePolicy(drop=common_pb2.JobFailurePolicyDrop()), "drop { }"),
        "ever": (common_pb2.JobFailurePolicy(constant=common_pb2.JobFailurePolicyConstant()), "constant { }"),
    }
    for name, (policy, shown) in policies.items():
        fields: dict[str, Any] = {"schedule": "TZ=Europe/Berlin 0 0 9 ? * MON", "due_time": "100s", "ttl": "PT3H", "repeats": 7}
        data = AnyMessage(type_url="any/thing", value=bytes(range(256)))
        await site.stub.ScheduleJob(schedule(name, failure_policy=policy, data=data, **fields))
        job = (await site.stub.GetJob(pb.GetJobRequest(name=name, metadata=job_target()))).job
        assert {field: getattr(job, field) for field in fields} == fields
        assert job.data == data
        assert " ".join(str(job.failure_policy).split()) == shown, name


async def test_a_deletion_is_one_entry(site: Site) -> None:
    """§3.4: DeleteJob and both DeleteBy* do one transaction over jobs and counters; idempotent."""
    for name in ("a", "b"):
        await site.stub.ScheduleJob(schedule(name))
        site.kv.etcd.put(COUNTERS + b"app||ns||app||" + name.encode(), b"")
    for method in ("DeleteJob", "DeleteByNamePrefix", "DeleteByMetadata", "DeleteByMetadata"):
        before = site.kv.entries
        await getattr(site.stub, method)(asked(method))
        await asyncio.sleep(0)
        assert site.kv.entries == before + 1, method
    assert site.keys() == []


async def test_errors_of_the_store_in_lists_and_deletions(site: Site) -> None:
    """§3.4: `failed to query job list: …`, `failed to delete prefixes "<p>": …`, code Unknown."""
    await site.stub.ScheduleJob(schedule())
    plain = site.kv.range

    async def broken(request: bytes) -> tuple[int, bytes]:
        raise status_of(EtcdError.CORRUPT)

    site.kv.range = broken  # type: ignore[method-assign]
    assert await refused(site.stub.ListJobs(asked("ListJobs"))) == (UNKNOWN, "failed to query job list: etcdserver: corrupt cluster")
    site.kv.range = plain  # type: ignore[method-assign]
    for method, prefix in (("DeleteByMetadata", "app||ns||app||"), ("DeleteByNamePrefix", "app||ns||app||a")):
        site.kv.fail_next = [EtcdError.CORRUPT]
        text = f'failed to delete prefixes "{prefix}": etcdserver: corrupt cluster'
        assert await refused(getattr(site.stub, method)(asked(method))) == (UNKNOWN, text)


async def test_a_list_is_of_one_revision(site: Site) -> None:
    """§3.4, ListJobs: one consistent revision: later pages are asked for at the revision of the first."""
    await site.stub.ScheduleJob(schedule("x"))
    value = site.kv.etcd.keys[JOBS + b"app||ns||app||x"].value
    for index in range(2_100):
        site.kv.etcd._write(lambda main, index=index: site.kv.etcd._put(main, JOBS + b"app||ns||app||j%04d" % index, value, 0))
    asked_at: list[int] = []
    plain = site.kv.range

    async def noted(request: bytes) -> tuple[int, bytes]:
        asked_at.append(rpc_pb2.RangeRequest.FromString(request).revision)
        return await plain(request)

    site.kv.range = noted  # type: ignore[method-assign]
    revision = site.kv.etcd.revision
    await site.stub.ListJobs(asked("ListJobs"))
    assert len(asked_at) > 1
    assert asked_at == [0] + [revision] * (len(asked_at) - 1)


async def test_a_list_of_many_megabytes_is_one_answer(site: Site) -> None:
    """§3.4, ListJobs: no pagination, one response: here 64 MiB of the 200 MB that must work."""
    data = AnyMessage(type_url="x", value=bytes(1 << 20))
    await asyncio.gather(*(site.stub.ScheduleJob(schedule(f"j{index:03}", schedule="@every 1h", data=data)) for index in range(64)))
    jobs = (await site.stub.ListJobs(asked("ListJobs"))).jobs
    assert [job.name for job in jobs] == [f"j{index:03}" for index in range(64)]
    assert all(len(job.job.data.value) == 1 << 20 for job in jobs)


async def test_a_stored_job_that_cannot_be_read(site: Site) -> None:
    """§3.4, D11: skipped, told once, counted; the others are listed and fire; it is never deleted unasked."""
    site.kv.etcd.put(JOBS + b"app||ns||app||bad", b"\xff\xff")
    await site.stub.ScheduleJob(schedule("good"))
    assert [job.name for job in (await site.stub.ListJobs(asked("ListJobs"))).jobs] == ["good"]
    assert (await refused(site.stub.GetJob(asked("GetJob", name="bad"))))[0] == UNKNOWN
    assert site.service.stats()["undecodable"] == 1
    assert JOBS + b"app||ns||app||bad" in site.kv.etcd.keys


# -- §4
async def test_a_connected_sidecar_is_one_line(site: Site) -> None:
    """§10.3: `Sidecar connected: <ns>/<app> (actorTypes=[…]) (prefixes=[…]).`, lists as Go prints them."""
    sidecar = await Sidecar(site, actor_types=["cat", "dog"]).open()
    await until(lambda: site.service.stats()["streams"] == 1)
    prefixes = "app||ns||app|| actorreminder||ns||cat|| actorreminder||ns||dog||"
    assert f"Sidecar connected: ns/app (actorTypes=[cat dog]) (prefixes=[{prefixes}])." in site.log.lines
    sidecar.stream.cancel()


class Finished:
    """A stream of the door that remembers how it was ended."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, str]] = []

    def finish(self, code: int = 0, message: str = "") -> None:
        self.ends.append((code, message))

    def peer_certificate(self) -> None:
        return None


@pytest.mark.parametrize(("message", "count"), [(b"\x12\x02\x08\x01", 1_001), (b"\xfa\x3e" + bytes(1 << 20), 1)])
async def test_results_before_there_is_anything_to_answer_are_not_kept(message: bytes, count: int) -> None:
    """Bad input: before the first quorum nothing was sent: a stream that answers a lot, or at length, is ended, and keeps no memory."""
    site, stream = Site(), Finished()
    handler = WatchJobs(
        site.service,
        site.api.access,
        site.api.stats,
        log=site.log,
        stream=stream,  # type: ignore[arg-type]
        ended=lambda handler, code: None,
    )
    initial = pb.WatchJobsRequest(initial=pb.WatchJobsRequestInitial(app_id="app", namespace="ns")).SerializeToString()
    handler.on_messages([initial])
    for _ in range(count):
        assert stream.ends == []
        handler.on_messages([message])
    assert stream.ends == [(2, "results before any trigger")]


async def test_a_stream_declares_so_much(site: Site) -> None:
    """Bad input: more actor types and limits than anybody hosts are refused: each costs memory, and the line of the log has them all."""
    sidecar = await Sidecar(site, actor_types=[f"t{number}" for number in range(STREAM_TYPES_MAX + 1)]).open()
    text = "more than 10000 actor types and concurrency limits on one stream"
    assert await sidecar.end() == (grpc.StatusCode.RESOURCE_EXHAUSTED, text)
    assert site.service.stats()["streams"] == 0
    assert not [line for line in site.log.lines if line.startswith("Sidecar connected")]


async def test_errors_of_sidecars_are_counted_by_reason(site: Site) -> None:
    """§4, §10.1: `recv_failed` for protocol faults, not for ordinary ends; `send_failed` for who does not read."""
    errors = site.api.stats.sidecar_errors
    for end in ("cancel", "done_writing"):
        sidecar = await Sidecar(site).open()
        await until(lambda: site.service.stats()["streams"] == 1)
        result = getattr(sidecar.stream, end)()
        if end == "done_writing":
            await result
        await until(lambda: site.service.stats()["streams"] == 0)
    assert errors == {"send_failed": 0, "recv_failed": 0, "auth_failed": 0}
    sidecar = await Sidecar(site).open()
    await sidecar.open()  # `initial` a second time is no result
    assert await sidecar.end() == (grpc.StatusCode.CANCELLED, "context canceled")
    assert errors == {"send_failed": 0, "recv_failed": 1, "auth_failed": 0}


async def test_a_flood_of_answers_to_nothing_disturbs_nobody(site: Site) -> None:
    """Bad input: 200 000 results that nobody asked for: dropped as they come, none is kept, other streams are served meanwhile."""
    noisy, quiet = await Sidecar(site).open(), await Sidecar(site, app_id="quiet").open()
    await until(lambda: site.service.stats()["streams"] == 2)
    noise = [pb.WatchJobsRequest(result=pb.WatchJobsRequestResult(id=number + 5)).SerializeToString() for number in range(50_000)]
    [flooding] = [one for one in site.api._streams if isinstance(one, WatchJobs) and one._initial and one._initial.app_id == "app"]
    for _ in range(4):
        flooding.on_messages(noise)
        assert site.service._acks_waiting == sum(len(messages) for _, messages in site.service._acks) <= ACKS_WAITING_MAX
        await site.stub.ScheduleJob(schedule("a", job_target("quiet"), overwrite=True, due_time="0s"))
        trigger = await quiet.trigger()
        await quiet.answer(trigger.id)
    await until(lambda: site.service.stats()["unknown_acks"] == 200_000)
    await until(lambda: site.keys() == [])
    noisy.stream.cancel()


async def test_who_reads_nothing_holds_up_nobody(site: Site) -> None:
    """§4, trigger: a slow reader must not hold up other streams; what waits for it is numbers, not payloads."""
    data = AnyMessage(type_url="x", value=bytes(100_000))
    deaf = await Sidecar(site).open()
    await until(lambda: site.service.stats()["streams"] == 1)
    for index in range(100):
        await site.stub.ScheduleJob(schedule(f"big{index}", due_time="0s", data=data))
    await until(lambda: site.service.stats()["queued"] > 0)  # 10 MB are more than windows and buffers take
    reader = await Sidecar(site, app_id="other").open()
    for index in range(20):
        await site.stub.ScheduleJob(schedule(f"j{index}", job_target("other"), due_time="0s"))
        assert (await reader.trigger()).name == f"j{index}"
    second = await Sidecar(site).open()
    deaf.stream.cancel()
    await until(lambda: site.api.stats.sidecar_errors["send_failed"] == 1)  # what it had not taken could not be sent
    assert len({(await second.trigger()).name for _ in range(100)}) == 100  # all of its come again


# -- §7
async def test_five_hundred_watch_the_hosts(site: Site) -> None:
    """§7: 500 watchers at once are told each change, and no set twice in a row."""
    streams = [site.stub.WatchHosts(pb.WatchHostsRequest()) for _ in range(500)]
    for stream in streams:
        assert len((await stream.read()).hosts) == 1
    for total in (1, 2, 2):
        site.kv.etcd.put(LEADERSHIP + b"s-1", leadership_value(total, 9, "b:1"))
        await asyncio.sleep(0)
    for stream in streams:
        assert [host.address for host in (await stream.read()).hosts] == ["127.0.0.1:1", "b:1"]
        stream.cancel()


async def test_a_thousand_streams_come_and_go(site: Site) -> None:
    """Bad input: many streams of grpcio on one connection; ten thousand: tests/unit/test_delivery_contract.py."""
    sidecars = [await Sidecar(site).open() for _ in range(1_000)]
    await until(lambda: site.service.stats()["streams"] == 1_000)
    for sidecar in sidecars[1:]:
        sidecar.stream.cancel()
    await until(lambda: site.service.stats()["streams"] == 1)
    await site.stub.ScheduleJob(schedule("a", due_time="0s"))
    assert (await sidecars[0].trigger()).name == "a"


# -- §10.1
def spec_metrics() -> dict[str, tuple[str, str | None]]:
    """The table of §10.1: name -> (type, label)."""
    part = SPEC.read_text().split("### 10.1 Metrics")[1].split("### 10.2")[0]
    found = {}
    for names, kind in re.findall(r"^\| (dapr_scheduler_.+?) \| (.+?) \|", part, re.M):
        words = kind.split(";")[0].replace(" in ms", "").split(", ")
        for name in names.split(", "):
            found[name] = (words[0], words[1] if len(words) > 1 else None)
    return found


async def test_metrics_are_those_of_the_table(site: Site) -> None:
    """§10.1: names, types, labels, buckets and the values of `type` and `reason`, read out of the table itself."""
    sidecar = await Sidecar(site, actor_types=["cat"], concurrency_limits=[
        pb.ConcurrencyLimit(max_concurrent=1, actor=pb.ConcurrencyLimitActor(type="cat")),
        pb.ConcurrencyLimit(max_concurrent=1, name="red", actor=pb.ConcurrencyLimitActor(type="cat")),
    ]).open()  # fmt: skip
    red = actor_target("cat", "1")
    red.concurrency_key = "red"
    for name in ("a", "b"):
        await site.stub.ScheduleJob(schedule(name, red, due_time="0s"))
    assert (await sidecar.trigger()).name == "a"
    await until(lambda: site.service.stats()["throttled"])  # b waits at the gate
    metrics = Metrics()
    metrics.add(site.api.stats.families)
    text = "".join(line + "\n" for line in metrics.render().decode().splitlines() if " dapr_scheduler_" in " " + line)
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))
    wanted = spec_metrics()
    assert {name: kinds.get(name) for name in wanted} == {name: kind for name, (kind, _) in wanted.items()}
    assert {name for name in kinds if name.startswith("dapr_")} == set(wanted)
    samples = re.findall(r"^(\w+?)(?:_bucket|_sum|_count)?(?:\{(.*?)\})? ", "\n".join(x for x in text.splitlines() if x[0] != "#"), re.M)
    for name, labels in samples:
        found = set(re.findall(r"(\w+)=", labels)) - {"le"}
        assert found == ({wanted[name][1]} if wanted[name][1] else set()), (name, labels)
    assert set(re.findall(r'jobs_created_total\{type="(\w+)"', text)) == {"job", "actor", "unknown"}
    assert set(re.findall(r'reason="(\w+)"', text)) == {"send_failed", "recv_failed", "auth_failed"}
    assert set(re.findall(r'concurrency_inflight\{concurrency_key="([\w:]+)"\} 1', text)) == {"cat", "cat:red"}
    assert 'dapr_scheduler_concurrency_throttled_total{concurrency_key="cat"} 1' in text
    bounds = re.findall(r'trigger_latency_bucket\{.*type="job".*le="(.+?)"|trigger_latency_bucket\{le="(.+?)",type="job"', text)
    assert [one or other for one, other in bounds] == ["100", "500", "1000", "5000", "10000", "+Inf"]


async def test_what_counts_as_what(site: Site) -> None:
    """§10.1: created_failed after gates 2 and 3 only; deleted counts missing jobs; bulk counts calls, whatever they hit."""
    stats = site.api.stats
    await refused(site.stub.ScheduleJob(asked("ScheduleJob", pb.JobMetadata())))
    await refused(site.stub.ScheduleJob(asked("ScheduleJob", pb.JobMetadata(app_id="app", namespace="ns"))))
    assert stats.created_failed == [0, 0, 0]
    for request in (schedule("a/b"), schedule(schedule="x"), schedule("r", actor_target(), schedule="x")):
        await refused(site.stub.ScheduleJob(request))
    assert stats.created_failed == [0, 2, 1]
    await site.stub.ScheduleJob(schedule())
    await refused(site.stub.ScheduleJob(schedule()))  # already exists
    assert (stats.created, stats.created_failed) == ([0, 1, 0], [0, 3, 1])
    await site.stub.DeleteJob(asked("DeleteJob", actor_target(), "none"))
    assert stats.deleted == [0, 0, 1]
    for _ in range(3):
        await site.stub.DeleteByMetadata(asked("DeleteByMetadata"))
    assert stats.bulk_deleted == 3


async def test_parked_jobs_are_told(site: Site) -> None:
    """§14, #9018: jobs that nobody takes are counted as parked, and not any more when somebody comes."""

    def parked() -> float:
        [family] = [one for one in site.api.stats.families() if one.name == "raftsched_scheduler_jobs_parked"]
        value = family.samples[()]
        assert isinstance(value, int)
        return value

    for index in range(3):
        await site.stub.ScheduleJob(schedule("r", actor_target("orphan", str(index)), due_time="0s"))
    await until(lambda: parked() == 3)
    sidecar = await Sidecar(site, actor_types=["orphan"]).open()
    await until(lambda: parked() == 0)
    sidecar.stream.cancel()


# -- D6
async def test_noise_in_every_method_is_answered(site: Site) -> None:
    """§3.2, D6: no input may crash the process: mutated requests of every method get a status, and the service goes on."""
    rng, codes = random.Random(5), set()
    for method in UNARY:
        body = asked(method, actor_target(), "name").SerializeToString()
        raw = site.channel.unary_unary(PATH + method)
        for _ in range(150):
            changed = bytearray(body)
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(changed))
                changed[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 3))
            try:
                await raw(bytes(changed))
            except grpc.aio.AioRpcError as error:
                codes.add(error.code().name)
    assert codes <= {"UNKNOWN", "INTERNAL", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS"}
    assert len(codes) > 2
    assert not [line for line in site.log.lines if "Traceback" in line]
    await site.stub.ScheduleJob(schedule("after", due_time="0s"))
    sidecar = await Sidecar(site).open()
    while (await sidecar.trigger()).name != "after":
        pass
