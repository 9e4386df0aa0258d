"""Calendars through real processes: three replicas over a store of their own and two over an etcd of others, console, HTTP, TLS."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from clustering import make_cluster, needs_raftsched, started
from externals import one_etcd, replicas
from serving import Clients, Worker, wait_for
from test_jobs_tls import OPERATORS, Place, place
from test_jobs_v1 import job_command, ok, post, search

from raftsched.pb.v1 import jobs_pb2
from raftsched.testing.external import ExternalScheduler
from raftsched.testing.process import ServerProcess

__all__ = ["place"]
pytestmark = pytest.mark.process
DAILY = "DIALECT=extended EXCLUDE=de H 12 * * *"
SECONDS = "DIALECT=extended EXCLUDE=de * * * * * *"
NAMES = [f"job-{number}" for number in range(12)]
Server = ServerProcess | ExternalScheduler


def days(today: datetime, *ahead: int) -> list[str]:
    return [(today + timedelta(one)).strftime("%Y-%m-%d") for one in ahead]


def next_days(server: Server) -> set[str]:
    """Of all daily jobs, as this replica has them."""
    found = search(server.scheduler_address, name_pattern="job-*")
    assert len(found) == len(NAMES)
    return {job.next_run.ToDatetime().strftime("%Y-%m-%d") if job.HasField("next_run") else "" for job in found}


def on_all(servers: Sequence[Server], wanted: set[str], logs: Callable[[], str]) -> None:
    for one in servers:
        wait_for(lambda one=one: next_days(one) == wanted, 20, logs)


def follow_a_calendar(servers: Sequence[Server], clients: Clients, logs: Callable[[], str]) -> None:
    """Missing, there, changed, gone: each replica plans anew, what it fires and what others fire."""
    today = datetime.now(UTC)  # which may end meanwhile
    for name in NAMES:
        clients.schedule(name, schedule=DAILY)
    clients.schedule("quick", schedule=SECONDS)
    on_all(servers, {""}, logs)
    for one in servers:
        (job,) = search(one.scheduler_address, name_pattern="quick")
        assert (job.state, job.late) == (jobs_pb2.JOB_STATE_LATE, jobs_pb2.LATE_REASON_CALENDAR_MISSING)
    workers = [Worker(one) for one in servers]
    try:
        ok(servers[0], "calendar", "put", "de", *days(today, 0, 1, 2), "--reason=closed")
        on_all(servers, set(days(today, 3)), logs)
        assert [worker.deliveries for worker in workers] == [[]] * len(workers)
        ok(servers[-1], "calendar", "put", "de", *days(today, 9))
        wait_for(lambda: any("quick" in worker.deliveries for worker in workers), 20, logs)
        assert job_command(servers[0], "calendar", "delete", "de")[0] == 1, "jobs go by it"
        ok(servers[0], "calendar", "delete", "de", "--force")
        on_all(servers, {""}, logs)
    finally:
        for worker in workers:
            worker.stop()


@needs_raftsched
def test_three_replicas_follow_a_calendar(tmp_path: Path) -> None:
    for cluster in started(make_cluster(tmp_path)):
        clients = Clients(cluster.members[0])
        follow_a_calendar(cluster.members, clients, cluster.logs)
        clients.close()


def test_replicas_over_an_etcd_of_others_follow_a_calendar(tmp_path: Path) -> None:
    with one_etcd(tmp_path) as etcd, replicas(tmp_path, [etcd.address], 2) as servers:
        clients = Clients(servers[0])
        follow_a_calendar(servers, clients, servers[0].logs)
        clients.close()


def test_the_console_and_http(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server") as server:
        clients = Clients(server)
        file = tmp_path / "holidays.txt"
        file.write_text("# Germany\n01-01\n12-25..12-26  # two days\n\n")
        assert ok(server, "calendar", "put", "de", "sat", f"--file={file}", "--reason=holidays", "--by=ops") == "put de: 3 rules\n"
        assert ok(server, "calendar", "get", "de") == "sat\n01-01\n12-25..12-26\n"
        clients.schedule("a", app="a", schedule=DAILY)
        shown = json.loads(ok(server, "calendar", "list", "--json"))
        assert [(one["name"], one["rules"], one["jobs"], one["reason"], one["by"]) for one in shown] == [("de", 3, "1", "holidays", "ops")]
        assert "exclude" not in shown[0]
        code, _, err = job_command(server, "calendar", "delete", "de")
        assert (code, err) == (1, "Error: calendar de is used by 1 jobs, which would not fire without it: reschedule them, or use force\n")
        code, _, err = job_command(server, "calendar", "put", "de", "2026-02-30")
        assert code == 1
        assert "expected a date" in err
        assert "2026-02-30" in err
        assert job_command(server, "calendar", "put", "a/b", "01-01")[0] == 1
        assert job_command(server, "calendar", "get", "none")[::2] == (3, "Error: calendar not found: none\n")
        assert job_command(server, "calendar", "put", "de", "--file=/nowhere")[0] == 2
        told = ok(server, "explain", "--dialect=extended", "EXCLUDE=de 0 12 1-2 1 *", "--next=2")
        assert "-01-01 is excluded by de" in told
        assert "nothing is run while this calendar is not there: gone" in ok(server, "explain", "DIALECT=extended EXCLUDE=gone @daily")
        server.kill()
        clients.close()
        server.start()
        status, body = post(server, "/v1/calendars/get", {"namespace": "default", "name": "de"})
        assert (status, json.loads(body)["exclude"], json.loads(body)["jobs"]) == (200, ["sat", "01-01", "12-25..12-26"], "1")
        assert post(server, "/v1/calendars/put", {"calendar": {"namespace": "default", "name": "x", "exclude": ["01-01"]}})[0] == 200
        assert len(json.loads(post(server, "/v1/calendars/list", {})[1])["calendars"]) == 2
        assert post(server, "/v1/calendars/delete", {"namespace": "default", "name": "x"})[0] == 200
        assert post(server, "/v1/calendars/delete", {"namespace": "default", "name": "x"})[0] == 404


def test_with_tls_apps_read_those_of_their_namespace(place: Place) -> None:
    mine = place.caller("mine")
    calendar = jobs_pb2.Calendar(namespace="default", name="de")
    for method, request in (
        ("PutCalendar", jobs_pb2.PutCalendarRequest(calendar=calendar)),
        ("DeleteCalendar", jobs_pb2.DeleteCalendarRequest(namespace="default", name="de")),
    ):
        assert place.grpc(mine, f"/raftsched.v1.Jobs/{method}", request)[:2] == (OPERATORS[0], OPERATORS[2])
    listed = place.grpc(mine, "/raftsched.v1.Jobs/ListCalendars", jobs_pb2.ListCalendarsRequest(namespace="default"))
    assert listed[0] == 0
    for namespace in ("elsewhere", ""):
        refused = place.grpc(mine, "/raftsched.v1.Jobs/ListCalendars", jobs_pb2.ListCalendarsRequest(namespace=namespace))
        assert refused[:2] == (7, "an app may read what is of its own namespace")
