"""`python -m raftsched`: the same as the console script."""

from raftsched.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
