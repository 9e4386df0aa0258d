"""Files that are whole when they have their name."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from raftsched.errors import ConfigError, FatalError

PART_SUFFIX: Final = ".part"


@contextlib.contextmanager
def whole_file(path: Path, *, force: bool) -> Iterator[BinaryIO]:
    """A file 0600, for writing and reading, that gets its name when all is in it and synced; after an error nothing is left. Raises
    ConfigError when one of that name is there and must stay (without `force`), FatalError when it cannot be written."""
    if path.exists() and not force:
        raise ConfigError(f"{path} exists: give another name, or --force")
    part = path.with_name(path.name + PART_SUFFIX)
    try:
        with open(part, "w+b", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        _sync_directory(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise FatalError(f"cannot write {path}: {error.strerror}") from error
        raise


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
