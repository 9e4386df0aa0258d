"""Histories of a store as wholes: apart into partitions, with fewer lost answers, with what leases do, and their revisions."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from raftsched.testing.linearizability import Operation
from raftsched.testing.store_operations import Delete, Expire, Grant, Renew, Revoke, makes_revision, names, shown_by, tells, written


def connected(history: Sequence[Operation]) -> Iterable[tuple[str, Sequence[Operation]]]:
    """Partitions by the names that operations have in common."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    touched = [sorted(names(operation.input)) for operation in history]
    for first, *others in touched:
        for other in others:
            parent[root(other)] = root(first)
    parts: dict[str, list[Operation]] = {}
    for operation, (first, *_) in zip(history, touched, strict=True):
        parts.setdefault(root(first), []).append(operation)
    return ((f"{name} and what is tied to it", part) for name, part in parts.items())


def settled(part: Sequence[Operation]) -> list[Operation]:
    """The partition with fewer lost answers, for each of them doubles the search; the verdict is the same.

    A lost read says nothing. A lost write of a value that nobody else writes took effect before the first answer that shows the value
    returned; when none shows it and every operation shows what it depends on, it may as well never have happened.
    """
    writers = Counter(pair for one in part for pair in written(one.input))
    shown: dict[tuple[str, str], int] = {}
    for one in part:
        for pair in shown_by(one):
            shown[pair] = min(shown.get(pair, one.returned or 0), one.returned or 0)
    telling = all(tells(one.input) for one in part)
    kept = []
    for one in part:
        own = [pair for pair in written(one.input) if writers[pair] == 1]
        seen = [shown[pair] for pair in own if pair in shown]
        if one.output is not None or isinstance(one.input, (Revoke, Expire, Grant, Delete)):
            kept.append(one)
        elif seen:
            kept.append(replace(one, returned=min(seen)))
        elif written(one.input) and not (telling and len(own) == len(written(one.input))):
            kept.append(one)
    return kept


def with_expiries(history: Sequence[Operation], *, second: int) -> list[Operation]:
    """The history that `LeaseModel` wants: no Renew, and for each lease what the store may do by itself.

    A lease expires never before its time to live has passed since the call of its Grant or of the last Renew that was acknowledged
    with success; `second` is what one second counts on the history's clock.
    """
    ttl_s = {one.input.lease: one.input.ttl_s for one in history if isinstance(one.input, Grant)}
    earliest: dict[int, int] = {}
    for one in history:
        renewed = isinstance(one.input, Renew) and one.returned is not None and one.output.succeeded
        if isinstance(one.input, Grant) or renewed:
            lease = one.input.lease
            earliest[lease] = max(earliest.get(lease, 0), one.call + ttl_s[lease] * second)
    kept = [one for one in history if not isinstance(one.input, Renew)]
    return kept + [Operation(-1, call, None, Expire(lease)) for lease, call in earliest.items()]


def revisions_out_of_order(history: Sequence[Operation]) -> tuple[Operation, Operation] | None:
    """Two answers whose revisions contradict the order in which they came, whatever keys they are about; None when there are none.

    What was called after another had returned sees at least its revision, a write a higher one; no two writes share one.
    """
    answered = sorted((one for one in history if one.returned is not None and one.output.revision), key=lambda one: one.call)
    by_return = iter(sorted(answered, key=lambda one: one.returned or 0))
    highest: Operation | None = None
    following = next(by_return, None)
    writer: dict[int, Operation] = {}
    for one in answered:
        while following is not None and following.returned is not None and following.returned < one.call:
            if highest is None or following.output.revision > highest.output.revision:
                highest = following
            following = next(by_return, None)
        if highest is not None and one.output.revision < highest.output.revision + makes_revision(one):
            return highest, one
        if makes_revision(one) and writer.setdefault(one.output.revision, one) is not one:
            return writer[one.output.revision], one
    return None
