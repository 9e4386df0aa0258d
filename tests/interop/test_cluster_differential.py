"""Three members of raftsched beside three real etcds: the same changes of members, orders and console commands, every answer compared."""

import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from cluster_sides import CALL_TIMEOUT_S, CALLER_LATE, Pair, Side, run_etcdctl
from google.protobuf.message import Message
from test_metrics import Scrape, is_left_out

from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import rpc_pb2_grpc
from raftsched.testing.cluster import Cluster
from raftsched.testing.lone_node import EtcdDoor

pytestmark = [pytest.mark.process, pytest.mark.slow]

LATE = "14 etcdserver: request timed out"
NEW = "http://127.0.0.1:1931"
HEALTHY_S = 5.5  # a member counts as healthy once it was connected for 5 s
ODD_TRIES = 10
SHOWN_BY_US = {
    "etcd_network_peer_received_failures_total",  # by etcd once there was one
    "etcd_network_peer_sent_failures_total",
    "etcd_network_disconnected_peers_total",
    "etcd_debugging_mvcc_db_total_size_in_bytes",  # the name of older versions, which dashboards still use
}
HASLEADER = (("hasleader", "true"),)


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory, etcd_program: Path) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("clusters")
    with Cluster(folder / "raftsched") as subject, Cluster(folder / "etcd", etcd=etcd_program) as judge:
        time.sleep(HEALTHY_S)
        made = Pair(subject, judge)
        yield made
        made.close()


@pytest.fixture
def pair(clusters: Pair) -> Iterator[Pair]:
    """Six members that run; what differs fails the test at its end, all of it."""
    clusters.begin()
    yield clusters
    assert not clusters.differences, "\n" + "\n".join(clusters.differences)


# -- the calls, each begun on one side


def listing(part: str, *, linearizable: bool = True) -> Any:
    request = pb.MemberListRequest(linearizable=linearizable)
    return lambda side: side.to(part).cluster.MemberList.future(request, timeout=CALL_TIMEOUT_S)


def adding(part: str, *urls: str, learner: bool = True) -> Any:
    request = pb.MemberAddRequest(peerURLs=urls, isLearner=learner)
    return lambda side: side.to(part).cluster.MemberAdd.future(request, timeout=CALL_TIMEOUT_S)


def id_of(side: Side, who: str | int) -> int:
    """A part, the member that was added, or a number."""
    if isinstance(who, int):
        return who
    return next(iter(side.added)) if who == "added" else side.id(who)


def removing(part: str, who: str | int) -> Any:
    return lambda side: side.to(part).cluster.MemberRemove.future(pb.MemberRemoveRequest(ID=id_of(side, who)), timeout=CALL_TIMEOUT_S)


def promoting(part: str, who: str | int) -> Any:
    return lambda side: side.to(part).cluster.MemberPromote.future(pb.MemberPromoteRequest(ID=id_of(side, who)), timeout=CALL_TIMEOUT_S)


def updating(part: str, who: str | int, url: str) -> Any:
    """`url`: or a part, whose URL it is."""

    def begin(side: Side) -> Any:
        request = pb.MemberUpdateRequest(ID=id_of(side, who), peerURLs=[url if ":" in url else side.peer_url(url)])
        return side.to(part).cluster.MemberUpdate.future(request, timeout=CALL_TIMEOUT_S)

    return begin


def moving(part: str, who: str | int, timeout_s: float = CALL_TIMEOUT_S) -> Any:
    return lambda side: side.to(part).maintenance.MoveLeader.future(pb.MoveLeaderRequest(targetID=id_of(side, who)), timeout=timeout_s)


def on(part: str, service: str, method: str, request: Any, metadata: Any = None) -> Any:
    return lambda side: getattr(getattr(side.to(part), service), method).future(request, timeout=CALL_TIMEOUT_S, metadata=metadata)


# -- tests


