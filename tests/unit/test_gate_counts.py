"""What gates count by their names: like Dapr's, counts stay when a gate goes; unlike Dapr's, they do not grow without a bound."""

import pytest

from raftsched import limits
from raftsched.scheduler.delivery import gates
from raftsched.scheduler.delivery.gates import Admission, Gates, Limit, label


def refuse(one: Gates, name: str) -> None:
    """A stream declares a limit of one, two runs come, and it goes."""
    stream = object()
    one.declare(stream, "ns", [Limit(name, None, 1)])
    assert one.admit(1, "ns", name, None) == Admission.GO
    assert one.admit(2, "ns", name, None) == Admission.WAIT
    one.release(1)
    one.withdraw(stream)
    one.release(2)


def test_a_count_outlives_its_gate() -> None:
    one = Gates()
    refuse(one, "cat")
    refuse(one, "cat")
    assert (one.gauges(), one.throttled) == ({}, {"cat": 2})


def test_beyond_the_bound_the_stalest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "THROTTLED_LABELS_MAX", 3)
    one = Gates()
    for name in ("a", "b", "c", "a", "d"):
        refuse(one, name)
    assert one.throttled == {"c": 1, "a": 2, "d": 1}
    refuse(one, "b")
    assert one.throttled == {"a": 2, "d": 1, "b": 1}


def test_a_long_name_is_cut_in_metrics() -> None:
    assert label(("ns", "cat", "x" * 10**6)) == "cat:" + "x" * (limits.GATE_LABEL_CHARACTERS_MAX - 4)
