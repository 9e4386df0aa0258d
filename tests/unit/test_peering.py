"""Whom a member dials: those of the applied membership, and those of additions in its log for as long as these stand there."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

from raftsched.store import membership
from raftsched.store.membership import ADD_LEARNER, ADD_NODE, Membership
from raftsched.store.node.peering import Peering
from raftsched.store.replica import Persist
from raftsched.types import MemberInfo

OWN, OTHER, NEW = 1, 2, 9


def info(number: int) -> MemberInfo:
    return MemberInfo(number, f"m{number}", (f"http://m{number}:2380",), ())


def addition(number: int, kind: int = ADD_NODE) -> bytes:
    return membership.encode_change(kind, number, membership.encode_json(info(number)))


class Port:
    """What of a transport is told whom to dial."""

    def __init__(self) -> None:
        self.dialled: set[int] = set()
        self.urls: Mapping[int, Sequence[str]] = {}

    def update(self, members: Mapping[int, Sequence[str]]) -> None:
        self.dialled, self.urls = set(members), members

    def join(self, *, cluster_id: int, member_id: int) -> None: ...
    def set_incarnation(self, incarnation: int) -> None: ...
    def versions(self) -> Mapping[int, tuple[int, int, int]]:
        return {OTHER: (3, 8, 0)}

    def is_connected(self, member_id: int) -> bool:
        return member_id == OTHER


class Rig:
    """Members 1 and 2, applied up to entry 2."""

    def __init__(self, changes: tuple[tuple[int, bytes], ...] = ()) -> None:
        self.port, self.now_ms = Port(), 0
        self.table = Membership(lambda _write: None)
        for one in (OWN, OTHER):
            self.table.apply_change(addition(one))
        self.applier = SimpleNamespace(membership=self.table, applied_index=2)
        self.peering = Peering(lambda _: self.port, None, lambda: self.now_ms, lambda: None)  # type: ignore[arg-type, return-value]
        member = SimpleNamespace(member_id=OWN, cluster_id=7, applier=self.applier, changes=changes)
        self.peering.join(member, lambda _sender, _message: None)  # type: ignore[arg-type]

    def append(self, first: int, term: int, kind: int, *entries: bytes) -> bool:
        """As the driver does."""
        changed = self.peering.note(Persist(1, None, [(first, term, kind, list(entries))]))
        if changed:
            self.peering.refresh()
        return changed

    def linger(self) -> None:
        self.now_ms += 10_000
        self.peering.tick()


def test_who_is_added_is_dialled_before_it_is_applied() -> None:
    rig = Rig()
    assert rig.port.dialled == {OTHER}
    assert rig.append(3, 1, 1, addition(NEW, ADD_LEARNER))
    assert rig.port.dialled == {OTHER, NEW}
    assert not rig.append(4, 1, 0, b"a put")
    rig.table.apply_change(addition(NEW, ADD_LEARNER))
    rig.applier.applied_index = 3
    rig.peering.refresh()
    assert rig.port.dialled == {OTHER, NEW}


def test_an_addition_that_is_rolled_back_is_not_dialled_any_more_and_stands_in_no_version_s_way() -> None:
    rig = Rig()
    assert not rig.append(3, 1, 0, b"a put")
    assert rig.append(4, 1, 1, addition(NEW))
    assert rig.peering.lowest_version("3.9.0") is None, "who is being added has not been met"
    assert rig.append(4, 2, 0, b""), "a new leader's entry stands in its place"
    rig.linger()
    assert rig.port.dialled == {OTHER}
    assert rig.peering.others() == {OTHER}
    assert rig.peering.lowest_version("3.9.0") == "3.8.0"


def test_a_later_entry_cuts_nothing_and_an_earlier_one_cuts_all() -> None:
    rig = Rig(changes=((5, addition(NEW)),))
    assert rig.port.dialled == {OTHER, NEW}, "found in the log at the start"
    assert not rig.append(6, 2, 0, b"")
    assert rig.port.dialled == {OTHER, NEW}
    assert rig.append(3, 3, 0, b"")
    rig.linger()
    assert rig.port.dialled == {OTHER}


def test_an_addition_that_is_applied_as_refused_is_not_dialled_any_more() -> None:
    rig = Rig()
    assert rig.append(3, 1, 1, addition(NEW))
    rig.applier.applied_index = 3  # the table did not take it
    rig.peering.refresh()
    rig.linger()
    assert rig.port.dialled == {OTHER}


def test_who_this_member_was_told_of_is_dialled_until_its_own_log_tells() -> None:
    rig = Rig()
    rig.peering.expect([info(NEW)])
    rig.peering.refresh()
    assert not rig.append(3, 1, 0, b"")
    rig.applier.applied_index = 3
    rig.peering.refresh()
    assert rig.port.dialled == {OTHER, NEW}
    rig.table.apply_change(addition(NEW))
    rig.table.apply_change(membership.encode_change(membership.REMOVE_NODE, NEW))
    rig.peering.refresh()
    rig.linger()
    assert rig.port.dialled == {OTHER}


def removal(number: int) -> bytes:
    return membership.encode_change(membership.REMOVE_NODE, number)


def test_who_was_removed_again_later_in_the_log_is_never_dialled() -> None:
    rig = Rig(changes=((3, addition(NEW)), (4, removal(NEW)), (5, addition(NEW + 1, ADD_LEARNER))))
    assert rig.port.dialled == {OTHER, NEW + 1}
    assert rig.append(6, 1, 1, addition(NEW + 2), removal(NEW + 2), removal(OTHER))
    assert rig.port.dialled == {OTHER, NEW + 1}, "a member that is applied is reached until its removal is"
    assert rig.append(4, 2, 0, b"")
    rig.linger()
    assert rig.port.dialled == {OTHER, NEW}, "its removal was rolled back"


def test_a_member_is_dialled_where_the_list_has_it_too() -> None:
    rig = Rig()
    rig.peering.list_contacts(
        {f"m{OTHER}": ("http://moved:1", f"http://m{OTHER}:2380"), f"m{OWN}": ("http://here:1",), "mx": ("http://x:1",)}
    )
    rig.peering.refresh()
    assert rig.port.urls == {OTHER: (f"http://m{OTHER}:2380", "http://moved:1")}
    rig.table.apply_change(membership.encode_change(membership.UPDATE_NODE, OTHER, b'{"id":2,"peerURLs":["http://moved:1"]}'))
    rig.peering.refresh()
    assert rig.port.urls[OTHER] == ("http://moved:1", f"http://m{OTHER}:2380")


def test_a_member_is_dialled_first_where_it_says_that_it_is_until_the_cluster_knows() -> None:
    rig = Rig()
    rig.peering.found_at(OTHER, ("http://moved:1",))
    rig.peering.found_at(NEW, ("http://nobody:1",))
    assert rig.port.urls == {OTHER: ("http://moved:1", f"http://m{OTHER}:2380")}
    rig.table.apply_change(membership.encode_change(membership.UPDATE_NODE, OTHER, b'{"id":2,"peerURLs":["http://moved:1"]}'))
    rig.peering.refresh()
    assert rig.port.urls == {OTHER: ("http://moved:1",)}
    rig.table.apply_change(membership.encode_change(membership.UPDATE_NODE, OTHER, b'{"id":2,"peerURLs":["http://again:1"]}'))
    rig.peering.refresh()
    assert rig.port.urls == {OTHER: ("http://again:1",)}, "what it said once is over"


def test_who_said_nothing_since_one_asked_is_silent() -> None:
    rig = Rig()
    assert rig.peering.silent() == [OTHER]
    rig.peering.on_message(OTHER, None)  # type: ignore[arg-type]
    assert rig.peering.silent() == []
    assert rig.peering.silent() == [OTHER]


def test_what_is_the_url_of_another_is_no_contact() -> None:
    rig = Rig()
    rig.table.apply_change(addition(NEW))
    rig.peering.list_contacts({f"m{OTHER}": (f"http://m{NEW}:2380",)})
    rig.peering.refresh()
    assert rig.port.urls == {OTHER: (f"http://m{OTHER}:2380",), NEW: (f"http://m{NEW}:2380",)}
