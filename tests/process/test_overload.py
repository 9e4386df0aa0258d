"""More than a member can do: it says so in etcd's words, keeps its memory, goes on serving reads, and is well again afterwards."""

import sys
import time
from pathlib import Path

import grpc
import pytest
from serving import Clients, wait_for

from raftsched import limits
from raftsched.testing.etcdload import EtcdLoad, Told, unary
from raftsched.testing.process import ServerProcess
from raftsched.testing.slow_disk import SlowDisk, why_not

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import tools

PROGRAM = tools.etcdload()
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(PROGRAM is None, reason="etcdload is not built (a C compiler, libnghttp2-dev, libssl-dev)"),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]
MIB = 1 << 20
TOO_MANY = "etcdserver: too many requests"
TIMED_OUT = "etcdserver: request timed out"
STANDSTILL = 1  # writes a second: a sync takes seconds


def pushed(server: ServerProcess, clients: Clients, **options: object) -> tuple[Told, int]:
    """What came of puts while the disk stands nearly still, and the greatest growth of memory. Reads are served meanwhile."""
    assert PROGRAM is not None
    assert server.process is not None
    clients.put(b"before", b"here")
    begin = peak = server.memory_bytes()
    reads = 0
    with (
        SlowDisk(server.directory, server.process.pid, writes_per_s=STANDSTILL),
        EtcdLoad(PROGRAM, "unary", server.client_address, method="put", until_input=True, timeout_ms=100_000, **options) as load,
    ):
        load.ready()
        end = time.monotonic() + 10
        while time.monotonic() < end:
            assert clients.get(b"before") == b"here"
            reads += 1
            peak = max(peak, server.memory_bytes())
            time.sleep(0.05)
        load.say()
        told = load.told()
        peak = max(peak, server.memory_bytes())
    assert reads > 3  # each within the ten seconds of its deadline
    print(f"\nload: {options}: {told.ok} puts, {told.errors}; {reads} reads; memory {(peak - begin) / MIB:.0f} MiB more at most")
    return told, peak - begin


def puts(clients: Clients) -> bool:
    try:
        clients.put(b"after", b"well")
    except grpc.RpcError as error:
        if error.details() in {TOO_MANY, TIMED_OUT}:
            return False
        raise
    return True


def well_again(server: ServerProcess, clients: Clients) -> None:
    assert PROGRAM is not None
    wait_for(lambda: puts(clients), 60, "the disk is fast again, and nothing is written")
    told = unary(PROGRAM, server.client_address, "put", requests=1_000, prefix="after/")
    assert told.failed == 0, told.errors
    assert "Traceback" not in server.logs(1 << 20)
    assert server.stop(timeout_s=60) == 0


def test_large_puts_that_the_disk_does_not_take(server: ServerProcess, clients: Clients) -> None:
    """150 MiB a second: in the time that a request may take that is four times what may wait."""
    told, growth = pushed(server, clients, connections=4, rate=150, value_bytes=MIB, keys=100)
    assert set(told.errors) <= {TOO_MANY, TIMED_OUT}
    assert told.errors[TOO_MANY] > 50
    assert told.errors[TIMED_OUT] * MIB <= limits.PROPOSALS_BYTES_MAX * 1.5  # taken, and then not written in time
    assert growth < limits.PROPOSALS_BYTES_MAX * 3  # each is held by the door, the log or both; and what the door has read of others
    well_again(server, clients)


def test_small_puts_that_the_disk_does_not_take(server: ServerProcess, clients: Clients) -> None:
    told, growth = pushed(server, clients, connections=10, rate=20_000, value_bytes=100, keys=1_000)
    assert set(told.errors) <= {TOO_MANY, TIMED_OUT}
    assert told.errors[TOO_MANY] > 1_000
    assert growth < 400 * MIB
    well_again(server, clients)
