"""May this user do that: what of a request is asked of the auth store, and the answers kept between its changes (etcd-api §1.6).

Invariant: an answer depends on the store and the lessor alone, so that all members give the same one; what cannot be read is refused.
Must not know: tokens, the wire beyond `needs`.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Final

from raftsched.errors import EtcdError
from raftsched.store.auth._needs import READ, needs
from raftsched.store.auth.records import READ as READING
from raftsched.store.auth.records import READWRITE, Permission
from raftsched.store.auth.records import WRITE as WRITING
from raftsched.store.auth.spans import Spans
from raftsched.store.auth.store import AuthStore
from raftsched.types import Identity

OK: Final = EtcdError.OK


class Permits:
    """Of one user, between two changes of the auth store."""

    __slots__ = ("read", "root", "write")

    def __init__(self, permissions: Iterable[Permission], *, root: bool) -> None:
        held = list(permissions)
        self.root = root
        self.read = Spans((one.key, one.end) for one in held if one.kind in (READING, READWRITE))
        self.write = Spans((one.key, one.end) for one in held if one.kind in (WRITING, READWRITE))


class Checks:
    """`keys_of(lease)`: the keys on it, none if there is no such lease. Each check answers an `EtcdError`, 0 = permitted."""

    def __init__(self, store: AuthStore, keys_of: Callable[[int], Collection[bytes]]) -> None:
        self._store = store
        self._keys_of = keys_of
        self._permits: dict[str, Permits] = {}
        store.on_change = self._permits.clear

    def permits(self, user: str) -> Permits | None:
        """None: there is no such user."""
        found = self._permits.get(user)
        if found is None:
            held = self._store.users.get(user)
            if held is None:
                return None
            roles = [self._store.roles[role] for role in held.roles if role in self._store.roles]
            permissions = (one for role in roles for one in role.permissions)
            found = self._permits[user] = Permits(permissions, root=self._store.is_root(user))
        return found

    def admin(self, who: Identity) -> EtcdError:
        """Whatever only root may do. The revision does not matter here, as in etcd."""
        if not self._store.enabled or self._store.is_root(who.name):
            return OK
        if not who.name:
            return EtcdError.USER_EMPTY
        return EtcdError.PERMISSION_DENIED if who.name in self._store.users else EtcdError.USER_NOT_FOUND

    def request(self, who: Identity, kind: int, message: bytes) -> EtcdError:
        """A request of KV (`_needs.needs`)."""
        if not self._store.enabled:
            return OK
        permits = self._standing(who)
        if isinstance(permits, Permits) and permits.root:
            return OK
        try:
            wanted = needs(kind, message)
        except ValueError:
            return EtcdError.MALFORMED
        if isinstance(permits, Permits):
            return OK if all(self._has(permits, *one) for one in wanted) else EtcdError.PERMISSION_DENIED
        return permits if wanted else OK  # a transaction without operations asks for nothing

    def read(self, who: Identity, kind: int, message: bytes) -> EtcdError:
        """A request that is answered from this member's present state: it is refused also to who comes from a younger auth store."""
        error = self.request(who, kind, message)
        return error or self.fresh(who)

    def fresh(self, who: Identity) -> EtcdError:
        """Whether the identity is of the store as it is now."""
        stale = self._store.enabled and who.revision not in (0, self._store.revision)
        return EtcdError.AUTH_OLD_REVISION if stale else OK

    def keys(self, who: Identity, lease: int, *, write: bool) -> EtcdError:
        """All keys on a lease: to be written (revoke, renew), or read (time to live, list). Root may, whatever the revision."""
        if not self._store.enabled or self._store.is_root(who.name):
            return OK
        keys = self._keys_of(lease)
        if not keys:
            return OK
        permits = self._standing(who)
        if not isinstance(permits, Permits):
            return permits
        spans = permits.write if write else permits.read
        return OK if all(map(spans.cover, keys)) else EtcdError.PERMISSION_DENIED

    def range(self, who: Identity, key: bytes, end: bytes) -> EtcdError:
        """To read an interval: a watch."""
        if not self._store.enabled:
            return OK
        permits = self._standing(who)
        if not isinstance(permits, Permits):
            return permits
        return OK if permits.root or permits.read.cover(key, end) else EtcdError.PERMISSION_DENIED

    def _standing(self, who: Identity) -> Permits | EtcdError:
        """What the user may do; or why nothing, in etcd's order."""
        if not who.revision:
            return EtcdError.USER_EMPTY
        if who.revision < self._store.revision:
            return EtcdError.AUTH_OLD_REVISION
        return self.permits(who.name) or EtcdError.PERMISSION_DENIED

    def _has(self, permits: Permits, what: int, key: bytes | int, end: bytes) -> bool:
        if isinstance(key, int):
            return all(map(permits.write.cover, self._keys_of(key)))
        return (permits.read if what == READ else permits.write).cover(key, end)
