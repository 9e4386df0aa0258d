"""Real Dapr Schedulers and replicas of raftsched on one etcd while the ones replace the others (spec §6.2), id by id, and back again.

On a real etcd and on `raftsched etcd`. Every tick of every job comes, none early, and none twice in the store.
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from real_dapr import GOES_ON_S, addresses, dapr_scheduler, etcd, hosts, ready, totals, triggered

from raftsched.testing.dapr_scheduler import DaprScheduler
from raftsched.testing.external import ExternalScheduler
from raftsched.testing.job_load import JobLoad

sys.path.append(str(Path(__file__).resolve().parents[1] / "process"))
from externals import READY_TIMEOUT_S, load
from serving import Clients, wait_for

pytestmark = pytest.mark.process
REPLICAS = 3
RECURRING = 12  # jobs: each replica owns some, whatever the partition ids are


@pytest.fixture(scope="module")
def program() -> Path:
    return dapr_scheduler()


def logs(running: Sequence[ExternalScheduler]) -> str:
    return "\n".join(one.logs(1500) for one in running)


@pytest.mark.parametrize("store", ["etcd", "raftsched"])
def test_replicas_are_replaced_one_by_one(store: str, program: Path, etcd_program: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        members = stack.enter_context(etcd(tmp_path, 1, real=etcd_program if store == "etcd" else None))
        endpoints = [members[0].client]
        names = [f"dapr-scheduler-server-{index}" for index in range(REPLICAS)]
        theirs = [DaprScheduler(program, tmp_path / f"dapr-{index}", endpoints, name=name) for index, name in enumerate(names)]
        ours = [ExternalScheduler(tmp_path / f"ours-{index}", endpoints, name=name) for index, name in enumerate(names)]
        for one in [*theirs, *ours]:
            stack.callback(one.__exit__, None, None, None)
        for one in theirs:
            one.start(wait=False)
        for one in theirs:
            ready(one)
        clients = Clients(theirs[0])
        stack.callback(clients.close)
        jobs = stack.enter_context(load(theirs, addresses(members), recurring=RECURRING))
        running: list[ExternalScheduler] = list(theirs)
        settled(jobs, running, clients)
        for index in [*range(REPLICAS), *reversed(range(REPLICAS))]:
            replace(jobs, running, index, ours[index] if running[index] is theirs[index] else theirs[index])
            settled(jobs, running, clients)
        print(store, jobs.figures())


def replace(jobs: JobLoad, running: list[ExternalScheduler], index: int, comes: ExternalScheduler) -> None:
    """One leaves, another takes its id."""
    goes = running[index]
    assert goes.stop(timeout_s=30) == 0, goes.logs()
    jobs.disconnect(goes.scheduler_address)
    comes.start(wait=False).wait_ready(READY_TIMEOUT_S)
    jobs.connect(comes.scheduler_address)
    running[index] = comes


def settled(jobs: JobLoad, running: Sequence[ExternalScheduler], clients: Clients) -> None:
    """All know all, and each triggers its part."""
    wait_for(lambda: totals(clients) == [REPLICAS] * REPLICAS, GOES_ON_S, lambda: f"{totals(clients)}\n{logs(running)}")
    known = {one.scheduler_address for one in running}
    wait_for(lambda: all(hosts(one) == known for one in running), GOES_ON_S, lambda: logs(running))
    before = [triggered(one) for one in running]
    wait_for(
        lambda: all(triggered(one) > count for one, count in zip(running, before, strict=True)),
        GOES_ON_S,
        lambda: f"{jobs.figures()}\n{logs(running)}",
    )
