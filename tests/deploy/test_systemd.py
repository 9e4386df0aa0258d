"""deploy/systemd: what systemd says of the units, what the server makes of their environment, and whether it lives within their bounds."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from deployed import DEPLOY, ROOT, config_of

from raftsched.config import ServeConfig
from raftsched.testing.process import SOURCE, free_ports

FOLDER = DEPLOY / "systemd"
UNITS = ("raftsched.service", "raftsched-ha.service")
PROGRAM = "/opt/raftsched/bin/raftsched-scheduler"
EXPOSURE_MAX = 15  # tenths, as systemd-analyze takes it: 1.2 of 10 is what it says now
READY_S = 60


def settings(unit: str) -> dict[str, list[str]]:
    """Of [Service], in their order."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in (FOLDER / unit).read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and line[0] != "#":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def environment(unit: str) -> dict[str, str]:
    """Of the unit, then of its file if it must be there: the file goes before."""
    found = dict(text.split("=", 1) for line in settings(unit)["Environment"] for text in shlex.split(line))
    (file,) = settings(unit)["EnvironmentFile"]
    if not file.startswith("-"):
        lines = (FOLDER / Path(file).name).read_text().splitlines()
        found |= dict(line.split("=", 1) for line in lines if line and line[0] != "#")
    return found


def config(unit: str, **more: str) -> ServeConfig:
    (command,) = settings(unit)["ExecStart"]
    program, *words = shlex.split(command)
    assert program == PROGRAM
    return config_of(words, environment(unit) | more)


def analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not here")
    return found


