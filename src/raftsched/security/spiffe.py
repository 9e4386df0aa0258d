"""SPIFFE ids: who somebody is, as the URI in their certificate says it.

Invariant: a `SpiffeId` is one that the standard allows, and its text is the only one that means it: ids are compared as they are.
Must not know: whether the certificate is good.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from raftsched.limits import SPIFFE_IDS_KNOWN_MAX

ID_CHARACTERS_MAX: Final = 2_048  # SPIFFE-ID, 2.3
TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}")
_ID: Final = re.compile(r"spiffe://([a-z0-9._-]{1,255})((?:/[a-zA-Z0-9._-]+)*)")
_DOTS: Final = {".", ".."}


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """`spiffe://<trust domain><path>`; the path is empty or begins with a slash."""

    trust_domain: str
    path: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}{self.path}"

    @property
    def workload(self) -> tuple[str, str] | None:
        """(namespace, app id) of an id that Sentry gives; None if it is of another shape. As in Dapr, which may want to tell more of an app
        some day, more segments may stand behind."""
        parts = self.path.split("/")
        return (parts[2], parts[3]) if len(parts) >= 4 and parts[1] == "ns" else None


def workload_id(trust_domain: str, namespace: str, app_id: str) -> SpiffeId:
    """What Sentry gives to that app."""
    return SpiffeId(trust_domain, f"/ns/{namespace}/{app_id}")


@lru_cache(SPIFFE_IDS_KNOWN_MAX)
def parse_id(text: str) -> SpiffeId | None:
    """None: it is no SPIFFE id."""
    found = _ID.fullmatch(text)
    if found is None or len(text) > ID_CHARACTERS_MAX or not _DOTS.isdisjoint(found[2].split("/")):
        return None
    return SpiffeId(found[1], found[2])


def shown_id(certificate: Mapping[str, Any] | None) -> SpiffeId | None:
    """Of a certificate as `ssl` gives it. None unless it has exactly one URI, and that is a SPIFFE id (X509-SVID, 2)."""
    found = [value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "URI"]
    return parse_id(found[0]) if len(found) == 1 else None
