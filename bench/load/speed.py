"""The rows "Speed" of the etcd API beside a real etcd, one member each, by the native generator: plaintext, and over TLS.

Each call has a key of its own out of ten thousand, and every answer's status is looked at. Beside the rates stands what a call costs the
server, since on two shared cores a rate says as much about the neighbours. Both servers run at once, in turns under load.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median

import grpc
import trustme

from bench.load import gobench
from bench.load.process import rss_anon_bytes
from bench.load.ratio import KEYS, ROUNDS, WATCHERS, Answer, Cost, Drive, Load, Side
from bench.load.reference import ReferenceEtcd
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc
from raftsched.testing.etcdload import EtcdLoad, Told, done
from raftsched.testing.process import ServerProcess, free_ports

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import tools

LEASES = 10_000
MANY_KEYS = 1_000_000
OPS = 100  # puts of one transaction, to fill a store: below both servers' bound
SETTLE_S = 10.0  # both sides give memory back a while after the last put
TIMEOUT_MS = 600_000  # of one run: also for a machine that does much else


def program() -> Path:
    found = tools.etcdload()
    assert found is not None
    return found


def measured(side: Side, count_of: Callable[[Told], int], run: Callable[[], Told]) -> Cost:
    before = side.server.cpu_seconds()
    told = run()
    count = count_of(told)
    return Cost(count / told.seconds, told.p99_ms, (side.server.cpu_seconds() - before) / count * 1e6)


def calls(method: str, requests: int, **options: object) -> Drive:
    """Unary calls, ten connections times ten streams."""
    given = {"requests": requests, "keys": KEYS, "timeout_ms": TIMEOUT_MS, **options}
    return lambda side: measured(side, lambda told: told.ok, lambda: done(program(), side.address, method, tls=side.tls, **given))


def keep_alives(requests: int) -> Drive:
    """A hundred streams on ten connections, each with one lease after the other; the next when one is answered."""

    def run(side: Side) -> Told:
        options = {"keys": LEASES, "first": 1, "requests": requests, "tls": side.tls, "timeout_ms": TIMEOUT_MS}
        with EtcdLoad(program(), "renew", side.address, **options) as load:
            load.ready()
            told = load.told()
        if told.failed:
            raise RuntimeError(f"keep-alives failed: {told.errors}")
        return told

    return lambda side: measured(side, lambda told: told.ok, lambda: run(side))


def fan_out(puts: int) -> Drive:
    """One writer, the next put when one is answered; a hundred watchers, each on a stream of its own. Counted are events."""

    def drive(side: Side) -> Cost:
        with EtcdLoad(program(), "watch", side.address, prefix="watched/", tls=side.tls, timeout_ms=TIMEOUT_MS) as load:
            assert load.ready() == WATCHERS

            def run() -> Told:
                load.say(puts)
                return load.told()

            return measured(side, lambda told: told.ok * WATCHERS, run)

    return drive


def single(scale: int, target: float) -> list[Load]:
    """Calls that have one target for plaintext and another for TLS."""
    return [
        Load("put 256 B, 10 x 10", target, calls("put", 30_000 // scale)),
        Load("range of one key, linearizable", target, calls("range", 60_000 // scale)),
        Load("range of one key, serializable", target, calls("serializable", 60_000 // scale)),
    ]


def others(scale: int) -> list[Load]:
    return [
        Load("txn of one put", 2.0, calls("txn", 30_000 // scale)),
        Load("range of 1,000 keys", 1.5, calls("page", 1_000 // scale, limit=1_000)),
        Load("lease keep-alive, 100 streams", 2.0, keep_alives(60_000 // scale)),
        Load("watch, 1 writer, 100 watchers", 2.0, fan_out(1_000 // scale), by_cost=True),
    ]


def filled(*sides: Side) -> None:
    """With the keys and the leases that the loads ask for."""
    for side in sides:
        done(program(), side.address, "put", requests=KEYS, keys=KEYS, tls=side.tls)
        done(program(), side.address, "grant", requests=LEASES, first=1, ttl=3_600, tls=side.tls)


def readable(side: Side, key: bytes) -> None:
    """Until a linearizable read of that key finds it."""
    request = rpc_pb2.RangeRequest(key=key)
    with grpc.insecure_channel(side.address, options=[("grpc.max_reconnect_backoff_ms", 20)]) as channel:
        stub = rpc_pb2_grpc.KVStub(channel)
        while True:
            try:
                if stub.Range(request, timeout=30, wait_for_ready=True).kvs:
                    return
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN):
                    raise
                time.sleep(0.01)


def started(side: Side, last: bytes) -> float:
    """Seconds from the start of the process to the first linearizable read."""
    server = side.server
    server.stop()
    begin = time.monotonic()
    if isinstance(server, ReferenceEtcd):
        server.__enter__()
    else:
        server.start(wait=False)
    readable(side, last)
    return time.monotonic() - begin


def many_keys(theirs: Side, ours: Side, scale: int) -> Iterator[Answer]:
    keys = MANY_KEYS // scale
    for side in (theirs, ours):
        done(program(), side.address, "txn", requests=keys // OPS, ops=OPS, connections=4, streams=4, prefix="many/", timeout_ms=TIMEOUT_MS)
    time.sleep(SETTLE_S)
    used = [rss_anon_bytes(side.pid) / 1e6 for side in (theirs, ours)]
    told = f"{used[1]:.0f} MB against {used[0]:.0f} MB, {SETTLE_S:.0f} s after the last put"
    yield f"memory (RssAnon) of {keys:,} keys of 256 B", "below etcd's", told, used[1] < used[0]
    last = b"many/%08d" % (keys - 1)
    took = [(started(theirs, last), started(ours, last)) for _ in range(ROUNDS)]
    their_s, our_s = (median(one[side] for one in took) for side in (0, 1))
    told = f"{our_s:.2f} s against {their_s:.2f} s, to the first linearizable read"
    yield f"start with {keys:,} keys", "faster than etcd", told, our_s < their_s
    used = [rss_anon_bytes(side.pid) / 1e6 for side in (theirs, ours)]
    told = f"{used[1]:.0f} MB against {used[0]:.0f} MB"
    yield f"memory (RssAnon) of {keys:,} keys behind a start", "below etcd's", told, used[1] < used[0]


def missing() -> str:
    return "etcd" if tools.etcd() is None else "etcdload" if tools.etcdload() is None else ""


def rows(folder: Path, quick: bool) -> Iterable[Answer]:
    scale = 10 if quick else 1
    etcd = tools.etcd()
    if etcd is None or missing():
        yield "etcd's API beside etcd", "", f"missing: {missing()}", None
        return
    with ReferenceEtcd(etcd, folder / "theirs") as reference, ServerProcess(folder / "ours") as server:
        theirs, ours = Side(reference, reference.address), Side(server, server.client_address)
        filled(theirs, ours)
        for load in [*single(scale, 2.0), *others(scale)]:
            yield load.compared(theirs, ours)
        yield from gobench.speed_rows(theirs, ours, scale)
    with ReferenceEtcd(etcd, folder / "their-keys") as reference, ServerProcess(folder / "our-keys") as server:
        yield from many_keys(Side(reference, reference.address), Side(server, server.client_address), scale)


def tls_rows(folder: Path, quick: bool) -> Iterable[Answer]:
    """The same over TLS: one certificate, the defaults of both servers, the same generator. What has no target of its own there is measured
    over plaintext, too: TLS must not take away what it is there."""
    etcd = tools.etcd()
    if etcd is None or missing():
        yield "etcd's API over TLS beside etcd", "", f"missing: {missing()}", None
        return
    certificate = trustme.CA().issue_cert("localhost", "127.0.0.1")
    cert, key = folder / "server.crt", folder / "server.key"
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    their_port, our_port = free_ports(2)
    files = [f"--cert-file={cert}", f"--key-file={key}"]
    reference = ReferenceEtcd(etcd, folder / "theirs")
    server = ServerProcess(folder / "ours")
    reference.add_flags([*files, f"--listen-client-urls=http://{reference.address},https://127.0.0.1:{their_port}"])
    server.command += [*files, f"--listen-client-urls=http://{server.client_address},https://127.0.0.1:{our_port}"]
    scale = 10 if quick else 1
    with reference, server:
        plain = Side(reference, reference.address), Side(server, server.client_address)
        secure = Side(reference, f"127.0.0.1:{their_port}", tls=True), Side(server, f"127.0.0.1:{our_port}", tls=True)
        filled(*secure)
        for load in single(scale, 3.0):
            yield load.compared(*secure, "TLS: ")
        for load in others(scale):
            yield load.beside_plain(plain, secure)
