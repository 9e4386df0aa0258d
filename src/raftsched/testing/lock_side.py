"""Locks and elections on several servers: each tells in text what it answered, so that the texts can be compared.

What a server makes up itself is left out: ids of cluster and members, and of leases that were granted without an id, which are called
by the order in which they were seen.
"""

import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from raftsched.cli.login import Bearing
from raftsched.pb.etcd import kv_pb2
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd import rpc_pb2_grpc as stubs
from raftsched.pb.etcd import v3election_pb2 as election_pb
from raftsched.pb.etcd import v3election_pb2_grpc as election_stubs
from raftsched.pb.etcd import v3lock_pb2 as lock_pb
from raftsched.pb.etcd import v3lock_pb2_grpc as lock_stubs

CALL_TIMEOUT_S: Final = 20.0
PATIENCE_S: Final = 30.0
EARLY_S: Final = 0.1
BEGUN_S: Final = 0.3  # until a stream that says nothing yet has surely begun: what comes then is seen as a change
GIVEN_MAX: Final = 1 << 32  # tests give leases small ids; servers make up large ones
Outcome = str
UNLIMITED: Final = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def until(condition: Callable[[], Any], what: str) -> Any:
    """What `condition` returns once that is true."""
    stop = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < stop, f"waited in vain: {what}"
        time.sleep(0.01)
    return found


def _late(call: Any, error: grpc.RpcError) -> bool:
    """Whether `call` ended with its deadline. Who is quicker decides what is told: the client's or the server's text, or the server's reset
    of the stream, which a client whose own clock lags a moment behind takes for a cancellation."""
    reset = error.code() == grpc.StatusCode.CANCELLED and "RST_STREAM" in (error.details() or "")
    return error.code() == grpc.StatusCode.DEADLINE_EXCEEDED or (reset and call.time_remaining() < EARLY_S)


