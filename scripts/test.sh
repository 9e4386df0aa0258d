#!/bin/sh
# Every check and every test; what was skipped, and why, is printed. Needs scripts/setup.sh to have run.
# A file at a time on one of the workers; what starts servers waits more than it computes, so that three share two cores, and runs behind
# the rest. What measures how much a server can take runs alone.
set -eu
cd "$(dirname "$0")/.."
export PYTHONDONTWRITEBYTECODE=1
status=0
selected=$(($# > 0))
cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT

run() {
    .venv/bin/python -m pytest -q -rs -o cache_dir="$cache/$number" "$@" </dev/null
}

# What failed beside others runs once more, alone: a machine that many share may keep a program waiting for longer than a test, or the real
# program beside ours, expects. It is told what passed only then. No such leave for what is marked `once`: there it is never a matter of time.
again() {
    if run --last-failed --last-failed-no-failures none -m once --collect-only "$@" >/dev/null; then
        echo 'Among these is what must not fail even once: nothing is tried again.'
        return 1
    fi
    echo 'Alone, once more:'
    run --last-failed --last-failed-no-failures none -m 'not once' -vv "$@" && echo 'PASSED ONLY ALONE: what is named above. Its failure stands further up.'
}

# A selection (make test ARGS="-k …") may leave a round without a test: pytest's exit code 5.
round() {
    number=$((number + 1))
    workers=$1
    shift
    code=0
    run --durations=10 -n "$workers" --dist loadfile "$@" || code=$?
    [ "$code" != 1 ] || { again "$@" && code=0; } || status=1
    [ "$code" -lt 2 ] || { [ "$code" = 5 ] && [ "$selected" = 1 ]; } || status=$code
}
number=0

scripts/lint.sh || status=$?
.venv/bin/python scripts/tools.py build
round 3 --ignore=tests/process tests "$@"
round 3 --ignore=tests/process/test_load.py --ignore=tests/process/test_overload.py tests/process "$@"
round 0 tests/process/test_load.py tests/process/test_overload.py "$@"
exit "$status"
