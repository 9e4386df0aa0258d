"""Whose data differ, from hashes that members computed of the same revision: etcd's three rules.

Must not know: how hashes are computed, asked for, or acted on.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

EVERYBODY: Final = 0
"""As a member's id in an alarm: there is no majority, so nobody can say whose data are right."""


class Hashed(NamedTuple):
    """What a member told about its keys."""

    hash: int
    compact_revision: int
    hash_revision: int
    revision: int
    """The newest, which may be behind the hashed one."""


def differs_at_start(own: Hashed, other: Hashed) -> bool:
    """Whether a member that starts must not: with another compaction behind them, equal data have another hash."""
    return own.compact_revision == other.compact_revision and own.hash != other.hash


def differing(own_id: int, before: Hashed, after: Hashed, others: Mapping[int, Hashed]) -> set[int]:
    """The periodic rule, at the leader: `before` is what the others were asked for; between it and `after` everything that any of them
    could know was applied here."""
    found: set[int] = set()
    if after[1:3] == before[1:3] and after.hash != before.hash:
        found.add(own_id)
    for member, told in others.items():
        ahead = told.revision > after.revision or told.compact_revision > after.compact_revision
        comparable = told.hash_revision == before.hash_revision and told.compact_revision == before.compact_revision
        if ahead or (comparable and told.hash != before.hash):
            found.add(member)
    return found


def outvoted(own_id: int, own: Hashed, others: Mapping[int, Hashed], members: int) -> set[int]:
    """The rule for compactions: who is not of the majority of `members` that has one hash; EVERYBODY if there is none."""
    holders: dict[int, set[int]] = {own.hash: {own_id}}
    for member, told in others.items():
        if told.compact_revision == own.compact_revision:
            holders.setdefault(told.hash, set()).add(member)
    if len(holders) == 1:
        return set()
    majority = next((one for one in holders.values() if 2 * len(one) > members), None)
    return {EVERYBODY} if majority is None else set().union(*holders.values()) - majority
