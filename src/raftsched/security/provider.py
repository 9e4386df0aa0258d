"""The identity of this process while it lives: the first one, its renewals, what TLS is made of.

Invariant: after `start` there always is an identity; a renewal that fails leaves the last one, and open connections never notice a change.
Must not know: who listens, who is dialled.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

from raftsched.config.sentry import SentryOptions
from raftsched.errors import FatalError
from raftsched.ports import Log
from raftsched.security.anchors import Anchors
from raftsched.security.dialing import Resolve
from raftsched.security.identity import Identity, client_context, server_context
from raftsched.security.identity_files import ANCHORS, CERTIFICATE, KEY, TOKEN, write_identity
from raftsched.security.renewal import RETRY_S, Renewal
from raftsched.security.sentry import Sentry, SentryError

ANCHORS_LOOK_S: Final = 2.0  # how soon a change of the file is noticed when nobody connects
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]
Family = tuple[str, Literal["counter", "gauge"], str, tuple[str, ...], dict[tuple[str, ...], float]]
"""The arguments of `rpc.metrics.Family`."""


class IdentityProvider:
    """`start` once, then contexts at any time, then `close`."""

    def __init__(self, options: SentryOptions, *, resolve: Resolve, chance: Callable[[], float], log: Log) -> None:
        """ConfigError: the trust anchors cannot be read."""
        self._log = log
        self._directory = Path(options.directory) if options.directory else None
        self.unusable_total = self.signed_total = self.failed_total = 0
        self._anchors = Anchors(options.anchors_file, self._on_unusable)
        self._sentry = Sentry(options, self._anchors.get, resolve, chance, log)
        self._renewal = Renewal(chance)
        self._identity: Identity | None = None
        self._made: tuple[Identity, str, Contexts] | None = None
        self._written: tuple[Identity, str] | None = None
        self._write_again = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def started(self) -> bool:
        """The first identity is there."""
        return self._identity is not None

    @property
    def identity(self) -> Identity:
        """The present one."""
        assert self._identity is not None, "not started"
        return self._identity

    async def start(self) -> None:
        """The first identity. FatalError: there is none. Once it is there this does nothing."""
        if self._identity is not None:
            return
        self._log.info("Fetching initial identity certificate")
        known = self._anchors.get()  # before Sentry is asked: a change while it signs is a change
        try:
            self._take(await self._sentry.sign())
        except SentryError as error:
            raise FatalError(f"failed to retrieve the initial identity: {error}") from None
        if self._directory is not None and not self._write():
            raise FatalError(f"cannot write the identity to --identity-directory-write {self._directory}")
        self._log.info(f"Security is initialized successfully: {self.identity.spiffe_id} until {self._until}")
        self._task = asyncio.get_running_loop().create_task(self._renew(known))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # -- what TLS is made of

    def server(self) -> ssl.SSLContext:
        """For a connection that comes in now."""
        return self._contexts()[0]

    def client(self) -> ssl.SSLContext:
        """For a connection that is made now."""
        return self._contexts()[1]

    def _contexts(self) -> Contexts:
        identity, anchors = self.identity, self._anchors.get()
        made = self._made
        if made is not None and made[0] is identity and made[1] == anchors:
            return made[2]
        try:
            self._made = identity, anchors, (server_context(identity, anchors), client_context(anchors, identity))
        except OSError as error:  # no descriptor is left for a moment: the next connection tries again
            if made is None:
                raise
            self._log.error(f"The new identity cannot be used yet: {error.strerror or error}")
            return made[2]
        return self._made[2]

    # -- renewal

    async def _renew(self, known: str) -> None:
        """`known`: the anchors that the present identity was asked for with."""
        while True:
            await asyncio.sleep(min(self._renewal.wait_s(time.time()), ANCHORS_LOOK_S))
            anchors = self._anchors.get()
            if anchors != known:
                known = anchors
                self._log.info("The trust anchors have changed")
                self._renewal.on_anchors_changed(time.time())
            if self._renewal.wait_s(time.time()) <= 0:
                await self._ask()
            if self._directory is not None:
                self._write()

    async def _ask(self) -> None:
        self._log.info(f"Renewing workload cert; current cert expires on: {self._until}")
        try:
            self._take(await self._sentry.sign())
        except SentryError as error:
            self.failed_total += 1
            wait_s = self._renewal.on_failed(time.time())
            left = "has expired" if self.identity.not_after <= time.time() else f"is good until {self._until}"
            self._log.error(f"Error renewing identity certificate, which {left}, trying again in {wait_s:.0f} seconds: {error}")

    def _take(self, identity: Identity) -> None:
        self._identity = identity
        self.signed_total += 1
        self._renewal.on_signed(time.time(), identity.not_before, identity.not_after)

    def _write(self) -> bool:
        """Whether the files are those of now."""
        assert self._directory is not None
        identity, anchors = self.identity, self._anchors.get()
        if self._written is not None and self._written[0] is identity and self._written[1] == anchors:
            return True
        if time.monotonic() < self._write_again:
            return False
        files = {KEY: identity.key_pem, CERTIFICATE: identity.chain_pem, ANCHORS: anchors.encode()}
        if identity.jwt:
            files[TOKEN] = identity.jwt.encode()
        try:
            write_identity(self._directory, files)
        except OSError as error:
            self._log.error(f"The identity cannot be written to {self._directory}: {error.strerror or error}")
            self._write_again = time.monotonic() + RETRY_S
            return False
        self._written = identity, anchors
        return True

    @property
    def _until(self) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.identity.not_after))

    def _on_unusable(self, reason: str) -> None:
        self.unusable_total += 1
        self._log.error(f"The changed trust anchors cannot be used, the last good ones stay: {reason}")

    def families(self) -> Iterator[Family]:
        """`rpc.metrics.Family(*family)` of each."""
        text = "Instant at which the certificate of this process expires, in seconds since 1970."
        yield "raftsched_identity_expires_timestamp_seconds", "gauge", text, (), {(): self._identity.not_after if self._identity else 0.0}
        results: dict[tuple[str, ...], float] = {("signed",): float(self.signed_total), ("failed",): float(self.failed_total)}
        yield "raftsched_identity_requests_total", "counter", "Requests to Sentry for a certificate, by result.", ("result",), results
        text = "Times that changed trust anchors could not be used."
        yield "raftsched_identity_unusable_anchors_total", "counter", text, (), {(): float(self.unusable_total)}
