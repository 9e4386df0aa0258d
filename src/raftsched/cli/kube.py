"""How many replicas the StatefulSet of this pod is to have: one question to the Kubernetes API with the pod's service account.

Invariant: whatever goes wrong is `UnreadableError` with one line, never a guess. Must not know: what follows from the number.
"""

import json
import os
import re
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
POD_NAME: Final = re.compile(r"(?P<set>[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?)-(?P<ordinal>0|[1-9][0-9]{0,8})")
ANSWER_BYTES_MAX: Final = 4 << 20


class UnreadableError(Exception):
    """The text says what could not be read and why."""


@dataclass(frozen=True, slots=True)
class Scale:
    """What a StatefulSet is to have: `replicas` pods, with ordinals from `start`."""

    replicas: int
    start: int

    def has(self, ordinal: int) -> bool:
        return self.start <= ordinal < self.start + self.replicas


def split_pod_name(name: str) -> tuple[str, int]:
    """(name of the StatefulSet, ordinal). Raises UnreadableError."""
    match = POD_NAME.fullmatch(name)
    if match is None:
        raise UnreadableError(f"{name!r} is no pod of a StatefulSet: it does not end with an ordinal")
    return match["set"], int(match["ordinal"])


def read_scale(stateful_set: str, *, service_account: Path, timeout_s: float) -> Scale:
    """Needs `get` on statefulsets. Raises UnreadableError."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise UnreadableError("this is no pod: KUBERNETES_SERVICE_HOST is not set")
    where = f"[{host}]" if ":" in host else host
    namespace, token = _read(service_account / "namespace"), _read(service_account / "token")
    url = f"https://{where}:{port}/apis/apps/v1/namespaces/{namespace}/statefulsets/{stateful_set}"
    return _parse(_get(url, token, service_account / "ca.crt", timeout_s), stateful_set)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def _get(url: str, token: str, ca_file: Path, timeout_s: float) -> bytes:
    try:
        context = ssl.create_default_context(cafile=str(ca_file))
    except OSError as error:  # ssl.SSLError is one
        raise UnreadableError(f"cannot read {ca_file}: {error.strerror or error}") from None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}", "Accept": "application/json"})
        with opener.open(request, timeout=timeout_s) as answer:
            data: bytes = answer.read(ANSWER_BYTES_MAX)
            return data
    except urllib.error.HTTPError as error:
        why = {401: "the service account is not accepted", 403: "the service account may not get statefulsets", 404: "there is none"}
        raise UnreadableError(f"the Kubernetes API answers {error.code} for {url}: {why.get(error.code, error.reason)}") from None
    except urllib.error.URLError as error:
        raise UnreadableError(f"cannot reach the Kubernetes API at {url}: {error.reason}") from None
    except (OSError, ValueError) as error:  # a broken answer, a time-out while reading, a token that no header takes
        raise UnreadableError(f"cannot read from the Kubernetes API at {url}: {error}") from None


def _parse(data: bytes, stateful_set: str) -> Scale:
    try:
        found: Any = json.loads(data)
        spec = found["spec"]
        replicas, start = spec.get("replicas", 1), (spec.get("ordinals") or {}).get("start", 0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UnreadableError(f"the Kubernetes API answers with something else than the StatefulSet {stateful_set}") from None
    if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in (replicas, start)):
        raise UnreadableError(f"the StatefulSet {stateful_set} has no number of replicas")
    return Scale(replicas, start)
