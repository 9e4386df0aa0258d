"""`raftsched snapshot …` against a running server, and over kills of either side."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from clustering import get, put
from serving import JOBS, Clients, Worker, refused, wait_for

from raftsched.errors import FatalError
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.store.backend.directory import DataDirectory
from raftsched.store.bolt._bolt import BoltFile
from raftsched.testing.cluster import Cluster
from raftsched.testing.process import ServerProcess

pytestmark = pytest.mark.process
BIG_MIB = 96
NAME = "dapr-scheduler-server-0"
INSTANCE = f"default-{NAME}"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "raftsched", *map(str, arguments)]


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done


def fill_big(clients: Clients) -> None:
    for number in range(BIG_MIB):
        clients.put(b"big-%d" % number, os.urandom(1 << 20))


def nameless_files(server: ServerProcess) -> int:
    """Files of snapshots that the server has open: they have no name any more."""
    assert server.process is not None
    found = 0
    for one in Path(f"/proc/{server.process.pid}/fd").iterdir():
        try:
            found += "export." in os.readlink(one)
        except FileNotFoundError:
            continue
    return found


def exports(server: ServerProcess) -> list[Path]:
    return list(server.directory.rglob("export.*"))


# --------------------------------------------------------------------------------------------------------------------
# Save
# --------------------------------------------------------------------------------------------------------------------


def test_a_put_that_was_answered_before_is_in_it(server: ServerProcess, clients: Clients, tmp_path: Path) -> None:
    for number in range(8):
        revision = clients.put(b"key", b"%d" % number)
        run("snapshot", "save", tmp_path / f"{number}.db", "--address", server.client_address)
        bolt = BoltFile(str(tmp_path / f"{number}.db"))
        assert bolt.digest()[1] >= revision
        assert any(key[:8] == revision.to_bytes(8, "big") for key, _ in bolt.items("key"))


def test_save_tells_what_it_saved_and_replaces_nothing_unasked(server: ServerProcess, clients: Clients, tmp_path: Path) -> None:
    clients.put(b"a", b"b")
    file = tmp_path / "saved.db"
    told = json.loads(run("snapshot", "save", file, "--address", server.client_address, "--json").stdout)
    assert told["size_bytes"] == file.stat().st_size
    assert told["version"] == "3.7.0"
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_bytes()
    assert "exists: give another name, or --force" in run("snapshot", "save", file, "--address", server.client_address, code=2).stderr
    assert file.read_bytes() == before
    clients.put(b"a", b"c")
    run("snapshot", "save", file, "--force", "--address", server.client_address)
    assert file.read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["saved.db"]
    assert "size bytes" in run("snapshot", "save", tmp_path / "2.db", "--address", server.client_address).stdout
    assert "Error:" in run("snapshot", "save", tmp_path / "3.db", "--address", "127.0.0.1:1", code=1).stderr
    assert not (tmp_path / "3.db.part").exists()


def test_others_are_answered_meanwhile(server: ServerProcess, clients: Clients, tmp_path: Path) -> None:
    fill_big(clients)
    saving = subprocess.Popen(command("snapshot", "save", tmp_path / "saved.db", "--address", server.client_address))
    slowest, count = 0.0, 0
    while saving.poll() is None:
        began = time.monotonic()
        clients.put(b"meanwhile", b"%d" % count)
        slowest, count = max(slowest, time.monotonic() - began), count + 1
    assert saving.returncode == 0
    assert count > 50
    assert slowest < 1.0, "one put waited for the snapshot"  # a machine that others use; the figure is in docs/etcd-snapshots.md
    assert BoltFile(str(tmp_path / "saved.db")).digest()[2] >= BIG_MIB


def test_a_client_that_goes_away_costs_nothing(server: ServerProcess, clients: Clients) -> None:
    fill_big(clients)
    for taken in (0, 1, 50):
        stream = clients.maintenance.Snapshot(rpc_pb2.SnapshotRequest())
        for _ in range(taken):
            next(stream)
        stream.cancel()
    wait_for(lambda: nameless_files(server) == 0, 20, "the files of snapshots stay open")
    assert exports(server) == []
    assert len(list(clients.maintenance.Snapshot(rpc_pb2.SnapshotRequest(), timeout=60))) > BIG_MIB


def test_so_many_at_a_time_and_one_that_does_not_read_holds_nobody_up(server: ServerProcess, clients: Clients) -> None:
    fill_big(clients)
    held = [clients.maintenance.Snapshot(rpc_pb2.SnapshotRequest()) for _ in range(4)]
    for stream in held:
        next(stream)
    assert nameless_files(server) == 4
    assert refused(lambda: next(clients.maintenance.Snapshot(rpc_pb2.SnapshotRequest(), timeout=20))) == (
        grpc.StatusCode.UNKNOWN,
        "etcdserver: too many requests",
    )
    for number in range(50):
        clients.put(b"meanwhile", b"%d" % number)
    held.pop().cancel()
    wait_for(lambda: nameless_files(server) == 3, 20, "a place does not become free")
    assert len(list(clients.maintenance.Snapshot(rpc_pb2.SnapshotRequest(), timeout=60))) > BIG_MIB
    for stream in held:
        stream.cancel()


@pytest.mark.parametrize("who", ["server", "client"])
def test_a_kill_during_a_save_leaves_no_file(who: str, server: ServerProcess, clients: Clients, tmp_path: Path) -> None:
    fill_big(clients)
    file = tmp_path / "saved.db"
    for delay_s in (0.5, 0.7, 0.9):
        saving = subprocess.Popen(command("snapshot", "save", file, "--address", server.client_address), stderr=subprocess.PIPE)
        part = tmp_path / "saved.db.part"
        wait_for(lambda: saving.poll() is not None or (part.exists() and part.stat().st_size > delay_s * 10_000_000), 30, "nothing comes")  # noqa: B023  # called in this round
        if who == "client":
            saving.kill()
            saving.wait()
            wait_for(lambda: nameless_files(server) == 0, 20, "the file of the snapshot stays open")
        else:
            server.kill()
            assert saving.wait(30) == 1
            assert not part.exists()
            server.start()
        assert saving.stderr is not None
        saving.stderr.close()
        assert not file.exists()
        assert exports(server) == []
    run("snapshot", "save", file, "--address", server.client_address)
    assert BoltFile(str(file)).digest()[2] >= BIG_MIB


def test_what_a_kill_at_the_worst_moment_leaves_goes_at_the_next_start(tmp_path: Path) -> None:
    """Between the file's making and its unlinking."""
    DataDirectory(tmp_path, instance="x").close()
    left = tmp_path / "x" / "raftsched-1" / "snap" / "export.1.tmp"
    left.write_bytes(b"")
    DataDirectory(tmp_path, instance="x").close()
    assert not left.exists()


