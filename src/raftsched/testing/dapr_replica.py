"""What a replica of Dapr's Scheduler does to the leadership keys of a shared etcd (spec §6.2), one step at a time: a partner for tests
of mixed operation. It knows sizes alone, and writes its key again only when the size is another."""

import secrets

import grpc

from raftsched.pb.dapr import leadership_pb2, scheduler_pb2
from raftsched.pb.etcd import rpc_pb2, rpc_pb2_grpc

LEADERSHIP = b"dapr/leadership/"
TTL_S = 120  # Dapr's is 20 s and renewed; nobody renews here


class DaprReplica:
    """One replica; closes its channel with `close`."""

    def __init__(self, etcd_address: str, name: str) -> None:
        self._channel = grpc.insecure_channel(etcd_address)
        self._kv = rpc_pb2_grpc.KVStub(self._channel)
        self._leases = rpc_pb2_grpc.LeaseStub(self._channel)
        self._key = LEADERSHIP + name.encode()
        self._host = scheduler_pb2.Host(address=f"{name}:50006")
        self._uid = secrets.randbits(64)
        self._lease = 0
        self._value = b""

    def join(self) -> bool:
        """Txn(If CreateRevision(own key) = 0 Then Put{total = number of keys + 1} with lease)."""
        self._lease = self._leases.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=TTL_S)).ID
        self._value = self._made(len(self._totals()) + 1)
        compare = rpc_pb2.Compare(result=rpc_pb2.Compare.EQUAL, target=rpc_pb2.Compare.CREATE, key=self._key, create_revision=0)
        return self._put(compare)

    def follow(self) -> bool:
        """Txn(If Value = old Then Put new), if its size is not the number of keys; True = all sizes agree."""
        totals = self._totals()
        if totals[self._key] != len(totals):
            old, self._value = self._value, self._made(len(totals))
            self._put(rpc_pb2.Compare(result=rpc_pb2.Compare.EQUAL, target=rpc_pb2.Compare.VALUE, key=self._key, value=old))
            totals = self._totals()
        return set(totals.values()) == {len(totals)}

    def leave(self) -> None:
        """The lease is revoked."""
        self._leases.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=self._lease))

    def close(self) -> None:
        self._channel.close()

    def _totals(self) -> dict[bytes, int]:
        found = self._kv.Range(rpc_pb2.RangeRequest(key=LEADERSHIP, range_end=LEADERSHIP[:-1] + b"0")).kvs
        return {pair.key: leadership_pb2.Leadership.FromString(pair.value).total for pair in found}

    def _made(self, total: int) -> bytes:
        made = leadership_pb2.Leadership(total=total, uid=self._uid)
        made.replica_data.Pack(self._host)
        return made.SerializeToString()

    def _put(self, compare: rpc_pb2.Compare) -> bool:
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=self._key, value=self._value, lease=self._lease))
        return bool(self._kv.Txn(rpc_pb2.TxnRequest(compare=[compare], success=[put])).succeeded)
