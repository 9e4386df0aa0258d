"""Pause, resume and freeze over the real door: one job, many by a filter, what is skipped, who may, and what is stored."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from test_jobs_api import JobsSite, get, name
from test_scheduler_api import Site, job_target, refused, schedule

from raftsched.errors import EtcdError
from raftsched.pb.v1 import jobs_pb2, state_pb2
from raftsched.scheduler.jobs._jobs import decode_counter
from raftsched.scheduler.jobs.names import COUNTERS, JOBS, NAMESPACES, STATES

RUN = jobs_pb2.MISSED_TICKS_RUN


@pytest.fixture
async def site() -> AsyncIterator[JobsSite]:
    one = JobsSite()
    await one.open()
    await one.service.start()
    yield one
    await one.close()


def selector(short: str | None = None, **asked: Any) -> jobs_pb2.JobSelector:
    if short is not None:
        return jobs_pb2.JobSelector(name=name(short))
    return jobs_pb2.JobSelector(filter=jobs_pb2.JobFilter(**asked))


async def pause(site: JobsSite, jobs: jobs_pb2.JobSelector, reason: str = "", by: str = "") -> tuple[int, int]:
    answer = await site.jobs.PauseJobs(jobs_pb2.PauseJobsRequest(jobs=jobs, reason=reason, by=by))
    return answer.changed, answer.unchanged


async def resume(site: JobsSite, jobs: jobs_pb2.JobSelector, missed: Any = jobs_pb2.MISSED_TICKS_SKIP) -> tuple[int, int]:
    answer = await site.jobs.ResumeJobs(jobs_pb2.ResumeJobsRequest(jobs=jobs, missed=missed))
    return answer.changed, answer.unchanged


def extras(site: JobsSite) -> list[bytes]:
    return [key for key in Site.keys(site) if key.startswith(b"raftsched/")]


async def test_one_job_is_paused_with_reason_and_author(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule())
    before = site.kv.etcd.keys[JOBS + b"app||ns||app||a"].value
    assert await pause(site, selector("a"), "maintenance", "ops") == (1, 0)
    shown = await get(site, name())
    assert (shown.state, shown.hold.reason, shown.hold.by) == (jobs_pb2.JOB_STATE_PAUSED, "maintenance", "ops")
    assert abs(shown.hold.at.ToNanoseconds() - site.service.now_ns()) < 10**10
    assert await pause(site, selector("a"), "another") == (0, 1)
    assert (await get(site, name())).hold.reason == "maintenance"
    assert site.kv.etcd.keys[JOBS + b"app||ns||app||a"].value == before, "Dapr's record is as it was"
    assert await resume(site, selector("a")) == (1, 0)
    assert await resume(site, selector("a")) == (0, 1)
    shown = await get(site, name())
    assert (shown.state, shown.HasField("hold")) == (jobs_pb2.JOB_STATE_SCHEDULED, False)
    assert extras(site) == []


async def test_many_are_paused_by_a_filter(site: JobsSite) -> None:
    for number in range(600):
        site.kv.etcd.put(JOBS + b"app||ns||app||many-%03d" % number, await _stored(site))
    await site.stub.ScheduleJob(schedule("other", job_target("other")))
    assert await pause(site, selector(app_id="app", name_pattern="many-1*")) == (100, 0)
    assert await pause(site, selector(app_id="app")) == (501, 100)
    assert len(extras(site)) == 601
    assert (await get(site, name("other", app_id="other"))).state == jobs_pb2.JOB_STATE_SCHEDULED
    assert await resume(site, selector(namespace="ns")) == (601, 1)
    assert extras(site) == []


async def _stored(site: JobsSite) -> bytes:
    key = JOBS + b"app||ns||app||template"
    if key not in site.kv.etcd.keys:
        await site.stub.ScheduleJob(schedule("template"))
    return bytes(site.kv.etcd.keys[key].value)


@pytest.mark.parametrize("missed", [jobs_pb2.MISSED_TICKS_SKIP, RUN])
async def test_what_was_missed_is_skipped_or_run(site: JobsSite, missed: Any) -> None:
    await site.stub.ScheduleJob(schedule(schedule="@every 1h", due_time="1s"))
    await pause(site, selector("a"))
    site.service._wall_ns = lambda wall=site.service._wall_ns: wall() + 10 * 3600 * 10**9  # type: ignore[misc]
    first = (await get(site, name())).next_run.seconds
    assert await resume(site, selector("a"), missed) == (1, 0)
    counter = site.kv.etcd.keys.get(COUNTERS + b"app||ns||app||a")
    if missed == RUN:
        assert counter is None
        assert (await get(site, name())).next_run.seconds == first
        return
    assert counter is not None
    _, count, last, attempts = decode_counter(counter.value)
    assert last is not None
    assert (count, last[0] - first, attempts) == (0, 9 * 3600, 0)
    shown = await get(site, name())
    assert (shown.count, shown.next_run.seconds - first) == (0, 10 * 3600)


async def test_what_was_missed_goes_by_each_jobs_policy(site: JobsSite) -> None:
    for short in ("with", "without"):
        await site.stub.ScheduleJob(schedule(short, schedule="@every 1h", due_time="1s"))
    wanted = state_pb2.Misfire(max=3)
    await site.jobs.ConfigureJobs(jobs_pb2.ConfigureJobsRequest(jobs=selector("with"), misfire=wanted))
    await pause(site, selector(app_id="app"))
    first = (await get(site, name("with"))).next_run.seconds
    site.service._wall_ns = lambda wall=site.service._wall_ns: wall() + 10 * 3600 * 10**9  # type: ignore[misc]
    assert await resume(site, selector(app_id="app"), jobs_pb2.MISSED_TICKS_POLICY) == (2, 0)
    assert COUNTERS + b"app||ns||app||with" not in site.kv.etcd.keys, "the engine looks at the policy before each run"
    assert (await get(site, name("without"))).next_run.seconds - first in (10 * 3600 - 1, 10 * 3600, 10 * 3600 + 1)


async def test_a_namespace_thaws_by_each_jobs_policy(site: JobsSite) -> None:
    for short in ("with", "without"):
        await site.stub.ScheduleJob(schedule(short, schedule="@every 1h", due_time="1s"))
    await site.jobs.ConfigureJobs(jobs_pb2.ConfigureJobsRequest(jobs=selector("with"), misfire=state_pb2.Misfire(max=1)))
    await site.jobs.FreezeNamespace(jobs_pb2.FreezeNamespaceRequest(namespace="ns"))
    site.service._wall_ns = lambda wall=site.service._wall_ns: wall() + 10 * 3600 * 10**9  # type: ignore[misc]
    request = jobs_pb2.UnfreezeNamespaceRequest(namespace="ns", missed=jobs_pb2.MISSED_TICKS_POLICY)
    summary = await site.jobs.UnfreezeNamespace(request)
    assert (summary.changed, summary.unchanged) == (1, 1)
    assert [key for key in Site.keys(site) if key.startswith(COUNTERS)] == [COUNTERS + b"app||ns||app||without"]


async def test_ways_to_treat_missed_ticks_that_are_not_known_are_refused(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule())
    await pause(site, selector("a"))
    unknown: Any = 7
    text = "missed is none of the ways to treat missed ticks: 7"
    assert await refused(site.jobs.ResumeJobs(jobs_pb2.ResumeJobsRequest(jobs=selector("a"), missed=unknown))) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        text,
    )
    request = jobs_pb2.UnfreezeNamespaceRequest(namespace="ns", missed=unknown)
    assert await refused(site.jobs.UnfreezeNamespace(request)) == (grpc.StatusCode.INVALID_ARGUMENT, text)
    assert (await get(site, name())).state == jobs_pb2.JOB_STATE_PAUSED


async def test_a_namespace_is_frozen_and_thawed(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule(schedule="@every 1h", due_time="1s"))
    await site.stub.ScheduleJob(schedule("paused", schedule="@every 1h", due_time="1s"))
    await pause(site, selector("paused"), "own")
    await site.jobs.FreezeNamespace(jobs_pb2.FreezeNamespaceRequest(namespace="ns", reason="incident", by="ops"))
    await site.jobs.FreezeNamespace(jobs_pb2.FreezeNamespaceRequest(namespace="ns", reason="again"))
    shown = await get(site, name())
    assert (shown.state, shown.hold.reason, shown.hold.by) == (jobs_pb2.JOB_STATE_FROZEN, "incident", "ops")
    assert (await get(site, name("paused"))).hold.reason == "own"
    [one] = (await site.jobs.ListFreezes(jobs_pb2.ListFreezesRequest())).freezes
    assert (one.namespace, one.hold.reason) == ("ns", "incident")
    site.service._wall_ns = lambda wall=site.service._wall_ns: wall() + 10 * 3600 * 10**9  # type: ignore[misc]
    summary = await site.jobs.UnfreezeNamespace(jobs_pb2.UnfreezeNamespaceRequest(namespace="ns"))
    assert (summary.changed, summary.unchanged) == (1, 1)
    assert (await get(site, name())).state == jobs_pb2.JOB_STATE_SCHEDULED
    assert (await get(site, name("paused"))).state == jobs_pb2.JOB_STATE_PAUSED
    assert list((await site.jobs.ListFreezes(jobs_pb2.ListFreezesRequest())).freezes) == []
    assert NAMESPACES + b"ns" not in site.kv.etcd.keys
    code, text = await refused(site.jobs.UnfreezeNamespace(jobs_pb2.UnfreezeNamespaceRequest(namespace="ns")))
    assert (code, text) == (grpc.StatusCode.NOT_FOUND, "namespace is not frozen: ns")


async def test_a_state_of_a_former_job_does_not_count(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule())
    await pause(site, selector("a"), "old")
    old = site.kv.etcd.keys[STATES + b"app||ns||app||a"].value
    site.kv.etcd.delete(JOBS + b"app||ns||app||a")
    site.kv.etcd.put(STATES + b"app||ns||app||a", old)  # somebody restored it
    await site.stub.ScheduleJob(schedule())
    assert (await get(site, name())).state == jobs_pb2.JOB_STATE_SCHEDULED
    assert await pause(site, selector("a"), "new") == (1, 0)
    assert (await get(site, name())).hold.reason == "new"


async def test_unknown_fields_of_a_state_are_kept(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule())
    site.kv.etcd.put(STATES + b"app||ns||app||a", b"\xd2\x7d\x01x")  # of a newer version
    assert await pause(site, selector("a")) == (1, 0)
    assert b"\xd2\x7d\x01x" in site.kv.etcd.keys[STATES + b"app||ns||app||a"].value
    assert await resume(site, selector("a")) == (1, 0)
    assert site.kv.etcd.keys[STATES + b"app||ns||app||a"].value == b"\xd2\x7d\x01x"


async def test_a_refused_write_is_sent_again_and_an_unknown_one_is_not_done_twice(site: JobsSite) -> None:
    await site.stub.ScheduleJob(schedule())
    site.kv.fail_next = [EtcdError.NO_LEADER, EtcdError.TIMEOUT]
    assert await pause(site, selector("a"), "x") == (0, 1)
    assert state_pb2.JobExtra.FromString(site.kv.etcd.keys[STATES + b"app||ns||app||a"].value).pause.reason == "x"
    site.kv.fail_next = [EtcdError.NO_SPACE]
    code, _ = await refused(site.jobs.ResumeJobs(jobs_pb2.ResumeJobsRequest(jobs=selector("a"))))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (jobs_pb2.PauseJobsRequest(jobs=selector("none")), "NOT_FOUND", "job not found: none"),
        (jobs_pb2.PauseJobsRequest(), "INVALID_ARGUMENT", "no jobs are selected: name one, or give a filter"),
        (jobs_pb2.PauseJobsRequest(jobs=selector("a"), reason="x" * 1025), "INVALID_ARGUMENT", "reason has at most 1024 bytes"),
        (jobs_pb2.PauseJobsRequest(jobs=selector("a"), by="x" * 257), "INVALID_ARGUMENT", "by has at most 256 bytes"),
        (jobs_pb2.PauseJobsRequest(jobs=selector(actor_id="x")), "INVALID_ARGUMENT", "actor_id needs actor_type"),
    ],
)
async def test_refusals(site: JobsSite, request_: Any, code: str, text: str) -> None:
    assert await refused(site.jobs.PauseJobs(request_)) == (grpc.StatusCode[code], text)


async def test_namespaces_have_a_name(site: JobsSite) -> None:
    for namespace in ("", "x" * 513):
        code, _ = await refused(site.jobs.FreezeNamespace(jobs_pb2.FreezeNamespaceRequest(namespace=namespace)))
        assert code == grpc.StatusCode.INVALID_ARGUMENT


async def test_with_tls_an_app_cannot_freeze_others_nor_pause_them(site: JobsSite) -> None:
    site.api.access.tls = True  # the channel shows no certificate
    request = jobs_pb2.FreezeNamespaceRequest(namespace="ns")
    denied = (grpc.StatusCode.PERMISSION_DENIED, "an app may not change what concerns other apps")
    assert await refused(site.jobs.FreezeNamespace(request)) == denied
    assert await refused(site.jobs.UnfreezeNamespace(jobs_pb2.UnfreezeNamespaceRequest(namespace="ns"))) == denied
    assert await refused(site.jobs.ListFreezes(jobs_pb2.ListFreezesRequest())) == denied
    code, _ = await refused(site.jobs.PauseJobs(jobs_pb2.PauseJobsRequest(jobs=selector("a"))))
    assert code == grpc.StatusCode.UNAUTHENTICATED
    certificate = {"subjectAltName": (("URI", "spiffe://td/ns/ns/app"),)}
    assert site.jobs_api.by("somebody else", certificate) == "ns/app"
    site.api.access.tls = False
    assert site.jobs_api.by("somebody", certificate) == "somebody"
