"""May this change of the members be proposed now: etcd's checks, with its errors (etcd-api §1.4).

The leader asks, with what it knows at that moment; `Membership.check_change` has the rules that hold at apply too.
Must not know: how a change is proposed, clocks (durations are told).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from raftsched.errors import EtcdError
from raftsched.store.membership import ADD_LEARNER, ADD_NODE, REMOVE_NODE, UPDATE_NODE
from raftsched.types import MemberInfo

HEALTH_INTERVAL_MS: Final = 5_000  # etcd's HealthInterval
READY_PERCENT: Final = 90  # etcd's readyPercentThreshold
JOIN_SILENCE_MS: Final = 2_000  # a member that the leader heard later than this is not replaced: it lives
_SCHEMES: Final = frozenset({"http", "https"})  # what the transport dials; etcd takes unix and unixs too
PORT_MAX: Final = 65_535


@dataclass(frozen=True, slots=True)
class Rules:
    """Of this process."""

    strict: bool = True
    """--strict-reconfig-check"""
    learners_max: int = 1
    """--max-learners"""


@dataclass(frozen=True, slots=True)
class View:
    """What the leader sees. `connected_ms`: for how long a member has been connected without a break, absent = it is not; `matches`: how
    far each member's log is known to be the leader's, the leader's own among them (empty: this is not the leader)."""

    own_id: int
    members: Sequence[MemberInfo]
    connected_ms: Mapping[int, int]
    matches: Mapping[int, int]

    @property
    def voters(self) -> list[MemberInfo]:
        return [one for one in self.members if not one.is_learner]

    def healthy(self, member_id: int) -> bool:
        return member_id == self.own_id or self.connected_ms.get(member_id, -1) >= HEALTH_INTERVAL_MS


def parse_peer_urls(urls: Iterable[str]) -> tuple[str, ...] | None:
    """Sorted, as etcd keeps them; None = one of them is no `scheme://host:port`, or there is none."""
    found = tuple(sorted(url.strip() for url in urls))
    return found if found and all(map(is_peer_url, found)) else None


def is_peer_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme not in _SCHEMES or parts.path or parts.query or parts.fragment or parts.username is not None:
        return False
    return bool(parts.hostname) and bool(port)


def check(change: int, member: MemberInfo, view: View, rules: Rules, *, promotion: bool = False) -> EtcdError:
    """The checks before `Membership.check_change`, in etcd's order; `member` as it would be after an addition or update."""
    if promotion:
        return _check_promote(member.member_id, view, rules)
    return _CHECKS[change](member, view, rules)


def _check_add(member: MemberInfo, view: View, rules: Rules) -> EtcdError:
    if rules.strict and not member.is_learner and not _enough_started(view.voters, joining=1, joining_started=0):
        return EtcdError.NOT_ENOUGH_STARTED_MEMBERS
    if rules.strict and not all(view.healthy(one.member_id) for one in view.voters):
        return EtcdError.UNHEALTHY
    urls = {url for one in view.members for url in one.peer_urls}
    if not urls.isdisjoint(member.peer_urls):
        return EtcdError.PEER_URL_EXISTS
    if member.is_learner and sum(one.is_learner for one in view.members) >= rules.learners_max:
        return EtcdError.TOO_MANY_LEARNERS
    return EtcdError.OK


def _enough_started(voters: Sequence[MemberInfo], *, joining: int, joining_started: int) -> bool:
    """Whether those who have started are a majority of the voters that there will be."""
    started = sum(bool(one.name) for one in voters) + joining_started
    count = len(voters) + joining
    if started == 1 and count == 2 and joining and not joining_started:
        return True  # the second member of one: etcd lets it in, to restore what a single one holds
    return not voters or started >= count // 2 + 1


