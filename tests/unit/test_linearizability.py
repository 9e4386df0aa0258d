"""The linearizability checker on histories whose verdict is known: small ones by hand, long ones from a correct store under chaos."""

import random

import pytest

from raftsched.testing.histories import revisions_out_of_order, with_expiries
from raftsched.testing.linearizability import Operation, Undecided, check
from raftsched.testing.store_models import LeaseModel, RegisterModel, TxnModel
from raftsched.testing.store_operations import Compare, Delete, Get, Grant, Pair, Put, Renew, Result, Revoke, Txn

DONE = Result()


def op(client: int, call: int, returned: int | None, input: object, output: Result) -> Operation:
    """One whose outcome is unknown when it has not returned."""
    return Operation(client, call, returned, input, None if returned is None else output)


def put(call: int, returned: int | None, value: str, revision: int = 0, *, key: str = "a", lease: int = 0) -> Operation:
    return op(1, call, returned, Put(key, value, lease), Result(revision=revision))


def get(call: int, returned: int, value: str | None, revision: int = 0, mod: int = 0, *, key: str = "a") -> Operation:
    return Operation(2, call, returned, Get(key), Result((None if value is None else Pair(value, mod),), revision))


def delete(call: int, returned: int | None, count: int, revision: int = 0) -> Operation:
    return op(3, call, returned, Delete("a"), Result((count,), revision))


def swap(call: int, returned: int | None, old: str | None, new: str, *, succeeded: bool, found: str | None = None) -> Operation:
    """Compare-and-put that reads when it fails."""
    txn = Txn((Compare("a", "value", old),), (Put("a", new),), (Get("a"),))
    parts = (True,) if succeeded else (None if found is None else Pair(found),)
    return op(4, call, returned, txn, Result(parts, succeeded=succeeded))


