"""How a member of a new cluster finds the others: through the registry of another etcd, or by SRV records (docs/etcd-command.md).

etcd's order, lines and patience: what the service answers once and for all ends the start, what it does not answer is asked again for ever.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final, Protocol

from raftsched.cli.registry import Pair, Registry, ServiceError
from raftsched.config.etcd.bootstrap import Cluster
from raftsched.config.etcd.discovery import DiscoveryOptions
from raftsched.config.etcd.options import EtcdConfig
from raftsched.config.etcd.registry import DiscoveryError, Found, check_text, founders_of, member_key, members_prefix, parse_size, size_key
from raftsched.config.etcd.urls import format_cluster
from raftsched.errors import ConfigError
from raftsched.log import Logger
from raftsched.store.membership import make_member_id
from raftsched.units import NS_PER_S, format_duration

DOUBLINGS_MAX: Final = 8  # of the time between two attempts: 256 s at last


class Service(Protocol):
    """What a registry can do; see Registry."""

    def read(self, key: str, *, below: bool = False) -> tuple[list[Pair], int]: ...
    def write(self, key: str, value: str) -> None: ...
    def watch(self, prefix: str, revision: int) -> Iterator[list[Pair]]: ...


class Joining:
    """One member on its way into the registry, until all are there."""

    def __init__(self, service: Service, options: DiscoveryOptions, member_id: int, log: Logger, sleep: Callable[[float], None]) -> None:
        self._service, self._token, self._log, self._sleep = service, options.token, log, sleep
        self._own_key = member_key(options.token, member_id)
        self._fields: dict[str, object] = {"discovery-token": options.token, "discovery-endpoints": ",".join(options.endpoints)}
        self._retries = 0

    def join(self, own: str) -> str:
        """Registers `own`, NAME=URL,…; the whole cluster in that form. Raises DiscoveryError."""
        text = ""
        try:
            self._look()
            self._register(own)
            text = self._wait()
            check_text(text)
        except DiscoveryError as error:
            self._log.error("discovery failed to join cluster", **self._fields, cluster=text, error=str(error))
            raise
        self._log.info("discovery joined cluster successfully", **self._fields, cluster=text)
        return text

    def _look(self) -> tuple[Found, int, int]:
        """Members, size, revision; asks until it is answered. Raises DiscoveryError."""
        while True:
            try:
                size = self._size()
                found, revision = self._members()
            except ServiceError:
                self._back_off("cluster status check")
                continue
            self._retries = 0
            found.check_room(self._own_key, size)
            return found, size, revision

    def _size(self) -> int:
        key = size_key(self._token)
        try:
            pairs, _ = self._service.read(key)
        except ServiceError as error:
            told = {"clusterSizeKey": key, "error": str(error)}
            self._log.warning("failed to get cluster size from discovery service", **self._fields, **told)
            raise
        return parse_size(pairs[0].raw if pairs else None)

    def _members(self) -> tuple[Found, int]:
        prefix = members_prefix(self._token)
        try:
            pairs, revision = self._service.read(prefix, below=True)
        except ServiceError as error:
            told = {"membersKeyPrefix": prefix, "error": str(error)}
            self._log.warning("failed to get cluster members from discovery service", **self._fields, **told)
            raise
        found = Found(self._token)
        self._take(found, pairs)
        return found, revision

    def _take(self, found: Found, pairs: list[Pair]) -> None:
        for pair in pairs:
            why = found.add(pair.key, pair.value, pair.created)
            tell = self._log.warning if why else self._log.info
            tell(why or "found peer from discovery service", **self._fields, memberKey=pair.key, memberInfo=pair.value)

    def _register(self, own: str) -> None:
        while True:
            try:
                self._service.write(self._own_key, own)
                break
            except ServiceError as error:
                told = {"memberKey": self._own_key, "error": str(error)}
                self._log.warning("failed to register members itself to the discovery service", **self._fields, **told)
                self._back_off("register member itself")
        self._retries = 0
        self._log.info("register member itself successfully", **self._fields, memberKey=self._own_key, memberInfo=own)

    def _wait(self) -> str:
        """The cluster, as soon as all are there. A watch that breaks begins anew with a look at all members. Raises DiscoveryError."""
        found, size, revision = self._look()
        while len(found) < size:
            try:
                self._watch(found, size, revision)
            except ServiceError as error:
                self._log.warning("failed to watch cluster members in discovery service", **self._fields, error=str(error))
                self._back_off("watch of cluster members")
                found, size, revision = self._look()
        return found.text(size)

    def _watch(self, found: Found, size: int, revision: int) -> None:
        counts: dict[str, object] = {"clusterSize": size, "found-peers": len(found)}
        self._log.info("waiting for peers from discovery service", **self._fields, **counts)
        for pairs in self._service.watch(members_prefix(self._token), revision + 1):
            self._take(found, pairs)
            if len(found) >= size:
                break
        counts["found-peers"] = len(found)
        self._log.info("found all needed peers from discovery service", **self._fields, **counts)

    def _back_off(self, step: str) -> None:
        self._retries += 1
        pause_s = 1 << min(self._retries, DOUBLINGS_MAX)
        told = {"reason": step, "backoff": format_duration(pause_s * NS_PER_S)}
        self._log.warning("retry connecting to discovery service", **self._fields, **told)
        self._sleep(pause_s)


def discover(config: EtcdConfig, options: DiscoveryOptions, log: Logger) -> tuple[EtcdConfig, Cluster]:
    """The configuration with the cluster that was found. Waits until all are there. Raises ConfigError, DiscoveryError."""
    if config.initial_cluster_state == "existing":
        raise ConfigError("discovery URL should not be set when joining existing initial cluster")
    log.info("Bootstrapping cluster using v3 discovery.")
    urls = config.initial_advertise_peer_urls
    member_id = make_member_id(map(str, urls), options.token)
    registry = None
    try:
        registry = Registry(options)
        registry.login()
        text = Joining(registry, options, member_id, log, time.sleep).join(format_cluster({config.name: urls}))
    except (DiscoveryError, ServiceError) as error:
        raise DiscoveryError(f"failed to join discovery cluster ({error})") from None
    finally:
        if registry is not None:
            registry.close()
    return replace(config, initial_cluster=text, initial_cluster_token=options.token), founders_of(text, config.name, urls)
