"""The checker against trying every order of every subset, on histories of at most six operations."""

from collections.abc import Iterator, Sequence
from itertools import combinations, permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from raftsched.testing.histories import connected
from raftsched.testing.linearizability import Operation, check
from raftsched.testing.store_models import LeaseModel
from raftsched.testing.store_operations import Compare, Delete, Get, Grant, Pair, Put, Result, Revoke, Txn

VALUES = ["x", "y"]
KEYS = ["a", "b"]


def brute(history: Sequence[Operation], until: int = 1 << 30) -> bool:
    """Whether some order of all that was answered up to `until`, and some of the others, is possible; kept apart as they were."""
    model = LeaseModel()
    for chosen in subsets(history, until):
        for order in permutations(chosen):
            if any(late.returned is not None and late.returned < early.call for early, late in combinations(order, 2)):
                continue
            states = {model.initial()}
            for operation in order:
                states = {after for state in states for after in model.step(state, operation)}
            if states:
                return True
    return False


def subsets(history: Sequence[Operation], until: int) -> Iterator[list[Operation]]:
    sure = [one for one in history if one.output is not None and one.returned is not None and one.returned <= until]
    unsure = [one for one in history if one not in sure and one.call <= until]
    for count in range(len(unsure) + 1):
        for some in combinations(unsure, count):
            yield [*sure, *some]


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    call = draw(st.integers(0, 12))
    returned = None if draw(st.integers(0, 4)) == 0 else call + draw(st.integers(1, 6))
    key, value = draw(st.sampled_from(KEYS)), draw(st.sampled_from(VALUES))
    revision = draw(st.sampled_from([0, 0, 1, 2, 3]))
    found = draw(st.sampled_from([None, Pair(value, draw(st.sampled_from([0, 0, 1, 2])))]))
    count = draw(st.integers(0, 1))
    succeeded = bool(count)
    swap = Txn((Compare(key, "value", value),), (Put(key, draw(st.sampled_from(VALUES))),), (Get(key),))
    guarded = Txn((Compare(key, "mod", draw(st.integers(0, 3))),), (Delete(key), Put("b", value)), ())
    choices = [
        (Put(key, value), Result(revision=revision)),
        (Put(key, value, 7), Result(revision=revision, succeeded=succeeded)),
        (Get(key), Result((found,), revision)),
        (Delete(key), Result((count,), revision)),
        (swap, Result((True,) if succeeded else (found,), revision, succeeded)),
        (guarded, Result((count, True) if succeeded else (), revision, succeeded)),
        (Grant(7, 1), Result(revision=revision)),
        (Revoke(7), Result(revision=revision, succeeded=succeeded)),
    ]
    input, output = draw(st.sampled_from(choices))
    return Operation(0, call, returned, input, None if returned is None else output)


@settings(max_examples=400, deadline=None)
@given(st.lists(operations(), max_size=6))
def test_the_search_agrees_with_trying_everything(history: list[Operation]) -> None:
    assert (check(history, LeaseModel()) is None) == all(brute(part) for _, part in connected(history))


@settings(max_examples=200, deadline=None)
@given(st.lists(operations(), max_size=6))
def test_the_smallest_prefix_fails_and_what_is_before_it_does_not(history: list[Operation]) -> None:
    found = check(history, LeaseModel())
    if found is None:
        return
    end = found.blocked.returned
    assert end is not None

    assert not brute(found.prefix, end)
    if [one.returned for one in found.prefix].count(end) == 1:
        assert brute(found.prefix, end - 1)