def installed(unit: str, folder: Path) -> Path:
    """The unit with a program that is here: systemd looks whether it is."""
    program = folder / "raftsched-scheduler"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = folder / unit
    path.write_text((FOLDER / unit).read_text().replace(PROGRAM, str(program)))
    return path


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_takes_the_unit(unit: str, tmp_path: Path) -> None:
    path = installed(unit, tmp_path)
    answer = subprocess.run([analyze(), "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert (answer.returncode, answer.stdout + answer.stderr) == (0, "")
    path.write_text(path.read_text().replace("ProtectSystem=strict", "ProtectSystem=much"))
    answer = subprocess.run([analyze(), "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert "protect system" in answer.stdout + answer.stderr, "what is wrong would be told"


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_little_exposure(unit: str, tmp_path: Path) -> None:
    command = [analyze(), "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", "--no-pager", str(installed(unit, tmp_path))]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize("unit", UNITS)
def test_the_server_takes_what_the_unit_says(unit: str) -> None:
    read = config(unit)
    state = settings(unit)["StateDirectory"][0]
    assert str(read.etcd_data_dir) == f"/var/lib/{state}", "all else is read-only"
    known = {f"RAFTSCHED_{name.upper()}" for name in ServeConfig.__dataclass_fields__} | {"NAMESPACE", "DAPR_HOST_IP"}
    commented = re.findall(r"(?m)^#([A-Z_]+)=", (FOLDER / "raftsched-ha.env").read_text())
    assert commented
    files = {"RAFTSCHED_PEER_CERT_FILE", "RAFTSCHED_PEER_KEY_FILE", "RAFTSCHED_PEER_TRUSTED_CA_FILE"}
    assert {*environment(unit), *commented} - known - files == set(), "a variable that nobody reads"
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert Path(PROGRAM).name in scripts
    drain_s = 5
    assert int(settings(unit)["TimeoutStopSec"][0].removesuffix("s")) >= 3 * drain_s


def test_alone_it_is_for_this_machine_and_listens_where_dapr_init_maps() -> None:
    alone = config("raftsched.service")
    assert (alone.port, alone.etcd_client_port, alone.healthz_port, alone.metrics_port) == (50006, 2379, 58081, 59091)
    hosts = {alone.listen_address, alone.healthz_listen_address, alone.metrics_listen_address}
    assert hosts == {"127.0.0.1"}
    assert len(alone.initial_cluster) == 1


def test_members_meet_and_the_one_that_was_alone_goes_on() -> None:
    names = [f"dapr-scheduler-server-{ordinal}" for ordinal in range(3)]
    members = [config("raftsched-ha.service", RAFTSCHED_ID=name) for name in names]
    assert [one.id for one in members] == names
    assert len({one.initial_cluster for one in members}) == 1
    assert {one.peer_listen_host for one in members} == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
    assert members[0].member_directory == config("raftsched.service").member_directory
    assert {one.listen_address for one in members} == {""}


def test_tls_between_members_as_it_is_written_there() -> None:
    page = (FOLDER / "raftsched-ha.env").read_text()
    secured = dict(line[1:].split("=", 1) for line in page.splitlines() if line.startswith("#RAFTSCHED_PEER_"))
    members = environment("raftsched-ha.service")["RAFTSCHED_ETCD_INITIAL_CLUSTER"].replace("http:", "https:")
    assert config("raftsched-ha.service", RAFTSCHED_ETCD_INITIAL_CLUSTER=members, **secured).peer_tls is not None


def group(name: str) -> set[str]:
    """The system calls of a group of systemd's, with those of the groups in it."""
    text = subprocess.run([analyze(), "syscall-filter", name], capture_output=True, text=True, timeout=60, check=True).stdout
    words = [line.strip() for line in text.splitlines()[1:] if line.strip() and not line.strip().startswith("#")]
    found = set()
    for word in words:
        found |= group(word) if word.startswith("@") else {word}
    return found


@pytest.mark.process
def test_the_server_lives_within_the_bounds_of_the_unit(tmp_path: Path) -> None:
    """No system call that the filter refuses, no memory that is written and run, from the start to the end of a real server."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not here")
    allowed: set[str] = set()
    for rule in settings("raftsched.service")["SystemCallFilter"]:
        allowed = allowed - group(rule[1:]) if rule.startswith("~") else allowed | group(rule)
    ports = dict(zip(("PORT", "ETCD_CLIENT_PORT", "HEALTHZ_PORT", "METRICS_PORT"), map(str, free_ports(4)), strict=True))
    given = environment("raftsched.service") | {f"RAFTSCHED_{name}": port for name, port in ports.items()}
    given |= {"RAFTSCHED_ETCD_DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": str(SOURCE)}
    given["RAFTSCHED_ETCD_INITIAL_CLUSTER"] = f"dapr-scheduler-server-0=http://127.0.0.1:{free_ports(1)[0]}"
    program = "import sys; from raftsched.cli.scheduler import main; sys.exit(main())"
    trace, out = tmp_path / "trace", tmp_path / "out"
    with out.open("wb") as stream:
        command = [strace, "-f", "-qq", "-o", str(trace), sys.executable, "-c", program]
        traced = subprocess.Popen(command, env=given, stdout=stream, stderr=stream, start_new_session=True)
        try:
            begin = time.monotonic()
            while "Cron is ready" not in out.read_text():
                assert time.monotonic() - begin < READY_S, out.read_text()
                assert traced.poll() is None, out.read_text()
                time.sleep(0.1)
            (server,) = Path(f"/proc/{traced.pid}/task/{traced.pid}/children").read_text().split()
            subprocess.run(["kill", f"-{signal.SIGTERM.value}", server], check=True)
            assert traced.wait(30) == 0, out.read_text()
        finally:
            if traced.poll() is None:
                traced.kill()
                traced.wait()
    lines = trace.read_text(errors="replace").splitlines()
    called = {match[1] for line in lines if (match := re.match(r"\d+\s+([a-z_0-9]+)\(", line))}
    assert {"openat", "bind", "fdatasync"} <= called, "the trace is one of a server"
    assert called - allowed == set()
    assert [line for line in lines if re.match(r"\d+\s+m(map|protect)\(.*PROT_WRITE\|PROT_EXEC", line)] == []
    assert [line for line in lines if re.match(r"\d+\s+mprotect\(.*PROT_EXEC", line)] == []
    families = {match[1] for line in lines if (match := re.match(r"\d+\s+socket\((AF_\w+)", line))}
    assert families - set(settings("raftsched.service")["RestrictAddressFamilies"][0].split()) == set()
