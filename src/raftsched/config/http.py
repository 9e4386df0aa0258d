"""Options about HTTP on the client port: the origins whose web pages may use it.

Must not know: where an option came from.
"""

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from raftsched.errors import ConfigError

ANY: Final = "*"


def check_origins(origins: Sequence[str]) -> None:
    """As etcd wants its URLs: a scheme, a host, a port, nothing else. Raises ConfigError."""
    for url in origins:
        if url != ANY:
            _check(url)


def _check(url: str) -> None:
    def wrong(reason: str) -> ConfigError:
        return ConfigError(f"invalid value for --cors: {url}: {reason}")

    try:
        parsed = urlsplit(url)
        port = parsed.port
    except ValueError as error:
        raise wrong(str(error)) from None
    if parsed.scheme not in {"http", "https"}:
        raise wrong("URL scheme must be http or https")
    if port is None or not parsed.netloc:
        raise wrong('URL address does not have the form "host:port"')
    if parsed.path or parsed.query or parsed.fragment:
        raise wrong("URL must not contain a path")
