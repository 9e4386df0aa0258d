"""Every command of etcdctl, against one member and against a follower of three, beside a real etcd: what is printed is the same."""

import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from consoles import TIMEOUT_S, Running
from etcdctl_stories import ELSEWHERE, LOCAL, STORIES

from raftsched import limits
from raftsched.testing.cluster import Cluster

AS_ETCD = ("--etcd-max-txn-ops=128", "--etcd-space-quota=2Gi")  # etcd's defaults; `serve` has Dapr's
AS_SERVE = (f"--max-request-bytes={limits.MESSAGE_BYTES_MAX}",)
CHECK_TIMEOUT_S = 240.0
DIAL = "--dial-timeout=20s"  # of it, 2 s by default, etcdctl takes the time to log in: connecting, and a bcrypt on a busy machine
LONG = pytest.mark.skipif(os.environ.get("RAFTSCHED_CLIENTS") != "all", reason="a minute by itself: `make clients`")
REVISIONS = re.compile(r'("(?:(?!auth|Auth)\w*[rR]evision|rev)"\s*:\s*|\bcompacted revision )(\d+)')
FIGURES = tuple(
    (re.compile(pattern, re.MULTILINE), plain)
    for pattern, plain in (
        (r'("?(?:raft|Raft|dbSize|DBSize|StorageSize|hash|Hash|TTL|ttl|grantedTTL|AuthRev|authRev)\w*"?\s*:\s*)-?\d+', r"\1#"),
        (r"AuthRevision: \d+", "AuthRevision: #"),
        (r"\b\d+(\.\d+)?(µs|ms|s)\b", "# s"),
        (r"\b\d+(\.\d+)? ?[kMG]?B\b", "# B"),
        (r"\b\d+%", "#%"),
        (r"((?:true|false), (?:true|false)), \d+, \d+, \d+,", r"\1, #,"),  # is leader, is learner, term, index, applied
        (r"(│ (?:true|false) │ (?:true|false) │)( \d+ │){3}", r"\1 # │"),
        (r"((?:asked|member), )\d+, \d+$", r"\1#"),  # hash and its revision
        (r"((?:asked|member) │)( \d+ │){2}$", r"\1 # │"),
        (r'("?(?:cluster_?id|member_?id|ID|lease)"? ?: ?"?)[0-9a-f]+\b', r"\1#"),
        (r"\b[0-9a-f]{13,16}\b|\b\d{17,20}\b", "id"),  # of a lease, or of who has no name yet
        (r"member ID already exist", "Peer URLs already exists"),  # ids have the second in them: which is found out first is chance
        (r"cluster version 3\.[67]", "cluster version #"),  # how far a downgrade came until it was cancelled
        (r"[─┌┬┐├┼┤└┴┘+-]{3,}", "-"),
    )
)
HIDDEN = re.compile(r'^{"level".*$|^ETCD_INITIAL_CLUSTER=.*$', re.MULTILINE)  # the latter in the order of ids


