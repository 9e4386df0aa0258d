"""Descriptors are shared out so that no port starves another, and asyncio's complaints are few lines."""

import asyncio
import errno
import resource

import pytest

from raftsched.process import COMPLAINT_INTERVAL_S, COMPLAINTS_REMEMBERED_MAX, DOORS, OWN_DESCRIPTORS, LoopComplaints, connections_max


class Lines:
    """A log that remembers."""

    def __init__(self) -> None:
        self.errors: list[tuple[str, dict[str, object]]] = []

    def error(self, message: str, /, **fields: object) -> None:
        self.errors.append((message, fields))

    debug = info = warning = fatal = error


class Clock:
    """A clock that stands still until it is told to move."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize("descriptors", [1024, 4096, 1 << 20])
def test_all_doors_together_leave_what_the_store_needs(descriptors: int) -> None:
    assert descriptors - OWN_DESCRIPTORS - DOORS < DOORS * connections_max(descriptors) <= descriptors - OWN_DESCRIPTORS


def test_a_tiny_limit_still_serves_and_no_limit_is_none() -> None:
    assert connections_max(100) == 16
    assert connections_max(resource.RLIM_INFINITY) == 0


def test_a_complaint_that_repeats_is_counted_not_written() -> None:
    log, clock, loop = Lines(), Clock(), asyncio.new_event_loop()
    complain = LoopComplaints(log, clock)
    context = {"message": "socket.accept() out of system resource", "exception": OSError(errno.EMFILE, "Too many open files")}
    for _ in range(1000):
        complain(loop, context)
    assert log.errors == [
        ("no file descriptor is left: new connections wait", {"error": "OSError(24, 'Too many open files')"}),
    ]
    clock.now_s = COMPLAINT_INTERVAL_S
    complain(loop, context)
    assert log.errors[1][1]["untold"] == 999
    loop.close()


def test_a_fault_keeps_its_trace_in_one_field() -> None:
    log, loop = Lines(), asyncio.new_event_loop()
    complain = LoopComplaints(log, Clock())
    complain(loop, {"message": "Exception in callback", "exception": KeyError("x")})
    complain(loop, {"message": "Task was destroyed but it is pending!"})
    assert [message for message, _ in log.errors] == ["Exception in callback", "Task was destroyed but it is pending!"]
    assert "KeyError: 'x'" in str(log.errors[0][1]["trace"])
    for number in range(3 * COMPLAINTS_REMEMBERED_MAX):
        complain(loop, {"message": f"m{number}"})
    assert len(complain._said) <= COMPLAINTS_REMEMBERED_MAX
    loop.close()
