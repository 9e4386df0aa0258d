"""What clients ask of an etcd and what they hear, as values: the inputs and outputs of the models in `store_models`.

Below them, what can be said of one operation without knowing any state.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from raftsched.testing.linearizability import Operation


class Put(NamedTuple):
    key: str
    value: str
    lease: int = 0


class Get(NamedTuple):
    key: str


class Delete(NamedTuple):
    key: str


class Compare(NamedTuple):
    """Equal or not; `what` is "value" (None = there is no such key) or "mod" (0 = there is none)."""

    key: str
    what: str
    wanted: str | int | None


class Txn(NamedTuple):
    compares: tuple[Compare, ...]
    success: tuple[Put | Get | Delete, ...]
    failure: tuple[Put | Get | Delete, ...]


class Grant(NamedTuple):
    lease: int
    ttl_s: int


class Renew(NamedTuple):
    """A keep-alive. It does not go through the log of an etcd and is not placed: it only moves the lease's expiry (`with_expiries`)."""

    lease: int


class Revoke(NamedTuple):
    lease: int


class Expire(NamedTuple):
    """What the store may do by itself, once, from the operation's call on: a history gets it from `with_expiries`."""

    lease: int


class Pair(NamedTuple):
    """What a Get found."""

    value: str
    mod_revision: int = 0


class Result(NamedTuple):
    """An answer. `parts` has one item for each operation of the list taken: a Pair or None of a Get, a count of a Delete, True of a Put."""

    parts: tuple[Any, ...] = ()
    revision: int = 0  # of the response's header; 0 = not recorded
    succeeded: bool = True  # of a Txn; of what names a lease, False = "requested lease not found"


def names(input: Any) -> set[str]:
    """The keys and leases that an operation reads or writes."""
    if isinstance(input, Txn):
        return {one.key for one in (*input.compares, *input.success, *input.failure)}
    if isinstance(input, (Grant, Renew, Revoke, Expire)):
        return {f"lease {input.lease}"}
    return {input.key, f"lease {input.lease}"} if isinstance(input, Put) and input.lease else {input.key}


def written(input: Any) -> set[tuple[str, str]]:
    operations = (*input.success, *input.failure) if isinstance(input, Txn) else (input,)
    return {(one.key, one.value) for one in operations if isinstance(one, Put)}


def shown_by(operation: Operation) -> Iterator[tuple[str, str]]:
    """Keys and values of the store that an answer proves, other than those it wrote itself."""
    if operation.output is None or operation.returned is None:
        return
    own = written(operation.input)
    operations: tuple[Any, ...] = (operation.input,)
    if isinstance(operation.input, Txn):
        operations = operation.input.success if operation.output.succeeded else operation.input.failure
        if operation.output.succeeded:
            compared = ((one.key, one.wanted) for one in operation.input.compares if one.what == "value")
            yield from ((key, wanted) for key, wanted in compared if isinstance(wanted, str) and (key, wanted) not in own)
    for one, part in zip(operations, operation.output.parts, strict=False):
        if isinstance(one, Get) and part is not None and (one.key, part.value) not in own:
            yield one.key, part.value


def tells(input: Any) -> bool:
    """Whether the answer to an operation shows every value that it depends on, and it changes nothing but by fixed values."""
    if isinstance(input, Txn):
        read = {one.key for one in input.failure if isinstance(one, Get)}
        plain = not any(isinstance(one, Delete) for one in (*input.success, *input.failure))
        return plain and all(one.what == "value" and one.wanted is not None and one.key in read for one in input.compares)
    return isinstance(input, Get) or (isinstance(input, Put) and not input.lease)


def makes_revision(operation: Operation) -> bool:
    """Whether an answered operation certainly made a revision. A Revoke does so only if keys went with the lease: not certain."""
    match operation.input:
        case Put():
            return bool(operation.output.succeeded)
        case Delete():
            return bool(operation.output.parts[0])
        case Txn(_, success, failure):
            chosen = success if operation.output.succeeded else failure
            return any(
                isinstance(one, Put) or (isinstance(one, Delete) and part) for one, part in zip(chosen, operation.output.parts, strict=True)
            )
    return False
