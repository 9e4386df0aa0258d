"""Fixtures for tests that start the real server."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Clients

from raftsched.testing.process import ServerProcess

__all__ = ["Clients"]


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Who is started in the background of a shell inherits that Ctrl-C is ignored, and would hand that on to what it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A running server on an empty directory."""
    with ServerProcess(tmp_path / "server") as running:
        yield running


@pytest.fixture
def clients(server: ServerProcess) -> Iterator[Clients]:
    opened = Clients(server)
    yield opened
    opened.close()