def test_members_change_as_in_etcd(pair: Pair) -> None:
    before = [figures(side) for side in pair]
    pair.ask("list", listing("follower"))
    pair.ask("list, serializable", listing("follower", linearizable=False))
    for wrong in (("http://foo:1", "http://foo:1"), ("ftp://x:1",), ("http://x",), ("http://x:1/y",), ()):
        pair.ask(f"add {wrong}", adding("follower", *wrong))
        for side in pair:
            side.remove_added()
    for strange in ("http://127.0.0.1:99999", "http://:1", "http://x:1?y=1"):  # raftsched takes none that nobody can be reached at
        outcomes = [side.outcome(adding("follower", strange)(side)) for side in pair]
        assert outcomes[0] == "3 etcdserver: given member URLs are invalid"
        assert outcomes[1].startswith("OK "), "as here now: drop it from docs/etcd-compatibility.md"
        pair.judge.remove_added()
    for learner in (False, True):
        pair.ask(f"add one that is there, learner={learner}", lambda side, learner=learner: twice(side, learner=learner))
    pair.ask("add a learner", adding("leader", NEW))
    for side in pair:
        side.find_added()
    pair.ask("add another", adding("follower", "http://127.0.0.1:1932"))
    for part in ("follower", "leader"):
        for who in ("added", "other", "leader", 77):
            pair.ask(f"promote {who} at the {part}", promoting(part, who))
    pair.compare("metrics", *(grown(then, figures(side)) for then, side in zip(before, pair, strict=True)))
    pair.ask("update nobody", updating("follower", 77, "http://x:1"))
    pair.ask("update to another's URL", updating("follower", "added", "leader"))
    for _ in range(2):
        pair.ask("update", updating("follower", "added", "http://127.0.0.1:1934"))
    pair.ask("list with a learner", listing("other"))
    pair.ask("move to a learner", moving("leader", "added"))
    for part in ("leader", "follower"):
        for who in (77, 0):
            pair.ask(f"remove {who} at the {part}", removing(part, who))
    pair.ask("remove the learner", removing("follower", "added"))
    pair.ask("remove it again", removing("follower", "added"))
    pair.ask("update the removed", updating("follower", "added", "http://x:1"))
    pair.ask("promote the removed", promoting("follower", "added"))
    pair.ask("list at the end", listing("other"))
    assert pair.compared == 35


METRICS = re.compile(r"(# TYPE )?etcd_(network_known_peers|server_(heartbeat_send_failures_total|learner_promote_\w+))\b")
MEASURED = "etcd_server_heartbeat_send_failures_total"  # how many depends on how long it takes


def figures(side: Side) -> dict[str, str]:
    """Types, labels and values of some, at the leader: of known peers those that there are but for itself, as etcd counts it too."""
    with urllib.request.urlopen(f"http://{side.parts['leader'].client_address}/metrics", timeout=CALL_TIMEOUT_S) as answer:
        lines = [line for line in answer.read().decode().splitlines() if METRICS.match(line)]
    shown = [line for line in map(side.normal, lines) if "_peers{" not in line or "added" in line or "follower" in line or "other" in line]
    return dict(line.rsplit(" ", 1) for line in shown)


def grown(before: dict[str, str], now: dict[str, str]) -> str:
    """Counters by what they have grown: a cluster of which one member started late has promoted that one already."""
    told = {}
    for name, value in now.items():
        counted = "_peers{" not in name and not name.startswith("#")
        told[name] = "some" if name == MEASURED else f"{float(value) - float(before.get(name, 0)):g}" if counted else value
    return "\n".join(f"{name} {value}" for name, value in sorted(told.items()))


def test_members_show_the_same_metrics(clusters: Pair) -> None:
    """All names with their types, and the labels of what is told of other members, at the leader and at a follower."""
    for side in clusters:
        for part in ("leader", "follower"):
            side.to(part).kv.Range(pb.RangeRequest(key=b"x"), timeout=CALL_TIMEOUT_S)  # an etcd asks itself sooner or later
    for part in ("leader", "follower"):
        subject, judge = (Scrape(side.parts[part].client_address) for side in (clusters.subject, clusters.judge))
        wanted = {name: kind for name, kind in judge.kinds.items() if not is_left_out(name)}
        shown = {name: kind for name, kind in subject.kinds.items() if name in judge.kinds or name.startswith("etcd_")}
        assert {name: kind for name, kind in shown.items() if name in wanted} == wanted
        assert shown.keys() - wanted.keys() <= SHOWN_BY_US, part
        peers = {name for name in wanted if name.startswith("etcd_network_") and judge.labels(name)}
        assert len(peers) >= 7
        for name in peers:
            assert subject.labels(name) == judge.labels(name), (part, name)