def commands(program: Path, *above: str) -> list[str]:
    """The commands that do something, by etcdctl's own help."""
    text = subprocess.run([program, *above, "--help"], capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout
    listed = text.partition("\nAvailable Commands:\n" if above else "\nKey-value commands\n")[2].partition("\nFlags")[0]
    below = [] if above in {("completion",), ("help",)} else re.findall(r"^  ([a-z-]+) +\S", listed, re.MULTILINE)
    return [found for name in below for found in commands(program, *above, name)] or [" ".join(above)]


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def test_no_command_is_forgotten(etcdctl_program: Path) -> None:
    tried = [line.partition(" <<< ")[0].split() for story in STORIES.values() for line in story]
    words = [[word for word in line if not word.startswith("--user")] for line in tried] + [list(line) for line in LOCAL]
    told = {" ".join(line[:count]) for line in words for count in (1, 2)} | ELSEWHERE
    listed = commands(etcdctl_program)
    assert len(listed) > 45
    assert [command for command in listed if command not in told] == []


@pytest.mark.parametrize("words", LOCAL, ids=" ".join)
def test_commands_that_ask_nobody(words: tuple[str, ...], etcdctl_path: Path) -> None:
    done = subprocess.run([etcdctl_path, *words], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode and "unknown command" in done.stderr:
        pytest.skip(f"{etcdctl_path.name} has no {' '.join(words)}")
    assert done.returncode == 0, done.stderr
    assert "etcdctl" in done.stdout or "--endpoints" in done.stdout


@dataclass(slots=True)
class Console:
    """etcdctl at one cluster, at a follower where there is one; its output in words that are the same for every cluster."""

    cluster: Cluster
    program: Path
    known: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    asked: str = ""
    base: int = 0
    own_leases: list[int] = field(default_factory=list)
    """Those that the scheduler of `serve` holds."""

    def begin(self, folder: Path) -> None:
        """Before the story: who is who."""
        folder.mkdir(exist_ok=True)
        leader = self.cluster.leader()
        asked = next((one for one in self.cluster.members if one is not leader), leader)
        statuses = {one.number: one.status(TIMEOUT_S) for one in self.cluster.members}
        self.asked = asked.client_address
        self.base = statuses[leader.number].header.revision
        ids = {number: status.header.member_id for number, status in statuses.items()}
        self.known = {"leader": f"{ids[leader.number]:x}", "follower": f"{ids[asked.number]:x}", "folder": str(folder)}
        self.known |= {"added": "abc", "lease": "abc"}
        self.names = {str(folder): "folder"}
        for one in self.cluster.members:
            part = "asked" if one is asked else "member"
            self.names |= {f"{ids[one.number]:x}": part, str(ids[one.number]): part, one.name: part, one.client_address: part}
            self.names[f"127.0.0.1:{self.cluster.advertised[one.number]}"] = f"{part}.peer"
        listed = json.loads(self.run("lease", "list", "-w", "json").stdout)
        self.own_leases = [one["id"] for one in listed.get("leases", ())]

    def tell(self, line: str) -> str:
        typed, _, text = line.partition(" <<< ")
        typed = re.sub(r"\{revision(?:\+(\d+))?\}", lambda found: str(self.base + int(found[1] or 0)), typed)
        done = self.run(*shlex.split(typed.format(**self.known)), text=text.replace(r"\n", "\n"))
        if granted := re.search(r"^lease ([0-9a-f]+) granted", done.stdout):
            self.known["lease"] = granted[1]
        if added := re.search(r"^Member +([0-9a-f]+) added", done.stdout):
            self.known["added"] = added[1]
        return f"exit {done.returncode}\n{self.normal(done.stdout)}\n{self.normal(done.stderr)}".strip()

    def run(self, *words: str, text: str = "", timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        command = [self.program, f"--endpoints={self.asked}", "--command-timeout=20s", DIAL, *words]
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=timeout_s, check=False)

    def normal(self, text: str) -> str:
        text = re.sub("[ \t]+", " ", HIDDEN.sub("", text).replace("localhost", "127.0.0.1"))
        text = REVISIONS.sub(lambda found: f"{found[1]}{int(found[2]) - self.base:+d}", self.without_own_leases(text))
        for name, part in sorted(self.names.items(), key=lambda item: -len(item[0])):
            text = text.replace(name, part)
        for pattern, plain in FIGURES:
            text = pattern.sub(plain, text)
        text = re.sub(r'(?<="members":\[).*(?=\])', lambda found: ",".join(sorted(re.split(r"(?<=}),(?={)", found[0]))), text)
        return "\n".join(sorted(line.strip() for line in text.splitlines()))

    def without_own_leases(self, text: str) -> str:
        text = re.sub(r"found (\d+) leases", lambda found: f"found {int(found[1]) - len(self.own_leases)} leases", text)
        for one in self.own_leases:
            text = re.sub(rf'^{one:016x}$\n?|{{"id":{one}}},?|(?<=}}),{{"id":{one}}}(?=\])', "", text, flags=re.MULTILINE)
        return text.replace("},]", "}]")


@dataclass(frozen=True, slots=True)
class Pair:
    """The judge's console and ours."""

    judge: Console
    subject: Console

    def __iter__(self) -> Iterator[Console]:
        return iter((self.judge, self.subject))


@pytest.fixture(scope="module", params=[1, 3], ids=["one", "three"])
def clusters(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, etcd_program: Path, etcdctl_program: Path
) -> Iterator[tuple[Cluster, Cluster]]:
    folder = tmp_path_factory.mktemp("console")
    judge = Cluster(folder / "etcd", request.param, etcd=etcd_program, args=AS_SERVE)
    subject = Cluster(folder / "raftsched", request.param, args=AS_ETCD)
    with judge, subject:
        for cluster in (judge, subject):
            settle(cluster, etcdctl_program)
        yield judge, subject


def settle(cluster: Cluster, program: Path) -> None:
    """Members are added only where all voters have been connected for five seconds."""

    def added() -> bool:
        command = [
            program,
            f"--endpoints={cluster.leader().client_address}",
            "member",
            "add",
            "x",
            "--learner",
            "--peer-urls=http://127.0.0.1:3",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        if done.returncode == 0:
            command[2:] = ["member", "remove", done.stdout.split()[1]]
            assert subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False).returncode == 0
        return done.returncode == 0

    until(added, "a cluster that lets members in")


@pytest.fixture
def pair(clusters: tuple[Cluster, Cluster], etcdctl_program: Path, tmp_path: Path) -> Pair:
    judge, subject = (Console(cluster, etcdctl_program) for cluster in clusters)
    judge.begin(tmp_path / "judge")
    subject.begin(tmp_path / "subject")
    return Pair(judge, subject)


@pytest.mark.parametrize("story", STORIES)
def test_same_commands_same_output(story: str, pair: Pair) -> None:
    told = []
    for line in STORIES[story]:
        theirs, ours = (console.tell(line) for console in pair)
        told.append((line, theirs, ours))
    differences = [f"{line}\n  etcd:      {theirs!r}\n  raftsched: {ours!r}" for line, theirs, ours in told if ours != theirs]
    assert not differences, "\n".join(differences)
    assert any("exit 0" in theirs for _, theirs, _ in told)


def test_watch(pair: Pair) -> None:
    """From a past revision, by a command that is run for each event, and one that is told at the console what to watch."""
    told = []
    for console in pair:
        for words in (("put", "w/a", "1"), ("put", "w/a", "2"), ("put", "w/b", "1"), ("del", "w/a")):
            assert console.run(*words).returncode == 0
        with ExitStack() as stack:
            start = f"--rev={console.base + 1}"
            plain = Running(stack, console.program, console.asked, "watch", "w/", "--prefix", "--prev-kv", start)
            ranged = Running(stack, console.program, console.asked, "watch", "w/a", "w/b", start)
            asked = ("sh", "-c", 'echo "$ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"')
            running = Running(stack, console.program, console.asked, "watch", "w/", "--prefix", start, "--", *asked)
            typing = Running(stack, console.program, console.asked, "watch", "--interactive")
            typing.say(f"watch w/a {start}")
            told.append([plain.lines(16), ranged.lines(9), running.lines(16), typing.lines(9)])
            typing.say("colour")
            told[-1].append(typing.lines(1))
            progress = Running(stack, console.program, console.asked, "watch", "w/c", "--progress-notify")
            until_watched(console, progress)
            told[-1].append([plain.end(signal.SIGINT), typing.end(signal.SIGTERM)])
        assert console.run("del", "w/", "--prefix").returncode == 0
    assert told[1] == told[0]
    assert told[0][2][0] == "PUT"


def until_watched(console: Console, watch: Running) -> None:
    """Nobody is told when a watch begins: keys are put until it has seen one."""
    for attempt in range(100):
        console.run("put", "w/c", str(attempt))
        if not watch.silent(0.2):
            assert watch.line() == "PUT"
            return
    raise AssertionError("nothing is seen of many puts")


def test_lease_keep_alive_goes_on(pair: Pair) -> None:
    for console in pair:
        lease = console.run("lease", "grant", "2").stdout.split()[1]
        console.run("put", "kept", "1", f"--lease={lease}")
        with ExitStack() as stack:
            keeping = Running(stack, console.program, console.asked, "lease", "keep-alive", lease)
            assert keeping.lines(4) == ["lease lease keepalived with TTL(2)"] * 4  # of which three come after a third of 2 s each
            assert console.run("lease", "revoke", lease).returncode == 0
            assert "expired or revoked" in keeping.rest()
        assert console.run("get", "kept").stdout == ""


def test_elect(pair: Pair) -> None:
    for console in pair:
        with ExitStack() as stack:
            listening = Running(stack, console.program, console.asked, "elect", "--listen", "chair")
            one = Running(stack, console.program, console.asked, "elect", "chair", "first")
            assert one.lines(2) == listening.lines(2) == ["chair/lease", "first"]
            assert one.end(signal.SIGINT) == 0


@pytest.mark.parametrize("swapped", [False, True], ids=["from etcd", "to etcd"])
def test_make_mirror(swapped: bool, pair: Pair) -> None:
    """Between a real etcd and raftsched, in both directions: what is there, and what comes."""
    source, destination = (pair.subject, pair.judge) if swapped else (pair.judge, pair.subject)
    prefix = f"mirror-{swapped}/"
    for index in range(5):
        source.run("put", f"{prefix}{index}", "old")
    with ExitStack() as stack:
        words = ("make-mirror", f"--prefix={prefix}", f"--dest-prefix=copy-{prefix}", destination.asked)
        Running(stack, source.program, source.asked, *words)
        until(lambda: destination.run("get", f"copy-{prefix}", "--prefix").stdout.count("old") == 5, "the copy")
        source.run("put", f"{prefix}0", "new")
        source.run("del", f"{prefix}1")
        source.run("txn", text=f"\nput {prefix}8 both\nput {prefix}9 both\n\n\n")
        until(lambda: destination.run("get", f"copy-{prefix}", "--prefix").stdout.count("both") == 2, "the changes")
    wanted = [f"copy-{prefix}0", "new", *(word for index in (2, 3, 4) for word in (f"copy-{prefix}{index}", "old"))]
    wanted += [word for index in (8, 9) for word in (f"copy-{prefix}{index}", "both")]
    assert destination.run("get", f"copy-{prefix}", "--prefix").stdout.split() == wanted
    for console in pair:
        console.run("del", prefix, "--prefix")
        console.run("del", f"copy-{prefix}", "--prefix")


def test_move_leader(pair: Pair) -> None:
    """There and back; on one member there is nobody else."""
    if len(pair.subject.cluster.members) == 1:
        pytest.skip("one member has nobody to whom it could give the lead")
    for console in pair:
        leader, follower = console.known["leader"], console.known["follower"]
        every = ",".join(one.client_address for one in console.cluster.members)
        for old, new in ((leader, follower), (follower, leader)):
            moved = console.run(f"--endpoints={every}", "move-leader", new)
            assert moved.stdout == f"Leadership transferred from {old} to {new}\n", moved.stderr
            until(lambda: f"{console.cluster.leader().status(TIMEOUT_S).header.member_id:x}" == new, "the new leader")  # noqa: B023


@LONG
@pytest.mark.parametrize("clusters", [3], indirect=True, ids=["three"])
def test_check_perf(pair: Pair) -> None:
    """A minute of 150 writes a second, none refused."""
    done = pair.subject.run("check", "perf", "--auto-compact", "--auto-defrag", timeout_s=CHECK_TIMEOUT_S)
    told = done.stdout + done.stderr
    assert "ERROR" not in told
    assert "too many errors" not in told
    assert "PASS: Throughput is" in told, told
    # The slowest of 9,000 writes within 500 ms and a deviation below 100 ms are asked of the disk under three members and of whatever else
    # uses it, not of the program: these two may fail, and then the verdict must be theirs.
    assert ("PASS: Throughput" in told and "PASS: Slowest" in told and "PASS: Stddev" in told) == (done.returncode == 0)
    assert pair.subject.run("get", "/etcdctl-check-perf/", "--prefix", "--count-only", "-w", "fields").stdout.count('"Count" : 0') == 1


@LONG
@pytest.mark.parametrize("clusters", [1], indirect=True, ids=["one"])
def test_check_datascale(pair: Pair) -> None:
    """10,000 keys of 1 KiB; asks /metrics of the client port what the process takes."""
    done = pair.subject.run("check", "datascale", "--auto-compact", "--auto-defrag", timeout_s=CHECK_TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS: Approximate system memory used" in done.stdout
    assert pair.subject.run("get", "/etcdctl-check-datascale/", "--prefix", "--count-only", "-w", "fields").stdout.count('"Count" : 0') == 1
