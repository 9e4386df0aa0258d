"""Users and roles as they are stored: authpb.User and authpb.Role, byte for byte as etcd writes them.

Invariant: `decode(encode(x)) == x`; equal records have equal bytes on every member (Maintenance.Hash).
Must not know: who may do what.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from raftsched.errors import CorruptError
from raftsched.store.codec import WireError, bytes_field, fields, varint_field

READ: Final = 0
WRITE: Final = 1
READWRITE: Final = 2
ROOT: Final = "root"
"""Name of the user, and of the role, that may do everything."""


class Permission(NamedTuple):
    """Of a role, on one interval of keys (`spans.Interval`)."""

    kind: int  # READ, WRITE, READWRITE; another number is kept, and permits nothing
    key: bytes
    end: bytes


@dataclass(frozen=True, slots=True)
class User:
    """`roles` are sorted; some may not exist. `options` None: written by an etcd before 3.4."""

    name: str
    password: bytes = b""  # a bcrypt hash
    roles: tuple[str, ...] = ()
    options: bytes | None = b""  # an encoded authpb.UserAddOptions

    @property
    def no_password(self) -> bool:
        """Logs in with a certificate alone."""
        return bool(self.options) and any(number == 1 and value for number, value in fields(self.options or b""))


@dataclass(frozen=True, slots=True)
class Role:
    """`permissions` are sorted by key."""

    name: str
    permissions: tuple[Permission, ...] = ()


ROOT_PERMISSION: Final = Permission(READWRITE, b"", b"\0")
"""What RoleGet shows of the role `root`, whatever it was granted."""


def encode_permission(permission: Permission) -> bytes:
    """An authpb.Permission."""
    key = bytes_field(2, permission.key) if permission.key else b""
    end = bytes_field(3, permission.end) if permission.end else b""
    return varint_field(1, permission.kind) + key + end


def decode_permission(data: bytes) -> Permission:
    """Raises WireError."""
    kind, key, end = 0, b"", b""
    for number, value in fields(data):
        if number == 1:
            kind = _number(value)
        elif number == 2:
            key = _data(value)
        elif number == 3:
            end = _data(value)
    return Permission(kind, key, end)


def encode_user(user: User) -> bytes:
    password = bytes_field(2, user.password) if user.password else b""
    roles = b"".join(bytes_field(3, role.encode()) for role in user.roles)
    options = b"" if user.options is None else bytes_field(4, user.options)
    return bytes_field(1, user.name.encode()) + password + roles + options


def encode_role(role: Role) -> bytes:
    return bytes_field(1, role.name.encode()) + b"".join(bytes_field(2, encode_permission(one)) for one in role.permissions)


def decode_user(key: bytes, data: bytes) -> User:
    """Raises CorruptError."""
    password, options, roles = b"", None, []
    try:
        for number, value in fields(data):
            if number == 2:
                password = _data(value)
            elif number == 3:
                roles.append(_data(value).decode())
            elif number == 4:
                options = _data(value)
        return User(key.decode(), password, tuple(roles), options)
    except ValueError as error:  # WireError and undecodable text are some
        raise CorruptError(f"bucket authUsers, key {key.hex()}: {error}") from error


def decode_role(key: bytes, data: bytes) -> Role:
    """Raises CorruptError."""
    try:
        permissions = tuple(decode_permission(_data(value)) for number, value in fields(data) if number == 2)
        return Role(key.decode(), permissions)
    except ValueError as error:
        raise CorruptError(f"bucket authRoles, key {key.hex()}: {error}") from error


def _data(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise WireError("a field is no bytes")
    return value


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise WireError("a field is no number")
    return value
