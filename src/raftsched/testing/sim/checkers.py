"""What must hold, whatever happens: one object per promise. Each is told what members do and raises `Broken` at the first breach.

`Ledger` is what all of them agree on: the log and the changes of each revision as the first member applied them.
Must not know: how members, disks and networks are made.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

from raftsched import proposals
from raftsched.pb.etcd import kv_pb2
from raftsched.store import codec
from raftsched.store.apply import Applier
from raftsched.testing.histories import revisions_out_of_order, with_expiries
from raftsched.testing.linearizability import Operation, Undecided, check
from raftsched.testing.store_models import LeaseModel
from raftsched.testing.store_operations import Compare, Delete, Get, Pair, Put, Result, Txn
from raftsched.types import Change

NS = 1_000_000_000


class Broken(AssertionError):
    """A promise that did not hold."""


class Entry(NamedTuple):
    """One entry as it was first applied."""

    term: int
    kind: int
    data: bytes


class OneLog:
    """Per index the same term and the same bytes, on every member, in every life."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}

    def applied(self, who: str, first: int, term: int, kind: int, entries: Sequence[bytes]) -> None:
        for index, data in enumerate(entries, first):
            entry = Entry(term, kind, data)
            known = self.entries.setdefault(index, entry)
            if known != entry:
                raise Broken(f"one log: {who} applied entry {index} of term {term}, others of term {known.term} ({known.data[:60]!r})")

    @property
    def last_index(self) -> int:
        return max(self.entries, default=0)


class OneLeader:
    """Per term at most one."""

    def __init__(self) -> None:
        self.leaders: dict[int, int] = {}

    def told(self, who: str, term: int, leader: int) -> None:
        """A member says whom it follows; 0 = nobody."""
        if leader and self.leaders.setdefault(term, leader) != leader:
            raise Broken(f"one leader: {who} has {leader:x} in term {term}, others {self.leaders[term]:x}")


class OneHistory:
    """Per revision the same changes in the same order, on every member, in every life."""

    def __init__(self) -> None:
        self.revisions: dict[int, list[Change]] = {}

    def changed(self, who: str, changes: Sequence[Change]) -> list[list[Change]]:
        """The revisions that nobody had told of before."""
        batches: dict[int, list[Change]] = {}
        for change in changes:
            batches.setdefault(change.main, []).append(change)
        fresh = []
        for main, batch in batches.items():
            known = self.revisions.setdefault(main, batch)
            if known is batch:
                fresh.append(batch)
            elif known != batch:
                raise Broken(f"one history: {who} has {batch} at revision {main}, others {known}")
        return fresh

    def matching(self, key: bytes, end: bytes, first: int, last: int) -> list[tuple[int, bytes, bool]]:
        """(revision, key, deleted) of all changes of a range."""
        found = []
        for main in range(first, last + 1):
            for change in self.revisions.get(main, ()):
                if key <= change.key < end:
                    found.append((main, change.key, change.deleted))
        return found


class State(NamedTuple):
    """What is replicated, in short."""

    revision: int
    compacted: int
    hash_kv: int
    leases: tuple[int, ...]
    members: tuple[str, ...]
    alarms: tuple[tuple[int, int], ...]
    auth: str


class SameState:
    """Per applied index the same state, however a member came to it."""

    def __init__(self) -> None:
        self.known: dict[int, State] = {}
        self.compared = 0

    def look(self, who: str, applier: Applier) -> None:
        applied_index = applier.applied_index
        error, value, compacted, revision = applier.store.hash_kv(0)
        if error:
            raise Broken(f"same state: {who} cannot hash its store: error {error}")
        leases, members, auth = applier.lessor.ids(), applier.membership.members(), applier.auth
        told = f"{auth.enabled} {auth.revision} {sorted(auth.users.items())} {sorted(auth.roles.items())}"
        state = State(
            revision, compacted, value, tuple(sorted(leases)), tuple(map(str, members)), tuple(applier.alarms.raised()), told
        )  # fmt: skip
        known = self.known.setdefault(applied_index, state)
        self.compared += known is not state
        if known != state:
            raise Broken(f"same state: at index {applied_index} {who} has {state}, before it was {known}")


class History:
    """What clients asked and were told: linearizable, in the order of revisions, and nothing that was acknowledged is missing.

    The log is the order: each answer must be what its revision says, and revisions must not contradict the order in which answers came.
    That decides. A search that knows nothing of the log is the second opinion, as far as its budget goes.
    """

    def __init__(self, second_ns: int = NS) -> None:
        """`second_ns`: what a second lasts at least, by clocks that run too fast."""
        self.operations: list[Operation] = []
        self.undecided = 0
        self._second_ns = second_ns

    def add(self, operation: Operation) -> None:
        self.operations.append(operation)

    def finish(self, history: OneHistory, *, budget: int) -> None:
        contents = Contents(history)
        for one in self.operations:
            if one.returned is not None and one.output.revision and (why := contents.contradicts(one.input, one.output)):
                raise Broken(f"linearizable history: {one}: {why}")
        if (pair := revisions_out_of_order(self.operations)) is not None:
            raise Broken(f"linearizable history: {pair[0]} came before {pair[1]}")
        try:
            violation = check(with_expiries(self.operations, second=self._second_ns), LeaseModel(), budget=budget)
        except Undecided:
            self.undecided += 1
            return
        if violation is not None:
            raise Broken(f"linearizable history: {violation}")


