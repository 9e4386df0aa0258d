"""What holds in every process of a run, and what is told at its end."""

import signal
from typing import Any

from hypothesis import settings

settings.register_profile("raftsched", deadline=None)  # a busy machine is no counter-example
settings.load_profile("raftsched")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's background: what the tests start would not hear Ctrl-C either
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How much the comparisons with a real etcd compared: they leave that in the property "compared" (tests/interop/amounts.py)."""
    told = [value for report in terminalreporter.stats.get("passed", ()) for name, value in report.user_properties if name == "compared"]
    if told:
        terminalreporter.section("differential")
        terminalreporter.write_line(f"{sum(told):,} requests answered by a real etcd and by raftsched, field by field the same")
