"""Real sidecars of Dapr 1.18 against raftsched: jobs and actor reminders over HTTP, on one replica and on three, with and without mTLS.

`make interop` builds the programs and runs this; RAFTSCHED_DAPRD, RAFTSCHED_DAPR_PLACEMENT and RAFTSCHED_SENTRY name others.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest
from conftest import load_tools
from sidecar_stack import ACTOR_TYPE, App, Daprd, Programs, Stack, until

pytestmark = pytest.mark.skipif(os.environ.get("RAFTSCHED_SIDECARS") != "all", reason="starts real sidecars: `make interop`")
STACKS = {"one": (1, False), "three": (3, False), "one-mtls": (1, True), "three-mtls": (3, True)}
FAILED_CALLS_DEFAULT = 4  # the call and three retries, a second apart
AWAY_S = 15  # a sidecar may take some seconds to go
SETTLE_S = 3.0  # in which a call that must not come would have come


@dataclass(frozen=True, slots=True)
class Site:
    stack: Stack
    app: App
    daprd: Daprd


def programs(secure: bool) -> Programs:
    tools = load_tools()
    found = {"daprd": tools.daprd(), "dapr-placement": tools.dapr_placement()} | ({"dapr-sentry": tools.dapr_sentry()} if secure else {})
    for name, path in found.items():
        if path is None:
            pytest.skip(f"no Go program `{name}` here: `make interop` builds it")
    return Programs(found["daprd"], found["dapr-placement"], found.get("dapr-sentry"))


@pytest.fixture(scope="module", params=STACKS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    count, secure = STACKS[request.param]
    with Stack(tmp_path_factory.mktemp(request.param), programs(secure), count) as stack, App(actors=True).serving() as app:
        daprd = Daprd(stack, "shop", app.port)
        try:
            until(lambda: hosted(daprd), "the actor type is known to the placement service")
            yield Site(stack, app, daprd)
        finally:
            daprd.close()


def hosted(daprd: Daprd) -> bool:
    """Whether it has its actors, and a stream to a scheduler."""
    _, told = daprd.call("GET", "/v1.0/metadata")
    return told["actorRuntime"]["hostReady"] and bool(told["scheduler"].get("connected_addresses"))


def test_the_sidecar_is_connected_to_every_replica(site: Site) -> None:
    wanted = {server.scheduler_address for server in site.stack.servers}

    def connected() -> set[str]:
        return set(site.daprd.call("GET", "/v1.0/metadata")[1]["scheduler"]["connected_addresses"])

    until(lambda: connected() == wanted, f"{wanted} are connected")


@pytest.mark.parametrize("version", ["v1.0", "v1.0-alpha1"])
def test_a_job_is_scheduled_read_and_deleted(site: Site, version: str) -> None:
    path = f"/{version}/jobs/yearly"
    job = {"schedule": "0 0 0 1 1 *", "repeats": 5, "ttl": "9000h", "data": {"count": [1, 2.5, None]}}
    assert site.daprd.call("POST", path, job) == (204, None)
    status, told = site.daprd.call("GET", path)
    assert (status, told["name"], told["schedule"], told["repeats"], told["ttl"]) == (200, "yearly", "0 0 0 1 1 *", 5, "9000h")
    assert told["data"]["value"] == job["data"], told
    assert site.daprd.call("DELETE", path) == (204, None)
    status, told = site.daprd.call("GET", path)
    assert status >= 400, told
    assert "not found" in json.dumps(told), told


def test_a_trigger_arrives_with_its_data(site: Site) -> None:
    began = time.time()
    assert site.daprd.call("POST", "/v1.0/jobs/once", {"dueTime": "2s", "data": {"text": "grün"}})[0] == 204
    until(lambda: bool(site.app.of("/job/once")), "the trigger is there")
    (call,) = site.app.of("/job/once")
    assert call.method == "POST"
    assert call.at - began >= 2.0
    assert "grün" in json.dumps(json.loads(call.body), ensure_ascii=False), call.body
    until(lambda: site.daprd.call("GET", "/v1.0/jobs/once")[0] >= 400, "a job that is done is gone")


def test_repeats_are_counted(site: Site) -> None:
    assert site.daprd.call("POST", "/v1.0/jobs/thrice", {"schedule": "@every 1s", "repeats": 3})[0] == 204
    until(lambda: len(site.app.of("/job/thrice")) == 3, "three triggers")
    until(lambda: site.daprd.call("GET", "/v1.0/jobs/thrice")[0] >= 400, "it is gone after the last")
    first, *_, last = [call.at for call in site.app.of("/job/thrice")]
    assert last - first >= 1.5
    time.sleep(SETTLE_S)
    assert len(site.app.of("/job/thrice")) == 3


def test_a_job_that_is_there_is_replaced_only_on_request(site: Site) -> None:
    path = "/v1.0/jobs/taken"
    assert site.daprd.call("POST", path, {"schedule": "@every 1h"})[0] == 204
    status, told = site.daprd.call("POST", path, {"schedule": "@every 2h"})
    assert status == 409, told
    assert "already exists" in json.dumps(told), told
    assert site.daprd.call("POST", path, {"schedule": "@every 2h", "overwrite": True})[0] == 204
    assert site.daprd.call("GET", path)[1]["schedule"] == "@every 2h"
    assert site.daprd.call("DELETE", path)[0] == 204


@pytest.mark.parametrize("bad", [{"schedule": "every full moon"}, {"dueTime": "soon"}, {}])
def test_a_bad_job_is_refused(site: Site, bad: dict[str, str]) -> None:
    status, told = site.daprd.call("POST", "/v1.0/jobs/bad", bad)
    assert 400 <= status < 500 or status == 500, told
    assert told["errorCode"].startswith("DAPR_SCHEDULER_"), told


@pytest.mark.parametrize(
    ("name", "policy", "answers", "calls"),
    [
        ("default", None, [500] * 9, FAILED_CALLS_DEFAULT),
        ("drop", {"drop": {}}, [500] * 9, 1),
        ("constant", {"constant": {"interval": "1s", "maxRetries": 2}}, [500] * 9, 3),
        ("mends", {"constant": {"interval": "1s"}}, [500, 500], 3),
    ],
)
def test_failure_policies(site: Site, name: str, policy: object, answers: list[int], calls: int) -> None:
    path = f"/job/fails-{name}"
    site.app.answers[path] = list(answers)
    job = {"dueTime": "0s"} | ({"failurePolicy": policy} if policy else {})
    began = time.time()
    assert site.daprd.call("POST", f"/v1.0/jobs/fails-{name}", job)[0] == 204
    until(lambda: len(site.app.of(path)) == calls, f"{calls} calls of {path}")
    until(lambda: site.daprd.call("GET", f"/v1.0/jobs/fails-{name}")[0] >= 400, "it is gone")
    time.sleep(SETTLE_S)
    told = [call.at for call in site.app.of(path)]
    assert len(told) == calls
    assert all(at >= began + number for number, at in enumerate(told)), (began, told)  # planned from the plan: a late call delays no other


def test_a_trigger_waits_for_its_app(site: Site) -> None:
    with App().serving() as app:
        first = Daprd(site.stack, "late", app.port)
        try:
            due = time.time() + AWAY_S
            assert first.call("POST", "/v1.0/jobs/waits", {"dueTime": f"{AWAY_S}s"})[0] == 204
        finally:
            first.close()
        assert time.time() < due, "a sidecar that is still going away may be given the trigger, and fail it"
        time.sleep(due + 1 - time.time())
        assert not app.of("/job/waits")
        second = Daprd(site.stack, "late", app.port)
        try:
            until(lambda: bool(app.of("/job/waits")), "the trigger is there")
            time.sleep(SETTLE_S)
        finally:
            second.close()
        # A sidecar that starts may open its streams twice, and breaks off what it has begun: that comes again.
        assert len(app.of("/job/waits")) <= 2, [call.at - due for call in app.of("/job/waits")]


def test_two_sidecars_of_an_app_share_its_triggers(site: Site) -> None:
    with App().serving() as left, App().serving() as right, closing(Daprd(site.stack, "pair", left.port)) as first:
        with closing(Daprd(site.stack, "pair", right.port)):
            for number in range(10):
                assert first.call("POST", f"/v1.0/jobs/shared-{number}", {"schedule": "@every 1s"})[0] == 204
            until(lambda: len(left.calls) >= 10 and len(right.calls) >= 10, "both are told")
        since = time.time()
        for number in range(10):
            path = f"/job/shared-{number}"
            until(lambda path=path: sum(call.at > since for call in left.of(path)) >= 2, f"{path} goes on at the other one")
            assert first.call("DELETE", f"/v1.0/jobs/shared-{number}")[0] == 204


def remind(site: Site, method: str, actor: str, name: str, body: object = None) -> tuple[int, object]:
    return site.daprd.call(method, f"/v1.0/actors/{ACTOR_TYPE}/{actor}/reminders/{name}", body)


def reminded(site: Site, actor: str, name: str) -> list[dict[str, object]]:
    return [json.loads(call.body) for call in site.app.of(f"/actors/{ACTOR_TYPE}/{actor}/method/remind/{name}")]


def test_a_reminder_fires_once_at_its_time(site: Site) -> None:
    assert remind(site, "PUT", "a", "once", {"dueTime": "1s", "data": {"n": 1}})[0] == 204
    until(lambda: len(reminded(site, "a", "once")) == 1, "it is reminded")
    assert reminded(site, "a", "once")[0]["data"] == {"n": 1}
    time.sleep(SETTLE_S)
    assert len(reminded(site, "a", "once")) == 1


def test_a_reminder_with_a_period_goes_on_until_it_is_deleted(site: Site) -> None:
    assert remind(site, "PUT", "b", "often", {"dueTime": "0s", "period": "1s", "data": "x"})[0] == 204
    until(lambda: len(reminded(site, "b", "often")) >= 3, "it is reminded three times")
    status, told = remind(site, "GET", "b", "often")
    assert status == 200, told
    assert isinstance(told, dict)
    assert told["period"] == "@every 1s", told  # as the sidecar wrote it into the job
    assert remind(site, "DELETE", "b", "often")[0] == 204
    time.sleep(1)
    seen = len(reminded(site, "b", "often"))
    time.sleep(SETTLE_S)
    assert len(reminded(site, "b", "often")) == seen


def test_a_reminder_with_repetitions_ends(site: Site) -> None:
    assert remind(site, "PUT", "c", "four", {"dueTime": "0s", "period": "R4/PT1S"})[0] == 204
    until(lambda: len(reminded(site, "c", "four")) == 4, "four times")
    time.sleep(SETTLE_S)
    assert len(reminded(site, "c", "four")) == 4


def test_a_reminder_that_is_there_is_replaced(site: Site) -> None:
    assert remind(site, "PUT", "d", "moved", {"dueTime": "1h", "data": 1})[0] == 204
    assert remind(site, "PUT", "d", "moved", {"dueTime": "1s", "data": 2})[0] == 204
    until(lambda: len(reminded(site, "d", "moved")) == 1, "it is reminded")
    assert reminded(site, "d", "moved")[0]["data"] == 2


def test_killed_replicas_do_not_stop_the_jobs(site: Site) -> None:
    if site.stack.cluster is None:
        with_one_replica(site)
        return
    for number in range(8):
        assert site.daprd.call("POST", f"/v1.0/jobs/goes-on-{number}", {"schedule": "@every 1s"})[0] == 204
        assert remind(site, "PUT", f"e{number}", "goes-on", {"dueTime": "0s", "period": "1s"})[0] == 204
    killed = site.stack.cluster.leader()
    killed.kill()
    since = time.time()
    for number in range(8):
        for path in (f"/job/goes-on-{number}", f"/actors/{ACTOR_TYPE}/e{number}/method/remind/goes-on"):
            until(lambda path=path: sum(call.at > since for call in site.app.of(path)) >= 3, f"{path} goes on")
    assert site.daprd.call("POST", "/v1.0/jobs/new", {"dueTime": "0s"})[0] == 204
    until(lambda: bool(site.app.of("/job/new")), "a new job fires")
    killed.start()
    wanted = {server.scheduler_address for server in site.stack.servers}
    until(lambda: set(site.daprd.call("GET", "/v1.0/metadata")[1]["scheduler"]["connected_addresses"]) == wanted, "all are connected again")
    for number in range(8):
        assert site.daprd.call("DELETE", f"/v1.0/jobs/goes-on-{number}")[0] == 204
        assert remind(site, "DELETE", f"e{number}", "goes-on")[0] == 204


def test_replicas_that_are_replaced_one_by_one_lose_nothing(site: Site) -> None:
    """As an upgrade does it: each is stopped and started again while jobs come due."""
    count, first_s, spread_s = 200, 5.0, 15.0
    for number in range(count):
        due = f"{first_s + spread_s * number / count:.3f}s"
        assert site.daprd.call("POST", f"/v1.0/jobs/rolling-{number}", {"dueTime": due})[0] == 204
    for server in site.stack.servers:
        assert server.stop() == 0
        server.start()
    fired = [f"/job/rolling-{number}" for number in range(count)]
    until(lambda: all(site.app.of(path) for path in fired), "every job has fired")
    until(lambda: site.daprd.call("GET", f"/v1.0/jobs/rolling-{count - 1}")[0] >= 400, "they are gone")


def with_one_replica(site: Site) -> None:
    """Killed and started again, it has every job, and the sidecar finds it."""
    (server,) = site.stack.servers
    assert site.daprd.call("POST", "/v1.0/jobs/survives", {"schedule": "@every 1s"})[0] == 204
    until(lambda: bool(site.app.of("/job/survives")), "it fires")
    server.kill()
    server.start()
    since = time.time()
    until(lambda: sum(call.at > since for call in site.app.of("/job/survives")) >= 3, "it goes on")
    assert site.daprd.call("DELETE", "/v1.0/jobs/survives")[0] == 204
