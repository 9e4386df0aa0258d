"""deploy/docker and deploy/compose. No docker is needed: what the files say is held against what it speaks of."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployed import DEPLOY, ROOT, config_of, flags_of, tool

from raftsched.config.listening import local_line
from raftsched.testing.process import SOURCE, ServerProcess

DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
COMPOSE = DEPLOY / "compose" / "compose.yaml"
OWNER = "65532:65532"
DAPRS_DIRECTORIES = ("/var/run/data/dapr-scheduler", "/var/run/dapr/scheduler", "/var/lock/dapr/scheduler", "/var/tmp/dapr/scheduler")


def stages() -> list[list[tuple[str, str]]]:
    """(instruction, rest) of each stage, lines joined; what stands before the first FROM is the first one."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE.read_text()))
    found: list[list[tuple[str, str]]] = [[]]
    for line in filter(None, map(str.strip, text.splitlines())):
        name, rest = line.split(maxsplit=1)
        if name == "FROM":
            found.append([])
        found[-1].append((name, rest))
    return found


def rest_of(stage: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for instruction, rest in stage if instruction == name]


def copied(stage: list[tuple[str, str]]) -> list[str]:
    """The sources in the context that a stage copies."""
    return [source for rest in rest_of(stage, "COPY") if "--from=" not in rest for source in shlex.split(rest)[:-1]]


def test_the_image_is_built_in_two_stages_and_runs_without_root() -> None:
    _, build, final = stages()
    assert build[0][1].endswith(" AS build")
    assert not copied(final), "the final stage takes from the first alone"
    assert rest_of(final, "USER") == [OWNER]
    assert rest_of(final, "WORKDIR") == ["/"]
    assert not any("build-essential" in rest for rest in rest_of(final, "RUN"))
    made = next(rest for rest in rest_of(final, "RUN") if "mkdir" in rest)
    for directory in DAPRS_DIRECTORIES:
        assert re.search(rf"mkdir [^&]*{directory}\b", made), directory
        assert re.search(rf"chown {OWNER} [^&]*{directory}\b", made), f"a named volume on {directory} would belong to root"


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    ignored = [line for line in (DOCKERFILE.with_name("Dockerfile.dockerignore")).read_text().splitlines() if line and line[0] != "#"]
    assert ignored[0] == "*"
    let_in = [line[1:] for line in ignored if line[0] == "!"]
    sources = copied(stages()[1])
    assert "src" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source in let_in, f"{source} is kept out by Dockerfile.dockerignore"
    shut_out = [line.replace("**/", "*") for line in ignored[1:] if line[0] != "!"]
    if (ROOT / ".git").exists():
        tracked = subprocess.run(["git", "ls-files", "src", "proto"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        assert [path for path in tracked if any(fnmatch.fnmatch(path, rule) for rule in shut_out)] == []


def test_what_is_copied_is_enough_to_install(tmp_path: Path) -> None:
    """All but the compiler's part, which `make wheel` tries."""
    for source in copied(stages()[1]):
        target = tmp_path / "source" / source
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / source, target)
    run = next(rest for rest in rest_of(stages()[1], "RUN") if "pip install" in rest)
    assert run.partition("&&")[0].split()[-1] == ".", run
    command = [sys.executable, "setup.py", "-q", "egg_info", "build_py", "--build-lib", str(tmp_path / "made")]
    environment = {**os.environ, "RAFTSCHED_ONLY": "none-of-them"}
    answer = subprocess.run(command, cwd=tmp_path / "source", capture_output=True, text=True, env=environment, timeout=200, check=False)
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "made" / "raftsched" / "server.py").exists()
    assert "raftsched-scheduler" in (tmp_path / "source" / "src" / "raftsched.egg-info" / "entry_points.txt").read_text()


def test_the_entry_point_is_the_scheduler_of_daprs_images() -> None:
    final = stages()[2]
    (entry,), (default,) = (json.loads(rest) for rest in (*rest_of(final, "ENTRYPOINT"), *rest_of(final, "CMD")))
    assert entry == "/scheduler", "Dapr's chart calls it so, and its compose file calls ./scheduler in the working directory"
    linked = re.search(r"ln -s (\S+) /scheduler\b", " ".join(rest_of(final, "RUN")))
    assert linked is not None
    folder, _, program = linked[1].rpartition("/")
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts[program] == "raftsched.cli.scheduler:main"
    assert "raftsched" in scripts, "what the chart's preStop hook calls"
    path = dict(word.split("=", 1) for word in rest_of(final, "ENV")[0].split())["PATH"].split(":")
    assert path[0] == folder
    config = config_of([default], {})
    assert f"chown {OWNER} {config.etcd_data_dir} " in " ".join(rest_of(final, "RUN"))
    ports = {config.port, config.etcd_client_port, config.peer_listen_port, config.healthz_port, config.metrics_port}
    assert {int(port) for port in rest_of(final, "EXPOSE")[0].split()} == ports


