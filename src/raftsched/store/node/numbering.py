"""Request ids that rise over restarts, whatever becomes of the wall clock that they begin with.

A leader takes what a member forwards once, by ids that rise (docs/cluster.md, "Forwarding"). They begin at the wall clock; one that was set
back further than the member was down would begin below what the leader has seen, if the log holds nothing of this member's any more:
the leader would drop all that it forwards, until the next election. So a ceiling stands in a small file before ids below it are used,
and the next process begins above it.
Invariant: no id is forwarded above the ceiling on disk, unless the disk does not take it: then a line says so.
Must not know: who uses the ids.
"""

import asyncio
import re
from pathlib import Path
from typing import Final

from raftsched.errors import FatalError
from raftsched.ports import Log
from raftsched.store.backend.files import write_durably
from raftsched.store.codec import RequestIds

FILE_NAME: Final = "IDS"
RESERVE: Final = 1 << 24  # ids: a minute of the clock, minutes of the heaviest traffic; what a restart skips at most
RETRY_MS: Final = 10_000
NUMBER: Final = re.compile(rb"[0-9a-f]{1,16}\n?")
REMEDY: Final = "if this machine's clock was not set back since the last start, remove the file: ids begin at the clock again"


def read_ceiling(directory: Path) -> int:
    """What `RequestIds.skip_past` takes; 0 = there is none. Raises FatalError."""
    path = directory / FILE_NAME
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise FatalError(f"cannot read {path}: {error.strerror}") from error
    if not NUMBER.fullmatch(text):
        raise FatalError(f"{path} is damaged: it should hold one hexadecimal number, the end of the request ids in use; {REMEDY}")
    return int(text, 16)


class Numbering:
    """The ceiling of one process."""

    def __init__(self, directory: Path, ids: RequestIds, log: Log) -> None:
        self._path, self._ids, self._log = directory / FILE_NAME, ids, log
        self._ceiling = 0
        self._next_try_ms = 0
        self._writing: asyncio.Task[None] | None = None

    async def reserve(self, mono_ms: int) -> None:
        """To be done before the first id is forwarded."""
        ceiling = self._ids.ahead(RESERVE)
        try:
            await asyncio.to_thread(write_durably, self._path, f"{ceiling:x}\n")
        except OSError as error:
            self._next_try_ms = mono_ms + RETRY_MS
            self._log.warning("request ids cannot be reserved: a clock set back over a restart may silence this member", reason=str(error))
        else:
            self._ceiling = ceiling

    def tick(self, mono_ms: int) -> None:
        """Now and then: reserves the next ones when half of these are used."""
        if self._writing is not None and not self._writing.done():
            return
        if mono_ms >= self._next_try_ms and not RESERVE // 2 <= self._ids.left(self._ceiling) <= RESERVE:
            self._writing = asyncio.get_running_loop().create_task(self.reserve(mono_ms))

    async def close(self) -> None:
        """No file is written any more."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
