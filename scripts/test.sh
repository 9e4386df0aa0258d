#!/bin/sh
# Every check and every test; what was skipped, and why, is printed. Needs scripts/setup.sh to have run.
# What measures time or starts many processes runs alone; the rest runs on two workers.
set -eu
cd "$(dirname "$0")/.."
export PYTHONDONTWRITEBYTECODE=1

status=0
scripts/lint.sh || status=$?
.venv/bin/python scripts/tools.py build
.venv/bin/python -m pytest -q -rs -n 2 --dist loadfile --durations=10 --ignore=tests/process tests "$@" </dev/null || status=$?
.venv/bin/python -m pytest -q -rs --durations=10 tests/process "$@" </dev/null || status=$?
exit "$status"
