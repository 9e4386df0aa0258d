"""Who asks: passwords, simple tokens that are not applied here yet, and logging in. The asyncio side of store/auth.

Passwords are hashed and compared in one thread of its own (bcrypt takes tens of milliseconds and releases the GIL), before anything is
proposed: the log never holds a plain password.
Invariant: whoever waits for a token or a password is told within the time of a request, or when the node stops.
Must not know: metadata, certificates, JWTs.
"""

import asyncio
import base64
import secrets
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from raftsched import limits, proposals
from raftsched.errors import EtcdError, status_of
from raftsched.store.apply import Applier
from raftsched.store.auth.tokens import index_of
from raftsched.store.codec import text_field
from raftsched.types import Identity, Result, ResultSink

TOKEN_LETTERS: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
TOKEN_LENGTH: Final = 16
PASSWORD_BYTES_MAX: Final = 72  # of what bcrypt looks at
HASH_PREFIX: Final = b"2a"  # the version that etcd's library writes

Propose = Callable[[int, Sequence[bytes], Sequence[int], ResultSink], None]


class Authentication:
    """See `ports.Authenticator`."""

    def __init__(
        self,
        applier: Applier,
        *,
        propose: Propose,
        barrier: Callable[[], Awaitable[None]],
        mono_ms: Callable[[], int],
        bcrypt_cost: int = limits.BCRYPT_COST,
        timeout_ms: int = limits.REQUEST_TIMEOUT_MS,
    ) -> None:
        """`bcrypt_cost`: one of bcrypt's."""
        self.store = applier.auth
        self.checks = applier.checks
        self._applier = applier
        self._propose = propose
        self._barrier = barrier
        self._mono_ms = mono_ms
        self._cost = bcrypt_cost
        self._timeout_ms = timeout_ms
        self._thread: ThreadPoolExecutor | None = None
        self._working = 0
        self._closed = False
        self._awaited: list[tuple[int, asyncio.Future[None]]] = []  # (index, who waits until it is applied)

    # -- simple tokens

    def find(self, token: str) -> Identity | None:
        """Its owner, as of now; None: unknown or over, or not applied here yet (`is_ahead`)."""
        user = self.store.tokens.find(token, self._mono_ms())
        return None if user is None else Identity(user, self.store.revision)

    def is_ahead(self, token: str) -> bool:
        """Whether it was given out by an entry that this member has not applied."""
        index = index_of(token)
        return index is not None and index > self._applier.applied_index

    async def wait(self, token: str) -> None:
        """Until the entry that gave it out is applied here, for as long as a request may wait. Then, or if too many wait, it is unknown."""
        if not self.is_ahead(token) or len(self._awaited) >= limits.AUTH_TOKENS_AWAITED_MAX:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (index_of(token) or 0, future)
        self._awaited.append(entry)
        try:
            await asyncio.wait_for(future, self._timeout_ms / 1_000)
        except TimeoutError:
            return
        finally:
            if entry in self._awaited:
                self._awaited.remove(entry)

    def on_applied(self) -> None:
        """Something was applied."""
        if not self._awaited:
            return
        applied = self._applier.applied_index
        for index, future in self._awaited:
            if index <= applied and not future.done():
                future.set_result(None)
        self._awaited = [one for one in self._awaited if one[0] > applied]

    def tick(self) -> None:
        """Now and then: forgets tokens whose time is over."""
        self.store.tokens.expire(self._mono_ms())

    def close(self) -> None:
        """Idempotent."""
        self._closed = True
        for _, future in self._awaited:
            if not future.done():
                future.set_exception(status_of(EtcdError.STOPPED))
        self._awaited = []
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    # -- passwords

    @staticmethod
    def check_length(password: str) -> None:
        """Raises `StatusError` for one that cannot be hashed."""
        if len(password.encode()) > PASSWORD_BYTES_MAX:
            raise status_of(EtcdError.PASSWORD_TOO_LONG)

    async def hash_password(self, password: str) -> str:
        """base64 of the hash. Raises `StatusError`."""
        self.check_length(password)
        secret = password.encode()
        return base64.b64encode(await self._work(lambda: _hashed(secret, self._cost))).decode()

    async def _work(self, work: Callable[[], bytes]) -> bytes:
        if self._working >= limits.AUTH_PASSWORDS_WAITING_MAX:
            raise status_of(EtcdError.TOO_MANY_REQUESTS)
        if self._closed:
            raise status_of(EtcdError.STOPPED)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="bcrypt")
        self._working += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except asyncio.CancelledError:
            if self._closed:  # what the thread had not begun is given up
                raise status_of(EtcdError.STOPPED) from None
            raise
        finally:
            self._working -= 1

    async def _check_password(self, name: str, password: str) -> int:
        """The auth revision as of which the password is right. Raises `StatusError`."""
        store = self.store
        if not store.enabled:
            raise status_of(EtcdError.AUTH_NOT_ENABLED)
        user = store.users.get(name)
        if user is None:
            raise status_of(EtcdError.AUTH_FAILED)
        if user.no_password:
            raise status_of(EtcdError.NO_PASSWORD_USER)
        revision, stored, secret = store.revision, user.password, password.encode()[:PASSWORD_BYTES_MAX]
        if not await self._work(lambda: _matches(secret, stored)):
            raise status_of(EtcdError.AUTH_FAILED)
        return revision

    # -- logging in

    async def authenticate(self, name: str, password: str, *, simple: bool) -> tuple[int, str]:
        """(revision of the keys, a simple token; "" if it is not to be one). Raises `StatusError`."""
        await self._barrier()
        while True:
            checked = await self._check_password(name, password)
            prefix = "".join(secrets.choice(TOKEN_LETTERS) for _ in range(TOKEN_LENGTH)) if simple else ""
            waiter = _Waiter()
            self._propose(proposals.AUTHENTICATE, [text_field(1, name) + text_field(3, prefix)], [0], waiter)
            error, revision, body = await waiter.future
            if error:
                raise status_of(error)
            if checked == self.store.revision:  # else the password may have been changed meanwhile
                return revision, body[2:].decode() if body else ""


class _Waiter:
    """A `ResultSink` for one awaited proposal."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def on_results(self, tokens: Sequence[int], results: Sequence[Result]) -> None:
        if not self.future.done():
            self.future.set_result(results[0])


def _hashed(secret: bytes, cost: int) -> bytes:
    import bcrypt  # only where there are users

    return bcrypt.hashpw(secret, bcrypt.gensalt(cost, prefix=HASH_PREFIX))


def _matches(secret: bytes, stored: bytes) -> bytes:
    """b"" if not."""
    import bcrypt

    try:
        return b"\x01" if bcrypt.checkpw(secret, stored) else b""
    except ValueError:  # what is stored is no hash: set without a password, or by hand
        return b""
