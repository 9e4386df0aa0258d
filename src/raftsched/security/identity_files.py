"""Files of an identity, for who asks for them: replaced together.

As Kubernetes keeps its volumes: names in the directory are links through `..data`, which is replaced by one rename. Who reads twice while
that happens may see one name of before and one of after, never half a file.
Invariant: nobody but our user reads a key, not even while it is written. Must not know: what is in a file.
"""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

DATA: Final = "..data"
KEY: Final = "key.pem"
CERTIFICATE: Final = "cert.pem"
ANCHORS: Final = "ca.pem"
TOKEN: Final = "jwt_svid.token"
_OURS: Final = re.compile(r"\.\.identity-[0-9a-f]{16}")


def write_identity(directory: Path, files: Mapping[str, bytes]) -> None:
    """These, and none of KEY, CERTIFICATE, ANCHORS, TOKEN beside them. OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    target = directory / f"..identity-{secrets.token_hex(8)}"
    target.mkdir(mode=0o700)
    try:
        for name, data in files.items():
            _write(target / name, data)
        _link(directory / DATA, target.name)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    for name in files:
        _link(directory / name, f"{DATA}/{name}")
    for name in {KEY, CERTIFICATE, ANCHORS, TOKEN} - set(files):
        (directory / name).unlink(missing_ok=True)
    for old in directory.iterdir():
        if _OURS.fullmatch(old.name) and old != target:
            shutil.rmtree(old, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def _link(path: Path, to: str) -> None:
    """`path` becomes a link, whatever it was, at once."""
    with contextlib.suppress(OSError):
        if path.is_symlink() and os.readlink(path) == to:
            return
    temporary = path.with_name(f"..{secrets.token_hex(8)}.tmp")
    os.symlink(to, temporary)
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
