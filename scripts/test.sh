#!/bin/sh
# Every check and every test; what was skipped, and why, is printed. Needs scripts/setup.sh to have run.
# A file at a time on one of the workers; what starts servers waits more than it computes, so that three share two cores, and runs behind
# the rest. What measures how much a server can take runs alone.
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
round -n 3 --dist loadfile --ignore=tests/process tests "$@"
round -n 3 --dist loadfile --ignore=tests/process/test_load.py --ignore=tests/process/test_overload.py tests/process "$@"
round tests/process/test_load.py tests/process/test_overload.py "$@"
exit "$status"
