#!/bin/sh
# Every check and every test; what was skipped, and why, is printed. Needs scripts/setup.sh to have run.
# What measures time or starts many processes runs alone; the rest runs on two workers.
set -eu
cd "$(dirname "$0")/.."
export PYTHONDONTWRITEBYTECODE=1
status=0

# A selection (make test ARGS="-k …") may leave one of the two rounds without a test: pytest's exit code 5.
round() {
    code=0
    .venv/bin/python -m pytest -q -rs --durations=10 "$@" </dev/null || code=$?
    [ "$code" = 0 ] || { [ "$code" = 5 ] && [ "$selected" = 1 ]; } || status=$code
}
selected=$(($# > 0))

scripts/lint.sh || status=$?
.venv/bin/python scripts/tools.py build
round -n 2 --dist loadfile --ignore=tests/process tests "$@"
round tests/process "$@"
exit "$status"
