"""The two times when a log is written by hand: the first entries of a new cluster, and a lost majority that is given up.

Invariant: what is written is durable when a function returns; before, the log is as if it had not been called, and the call may come again.
Must not know: asyncio, other members.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from raftsched.errors import FatalError, NoSpaceError
from raftsched.store import membership
from raftsched.store.backend.files import sync_directory, write_durably
from raftsched.store.codec import WireError
from raftsched.store.membership import Membership
from raftsched.store.node.options import NodeOptions
from raftsched.store.wal.log import Log
from raftsched.store.wal.recovery import Recovered
from raftsched.types import HardState, MemberInfo

CONF_CHANGE: Final = 1
FORCED_NAME: Final = "FORCED"
TIMEOUT_MS: Final = 10_000


def write_first_entries(log: Log, recovered: Recovered, entries: Sequence[bytes]) -> Recovered:
    """The founders' entries (`forming.Form.entries`): index 1 …, term 1, committed. Raises FatalError, NoSpaceError."""
    return _append(log, recovered, HardState(term=1, vote=0, commit=len(entries)), 1, 1, entries)


def was_forced(directory: Path) -> bool:
    """Whether the start before was asked for `--force-new-cluster` already."""
    return (directory / FORCED_NAME).exists()


def force_once(
    directory: Path, options: NodeOptions, log: Log, recovered: Recovered, applied: Membership, *, applied_index: int
) -> tuple[Recovered, str]:
    """`force_new_cluster` if the options ask for it and did not at the start before: a flag that is left where it was given must not throw
    out those who have joined since. The log as it is now, and a line if there is something to say. Raises as that does."""
    marker = directory / FORCED_NAME
    try:
        if not options.force_new_cluster:
            if marker.exists():
                marker.unlink()
                sync_directory(directory)
            return recovered, ""
        if marker.exists():
            return recovered, (
                "--force-new-cluster is ignored, it was done at an earlier start: take the flag away. "
                "If a majority is lost for good once more, start once without it and then with it"
            )
        recovered, going = force_new_cluster(log, recovered, applied, applied_index=applied_index, me=(options.name, options.peer_urls))
        write_durably(marker, "done\n")  # nobody can have joined before: this member has not said a word yet
    except OSError as error:
        full = error.errno in {28, 122}  # ENOSPC, EDQUOT
        raise (NoSpaceError if full else FatalError)(f"{error.filename or marker}: {error.strerror}") from error
    gone = ", ".join(f"{one:x}" for one in going) or "nobody"
    return recovered, f"--force-new-cluster: removed {gone}; this member goes on alone, start it without the flag from now on"


def force_new_cluster(
    log: Log, recovered: Recovered, applied: Membership, *, applied_index: int, me: tuple[str, Sequence[str]]
) -> tuple[Recovered, list[int]]:
    """`--force-new-cluster`: removes all other members, makes this one a voter.

    For a member that is opened and not started: `recovered` has the entries after `applied_index`, `applied` the members there, `me` is its
    name and peer URLs. The log as it is now, and the ids that go. All of the log counts as committed, as if this member had been elected
    (etcd drops what is behind its commit index): the index on disk is as old as the last entry, so that what was acknowledged last, and
    applied here, lies behind it. What a majority may have acknowledged without this member is lost: the user said so.
    Raises FatalError if nothing was ever committed here, NoSpaceError.
    """
    own = recovered.metadata.node_id
    state = recovered.hard_state or HardState(0, 0, 0)
    committed = max(min(state.commit, recovered.last_index), applied_index)
    if not committed:
        raise FatalError(f"{log.directory}: --force-new-cluster needs the data of a cluster, and there are none")
    kept = _before_own_removal(recovered, own, committed - applied_index)
    commit = applied_index + kept
    members = _members_at(applied, recovered, kept)
    going = sorted(set(members) - {own})
    entries = [membership.encode_change(membership.REMOVE_NODE, one) for one in going]
    known = members.get(own)
    if known is None:
        if applied.was_removed(own):
            raise FatalError(f"{log.directory}: this member ({own:x}) was removed from its cluster; its id never comes back")
        entries.append(_add(MemberInfo(own, me[0], tuple(me[1]), ())))  # with a name: its id must never look unused
    elif known.is_learner:
        entries.append(membership.encode_change(membership.ADD_NODE, own, membership.encode_promotion(known)))
    last = commit + len(entries)
    types = {position: kind for position, kind in recovered.types.items() if position < kept}
    cut = replace(recovered, terms=recovered.terms[:kept], datas=recovered.datas[:kept], types=types, last_index=commit)
    if not entries:
        return recovered, []  # it is alone already
    term = max(state.term, 1)
    return _append(log, cut, HardState(term=term, vote=state.vote, commit=last), commit + 1, term, entries), going


def _before_own_removal(recovered: Recovered, own: int, first: int) -> int:
    """How many of the recovered entries to keep: all, but for a removal of this member among those from `first` on, and what is behind."""
    for position, kind in sorted(recovered.types.items()):
        if kind == CONF_CHANGE and position >= first:
            try:
                change, one, *_ = membership.decode_change(recovered.datas[position])
            except WireError:
                continue
            if (change, one) == (membership.REMOVE_NODE, own):
                return position
    return len(recovered.datas)


def _add(member: MemberInfo) -> bytes:
    return membership.encode_change(membership.ADD_NODE, member.member_id, membership.encode_json(member))


def _members_at(applied: Membership, recovered: Recovered, count: int) -> dict[int, MemberInfo]:
    """The members after the first `count` of the recovered entries."""
    table = Membership(lambda _: None)
    table.load(
        [(membership.bucket_key(one.member_id), membership.encode_json(one)) for one in applied.members()],
        [(membership.bucket_key(one), b"") for one in applied.removed_ids()],
        None,
    )
    for position, kind in sorted(recovered.types.items()):
        if kind == CONF_CHANGE and position < count:
            try:
                table.apply_change(recovered.datas[position])
            except WireError:
                continue  # applies as a refused change
    return {one.member_id: one for one in table.members()}


def _append(log: Log, recovered: Recovered, state: HardState, first: int, term: int, entries: Sequence[bytes]) -> Recovered:
    """Configuration changes at `first` …, which end the log; what was behind is cut."""
    terms, kinds = [term] * len(entries), [CONF_CHANGE] * len(entries)
    batch = log.append(state, first, terms, list(entries), types=kinds)
    if not log.wait_durable(batch, TIMEOUT_MS):
        raise NoSpaceError(f"the log in {log.directory} cannot be written: no space on the disk")
    at = len(recovered.datas)
    return replace(
        recovered,
        hard_state=state,
        terms=[*recovered.terms, *terms],
        datas=[*recovered.datas, *entries],
        types=recovered.types | {at + offset: CONF_CHANGE for offset in range(len(entries))},
        last_index=first + len(entries) - 1,
    )