class Contents:
    """What each key held at each revision."""

    def __init__(self, history: OneHistory) -> None:
        self._history = history
        self._versions: dict[str, list[tuple[int, Pair | None]]] = {}
        for main in sorted(history.revisions):
            for change in history.revisions[main]:
                pair = None if change.deleted else Pair(kv_pb2.KeyValue.FromString(change.record).value.decode("latin-1"), main)
                self._versions.setdefault(change.key.decode("latin-1"), []).append((main, pair))

    def at(self, key: str, revision: int) -> Pair | None:
        versions = self._versions.get(key, [])
        place = bisect_right(versions, revision, key=lambda version: version[0])
        return versions[place - 1][1] if place else None

    def contradicts(self, asked: Any, told: Result) -> str:
        """Why this answer cannot be; empty if it can."""
        if isinstance(asked, Txn):
            return self._txn(asked, told)
        if isinstance(asked, Put | Get | Delete) and told.succeeded:
            return self._one(asked, told.parts[0] if told.parts else True, told.revision)
        return ""

    def _txn(self, asked: Txn, told: Result) -> str:
        taken = asked.success if told.succeeded else asked.failure
        wrote = any(isinstance(one, Put) for one in taken)
        before = told.revision - wrote
        held = all(self._holds(compare, before) for compare in asked.compares)
        if held != told.succeeded:
            return f"before it there was {[self.at(compare.key, before) for compare in asked.compares]}"
        found = (self._one(one, part, told.revision) for one, part in zip(taken, told.parts, strict=True))
        return next((why for why in found if why), "")

    def _holds(self, compare: Compare, revision: int) -> bool:
        pair = self.at(compare.key, revision)
        if compare.what == "mod":
            return (pair.mod_revision if pair else 0) == compare.wanted
        return (pair.value if pair else None) == compare.wanted

    def _one(self, asked: Put | Get | Delete, part: Any, revision: int) -> str:
        pair = self.at(asked.key, revision)
        if isinstance(asked, Get):
            return "" if pair == part else f"revision {revision} has {pair}"
        if isinstance(asked, Put):
            return "" if pair == Pair(asked.value, revision) else f"acknowledged, but revision {revision} has {pair}"
        before = self.at(asked.key, revision - 1) if part else None
        return "" if pair is None and bool(part) == (before is not None) else f"revision {revision} has {pair}, before it {before}"


class Watches:
    """Each watch gets the changes of its range from its start on: in order, each once, none left out."""

    def __init__(self, history: OneHistory) -> None:
        self._history = history

    def check(self, who: str, key: bytes, end: bytes, start: int, got: Sequence[tuple[int, bytes, bool]], *, until: int = 0) -> None:
        """`until`: everything up to this revision must have come."""
        last = max(got[-1][0] if got else 0, until)
        wanted = self._history.matching(key, end, start, last)
        if list(got) != wanted:
            place = next((n for n, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted)))
            raise Broken(
                f"watch order and completeness: {who} from revision {start}: event {place} is {got[place : place + 2]}, "
                f"should be {wanted[place : place + 2]} (of {len(got)}, {len(wanted)})"
            )


class Leases:
    """A lease does not end before its time to live has passed since the last keep-alive that was acknowledged, unless it is revoked."""

    def __init__(self, second_ns: int = NS) -> None:
        """`second_ns`: what a second lasts at least, by clocks that run too fast."""
        self._second_ns = second_ns
        self._until_ns: dict[int, int] = {}
        self._revoked: set[int] = set()
        self._ended: set[int] = set()
        self.expired = 0

    def lives(self, lease: int, called_ns: int, ttl_s: int) -> None:
        """A grant or a keep-alive that was called then was acknowledged."""
        self._until_ns[lease] = max(self._until_ns.get(lease, 0), called_ns + ttl_s * self._second_ns)

    def revoking(self, lease: int) -> None:
        self._revoked.add(lease)

    def applied(self, who: str, now_ns: int, kind: int, entries: Sequence[bytes]) -> None:
        if kind:
            return
        payloads, kinds, _, _ = codec.unwrap(list(entries))
        for number, start, stop in kinds:
            if number == proposals.LEASE_REVOKE:
                for payload in payloads[start:stop]:
                    self._ends(who, now_ns, codec.numbers(payload).get(1, 0))

    def _ends(self, who: str, now_ns: int, lease: int) -> None:
        if lease in self._ended or lease in self._revoked:
            return
        self._ended.add(lease)
        until_ns = self._until_ns.get(lease)
        self.expired += until_ns is not None
        if until_ns is not None and now_ns < until_ns:
            raise Broken(f"lease safety: {who} ended lease {lease:x} {(until_ns - now_ns) / NS:.3f} s before its time")


class Takeovers:
    """Who has lost a job does not trigger it any more once another has: ownership comes from the leadership keys, so the revision of
    their newest change, deletions among them, that the owner knows never goes back from one trigger of a job to the next."""

    def __init__(self) -> None:
        self._latest: dict[bytes, tuple[int, str]] = {}
        self.count = 0

    def delivered(self, who: str, name: bytes, leadership_revision: int) -> None:
        known = self._latest.get(name)
        if known is not None and known[1] != who:
            self.count += 1
            if leadership_revision < known[0]:
                raise Broken(
                    f"fenced: {who} triggers {name!r} by the leadership keys of revision {leadership_revision}, "
                    f"after {known[1]} did by those of {known[0]}"
                )
        self._latest[name] = max((leadership_revision, who), known or (0, ""))
