"""Keeps the number of dead letters of a namespace within its bound: the oldest go.

Who has kept one looks, a second later: it reads the keys of that namespace alone, no letters, and knows nothing between two looks. So a
burst, or a crash before the look, leaves more than the bound until the next one is kept.
Must not know: what a letter says, who keeps them.
"""

import asyncio
from typing import Final

from raftsched.errors import StatusError
from raftsched.limits import DEAD_LETTERS_MAX, DEAD_LETTERS_TRIM_MS
from raftsched.ports import KvClient, Log
from raftsched.scheduler.jobs._jobs import range_kvs
from raftsched.scheduler.jobs.names import DEAD, namespace_prefixes, prefix_end
from raftsched.scheduler.jobs.requests import Branch, number_field, packed_request, range_request

SPARE: Final = DEAD_LETTERS_MAX // 16  # further ones that go along, so that not each new letter looks for one to go
DELETED_AT_ONCE: Final = 64
OLDEST_KEYS: Final = number_field(5, 1) + number_field(6, 2) + number_field(8, 1)  # ascending by mod revision, keys only


class DeadLetterBound:
    """`look` may be called at any time, on the loop; `close` ends what is under way."""

    def __init__(self, kv: KvClient, log: Log) -> None:
        self._kv = kv
        self._log = log
        self._namespaces: set[bytes] = set()
        self._task: asyncio.Task[None] | None = None
        self.dropped_total = 0
        """Letters that went because there were too many."""

    def look(self, namespaces: set[bytes]) -> None:
        self._namespaces |= namespaces
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            while self._namespaces:
                await asyncio.sleep(DEAD_LETTERS_TRIM_MS / 1000)
                namespaces, self._namespaces = self._namespaces, set()
                for namespace in sorted(namespaces):
                    await self._trim(namespace)
        finally:
            self._task = None

    async def _trim(self, namespace: bytes) -> None:
        try:
            while len(found := await self._oldest(namespace)) > DEAD_LETTERS_MAX:
                doomed = found[: len(found) - DEAD_LETTERS_MAX + SPARE]
                for at in range(0, len(doomed), DELETED_AT_ONCE):
                    await self._kv.txn(packed_request([Branch([one], [(one[0], None)]) for one in doomed[at : at + DELETED_AT_ONCE]]))
                self.dropped_total += len(doomed)
                shown = namespace.decode("utf-8", "replace")
                self._log.warning("dead letters were dropped: the namespace has too many", namespace=shown, count=len(doomed))
        except StatusError:
            self._namespaces.add(namespace)  # again with the next look

    async def _oldest(self, namespace: bytes) -> list[tuple[bytes, int]]:
        """(key, revision), the oldest first; not all of many more than the bound."""
        found = []
        for name in namespace_prefixes(namespace.decode("utf-8", "surrogateescape")):
            prefix = DEAD + name.encode("utf-8", "surrogateescape")
            _, body = await self._kv.range(range_request(prefix, prefix_end(prefix), limit=4 * DEAD_LETTERS_MAX) + OLDEST_KEYS)
            found += [(key, revision) for key, _, revision, _, _ in range_kvs(body)]
        return sorted(found, key=lambda one: one[1])
