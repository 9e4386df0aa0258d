"""Changes of the members, from the one who asks to the answer: etcd's checks, the proposal, its result; forwarding; joining.

The leader checks and proposes; a follower sends the change to it (`CHANGE_MEMBERS`, `PROMOTE`), or the question whether it would be done
(`MAY_LEAVE`). `Clustering` is the `ChangeHost`.
NO_LEADER means, wherever it comes from, that nothing was done: who asked asks again, as long as a request may take.

Invariant: between a check and its proposal nothing is awaited, so what was checked is what is proposed; a change is answered only when it
was applied here. Must not know: how a change is replicated, sockets.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from raftsched import limits
from raftsched.errors import ETCD_STATUS, EtcdError, PeerCode, PeerError, StatusError, status_of
from raftsched.store import asks, reconfigure
from raftsched.store.asks import Answer, Granted, JoinAsk, Later
from raftsched.store.codec import WireError, bytes_field, fields, varint_field
from raftsched.store.membership import (
    ADD_LEARNER,
    ADD_NODE,
    REMOVE_NODE,
    UPDATE_NODE,
    Membership,
    decode_json,
    encode_change,
    encode_json,
    encode_promotion,
    make_member_id,
)
from raftsched.store.reconfigure import Rules, View, parse_peer_urls, plan_join
from raftsched.store.transport.ports import CHANGE_MEMBERS, MAY_LEAVE, PROMOTE
from raftsched.types import MemberInfo

RETRY_MS: Final = 20
ADDED_WITHIN_S: Final = 3_600  # who was added earlier than that and starts now gets a new id
ADDED_AHEAD_S: Final = 60  # by another leader's clock
NO_LEADER_TEXT: Final = ETCD_STATUS[EtcdError.NO_LEADER][1]
# Kernel.propose_change's refusals (store/raft/_kernel.pyi)
NO_LEADER_HERE, LEADERSHIP_MOVING, TOO_MUCH, EARLIER_PENDING, TERM_UNCOMMITTED, SENSELESS = -1, -2, -3, -4, -5, -6
_REFUSALS: Final[Mapping[int, EtcdError]] = {
    NO_LEADER_HERE: EtcdError.NO_LEADER,
    LEADERSHIP_MOVING: EtcdError.LEADER_CHANGED,
    TOO_MUCH: EtcdError.TOO_MANY_REQUESTS,
    SENSELESS: EtcdError.UNHEALTHY,  # no voter would be left
}
_REASONS: Final[Mapping[str, str]] = {
    ETCD_STATUS[EtcdError.MEMBER_NOT_FOUND][1]: "membership: ID not found",
    ETCD_STATUS[EtcdError.MEMBER_NOT_LEARNER][1]: "membership: can only promote a learner member",
}
"""What etcd calls inside what it tells clients otherwise; the rest is told as it is called."""
_UNANSWERED: Final[Mapping[int, EtcdError]] = {
    PeerCode.UNREACHABLE: EtcdError.NO_LEADER,
    PeerCode.REFUSED: EtcdError.NO_LEADER,
    PeerCode.LOST: EtcdError.TIMEOUT_CONNECTION_LOST,
    PeerCode.BUSY: EtcdError.TOO_MANY_REQUESTS,
}
"""Any other: TIMEOUT, nobody knows whether it was done."""


@dataclass(frozen=True, slots=True)
class Change:
    """What somebody wants: ADD_NODE or ADD_LEARNER with URLs, REMOVE_NODE, UPDATE_NODE with URLs; `promotion`: ADD_NODE of a learner;
    `stays`: ADD_LEARNER of one that is not to promote itself.

    `only_asked`: it is not to be done, but would it? Never in the bytes: a leader that did not know the field would do it.
    """

    kind: int
    member_id: int = 0
    peer_urls: tuple[str, ...] = ()
    promotion: bool = False
    only_asked: bool = False
    stays: bool = False


class Identity(Protocol):
    """What the changes need of `ports.StoreNode`."""

    @property
    def member_id(self) -> int: ...
    @property
    def cluster_id(self) -> int: ...
    @property
    def leader_id(self) -> int: ...


class ChangeHost(Protocol):
    """What else they need."""

    @property
    def membership(self) -> Membership: ...
    def mono_ms(self) -> int: ...
    def wall_s(self) -> int: ...
    def view(self) -> View:
        """As the leader sees it now; `matches` empty if this is not the leader."""

    def silent_ms(self) -> Mapping[int, int]:
        """For how long this leader has not heard each of the others."""

    def take_id(self) -> int:
        """A fresh request id."""

    def propose_change(self, change: bytes, change_id: int) -> Awaitable[int]:
        """A negative of `Kernel.propose_change` at once, or the `EtcdError` of the applied change, TIMEOUT and STOPPED among them. The
        proposal is made in the call, before anything is awaited."""

    def hand_over(self) -> Awaitable[None]:
        """Lets another voter lead, if one can be reached and does within an election timeout."""

    @property
    def term(self) -> int: ...
    def barrier(self) -> Awaitable[None]:
        """Done when everything that was committed before is applied here. Raises StatusError."""

    def publish(self, member_id: int, name: str, client_urls: Sequence[str], term: int) -> Awaitable[int]:
        """MEMBER_ATTRIBUTES_SET, proposed as the leader of `term` or not at all, applied; its `EtcdError`."""

    def request(self, member_id: int, kind: int, payload: bytes, timeout_ms: int) -> Awaitable[bytes]:
        """`Peers.request`. Raises PeerError."""


# -- the bytes of a forwarded change


def encode_request(change: Change) -> bytes:
    head = varint_field(1, change.kind) + varint_field(2, change.member_id) + varint_field(3, change.promotion)
    head += varint_field(5, change.stays)
    return head + b"".join(bytes_field(4, url.encode()) for url in change.peer_urls)


def decode_request(payload: bytes) -> Change:
    """Raises WireError."""
    if len(payload) > limits.CHANGE_BYTES_MAX:
        raise WireError("too large")
    found = list(fields(payload))
    numbers = {number: value for number, value in found if isinstance(value, int)}
    try:
        urls = tuple(value.decode() for number, value in found if number == 4 and isinstance(value, bytes))
    except UnicodeDecodeError as error:
        raise WireError(str(error)) from error
    kind = numbers.get(1, 0)
    if kind not in (ADD_NODE, ADD_LEARNER, REMOVE_NODE, UPDATE_NODE):
        raise WireError(f"no change {kind}")
    return Change(kind, numbers.get(2, 0), urls, bool(numbers.get(3, 0)), stays=bool(numbers.get(5, 0)))


def encode_members(members: Sequence[MemberInfo]) -> bytes:
    return b"".join(bytes_field(1, encode_json(one)) for one in members)


def decode_members(payload: bytes) -> list[MemberInfo]:
    """Raises WireError."""
    return [decode_json(value) for number, value in fields(payload) if number == 1 and isinstance(value, bytes)]


class MembershipChanges:
    """See the module's text."""

    def __init__(
        self,
        own: Identity,
        host: ChangeHost,
        rules: Rules,
        *,
        cluster_token: str,
        request_timeout_ms: int = limits.REQUEST_TIMEOUT_MS,
    ) -> None:
        self._own = own
        self._host = host
        self._rules = rules
        self._cluster_token = cluster_token
        self._timeout_ms = request_timeout_ms
        self._joining = asyncio.Lock()
        self.promotions_total = 0  # that this member, as the leader, has done
        self.promotion_failures: dict[str, int] = {}  # and refused, by etcd's words for the reason

    # -- `ports.MemberNode`

    async def change(self, change: Change) -> Sequence[MemberInfo]:
        """The members after it. Raises StatusError."""
        if change.kind in (ADD_NODE, ADD_LEARNER, UPDATE_NODE) and not change.promotion:
            urls = parse_peer_urls(change.peer_urls)
            if urls is None:
                unknown = change.kind == UPDATE_NODE and self._host.membership.member(change.member_id) is None
                raise status_of(EtcdError.MEMBER_NOT_FOUND if unknown else EtcdError.BAD_MEMBER_URLS)  # etcd never looks at its URLs
            change = replace(change, peer_urls=urls)
        return await self._persist(change)

    async def may_leave(self) -> None:
        """Whether the removal of this member would be done now: all of `change` but the proposal, by the one who would make it. If this
        member leads and may go, another one leads afterwards. Raises StatusError; then nothing was done, whatever it says."""
        await self._persist(Change(REMOVE_NODE, self._own.member_id, only_asked=True))

    async def _persist(self, change: Change) -> Sequence[MemberInfo]:
        """Again while there is no leader."""
        stop_ms = self._host.mono_ms() + self._timeout_ms
        while True:
            try:
                return await self._attempt(change, stop_ms)
            except StatusError as error:
                if error.message != NO_LEADER_TEXT:
                    raise
            if self._host.mono_ms() >= stop_ms:
                raise status_of(EtcdError.NO_LEADER if change.promotion else EtcdError.TIMEOUT)  # etcd tells a promotion so
            await asyncio.sleep(RETRY_MS / 1000)

    def _attempt(self, change: Change, stop_ms: int) -> Awaitable[Sequence[MemberInfo]]:
        leader = self._own.leader_id
        if leader == self._own.member_id:
            return self._lead_for_others(change)
        if leader:
            return self._forward(leader, change, stop_ms)
        if change.kind not in (REMOVE_NODE, UPDATE_NODE) and not change.promotion and self._rules.strict:
            view = self._host.view()
            if not all(view.healthy(one.member_id) for one in view.voters):
                raise status_of(EtcdError.UNHEALTHY)  # etcd asks no leader to know it
        raise status_of(EtcdError.NO_LEADER)

    async def on_request(self, payload: bytes, *, only_asked: bool = False) -> bytes:
        """CHANGE_MEMBERS, PROMOTE and MAY_LEAVE of another member: its change here, once only. Raises PeerError with an `EtcdError`."""
        try:
            change = replace(decode_request(payload), only_asked=only_asked)
        except WireError as error:
            raise PeerError(EtcdError.MALFORMED, str(error)) from error
        if self._own.leader_id != self._own.member_id:
            raise PeerError(EtcdError.NO_LEADER, "not the leader any more")  # not passed on: two members could send it to and fro
        try:
            return encode_members(await self._lead_for_others(change))
        except StatusError as error:
            raise PeerError(_number_of(error), error.message) from error

    async def _forward(self, leader: int, change: Change, stop_ms: int) -> Sequence[MemberInfo]:
        kind = MAY_LEAVE if change.only_asked else PROMOTE if change.promotion else CHANGE_MEMBERS
        timeout_ms = max(stop_ms - self._host.mono_ms(), RETRY_MS)
        try:
            return decode_members(await self._host.request(leader, kind, encode_request(change), timeout_ms))
        except PeerError as error:
            if change.only_asked and error.code == PeerCode.INTERNAL:
                return self._host.membership.members()  # an older leader, which does not know the question: the removal itself will tell
            known = error.code in ETCD_STATUS
            raise status_of(error.code if known else _UNANSWERED.get(error.code, EtcdError.TIMEOUT)) from error
        except WireError as error:
            raise status_of(EtcdError.TIMEOUT) from error  # done, but the leader's version speaks otherwise

    async def _lead_for_others(self, change: Change) -> Sequence[MemberInfo]:
        """Counts promotions, as etcd does at the leader."""
        try:
            members = await self._lead(change, self._rules)
        except StatusError as error:
            if change.promotion and error.message != NO_LEADER_TEXT:
                reason = _REASONS.get(error.message, error.message)
                self.promotion_failures[reason] = self.promotion_failures.get(reason, 0) + 1
            raise
        self.promotions_total += change.promotion
        return members

    async def _lead(self, change: Change, rules: Rules) -> Sequence[MemberInfo]:
        """Waits for an earlier change to be applied, and for a new leader's first entry, as long as a request may take."""
        if change.kind == REMOVE_NODE and change.member_id == self._own.member_id:
            await self._give_way(change, rules)
        if change.only_asked:
            return await self._answer(change, rules)
        stop_ms = self._host.mono_ms() + self._timeout_ms
        while True:
            result = await self._try(change, rules)
            if result == EtcdError.OK:
                return self._host.membership.members()
            if result not in (EARLIER_PENDING, TERM_UNCOMMITTED):
                raise status_of(result if result > 0 else _REFUSALS[result])
            if self._host.mono_ms() >= stop_ms:
                raise status_of(EtcdError.TIMEOUT)
            await asyncio.sleep(RETRY_MS / 1000)

    async def _give_way(self, change: Change, rules: Rules) -> None:
        """Once the others have applied its removal they do not hear whom this leader names: another one removes it. What is refused moves
        nothing. If nobody can take over it goes on, and removes itself."""
        if error := self._prepare(change, rules)[0]:
            raise status_of(error)
        await self._host.hand_over()
        if self._own.leader_id != self._own.member_id:
            raise status_of(EtcdError.NO_LEADER)

    async def _answer(self, change: Change, rules: Rules) -> Sequence[MemberInfo]:
        """The members as they are, if this removal would be done. Behind a barrier: a leader that has lost its majority would propose it,
        and nobody would ever commit it."""
        await self._host.barrier()
        if self._own.leader_id != self._own.member_id:
            raise status_of(EtcdError.NO_LEADER)
        if error := self._prepare(change, rules)[0]:
            raise status_of(error)
        if all(one.member_id == change.member_id for one in self._host.view().voters):
            raise status_of(_REFUSALS[SENSELESS])  # the kernel would say so
        return self._host.membership.members()

    def _try(self, change: Change, rules: Rules) -> Awaitable[int]:
        """Checks and proposes in one go."""
        error, data, change_id = self._prepare(change, rules)
        return _done(error) if error else self._host.propose_change(data, change_id)

    def _prepare(self, change: Change, rules: Rules) -> tuple[EtcdError, bytes, int]:
        """Why it cannot be done now, or the entry and its id."""
        host = self._host
        change = self._second_first_learns(change)
        member_id = change.member_id
        if change.kind in (ADD_NODE, ADD_LEARNER) and not change.promotion:
            member_id = self._fresh_id(change.peer_urls)
        member = MemberInfo(member_id, "", change.peer_urls, (), change.kind == ADD_LEARNER, change.stays)
        if change.promotion:
            member = host.membership.member(member_id) or member
        if error := reconfigure.check(change.kind, member, host.view(), rules, promotion=change.promotion):
            return error, b"", 0
        context = encode_promotion(member) if change.promotion else encode_json(member)
        change_id = host.take_id()
        data = encode_change(change.kind, member_id, b"" if change.kind == REMOVE_NODE else context, change_id)
        return host.membership.check_change(data), data, change_id

    def _second_first_learns(self, change: Change) -> Change:
        """A change is in force on append: a second voter that is not there yet would leave no majority, not even for its own joining. It
        comes as a learner, and is promoted once it is there, as whoever joins."""
        if change.kind != ADD_NODE or change.promotion or len(self._host.view().voters) > 1:
            return change
        return Change(ADD_LEARNER, change.member_id, change.peer_urls)

    def _fresh_id(self, peer_urls: Sequence[str]) -> int:
        """etcd's id of a member added now; of one URL removed and added again within a second, the next second's."""
        added_at_s, known = self._host.wall_s(), self._host.membership
        while True:
            member_id = make_member_id(peer_urls, self._cluster_token, added_at_s)
            if member_id and known.member(member_id) is None and not known.was_removed(member_id):
                return member_id
            added_at_s += 1

    # -- joining

    async def take_in(self, ask: JoinAsk) -> Answer:
        """The leader's side of JOIN: the older self of the one that asks goes, a learner comes, marked as started before it hears of it.

        No id is told twice. What makes it one's own is its name, set by an entry of this leader's term: a later leader has applied that
        entry, if it ever counts, before it looks (its barrier is behind its term's first entry), and in one term one asks after the other.
        """
        peer_urls = parse_peer_urls(ask.peer_urls)
        if peer_urls is None:
            return asks.Refused(ETCD_STATUS[EtcdError.BAD_MEMBER_URLS][1])
        async with self._joining:
            try:
                return await self._take_in(ask.name, peer_urls)
            except StatusError as error:
                return Later(error.message)

    async def _take_in(self, name: str, peer_urls: tuple[str, ...]) -> Answer:
        host, lenient = self._host, Rules(strict=False, learners_max=self._rules.learners_max)
        term = host.term
        await host.barrier()
        if self._own.leader_id != self._own.member_id:
            return Later("the leader changed")
        plan = plan_join(name, peer_urls, host.view(), host.silent_ms(), self._rules, is_added=self._was_added)
        if plan.later:
            return Later(plan.later)
        stays = False
        for member_id in plan.remove:
            older = host.membership.member(member_id)
            stays = stays or (older is not None and older.stays_learner)
            await self._lead(Change(REMOVE_NODE, member_id), self._rules)
        member_id = plan.reuse
        if not member_id:
            members = await self._lead(Change(ADD_LEARNER, 0, peer_urls, stays=stays), lenient)
            member_id = next(one.member_id for one in members if one.peer_urls == peer_urls)
        if error := await host.publish(member_id, name, (), term):
            raise status_of(error)
        me = host.membership.member(member_id)
        if me is None:
            return Later("it was removed again")
        return Granted(member_id, self._own.cluster_id, tuple(host.membership.members()), is_learner=me.is_learner)

    def _was_added(self, member: MemberInfo) -> bool:
        """Whether its id was drawn from these URLs and a time not long ago: a founder's has no time in it. 5 ms of the loop."""
        now_s = self._host.wall_s()
        times = range(now_s + ADDED_AHEAD_S, now_s - ADDED_WITHIN_S, -1)
        return any(make_member_id(member.peer_urls, self._cluster_token, one) == member.member_id for one in times)


async def _done(error: EtcdError) -> int:
    return error


def _number_of(error: StatusError) -> int:
    return next((number for number, status in ETCD_STATUS.items() if status == (error.code, error.message)), PeerCode.INTERNAL)