# --------------------------------------------------------------------------------------------------------------------
# Status
# --------------------------------------------------------------------------------------------------------------------


def test_status_refuses_what_is_damaged(server: ServerProcess, clients: Clients, tmp_path: Path) -> None:
    clients.put(b"a", b"b" * 100_000)
    file = tmp_path / "saved.db"
    run("snapshot", "save", file, "--address", server.client_address)
    assert "sha256 checked  True" in run("snapshot", "status", file).stdout
    whole = file.read_bytes()
    file.write_bytes(whole[:20_000] + b"?" + whole[20_001:])
    done = run("snapshot", "status", file, code=1)
    assert "expected sha256" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "expected sha256" in run("snapshot", "restore", file, "--data-dir", tmp_path / "new", code=1).stderr
    file.write_bytes(whole[:-32])
    assert "no SHA-256 at its end" in run("snapshot", "restore", file, "--data-dir", tmp_path / "new", code=1).stderr
    assert not (tmp_path / "new").exists() or not any(path.is_file() for path in (tmp_path / "new").rglob("*"))
    run("snapshot", "restore", file, "--data-dir", tmp_path / "new", "--skip-hash-check")
    file.write_bytes(whole[:30_000])
    assert "it was cut" in run("snapshot", "status", file, code=1).stderr
    assert "no such file" in run("snapshot", "status", tmp_path / "nothing", code=2).stderr
    assert "neither a snapshot file nor" in run("snapshot", "status", tmp_path, code=2).stderr


