"""The process as seen from outside, beside the Dapr Scheduler itself: refused command lines, health, metrics."""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from dapr_pair import Pair, actor, app, pair, schedule_request
from real_dapr import dapr_scheduler
from test_real_dapr_watch import Stream, opening, result

from raftsched.pb.dapr import scheduler_pb2 as pb
from raftsched.testing.process import SOURCE, free_ports

sys.path.append(str(Path(__file__).resolve().parents[1] / "process"))
from serving import fetch, metrics

pytestmark = pytest.mark.process
FATAL = re.compile(r'level=fatal msg="((?:[^"\\]|\\.)*)"')
TIMEOUT_S = 60
REFUSED = [
    *("--etcd-client-endpoints=x:1", "--etcd-client-username=u", "--etcd-client-password=u", "--etcd-embed=false", "--kubeconfig=/x"),
    *("--etcd-space-quota=junk", "--etcd-backend-batch-interval=junk", "--workers=0", "--workers=-1", "--id=other", "--tls-enabled"),
    *("--etcd-initial-cluster=x", "--etcd-initial-cluster=dapr-scheduler-server-0", "--etcd-initial-cluster=", "--log-level=junk"),
    *("--unknown", "--help", "-h", "--port=abc", "--tls-enabled=maybe", "--version", "--port", "-x", "--etcd-max-wals=-1"),
    *("--etcd-compaction-mode=junk", "--etcd-compaction-retention=junk", "--log-file=/nonexistent/log"),
]


def ended(command: Sequence[str], flag: str, folder: Path) -> tuple[int, list[str]]:
    """Exit code and the fatal lines, each up to where the real one goes on about what else it stopped."""
    ports = free_ports(5)
    flags = [f"--port={ports[0]}", f"--healthz-port={ports[1]}", f"--metrics-port={ports[2]}", f"--etcd-client-port={ports[3]}"]
    flags += ["--listen-address=127.0.0.1", f"--etcd-data-dir={folder}"]
    if not flag.startswith("--etcd-initial-cluster"):
        flags.append(f"--etcd-initial-cluster=dapr-scheduler-server-0=http://127.0.0.1:{ports[4]}")
    whole, environment = [*command, *flags, flag], {"PYTHONPATH": str(SOURCE)}
    done = subprocess.run(whole, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, cwd=folder, env=environment)
    return done.returncode, [text.split("\\n")[0] for text in FATAL.findall(done.stdout)]


@pytest.mark.parametrize("flag", REFUSED)
def test_command_lines_that_are_refused(flag: str, tmp_path: Path) -> None:
    """The same exit code and the same last words."""
    theirs = ended([str(dapr_scheduler())], flag, tmp_path)
    assert ended([sys.executable, "-m", "raftsched", "serve"], flag, tmp_path) == theirs
    assert (theirs[0] == 1) == bool(theirs[1])


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(dapr_scheduler(), tmp_path_factory.mktemp("outside")) as made:
        yield made


def test_health(sides: Pair) -> None:
    for path in ("/healthz", "/healthz?x", "/"):
        theirs, ours = (fetch(side.server.healthz_port, path) for side in sides.sides)
        assert theirs[0] == ours[0], path
    assert fetch(sides.theirs.server.healthz_port, "/healthz") == fetch(sides.ours.server.healthz_port, "/healthz") == (200, "")


def traffic(sides: Pair) -> None:
    """Some of each call, good and bad."""
    for owner in (app(), actor()):
        for name in ("a", "b", "c"):
            sides.ask("ScheduleJob", schedule_request(name, owner, due_time="0s"))
        sides.ask("ScheduleJob", schedule_request("a", owner, schedule="@yearly", overwrite=True))
        sides.ask("ScheduleJob", schedule_request("a", owner, schedule="@yearly"))
        sides.ask("ScheduleJob", schedule_request("bad", owner, schedule="bad"))
        sides.ask("ScheduleJob", schedule_request("bad/", owner, schedule="@yearly"))
        sides.ask("DeleteJob", pb.DeleteJobRequest(name="c", metadata=owner))
        sides.ask("DeleteJob", pb.DeleteJobRequest(name="never", metadata=owner))
        sides.ask("GetJob", pb.GetJobRequest(name="never", metadata=owner))
    sides.ask("DeleteByMetadata", pb.DeleteByMetadataRequest(metadata=app("nobody")))
    sides.ask("DeleteByNamePrefix", pb.DeleteByNamePrefixRequest(name_prefix="x", metadata=app("nobody")))
    sides.ask("GetJob", pb.GetJobRequest(name="never"))
    sides.ask("ListJobs", pb.ListJobsRequest(metadata=app("")))


def scheduler_samples(port: int) -> dict[str, float]:
    """Those of the scheduler, but for what takes time; labels in one order."""
    found = {}
    for name, value in metrics(port).items():
        if name.startswith("dapr_scheduler") and "latency_bucket" not in name and "latency_sum" not in name:
            bare, _, labels = name.partition("{")
            found[bare + "{" + ",".join(sorted(labels.rstrip("}").split(",")))] = value
    return found


def test_metrics(sides: Pair) -> None:
    """After the same traffic the same samples have the same values; ours has them at zero before, too."""
    traffic(sides)
    for side in sides.sides:
        stream = Stream(side, opening(actor_types=["cat"])).until(lambda one: len(one.triggers) == 2)
        for trigger in stream.triggers:
            stream.send(result(pb.WatchJobsResponse.FromString(trigger).id))
        stream.until(lambda _, side=side: len(side.stored(b"dapr/jobs/")) == 2)  # type: ignore[misc]
        theirs_connected = scheduler_samples(side.server.metrics_port)["dapr_scheduler_sidecars_connected{"]
        assert theirs_connected == 1
        stream.close()
    theirs, ours = (scheduler_samples(side.server.metrics_port) for side in sides.sides)
    del theirs["dapr_scheduler_sidecars_connected{"], ours["dapr_scheduler_sidecars_connected{"]  # their streams end soon, not at once
    undelivered = {name for name in theirs if "undelivered" in name}  # how often a job without a stream was looked at is chance
    assert {name: value for name, value in theirs.items() if name not in undelivered} == {
        name: ours.get(name) for name in theirs if name not in undelivered
    }
    assert {value for name, value in ours.items() if name not in theirs} <= {0.0}


def test_names_of_metrics(sides: Pair) -> None:
    """All that the real one tells of its scheduler and its etcd is told by ours, but for what etcd calls debugging, and its Go."""
    names = [{re.split(r"[{ ]", name)[0] for name in metrics(side.server.metrics_port)} for side in sides.sides]
    wanted = {name for name in names[0] if name.startswith(("dapr_", "etcd_", "grpc_", "os_", "process_"))}
    missing = {name for name in wanted - names[1] if not name.startswith(("etcd_debugging_", "etcd_snap_db_"))}
    assert missing <= {"etcd_server_go_version"}
