"""The faults S1 to S12 and R1 of stock pysyncobj 0.3.17: each function drives the real SyncObj to one and asserts that it is there.

tests/sim/test_raft_scenarios.py plays the same schedules on our kernel, or names the test that does, and asserts the opposite.
`python stock_scenarios.py S1 S6 ...` prints what was seen; the tests run it in processes of their own, since it replaces pysyncobj's clock.
"""

import contextlib
import os
import shutil
import signal
import sys
import tempfile

import pysyncobj.syncobj
from pysyncobj import FAIL_REASON
from pysyncobj.journal import FileJournal
from pysyncobj.node import Node
from stock_cluster import NOW, Net, Stock, cluster, run, submit


def succeeded(answers) -> list:
    return [item for item, reason in answers if reason == FAIL_REASON.SUCCESS]


def s1() -> str:
    """L2: a deposed leader commits its own tail on the first snapshot chunk and reports SUCCESS."""
    net, (a, b, c) = cluster()
    submit(a, range(4))
    run(net)
    net.isolate("A")
    answers = submit(a, ["ghost"])
    run(net, 2)
    b.elect()
    net.deliver_all()
    submit(b, range(240))
    run(net, 4)
    b.forceLogCompaction()
    run(net, 3)
    net.cut.clear()
    for _ in range(40):
        NOW[0] += 0.11
        b.hold()
        b.doTick(0)
        net.deliver_one("B", "A")
        net.links["B", "A"].clear()  # B sees its ack late: only the first message gets through
        a.hold()
        a.doTick(0)
        net.deliver_all({("A", "B"), ("B", "C"), ("C", "B")})
        if answers:
            break
    run(net, 20)
    assert succeeded(answers) == ["ghost"]
    assert not any("ghost" in node.state for node in (b, c))
    return "SUCCESS on the deposed leader, the entry in no surviving state"


def s2() -> str:
    """L1: an ack moves nextIndex back behind data in flight; the range that is sent again truncates acknowledged entries."""
    net, (a, b, _) = cluster()
    net.isolate("C")
    answers = submit(a, [f"x{number:02d}" + "p" * 10000 for number in range(20)])
    for _ in range(2):
        NOW[0] += 0.11
        a.hold()
        a.doTick(0)
    net.deliver_all({("A", "B")})
    for _ in range(2):
        net.deliver_one("B", "A")  # the heartbeat's ack and the first of three others
    NOW[0] += 0.11
    a.hold()
    a.doTick(0)  # sends everything after the first message again
    net.deliver_all({("B", "A")})
    a.doTick(0)  # commits on the remaining acks
    before = b.last
    net.deliver_one("A", "B")  # the first repeated message arrives, then the leader dies
    after = b.last
    net.crash("A")
    net.cut.clear()
    b.elect()
    net.deliver_all()
    run(net, 12)
    lost = [item[:3] for item in succeeded(answers) if item not in b.state]
    assert after < before
    assert lost
    return f"{len(answers)} writes acknowledged, follower log {before} -> {after}, lost {lost}"


def s3() -> str:
    """M1: two membership changes at once, two disjoint majorities commit."""
    net, (a, b, _) = cluster()
    run(net, 5)
    net.isolate("A")
    a.addNodeToCluster(Node("D"))
    a.addNodeToCluster(Node("E"))
    a.doTick(0)
    pending = a.last - a.raftCommitIndex
    for name in "DE":
        Stock(net, name, [one for one in "ABCDE" if one != name])
    for name in "DE":
        for other in "BC":
            net.cut |= {(name, other), (other, name)}
    left = submit(a, ["written-on-A"])
    run(net, 20)
    b.elect()
    net.deliver_all()
    right = submit(b, ["written-on-B"])
    run(net, 10)
    assert succeeded(left)
    assert succeeded(right)
    assert a.raftCurrentTerm != b.raftCurrentTerm
    return f"{pending} changes pending together; SUCCESS on both sides: {a.state} and {b.state}"


def s4() -> str:
    """D3: killed between the rename of the dump and the cut of the journal: the restart wipes the journal."""
    for _ in range(20):
        with contextlib.suppress(ProcessLookupError):  # the dump was done before it could be stopped
            return dumped_slowly()
    raise AssertionError("each dump was done before it could be stopped")


