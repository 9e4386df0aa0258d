"""What Go programs do with etcd's client package and those built on it: on a member, and on three with the client at a follower.

Each feature runs on a real etcd as well, and what it prints is compared line by line.
"""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from raftsched import limits
from raftsched.testing.cluster import Cluster

AS_SERVE = (f"--max-request-bytes={limits.MESSAGE_BYTES_MAX}",)
AS_ETCD = ("--etcd-max-txn-ops=128", "--etcd-space-quota=2Gi")  # etcd's defaults; `serve` has Dapr's
TIMEOUT_S = 150.0  # the program itself gives up after 120
FEATURES = (
    "barriers",
    "compaction",
    "downgrade",
    "isolation",
    "keys",
    "kubernetes",
    "leases",
    "leasing",
    "limits",
    "maintenance",
    "members",
    "mirror",
    "names",
    "namespace",
    "ordering",
    "queues",
    "ranges",
    "readers",
    "sessions",
    "snapshot",
    "streams",
    "transactions",
    "users",
    "watches",
)


@dataclass(frozen=True, slots=True)
class Pair:
    """The judge and ours, of one size."""

    judge: Cluster
    subject: Cluster

    @property
    def asked(self) -> Iterator[str]:
        """The judge's, then our member that clients are connected to: a follower where there is one."""
        for cluster in (self.judge, self.subject):
            yield (cluster.followers() or [cluster.leader()])[0].client_address


@pytest.fixture(scope="module", params=[1, 3], ids=["one", "three"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, etcd_program: Path) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("go")
    judge = Cluster(folder / "etcd", request.param, etcd=etcd_program, args=AS_SERVE)
    subject = Cluster(folder / "raftsched", request.param, args=AS_ETCD)
    with judge, subject:
        yield Pair(judge, subject)


def run(program: Path, feature: str, endpoints: str) -> list[str]:
    done = subprocess.run([program, feature, endpoints], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, f"{feature} on {endpoints}:\n{done.stdout}\n{done.stderr}"
    return [line.replace(endpoints, "endpoint") for line in done.stdout.splitlines()]


def test_no_feature_is_forgotten(clients_program: Path) -> None:
    listed = subprocess.run([clients_program, "list"], capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout.split()
    assert sorted({*FEATURES, "follow", "reconnection"}) == listed


@pytest.mark.parametrize("feature", FEATURES)
def test_same_as_on_etcd(feature: str, pair: Pair, clients_program: Path) -> None:
    theirs, ours = (run(clients_program, feature, address) for address in pair.asked)
    assert ours == theirs


class Talking:
    """A Go client that runs while things happen to the members: it says how far it is, and waits for a line."""

    def __init__(self, program: Path, feature: str, endpoints: str, errors: Path) -> None:
        self._errors = errors
        with errors.open("w") as stderr:
            self._process = subprocess.Popen(
                [program, feature, endpoints], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, bufsize=1
            )

    def expect(self, line: str) -> None:
        said = self.line()
        assert said == line, f"said {said!r}: {self._errors.read_text()[:2000]}"

    def line(self) -> str:
        """The next one; empty = it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def say(self, order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.mark.parametrize("pair", [3], indirect=True, ids=["three"])
def test_the_balancer_goes_on_without_a_member(pair: Pair, clients_program: Path, tmp_path: Path) -> None:
    """It is given one address, learns all, loses the member with that address, then the leader."""
    cluster = pair.subject
    asked = cluster.followers()[0]
    client = Talking(clients_program, "follow", asked.client_address, tmp_path / "errors")
    try:
        client.expect("ready")
        asked.kill()
        client.say("on")
        client.expect("went on")
        asked.start()
        cluster.leader().kill()
        client.say("on")
        client.expect("went on")
        cluster.start()
        client.say("on")
        client.expect("went on")
        client.say("end")
        client.expect("all of them, endpoints 3")
    finally:
        client.close()
        cluster.start()
    cluster.wait_equal()


def told_while_a_member_lags(program: Path, cluster: Cluster, errors: Path) -> list[str]:
    """What the program says, and each time, what it says is done: to the member that it calls the first, and to the second."""
    first, second = cluster.followers()
    leader = cluster.leader()
    links = cluster.links
    assert links is not None

    def cut_off() -> None:
        links.separate(second.number, [first.number, leader.number])

    def go_on() -> None:
        links.heal()
        if second.paused:
            second.resume()

    orders: dict[str, Callable[[], object]] = {
        "cut off the second": cut_off,
        "kill the first": first.kill,
        "let the second go on": go_on,
        "start the first": first.start,
        "pause the second": second.pause,
    }
    said = []
    client = Talking(program, "reconnection", f"{first.client_address},{second.client_address}", errors)
    try:
        while line := client.line():
            said.append(line)
            if line in orders:
                orders[line]()
                client.say("done")
    finally:
        client.close()
        go_on()  # whatever the program did not come to: the members are to become equal
        if first.process is None:
            first.start()
    return [*said, *errors.read_text()[:2000].splitlines()]


def test_no_answer_is_older_after_a_reconnection(clients_program: Path, etcd_program: Path, tmp_path: Path) -> None:
    """Two endpoints, one of a member that is cut off or paused, and lags; the connection to the other breaks."""
    told = []
    for name, etcd, args in (("etcd", etcd_program, AS_SERVE), ("raftsched", None, AS_ETCD)):
        with Cluster(tmp_path / name, etcd=etcd, linked=True, args=args) as cluster:
            told.append(told_while_a_member_lags(clients_program, cluster, tmp_path / f"{name}.errors"))
            cluster.wait_equal()
    assert told[1] == told[0]
    assert told[0] == [
        "cut off the second",
        "in order at 109",
        "kill the first",
        'the second alone: *errors.errorString Unknown "etcdclient: no cluster members have a revision higher than the previously received '
        'revision"',
        "let the second go on",
        "caught up",
        "start the first",
        "pause the second",
        "let the second go on",
        "in order at 309",
    ]