def twice(side: Side, *, learner: bool) -> Any:
    request = pb.MemberAddRequest(peerURLs=[side.peer_url("leader")], isLearner=learner)
    return side.to("follower").cluster.MemberAdd.future(request, timeout=CALL_TIMEOUT_S)


def test_etcdctl_sees_and_changes_both_alike(pair: Pair, etcdctl_program: Path) -> None:
    def run(*words: str, odd: str = "") -> None:
        """A word like `leader` in braces is that member's id. `odd`: an answer behind which the judge is asked once more, and again."""
        told = [run_etcdctl(etcdctl_program, side, [placed(side, word) for word in words]) for side in pair]
        for _ in range(ODD_TRIES):
            if not odd or odd not in told[1]:
                break
            time.sleep(1)  # one that hurries meets the same
            told[1] = run_etcdctl(etcdctl_program, pair.judge, [placed(pair.judge, word) for word in words])
        pair.compare(" ".join(words), *told)

    for form in ("simple", "json", "table"):
        run("member", "list", "-w", form)
    for what in ("status", "health", "hashkv"):
        run("endpoint", what, "--cluster", "-w", "json")
    # On a busy machine a real etcd has answered so to an addition, and added nobody.
    run("member", "add", "new", f"--peer-urls={NEW}", "--learner", "-w", "json", odd="member not found")
    for side in pair:
        side.find_added()
    run("member", "add", "next", "--peer-urls=http://127.0.0.1:1932", "--learner")
    run("member", "promote", "{added}")
    run("member", "promote", "{follower}")
    run("member", "update", "{added}", "--peer-urls=http://127.0.0.1:1934")
    run("member", "list", "-w", "json")
    run("member", "remove", "{added}")
    run("member", "remove", "{added}")
    run("member", "remove", "abc")
    run("member", "remove", "no-id")
    run("member", "update", "abc", "--peer-urls=http://x:1")
    run("move-leader", "abc")
    run("move-leader", "{leader}")
    run("move-leader", "{follower}")
    for side in pair:
        side.cast()
    run("endpoint", "status", "--cluster", "-w", "json")
    assert pair.compared == 21


def placed(side: Side, word: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: f"{id_of(side, found[1]):x}", word)


def test_leadership_moves_as_in_etcd(pair: Pair) -> None:
    for part, who in (("follower", "other"), ("follower", 5), ("leader", 5), ("leader", 0), ("leader", "leader")):
        pair.ask(f"move to {who} at the {part}", moving(part, who))
    pair.ask("move", moving("leader", "follower"))
    wanted = [side.parts["follower"] for side in pair]
    for side in pair:
        side.cast()
    assert [side.parts["leader"] for side in pair] == wanted
    for side in pair:
        side.parts["other"].kill()
    late = "etcdserver: request timed out, leader transfer took too long"
    dead = [side.outcome(moving("leader", "other", 3)(side)) for side in pair]
    assert dead[0] == f"2 {late}"
    assert dead[1] in (f"2 {late}", CALLER_LATE), "etcd waits for as long as the caller does"
    pair.ask("put afterwards", on("leader", "kv", "Put", pb.PutRequest(key=b"a")))
    for title, call in {
        "add a voter": adding("follower", NEW, learner=False),
        "add a learner": adding("follower", NEW),
        "remove the healthy": removing("leader", "follower"),
        "remove the leader": removing("follower", "leader"),
    }.items():
        pair.ask(f"{title}, one is down", call)


def test_without_a_majority_all_is_as_in_etcd(pair: Pair) -> None:
    lease = 7
    for side in pair:
        side.to("leader").lease.LeaseGrant(pb.LeaseGrantRequest(ID=lease, TTL=600))
        side.to("leader").kv.Put(pb.PutRequest(key=b"a", value=b"v"))
    streams = [OpenStreams(side, lease) for side in pair]
    for side in pair:
        side.cast()
        for part in ("follower", "other"):
            side.parts[part].kill()
    for side in pair:
        deadline = time.monotonic() + 15
        while (answer := side.parts["leader"].status()) is None or answer.leader:
            assert time.monotonic() < deadline, "it still takes itself for the leader"
            time.sleep(0.05)
        assert list(answer.errors) == ["etcdserver: no leader"]
    pair.ask_all(LEADERLESS, KNOWN)
    with ThreadPoolExecutor() as pool:  # each waits for its 7 s
        ours, theirs = pool.map(probe, [side.parts["leader"].client_address for side in pair])
    for path, answer in ours.items():
        pair.compare(path, answer, theirs[path])
    mine, other = (one.ends() for one in streams)
    for name, end in mine.items():
        pair.compare(f"stream {name}", end, other[name])
    assert mine["watch, hasleader"] == mine["keep-alive, hasleader"] == "14 etcdserver: no leader"


