"""Wall clocks that are set back and forth: members go on, leases and elections do not notice, and no tick is lost or counted twice."""

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from clustering import put
from serving import job_metadata, wait_for

from raftsched.pb.dapr import scheduler_pb2, scheduler_pb2_grpc, stored_pb2
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.cluster import Cluster, Member
from raftsched.testing.job_load import APP, COUNTERS, INTERVAL_NS, CounterWatch, Stream, instant_ns

pytestmark = [pytest.mark.process, pytest.mark.slow]
JOBS = 12
HOUR_S = 3600.0
AHEAD_S = 8.0


def set_clock(member: Member, ahead_s: float) -> None:
    """Takes effect at once."""
    with (member.directory / "ahead").open("r+b") as file:
        file.write(struct.pack("<q", int(ahead_s * 1e9)))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    for one in made.members:
        one.directory.mkdir(parents=True)
        (one.directory / "ahead").write_bytes(bytes(8))
        one.command = [one.command[0], str(Path(__file__).with_name("skewed_member.py")), str(one.directory / "ahead"), *one.command[3:]]
    with made:
        yield made


class Ticks:
    """Deliveries by member, of jobs `@every 1s`; a watch of the counters."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.by_member: list[list[tuple[int, str]]] = [[] for _ in cluster.members]
        self._streams = [Stream(one.scheduler_address, taken) for one, taken in zip(cluster.members, self.by_member, strict=True)]
        self._watch = CounterWatch([one.client_address for one in cluster.members])
        for thread in (*self._streams, self._watch):
            thread.start()
        with grpc.insecure_channel(cluster.leader().scheduler_address) as channel:
            for number in range(JOBS):
                job = scheduler_pb2.Job(schedule="@every 1s")
                request = scheduler_pb2.ScheduleJobRequest(name=f"tick-{number}", job=job, metadata=job_metadata(APP))
                scheduler_pb2_grpc.SchedulerStub(channel).ScheduleJob(request, timeout=20)

    def go_on(self, members: list[Member], rounds: int = 2, timeout_s: float = 20) -> None:
        """Until each of these members has sent that many ticks of all that it owns."""
        for one in members:
            taken = self.by_member[one.number]
            begin = len(taken)
            owned = len({name for _, name in taken[-JOBS:]})
            assert owned, f"{one.name} owns nothing"
            wait_for(lambda taken=taken, wanted=begin + rounds * owned: len(taken) >= wanted, timeout_s, f"{one.name} does not tick")

    def stand_still(self, members: list[Member]) -> None:
        """What is on its way arrives; then nothing comes for some seconds."""
        time.sleep(0.5)
        before = [len(self.by_member[one.number]) for one in members]
        time.sleep(3)
        assert before == [len(self.by_member[one.number]) for one in members]

    def counts(self) -> dict[str, stored_pb2.Counter]:
        with grpc.insecure_channel(self._cluster.leader().client_address) as channel:
            request = rpc_pb2.RangeRequest(key=COUNTERS, range_end=COUNTERS[:-1] + b"0")
            pairs = rpc_pb2_grpc.KVStub(channel).Range(request, timeout=20).kvs
        return {pair.key.rpartition(b"||")[2].decode(): stored_pb2.Counter.FromString(pair.value) for pair in pairs}

    def stop(self) -> list[str]:
        """What the watch of the counters found, but for ticks that are early by another clock than their owner's."""
        for thread in (*self._streams, self._watch):
            thread.stop()
        return [one for one in self._watch.wrong if "early" not in one]


def leases(member: Member) -> set[int]:
    with grpc.insecure_channel(member.client_address) as channel:
        return {one.ID for one in rpc_pb2_grpc.LeaseStub(channel).LeaseLeases(rpc_pb2.LeaseLeasesRequest(), timeout=20).leases}


def test_clocks_that_jump(cluster: Cluster) -> None:
    leader = cluster.leader()
    term = leader.status().raftTerm
    with grpc.insecure_channel(leader.client_address) as channel:
        lease = rpc_pb2_grpc.LeaseStub(channel).LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=300), timeout=10).ID
    ticks = Ticks(cluster)
    try:
        wait_for(lambda: all(len(taken) > 10 for taken in ticks.by_member), 20, cluster.logs)
        before = leases(leader)
        for one in cluster.members:
            set_clock(one, -HOUR_S)
        ticks.stand_still(cluster.members)
        assert put(cluster.leader(), b"k", b"an hour ago") > 0
        assert leases(leader) == before
        for one in cluster.members:
            set_clock(one, 0)
        ticks.go_on(cluster.members)

        jumping = cluster.followers()[0]
        taken = ticks.by_member[jumping.number]
        wanted = len(taken) + AHEAD_S * len({name for _, name in taken[-JOBS:]})
        set_clock(jumping, AHEAD_S)
        wait_for(lambda: len(taken) >= wanted, AHEAD_S * 0.6, "what is due by its own clock does not fire at once")
        ticks.go_on([one for one in cluster.members if one is not jumping])
        set_clock(jumping, 0)  # its jobs stand still until the clock is where it was
        ticks.stand_still([jumping])
        ticks.go_on([one for one in cluster.members if one is not jumping])
        ticks.go_on([jumping], timeout_s=AHEAD_S + 15)

        assert leases(leader) == before
        assert lease in before
        assert (cluster.leader() is leader, leader.status().raftTerm) == (True, term), "an election because of a wall clock"
    finally:
        wrong = ticks.stop()
    assert not wrong, wrong[:5]
    delivered = [name for taken in ticks.by_member for _, name in taken]
    for name, counter in ticks.counts().items():
        assert delivered.count(name) >= counter.count - 2, f"{name}: ticks are missing"
    starts = {name: instant_ns(one.last_trigger) - one.count * INTERVAL_NS for name, one in ticks.counts().items()}
    time.sleep(2)
    assert len(starts) == JOBS
    assert starts == {name: instant_ns(one.last_trigger) - one.count * INTERVAL_NS for name, one in ticks.counts().items()}
