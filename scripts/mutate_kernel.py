"""Puts known faults into copies of the Raft kernel and demands that the simulation finds each within a stated number of schedules.

    scripts/mutate_kernel.py [NAME ...]          all mutations, or those whose name contains one of the words
    scripts/mutate_kernel.py --sim [NAME ...]    the same in whole members: raftsched.testing.sim in place of kernels alone
    scripts/mutate_kernel.py --short             some, all in one copy: seconds, for tests/sim/test_mutants.py
    scripts/mutate_kernel.py --list

With --sim the copy is the kernel of whole members: stories of tests/sim/kernel_stories.py that lead them into what the fault needs.
Not each mutation has one: the schedules of kernels alone find all.

A copy is patched as text, compiled out of tree (build/mutants/<name>) and played in a process of its own in place of the kernel. The copy
without a patch is played first and must show nothing. A patch whose text is not found, or found twice, is an error: the kernel has changed
and the mutation must follow. Exit code 1: a fault was not found, or the unpatched kernel failed.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "raftsched" / "store" / "raft"
BUILD = ROOT / "build" / "mutants"
MODULE = "raftsched.store.raft._kernel"
DIRECTIVES = ("boundscheck=False", "wraparound=False", "initializedcheck=False", "cdivision=True", "binding=True")
SHAPES = ((3, 0), (5, 0), (3, 3), (2, 3), (1, 3))  # (founders, joiners) of schedule 0, 1, ...
STEPS = 4000
SIM_SEEDS_MAX = 3
CONTROL_SCHEDULES = 200
KERNEL, ELECTIONS, REPLICATION, READS = "_kernel.pyx", "_kernel/elections.pxi", "_kernel/replication.pxi", "_kernel/read_index.pxi"


@dataclass(frozen=True)
class Mutation:
    """`old` stands exactly once in `file`; the fault must be found within `schedules_max`. `sim`: the story that finds it
    among whole members; "" = nothing is demanded there."""

    name: str
    why: str
    old: str
    new: str
    schedules_max: int
    sim: str = ""
    file: str = KERNEL


MUTATIONS = (
    Mutation(
        "truncate without conflict",
        "L1: a repeated append drops what came after it, acknowledged or not",
        "        skip = 0\n        while skip",
        "        skip = 0\n"
        "        if self.log.last() > max(index, self.commit):\n"
        "            truncate(self, max(index, self.commit) + 1)\n"
        "        while skip",
        100,
        file=REPLICATION,
    ),
    Mutation(
        "ack without term",
        "L3: an ack of an older term counts in this one",
        "    elif message.term < self.term:\n",
        "    elif message.type == APPEND_RESPONSE and not message.reject:\n        return True\n    elif message.term < self.term:\n",
        1000,
        "old ack",
        ELECTIONS,
    ),
    Mutation(
        "vote not persisted",
        "D2: the vote leaves before it is on disk",
        "    elif message.type == PRE_VOTE:\n        wait = False",
        "    elif message.type == PRE_VOTE or message.type == VOTE_RESPONSE:\n        wait = False",
        100,
        "lost vote",
        REPLICATION,
    ),
    Mutation(
        "commit of an old term",
        "thesis figure 3.7: entries of older terms committed by counting",
        "    if index <= self.commit or self.log.term_at(index) != self.term:\n",
        "    if index <= self.commit:\n",
        100,
        "figure 8",
        REPLICATION,
    ),
    Mutation(
        "two membership changes at once",
        "M1: two majorities that do not meet",
        "            if self.configuration.changes:\n                return -4\n",
        "",
        100,
        "two removals",
    ),
    Mutation(
        "read without quorum",
        "R1: a deposed leader serves what is old",
        "    if len(self.voters) == 1 and self.id in self.voters:\n        for context",
        "    if True:\n        for context",
        100,
        "deposed reader",
        READS,
    ),
    Mutation(
        "change stays when its entry is cut",
        "M4: a configuration that no log holds",
        "    self.configuration.cut(index)\n    self.voters",
        "    self.voters",
        100,
        file=REPLICATION,
    ),
    Mutation(
        "restart without the changes of the log",
        "M2: elections by the configuration of long ago",
        "        adopt_from_log(self, applied + 1)\n        self.timeout",
        "        self.timeout",
        100,
    ),
    Mutation(
        "leader counts what it has not synced",
        "D1: committed, and on too few disks",
        "matches.append(self.stable if member == self.id",
        "matches.append(self.log.last() if member == self.id",
        100,
        "unsynced leader",
        REPLICATION,
    ),
    Mutation(
        "forwarded proposal taken twice",
        "X4: a repeated message is a second write",
        "        if message.context <= self.taken.get(message.sender, 0):\n            return\n",
        "",
        100,
    ),
    Mutation(
        "forwarded proposal overtaken",
        "X4: the leader takes what comes behind a later one for a repetition",
        "    elif message.type == PROPOSE and not wait and queued_behind(self, message):\n        return\n",
        "",
        2000,
        file=REPLICATION,
    ),
    Mutation(
        "learners count for commits",
        "thesis 4.2.1: who is still catching up is no voter",
        "    for member in self.voters:\n        matches",
        "    for member in self.voters | self.configuration.learners:\n        matches",
        100,
        file=REPLICATION,
    ),
)
CONTROL = Mutation("none", "the kernel as it is", "", "", CONTROL_SCHEDULES)


def slug(name: str) -> str:
    return re.sub(r"\W+", "_", name)


def write_copy(mutation: Mutation, place: Path) -> Path:
    """The patched source tree; its `_kernel.pyx`."""
    shutil.rmtree(place, ignore_errors=True)
    package = place / "raftsched" / "store" / "raft"
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    if mutation.old:
        path = package / mutation.file
        text = path.read_text()
        if text.count(mutation.old) != 1:
            sys.exit(
                f"{mutation.name}: its text stands {text.count(mutation.old)} times in {mutation.file}; it must stand once:\n{mutation.old}"
            )
        path.write_text(text.replace(mutation.old, mutation.new))
    return package / KERNEL


@cache
def compile_copy(mutation: Mutation) -> Path:
    """The extension module. Not optimised: it is compiled once and played for seconds."""
    place = BUILD / slug(mutation.name)
    return compile_source(write_copy(mutation, place))


def compile_source(source: Path) -> Path:
    place = source.parent
    directives = [part for one in DIRECTIVES for part in ("-X", one)]
    generated, built = source.with_suffix(".c"), source.with_name("_kernel" + sysconfig.get_config_var("EXT_SUFFIX"))
    run([sys.executable, "-m", "cython", "-3", *directives, "--module-name", MODULE, str(source), "-o", str(generated)], place)
    compiler = sysconfig.get_config_var("CC").split()
    include = "-I" + sysconfig.get_paths()["include"]
    run([*compiler, "-shared", "-fPIC", "-O1", "-w", "-std=gnu11", include, str(generated), "-o", str(built)], place)
    return built


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def load(built: Path) -> None:
    """Puts the extension in the kernel's place, for this process."""
    spec = importlib.util.spec_from_file_location(MODULE, built)
    if spec is None or spec.loader is None:
        sys.exit(f"{built} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)


def play(built: Path, schedules: int) -> None:
    """Plays schedules until one shows a fault; prints [how many were played, what was seen] as JSON."""
    load(built)
    sys.path.insert(0, str(ROOT / "tests" / "sim"))
    from raft_cluster import Cluster

    from raftsched.store.raft._kernel import KernelError

    for seed in range(schedules):
        try:
            size, joiners = SHAPES[seed % len(SHAPES)]
            cluster = Cluster(seed, size, joiners)
            for _ in range(STEPS):
                cluster.step()
            cluster.heal()
            cluster.agreed()
        except (AssertionError, KernelError) as fault:
            print(json.dumps([seed + 1, f"{type(fault).__name__}: {fault}"]))
            return
    print(json.dumps([schedules, ""]))


SWITCH = ('include "_kernel/types.pxi"\n', 'import os\ncdef int FAULT = int(os.environ["FAULT"])\ninclude "_kernel/types.pxi"\n')
SHORT = {
    "truncate without conflict": (
        "        skip = 0\n        if FAULT == 1 and self.log.last() > max(index, self.commit):\n"
        "            truncate(self, max(index, self.commit) + 1)\n        while skip"
    ),
    "vote not persisted": ("    elif message.type == PRE_VOTE or (FAULT == 2 and message.type == VOTE_RESPONSE):\n        wait = False"),
    "commit of an old term": "    if index <= self.commit or (FAULT != 3 and self.log.term_at(index) != self.term):\n",
    "two membership changes at once": "            if FAULT != 4 and self.configuration.changes:\n                return -4\n",
    "read without quorum": "    if FAULT == 5 or (len(self.voters) == 1 and self.id in self.voters):\n        for context",
}
"""Faults that show within few schedules, each behind a switch (its place here, from 1), so that one copy has them all."""
SHORT_CONTROL_SCHEDULES = 20


def compile_switched() -> Path:
    """The copy with all of `SHORT`."""
    place = BUILD / "short"
    source = write_copy(CONTROL, place)
    source.write_text(replaced(source.read_text(), *SWITCH))
    by_name = {one.name: one for one in MUTATIONS}
    for name, guarded in SHORT.items():
        path = source.parent / by_name[name].file
        path.write_text(replaced(path.read_text(), by_name[name].old, guarded))
    return compile_source(source)


def replaced(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        sys.exit(f"this must stand once, and stands {text.count(old)} times:\n{old}")
    return text.replace(old, new)


def judge_short() -> bool:
    built, good = compile_switched(), True
    by_name = {one.name: one for one in MUTATIONS}
    for fault, name in enumerate(("", *SHORT)):
        most = by_name[name].schedules_max if name else SHORT_CONTROL_SCHEDULES
        command = [sys.executable, __file__, "--play", str(built), "--schedules", str(most)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "FAULT": str(fault)})
        if done.returncode:
            sys.exit(f"{name}: the player failed\n{done.stderr[-2000:]}")
        played, seen = json.loads(done.stdout)
        right = bool(seen) == bool(name)
        good = good and right
        verdict = f"found in schedule {played}: {seen}" if seen else f"nothing in {played}"
        print(f"{'ok  ' if right else 'FAIL'} {name or CONTROL.name}: {verdict}")
    return good


def play_sim(built: Path, what: str, seeds: int) -> None:
    """As `play`, with whole members."""
    load(built)
    sys.path.insert(0, str(ROOT / "tests" / "sim"))
    from kernel_stories import tell

    for number in range(seeds):
        seed = f"mutant-{number}"
        report = tell(what, seed)
        if report.error:
            print(json.dumps([number + 1, report.error[:240]]))
            return
    print(json.dumps([seeds, ""]))


def judge(mutation: Mutation, *, sim: str = "") -> bool:
    """True if all is as it must be; one line about it. `sim`: not by kernels alone, but by this of whole members."""
    built = compile_copy(mutation)
    started = time.monotonic()
    most = SIM_SEEDS_MAX if sim else mutation.schedules_max
    command = [sys.executable, __file__, "--play", str(built), "--schedules", str(most), *(["--what", sim] if sim else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{mutation.name}: the player failed\n{done.stderr[-2000:]}")
    played, seen = json.loads(done.stdout)
    good = bool(seen) == bool(mutation.old)
    unit = f"{sim}, seed" if sim else "schedule"
    verdict = f"found in {unit} {played} of at most {most}" if seen else f"nothing in {played} ({unit})"
    print(
        f"{'ok  ' if good else 'FAIL'} {mutation.name}: {verdict}, {time.monotonic() - started:.1f} s. {seen or mutation.why}", flush=True
    )
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--short", action="store_true", help="some, all in one copy")
    parser.add_argument("--sim", action="store_true", help="in whole members")
    parser.add_argument("--what", default="", help=argparse.SUPPRESS)
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--schedules", type=int, default=CONTROL_SCHEDULES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        if options.what:
            play_sim(options.play, options.what, options.schedules)
        else:
            play(options.play, options.schedules)
        return
    if options.short:
        sys.exit(not judge_short())
    chosen = [one for one in (CONTROL, *MUTATIONS) if not options.names or any(word in one.name for word in options.names)]
    if options.list:
        print("\n".join(f"{one.name}: {one.why}" for one in chosen))
        return
    if not chosen:
        sys.exit("no such mutation; --list tells which there are")
    if options.sim:
        chosen = [one for one in chosen if one.sim]
        controls = [(CONTROL, what) for what in dict.fromkeys(one.sim for one in chosen)]
        sys.exit(False in [judge(one, sim=what) for one, what in [*controls, *((one, one.sim) for one in chosen)]])
    sys.exit(False in [judge(one) for one in chosen])


if __name__ == "__main__":
    main()
