"""The decisions of the namespace controller, without IO: what is asked next, what counts as gone, how long is waited."""

import pytest

from raftsched.kube import namespaces
from raftsched.kube.namespaces import Gone, List, Namespaces, Watch, pause_s
from raftsched.limits import KUBE_NAMESPACES_MAX


def made(*names: str) -> Namespaces:
    """With these, at 0."""
    known = Namespaces(lambda: 0.0)
    known.on_page(names, "7", "", 0)
    return known


def gone(known: Namespaces, now: float = 0) -> list[str]:
    return [name for name, _ in known.gone.due(now)]


def test_everything_is_listed_first_page_by_page() -> None:
    known = Namespaces(lambda: 0.0)
    assert (known.step(0), known.wait_s(0), known.synced) == (List(""), 0, False)
    known.on_page(["a"], "", "next", 0)
    assert (known.step(0), known.synced) == (List("next"), False)
    known.on_page(["b"], "7", "", 0)
    assert (known.step(0), known.synced, len(known)) == (Watch("7", 300.0), True, 2)
    assert gone(known) == []


def test_what_a_watch_tells() -> None:
    known = made("a", "b")
    known.step(0)
    known.on_event("ADDED", "c", "8", 1)
    known.on_event("MODIFIED", "a", "9", 1)
    known.on_event("DELETED", "b", "10", 1)
    assert gone(known, 1) == ["b"]
    assert known.step(2) == Watch("10", 300.0)
    assert len(known) == 2


def test_a_bookmark_moves_the_version_alone() -> None:
    known = made("a")
    known.on_event("BOOKMARK", "", "50", 1)
    assert known.step(1) == Watch("50", 300.0)
    assert (gone(known, 1), len(known)) == ([], 1)


def test_a_relist_finds_what_a_watch_has_missed() -> None:
    known = made("a", "b", "c")
    known.on_expired(5)
    assert (known.step(5), known.wait_s(5)) == (List(""), 0)
    known.on_page(["a"], "", "next", 5)
    assert gone(known, 5) == [], "not before the last page"
    known.on_page(["c", "d"], "20", "", 5)
    assert gone(known, 5) == ["b"]
    assert known.step(5) == Watch("20", 300.0)


def test_a_page_that_is_too_old_begins_from_the_front_and_forgets_the_pages_before() -> None:
    known = made("a", "b")
    known.on_expired(0)
    known.on_page(["b"], "", "next", 0)
    known.on_expired(0)
    assert known.step(0) == List("")
    known.on_page(["a"], "9", "", 0)
    assert gone(known) == ["b"]


def test_versions_that_are_always_too_old_are_no_loop() -> None:
    known = made("a")
    waits = []
    for turn in range(5):
        known.step(turn)
        known.on_expired(turn)
        waits.append(known.wait_s(turn))
        known.on_page(["a"], "7", "", turn)
    assert waits[0] == 0
    assert waits[1:] == [1.6, 3.2, 6.4, 12.8]
    known.on_event("BOOKMARK", "", "8", 9)
    known.on_expired(30)
    assert known.wait_s(30) == 0


def test_everything_is_listed_anew_now_and_then() -> None:
    known = made("a")
    assert known.step(1700) == Watch("7", 100.0), "no watch lasts beyond it"
    known.on_watch_ended(1800)
    assert known.step(1800) == List("")


def test_pauses_grow_to_a_bound_and_are_not_the_same_for_all() -> None:
    assert [pause_s(count, lambda: 0.0) for count in (1, 2, 3, 7, 5000)] == [0.8, 1.6, 3.2, 30.0, 30.0]
    assert pause_s(1, lambda: 0.5) == pytest.approx(1.0)


def test_failures_and_when_they_are_forgotten() -> None:
    known = made("a")
    known.on_failed(0)
    known.on_failed(0)
    assert known.wait_s(0) == 1.6
    assert known.wait_s(1.0) == pytest.approx(0.6)
    known.on_event("BOOKMARK", "", "8", 2)
    known.on_failed(2)
    assert known.wait_s(2) == pytest.approx(0.8)
    known.on_failed(2, at_least_s=9)
    assert known.wait_s(2) == 9
    known.on_failed(2, at_least_s=86_400)
    assert known.wait_s(2) == namespaces.RETRY_S_MAX


def test_a_watch_that_ends_at_once_is_a_failure_a_longer_one_is_none() -> None:
    known = made("a")
    known.step(10)
    known.on_watch_ended(10.5)
    assert known.wait_s(10.5) == pytest.approx(0.8)
    known.step(20)
    known.on_watch_ended(25)
    assert known.wait_s(25) == 0
    known.step(30)
    known.on_event("ADDED", "b", "9", 30)
    known.on_watch_ended(30.1)
    assert known.wait_s(30.1) == 0


@pytest.mark.parametrize("name", ["", "a||b", "A", "-a", "a-", "a.b", "a/b", "é", "a" * 64, "a\n"])
def test_what_is_no_name_of_a_namespace_is_never_gone(name: str) -> None:
    known = made(name, "a")
    known.on_event("DELETED", name, "8", 0)
    known.on_expired(0)
    known.on_page(["a"], "9", "", 0)
    assert (gone(known), len(known)) == ([], 1)


def test_there_is_a_bound() -> None:
    known = Namespaces(lambda: 0.0)
    with pytest.raises(ValueError, match="more than"):
        known.on_page((f"n{number}" for number in range(KUBE_NAMESPACES_MAX + 1)), "1", "", 0)


def test_one_that_is_gone_is_tried_until_it_is_done() -> None:
    found = Gone(lambda: 0.0)
    assert found.wait_s(0) is None
    found.add("a", 5)
    assert found.due(4) == []
    assert found.due(5) == [("a", 5)]
    found.on_failed("a", 5)
    found.on_failed("a", 5)
    assert found.wait_s(5) == pytest.approx(1.6)
    [(name, since)] = found.due(7)
    found.on_done(name, since)
    assert (len(found), found.wait_s(7)) == (0, None)


def test_one_that_goes_again_while_it_is_cleared_is_cleared_again() -> None:
    found = Gone(lambda: 0.0)
    found.add("a", 1)
    [(name, since)] = found.due(1)
    found.add("a", 2)
    found.on_done(name, since)
    assert found.due(2) == [("a", 2)]
