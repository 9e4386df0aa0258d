"""How the directory of a member that left its cluster by its own wish becomes that of an empty one, and may be killed at each step.

    LEFT            written before the removal is proposed: this member wants to go, nothing has happened yet
    SETTING-ASIDE   written in a later life, when the removal is certain; names the folder for the data
    left-<time>/    the data; the newest such folder is kept

Who opens the directory and finds SETTING-ASIDE finishes first. LEFT alone changes nothing: the removal may have failed.
Invariant: each step is durable before the next; data are only renamed, and of older folders it was known that their member was removed.
Must not know: how a removal becomes certain.
"""

import re
import shutil
import time
from pathlib import Path
from typing import Final

from raftsched.errors import FatalError, NoSpaceError
from raftsched.store.backend.files import sync_directory, write_durably

LEFT: Final = "LEFT"
SETTING_ASIDE: Final = "SETTING-ASIDE"
DATA: Final = ("wal", "snap", "db.*", "JOINING*", "FORCED*", "IDS*", f"{LEFT}*")
REMEDY: Final = "remove the file to go on as a member: if the cluster has removed this one, the start says so and changes nothing"
_IDS: Final = re.compile(rb"([0-9a-f]{1,16}) ([0-9a-f]{1,16})\n?")
_FOLDER: Final = re.compile(r"left-\d{8}T\d{6}Z(-\d+)?")


def write_left(directory: Path, member_id: int, cluster_id: int) -> None:
    """Raises FatalError, NoSpaceError."""
    try:
        write_durably(directory / LEFT, f"{member_id:x} {cluster_id:x}\n")
    except OSError as error:
        raise _failure("write", directory / LEFT, error) from error


def read_left(directory: Path) -> tuple[int, int] | None:
    """(member id, cluster id) of the one that wants to go. Raises FatalError."""
    path = directory / LEFT
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _failure("read", path, error) from error
    found = _IDS.fullmatch(text)
    if not found:
        raise FatalError(f"{path} is damaged: it should hold the ids of a member that asked to leave and of its cluster; {REMEDY}")
    return int(found[1], 16), int(found[2], 16)


def remove_left(directory: Path) -> None:
    """Idempotent. Raises FatalError."""
    try:
        (directory / LEFT).unlink(missing_ok=True)
        sync_directory(directory)
    except OSError as error:
        raise _failure("remove", directory / LEFT, error) from error


def begin_setting_aside(directory: Path, wall_ms: int) -> str:
    """From here on the data are those of nobody; the name of their folder. Raises FatalError, NoSpaceError."""
    first = time.strftime("left-%Y%m%dT%H%M%SZ", time.gmtime(wall_ms / 1000))
    name, number = first, 1
    while (directory / name).exists():
        number += 1
        name = f"{first}-{number}"
    try:
        write_durably(directory / SETTING_ASIDE, name)
    except OSError as error:
        raise _failure("write", directory / SETTING_ASIDE, error) from error
    return name


def finish_setting_aside(directory: Path) -> str:
    """For a directory in which nothing is open; a line if there was something to do. Raises OSError, FatalError."""
    marker = directory / SETTING_ASIDE
    try:
        name = marker.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return ""
    if not _FOLDER.fullmatch(name):
        raise FatalError(f"{marker} names no folder: {name!r}")
    folder = directory / name
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_directory(directory)
    for entry in [entry for pattern in DATA for entry in sorted(directory.glob(pattern))]:
        entry.rename(folder / entry.name)
    sync_directory(folder)
    sync_directory(directory)
    for older in directory.glob("left-*"):
        if older != folder:
            shutil.rmtree(older)
    marker.unlink()
    sync_directory(directory)
    return f"this member had left its cluster: its data were set aside in {folder}, it begins anew without any"


def _failure(what: str, path: Path, error: OSError) -> FatalError | NoSpaceError:
    full = error.errno in {28, 122}  # ENOSPC, EDQUOT
    return (NoSpaceError if full else FatalError)(f"cannot {what} {path}: {error.strerror}")
