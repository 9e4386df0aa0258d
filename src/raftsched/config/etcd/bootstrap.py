"""What etcd does with its configuration before it begins: the default host, the own entry of the initial cluster (etcd-api.md §8.3).

Errors are ConfigError with etcd's text. Must not know: disks; names are resolved by a function that comes as an argument.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

from raftsched.config.etcd.flags import DEFAULTS
from raftsched.config.etcd.options import EtcdConfig
from raftsched.config.etcd.urls import Url, format_cluster, has_twice, parse_cluster, parse_url
from raftsched.errors import ConfigError
from raftsched.limits import MEMBERS_MAX

ANY_HOST: Final = "0.0.0.0"
Cluster = dict[str, tuple[Url, ...]]
Resolve = Callable[[str, int], Collection[str]]
"""Host and port -> addresses; none if it has none."""


def complete(config: EtcdConfig, default_host: Callable[[], str]) -> tuple[EtcdConfig, str]:
    """The configuration with what follows from other options, and the host that was put in, or "".

    Who listens everywhere and does not say what to advertise is reached at this machine's address; a name alone makes a cluster of its own.
    """
    peer = _advertised(config.initial_advertise_peer_urls, "initial-advertise-peer-urls", config.listen_peer_urls, default_host)
    client = _advertised(config.advertise_client_urls, "advertise-client-urls", config.listen_client_urls, default_host)
    used = next((new[0].host_port[0] for new, old in _pairs(config, peer, client) if new != old), "")
    cluster = config.initial_cluster
    if config.name != DEFAULTS["name"] and cluster == DEFAULTS["initial-cluster"]:
        cluster = ",".join(f"{config.name or DEFAULTS['name']}={url}" for url in peer)
    data_dir = config.data_dir or f"{config.name}.etcd"
    return (
        replace(config, data_dir=data_dir, initial_cluster=cluster, initial_advertise_peer_urls=peer, advertise_client_urls=client),
        used,
    )


def _pairs(config: EtcdConfig, peer: tuple[Url, ...], client: tuple[Url, ...]) -> list[tuple[tuple[Url, ...], tuple[Url, ...]]]:
    return [(peer, config.initial_advertise_peer_urls), (client, config.advertise_client_urls)]


def _advertised(urls: tuple[Url, ...], name: str, listen: tuple[Url, ...], default_host: Callable[[], str]) -> tuple[Url, ...]:
    if urls != DEFAULTS[name] or not listen or listen[0].is_socket or listen[0].host_port[0] != ANY_HOST:
        return urls
    host = default_host()
    if not host:
        return urls
    written = f"[{host}]" if ":" in host else host
    return (parse_url(f"{urls[0].scheme}://{written}:{listen[0].host_port[1]}"), *urls[1:])


def founders(config: EtcdConfig, resolve: Resolve) -> Cluster:
    """The initial cluster, this member in it. Raises ConfigError."""
    try:
        cluster = parse_cluster(config.initial_cluster)
    except ValueError as error:
        raise ConfigError(f"error setting up initial cluster: {error}") from None
    own = cluster.get(config.name)
    if own is None:
        raise ConfigError(f'couldn\'t find local name "{config.name}" in the initial cluster configuration')
    if config.initial_cluster_state == "new":
        _check_advertised(config, own, resolve)
    if has_twice(cluster):
        raise ConfigError(f"initial cluster {format_cluster(cluster)} has duplicate url")
    if len(cluster) > MEMBERS_MAX:
        raise ConfigError(f"initial cluster has {len(cluster)} members, at most {MEMBERS_MAX} are possible")
    sockets = [str(url) for urls in cluster.values() for url in urls if url.is_socket]
    if sockets:
        raise ConfigError(f"--initial-cluster: {sockets[0]}: members do not meet on unix sockets")
    return cluster


def _check_advertised(config: EtcdConfig, own: tuple[Url, ...], resolve: Resolve) -> None:
    """What is advertised is what the list says of this member, as text or as addresses."""
    listed, advertised = [str(url) for url in own], sorted(str(url) for url in config.initial_advertise_peer_urls)
    if sorted(listed) == advertised:
        return
    if len(listed) == len(advertised) and _places(own, resolve) == _places(config.initial_advertise_peer_urls, resolve):
        return
    missing = [f"{config.name}={url}" for url in listed if url not in advertised]
    if missing:
        raise ConfigError(
            f"--initial-cluster has {','.join(missing)} but missing from --initial-advertise-peer-urls={','.join(advertised)} "
            f"(resolved urls: {','.join(map(repr, advertised))} != {','.join(map(repr, listed))})"
        )
    missing = [url for url in advertised if url not in listed]
    shown = format_cluster({config.name: config.initial_advertise_peer_urls})
    raise ConfigError(f"--initial-advertise-peer-urls has {','.join(missing)} but missing from --initial-cluster={shown}")


def _places(urls: Collection[Url], resolve: Resolve) -> list[tuple[str, tuple[str, ...], int]]:
    """Scheme, addresses and port of each; a host without an address stays as it is."""
    found = []
    for url in urls:
        host, port = url.host_port
        found.append((url.scheme, tuple(sorted(resolve(host, port))) or (host,), port))
    return sorted(found)
