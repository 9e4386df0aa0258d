"""etcdserverpb.Auth while authentication does not exist: a client that brings a user and a password is told that it is off,
as etcd tells it, and clients then go on without a token. The other methods answer UNIMPLEMENTED."""

from typing import TYPE_CHECKING

from raftsched.errors import EtcdError, status_of
from raftsched.pb.etcd.rpc_pb2 import AuthenticateRequest, AuthStatusResponse
from raftsched.rpc.etcd.calls import Door, parse

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Call

AUTH_REVISION_FRESH = 1  # etcd's auth store before the first change


class AuthService:
    """Authenticate and AuthStatus."""

    def __init__(self, door: Door) -> None:
        self._door = door
        door.cold("/etcdserverpb.Auth/Authenticate", self._authenticate)
        door.cold("/etcdserverpb.Auth/AuthStatus", self._status)

    async def _authenticate(self, call: "Call", message: bytes) -> bytes:
        parse(AuthenticateRequest, message)
        raise status_of(EtcdError.AUTH_NOT_ENABLED)

    async def _status(self, call: "Call", message: bytes) -> bytes:
        return self._door.answer(AuthStatusResponse(enabled=False, authRevision=AUTH_REVISION_FRESH).SerializeToString())