LOCAL = pb.RangeRequest(key=b"a", serializable=True, count_only=True)
RAISED = pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, alarm=pb.NOSPACE, memberID=1)
LEADERLESS: dict[str, Any] = {
    "list, serializable": listing("leader", linearizable=False),
    "add a voter": adding("leader", NEW, learner=False),
    "add a learner": adding("leader", NEW),
    "remove": removing("leader", "follower"),
    "update": updating("leader", "leader", "leader"),
    "promote": promoting("leader", "other"),
    "move": moving("leader", "leader"),
    "get": on("leader", "kv", "Range", pb.RangeRequest(key=b"a")),
    "get, serializable": on("leader", "kv", "Range", LOCAL),
    "get, serializable, hasleader": on("leader", "kv", "Range", LOCAL, HASLEADER),
    "put": on("leader", "kv", "Put", pb.PutRequest(key=b"a")),
    "delete": on("leader", "kv", "DeleteRange", pb.DeleteRangeRequest(key=b"a")),
    "txn": on("leader", "kv", "Txn", pb.TxnRequest(success=[pb.RequestOp(request_put=pb.PutRequest(key=b"a"))])),
    "compact": on("leader", "kv", "Compact", pb.CompactionRequest(revision=1)),
    "grant": on("leader", "lease", "LeaseGrant", pb.LeaseGrantRequest(TTL=10)),
    "revoke": on("leader", "lease", "LeaseRevoke", pb.LeaseRevokeRequest(ID=10)),
    "time to live": on("leader", "lease", "LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=10)),
    "alarms": on("leader", "maintenance", "Alarm", pb.AlarmRequest()),
    "raise an alarm": on("leader", "maintenance", "Alarm", RAISED),
}
KNOWN = dict.fromkeys(
    ("put", "delete", "txn", "compact", "grant", "revoke", "alarms", "raise an alarm"), (LATE, "4 context deadline exceeded")
) | dict.fromkeys(("remove", "update"), (LATE, CALLER_LATE))


class OpenStreams:
    """A watch and a keep-alive at the leader, each with and without `hasleader`."""

    def __init__(self, side: Side, lease: int) -> None:
        self.calls: dict[str, Any] = {}
        for suffix, metadata in ((", hasleader", HASLEADER), ("", None)):
            create = pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"w"))
            self.calls["watch" + suffix] = side.to("leader").watch.Watch(forever(create), metadata=metadata)
            renew = pb.LeaseKeepAliveRequest(ID=lease)
            self.calls["keep-alive" + suffix] = side.to("leader").lease.LeaseKeepAlive(forever(renew), metadata=metadata)
        for call in self.calls.values():
            next(call)

    def ends(self) -> dict[str, str]:
        """How each ended by now; "open" if it did not."""
        found = {}
        for name, call in self.calls.items():
            found[name] = f"{call.code().value[0]} {call.details()}" if not call.is_active() else "open"
            call.cancel()
        return found


def forever(request: Any, for_s: float = 40) -> Iterator[Any]:
    yield request
    time.sleep(for_s)


def probe(address: str) -> dict[str, str]:
    """What the HTTP endpoints say."""
    found = {}
    for path in ("/health", "/health?serializable=true", "/livez?verbose", "/readyz?verbose", "/version"):
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=CALL_TIMEOUT_S) as answer:
                found[path] = f"{answer.status}\n{answer.read().decode()}"
        except urllib.error.HTTPError as error:
            with error:
                found[path] = f"{error.code}\n{error.read().decode()}"
    return {path: "\n".join(sorted(answer.splitlines())) for path, answer in found.items()}  # etcd checks in any order


# -- a learner

