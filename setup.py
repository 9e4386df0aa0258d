"""Build the native modules; everything else about the package stands in pyproject.toml.

Each ``*.pyx`` under ``src/raftsched`` is one extension module with the dotted name of its place. Extra libraries,
per module, stand in LIBRARIES. Environment:

``RAFTSCHED_DEBUG=1``     bounds checks, line trace off, ``-O1 -g``: the build the suite also runs against.
``RAFTSCHED_SANITIZE=1``  adds ``-fsanitize=address,undefined``.
``RAFTSCHED_COMMIT=…``    is written into the built ``version.py`` (make wheel sets it).
``RAFTSCHED_ONLY=a,b``    builds only the modules whose dotted name contains one of these words.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SOURCE = ROOT / "src"
DEBUG = os.environ.get("RAFTSCHED_DEBUG") == "1"
SANITIZE = os.environ.get("RAFTSCHED_SANITIZE") == "1"
ONLY = [word for word in os.environ.get("RAFTSCHED_ONLY", "").split(",") if word]
LIBRARIES: dict[str, list[str]] = {
    "raftsched.rpc.http2._h2": ["libnghttp2"],
    "raftsched.store.backend._lmdb": ["lmdb"],
}
BORROWED: dict[str, str] = {"raftsched.store.auth._needs": "store/mvcc/native"}
"""Modules that include the headers of another room, and where these lie."""
PACKAGES = (
    "Debian/Ubuntu: apt-get install libnghttp2-dev liblmdb-dev pkg-config | "
    "Fedora: dnf install libnghttp2-devel lmdb-devel pkgconf-pkg-config | Homebrew: brew install libnghttp2 lmdb pkg-config"
)


def pkg_config(*arguments: str) -> list[str]:
    """The words that pkg-config answers; one clear line and exit 1 when it, or the library, is missing."""
    if shutil.which("pkg-config") is None:
        sys.exit(f"raftsched: pkg-config is missing. {PACKAGES}")
    answer = subprocess.run(["pkg-config", *arguments], capture_output=True, text=True, check=False)
    if answer.returncode:
        sys.exit(f"raftsched: {arguments[-1]} is missing. {PACKAGES}")
    return answer.stdout.split()


def extension(path: Path) -> Extension:
    name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    compile_flags = ["-O1", "-g"] if DEBUG else ["-O3", "-g0"]
    compile_flags += ["-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function", "-fvisibility=hidden"]
    compile_flags += ["-Wno-missing-field-initializers", "-Wno-cast-function-type"]
    link_flags: list[str] = []
    if SANITIZE:
        compile_flags += ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
        link_flags += ["-fsanitize=address,undefined"]
    for library in LIBRARIES.get(name, []):
        compile_flags += pkg_config("--cflags", library)
        link_flags += pkg_config("--libs", library)
    headers = [*(path.parent / "native").glob("*.h"), *(SOURCE / "raftsched" / "store" / "native").glob("*.h")]
    if name in BORROWED:
        headers += (SOURCE / "raftsched" / BORROWED[name]).glob("*.h")
    native = sorted({str(p.relative_to(ROOT)) for p in headers})
    includes = sorted(str(p.relative_to(ROOT)) for p in (path.parent / path.stem).glob("*.pxi"))
    return Extension(
        name,
        [str(path.relative_to(ROOT))],
        include_dirs=[str(path.parent.relative_to(ROOT))],
        depends=native + includes,
        extra_compile_args=compile_flags,
        extra_link_args=link_flags,
    )


class BuildPython(build_py):
    """Stamps the commit into what is installed, never into the source."""

    def run(self) -> None:
        super().run()
        commit = os.environ.get("RAFTSCHED_COMMIT", "")
        path = Path(self.build_lib) / "raftsched" / "version.py"
        if commit.isalnum() and path.exists() and not self.editable_mode:
            path.write_text(path.read_text().replace('"unknown"', f'"{commit}"'))


def wanted(name: str) -> bool:
    return not ONLY or any(word in name for word in ONLY)


def extensions() -> list[Extension]:
    found = [extension(path) for path in sorted(SOURCE.rglob("*.pyx"))]
    return [one for one in found if wanted(one.name)]


setup(
    cmdclass={"build_py": BuildPython},
    ext_modules=cythonize(
        extensions(),
        include_path=["src"],
        force=DEBUG or SANITIZE,
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": DEBUG,
            "initializedcheck": DEBUG,
            "cdivision": True,
            "binding": True,
            "embedsignature": False,
        },
    ),
)
