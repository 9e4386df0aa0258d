"""`raftsched import dapr` and `raftsched export` between running servers: nothing is lost, counters come along, nothing comes twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import COUNTERS, JOBS, Clients, Worker, composed, wait_for

from raftsched.cli.moving import gob
from raftsched.pb.dapr import scheduler_pb2
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.authority import Authority
from raftsched.testing.exported import write_export
from raftsched.testing.process import ServerProcess

pytestmark = pytest.mark.process
REPEATS = 8
FAR = "10h"
MARKS = b"raftsched/imports/"


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "raftsched", *map(str, words)]


def run(*words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done


def told(*words: object, code: int = 0) -> dict[str, int]:
    return json.loads(run(*words, "--json", code=code).stdout)  # type: ignore[no-any-return]


@pytest.fixture
def old(tmp_path: Path) -> Iterator[ServerProcess]:
    """Where the jobs are."""
    with ServerProcess(tmp_path / "old") as running:
        yield running


@pytest.fixture
def theirs(old: ServerProcess) -> Iterator[Clients]:
    opened = Clients(old)
    yield opened
    opened.close()


def fill(clients: Clients, server: ServerProcess) -> None:
    """Jobs of all kinds; of one, three ticks are over."""
    clients.schedule("tick", schedule="@every 1s", repeats=REPEATS)
    for number in range(30):
        clients.schedule(f"far-{number}", due_time=FAR)
    clients.schedule("odd é||name", schedule="0 0 3 1 1 *", ttl="90000h")
    target = scheduler_pb2.JobTargetMetadata(actor=scheduler_pb2.TargetActorReminder(type="Cart", id="7"))
    metadata = scheduler_pb2.JobMetadata(app_id="app", namespace="default", target=target)
    job = scheduler_pb2.Job(due_time=FAR)
    clients.scheduler.ScheduleJob(scheduler_pb2.ScheduleJobRequest(name="remind", job=job, metadata=metadata), timeout=10)
    with Worker(server) as worker:
        wait_for(lambda: len(worker.acknowledged) >= 3, 20, "no ticks")
    wait_for(lambda: clients.counter("tick") is not None, 10, "nothing was counted")
    time.sleep(0.3)  # the last result is committed


def saved(form: str, server: ServerProcess, place: Path) -> str:
    """The source of an import, of a server that stops behind it unless it is to be asked itself."""
    if form == "live":
        return f"http://{server.client_address}"
    path = place / f"saved.{form}"
    if form == "snapshot":
        run("snapshot", "save", path, "--address", server.client_address)
    else:
        run("export", path, "--address", server.client_address)
    server.kill()
    return str(path)


@pytest.mark.parametrize("form", ["live", "snapshot", "export"])
def test_jobs_go_on_where_they_were(form: str, old: ServerProcess, theirs: Clients, tmp_path: Path) -> None:
    fill(theirs, old)
    before = {**theirs.under(JOBS), **theirs.under(COUNTERS)}
    counter = theirs.counter("tick")
    assert counter is not None
    source = saved(form, old, tmp_path)
    with ServerProcess(tmp_path / "new") as new:
        words = ("import", "dapr", source, "--address", new.client_address)
        jobs = sum(key.startswith(JOBS) for key in before)
        dry = told(*words, "--dry-run")
        assert (dry["created"], dry["jobs"]) == (jobs, jobs)
        opened = Clients(new)
        assert opened.under(b"dapr/jobs/") == opened.under(MARKS) == {}
        first = told(*words)
        assert (first["created"], first["kept"], first["jobs"]) == (jobs, 0, jobs)
        assert {**opened.under(JOBS), **opened.under(COUNTERS)} == before
        with Worker(new) as worker:
            wait_for(lambda: opened.stored_job("tick") is None, 40, "it does not end")
            assert worker.deliveries == ["tick"] * (REPEATS - counter.count), "the count did not come along"
            second = told(*words)
            assert (second["earlier"], second["created"]) == (jobs, 0)
            time.sleep(1.5)
            assert len(worker.deliveries) == REPEATS - counter.count, "what had ended came back"
        assert opened.listed() == {f"far-{number}" for number in range(30)} | {"odd é||name"}
        opened.close()


@pytest.mark.parametrize("form", ["live", "snapshot", "export"])
def test_a_new_data_directory(form: str, old: ServerProcess, theirs: Clients, tmp_path: Path) -> None:
    """For `serve`; nothing is made over what is there."""
    fill(theirs, old)
    before = {**theirs.under(JOBS), **theirs.under(COUNTERS)}
    counter = theirs.counter("tick")
    assert counter is not None
    words = ("import", "dapr", saved(form, old, tmp_path), "--data-dir", tmp_path / "new" / "data")
    found = told(*words)
    assert found["keys"] >= len(before)
    if form == "live":
        old.kill()
    with ServerProcess(tmp_path / "new") as new:
        opened = Clients(new)
        assert {**opened.under(JOBS), **opened.under(COUNTERS)} == before
        with Worker(new) as worker:
            wait_for(lambda: opened.stored_job("tick") is None, 40, "it does not end")
            assert worker.deliveries == ["tick"] * (REPEATS - counter.count)
        opened.schedule("another", due_time=FAR)
        opened.close()
    if form != "live":
        assert "not empty" in run(*words, code=2).stderr


def test_an_export_is_read_by_scripts_and_replaces_nothing_unasked(old: ServerProcess, theirs: Clients, tmp_path: Path) -> None:
    fill(theirs, old)
    done = run("export", "-", "--format", "jsonl", "--address", old.client_address)
    lines = {one["key"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert set(lines) == {key.decode() for key in theirs.under(JOBS)}
    tick = lines[JOBS.decode() + composed("tick").decode()]
    counter = theirs.counter("tick")
    assert counter is not None
    assert (tick["schedule"], tick["repeats"], tick["count"], tick["app_id"]) == ("@every 1s", REPEATS, counter.count, "app")
    file = tmp_path / "jobs.export"
    counts = told("export", file, "--address", old.client_address)
    assert (counts["jobs"], counts["counters"]) == (len(lines), 1)
    assert {key: value for key, value, _ in gob.read(str(file))} == {**theirs.under(JOBS), **theirs.under(COUNTERS)}
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_bytes()
    assert "exists: give another name, or --force" in run("export", file, "--address", old.client_address, code=2).stderr
    assert file.read_bytes() == before
    run("export", file, "--address", old.client_address, "--force", "--format", "jsonl")
    assert len(file.read_text().splitlines()) == len(lines)
    assert sorted(one.name for one in tmp_path.iterdir() if one.is_file()) == ["jobs.export"]
    assert "goes with --format jsonl" in run("export", "-", "--address", old.client_address, code=2).stderr


def test_other_jobs_of_the_same_name_stay_until_it_is_said(old: ServerProcess, theirs: Clients, tmp_path: Path) -> None:
    theirs.schedule("mine", due_time=FAR)
    theirs.schedule("new", due_time=FAR)
    file = tmp_path / "jobs.export"
    run("export", file, "--address", old.client_address)
    theirs.schedule("mine", due_time="20h", overwrite=True)
    theirs.delete_under(JOBS + composed("new"))
    kept = theirs.get(JOBS + composed("mine"))
    words = ("import", "dapr", file, "--address", old.client_address)
    done = run(*words, "--json", code=4)
    assert done.stderr.count("\n") == 1
    assert "1 job was not imported, since other jobs have the names: app||default||app||mine" in done.stderr
    found = json.loads(done.stdout)
    assert (found["created"], found["kept_names"]) == (1, ["app||default||app||mine"])
    assert theirs.get(JOBS + composed("mine")) == kept
    assert told(*words, "--again", "--keep")["kept"] == 1
    assert told(*words, "--again", "--overwrite")["replaced"] == 1
    stored = theirs.stored_job("mine")
    assert stored is not None
    assert stored.job.due_time == FAR


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_half_way_it_goes_on(number: signal.Signals, old: ServerProcess, theirs: Clients, tmp_path: Path) -> None:
    jobs = 6_000
    write_export(tmp_path / "jobs.export", jobs)
    words = ("import", "dapr", tmp_path / "jobs.export", "--address", old.client_address, "--scratch", tmp_path)
    importing = subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    request = rpc_pb2.RangeRequest(key=JOBS, range_end=b"dapr/jobs0", count_only=True)
    wait_for(lambda: theirs.kv.Range(request, timeout=10).count > jobs // 5, 60, "nothing is imported")
    importing.send_signal(number)
    output = importing.communicate(timeout=30)
    assert importing.returncode != 0, "it was too quick to be killed"
    assert b"Traceback" not in output[1]
    done = theirs.kv.Range(request, timeout=10).count
    assert done < jobs
    gone = JOBS + composed("0000000")  # fired and ended since
    theirs.kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=gone), timeout=10)
    found = told(*words)
    assert (found["earlier"], found["created"]) == (done, jobs - done)
    assert theirs.kv.Range(request, timeout=10).count == jobs - 1
    wait_for(lambda: len(theirs.under(COUNTERS)) == jobs - 1, 10, "counters are missing, or one of a job that is gone")


def test_memory_is_bounded(old: ServerProcess, theirs: Clients, tmp_path: Path) -> None:
    """The same for 2 000 jobs and for 20 000 of the same size, whose bytes are 40 MB."""
    most = []
    for jobs in (2_000, 20_000):
        file = tmp_path / f"{jobs}.export"
        write_export(file, jobs, payload_bytes=2_000)
        words = command("import", "dapr", file, "--address", old.client_address, "--scratch", tmp_path, "--dry-run")
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        most.append(usage.ru_maxrss // 1024)
    print(f"MiB at most: {most}")
    assert most[1] - most[0] < 90, most  # the cache of the database that puts it in order is 64 MiB


def test_over_tls_as_a_user(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    authority.issue("server")
    tls = [f"--cert-file={authority.path('server.crt')}", f"--key-file={authority.path('server.key')}"]
    with ServerProcess(tmp_path / "old", args=tls) as old, ServerProcess(tmp_path / "new", args=tls) as new:
        ca = authority.path("ca.crt")
        for server in (old, new):
            run_etcdctl_auth(server, ca)
        from_, to = f"https://{old.client_address}", f"https://{new.client_address}"
        clients = Clients(old)
        clients.schedule("a", due_time=FAR)
        clients.close()
        words = ["import", "dapr", from_, "--address", to, "--source-cacert", ca, "--cacert", ca]
        assert "user name is empty" in run(*words, code=1).stderr
        assert "user name is empty" in run(*words, "--source-user", "root:pw", code=1).stderr
        assert "authentication failed" in run(*words, "--source-user", "root:no", "--user", "root:pw", code=1).stderr
        assert told(*words, "--source-user", "root:pw", "--user", "root:pw")["created"] == 1
        file = tmp_path / "jobs.export"
        assert "user name is empty" in run("export", file, "--address", to, "--cacert", ca, code=1).stderr
        assert not file.exists()
        assert told("export", file, "--address", to, "--cacert", ca, "--user", "root:pw")["jobs"] == 1


def run_etcdctl_auth(server: ServerProcess, ca: str) -> None:
    """A user root, and nobody without a name."""
    import grpc

    with grpc.secure_channel(server.client_address, grpc.ssl_channel_credentials(Path(ca).read_bytes())) as channel:
        auth = rpc_pb2_grpc.AuthStub(channel)
        auth.UserAdd(rpc_pb2.AuthUserAddRequest(name="root", password="pw"), timeout=20)
        auth.UserGrantRole(rpc_pb2.AuthUserGrantRoleRequest(user="root", role="root"), timeout=20)
        auth.AuthEnable(rpc_pb2.AuthEnableRequest(), timeout=20)


def test_what_goes_wrong_is_one_line(old: ServerProcess, tmp_path: Path) -> None:
    (tmp_path / "cut").write_bytes(gob.DESCRIPTIONS + b"\x17\xff\x80\x01")
    (tmp_path / "empty").write_bytes(b"")
    foreign = tmp_path / "foreign"
    with foreign.open("w+b") as file:
        writer = gob.Writer(file)
        writer.begin(1, 1)
        writer.add(b"registry/pods/a", b"")
        writer.end()
    here = ("--address", old.client_address)
    for words, code, text in (
        ((tmp_path / "cut", *here), 1, "or it was cut"),
        ((tmp_path / "empty", *here), 1, "it holds no value"),
        ((foreign, *here), 1, "is neither a job's key nor a counter's"),
        ((tmp_path / "nothing", *here), 2, "no such file or directory, and no host:port"),
        ((tmp_path, *here), 2, "neither a snapshot file nor the data directory"),
        (("127.0.0.1:1", *here), 1, "cannot read 127.0.0.1:1"),
        ((f"http://{old.client_address}", *here), 2, "are the same cluster"),
        ((tmp_path / "cut", "--data-dir", tmp_path / "made"), 1, "or it was cut"),
        (("nowhere", "--data-dir", tmp_path / "made"), 2, "no such file or directory, and no host:port"),
        (("127.0.0.1:1", "--data-dir", tmp_path / "made"), 1, "cannot reach the server"),
        ((tmp_path / "cut", "--data-dir", tmp_path / "made", "--dry-run"), 2, "are for a running server"),
        (("ftp://h:1", *here), 2, "give host:port"),
    ):
        done = run("import", "dapr", *words, code=code)
        assert text in done.stderr
        assert done.stderr.count("\n") == 1 or code == 2, done.stderr
        assert done.stdout == ""
    assert not (tmp_path / "made").exists() or not any(path.is_file() for path in (tmp_path / "made").rglob("*"))
    write_export(tmp_path / "jobs.export", 3)
    done = run("import", "dapr", tmp_path / "jobs.export", "--address", "127.0.0.1:1", code=1)
    assert "cannot write to 127.0.0.1:1" in done.stderr
    assert "run the same command again to go on" in done.stderr
    assert not [one for one in tmp_path.iterdir() if one.name.startswith("raftsched-import-")]
