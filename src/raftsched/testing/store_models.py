"""What an etcd promises of one key, of transactions, and of leases, as models for `linearizability.check`.

Three models, each with what the one before has: `RegisterModel` (Put, Get, Delete), `TxnModel` (Txn: compare, then one of two lists),
`LeaseModel` (Grant, Revoke, Expire: keys that go with their lease). Answers are `Result`s.

Revisions narrow the search and are checked by the way: a write has a higher one than everything before it, a read at least the
highest. They are optional (0 = not recorded): without them the models decide by values alone. What they promise over *all* keys is
`histories.revisions_out_of_order`'s to find.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from raftsched.testing.histories import connected, settled
from raftsched.testing.linearizability import Operation
from raftsched.testing.store_operations import Compare, Delete, Expire, Get, Grant, Pair, Put, Result, Revoke, Txn, makes_revision


class Held(NamedTuple):
    """A key in the model. `mod` < 0: not known, but higher than ~mod, for the answer to the write was lost."""

    value: str
    mod: int
    lease: int


class State(NamedTuple):
    """Keys and live leases, sorted, and the highest revision that an answer has named."""

    keys: tuple[tuple[str, Held], ...] = ()
    leases: tuple[int, ...] = ()
    floor: int = 0


class RegisterModel:
    """Put, Get and Delete of single keys; one partition per key."""

    def partition(self, history: Sequence[Operation]) -> Iterable[tuple[str, Sequence[Operation]]]:
        parts: dict[str, list[Operation]] = {}
        for operation in history:
            parts.setdefault(f"key {operation.input.key}", []).append(operation)
        return ((name, settled(part)) for name, part in parts.items())

    def initial(self) -> Hashable:
        return State()

    def order(self, operation: Operation) -> Any:
        """Acknowledged writes by revision, then the reads of that revision."""
        if operation.output is None:
            return (operation.call, 0)
        return (operation.output.revision or operation.call, isinstance(operation.input, Get))

    def step(self, state: State, operation: Operation) -> Iterable[State]:
        if operation.output is None:
            return self.unknown(state, operation.input)
        return self.known(state, operation.input, operation.output)

    def hopeless(self, state: State, operation: Operation) -> bool:
        """Its revision is behind those that have been seen."""
        output = operation.output
        return output is not None and 0 < output.revision < state.floor + makes_revision(operation)

    def unknown(self, state: State, input: Any) -> Iterable[State]:
        """Every way in which an operation with a lost answer may have gone."""
        yield _without_answer(state, _as_list(input))

    def known(self, state: State, input: Any, output: Result) -> Iterable[State]:
        operations = _as_list(input)
        parts = output.parts or (True,) * len(operations)  # the answer to a single Put has none
        after = run(state, operations, parts, output.revision)
        if after is not None:
            yield after


class TxnModel(RegisterModel):
    """Transactions as well; keys that meet in a transaction are one partition."""

    def partition(self, history: Sequence[Operation]) -> Iterable[tuple[str, Sequence[Operation]]]:
        return ((name, settled(part)) for name, part in connected(history))

    def unknown(self, state: State, input: Any) -> Iterable[State]:
        if not isinstance(input, Txn):
            yield from super().unknown(state, input)
            return
        for succeeded in (True, False):
            compared = compare(state, input, succeeded=succeeded)
            if compared is not None:
                yield _without_answer(compared, input.success if succeeded else input.failure)

    def known(self, state: State, input: Any, output: Result) -> Iterable[State]:
        if not isinstance(input, Txn):
            yield from super().known(state, input, output)
            return
        compared = compare(state, input, succeeded=output.succeeded)
        if compared is not None:
            after = run(compared, input.success if output.succeeded else input.failure, output.parts, output.revision)
            if after is not None:
                yield after


class LeaseModel(TxnModel):
    """Leases as well; a lease and all keys ever attached to it are one partition."""

    def unknown(self, state: State, input: Any) -> Iterable[State]:
        if isinstance(input, Grant):
            yield _granted(state, input.lease)
        elif isinstance(input, (Revoke, Expire)):
            yield _revoked(state, input.lease)
        elif isinstance(input, Put) and input.lease and input.lease not in state.leases:
            yield state  # refused, had anybody heard the answer
        else:
            yield from super().unknown(state, input)

    def known(self, state: State, input: Any, output: Result) -> Iterable[State]:
        if isinstance(input, (Grant, Revoke)) or (isinstance(input, Put) and input.lease):
            yield from self._named(state, input, output)
        else:
            yield from super().known(state, input, output)

    def _named(self, state: State, input: Grant | Revoke | Put, output: Result) -> Iterator[State]:
        """What names a lease: only a Grant may find none."""
        there = input.lease in state.leases
        if isinstance(input, Grant) or not output.succeeded:
            if not there and (not output.revision or output.revision >= state.floor):
                after = state._replace(floor=max(state.floor, output.revision))
                yield _granted(after, input.lease) if isinstance(input, Grant) else after
        elif there and isinstance(input, Put):
            yield from super().known(state, input, output)
        elif there:
            after = _revoked(state, input.lease)
            if not output.revision or output.revision >= state.floor + (after.keys != state.keys):
                yield after._replace(floor=max(state.floor, output.revision))


# -- the sequential store


def compare(state: State, txn: Txn, *, succeeded: bool) -> State | None:
    """The state if the comparison may go that way, narrowed by a revision that its success tells; else None.

    A failure because of a revision that is not known narrows nothing: this allows a little more than an etcd does.
    """
    keys = dict(state.keys)
    verdicts = [_holds(keys.get(one.key), one) for one in txn.compares]
    if not succeeded:
        return None if all(verdicts) and None not in verdicts else state
    if False in verdicts:
        return None
    for one, verdict in zip(txn.compares, verdicts, strict=True):
        if verdict is None:
            keys[one.key] = keys[one.key]._replace(mod=int(one.wanted or 0))
    return state._replace(keys=tuple(sorted(keys.items())))


def _holds(held: Held | None, one: Compare) -> bool | None:
    """Whether a comparison holds; None when it asks for a revision that is not known and may be that one."""
    if one.what == "value":
        return (held.value if held else None) == one.wanted
    if held is None or held.mod >= 0:
        return (held.mod if held else 0) == one.wanted
    return None if isinstance(one.wanted, int) and one.wanted > ~held.mod else False


def run(state: State, operations: Sequence[Put | Get | Delete], parts: Sequence[Any], revision: int) -> State | None:
    """The state after a list with these answers, at this revision; None when they are impossible."""
    keys = dict(state.keys)
    wrote = False
    for one, part in zip(operations, parts, strict=True):
        held = keys.get(one.key)
        if isinstance(one, Put):
            keys[one.key] = Held(one.value, revision or ~state.floor, one.lease)
            wrote = True
        elif isinstance(one, Delete):
            if (held is not None) != bool(part):
                return None
            wrote = wrote or held is not None
            keys.pop(one.key, None)
        elif held is None or part is None:
            if held is not part:
                return None
        elif (seen := _read(held, part)) is not None:
            keys[one.key] = seen
        else:
            return None
    if revision and revision < state.floor + wrote:
        return None
    floor = max(state.floor, revision, *(held.mod for held in keys.values()), 0)
    return State(tuple(sorted(keys.items())), state.leases, floor)


def _read(held: Held, part: Pair) -> Held | None:
    """`held` with what a Get learned of its revision, or None when that Get cannot have found it."""
    if held.value != part.value:
        return None
    if not part.mod_revision or held.mod == part.mod_revision:
        return held
    return held._replace(mod=part.mod_revision) if held.mod < 0 and part.mod_revision > ~held.mod else None


def _without_answer(state: State, operations: Sequence[Put | Get | Delete]) -> State:
    keys = dict(state.keys)
    for one in operations:
        if isinstance(one, Put):
            keys[one.key] = Held(one.value, ~state.floor, one.lease)
        elif isinstance(one, Delete):
            keys.pop(one.key, None)
    return state._replace(keys=tuple(sorted(keys.items())))


def _granted(state: State, lease: int) -> State:
    return state._replace(leases=tuple(sorted({*state.leases, lease})))


def _revoked(state: State, lease: int) -> State:
    keys = tuple((key, held) for key, held in state.keys if held.lease != lease)
    return state._replace(keys=keys, leases=tuple(one for one in state.leases if one != lease))


def _as_list(input: Put | Get | Delete) -> tuple[Put | Get | Delete, ...]:
    return (input,)