class LockSide:
    """One server under test; `told` grows by what it answers."""

    def __init__(self, address: str, token: str = "") -> None:
        """`token`: of the user whose calls these are."""
        self._plain = grpc.insecure_channel(address, options=UNLIMITED)
        self.channel = grpc.intercept_channel(self._plain, *(Bearing(token),) * bool(token))
        self.kv = stubs.KVStub(self.channel)
        self.leases = stubs.LeaseStub(self.channel)
        self.lock_stub = lock_stubs.LockStub(self.channel)
        self.election = election_stubs.ElectionStub(self.channel)
        self.told: list[str] = []
        self._made: dict[int, str] = {}

    def close(self) -> None:
        self._plain.close()

    # -- what is done

    def grant(self, *leases: int, ttl_s: int = 100) -> None:
        for lease in leases:
            self.leases.LeaseGrant(pb.LeaseGrantRequest(ID=lease, TTL=ttl_s), timeout=CALL_TIMEOUT_S)

    def revoke(self, lease: int) -> None:
        self.leases.LeaseRevoke(pb.LeaseRevokeRequest(ID=lease), timeout=CALL_TIMEOUT_S)

    def put(self, key: bytes, value: bytes = b"", lease: int = 0) -> int:
        return int(self.kv.Put(pb.PutRequest(key=key, value=value, lease=lease), timeout=CALL_TIMEOUT_S).header.revision)

    def delete(self, key: bytes, end: bytes = b"") -> None:
        self.kv.DeleteRange(pb.DeleteRangeRequest(key=key, range_end=end), timeout=CALL_TIMEOUT_S)

    def txn(self, *operations: pb.RequestOp) -> None:
        self.kv.Txn(pb.TxnRequest(success=operations), timeout=CALL_TIMEOUT_S)

    def key(self, key: bytes) -> kv_pb2.KeyValue | None:
        kvs = self.kv.Range(pb.RangeRequest(key=key), timeout=CALL_TIMEOUT_S).kvs
        return kvs[0] if kvs else None

    def appears(self, key: bytes) -> kv_pb2.KeyValue:
        """Once somebody else's call has made it."""
        found: kv_pb2.KeyValue = until(lambda: self.key(key), f"for {key!r}")
        return found

    def count(self, prefix: bytes) -> int:
        return int(self.kv.Range(pb.RangeRequest(key=prefix, range_end=prefix[:-1] + b"0", count_only=True), timeout=CALL_TIMEOUT_S).count)

    def vanishes(self, key: bytes) -> None:
        until(lambda: self.key(key) is None, f"for the end of {key!r}")

    # -- calls of the two services; `wait` ones are begun, and told by `end`

    def locking(self, name: bytes, lease: int = 0, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        return self.lock_stub.Lock.future(lock_pb.LockRequest(name=name, lease=lease), timeout=timeout_s)

    def lock(self, name: bytes, lease: int = 0, timeout_s: float = CALL_TIMEOUT_S) -> Any:
        return self.end(self.locking(name, lease, timeout_s))

    def unlock(self, key: bytes) -> None:
        self.end(self.lock_stub.Unlock.future(lock_pb.UnlockRequest(key=key), timeout=CALL_TIMEOUT_S))

    def campaigning(self, name: bytes, lease: int = 0, value: bytes = b"", timeout_s: float = CALL_TIMEOUT_S) -> Any:
        request = election_pb.CampaignRequest(name=name, lease=lease, value=value)
        return self.election.Campaign.future(request, timeout=timeout_s)

    def campaign(self, name: bytes, lease: int = 0, value: bytes = b"") -> Any:
        return self.end(self.campaigning(name, lease, value))

    def proclaim(self, leader: election_pb.LeaderKey | None, value: bytes = b"") -> None:
        self.end(self.election.Proclaim.future(election_pb.ProclaimRequest(leader=leader, value=value), timeout=CALL_TIMEOUT_S))

    def resign(self, leader: election_pb.LeaderKey | None) -> None:
        self.end(self.election.Resign.future(election_pb.ResignRequest(leader=leader), timeout=CALL_TIMEOUT_S))

    def leader(self, name: bytes) -> None:
        self.end(self.election.Leader.future(election_pb.LeaderRequest(name=name), timeout=CALL_TIMEOUT_S))

    def observe(self, name: bytes, timeout_s: float = CALL_TIMEOUT_S) -> "Observing":
        observing = Observing(self, self.election.Observe(election_pb.LeaderRequest(name=name), timeout=timeout_s), timeout_s)
        time.sleep(BEGUN_S)
        return observing

    # -- text

    def end(self, call: Any) -> Any:
        """Waits for a call that was begun and tells it; the answer, None for an error."""
        try:
            answer = call.result()
        except grpc.RpcError as error:
            self.told.append("4" if _late(call, error) else f"{error.code().value[0]} {error.details()}")
            return None
        self.told.append(self.text(answer))
        return answer

    def text(self, message: Message) -> str:
        copy = type(message)()
        copy.CopyFrom(message)
        header: Any = getattr(copy, "header", None)
        if header is not None:
            assert header.cluster_id
            assert header.member_id
            assert header.raft_term
            copy.header.CopyFrom(pb.ResponseHeader(revision=header.revision))  # type: ignore[attr-defined]
        return self._named(" ".join(str(copy).split()))

    def state(self) -> None:
        """Tells all keys, as they were made, and all leases."""
        request = pb.RangeRequest(key=b"\0", range_end=b"\0", sort_target=pb.RangeRequest.CREATE, sort_order=pb.RangeRequest.ASCEND)
        found = self.kv.Range(request, timeout=CALL_TIMEOUT_S)
        leases = sorted(one.ID for one in self.leases.LeaseLeases(pb.LeaseLeasesRequest()).leases)
        for lease in leases:
            if abs(lease) >= GIVEN_MAX:
                self._made.setdefault(lease, f"lease#{len(self._made)}")
        keys = [f"{one.key!r}={one.value!r} {one.create_revision},{one.mod_revision},{one.version} of {one.lease}" for one in found.kvs]
        self.told.append(self._named(f"state {found.header.revision} {keys} {leases}"))

    def time_to_live(self, lease: int) -> None:
        answer = self.leases.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=lease, keys=True))
        self.told.append(self._named(f"lease {lease} of {answer.grantedTTL} s with {list(answer.keys)}"))

    def _named(self, text: str) -> str:
        """Leases that the server made up, in decimal and in hexadecimal digits, by their names."""
        for lease in map(int, re.findall(r"lease: (\d{10,})", text)):
            self._made.setdefault(lease, f"lease#{len(self._made)}")
        for hexadecimal in re.findall(r"/([0-9a-f]{12,16})\b", text):
            self._made.setdefault(int(hexadecimal, 16), f"lease#{len(self._made)}")
        for lease, name in self._made.items():
            text = text.replace(str(lease), name).replace(f"{lease:x}", name)
        return text


class Observing:
    """One Observe stream and what it has brought."""

    def __init__(self, side: LockSide, call: Any, timeout_s: float) -> None:
        self._side = side
        self.call = call
        self._late_s = time.monotonic() + timeout_s
        self.seen: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for answer in self.call:
                self.seen.append(self._side.text(answer))
            self.seen.append("0 ended")
        except grpc.RpcError as error:
            # a server that sees the deadline first resets the stream: a cancellation to the client
            late = error.code() == grpc.StatusCode.CANCELLED and time.monotonic() >= self._late_s - EARLY_S
            self.seen.append("4" if late else f"{error.code().value[0]}")

    def wait(self, count: int) -> Sequence[str]:
        """At least so many answers, told; and after a moment, no more than that."""
        until(lambda: len(self.seen) >= count, f"for {count} answers, there are {self.seen}")
        time.sleep(0.05)
        self._side.told.append(f"observed {self.seen}")
        return self.seen

    def cancel(self) -> None:
        self.call.cancel()
        self._thread.join(PATIENCE_S)
