"""`raftsched-scheduler`: the executable that images link as /scheduler; it takes the server's flags without a sub-command."""

import sys

from raftsched.cli.serve import scheduler


def main() -> int:
    """The exit code."""
    return scheduler(sys.argv[1:])