MAINTENANCE = "/etcdserverpb.Maintenance/"
AT_LEARNER: dict[str, tuple[str, Message]] = {
    "put": ("/etcdserverpb.KV/Put", pb.PutRequest(key=b"a")),
    "a put of nothing": ("/etcdserverpb.KV/Put", pb.PutRequest()),
    "get": ("/etcdserverpb.KV/Range", pb.RangeRequest(key=b"a")),
    "get, serializable": ("/etcdserverpb.KV/Range", pb.RangeRequest(key=b"a", serializable=True)),
    "get nothing, serializable": ("/etcdserverpb.KV/Range", pb.RangeRequest(serializable=True)),
    "delete": ("/etcdserverpb.KV/DeleteRange", pb.DeleteRangeRequest(key=b"a")),
    "txn": ("/etcdserverpb.KV/Txn", pb.TxnRequest()),
    "compact": ("/etcdserverpb.KV/Compact", pb.CompactionRequest(revision=1)),
    "grant": ("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=60)),
    "revoke": ("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=1)),
    "time to live": ("/etcdserverpb.Lease/LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=1)),
    "leases": ("/etcdserverpb.Lease/LeaseLeases", pb.LeaseLeasesRequest()),
    "list": ("/etcdserverpb.Cluster/MemberList", pb.MemberListRequest()),
    "status": (MAINTENANCE + "Status", pb.StatusRequest()),
    "alarms": (MAINTENANCE + "Alarm", pb.AlarmRequest()),
    "hash": (MAINTENANCE + "Hash", pb.HashRequest()),
    "hash of keys": (MAINTENANCE + "HashKV", pb.HashKVRequest()),
    "defragment": (MAINTENANCE + "Defragment", pb.DefragmentRequest()),
    "is authentication on": ("/etcdserverpb.Auth/AuthStatus", pb.AuthStatusRequest()),
    "nothing that there is": ("/etcdserverpb.KV/Nothing", pb.PutRequest()),
}
STREAMS_AT_LEARNER: dict[str, tuple[str, Message]] = {
    "stream of keys": ("/etcdserverpb.KV/RangeStream", pb.RangeRequest(key=b"a", serializable=True)),
    "watch": ("/etcdserverpb.Watch/Watch", pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"a"))),
    "keep-alive": ("/etcdserverpb.Lease/LeaseKeepAlive", pb.LeaseKeepAliveRequest(ID=1)),
}


@pytest.fixture
def etcd_learner(tmp_path: Path, etcd_program: Path) -> Iterator[str]:
    """The address of one that stays a learner."""
    with Cluster(tmp_path, 2, first=1, etcd=etcd_program) as cluster:
        voter, learner = cluster.members
        with grpc.insecure_channel(voter.client_address) as channel:
            request = pb.MemberAddRequest(peerURLs=[f"http://127.0.0.1:{cluster.advertised[1]}"], isLearner=True)
            rpc_pb2_grpc.ClusterStub(channel).MemberAdd(request, timeout=20)
        learner.command.append("--initial-cluster-state=existing")
        learner.start()
        yield learner.client_address


def test_a_learner_refuses_as_in_etcd(etcd_learner: str, door: EtcdDoor) -> None:
    door.run(lambda: setattr(door.node, "is_learner", True))
    ours, theirs = (answers_of_learner(address) for address in (door.address, etcd_learner))
    theirs["/version"] = theirs["/version"].replace("3.5.0", "3.7.0")  # until etcd has stored its own version
    assert ours == theirs
    refusals = [name for name, answer in ours.items() if answer == "9 etcdserver: rpc not supported for learner"]
    assert len(refusals) == len(AT_LEARNER) + len(STREAMS_AT_LEARNER) - 4, ours


def answers_of_learner(address: str) -> dict[str, str]:
    found = {}
    with grpc.insecure_channel(address) as channel:
        for name, (path, request) in AT_LEARNER.items():
            found[name] = told(lambda path=path, request=request: channel.unary_unary(path)(request.SerializeToString(), timeout=10))
        for name, (path, request) in STREAMS_AT_LEARNER.items():
            message = request.SerializeToString()
            found[name] = told(lambda path=path, message=message: next(channel.stream_stream(path)(forever(message, 3), timeout=10)))
    return found | probe(address)


def told(call: Any) -> str:
    try:
        call()
    except grpc.RpcError as error:
        return f"{error.code().value[0]} {error.details()}"
    return "OK"