def dumped_slowly() -> str:
    folder = tempfile.mkdtemp()
    try:
        settings = {"journalFile": folder + "/journal", "fullDumpFile": folder + "/dump"}
        net = Net()
        a = Stock(net, "A", [], **settings)
        a.elect()
        first = submit(a, range(50))
        run(net, 4, hold=False)
        a.forceLogCompaction()
        a.doTick(0)
        child = a._SyncObj__serializer._Serializer__pid
        os.kill(child, signal.SIGSTOP)  # a slow dump
        second = submit(a, range(50, 100))
        run(net, 4, hold=False)
        os.kill(child, signal.SIGCONT)
        os.waitpid(child, 0)  # renamed; the parent dies before its next tick
        assert os.path.exists(folder + "/dump")
        a._SyncObj__raftLog.onOneSecondTimer()
        net = Net()
        a = Stock(net, "A", [], **settings)
        a.elect()
        run(net, 4, hold=False)
        acknowledged = succeeded(first) + succeeded(second)
        lost = [item for item in acknowledged if item not in a.state]
        assert lost
        return f"{len(acknowledged)} acknowledged, {len(lost)} lost after the restart"
    finally:
        shutil.rmtree(folder)


def s5() -> str:
    """D4: the journal is compacted in place; a kill in the middle loses the tail."""
    folder = tempfile.mkdtemp()
    try:
        journal = FileJournal(folder + "/journal")
        for index in range(1, 2001):
            journal.add(b"x" * 20, index, 1)
        done = 0
        add = journal.add

        def add_until_killed(*entry) -> None:
            nonlocal done
            done += 1
            if done == 101:
                raise KeyboardInterrupt
            add(*entry)

        journal.add = add_until_killed
        with contextlib.suppress(KeyboardInterrupt):
            journal.deleteEntriesTo(1000)
        left = len(FileJournal(folder + "/journal"))
        assert left < 1000
        return f"{left} of 1000 entries left"
    finally:
        shutil.rmtree(folder)


def s6() -> str:
    """L5: one entry back per heartbeat."""
    tail = 100
    net, (a, b, _) = cluster()
    net.isolate("A")
    submit(a, range(tail))
    run(net, 3)
    b.elect()
    net.deliver_all()
    submit(b, range(tail))
    run(net, 3)
    net.cut.clear()
    start = NOW[0]
    while a.log != b.log and NOW[0] - start < 600:
        run(net, 1)
    assert NOW[0] - start > tail * 0.09
    return f"a tail of {tail} entries took {NOW[0] - start:.1f} virtual seconds"


def s7() -> str:
    """X1: an exception in a replicated method repeats for ever. X2: one in a client callback applies twice on that node."""
    net, (a, b, _) = cluster()
    run(net)
    a.boom()
    for _ in range(20):
        with contextlib.suppress(ValueError):
            run(net, 1)
    times = a.state.count("boom")
    net, (a, b, _) = cluster()
    run(net)

    def bad(_result, _reason) -> None:
        raise RuntimeError

    a.append("once", callback=bad)
    for _ in range(6):
        with contextlib.suppress(RuntimeError):
            run(net, 1)
    assert times > 2
    assert a.state.count("once") == 2
    assert b.state.count("once") == 1
    return f"applied {times} times in 20 ticks; after a failing callback: leader {a.state}, follower {b.state}"


def s8() -> str:
    """L3: an ack of term 1 counts in term 3."""
    net, (a, b, c, _, e) = cluster("ABCDE")
    run(net, 3)
    net.isolate("A", "B")
    submit(a, [f"old{number}" for number in range(8)])
    for _ in range(2):
        NOW[0] += 0.11
        a.hold()
        a.doTick(0)
    net.deliver_all({("A", "B")})  # B acknowledges; the ack stays in the link
    c.elect()
    net.deliver_all({(one, other) for one in "CDE" for other in "CDE"})
    held = list(net.links["B", "A"])
    net.cut.clear()
    net.cut |= {("B", "A"), ("A", "B")}
    run(net, 30)  # C overwrites the tails of A and B
    assert a.last == c.last == b.last
    net.crash("C")
    a.elect()
    net.deliver_all({(one, other) for one in "ADE" for other in "ADE"})
    assert a._isLeader()
    net.cut |= {(one, other) for one in "AD" for other in "BE"} | {(other, one) for one in "AD" for other in "BE"}
    net.links["B", "A"].clear()
    net.links["B", "A"].extend(held)
    answers = submit(a, ["n0", "n1", "n2"])
    run(net, 2)
    before = a.raftCommitIndex
    for _ in held:
        net.deliver_one("B", "A")  # the stale acks, first in their link
    run(net, 2)
    assert succeeded(answers)
    assert a.raftCommitIndex > before
    after = a.raftCommitIndex
    net.crash("A", "D")
    net.cut.clear()
    Stock(net, "C", list("ABDE")).hold()
    e.elect()
    net.deliver_all()
    run(net, 10)
    lost = [item for item in succeeded(answers) if item not in e.state]
    assert e._isLeader()
    assert lost
    return f"commit {before} -> {after} on an ack of term 1; acknowledged and lost: {lost}"


