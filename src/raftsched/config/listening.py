"""Where clients are served: --listen-client-urls, --advertise-client-urls and --listen-metrics-urls, with etcd's texts.

Invariant: one listener per address; URLs of both kinds at one address are one listener that speaks both.
Must not know: whether an address can be had.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from raftsched.config.tls import client_tls
from raftsched.errors import ConfigError
from raftsched.hosts import is_address, is_loopback

URLS_MAX: Final = 64
UNIX: Final = {"unix", "unixs"}
SECURE: Final = {"https", "unixs"}


@dataclass(frozen=True, slots=True)
class ClientListener:
    """One address: `host` and `port`, or `path` of a unix socket; a relative one counts from the working directory."""

    host: str
    port: int
    path: str
    secure: bool
    plaintext: bool
    """Either or both."""
    grpc: bool = True
    http: bool = True
    """What is served there: either or both."""


def parse_urls(flag: str, entries: Sequence[str]) -> tuple[SplitResult, ...]:
    """Raises ConfigError."""
    if len(entries) > URLS_MAX:
        raise ConfigError(f"invalid value for --{flag}: more than {URLS_MAX} URLs")
    return tuple(_parse_url(flag, entry.strip()) for entry in entries)


def _parse_url(flag: str, text: str) -> SplitResult:
    def wrong(reason: str) -> ConfigError:
        return ConfigError(f"invalid value for --{flag}: {reason}: {text}")

    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise wrong(str(error)) from None
    if url.scheme in UNIX:
        if not url.netloc + url.path:
            raise wrong("URL names no socket")
        return url
    if url.scheme not in {"http", "https"}:
        raise wrong("URL scheme must be http, https, unix, or unixs")
    if port is None or url.username is not None:
        raise wrong('URL address does not have the form "host:port"')
    if url.path or url.query or url.fragment:
        raise wrong("URL must not contain a path")
    return url


Place = tuple[str, int, str]
"""Host, port and path of a listener."""


def listeners_at(flag: str, urls: Iterable[SplitResult]) -> tuple[ClientListener, ...]:
    """Raises ConfigError: a host that is a name, which nothing can be bound to."""
    return join_listeners((_place(flag, url), url.scheme in SECURE) for url in urls)


def _place(flag: str, url: SplitResult) -> Place:
    if url.scheme in UNIX:
        return "", 0, url.netloc + url.path
    host = url.hostname or ""
    if host != "localhost" and not is_address(host):
        raise ConfigError(f"invalid value for --{flag}: expected IP in URL for binding ({url.geturl()})")
    return host, url.port or 0, ""


def join_listeners(places: Iterable[tuple[Place, bool]]) -> tuple[ClientListener, ...]:
    """Of places and whether TLS is spoken there: one listener for each place."""
    found: dict[Place, ClientListener] = {}
    for place, secure in places:
        before = found.get(place)
        secure_too, plaintext_too = (before.secure, before.plaintext) if before else (False, False)
        found[place] = ClientListener(*place, secure or secure_too, not secure or plaintext_too)
    return tuple(found.values())


def local_line(listeners: Sequence[ClientListener]) -> str:
    """What to tell when no other host can connect; "" = one can. A mapped port of a container ends at its interface, not at its loopback:
    a backup through it would fail, and nothing would say why."""
    if not listeners or not all(one.path or is_loopback(one.host) for one in listeners):
        return ""
    shown = [one.path or f"{f'[{one.host}]' if ':' in one.host else one.host}:{one.port}" for one in listeners]
    return (
        f"The etcd API listens on {', '.join(shown)}: other hosts, and clients of a mapped container port, cannot connect "
        "(--etcd-client-listen-address=0.0.0.0 lets them)"
    )


def _texts(entries: Sequence[str]) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in entries)


def listening(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields about clients' listeners. Raises ConfigError."""
    urls = parse_urls("listen-client-urls", options["listen_client_urls"])
    advertised = parse_urls("advertise-client-urls", options["advertise_client_urls"])
    for url in advertised:
        if url.scheme not in UNIX and not url.hostname:
            raise ConfigError(f"invalid value for --advertise-client-urls: unexpected empty host ({url.geturl()})")
    host, port = options["etcd_client_listen_address"], options["etcd_client_port"]
    with_tls = bool(options["cert_file"] or options["key_file"] or options["auto_tls"])
    listeners = listeners_at("listen-client-urls", urls) if urls else (ClientListener(host, port, "", with_tls, not with_tls),)
    shown = f"[{host}]" if ":" in host else host or "localhost"
    own = _texts(options["listen_client_urls"]) or (f"{'https' if with_tls else 'http'}://{shown}:{port}",)
    metrics = _texts(options["listen_metrics_urls"])
    secure = next((url for url in (*own, *metrics) if url.startswith(("https:", "unixs:"))), "")
    return {
        "client_listeners": listeners,
        "metrics_listeners": listeners_at("listen-metrics-urls", parse_urls("listen-metrics-urls", metrics)),
        "advertise_client_urls": _texts(options["advertise_client_urls"]) or own,
        "client_tls": client_tls(options, tuple(one.host for one in listeners if one.host), secure),
    }
