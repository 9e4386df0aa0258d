"""Lists of URLs as etcd reads them: types.NewURLs, types.NewURLsMap, what may be bound and what may be advertised.

Errors are ValueError with etcd's text. Must not know: sockets, who listens.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from raftsched.hosts import is_address
from raftsched.units import quote

SOCKETS = frozenset({"unix", "unixs"})


@dataclass(frozen=True, slots=True, order=True)
class Url:
    """`text` as it was given, without spaces around it; sorted by it."""

    text: str
    scheme: str
    netloc: str
    path: str

    def __str__(self) -> str:
        return self.text

    @property
    def is_socket(self) -> bool:
        return self.scheme in SOCKETS

    @property
    def is_secure(self) -> bool:
        return self.scheme in {"https", "unixs"}

    @property
    def socket_path(self) -> str:
        """Of a unix socket: `unix://a:1` is the file a:1, `unix:///run/a` is /run/a."""
        return self.netloc + self.path

    @property
    def host_port(self) -> tuple[str, int]:
        """Raises ValueError; of `http://:2379` the host is "", which is all interfaces."""
        host, port = split_host_port(self.netloc)
        if not port.isascii() or not port.isdigit() or int(port) > 65_535:
            raise ValueError(f"listen tcp: lookup tcp/{port}: unknown port")
        return host, int(port)


def split_host_port(address: str) -> tuple[str, str]:
    """net.SplitHostPort."""
    host, colon, port = address.rpartition(":")
    if not colon or host.endswith("]") is not host.startswith("[") or (address.startswith("[") and address.endswith("]")):
        raise ValueError(f"address {address}: missing port in address")
    if host.startswith("["):
        return host[1:-1], port
    if ":" in host:
        raise ValueError(f"address {address}: too many colons in address")
    return host, port


def parse_url(text: str) -> Url:
    text = text.strip()
    try:
        parts = urlsplit(text)
        bad_port = parts.scheme in {"http", "https"} and parts.port is None and parts.netloc.rpartition(":")[2] == "?"
    except ValueError as error:
        raise ValueError(f"parse {quote(text)}: {error}") from None
    if parts.scheme in {"http", "https"}:
        try:
            split_host_port(parts.netloc.rpartition("@")[2])
        except ValueError:
            bad_port = True
        if bad_port:
            raise ValueError(f'URL address does not have the form "host:port": {text}')
        if parts.path:
            raise ValueError(f"URL must not contain a path: {text}")
    elif parts.scheme not in SOCKETS:
        raise ValueError(f"URL scheme must be http, https, unix, or unixs: {text}")
    return Url(text, parts.scheme, parts.netloc, parts.path)


def parse_urls(text: str) -> tuple[Url, ...]:
    """A list with commas, sorted, each once."""
    return tuple(sorted(set(map(parse_url, text.split(",")))))


def parse_cluster(text: str) -> dict[str, tuple[Url, ...]]:
    """`a=http://h:1,b=http://h:2`; a name that comes again has more URLs."""
    texts: dict[str, list[str]] = {}
    for part in filter(None, text.split(",")):
        name, _, url = part.partition("=")
        texts.setdefault(name, []).append(url)
    return {name: tuple(sorted(map(parse_url, urls))) for name, urls in texts.items()}


def format_cluster(cluster: dict[str, tuple[Url, ...]]) -> str:
    return ",".join(sorted(f"{name}={url}" for name, urls in cluster.items() for url in urls))


def has_twice(cluster: dict[str, tuple[Url, ...]]) -> bool:
    urls = [url.text for some in cluster.values() for url in some]
    return len(set(urls)) < len(urls)


def check_bind(urls: tuple[Url, ...]) -> None:
    """What is listened on is an IP address, localhost or a socket's file."""
    for url in urls:
        if url.is_socket:
            continue
        host, _ = split_host_port(url.netloc)
        if host != "localhost" and not is_address(host):
            raise ValueError(f"expected IP in URL for binding ({url})")


def check_hosts(urls: tuple[Url, ...]) -> None:
    """What is advertised has a host."""
    for url in urls:
        if not url.is_socket and not split_host_port(url.netloc)[0]:
            raise ValueError(f"unexpected empty host ({url})")
