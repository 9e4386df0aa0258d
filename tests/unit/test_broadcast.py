"""The order of addresses that a scheduler announces (spec/scheduler.md §2.4)."""

import pytest

from raftsched.broadcast import best_address, broadcast_address
from raftsched.errors import ConfigError


def announce(listen: str = "", override: str | None = None, environment: dict[str, str] | None = None, host: str = "10.0.0.7") -> str:
    return broadcast_address(override=override, listen_address=listen, port=50006, environment=environment or {}, host_address=lambda: host)


def test_the_override_is_taken_verbatim_even_when_empty() -> None:
    assert announce(override="example:1") == "example:1"
    assert announce(override="") == ""


@pytest.mark.parametrize("listen", ["localhost", "127.0.0.1", "::1", "[::1]"])
def test_a_loopback_listen_address_is_announced_as_it_is(listen: str) -> None:
    assert announce(listen=listen, environment={"DAPR_HOST_IP": "1.2.3.4"}) == f"{listen}:50006"


def test_the_environment_beats_the_detected_address() -> None:
    assert announce(environment={"DAPR_HOST_IP": "1.2.3.4"}) == "1.2.3.4:50006"
    assert announce(listen="0.0.0.0") == "10.0.0.7:50006"
    assert announce(host="fd00::7") == "[fd00::7]:50006"


def test_addresses_are_ranked() -> None:
    ranked = ["8.8.8.8", "2600::1", "10.0.0.1", "fd00::1", "fe80::1"]
    for count in range(len(ranked)):
        assert best_address(reversed(ranked[count:])) == ranked[count]
    assert best_address(["127.0.0.1", "::1", "192.0.0.3"]) is None


def test_a_host_without_address_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    from raftsched import broadcast

    def refuse(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(broadcast, "interface_addresses", list)
    with pytest.raises(ConfigError, match="host IP address"):
        broadcast.find_host_address()
