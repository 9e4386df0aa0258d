"""The cluster's rows: three members against three real etcds in one run, failover of both APIs, steady ticks, catching up.

Both clusters run at once, in turns under load: what the idle one costs (heartbeats) is carried by both. The one core that a third
process would have on a machine of its own it does not have here, on neither side.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import grpc

from bench.load import gobench, h2load, schedload
from bench.load.jobs import Goals, three_servers
from bench.load.schedload import Load
from bench.load.store import KV, PUT, RANGE, revision
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.cluster import Cluster, Member
from raftsched.testing.rebalancing import Rebalancing, quantile

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import tools

ROUNDS = 5
KILLS = 20
FAILOVER_KILLS = 50
FAILOVER_JOBS = 30
FAILOVER_AFTER_S = 6
PROBE_S = 0.01
PROBE_TIMEOUT_S = 5.0
REBALANCED_JOBS = 300
REBALANCE_ROUNDS = 3
QUIET_S = 10.0
CATCH_UP_BYTES = 1 << 30
CATCH_UP_VALUE_BYTES = 1 << 20
CATCH_UP_TIMEOUT_S = 600
Answer = tuple[str, str, str, bool | None]


def compared(what: str, target: float, theirs: Cluster, ours: Cluster, drive: Callable[[Cluster], h2load.Run]) -> Iterator[Answer]:
    """In turns; the ratio of the medians."""
    runs: dict[str, list[h2load.Run]] = {"theirs": [], "ours": []}
    for _ in range(ROUNDS):
        runs["theirs"].append(drive(theirs))
        runs["ours"].append(drive(ours))
    rate = {side: median(run.requests_per_s for run in done) for side, done in runs.items()}
    p99 = {side: median(run.p99_ms for run in done) for side, done in runs.items()}
    ratio = rate["ours"] / rate["theirs"]
    told = f"{ratio:.2f} x ({rate['ours']:,.0f}/s against {rate['theirs']:,.0f}/s; p99 {p99['ours']:.2f} against {p99['theirs']:.2f} ms)"
    yield what, f">= {target} x etcd", told, ratio >= target


def at_leader(method: str, message: bytes, requests: int, *, writes: bool) -> Callable[[Cluster], h2load.Run]:
    """h2load, ten connections times ten streams, at whoever leads; writes are counted by the store's revision."""

    def drive(cluster: Cluster) -> h2load.Run:
        address = cluster.leader().client_address
        before = revision(address)
        run = h2load.drive(address, KV + method, message, requests=requests, connections=10, streams=10)
        done = revision(address) - before
        if writes and done != requests:
            raise RuntimeError(f"{method} on {address}: {requests} requests made {done} revisions")
        return run

    return drive


def by_go(*arguments: str) -> Callable[[Cluster], h2load.Run]:
    """etcd's own generator over all endpoints."""

    def drive(cluster: Cluster) -> h2load.Run:
        return gobench.drive(",http://".join(one.client_address for one in cluster.members), *arguments)

    return drive


def store_rows(theirs: Cluster, ours: Cluster, scale: int) -> Iterator[Answer]:
    puts, reads = 20_000 // scale, 40_000 // scale
    yield from compared(
        "three members: put 256 B, 10 x 10, h2load at the leader", 1.5, theirs, ours, at_leader("Put", PUT, puts, writes=True)
    )
    range_all = at_leader("Range", RANGE, reads, writes=False)
    yield from compared("three members: linearizable range, 10 x 10, h2load at the leader", 1.5, theirs, ours, range_all)
    if tools.benchmark() is None:
        yield "three members: put, etcd's Go benchmark", ">= 1.5 x etcd", "missing: benchmark", None
        return
    put = by_go("put", "--key-size=8", "--sequential-keys", "--val-size=256", f"--total={puts}")
    yield from compared("three members: put 256 B, 100 clients over all, etcd's Go benchmark", 1.5, theirs, ours, put)
    read = by_go("range", "bench-01", "--consistency=l", f"--total={reads}")
    yield from compared("three members: linearizable range, 100 clients over all, etcd's Go benchmark", 1.5, theirs, ours, read)


