"""What the tests of an external etcd share: etcds, replicas over them, load on both with its verdict."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from serving import wait_for

from raftsched.testing.etcd import RealEtcd, RealEtcdCluster
from raftsched.testing.external import ExternalScheduler
from raftsched.testing.job_load import JobLoad

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import tools

READY_TIMEOUT_S = 180.0  # up to seven processes begin at once, on two cores that others share


def etcd_program() -> Path:
    path = tools.etcd("3.7")
    if path is None:
        pytest.skip("no etcd 3.7 here: not built by `make tools`")
    return path


def one_etcd(folder: Path, *args: str) -> RealEtcd:
    """Not started yet."""
    return RealEtcd(folder / "etcd", etcd_program(), args=args)


def three_etcds(folder: Path, *args: str) -> RealEtcdCluster:
    """Not started yet."""
    return RealEtcdCluster(folder / "etcd", etcd_program(), args=args)


@contextmanager
def replicas(folder: Path, endpoints: Sequence[str], count: int, *, args: Sequence[str] = ()) -> Iterator[list[ExternalScheduler]]:
    """Running, each killed at the end if it has not been stopped."""
    with ExitStack() as stack:
        started = [
            ExternalScheduler(folder / f"replica-{index}", endpoints, name=f"dapr-scheduler-server-{index}", args=args)
            for index in range(count)
        ]
        for one in started:
            stack.callback(one.__exit__, None, None, None)
            one.start(wait=False)
        for one in started:
            one.wait_ready(READY_TIMEOUT_S)
        yield started


@contextmanager
def load(schedulers: Sequence[ExternalScheduler], etcds: Sequence[str], *, recurring: int = 6, pause_s: float = 0.25) -> Iterator[JobLoad]:
    """Jobs of all kinds for as long as the block takes; then each tick must have come, none early, none twice in the store."""
    jobs = JobLoad([one.scheduler_address for one in schedulers], list(etcds), recurring=recurring, pause_s=pause_s)
    jobs.start()
    try:
        yield jobs
    except BaseException:
        jobs._stopping.set()
        raise
    wrong = jobs.finish()
    logs = "\n".join(one.logs(2000) for one in schedulers)
    assert not wrong, "\n".join(wrong[:8]) + f"\n{jobs.figures()}\n{logs}"
    assert len(jobs.deliveries) > 10, f"hardly any job: {jobs.figures()}"


def healthy(one: ExternalScheduler, timeout_s: float = 20) -> None:
    wait_for(lambda: one.health() == 200, timeout_s, lambda: f"not healthy again\n{one.logs()}")


def ill(one: ExternalScheduler, timeout_s: float = 10) -> None:
    """Within ten seconds (spec §10.2)."""
    wait_for(lambda: one.health() == 503, timeout_s, lambda: f"still healthy\n{one.logs()}")
