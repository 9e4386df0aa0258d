"""What holds in every process of a run, and what is told at its end."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

FRESH = os.environ.get("RAFTSCHED_SEEDS") == "fresh"
"""`make properties`: other examples each time. Else the same ones, so that a red run tells of the change and not of luck."""

settings.register_profile("raftsched", deadline=None, derandomize=not FRESH)  # no deadline: a busy machine is no counter-example
settings.load_profile("raftsched")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background: what the tests start would not hear Ctrl-C either
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Decided by a seed alone, not by a clock. What loses data under a kill is marked in its own file.
WITHOUT_CLOCK = ("fuzz", "property", "sim")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.relative_to(here).parts[0] in WITHOUT_CLOCK:
            if not item.get_closest_marker("timed"):
                item.add_marker(pytest.mark.once)
            # A socket that is collected while one of these runs is what a test that failed before it has left open.
            item.add_marker(pytest.mark.filterwarnings("default::pytest.PytestUnraisableExceptionWarning"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How much the comparisons with a real etcd compared: they leave that in the property "compared" (tests/interop/amounts.py)."""
    told = [value for report in terminalreporter.stats.get("passed", ()) for name, value in report.user_properties if name == "compared"]
    if told:
        terminalreporter.section("differential")
        terminalreporter.write_line(f"{sum(told):,} requests answered by a real etcd and by raftsched, field by field the same")
