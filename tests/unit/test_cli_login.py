"""`raftsched member --user`: commands in the name of a user while authentication is on."""

from collections.abc import Iterator

import grpc
import pytest
from test_auth_api import Client, secure

from raftsched.cli.app import run
from raftsched.testing.lone_node import EtcdDoor


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[EtcdDoor]:
    with EtcdDoor() as opened:
        monkeypatch.setenv("RAFTSCHED_ETCD_ADDRESS", opened.address)
        yield opened


def test_a_user_is_shown_the_members(door: EtcdDoor, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["member", "--user", "ann:pw", "list", "-o", "json"]) == 0, "where nobody asks for a user he is left out"
    with grpc.insecure_channel(door.address) as channel:
        secure(Client(channel))
    capsys.readouterr()
    assert run(["member", "list"]) == 1
    assert "user name is empty" in capsys.readouterr().err
    assert run(["member", "--user", "ann:pw", "list", "-o", "json"]) == 0
    assert '"lone"' in capsys.readouterr().out
    assert run(["member", "--user", "ann:no", "list"]) == 1
    assert "authentication failed, invalid user ID or password" in capsys.readouterr().err
    monkeypatch.setenv("RAFTSCHED_ETCD_USER", "ann:pw")
    assert run(["member", "list"]) == 0
