"""Which path is which method (etcd-api §4.1), and the types of what goes in and comes out.

Types are made when a path is first asked for: a start need not wait for them.
Must not know: HTTP.
"""

from collections.abc import Callable, Collection
from functools import cache
from typing import Final, NamedTuple, Protocol

from raftsched.rpc.gateway._json import Schema

PATHS: Final = {
    "/v3/kv/range": "/etcdserverpb.KV/Range",
    "/v3/kv/put": "/etcdserverpb.KV/Put",
    "/v3/kv/deleterange": "/etcdserverpb.KV/DeleteRange",
    "/v3/kv/txn": "/etcdserverpb.KV/Txn",
    "/v3/kv/compaction": "/etcdserverpb.KV/Compact",
    "/v3/watch": "/etcdserverpb.Watch/Watch",
    "/v3/lease/grant": "/etcdserverpb.Lease/LeaseGrant",
    "/v3/lease/revoke": "/etcdserverpb.Lease/LeaseRevoke",
    "/v3/kv/lease/revoke": "/etcdserverpb.Lease/LeaseRevoke",
    "/v3/lease/keepalive": "/etcdserverpb.Lease/LeaseKeepAlive",
    "/v3/lease/timetolive": "/etcdserverpb.Lease/LeaseTimeToLive",
    "/v3/kv/lease/timetolive": "/etcdserverpb.Lease/LeaseTimeToLive",
    "/v3/lease/leases": "/etcdserverpb.Lease/LeaseLeases",
    "/v3/kv/lease/leases": "/etcdserverpb.Lease/LeaseLeases",
    "/v3/cluster/member/add": "/etcdserverpb.Cluster/MemberAdd",
    "/v3/cluster/member/remove": "/etcdserverpb.Cluster/MemberRemove",
    "/v3/cluster/member/update": "/etcdserverpb.Cluster/MemberUpdate",
    "/v3/cluster/member/list": "/etcdserverpb.Cluster/MemberList",
    "/v3/cluster/member/promote": "/etcdserverpb.Cluster/MemberPromote",
    "/v3/maintenance/alarm": "/etcdserverpb.Maintenance/Alarm",
    "/v3/maintenance/status": "/etcdserverpb.Maintenance/Status",
    "/v3/maintenance/defragment": "/etcdserverpb.Maintenance/Defragment",
    "/v3/maintenance/hash": "/etcdserverpb.Maintenance/Hash",
    "/v3/maintenance/hashkv": "/etcdserverpb.Maintenance/HashKV",
    "/v3/maintenance/snapshot": "/etcdserverpb.Maintenance/Snapshot",
    "/v3/maintenance/transfer-leadership": "/etcdserverpb.Maintenance/MoveLeader",
    "/v3/maintenance/downgrade": "/etcdserverpb.Maintenance/Downgrade",
    "/v3/auth/enable": "/etcdserverpb.Auth/AuthEnable",
    "/v3/auth/disable": "/etcdserverpb.Auth/AuthDisable",
    "/v3/auth/status": "/etcdserverpb.Auth/AuthStatus",
    "/v3/auth/authenticate": "/etcdserverpb.Auth/Authenticate",
    "/v3/auth/user/add": "/etcdserverpb.Auth/UserAdd",
    "/v3/auth/user/get": "/etcdserverpb.Auth/UserGet",
    "/v3/auth/user/list": "/etcdserverpb.Auth/UserList",
    "/v3/auth/user/delete": "/etcdserverpb.Auth/UserDelete",
    "/v3/auth/user/changepw": "/etcdserverpb.Auth/UserChangePassword",
    "/v3/auth/user/grant": "/etcdserverpb.Auth/UserGrantRole",
    "/v3/auth/user/revoke": "/etcdserverpb.Auth/UserRevokeRole",
    "/v3/auth/role/add": "/etcdserverpb.Auth/RoleAdd",
    "/v3/auth/role/get": "/etcdserverpb.Auth/RoleGet",
    "/v3/auth/role/list": "/etcdserverpb.Auth/RoleList",
    "/v3/auth/role/delete": "/etcdserverpb.Auth/RoleDelete",
    "/v3/auth/role/grant": "/etcdserverpb.Auth/RoleGrantPermission",
    "/v3/auth/role/revoke": "/etcdserverpb.Auth/RoleRevokePermission",
    "/v3/lock/lock": "/v3lockpb.Lock/Lock",
    "/v3/lock/unlock": "/v3lockpb.Lock/Unlock",
    "/v3/election/campaign": "/v3electionpb.Election/Campaign",
    "/v3/election/proclaim": "/v3electionpb.Election/Proclaim",
    "/v3/election/leader": "/v3electionpb.Election/Leader",
    "/v3/election/observe": "/v3electionpb.Election/Observe",
    "/v3/election/resign": "/v3electionpb.Election/Resign",
}
"""All are asked by POST."""
BODY_STREAMS: Final = frozenset({"/v3/watch", "/v3/lease/keepalive"})
"""Paths whose body is a stream of messages."""


class Codec(Protocol):
    """A message as JSON: `_json.Schema`, or what another API has for its own."""

    def decode(self, text: bytes) -> bytes:
        """The wire form of a JSON value. JsonError."""

    def encode(self, wire: bytes, *, html: bool = False) -> bytes:
        """Compact JSON; `html`: as `_json.Schema`."""


class Route(NamedTuple):
    """One method. `many`: it answers with a stream."""

    method: str
    request: Codec
    response: Codec
    many: bool


@cache
def route_of(path: str) -> Route:
    """KeyError for a path that is none."""
    from raftsched.pb.etcd import rpc_pb2, v3election_pb2, v3lock_pb2

    method = PATHS[path]
    service, name = method[1:].split("/")
    package, _, short = service.partition(".")
    module = {"etcdserverpb": rpc_pb2, "v3lockpb": v3lock_pb2, "v3electionpb": v3election_pb2}[package]
    found = module.DESCRIPTOR.services_by_name[short].methods_by_name[name]
    return Route(method, Schema(found.input_type), Schema(found.output_type), found.server_streaming)


class Api(NamedTuple):
    """Everything that a gateway has to know of an API. `shows_certificate`: a method hears what the client of an HTTP request showed."""

    paths: Collection[str] = PATHS
    body_streams: Collection[str] = BODY_STREAMS
    route_of: Callable[[str], Route] = route_of
    shows_certificate: bool = False


ETCD: Final = Api()
