"""Simple tokens: who holds which, and until when. In memory on every member, given out through the log, lost at a restart.

Invariant: tokens stand in the order of their ends, since all live equally long; there are never more than AUTH_TOKENS_MAX.
Must not know: clocks (`mono_ms` is an argument), how they are made.
"""

from raftsched import limits


class SimpleTokens:
    """`ttl_ms`: how long a token lives after it was used last."""

    def __init__(self, ttl_ms: int = limits.AUTH_TOKEN_TTL_S * 1_000) -> None:
        self._ttl_ms = ttl_ms
        self._tokens: dict[str, tuple[str, int]] = {}  # (user, end)

    def __len__(self) -> int:
        return len(self._tokens)

    def assign(self, token: str, user: str, mono_ms: int) -> None:
        self.expire(mono_ms)
        self._put(token, user, mono_ms)
        if len(self._tokens) > limits.AUTH_TOKENS_MAX:
            del self._tokens[next(iter(self._tokens))]

    def find(self, token: str, mono_ms: int) -> str | None:
        """Its user, for another time to live; None: unknown, or over."""
        found = self._tokens.get(token)
        if found is None or found[1] <= mono_ms:
            return None
        self._put(token, found[0], mono_ms)
        return found[0]

    def _put(self, token: str, user: str, mono_ms: int) -> None:
        self._tokens.pop(token, None)
        self._tokens[token] = user, mono_ms + self._ttl_ms

    def expire(self, mono_ms: int) -> None:
        while self._tokens:
            token, (_, end_ms) = next(iter(self._tokens.items()))
            if end_ms > mono_ms:
                return
            del self._tokens[token]

    def forget_user(self, user: str) -> None:
        self._tokens = {token: held for token, held in self._tokens.items() if held[0] != user}

    def clear(self) -> None:
        self._tokens.clear()


def index_of(token: str) -> int | None:
    """The index of the log entry that gave it out; None: it is no simple token."""
    parts = token.split(".")
    if len(parts) != 2 or not parts[1].isascii() or not parts[1].isdecimal():
        return None
    index = int(parts[1]) if len(parts[1]) <= 20 else 1 << 64
    return index if index < 1 << 64 else None
