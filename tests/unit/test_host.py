"""The two guards of the replication host: what it relies on has not changed, and what must never run cannot."""

import ast
import hashlib
import inspect
from importlib.metadata import version
from pathlib import Path

import pysyncobj
import pytest
from pysyncobj import SyncObj, fast_queue, pickle, serializer, syncobj, tcp_connection, tcp_server, transport
from pysyncobj.transport import TCPTransport

from raftsched.store.host import HostTransport, ReplicationHost, host_configuration
from raftsched.store.raft._kernel import Kernel, Message
from raftsched.store.replica import Output, Persisted, Tick

RELIED_ON = {
    "SyncObj.__init__": SyncObj.__init__,
    "SyncObj._applyCommand": SyncObj._applyCommand,
    "SyncObj.doTick": SyncObj.doTick,
    "SyncObj.__setState": SyncObj._SyncObj__setState,
    "SyncObj.getStatus": SyncObj.getStatus,
    "Transport": transport.Transport,
    "FastQueue": fast_queue.FastQueue,
}
HASHES = {
    "SyncObj.__init__": "09df12cd7fd7d727",
    "SyncObj._applyCommand": "827f207d515b2d64",
    "SyncObj.doTick": "bef78c2ba06d784b",
    "SyncObj.__setState": "2c1f239f7bd79b39",
    "SyncObj.getStatus": "0d3d668f66239ee0",
    "Transport": "9b0212a7af6123e7",
    "FastQueue": "0206b57b148b047d",
}


class FakeReplica:
    """Just enough of a replica to step a kernel and see what arrives."""

    def __init__(self, voters) -> None:
        self.kernel = Kernel(1, voters=voters, seed=1)
        self.events = []

    def step(self, events, _mono_ms: int) -> Output:
        self.events += events
        for event in events:
            if isinstance(event, Tick):
                self.kernel.tick()
            elif isinstance(event, Persisted):
                self.kernel.persisted(event.batch)
        while (ready := self.kernel.ready()) is not None:
            if ready.batch:
                self.kernel.persisted(ready.batch)
            for first, _, _, items in ready.committed:
                self.kernel.advance(first + len(items) - 1)
        return Output()


def make(others=()) -> tuple[ReplicationHost, FakeReplica]:
    replica = FakeReplica({1, *others})
    conf = host_configuration(50, 500, 700)
    return ReplicationHost(replica, lambda _output: None, lambda: 0, member_id=1, others=others, conf=conf), replica


def test_the_version_is_pinned() -> None:
    assert version("pysyncobj") == "0.3.17"


@pytest.mark.parametrize("name", RELIED_ON)
def test_the_source_it_relies_on_is_the_one_that_was_read(name: str) -> None:
    text = inspect.getsource(RELIED_ON[name])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == HASHES[name]


def pickle_users() -> set[str]:
    """Modules of the package that call load or loads."""
    found = set()
    for path in Path(pysyncobj.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in {"load", "loads"} and "pickle" in ast.unparse(node.value):
                found.add(path.name)
    return found


def test_no_pickle_and_no_socket_of_the_package_is_ever_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pickle_users() <= {"syncobj.py", "serializer.py", "tcp_connection.py", "pickle.py"}, "another module unpickles: look at it"

    def tripwire(*_arguments, **_options):
        raise AssertionError("code of pysyncobj ran that must not")

    for name in ("loads", "load", "dumps", "dump"):
        for module in (pickle, syncobj.pickle, serializer.pickle, tcp_connection.pickle):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, tripwire)
    for owner, name in (
        (tcp_connection.TcpConnection, "__init__"),
        (tcp_server.TcpServer, "__init__"),
        (TCPTransport, "__init__"),
        (serializer.Serializer, "serialize"),
        (serializer.Serializer, "deserialize"),
        (SyncObj, "_checkCommandsToApply"),
        (SyncObj, "_SyncObj__doApplyCommand"),
        (SyncObj, "_SyncObj__sendAppendEntries"),
        (SyncObj, "_SyncObj__loadDumpFile"),
        (SyncObj, "_SyncObj__applyLogEntries"),
        (SyncObj, "_SyncObj__tryLogCompaction"),
        (SyncObj, "_autoTickThread"),
    ):
        monkeypatch.setattr(owner, name, tripwire)
    host, replica = make(others=(2, 3))
    garbage = [b"\x80\x04}.", {"type": "append_entries", "term": 99}, {"type": "request_vote", "term": 99}, None, ["add", 4], "status", 7]
    node = next(one for one in host.otherNodes if one.member_id == 2)
    for message in garbage:
        host._transport._onMessageReceived(node, message)
    host._transport._onMessageReceived(None, Message(8, 1, 2, 9))
    host.received(2, Message(8, 1, 3, 9))  # speaks for another
    host.submit(Tick())
    host.doTick(0.0)
    assert [type(one).__name__ for one in replica.events] == ["Tick"]
    host.received(2, Message(8, 1, 2, 9))
    host.doTick(0.0)
    assert replica.events[-1].message.term == 9
    host.getStatus()


def test_it_is_no_tcp_transport_and_starts_no_thread() -> None:
    host, _ = make(others=(2,))
    assert isinstance(host._transport, HostTransport)
    assert not isinstance(host._transport, TCPTransport)
    assert host._SyncObj__thread is None
    assert not hasattr(host, "_SyncObj__pipeNotifier")


def test_commands_come_in_order_after_what_completed() -> None:
    host, replica = make()
    host.propose("first", lambda: None)
    host.propose("second", lambda: None)
    host.submit(Tick())
    assert not host.idle()
    host.doTick(0.0)
    assert [one if isinstance(one, str) else type(one).__name__ for one in replica.events] == ["Tick", "first", "second"]
    assert host.idle()


def test_a_full_queue_is_answered() -> None:
    host, _ = make()
    host._SyncObj__commandsQueue._FastQueue__maxSize = 2
    refused = []
    for number in range(4):
        host.propose(number, lambda number=number: refused.append(number))
    assert refused == [2, 3]


def test_its_status_tells_of_the_kernel() -> None:
    host, replica = make()
    assert not host.isReady()
    host.submit(Tick())
    host.doTick(0.0)
    assert host.isReady()
    assert host._isLeader()
    assert host._getLeader().member_id == 1
    status = host.getStatus()
    assert (status["raft_term"], status["commit_idx"], status["last_applied"]) == (1, replica.kernel.commit, 1)


def test_timings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(AssertionError):
        ReplicationHost(FakeReplica({1}), lambda _: None, lambda: 0, member_id=1, conf=host_configuration(400, 500, 700))


def test_it_stays_small() -> None:
    assert len(Path(inspect.getfile(ReplicationHost)).read_text().splitlines()) <= 200


def test_two_methods_are_overridden() -> None:
    """And the constructor: what else pysyncobj has is as its authors wrote it."""
    own = {name for name, value in vars(ReplicationHost).items() if callable(value) and hasattr(SyncObj, name)}
    assert own == {"__init__", "_onTick", "_SyncObj__onMessageReceived"}


if __name__ == "__main__":  # prints the hashes, after the changed source was read
    for one, what in RELIED_ON.items():
        print(f'    "{one}": "{hashlib.sha256(inspect.getsource(what).encode()).hexdigest()[:16]}",')
