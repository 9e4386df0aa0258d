"""The `raftsched` command: one file per sub-command.

Invariant: `serve`, `etcd` and `--version` are dispatched here, before typer is imported: a server's start must be quick.
"""

import sys

from raftsched.version import COMMIT, VERSION

INTERRUPTED = 130  # 128 + SIGINT, as a shell says it


def main() -> int:
    """The console script; the exit code."""
    try:
        return _dispatch(sys.argv[1:])
    except KeyboardInterrupt:  # while modules were still being imported: nothing has begun
        return INTERRUPTED


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["serve"]:
        from raftsched.cli.serve import serve

        return serve(arguments[1:])
    if arguments[:1] == ["etcd"]:
        from raftsched.cli.etcd import etcd

        return etcd(arguments[1:])
    if arguments == ["--version"]:
        print(f"raftsched {VERSION} (commit {COMMIT})")
        return 0
    from raftsched.cli.app import run

    return run(arguments)
