"""The `raftsched` command: one file per sub-command.

Invariant: `serve` and `--version` are dispatched here, before typer is imported: a server's start must be quick.
"""

import sys

from raftsched.version import COMMIT, VERSION


def main() -> int:
    """The console script; the exit code."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["serve"]:
        from raftsched.cli.serve import serve

        return serve(arguments[1:])
    if arguments == ["--version"]:
        print(f"raftsched {VERSION} (commit {COMMIT})")
        return 0
    from raftsched.cli.app import run

    return run(arguments)
