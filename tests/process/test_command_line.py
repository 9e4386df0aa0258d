"""The process as a tool that starts it sees it: environment, streams, texts, exit codes, ports (spec/scheduler.md §2, §10, §12)."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serving import Clients, Worker, fetch, job_metadata, metrics, refused, wait_for

from raftsched.pb.dapr import scheduler_pb2
from raftsched.pb.etcd import rpc_pb2
from raftsched.testing.process import SOURCE, ServerProcess, free_ports

pytestmark = pytest.mark.process
TREE = {"PYTHONPATH": str(SOURCE)}
"""This very tree, wherever the package is installed."""
SERVE = [sys.executable, "-m", "raftsched", "serve"]
CLUSTER = "Fatal error running scheduler: failed to create etcd config: "
FORMAT = "invalid format for initial cluster. Make sure to include 'http://' or 'https://' in Scheduler URL: "
FATAL = {
    ("--etcd-client-endpoints=a:1",): "cannot use --etcd-client-endpoints with --etcd-embed",
    ("--etcd-client-username=a",): "cannot use --etcd-client-username with --etcd-embed",
    ("--etcd-client-password=a",): "cannot use --etcd-client-password with --etcd-embed",
    ("--etcd-embed=false",): "must specify --etcd-client-endpoints when not using embedded etcd",
    ("--kubeconfig=x",): "kubeconfig flag is only valid in --mode=kubernetes",
    ("--etcd-space-quota=lots",): "failed to parse etcd space quota: ",
    ("--log-level=loud",): "invalid value for --log-level: loud",
    ("--workers=0",): "Fatal error running scheduler: fail to create etcd-cron: workers must be larger than 0",
    ("--id=other",): CLUSTER + "scheduler ID: other is not found in initial cluster",
    ("--etcd-initial-cluster=x",): CLUSTER
    + FORMAT
    + "incorrect format for initialPeerList: [x]. Should contain <id>=http://<ip>:<peer-port>",
    ("--etcd-initial-cluster", "dapr-scheduler-server-0=http://["): CLUSTER + FORMAT + "unable to parse url from initialPeerList: ",
    ("--etcd-backend-batch-interval=soon",): CLUSTER
    + "failed to parse backend batch interval. Please use a string representing time.Duration",
    # what a later version brings is refused, never ignored
    ("--tls-enabled",): "trust anchors are required",
    ("--scheduler-cert-file=/a",): "--scheduler-cert-file and --scheduler-key-file need each other",
    ("--mode=kubernetes",): "trust anchors are required",
    ("--mode=other",): "invalid value for --mode: other",
    ("--placement-enabled=true",): "--placement-enabled is not supported",
    (
        "--etcd-initial-cluster=dapr-scheduler-server-0=http://a:1,b=http://a:1",
    ): "dapr-scheduler-server-0 and b have the same URL: http://a:1",
    (
        "--etcd-initial-cluster=dapr-scheduler-server-0=http://a:1,dapr-scheduler-server-0=http://b:1",
    ): "dapr-scheduler-server-0 is listed twice: http://a:1 and http://b:1",
    ("--config=/nowhere.toml",): "cannot read --config /nowhere.toml: No such file or directory",
}


NOT_THERE = {
    ("--tls-enabled", "--trust-anchors-file=/nowhere.crt"): "cannot read the trust anchors file /nowhere.crt: No such file or directory",
    ("--scheduler-cert-file=/a", "--scheduler-key-file=/b"): "cannot read the certificate file /a: No such file or directory",
}


def run(*words: str, cwd: Path, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SERVE, *words], capture_output=True, text=True, cwd=cwd, env={**TREE, **(environment or {})}, timeout=30, check=False
    )


@pytest.mark.parametrize("words", FATAL, ids=lambda words: " ".join(words)[:40])
def test_a_wrong_value_is_one_fatal_line_on_stdout(words: tuple[str, ...], tmp_path: Path) -> None:
    answer = run(*words, cwd=tmp_path)
    lines = answer.stdout.splitlines()
    assert (answer.returncode, len(lines), answer.stderr) == (1, 1, "")
    assert " level=fatal " in lines[0]
    assert FATAL[words].replace("\\", "\\\\").replace('"', '\\"') in lines[0]
    assert not list(tmp_path.iterdir()), "refused, and made files all the same"


@pytest.mark.parametrize("words", NOT_THERE, ids=" ".join)
def test_a_file_that_is_not_there_is_the_last_line(words: tuple[str, ...], tmp_path: Path) -> None:
    answer = run(*words, cwd=tmp_path)
    levels = [line.split()[1] for line in answer.stdout.splitlines()]
    assert (answer.returncode, set(levels[:-1]), levels[-1], answer.stderr) == (1, {"level=info"}, "level=fatal", "")
    assert NOT_THERE[words] in answer.stdout.splitlines()[-1]
    assert not list(tmp_path.iterdir()), "refused, and made files all the same"


@pytest.mark.parametrize(
    "words", [["--nonsense"], ["--nonsense=1"], ["--workers=many"], ["--tls-enabled=maybe"], ["--port"], ["--replica-count=3"]]
)
def test_an_unknown_or_malformed_flag_is_usage_and_two(words: list[str], tmp_path: Path) -> None:
    answer = run(*words, cwd=tmp_path)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "Usage of raftsched serve:" in answer.stderr
    assert words[0].partition("=")[0] in answer.stderr.splitlines()[0]
    assert "Traceback" not in answer.stderr


def test_help_is_zero(tmp_path: Path) -> None:
    answer = run("--help", cwd=tmp_path)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "--etcd-data-dir" in answer.stdout
    assert "--kubeconfig" not in answer.stdout  # hidden


@pytest.mark.parametrize("text", ["port = ", "nonsense = 1", "port = 'x'", "[section]\nport = 1", b"\xff\xfe"])
def test_a_wrong_config_file_is_one_line(text: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    answer = run(f"--config={path}", cwd=tmp_path)
    assert (answer.returncode, len(answer.stdout.splitlines()), answer.stderr) == (1, 1, "")
    assert str(path) in answer.stdout


def test_an_unwritable_data_directory_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    healthz, port, client, measures = free_ports(4)
    flags = [f"--healthz-port={healthz}", f"--port={port}", f"--etcd-client-port={client}", f"--metrics-port={measures}"]
    answer = run(
        *flags, "--listen-address=127.0.0.1", "--healthz-listen-address=127.0.0.1", f"--etcd-data-dir={tmp_path / 'file'}", cwd=tmp_path
    )
    fatal = [line for line in answer.stdout.splitlines() if "level=fatal" in line]
    assert (answer.returncode, len(fatal)) == (1, 1)
    assert str(tmp_path / "file") in fatal[0]
    assert "Traceback" not in answer.stdout + answer.stderr


def test_it_starts_with_a_bare_environment_in_a_directory_it_cannot_write(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "server", args=["--log-level=DEBUG", "--workers=128", "--etcd-backend-batch-interval", "100ms"])
    server.directory.mkdir()
    with server.stdout_path.open("ab") as out, server.stderr_path.open("ab") as err:
        server.process = subprocess.Popen(server.command, stdout=out, stderr=err, env={**TREE, "NAMESPACE": "default"}, cwd="/proc")
    server.wait_ready()
    wait_for(lambda: "Cron is ready" in server.stdout_path.read_text(), 10, "no quorum")
    assert server.stop() == 0
    texts = server.stdout_path.read_text()
    for text in (
        "Starting Dapr Scheduler Service -- version ",
        " -- commit ",
        "Cron is ready",
        f"Running gRPC server on port {server.scheduler_port}",
    ):
        assert text in texts
    queue = next(line for line in server.stderr_path.read_text().splitlines() if "Starting queue with workers" in line)
    assert queue.endswith('Starting queue with workers","id":"dapr-scheduler-server-0","count":128}')
    for line in server.stderr_path.read_text().splitlines():
        assert list(json.loads(line))[:5] == ["level", "ts", "logger", "caller", "msg"]


def test_options_come_from_file_environment_and_flags_in_this_order(tmp_path: Path) -> None:
    directory = tmp_path / "server"
    directory.mkdir()
    server = ServerProcess(directory, args=[f"--config={directory / 'server.toml'}", "--etcd-max-txn-ops=5"])
    (directory / "server.toml").write_text('etcd-max-txn-ops = 3\nlog_as_json = true\nworkers = "7"\n')
    with server.stdout_path.open("ab") as out, server.stderr_path.open("ab") as err:
        environment = {"NAMESPACE": "default", "RAFTSCHED_WORKERS": "9"}
        server.process = subprocess.Popen(server.command, stdout=out, stderr=err, env=environment, cwd=directory)
    server.wait_ready()
    clients = Clients(server)
    put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"k"))
    refused(
        lambda: clients.kv.Txn(
            rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"k"))] * 6), timeout=10
        )
    )
    clients.kv.Txn(rpc_pb2.TxnRequest(success=[put]), timeout=10)
    clients.close()
    assert server.stop() == 0
    assert {json.loads(line)["scope"] for line in server.stdout_path.read_text().splitlines()} >= {"dapr.scheduler"}
    assert '"count":9}' in server.stderr_path.read_text()


def test_healthz_says_503_until_it_serves(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "server").start(wait=False)
    seen = []
    while 200 not in seen:
        code = server.health()
        if code and (not seen or seen[-1] != code):
            seen.append(code)
        assert server.process is not None
        assert server.process.poll() is None
    assert seen in ([503, 200], [200])
    clients = Clients(server)
    assert fetch(server.healthz_port, "/healthz") == (200, "")
    clients.put(b"k", b"v")  # 200 means that both ports are open
    clients.listed()
    clients.close()
    assert server.stop() == 0


def test_metrics_carry_what_dashboards_use(server: ServerProcess, clients: Clients) -> None:
    for number in range(10):
        clients.put(b"key%d" % number, bytes(1_000))
    with Worker(server) as worker:
        for number in range(5):
            clients.schedule(f"job{number}", due_time="0s")
        with contextlib.suppress(Exception):
            clients.schedule("bad", schedule="x")
        wait_for(lambda: len(worker.deliveries) == 5, 10, "not delivered")
        wait_for(lambda: metrics(server.metrics_port)['dapr_scheduler_jobs_triggered_total{type="job"}'] == 5, 10, "not counted")
        now = metrics(server.metrics_port)
        assert now["dapr_scheduler_sidecars_connected"] == 1
    clients.scheduler.DeleteJob(scheduler_pb2.DeleteJobRequest(name="none", metadata=job_metadata("app")), timeout=10)
    now = metrics(server.metrics_port)
    job = '{type="job"}'
    assert now["dapr_scheduler_jobs_created_total" + job] == 5
    assert now["dapr_scheduler_jobs_created_failed_total" + job] == 1
    assert now["dapr_scheduler_jobs_deleted_total" + job] == 1
    assert now["dapr_scheduler_trigger_latency_count" + job] == 5
    assert _sorted_labels(now)['dapr_scheduler_trigger_latency_bucket{le="+Inf",type="job"}'] == 5
    for name in ("jobs_failed_total", "jobs_undelivered_total"):
        assert now[f"dapr_scheduler_{name}" + job] >= 0
    assert now["dapr_scheduler_jobs_bulk_deleted_total"] == 0
    assert {f'dapr_scheduler_sidecar_errors_total{{reason="{reason}"}}' for reason in ("send_failed", "recv_failed", "auth_failed")} <= set(
        now
    )
    assert now["etcd_server_has_leader"] == 1
    assert now["etcd_server_leader_changes_seen_total"] >= 1
    assert now["etcd_server_proposals_committed_total"] >= now["etcd_server_proposals_applied_total"] - 1 >= 20
    assert now["etcd_server_proposals_failed_total"] == 0
    assert now["etcd_disk_wal_fsync_duration_seconds_count"] >= 10
    assert now['etcd_disk_wal_fsync_duration_seconds_bucket{le="0.001"}'] <= now["etcd_disk_wal_fsync_duration_seconds_count"]
    assert now['etcd_disk_backend_commit_duration_seconds_bucket{le="+Inf"}'] >= 1
    assert now["etcd_mvcc_db_total_size_in_bytes"] >= now["etcd_mvcc_db_total_size_in_use_in_bytes"] > 10_000
    assert now["etcd_server_quota_backend_bytes"] > 1 << 20
    assert now["etcd_mvcc_put_total"] >= 10
    assert now["etcd_network_client_grpc_received_bytes_total"] > 10_000
    assert now["etcd_network_client_grpc_sent_bytes_total"] > 100
    put = 'grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}'
    assert _sorted_labels(now)[put] == 10
    assert now["process_resident_memory_bytes"] > 10 << 20
    assert 0 < now["process_open_fds"] < now["process_max_fds"]
    names = {name.partition("{")[0] for name in now}
    assert {"etcd_server_version", "etcd_cluster_version", "etcd_debugging_mvcc_watch_stream_total", "os_fd_limit", "os_fd_used"} <= names
    assert fetch(server.metrics_port, "/anything")[0] == 200
    assert metrics(server.client_port)["etcd_server_has_leader"] == 1
    assert fetch(server.client_port, "/health") == (200, '{"health":"true","reason":""}')
    assert set(json.loads(fetch(server.client_port, "/version")[1])) >= {"etcdserver", "etcdcluster"}


def _sorted_labels(samples: dict[str, float]) -> dict[str, float]:
    def name_of(sample: str) -> str:
        name, brace, labels = sample.partition("{")
        return name + brace + ",".join(sorted(labels.rstrip("}").split(","))) + "}" * bool(brace)

    return {name_of(sample): value for sample, value in samples.items()}


IMPORTS = """
import sys, threading, os, signal, time
from raftsched.cli.serve import serve
def report():
    import urllib.request
    while True:
        try:
            if urllib.request.urlopen("http://127.0.0.1:%d/healthz" % int(sys.argv[1])).status == 200:
                break
        except OSError:
            time.sleep(0.01)
    names = sorted({name.partition(".")[0] for name in sys.modules} & {"grpc", "typer", "rich", "click", "h2", "lmdb", "croniter"})
    print("IMPORTED", names, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=report, daemon=True).start()
