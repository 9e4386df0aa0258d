"""Names and keys of jobs (spec §3.3): composing, checking, and the prefixes that lists, deletions and streams use.

Invariant: a key is composed from metadata and never taken apart again: `||` may stand in any part.
Must not know: the wire form, the store.
"""

import re
from typing import Final, NamedTuple

from raftsched.limits import JOB_NAME_BYTES_MAX, QUOTED_CHARACTERS_MAX

JOBS: Final = b"dapr/jobs/"
COUNTERS: Final = b"dapr/counters/"
LEADERSHIP: Final = b"dapr/leadership/"
STATES: Final = b"raftsched/jobs/"  # what Dapr does not have (decision 0012), by composed name
RUNS: Final = b"raftsched/runs/"
DEAD: Final = b"raftsched/dead/"  # of runs, behind the composed name and a slash
NAMESPACES: Final = b"raftsched/namespaces/"
CALENDARS: Final = b"raftsched/calendars/"  # by namespace and name, with a slash between them
HISTORY: Final = b"raftsched/history/"  # by composed name, "/" and the number of the run

TARGET_NONE: Final = 0
TARGET_JOB: Final = 1
TARGET_ACTOR: Final = 2
TARGET_EMPTY: Final = 3  # given, but neither of the two


SHORT_CHARACTERS: Final = JOB_NAME_BYTES_MAX // 4  # within the limit whatever they are
_PLAIN: Final = re.compile(r"[^/\\#?\x00-\x1f\x7f-\x9f.][^/\\#?\x00-\x1f\x7f-\x9f]*")  # nothing to look at twice


class Owner(NamedTuple):
    """Whose job it is: the parts of JobMetadata that make the key."""

    namespace: str
    app_id: str
    target: int
    """TARGET_JOB or TARGET_ACTOR."""
    actor_type: str = ""
    actor_id: str = ""


def app_route(namespace: str, app_id: str) -> str:
    """The prefix of an app's jobs; also what a stream that takes jobs registers."""
    return f"app||{namespace}||{app_id}||"


def actor_route(namespace: str, actor_type: str) -> str:
    """The prefix of all reminders of an actor type; also what a stream that hosts it registers."""
    return f"actorreminder||{namespace}||{actor_type}||"


def namespace_prefixes(namespace: str) -> tuple[str, str]:
    """Of all that a namespace has: exactly that one, not its neighbours (spec §8.1)."""
    return f"actorreminder||{namespace}||", f"app||{namespace}||"


def name_prefix(owner: Owner) -> str:
    """What stands before the short name."""
    if owner.target == TARGET_JOB:
        return app_route(owner.namespace, owner.app_id)
    return f"{actor_route(owner.namespace, owner.actor_type)}{owner.actor_id}||"


def list_prefix(owner: Owner) -> str:
    """Of ListJobs and of DeleteByMetadata: up to the last `||`; an empty actor id takes the whole type."""
    if owner.target == TARGET_ACTOR and not owner.actor_id:
        return actor_route(owner.namespace, owner.actor_type)
    return name_prefix(owner)


def id_match_prefix(owner: Owner) -> str:
    """Of DeleteByMetadata with id_prefix_match: without the trailing `||`, so that longer ids match too (spec §3.4)."""
    if owner.target == TARGET_JOB:
        return f"app||{owner.namespace}||{owner.app_id}"
    if owner.actor_id:
        return f"{actor_route(owner.namespace, owner.actor_type)}{owner.actor_id}"
    return f"actorreminder||{owner.namespace}||{owner.actor_type}"


def check_name(composed: str) -> str | None:
    """None, or why the composed name is refused; texts are the contract's (spec §3.3), in its order."""
    if len(composed) <= SHORT_CHARACTERS and _PLAIN.fullmatch(composed):
        return None
    if not composed:
        return "job name cannot be empty"
    reason = _reason(composed)
    return None if reason is None else f"job name is invalid {go_quote(composed)}: {reason}"


def _reason(composed: str) -> str | None:
    if len(composed) > JOB_NAME_BYTES_MAX or len(composed.encode()) > JOB_NAME_BYTES_MAX:
        return f"must be at most {JOB_NAME_BYTES_MAX} characters"
    if any(character in composed for character in "/\\#?"):
        return "must not contain '/', '\\', '#' or '?'"
    if not composed.isprintable() and any(c < " " or "\x7f" <= c <= "\x9f" for c in composed):
        return "must not contain control characters"
    if composed in {".", ".."}:
        return "must not be a path traversal sequence"
    return None


_ESCAPES: Final = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


def go_quote(text: str) -> str:
    """`text` as Go's %q prints it: printable runes as they are, others as \\x, \\u or \\U; a long one is cut."""
    if len(text) > QUOTED_CHARACTERS_MAX:
        text = text[:QUOTED_CHARACTERS_MAX] + "…"
    return '"' + "".join(_quoted(character) for character in text) + '"'


def _quoted(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that start with `prefix`; b"\\0" = no end."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b"\0"
