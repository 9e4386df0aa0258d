"""A door on a loop that is moved by hand: for the tests of the rows of its table of duties."""

from collections.abc import Iterator

import pytest

from raftsched.testing.door_peer import ManualDoor

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
BATCH, STREAM, BURST, SILENT = (f"/test.Echo/{name}" for name in ("Batch", "Stream", "Burst", "Silent"))


@pytest.fixture
def door() -> Iterator[ManualDoor]:
    """Whatever a test does, nothing of its connections may be left."""
    with_connections = ManualDoor()
    yield with_connections
    finish(with_connections)


def finish(door: ManualDoor) -> None:
    for connection in list(door.peers):
        connection.lose()
    door.assert_empty()
    assert not door.manual.errors
