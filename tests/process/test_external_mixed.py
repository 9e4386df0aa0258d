"""A migration on one etcd: replicas of Dapr's Scheduler leave, ours join (spec §6.2: there the protocol is normative bit for bit).

Dapr's part is played by testing/dapr_replica.py, from the contract, step by step. Its own program: interop/test_real_dapr_scheduler.py.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from externals import one_etcd
from serving import JOBS, Clients, Worker, composed, job_metadata, wait_for

from raftsched.pb.dapr import leadership_pb2, scheduler_pb2, stored_pb2
from raftsched.testing.dapr_replica import LEADERSHIP, DaprReplica
from raftsched.testing.external import ExternalScheduler

pytestmark = pytest.mark.process


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with one_etcd(tmp_path) as etcd:
        yield etcd.address


def put_job(clients: Clients, name: str, partition: int) -> None:
    """A stored job as Dapr writes it, due long ago, of this partition."""
    job = stored_pb2.Job(partition_id=partition)
    job.due_time.FromSeconds(1_700_000_000)
    job.job.due_time = "2023-11-14T22:13:20Z"
    job.job.metadata.Pack(job_metadata("app"))
    clients.put(JOBS + composed(name), job.SerializeToString())


def test_dapr_leaves_and_ours_join(tmp_path: Path, address: str) -> None:
    zero, one = (DaprReplica(address, f"dapr-scheduler-server-{number}") for number in (0, 1))
    two, three = (ExternalScheduler(tmp_path / str(number), [address], name=f"dapr-scheduler-server-{number}") for number in (2, 3))
    clients = Clients(two)
    try:
        assert zero.join()
        assert one.join()
        assert zero.follow()
        two.start(wait=False).wait_ready(180)
        wait_for(lambda: len(clients.under(LEADERSHIP)) == 3, 30, two.logs)
        own = leadership_pb2.Leadership.FromString(clients.under(LEADERSHIP)[LEADERSHIP + b"dapr-scheduler-server-2"])
        assert own.total == 3
        host = scheduler_pb2.Host()
        assert own.replica_data.Unpack(host)
        assert host.address == two.scheduler_address
        assert own.replica_data.type_url == "type.googleapis.com/dapr.proto.scheduler.v1.Host"
        assert "Cron is ready" not in two.stdout_path.read_text()  # Dapr's two do not agree yet
        assert not zero.follow()
        assert one.follow()
        wait_for(lambda: "Cron is ready" in two.stdout_path.read_text(), 30, two.logs)

        with Worker(two) as worker:
            jobs = {f"part-{number}": number for number in range(3)}
            for name, partition in jobs.items():
                put_job(clients, name, 3 * 7 + partition)
            wait_for(lambda: "part-2" in worker.deliveries, 30, lambda: f"{worker.deliveries} {two.logs()}")
            assert "part-0" not in worker.deliveries
            assert "part-1" not in worker.deliveries

            # One of Dapr's leaves while one of ours joins: three as before, and Dapr's other key is not written again.
            one.leave()
            three.start(wait=False).wait_ready(180)
            with Worker(three) as other:
                wait_for(
                    lambda: "part-1" in worker.deliveries + other.deliveries, 60, lambda: f"{two.logs()}\n{three.logs()}\n{zero.follow()}"
                )
                assert "part-0" not in worker.deliveries + other.deliveries
                zero.leave()
                wait_for(lambda: "part-0" in worker.deliveries + other.deliveries, 30, lambda: f"{two.logs()}\n{three.logs()}")
                wait_for(lambda: not [key for key in clients.under(JOBS) if b"part-" in key], 30, "finished jobs stay")
                assert sorted(worker.deliveries + other.deliveries) == ["part-0", "part-1", "part-2"]
    finally:
        clients.close()
        for replica in (two, three):
            replica.__exit__(None, None, None)
        for partner in (zero, one):
            partner.close()
