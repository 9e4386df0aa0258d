"""Databases that nobody uses any more go on a worker thread: a file system takes tenths of a second to unlink a GiB."""

import asyncio
import shutil
from functools import partial
from itertools import count
from pathlib import Path

REMOVED_PATTERN = "*.removed-*"
_numbers = count()


def remove_later(path: str | Path) -> "asyncio.Future[None] | None":
    """Removes the directory `path` and what is in it, and says when that has ended (None: now). Needs a running loop.

    It has another name before this returns: a database that comes under the same name next is not what the thread removes. No error is
    raised: what stays, also of a process that is killed meanwhile, goes at the next start (`DataDirectory.tidy`).
    """
    path = Path(path)
    try:
        removed = path.rename(path.with_name(f"{path.name}.removed-{next(_numbers)}"))
    except OSError:
        shutil.rmtree(path, ignore_errors=True)
        return None
    return asyncio.get_running_loop().run_in_executor(None, partial(shutil.rmtree, removed, ignore_errors=True))
