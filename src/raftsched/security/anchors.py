"""The trust anchors: certificates in a file, which somebody else replaces when the authority is about to change.

Invariant: what is given out has been read as certificates by OpenSSL; while the file cannot be used the last good ones stay.
Must not know: who is verified against them.
"""

import ssl
from collections.abc import Callable
from pathlib import Path

from raftsched.errors import ConfigError
from raftsched.limits import TRUST_ANCHORS_BYTES_MAX
from raftsched.security.renewing import Renewing


def read_anchors(path: str) -> str:
    """The file's text. ConfigError."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(TRUST_ANCHORS_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the trust anchors file {path}: {error.strerror}") from None
    if len(data) > TRUST_ANCHORS_BYTES_MAX:
        raise ConfigError(f"cannot use the trust anchors file {path}: more than {TRUST_ANCHORS_BYTES_MAX} bytes")
    try:
        trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), text := data.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else None
        raise ConfigError(f"cannot use the trust anchors file {path}: {reason or 'no certificate in it'}") from None
    return text


def trust(context: ssl.SSLContext, anchors: str) -> None:
    """`context` verifies against these, as Go would: whatever is among them is an authority. ssl.SSLError."""
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=anchors)


class Anchors:
    """Those of one file, read again when it changes. ConfigError at once; later `on_unusable(reason)` hears of it."""

    def __init__(self, path: str, on_unusable: Callable[[str], None]) -> None:
        self._file = Renewing([path], lambda: read_anchors(path), on_unusable)

    def get(self) -> str:
        """PEM."""
        return self._file.get()