@pytest.mark.process
def test_the_health_check_runs_as_it_stands(tmp_path: Path) -> None:
    (check,) = rest_of(stages()[2], "HEALTHCHECK")
    python, *options, script = json.loads(check.partition("CMD ")[2])
    assert python == "/opt/raftsched/bin/python"
    assert rest_of(stages()[1], "COPY")[-1] == f"deploy/docker/healthcheck.py {script}"
    command = [sys.executable, *options, str(DEPLOY / "docker" / "healthcheck.py")]

    def answers(port: int) -> int:
        environment = {"RAFTSCHED_HEALTHZ_PORT": str(port)}
        return subprocess.run(command, env=environment, capture_output=True, timeout=20, check=False).returncode

    server = ServerProcess(tmp_path / "server")
    assert answers(server.healthz_port) == 1
    with server:
        assert answers(server.healthz_port) == 0
        assert answers(server.scheduler_port) == 1, "a port that answers something else is no sign of health"
    assert answers(server.healthz_port) == 1
    assert "8080" in (DEPLOY / "docker" / "healthcheck.py").read_text()


# -- as Docker reads them


def dockercheck(kind: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(tool("dockercheck")), kind, str(path)], capture_output=True, text=True, timeout=60, check=False)


def test_buildkit_has_nothing_to_object_to(tmp_path: Path) -> None:
    answer = dockercheck("dockerfile", DOCKERFILE)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.count("stage ") == 2
    wrong = tmp_path / "Dockerfile"
    for line, replaced in (("EXPOSE 50006", "EXPOSED 50006"), ("FROM python:${PYTHON}", "from python:${PYTHON}")):
        assert line in DOCKERFILE.read_text()
        wrong.write_text(DOCKERFILE.read_text().replace(line, replaced, 1))
        assert dockercheck("dockerfile", wrong).returncode == 1, replaced


def test_compose_has_nothing_to_object_to(tmp_path: Path) -> None:
    answer = dockercheck("compose", COMPOSE)
    assert answer.returncode == 0, answer.stderr
    assert [line.split()[1] for line in answer.stdout.splitlines()] == ["scheduler-0", "scheduler-1", "scheduler-2"]
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("read_only:", "readonly:"))
    assert dockercheck("compose", wrong).returncode == 1


# -- compose


def services() -> dict[str, dict[str, Any]]:
    """With the merge keys resolved."""
    page = yaml.safe_load(COMPOSE.read_text())
    return dict(page["services"])


def test_three_replicas_are_one_cluster() -> None:
    configs = {name: config_of(service["command"], service["environment"]) for name, service in services().items()}
    assert list(configs) == ["scheduler-0", "scheduler-1", "scheduler-2"]
    for name, config in configs.items():
        assert config.id == name
        assert config.peer_url == f"http://{name}:2380", "members reach each other by the names of the services"
        assert [one.name for one in config.initial_cluster] == list(configs)
        assert (config.peer_listen_host, config.peer_listen_port) == ("0.0.0.0", 2380)
    assert len({config.initial_cluster for config in configs.values()}) == 1


def test_each_has_a_named_volume_for_its_data() -> None:
    volumes = set(yaml.safe_load(COMPOSE.read_text())["volumes"])
    used = []
    for service in services().values():
        (mounted,) = service["volumes"]
        volume, _, directory = mounted.partition(":")
        used.append(volume)
        assert str(config_of(service["command"], {}).etcd_data_dir) == directory
        assert directory in DAPRS_DIRECTORIES, "else the volume belongs to root"
    assert set(used) == volumes
    assert len(set(used)) == len(used)


def test_what_is_mapped_is_listened_at() -> None:
    """A mapped port ends at the container's interface: who listens on loopback is not reached through it."""
    hosts, clients = [], []
    for name, service in services().items():
        config = config_of(service["command"], service["environment"])
        for mapped in service["ports"]:
            host, _, inner = mapped.partition(":")
            hosts.append(host)
            assert int(inner) in {config.port, config.etcd_client_port, config.healthz_port, config.metrics_port}, mapped
            if int(inner) == config.etcd_client_port:
                clients.append(name)
                assert local_line(config.client_listeners) == ""
    assert clients == ["scheduler-0"]
    assert len(set(hosts)) == len(hosts)


def test_containers_can_do_little() -> None:
    for service in services().values():
        assert service["read_only"] is True
        assert service["tmpfs"] == ["/tmp"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "user" not in service, "the image's own is not root"
        context = (COMPOSE.parent / service["build"]["context"]).resolve()
        assert (context, context / service["build"]["dockerfile"]) == (ROOT, DOCKERFILE)


def test_daprs_own_compose_command_is_taken() -> None:
    """With the image's entry point before it the program's name is one word too many, which is ignored, as by Dapr."""
    given = flags_of(["--etcd-data-dir", "/var/run/dapr/scheduler", "--id", "scheduler-0"])
    assert given == {"etcd-data-dir": "/var/run/dapr/scheduler", "id": "scheduler-0"}
    program = "import sys; from raftsched.cli.scheduler import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "./scheduler", "--log-level=nonsense"]
    answer = subprocess.run(command, env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 1
    assert "invalid value for --log-level: nonsense" in answer.stdout
