"""kill -9 of a store member at any moment, on one directory again and again, judged against a twin in memory.

The twin applies the same operations in the same order without disk, log or loop. After each kill the state that the next start reports
(all keys at several revisions, HashKV, leases with their keys, alarms, compact revision) must be the twin's after some number of
operations that includes every answered one; and every answer must have been the twin's.
"""

import random
import subprocess
import sys
import time
from pathlib import Path

import crashing_member
import pytest
from crashing_member import WINDOW, answer, digest, operation

from raftsched.store._records import MemoryRecords
from raftsched.store.alarm import AlarmStore
from raftsched.store.apply import Applier, SideWrites
from raftsched.store.codec import wrap
from raftsched.store.lease import Lessor
from raftsched.store.membership import Membership
from raftsched.store.mvcc._store import MvccStore

PROGRAM = crashing_member.__file__


class Twin:
    """The operations' effect, in memory."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        side = SideWrites()
        lessor = Lessor(side.write)
        store = MvccStore(MemoryRecords(), lessor, hash_seed=seed, txn_ops_max=10_000)
        self.applier = Applier(store, lessor, AlarmStore(side.write), Membership(side.write), side)

    def apply(self, number: int) -> str:
        kind, message = operation(self.seed, number)
        entries = wrap(kind, [message], 1 << 48 | number + 1)
        _, (result,) = self.applier.apply(self.applier.applied_index + 1, 1, 0, entries)
        return answer(number, result)


class Life:
    """One process from its start to its kill."""

    def __init__(self, directory: Path, seed: int, first: int) -> None:
        self.process = subprocess.Popen([sys.executable, PROGRAM, str(directory), str(seed), str(first)], stdout=subprocess.PIPE, text=True)

    def end(self, *, after_ready_s: float | None, after_start_s: float) -> list[str]:
        """Kills it; its lines. `after_ready_s` None: kills after `after_start_s`, ready or not."""
        lines = []
        assert self.process.stdout is not None
        if after_ready_s is None:
            time.sleep(after_start_s)
        else:
            lines.append(self.process.stdout.readline())
            time.sleep(after_ready_s)
        self.process.kill()
        rest = self.process.stdout.read()
        self.process.stdout.close()
        self.process.wait()
        lines += rest.splitlines(keepends=True)
        return [line[:-1] for line in lines if line.endswith("\n")]


def catch_up(twin: Twin, reported: str, number: int, last: int) -> None:
    """Brings the twin to the reported state: operations from `number` on, up to `last`, may have happened or not."""
    near = []  # states with the same revisions
    while (found := digest(twin.applier)) != reported:
        if found.split(",")[:2] == reported.split(",")[:2]:
            near.append(found)
        assert number < last, f"seed {twin.seed}: no state of the twin is {reported}; it is at {found}, nearest was {near}"
        twin.apply(number)
        number += 1


def rounds(directory: Path, seed: int, count: int) -> int:
    """Kills `count` members; how many operations were answered."""
    rng, twin = random.Random(seed), Twin(seed)
    first = unsure = answered = 0  # operations [unsure, first) of the life before may have happened
    for _ in range(count):
        early = rng.random() < 0.15
        life = Life(directory, seed, first)
        lines = life.end(after_ready_s=None if early else rng.random() ** 2 * 0.4, after_start_s=rng.random() * 0.5)
        assert not [line for line in lines if line.startswith("F")], lines[-1]
        if not lines:
            assert early
            continue
        assert lines[0].startswith("R "), lines[0]
        catch_up(twin, lines[0][2:], unsure, first)
        for line in lines[1:]:
            assert line == twin.apply(first), f"seed {seed}"
            first += 1
            answered += 1
        unsure, first = first, first + WINDOW
    return answered


@pytest.mark.process
@pytest.mark.once
def test_killed_at_any_moment_and_opened_again(tmp_path: Path) -> None:
    assert rounds(tmp_path, random.randrange(1 << 30), 12) > 500


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.once
def test_killed_a_hundred_times(tmp_path: Path) -> None:
    assert sum(rounds(tmp_path / str(number), random.randrange(1 << 30), 25) for number in range(4)) > 5_000
