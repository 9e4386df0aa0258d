#!/bin/sh
# Bring this checkout to a state in which everything runs: system packages, .venv, dependencies, native modules.
# Idempotent. When nothing changed it only compares two stamps.
set -eu
cd "$(dirname "$0")/.."

SYSTEM_PACKAGES='libnghttp2-dev liblmdb-dev pkg-config'
HINT='Debian/Ubuntu: apt-get install build-essential python3-dev python3-venv libnghttp2-dev liblmdb-dev pkg-config | Fedora: dnf install gcc python3-devel libnghttp2-devel lmdb-devel pkgconf-pkg-config | Homebrew: brew install python libnghttp2 lmdb pkg-config'

fail() {
    echo "raftsched: $1. $HINT" >&2
    exit 1
}

# Shims of version managers may exist and yet not run, so each candidate is asked.
find_python() {
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3.14 python3}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

libraries_present() {
    command -v pkg-config >/dev/null 2>&1 && pkg-config --exists libnghttp2 lmdb
}

install_libraries() {
    if ! command -v apt-get >/dev/null 2>&1; then
        fail 'libnghttp2, liblmdb or pkg-config is missing'
    fi
    if [ "$(id -u)" = 0 ]; then
        become=''
    elif sudo -n true 2>/dev/null; then
        become='sudo -n'
    else
        fail 'libnghttp2, liblmdb or pkg-config is missing, and installing packages needs root'
    fi
    echo "Installing $SYSTEM_PACKAGES"
    mkdir -p build
    # shellcheck disable=SC2086  # words on purpose
    if ! { $become apt-get update && $become env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $SYSTEM_PACKAGES; } \
        >build/apt.log 2>&1 </dev/null; then
        tail -n 5 build/apt.log >&2
        fail 'apt-get could not install libnghttp2, liblmdb and pkg-config'
    fi
}

make_venv() {
    python=$(find_python)
    [ -n "$python" ] || fail 'Python 3.11 or newer is missing'
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail 'the venv module of Python is missing'
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' ||
        fail 'the headers of Python are missing'
    command -v "${CC:-cc}" >/dev/null 2>&1 || command -v gcc >/dev/null 2>&1 || fail 'a C compiler is missing'
    echo "Creating .venv with $("$python" --version)"
    "$python" -m venv .venv
}

# The editable install builds no native module (RAFTSCHED_ONLY names none): build_native.py does that, and knows when not to.
install_dependencies() {
    echo 'Installing the dependencies'
    quiet='-q --disable-pip-version-check --no-input'
    # shellcheck disable=SC2086
    .venv/bin/python -m pip install $quiet 'setuptools>=77' 'Cython>=3.1' wheel </dev/null
    # shellcheck disable=SC2086
    RAFTSCHED_ONLY=none-of-them .venv/bin/python -m pip install $quiet --no-build-isolation -e '.[dev]' </dev/null
}

[ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null || { rm -rf .venv; make_venv; }
libraries_present || install_libraries
wanted=$(cksum pyproject.toml)
if [ "$(cat .venv/raftsched.stamp 2>/dev/null)" != "$wanted" ]; then
    install_dependencies
    echo "$wanted" >.venv/raftsched.stamp
fi
.venv/bin/python scripts/build_native.py
