"""Who asks, from the metadata and certificate of a call, and what a service must look at before it serves (etcd-api §1.6).

Writes are permitted where they are applied; here is what never gets there: reads, watches, methods for root alone. While authentication is
off all of it is one look at a flag.
Invariant: an identity comes from a token that this cluster gave out or signed, or from a verified certificate; a token that is shown and is
not known is refused, also where nobody at all would be served.
Must not know: what a method does.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from raftsched.errors import EtcdError, StatusError, status_of
from raftsched.ports import StoreNode, TokenSigner
from raftsched.store.auth.checks import Checks
from raftsched.store.auth.store import AuthStore
from raftsched.store.node.authentication import Authentication
from raftsched.types import NOBODY, Identity

if TYPE_CHECKING:
    from raftsched.rpc.http2._h2 import Engine

ADMIN: Final = frozenset(
    {
        "/etcdserverpb.KV/Compact",
        "/etcdserverpb.Cluster/MemberAdd",
        "/etcdserverpb.Cluster/MemberRemove",
        "/etcdserverpb.Cluster/MemberUpdate",
        "/etcdserverpb.Cluster/MemberPromote",
        "/etcdserverpb.Maintenance/Defragment",
        "/etcdserverpb.Maintenance/Hash",
        "/etcdserverpb.Maintenance/HashKV",
        "/etcdserverpb.Maintenance/Snapshot",
        "/etcdserverpb.Maintenance/MoveLeader",
        "/etcdserverpb.Maintenance/Downgrade",
    }
)
"""Methods for root alone, refused before they begin."""
KNOWN: Final = frozenset({"/etcdserverpb.Maintenance/Status"})
"""Methods for anybody who is logged in, refused before they begin."""
BEARER: Final = "Bearer "
GATEWAY: Final = "grpcgateway-accept"
"""Metadata of a call that the JSON gateway made: the certificate is the gateway's own then."""

Owner = Identity | EtcdError | None
"""None: its token is not applied here yet."""


class Caller(Protocol):
    """A call or a stream of the door."""

    def metadata(self, name: str) -> str | None: ...
    def peer_certificate(self) -> dict[str, Any] | None: ...