def without_leader_ms(cluster: Cluster) -> float:
    """From kill -9 of the leader to the first answer of a survivor to a put; each gets one every PROBE_S, whatever came of the last."""
    leader = cluster.leader()
    channels = [grpc.insecure_channel(one.client_address) for one in cluster.members if one is not leader]
    stubs = [rpc_pb2_grpc.KVStub(channel) for channel in channels]
    request = rpc_pb2.PutRequest(key=b"probe", value=b"x")
    for stub in stubs:
        stub.Put(request, timeout=10)
    answered = threading.Event()
    moments: list[float] = []

    def on_done(call: Any) -> None:
        if call.exception() is None:
            moments.append(time.monotonic())
            answered.set()

    leader.kill()
    begin = time.monotonic()
    while not answered.wait(PROBE_S):
        for stub in stubs:
            stub.Put.future(request, timeout=PROBE_TIMEOUT_S).add_done_callback(on_done)
    for channel in channels:
        channel.close()
    leader.start()
    cluster.leader()
    time.sleep(1)  # connections between members are up again before the next kill
    return (min(moments) - begin) * 1000


def failover_rows(theirs: Cluster, ours: Cluster, kills: int) -> Iterator[Answer]:
    """Both in turns."""
    gaps: dict[str, list[float]] = {"theirs": [], "ours": []}
    for _ in range(kills):
        gaps["theirs"].append(without_leader_ms(theirs))
        gaps["ours"].append(without_leader_ms(ours))
    p50 = {side: median(ones) for side, ones in gaps.items()}
    worst = {side: max(ones) for side, ones in gaps.items()}
    told = f"p50 {p50['ours']:.0f} ms, worst {worst['ours']:.0f} ms of {kills} (etcd: {p50['theirs']:.0f}, {worst['theirs']:.0f})"
    yield "three members: without writes after kill -9 of the leader", "p50 < 750 ms", told, p50["ours"] < 750


def load_over(cluster: Cluster) -> Load:
    return Load([one.scheduler_address for one in cluster.members])