# --------------------------------------------------------------------------------------------------------------------
# Restore
# --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(server: ServerProcess, clients: Clients, tmp_path: Path) -> Path:
    for number in range(300):
        clients.put(b"key-%d" % number, b"v%d" % number * 50)
    run("snapshot", "save", tmp_path / "saved.db", "--address", server.client_address)
    return tmp_path / "saved.db"


def test_nothing_is_restored_over_what_is_there(saved: Path, tmp_path: Path) -> None:
    for layout, target in (("serve", tmp_path / "new" / INSTANCE / "raftsched-1"), ("etcd", tmp_path / "new.etcd")):
        target.mkdir(parents=True)
        (target / "mine").write_text("mine")
        root = tmp_path / ("new" if layout == "serve" else "new.etcd")
        done = run("snapshot", "restore", saved, "--data-dir", root, "--layout", layout, code=2)
        assert "not empty" in done.stderr
        assert [path.name for path in root.rglob("*") if path.is_file()] == ["mine"]


def test_the_layout_of_etcd(saved: Path, tmp_path: Path) -> None:
    flags = ("--layout", "etcd", "--name", "m1", "--data-dir", tmp_path / "m1", "--wal-dir", tmp_path / "logs" / "m1")
    told = json.loads(run("snapshot", "restore", saved, *flags, "--json").stdout)
    assert told["path"] == str(tmp_path / "m1" / "member")
    assert (tmp_path / "m1" / "member" / "db.0" / "data.mdb").exists()
    assert not (tmp_path / "m1" / "member" / "wal").exists()
    assert [path.suffix for path in (tmp_path / "logs" / "m1").iterdir() if path.suffix == ".wal"] == [".wal"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.endswith(".restoring")) == []
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["m1"]


