"""`raftsched etcd` beside the real etcd 3.7: the same flags, words, exit codes, signals, ids; the real etcdctl on ours."""

import json
import re
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from raftsched.config.etcd.flags import BY_NAME
from raftsched.testing.etcd_command import OURS, READY, Member, run

Etcdctl = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = pytest.mark.process
NOT_ETCDS = {"initial-corrupt-check", "compact-hash-check-enabled", "enable-v2"}
"""Of older versions; tools still pass them (etcd-api.md §8.1)."""
HELP_ALONE = {"discovery", "discovery-proxy"}
"""In `etcd --help`, and refused by it as not defined."""
NOT_IN_HELP = {"config-file", "version"}


def words_of(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    """Exit code, and what was wrong."""
    first = done.stderr.splitlines()[0] if done.stderr else ""
    if not first.startswith("{"):
        return done.returncode, first
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    errors = [str(line["error"]) for line in lines if line["level"] in {"warn", "fatal"} and "error" in line]
    return done.returncode, errors[-1] if errors else lines[-1]["msg"]


def test_every_flag_of_etcds_help_is_in_the_table(etcd_program: Path) -> None:
    done = subprocess.run([etcd_program, "--help"], capture_output=True, text=True, check=True)
    named = set(re.findall(r"^  --([a-z0-9-]+)", done.stdout, re.MULTILINE))
    ours = {name for name, flag in BY_NAME.items() if flag.kind.value}
    assert named - ours == HELP_ALONE
    assert ours - named == NOT_ETCDS | NOT_IN_HELP


@pytest.mark.parametrize("name", sorted(HELP_ALONE))
def test_what_the_help_alone_knows_is_unknown_to_both(etcd_program: Path, tmp_path: Path, name: str) -> None:
    flags = [f"--{name}=x"]
    assert (
        words_of(run(OURS, flags, tmp_path))
        == words_of(run([etcd_program], flags, tmp_path))
        == (
            2,
            f"flag provided but not defined: -{name}",
        )
    )


def test_defaults_are_those_of_etcds_help(etcd_program: Path) -> None:
    done = subprocess.run([etcd_program, "--help"], capture_output=True, text=True, check=True)
    ours = run(OURS, ["--help"], Path.cwd())
    assert ours.returncode == 0
    shown, expected = (dict(re.findall(r"^  --([a-z0-9-]+) '(.*)'$", out, re.MULTILINE)) for out in (ours.stdout, done.stdout))
    differing = {name: (shown[name], expected[name]) for name in shown.keys() & expected.keys() if shown[name] != expected[name]}
    assert differing == {  # the same in other words
        "backend-batch-interval": ("0s", ""),
        "backend-bbolt-freelist-type": ("", "map"),
        "compact-hash-check-time": ("1m0s", "1m"),
        "data-dir": ("", "${name}.etcd"),
        "grpc-keepalive-interval": ("2h0m0s", "2h"),
        "max-concurrent-streams": ("4294967295", "math.MaxUint32"),
        "v2-deprecation": ("", "write-only"),
        "watch-progress-notify-interval": ("0s", "10m"),
    }


def test_version_has_etcds_form(etcd_program: Path, tmp_path: Path) -> None:
    ours, theirs = run(OURS, ["--version"], tmp_path), run([etcd_program], ["--version"], tmp_path)
    assert ours.returncode == theirs.returncode == 0
    assert ours.stdout.splitlines()[0] == theirs.stdout.splitlines()[0]
    keys = [[line.partition(": ")[0] for line in done.stdout.splitlines()] for done in (ours, theirs)]
    assert keys[0] == keys[1]
    assert ours.stdout.splitlines()[3] == theirs.stdout.splitlines()[3]


@pytest.mark.parametrize(
    "flags",
    [
        ["--nope"],
        ["---name"],
        ["--name"],
        ["word"],
        ["--max-txn-ops=abc"],
        ["--pre-vote=maybe"],
        ["--log-outputs=default,stdout"],
        ["--initial-cluster-state=x"],
        ["--listen-client-urls=foo"],
        ["--listen-client-urls=http://1.2.3.4:5/x"],
        ["--listen-client-urls=http://127.0.0.1:1"],
        ["--listen-client-urls=http://foo:1", "--advertise-client-urls=http://foo:1"],
        ["--advertise-client-urls=http://:1"],
        ["--heartbeat-interval=0"],
        ["--election-timeout=100"],
        ["--election-timeout=60000"],
        ["--auto-compaction-mode=x"],
        ["--auto-compaction-retention=x"],
        ["--logger=x"],
        ["--logger=capnslog"],
        ["--log-format=x"],
        ["--v2-deprecation=x"],
        ["--v2-deprecation=gone,x"],
        ["--socket-reuse-address=x"],
        ["--feature-gates=X=true"],
        ["--feature-gates=LeaseCheckpointPersist=true"],
        ["--max-concurrent-streams=x"],
        ["--cors=foo"],
        ["--discovery-srv=x.example", "--initial-cluster=a=http://1:1"],
        ["--discovery-token=x"],
        ["--discovery-fallback=proxy"],
        ["--compact-hash-check-time=0"],
        ["--tls-min-version=x"],
        ["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
        ["--initial-cluster=a=http://127.0.0.1:1"],
        ["--initial-cluster=default=http://127.0.0.1:1", "--initial-cluster-state=existing"],
        ["--initial-cluster=default=foo"],
        ["--name=a", "--initial-cluster=a=http://localhost:2380,b=http://localhost:2380"],
        ["--config-file=/no/such/file"],
    ],
    ids=" ".join,
)
def test_the_same_words_and_exit_codes(etcd_program: Path, tmp_path: Path, flags: list[str]) -> None:
    ports = (
        []
        if any("urls" in flag for flag in flags)
        else [
            "--listen-peer-urls=http://127.0.0.1:0",
            "--listen-client-urls=http://127.0.0.1:0",
            "--advertise-client-urls=http://localhost:2379",
        ]
    )
    ours = run(OURS, [*ports, f"--data-dir={tmp_path / 'ours'}", *flags], tmp_path)
    theirs = run([etcd_program], [*ports, f"--data-dir={tmp_path / 'theirs'}", *flags], tmp_path)
    assert words_of(ours) == words_of(theirs)


@pytest.mark.parametrize(
    "text",
    [
        'snapshot-count: "5"\n',
        "heartbeat-interval: [1]\n",
        "name: 5\n",
        "pre-vote: 1\n",
        "corrupt-check-time: 5m\n",
        "heartbeat-interval: 0\n",
        "initial-cluster-state: x\n",
        "peer-transport-security: 5\n",
        "listen-peer-urls: [a]\n",
        "client-transport-security: {client-cert-auth: 1}\n",
        "heartbeat-interval: -1\n",
    ],
)
def test_the_same_words_for_a_file(etcd_program: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "etcd.yml").write_text(text)
    ours, theirs = (words_of(run(program, ["--config-file=etcd.yml"], tmp_path)) for program in (OURS, [etcd_program]))
    assert ours == theirs


@pytest.mark.parametrize(
    ("flags", "env"),
    [
        ([], {"ETCD_MAX_TXN_OPS": "abc"}),
        (["--name=a"], {"ETCD_NAME": "a"}),
        (["--name=a"], {"ETCD_NAME": ""}),
        ([], {"ETCD_CONFIG_FILE": "/no/such/file"}),
        ([], {"ETCD_HEARTBEAT_INTERVAL": "0", "ETCD_VERIFY": "all", "ETCD_VERSION": "3"}),
    ],
)
def test_the_same_words_for_the_environment(etcd_program: Path, tmp_path: Path, flags: list[str], env: dict[str, str]) -> None:
    def told(program: Sequence[str | Path]) -> tuple[tuple[int, str], list[tuple[str, str]]]:
        done = run(program, flags, tmp_path, env)
        lines: list[dict[str, Any]] = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
        about = [(line["level"], line["msg"]) for line in lines if "variable" in line["msg"]]
        return words_of(done), sorted(about)

    assert told(OURS) == told([etcd_program])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_same_end_by_a_signal(etcd_program: Path, tmp_path: Path, number: signal.Signals) -> None:
    codes = []
    for program in (OURS, [etcd_program]):
        with Member(tmp_path / Path(program[-1]).name, program=program) as member:
            member.start()
            assert member.process is not None
            member.process.send_signal(number)
            member.process.send_signal(number)
            codes.append(member.wait())
            assert member.lines("received signal; shutting down")[0]["signal"]
    assert codes == [-number, -number]


def test_ids_are_etcds(etcd_program: Path, tmp_path: Path) -> None:
    ids = []
    with Member(tmp_path / "ours") as ours, Member(tmp_path / "theirs", program=[etcd_program]) as theirs:
        theirs.peer, theirs.cluster = ours.peer, ours.cluster
        for member in (ours, theirs):
            member.start()
            ids.append(member.lines("now serving peer/client/metrics")[0]["local-member-id"])
            member.stop(signal.SIGTERM)
    assert ids[0] == ids[1]


def test_etcdctl_on_three_members(tmp_path: Path, etcdctl: Etcdctl) -> None:
    members = [Member(tmp_path, f"m{number}") for number in (1, 2, 3)]
    try:
        for one in members:
            one.cluster = ",".join(f"{other.name}={other.peer}" for other in members)
            one.start("--initial-cluster-token=abc", wait=False)
        for one in members:
            one.wait_for(READY)
        first = members[0].client
        assert etcdctl(first, "put", "k", "v").stdout == "OK\n"
        assert etcdctl(members[2].client, "get", "k").stdout == "k\nv\n"
        health = etcdctl(first, "endpoint", "health", "--cluster")
        assert (health.stdout + health.stderr).count("is healthy") == 3
        listed = etcdctl(first, "member", "list").stdout.splitlines()
        assert sorted(line.split(", ")[2] for line in listed) == ["m1", "m2", "m3"]
        assert etcdctl(first, "move-leader", "1", check=False).returncode != 0
    finally:
        for one in members:
            one.close()


def test_a_real_etcds_directory_is_refused_with_the_way_out(etcd_program: Path, tmp_path: Path) -> None:
    with Member(tmp_path, program=[etcd_program]) as theirs:
        theirs.start()
        theirs.stop(signal.SIGTERM)
        before = sorted((path.relative_to(tmp_path), path.stat().st_mtime_ns) for path in theirs.data_dir.rglob("*"))
        done = run(OURS, theirs.flags, tmp_path)
        assert done.returncode == 1
        assert "raftsched snapshot restore" in words_of(done)[1]
        assert sorted((path.relative_to(tmp_path), path.stat().st_mtime_ns) for path in theirs.data_dir.rglob("*")) == before


def test_a_real_etcds_directory_is_taken_over(etcd_program: Path, tmp_path: Path, etcdctl: Etcdctl) -> None:
    with Member(tmp_path / "theirs", program=[etcd_program]) as theirs:
        theirs.start()
        etcdctl(theirs.client, "put", "k", "v")
        theirs.stop(signal.SIGTERM)
    with Member(tmp_path / "ours") as ours:
        flags = [
            f"--data-dir={ours.data_dir}",
            "--name=m1",
            f"--initial-cluster={ours.cluster}",
            f"--initial-advertise-peer-urls={ours.peer}",
        ]
        restore = (*OURS[:-1], "snapshot", "restore", theirs.data_dir, "--layout=etcd", *flags)
        done = run(restore, [], tmp_path)
        assert done.returncode == 0, done.stderr
        ours.start()
        assert etcdctl(ours.client, "get", "k").stdout == "k\nv\n"
