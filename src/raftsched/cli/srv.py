"""SRV records of a domain, asked of the machine's DNS servers; imported only by a start with --discovery-srv."""

import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import dns.exception
import dns.nameserver
import dns.rdatatype
import dns.rdtypes.IN.SRV
import dns.resolver

from raftsched.config.etcd.bootstrap import Cluster, Resolve, founders
from raftsched.config.etcd.options import EtcdConfig
from raftsched.config.etcd.records import SERVICES, Address, Record, entries, own_places, service_name
from raftsched.config.etcd.urls import parse_cluster
from raftsched.errors import ConfigError
from raftsched.log import Logger
from raftsched.units import quote

LOOKUP_TIMEOUT_S: Final = 10.0  # of one question to all servers, as Go's: twice 5 s
PORT: Final = 53


class Dns:
    """`servers`: addresses and ports of DNS servers to ask for records; () = those of /etc/resolv.conf. Addresses of names come of the
    machine's own resolver, which knows /etc/hosts too, and then of these servers."""

    def __init__(self, servers: Sequence[Address] = ()) -> None:
        self._servers = tuple(servers)

    def records(self, service: str, domain: str) -> list[Record]:
        """Raises OSError: there is none, or nobody answers."""
        name = f"_{service}._tcp.{domain}"
        return [
            Record(one.priority, one.weight, one.port, one.target.to_text())
            for one in self._ask(name, "SRV")
            if isinstance(one, dns.rdtypes.IN.SRV.SRV)
        ]

    def address(self, host: str, port: int) -> Address:
        """The first of IPv4, else the first. Raises OSError."""
        try:
            rows = socket.getaddrinfo(host.removesuffix("."), port, type=socket.SOCK_STREAM)
            found = [str(row[4][0]) for row in rows]
        except OSError:
            if not self._servers:
                raise OSError(f"lookup {host}: no such host") from None
            found = [str(one) for one in self._ask(host, "A")]
        return next((one for one in found if ":" not in one), found[0]), port

    def _ask(self, name: str, kind: str) -> dns.resolver.Answer:
        server = ""
        try:
            resolver = dns.resolver.Resolver(configure=not self._servers)
            if self._servers:
                resolver.nameservers = [dns.nameserver.Do53Nameserver(*one) for one in self._servers]
            first = next(iter(resolver.nameservers), "")
            server = f" on {first}:{PORT}" if isinstance(first, str) else f" on {first.answer_nameserver()}:{first.answer_port()}"
            return resolver.resolve(name, kind, search=True, lifetime=LOOKUP_TIMEOUT_S)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            why = "no such host"
        except dns.exception.Timeout:
            why = "i/o timeout"
        except (dns.exception.DNSException, OSError, ValueError):
            why = "server misbehaving"
        raise OSError(f"lookup {name}{server}: {why}")


def discover(config: EtcdConfig, dns_of: Dns, resolve: Resolve, log: Logger) -> tuple[EtcdConfig, Cluster]:
    """The configuration with the cluster of the records. Raises ConfigError with etcd's words."""
    found: list[str] = []
    failed: list[str] = []
    for scheme, service in SERVICES:
        name = service_name(service, config.discovery_srv_name)
        some, error = _of_service(config, dns_of, scheme, name)
        told = {
            "service-scheme": scheme,
            "service-name": name,
            "server-name": config.name,
            "discovery-srv": config.discovery_srv,
            "advertise-peer-urls": [str(url) for url in config.initial_advertise_peer_urls],
            "found-cluster": some,
        }
        log.info(f"get cluster for {service} SRV", **told, **({"error": error} if error else {}))
        found += some
        failed += [error] if error else []
    if failed:
        log.warning("failed to resolve during SRV discovery", error="\n".join(failed))
    if not found:
        raise ConfigError("error setting up initial cluster: " + "\n".join(failed))
    for entry in found:
        log.info("got bootstrap from DNS for etcd-server", node=entry)
    return _checked(replace(config, initial_cluster=",".join(found)), resolve)


def _of_service(config: EtcdConfig, dns_of: Dns, scheme: str, name: str) -> tuple[list[str], str]:
    """NAME=URL for each member, and why there are none."""
    try:
        own = own_places(config.initial_advertise_peer_urls, dns_of.address)
    except (OSError, ValueError) as error:
        return [], str(error)
    try:
        return entries(scheme, name, dns_of.records(name, config.discovery_srv), config.name, own, dns_of.address), ""
    except (OSError, ConfigError) as error:
        return [], f"error querying DNS SRV records for _{name} {error}"


def _checked(config: EtcdConfig, resolve: Resolve) -> tuple[EtcdConfig, Cluster]:
    try:
        names = parse_cluster(config.initial_cluster)
    except ValueError as error:
        raise ConfigError(f"error setting up initial cluster: {error}") from None
    if config.name not in names:
        raise ConfigError(f"error setting up initial cluster: cannot find local etcd member {quote(config.name)} in SRV records")
    return config, founders(config, resolve)
