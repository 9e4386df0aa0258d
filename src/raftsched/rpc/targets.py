"""The target of an HTTP request, in the parts that we go by, as Go reads them.

Must not know: which paths there are.
"""

import posixpath
import re
from typing import Final
from urllib.parse import parse_qs, unquote

ABSOLUTE: Final = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)


def path_of(target: str) -> str | None:
    """The path, unescaped; None for what cannot be read."""
    path = ABSOLUTE.sub("", target).partition("?")[0]
    if re.search(r"%(?![0-9A-Fa-f]{2})", path):
        return None
    return unquote(path, errors="surrogateescape") or "/"


def query_of(target: str) -> dict[str, list[str]]:
    """Each name with its values, also empty ones."""
    return parse_qs(target.partition("?")[2], keep_blank_values=True)


def host_of(target: str, header: str) -> str:
    """Without the port; that in the target goes before the header."""
    absolute = ABSOLUTE.match(target)
    host = absolute[1] if absolute else header
    found = re.fullmatch(r"\[([^\[\]]*)\]:[^:\[\]]*|([^:\[\]]*):[^:\[\]]*", host)
    return host if found is None else found[1] or found[2] or ""


def clean_path(path: str) -> str:
    """As Go's mux wants it: rooted, no //, no dots; a slash at the end stays."""
    clean = "/" + posixpath.normpath("/" + path.lstrip("/")).lstrip("/")
    return clean + "/" if path.endswith("/") and clean != "/" else clean