sys.exit(serve(sys.argv[2:]))
"""


def test_a_running_server_has_imported_none_of_the_slow_packages(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "server")
    words = [sys.executable, "-c", IMPORTS, str(server.healthz_port), *server.command[4:]]
    answer = subprocess.run(words, capture_output=True, text=True, env={"NAMESPACE": "default"}, cwd=tmp_path, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "IMPORTED []" in answer.stdout


def test_a_start_takes_less_than_a_second_of_processor_time(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server") as server:
        used_s = server.cpu_seconds()
        assert used_s < 1.0
        assert server.memory_bytes() < 60_000_000


def test_an_idle_server_is_hardly_there(server: ServerProcess) -> None:
    """spec/scheduler.md §12, Parallelism: many instances share a machine: idle CPU and threads are low."""
    assert server.process is not None
    wait_for(lambda: "Cron is ready" in server.stdout_path.read_text(), 10, "no quorum")
    before_s = server.cpu_seconds()
    time.sleep(3)
    assert server.cpu_seconds() - before_s < 0.3  # a tenth of one core, of which it takes a tenth
    assert len(os.listdir(f"/proc/{server.process.pid}/task")) <= 10


def test_logs_go_to_a_file_when_asked(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("before\n")
    server = ServerProcess(tmp_path / "server", args=[f"--log-file={log}"]).start()
    assert server.stop() == 0
    assert server.stdout_path.read_text() == ""
    lines = log.read_text().splitlines()
    assert lines[0] == "before"
    assert "Scheduler service shut down gracefully" in lines[-1]
    assert os.stat(log).st_size > 100