GOOD = {
    "nothing": [],
    "one after another": [put(0, 1, "x"), get(2, 3, "x"), delete(4, 5, 1), get(6, 7, None)],
    "the read overlaps the write, and sees the old": [put(0, 9, "x"), get(1, 2, None), get(3, 4, "x")],
    "two writes overlap, and either is last": [put(0, 9, "x"), put(1, 8, "y"), get(10, 11, "x"), get(12, 13, "x")],
    "at one instant they overlap": [put(0, 5, "x"), get(5, 6, None)],
    "a lost answer that happened late": [put(0, None, "x"), get(1, 2, None), get(3, 4, None), get(5, 6, "x")],
    "a lost answer that never happened": [put(0, None, "x"), put(1, 2, "y"), get(3, 4, "y")],
    "a delete of nothing": [delete(0, 1, 0), put(2, 3, "x"), delete(4, None, 1), get(5, 6, None)],
    "the revision of a lost answer is learned by a read": [
        put(0, None, "x"),
        get(1, 2, "x", 5, 4),
        put(3, 4, "y", 6),
        get(5, 6, "y", 6, 6),
    ],
    "revisions decide between two": [put(0, 9, "x", 3), put(0, 9, "y", 2), get(10, 11, "x", 3, 3)],
}
BAD = {
    "a value from nowhere": [get(0, 1, "x")],
    "a stale read": [put(0, 1, "x"), put(2, 3, "y"), get(4, 5, "x")],
    "a lost write": [put(0, 1, "x"), get(2, 3, None)],
    "two readers disagree on the order": [put(0, 9, "x"), put(0, 9, "y"), get(10, 11, "x"), get(12, 13, "y")],
    "new, then old": [put(0, 9, "x"), get(1, 2, "x"), get(3, 4, None)],
    "a lost answer happened before its call": [get(0, 1, "x"), put(2, None, "x")],
    "a lost answer happened twice": [put(0, None, "x"), get(1, 2, "x"), put(3, 4, "y"), get(5, 6, "x")],
    "a delete counts what is not there": [delete(0, 1, 1)],
    "a delete misses what is there": [put(0, 1, "x"), delete(2, 3, 0)],
    "revisions forbid what the values allow": [put(0, 9, "x", 3), put(0, 9, "y", 2), get(10, 11, "y", 3, 2)],
    "a revision goes back": [put(0, 1, "x", 5), put(2, 3, "y", 4)],
    "a read at an old revision": [put(0, 1, "x", 5), get(2, 3, "x", 4, 5)],
    "a read names another revision than the write": [put(0, 1, "x", 5), get(2, 3, "x", 6, 6)],
    "the learned revision changes": [put(0, None, "x"), get(1, 2, "x", 5, 4), get(3, 4, "x", 5, 3)],
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_register_passes(name: str) -> None:
    assert check(GOOD[name], RegisterModel()) is None
    assert check(GOOD[name], LeaseModel()) is None


@pytest.mark.parametrize("name", BAD)
def test_a_bad_register_is_found(name: str) -> None:
    assert check(BAD[name], RegisterModel()) is not None
    assert check(BAD[name], LeaseModel()) is not None


def test_transactions() -> None:
    first = swap(0, 1, None, "x", succeeded=True)
    assert check([first, swap(2, 3, "y", "z", succeeded=False, found="x")], TxnModel()) is None
    assert check([first, swap(2, 3, "y", "z", succeeded=True)], TxnModel()) is not None
    assert check([first, swap(2, 3, "x", "z", succeeded=False, found="x")], TxnModel()) is not None
    both = [swap(0, 9, None, "x", succeeded=True), swap(0, 9, None, "y", succeeded=True)]
    assert check(both, TxnModel()) is not None, "two cannot both be the first"
    lost = [swap(0, None, None, "x", succeeded=True), swap(1, 2, None, "y", succeeded=False, found="x")]
    assert check(lost, TxnModel()) is None
    assert check([*lost, get(3, 4, "y")], TxnModel()) is not None


def test_a_comparison_of_revisions() -> None:
    def at(call: int, mod: int, *, succeeded: bool, revision: int) -> Operation:
        return Operation(
            1, call, call + 1, Txn((Compare("a", "mod", mod),), (Put("a", "new"),), ()), Result((True,) * succeeded, revision, succeeded)
        )

    assert check([put(0, 1, "x", 5), at(2, 5, succeeded=True, revision=6)], TxnModel()) is None
    assert check([put(0, 1, "x", 5), at(2, 4, succeeded=True, revision=6)], TxnModel()) is not None
    assert check([put(0, 1, "x", 5), at(2, 5, succeeded=False, revision=5)], TxnModel()) is not None
    assert check([at(2, 0, succeeded=True, revision=6)], TxnModel()) is None
    lost = [put(0, 1, "w", 3), put(2, None, "x")]
    assert check([*lost, at(3, 4, succeeded=True, revision=5)], TxnModel()) is None, "the lost put may have been revision 4"
    assert check([*lost, at(3, 2, succeeded=True, revision=5)], TxnModel()) is not None, "but not 2"


def test_keys_that_meet_are_one_partition() -> None:
    """Each key alone is fine; both together are not."""
    move = Txn((Compare("a", "value", "x"),), (Delete("a"), Put("b", "x")), ())
    history = [
        put(0, 1, "x"),
        Operation(2, 2, 9, move, Result((1, True), succeeded=True)),
        get(3, 4, "x", key="b"),
        get(5, 6, "x", key="a"),
    ]
    found = check(history, TxnModel())
    assert found is not None
    assert found.blocked == history[3]


def lease(*more: Operation) -> list[Operation]:
    granted = Operation(1, 0, 1, Grant(7, ttl_s=10), Result(revision=1))
    return with_expiries([granted, put(2, 3, "x", 2, lease=7), *more], second=1)


def test_leases() -> None:
    revoked = Operation(1, 4, 5, Revoke(7), Result(revision=3))
    assert check(lease(get(4, 5, "x")), LeaseModel()) is None
    assert check(lease(revoked, get(6, 7, None, 3)), LeaseModel()) is None
    assert check(lease(revoked, get(6, 7, "x", 3, 2)), LeaseModel()) is not None, "its key stays"
    assert check(lease(revoked, revoked), LeaseModel()) is not None, "revoked twice"
    assert check(lease(get(8, 9, None)), LeaseModel()) is not None, "gone before its time"
    assert check(lease(get(9, 11, None)), LeaseModel()) is None
    assert check(lease(get(9, 11, None), get(12, 13, "x")), LeaseModel()) is not None, "back again"
    refused = Operation(1, 12, 13, Put("b", "y", 7), Result(succeeded=False))
    assert check(lease(refused), LeaseModel()) is None
    assert check(lease(refused, get(14, 15, "x")), LeaseModel()) is not None, "the lease was gone, so its key is"
    assert check(lease(Operation(1, 12, 13, Revoke(7), Result(succeeded=False)), get(14, 15, None)), LeaseModel()) is None


def test_a_renewed_lease_lives_longer() -> None:
    renewed = Operation(1, 6, 7, Renew(7), DONE)
    assert check(lease(renewed, get(11, 12, None)), LeaseModel()) is not None
    assert check(lease(renewed, get(15, 17, None)), LeaseModel()) is None
    unheard = Operation(1, 6, None, Renew(7))
    assert check(lease(unheard, get(11, 12, None)), LeaseModel()) is None


def test_the_explanation_is_the_smallest_prefix() -> None:
    history = [put(0, 1, "x"), put(2, 3, "y"), get(4, 8, "x"), put(5, 9, "z"), get(10, 11, "z")]
    found = check(history, RegisterModel())
    assert found is not None
    assert found.blocked == history[2]
    assert list(found.prefix) == history[:4], "not the last one: it was called later"
    assert str(found).splitlines() == [
        "key a: no order explains this answer:",
        "    [4..8] client 2: Get(key='a') -> Result(parts=(Pair(value='x', mod_revision=0),), revision=0, succeeded=True)",
        "everything that returned earlier is explained by one of these states, among others:",
        "    State(keys=(('a', Held(value='y', mod=-1, lease=0)),), leases=(), floor=0)",
        "    State(keys=(('a', Held(value='z', mod=-1, lease=0)),), leases=(), floor=0)",
        "at the same time, or with an unknown outcome:",
        "    [5..9] client 1: Put(key='a', value='z', lease=0) -> Result(parts=(), revision=0, succeeded=True)",
        "the last of 2 before it:",
        "    [0..1] client 1: Put(key='a', value='x', lease=0) -> Result(parts=(), revision=0, succeeded=True)",
        "    [2..3] client 1: Put(key='a', value='y', lease=0) -> Result(parts=(), revision=0, succeeded=True)",
    ]


def test_no_verdict_is_not_a_verdict() -> None:
    with pytest.raises(Undecided, match="key a: 31 operations"):
        check([*(put(0, 99, str(number)) for number in range(30)), get(100, 101, "nothing")], RegisterModel(), budget=1000)


def test_revisions_over_all_keys() -> None:
    assert revisions_out_of_order([put(0, 1, "x", 2), put(2, 3, "y", 3, key="b"), get(4, 5, None, 3, key="c")]) is None
    assert revisions_out_of_order([put(0, 9, "x", 3), put(1, 8, "y", 2, key="b")]) is None
    back = [put(0, 1, "x", 3), get(2, 3, None, 2, key="b")]
    assert revisions_out_of_order(back) == (back[0], back[1])
    twice = [put(0, 9, "x", 3), put(1, 8, "y", 3, key="b")]
    assert revisions_out_of_order(twice) == (twice[0], twice[1])


def chaotic(seed: int, operations: int, *, revisions: bool) -> list[Operation]:
    """What ten clients hear of a correct store of one key when one answer in twenty is lost."""
    draw = random.Random(seed)
    value, mod, revision = None, 0, 1
    moments = []
    for number in range(operations):
        call = number * 10 - draw.randrange(100)
        moments.append((draw.uniform(call, number * 10), call, number))
    history = []
    for _, call, number in sorted(moments):
        returned = None if draw.random() < 0.05 else max(call + 1, number * 10)
        if draw.random() < 0.5:
            if returned is not None or draw.random() < 0.5:
                revision += 1
                value, mod = str(number), revision
            history.append(op(0, call, returned, Put("a", str(number)), Result(revision=revision * revisions)))
        else:
            found = None if value is None else Pair(value, mod * revisions)
            history.append(op(0, call, returned, Get("a"), Result((found,), revision * revisions)))
    return history


@pytest.mark.parametrize("revisions", [True, False])
def test_a_long_history_of_a_correct_store_passes(revisions: bool) -> None:
    history = chaotic(3, 1500, revisions=revisions)
    assert check(history, RegisterModel()) is None
    read = next(one for one in reversed(history) if isinstance(one.input, Get) and one.returned is not None)
    stale = next(one for one in history if isinstance(one.input, Put) and one.returned is not None)
    spoilt = [one if one is not read else get(one.call, one.returned or 0, stale.input.value) for one in history]
    found = check(spoilt, RegisterModel())
    assert found is not None
    assert found.blocked.input == read.input
