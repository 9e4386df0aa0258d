"""The auth requests that go through the log: from their bytes to the store (etcd-api, appendix A).

Invariant: the same bytes give the same result on every member; only root gets as far as the store while authentication is on.
Must not know: the log, revisions of keys.
"""

from collections.abc import Callable, Mapping
from typing import Final

from raftsched import proposals
from raftsched.errors import EtcdError
from raftsched.store.auth.checks import Checks
from raftsched.store.auth.records import decode_permission
from raftsched.store.auth.store import AuthStore
from raftsched.store.codec import WireError, fields, text_field
from raftsched.types import Identity

Answer = tuple[EtcdError, bytes]
"""(error, response without header)."""

KINDS: Final = frozenset(
    {
        proposals.AUTH_ENABLE,
        proposals.AUTH_DISABLE,
        proposals.AUTHENTICATE,
        proposals.AUTH_USER_ADD,
        proposals.AUTH_USER_DELETE,
        proposals.AUTH_USER_CHANGE_PASSWORD,
        proposals.AUTH_USER_GRANT_ROLE,
        proposals.AUTH_USER_REVOKE_ROLE,
        proposals.AUTH_ROLE_ADD,
        proposals.AUTH_ROLE_DELETE,
        proposals.AUTH_ROLE_GRANT_PERMISSION,
        proposals.AUTH_ROLE_REVOKE_PERMISSION,
    }
)


class _Message:
    """The fields of a request; the last of several wins. Raises WireError for one of the wrong type."""

    def __init__(self, data: bytes) -> None:
        self._found = dict(fields(data))

    def data(self, number: int) -> bytes:
        value = self._found.get(number, b"")
        if not isinstance(value, bytes):
            raise WireError(f"field {number} is no bytes")
        return value

    def text(self, number: int) -> str:
        try:
            return self.data(number).decode()
        except UnicodeDecodeError as error:
            raise WireError(f"field {number} is no text") from error

    def has(self, number: int) -> bool:
        return number in self._found


class AuthRequests:
    """Applies them."""

    def __init__(self, store: AuthStore, checks: Checks) -> None:
        self._store = store
        self._checks = checks
        self._changes: Mapping[int, Callable[[_Message], EtcdError]] = {
            proposals.AUTH_ENABLE: lambda _: store.enable(),
            proposals.AUTH_DISABLE: lambda _: store.disable(),
            proposals.AUTH_USER_ADD: lambda one: store.add_user(one.text(1), one.text(2), one.text(4), one.data(3)),
            proposals.AUTH_USER_DELETE: lambda one: store.delete_user(one.text(1)),
            proposals.AUTH_USER_CHANGE_PASSWORD: lambda one: store.change_password(one.text(1), one.text(2), one.text(3)),
            proposals.AUTH_USER_GRANT_ROLE: lambda one: store.grant_role(one.text(1), one.text(2)),
            proposals.AUTH_USER_REVOKE_ROLE: lambda one: store.revoke_role(one.text(1), one.text(2)),
            proposals.AUTH_ROLE_ADD: lambda one: store.add_role(one.text(1)),
            proposals.AUTH_ROLE_DELETE: lambda one: store.delete_role(one.text(1)),
            proposals.AUTH_ROLE_GRANT_PERMISSION: self._grant_permission,
            proposals.AUTH_ROLE_REVOKE_PERMISSION: lambda one: store.revoke_permission(one.text(1), one.data(2), one.data(3)),
        }

    def apply(self, who: Identity, kind: int, payload: bytes, index: int) -> Answer:
        """`index`: of the entry; a simple token ends with it."""
        try:
            message = _Message(payload)
            if kind == proposals.AUTHENTICATE:
                return self._authenticate(message, index)
            return self._checks.admin(who) or self._changes[kind](message), b""
        except WireError:
            return EtcdError.MALFORMED, b""

    def _authenticate(self, message: _Message, index: int) -> Answer:
        prefix = message.text(3)
        token = f"{prefix}.{index}" if prefix else ""
        error = self._store.authenticate(message.text(1), token)
        return error, b"" if error else text_field(2, token)

    def _grant_permission(self, message: _Message) -> EtcdError:
        permission = decode_permission(message.data(2)) if message.has(2) else None
        return self._store.grant_permission(message.text(1), permission)
