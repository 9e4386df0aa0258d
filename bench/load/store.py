"""The store's rows: puts, reads and transactions against a real etcd, by h2load and by etcd's own Go generator."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median

import grpc

from bench.load import gobench, h2load
from bench.load.process import rss_anon_bytes, thread_cpu_ns
from bench.load.reference import ReferenceEtcd
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.process import ServerProcess

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import tools

ROUNDS = 3
Answer = tuple[str, str, str, bool | None]

PUT = rpc_pb2.PutRequest(key=b"bench-01", value=b"v" * 256).SerializeToString()
RANGE = rpc_pb2.RangeRequest(key=b"bench-01").SerializeToString()
TXN = rpc_pb2.TxnRequest(
    compare=[rpc_pb2.Compare(target=rpc_pb2.Compare.VERSION, result=rpc_pb2.Compare.GREATER, key=b"bench-01", version=0)],
    success=[rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"bench-01", value=b"v" * 256))],
).SerializeToString()
KV = "/etcdserverpb.KV/"


def revision(address: str) -> int:
    with grpc.insecure_channel(address) as channel:
        return int(rpc_pb2_grpc.KVStub(channel).Range(rpc_pb2.RangeRequest(key=b"bench-01"), timeout=10).header.revision)


def checked(address: str, method: str, message: bytes, *, requests: int, connections: int, streams: int, writes: bool) -> h2load.Run:
    """A run of h2load whose writes are counted by the store's revision: h2load itself does not see a gRPC error."""
    before = revision(address)
    run = h2load.drive(address, KV + method, message, requests=requests, connections=connections, streams=streams)
    done = revision(address) - before
    if writes and done != requests:
        raise RuntimeError(f"{method} on {address}: {requests} requests made {done} revisions")
    return run


def compared(
    what: str, target: float, theirs: str, ours: str, drive: Callable[[str], h2load.Run], *, tail: bool = False, rounds: int = ROUNDS
) -> Iterator[Answer]:
    """Both in turns; the ratio of the medians. More and shorter rounds for what waits for a disk whose speed changes by the minute."""
    runs: dict[str, list[h2load.Run]] = {theirs: [], ours: []}
    for _ in range(rounds):
        for address in (theirs, ours):
            runs[address].append(drive(address))
    rate = {address: median(run.requests_per_s for run in done) for address, done in runs.items()}
    p99 = {address: median(run.p99_ms for run in done) for address, done in runs.items()}
    ratio = rate[ours] / rate[theirs]
    wanted = f">= {target} x etcd" + (", p99 no worse" if tail else "")
    told = f"{ratio:.2f} x ({rate[ours]:,.0f}/s against {rate[theirs]:,.0f}/s; p99 {p99[ours]:.2f} against {p99[theirs]:.2f} ms)"
    yield what, wanted, told, ratio >= target and (not tail or p99[ours] <= p99[theirs])


def loop_cost(server: ServerProcess, requests: int) -> Iterator[Answer]:
    assert server.process is not None
    before = thread_cpu_ns(server.process.pid)
    checked(server.client_address, "Put", PUT, requests=requests, connections=10, streams=10, writes=True)
    each_us = (thread_cpu_ns(server.process.pid) - before) / requests / 1000
    yield "put: CPU in the loop thread, door and logic", "<= 12 us", f"{each_us:.2f} us", each_us <= 12


def rows(folder: Path, quick: bool) -> Iterable[Answer]:
    scale = 10 if quick else 1
    etcd = tools.etcd()
    if etcd is None or not h2load.available():
        yield "put, range, txn against etcd", "", f"missing: {'etcd' if etcd is None else 'h2load'}", None
        return
    with ReferenceEtcd(etcd, folder / "reference") as reference, ServerProcess(folder / "ours") as server:
        theirs, ours = reference.address, server.client_address

        def h2(method: str, message: bytes, requests: int, connections: int, streams: int, *, writes: bool) -> Callable[[str], h2load.Run]:
            return lambda address: checked(
                address, method, message, requests=requests // scale, connections=connections, streams=streams, writes=writes
            )

        yield from compared("put 256 B, 10 x 10, h2load", 2.0, theirs, ours, h2("Put", PUT, 50_000, 10, 10, writes=True), tail=True)
        yield from compared("put 256 B, one client, h2load", 1.2, theirs, ours, h2("Put", PUT, 2_000, 1, 1, writes=True), rounds=9)
        yield from compared("range of one key, linearizable, 10 x 10", 2.0, theirs, ours, h2("Range", RANGE, 100_000, 10, 10, writes=False))
        yield from compared("txn of 1 compare + 1 put, 10 x 10", 1.5, theirs, ours, h2("Txn", TXN, 50_000, 10, 10, writes=True))
        if tools.benchmark() is None:
            yield "put 256 B, 10 x 100, etcd's Go benchmark", ">= 2.0 x etcd", "missing: benchmark", None
        else:
            put = ["put", "--key-size=8", "--sequential-keys", "--val-size=256", f"--total={50_000 // scale}"]
            yield from compared(
                "put 256 B, 10 x 100, etcd's Go benchmark", 2.0, theirs, ours, lambda address: gobench.drive(address, *put), tail=True
            )
            read = ["range", "bench-01", "--consistency=l", f"--total={100_000 // scale}"]
            yield from compared(
                "range of one key, etcd's Go benchmark (for information)", 2.0, theirs, ours, lambda address: gobench.drive(address, *read)
            )
        yield from loop_cost(server, 100_000 // scale)
    with ServerProcess(folder / "empty") as server:
        assert server.process is not None
        used = rss_anon_bytes(server.process.pid) / 1e6
        yield "memory (RssAnon), empty", "< 60 MB", f"{used:.1f} MB", used < 60
    begin = []
    for number in range(5):
        server = ServerProcess(folder / f"start-{number}").start(wait=False)
        begin.append(server.wait_ready())
        server.stop()
    yield "start to ready, empty (median of 5)", "< 1 s", f"{median(begin):.2f} s", median(begin) < 1
