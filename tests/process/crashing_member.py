"""A store member that is there to be killed, and what both it and its judge must know: the operations by number, the digest of a state.

As a program: `crashing_member.py <directory> <seed> <first number>` opens the directory, prints `R <digest>` and goes on with the
operations from the first number, at most WINDOW unanswered; `A <number> <error> <revision> <crc of body>` follows each answer. Meanwhile it
defragments, hashes and takes snapshots. It never ends by itself.
"""

import asyncio
import hashlib
import os
import random
import sys
import zlib
from collections.abc import Sequence

from raftsched import limits, proposals
from raftsched.pb.etcd import rpc_pb2 as R
from raftsched.store import alarm
from raftsched.store.apply import Applier
from raftsched.store.node import Node, NodeOptions
from raftsched.types import Result

WINDOW = 96
KEYS = 60
LEASES = 6


def operation(seed: int, number: int) -> tuple[int, bytes]:
    """(kind, request): what is done as number `number`."""
    rng = random.Random(seed * 1_000_003 + number)
    what = rng.random()
    if what < 0.62:
        return proposals.PUT, _put(rng).SerializeToString()
    if what < 0.72:
        end = rng.choice((b"", b"k3", b"k5\xff", b"\0"))
        if end == b"\0" and rng.random() < 0.9:
            end = b""
        return proposals.DELETE_RANGE, R.DeleteRangeRequest(key=_key(rng), range_end=end, prev_kv=rng.random() < 0.3).SerializeToString()
    if what < 0.86:
        return proposals.TXN, _txn(rng).SerializeToString()
    if what < 0.90:
        return proposals.COMPACTION, R.CompactionRequest(revision=max(int(number * 0.42) - rng.randrange(40), 0)).SerializeToString()
    if what < 0.95:
        return proposals.LEASE_GRANT, R.LeaseGrantRequest(ID=1 + rng.randrange(LEASES), TTL=100_000).SerializeToString()
    if what < 0.985:
        return proposals.LEASE_REVOKE, R.LeaseRevokeRequest(ID=1 + rng.randrange(LEASES)).SerializeToString()
    action = alarm.ACTIVATE if rng.random() < 0.15 else alarm.DEACTIVATE
    return proposals.ALARM, alarm.encode_request(action, 7, alarm.NOSPACE)


def _key(rng: random.Random) -> bytes:
    return b"k%d" % rng.randrange(KEYS)


def _put(rng: random.Random) -> R.PutRequest:
    size = rng.choice((3, 30, 300, 3000))
    lease = 1 + rng.randrange(LEASES) if rng.random() < 0.3 else 0
    return R.PutRequest(key=_key(rng), value=rng.randbytes(size), lease=lease, prev_kv=rng.random() < 0.2)


def _txn(rng: random.Random) -> R.TxnRequest:
    compare = R.Compare(key=_key(rng), target=R.Compare.VERSION, result=R.Compare.GREATER, version=rng.randrange(4))
    keys = rng.sample(range(KEYS), 4)
    first = [R.RequestOp(request_put=R.PutRequest(key=b"k%d" % key, value=rng.randbytes(20))) for key in keys[:2]]
    first.append(R.RequestOp(request_delete_range=R.DeleteRangeRequest(key=b"k%d" % keys[2])))
    nested = R.TxnRequest(compare=[compare], failure=[R.RequestOp(request_put=R.PutRequest(key=b"k%d" % keys[3], value=b"n"))])
    second = [R.RequestOp(request_range=R.RangeRequest(key=_key(rng))), R.RequestOp(request_txn=nested)]
    return R.TxnRequest(compare=[compare], success=first, failure=second)


def digest(applier: Applier) -> str:
    """Revision, compact revision and a hash of everything that must survive, history included."""
    store, lessor = applier.store, applier.lessor
    head, compacted = store.revision, store.compact_revision
    oldest = max(compacted, 1)
    everything: list[object] = [store.hash_kv(0), store.hash_kv(oldest), applier.alarms.raised()]
    for revision in sorted({oldest, head, *range(oldest, head, max((head - oldest) // 6, 1))}):
        everything.append(store.range(R.RangeRequest(key=b"\0", range_end=b"\0", revision=revision).SerializeToString()))
    everything += [(lease, lessor.keys_of(lease)) for lease in sorted(lessor.ids())]
    return f"{head},{compacted}," + ",".join(hashlib.sha256(repr(one).encode()).hexdigest()[:16] for one in everything)


def answer(number: int, result: Result) -> str:
    error, revision, body = result
    return f"A {number} {int(error)} {revision} {zlib.crc32(body)}"


class _Quiet:
    def __getattr__(self, _level: str) -> object:
        return lambda message, **fields: None


class _Traffic:
    """Sink of all answers; they come in the order of the proposals."""

    def __init__(self) -> None:
        self.answered = 0

    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None:
        lines = [answer(token, result) for token, result in zip(tokens, results, strict=True)]
        self.answered += len(lines)
        os.write(1, ("\n".join(lines) + "\n").encode())


async def _maintain(node: Node, rng: random.Random) -> None:
    while True:
        await asyncio.sleep(rng.random() * 0.15)
        if rng.random() < 0.7:
            await node.defragment()
        else:
            await node.hash()


def _die(line: str) -> None:
    os.write(1, f"F {line}\n".encode())
    os._exit(1)


async def _run(directory: str, seed: int, first: int) -> None:
    limits.SNAPSHOT_INTERVAL_MIN_MS = 30  # type: ignore[misc]  # so that marks and released segments happen in a short life
    rng = random.Random()
    options = NodeOptions(
        data_dir=directory,
        batch_interval_ms=rng.choice((1, 5, 30)),
        batch_limit=rng.choice((20, 500, 10_000)),
        wal_segment_bytes=128 << 10,
        max_wals=2,
        snapshot_count=150,
        history_bound=False,
    )
    node = Node(options, log=_Quiet(), on_fatal=_die)
    await node.start()
    os.write(1, f"R {digest(node._member.applier)}\n".encode())
    maintenance = asyncio.create_task(_maintain(node, rng))
    traffic, number = _Traffic(), first
    while not maintenance.done():
        while number - first - traffic.answered < WINDOW // 2:
            kind, message = operation(seed, number)
            batch = [message]
            limit = rng.choice((1, 4, WINDOW // 2))
            while len(batch) < limit and (following := operation(seed, number + len(batch)))[0] == kind:
                batch.append(following[1])
            node.propose_many(kind, batch, list(range(number, number + len(batch))), traffic)
            number += len(batch)
        await asyncio.sleep(rng.choice((0, 0, 0.001, 0.01)))
    await maintenance


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
