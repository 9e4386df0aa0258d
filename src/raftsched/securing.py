"""What guards `raftsched serve`: identities signed by Sentry, certificate files, or nothing. It outlives the incarnations of the server.

Must not know: what is served.
"""

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from raftsched.config.sentry import SentryOptions
from raftsched.rpc.metrics import Family
from raftsched.tls_files import scheduler_guard

if TYPE_CHECKING:
    from raftsched.config import ServeConfig
    from raftsched.log import Logs
    from raftsched.security.guard import ListenerGuard
    from raftsched.security.identity_guards import ApiGuard, MemberGuard
    from raftsched.security.provider import IdentityProvider
    from raftsched.store.transport.tls import PeerSecurity

CUT_SHORT: Final = "failed to retrieve the initial identity: context canceled"


class Security:
    """`start` before the first incarnation, `close` behind the last."""

    def __init__(self, config: "ServeConfig", logs: "Logs") -> None:
        """ConfigError: a file cannot be used."""
        self._config = config
        self._provider: IdentityProvider | None = None
        self._members: MemberGuard | None = None
        self.guard: ApiGuard | ListenerGuard | None = None
        """Of the scheduler API; None = plaintext."""
        self.peers: PeerSecurity | None = None
        """Of the members, if it is not by files of their own."""
        self.checks_callers = config.sentry is not None or config.scheduler_client_cert_auth
        """Each call is of the app that the client's SPIFFE id names."""
        if config.sentry is not None:
            self._use_sentry(config.sentry, logs)
        elif config.scheduler_tls is not None:
            self.guard = scheduler_guard(config.scheduler_tls, logs.engine("rpc"))

    def _use_sentry(self, options: SentryOptions, logs: "Logs") -> None:
        from raftsched.security.identity_guards import ApiGuard, MemberGuard
        from raftsched.security.provider import IdentityProvider
        from raftsched.store.transport.resolving import SystemResolver

        log = logs.service("dapr.runtime.security")
        self._provider = IdentityProvider(options, resolve=SystemResolver(), chance=random.SystemRandom().random, log=log)
        self.guard = ApiGuard(self._provider, logs.engine("rpc"))
        if self._config.peers_by_identity:
            self.peers = self._members = MemberGuard(self._provider)
        elif self._config.peer_tls is None and len(self._config.initial_cluster) > 1:
            log.warning("Members speak with each other in clear text: their URLs in --etcd-initial-cluster are not https")

    @property
    def identified(self) -> bool:
        """The first identity is there, or none is needed."""
        return self._provider is None or self._provider.started

    async def start(self) -> None:
        """The first identity. FatalError: there is none, or the others would not know us by it. Afterwards it does nothing."""
        if self._provider is None:
            return
        await self._provider.start()
        if self._members is not None and not self._members.suffix:
            self._members.suffix = await self._member_suffix()
            self._members.check_own_name(self._config.id)

    async def _member_suffix(self) -> str:
        from raftsched.security.cluster_domain import cluster_domain
        from raftsched.security.identity_guards import member_suffix

        options = self._config.sentry
        assert options is not None
        domain = await cluster_domain(options.trust_domain) if options.kubernetes else options.trust_domain
        return member_suffix(options.namespace, domain)

    async def close(self) -> None:
        if self._provider is not None:
            await self._provider.close()

    def families(self) -> Iterator[Family]:
        """For the metrics."""
        if self._provider is not None:
            yield from (Family(*family) for family in self._provider.families())
        if self.guard is not None:
            text = "Connections to the scheduler API closed in or right after the TLS handshake, by cause."
            causes: dict[tuple[str, ...], float] = {(cause,): float(count) for cause, count in self.guard.causes.items()}
            yield Family("raftsched_scheduler_refused_connections_total", "counter", text, ("cause",), causes)