KILLER = """
import os, sys
count, watched = int(sys.argv[1]), sys.argv[2]
sys.argv = ["raftsched", *sys.argv[3:]]
done = 0

def hook(event, arguments):
    global done
    if event in {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"} and watched in str(arguments[0]):
        done += 1
        if done == count:
            os._exit(137)

from raftsched.cli.app import run
import raftsched.cli.snapshot
sys.addaudithook(hook)
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["serve", "etcd"])
def test_a_restore_killed_at_each_of_its_steps_leaves_nothing_that_starts(layout: str, saved: Path, tmp_path: Path) -> None:
    """At each file that it opens, names or removes. The next one goes through, whatever is left."""
    root = tmp_path / "killed"
    flags = ["--data-dir", str(root), "--layout", layout]
    flags += ["--wal-dir", str(tmp_path / "killed-logs")] if layout == "etcd" else []
    unfinished = 0
    for count in range(1, 500):
        arguments = [sys.executable, "-c", KILLER, str(count), str(root), "snapshot", "restore", str(saved), *flags]
        killed = subprocess.run(arguments, timeout=60, check=False)
        if killed.returncode == 0:
            break
        assert killed.returncode == 137
        if layout == "serve":
            target = root / INSTANCE / "raftsched-1"
            if target.exists():  # the last step was done: everything is there
                member = DataDirectory(root, instance=INSTANCE)
                assert Path(member.database_path, "data.mdb").exists()
                member.close()
                subprocess.run(["rm", "-r", str(root)], check=True)
            elif target.with_name("raftsched-1.restoring").exists():
                unfinished += 1
                with pytest.raises(FatalError, match="has not finished: refusing to start empty"):
                    DataDirectory(root, instance=INSTANCE)
                assert not target.exists()
        elif (root / "member").exists():  # the log comes last: without it a start refuses
            logs = tmp_path / "killed-logs"
            assert not (root / "member" / "wal").exists()
            assert not logs.exists() or any(logs.glob("*.wal"))
            subprocess.run(["rm", "-rf", str(root), str(logs)], check=True)
        else:
            unfinished += root.with_name("killed.restoring").exists()
    else:
        raise AssertionError("it never came to an end")
    assert count > 15
    assert unfinished > 10
    if layout == "serve":
        server = ServerProcess(tmp_path / "again")
        (tmp_path / "again").mkdir()
        root.rename(tmp_path / "again" / "data")
        with server:
            opened = Clients(server)
            assert len(opened.under(b"key-")) == 300
            opened.close()


def test_two_restores_at_a_time_do_not_meet(saved: Path, tmp_path: Path) -> None:
    held = DataDirectory(tmp_path / "new" / INSTANCE / "raftsched-1.restoring", instance=None)
    done = run("snapshot", "restore", saved, "--data-dir", tmp_path / "new", code=1)
    assert "another restore is under way" in done.stderr
    held.close()
    run("snapshot", "restore", saved, "--data-dir", tmp_path / "new")


def restored_cluster(cluster: Cluster, files: list[Path]) -> None:
    """Each member from its file, as the same list says."""
    for member, file in zip(cluster.members, files, strict=True):
        listed = next(word for word in member.command if word.startswith("--etcd-initial-cluster=")).removeprefix("--etcd-initial-cluster=")
        flags = ("--name", member.name, "--initial-cluster", listed, "--data-dir", member.directory / "data")
        run("snapshot", "restore", file, *flags)


def test_members_of_one_snapshot_are_a_cluster(saved: Path, server: ServerProcess, tmp_path: Path) -> None:
    server.kill()
    cluster = Cluster(tmp_path / "cluster", 3)
    restored_cluster(cluster, [saved] * 3)
    with cluster:
        assert {get(member, b"key-7", serializable=True) for member in cluster.members} == {b"v7" * 50}
        put(cluster.members[1], b"key-7", b"new")
        wait_for(lambda: get(cluster.members[2], b"key-7") == b"new", 10, "what one took the other has not")
        hashes = set()
        for member in cluster.members:
            with grpc.insecure_channel(member.client_address) as channel:
                stub = rpc_pb2_grpc.MaintenanceStub(channel)
                hashes.add(stub.HashKV(rpc_pb2.HashKVRequest(revision=300), timeout=20).hash)
        assert len(hashes) == 1
        wiped = cluster.members[2]
        wiped.kill()
        wiped.wipe()  # begins empty, with the list of the founders: it must get the restored data, not take itself for one of them
        wiped.start()  # healthy, and a learner still: a moment later it votes

        def served() -> bool:
            try:
                return get(wiped, b"key-8") == b"v8" * 50
            except grpc.RpcError as error:
                if "rpc not supported for learner" not in str(error):
                    raise
                return False

        wait_for(served, 20, "it remains a learner")
        wait_for(lambda: get(wiped, b"key-8", serializable=True) == b"v8" * 50, 20, "it has not what was restored")


def test_members_of_different_snapshots_refuse_each_other(saved: Path, server: ServerProcess, clients: Clients, tmp_path: Path) -> None:
    clients.put(b"more", b"1")
    run("snapshot", "save", tmp_path / "later.db", "--address", server.client_address)
    server.kill()
    cluster = Cluster(tmp_path / "cluster", 3)
    restored_cluster(cluster, [saved, saved, tmp_path / "later.db"])
    cluster.start(wait=False)
    try:
        for member in cluster.members[:2]:
            member.wait_ready(40)
        assert get(cluster.members[0], b"more") is None
        odd = cluster.members[2]
        assert odd.process is not None
        assert odd.process.wait(40) == 1
        odd.process = None
        assert "refusing to serve" in odd.logs()
    finally:
        for member in cluster.members:
            if member.running:
                member.kill()


def test_jobs_go_on(server: ServerProcess, clients: Clients, tmp_path: Path) -> None:
    """Ours into ours: one member again, with jobs that fire."""
    clients.schedule("tick", schedule="@every 300ms")
    clients.schedule("later", due_time="3600s")
    kept = {key: value for key, value in clients.under(JOBS).items() if b"later" in key}
    run("snapshot", "save", tmp_path / "saved.db", "--address", server.client_address)
    server.kill()
    again = ServerProcess(tmp_path / "again")
    run("snapshot", "restore", tmp_path / "saved.db", "--data-dir", tmp_path / "again" / "data")
    with again:
        opened = Clients(again)
        assert {key: value for key, value in opened.under(JOBS).items() if b"later" in key} == kept
        with Worker(again) as worker:
            wait_for(lambda: worker.deliveries.count("tick") >= 3, 40, "the job does not fire")
        assert "later" not in worker.deliveries
        opened.close()
