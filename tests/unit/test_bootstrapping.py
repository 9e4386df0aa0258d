"""etcd's --initial-cluster-state, against what an empty member finds."""

import pytest

from raftsched.store.asks import Listed
from raftsched.store.forming import Decision, Form, Join, Refuse, Wait
from raftsched.store.node.bootstrapping import objection
from raftsched.types import MemberInfo

OWN = Listed("b", ("http://b:1", "http://b:2"))
FORM = Form((MemberInfo(1, "", ("http://b:1",), ()),))


def joining(*members: MemberInfo) -> Join:
    return Join("http://a:1", 0xAB, "3.7.0", members)


ADDED = joining(MemberInfo(1, "a", ("http://a:1",), ()), MemberInfo(2, "", ("http://b:2", "http://b:1"), ()))
STARTED = joining(MemberInfo(2, "b", ("http://b:1", "http://b:2"), ()))
STRANGER = joining(MemberInfo(1, "a", ("http://a:1",), ()), MemberInfo(3, "c", ("http://b:1",), ()))


@pytest.mark.parametrize("decision", [FORM, Wait(""), Refuse("no"), ADDED, STARTED, STRANGER])
def test_serve_takes_what_comes(decision: Decision) -> None:
    assert objection("any", OWN, decision, all_asked=True) == ""


@pytest.mark.parametrize(
    ("decision", "line"),
    [
        (FORM, ""),
        (Wait(""), ""),
        (ADDED, ""),
        (STARTED, "member 2 has already been bootstrapped"),
        (STRANGER, "the listed members are cluster ab already, without this member"),
    ],
)
def test_new(decision: Decision, line: str) -> None:
    told = objection("new", OWN, decision, all_asked=True)
    assert told.startswith(line)
    assert bool(told) == bool(line)


@pytest.mark.parametrize(
    ("decision", "all_asked", "line"),
    [
        (FORM, True, "cannot fetch cluster info from peer urls"),
        (Wait(""), True, "cannot fetch cluster info from peer urls"),
        (Wait(""), False, ""),
        (ADDED, True, ""),
        (STARTED, True, ""),
        (STRANGER, True, "error validating peerURLs: cluster ab has no member with the URLs http://b:1,http://b:2"),
    ],
)
def test_existing(decision: Decision, all_asked: bool, line: str) -> None:
    told = objection("existing", OWN, decision, all_asked=all_asked)
    assert told.startswith(line)
    assert bool(told) == bool(line)
