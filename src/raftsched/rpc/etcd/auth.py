"""etcdserverpb.Auth (etcd-api §1.6): all sixteen methods.

What changes users and roles goes through the log, and root's right to do it is looked at there; what only shows them is a linearizable read
with etcd's answers. Passwords are hashed before they are proposed.
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from google.protobuf.message import Message

from raftsched import proposals
from raftsched.errors import EtcdError, status_of
from raftsched.pb.etcd import rpc_pb2 as pb
from raftsched.pb.etcd.auth_pb2 import Permission
from raftsched.rpc.etcd.access import permit
from raftsched.rpc.etcd.calls import Door, parse
from raftsched.store.auth.records import ROOT, ROOT_PERMISSION

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Call

SERVICE: Final = "/etcdserverpb.Auth/"
PLAIN: Final[dict[str, tuple[int, type[Message]]]] = {
    "AuthEnable": (proposals.AUTH_ENABLE, pb.AuthEnableRequest),
    "AuthDisable": (proposals.AUTH_DISABLE, pb.AuthDisableRequest),
    "UserDelete": (proposals.AUTH_USER_DELETE, pb.AuthUserDeleteRequest),
    "UserGrantRole": (proposals.AUTH_USER_GRANT_ROLE, pb.AuthUserGrantRoleRequest),
    "UserRevokeRole": (proposals.AUTH_USER_REVOKE_ROLE, pb.AuthUserRevokeRoleRequest),
    "RoleAdd": (proposals.AUTH_ROLE_ADD, pb.AuthRoleAddRequest),
    "RoleDelete": (proposals.AUTH_ROLE_DELETE, pb.AuthRoleDeleteRequest),
    "RoleGrantPermission": (proposals.AUTH_ROLE_GRANT_PERMISSION, pb.AuthRoleGrantPermissionRequest),
    "RoleRevokePermission": (proposals.AUTH_ROLE_REVOKE_PERMISSION, pb.AuthRoleRevokePermissionRequest),
}
"""Methods whose requests go into the log as they are: (kind, message)."""
READING: Final = frozenset({"AuthStatus", "UserGet", "UserList", "RoleGet", "RoleList"})
"""Linearizable reads here, entries of the log in etcd."""


class AuthService:
    """The service."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._access = door.access
        self._auth = door.access.auth
        self._store = self._auth.store
        others: dict[str, Callable[[Call, bytes], Awaitable[bytes]]] = {
            "AuthStatus": self._status,
            "Authenticate": door.requests.timed("Authenticate", self._authenticate, refusals=False),
            "UserAdd": self._add_user,
            "UserChangePassword": self._change_password,
            "UserGet": self._get_user,
            "UserList": self._list_users,
            "RoleGet": self._get_role,
            "RoleList": self._list_roles,
        }
        for method, handler in others.items():
            asked = "Auth" + method.removeprefix("Auth")
            door.cold(SERVICE + method, door.requests.timed(asked, handler) if method in READING else handler)
        for method, (kind, message) in PLAIN.items():
            door.cold(SERVICE + method, self._plain(kind, message))

    def _plain(self, kind: int, message_type: type[Message]) -> "Callable[[Call, bytes], Awaitable[bytes]]":
        async def handler(call: "Call", message: bytes) -> bytes:
            return await self._propose(call, kind, parse(message_type, message))

        return handler

    async def _propose(self, call: "Call", kind: int, request: Message) -> bytes:
        who = await self._access.identify(call)
        _, revision, body = await self._door.propose(kind, request.SerializeToString(), who)
        return self._door.answer(body, revision)

    # -- logging in

    async def _status(self, call: "Call", message: bytes) -> bytes:
        """Needs no credentials; wrong ones are refused."""
        parse(pb.AuthStatusRequest, message)
        await self._access.identify(call)
        await self._door.node.read_barrier()
        response = pb.AuthStatusResponse(enabled=self._store.enabled, authRevision=self._store.revision)
        return self._door.answer(response.SerializeToString())

    async def _authenticate(self, call: "Call", message: bytes) -> bytes:
        request = parse(pb.AuthenticateRequest, message)
        signer = self._access.signer
        revision, token = await self._auth.authenticate(request.name, request.password, simple=signer is None)
        if signer is not None:
            token = signer.sign(request.name, self._store.revision)
        return self._door.answer(pb.AuthenticateResponse(token=token).SerializeToString(), revision)

    # -- passwords

    async def _add_user(self, call: "Call", message: bytes) -> bytes:
        request = parse(pb.AuthUserAddRequest, message)
        if not request.options.no_password:
            request.hashedPassword = await self._hashed(call, request.password)
            request.password = ""
        return await self._propose(call, proposals.AUTH_USER_ADD, request)

    async def _change_password(self, call: "Call", message: bytes) -> bytes:
        request = parse(pb.AuthUserChangePasswordRequest, message)
        if request.password:
            request.hashedPassword = await self._hashed(call, request.password)
            request.password = ""
        return await self._propose(call, proposals.AUTH_USER_CHANGE_PASSWORD, request)

    async def _hashed(self, call: "Call", password: str) -> str:
        """etcd hashes before it asks who calls; here nobody but root makes a member work for it. What is said first stays the same."""
        self._auth.check_length(password)
        await self._access.admin(call)
        return await self._auth.hash_password(password)

    # -- what is shown

    async def _get_user(self, call: "Call", message: bytes) -> bytes:
        """Root sees everybody, everybody sees himself."""
        request = parse(pb.AuthUserGetRequest, message)
        who = await self._access.identify(call)
        await self._door.node.read_barrier()
        error = self._access.checks.admin(who)
        if error and request.name != who.name:
            raise status_of(error)
        user = self._store.users.get(request.name)
        if user is None:
            raise status_of(EtcdError.USER_NOT_FOUND)
        return self._door.answer(pb.AuthUserGetResponse(roles=user.roles).SerializeToString())

    async def _list_users(self, call: "Call", message: bytes) -> bytes:
        parse(pb.AuthUserListRequest, message)
        await self._as_root(call)
        return self._door.answer(pb.AuthUserListResponse(users=self._store.user_names()).SerializeToString())

    async def _as_root(self, call: "Call") -> None:
        who = await self._access.identify(call)
        await self._door.node.read_barrier()
        permit(self._access.checks.admin(who))

    async def _get_role(self, call: "Call", message: bytes) -> bytes:
        """Root sees every role, everybody those that he has."""
        request = parse(pb.AuthRoleGetRequest, message)
        who = await self._access.identify(call)
        await self._door.node.read_barrier()
        error = self._access.checks.admin(who)
        own = self._store.users.get(who.name)
        if error and (own is None or request.role not in own.roles):
            raise status_of(error)
        role = self._store.roles.get(request.role)
        if role is None:
            raise status_of(EtcdError.ROLE_NOT_FOUND)
        held = (ROOT_PERMISSION,) if role.name == ROOT else role.permissions
        permissions = [Permission(permType=Permission.Type.ValueType(one.kind), key=one.key, range_end=one.end) for one in held]
        return self._door.answer(pb.AuthRoleGetResponse(perm=permissions).SerializeToString())

    async def _list_roles(self, call: "Call", message: bytes) -> bytes:
        parse(pb.AuthRoleListRequest, message)
        await self._as_root(call)
        return self._door.answer(pb.AuthRoleListResponse(roles=self._store.role_names()).SerializeToString())
