"""Fixtures for tests that start the real server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Clients

from raftsched.testing.process import ServerProcess

__all__ = ["Clients"]


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
