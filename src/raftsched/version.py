"""Which raftsched this is. pyproject.toml reads VERSION from here; setup.py writes COMMIT into what it builds."""

from typing import Final

VERSION: Final = "0.1.0"
COMMIT: Final = "unknown"
