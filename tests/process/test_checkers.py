"""The checkers find what they are for: three real etcds, asked for stale answers, are not linearizable."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from clustering import tools

from raftsched.pb.etcd import rpc_pb2
from raftsched.testing.cluster import Cluster
from raftsched.testing.linearizability import Operation, check
from raftsched.testing.store_load import Client, Recorder, RegisterClient, got
from raftsched.testing.store_models import RegisterModel
from raftsched.testing.store_operations import Get, Pair, Result

pytestmark = pytest.mark.process


class Writer(RegisterClient):
    """Stays with its five keys."""

    @property
    def epoch(self) -> int:
        return 0


class Reader(Writer):
    def step(self) -> None:
        self.get(f"register/0/{self.draw.randrange(5)}")


class StaleReader(Reader):
    """Takes what its member has, without asking whether that is the latest."""

    def get(self, key: str) -> Result | None:
        request = rpc_pb2.RangeRequest(key=key.encode(), serializable=True)
        return self.operate(Get(key), lambda: self.kv.Range(request, timeout=3), got, reads=True)


def blind(operation: Operation) -> Operation:
    """The same answer without any revision."""
    parts = tuple(part._replace(mod_revision=0) if isinstance(part, Pair) else part for part in operation.output.parts)
    return replace(operation, output=operation.output._replace(parts=parts, revision=0))


@pytest.mark.parametrize("stale", [True, False])
def test_reads_from_a_member_that_is_cut_off(tmp_path: Path, stale: bool) -> None:
    program = tools.etcd()
    if program is None:
        pytest.skip("no etcd here")
    recorder = Recorder()
    with Cluster(tmp_path, etcd=program, linked=True) as cluster:
        assert cluster.links is not None
        follower = cluster.followers()[0]
        others = [one for one in cluster.members if one is not follower]
        clients: list[Client] = [Writer(number, [one.client_address for one in others], recorder, 0.01) for number in range(2)]
        clients.append((StaleReader if stale else Reader)(2, [follower.client_address], recorder, 0.01))
        for client in clients:
            client.start()
        time.sleep(1)  # load before, during and after the cut, not a wait for a condition
        cluster.links.separate(follower.number, [one.number for one in others])
        time.sleep(1.5)
        cluster.links.heal()
        time.sleep(0.5)
        for client in clients:
            client.stopping.set()
        for client in clients:
            client.join()
    assert len(recorder.history) > 100
    found = check(recorder.history, RegisterModel())
    assert (found is not None) == stale, str(found)
    without = [one if one.output is None else blind(one) for one in recorder.history]
    found = check(without, RegisterModel())
    assert (found is not None) == stale, f"without revisions: {found}"
