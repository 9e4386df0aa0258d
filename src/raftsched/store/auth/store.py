"""Users, roles, and whether they matter: what etcd calls the auth store (etcd-api §1.6).

Changed in apply alone. Each change is one step of the auth revision, by which tokens and cached permissions are known to be old.
Invariant: while it is enabled there is a user `root` with the role `root`; the buckets hold exactly what is here.
Must not know: tokens' origin, who asks, clocks beyond `now_ms`.
"""

import base64
import binascii
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from raftsched import limits
from raftsched.errors import CorruptError, EtcdError
from raftsched.store.auth.records import ROOT, Permission, Role, User, decode_role, decode_user, encode_role, encode_user
from raftsched.store.auth.spans import OPEN
from raftsched.store.auth.tokens import SimpleTokens

Items = Iterable[tuple[bytes, bytes]]
SideWrite = Callable[[tuple[str, bytes, bytes | None]], None]

ENABLED_KEY: Final = b"authEnabled"
REVISION_KEY: Final = b"authRevision"
OK: Final = EtcdError.OK


class AuthStore:
    """The replicated part. Methods named as the requests answer an `EtcdError`, 0 = done."""

    def __init__(self, write: SideWrite, *, tokens: SimpleTokens | None = None) -> None:
        self._write = write
        self.tokens = tokens or SimpleTokens()
        self.enabled = False
        self.revision = 1
        self.users: dict[str, User] = {}
        self.roles: dict[str, Role] = {}
        self.now_ms = 0  # monotonic; for the ends of tokens alone
        self.on_change: Callable[[], None] = lambda: None
        """Called after each change of users, roles or the revision."""

    def load(self, auth: Items, users: Items, roles: Items) -> None:
        """From the buckets. A fresh store has revision 1, as etcd's. Raises CorruptError."""
        told = dict(auth)
        self.enabled = told.get(ENABLED_KEY) == b"\x01"
        stored = told.get(REVISION_KEY, bytes(8))
        if len(stored) != 8:
            raise CorruptError(f"bucket auth, key authRevision: {stored.hex()}")
        self.users = {one.name: one for one in (decode_user(*item) for item in users)}
        self.roles = {one.name: one for one in (decode_role(*item) for item in roles)}
        self.revision = int.from_bytes(stored, "big")
        if not self.revision:
            self._commit()
        self.on_change()

    def _commit(self) -> EtcdError:
        self.revision += 1
        self._write(("auth", REVISION_KEY, self.revision.to_bytes(8, "big")))
        self.on_change()
        return OK

    def _put_user(self, user: User) -> None:
        self.users[user.name] = user
        self._write(("authUsers", user.name.encode(), encode_user(user)))

    def _put_role(self, role: Role) -> None:
        self.roles[role.name] = role
        self._write(("authRoles", role.name.encode(), encode_role(role)))

    def is_root(self, user: str) -> bool:
        """Whether the user has the role that may do everything."""
        found = self.users.get(user)
        return found is not None and ROOT in found.roles

    # -- on and off

    def enable(self) -> EtcdError:
        if self.enabled:
            return OK
        if ROOT not in self.users:
            return EtcdError.ROOT_USER_NOT_EXIST
        if not self.is_root(ROOT):
            return EtcdError.ROOT_ROLE_NOT_EXIST
        self.enabled = True
        self._write(("auth", ENABLED_KEY, b"\x01"))
        self.on_change()
        return OK

    def disable(self) -> EtcdError:
        if not self.enabled:
            return OK
        self.enabled = False
        self.tokens.clear()
        self._write(("auth", ENABLED_KEY, b"\x00"))
        return self._commit()

    def authenticate(self, name: str, token: str) -> EtcdError:
        """The password was compared before the proposal. `token` "": it is not this store's to remember."""
        if not self.enabled:
            return EtcdError.AUTH_NOT_ENABLED
        user = self.users.get(name)
        if user is None or user.no_password:
            return EtcdError.AUTH_FAILED
        if token:
            self.tokens.assign(token, name, self.now_ms)
        return OK

    # -- users

    def add_user(self, name: str, password: str, hashed: str, options: bytes) -> EtcdError:
        """`hashed`: base64 of the hash. A plain `password` is hashed before the proposal and never comes here."""
        if not name:
            return EtcdError.USER_EMPTY
        if name in self.users:
            return EtcdError.USER_EXISTS
        if refused := _no_room(name, len(self.users)):
            return refused
        user = User(name, b"", (), options)
        if not user.no_password:
            secret = _secret(password, hashed)
            if secret is None:
                return EtcdError.NO_PASSWORD_USER
            user = User(name, secret, (), options)
        self._put_user(user)
        return self._commit()

    def delete_user(self, name: str) -> EtcdError:
        if self.enabled and name == ROOT:
            return EtcdError.INVALID_AUTH_MANAGEMENT
        if self.users.pop(name, None) is None:
            return EtcdError.USER_NOT_FOUND
        self._write(("authUsers", name.encode(), None))
        self.tokens.forget_user(name)
        return self._commit()

    def change_password(self, name: str, password: str, hashed: str) -> EtcdError:
        user = self.users.get(name)
        if user is None:
            return EtcdError.USER_NOT_FOUND
        secret: bytes | None = b""
        if not user.no_password:
            secret = _secret(password, hashed)
        if secret is None:
            return EtcdError.NO_PASSWORD_USER
        self._put_user(User(name, secret, user.roles, user.options))
        self.tokens.forget_user(name)
        return self._commit()

    def grant_role(self, name: str, role: str) -> EtcdError:
        user = self.users.get(name)
        if user is None:
            return EtcdError.USER_NOT_FOUND
        if role != ROOT and role not in self.roles:
            return EtcdError.ROLE_NOT_FOUND
        if role in user.roles:
            return OK
        self._put_user(_with_roles(user, sorted((*user.roles, role), key=str.encode)))
        return self._commit()

    def revoke_role(self, name: str, role: str) -> EtcdError:
        if self.enabled and name == role == ROOT:
            return EtcdError.INVALID_AUTH_MANAGEMENT
        user = self.users.get(name)
        if user is None:
            return EtcdError.USER_NOT_FOUND
        if role not in user.roles:
            return EtcdError.ROLE_NOT_GRANTED
        self._put_user(_with_roles(user, [one for one in user.roles if one != role]))
        return self._commit()

    # -- roles

    def add_role(self, name: str) -> EtcdError:
        if not name:
            return EtcdError.ROLE_EMPTY
        if name in self.roles:
            return EtcdError.ROLE_EXISTS
        if refused := _no_room(name, len(self.roles)):
            return refused
        self._put_role(Role(name))
        return self._commit()

    def delete_role(self, name: str) -> EtcdError:
        """Users who have it lose it."""
        if self.enabled and name == ROOT:
            return EtcdError.INVALID_AUTH_MANAGEMENT
        if self.roles.pop(name, None) is None:
            return EtcdError.ROLE_NOT_FOUND
        self._write(("authRoles", name.encode(), None))
        for user in [one for one in self.users.values() if name in one.roles]:
            self._put_user(_with_roles(user, [one for one in user.roles if one != name]))
        return self._commit()

    def grant_permission(self, name: str, permission: Permission | None) -> EtcdError:
        """As etcd does it: of several permissions with one key only the first is compared, so that another may come to stand twice."""
        if permission is None:
            return EtcdError.PERMISSION_NOT_GIVEN
        if not permission.key or (permission.end not in (b"", OPEN) and permission.key >= permission.end):
            return EtcdError.INVALID_AUTH_MANAGEMENT
        role = self.roles.get(name)
        if role is None:
            return EtcdError.ROLE_NOT_FOUND
        held = list(role.permissions)
        at = bisect_left(held, permission.key, key=lambda one: one.key)
        if at < len(held) and held[at][1:] == permission[1:]:
            held[at] = permission
        elif len(held) >= limits.AUTH_PERMISSIONS_MAX:
            return EtcdError.NO_SPACE
        else:
            held.append(permission)
            held.sort(key=lambda one: one.key)
        self._put_role(Role(name, tuple(held)))
        return self._commit()

    def revoke_permission(self, name: str, key: bytes, end: bytes) -> EtcdError:
        role = self.roles.get(name)
        if role is None:
            return EtcdError.ROLE_NOT_FOUND
        left = tuple(one for one in role.permissions if (one.key, one.end) != (key, end))
        if len(left) == len(role.permissions):
            return EtcdError.PERMISSION_NOT_GRANTED
        self._put_role(Role(name, left))
        return self._commit()

    # -- what is shown

    def user_names(self) -> list[str]:
        return sorted(self.users, key=str.encode)

    def role_names(self) -> list[str]:
        return sorted(self.roles, key=str.encode)


def _with_roles(user: User, roles: Sequence[str]) -> User:
    return User(user.name, user.password, tuple(roles), user.options)


def _no_room(name: str, count: int) -> EtcdError:
    if len(name.encode()) > limits.AUTH_NAME_BYTES_MAX:
        return EtcdError.REQUEST_TOO_LARGE
    return EtcdError.NO_SPACE if count >= limits.AUTH_NAMES_MAX else OK


def _secret(password: str, hashed: str) -> bytes | None:
    """What is stored of a password; None: nothing that could be."""
    if password and not hashed:
        return None
    try:
        return base64.b64decode(hashed.replace("\r", "").replace("\n", ""), validate=True)
    except (binascii.Error, ValueError):
        return None