def s9() -> str:
    """X3: a VERSION entry that a node does not support shifts what follows."""
    net, (a, b, _) = cluster()
    run(net)
    a._SyncObj__selfCodeVersion = 1
    a._SyncObj__onSetCodeVersion = lambda _version: None
    submit(a, [0, 1])
    a.setCodeVersion(1)
    submit(a, [2, 3, 4])
    run(net, 8)
    assert a.state == [0, 1, 2, 3, 4]
    assert b.state != a.state
    return f"leader {a.state}, follower {b.state}"


def s10() -> str:
    """M2: after a restart the configuration in the log is not in force."""
    folder = tempfile.mkdtemp()
    try:
        net = Net()

        def make(name: str, others: list[str]) -> Stock:
            return Stock(net, name, others, journalFile=folder + "/" + name)

        nodes = {name: make(name, [one for one in "ABC" if one != name]) for name in "ABC"}
        a = nodes["A"]
        for node in nodes.values():
            node.hold()
        a.elect()
        net.deliver_all()
        run(net, 3, dt_s=0.05)
        a.addNodeToCluster(Node("D"))
        Stock(net, "D", list("ABC"))
        run(net, 6, dt_s=0.05)
        size = len(a._SyncObj__otherNodes) + 1
        net.crash("B", "C")  # within the second in which the commit index is not yet flushed
        for name in "BC":
            nodes[name] = make(name, [one for one in "ABC" if one != name])
            nodes[name].hold()
        net.isolate("A", "D")
        b = nodes["B"]
        membership = pysyncobj.syncobj._bchr(pysyncobj.syncobj._COMMAND_TYPE.MEMBERSHIP)
        assert size == 4
        assert any(entry[0][:1] == membership for entry in b.log)
        b.elect()
        net.deliver_all()
        assert b._isLeader()
        return f"cluster of {size}, the change is in the log of B, B elected by B and C alone"
    finally:
        shutil.rmtree(folder)


def s11() -> str:
    """X5: the wake-up pipe fills after the command was queued."""
    _, (a, _, _) = cluster(appendEntriesUseBatch=False)
    for number in range(90_000):
        try:
            a.append(number)
        except BlockingIOError:
            return f"BlockingIOError at command {number}, which is queued all the same"
    raise AssertionError


def s12() -> str:
    """L7: the last chunk of a large entry is computed from the wrong length."""
    net, (a, _, _) = cluster(appendEntriesBatchSizeBytes=1000)
    for size in range(1900, 2100, 5):
        a.append("x" * size)
        try:
            run(net, 3)
        except Exception as error:  # whatever unpickling a cut pickle raises
            return f"{type(error).__name__} while receiving a command of {size} bytes"
    raise AssertionError


def r1() -> str:
    """No read index and a check-quorum of 30 s: a partitioned leader serves old data."""
    net, (a, b, _) = cluster()
    submit(a, ["old"])
    run(net)
    net.isolate("A")
    b.elect()
    net.deliver_all()
    submit(b, ["new"])
    start = NOW[0]
    while a._isLeader() and NOW[0] - start < 60:
        run(net, 1)
    assert NOW[0] - start > 20
    assert a.state == ["old"]
    assert "new" in b.state
    return f"the old leader stayed leader for {NOW[0] - start:.1f} virtual seconds"


SCENARIOS = {one.__name__.upper(): one for one in (s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, r1)}

if __name__ == "__main__":
    for chosen in sys.argv[1:] or SCENARIOS:
        print(chosen, SCENARIOS[chosen](), flush=True)