def _check_remove(member: MemberInfo, view: View, rules: Rules) -> EtcdError:
    known = next((one for one in view.members if one.member_id == member.member_id), None)
    if not rules.strict or known is None or known.is_learner:
        return EtcdError.OK
    left = [one for one in view.voters if one.member_id != known.member_id]
    if not _enough_started(left, joining=0, joining_started=0):
        return EtcdError.NOT_ENOUGH_STARTED_MEMBERS
    if known.member_id != view.own_id and known.member_id not in view.connected_ms:
        # It is down, and no part of the quorum that is there. Or its connection is not known yet: a leader that was elected just now by
        # nobody but this one must not take it away from itself. When it is down those that are left hold their own majority.
        there = sum(one.member_id == view.own_id or one.member_id in view.connected_ms for one in left)
        return EtcdError.OK if there >= len(left) // 2 + 1 else EtcdError.UNHEALTHY
    healthy = sum(view.healthy(one.member_id) for one in view.voters)
    if healthy - 1 < 1 + (len(view.voters) - 1) // 2:
        return EtcdError.UNHEALTHY
    return EtcdError.OK


def _check_update(_member: MemberInfo, _view: View, _rules: Rules) -> EtcdError:
    return EtcdError.OK


def _check_promote(member_id: int, view: View, rules: Rules) -> EtcdError:
    if view.own_id not in view.matches:
        return EtcdError.NOT_LEADER
    if member_id not in view.matches or all(one.member_id != member_id for one in view.members):
        return EtcdError.MEMBER_NOT_FOUND
    if 100 * view.matches[member_id] < READY_PERCENT * view.matches[view.own_id]:
        return EtcdError.LEARNER_NOT_READY
    if rules.strict and not _enough_started(view.voters, joining=1, joining_started=1):
        return EtcdError.NOT_ENOUGH_STARTED_MEMBERS
    return EtcdError.OK


_CHECKS: Final[Mapping[int, Callable[[MemberInfo, View, Rules], EtcdError]]] = {
    ADD_NODE: _check_add,
    ADD_LEARNER: _check_add,
    REMOVE_NODE: _check_remove,
    UPDATE_NODE: _check_update,
}


# -- joining


@dataclass(frozen=True, slots=True)
class JoinPlan:
    """What the leader does for an empty member that asks to be taken in: removes these, then adds a learner, or hands out `reuse`."""

    remove: tuple[int, ...] = ()
    reuse: int = 0
    later: str = ""
    """Not now, and why."""


def plan_join(
    name: str,
    peer_urls: Sequence[str],
    view: View,
    silent_ms: Mapping[int, int],
    rules: Rules,
    *,
    is_added: Callable[[MemberInfo], bool] = lambda _member: False,
) -> JoinPlan:
    """`silent_ms`: for how long the leader has not heard each member; one that is absent counts as heard. `view`: of everything that was
    committed before the asker asked. `is_added`: whether it is certain that this voter, with these URLs, was added to a running cluster.

    Whoever has the name or a URL of the one that asks is its older self without a disk, and goes; unless it is heard, then two
    processes claim one place. Who was added and has never been started has promised nobody anything: its id is handed out, as with
    etcd. Who is added has a name before any process hears of its id (`MembershipChanges.take_in`). A founder knows its id by itself, may
    have voted before it has a name, and is no learner.
    """
    urls = set(peer_urls)
    same = [one for one in view.members if one.name == name or not urls.isdisjoint(one.peer_urls)]
    unnamed = [one for one in same if not one.name and urls == set(one.peer_urls) and one.member_id != view.own_id]
    fresh = next((one for one in unnamed if one.is_learner or is_added(one)), None)
    for one in same:
        if one.member_id == view.own_id:
            return JoinPlan(later=f"{name} ({','.join(peer_urls)}) is the leader's own name or URL")
        if one is not fresh and silent_ms.get(one.member_id, 0) < JOIN_SILENCE_MS:
            return JoinPlan(later=f"member {one.member_id:x} with this name or URL is still heard")
    remove = tuple(one.member_id for one in same if one is not fresh)
    staying = [one for one in view.members if one not in same]
    if fresh is None and sum(one.is_learner for one in staying) >= rules.learners_max:
        waiting = ", ".join(f"{one.name or one.member_id} ({','.join(one.peer_urls)})" for one in staying if one.is_learner)
        return JoinPlan(later=f"another learner is not a voter yet: {waiting}")
    return JoinPlan(remove=remove, reuse=fresh.member_id if fresh else 0)
