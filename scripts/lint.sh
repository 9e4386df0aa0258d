#!/bin/sh
# Form, types and the shape of the house. Every check runs, so that one round shows all there is to mend.
set -u
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH" # cython-lint calls pycodestyle by name
status=0
check() {
    echo "lint: $1"
    shift
    "$@" </dev/null || status=1
}
check 'ruff format' .venv/bin/ruff format --quiet --check .
check 'ruff check' .venv/bin/ruff check --quiet .
check 'mypy' .venv/bin/mypy --no-error-summary
check 'cython-lint' .venv/bin/cython-lint src
check 'house' .venv/bin/python -m pytest -q -p no:cacheprovider tests/test_house.py
exit "$status"
