"""The options of etcd's v3 discovery, and what does not fit together among them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from raftsched.units import NS_PER_S

CONFLICT: Final = 'multiple discovery or bootstrap flags are set. Choose one of "initial-cluster", "discovery-endpoints" or "discovery-srv"'
NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryOptions:
    """The service where members of a new cluster find each other, and how it is spoken to."""

    token: str
    endpoints: tuple[str, ...]
    dial_timeout_s: float
    request_timeout_s: float
    keepalive_ms: int
    """0 = no pings."""
    keepalive_timeout_ms: int
    insecure_transport: bool
    """No TLS to an endpoint without a scheme, unless files for it are given."""
    skip_verify: bool
    cert: str
    key: str
    cacert: str
    user: str
    password: str
    """With an empty one nobody is logged in, as in etcd."""


def check(options: Mapping[str, Any], *, cluster_given: bool) -> None:
    """ValueError with etcd's words. `cluster_given`: --initial-cluster is not the default one."""
    discovers = [bool(options["discovery_srv"]), bool(options["discovery_endpoints"])]
    if sum([*discovers, bool(options["initial_cluster"]) and (cluster_given or not any(discovers))]) > 1:
        raise ValueError(CONFLICT)
    if bool(options["discovery_token"]) != bool(options["discovery_endpoints"]):
        raise ValueError("both --discovery-token and --discovery-endpoints must be set")
    if not all(endpoint.strip() for endpoint in options["discovery_endpoints"]):
        raise ValueError("--discovery-endpoints must not contain empty endpoints")


def initial_cluster(options: Mapping[str, Any], *, given: bool) -> str:
    """Who discovers has none of its own, unless it was given."""
    if given or not any(options[name] for name in ("discovery_srv", "discovery_srv_name", "discovery_endpoints")):
        return str(options["initial_cluster"])
    return ""


def build(options: Mapping[str, Any]) -> DiscoveryOptions | None:
    """None: there is no discovery service."""
    if not options["discovery_endpoints"]:
        return None
    return DiscoveryOptions(
        token=options["discovery_token"],
        endpoints=options["discovery_endpoints"],
        dial_timeout_s=options["discovery_dial_timeout"] / NS_PER_S,
        request_timeout_s=options["discovery_request_timeout"] / NS_PER_S,
        keepalive_ms=max(options["discovery_keepalive_time"], 0) // NS_PER_MS,
        keepalive_timeout_ms=max(options["discovery_keepalive_timeout"], 0) // NS_PER_MS,
        insecure_transport=options["discovery_insecure_transport"],
        skip_verify=options["discovery_insecure_skip_tls_verify"],
        cert=options["discovery_cert"],
        key=options["discovery_key"],
        cacert=options["discovery_cacert"],
        user=options["discovery_user"],
        password=options["discovery_password"],
    )
