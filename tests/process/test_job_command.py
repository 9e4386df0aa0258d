"""`raftsched job …` against a real server: what it prints, its exit codes, and a watch that outlives a kill -9."""

import io
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from serving import metrics, wait_for

from raftsched import cli
from raftsched.cli.app import run
from raftsched.testing.cluster import Cluster
from raftsched.testing.process import ServerProcess

pytestmark = pytest.mark.process
TIMEOUT_S = 60


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("job") / "server") as server:
        yield server


def command(*words: str, address: str) -> list[str]:
    return [sys.executable, "-m", "raftsched", "job", *words, f"--address={address}"]


def job(server: ServerProcess, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """One command, run in this process: what it prints and its exit code are the same, and a start takes longer than most tests."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        code = run(["job", *words, f"--address={server.scheduler_address}"])
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def ok(server: ServerProcess, *words: str, stdin: str = "") -> str:
    answer = job(server, *words, stdin=stdin)
    assert (answer.returncode, answer.stderr) == (0, "")
    return answer.stdout


def test_a_job_lives_from_schedule_to_delete(running: ServerProcess) -> None:
    app = "--app-id=life"
    assert ok(running, "schedule", "hello", "-s", "@every 1h", "--data", '{"n": 1}', app) == "scheduled hello\n"
    assert json.loads(ok(running, "get", "hello", "-o", "json", app)) == {
        "name": "hello",
        "namespace": "default",
        "app_id": "life",
        "schedule": "@every 1h",
        "data": {"n": 1},
        "failure_policy": {"constant": {"interval": "1s", "max_retries": 3}},
    }
    assert "@every 1h" in ok(running, "list", app)
    assert [one["name"] for one in json.loads(ok(running, "list", "-o", "json", app))] == ["hello"]
    assert ok(running, "delete", "hello", app) == "deleted hello\n"
    assert json.loads(ok(running, "list", "-o", "json", app)) == []


def test_every_option_reaches_the_server(running: ServerProcess) -> None:
    words = ["-d", "1h", "-r", "3", "--ttl", "10h", "--data", "-", "--max-retries", "5", "--retry-interval", "1.5s", "-s", "0 0 1 1 *  *"]
    ok(running, "schedule", "full", *words, "--app-id=options", "-n", "other", stdin="text from a pipe")
    shown = json.loads(ok(running, "get", "full", "-o", "json", "--app-id=options", "--namespace=other"))
    assert shown["failure_policy"] == {"constant": {"interval": "1.5s", "max_retries": 5}}
    assert (shown["due_time"], shown["repeats"], shown["ttl"], shown["data"]) == ("1h", 3, "10h", "text from a pipe")
    ok(running, "schedule", "full", "-d", "2h", "--drop", "--overwrite", "--app-id=options", "-n", "other")
    assert json.loads(ok(running, "get", "full", "-o", "json", "--app-id=options", "-n", "other"))["failure_policy"] == {"drop": {}}


def test_exit_codes_tell_the_reasons_apart(running: ServerProcess) -> None:
    app = "--app-id=codes"
    ok(running, "schedule", "one", "-d", "1h", app)
    expected = {
        ("schedule", "one", "-d", "1h"): (4, "Error: job already exists: 'app||default||codes||one'\n"),
        ("get", "none"): (3, "Error: job not found: none\n"),
        ("schedule", "bad", "-s", "x"): (1, "Error: job failed validation: expected exactly 6 fields, found 1: [x]\n"),
    }
    for words, (code, text) in expected.items():
        answer = job(running, *words, app)
        assert (answer.returncode, answer.stderr, answer.stdout) == (code, text, "")
    for words in (("get",), ("delete",), ("delete", "x", "--all"), ("delete", "--prefix="), ("get", "x", "--actor-id=1"), ("nonsense",)):
        answer = job(running, *words)
        assert answer.returncode == 2
        assert "Traceback" not in answer.stderr


def test_an_unreachable_server_is_one_line() -> None:
    words = command("list", address="127.0.0.1:1")
    answer = subprocess.run(words, capture_output=True, text=True, env={}, timeout=TIMEOUT_S, check=False)
    assert answer.returncode == 1
    assert answer.stderr.startswith("Error: cannot reach the server: ")
    assert answer.stderr.count("\n") == 1


def test_bytes_that_are_not_text_are_one_line(running: ServerProcess) -> None:
    address = running.scheduler_address
    for words, variables, stdin in (
        (command("schedule", "\udcff", "-d", "1h", address=address), {}, b""),
        (command("schedule", "x", "-d", "1h", "--data", "\udcff", address=address), {}, b""),
        (command("list", address=address), {"RAFTSCHED_APP_ID": "\udcff"}, b""),
        (command("schedule", "x", "-d", "1h", "--data", "-", address=address), {}, b"\xff\xfe"),
        (command("schedule", "x", "-d", "1h", "--data", "-", address=address), {"PYTHONIOENCODING": "utf-8:strict"}, b"\xff"),
    ):
        answer = subprocess.run(words, capture_output=True, env=variables, input=stdin, timeout=TIMEOUT_S, check=False)
        assert (answer.returncode, answer.stdout) == (2, b"")
        assert b"UTF-8" in answer.stderr
        assert b"Traceback" not in answer.stderr


def test_output_that_cannot_be_written_is_one_line(running: ServerProcess) -> None:
    with open("/dev/full", "w") as full:
        for words in (("list",), ("list", "-o", "json"), ("schedule", "full", "-d", "1h", "--app-id=output", "--overwrite")):
            answer = subprocess.run(
                command(*words, address=running.scheduler_address),
                stdout=full,
                stderr=subprocess.PIPE,
                env={},
                timeout=TIMEOUT_S,
                check=False,
            )
            assert (answer.returncode, answer.stderr) == (1, b"Error: No space left on device\n")


def test_a_terminal_that_is_not_utf8_gets_escapes(running: ServerProcess) -> None:
    ok(running, "schedule", "größe", "-d", "1h", "--app-id=ascii")
    words = command("list", "--app-id=ascii", address=running.scheduler_address)
    answer = subprocess.run(words, capture_output=True, env={"PYTHONIOENCODING": "ascii"}, timeout=TIMEOUT_S, check=False)
    assert (answer.returncode, answer.stderr) == (0, b"")
    assert b"gr\\xf6\\xdfe" in answer.stdout


def test_another_port_is_told_from_a_refusal(running: ServerProcess) -> None:
    answer = subprocess.run(
        command("list", address=running.client_address), capture_output=True, text=True, env={}, timeout=TIMEOUT_S, check=False
    )
    assert answer.returncode == 1
    assert answer.stderr.startswith("Error: this is not the scheduler's port, or its version is another: ")


def test_ctrl_c_ends_a_command_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        silent.settimeout(TIMEOUT_S)
        words = command("list", address=f"127.0.0.1:{silent.getsockname()[1]}")
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={}) as process:
            connection, _ = silent.accept()  # it waits for the answer now
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=TIMEOUT_S)
            connection.close()
    assert process.returncode == 130
    assert b"Traceback" not in errors

    def interrupted(_arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupted)  # earlier, while modules are being imported
    assert cli.main() == 130


def test_prefixes_and_everything_are_deleted(running: ServerProcess) -> None:
    app = "--app-id=prefixes"
    for name in ("a1", "a2", "b1"):
        ok(running, "schedule", name, "-d", "1h", app)
    ok(running, "delete", "--prefix=a", app)
    assert [one["name"] for one in json.loads(ok(running, "list", "-o", "json", app))] == ["b1"]
    ok(running, "delete", "--all", app)
    assert json.loads(ok(running, "list", "-o", "json", app)) == []


def test_watch_prints_and_acknowledges(running: ServerProcess) -> None:
    app = "--app-id=watch"
    ok(running, "schedule", "once", "-d", "0s", "--data", '"now"', app)
    lines = ok(running, "watch", "--count=1", "-o", "json", app).splitlines()
    assert [(json.loads(line)["name"], json.loads(line)["data"]) for line in lines] == [("once", "now")]
    assert json.loads(ok(running, "list", "-o", "json", app)) == []  # acknowledged, so it is done


def test_a_failed_trigger_is_tried_again(running: ServerProcess) -> None:
    app = "--app-id=failing"
    ok(running, "schedule", "once", "-d", "0s", "--max-retries=2", "--retry-interval=10ms", app)
    assert len(ok(running, "watch", "--count=3", "--fail", app).splitlines()) == 3
    assert json.loads(ok(running, "list", "-o", "json", app)) == []


def test_actor_reminders_have_their_own_names(running: ServerProcess) -> None:
    actor = ["--actor-type=T", "--actor-id=1", "--app-id=actors"]
    ok(running, "schedule", "r", "-d", "0s", *actor)
    assert [one["actor_id"] for one in json.loads(ok(running, "list", "--actor-type=T", "-o", "json"))] == ["1"]
    line = ok(running, "watch", "--actor-type=T", "--count=1", "--app-id=actors")
    assert line.rstrip().endswith("T/1/r")


def test_a_watch_goes_on_after_the_server_was_killed(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "server") as server:
        ok(server, "schedule", "tick", "-s", "@every 200ms")
        words = command("watch", "--count=40", "-o", "json", address=server.scheduler_address)
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={}) as watching:
            guard = threading.Timer(TIMEOUT_S, watching.kill)
            guard.start()
            assert watching.stdout is not None
            assert watching.stderr is not None
            before = [watching.stdout.readline() for _ in range(3)]
            server.kill()
            server.start()
            after = watching.stdout.readlines()
            code, errors = watching.wait(), watching.stderr.read()
            guard.cancel()
    assert (code, len(before) + len(after)) == (0, 40)
    assert errors.startswith(f"the stream of {server.scheduler_address} broke, trying again: ")


class Watching:
    """`job watch` as a process, its lines read by a thread."""

    def __init__(self, *words: str, address: str) -> None:
        pipe = subprocess.PIPE
        environment = {"PYTHONFAULTHANDLER": "1"}  # a watch that does not end is made to say where it is
        self.process = subprocess.Popen(command("watch", *words, address=address), stdout=pipe, stderr=pipe, text=True, env=environment)
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line)["name"])

    def seen(self, names: set[str], timeout_s: float = 20) -> None:
        """Until each has come once more."""
        begin = len(self.lines)
        wait_for(lambda: set(self.lines[begin:]) >= names, timeout_s, lambda: f"only {sorted(set(self.lines[begin:]))}")

    def end(self, number: int) -> tuple[int, str]:
        """Exit code and standard error."""
        self.process.send_signal(number)
        try:
            code = self.process.wait(TIMEOUT_S / 2)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            code = self.process.wait(TIMEOUT_S)
        self._thread.join()
        assert self.process.stderr is not None
        assert self.process.stdout is not None
        errors = self.process.stderr.read()
        self.process.stderr.close()
        self.process.stdout.close()
        return code, errors


@pytest.mark.slow
def test_a_watch_follows_all_replicas(tmp_path: Path) -> None:
    """Those that there are, also when one goes or comes back; and after the one that it was told of has gone."""
    with Cluster(tmp_path) as cluster:
        first, second, third = cluster.members
        names = {f"tick-{number}" for number in range(12)}
        for name in names:
            ok(third, "schedule", name, "-s", "@every 1s")
        watching = Watching("-o", "json", address=first.scheduler_address)
        try:
            watching.seen(names)
            second.stop()
            watching.seen(names)
            second.start()
            wait_for(lambda: len(sidecars_of(second)) > 0, 20, "the one that came back is not followed")
            first.kill()  # it was asked for the others
            watching.seen(names)
            third.stop()
            first.start()
            cluster.leader()
            watching.seen(names)
            alone = Watching("-o", "json", "--single", address=first.scheduler_address)
            wait_for(lambda: alone.lines, 10, "nothing from the one replica")
            code, errors = alone.end(signal.SIGINT)
            assert code == 0, errors
            assert set(alone.lines) < names
        finally:
            code, errors = watching.end(signal.SIGINT)
    assert code == 0, errors
    assert "Traceback" not in errors
    assert f"the stream of {first.scheduler_address} broke, trying again: " in errors


def sidecars_of(server: ServerProcess) -> dict[str, float]:
    """What its metrics say of connected sidecars, if there are any."""
    return {name: value for name, value in metrics(server.metrics_port).items() if "sidecars_connected" in name and value}