def orphan_rows(ours: Cluster, kills: int) -> Iterator[Answer]:
    """schedload kills one member and watches its jobs: how late their next tick is, at most (a gap of 1 s is no lateness)."""
    late_s: list[float] = []
    others_s: list[float] = []
    missed = 0.0
    for turn in range(kills):
        victim = ours.members[turn % len(ours.members)]
        late, other, lost = one_orphaning(ours, victim)
        late_s.append(late)
        others_s.append(other)
        missed += lost
    late_s.sort()
    p99 = late_s[min(len(late_s) * 99 // 100, len(late_s) - 1)]
    told = (
        f"p50 {median(late_s):.2f} s, p99 {p99:.2f} s, missed {missed:.0f}, of {kills} kills; jobs of others {max(others_s):.2f} s at worst"
    )
    yield "three members: lateness of orphaned ticks after kill -9", "p99 < 2 s over 50 kills (Dapr: 16 s)", told, p99 < 2 and missed == 0


def one_orphaning(ours: Cluster, victim: Member) -> tuple[float, float, float]:
    """Lateness in seconds of the dead member's jobs and of the others', and how many ticks were lost."""
    assert victim.process is not None
    words = ["-n", str(FAILOVER_JOBS), "-d", "3s", "-after", f"{FAILOVER_AFTER_S}s"]
    figures = load_over(ours).run("failover", "-victim", victim.scheduler_address, "-kill-pid", str(victim.process.pid), *words)
    victim.process.wait()
    victim.process = None
    victim.start()
    ours.leader()
    time.sleep(3)  # ownership is settled again
    return figures["victim_gap_max_s"] - 1, figures["other_gap_max_s"] - 1, figures["missed"]


class Writer:
    """Puts one after another by one client at the leader, with their latencies."""

    def __init__(self, address: str) -> None:
        self.taken_ms: list[float] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(address,))
        self._thread.start()

    def _run(self, address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            stub = rpc_pb2_grpc.KVStub(channel)
            while not self._stopping.wait(0.002):
                begin = time.monotonic()
                stub.Put(rpc_pb2.PutRequest(key=b"meanwhile", value=b"v" * 256), timeout=30)
                self.taken_ms.append((time.monotonic() - begin) * 1000)

    def stop(self) -> float:
        """p99 in ms."""
        self._stopping.set()
        self._thread.join()
        return sorted(self.taken_ms)[len(self.taken_ms) * 99 // 100]


def catch_up_rows(folder: Path, scale: int) -> Iterator[Answer]:
    """A follower is away while the others take 1 GiB, and comes back under a light load."""
    with Cluster(folder) as cluster:
        quiet = Writer(cluster.leader().client_address)
        time.sleep(5)
        quiet_p99 = quiet.stop()
        away = cluster.followers()[0]
        away.kill()
        leader = cluster.leader()
        with grpc.insecure_channel(leader.client_address) as channel:
            stub = rpc_pb2_grpc.KVStub(channel)
            for position in range(CATCH_UP_BYTES // scale // CATCH_UP_VALUE_BYTES):
                value = os.urandom(CATCH_UP_VALUE_BYTES)
                stub.Put(rpc_pb2.PutRequest(key=b"bulk/%d" % position, value=value), timeout=60)
        behind = leader.status(10).header.revision
        writer = Writer(leader.client_address)
        begin = time.monotonic()
        away.start(wait=False)
        while (status := away.status()) is None or status.header.revision < behind:
            if time.monotonic() - begin > CATCH_UP_TIMEOUT_S:
                raise TimeoutError(cluster.logs())
            time.sleep(0.05)
        took_s = time.monotonic() - begin
        p99 = writer.stop()
        cluster.wait_equal(120)
    size = CATCH_UP_BYTES // scale / 1e6
    told = f"{took_s:.1f} s = {size / took_s:.0f} MB/s; others' puts p99 {p99:.1f} ms meanwhile, {quiet_p99:.1f} ms in quiet"
    yield "three members: a follower catches up 1 GiB", "time, and p99 of others' puts (for information)", told, None


def rebalancing_rows(ours: Cluster, rounds: int) -> Iterator[Answer]:
    """Each member in turn stops in order and comes back; ticks of jobs that keep their owner meanwhile, and of those that move."""
    load = Rebalancing(ours, REBALANCED_JOBS)
    load.start()
    load.during("quiet", lambda: None, QUIET_S)
    for member in ours.members * rounds:
        load.during("change", member.stop)
        load.during("change", member.start)
    found = load.finish()
    quiet, change = quantile(found["quiet"].unmoved_ms, 0.99), found["change"]
    p99, worst = quantile(change.unmoved_ms, 0.99), max(change.moved_ms)
    told = (
        f"unmoved p99 {p99:.1f} ms, max {max(change.unmoved_ms):.1f} ms of {len(change.unmoved_ms):,} (in quiet p99 {quiet:.1f} ms); "
        f"moved p99 {quantile(change.moved_ms, 0.99):.0f} ms, max {worst:.0f} ms of {len(change.moved_ms):,}; missed {change.missed}"
    )
    met = p99 < 50 and worst < 1000 and not change.missed
    what = f"three members: lateness of {REBALANCED_JOBS} jobs @every 1s while replicas leave and join"
    yield what, "unmoved p99 < 50 ms, moved max < 1 s", told, met


def rows(folder: Path, quick: bool) -> Iterable[Answer]:
    scale = 10 if quick else 1
    etcd = tools.etcd()
    if etcd is None or not h2load.available():
        yield "three members against three etcds", "", f"missing: {'etcd' if etcd is None else 'h2load'}", None
        return
    with Cluster(folder / "theirs", etcd=etcd) as theirs, Cluster(folder / "ours") as ours:
        yield from store_rows(theirs, ours, scale)
        yield from failover_rows(theirs, ours, KILLS // scale)
    if not schedload.available():
        yield "three members: scheduler under load", "", "missing: go (bench/schedload)", None
    else:
        with Cluster(folder / "jobs") as ours:
            yield from three_servers(load_over(ours), scale, Goals(title="three members: "))
            yield from orphan_rows(ours, FAILOVER_KILLS // scale)
    with Cluster(folder / "moves") as ours:
        yield from rebalancing_rows(ours, 1 if quick else REBALANCE_ROUNDS)
    yield from catch_up_rows(folder / "behind", scale)