class Access:
    """`signer`: of JWTs; None = simple tokens. `client_cert_auth`: the common name of a client's certificate is its user."""

    def __init__(self, engine: "Engine", node: StoreNode, *, signer: TokenSigner | None = None, client_cert_auth: bool = False) -> None:
        self.auth: Authentication = node.auth
        self.checks: Checks = self.auth.checks
        self.signer = signer
        self._engine = engine
        self._store: AuthStore = self.auth.store
        self._client_cert_auth = client_cert_auth

    @property
    def enabled(self) -> bool:
        return self._store.enabled

    @property
    def revision(self) -> int:
        """Of the auth store."""
        return self._store.revision

    # -- one call

    async def identify(self, caller: Caller) -> Identity:
        """NOBODY while authentication is off, and for who shows nothing. Waits for a token that is still to be applied here. Raises
        `StatusError`."""
        if not self._store.enabled:
            return NOBODY
        token = _token(caller.metadata)
        if token is not None and self._is_ahead(token):
            await self.auth.wait(token)
        return self.identify_nowait(caller)

    def identify_nowait(self, caller: Caller) -> Identity:
        """The same for what cannot wait: a token from ahead is not known."""
        if not self._store.enabled:
            return NOBODY
        token = _token(caller.metadata)
        if token is None:
            return self._by_certificate(caller.metadata, caller.peer_certificate)
        found = self._by_token(token)
        if found is None:
            raise status_of(EtcdError.INVALID_AUTH_TOKEN)
        return found

    def must_wait(self, caller: Caller) -> bool:
        """Whether `identify` would wait."""
        token = _token(caller.metadata) if self._store.enabled else None
        return token is not None and self._is_ahead(token)

    async def known(self, caller: Caller) -> Identity:
        """Somebody, while authentication is on. Raises `StatusError`."""
        who = await self.identify(caller)
        if self._store.enabled and who is NOBODY:
            raise status_of(EtcdError.USER_EMPTY)
        return who

    async def admin(self, caller: Caller) -> Identity:
        """Root, while authentication is on. Raises `StatusError`."""
        who = await self.identify(caller)
        permit(self.checks.admin(who))
        return who

    def guard(self, path: str) -> Callable[[Caller], Awaitable[Identity]] | None:
        """What must pass before the method at `path` begins."""
        return self.admin if path in ADMIN else self.known if path in KNOWN else None

    def refusal(self, path: str, caller: Caller) -> StatusError | None:
        """Why the stream at `path` must not begin."""
        try:
            error = self.checks.admin(self.identify_nowait(caller)) if path in ADMIN else EtcdError.OK
        except StatusError as refused:
            return refused
        return status_of(error) if error else None

    # -- batches

    def owners(self, handles: list[int], *, final: bool = False) -> list[Owner]:
        """Of each call. `final`: what is not known by now is refused."""
        many = self._engine.metadata_many
        tokens = many(handles, b"token") or [None] * len(handles)
        if None in tokens:
            others = many(handles, b"authorization")
            if others is not None:
                tokens = [one if one is not None else other for one, other in zip(tokens, others, strict=True)]
        known: dict[str, Owner] = {}
        found: list[Owner] = []
        for handle, token in zip(handles, tokens, strict=True):
            if token is None:
                found.append(self._of_handle(handle))
                continue
            if token not in known:
                known[token] = self._owner(token.removeprefix(BEARER), final)
            found.append(known[token])
        return found

    async def wait(self, handle: int) -> None:
        """Until the token of that call is applied here."""
        token = _token(lambda name: self._engine.metadata(handle, name))
        if token is not None:
            await self.auth.wait(token)

    def may_read(self, handles: Sequence[int], messages: Sequence[bytes], kind: int) -> list[int]:
        """The error of each, 0 = permitted: requests that are answered from the present state."""
        check = self.checks.read
        owners = self.owners(list(handles), final=True)
        return [
            check(owner, kind, message) if isinstance(owner, Identity) else owner or EtcdError.INVALID_AUTH_TOKEN
            for owner, message in zip(owners, messages, strict=True)
        ]

    # -- tokens and certificates

    def _owner(self, token: str, final: bool) -> Owner:
        found = self._by_token(token)
        if found is None and not final and self._is_ahead(token):
            return None
        return found or EtcdError.INVALID_AUTH_TOKEN

    def _by_token(self, token: str) -> Identity | None:
        return self.auth.find(token) if self.signer is None else self.signer.find(token)

    def _is_ahead(self, token: str) -> bool:
        return self.signer is None and self.auth.is_ahead(token)

    def _of_handle(self, handle: int) -> Identity:
        if not self._client_cert_auth:
            return NOBODY
        engine = self._engine
        return self._by_certificate(lambda name: engine.metadata(handle, name), lambda: engine.peer_certificate(handle))

    def _by_certificate(self, metadata: Callable[[str], str | None], certificate: Callable[[], Mapping[str, Any] | None]) -> Identity:
        if not self._client_cert_auth or metadata(GATEWAY) is not None:
            return NOBODY
        shown = certificate()
        return NOBODY if shown is None else Identity(common_name(shown), self._store.revision)


def permit(error: int) -> None:
    """Raises the `StatusError` of an error, nothing for 0."""
    if error:
        raise status_of(error)


def common_name(certificate: Mapping[str, Any]) -> str:
    """Of the subject of a certificate as `ssl` gives it; "" if it has none."""
    names = [value for parts in certificate.get("subject", ()) for key, value in parts if key == "commonName"]
    return str(names[-1]) if names else ""


def _token(metadata: Callable[[str], str | None]) -> str | None:
    token = metadata("token")
    if token is None:
        token = metadata("authorization")
    return None if token is None else token.removeprefix(BEARER)
