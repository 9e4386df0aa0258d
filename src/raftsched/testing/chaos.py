"""`make chaos` and `make kills`: faults on three real processes under the load of both APIs, with every checker at the end.

    python -m raftsched.testing.chaos [--seconds 600] [--seed N] [--members 3] [--json FILE]
    … --manager scripts/cluster.py        the members are those of `make cluster`, whose manager starts again what is killed (`make chaos`)
    python -m raftsched.testing.chaos --leader-kills 100 --all-kills 20
    … --etcd PROGRAM [--etcd PROGRAM …]   the same on real etcds, without jobs: to see that the checkers are right

Exit code 1 when a checker found something; then the histories and the members' directories are kept and named.
"""

import argparse
import json
import pickle
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from statistics import median
from typing import Any

import grpc

from raftsched.testing.cluster import Cluster, Member
from raftsched.testing.job_load import JobLoad
from raftsched.testing.managed import ManagedCluster
from raftsched.testing.nemesis import Nemesis
from raftsched.testing.store_load import StoreLoad

PROGRESS_S = 30.0
DEFAULT_JSON = Path("build/chaos.json")
BEFORE_KILL_S = (0.2, 1.5)
GAP_WATCH_S = 0.5  # after the new leader answers: the load's own clients find it


@dataclass(slots=True)
class Run:
    """One cluster under both loads; `finish` gives the verdict."""

    cluster: Cluster
    jobs: JobLoad | None
    store: StoreLoad
    seed: int
    gaps_ms: list[float] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    @classmethod
    def begin(cls, folder: Path, *, members: int, seed: int, etcd: Path | None, manager: Path | None = None, slower: float = 1.0) -> "Run":
        """`manager`: `scripts/cluster.py`, to start the members and start them again; None = the run does it itself, at once."""
        cluster = Cluster(folder, members, etcd=etcd, linked=True) if manager is None else ManagedCluster(folder, members, manager)
        try:
            cluster.start()
            cluster.leader()
            stores = [one.client_address for one in cluster.members]
            store = StoreLoad(stores, slower=slower)
            jobs = None if etcd is not None else JobLoad([one.scheduler_address for one in cluster.members], stores)
            if jobs is not None:
                jobs.start()
        except BaseException:
            cluster.close()
            raise
        return cls(cluster, jobs, store, seed)

    def connect(self, member: Member) -> None:
        """A member came: the load goes to it as well."""
        assert self.jobs is not None
        self.jobs.store_addresses.append(member.client_address)  # the store's clients share the list
        self.jobs.connect(member.scheduler_address)

    def disconnect(self, member: Member) -> None:
        """A member went for good."""
        assert self.jobs is not None
        self.jobs.store_addresses.remove(member.client_address)
        self.jobs.disconnect(member.scheduler_address)

    def finish(self, folder: Path) -> list[str]:
        """Ends the load on a whole cluster; everything that is wrong, one text each. The histories are kept in `folder`."""
        wrong = []
        self.store.stop()
        with (folder / "histories.pickle").open("wb") as file:
            pickle.dump({kind.kind: recorder.history for kind, recorder in self.store.recorders.items()}, file)
        if self.jobs is not None:
            wrong += [f"jobs: {one}" for one in self.jobs.finish()]
        try:
            self.cluster.wait_equal()
        except AssertionError as error:
            wrong.append(f"stores: {error}")
        return wrong + [f"history: {one}" for one in self.store.violations()]

    def figures(self) -> dict[str, Any]:
        told: dict[str, Any] = {"seed": self.seed, "seconds": round(time.monotonic() - self.begun, 1), "store": self.store.figures()}
        if self.jobs is not None:
            told["jobs"] = self.jobs.figures()
        if self.gaps_ms:
            ordered = sorted(self.gaps_ms)
            told["without_writes_ms"] = {
                "count": len(ordered),
                "p50": round(median(ordered), 1),
                "p90": round(ordered[len(ordered) * 9 // 10], 1),
                "max": round(ordered[-1], 1),
            }
        return told


def chaos(run: Run, seconds: float) -> dict[str, Any]:
    """Faults from the seed until the time is over; how many of each."""
    nemesis = Nemesis(run.cluster, run.seed)
    end = time.monotonic() + seconds
    told = time.monotonic()
    while time.monotonic() < end:
        nemesis.calm()
        nemesis.strike()
        if time.monotonic() > told + PROGRESS_S:
            told = time.monotonic()
            count = run.store.figures()["register"]
            print(f"{told - run.begun:6.0f} s: {sum(nemesis.done.values())} faults, {count} operations on registers", flush=True)
    return dict(nemesis.done)


def kills(run: Run, leaders: int, everybody: int) -> dict[str, Any]:
    """kill -9 of the leader, and of all members at once, under load; each time until all are back."""
    draw = random.Random(run.seed)
    plan = [False] * leaders + [True] * everybody
    draw.shuffle(plan)
    for number, of_all in enumerate(plan, 1):
        time.sleep(draw.uniform(*BEFORE_KILL_S))
        leader = run.cluster.leader()
        begin = time.monotonic_ns()
        for member in run.cluster.members if of_all else [leader]:
            member.kill()
        if not of_all:
            run.cluster.leader()
            time.sleep(GAP_WATCH_S)
            run.gaps_ms.append(run.store.longest_gap_ms(begin))
        run.cluster.start()
        if number % 10 == 0:
            print(f"{time.monotonic() - run.begun:6.0f} s: {number} of {len(plan)} kills", flush=True)
    return {"leader kills": leaders, "kills of all": everybody}


def options_from(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--leader-kills", type=int, default=0)
    parser.add_argument("--all-kills", type=int, default=0)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    parser.add_argument("--etcd", type=Path, default=None)
    parser.add_argument("--manager", type=Path, default=None, help="scripts/cluster.py: the members are those of `make cluster`")
    parser.add_argument("--json", type=Path, default=DEFAULT_JSON)
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    options = options_from(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no member outlives the run
    folder = Path(tempfile.mkdtemp(prefix="raftsched-chaos-"))
    print(f"seed {options.seed}, {options.members} members in {folder}", flush=True)
    run = Run.begin(folder, members=options.members, seed=options.seed, etcd=options.etcd, manager=options.manager)
    try:
        by_count = options.leader_kills or options.all_kills
        done = kills(run, options.leader_kills, options.all_kills) if by_count else chaos(run, options.seconds)
        wrong = run.finish(folder)
    except (RuntimeError, TimeoutError, grpc.RpcError) as error:
        done, wrong = {}, [f"the run broke off: {error}"]
        run.store.stop()
    finally:
        run.cluster.close()
    report = {"faults": done, **run.figures(), "wrong": wrong}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps({key: value for key, value in report.items() if key != "wrong"}, indent=2))
    for one in wrong:
        print(f"WRONG  {one}", file=sys.stderr)
    if wrong:
        print(f"{len(wrong)} violations; everything is kept in {folder}", file=sys.stderr)
        return 1
    rmtree(folder)
    print("every checker is green")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
